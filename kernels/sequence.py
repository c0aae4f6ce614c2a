"""What repeats a vector over time, and what a sequence's own size adds to a loss.

Element (t, b, j) of a flat sequence stands at t·time + b·batch + j; sums go in the order b, t, j.
"""

import math

from .jit import kernel


@kernel
def sum_over_steps(dy, time, batch, features, steps, dx):
    """dx (B·F) = Σ_t dy, the steps in their order."""
    for b in range(dx.size // features):
        for j in range(features):
            dx[b * features + j] = 0.0
        for t in range(steps):
            for j in range(features):
                dx[b * features + j] += dy[t * time + b * batch + j]


@kernel
def activity_penalty(x, time, batch, features, lengths, l2, l1):
    """Σ l2·x² + l1·|x| over the steps of all sequences, in float64."""
    squares = magnitudes = 0.0
    for b in range(lengths.size):
        for t in range(lengths[b]):
            for j in range(features):
                value = float(x[t * time + b * batch + j])
                squares += value * value
                magnitudes += math.fabs(value)
    return l2 * squares + l1 * magnitudes


@kernel
def activity_gradient(x, dy, time, batch, features, steps, lengths, l2, l1, dx):
    """dx = dy + 2·l2·x + l1·sign(x), whose value at 0 is 0; zero past a sequence's end."""
    for b in range(lengths.size):
        for t in range(steps):
            for j in range(features):
                at = t * time + b * batch + j
                if t < lengths[b]:
                    sign = 1.0 if x[at] > 0 else -1.0 if x[at] < 0 else 0.0
                    dx[at] = dy[at] + 2.0 * l2 * x[at] + l1 * sign
                else:
                    dx[at] = 0.0
