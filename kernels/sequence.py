"""What repeats a vector over time, and what a sequence's own size and speed add to a loss.

Element (t, b, j) of F features stands at (t·time + b·batch)·F + j of a flat sequence. Sums go in the order b, t, j.
"""

import math

from numba import types

from .jit import kernel, subroutine
from .sums import sum_rows


@kernel
def sum_over_steps(dy, time, batch, features, steps, dx):
    """dx (B·F) = Σ_t dy, the steps in their order."""
    for b in range(dx.size // features):
        sum_rows(dy, b * batch * features, 0, 0, steps, time * features, features, 1.0, dx, b * features, False)


@subroutine(returns=types.boolean)
def _goes_on(resets, t, length, row, time):
    """Whether step t of the sequence that begins at row `row` of `resets` is there and follows on step t − 1."""
    return 0 < t < length and not (resets.size > 0 and resets[row + t * time])


@kernel
def activity_penalty(x, time, batch, features, lengths, resets, l2, l1, slowness):
    """Σ l2·x² + l1·|x| + slowness·(x_t − x_{t−1})² over all steps of all sequences, in float64.

    resets: booleans (T·B), laid out as the steps of x, where another sequence begins; empty for none.
    """
    squares = magnitudes = changes = 0.0
    before = time * features
    for b in range(lengths.size):
        for t in range(lengths[b]):
            goes_on = _goes_on(resets, t, lengths[b], b * batch, time)
            for j in range(features):
                at = (t * time + b * batch) * features + j
                value = float(x[at])
                squares += value * value
                magnitudes += math.fabs(value)
                if goes_on:
                    change = value - float(x[at - before])
                    changes += change * change
    return l2 * squares + l1 * magnitudes + slowness * changes


@kernel
def activity_gradient(x, dy, time, batch, features, steps, lengths, resets, l2, l1, slowness, dx):
    """dx = dy + the gradient of `activity_penalty`, |x|'s at 0 being 0; zero past a sequence's end."""
    before = time * features
    for b in range(lengths.size):
        for t in range(steps):
            goes_on = _goes_on(resets, t, lengths[b], b * batch, time)
            is_followed = _goes_on(resets, t + 1, lengths[b], b * batch, time)
            for j in range(features):
                at = (t * time + b * batch) * features + j
                if t < lengths[b]:
                    sign = 1.0 if x[at] > 0 else -1.0 if x[at] < 0 else 0.0
                    slope = 2.0 * l2 * x[at] + l1 * sign
                    if goes_on:
                        slope += 2.0 * slowness * (x[at] - x[at - before])
                    if is_followed:
                        slope += 2.0 * slowness * (x[at] - x[at + before])
                    dx[at] = dy[at] + slope
                else:
                    dx[at] = 0.0
