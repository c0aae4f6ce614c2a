"""The output-recurrent net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks
from ..init import Spec, fill, generator
from ..kernels import jordan as kernels
from ..kernels.memory import aligned_empty
from ..spans import spans
from ..sums import add_to
from .base import Layer, Workspace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ..types import Seed, Shapes

_KINDS = {None: kernels.IDENTITY, "tanh": kernels.TANH, "relu": kernels.RELU, "sigmoid": kernels.SIGMOID}
_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "weight_ho_l0")
_BIASES = ("bias_ih_l0", "bias_ho_l0")
_NO_RESETS = np.zeros((0, 0), np.bool_)
_ROWS_OF_A_SUM = 512  # that a gradient is summed over before it goes into float64
_WORK_OF_A_PRODUCT = 4  # as much time as so many multiply-adds of the other layers
_WORK_OF_A_UNIT = 25  # products that take as long as its nonlinearity


class _Record(NamedTuple):
    output_shape: tuple[int, ...]
    batch: int
    steps: int
    lengths: np.ndarray
    resets: np.ndarray


class _JordanWorkspace(Workspace):
    """Buffers of T·B rows each, time first: input, fed-back outputs, hidden units, outputs, and all their gradients."""

    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        sizes = {"x": layer.input_size, "before": layer.output_size, "h": layer.hidden_size, "y": layer.output_size}
        sizes |= {"out": sizes["y"], "dy": sizes["y"], "dx": sizes["x"], "dx out": sizes["x"], "dz": sizes["h"]}
        self._sizes = sizes | {"dz out": sizes["y"]}
        self._buffers = {name: aligned_empty(steps * batch * size, layer.dtype) for name, size in self._sizes.items()}
        outputs = batch * layer.output_size
        self._rows = {name: aligned_empty(outputs, layer.dtype) for name in ("initial", "final", "carry")}
        self._lengths = np.empty(batch, np.int64)
        self._resets = np.empty(steps * batch, np.bool_)
        # of each parameter: the gradient of some rows, and the sum of such in float64; work space of a backward pass
        self.sums = {
            name: (np.empty(shape, layer.dtype), np.empty(shape, np.float64))
            for name, shape in layer.parameters.shapes.items()
        }

    def array(self, name, steps, batch, batch_first=False):
        """A buffer as (T,B,·), or as (B,T,·)."""
        size = self._sizes[name]
        shape = (batch, steps, size) if batch_first else (steps, batch, size)
        return self._buffers[name][: steps * batch * size].reshape(shape)

    def row(self, name, batch):
        """A buffer (B,O)."""
        size = self.layer.output_size
        return self._rows[name][: batch * size].reshape(batch, size)

    def states(self):
        """The state after every step of the last forward pass: a list with a dict of "y", in the shape of the output,
        zero past a sequence's end."""
        return [{"y": self._recorded("states", "y")}]

    def gates(self):
        """The hidden units in the last forward pass, "h", in the form of `states`."""
        return [{"h": self._recorded("gates", "h")}]

    def states_before(self, steps, rows):
        """The state before each of the pairs of a step and a batch index, in the form of a batch's state."""
        return _time_first(self.layer, self._recorded("states_before", "before"))[steps, rows][np.newaxis]

    def _recorded(self, what, name):
        """A copy of a buffer, in the layer's order."""
        if self.record is None:
            raise ValueError(f"{what} needs a forward pass recorded in the workspace")
        kept = self.array(name, self.record.steps, self.record.batch)
        return np.array(_time_first(self.layer, kept), order="C")

    def keep(self, steps, batch, lengths, resets):
        """Copies of `lengths`, and of `resets` with time first, in the form the kernels take."""
        kept = self._lengths[:batch]
        kept[...] = steps if lengths is None else lengths
        if resets is None:
            return kept, _NO_RESETS
        kept_resets = self._resets[: steps * batch].reshape(steps, batch)
        kept_resets[...] = _time_first(self.layer, resets)
        return kept, kept_resets


def _time_first(layer, array):
    return np.moveaxis(array, 1, 0) if layer.batch_first else array


class Jordan(Layer):
    """The net whose output is fed back (Jordan 1986): hidden units see the input and the output of the step before.

    h_t = φ(W_ih x_t + b_ih + W_hh y_{t−1}); y_t = ψ(W_ho h_t + b_ho). No hidden unit sees another: all that is
    remembered goes through the outputs. (T,B,I) → (T,B,O); the state is y, (1,B,O).

    nonlinearity: φ, "tanh", "relu" or "sigmoid". output_nonlinearity: ψ, "tanh", "sigmoid" or None for the identity.
    State dict: `weight_ih_l0` (H,I), `weight_hh_l0` (H,O), `weight_ho_l0` (O,H), `bias_ih_l0` (H), `bias_ho_l0` (O).
    It runs on one thread, and takes real input alone: tokens go through `OneHot` or `Embedding` first.
    """

    stateful = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        nonlinearity: str = "tanh",
        output_nonlinearity: str | None = None,
        bias: bool = True,
        batch_first: bool = False,
        init: Spec = None,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ):
        self.input_size = checks.integer("input_size", input_size, minimum=1)
        self.hidden_size = checks.integer("hidden_size", hidden_size, minimum=1)
        self.output_size = checks.integer("output_size", output_size, minimum=1)
        self.nonlinearity = checks.choice("nonlinearity", nonlinearity, ("tanh", "relu", "sigmoid"))
        if output_nonlinearity is not None:
            output_nonlinearity = checks.choice("output_nonlinearity", output_nonlinearity, ("tanh", "sigmoid"))
        self.output_nonlinearity = output_nonlinearity
        self.bias = checks.flag("bias", bias)
        self.batch_first = checks.flag("batch_first", batch_first)
        rng = generator(seed)
        super().__init__(self.parameter_shapes(**self._sizes()), dtype)
        fill(self.parameters, self.hidden_size, init, rng)
        self._kinds = _KINDS[self.nonlinearity], _KINDS[self.output_nonlinearity]
        self._packed = None  # (version, transposed weights, biases)

    def _sizes(self):
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "output_size": self.output_size,
            "bias": self.bias,
        }

    @classmethod
    def parameter_shapes(
        cls, *, input_size: int, hidden_size: int, output_size: int, bias: bool = True, **_: Any
    ) -> Shapes:
        shapes = ((hidden_size, input_size), (hidden_size, output_size), (output_size, hidden_size))
        yield from zip(_WEIGHTS, shapes, strict=True)
        if bias:
            yield from zip(_BIASES, ((hidden_size,), (output_size,)), strict=True)

    def config(self) -> dict[str, Any]:
        return {
            **self._sizes(),
            "nonlinearity": self.nonlinearity,
            "output_nonlinearity": self.output_nonlinearity,
            "batch_first": self.batch_first,
            "dtype": self.dtype.name,
        }

    # checks

    def _input_features(self):
        return self.input_size

    def _output_features(self, features):
        if features not in (None, self.input_size):
            raise ValueError(f"it takes {self.input_size} features, the layer before gives {features}")
        return self.output_size

    def _check_input(self, x):
        return checks.float_array("x", x, self.dtype, (None, None, self.input_size))

    def _check_step_input(self, x_t):
        return checks.float_array("x_t", x_t, self.dtype, (None, self.input_size))

    def _check_state(self, name, state, batch):
        return None if state is None else checks.float_array(name, state, self.dtype, (1, batch, self.output_size))

    def _begin_anew(self, state, resets):
        return np.where(resets[:, np.newaxis], self.dtype.type(0), state)

    def _with_batch(self, name, state):
        if state is None:
            return None
        state = checks.as_array(name, state)
        if state.ndim != 2:
            raise ValueError(f"{name} of a single stream must have 2 dimensions, got {state.ndim}")
        return state[:, np.newaxis]

    def _without_batch(self, state):
        return state[:, 0]

    def _check_room(self, x, given):
        steps, batch = self._extent(x)
        size = 0 if given else steps * batch * self.output_size * self.dtype.itemsize
        checks.memory(f"inference for T={steps}, B={batch}", size + self._inference_bytes(steps, batch))

    def _inference_bytes(self, steps, batch):
        once = batch * (3 * self.output_size + self.hidden_size)
        turned = steps * batch * (self.input_size + self.output_size) if self.batch_first else 0
        return (once + turned) * self.dtype.itemsize

    def _workspace_bytes(self, steps, batch):
        numbers = 3 * self.input_size + 2 * self.hidden_size + 5 * self.output_size
        return steps * batch * numbers * self.dtype.itemsize + self.parameters.values.size * (8 + self.dtype.itemsize)

    def _make_workspace(self, steps, batch):
        return _JordanWorkspace(self, steps, batch)

    # the work

    def _forward_weights(self):
        """Transposed weights and both biases: never stale."""
        packed = self._packed
        if packed is None or packed[0] != self.parameters.version:
            version, tensor = self.parameters.version, self.parameters.tensor
            weights = tuple([np.ascontiguousarray(tensor(name).T) for name in _WEIGHTS])
            if self.bias:
                biases = tuple([tensor(name) for name in _BIASES])
            else:
                biases = np.zeros(self.hidden_size, self.dtype), np.zeros(self.output_size, self.dtype)
            packed = self._packed = version, weights, biases
        return packed[1:]

    def _blocks(self, steps, batch):
        """Slices of the steps, one after the other, and of the batch: of a step that takes long some rows at a time."""
        products = self.hidden_size * (self.input_size + 2 * self.output_size + _WORK_OF_A_UNIT)
        work = _WORK_OF_A_PRODUCT * batch * products
        for first, last in spans(steps, work):
            for begin, end in spans(batch, work / batch) if last - first == 1 else ((0, batch),):
                yield slice(first, last), slice(begin, end)

    def _compute(self, x, state, lengths, resets, before, h, y, final):
        steps, batch, _ = x.shape
        for now, rows in self._blocks(steps, batch):
            kept = [array[now if len(array) == steps else slice(None), rows] for array in (before, h)]
            kernels.jordan_forward(
                x[now, rows], (y[now.start - 1] if now.start else state)[rows], lengths[rows] - now.start,
                resets[now, rows], *self._forward_weights(), self._kinds, *kept, y[now, rows], final[rows],
            )  # fmt: skip

    def _infer(self, x, state, lengths, resets, out=None):
        steps, batch = self._extent(x)
        lengths = np.full(batch, steps) if lengths is None else lengths
        resets = _NO_RESETS if resets is None else np.ascontiguousarray(_time_first(self, resets))
        if out is None or self.batch_first:  # the kernel has time first
            y = np.empty((steps, batch, self.output_size), self.dtype)
        else:
            y = out
        before, final = np.empty((1, *y.shape[1:]), self.dtype), np.empty(y.shape[1:], self.dtype)
        initial = np.zeros(final.shape, self.dtype) if state is None else state[0]
        h = np.empty((1, batch, self.hidden_size), self.dtype)
        x = np.ascontiguousarray(_time_first(self, x))
        self._compute(x, initial, lengths, resets, before, h, y, final)
        return np.ascontiguousarray(_time_first(self, y)), final[np.newaxis]

    def _forward(self, x, state, lengths, resets, ws):
        steps, batch = self._extent(x)
        kept, kept_resets = ws.keep(steps, batch, lengths, resets)
        x_kept, before, h, y = (ws.array(name, steps, batch) for name in ("x", "before", "h", "y"))
        x_kept[...] = _time_first(self, x)
        if lengths is not None:  # what is past the end must not get into the weights' gradients, by 0 · NaN
            for b, length in enumerate(lengths):
                x_kept[length:, b] = 0
        initial, final = ws.row("initial", batch), ws.row("final", batch)
        initial[...] = 0 if state is None else state[0]  # a copy: it may be the last call's final state
        self._compute(x_kept, initial, kept, kept_resets, before, h, y, final)
        out = ws.array("out", steps, batch, self.batch_first)
        _time_first(self, out)[...] = y
        ws.record = _Record(out.shape, batch, steps, kept, kept_resets)
        return out, final[np.newaxis]

    def _backward(self, dy, dstate, ws):
        record = ws.record
        steps, batch = record.steps, record.batch
        h, y, dy_kept, dx, dz, dz_out = (
            ws.array(name, steps, batch) for name in ("h", "y", "dy", "dx", "dz", "dz out")
        )
        dy_kept[...] = _time_first(self, dy)
        carry = ws.row("carry", batch)
        carry[...] = 0 if dstate is None else dstate[0]
        weights = tuple([self.parameters.tensor(name) for name in _WEIGHTS])
        for span, rows in self._blocks(steps, batch):
            first, now = steps - span.stop, (slice(steps - span.stop, steps - span.start), rows)
            lengths, d_state = record.lengths[rows], carry[rows]
            kernels.jordan_backward(
                dy_kept[now], lengths - first, record.resets[now], weights, self._kinds, ws.carry_factor, h[now],
                y[now], dx[now], dz[now], dz_out[now], d_state,
            )  # fmt: skip
            if first > 0:
                d_state[lengths > first] *= ws.carry_factor
        if not ws.state_only:
            self._accumulate_gradients(ws, steps, batch)
        if not self.batch_first:
            return dx, carry[np.newaxis]
        out = ws.array("dx out", steps, batch, True)
        _time_first(self, out)[...] = dx
        return out, carry[np.newaxis]

    def _accumulate_gradients(self, ws, steps, batch):
        gradient = self.parameters.gradient
        rows = {
            name: ws.array(kept, steps, batch).reshape(steps * batch, -1)
            for name, kept in zip(_WEIGHTS, ("x", "before", "h"), strict=True)
        }
        sums = [ws.array(name, steps, batch).reshape(steps * batch, -1) for name in ("dz", "dz out")]
        jobs = [
            (kernels.add_outer_products, name, (part, rows[name]))
            for name, part in zip(_WEIGHTS, (sums[0], sums[0], sums[1]), strict=True)
        ]
        if self.bias:
            jobs += [(kernels.add_rows, name, (part,)) for name, part in zip(_BIASES, sums, strict=True)]
        for add, name, factors in jobs:
            target = gradient(name)
            block, total = ws.sums[name]
            total.fill(0)
            for first in range(0, steps * batch, _ROWS_OF_A_SUM):
                block.fill(0)
                add(*[factor[first : first + _ROWS_OF_A_SUM] for factor in factors], block)
                add_to(total, block)
            add_to(target, total)

    def _states_before(self, workspace, steps, rows):
        return workspace.states_before(steps, rows)

    def _step(self, x_t, state):
        y, state = self._infer(np.expand_dims(x_t, 1 if self.batch_first else 0), state, None, None)
        return y.reshape(x_t.shape[0], -1), state
