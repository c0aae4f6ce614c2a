"""Layers that treat every number alike: activations and dropout."""

import math

import numpy as np

from .. import checks, init
from ..kernels.elementwise import relu_layer, sigmoid_layer, tanh_layer
from ..threads import threads_for_elements
from .stateless import FloatInput, StatelessWorkspace


class _KeepingWorkspace(StatelessWorkspace):
    """Keeps (T·B·F) numbers besides, allocated at the first call: an activation's y, dropout's factors."""

    _kept = None

    def kept(self, shape):
        """The buffer in `shape`."""
        self._kept = self._grown(self._kept, shape)
        return self._kept[: math.prod(shape)].reshape(shape)


class _Activation(FloatInput):
    """y = φ(x) for (T,B,F) or (B,F) floats."""

    _kernels = None  # forward and backward

    def __init__(self, *, dtype="float32"):
        super().__init__({}, dtype)

    def config(self):
        return {"dtype": self.dtype.name}

    def _make_workspace(self, steps, batch):
        return _KeepingWorkspace(self, steps, batch)

    def _compute(self, x, y, extent, workspace):
        self._kernels[0](x.reshape(-1), y.reshape(-1), threads_for_elements(x.size))
        self._clear_padding(y, extent)
        if workspace is not None:
            np.copyto(workspace.kept(y.shape), y)  # the caller may write over y, with its gradient for instance

    def _differentiate(self, dy, dx, extent, workspace):
        y = workspace.kept(dy.shape)
        self._kernels[1](y.reshape(-1), dy.reshape(-1), dx.reshape(-1), threads_for_elements(dy.size))
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
    others divided by 1 − p; without one, nothing is done."""

    def __init__(self, p: float = 0.5, *, dtype="float32", seed=None):
        self.p = checks.number("p", p, minimum=0, below=1)
        self._rng = init.generator(seed)
        super().__init__({}, dtype)

    def config(self):
        return {"p": self.p, "dtype": self.dtype.name}

    def _make_workspace(self, steps, batch):
        return _KeepingWorkspace(self, steps, batch)

    def _compute(self, x, y, extent, workspace):
        if workspace is None:
            np.copyto(y, x)
        else:
            mask = workspace.kept(x.shape)
            draw_dropout(self._rng, self.p, mask)
            multiply_mask(x, mask, y)
        self._clear_padding(y, extent)

    def _differentiate(self, dy, dx, extent, workspace):
        multiply_mask(dy, workspace.kept(dy.shape), dx)
        self._clear_padding(dx, extent)


def draw_dropout(rng, p, mask):
    """Fill `mask` with dropout's factors, 0 with probability `p`, else 1 / (1 − p)."""
    rng.random(dtype=mask.dtype, out=mask)
    np.greater_equal(mask, p, out=mask)
    mask *= 1 / (1 - p)


def multiply_mask(x, mask, out):
    """out = x · mask; infinity times a dropped 0 is NaN, as in PyTorch, and no cause for a warning."""
    with np.errstate(invalid="ignore"):
        np.multiply(x, mask, out=out)
