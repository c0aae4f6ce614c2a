"""LSTM training against plain loops."""

from .. import child
from ..problem import FEW_SHAPES
from ..report import busy_note, comparison
from . import THREADS

TITLE = "LSTM training against plain loops"
NAMES = ("fastrnn", "numpy", "njit")


def measure(shapes, rounds):
    from ..contest import compare_all

    return compare_all(NAMES, ("LSTM",), shapes, ("train",), threads=THREADS, rounds=rounds)


def run(options):
    return child.run(measure, THREADS, shapes=options.choose(FEW_SHAPES), rounds=options.rounds)


def render(data):
    intro = f"float32, {THREADS} threads; forward and backward written out in NumPy, and as `@njit` loops."
    return [intro, "", *comparison(data, NAMES), *busy_note(data)]


def verdicts(data):
    return ()
