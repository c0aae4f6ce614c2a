"""Awkward sizes: one, odd, and around the widths of vectors, tiles and panels."""

import numpy as np

from fastrnn.kernels.simd import panel_width

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
    go into one. Most sequences are short: so few rows come to that.
    """
    steps, batch = (140, 257) if long else (int(rng.integers(1, 4)), int(rng.integers(513, 1100)))
    chosen = rng.integers(1, min(steps, 3) + 1, batch)
    chosen[rng.integers(0, batch, 3)] = steps
    return steps, batch, chosen


def maybe(rng, make, probability=0.5):
    """`make()`, or None."""
    return make() if rng.random() < probability else None


def lengths(rng, steps, sequences):
    """Lengths of ragged sequences."""
    return rng.integers(1, steps + 1, sequences)


def resets(rng, shape):
    """Where other sequences begin."""
    return rng.random(shape) < rng.choice([0.1, 0.9])
