"""RNN, GRU and LSTM: stacks of passes over one cell."""

from typing import NamedTuple

import numpy as np

from .. import checks, init
from ..kernels.cells import CELLS
from ..kernels.packing import Weights
from ..kernels.step import RNN_WEIGHTS
from ..parameters import aligned_empty
from ..passes import PassBuffers, RecurrentPass, SequenceBatch, split_by_units, view
from ..threads import threads_for
from .base import Layer, Workspace, apart
from .elementwise import draw_dropout, multiply_mask

_PASS_BYTES = 8192  # about what the Python objects of a layer and direction take


class _Record(NamedTuple):
    """What the backward pass has to know of the forward pass."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch: int


def _lay_out(layer, steps, batch, lengths, plan):
    """Lay out a batch in `plan`, with the threads that one pass over it is worth."""
    depth = layer.hidden_size + max(layer.input_size, layer.hidden_size)
    threads = threads_for(steps * batch * layer.gates * layer.hidden_size * depth)
    by_units = threads > 1 and split_by_units(batch, layer.hidden_size)
    plan.fill(steps, batch, lengths, by_units, threads if by_units else min(threads, batch))
    return plan


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

    def _row_states(self, states, batch, index, zeros):
        """The flat (B·H) arrays of pass `index` in every part of the state."""
        size = batch * self.hidden_size
        if states is None:
            return (zeros[:size],) * self.cell.states
        return tuple(s.reshape(-1)[index * size : (index + 1) * size] for s in states)

    def _check_room(self, x):
        steps, batch = self._extent(x)
        buffers = 1 if self.num_layers == 1 else 2
        size = buffers * steps * batch * self.directions * self.hidden_size * self.dtype.itemsize
        checks.memory(f"the output for T={steps}, B={batch}", size)

    def _run_layer(self, layer, x, y, plan, arrays, state, final, zeros):
        """One layer of the stack, in all directions, from array `x` into array `y`."""
        for direction in range(self.directions):
            index = layer * self.directions + direction
            self.passes[index].forward(
                view(x, self.batch_first, 0, x.shape[-1]),
                view(y, self.batch_first, direction * self.hidden_size, self.hidden_size),
                plan,
                arrays[index],
                self._row_states(state, plan.batch, index, zeros),
                self._row_states(final, plan.batch, index, zeros),
            )

    def _infer(self, x, state, lengths):
        steps, batch = self._extent(x)
        shape = self._sequence_shape(steps, batch, self.directions * self.hidden_size)
        plan = _lay_out(self, steps, batch, lengths, SequenceBatch(steps, batch, keep=False))
        final = tuple(np.empty(self._state_shape(batch), self.dtype) for _ in range(self.cell.states))
        zeros = np.zeros(batch * self.hidden_size, self.dtype)
        spare = None  # the output before the last: each layer but the first two writes over it
        for layer in range(self.num_layers):
            y = np.empty(shape, self.dtype) if layer < 2 else spare
            if lengths is not None:
                y.fill(0)
            arrays = {
                layer * self.directions + d: PassBuffers(p, steps, batch, False, self.cell.states)
                for d, p in enumerate(self.passes[layer * self.directions : (layer + 1) * self.directions])
            }
            self._run_layer(layer, x, y, plan, arrays, state, final, zeros)
            spare, x = x, y
        return y, self._pack_state(final)

    def _forward(self, x, state, lengths, ws):
        steps, batch = self._extent(x)
        plan = _lay_out(self, steps, batch, lengths, ws.plan)
        shape = self._sequence_shape(steps, batch, self.directions * self.hidden_size)
        size = steps * batch * shape[-1]
        state_size = self.num_layers * self.directions * batch * self.hidden_size
        final = tuple(f[:state_size].reshape(self._state_shape(batch)) for f in ws.final)
        if state is not None:  # in place where it is this workspace's own, as a rule; a shifted view of it is not
            pairs = zip(state, final, strict=True)
            written = (*ws.final, *ws.outputs)
            state = tuple(s if s.ctypes.data == f.ctypes.data else apart(s, *written) for s, f in pairs)
        source = apart(x, *ws.outputs, *ws.final)
        for layer in range(self.num_layers):
            y = ws.outputs[layer][:size].reshape(shape)
            if lengths is not None:
                y.fill(0)
            self._run_layer(layer, source, y, plan, ws.passes, state, final, ws.zeros)
            if self.dropout and layer < self.num_layers - 1:
                mask = ws.masks[layer][:size].reshape(shape)
                draw_dropout(self._rng, self.dropout, mask)
                multiply_mask(y, mask, y)
            source = y
        ws.record = _Record(x.shape, shape, batch)
        return y, self._pack_state(final)

    def _backward(self, dy, dstate, ws):
        record, plan = ws.record, ws.plan
        batch = record.batch
        size = dy.size
        state_size = self.num_layers * self.directions * batch * self.hidden_size
        d_initial = tuple(d[:state_size].reshape(self._state_shape(batch)) for d in ws.d_initial)
        written = (*ws.d_initial, ws.d_input, *ws.d_outputs)
        dy = apart(dy, *written)
        dstate = None if dstate is None else tuple(apart(d, *written) for d in dstate)
        for layer in reversed(range(self.num_layers)):
            if layer:
                dx = ws.d_outputs[layer % len(ws.d_outputs)][:size].reshape(record.output_shape)
            else:
                dx = ws.d_input[: plan.steps * batch * self.input_size].reshape(record.input_shape)
            if plan.ragged:
                dx.fill(0)
            for direction in range(self.directions):
                index = layer * self.directions + direction
                self.passes[index].backward(
                    view(dy, self.batch_first, direction * self.hidden_size, self.hidden_size),
                    view(dx, self.batch_first, 0, dx.shape[-1]),
                    direction == 1,
                    plan,
                    ws.passes[index],
                    self._row_states(dstate, batch, index, ws.zeros),
                    self._row_states(d_initial, batch, index, ws.zeros),
                )
            if self.dropout and layer:
                multiply_mask(dx, ws.masks[layer - 1][:size].reshape(dx.shape), dx)
            dy = dx
        return dx, self._pack_state(d_initial)

    def step(self, x_t, state=None):
        if self.bidirectional:
            raise ValueError("step needs a unidirectional layer")
        return super().step(x_t, state)

    step.__doc__ = Layer.step.__doc__

    def _step(self, x_t, state):
        time_axis = 1 if self.batch_first else 0
        y, state = self._infer(np.expand_dims(x_t, time_axis), state, None)
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
