"""The linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks
from ..dispatch import TypedKernel
from ..init import Spec, fill, generator
from ..kernels.layout import STRETCH
from ..kernels.step import dense_step
from ..kernels.weights import DenseWeights
from ..passes import DensePass, PassBuffers, SequenceBatch, view
from ..spans import spans
from ..threads import threads_for
from .compiled import kernel_weights, kernel_workspace
from .stateless import FloatInput, StatelessWorkspace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ..types import Seed, Shapes


class _LinearWorkspace(StatelessWorkspace):
    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        self.plan = SequenceBatch(steps, batch, keep=True)
        self.arrays = PassBuffers(layer._pass, steps, batch, True, 0)


class Linear(FloatInput):
    """y = x Wᵀ + b, for (T,B,I) or (B,I) floats. `weight` (out_features, in_features), `bias` (out_features).

    init: of `weight`, a name or a callable, or a dict by "weight" and "bias": see `fastrnn.init`; None is uniform.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        init: Spec = None,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ):
        self.in_features = checks.integer("in_features", in_features, minimum=1)
        self.out_features = checks.integer("out_features", out_features, minimum=1)
        self.bias = checks.flag("bias", bias)
        rng = generator(seed)
        shapes = self.parameter_shapes(in_features=self.in_features, out_features=self.out_features, bias=self.bias)
        super().__init__(shapes, dtype)
        fill(self.parameters, self.in_features, init, rng)
        self._pass = DensePass(self.parameters, self.in_features, self.out_features)
        self._dense_step = TypedKernel(dense_step)

    @classmethod
    def parameter_shapes(cls, *, in_features: int, out_features: int, bias: bool = True, **_: Any) -> Shapes:
        yield "weight", (out_features, in_features)
        if bias:
            yield "bias", (out_features,)

    def config(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "dtype": self.dtype.name,
        }

    def kernel_weights(self) -> NamedTuple:
        """Weights for `fastrnn.kernels`' `dense_…` functions, as those of the recurrent layers."""
        return kernel_weights(DenseWeights, self._pass)

    def kernel_workspace(self, T: int, B: int, *, threads: int = 1, input_gradient: bool = True) -> NamedTuple:
        """Buffers for `dense_forward` and `dense_backward`, as those of the recurrent layers."""
        return kernel_workspace(self._pass, T, B, 0, threads, input_gradient)

    def _input_features(self):
        return self.in_features

    def _output_features(self, features):
        if features not in (None, self.in_features):
            raise ValueError(f"it takes {self.in_features} features, the layer before gives {features}")
        return self.out_features

    def _output_shape(self, shape):
        return (*shape[:-1], self.out_features)

    def _workspace_bytes(self, steps, batch):
        whole = steps * batch * (self.in_features + self.out_features) * self.dtype.itemsize
        return whole + PassBuffers.count_bytes(self._pass, steps, batch, 0) + SequenceBatch.count_bytes(steps, batch)

    def _inference_bytes(self, steps, batch):
        if self._threads(steps, batch) == 1:
            return 0
        passes = PassBuffers.count_bytes(self._pass, steps, batch, 0, keep=False)
        return passes + SequenceBatch.count_bytes(steps, batch)

    def _threads(self, steps, batch):
        rows = min(steps, STRETCH) * batch  # of a parallel region
        return threads_for(rows * self.in_features * self.out_features)

    def _make_workspace(self, steps, batch):
        return _LinearWorkspace(self, steps, batch)

    def _compute(self, x, y, extent, workspace):
        threads = self._threads(extent.steps, extent.batch_size)
        if workspace is None and threads == 1 and not extent.ragged:  # all rows as those of one step, to the same bits
            weights = self._pass.forward_weights()
            x, y = x.reshape(-1, self.in_features), y.reshape(-1, self.out_features)
            for first, last in spans(len(x), (self.in_features + 1) * (self.out_features + 1)):
                self._dense_step(weights, x[first:last], y[first:last])
            return
        if workspace is None:
            plan = SequenceBatch(extent.steps, extent.batch_size, keep=False)
            arrays = PassBuffers(self._pass, extent.steps, extent.batch_size, False, 0)
        else:
            plan, arrays = workspace.plan, workspace.arrays
        lengths = extent.lengths if extent.ragged else None
        plan.fill(extent.steps, extent.batch_size, lengths, False, threads)
        if extent.ragged:
            y.fill(0)
        first = self.batch_first
        self._pass.forward(view(x, first, 0, x.shape[-1]), view(y, first, 0, y.shape[-1]), plan, arrays)

    def _step(self, x_t, state):
        batch = x_t.shape[0]
        if threads_for(batch * self.in_features * self.out_features) > 1:
            return super()._step(x_t, state)
        y = np.empty((batch, self.out_features), self.dtype)
        self._dense_step(self._pass.forward_weights(), x_t, y)
        return y, None

    def _differentiate(self, dy, dx, extent, workspace):
        if extent.ragged:
            dx.fill(0)
        first = self.batch_first
        self._pass.backward(
            view(dy, first, 0, dy.shape[-1]), view(dx, first, 0, dx.shape[-1]), workspace.plan, workspace.arrays,
            not workspace.state_only,
        )  # fmt: skip
