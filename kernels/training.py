"""Losses and updates in a user's own compiled code: `losses` and `update` without their jobs' details.

All arrays are C-contiguous and of one dtype, float32 or float64. The kernels work on the calling thread alone, and
agree with the losses and optimisers of `fastrnn` bit for bit. Nothing is checked beyond the types.
"""

import math

import numpy as np

from . import losses, update
from .jit import kernel, subroutine
from .losses import row_max
from .parallel import in_parallel
from .pointwise import exp
from .simd import horizontal_sum, lanes, load, load_first, splat, store, store_first


@subroutine
def _softmax_rows(part, parts, y, out):
    step, classes = lanes(y), y.shape[1]
    rest = classes % step
    for r in range(y.shape[0]):
        start, full = r * classes, (r + 1) * classes - rest
        shift, total = row_max(y, r), splat(y, 0.0)
        for i in range(start, full, step):
            e = exp(load(y, i) - shift)
            store(out, i, e)
            total = total + e
        exp_sum = horizontal_sum(total)
        if rest:  # there and back: the other lanes are no logits
            store_first(out, full, exp(load_first(y, full, rest) - shift), rest)
            exp_sum += horizontal_sum(load_first(out, full, rest))
        for i in range(start, full, step):
            store(out, i, load(out, i) / exp_sum)
        if rest:
            store_first(out, full, load_first(out, full, rest) / exp_sum, rest)


@kernel
def softmax(y, out):
    """out = exp(y) / Σ exp(y) over the last axis; y, out (…,C), which may be the same array."""
    classes = y.shape[y.ndim - 1]
    shape = y.size // classes, classes
    in_parallel(_softmax_rows, 1, (1, y.reshape(shape), out.reshape(shape)))


@kernel
def softmax_cross_entropy(y, targets, dy, ignore_index=-100):
    """Mean cross-entropy of softmax(y) over the targets other than `ignore_index`, and in `dy` its gradient.

    y, dy (…,C), which may be the same array; targets (…) int64, in [0, C) or `ignore_index`. NaN if all are that.
    """
    classes = y.shape[y.ndim - 1]
    flat = targets.reshape(-1)
    shape = flat.size, classes
    count = 0
    for r in range(flat.size):
        count += flat[r] != ignore_index
    partial = np.empty(flat.size)
    total = losses.cross_entropy(
        y.reshape(shape), flat, np.empty(0, np.bool_), ignore_index, 0.0, 1.0 / count, dy.reshape(shape), partial, 1
    )
    return total / count


@kernel
def clip_norm(gradients, max_norm):
    """Scale the flat `gradients` down to a norm, by max_norm / (norm + 1e-6) if that is below 1; the norm before."""
    norm = math.sqrt(update.sum_of_squares(gradients, np.empty(update.SUMS), 1))
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1.0:  # NaN is not, and goes on into the gradients
        update.clip((gradients,), (factor, math.inf), 1)
    return norm


@kernel
def clip_value(gradients, bound):
    """Clip each of the flat `gradients` to [-bound, bound]; NaN stays."""
    update.clip((gradients,), (1.0, np.float64(bound)), 1)


@kernel
def sgd_update(values, gradients, velocity, lr, momentum=0.0, weight_decay=0.0):
    """values -= lr·v, with v = momentum·v + g and g = gradients + weight_decay·values.

    All flat; `velocity`, zeros at first, is not touched without momentum, and may then be any array of its type.
    """
    coefficients = np.float64(lr), np.float64(momentum), np.float64(momentum), 1.0, np.float64(weight_decay), 0.0
    update.sgd((values, gradients, velocity), coefficients, 1)


@kernel
def adam_update(values, gradients, mean, square_mean, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    """Adam's update number `step`, from 1 on; with `weight_decay` AdamW's. All arrays flat, both means zeros at first.
    """
    root2 = (1.0 - beta2 ** np.float64(step)) ** 0.5
    step_size = lr / (1.0 - beta1 ** np.float64(step))
    coefficients = (
        step_size, 1.0 - beta1, np.float64(beta2), 1.0 - beta2, root2, np.float64(eps), 0.0, 1.0 - lr * weight_decay,
        0.0,
    )  # fmt: skip
    update.adam((values, gradients, mean, square_mean, values), coefficients, 1)
