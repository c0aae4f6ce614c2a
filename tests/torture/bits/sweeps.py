"""One subject at one random shape: the same bits on any number of threads, in any company, padding and room."""

import copy
import itertools
from typing import NamedTuple

import numba
import numpy as np

import fastrnn
from fastrnn import optim

from .. import sharing
from ..memory import sizes
from . import digests

_TOKENS = 13
_COMMON = [(fastrnn.LSTM, "float32"), (fastrnn.GRU, "float32"), (fastrnn.RNN, "float32"), (fastrnn.LSTM, "float64")]


class Sweep(NamedTuple):
    """What a sweep found, in a form for JSON."""

    text: str  # the subject and the shape
    digests: dict[str, str]  # of results that are the same everywhere
    shared: bool  # whether it is known that several threads had a part in it
    reached: list[str]  # see `sharing.reached`
    compared: int  # results that were compared here
    broken: list[str]


class _Comparison:
    """Compares results, dicts of arrays, with the first ones."""

    def __init__(self):
        self.count, self.broken = 0, []

    def __call__(self, what, ours, theirs):
        """Note what differs in `ours`, which has come about by `what`, from `theirs` under the same names."""
        ours, theirs = ({name: digests.of_arrays(value) for name, value in part.items()} for part in (ours, theirs))
        names = digests.differing(ours, theirs)
        self.count += len(theirs)
        if names:
            self.broken.append(f"{what}: {names}")


def sweep(seed, wide, crowd=None):
    """The `Sweep` that follows from `seed`. wide: all cells and precisions, each of which has to be compiled.

    crowd: which one of `CROWDS`, if any.
    """
    rng = np.random.default_rng(seed)
    if crowd is None:
        subject = _SUBJECTS[rng.integers(len(_SUBJECTS))]
    else:
        subject = CROWDS[crowd]
    compare = _Comparison()
    sharing.reached()  # what came before
    text, expected, shared = subject(rng, wide, compare)
    fastrnn.set_num_threads(1)
    found = {name: digests.of_arrays(value) for name, value in expected.items()}
    return Sweep(text, found, shared, sharing.reached(), compare.count, compare.broken)


def _thread_counts():
    """1 first, which the others are compared with."""
    return sorted({1, 2, 3, numba.config.NUMBA_NUM_THREADS} & set(range(1, numba.config.NUMBA_NUM_THREADS + 1)))


def _on_all_threads(compute, compare):
    """What `compute` gives with one thread, after it was compared with what it gives with more, and in short calls."""
    expected = None
    for count in _thread_counts():
        fastrnn.set_num_threads(count)
        results = compute()
        if expected is None:
            expected = results
        else:
            compare(f"{count} threads", results, expected)
    with sharing.cut_short():
        compare(f"{count} threads in short calls", compute(), expected)
    return expected


# ---- layers and models ----


def _precision(rng, wide):
    return str(rng.choice(["float32", "float64"])) if wide else "float32"


def _recurrent(rng, wide, small=False):
    """A recurrent layer without noise, and its number of inputs."""
    kind, dtype = _COMMON[rng.integers(len(_COMMON))]
    options = {"num_layers": int(rng.integers(1, 3)), "bidirectional": bool(rng.random() < 0.4)}
    if wide:
        kinds = [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN, fastrnn.PeepholeLSTM, fastrnn.LayerNormLSTM]
        kind, dtype = kinds[rng.integers(len(kinds))], _precision(rng, wide)
        if kind is fastrnn.GRU:
            options["reset_after"] = bool(rng.random() < 0.5)
        if rng.random() < 0.3:
            options["initial_state"] = "learned"
        if not options["bidirectional"] and rng.random() < 0.2:
            options["dilation"] = int(rng.integers(2, 4))
    hidden = int(rng.integers(60, 270) if rng.random() < 0.25 else rng.integers(1, 50))
    features = int(rng.integers(1, 70))
    if small:
        hidden, features = sizes.few(rng), sizes.few(rng)
    seed = int(rng.integers(1000))
    return kind(features, hidden, dtype=dtype, seed=seed, batch_first=bool(rng.random() < 0.3), **options), features


def _net(rng, wide):
    """A model of several layers, pooled or not, and the number of its inputs; 0 for tokens."""
    recurrent, features = _recurrent(rng, wide)
    dtype, width = recurrent.dtype.name, recurrent.hidden_size * recurrent.directions
    first = []
    if rng.random() < 0.5:
        first, features = [fastrnn.Embedding(_TOKENS, features, dtype=dtype, seed=1)], 0
    residual = fastrnn.Residual(fastrnn.Linear(width, width, dtype=dtype, seed=2))
    layers = [*first, recurrent, residual, fastrnn.Tanh(dtype=dtype), fastrnn.ReLU(dtype=dtype)]
    pooling = [None, fastrnn.Last, fastrnn.MeanPool, fastrnn.MaxPool][rng.integers(4)]
    if pooling is not None:
        layers.append(pooling(dtype=dtype))
    head = fastrnn.Linear(width, int(rng.integers(1, 90)), dtype=dtype, seed=3)
    return fastrnn.Sequential(*layers, head, batch_first=recurrent.batch_first), features


def _linear(rng, wide, small=False):
    features, outputs = (sizes.few(rng) if small else int(rng.integers(1, 300)) for _ in range(2))
    return fastrnn.Linear(features, outputs, dtype=_precision(rng, wide), seed=1), features


def _jordan(rng, wide):
    features, hidden, outputs = (int(n) for n in rng.integers(1, 50, 3))
    return fastrnn.Jordan(features, hidden, outputs, dtype=_precision(rng, wide), seed=1), features


def _elementwise(rng, wide):
    layers = fastrnn.Tanh, fastrnn.Sigmoid, fastrnn.ReLU, fastrnn.Last, fastrnn.MeanPool, fastrnn.MaxPool
    return layers[rng.integers(len(layers))](dtype=_precision(rng, wide)), int(rng.integers(1, 300))


def _embedding(rng, wide):
    return fastrnn.Embedding(_TOKENS, int(rng.integers(1, 300)), dtype=_precision(rng, wide), seed=1), 0


def _layer(make, crowd=None):
    """The sweep of the layers or models that `make(rng, wide)` gives, with the numbers of their inputs.

    crowd: None, or what `sizes.crowd` takes.
    """

    def subject(rng, wide, compare):
        layer, features = make(rng, wide) if crowd is None else make(rng, wide, small=True)
        case = _LayerCase(rng, layer, features, crowd)
        expected = _on_all_threads(case.train, compare)
        shared = case.shared()
        case.compare_rooms(compare, expected)
        if case.lengths is not None:
            case.compare_padding(compare, expected)
        case.compare_company(compare, expected)
        return f"{layer!r}, T={case.steps}, B={case.batch}, lengths {case.lengths is not None}", expected, shared

    return subject


def _noisy(rng, wide, compare):
    """A layer with noise, each time a copy of it: alike on any number of threads, but no other batch draws the same."""
    kind = fastrnn.GRU if wide and rng.random() < 0.5 else fastrnn.LSTM
    features, hidden, layers = int(rng.integers(1, 70)), int(rng.integers(1, 150)), int(rng.integers(1, 3))
    noise = {"recurrent_dropout": 0.3, "zoneout": 0.2}
    layer = kind(features, hidden, layers, dropout=0.2 if layers > 1 else 0.0, **noise, seed=1)
    case = _LayerCase(rng, layer, features, None)

    def compute():
        case.layer = copy.deepcopy(layer)
        return case.train()

    expected = _on_all_threads(compute, compare)
    return f"{layer!r}, T={case.steps}, B={case.batch}, lengths {case.lengths is not None}", expected, case.shared()


class _LayerCase:
    """A layer with a random batch; arrays are time first here, whatever the layer's order."""

    def __init__(self, rng, layer, features, crowd):
        self.layer, self._features = layer, features
        if crowd is not None:
            self.steps, self.batch, self.lengths = sizes.crowd(rng, crowd)
        else:
            self.steps, self.batch = int(rng.integers(1, 50)), int(rng.integers(1, 25))
            self.lengths = rng.integers(1, self.steps + 1, self.batch) if rng.random() < 0.6 else None
        if self.lengths is not None:
            self.lengths[rng.integers(self.batch)] = self.steps
        if features:
            self.x = rng.standard_normal((self.steps, self.batch, features)).astype(layer.dtype)
        else:
            self.x = rng.integers(0, _TOKENS, (self.steps, self.batch))
        self._resets = rng.random((self.steps, self.batch)) < 0.1 if rng.random() < 0.3 else None
        y, _ = self._forward(self.x, self.lengths, self._resets, None)
        self._pooled = y.ndim == 2
        self.dy = rng.standard_normal(y.shape).astype(layer.dtype)
        self._rng, self._workspace = rng, None

    def _ordered(self, array):
        """In the layer's order, or back from it."""
        first = array is not None and array.ndim > 1 and self.layer.batch_first
        return np.ascontiguousarray(array.swapaxes(0, 1)) if first else array

    def _forward(self, x, lengths, resets, workspace):
        y, state = self.layer.forward(
            self._ordered(x), lengths=lengths, resets=self._ordered(resets), workspace=workspace
        )
        return (self._ordered(y) if y.ndim > 2 else y), state

    def train(self, x=None, dy=None, lengths=None, resets=None, workspace=None):
        """Results of a forward and a backward pass, by name; of the case itself unless another batch is given."""
        if x is None:
            x, dy, lengths, resets = self.x, self.dy, self.lengths, self._resets
        if workspace is None:
            workspace = self._workspace = self.layer.workspace(*x.shape[:2])
        self.layer.zero_grad()
        y, state = self._forward(x, lengths, resets, workspace)
        results = {"y": y.copy(), "state": _copied(state)}
        dx, dstate = self.layer.backward(dy if self._pooled else self._ordered(dy), workspace=workspace)
        dx = None if dx is None else self._ordered(dx)
        return results | {"dx": dx, "dstate": dstate, **self.layer.grad_dict()}

    def shared(self):
        """Whether the last pass is known to have been shared out; only workspaces of recurrent layers tell."""
        plan = getattr(self._workspace, "plan", None)
        return plan is not None and plan.schedule.bounds.shape[0] > 1

    def compare_rooms(self, compare, expected):
        """Without a workspace, with a larger one, and with one that another batch has been in."""
        y, state = self._forward(self.x, self.lengths, self._resets, None)
        alone = {"y": y, "state": state}
        compare("without workspace", alone, {name: expected[name] for name in alone})
        extra = self._rng.integers(1, 9, 2)
        workspace = self.layer.workspace(self.steps + int(extra[0]), self.batch + int(extra[1]))
        compare("larger workspace", self.train(workspace=workspace), expected)
        rows, steps = slice(0, 1 + self.batch // 2), slice(0, 1 + self.steps // 2)
        dy = self.dy[rows] if self._pooled else self.dy[steps, rows]
        self.train(self.x[steps, rows], dy, workspace=workspace)
        compare("reused workspace", self.train(workspace=workspace), expected)

    def compare_padding(self, compare, expected):
        """More padding, full of what must not be read."""
        longer = self.steps + int(self._rng.integers(1, 20))
        x = np.full((longer, *self.x.shape[1:]), np.nan if self._features else -7, self.x.dtype)
        dy = self.dy if self._pooled else np.full((longer, *self.dy.shape[1:]), np.nan, self.dy.dtype)
        for b, n in enumerate(self.lengths):
            x[:n, b] = self.x[:n, b]
            if not self._pooled:
                dy[:n, b] = self.dy[:n, b]
        resets = self._resets
        if resets is not None:
            resets = np.concatenate([resets, np.ones((longer - self.steps, self.batch), np.bool_)])
        padded = self.train(x, dy, self.lengths, resets)
        for name in ("dx",) if self._pooled else ("dx", "y"):
            if padded[name] is not None:
                if padded[name][self.steps :].any():
                    compare.broken.append(f"padding: {name} is not 0 there")
                padded[name] = padded[name][: self.steps]
        compare("padding", padded, expected)

    def compare_company(self, compare, expected):
        """One sequence alone, and all in another order."""
        order = self._rng.permutation(self.batch)
        for rows, what in ((self._rng.integers(0, self.batch, 1), "alone"), (order, "another order")):
            steps = self.steps if self.lengths is None else int(self.lengths[rows].max())
            ours = self.train(
                self.x[:steps, rows], self.dy[rows] if self._pooled else self.dy[:steps, rows],
                None if self.lengths is None else self.lengths[rows],
                None if self._resets is None else self._resets[:steps, rows],
            )  # fmt: skip
            theirs = {name: _rows(expected[name], rows) for name in ("state", "dstate")}
            theirs["dx"] = None if expected["dx"] is None else expected["dx"][:steps, rows]
            theirs["y"] = expected["y"][rows] if self._pooled else expected["y"][:steps, rows]
            compare(what, {name: ours[name] for name in theirs}, theirs)


def _copied(state):
    return fastrnn.bptt.map_state(np.copy, state)


def _rows(state, rows):
    return fastrnn.bptt.map_state(lambda array: array[:, rows], state)


# ---- losses, optimizers, norms ----


def _loss(rng, wide, compare):
    """A loss of many rows, some of them masked."""
    dtype = _precision(rng, wide)
    lead, width = (int(rng.integers(1, 60)), int(rng.integers(1, 60))), int(rng.integers(1, 60))
    y = rng.standard_normal((*lead, width)).astype(dtype)
    losses = fastrnn.MSE, fastrnn.MAE, fastrnn.Huber, fastrnn.BinaryCrossEntropy, fastrnn.CrossEntropy
    kind = losses[rng.integers(len(losses))]
    loss = kind(reduction=str(rng.choice(["mean", "sum", "sequence"])))
    if kind is fastrnn.CrossEntropy:
        targets = rng.integers(0, width, lead)
    else:
        targets = rng.random(y.shape).astype(dtype)
    mask = rng.random(lead) < 0.8 if rng.random() < 0.5 else None
    if mask is not None:
        mask[0, 0] = True

    def compute():
        value, dy = loss(y, targets, mask=mask)
        return {"value": np.float64(value), "dy": dy}

    return f"{loss!r}, {y.shape}, {dtype}, mask {mask is not None}", _on_all_threads(compute, compare), False


def _optimizer(rng, wide, compare):
    """Some steps of an optimizer on a large flat buffer, with clipping before."""
    dtype = _precision(rng, wide)
    model = fastrnn.Linear(int(rng.integers(1, 500)), int(rng.integers(1, 500)), dtype=dtype, seed=0)
    start, gradients = model.parameters_to_vector(), rng.standard_normal((3, model.num_parameters)).astype(dtype)
    makers = [
        lambda: optim.SGD(0.1, weight_decay=0.1), lambda: optim.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: optim.RMSprop(0.1, momentum=0.9, centered=True), lambda: optim.Adagrad(0.1, lr_decay=0.1),
        lambda: optim.Adam(0.1, amsgrad=True, weight_decay=0.1), lambda: optim.AdamW(0.1),
    ]  # fmt: skip
    make = makers[rng.integers(len(makers))]
    norm, bound = float(rng.uniform(0.1, 100)), float(rng.uniform(0.1, 2))

    def compute():
        model.vector_to_parameters(start)
        optimizer, norms = make(), []
        for gradient in gradients:
            model.parameters.gradients[:] = gradient
            norms.append(fastrnn.clip_gradients(model, norm, bound))
            optimizer.step(model)
        return {
            "norms": np.array(norms), "gradients": model.gradients_to_vector(),
            "parameters": model.parameters_to_vector(), "state": optimizer.state_dict(),
        }  # fmt: skip

    text = f"{make()!r}, {model.num_parameters} parameters, {dtype}"
    return text, _on_all_threads(compute, compare), False


_SUBJECTS = list(
    itertools.chain(
        [_layer(_recurrent)] * 4, [_layer(_net)] * 3, [_layer(_linear)], [_layer(_elementwise)], [_layer(_embedding)],
        [_layer(_jordan)], [_noisy], [_loss] * 2, [_optimizer],
    )
)  # fmt: skip
CROWDS = [_layer(make, long) for make in (_recurrent, _linear) for long in (False, True)]
