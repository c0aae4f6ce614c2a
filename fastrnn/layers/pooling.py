"""Layers that sum up a sequence: (T,B,F) → (B,F)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..kernels.elementwise import (
    pool_last,
    pool_last_backward,
    pool_max,
    pool_max_backward,
    pool_mean,
    pool_mean_backward,
)
from .stateless import FloatInput, StatelessWorkspace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class _Pooling(FloatInput):
    _kernels: tuple[Callable, Callable]  # forward and backward
    keeps_steps = False

    def __init__(self, *, dtype: DTypeLike = "float32"):
        super().__init__({}, dtype)

    def config(self) -> dict[str, Any]:
        return {"dtype": self.dtype.name}

    def _check_input(self, x):
        return checks.float_array("x", x, self.dtype, (None, None, None))

    def _output_steps(self, steps):
        if steps is None:
            raise ValueError("it takes sequences: there are none without a time dimension, or after pooling")
        return None

    def _output_shape(self, shape):
        return (shape[0] if self.batch_first else shape[1], shape[2])

    def _compute(self, x, y, extent, workspace):
        features = x.shape[-1]
        self._kernels[0](
            x.reshape(-1), extent.time * features, extent.batch * features, features, extent.lengths, y.reshape(-1),
            *self._kept(y.size, workspace),
        )  # fmt: skip

    def _differentiate(self, dy, dx, extent, workspace):
        features = dx.shape[-1]
        self._kernels[1](
            dy.reshape(-1), extent.time * features, extent.batch * features, features, extent.steps, extent.lengths,
            dx.reshape(-1), *self._kept(dy.size, workspace),
        )  # fmt: skip

    def _kept(self, size, workspace):
        """Further arrays of the kernels: what the backward pass has to know, for an output of this size."""
        return ()


class Last(_Pooling):
    """The last valid step of each sequence. `step` returns its input: so far, it is the last.

    bidirectional: after a bidirectional layer, what each direction gives last: of the first half of the features the
        last valid step, of the second half the first step. That needs the whole sequence: there is no `step`.
    """

    _kernels = pool_last, pool_last_backward

    def __init__(self, *, bidirectional: bool = False, dtype: DTypeLike = "float32"):
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        super().__init__(dtype=dtype)

    def config(self) -> dict[str, Any]:
        return super().config() | ({"bidirectional": True} if self.bidirectional else {})

    @property
    def _no_step(self):
        return "Last with bidirectional=True needs the whole sequence" if self.bidirectional else None

    def _output_features(self, features):
        if self.bidirectional and features is not None and features % 2:
            raise ValueError(f"bidirectional=True needs an even number of features, got {features}")
        return features

    def _check_input(self, x):
        x = super()._check_input(x)
        if self.bidirectional and x.shape[-1] % 2:
            raise ValueError(f"x must have an even number of features for bidirectional=True, got {x.shape[-1]}")
        return x

    def _compute(self, x, y, extent, workspace):
        super()._compute(x, y, extent, workspace)
        if self.bidirectional:
            half = x.shape[-1] // 2
            y[:, half:] = self._time_first(x)[0, :, half:]

    def _differentiate(self, dy, dx, extent, workspace):
        super()._differentiate(dy, dx, extent, workspace)
        if self.bidirectional:
            half, by_step = dx.shape[-1] // 2, self._time_first(dx)
            by_step[extent.lengths - 1, np.arange(extent.batch_size), half:] = 0
            by_step[0, :, half:] = dy[:, half:]

    def _time_first(self, x):
        return x.swapaxes(0, 1) if self.batch_first else x

    def _check_step_input(self, x_t):
        return checks.float_array("x_t", x_t, self.dtype, (None, None))

    def _step(self, x_t, state):
        return x_t.copy(), None


class MeanPool(_Pooling):
    """The mean over each sequence's valid steps."""

    _kernels = pool_mean, pool_mean_backward
    _no_step = "MeanPool needs the whole sequence"


class _MaxPoolWorkspace(StatelessWorkspace):
    """Keeps the steps that the maxima come from besides, (B·F) int64."""

    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        self._steps_of_max = np.empty(0, np.int64)  # allocated when the number of features is known

    def steps_of_max(self, size):
        """The kept steps of `size` maxima."""
        if self._steps_of_max.size < size:
            self._steps_of_max = np.empty(size, np.int64)
        return self._steps_of_max[:size]


class MaxPool(_Pooling):
    """The maximum over each sequence's valid steps, NaN if any is. The gradient goes to the first step that has it."""

    _no_step = "MaxPool needs the whole sequence"
    _kernels = pool_max, pool_max_backward

    def _make_workspace(self, steps, batch):
        return _MaxPoolWorkspace(self, steps, batch)

    def _kept(self, size, workspace):
        return (np.empty(size, np.int64) if workspace is None else workspace.steps_of_max(size),)
