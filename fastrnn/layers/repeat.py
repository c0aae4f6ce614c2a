"""The layer that makes a sequence of a vector: (B,F) → (T,B,F)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..kernels.sequence import sum_over_steps
from .stateless import FloatInput, StatelessWorkspace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class Repeat(FloatInput):
    """The same vector at each of `steps` steps: (B,F) → (steps,B,F), or (B,steps,F) with `batch_first`.

    First in a model, what makes it one-to-many; after pooling, the bridge of a sequence autoencoder: LSTM → Last →
    Repeat → LSTM. All its steps are valid, whatever `lengths` the sequences before the pooling had.
    """

    keeps_steps = False

    def __init__(self, steps: int, *, dtype: DTypeLike = "float32"):
        self.steps = checks.integer("steps", steps, minimum=1)
        super().__init__({}, dtype)

    def config(self) -> dict[str, Any]:
        return {"steps": self.steps, "dtype": self.dtype.name}

    _no_step = "Repeat makes a whole sequence"

    def _check_input(self, x):
        return checks.float_array("x", x, self.dtype, (None, None))

    def _output_steps(self, steps):
        if steps is not None:
            raise ValueError("it takes vectors without a time dimension, and gets sequences")
        return self.steps

    def _output_shape(self, shape):
        batch, features = shape
        return (batch, self.steps, features) if self.batch_first else (self.steps, batch, features)

    def _make_workspace(self, steps, batch):
        workspace = StatelessWorkspace(self, steps, batch)
        workspace.output_rows = self.steps * batch
        return workspace

    def _workspace_bytes(self, steps, batch):
        return (self.steps + 1) * batch * self.dtype.itemsize

    def _compute(self, x, y, extent, workspace):
        np.copyto(y, x[:, np.newaxis] if self.batch_first else x)

    def _differentiate(self, dy, dx, extent, workspace):
        batch, features = dx.shape
        time, row = (1, self.steps) if self.batch_first else (batch, 1)
        sum_over_steps(dy.reshape(-1), time, row, features, self.steps, dx.reshape(-1))
