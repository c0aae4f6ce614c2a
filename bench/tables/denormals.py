"""Training on numbers so small that states and gradients are denormal, against ordinary ones."""

import numpy as np

from .. import child, peers
from ..checks import Void, check_agreement
from ..peers import numpy_loop
from ..problem import GATES, Problem, Shape
from ..report import Verdict, table
from ..timing import alternate, progress, ratios_to
from . import THREADS

TITLE = "Denormal numbers"
_SHAPE = Shape(100, 32, 64, 64)
_SCALE = 1e-38  # of x and dy: states and gradients are then near 1e-39
_MOST = 1.1
_MORE = 3  # times the rounds: the limit is near 1


def _tiny(cell):
    """Inputs, gradients and biases so small that every state is denormal, with ordinary weights."""
    problem = Problem(cell, _SHAPE)
    problem.x *= np.float32(_SCALE)
    problem.dy *= np.float32(_SCALE)
    for name, weight in problem.weights.items():
        if name.startswith("bias"):
            weight.fill(0)
    return problem


def denormals_survive():
    """Whether the calling thread's floating-point unit makes and reads denormal numbers, as it does by default."""
    tiny = np.array([1e-30], np.float32) * np.array([1e-10], np.float32)
    return bool(tiny[0] != 0 and tiny[0] * np.float32(1e10) != 0)


def _check_states(cell, problem):
    """`Void` unless the states are denormal in float32, by a plain loop in float64."""
    weights = tuple(w.astype(np.float64) for w in problem.weights.values())
    y = numpy_loop.FORWARD[cell](weights, problem.x.astype(np.float64))[0]
    size = np.median(np.abs(y))
    if not 1e-41 < size < np.finfo(np.float32).tiny:
        raise Void(f"{cell}: states are near {size:.0e}, not denormal")


def measure(rounds):
    """Rows of ms by library, ordinary and tiny; and whether the caller's flags are as before after every call."""
    names = ("fastrnn", "torch")
    rows, flags = [], denormals_survive()
    for cell in GATES:
        cases = {"ordinary": Problem(cell, _SHAPE), "tiny": _tiny(cell)}
        _check_states(cell, cases["tiny"])
        made = {case: peers.make_all(names, problem, THREADS) for case, problem in cases.items()}
        ours = made["tiny"]["fastrnn"]
        for call in (ours.train, ours.infer, lambda ours=ours: ours.layer.step(ours.problem.x[0])):
            call()
            flags = flags and denormals_survive()
        results = {name: peer.results("train") for name, peer in made["ordinary"].items()}
        check_agreement(results, "float32", f"{cell} train")
        calls = {(name, case): peer.train for case, those in made.items() for name, peer in those.items()}
        timings = alternate(calls, rounds)
        row = {"cell": cell, "ms": {n: {c: timings[n, c].seconds * 1e3 for c in cases} for n in made["tiny"]}}
        row["slowdown"] = {n: ratios_to(timings, (n, "ordinary"))[n, "tiny"] for n in row["ms"]}
        progress(f"  {cell}: " + ", ".join(f"{n} {ratio:.2f}" for n, ratio in row["slowdown"].items()))
        rows.append(row)
    return {"rows": rows, "flags": flags and denormals_survive()}


def run(options):
    return child.run(measure, THREADS, rounds=_MORE * options.rounds)


def _slowdown(row, name):
    return row["slowdown"][name]


def render(data):
    body = []
    for row in data["rows"]:
        figures = [(*ms.values(), f"{_slowdown(row, name):.2f}") for name, ms in row["ms"].items()]
        body.append([row["cell"], *(cell for group in figures for cell in group)])
    header = ["cell"]
    for name in data["rows"][0]["ms"]:
        header += [f"{peers.TITLES[name]}, ordinary, ms", "tiny, ms", "ratio"]
    return [
        f"Training, T, B, I, H = {_SHAPE}, float32, {THREADS} threads, on ordinary inputs and gradients",
        f"and on such of {_SCALE:g}, with biases of zero: all states and gradients are denormal, near 1e-39.",
        "",
        *table(header, body),
    ]


def verdicts(data):
    worst, cell = max((_slowdown(row, "fastrnn"), row["cell"]) for row in data["rows"])
    question = "denormals, training, time of tiny / ordinary numbers"
    yield Verdict(question, f"at most {_MOST:g}", f"{worst:.2f} ({cell})", worst <= _MOST)
    question = "floating-point flags of the caller after every call"
    yield Verdict(question, "as before", "as before" if data["flags"] else "changed", data["flags"])
