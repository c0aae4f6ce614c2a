"""One LSTM step at a time, a single stream of one feature."""

import numpy as np

from .. import child, peers
from ..problem import Problem, Shape
from ..report import busy_note, judge_limit, ratio, significant, table
from ..timing import alternate, cpus_used, progress, ratios_to
from . import THREADS

TITLE = "Streaming: one LSTM step, I = 1, B = 1"
_HIDDEN = (64, 16)
_KERNEL_LIMITS = {64: 1.5, 16: 0.4}  # µs
_STEPS = 1000  # in one call of the compiled loop
LOOP = 100  # steps of a call from Python, state handed on


def contestants(hidden, threads):
    """Calls by name, each `LOOP` steps from Python (the compiled loop: `_STEPS`), and their y's after the first steps.

    Both dicts; a library that is missing is left out.
    """
    import numba

    from fastrnn import kernels

    peers.load(("torch", "onnxruntime"))
    problem = Problem("LSTM", Shape(1, 1, 1, hidden))
    x = problem.x[0]
    layer = peers.make("fastrnn", problem, threads).layer
    weights, h, c = layer.kernel_weights(), np.zeros((1, hidden), np.float32), np.zeros((1, hidden), np.float32)

    @numba.njit
    def compiled(weights, x, h, c, steps):
        for _ in range(steps):
            kernels.lstm_step(weights, x, h, c)

    def kernel(steps=_STEPS):
        compiled(weights, x, h, c, steps)

    def step():
        state = None
        for _ in range(LOOP):
            y, state = layer.step(x, state)
        return y

    kernel(LOOP)
    calls, outputs = {"kernel": kernel, "fastrnn": step}, {"kernel": h.copy(), "fastrnn": step()}
    for name, make in (("torch", _torch_calls), ("onnxruntime", _onnx_calls)):
        try:
            peers.module(name)
        except peers.Unavailable:
            continue
        for label, call in make(problem, threads).items():
            calls[label], outputs[label] = call, np.asarray(call()).reshape(1, hidden)
    return calls, outputs


def _torch_calls(problem, threads):
    import torch

    frozen = peers.make("torch", problem, threads).frozen
    cell = torch.nn.LSTMCell(1, problem.shape.hidden)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in frozen.state_dict().items()})
    x = torch.from_numpy(problem.x)

    def layer_steps():
        with torch.inference_mode():
            state = None
            for _ in range(LOOP):
                y, state = frozen(x, state)
        return y

    def cell_steps():
        with torch.inference_mode():
            state = None
            for _ in range(LOOP):
                state = cell(x[0], state)
        return state[0]

    return {"torch nn.LSTM": layer_steps, "torch nn.LSTMCell": cell_steps}


def _onnx_calls(problem, threads):
    from ..peers.onnx_graph import session

    run = session(problem, threads, states=True).run
    zeros = np.zeros((1, 1, problem.shape.hidden), np.float32)

    def steps():
        h = c = zeros
        for _ in range(LOOP):
            h, c = run(None, {"x": problem.x, "h": h, "c": c})
        return h

    return {"onnxruntime": steps}


def measure(hidden, threads, rounds):
    """µs a step by name."""
    from ..checks import check_agreement

    calls, outputs = contestants(hidden, threads)
    error = check_agreement({name: {"y": y} for name, y in outputs.items()}, "float32", f"streaming, H={hidden}")
    timings = alternate(calls, rounds)
    us = {n: timing.seconds * 1e6 / (_STEPS if n == "kernel" else LOOP) for n, timing in timings.items()}
    progress(f"  H={hidden}: " + ", ".join(f"{name} {time:.3g} µs" for name, time in us.items()))
    return {
        "hidden": hidden,
        "threads": threads,
        "us": us,
        "ratios": ratios_to(timings, "fastrnn"),
        "error": error,
        "cpus": cpus_used(timings, threads),
    }


def run(options):
    return [
        child.run(measure, threads, hidden=hidden, threads=threads, rounds=options.rounds)
        for hidden in _HIDDEN
        for threads in (THREADS, 1)
    ]


def _gains(row):
    """Ratios of PyTorch's better call and ONNX Runtime's to `layer.step`, None where missing."""
    torch = [ratio for name, ratio in row["ratios"].items() if name.startswith("torch")]
    return min(torch, default=None), row["ratios"].get("onnxruntime")


def render(data):
    names = list(dict.fromkeys(name for row in data for name in row["us"]))
    titles = {"kernel": "`kernels.lstm_step`", "fastrnn": "`layer.step`"} | peers.TITLES
    titles["fastrnn"] = "`layer.step`"
    body = []
    for row in data:
        gains = [significant(g) if g is None else ratio(g) for g in _gains(row)]
        body.append([str(row["hidden"]), str(row["threads"]), *(row["us"].get(n) for n in names), *gains])
    header = ["H", "threads", *(f"{titles.get(n, n)} µs" for n in names), "PyTorch / step", "ONNX Runtime / step"]
    intro = "`kernels.lstm_step` in an `@njit` loop; the others called from Python, the state handed on."
    return [intro, "", *table(header, body), *busy_note(data)]


def verdicts(data):
    for row in data:
        if row["threads"] == 1:
            continue
        limit = _KERNEL_LIMITS[row["hidden"]]
        yield judge_limit(f"streaming, H={row['hidden']}: `kernels.lstm_step`", limit, row["us"]["kernel"], " µs")
        question = f"streaming, H={row['hidden']}: {{}} / `layer.step`"
        for name in ("torch nn.LSTM", "torch nn.LSTMCell"):
            if name in row["ratios"]:
                title = name.replace("torch", "PyTorch's")
                yield judge_limit(question.format(title), 10, row["ratios"][name], at_least=True)
        runtime = _gains(row)[1]
        if runtime is not None:
            yield judge_limit(question.format("ONNX Runtime's call"), 2, runtime, at_least=True)
