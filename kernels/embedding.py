"""Integer input: rows of a table looked up, their gradients scattered back, and one-hot vectors."""

from .jit import kernel, subroutine
from .parallel import in_parallel
from .simd import lanes
from .sums import order_by_value, sum_ordered_rows


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


@kernel
def order_tokens(tokens, time, batch, steps, lengths, ends, order, first, last):
    """Where in the flat `tokens` each token stands, those of one value together: see `sums.order_by_value`.

    first, last: of 2·steps·B, all of it in one call or in several.
    """
    order_by_value(tokens, time, batch, steps, lengths, ends, order, first, last)


@subroutine
def _scatter_part(part, parts, first, last, ends, order, dy, gradient):
    features = gradient.shape[1]
    step = lanes(gradient)
    vectors = (last - first + step - 1) // step
    begin, end = first + vectors * part // parts * step, min(first + vectors * (part + 1) // parts * step, last)
    start = 0
    for token in range(ends.size):
        stop = ends[token]
        if stop > start:
            sum_ordered_rows(
                dy, begin, order, start, stop, features, end - begin, 1.0, gradient, token * features + begin, True
            )
        start = stop


@kernel
def scatter_add(ends, order, dy, gradient, first, last, parts):
    """gradient[tokens] += dy for the columns `first` to `last`, the rows of a token in the order of `order_tokens`.

    Each part takes columns of its own.
    """
    in_parallel(_scatter_part, parts, (parts, first, last, ends, order, dy, gradient))


@kernel
def one_hot(tokens, time, batch, steps, lengths, features, y):
    """y (…, features) = 1 at each token's place, 0 elsewhere and past a sequence's end."""
    for b in range(lengths.size):
        for t in range(steps):
            at = t * time + b * batch
            for j in range(at * features, (at + 1) * features):
                y[j] = 0.0
            if t < lengths[b]:
                y[at * features + tokens[at]] = 1.0
