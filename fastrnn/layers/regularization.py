"""Layers that change nothing but the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..kernels.sequence import activity_gradient, activity_penalty
from .stateless import FloatInput, StatelessWorkspace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_NO_RESETS = np.zeros(0, np.bool_)  # what the kernels take for none


class _PenaltyWorkspace(StatelessWorkspace):
    """Keeps the resets and the sum of the penalty besides."""

    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        self._kept_resets = np.empty(steps * batch, np.bool_)
        self.resets = _NO_RESETS
        self.sum = 0.0

    def penalty(self):
        return self.sum

    def keep_resets(self, resets):
        """A flat copy in the layer's order."""
        if resets is None:
            self.resets = _NO_RESETS
        else:
            self.resets = self._kept_resets[: resets.size]
            self.resets.reshape(resets.shape)[...] = resets


class ActivityRegularization(FloatInput):
    """The identity, which in training adds Σ l2·x² + l1·|x| + slowness·(x_t − x_{t−1})² to the loss.

    These are the activation and temporal activation regularisation of Merity et al. 2017, "Revisiting Activation
    Regularization for Language RNNs". The sum is over all features of all steps up to the sequences' ends; no change is
    counted over a reset, nor from one forward pass to the next. It is divided by what the loss is divided by: the
    number of valid elements for a mean, nothing for a sum. A loss that training reports has the penalty in it, one of
    `evaluate` has not.

    Rules of `fastrnn.bptt` see to it. In a loop of one's own, `workspace.penalty()` is the sum, and `backward` adds
    its gradient times `workspace.penalty_scale`, which is 0 unless it is set before.
    """

    def __init__(self, l2: float = 0.0, l1: float = 0.0, slowness: float = 0.0, *, dtype: DTypeLike = "float32"):
        self.l2 = checks.number("l2", l2, minimum=0)
        self.l1 = checks.number("l1", l1, minimum=0)
        self.slowness = checks.number("slowness", slowness, minimum=0)
        super().__init__({}, dtype)

    def config(self) -> dict[str, Any]:
        return {"l2": self.l2, "l1": self.l1, "slowness": self.slowness, "dtype": self.dtype.name}

    def _make_workspace(self, steps, batch):
        return _PenaltyWorkspace(self, steps, batch)

    def _forward(self, x, state, lengths, resets, workspace):
        workspace.keep_resets(resets)
        return super()._forward(x, state, lengths, resets, workspace)

    def _compute(self, x, y, extent, workspace):
        np.copyto(y, x)
        self._clear_padding(y, extent)
        if workspace is None:
            return
        kept = workspace.buffer("kept", y.shape)
        np.copyto(kept, y)  # the caller may write over y
        workspace.sum = activity_penalty(
            kept.reshape(-1), extent.time, extent.batch, y.shape[-1], extent.lengths, workspace.resets,
            self.l2, self.l1, self.slowness,
        )  # fmt: skip

    def _differentiate(self, dy, dx, extent, workspace):
        x, scale = workspace.buffer("kept", dy.shape), workspace.penalty_scale
        activity_gradient(
            x.reshape(-1), dy.reshape(-1), extent.time, extent.batch, dy.shape[-1], extent.steps, extent.lengths,
            workspace.resets, self.l2 * scale, self.l1 * scale, self.slowness * scale, dx.reshape(-1),
        )  # fmt: skip
