"""Activations as layers of their own, pooling over time, and zeros where sequences have ended.

The activations are the simple recurrent cells' formulas, without the recurrence.
"""

from .cells import RNN_RELU, RNN_SIGMOID, RNN_TANH
from .jit import kernel, subroutine
from .parallel import in_parallel
from .simd import lanes, load, load_first, store, store_first
from .sums import sum_rows


def make_activation(cell):
    """`forward(x, y, parts)` and `backward(y, dy, dx, parts)` of an activation, over flat arrays of one size."""
    cell_forward, cell_backward = cell.forward, cell.backward

    @subroutine
    def forward_part(part, parts, x, y):
        step = lanes(x)
        vectors = (x.size + step - 1) // step
        for v in range(vectors * part // parts, vectors * (part + 1) // parts):
            at = v * step
            if x.size - at >= step:
                _, state = cell_forward((load(x, at),), (load(x, at),), (), ())
                store(y, at, state[0])
            else:
                value = load_first(x, at, x.size - at)
                _, state = cell_forward((value,), (value,), (), ())
                store_first(y, at, state[0], x.size - at)

    @subroutine
    def backward_part(part, parts, y, dy, dx):
        step = lanes(y)
        vectors = (y.size + step - 1) // step
        for v in range(vectors * part // parts, vectors * (part + 1) // parts):
            at = v * step
            if y.size - at >= step:
                value = (load(y, at),)
                d_slots, _, _ = cell_backward(value, value, (load(dy, at),), (), ())
                store(dx, at, d_slots[0])
            else:
                left = y.size - at
                value = (load_first(y, at, left),)
                d_slots, _, _ = cell_backward(value, value, (load_first(dy, at, left),), (), ())
                store_first(dx, at, d_slots[0], left)

    @kernel(name=f"{cell.name}_activation")
    def forward(x, y, parts):
        """y = φ(x); flat arrays of one size."""
        in_parallel(forward_part, parts, (parts, x, y))

    @kernel(name=f"{cell.name}_activation_backward")
    def backward(y, dy, dx, parts):
        """dx = φ′(x) dy, by way of y = φ(x); flat arrays of one size."""
        in_parallel(backward_part, parts, (parts, y, dy, dx))

    return forward, backward


tanh_layer = make_activation(RNN_TANH)
relu_layer = make_activation(RNN_RELU)
sigmoid_layer = make_activation(RNN_SIGMOID)


@kernel
def clear_padding(x, time, batch, features, steps, lengths):
    """Zeros in a flat sequence past each one's end: element (t, b, j) stands at t·time + b·batch + j."""
    for b in range(lengths.size):
        for t in range(lengths[b], steps):
            for j in range(features):
                x[t * time + b * batch + j] = 0.0


@kernel
def pool_last(x, time, batch, features, lengths, y):
    """y (B·F) = each sequence's last step."""
    for b in range(lengths.size):
        for j in range(features):
            y[b * features + j] = x[(lengths[b] - 1) * time + b * batch + j]


@kernel
def pool_last_backward(dy, time, batch, features, steps, lengths, dx):
    """dx = dy at each sequence's last step, zero elsewhere."""
    for b in range(lengths.size):
        for t in range(steps):
            for j in range(features):
                dx[t * time + b * batch + j] = dy[b * features + j] if t == lengths[b] - 1 else 0.0


@kernel
def pool_mean(x, time, batch, features, lengths, y):
    """y (B·F) = the mean over each sequence's steps, summed in their order."""
    for b in range(lengths.size):
        sum_rows(x, b * batch, 0, 0, lengths[b], time, features, lengths[b], y, b * features, False)


@kernel
def pool_mean_backward(dy, time, batch, features, steps, lengths, dx):
    """dx = dy / n at each of a sequence's n steps, zero past its end."""
    for b in range(lengths.size):
        for t in range(steps):
            for j in range(features):
                dx[t * time + b * batch + j] = dy[b * features + j] / lengths[b] if t < lengths[b] else 0.0


@kernel
def pool_max(x, time, batch, features, lengths, y, steps_of_max):
    """y (B·F) = the maximum over each sequence's steps, NaN if there is any; steps_of_max (B·F) int64 = where."""
    for b in range(lengths.size):
        for j in range(features):
            y[b * features + j] = x[b * batch + j]
            steps_of_max[b * features + j] = 0
        for t in range(1, lengths[b]):
            for j in range(features):
                value, largest = x[t * time + b * batch + j], y[b * features + j]
                if value > largest or (value != value and largest == largest):
                    y[b * features + j] = value
                    steps_of_max[b * features + j] = t


@kernel
def pool_max_backward(dy, time, batch, features, steps, lengths, dx, steps_of_max):
    """dx = dy at each maximum's step, zero elsewhere."""
    for b in range(lengths.size):
        for t in range(steps):
            for j in range(features):
                at = b * features + j
                dx[t * time + b * batch + j] = dy[at] if t == steps_of_max[at] else 0.0
