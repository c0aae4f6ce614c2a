"""What layers without a recurrent state share: buffers, lengths, and both ways of being called."""

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np

from .. import checks
from ..kernels.elementwise import clear_padding
from .base import Layer, Workspace, apart


class Extent(NamedTuple):
    """A batch's layout: element (t, b, j) of F features stands at (t·time + b·batch)·F + j; `lengths` (B,) int64."""

    steps: int
    batch_size: int
    time: int
    batch: int
    lengths: np.ndarray
    ragged: bool


def clear_past_ends(array, lengths, batch_first):
    """Zeros in a (T,B,F) array, or (B,T,F), past each sequence's end; (B,F) are left as they are."""
    if array.ndim < 3:
        return
    steps, batch, features = (array.shape[i] for i in ((1, 0, 2) if batch_first else (0, 1, 2)))
    time, row = (1, steps) if batch_first else (batch, 1)
    clear_padding(array.reshape(-1), time * features, row * features, features, steps, lengths)


class _Record(NamedTuple):
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch: int
    extent: Extent


class StatelessWorkspace(Workspace):
    """Buffers of a layer without state: output, gradient of the input and what the layer adds."""

    output_rows = None  # T·B, or as many as there can be where the layer makes others of them

    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        self.lengths = np.empty(batch, np.int64)

    def output(self, shape):
        """The output buffer in `shape`."""
        return self.buffer("y", shape, self.output_rows)

    def input_gradient(self, shape):
        """The buffer of dx in `shape`."""
        return self.buffer("dx", shape)


class Stateless(Layer):
    """A layer that treats all steps alike, or sums them up. `forward` returns None for the state."""

    def _extent_of(self, x, lengths, buffer):
        """The `Extent` of a checked input; `lengths` go into `buffer`."""
        steps, batch = self._extent(x)
        stored = buffer[:batch]
        stored[...] = steps if lengths is None else lengths
        sequence = x.ndim > self._step_dimensions()
        time, row = (1, steps) if self.batch_first and sequence else (batch, 1)
        return Extent(steps, batch, time, row, stored, lengths is not None)

    def _check_room(self, x, given):
        if not given:
            shape = self._output_shape(x.shape)
            size = math.prod(shape) * self.dtype.itemsize
            checks.memory(f"the output of shape {shape}", size + self._inference_bytes(*self._extent(x)))

    def _infer(self, x, state, lengths, resets, out=None):
        extent = self._extent_of(x, lengths, np.empty(self._extent(x)[1], np.int64))
        y = np.empty(self._output_shape(x.shape), self.dtype) if out is None else out
        self._compute(x, y, extent, None)
        return y, None

    def _forward(self, x, state, lengths, resets, workspace):
        extent = self._extent_of(x, lengths, workspace.lengths)
        y = workspace.output(self._output_shape(x.shape))
        self._compute(apart(x, y), y, extent, workspace)
        workspace.record = _Record(x.shape, y.shape, extent.batch_size, extent)
        return y, None

    def _backward(self, dy, dstate, workspace):
        record = workspace.record
        dx = workspace.input_gradient(record.input_shape)
        self._differentiate(apart(dy, dx), dx, record.extent, workspace)
        return dx, None

    def _step(self, x_t, state):
        return self._infer(x_t, None, None, None)

    def _clear_padding(self, array, extent):
        if extent.ragged:
            clear_past_ends(array, extent.lengths, self.batch_first)

    def _make_workspace(self, steps, batch):
        return StatelessWorkspace(self, steps, batch)

    def _workspace_bytes(self, steps, batch):
        return 2 * steps * batch * self.dtype.itemsize

    def _output_shape(self, shape):
        return shape

    def _output_features(self, features):
        return features

    @abstractmethod
    def _compute(self, x, y, extent, workspace):
        """y from x; `workspace` is None at inference."""

    def _differentiate(self, dy, dx, extent, workspace):
        """dx from dy and what `workspace` kept; parameter gradients are added. Not for integer input, without a dx."""


class FloatInput(Stateless):
    """A stateless layer over (T,B,F), (B,T,F) or (B,F) floats."""

    def _check_input(self, x):
        x = checks.as_array("x", x)
        if x.ndim not in (2, 3):
            raise ValueError(f"x must have 2 or 3 dimensions, got {x.ndim}")
        return checks.float_array("x", x, self.dtype, (None,) * (x.ndim - 1) + (self._input_features(),))

    def _check_step_input(self, x_t):
        return checks.float_array("x_t", x_t, self.dtype, (None, self._input_features()))
