"""Integer input: rows of a table looked up, their gradients scattered back, and one-hot vectors."""

import numpy as np

from .jit import kernel, subroutine
from .parallel import in_parallel


@subroutine
def _look_up_part(part, parts, tokens, time, batch, steps, lengths, weight, y):
    features = weight.shape[1]
    for b in range(lengths.size * part // parts, lengths.size * (part + 1) // parts):
        for t in range(steps):
            at = t * time + b * batch
            if t < lengths[b]:
                token = tokens[at]
                for j in range(features):
                    y[at * features + j] = weight[token, j]
            else:
                for j in range(features):
                    y[at * features + j] = 0.0


@kernel
def look_up(tokens, time, batch, steps, lengths, weight, y, parts):
    """y = weight[tokens], zero past a sequence's end.

    Token (t, b) stands at t·time + b·batch of the flat `tokens`, its row at that times E of the flat `y`. Every token
    before its sequence's end must be a row of `weight` (V, E).
    """
    in_parallel(_look_up_part, parts, (parts, tokens, time, batch, steps, lengths, weight, y))


@subroutine
def _scatter_part(part, parts, counts, order, dy, gradient):
    features = gradient.shape[1]
    first, last = features * part // parts, features * (part + 1) // parts
    start = 0
    for token in range(counts.size):
        stop = counts[token]
        for j in range(first, last):
            total = 0.0
            for n in range(start, stop):
                total += dy[order[n] * features + j]
            if stop > start:
                gradient[token, j] += total
        start = stop


@kernel
def scatter_ordered(tokens, time, batch, steps, lengths, dy, gradient, counts, order, parts):
    """gradient[tokens] += dy, the sum over each token's rows, step by step in float64; each part takes columns.

    counts (V,), order (at least as long as `tokens`): int64 work space, in which rows of one token stand together.
    """
    counts[:] = 0
    for b in range(lengths.size):
        for t in range(lengths[b]):
            counts[tokens[t * time + b * batch]] += 1
    before = 0
    for v in range(counts.size):
        before, counts[v] = before + counts[v], before
    for t in range(steps):
        for b in range(lengths.size):
            if t < lengths[b]:
                at = t * time + b * batch
                order[counts[tokens[at]]] = at
                counts[tokens[at]] += 1
    in_parallel(_scatter_part, parts, (parts, counts, order, dy, gradient))


@kernel
def scatter_add(tokens, time, batch, steps, lengths, dy, gradient, parts):
    """`scatter_ordered` with work space of its own."""
    counts, order = np.empty(gradient.shape[0], np.int64), np.empty(tokens.size, np.int64)
    scatter_ordered(tokens, time, batch, steps, lengths, dy, gradient, counts, order, parts)


@kernel
def one_hot(tokens, time, batch, steps, lengths, features, y):
    """y (…, features) = 1 at each token's place, 0 elsewhere and past a sequence's end."""
    y[:] = 0.0
    for b in range(lengths.size):
        for t in range(lengths[b]):
            at = t * time + b * batch
            y[at * features + tokens[at]] = 1.0
