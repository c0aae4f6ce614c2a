"""One time step of a single-layer net in one direction, in place, for a user's own compiled loops.

`weights` comes from `layer.kernel_weights()`. Shapes: x (B,I), h and c (B,H), C-contiguous and of the weights' dtype,
for any B. The results are those of `layer.step`, bit for bit. Nothing is checked beyond the types: arrays of other
sizes are read and written out of bounds.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from .cells import GRU, LSTM, RNN_RELU, RNN_SIGMOID, RNN_TANH
from .gemm import PANEL_VECTORS, product_by_vectors
from .jit import formula as compiled_formula
from .jit import kernel, subroutine
from .layout import window
from .simd import lanes, load, load_each, load_each_first, slot_access, store, store_each, store_each_first


class RNNTanhWeights(NamedTuple):
    """`packing.Weights` of a tanh RNN: the class tells `rnn_step` the nonlinearity when it is compiled."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


class RNNReLUWeights(NamedTuple):
    """`packing.Weights` of a ReLU RNN."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


class RNNSigmoidWeights(NamedTuple):
    """`packing.Weights` of a sigmoid RNN."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


_RNN_CELLS = {RNNTanhWeights: RNN_TANH, RNNReLUWeights: RNN_RELU, RNNSigmoidWeights: RNN_SIGMOID}
RNN_WEIGHTS = {cell.name: weights for weights, cell in _RNN_CELLS.items()}


def _make_advance(cell, formula):
    """A subroutine that takes one row of the states through a step; `formula(weights, slots, previous)` is the cell."""
    vectors = PANEL_VECTORS // cell.slots
    x_first, x_slots = window(cell.input_slots)
    h_first, h_slots = window(cell.recurrent_slots)
    input_product = product_by_vectors[x_slots * vectors]
    recurrent_product = product_by_vectors[h_slots * vectors]
    load_slots, _ = slot_access(cell.slots)

    @subroutine
    def multiply(weights, x, states, row, z, block):
        """z of one block of units = bias + W_ih x + W_hh h, in the order of the forward pass."""
        step = lanes(z)
        width = PANEL_VECTORS * step
        units = vectors * step
        at = block * width
        for j in range(0, width, step):
            store(z, at + j, load(weights.bias, at + j))
        inputs, hidden = x.shape[1], states[0].shape[1]
        input_product(
            1, z, at + x_first * units, width, z, at + x_first * units, width, x, row * inputs, 0, inputs, inputs,
            weights.input, block * inputs * x_slots * units,
        )  # fmt: skip
        recurrent_product(
            1, z, at + h_first * units, width, z, at + h_first * units, width, states[0], row * hidden, 0, hidden,
            hidden, weights.recurrent, block * hidden * h_slots * units,
        )  # fmt: skip

    @subroutine
    def advance(weights, x, states, row, z):
        step = lanes(z)
        width = PANEL_VECTORS * step
        units = vectors * step
        hidden = states[0].shape[1]
        blocks = weights.bias.shape[0]
        for block in range(blocks):
            multiply(weights, x, states, row, z, block)
        for block in range(blocks):
            for v in range(0, units, step):
                unit = block * units + v
                at = row * hidden + unit
                slots = load_slots(z, block * width + v, units)
                if unit + step <= hidden:
                    _, state = formula(weights, slots, load_each(states, at))
                    store_each(states, at, state)
                elif unit < hidden:
                    _, state = formula(weights, slots, load_each_first(states, at, hidden - unit))
                    store_each_first(states, at, state, hidden - unit)

    return advance


def _formula_of(cell):
    cell_forward = cell.forward

    def formula(weights, slots, previous):
        return cell_forward(slots, previous)

    return compiled_formula(formula)


def _rnn_formula(weights, slots, previous):
    raise TypeError("for compiled code only")


@overload(_rnn_formula)
def _choose_nonlinearity(weights, slots, previous):
    cell_forward = _RNN_CELLS[weights.instance_class].forward
    return lambda weights, slots, previous: cell_forward(slots, previous)


_advance_lstm = _make_advance(LSTM, _formula_of(LSTM))
_advance_gru = _make_advance(GRU, _formula_of(GRU))
_advance_rnn = _make_advance(RNN_TANH, _rnn_formula)


@kernel
def lstm_step(weights, x, h, c):
    """Advance `h` and `c` of an LSTM by one step."""
    z = np.empty(weights.bias.size, x.dtype)
    for row in range(h.shape[0]):
        _advance_lstm(weights, x, (h, c), row, z)


@kernel
def gru_step(weights, x, h):
    """Advance `h` of a GRU by one step."""
    z = np.empty(weights.bias.size, x.dtype)
    for row in range(h.shape[0]):
        _advance_gru(weights, x, (h,), row, z)


@kernel
def rnn_step(weights, x, h):
    """Advance `h` of a simple recurrent net by one step; the weights' class tells its nonlinearity."""
    z = np.empty(weights.bias.size, x.dtype)
    for row in range(h.shape[0]):
        _advance_rnn(weights, x, (h,), row, z)
