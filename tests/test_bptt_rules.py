"""Every rule of backpropagation through time, against PyTorch's autograd with explicit detaching."""

import contextlib
import gc
import math
import tracemalloc
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt

F, H, C = 3, 4, 5
CUTTING = (
    bptt.Truncated(3), bptt.Windowed(3), bptt.Windowed(4, 2), bptt.Online(), bptt.Growing(every=2),
    bptt.Randomized(0.3), bptt.Checkpointed(),
)  # fmt: skip
JOINT = (bptt.Windowed(3), bptt.Windowed(4, 2), bptt.Randomized(0.3), bptt.Checkpointed())  # one update a batch


# ---- the oracle: a rule is a list of spans, (start, stop, first): steps start … stop − 1 go forward from the detached
# ---- state before start, and the losses of steps first … stop − 1 go back; each boundary within multiplies by `factor`


def full_spans(length):
    return [(0, length, 0)]


def truncated_spans(k):
    return lambda length: [(s, min(s + k, length), s) for s in range(0, length, k)]


def windowed_spans(k2, k1):
    def spans(length):
        blocks = [(s, min(s + k1, length)) for s in range(0, length, k1)]
        return [(max(0, stop - k2), stop, first) for first, stop in blocks]

    return spans


def random_spans(p, seed, steps):
    cuts = [t for t, u in enumerate(np.random.default_rng(seed).random(steps - 1), 1) if u < p]

    def spans(length):
        bounds = [0, *(t for t in cuts if t < length), length]
        return [(start, stop, start) for start, stop in pairwise(bounds)]

    return spans


def rules(steps):
    """(rule, its spans, its factor)"""
    horizons = st.integers(1, steps + 1)
    windows = st.tuples(horizons, horizons).map(sorted)
    seeds, p = st.integers(0, 99), 0.4
    return st.one_of(
        st.just((bptt.Full(), full_spans, 1)),
        st.just((bptt.Online(), truncated_spans(1), 1)),
        horizons.map(lambda k: (bptt.Truncated(k), truncated_spans(k), 1)),
        horizons.map(lambda k: (bptt.Growing(k, every=1), truncated_spans(k), 1)),
        horizons.map(lambda k: (bptt.Windowed(k), windowed_spans(k, 1), 1)),
        windows.map(lambda w: (bptt.Windowed(w[1], w[0]), windowed_spans(w[1], w[0]), 1)),
        seeds.map(lambda seed: (bptt.Randomized(p, seed), random_spans(p, seed, steps), 1 / (1 - p))),
        horizons.map(lambda n: (bptt.Checkpointed(n), full_spans, 1)),
    )


class Problem(NamedTuple):
    net: fastrnn.Sequential
    x: np.ndarray
    targets: np.ndarray
    arguments: dict[str, Any]
    reduction: str


def make(kind, layers, steps, batch, seed, *, given_state, ragged, masked, resets, reduction="mean"):
    """A random model and batch."""
    rng = np.random.default_rng(seed)
    net = fastrnn.Sequential(
        getattr(fastrnn, kind)(F, H, layers, dtype="float64", seed=rng),
        fastrnn.Linear(H, C, dtype="float64", seed=rng),
    )
    x, targets = rng.standard_normal((steps, batch, F)), rng.integers(0, C, (steps, batch))
    h, c = rng.standard_normal((2, layers, batch, H))
    arguments = {
        "state": (((h, c) if kind == "LSTM" else h), None) if given_state else None,
        "lengths": rng.integers(1, steps + 1, batch) if ragged else None,
        "mask": rng.random((steps, batch)) < 0.7 if masked else None,
        "resets": rng.random((steps, batch)) < 0.25 if resets else None,
    }
    if masked:
        arguments["mask"][0] = True
    if ragged:
        past = np.arange(steps)[:, None] >= arguments["lengths"]
        x[past], targets[past] = np.nan, -5  # padding is not read
    return Problem(net, x, targets, arguments, reduction)


@st.composite
def problems(draw, resets):
    flags = {name: draw(st.booleans()) for name in ("given_state", "ragged", "masked")}
    sizes = draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.integers(0, 10**6))
    kind, reduction = draw(st.sampled_from(["RNN", "GRU", "LSTM"])), draw(st.sampled_from(["mean", "sum"]))
    return make(kind, *sizes, resets=resets, reduction=reduction, **flags), draw(rules(sizes[1]))


class Oracle:
    """Value, gradients, final state and gradient of the initial state by PyTorch, sequence by sequence."""

    def __init__(self, problem, spans, factor=1):
        self.torch = pytest.importorskip("torch")
        layer = problem.net.layers[0]
        self.rnn = getattr(self.torch.nn, type(layer).__name__)(F, H, layer.num_layers).double()
        self.head = self.torch.nn.Linear(H, C).double()
        tensors = {name: self.torch.from_numpy(array) for name, array in problem.net.state_dict().items()}
        for module, prefix in ((self.rnn, "0."), (self.head, "1.")):
            module.load_state_dict({n[2:]: t for n, t in tensors.items() if n.startswith(prefix)})
        self.pair, self.factor = isinstance(layer, fastrnn.LSTM), factor
        steps, batch = problem.targets.shape
        lengths, mask = problem.arguments["lengths"], problem.arguments["mask"]
        lengths = [steps] * batch if lengths is None else lengths
        valid = np.ones((steps, batch), bool) if mask is None else mask
        count = sum(int(valid[:n, b].sum()) for b, n in enumerate(lengths))
        self.value, finals, initials = 0.0, [], []
        for b, length in enumerate(lengths):
            initial, final = self.sequence(problem, b, spans(int(length)), valid[:, b], int(length))
            initials.append([torch_gradient(part) for part in initial])
            finals.append([part.detach().numpy() for part in final])
        divisor = count if problem.reduction == "mean" else 1
        self.value /= divisor
        parameters = [p for module in (self.rnn, self.head) for p in module.parameters()]
        self.gradients = np.concatenate([torch_gradient(p).ravel() for p in parameters]) / divisor
        self.final = [np.concatenate(parts, 1) for parts in zip(*finals, strict=True)]
        self.d_initial = [np.concatenate(parts, 1) / divisor for parts in zip(*initials, strict=True)]

    def step(self, problem, b, t, state):
        resets = problem.arguments["resets"]
        if resets is not None and resets[t, b]:
            state = [self.torch.zeros_like(part) for part in state]
        x = self.torch.from_numpy(problem.x[t : t + 1, b : b + 1])
        y, state = self.rnn(x, tuple(state) if self.pair else state[0])
        return self.head(y)[0], list(state) if self.pair else [state]

    def sequence(self, problem, b, spans, valid, length):
        """The leaf tensors of the initial state and the final state; gradients are left in the modules."""
        parts = problem.arguments["state"]
        layers = self.rnn.num_layers
        if parts is None:
            parts = np.zeros((2 if self.pair else 1, layers, 1, H))
        else:
            parts = parts[0] if self.pair else [parts[0]]
            parts = [part[:, b : b + 1].copy() for part in parts]
        initial = [self.torch.tensor(part, requires_grad=True) for part in parts]
        before = [initial]  # the states before each step and after the last
        with self.torch.no_grad():
            for t in range(length):
                before.append(self.step(problem, b, t, before[-1])[1])
        losses = [0.0] * length
        for start, stop, first in spans:
            state, total = [part if start == 0 else part.detach() for part in before[start]], 0.0
            for t in range(start, stop):
                if t > start:
                    for part in state:
                        if part.requires_grad:
                            part.register_hook(lambda gradient: gradient * self.factor)
                y, state = self.step(problem, b, t, state)
                if t >= first and valid[t]:
                    wanted = self.torch.from_numpy(problem.targets[t, b : b + 1])
                    loss = self.torch.nn.functional.cross_entropy(y, wanted, reduction="sum")
                    total, losses[t] = total + loss, loss.item()
            if total != 0.0:
                total.backward()
        self.value += math.fsum(losses)
        return initial, before[-1]


def torch_gradient(tensor):
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()


def run_rule(problem, rule):
    """Value, gradients, final state and the gradient of the initial state."""
    loss, arguments = fastrnn.CrossEntropy(reduction=problem.reduction), dict(problem.arguments)
    problem.net.zero_grad()
    positional = [arguments.pop(name) for name in ("state", "lengths", "mask")]
    run = bptt.Run(problem.net, loss, bptt.Buffers(), problem.x, problem.targets, *positional, **arguments, joint=True)
    for add_gradients in rule.updates(run):
        add_gradients()
    return run.value, problem.net.gradients_to_vector(), leaves(run.state), leaves(run.dstate)


def leaves(state):
    found = []
    bptt.map_state(lambda array: found.append(array.copy()), state)
    return found


def close(a, b, tolerance=1e-10):
    scale = max(np.max(np.abs(b)), 1e-3)
    assert a.shape == b.shape and np.max(np.abs(a - b)) <= tolerance * scale


def check(problem, rule, spans, factor=1):
    expected = Oracle(problem, spans, factor)
    value, gradients, final, d_initial = run_rule(problem, rule)
    assert value == pytest.approx(expected.value, rel=1e-11)
    close(gradients, expected.gradients)
    for ours, theirs in zip(final, expected.final, strict=True):
        close(ours, theirs, 1e-12)
    if isinstance(rule, (bptt.Full, bptt.Windowed, bptt.Checkpointed)):
        for ours, theirs in zip(d_initial, expected.d_initial, strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("resets", [False, True])
def test_every_rule_against_autograd(resets):
    @settings(deadline=None, max_examples=40, derandomize=True)
    @given(problems(resets))
    def agree(drawn):
        problem, rule = drawn
        check(problem, *rule)

    agree()


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("k2, k1", [(1, 1), (4, 1), (3, 3), (5, 3), (20, 1), (20, 20), (7, 2)])
def test_windows_that_sequences_end_in(k2, k1, resets):
    flags = {"given_state": True, "ragged": True, "masked": True, "resets": resets}
    check(make("LSTM", 2, 13, 5, 3, **flags), bptt.Windowed(k2, k1), windowed_spans(k2, k1))


@pytest.mark.parametrize("k2, k1", [(4, 1), (5, 3)])
def test_windows_in_several_parts(monkeypatch, k2, k1):
    monkeypatch.setattr("fastrnn.bptt.windowed._ROWS_AT_ONCE", 4)
    flags = {"given_state": True, "ragged": True, "masked": True, "resets": True}
    check(make("LSTM", 2, 13, 5, 3, **flags), bptt.Windowed(k2, k1), windowed_spans(k2, k1))


def test_checkpointed_is_full():
    flags = {"given_state": True, "ragged": True, "masked": True, "resets": False}
    problem = make("GRU", 2, 30, 6, 0, **flags)
    value, gradients, *states = run_rule(problem, bptt.Full())
    expected = [gradients, *states[0], *states[1]]
    for segments in (None, 1, 4, 29, 30, 100):
        again, gradients, *states = run_rule(problem, bptt.Checkpointed(segments))
        assert again == pytest.approx(value, rel=1e-13)
        for a, b in zip([gradients, *states[0], *states[1]], expected, strict=True):
            close(a, b, 1e-12)


# ---- models of several layers, dropout, orders of axes ----


def deep(**options):
    """Layers below, between and above the recurrent ones."""
    wide = {"dtype": "float64"}
    p = options.pop("dropout", 0.0)

    def dropout(seed):
        return [fastrnn.Dropout(p, seed=seed, **wide)] if p else []

    return fastrnn.Sequential(
        fastrnn.Embedding(7, F, seed=0, **wide), *dropout(1),
        fastrnn.LSTM(F, H, 2, dropout=p, seed=2, **wide),
        fastrnn.Tanh(**wide), *dropout(3), fastrnn.Linear(H, 3, seed=4, **wide),
        fastrnn.GRU(3, H, seed=5, **wide),
        *dropout(6), fastrnn.Linear(H, C, seed=7, **wide), **options,
    )  # fmt: skip


def tokens(steps=9, batch=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 7, (steps, batch)), rng.integers(0, C, (steps, batch))


def gradients_of(net, rule, x, targets, **arguments):
    net.zero_grad()
    value, state = rule.gradients(net, fastrnn.CrossEntropy(), x, targets, **arguments)
    return value, net.gradients_to_vector(), leaves(state)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, np.array([9, 2, 7, 5])], ids=["even", "ragged"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("rule", [bptt.Windowed(9), bptt.Windowed(30), bptt.Windowed(9, 4)], ids=repr)
def test_a_window_over_everything_is_full(rule, dropout, lengths, batch_first):
    """Also with dropout, below, between, within and above recurrent layers: the same numbers are drawn."""
    net, (x, targets) = deep(dropout=dropout, batch_first=batch_first), tokens()
    if batch_first:
        x, targets = np.ascontiguousarray(x.T), np.ascontiguousarray(targets.T)
    random = bptt.random_states(net)
    value, expected, final = gradients_of(net, bptt.Full(), x, targets, lengths=lengths)
    after = bptt.random_states(net)
    bptt.set_random_states(net, random)
    if dropout and rule.k1 > 1:
        with pytest.raises(ValueError, match="random masks"):
            gradients_of(net, rule, x, targets, lengths=lengths)
        assert bptt.random_states(net) == random and not net.gradients_to_vector().any()
        return
    again, found, state = gradients_of(net, rule, x, targets, lengths=lengths)
    assert again == value and bptt.random_states(net) == after
    close(found, expected, 1e-12)
    for a, b in zip(state, final, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("options", [
    {"initial_state": "learned"}, {"initial_state": fastrnn.NoisyState(0.5)},
    {"recurrent_dropout": 0.3, "zoneout": (0.2, 0.1), "dropout": 0.2},
], ids=["learned", "noisy", "zoneout"])  # fmt: skip
def test_options_of_recurrent_layers(options, resets):
    """Windows over everything give what Full() gives, learned initial states and drawn noise included."""
    net = fastrnn.LSTM(F, H, 2, dtype="float64", seed=0, **options)
    rng = np.random.default_rng(1)
    net.vector_to_parameters(rng.uniform(-1, 1, net.num_parameters))
    x, targets = rng.standard_normal((8, 3, F)), rng.standard_normal((8, 3, H))
    random, found = bptt.random_states(net), []
    resets = rng.random((8, 3)) < 0.3 if resets else None
    for rule in (bptt.Full(), bptt.Windowed(8), *([bptt.Windowed(8, 3)] if "zoneout" not in options else [])):
        bptt.set_random_states(net, random)
        net.zero_grad()
        value, _ = rule.gradients(net, fastrnn.MSE(), x, targets, lengths=[8, 3, 6], resets=resets)
        found.append((value, net.gradients_to_vector()))
        assert found[0][0] == value
        close(found[-1][1], found[0][1], 1e-12)
    bptt.set_random_states(net, random)
    net.zero_grad()
    value, _ = bptt.Checkpointed(3).gradients(net, fastrnn.MSE(), x, targets, lengths=[8, 3, 6], resets=resets)
    if "learned" in options.values():
        assert value == pytest.approx(found[0][0], rel=1e-14)
        close(net.gradients_to_vector(), found[0][1], 1e-12)


def test_checkpoints_draw_the_same_dropout_again():
    """The gradient is that of the drawn loss: by central differences along a direction."""
    net, (x, targets) = deep(dropout=0.3), tokens()
    rule, random = bptt.Checkpointed(3), bptt.random_states(net)
    _, gradient, _ = gradients_of(net, rule, x, targets, lengths=[9, 2, 7, 5])
    after, place = bptt.random_states(net), net.parameters_to_vector()
    direction, values = np.random.default_rng(0).standard_normal(place.size), []
    for offset in (1e-5, -1e-5):
        net.vector_to_parameters(place + offset * direction)
        bptt.set_random_states(net, random)
        values.append(gradients_of(net, rule, x, targets, lengths=[9, 2, 7, 5])[0])
        assert bptt.random_states(net) == after
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient @ direction, rel=1e-7)


@pytest.mark.parametrize("rule", JOINT, ids=repr)
def test_batch_mates_and_padding_do_not_matter(rule):
    net, (x, targets), lengths = deep(), tokens(), [9, 2, 7, 5]
    loss, places = fastrnn.CrossEntropy(reduction="sum"), rule.state_dict()
    total, state = rule.gradients(net, loss, x, targets, lengths=lengths)
    state, together, alone = leaves(state), net.gradients_to_vector(), 0.0
    net.zero_grad()
    for b, n in enumerate(lengths):
        rule.load_state_dict(places)  # the same cuts
        value, final = rule.gradients(net, loss, x[:, b : b + 1].copy(), targets[:, b : b + 1].copy(), lengths=[n])
        alone += value
        for a, c in zip(state, leaves(final), strict=True):
            np.testing.assert_array_equal(a[:, b : b + 1], c)
    assert alone == pytest.approx(total, rel=1e-14)
    close(net.gradients_to_vector(), together, 1e-13)


def test_models_without_a_state():
    net = fastrnn.Linear(F, C, dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((6, 2, F)), rng.integers(0, C, (6, 2))
    value, expected, _ = gradients_of(net, bptt.Full(), x, targets, lengths=[6, 2])
    for rule in JOINT:
        again, found, state = gradients_of(net, rule, x, targets, lengths=[6, 2])
        assert again == pytest.approx(value, rel=1e-14) and state == []
        close(found, expected, 1e-13)


def test_a_layer_alone():
    net, rng = fastrnn.GRU(F, H, dtype="float64", seed=0), np.random.default_rng(0)
    x, targets = rng.standard_normal((2, 6, 2, F)), rng.standard_normal((6, 2, H))
    value, state = bptt.Full().gradients(net, fastrnn.MSE(), x[0], targets)
    expected, state = net.gradients_to_vector(), state.copy()
    for rule in (bptt.Windowed(6), bptt.Checkpointed()):
        net.zero_grad()
        again, final = rule.gradients(net, fastrnn.MSE(), x[0], targets)
        assert again == pytest.approx(value, rel=1e-14)
        np.testing.assert_array_equal(final, state)
        close(net.gradients_to_vector(), expected, 1e-12)


# ---- Randomized is unbiased, Growing grows ----


def test_randomized_is_unbiased():
    """z-scores of the mean over many draws against the full gradient."""
    problem = make("LSTM", 1, 5, 1, 0, given_state=False, ragged=False, masked=False, resets=False)
    full = run_rule(problem, bptt.Full())[1]
    rule, draws = bptt.Randomized(0.3, seed=1), 2000
    samples = np.array([run_gradient(problem, rule) for _ in range(draws)])
    error = samples.std(0, ddof=1) / math.sqrt(draws)
    moved = error > 1e-12 * np.abs(full).max()  # the gradient of the head has no lag, and is always right
    z = (samples.mean(0) - full)[moved] / error[moved]
    np.testing.assert_allclose(samples[:, ~moved], np.broadcast_to(full[~moved], (draws, (~moved).sum())), rtol=1e-9)
    # all elements depend on the same few cuts: the root mean square varies more than that of independent ones would
    assert moved.sum() > 50 and 0.2 < math.sqrt(np.mean(z**2)) < 2 and np.abs(z).max() < 5
    biased = run_gradient(problem, bptt.Windowed(2))
    assert np.abs((biased - full)[moved] / error[moved]).max() > 20


def run_gradient(problem, rule):
    problem.net.zero_grad()
    rule.gradients(problem.net, fastrnn.CrossEntropy(), problem.x, problem.targets)
    return problem.net.gradients_to_vector()


def test_randomized_draws_anew_and_from_its_seed():
    problem = make("LSTM", 1, 9, 2, 0, given_state=False, ragged=False, masked=False, resets=False)
    rule, other = bptt.Randomized(0.5, seed=3), bptt.Randomized(0.5, np.random.default_rng(3))
    first, second = (run_gradient(problem, rule) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(run_gradient(problem, other), first)


def test_growing_by_batches():
    net, (x, targets) = deep(), tokens()
    rule, horizons = bptt.Growing(1, 7, 1.5, every=2), []
    for _ in range(10):
        horizons.append(rule.horizon)
        expected = gradients_of(net, bptt.Truncated(rule.horizon), x, targets)[1]
        np.testing.assert_array_equal(gradients_of(net, rule, x, targets)[1], expected)
    assert horizons == [1, 1, 2, 2, 3, 3, 4, 4, 6, 6] and rule.horizon == 7
    unlimited = bptt.Growing(2, factor=4, every=1)
    for _ in range(100):
        gradients_of(net, unlimited, x, targets)
    assert unlimited.horizon > 9


def test_growing_on_a_plateau():
    net, (x, targets) = deep(), tokens()
    rule, horizons = bptt.Growing(2, 20, 3, every="plateau"), []
    for loss in (3.0, 2.0, 2.0, 1.9, math.nan, 2.5, 1.0):
        gradients_of(net, rule, x, targets)
        rule.observe(loss)
        horizons.append(rule.horizon)
    assert horizons == [2, 2, 6, 6, 18, 20, 20]


def test_fit_tells_the_rule_of_validation_losses():
    net, batches = deep(), [tokens(seed=1), tokens(seed=2)]
    rule = bptt.Growing(every="plateau")
    job = fastrnn.Trainer(net, fastrnn.CrossEntropy(), fastrnn.SGD(1e-9), bptt=rule)
    history = job.fit(batches, epochs=4, validation=[tokens(seed=3)], progress=False)
    losses = [record["validation_loss"] for record in history if "validation_loss" in record]
    stalls = sum(loss >= min(losses[:i]) for i, loss in enumerate(losses) if i)
    assert rule.horizon == 2**stalls and rule.state_dict()["least"] == min(losses)


# ---- in a trainer ----


@pytest.mark.parametrize("rule", JOINT, ids=repr)
def test_one_update_a_batch_of_the_whole_mean(rule):
    net, (x, targets) = deep(), tokens()
    mask = np.random.default_rng(1).random(x.shape) < 0.6
    state = rule.state_dict()
    value, expected, _ = gradients_of(net, rule, x, targets, mask=mask)
    rule.load_state_dict(state)
    job = fastrnn.Trainer(net, fastrnn.CrossEntropy(), fastrnn.SGD(0.1), bptt=rule)
    assert job.step(x, targets, mask=mask)[0] == pytest.approx(value, rel=1e-14)
    assert job.updates == 1
    close(net.gradients_to_vector(), expected, 1e-13)


def test_online_makes_an_update_a_step():
    net, (x, targets) = deep(), tokens()
    job = fastrnn.Trainer(net, fastrnn.CrossEntropy(), fastrnn.SGD(0.1), bptt=bptt.Online())
    job.step(x, targets, lengths=[7, 2, 5, 5])
    assert job.updates == 7


@pytest.mark.parametrize("make_rule", [
    lambda: bptt.Randomized(0.4, seed=5), lambda: bptt.Growing(every=3), lambda: bptt.Growing(every="plateau"),
    lambda: bptt.Randomized(0.4, np.random.Generator(np.random.MT19937(1))),
    lambda: bptt.Feedback(bptt.LinearDecay(15), sample="sample", seed=4),
], ids=["randomized", "growing", "plateau", "other generator", "feedback"])  # fmt: skip
def test_resuming_goes_on_bit_for_bit(make_rule, tmp_path):
    batches, path = [tokens(seed=n) for n in range(5)], tmp_path / "checkpoint"

    def job():
        return fastrnn.Trainer(
            deep(dropout=0.2), fastrnn.CrossEntropy(reduction="sum"), fastrnn.Adam(0.05), bptt=make_rule(), seed=3
        )

    def stop(trainer, record):
        return trainer.epoch == 1 and trainer.batch == 2

    options = {"validation": batches[:1], "progress": False}
    whole, part, resumed = job(), job(), job()
    whole.fit(batches, epochs=4, **options)
    part.fit(batches, epochs=4, callbacks=[stop], **options)
    part.save_checkpoint(path)
    resumed.load_checkpoint(path)
    resumed.fit(batches, epochs=3, **options)
    np.testing.assert_array_equal(resumed.model.parameters_to_vector(), whole.model.parameters_to_vector())


def test_checkpoints_of_other_rules(tmp_path):
    def job(rule):
        return fastrnn.Trainer(deep(), fastrnn.CrossEntropy(), fastrnn.SGD(0.1), bptt=rule)

    path = tmp_path / "checkpoint"
    saved = job(bptt.Growing(every=1))
    saved.step(*tokens())
    saved.save_checkpoint(path)
    for rule in (bptt.Full(), bptt.Randomized(0.5), bptt.Growing(1, 1, every=1)):
        other, before = job(rule), rule.state_dict()
        place = other.model.parameters_to_vector()
        with pytest.raises(fastrnn.FormatError, match="does not fit"):
            other.load_checkpoint(path)
        assert rule.state_dict() == before
        np.testing.assert_array_equal(other.model.parameters_to_vector(), place)
    tensors, meta = fastrnn.storage.load_tensors(path, "checkpoint")
    del meta["rule"]  # as it was before rules had a state
    fastrnn.storage.save_tensors(path, "checkpoint", tensors, meta)
    other = job(bptt.Growing(4, every=1))
    other.load_checkpoint(path)
    assert other.bptt.horizon == 4


def test_a_failing_batch_leaves_the_rule_as_it_was():
    rule = bptt.Randomized(0.5)
    job = fastrnn.Trainer(deep(), fastrnn.CrossEntropy(), fastrnn.SGD(0.1), bptt=rule)
    before = rule.state_dict()

    def stop(model, factor):
        raise RuntimeError

    job.optimizer.step = stop
    with pytest.raises(RuntimeError):
        job.fit([tokens()], progress=False)
    assert rule.state_dict() == before


# ---- resets ----


@pytest.mark.parametrize("rule", [
    bptt.Full(), bptt.Truncated(2), bptt.Windowed(3), bptt.Windowed(4, 2), bptt.Online(), bptt.Randomized(0.0),
    bptt.Checkpointed(), bptt.Checkpointed(3),
], ids=repr)  # fmt: skip
def test_resets_are_sequences_put_end_to_end(rule):
    """A stream of two sequences is a batch of both, if the rule cuts both at the same steps."""
    net, (x, targets) = deep(), tokens(8, 2)
    resets = np.zeros((8, 2), bool)
    resets[0] = True  # the given state counts for nothing
    resets[4] = True
    value, found, state = gradients_of(net, rule, x, targets, resets=resets)
    halves = np.concatenate([x[:4], x[4:]], 1), np.concatenate([targets[:4], targets[4:]], 1)
    expected, gradients, final = gradients_of(net, rule, *halves)
    assert value == pytest.approx(expected, rel=1e-13)
    close(found, gradients, 1e-12)
    for a, b in zip(state, final, strict=True):
        np.testing.assert_array_equal(a, b[:, 2:])


@pytest.mark.parametrize("batch_first", [False, True])
def test_trainers_take_resets(batch_first):
    net, (x, targets) = deep(batch_first=batch_first), tokens()
    resets = np.random.default_rng(0).random(x.shape) < 0.3
    batch = {"x": x, "targets": targets, "resets": resets}
    if batch_first:
        batch = {name: np.ascontiguousarray(array.T) for name, array in batch.items()}
    loss = fastrnn.CrossEntropy()
    job = fastrnn.Trainer(net, loss, fastrnn.SGD(1e-30), bptt=bptt.Truncated(4))
    time_major = deep()
    expected = loss(time_major(x, resets=resets)[0], targets)[0]
    assert expected != loss(time_major(x)[0], targets)[0]
    assert job.step(**batch)[0] == pytest.approx(expected, rel=1e-13)
    assert job.evaluate([batch]) == pytest.approx(expected, rel=1e-13)
    assert job.fit([batch], progress=False)[0]["loss"] == pytest.approx(expected, rel=1e-13)


def test_wrong_resets_are_refused():
    net, (x, targets) = deep(), tokens()
    for resets, error in ((np.zeros((4, 9), bool), ValueError), (np.zeros(x.shape), TypeError)):
        for rule in (bptt.Full(), *CUTTING):
            with pytest.raises(error, match="resets"):
                rule.gradients(net, fastrnn.CrossEntropy(), x, targets, resets=resets)


# ---- what is refused ----


@pytest.mark.parametrize("rule", CUTTING, ids=repr)
def test_what_needs_whole_sequences_is_refused(rule):
    wide = {"dtype": "float64"}
    nets = {
        "bidirectional": fastrnn.LSTM(F, H, bidirectional=True, **wide),
        "Last": fastrnn.Sequential(fastrnn.LSTM(F, H, **wide), fastrnn.Last(**wide)),
    }
    for word, net in nets.items():
        with pytest.raises(ValueError, match=rf"{word}.*Full"):
            rule.gradients(net, fastrnn.MSE(), np.zeros((4, 2, F)), np.zeros((2, H)))
        with pytest.raises(ValueError, match=word):
            fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(0.1), bptt=rule)


@pytest.mark.parametrize("rule", [bptt.Windowed(3), bptt.Checkpointed()], ids=repr)
def test_masks_for_whole_sequences_are_refused(rule):
    net = fastrnn.LSTM(F, H, 2, dropout=0.5, variational=True, dtype="float64", seed=0)
    with pytest.raises(ValueError, match="masks"):
        rule.gradients(net, fastrnn.MSE(), np.zeros((6, 2, F)), np.zeros((6, 2, H)))
    assert not net.gradients_to_vector().any()


@pytest.mark.parametrize("options, word", [
    ({"dilation": 2}, "dilated"), ({"zoneout": 0.1, "batch_first": True}, "time first"),
])  # fmt: skip
def test_what_single_steps_do_not_have(options, word):
    net = fastrnn.LSTM(F, H, dtype="float64", seed=0, **options)
    with pytest.raises(ValueError, match=word):
        bptt.Windowed(2).gradients(net, fastrnn.MSE(), np.zeros((6, 6, F)), np.zeros((6, 6, H)))


@pytest.mark.parametrize("call, error, word", [
    (lambda: bptt.Windowed(0), ValueError, "k1|k2"),
    (lambda: bptt.Windowed(2, 3), ValueError, "k2"),
    (lambda: bptt.Windowed(2.0), TypeError, "k2"),
    (lambda: bptt.Randomized(1.0), ValueError, "p"),
    (lambda: bptt.Randomized(-0.1), ValueError, "p"),
    (lambda: bptt.Randomized(0.1, "a"), TypeError, "seed"),
    (lambda: bptt.Growing(0, every=1), ValueError, "start"),
    (lambda: bptt.Growing(4, 3, every=1), ValueError, "stop"),
    (lambda: bptt.Growing(factor=1, every=1), ValueError, "factor"),
    (lambda: bptt.Growing(every=0), ValueError, "every"),
    (lambda: bptt.Growing(every="never"), ValueError, "every"),
    (lambda: bptt.Checkpointed(0), ValueError, "segments"),
    (lambda: bptt.Growing(every=1).load_state_dict({}), ValueError, "entries"),
    (lambda: bptt.Full().load_state_dict(None), TypeError, "dict"),
])  # fmt: skip
def test_wrong_arguments(call, error, word):
    with pytest.raises(error, match=word):
        call()


# ---- memory ----


def peak_of(call):
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_checkpointed_takes_little_memory():
    steps, rng = 10_000, np.random.default_rng(0)
    net = fastrnn.Sequential(
        fastrnn.LSTM(F, 16, dtype="float64", seed=0), fastrnn.Linear(16, C, dtype="float64", seed=0)
    )
    x, targets, loss = rng.standard_normal((steps, 2, F)), rng.integers(0, C, (steps, 2)), fastrnn.CrossEntropy()
    peaks, found = [], []
    for rule in (bptt.Full(), bptt.Checkpointed()):
        net.zero_grad()
        rule.gradients(net, loss, x[:2], targets[:2])  # compiles
        net.zero_grad()
        peaks.append(peak_of(lambda rule=rule: rule.gradients(net, loss, x, targets)))
        found.append(net.gradients_to_vector())
    close(found[1], found[0], 1e-12)
    assert peaks[1] < peaks[0] / 10


@pytest.mark.parametrize("rule", [bptt.Growing(9, every=1), bptt.Randomized(0.1), bptt.Checkpointed()], ids=repr)
def test_nothing_is_allocated_after_the_first_calls(rule):
    rng = np.random.default_rng(0)
    steps, batch, hidden = 60, 256, 16
    net = fastrnn.Sequential(
        fastrnn.LSTM(F, hidden, dtype="float64", seed=0), fastrnn.Linear(hidden, C, dtype="float64", seed=0)
    )
    x, targets = rng.standard_normal((steps, batch, F)), rng.integers(0, C, (steps, batch))
    lengths, loss = rng.integers(steps // 2, steps + 1, batch), fastrnn.CrossEntropy()
    places = rule.state_dict()

    def call():
        rule.load_state_dict(places)
        rule.gradients(net, loss, x, targets, lengths=lengths)

    for _ in range(2):
        call()
    assert peak_of(call) < 60_000  # a state has 65,536 bytes, dy 614,400


# ---- truncation_bias ----


def test_truncation_bias():
    from fastrnn.diagnostics.truncation import truncation_bias

    problem = make("LSTM", 2, 9, 3, 0, given_state=True, ragged=True, masked=True, resets=False)
    net, loss = problem.net, fastrnn.CrossEntropy()
    arguments = problem.arguments

    def gradient(rule):
        net.zero_grad()
        rule.gradients(net, loss, problem.x, problem.targets, **arguments)
        return net.gradients_to_vector()

    full = gradient(bptt.Full())
    expected = []
    for h in (1, 3, 9):
        row = []
        for g in (gradient(bptt.Windowed(h)), gradient(bptt.Truncated(h))):
            norms = np.linalg.norm(g), np.linalg.norm(full)
            row += [g @ full / (norms[0] * norms[1]), norms[0] / norms[1]]
        expected.append(row)
    net.parameters.gradients[:] = 7
    bias = truncation_bias(net, loss, problem.x, problem.targets, (9, 3, 1, 3), **arguments)
    assert [row.horizon for row in bias.rows] == [1, 3, 9]
    np.testing.assert_allclose([row[1:] for row in bias.rows], expected, rtol=1e-11)
    np.testing.assert_allclose(bias.rows[-1][1:], 1, rtol=1e-11)
    assert (net.gradients_to_vector() == 7).all() and bias.norm == pytest.approx(np.linalg.norm(full))
    assert len(str(bias).splitlines()) == 5


def test_truncation_bias_leaves_generators_alone_and_refuses():
    from fastrnn.diagnostics.truncation import truncation_bias

    net, (x, targets) = deep(), tokens()
    random = bptt.random_states(net)
    bias = truncation_bias(net, fastrnn.CrossEntropy(), x, targets, [2, 40])
    assert bptt.random_states(net) == random and bias.rows[1][1:] == pytest.approx((1,) * 4)
    noisy = fastrnn.LSTM(
        F, H, 2, dropout=0.5, variational=True, recurrent_dropout=0.3, zoneout=0.2, batch_first=True,
        initial_state=fastrnn.NoisyState(1.0), dtype="float64", seed=0,
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 4, F))
    bias = truncation_bias(noisy, fastrnn.MSE(), x, noisy(x)[0] - 1, [4])  # what inference gives: no noise disturbs
    assert bias.rows[0][1:] == pytest.approx((1,) * 4)
    for horizons in ([], [0]):
        with pytest.raises(ValueError, match="horizons"):
            truncation_bias(net, fastrnn.CrossEntropy(), x, targets, horizons)


def test_truncation_bias_draws(tmp_path, monkeypatch):
    import sys

    from fastrnn.diagnostics.truncation import HorizonBias, TruncationBias

    bias = TruncationBias((HorizonBias(1, 0.5, 0.4, 0.3, 0.2), HorizonBias(8, 1.0, 1.0, 0.9, 0.9)), 2.0)
    with contextlib.suppress(ImportError):
        import matplotlib.figure

        axes = matplotlib.figure.Figure().subplots()
        assert bias.plot(axes) is axes and len(axes.lines) == 5
        bias.plot(tmp_path / "bias.png")
        assert (tmp_path / "bias.png").stat().st_size > 1000
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"TruncationBias.plot needs matplotlib: pip install matplotlib"):
        bias.plot(tmp_path / "none.png")


def test_growing_on_a_plateau_needs_a_validation():
    net, (x, targets) = deep(), tokens()
    rule = bptt.Growing(1, 4, every="plateau")
    trainer = fastrnn.Trainer(net, fastrnn.CrossEntropy(), fastrnn.SGD(0.1), bptt=rule)
    with pytest.raises(ValueError, match="validation must be given for Growing"):
        trainer.fit([(x, targets)], progress=False)
    trainer.fit([(x, targets)], validation=[(x, targets)], progress=False)


def test_randomized_refuses_masks_for_whole_sequences():
    net = fastrnn.LSTM(3, 4, 2, dropout=0.5, variational=True)
    with pytest.raises(ValueError, match="masks for whole sequences"):
        bptt.Randomized(0.5).check(net)


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox])
def test_bptt_random_states_are_all_taken_or_none(kind):
    """NumPy takes a place beyond a generator's numbers, and draws from there."""
    generators = [np.random.Generator(kind(seed)) for seed in range(2)]
    net = fastrnn.Sequential(*(fastrnn.Dropout(0.5, seed=generator) for generator in generators))
    net.forward(np.ones((3, 2, 4), np.float32), workspace=net.workspace(3, 2))
    before = bptt.random_states(net)
    good, wrong = bptt.random_states(net), bptt.random_states(net)
    net.forward(np.ones((3, 2, 4), np.float32), workspace=net.workspace(3, 2))
    after = repr(bptt.random_states(net))
    place = wrong[1]["state"] if kind is np.random.MT19937 else wrong[1]
    place["pos" if kind is np.random.MT19937 else "buffer_pos"] = 10**8
    for states in (wrong, good[:1], [*good, good[0]], None, {}, [good[0], None], [good[0], {}]):
        with pytest.raises(ValueError):
            bptt.set_random_states(net, states)
        assert repr(bptt.random_states(net)) == after
    bptt.set_random_states(net, good)
    assert repr(bptt.random_states(net)) == repr(before)


@pytest.mark.parametrize("rule", [bptt.Full(), bptt.Checkpointed(2), bptt.Truncated(2), bptt.Windowed(2)], ids=repr)
def test_bptt_states_may_be_nested_lists(rule):
    """As `forward` takes them."""
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((5, 2, 3)), rng.standard_normal((5, 2, 4))
    for layer in (fastrnn.GRU(3, 4, dtype="float64", seed=0), fastrnn.LSTM(3, 4, dtype="float64", seed=0)):
        for net in (layer, fastrnn.Sequential(layer)):
            h = rng.standard_normal((1, 2, 4))
            state = (h, h + 1) if isinstance(layer, fastrnn.LSTM) else h
            lists = (h.tolist(), (h + 1).tolist()) if isinstance(layer, fastrnn.LSTM) else h.tolist()
            state, lists = ((state,), (lists,)) if net is not layer else (state, lists)
            found = []
            for taken in (state, lists):
                net.zero_grad()
                value, _ = rule.gradients(net, fastrnn.MSE(), x, targets, taken)
                found.append((value, net.gradients_to_vector().tolist()))
            assert found[0] == found[1]
