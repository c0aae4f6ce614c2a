"""Layers over integer input: embeddings and one-hot vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..init import Spec, fill, generator
from ..kernels.embedding import look_up, one_hot, order_tokens, scatter_add
from ..spans import spans
from ..threads import threads_for_elements
from .stateless import Stateless, StatelessWorkspace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ..types import Seed, Shapes


_ORDERING = 2000  # multiply-adds' time for a token that is placed far from the last one, perhaps in new memory
_GRAIN = 16  # columns, a cache line of float32, that the gradient is at least computed for at once


class _TokenWorkspace(StatelessWorkspace):
    """Keeps the tokens besides, (T·B) int64."""

    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        self._tokens = np.empty(steps * batch, np.int64)

    def tokens(self, x):
        """A kept copy of the integers `x`, flat."""
        kept = self._tokens[: x.size]
        kept.reshape(x.shape)[...] = x
        return kept


class _EmbeddingWorkspace(_TokenWorkspace):
    """Has room for the gradient besides, see `kernels.embedding`: ends (V,), order (T·B,) int64."""

    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        self.ends, self.order = np.empty(layer.num_embeddings, np.int64), np.empty_like(self._tokens)


class _TokenInput(Stateless):
    """A layer that takes (T,B) integers from 0 to `self._classes` − 1, or (B,T) with `batch_first`."""

    def _step_dimensions(self, x=None):
        return 1

    def _check_input(self, x):
        return checks.integers("x", x, 2)

    def _check_step_input(self, x_t):
        x_t = checks.integers("x_t", x_t, 1)
        self._check_values("x_t", x_t, None)
        return x_t

    def _check_values(self, name, x, lengths):
        """Every token before its sequence's end must be known; the padding is not read."""
        checks.tokens(name, x, lengths, self.batch_first, self._classes)

    def _make_workspace(self, steps, batch):
        return _TokenWorkspace(self, steps, batch)

    def _workspace_bytes(self, steps, batch):
        return steps * batch * (8 + self._output_features(None) * self.dtype.itemsize)

    def _tokens(self, x, workspace):
        if workspace is not None:
            return workspace.tokens(x)
        return np.ascontiguousarray(x, np.int64).reshape(-1)

    def _output_shape(self, shape):
        return (*shape, self._output_features(None))

    def _blocks(self, tokens, values, extent):
        """Blocks of steps, none of which takes long: tokens, time, batch, steps, lengths, and the values (…,E)."""
        features = values.shape[-1]
        values = values.reshape(-1)
        for first, last in spans(extent.steps, 10 * extent.batch_size * features):
            begin, steps = first * extent.time, last - first
            lengths = np.clip(extent.lengths - first, 0, steps) if steps < extent.steps else extent.lengths
            yield tokens[begin:], extent.time, extent.batch, steps, lengths, values[begin * features :]


class Embedding(_TokenInput):
    """Rows of a table looked up by integers: (T,B) → (T,B,E). `weight` (num_embeddings, embedding_dim).

    init: of `weight`, a name or a callable: see `fastrnn.init`; None is normal.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        init: Spec = None,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ):
        self.num_embeddings = checks.integer("num_embeddings", num_embeddings, minimum=1)
        self.embedding_dim = checks.integer("embedding_dim", embedding_dim, minimum=1)
        rng = generator(seed)
        shapes = self.parameter_shapes(num_embeddings=self.num_embeddings, embedding_dim=self.embedding_dim)
        super().__init__(shapes, dtype)
        fill(self.parameters, self.embedding_dim, init, rng, default="normal")

    @classmethod
    def parameter_shapes(cls, *, num_embeddings: int, embedding_dim: int, **_: Any) -> Shapes:
        yield "weight", (num_embeddings, embedding_dim)

    @property
    def _classes(self):
        return self.num_embeddings

    def config(self) -> dict[str, Any]:
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "dtype": self.dtype.name,
        }

    def _output_features(self, features):
        return self.embedding_dim

    def _make_workspace(self, steps, batch):
        return _EmbeddingWorkspace(self, steps, batch)

    def _workspace_bytes(self, steps, batch):
        return super()._workspace_bytes(steps, batch) + 8 * (steps * batch + self.num_embeddings)

    def _compute(self, x, y, extent, workspace):
        tokens = self._tokens(x, workspace)
        weight = self.parameters.tensor("weight")
        for *block, values in self._blocks(tokens, y, extent):
            look_up(*block, weight, values, threads_for_elements(y.size))

    def _backward(self, dy, dstate, workspace):
        extent = workspace.record.extent
        gradient = self.parameters.gradient("weight")
        ends, order = workspace.ends, workspace.order
        block = workspace._tokens, extent.time, extent.batch, extent.steps, extent.lengths
        size = extent.steps * extent.batch_size
        for begin in 0, size:  # to count takes less time than to place
            for first, last in spans(size, _ORDERING):
                order_tokens(*block, ends, order, begin + first, begin + last)
        threads = threads_for_elements(dy.size)
        for first, last in spans(self.embedding_dim, 10 * extent.steps * extent.batch_size, grain=_GRAIN):
            scatter_add(ends, order, dy.reshape(-1), gradient, first, last, threads)
        return None, None


class OneHot(_TokenInput):
    """One-hot vectors of integers: (T,B) → (T,B,num)."""

    def __init__(self, num: int, *, dtype: DTypeLike = "float32"):
        self.num = checks.integer("num", num, minimum=1)
        super().__init__({}, dtype)

    @property
    def _classes(self):
        return self.num

    def config(self) -> dict[str, Any]:
        return {"num": self.num, "dtype": self.dtype.name}

    def _output_features(self, features):
        return self.num

    def _compute(self, x, y, extent, workspace):
        for *block, values in self._blocks(self._tokens(x, workspace), y, extent):
            one_hot(*block, self.num, values)

    def _backward(self, dy, dstate, workspace):
        return None, None
