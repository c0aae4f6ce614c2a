"""NaN, infinity, and numbers that are many or large: nothing turns finite in silence, nothing grows without bound."""

import copy
import importlib.util
import itertools
import subprocess
import sys

import numpy as np

import fastrnn
from fastrnn import bptt

from . import extremes
from .section import Section

_BAD = (np.nan, np.inf, -np.inf)
_CELLS = {"LSTM": {}, "GRU": {}, "tanh": {"nonlinearity": "tanh"}, "relu": {"nonlinearity": "relu"}}
_TOLERANCE = 1e-5  # of float32 sums
_LEAST = 20  # cases of a part, of which some come to nothing
_WHOLE = 60  # seconds from which on long sequences and sums are tried, however long they take
_SLACK = 4 << 20  # bytes of Python's and NumPy's that a child may take beyond its bound
_ROOM = 1 << 28  # the same of the process's, in which kernels of long sequences may be compiled


def _layer(name, *sizes, **options):
    return getattr(fastrnn, name if name in ("LSTM", "GRU") else "RNN")(*sizes, **_CELLS[name], **options)


def _normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def _place(rng, array):
    """Put NaN or infinity at a random place of `array`; returns the index."""
    index = tuple(int(rng.integers(n)) for n in array.shape)
    array[index] = rng.choice(_BAD)
    return index


def _seeds(budget, least):
    """Seeds until the time is up, `least` of them."""
    for number in itertools.count():
        if number >= least and not budget.left():
            return
        yield int(budget.rng.integers(2**31))


# patterns: the same numbers are finite as in PyTorch


def _patterns(tally, budget):
    try:
        import torch
    except ImportError:
        tally.note("no PyTorch to compare patterns with")
        return
    for seed in _seeds(budget, 1):
        for what, ours, theirs in _network(np.random.default_rng(seed), torch, tally):
            if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
                tally.broke(f"other elements of {what} are finite than in PyTorch, seed {seed}")
            tally.count("patterns compared with PyTorch")
        for what, ours, theirs in _losses(np.random.default_rng(seed), torch, tally):
            if not np.array_equal(np.isnan(ours), np.isnan(theirs)) or not np.array_equal(
                np.isinf(ours), np.isinf(theirs)
            ):
                tally.broke(f"{what} is other than PyTorch's: {ours}, {theirs}, seed {seed}")
            tally.count("patterns compared with PyTorch")


def _extremes(tally, budget):
    if importlib.util.find_spec("torch") is None:
        return  # as is told above
    import torch

    for subject, seed in zip(itertools.cycle(extremes.SUBJECTS), _seeds(budget, _LEAST)):
        wrong = extremes.problem(subject, np.random.default_rng(seed), torch)
        if wrong:
            tally.broke(f"{subject}, seed {seed}: {wrong}")
        tally.count(f"extreme numbers in {subject}")


def _network(rng, torch, tally):
    """Name, ours and PyTorch's of what a recurrent layer gives, with a number somewhere that is not finite."""
    cell = rng.choice(list(_CELLS))
    steps, batch, features, hidden = (int(rng.integers(1, n)) for n in (8, 5, 6, 9))
    layer = _layer(cell, features, hidden, seed=0)
    names = list(layer.state_dict())
    arrays = {"x": _normal(rng, steps, batch, features), "h": _normal(rng, 1, batch, hidden), **layer.state_dict()}
    if cell == "LSTM":
        arrays["c"] = _normal(rng, 1, batch, hidden)
    where = rng.choice(list(arrays))
    _place(rng, arrays[where])
    tally.count("non-finite values placed")
    layer.load_state_dict({name: arrays[name] for name in names})
    state = (arrays["h"], arrays["c"]) if cell == "LSTM" else arrays["h"]
    workspace = layer.workspace(steps, batch)
    y, _ = layer(arrays["x"], state, workspace=workspace)
    y, dy = y.copy(), _normal(rng, *y.shape)
    dx, _ = layer.backward(dy, workspace=workspace)

    kind = getattr(torch.nn, type(layer).__name__)
    reference = kind(features, hidden, dtype=torch.float64, **_CELLS[cell])
    reference.load_state_dict({name: torch.tensor(arrays[name]).double() for name in names})
    x = torch.tensor(arrays["x"]).double().requires_grad_()
    parts = [torch.tensor(arrays[name]).double() for name in ("h", "c") if name in arrays]
    expected, _ = reference(x, tuple(parts) if cell == "LSTM" else parts[0])
    at = f"of {cell} ({steps}, {batch}, {features}, {hidden}) with {where} not finite"
    yield f"y {at}", y, expected.detach().numpy()
    expected.backward(torch.tensor(dy).double())
    yield f"dx {at}", dx, x.grad.numpy()
    for name, parameter in reference.named_parameters():
        yield f"the gradient of {name} {at}", layer.grad_dict()[name], parameter.grad.numpy()


def _losses(rng, torch, tally):
    """The same of losses and pooling."""
    functional = torch.nn.functional
    rows, width = int(rng.integers(1, 9)), int(rng.integers(2, 9))
    y, targets = _normal(rng, rows, width), _normal(rng, rows, width)
    _place(rng, y if rng.random() < 0.5 else targets)
    tally.count("non-finite values placed")
    classes = rng.integers(width, size=rows)
    pairs = {
        "MSE": (fastrnn.MSE(), functional.mse_loss, targets),
        "MAE": (fastrnn.MAE(), functional.l1_loss, targets),
        "Huber": (fastrnn.Huber(), functional.huber_loss, targets),
        "CrossEntropy": (fastrnn.CrossEntropy(), functional.cross_entropy, classes),
    }
    for name, (loss, theirs, wanted) in pairs.items():
        yield name, loss(y, wanted)[0], theirs(torch.tensor(y), torch.tensor(wanted)).item()
    x = y[:, np.newaxis]
    yield "MaxPool", fastrnn.MaxPool()(x)[0], np.max(x, 0)
    yield "MeanPool", fastrnn.MeanPool()(x)[0], torch.tensor(x).mean(0).numpy()


# places: the first one is named


def _places(tally, budget):
    for seed in _seeds(budget, _LEAST):
        for kind, case in (("x", _bad_input), ("an overflow", _overflow)):
            expected, found = case(np.random.default_rng(seed), tally)
            if expected != found:
                tally.broke(f"{kind}: the first place is {expected}, named was {found}, seed {seed}")
            tally.count("first places named right", expected == found and expected is not None)


def _named(model, x, **options):
    """Time, batch and layer that the error names; None if there is none."""
    try:
        model(x, nonfinite="raise", **options)
    except fastrnn.NonFiniteError as error:
        return error.time, error.batch, error.layer
    return None


def _bad_input(rng, tally):
    steps, batch = (int(n) for n in rng.integers(1, 12, 2))
    x, lengths = _normal(rng, steps, batch, 3), rng.integers(1, steps + 1, batch)
    for _ in range(int(rng.integers(1, 4))):
        _place(rng, x)
        tally.count("non-finite values placed")
    valid = np.arange(steps)[:, np.newaxis] < lengths
    wrong = np.argwhere(~np.isfinite(x).all(-1) & valid)  # in the order of time
    expected = (*map(int, wrong[0]), None) if len(wrong) else None
    return expected, _named(fastrnn.Sequential(fastrnn.GRU(3, 4, seed=0)), x, lengths=lengths)


def _overflow(rng, tally):
    """Simple nets without a bound that grow at their own pace; the reference goes step by step and layer by layer."""
    steps, batch = (int(n) for n in rng.integers(1, 12, 2))
    layers = [fastrnn.RNN(3, 3, nonlinearity="relu", seed=0) for _ in range(3)]
    for layer in layers:
        growth = float(10 ** rng.uniform(0, 14))
        layer.load_state_dict({n: np.full_like(a, growth / 3) for n, a in layer.state_dict().items()})
    x = np.abs(_normal(rng, steps, batch, 3))
    states, expected = [None] * 3, None
    for t in range(steps):
        h = x[t]
        for i, layer in enumerate(layers):
            h, states[i] = layer.step(h, states[i])
            rows = np.flatnonzero(~np.isfinite(h).all(-1))
            if expected is None and rows.size:
                expected = t, int(rows[0]), f"layer {i} (RNN)"
    return expected, _named(fastrnn.Sequential(*layers), x)


# explosions: noticed at the step where they happen


def _explosions(tally, budget):
    for seed in _seeds(budget, _LEAST):
        exploded, problem = _explosion(np.random.default_rng(seed))
        if problem:
            tally.broke(f"{problem}, seed {seed}")
        tally.count("explosions noticed", exploded and not problem)


def _explosion(rng):
    """Train with a rate that is far too large, beside a twin that does not look: whether training was stopped, and what
    went wrong, None if nothing."""
    optimizer = getattr(fastrnn, rng.choice(["SGD", "Adam", "RMSprop", "Adagrad"]))(float(10 ** rng.uniform(8, 38)))
    model = fastrnn.Sequential(fastrnn.RNN(3, 4, nonlinearity="relu", seed=0), fastrnn.Linear(4, 2, seed=1))
    careless = fastrnn.Trainer(copy.deepcopy(model), fastrnn.MSE(), copy.deepcopy(optimizer))
    careful = fastrnn.Trainer(model, fastrnn.MSE(), optimizer, nonfinite="raise")
    x, targets = _normal(rng, 6, 5, 3), _normal(rng, 6, 5, 2)
    for _ in range(30):
        try:
            careful.step(x, targets)
        except fastrnn.NonFiniteError:
            break
        careless.step(x, targets)
    else:
        finite = np.isfinite(careless.model.parameters_to_vector()).all()
        return False, None if finite else "an explosion was not noticed"
    update = careless.updates
    kept, before = careful.model.parameters_to_vector(), careless.model.parameters_to_vector()
    states = [trainer.optimizer.state_dict() for trainer in (careful, careless)]
    if not np.isfinite(kept).all() or careful.updates != update or not np.array_equal(kept, before):
        return True, f"the parameters of update {update} were not kept"
    if not all(np.array_equal(states[0][name], states[1][name]) for name in states[1]):
        return True, f"the optimizer's state of update {update} was not kept"
    value, _ = careless.step(x, targets)
    arrays = [careless.model.parameters_to_vector(), careless.model.gradients_to_vector(), np.asarray(value)]
    arrays += [a for a in careless.optimizer.state_dict().values() if isinstance(a, np.ndarray)]
    if all(np.isfinite(array).all() for array in arrays):
        return True, f"update {update + 1} was refused without a reason"
    return True, None


# sums: float32 over many rows


_MOST_ROWS = 10_000_000
_CHUNK = 100_000  # rows that the same net sums in float64 at once
_SEGMENTS = 512  # of a step, beside a long one


def _sums(tally, rng, rows):
    for kind in (_random_rows, _equal_rows):
        x, dy = kind(rng, rows)
        for sums, most in _SUMS.items():
            count = min(rows, most(rows))
            for what, ours, exact in sums(x[:count], dy[:count]):
                error = float(np.max(np.abs(ours / exact - 1)))
                if not error <= _TOLERANCE:
                    tally.broke(f"{what} of {count:,} {kind.__name__[1:].replace('_', ' ')} is {error:.1e} off")
                tally.count("rows summed", count)
                tally.count(f"sums of {_MOST_ROWS:,} rows", count == _MOST_ROWS)


def _random_rows(rng, rows):
    return rng.random((rows, 1, 1), dtype=np.float32) + 0.5, rng.random((rows, 1, 1), dtype=np.float32) + 0.5


def _equal_rows(rng, rows):
    return (np.full((rows, 1, 1), rng.uniform(0.5, 1.5), np.float32) for _ in range(2))


def _of_rows(x, dy):
    """Name, ours and the float64 value of sums and means over rows x, dy (T,1,1)."""
    rows, total = len(x), float(dy.sum(dtype=np.float64))
    linear = fastrnn.Linear(1, 1, seed=0)
    _both_ways(linear, x, dy)
    gradients = linear.grad_dict()
    yield "a weight's gradient", gradients["weight"], float(np.vdot(x.astype(np.float64), dy))
    yield "a bias's gradient", gradients["bias"], total
    yield "MeanPool", fastrnn.MeanPool()(x)[0], float(x.mean(dtype=np.float64))
    embedding = fastrnn.Embedding(2, 1, seed=0)
    _both_ways(embedding, np.zeros((rows, 1), np.int64), dy)
    yield "an embedding's gradient", embedding.grad_dict()["weight"][0], total
    repeat = fastrnn.Repeat(rows)
    yield "Repeat's gradient", _both_ways(repeat, np.ones((1, 1), np.float32), dy), total
    errors = x.astype(np.float64) - dy
    yield from _of_jordan(x, dy)
    yield from _of_segments(x, dy)
    yield "MSE", fastrnn.MSE()(x, dy)[0], float((errors**2).mean())
    yield "MAE", fastrnn.MAE()(x, dy)[0], float(np.abs(errors).mean())


def _of_jordan(x, dy):
    """The gradients of a Jordan net that feeds nothing back: of both weights and biases, at a hidden unit of 2x + 1."""
    jordan = fastrnn.Jordan(1, 1, 1, nonlinearity="relu", seed=0)
    values = {"weight_ih_l0": 2, "bias_ih_l0": 1, "weight_ho_l0": 1}
    jordan.load_state_dict({name: np.full_like(a, values.get(name, 0)) for name, a in jordan.state_dict().items()})
    _both_ways(jordan, x, dy)
    total, product = float(dy.sum(dtype=np.float64)), float(np.vdot(x.astype(np.float64), dy))
    exact = {"weight_ih_l0": product, "weight_ho_l0": 2 * product + total}
    for name, gradient in jordan.grad_dict().items():
        if name != "weight_hh_l0":
            yield f"Jordan's {name}", gradient, exact.get(name, total)


def _of_peephole(x, dy):
    """The gradients of a cell's vectors, against the same net in float64; it remembers a step back and no more."""
    gradients = []
    for dtype in ("float32", "float64"):
        layer = fastrnn.PeepholeLSTM(1, 1, dtype=dtype, init="ones", forget_bias=-50, seed=0)
        layer.load_state_dict({**layer.state_dict(), "weight_hh_l0": np.zeros((4, 1), dtype)})
        _both_ways(layer, x.astype(dtype), dy.astype(dtype))
        gradients.append(layer.grad_dict()["peephole_l0"][::2])  # that of the forget gate is 0
    yield "a cell's vectors", *gradients


def _of_initial_state(x, dy):
    """The gradient of a learned initial state that all rows, sequences of one step, have in common."""
    layers = [fastrnn.RNN(1, 2, initial_state="learned", dtype=dtype, seed=0) for dtype in ("float32", "float64")]
    layers[1].load_state_dict({name: a.astype(np.float64) for name, a in layers[0].state_dict().items()})
    for layer, chunk in zip(layers, (len(x), _CHUNK), strict=True):
        for first in range(0, len(x), chunk):
            rows = x[np.newaxis, first : first + chunk, 0], dy[np.newaxis, first : first + chunk, 0]
            _both_ways(layer, rows[0].astype(layer.dtype), rows[1].repeat(2, axis=2).astype(layer.dtype))
    yield "a learned initial state's gradient", *(layer.grad_dict()["initial_h"] for layer in layers)


def _of_segments(x, dy):
    """The gradients of a net that remembers nothing, at x + 1, where resets make short segments beside a long one."""
    layer = fastrnn.RNN(1, 1, nonlinearity="relu", seed=0)
    values = {"weight_ih_l0": 1, "bias_ih_l0": 1}
    layer.load_state_dict({name: np.full_like(a, values.get(name, 0)) for name, a in layer.state_dict().items()})
    resets = np.zeros(x.shape[:2], np.bool_)
    resets[1:_SEGMENTS] = True
    _both_ways(layer, x, dy, resets=resets)
    gradients = layer.grad_dict()
    yield "a weight's gradient with resets", gradients["weight_ih_l0"], float(np.vdot(x.astype(np.float64), dy))
    yield "a bias's gradient with resets", gradients["bias_ih_l0"], float(dy.sum(dtype=np.float64))


def _of_parts(x, dy):
    """The gradients of a net that remembers nothing, by rules that go back part by part, against those of float64."""
    for rule in (bptt.Online, lambda: bptt.Randomized(0.9), lambda: bptt.Windowed(2, 1), lambda: bptt.Feedback(0.9),
                 lambda: bptt.Checkpointed(len(x))):  # fmt: skip
        gradients = []
        for dtype in ("float32", "float64"):
            layer = fastrnn.RNN(1, 1, nonlinearity="relu", dtype=dtype)
            layer.load_state_dict({n: np.full_like(a, n == "weight_ih_l0") for n, a in layer.state_dict().items()})
            layer.zero_grad()
            targets = x.astype(dtype) - dy  # half the gradient of the squared error
            rule().gradients(layer, fastrnn.MSE(reduction="sum"), x.astype(dtype), targets)
            gradients.append(layer.gradients_to_vector())
        yield f"the gradient by {rule()!r}", *gradients


# by the rows that each is given at most, of so many
_SUMS = {
    _of_rows: lambda rows: rows,
    _of_peephole: lambda rows: 2_000_000,  # a cell's numbers take 5 kB a row
    _of_initial_state: lambda rows: 2_000_000,  # which take 3 GB
    _of_parts: lambda rows: 5_000 if rows < _MOST_ROWS else 20_000,  # a part takes 0.1 ms
}


def _both_ways(layer, x, dy, **options):
    workspace = layer.workspace(max(len(x), len(dy)), x.shape[1])
    layer(x, workspace=workspace, **options)
    return layer.backward(dy, workspace=workspace)[0]


# sizes: memory is bounded

_CHILD = """
import resource, tracemalloc, numpy as np, fastrnn
from fastrnn import bptt
hidden, rule = {hidden}, {rule}

def bound_of_a_pass(model, steps):
    x = np.ones((steps, 1, 4), np.float32)
    if rule is None:
        y, _ = model(x)
        return x.nbytes + y.nbytes + model._inference_bytes(steps, 1)
    targets = np.zeros((steps, 1, hidden), np.float32)
    fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.SGD(1e-3), bptt=rule).step(x, targets)
    workspace = model._workspace_bytes({at_once} or steps, 1)
    # the targets, the loss's gradient, and the weights in packed form for each way
    return workspace + x.nbytes + 2 * targets.nbytes + 8 * steps + 3 * model.parameters.values.nbytes

# what is imported or compiled for it stays out of the count
bound_of_a_pass(fastrnn.GRU(4, hidden, seed=0), max(1, {steps} // 10))
model = fastrnn.GRU(4, hidden, seed=0)
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
tracemalloc.start()
bound = bound_of_a_pass(model, {steps})
print(tracemalloc.get_traced_memory()[1], peak() - before, bound)
"""


def size_problem(steps, hidden, rule, at_once):
    """What is wrong with the memory of a GRU's pass over so many steps in a child, None for nothing.

    rule: of the update, as Python has it; "None" for inference. at_once: the most steps of a workspace, 0 for all.
    """
    code = _CHILD.format(steps=steps, hidden=hidden, rule=rule, at_once=at_once)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    what = f"T={steps:,}, H={hidden:,}, {rule}"
    if run.returncode:
        return f"{what} ended with status {run.returncode}: {run.stderr[-500:].strip()}"
    traced, taken, bound = map(int, run.stdout.split())
    if traced > bound + _SLACK:
        return f"{what} took {traced:,} bytes, more than {bound:,}"
    if taken > bound + _ROOM:
        return f"{what} made the process grow by {taken:,} bytes, more than {bound:,}"
    return None


def _sizes(tally, budget):
    whole = budget.left() > _WHOLE
    long, wide = (1_000_000, 4096) if whole else (50_000, 512)
    cases = [(long, 16, "None", 0), (long, 16, "bptt.Truncated(1000)", 1000), (8, wide, "bptt.Full()", 0)]
    if whole:
        cases += [(long, 16, "bptt.Full()", 0), (long, 16, "bptt.Checkpointed()", 3000)]
    for steps, hidden, rule, at_once in cases:
        if problem := size_problem(steps, hidden, rule, at_once):
            tally.broke(problem)
            continue
        tally.count("peaks of memory measured")
        tally.count("runs of a million steps", steps == 1_000_000)
        tally.count("runs with 4,096 units", hidden == 4096)


def _run(tally, budget):
    rows = [100_000] + [_MOST_ROWS] * (budget.left() > _WHOLE)
    _sizes(tally, budget)
    for number in rows:
        _sums(tally, budget.rng, number)
    for part, share in ((_patterns, 1 / 4), (_extremes, 1 / 3), (_places, 1 / 2), (_explosions, 1)):
        part(tally, budget.part(share))


SECTION = Section(
    promise="NaN and infinity are passed on or named where they begin, and large sums and sizes hold",
    run=_run,
    share=1.0,
    targets={
        "non-finite values placed": 2_000,
        "patterns compared with PyTorch": 2_000,
        "first places named right": 2_000,
        "explosions noticed": 500,
        "rows summed": 100_000_000,
        f"sums of {_MOST_ROWS:,} rows": 20,
        **{f"extreme numbers in {subject}": 200 for subject in extremes.SUBJECTS},
        "runs of a million steps": 4,
        "runs with 4,096 units": 1,
    },
    whole_only={
        f"sums of {_MOST_ROWS:,} rows": "take minutes, and gigabytes",
        "runs of a million steps": "takes half a minute",
        "runs with 4,096 units": "takes half a minute",
    },
)
