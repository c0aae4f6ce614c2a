"""RNN, GRU and LSTM: stacks of passes over one cell."""

import math
import operator
from typing import NamedTuple

import numpy as np

from .. import checks, init
from ..dispatch import TypedKernel
from ..kernels.cells import CELLS
from ..kernels.packing import Weights
from ..kernels.step import RNN_WEIGHTS, layer_steps
from ..parameters import aligned_empty
from ..passes import PassBuffers, RecurrentPass, SequenceBatch, split_by_units, threads_by_units, view
from ..threads import threads_for
from .base import Layer, Workspace, apart
from .elementwise import draw_dropout, multiply_mask

_PASS_BYTES = 8192  # about what the Python objects of a layer and direction take
_STEP_WORK = 4_000_000  # multiply-adds of a layer's step that one thread has done before the forward pass would have


class _Record(NamedTuple):
    """What the backward pass has to know of the forward pass."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch: int


def _lay_out(layer, steps, batch, lengths, plan):
    """Lay out a batch in `plan`, with the threads that one pass over it is worth."""
    depth = layer.hidden_size + max(layer.input_size, layer.hidden_size)
    threads = threads_for(steps * batch * layer.gates * layer.hidden_size * depth)
    by_units = threads > 1 and split_by_units(batch, layer.hidden_size, layer.gates, threads)
    if by_units:
        threads = threads_by_units(batch, layer.hidden_size, layer.gates, depth, layer.dtype, threads)
    else:
        threads = min(threads, batch)
    plan.fill(steps, batch, lengths, by_units and threads > 1, threads)
    return plan


def _same_start(view, array):
    return view.base is not None and view.ctypes.data == array.ctypes.data


class RecurrentWorkspace(Workspace):
    """Buffers of a recurrent layer: about 4 to 8 numbers a step, row and unit in each layer and direction."""

    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        dtype, directions, hidden = layer.dtype, layer.directions, layer.hidden_size
        features = directions * hidden
        states = layer.cell.states
        self.plan = SequenceBatch(steps, batch, keep=True)
        self.passes = [PassBuffers(p, steps, batch, True, states) for p in layer.passes]
        # outputs of every layer, (T,B,D·H) in the caller's order: y of the last, input of the next of the others
        self.outputs = [aligned_empty(steps * batch * features, dtype) for _ in range(layer.num_layers)]
        # gradients of those outputs between two layers, in turn, and of the input
        between = steps * batch * features if layer.num_layers > 1 else 0
        self.d_outputs = [aligned_empty(between, dtype) for _ in range(min(2, layer.num_layers - 1))]
        self.d_input = aligned_empty(steps * batch * layer.input_size, dtype)
        drops = layer.num_layers - 1 if layer.dropout > 0 else 0
        self.masks = [np.empty(steps * batch * features, dtype) for _ in range(drops)]  # 0 or 1 / (1 − dropout)
        size = layer.num_layers * directions * batch * hidden
        self.final = tuple(aligned_empty(size, dtype) for _ in range(states))
        self.d_initial = tuple(aligned_empty(size, dtype) for _ in range(states))
        self.zeros = np.zeros(size, dtype)
        self.returned = ()  # the final state as the last forward pass gave it out
        self._layout = None

    def layout(self, steps, batch):
        """The `_Layout` for a batch of this size; made anew when the size has changed."""
        kept, batch_first = self._layout, self.layer.batch_first
        if kept is None or kept.steps != steps or kept.batch != batch or kept.batch_first != batch_first:
            kept = self._layout = _Layout(self, steps, batch)
        return kept


class _Layout:
    """A workspace's arrays as a batch of `steps` by `batch` has them, and the views of them that the passes take.

    Lists have an entry a layer, or where they say so a pass, that is a layer and direction.
    """

    def __init__(self, workspace, steps, batch):
        layer = workspace.layer
        self.steps, self.batch, self.batch_first = steps, batch, layer.batch_first
        shape = layer._sequence_shape(steps, batch, layer.directions * layer.hidden_size)
        state_shape = layer._state_shape(batch)

        def shaped(buffers, shape):
            return [buffer[: math.prod(shape)].reshape(shape) for buffer in buffers]

        self.outputs = shaped(workspace.outputs, shape)
        self.masks = shaped(workspace.masks, shape)
        between = shaped(workspace.d_outputs, shape)
        d_input = shaped([workspace.d_input], layer._sequence_shape(steps, batch, layer.input_size))
        self.d_inputs = d_input + [between[n % len(between)] for n in range(1, layer.num_layers)]
        self.output_views = [view for y in self.outputs for view in layer._views(y)]  # of passes
        self.input_views = [layer._whole(y) for y in self.outputs[:-1]]  # of the layers past the first
        self.d_input_views = [layer._whole(dx) for dx in self.d_inputs]
        self.final = tuple(shaped(workspace.final, state_shape))
        self.d_initial = tuple(shaped(workspace.d_initial, state_shape))
        # of passes
        self.final_rows = layer._row_states(self.final)
        self.d_initial_rows = layer._row_states(self.d_initial)
        self.zero_rows = layer._zero_rows(workspace.zeros, batch)


class _Recurrent(Layer):
    """A stack of `num_layers` recurrent layers in one or two directions."""

    stateful = True
    gates = None  # of the cell

    def __init__(
        self, cell, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
    ):
        self.cell = CELLS[cell]
        self.input_size = checks.integer("input_size", input_size, minimum=1)
        self.hidden_size = checks.integer("hidden_size", hidden_size, minimum=1)
        self.num_layers = checks.integer("num_layers", num_layers, minimum=1)
        self.bias = checks.flag("bias", bias)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.dropout = checks.number("dropout", dropout, minimum=0, below=1)
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        self.directions = 2 if self.bidirectional else 1
        rng = init.generator(seed)
        self._check_memory(dtype)
        super().__init__(self.parameter_shapes(**self._sizes()), dtype)
        init.uniform(self.parameters, self.hidden_size, rng)
        self._rng = rng  # goes on to draw dropout masks
        self.passes = [
            RecurrentPass(self.cell, self.parameters, self._names(n, d), self._layer_input(n), self.hidden_size, d == 1)
            for n in range(self.num_layers)
            for d in range(self.directions)
        ]
        self._layer_steps = [TypedKernel(layer_steps[cell]) for _ in range(2)]  # of a single stream, of a batch
        work = self.gates * self.hidden_size * (max(p.input_size for p in self.passes) + self.hidden_size)
        self._step_rows = _STEP_WORK // work  # the largest batch whose steps don't take the forward pass

    def _check_memory(self, dtype):
        """The parameters' bytes by a formula, for a count of layers may be too large to go through them."""
        rows = self.gates * self.hidden_size * self.directions
        first = rows * (self.input_size + self.hidden_size + 2)
        others = rows * ((self.directions + 1) * self.hidden_size + 2)
        numbers = first + (self.num_layers - 1) * others
        size = 2 * numbers * checks.float_dtype(dtype).itemsize + self.num_layers * self.directions * _PASS_BYTES
        checks.memory(f"{type(self).__name__} with about {numbers:,} parameters", size)

    def _layer_input(self, layer):
        return self.input_size if layer == 0 else self.directions * self.hidden_size

    @staticmethod
    def _names(layer, direction):
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        return tuple(f"{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    @classmethod
    def parameter_shapes(cls, *, input_size, hidden_size, num_layers=1, bias=True, bidirectional=False, **_):
        rows = cls.gates * hidden_size
        for layer in range(num_layers):
            features = input_size if layer == 0 else (2 if bidirectional else 1) * hidden_size
            for direction in range(2 if bidirectional else 1):
                sizes = ((rows, features), (rows, hidden_size), (rows,), (rows,))
                yield from zip(cls._names(layer, direction), sizes if bias else sizes[:2], strict=False)

    def _sizes(self):
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "bidirectional": self.bidirectional,
        }

    def config(self):
        return {
            **self._sizes(),
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "dtype": self.dtype.name,
        }

    def _output_features(self, features):
        if features not in (None, self.input_size):
            raise ValueError(f"it takes {self.input_size} features, the layer before gives {features}")
        return self.directions * self.hidden_size

    def _input_features(self):
        return self.input_size

    # checks

    def _check_input(self, x):
        return checks.float_array("x", x, self.dtype, (None, None, self.input_size))

    def _check_step_input(self, x_t):
        return checks.float_array("x_t", x_t, self.dtype, (None, self.input_size))

    def _state_shape(self, batch):
        return self.num_layers * self.directions, batch, self.hidden_size

    def _check_state(self, name, state, batch):
        if state is None:
            return None
        if self.cell.states == 1:
            return (checks.float_array(name, state, self.dtype, self._state_shape(batch)),)
        if not isinstance(state, (tuple, list)) or len(state) != self.cell.states:
            raise TypeError(f"{name} must be a pair (h, c) of arrays")
        shape = self._state_shape(batch)
        parts = zip(("h", "c"), state, strict=True)
        return tuple(checks.float_array(f"{name}'s {part}", s, self.dtype, shape) for part, s in parts)

    def _begin_anew(self, state, resets):
        return tuple([np.where(resets[:, np.newaxis], part.dtype.type(0), part) for part in state])

    def _state_parts(self, state):
        return state if self.cell.states > 1 and isinstance(state, (tuple, list)) else (state,)

    def _pack_state(self, parts):
        return tuple(parts) if self.cell.states > 1 else parts[0]

    def _with_batch(self, name, state):
        if state is None:
            return None
        parts = [checks.as_array(name, part) for part in self._state_parts(state)]
        for part in parts:
            if part.ndim != 2:
                raise ValueError(f"{name} of a single stream must have 2 dimensions, got {part.ndim}")
        return self._pack_state([part[:, np.newaxis] for part in parts])

    def _without_batch(self, state):
        return self._pack_state([s[:, 0] for s in self._state_parts(state)])

    # the work

    def _workspace_bytes(self, steps, batch):
        features = self.directions * self.hidden_size
        arrays = self.num_layers * (2 if self.dropout else 1) + 2
        whole = steps * batch * (arrays * features + self.input_size) * self.dtype.itemsize
        return whole + sum(PassBuffers.count_bytes(p, steps, batch, self.cell.states) for p in self.passes)

    def _make_workspace(self, steps, batch):
        return RecurrentWorkspace(self, steps, batch)

    def _sequence_shape(self, steps, batch, features):
        return (batch, steps, features) if self.batch_first else (steps, batch, features)

    def _views(self, y):
        """The columns of an output, or of its gradient, that each direction has."""
        hidden = self.hidden_size
        return [view(y, self.batch_first, direction * hidden, hidden) for direction in range(self.directions)]

    def _whole(self, x):
        return view(x, self.batch_first, 0, x.shape[-1])

    def _row_states(self, states):
        """For each pass the flat (B·H) arrays of its part of `states`, a tuple of (L·D,B,H)."""
        flat = [state.reshape(len(self.passes), -1) for state in states]
        return list(zip(*flat, strict=True))

    def _zero_rows(self, zeros, batch):
        """The same for a state of zeros, out of an array of at least B·H of them."""
        return [(zeros[: batch * self.hidden_size],) * self.cell.states] * len(self.passes)

    def _check_room(self, x):
        steps, batch = self._extent(x)
        buffers = 1 if self.num_layers == 1 else 2
        size = buffers * steps * batch * self.directions * self.hidden_size * self.dtype.itemsize
        checks.memory(f"the output for T={steps}, B={batch}", size)

    def _of_layer(self, layer):
        """The indices of a layer's passes."""
        return range(layer * self.directions, (layer + 1) * self.directions)

    def _infer(self, x, state, lengths, resets):
        steps, batch = self._extent(x)
        shape = self._sequence_shape(steps, batch, self.directions * self.hidden_size)
        plan = _lay_out(self, steps, batch, lengths, SequenceBatch(steps, batch, keep=False))
        states = self.cell.states
        final = tuple([np.empty(self._state_shape(batch), self.dtype) for _ in range(states)])
        final_rows = self._row_states(final)
        if state is None:
            initial_rows = self._zero_rows(np.zeros(batch * self.hidden_size, self.dtype), batch)
        else:
            initial_rows = self._row_states(state)
        spare = None  # the output before the last: each layer but the first two writes over it
        for layer in range(self.num_layers):
            y = np.empty(shape, self.dtype) if layer < 2 else spare
            if lengths is not None:
                y.fill(0)
            source = self._whole(x)
            for n, target in zip(self._of_layer(layer), self._views(y), strict=True):
                product = self.passes[n]
                arrays = PassBuffers(product, steps, batch, False, states)
                product.forward(source, target, plan, arrays, initial_rows[n], final_rows[n])
            spare, x = x, y
        return y, self._pack_state(final)

    def _forward(self, x, state, lengths, resets, ws):
        steps, batch = self._extent(x)
        plan = _lay_out(self, steps, batch, lengths, ws.plan)
        layout = ws.layout(steps, batch)
        initial_rows = self._initial_rows(state, layout, ws)
        x_view = self._whole(apart(x, *ws.outputs, *ws.final))
        for layer, y in enumerate(layout.outputs):
            if lengths is not None:
                y.fill(0)
            for n in self._of_layer(layer):
                self.passes[n].forward(
                    x_view, layout.output_views[n], plan, ws.passes[n], initial_rows[n], layout.final_rows[n]
                )
            if layer < self.num_layers - 1:
                if self.dropout:
                    draw_dropout(self._rng, self.dropout, layout.masks[layer])
                    multiply_mask(y, layout.masks[layer], y)
                x_view = layout.input_views[layer]
        ws.record = _Record(x.shape, y.shape, batch)
        ws.returned = tuple([part.view() for part in layout.final])
        return y.view(), self._pack_state(ws.returned)

    def _initial_rows(self, state, layout, ws):
        """The initial state of each pass: in place where it is this workspace's own, a copy if only a part of it is."""
        if state is None:
            return layout.zero_rows
        if len(ws.returned) == len(state) and all(map(operator.is_, state, ws.returned)):
            return layout.final_rows
        written = (*ws.final, *ws.outputs)
        pairs = zip(state, layout.final, strict=True)
        return self._row_states([s if _same_start(s, f) else apart(s, *written) for s, f in pairs])

    def _backward(self, dy, dstate, ws):
        plan = ws.plan
        layout = ws.layout(plan.steps, plan.batch)
        written = (*ws.d_initial, ws.d_input, *ws.d_outputs)
        dy = apart(dy, *written)
        d_final_rows = layout.zero_rows
        if dstate is not None:
            d_final_rows = self._row_states([apart(d, *written) for d in dstate])
        for layer in reversed(range(self.num_layers)):
            dx, dx_view = layout.d_inputs[layer], layout.d_input_views[layer]
            if plan.ragged:
                dx.fill(0)
            for n, dy_view in zip(self._of_layer(layer), self._views(dy), strict=True):
                self.passes[n].backward(
                    dy_view, dx_view, n % self.directions > 0, plan, ws.passes[n], d_final_rows[n],
                    layout.d_initial_rows[n],
                )  # fmt: skip
            if self.dropout and layer:
                multiply_mask(dx, layout.masks[layer - 1], dx)
            dy = dx
        return dx.view(), self._pack_state([d.view() for d in layout.d_initial])

    def step(self, x_t, state=None, *, resets=None):
        if self.bidirectional:
            raise ValueError("step needs a unidirectional layer")
        result = self._step_as_given(x_t, state) if resets is None else None
        return super().step(x_t, state, resets=resets) if result is None else result

    step.__doc__ = Layer.step.__doc__

    def _step_as_given(self, x_t, state):
        """`step` of arrays that the kernels take as they are, such as the last step's; None of any other arguments."""
        if type(x_t) is not np.ndarray or x_t.ndim > 2:
            return None
        lead = x_t.shape[:-1]  # (B,), or () for a single stream
        rows = lead[0] if lead else 1
        dtype = self.parameters.dtype
        if not 0 < rows <= self._step_rows or not checks.is_plain(x_t, dtype, (*lead, self.input_size)):
            return None
        shape = (self.num_layers, *lead, self.hidden_size)
        if state is None:
            return self._step_directly(x_t, (np.zeros(shape, dtype),) * self.cell.states)
        states = state if self.cell.states > 1 else (state,)
        if type(states) is not tuple or len(states) != self.cell.states:
            return None
        for part in states:
            if not checks.is_plain(part, dtype, shape):
                return None
        return self._step_directly(x_t, states)

    def _step_directly(self, x_t, states):
        """One step of a small batch without the forward pass's preparations.

        x_t: (B,I); states: tuple of (L,B,H). All without B for a single stream.
        """
        results = tuple(map(np.empty_like, states))
        y_shape = results[0].shape[1:]
        step = self._layer_steps[x_t.ndim - 1]
        for layer, product in enumerate(self.passes):
            y = np.empty(y_shape, x_t.dtype)
            step(product.forward_weights(), x_t, layer, states, y, results)
            x_t = y
        return y, results if len(results) > 1 else results[0]

    def _step(self, x_t, state):
        batch = x_t.shape[0]
        if batch <= self._step_rows:
            if state is None:
                state = (np.zeros(self._state_shape(batch), self.dtype),) * self.cell.states
            return self._step_directly(x_t, state)
        time_axis = 1 if self.batch_first else 0
        y, state = self._infer(np.expand_dims(x_t, time_axis), state, None, None)
        return np.squeeze(y, time_axis), state

    def kernel_weights(self):
        """Weights for `fastrnn.kernels`' step functions: a NamedTuple of arrays that Numba takes as an argument.

        A snapshot in packed form: later changes of the layer do not show in it. One layer, one direction only.
        """
        if self.num_layers > 1 or self.bidirectional:
            raise ValueError("kernel_weights needs a single layer in one direction")
        kind = RNN_WEIGHTS.get(self.cell.name, Weights)
        return kind(*(a.copy() for a in self.passes[0].forward_weights()))


class RNN(_Recurrent):
    """The simple recurrent net (Elman 1990), h_t = φ(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh).

    nonlinearity: φ, "tanh", "relu" or "sigmoid". The state is h, (L·D,B,H). Everything else as in PyTorch.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype="float32",
        seed=None,
    ):
        self.nonlinearity = checks.choice("nonlinearity", nonlinearity, ("tanh", "relu", "sigmoid"))
        super().__init__(
            f"rnn_{nonlinearity}", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            dtype, seed,
        )  # fmt: skip

    def config(self):
        return {**super().config(), "nonlinearity": self.nonlinearity}


class GRU(_Recurrent):
    """The gated recurrent unit (Cho et al. 2014) in PyTorch's form: the reset gate acts after the recurrent product.

    r, z = σ(…); n = tanh(W_in x_t + b_in + r (W_hn h_{t−1} + b_hn)); h_t = (1 − z) n + z h_{t−1}. The state is h,
    (L·D,B,H); weights hold the gates r, z, n.
    """

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype="float32",
        seed=None,
    ):
        super().__init__(
            "gru", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        )


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, o = σ(…), g = tanh(…); c_t = f c_{t−1} + i g; h_t = o tanh(c_t). The state is the pair (h, c), each (L·D,B,H);
    weights hold the gates i, f, g, o.
    """

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype="float32",
        seed=None,
    ):
        super().__init__(
            "lstm", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        )
