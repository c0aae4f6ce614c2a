"""Training on a ragged batch against PyTorch's packed sequences."""

import numpy as np

from .. import child
from ..problem import GATES, Shape
from ..report import busy_note, gain, gflops, judge_ratios, ratio, significant, table
from . import THREADS

TITLE = "Ragged batches against packed sequences"
SHAPE = Shape(200, 64, 128, 128)


def uniform_lengths(shape):
    """(B,) lengths, uniform in 1 … T."""
    return np.random.default_rng(0).integers(1, shape[0] + 1, shape[1]).tolist()


def measure(shape, rounds):
    from ..contest import compare_all

    names = ("fastrnn", "torch")
    lengths = uniform_lengths(shape)
    return compare_all(names, GATES, [shape], ("train",), threads=THREADS, rounds=rounds, lengths=lengths)


def run(options):
    return child.run(measure, THREADS, shape=SHAPE, rounds=options.rounds)


def render(data):
    body = [
        [r["cell"], r["ms"]["fastrnn"], r["ms"]["torch"], ratio(gain(r)), significant(gflops(r)), f"{r['error']:.0e}"]
        for r in data
    ]
    header = ("cell", "fastrnn ms", "PyTorch ms", "ratio", "GFLOP/s", "difference")
    intro = f"Training, T, B, I, H = {SHAPE}, lengths uniform in 1 … T, float32, {THREADS} threads; packing included."
    return [intro, "", *table(header, body), *busy_note(data)]


def verdicts(data):
    yield judge_ratios("ragged batch, train, against packed sequences", data, 5)
