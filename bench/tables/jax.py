"""LSTM and GRU training against the better of JAX and PyTorch."""

from .. import child
from ..problem import SHAPES
from ..report import busy_note, comparison, judge_ratios
from . import THREADS

TITLE = "LSTM and GRU training against the better of JAX and PyTorch"
_CELLS = ("LSTM", "GRU")
_NAMES = ("fastrnn", "torch", "jax")


def measure(shapes, rounds):
    from ..contest import compare_all

    return compare_all(_NAMES, _CELLS, shapes, ("train",), threads=THREADS, rounds=rounds)


def run(options):
    return child.run(measure, THREADS, shapes=options.choose(SHAPES), rounds=options.rounds)


def render(data):
    lines = [
        f"float32, {THREADS} threads. JAX: `jit` of `lax.scan`, the input's product before the loop, and the better of",
        "`unroll` 1 and 4; ratios are of the better of the two to ours.",
        "",
    ]
    for cell in _CELLS:
        rows = [row for row in data if row["cell"] == cell]
        lines += [f"### {cell}", "", *comparison(rows, _NAMES)]
    return lines + busy_note(data)


def verdicts(data):
    for cell in _CELLS:
        rows = [row for row in data if row["cell"] == cell]
        yield judge_ratios(f"{cell} train, against the better of JAX and PyTorch", rows, 1.05, 1.8, peers=_NAMES[1:])
