"""Layers that treat every number alike: activations and dropout."""

import numpy as np

from .. import checks, init
from ..kernels.elementwise import relu_layer, sigmoid_layer, tanh_layer
from ..threads import threads_for_elements
from .stateless import FloatInput, StatelessWorkspace


class _Activation(FloatInput):
    """y = φ(x) for (T,B,F) or (B,F) floats."""

    _kernels = None  # forward and backward

    def __init__(self, *, dtype="float32"):
        super().__init__({}, dtype)

    def config(self):
        return {"dtype": self.dtype.name}

    def _compute(self, x, y, extent, workspace):
        self._kernels[0](x.reshape(-1), y.reshape(-1), threads_for_elements(x.size))
        self._clear_padding(y, extent)

    def _differentiate(self, dy, dx, extent, workspace):
        y = workspace.output(dy.shape)
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


class _DropoutWorkspace(StatelessWorkspace):
    mask = None  # (T·B·F) factors, 0 or 1 / (1 − p); allocated at the first call

    def factors(self, shape):
        self.mask = self._grown(self.mask, shape)
        return self.mask[: int(np.prod(shape))].reshape(shape)


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
        return _DropoutWorkspace(self, steps, batch)

    def _compute(self, x, y, extent, workspace):
        if workspace is None:
            np.copyto(y, x)
        else:
            mask = workspace.factors(x.shape)
            draw_dropout(self._rng, self.p, mask)
            multiply_mask(x, mask, y)
        self._clear_padding(y, extent)

    def _differentiate(self, dy, dx, extent, workspace):
        multiply_mask(dy, workspace.factors(dy.shape), dx)
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
