"""Updates of flat parameter buffers, element by element; clipping of gradients, and the sum of squares it needs.

Every update kernel takes `arrays`, a tuple of flat arrays of one size and dtype (float32 or float64), all
C-contiguous: the values, their gradients, then the optimiser's own state; and `coefficients`, a tuple of float64. An
array that the coefficients turn off is not touched, and any array of the right type may stand in for it. At most
`threads` threads share the work.

The rules are those of PyTorch's single-tensor implementations (torch/optim/*.py), sources in its documentation.
"""

import numpy as np
from numba import types

from .jit import formula, kernel, subroutine
from .parallel import in_parallel
from .simd import VectorType, fma, lanes, load, load_first, square_root, store, store_first, where_greater, where_less

_PART_SIZE = 1 << 14  # elements that are worth a thread
_BLOCK = 1 << 10  # what is given to one thread is a multiple of this: whole vectors, whole cache lines
SUMS = 64  # parts of a sum, whatever the number of threads


@subroutine(returns=lambda array, i, count: VectorType(array.dtype))
def _take(array, i, count):
    return load(array, i) if count == lanes(array) else load_first(array, i, count)


@subroutine
def _put(array, i, value, count):
    if count == lanes(array):
        store(array, i, value)
    else:
        store_first(array, i, value, count)


def _make(name, rule, text):
    """The kernel of an update, from its rule for `count` elements from `i`."""

    @subroutine
    def update_part(part, parts, arrays, coefficients):
        size, step = arrays[0].size, lanes(arrays[0])
        blocks = (size + _BLOCK - 1) // _BLOCK
        stop = min(blocks * (part + 1) // parts * _BLOCK, size)
        for i in range(blocks * part // parts * _BLOCK, stop, step):
            rule(arrays, coefficients, i, min(step, stop - i))

    def function(arrays, coefficients, threads):
        parts = min(threads, 1 + arrays[0].size // _PART_SIZE)
        in_parallel(update_part, parts, (parts, arrays, coefficients))

    function.__doc__ = text
    return kernel(function, name=name)


@formula
def _sgd(arrays, coefficients, i, count):
    values, gradients, velocity = arrays
    lr, momentum, keep, feed, weight_decay, nesterov = coefficients
    p = _take(values, i, count)
    g = fma(weight_decay, p, _take(gradients, i, count))
    if momentum != 0.0:
        v = fma(keep, _take(velocity, i, count), feed * g)
        _put(velocity, i, v, count)
        g = fma(momentum, v, g) if nesterov != 0.0 else v
    _put(values, i, fma(-lr, g, p), count)


@formula
def _rmsprop(arrays, coefficients, i, count):
    values, gradients, square_mean, mean, velocity = arrays
    lr, alpha, rest, eps, weight_decay, momentum, centered = coefficients
    p = _take(values, i, count)
    g = fma(weight_decay, p, _take(gradients, i, count))
    variance = fma(rest * g, g, alpha * _take(square_mean, i, count))
    _put(square_mean, i, variance, count)
    if centered != 0.0:
        m = _take(mean, i, count)
        m = fma(rest, g - m, m)
        _put(mean, i, m, count)
        variance = fma(-m, m, variance)
        variance = where_less(variance, 0.0, 0.0, variance)  # which only rounding can make it
    direction = g / (square_root(variance) + eps)
    if momentum != 0.0:
        direction = fma(momentum, _take(velocity, i, count), direction)
        _put(velocity, i, direction, count)
    _put(values, i, fma(-lr, direction, p), count)


@formula
def _adagrad(arrays, coefficients, i, count):
    values, gradients, square_sum = arrays
    lr, eps, weight_decay = coefficients
    p = _take(values, i, count)
    g = fma(weight_decay, p, _take(gradients, i, count))
    s = fma(g, g, _take(square_sum, i, count))
    _put(square_sum, i, s, count)
    _put(values, i, fma(-lr, g / (square_root(s) + eps), p), count)


@formula
def _adam(arrays, coefficients, i, count):
    values, gradients, mean, square_mean, largest = arrays
    step_size, rest1, beta2, rest2, root2, eps, weight_decay, shrink, amsgrad = coefficients
    p = _take(values, i, count)
    g = fma(weight_decay, p, _take(gradients, i, count))
    m = _take(mean, i, count)
    m = fma(rest1, g - m, m)
    v = fma(rest2 * g, g, beta2 * _take(square_mean, i, count))
    _put(mean, i, m, count)
    _put(square_mean, i, v, count)
    if amsgrad != 0.0:
        top = _take(largest, i, count)
        v = where_greater(top, v, top, v)  # a NaN in v stays
        _put(largest, i, v, count)
    _put(values, i, fma(-step_size, m / (square_root(v) / root2 + eps), shrink * p), count)


@formula
def _clip(arrays, coefficients, i, count):
    factor, bound = coefficients
    g = factor * _take(arrays[0], i, count)
    _put(arrays[0], i, where_greater(g, bound, bound, where_less(g, -bound, -bound, g)), count)  # NaN stays


sgd = _make(
    "sgd",
    _sgd,
    """Gradient descent, with momentum and Nesterov's momentum (Sutskever et al. 2013).

    arrays: values, gradients, velocity (off if momentum is 0).
    coefficients: lr, momentum, keep, feed, weight_decay, nesterov (0 or 1): velocity = keep·velocity + feed·gradient.
    """,
)
rmsprop = _make(
    "rmsprop",
    _rmsprop,
    """RMSprop (Hinton, Coursera lecture 6e, 2012), also centered (Graves, arXiv 1308.0850).

    arrays: values, gradients, mean square, mean (off unless centered), velocity (off if momentum is 0).
    coefficients: lr, alpha, 1 - alpha, eps, weight_decay, momentum, centered (0 or 1).
    """,
)
adagrad = _make(
    "adagrad",
    _adagrad,
    """Adagrad (Duchi et al., JMLR 12, 2011).

    arrays: values, gradients, sum of squares. coefficients: lr as decayed, eps, weight_decay.
    """,
)
adam = _make(
    "adam",
    _adam,
    """Adam (Kingma and Ba, arXiv 1412.6980), AMSGrad (Reddi et al. 2018), AdamW (Loshchilov and Hutter 2019).

    arrays: values, gradients, mean, mean square, its largest value so far (off unless amsgrad).
    coefficients: lr / (1 - β₁ᵗ), 1 - β₁, β₂, 1 - β₂, √(1 - β₂ᵗ), eps, weight_decay (Adam's, else 0),
    1 - lr·weight_decay (AdamW's, else 1), amsgrad (0 or 1).
    """,
)


clip = _make(
    "clip",
    _clip,
    """Gradients times a factor, then clipped to [-bound, bound], in one pass.

    arrays: the gradients alone. coefficients: factor, bound ≥ 0, which may be infinite.
    """,
)


@subroutine(returns=types.float64)
def _sum_of_squares(values, start, stop):
    a = b = c = d = 0.0  # four sums, for one addition would have to wait for the other
    full = stop - (stop - start) % 4
    for i in range(start, full, 4):
        a += np.float64(values[i]) * values[i]
        b += np.float64(values[i + 1]) * values[i + 1]
        c += np.float64(values[i + 2]) * values[i + 2]
        d += np.float64(values[i + 3]) * values[i + 3]
    for i in range(full, stop):
        a += np.float64(values[i]) * values[i]
    return (a + b) + (c + d)


@subroutine
def _sums_of_part(part, parts, values, sums):
    for k in range(SUMS * part // parts, SUMS * (part + 1) // parts):
        sums[k] = _sum_of_squares(values, values.size * k // SUMS, values.size * (k + 1) // SUMS)


@kernel
def sum_of_squares(values, sums, threads):
    """Sum of the squares of `values` (n,), in float64 and in an order that doesn't depend on the number of threads.

    sums (SUMS,) float64 is work space.
    """
    parts = min(threads, 1 + values.size // _PART_SIZE)
    in_parallel(_sums_of_part, parts, (parts, values, sums))
    total = 0.0
    for k in range(SUMS):
        total += sums[k]
    return total
