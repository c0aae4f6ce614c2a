"""Losses: value and gradient in one pass over the predictions, row by row.

A loss is summed over a row of predictions, the rows' sums stand in `partial`, and are added up in the order of the
rows: the value depends neither on the number of threads nor on rows that are masked.

What all the loss kernels share:
- `mask` (M,), bool or float64 and then ≥ 0, has the rows' weights: `mask[r // (rows // M)]` is that of row r; an empty
  mask, that all are 1. Loss and gradient of a row are multiplied by it. What a row of weight 0 holds is never read.
- `out` has the predictions' shape and takes their gradient times `scale`; it may be the predictions' own memory.
- `partial` (rows,) float64 is work space; at most `threads` threads share the rows.
- Arrays are C-contiguous, `y`, `out` (and the targets, unless they are classes) of one dtype, float32 or float64.
"""

import math

import numpy as np
from numba import types

from .jit import formula, kernel, subroutine
from .parallel import in_parallel
from .pointwise import exp, sigmoid
from .simd import (
    absolute,
    copy_sign,
    fma,
    horizontal_max,
    horizontal_sum,
    lanes,
    load,
    load_first,
    splat,
    store,
    store_first,
    where_greater,
    where_less,
)

_CHUNK = 1024  # elements whose sum is taken in their own precision, before it is added up in float64
_PART_SIZE = 1 << 14  # elements that are worth a thread: some 5 µs of work, three times the start of a region


@formula
def _weight(mask, rows, r):
    return 1.0 if mask.size == 0 else 1.0 * mask[r // (rows // mask.size)]


@subroutine(returns=types.float64)
def _ordered_sum(partial, rows):
    total = 0.0
    for r in range(rows):
        total += partial[r]
    return total


@kernel
def sum_of_weights(weights):
    """Sum of `weights` (M,) float64, in their order: zeros among them, such as padding's, change no bit of it."""
    return _ordered_sum(weights, weights.size)


# Softmax cross-entropy


@kernel
def check_classes(targets, mask, ignore_index, classes):
    """Sum of the weights of the rows that count, and the first of them whose target is not in [0, `classes`), or -1.

    `targets` (N,) int64; a row does not count if its weight is 0 (see above) or its target is `ignore_index`.
    """
    total, wrong = 0.0, -1
    for r in range(targets.size):
        weight = _weight(mask, targets.size, r)
        if weight != 0.0 and targets[r] != ignore_index:
            total += weight
            if wrong < 0 and not 0 <= targets[r] < classes:
                wrong = r
    return total, wrong


@subroutine(returns=lambda y, r: y.dtype)
def row_max(y, r):
    classes = y.shape[1]
    full = classes - classes % lanes(y)
    start = r * classes
    top = splat(y, -math.inf)
    for j in range(0, full, lanes(y)):
        v = load(y, start + j)
        top = where_greater(v, top, v, top)
    result = horizontal_max(top)
    for j in range(full, classes):
        if y[r, j] > result:
            result = y[r, j]
    return result


@subroutine(returns=types.float64)
def _cross_entropy_row(y, r, targets, mask, ignore_index, smoothing, scale, out):
    """With p = softmax(y), ε the smoothing and q = (1 - ε)·onehot(target) + ε/C: loss -Σ q·log p, gradient p - q.

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7.
    """
    classes = y.shape[1]
    rest = classes % lanes(y)
    start = r * classes
    full = start + classes - rest
    target, weight = targets[r], _weight(mask, targets.size, r)
    if target == ignore_index or weight == 0.0:
        for j in range(classes):
            out[r, j] = 0.0
        return 0.0
    scale *= weight
    shift = row_max(y, r)
    at_target = np.float64(y[r, target]) - shift
    exp_sum, sum_ = 0.0, 0.0  # of exp(y - shift) and of y - shift
    for j in range(classes - rest, classes):
        sum_ += np.float64(y[r, j]) - shift
    for chunk in range(start, full, _CHUNK):
        exp_part, part = splat(y, 0.0), splat(y, 0.0)
        for i in range(chunk, min(chunk + _CHUNK, full), lanes(y)):
            v = load(y, i) - shift
            e = exp(v)
            store(out, i, e)
            exp_part = exp_part + e
            part = part + v
        exp_sum += horizontal_sum(exp_part)
        sum_ += horizontal_sum(part)
    if rest:  # there and back: the other lanes are no logits
        store_first(out, full, exp(load_first(y, full, rest) - shift), rest)
        exp_sum += horizontal_sum(load_first(out, full, rest))

    factor, uniform = scale / exp_sum, scale * smoothing / classes
    for i in range(start, full, lanes(y)):
        store(out, i, fma(load(out, i), factor, -uniform))
    if rest:
        store_first(out, full, fma(load_first(out, full, rest), factor, -uniform), rest)
    out[r, target] -= scale * (1.0 - smoothing)
    loss = math.log(exp_sum) - (1.0 - smoothing) * at_target
    if smoothing > 0.0:  # a logit of -inf has an infinite part in the sum, which 0 times would be NaN
        loss -= smoothing * sum_ / classes
    return weight * loss


@subroutine
def _cross_entropy_part(part, parts, y, targets, mask, ignore_index, smoothing, scale, out, partial):
    for r in range(targets.size * part // parts, targets.size * (part + 1) // parts):
        partial[r] = _cross_entropy_row(y, r, targets, mask, ignore_index, smoothing, scale, out)


@kernel
def cross_entropy(y, targets, mask, ignore_index, smoothing, scale, out, partial, threads):
    """Sum of the rows' softmax cross-entropies. y, out (N, C); targets (N,) int64, checked by `check_classes`.

    Smoothing and scale are float64; see the module's head for the rest.
    """
    parts = min(threads, 1 + y.size // _PART_SIZE)
    in_parallel(_cross_entropy_part, parts, (parts, y, targets, mask, ignore_index, smoothing, scale, out, partial))
    return _ordered_sum(partial, targets.size)


# Losses of single elements: the loss and its derivative with respect to the prediction, of vectors


@formula
def _squared(y, target, delta):
    d = y - target
    return d * d, 2.0 * d


@formula
def _absolute(y, target, delta):
    d = y - target
    return absolute(d), where_greater(d, 0.0, 1.0, where_less(d, 0.0, -1.0, d))  # 0 at 0; NaN stays


@formula
def _huber(y, target, delta):
    """½d² up to |d| = δ, δ·(|d| - ½δ) beyond. Huber, "Robust Estimation of a Location Parameter", 1964."""
    d = y - target
    size = absolute(d)
    value = where_greater(size, delta, delta * (size - 0.5 * delta), 0.5 * d * d)
    return value, where_greater(size, delta, copy_sign(delta, d), d)


@formula
def _log1p(e):
    """log(1 + e) for 0 ≤ e ≤ 1, as 2·artanh(s) with s = e/(2 + e) ≤ 1/3: 17 terms leave less than 1e-17 of s."""
    s = e / (2.0 + e)
    square = s * s
    series = fma(square, 1.0 / 33.0, 1.0 / 31.0)
    for k in range(29, 0, -2):
        series = fma(series, square, 1.0 / k)
    return 2.0 * s * series


@formula
def _logistic(y, target, delta):
    """-t·log σ(y) - (1 - t)·log(1 - σ(y)) = max(y, 0) - t·y + log(1 + exp(-|y|)), derivative σ(y) - t."""
    linear = where_greater(y, 0.0, y * (1.0 - target), -y * target)
    return linear + _log1p(exp(-absolute(y))), sigmoid(y) - target


def _over_rows(name, row, text):
    """The kernel of a loss from `row(y, r, targets, mask, parameter, scale, out)`, which does row r."""

    @subroutine
    def rows_of_part(part, parts, y, targets, mask, parameter, scale, out, partial):
        rows = y.shape[0]
        for r in range(rows * part // parts, rows * (part + 1) // parts):
            partial[r] = row(y, r, targets, mask, parameter, scale, out)

    def function(y, targets, mask, parameter, scale, out, partial, threads):
        parts = min(threads, 1 + y.size // _PART_SIZE)
        in_parallel(rows_of_part, parts, (parts, y, targets, mask, parameter, scale, out, partial))
        return _ordered_sum(partial, y.shape[0])

    function.__doc__ = text
    return kernel(function, name=name)


def _elementwise(name, loss, text):
    """The kernel of a loss that is a sum over elements, from its formula on vectors."""

    @subroutine(returns=types.float64)
    def row(y, r, targets, mask, delta, scale, out):
        rows, width = y.shape
        start, rest = r * width, width % lanes(y)
        full = start + width - rest
        total, weight = 0.0, _weight(mask, rows, r)
        if weight == 0.0:
            for j in range(width):
                out[r, j] = 0.0
            return total
        scale *= weight
        for chunk in range(start, full, _CHUNK):
            part = splat(y, 0.0)
            for i in range(chunk, min(chunk + _CHUNK, full), lanes(y)):
                value, slope = loss(load(y, i), load(targets, i), delta)
                part = part + value
                store(out, i, slope * scale)
            total += horizontal_sum(part)
        if rest:  # there and back: the other lanes are no elements
            value, slope = loss(load_first(y, full, rest), load_first(targets, full, rest), delta)
            store_first(out, full, value, rest)
            total += horizontal_sum(load_first(out, full, rest))
            store_first(out, full, slope * scale, rest)
        return weight * total

    return _over_rows(name, row, f"{text} y, targets, out (rows, width); parameter (δ of `huber`), scale float64.")


squared_error = _elementwise("squared_error", _squared, "Sum of squared errors.")
absolute_error = _elementwise("absolute_error", _absolute, "Sum of absolute errors.")
huber = _elementwise("huber", _huber, "Sum of Huber losses.")
binary_cross_entropy = _elementwise("binary_cross_entropy", _logistic, "Sum of binary cross-entropies on logits.")


# Quantile regression


@subroutine(returns=types.float64)
def _pinball_row(y, r, targets, mask, quantiles, scale, out):
    """With d = target - y: τ·d for d > 0, (τ - 1)·d for d < 0. Koenker & Bassett, "Regression Quantiles", 1978."""
    rows, width = y.shape
    total, weight = 0.0, _weight(mask, rows, r)
    if weight == 0.0:
        for j in range(width):
            out[r, j] = 0.0
        return total
    for j in range(width):
        tau, d = quantiles[j % quantiles.size], np.float64(targets[r, j // quantiles.size]) - y[r, j]
        slope = tau if d > 0.0 else tau - 1.0 if d < 0.0 else d  # 0 at 0; NaN stays
        total += slope * d
        out[r, j] = -slope * scale * weight
    return weight * total


pinball = _over_rows(
    "pinball",
    _pinball_row,
    "Sum of pinball losses. y, out (rows, F·Q), a target's quantiles side by side; targets (rows, F); parameter (Q,) "
    "float64, the quantiles; scale float64.",
)


@kernel
def first_outside_unit(targets, mask):
    """Flat index of the first element of a weight and not in [0, 1] (NaN is not), or -1. targets (rows, width)."""
    rows, width = targets.shape
    for r in range(rows):
        if _weight(mask, rows, r) != 0.0:
            for j in range(width):
                if not 0.0 <= targets[r, j] <= 1.0:
                    return r * width + j
    return -1
