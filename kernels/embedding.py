"""Integer input: rows of a table looked up, their gradients scattered back, and one-hot vectors."""

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
def _scatter_part(part, parts, tokens, time, batch, steps, lengths, dy, gradient):
    features = gradient.shape[1]
    first, last = features * part // parts, features * (part + 1) // parts
    for t in range(steps):
        for b in range(lengths.size):
            if t < lengths[b]:
                at = t * time + b * batch
                token = tokens[at]
                for j in range(first, last):
                    gradient[token, j] += dy[at * features + j]


@kernel
def scatter_add(tokens, time, batch, steps, lengths, dy, gradient, parts):
    """gradient[tokens] += dy, step by step: each part takes columns of its own, so the order of sums is fixed."""
    in_parallel(_scatter_part, parts, (parts, tokens, time, batch, steps, lengths, dy, gradient))


@kernel
def one_hot(tokens, time, batch, steps, lengths, features, y):
    """y (…, features) = 1 at each token's place, 0 elsewhere and past a sequence's end."""
    y[:] = 0.0
    for b in range(lengths.size):
        for t in range(lengths[b]):
            at = t * time + b * batch
            y[at * features + tokens[at]] = 1.0
