"""LSTM inference against ONNX Runtime and plain loops."""

from .. import child
from ..problem import SHAPES
from ..report import busy_note, comparison
from . import THREADS

TITLE = "LSTM inference against ONNX Runtime and plain loops"
NAMES = ("fastrnn", "onnxruntime", "numpy", "njit")


def measure(shapes, rounds):
    from ..contest import compare_all

    return compare_all(NAMES, ("LSTM",), shapes, ("infer",), threads=THREADS, rounds=rounds)


def run(options):
    return child.run(measure, THREADS, shapes=options.choose(SHAPES), rounds=options.rounds)


def render(data):
    intro = f"float32, {THREADS} threads; the loops as most people would write them; ratios are of the best to ours."
    return [intro, "", *comparison(data, NAMES), *busy_note(data)]


def verdicts(data):
    return ()
