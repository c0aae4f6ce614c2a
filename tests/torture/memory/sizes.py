"""Awkward sizes: one, odd, and around the widths of vectors, tiles and panels."""

import numpy as np

from fastrnn.kernels.simd import panel_width
from fastrnn.kernels.sums import BLOCKS_PER_SUM, ROWS_PER_BLOCK

DTYPES = "float32", "float64"
_BATCHES = 1, 2, 3, 4, 5, 7, 8, 9, 13, 17
_STEPS = 1, 2, 3, 5, 15, 16, 17, 33  # input is multiplied in stretches of 16


def features(rng, dtype):
    """A number of inputs, units or outputs."""
    panel = panel_width(np.dtype(dtype))
    quarter = panel // 4
    near = [n + d for n in (4, 8, quarter, panel // 2, panel, 2 * panel) for d in (-1, 0, 1)]
    return int(rng.choice([1, 2, 3, 5, *(n for n in near if n > 0), 3 * quarter + 2, panel + quarter]))


def batch(rng):
    """Steps and sequences."""
    return int(rng.choice(_STEPS)), int(rng.choice(_BATCHES))


def any_batch(rng):
    """Steps and sequences, with lengths of these or without."""
    steps, sequences = batch(rng)
    return steps, sequences, maybe(rng, lambda: lengths(rng, steps, sequences))


def few(rng):
    """A number of inputs, units or outputs for a crowd."""
    return int(rng.integers(1, 6))


def crowd(rng, long):
    """Steps, sequences and lengths: more rows in a step than are summed together, or `long`, with more such sums than
    go into one, whatever resets and dilation make of the rows. Other sequences are short, so that few rows come to it.
    """
    if long:
        steps, whole, others = BLOCKS_PER_SUM + 1, ROWS_PER_BLOCK + 1, int(rng.integers(1, 9))
    else:
        steps, whole, others = int(rng.integers(1, 4)), 3, int(rng.integers(2 * ROWS_PER_BLOCK, 4 * ROWS_PER_BLOCK))
    chosen = rng.integers(1, min(steps, 3) + 1, whole + others)
    chosen[rng.permutation(chosen.size)[:whole]] = steps
    return steps, chosen.size, chosen


def maybe(rng, make, probability=0.5):
    """`make()`, or None."""
    return make() if rng.random() < probability else None


def lengths(rng, steps, sequences):
    """Lengths of ragged sequences."""
    return rng.integers(1, steps + 1, sequences)


def resets(rng, shape):
    """Where other sequences begin."""
    return rng.random(shape) < rng.choice([0.1, 0.9])
