"""Cost grows as the work: time a step by the number of steps, and memory by resident size."""

import contextlib
import pathlib

from .. import child, peers
from ..problem import Problem, Shape
from ..report import TITLES, Verdict, judge_limit, significant, table
from ..timing import alternate, progress, ratios_to
from . import THREADS

TITLE = "Growth of time and memory with the number of steps"
_BATCH, _HIDDEN = 16, 256
_STEPS = (100, 1000, 10_000)
_MEMORY_STEPS = (500, 2000)  # of training
_INFERENCE_STEPS = (1000, 10_000)
_SLACK = 2**20  # bytes: page tables, the allocator's own
_MOST_GROWTH = 1.25


def _shape(steps):
    return Shape(steps, _BATCH, _HIDDEN, _HIDDEN)


def measure_time(steps, work, rounds):
    """µs a step for each of `steps`, taken in turn, and the ratio of the last to the first."""
    peers.load(("fastrnn",))
    calls = {n: getattr(peers.make("fastrnn", Problem("LSTM", _shape(n)), THREADS), work) for n in steps}
    timings = alternate(calls, rounds)
    last = ratios_to(timings, steps[0])[steps[-1]] * steps[0] / steps[-1]
    return {"us": [timing.seconds * 1e6 / n for n, timing in timings.items()], "last": last}


def _resident(peak=False):
    """Bytes in memory now, or the most since the peak was reset."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def _peak_of(call):
    """Bytes by which the resident size grows at most during a call."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident()
    kept = call()
    del kept
    return _resident(peak=True) - before


def measure_training_memory(name, steps):
    """Peak bytes of one training step beyond x and dy, everything warm from a tiny one."""
    peers.load((name,))
    peers.make(name, Problem("LSTM", _shape(2)), THREADS).train()
    peer = peers.make(name, Problem("LSTM", _shape(steps)), THREADS)
    return _peak_of(peer.train)


def measure_inference_memory(layers, steps):
    """Peak bytes of inference beyond x and y."""
    import numpy as np

    import fastrnn

    layer = fastrnn.LSTM(_HIDDEN, _HIDDEN, layers, seed=0)
    x = np.random.default_rng(0).standard_normal((steps, _BATCH, _HIDDEN), dtype=np.float32)
    layer.forward(x[:20])
    return _peak_of(lambda: layer.forward(x)) - x.nbytes  # y has x's size


def run(options):
    steps = _STEPS[:-1] if options.quick else _STEPS
    data = {"steps": steps, "us": {}, "training": {}, "inference": {}}
    for work in ("train", "infer"):
        data["us"][work] = child.run(measure_time, THREADS, steps=steps, work=work, rounds=options.rounds)
        progress(f"  {work}: {', '.join(f'{us:.3g} µs' for us in data['us'][work]['us'])} a step")
    for name in ("fastrnn", "torch"):
        data["training"][name] = [
            child.run(measure_training_memory, THREADS, name=name, steps=steps) for steps in _MEMORY_STEPS
        ]
        progress(f"  {name}: training, {_slope(data, name):.3g} bytes for each T·B·H")
    for layers in (1, 2):
        data["inference"][str(layers)] = [
            child.run(measure_inference_memory, THREADS, layers=layers, steps=steps) for steps in _INFERENCE_STEPS
        ]
    return data


def _slope(data, name):
    """Bytes for each T·B·H."""
    few, many = data["training"][name]
    return (many - few) / ((_MEMORY_STEPS[1] - _MEMORY_STEPS[0]) * _BATCH * _HIDDEN)


def render(data):
    times = [
        [work, *data["us"][key]["us"], f"{data['us'][key]['last']:.2f}"]
        for work, key in (("training", "train"), ("inference", "infer"))
    ]
    header = ("", *(f"T = {n}, µs a step" for n in data["steps"]), "last / first")
    memory = [[TITLES[n], *(size / 2**20 for size in sizes), _slope(data, n)] for n, sizes in data["training"].items()]
    inference = [[layers, *(size / 2**20 for size in sizes)] for layers, sizes in data["inference"].items()]
    return [
        f"LSTM, B = {_BATCH}, I = H = {_HIDDEN}, float32, {THREADS} threads. Memory is peak resident",
        "size, each figure from a process of its own.",
        "",
        *table(header, times),
        "Training, forward and backward, beyond x and dy:",
        "",
        *table(("", *(f"T = {n}, MiB" for n in _MEMORY_STEPS), "bytes for each T·B·H"), memory),
        "Inference without a workspace, beyond x and y:",
        "",
        *table(("layers", *(f"T = {n}, MiB" for n in _INFERENCE_STEPS)), inference),
    ]


def verdicts(data):
    for work, key in (("training", "train"), ("inference", "infer")):
        question = f"time a step at T={data['steps'][-1]} / at T={data['steps'][0]}, {work}"
        yield judge_limit(question, _MOST_GROWTH, data["us"][key]["last"])
    ours, theirs = _slope(data, "fastrnn"), _slope(data, "torch")
    yield Verdict(
        "training memory for each T·B·H, against PyTorch",
        "at most PyTorch's",
        f"{significant(ours)} bytes, PyTorch {significant(theirs)}",
        ours <= theirs,
    )
    y_growth = (_INFERENCE_STEPS[1] - _INFERENCE_STEPS[0]) * _BATCH * _HIDDEN * 4
    for layers, (few, many) in data["inference"].items():
        allowed = 0 if layers == "1" else 2 * y_growth
        yield Verdict(
            f"growth of inference memory beyond x and y from T={_INFERENCE_STEPS[0]} to {_INFERENCE_STEPS[1]}, "
            f"{layers} layer{'' if layers == '1' else 's'}",
            "none" if allowed == 0 else f"two buffers of y's size, {significant(allowed / 2**20)} MiB",
            f"{significant((many - few) / 2**20)} MiB",
            many - few <= allowed + _SLACK,
        )
