"""Layers that change nothing but the loss."""

import numpy as np

from .. import checks
from ..kernels.sequence import activity_gradient, activity_penalty
from .stateless import FloatInput, StatelessWorkspace


class _PenaltyWorkspace(StatelessWorkspace):
    """Keeps the sum of the penalty besides."""

    _penalty = 0.0

    def penalty(self):
        return self._penalty


class ActivityRegularization(FloatInput):
    """The identity, which in training adds Σ l2·x² + l1·|x| to the loss, and its gradient.

    The sum is over all features of all steps up to the sequences' ends, and is divided by what the loss is divided by:
    the number of valid elements for a mean, nothing for a sum. A loss reported by training has the penalty in it, one
    of `evaluate` has not (Merity et al. 2017, "Revisiting Activation Regularization for Language RNNs").

    Rules of `fastrnn.bptt` see to it. In a loop of one's own, `workspace.penalty()` is the sum, and `backward` adds
    its gradient times `workspace.penalty_scale`, which is 0 unless it is set before.
    """

    def __init__(self, l2: float = 0.0, l1: float = 0.0, *, dtype="float32"):
        self.l2 = checks.number("l2", l2, minimum=0)
        self.l1 = checks.number("l1", l1, minimum=0)
        super().__init__({}, dtype)

    def config(self):
        return {"l2": self.l2, "l1": self.l1, "dtype": self.dtype.name}

    def _make_workspace(self, steps, batch):
        return _PenaltyWorkspace(self, steps, batch)

    def _compute(self, x, y, extent, workspace):
        np.copyto(y, x)
        self._clear_padding(y, extent)
        if workspace is None:
            return
        kept = workspace.buffer("kept", y.shape)
        np.copyto(kept, y)  # the caller may write over y
        time, batch, features = self._strides(extent, y)
        workspace._penalty = activity_penalty(kept.reshape(-1), time, batch, features, extent.lengths, self.l2, self.l1)

    def _differentiate(self, dy, dx, extent, workspace):
        x, scale = workspace.buffer("kept", dy.shape), workspace.penalty_scale
        activity_gradient(
            x.reshape(-1), dy.reshape(-1), *self._strides(extent, dy), extent.steps, extent.lengths,
            self.l2 * scale, self.l1 * scale, dx.reshape(-1),
        )  # fmt: skip

    @staticmethod
    def _strides(extent, array):
        features = array.shape[-1]
        return extent.time * features, extent.batch * features, features
