"""Losses: `value, dy = loss(y, targets)`, checked here, computed in `kernels.losses`.

Arguments of all constructors, with l the loss of a valid element and w its weight, 1 unless `mask` has others:

reduction: "mean" is Σ w·l / Σ w, "sum" Σ w·l, and "sequence" Σ w·l over the number of sequences: summed over time (and
    the features of elementwise losses), averaged over the batch.
batch_first: with "sequence", whether predictions are (B,T,F) rather than (T,B,F); those of pooled sequences are (B,F).
    A `Trainer` and the rules of `bptt` go by their model's order instead.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, finite
from .kernels import losses as kernels
from .spans import spans
from .threads import get_num_threads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .types import Loss

_LEAST = sys.float_info.min
_ALL_VALID = np.zeros(0, np.bool_)  # what the kernels take for no mask
_SHORT = 1 << 20  # elements that are done in one call
_WORK_OF_AN_ELEMENT = 100  # multiply-adds that take as long
_REDUCTIONS = ("mean", "sum", "sequence")


def _usable(array, dtype, out):
    """Whether a kernel can read `array` as it is while it writes `out`."""
    flags = array.flags
    plain = array.dtype == dtype and flags.c_contiguous and flags.aligned and flags.writeable
    return plain and not np.may_share_memory(array, out)


def _same_memory(a, b):
    return a.dtype == b.dtype and a.ctypes.data == b.ctypes.data and a.strides == b.strides


def _within_others(function):
    """A method that a signal's handler may call in the middle of another call of it: with buffers of its own."""

    @functools.wraps(function)
    def method(self, *args, **kwargs):
        local = self._local
        depth = local.depth = getattr(local, "depth", -1) + 1
        try:
            return function(self, *args, **kwargs)
        finally:
            local.depth = depth - 1

    return method


class _Loss(ABC):
    """What all losses share: checks, buffers, reduction.

    Buffers belong to the loss, one set for each thread, and grow on demand: a call with `out` allocates nothing that
    grows with the data once the sizes have been seen.
    """

    def __init__(self, reduction, batch_first, **config):
        reduction = checks.choice("reduction", reduction, _REDUCTIONS)
        self._config = {**config, "reduction": reduction, "batch_first": checks.flag("batch_first", batch_first)}
        self._local = threading.local()

    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self._config)

    @property
    def reduction(self) -> str:
        return self._config["reduction"]

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._config.items())})"

    def __reduce__(self):  # copies and pickles have buffers of their own
        return functools.partial(type(self), **self._config), ()

    def __call__(
        self,
        y: ArrayLike,
        targets: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        out: np.ndarray | None = None,
        nonfinite: str = finite.IGNORE,
    ) -> tuple[float, np.ndarray]:
        """The loss and its gradient with respect to `y`, an array of y's shape: `out` if given, else a new one.

        `mask`, of the leading shape of `targets` (some or all of its dimensions), has booleans, which elements are
        valid, or floating-point weights ≥ 0, how much each counts. What stands behind False or 0 is never read and has
        gradient 0. `out` may be `y` itself.

        nonfinite: "ignore" takes NaN and infinity as floating-point numbers have them; "raise" is a `NonFiniteError`
        that names the first row of `y` whose loss or gradient is not finite (an infinite logit may leave both so), and
        what is not finite there. `out` is written only once all is known to be finite.
        """
        looking = finite.policy(nonfinite) == finite.RAISE
        total, count, dy = self.evaluate(y, targets, mask, None if looking else out)
        if looking:
            if not (math.isfinite(total) and finite.is_finite(dy)):
                raise error_of_loss(self, y, targets, mask)
            if out is not None:
                np.copyto(checks.output_array("out", out, dy.dtype, dy.shape), dy)
                dy = out
        return total / self.denominator(count, self._sequences(dy.shape)), dy

    def denominator(self, count: float, sequences: int | None) -> float:
        """What the loss divides the sum by over valid elements of total weight `count` in this number of sequences."""
        by_reduction: dict[str, Any] = {"mean": count, "sum": 1, "sequence": sequences}
        return by_reduction[self.reduction]

    def _sequences(self, shape):
        """The number of sequences in predictions of this shape; None unless the loss divides by it."""
        if self.reduction != "sequence":
            return None
        if len(shape) not in (2, 3):
            raise ValueError(f'y must have 2 or 3 dimensions with reduction="sequence", got {len(shape)}')
        return shape[1 if len(shape) == 3 and not self._config["batch_first"] else 0]

    @_within_others
    def count(self, y: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> float:
        """Number of valid elements, or their total weight: the denominator of the mean. Arguments are checked as in a
        call."""
        y, dtype = checks.prediction("y", y)
        targets, mask = self._check(y, targets, mask)
        return _checked_weight(self._prepare(y, dtype, targets, mask, _ALL_VALID)[-1])

    @_within_others
    def evaluate(
        self,
        y: ArrayLike,
        targets: ArrayLike,
        mask: ArrayLike | None = None,
        out: np.ndarray | None = None,
        denominator: float | None = None,
    ) -> tuple[float, float, np.ndarray]:
        """Sum of the loss over the valid elements, their `count`, and the gradient of sum / `denominator`.

        If None, `denominator` is that of a call, and nothing valid is a `ValueError`.
        """
        y, dtype = checks.prediction("y", y)
        targets, mask = self._check(y, targets, mask)
        if out is None:
            checks.memory("the gradient of the loss", y.size * dtype.itemsize)
            dy = np.empty(y.shape, dtype)
        else:
            dy = checks.output_array("out", out, dtype, y.shape)
        rows, targets, mask, count = self._prepare(y, dtype, targets, mask, dy)
        count = _checked_weight(count)
        if denominator is None:
            if count == 0:
                raise ValueError("mask and targets leave no valid element, expected at least one")
            denominator = self.denominator(count, self._sequences(y.shape))
        denominator = checks.number("denominator", denominator, above=0.0)
        if not _usable(y, dtype, dy):
            if not _same_memory(y, dy):
                with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is visible in the result
                    np.copyto(dy, y, casting="same_kind")
            y = dy
        partial = self._buffer("partial", (rows[0],), np.float64)
        arrays = y.reshape(rows), targets, mask, np.asarray(dy).reshape(rows), partial
        return self._sum_in_spans(1.0 / denominator, *arrays), count, dy

    def _sum_in_spans(self, scale, y, targets, mask, dy, partial):
        """`_sum`, some rows at a time."""
        if y.size <= _SHORT:
            return self._sum(y, targets, mask, scale, dy, partial)
        same = len(y) // (mask.size or len(y))  # rows of one weight
        for first, last in spans(len(y) // same, same * y.shape[1] * _WORK_OF_AN_ELEMENT):
            weights, rows = mask[first:last], slice(first * same, last * same)
            self._sum(y[rows], targets[rows], weights, scale, dy[rows], partial[rows])
        return kernels.sum_of_weights(partial)

    @abstractmethod
    def _check(self, y, targets, mask):
        """`targets` and `mask` as arrays, of the kinds and shapes that go with `y`."""

    @abstractmethod
    def _prepare(self, y, dtype, targets, mask, out):
        """The shape (rows, width) the kernel takes `y` in, targets and mask as it takes them, and the `count`."""

    @abstractmethod
    def _sum(self, y, targets, mask, scale, dy, partial):
        """Call the kernel: the sum of the loss; its gradient times `scale` goes into `dy`."""

    def _buffer(self, name, shape, dtype):
        """Thread-local work space, contents undefined."""
        if depth := self._local.depth:
            name = f"{name} {depth}"
        size = math.prod(shape)
        buffer = getattr(self._local, name, None)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            checks.memory("the loss", size * np.dtype(dtype).itemsize)
            buffer = np.empty(size, dtype)
            setattr(self._local, name, buffer)
        return buffer[:size].reshape(shape)

    def _plain(self, name, array, dtype, out):
        """`array` as the kernels take it: itself if it can be, else a copy in a buffer."""
        if _usable(array, dtype, out):
            return array
        buffer = self._buffer(name, array.shape, dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(buffer, array, casting="same_kind")
        return buffer

    def _plain_mask(self, mask, out):
        if mask is None:
            return _ALL_VALID
        return self._plain("mask", mask, np.bool_ if mask.dtype.kind == "b" else np.float64, out).reshape(-1)


def _checked_weight(count):
    """The total weight of the elements: no denormal, which the kernels take for zero."""
    if not count < math.inf:
        raise ValueError(f"mask must hold weights of a finite sum, got {count}")
    return count if count >= _LEAST else 0


def first_row(loss: Loss, y: np.ndarray, targets: np.ndarray, mask: np.ndarray | None) -> tuple[int, ...] | None:
    """The index of the first row of `y`, in C order, whose loss or gradient is not finite; None if all are.

    mask: with all of y's dimensions but the last, or with all. A search by halves: the loss itself says what is valid.
    """
    lead = y.shape[:-1]

    def rows(array):
        return array.reshape(-1, *array.shape[len(lead) :])

    y, targets, mask = rows(y), rows(targets), None if mask is None else rows(mask)
    scratch = np.empty(y.shape, checks.prediction("y", y)[1])

    def fine(start, stop):
        part = None if mask is None else mask[start:stop]
        total, _, dy = loss.evaluate(y[start:stop], targets[start:stop], part, scratch[start:stop], 1.0)
        return math.isfinite(total) and finite.is_finite(dy)

    start, stop = 0, len(y)
    if fine(start, stop):
        return None
    while stop - start > 1:
        middle = (start + stop) // 2
        if fine(start, middle):
            start = middle
        else:
            stop = middle
    return tuple(map(int, np.unravel_index(start, lead)))


def error_of_loss(
    loss: Loss, y: ArrayLike, targets: ArrayLike, mask: ArrayLike | None, batch_first: bool | None = None
) -> finite.NonFiniteError:
    """The error of the first row whose loss is not finite, and what of `y` and `targets` is not there.

    batch_first: of what a model gives, sequences or one vector for each: the row is named by time and batch; None for
    any arrays, whose row is named by its index.
    """
    y, targets = np.asarray(y), np.asarray(targets)
    if mask is not None:  # in all dimensions of the rows
        mask = np.asarray(mask)
        mask = mask.reshape(mask.shape + (1,) * (y.ndim - 1 - mask.ndim))
        mask = np.broadcast_to(mask, y.shape[:-1] + targets.shape[y.ndim - 1 : mask.ndim])
    swap = batch_first and y.ndim == 3
    if swap:  # the first in time
        y, targets = y.swapaxes(0, 1), targets.swapaxes(0, 1)
        mask = None if mask is None else mask.swapaxes(0, 1)
    index = first_row(loss, y, targets, mask)
    if index is None:  # each is finite: their sum is not
        return finite.NonFiniteError("the loss becomes infinite")
    what = "the loss is not finite"
    for name, row in (("targets", targets[index]), ("y", y[index])):
        place = finite.find_place(np.asarray(row)) if row.dtype.kind == "f" else None
        if place is not None:
            what = f"{name} is {place.value}"
            break
    if batch_first is None:
        return finite.NonFiniteError(what, detail=str(list(index)))
    *time, batch = index
    return finite.NonFiniteError(what, time=time[0] if time else None, batch=batch)


class CrossEntropy(_Loss):
    """Softmax cross-entropy of logits `y` (..., C) and classes `targets` (...), integers in [0, C).

    With p = softmax(y), the loss of an element is -Σ q·log p and its gradient p - q, where q is
    (1 - ε)·onehot(target) + ε/C and ε is `label_smoothing` in [0, 1]. Elements whose target is `ignore_index` are not
    valid.

    A call raises `TypeError` for `y` that is not floating-point or targets that are not integers, `ValueError` for
    shapes that don't fit, a class out of range at a valid element, and if no element is valid.
    """

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        batch_first: bool = False,
    ):
        bounds = np.iinfo(np.int64)
        super().__init__(
            reduction,
            batch_first,
            ignore_index=checks.integer("ignore_index", ignore_index, minimum=int(bounds.min), maximum=int(bounds.max)),
            label_smoothing=checks.number("label_smoothing", label_smoothing, minimum=0.0, maximum=1.0),
        )

    def _check(self, y, targets, mask):
        targets = checks.as_array("targets", targets)
        if targets.dtype.kind not in "iu":
            raise TypeError(f"targets must hold integers, got dtype {targets.dtype}")
        checks.shape("targets", targets.shape, y.shape[:-1])
        return targets, checks.leading_mask("mask", mask, targets.shape)

    def _prepare(self, y, dtype, targets, mask, out):
        classes = y.shape[-1]
        mask = self._plain_mask(mask, out)
        given, ignored = targets, self._config["ignore_index"]
        if targets.dtype.kind == "u" and targets.itemsize == 8:  # what int64 can't hold must not wrap round to a class
            highest, buffer = np.uint64(np.iinfo(np.int64).max), self._buffer("targets", targets.shape, np.int64)
            targets = np.minimum(targets, highest, out=buffer, casting="unsafe")
            targets[given > highest] = -1 if ignored != -1 else -2  # nor to one that is left out
        targets = self._plain("targets", targets, np.int64, out).reshape(-1)
        count, wrong = kernels.check_classes(targets, mask, ignored, classes)
        if wrong >= 0:
            raise ValueError(f"targets must be in [0, {classes}) where valid, got {given.reshape(-1)[wrong]}")
        return (targets.size, classes), targets, mask, int(count) if mask.dtype == np.bool_ else count

    def _sum(self, y, targets, mask, scale, dy, partial):
        ignore_index, smoothing = self._config["ignore_index"], self._config["label_smoothing"]
        return kernels.cross_entropy(y, targets, mask, ignore_index, smoothing, scale, dy, partial, get_num_threads())


class _ElementwiseLoss(_Loss):
    """A sum over single elements of `y` and `targets`, which have one shape.

    A call raises `TypeError` for `y` or targets that are not floating-point, `ValueError` for shapes that don't fit
    and if no element is valid.
    """

    _kernel: Any  # of `kernels.losses`
    _target_kinds = "f"
    _parameter: Any = 1.0  # of the kernel
    _outputs = 1  # elements of y for one of targets, side by side

    def _check(self, y, targets, mask):
        targets = checks.as_array("targets", targets)
        if targets.dtype.kind not in self._target_kinds:
            raise TypeError(f"targets must hold floating-point numbers, got dtype {targets.dtype}")
        width, outputs = y.shape[-1], self._outputs
        if width % outputs:
            raise ValueError(f"y must have a multiple of {outputs} elements in its last dimension, got {width}")
        checks.shape("targets", targets.shape, (*y.shape[:-1], width // outputs))
        return targets, checks.leading_mask("mask", mask, targets.shape)

    def _prepare(self, y, dtype, targets, mask, out):
        width = self._outputs if mask is not None and mask.ndim == y.ndim else y.shape[-1]
        rows = y.size // width, width
        targets = self._plain("targets", targets, dtype, out).reshape(rows[0], width // self._outputs)
        weights = self._plain_mask(mask, out)
        if mask is None:
            return rows, targets, weights, y.size
        count = np.count_nonzero(mask) if mask.dtype.kind == "b" else kernels.sum_of_weights(weights)
        return rows, targets, weights, count * (y.size // mask.size)

    def _sum(self, y, targets, mask, scale, dy, partial):
        return self._kernel(y, targets, mask, self._parameter, scale, dy, partial, get_num_threads())


class MSE(_ElementwiseLoss):
    """Squared error (y - targets)². y and targets (...) floating-point."""

    _kernel = staticmethod(kernels.squared_error)

    def __init__(self, *, reduction: str = "mean", batch_first: bool = False):
        super().__init__(reduction, batch_first)


class MAE(_ElementwiseLoss):
    """Absolute error |y - targets|, whose gradient is 0 where they are equal. y and targets (...) floats."""

    _kernel = staticmethod(kernels.absolute_error)

    def __init__(self, *, reduction: str = "mean", batch_first: bool = False):
        super().__init__(reduction, batch_first)


class Huber(_ElementwiseLoss):
    """With d = y - targets: ½d² up to |d| = `delta`, delta·(|d| - ½delta) beyond. y and targets (...) floats."""

    _kernel = staticmethod(kernels.huber)

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean", batch_first: bool = False):
        self._parameter = checks.number("delta", delta, above=0.0)
        super().__init__(reduction, batch_first, delta=self._parameter)


class BinaryCrossEntropy(_ElementwiseLoss):
    """-t·log σ(y) - (1 - t)·log(1 - σ(y)) of logits `y` (...) and targets t in [0, 1], floats or booleans.

    A target outside [0, 1], or NaN, at a valid element is a `ValueError`.
    """

    _kernel = staticmethod(kernels.binary_cross_entropy)
    _target_kinds = "fb"

    def __init__(self, *, reduction: str = "mean", batch_first: bool = False):
        super().__init__(reduction, batch_first)

    def _prepare(self, y, dtype, targets, mask, out):
        rows, targets, mask, count = super()._prepare(y, dtype, targets, mask, out)
        wrong = kernels.first_outside_unit(targets, mask)
        if wrong >= 0:
            raise ValueError(f"targets must be in [0, 1] where valid, got {targets.flat[wrong]}")
        return rows, targets, mask, count


class Quantile(_ElementwiseLoss):
    """Pinball loss: quantile τ of a target t costs τ·(t - y) if t > y, and (1 - τ)·(y - t) otherwise.

    Its expectation is least where y is the τ-quantile of t (Koenker & Bassett, "Regression Quantiles", 1978); 0.5 is
    half the absolute error. quantiles: increasing numbers between 0 and 1.

    y (..., F·Q) and targets (..., F) floats, the Q predictions of a target side by side: `y.reshape(..., F, Q)`. Each
    of them is an element, so that "mean" is over the quantiles, too; `mask` has weights of targets.
    """

    _kernel = staticmethod(kernels.pinball)

    def __init__(
        self, quantiles: Sequence[float] = (0.1, 0.5, 0.9), *, reduction: str = "mean", batch_first: bool = False
    ):
        levels = checks.quantiles("quantiles", quantiles)
        self._parameter, self._outputs = np.array(levels), len(levels)
        super().__init__(reduction, batch_first, quantiles=levels)
