"""What rules of backpropagation through time cost: `Windowed` by passes, `Checkpointed` by time and memory."""

import gc
import tracemalloc

import numpy as np

from .. import child
from ..problem import Shape
from ..report import judge_limit, ratio, significant, table
from ..timing import alternate, progress, ratios_to
from . import THREADS

TITLE = "Rules of backpropagation through time"
_WINDOWED = Shape(200, 32, 128, 128)
_HORIZONS = (1, 5, 20, 50)
_JUDGED = 20
_CHECKPOINTED = Shape(10_000, 4, 64, 64)
_CLASSES = 64
_DRAWS = 20_000
_MOST_TIME, _MOST_MEMORY = 1.5, 0.1  # of Full()'s


def _batch(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.steps, shape.batch, shape.inputs), dtype=np.float32)
    return x, rng.standard_normal((shape.steps, shape.batch, shape.hidden), dtype=np.float32)


def measure_windowed(shape, horizons, rounds):
    """ms of a forward pass, of a training step and of `Windowed` by horizon; the latter over 1 forward, k backward."""
    import fastrnn

    shape = Shape(*shape)
    layer, loss = fastrnn.LSTM(shape.inputs, shape.hidden, seed=0), fastrnn.MSE()
    x, targets = _batch(shape)
    workspace = layer.workspace(shape.steps, shape.batch)
    rules = {"train": fastrnn.bptt.Full()} | {str(k): fastrnn.bptt.Windowed(k) for k in horizons}
    calls = {name: lambda rule=rule: rule.gradients(layer, loss, x, targets) for name, rule in rules.items()}
    calls["forward"] = lambda: layer.forward(x, workspace=workspace)
    timings = alternate(calls, rounds)
    relative = ratios_to(timings, "train")
    forward = relative["forward"]
    return {
        "ms": {name: timing.seconds * 1e3 for name, timing in timings.items()},
        "passes": {str(k): relative[str(k)] / (forward + k * (1 - forward)) for k in horizons},
    }


def _model(shape):
    import fastrnn

    model = fastrnn.Sequential(
        fastrnn.LSTM(shape.inputs, shape.hidden, seed=0), fastrnn.Linear(shape.hidden, _CLASSES, seed=0)
    )
    targets = np.random.default_rng(1).integers(0, _CLASSES, (shape.steps, shape.batch))
    return model, fastrnn.CrossEntropy(), _batch(shape)[0], targets


def measure_checkpointed(shape, rounds):
    """ms by rule, their ratio, and the largest difference of the gradients."""
    from fastrnn import bptt

    arguments = _model(Shape(*shape))
    model, gradients = arguments[0], []
    rules = {"Full": bptt.Full(), "Checkpointed": bptt.Checkpointed()}
    for rule in rules.values():
        model.zero_grad()
        rule.gradients(*arguments)
        gradients.append(model.gradients_to_vector())
    timings = alternate({n: lambda rule=rule: rule.gradients(*arguments) for n, rule in rules.items()}, rounds)
    return {
        "ms": {name: timing.seconds * 1e3 for name, timing in timings.items()},
        "ratio": ratios_to(timings, "Full")["Checkpointed"],
        "difference": float(np.max(np.abs(gradients[1] - gradients[0])) / np.max(np.abs(gradients[0]))),
    }


def measure_memory(shape):
    """Peak bytes of the first call by rule, beyond x and targets, everything compiled."""
    from fastrnn import bptt

    model, loss, x, targets = _model(Shape(*shape))
    peaks = {}
    for rule in (bptt.Full(), bptt.Checkpointed()):
        type(rule)().gradients(model, loss, x[:2], targets[:2])
        gc.collect()
        tracemalloc.start()
        rule.gradients(model, loss, x, targets)
        peaks[type(rule).__name__] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del rule
    return peaks


def measure_randomized(draws):
    """z-scores of the mean of `Randomized`'s gradients over many draws, against the full gradient: RMS, largest."""
    import fastrnn

    options = {"dtype": "float64", "seed": 0}
    model = fastrnn.Sequential(fastrnn.LSTM(3, 4, **options), fastrnn.Linear(4, 3, **options))
    rng = np.random.default_rng(0)
    arguments = model, fastrnn.CrossEntropy(), rng.standard_normal((12, 1, 3)), rng.integers(0, 3, (12, 1))

    def gradient(rule):
        model.zero_grad()
        rule.gradients(*arguments)
        return model.gradients_to_vector()

    full, rule = gradient(fastrnn.bptt.Full()), fastrnn.bptt.Randomized(0.2, seed=0)
    total, squares = np.zeros_like(full), np.zeros_like(full)
    for _ in range(draws):
        difference = gradient(rule) - full
        total += difference
        squares += difference**2
    error = np.sqrt((squares - total**2 / draws) / (draws - 1) / draws)
    moved = error > 1e-12 * np.abs(full).max()  # the head's gradient has no lag, and is right in every draw
    z = (total / draws)[moved] / error[moved]
    return {"draws": draws, "rms": float(np.sqrt(np.mean(z**2))), "largest": float(np.abs(z).max())}


def run(options):
    data = {
        "randomized": child.run(measure_randomized, THREADS, draws=2000 if options.quick else _DRAWS),
        "windowed": child.run(
            measure_windowed, THREADS, shape=_WINDOWED, horizons=_HORIZONS, rounds=options.rounds
        ),
        "checkpointed": child.run(measure_checkpointed, THREADS, shape=_CHECKPOINTED, rounds=options.rounds),
        "bytes": child.run(measure_memory, THREADS, shape=_CHECKPOINTED),
    }
    progress(f"  Windowed({_JUDGED}): {data['windowed']['passes'][str(_JUDGED)]:.2f} of its passes")
    progress(f"  Randomized: z-scores of RMS {data['randomized']['rms']:.2f}")
    progress(f"  Checkpointed: {data['checkpointed']['ratio']:.2f} of the time, {_memory(data):.3f} of the memory")
    return data


def _memory(data):
    return data["bytes"]["Checkpointed"] / data["bytes"]["Full"]


def render(data):
    windowed, checkpointed = data["windowed"], data["checkpointed"]
    rows = [[f"Windowed({k})", windowed["ms"][k], ratio(share)] for k, share in windowed["passes"].items()]
    memory = [[name, checkpointed["ms"][name], size / 2**20] for name, size in data["bytes"].items()]
    return [
        f"LSTM alone, T, B, I, H = {_WINDOWED}, float32, {THREADS} threads. A forward pass takes",
        f"{significant(windowed['ms']['forward'])} ms, a training step {significant(windowed['ms']['train'])} ms.",
        "",
        *table(("rule", "ms", "time / one forward and k backward passes"), rows),
        f"LSTM and linear layer of {_CLASSES} classes, T, B, I, H = {_CHECKPOINTED}. Memory is the peak of all",
        "allocations in a first call, beyond x and targets.",
        "",
        *table(("rule", "ms", "MiB"), memory),
        f"The gradients differ by {checkpointed['difference']:.0e}; the time's ratio is {checkpointed['ratio']:.2f}.",
        "",
        f"Randomized(0.2), LSTM of 4 units, T=12, float64: the mean gradient of {data['randomized']['draws']:,} draws",
        f"has z-scores against the full one of root mean square {data['randomized']['rms']:.2f}, the largest "
        f"{data['randomized']['largest']:.1f}.",
        "",
    ]


def verdicts(data):
    yield judge_limit(
        f"Windowed({_JUDGED}) at T={_WINDOWED.steps}, time / one forward and {_JUDGED} backward passes",
        1,
        data["windowed"]["passes"][str(_JUDGED)],
    )
    yield judge_limit("Randomized, largest z-score", 5, data["randomized"]["largest"])
    yield judge_limit("Checkpointed, time / Full's", _MOST_TIME, data["checkpointed"]["ratio"])
    yield judge_limit(
        f"Checkpointed, memory / Full's at T={_CHECKPOINTED.steps}", _MOST_MEMORY, _memory(data)
    )
