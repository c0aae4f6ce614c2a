"""Layers that treat every number alike: activations and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks, init
from ..kernels.elementwise import relu_layer, sigmoid_layer, tanh_layer
from ..spans import spans
from ..threads import threads_for_elements
from .stateless import FloatInput

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ..types import Seed


_WORK_OF_AN_ELEMENT = 50  # multiply-adds that take as long
_GRAIN = 1024  # elements: whole vectors, whole cache lines


class _Activation(FloatInput):
    """y = φ(x) for (T,B,F) or (B,F) floats."""

    _kernels: tuple[Callable, Callable]  # forward and backward

    def __init__(self, *, dtype: DTypeLike = "float32"):
        super().__init__({}, dtype)

    def config(self) -> dict[str, Any]:
        return {"dtype": self.dtype.name}

    def _compute(self, x, y, extent, workspace):
        _in_spans(self._kernels[0], x, y)
        self._clear_padding(y, extent)
        if workspace is not None:
            np.copyto(workspace.buffer("kept", y.shape), y)  # the caller may write over y, with dy for instance

    def _differentiate(self, dy, dx, extent, workspace):
        y = workspace.buffer("kept", dy.shape)
        _in_spans(self._kernels[1], y, dy, dx)
        self._clear_padding(dx, extent)


class Tanh(_Activation):
    """tanh x."""

    _kernels = tanh_layer


class ReLU(_Activation):
    """max(x, 0); the derivative at 0 is 0, and NaN stays NaN."""

    _kernels = relu_layer


class Sigmoid(_Activation):
    """1 / (1 + e⁻ˣ)."""

    _kernels = sigmoid_layer


class Dropout(FloatInput):
    """Inverted dropout (Srivastava et al. 2014): with a workspace, numbers are zeroed with probability `p` and the
    others divided by 1 − p; without one, nothing is done.

    variational: a sequence's features are dropped at all steps of a forward pass or at none (Gal & Ghahramani 2016).
    """

    def __init__(self, p: float = 0.5, *, variational: bool = False, dtype: DTypeLike = "float32", seed: Seed = None):
        self.p = checks.number("p", p, minimum=0, below=1)
        self.variational = checks.flag("variational", variational)
        self._rng = init.generator(seed)
        super().__init__({}, dtype)

    def config(self) -> dict[str, Any]:
        return {"p": self.p, "variational": self.variational, "dtype": self.dtype.name}

    def _silence(self):
        self.p, self.variational = 0.0, False

    def _mask(self, shape, extent, workspace):
        """The buffer of the factors."""
        if self.variational:
            return workspace.buffer("mask", (extent.batch_size, shape[-1]), workspace.batch)
        return workspace.buffer("mask", shape)

    def _multiply(self, x, mask, out):
        if self.variational:  # a copy at every step, for a product of broadcast arrays would allocate
            np.copyto(out, mask[:, np.newaxis] if self.batch_first and x.ndim == 3 else mask)
            mask = out
        multiply_mask(x, mask, out)

    def _compute(self, x, y, extent, workspace):
        if workspace is None:
            np.copyto(y, x)
        else:
            mask = self._mask(x.shape, extent, workspace)
            draw_dropout(self._rng, self.p, mask)
            self._multiply(x, mask, y)
        self._clear_padding(y, extent)

    def _differentiate(self, dy, dx, extent, workspace):
        self._multiply(dy, self._mask(dy.shape, extent, workspace), dx)
        self._clear_padding(dx, extent)


def _in_spans(kernel, *arrays):
    """Call an activation's kernel for arrays of one size, some elements at a time."""
    arrays = [array.reshape(-1) for array in arrays]
    size = arrays[0].size
    for first, last in spans(size, _WORK_OF_AN_ELEMENT, _GRAIN):
        kernel(*(array[first:last] for array in arrays), threads_for_elements(size))


def draw_dropout(rng, p, mask):
    """Fill `mask` with dropout's factors, 0 with probability `p`, else 1 / (1 − p)."""
    flat = mask.reshape(-1)
    for first, last in spans(flat.size, _WORK_OF_AN_ELEMENT, _GRAIN):
        rng.random(dtype=mask.dtype, out=flat[first:last])
    np.greater_equal(mask, p, out=mask)
    mask *= 1 / (1 - p)


def multiply_mask(x, mask, out):
    """out = x · mask; infinity times a dropped 0 is NaN, as in PyTorch, and no cause for a warning, nor is overflow."""
    with np.errstate(invalid="ignore", over="ignore"):
        np.multiply(x, mask, out=out)
