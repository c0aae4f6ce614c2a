"""One time step of a net in one direction.

`lstm_step`, `gru_step` and `rnn_step` advance a single layer in place, in a user's own compiled loops. `weights` comes
from `layer.kernel_weights()`. Shapes: x (B,I), h and c (B,H), C-contiguous and of the weights' dtype, for any B. The
results are those of `layer.step`, bit for bit. Nothing is checked beyond the types: arrays of other sizes are read and
written out of bounds.

`layer_steps` are what `layer.step` calls.
"""

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .cells import CELLS, GRU, LSTM, RNN_TANH
from .gemm import PANEL_VECTORS, make_slot_product, panel_product, row_from_panels, tile_rows
from .jit import call_subroutine, kernel, subroutine
from .jit import formula as compiled_formula
from .layout import window
from .simd import (
    enter_flush_to_zero,
    lanes,
    leave_flush_to_zero,
    load,
    load_each,
    load_each_first,
    slot_access,
    store,
    store_each,
    store_each_first,
)


@intrinsic
def _flushed(typingctx, function, arguments):
    """Call the subroutine `function(*arguments)` with denormal numbers counted as zero, as in the forward pass."""

    def codegen(context, builder, sig, args):
        saved = enter_flush_to_zero(builder)
        inner = types.void(*arguments.types)
        call_subroutine(context, builder, function.typing_key, inner, cgutils.unpack_tuple(builder, args[1]))
        leave_flush_to_zero(builder, saved)
        return context.get_dummy_value()

    return types.void(function, arguments), codegen


_ROWS = tile_rows(PANEL_VECTORS)  # rows of the batch that are taken together


@compiled_formula
def _work_space(weights, batch, x):
    """Room for the pre-activations of the rows that are taken together."""
    return np.empty(min(batch, _ROWS) * weights.bias.size, x.dtype)


def _make_advance(cell, formula):
    """A subroutine that takes all rows of a batch through a step; `formula(weights, slots, previous)` is the cell.

    Row r of x (B,I) and row first + r of `states` give row first + r of `results`; both are tuples of (…,H) arrays,
    which may be the same. z is work space, see `_work_space`.
    """
    vectors = PANEL_VECTORS // cell.slots
    x_first, x_slots = window(cell.input_slots)
    h_first, h_slots = window(cell.recurrent_slots)
    input_product = make_slot_product(x_slots, vectors)
    recurrent_product = make_slot_product(h_slots, vectors)
    load_slots, _ = slot_access(cell.slots)

    @subroutine
    def multiply(weights, x, row, rows, states, at, z, block):
        """z of one block of units = bias + W_ih x + W_hh h, in the order of the forward pass."""
        step = lanes(z)
        width = PANEL_VECTORS * step
        units = vectors * step
        first = block * rows * width
        for j in range(0, width, step):
            bias = load(weights.bias, block * width + j)
            for r in range(rows):
                store(z, first + r * width + j, bias)
        inputs, hidden = x.shape[-1], states[0].shape[-1]
        valid = hidden - block * units
        input_product(
            valid, rows, z, first + x_first * units, width, z, first + x_first * units, width,
            x, row * inputs, inputs, 0, inputs, inputs, weights.input, block * inputs * x_slots * units,
        )  # fmt: skip
        recurrent_product(
            valid, rows, z, first + h_first * units, width, z, first + h_first * units, width,
            states[0], at * hidden, hidden, 0, hidden, hidden, weights.recurrent, block * hidden * h_slots * units,
        )  # fmt: skip

    @subroutine
    def advance_rows(weights, x, row, rows, states, results, at, z):
        step = lanes(z)
        width = PANEL_VECTORS * step
        units = vectors * step
        hidden = states[0].shape[-1]
        blocks = weights.input.shape[0]
        for block in range(blocks):
            multiply(weights, x, row, rows, states, at, z, block)
        for block in range(blocks):
            for r in range(rows):
                for v in range(0, units, step):
                    unit = block * units + v
                    place = (at + r) * hidden + unit
                    slots = load_slots(z, (block * rows + r) * width + v, units)
                    if unit + step <= hidden:
                        _, state = formula(weights, slots, load_each(states, place))
                        store_each(results, place, state)
                    elif unit < hidden:
                        _, state = formula(weights, slots, load_each_first(states, place, hidden - unit))
                        store_each_first(results, place, state, hidden - unit)

    @subroutine
    def advance(weights, x, batch, states, results, first, z):
        for row in range(0, batch, _ROWS):
            advance_rows(weights, x, row, min(_ROWS, batch - row), states, results, first + row, z)

    return advance


def _formula_of(cell):
    cell_forward = cell.forward

    def formula(weights, slots, previous):
        return cell_forward(slots, previous, (), ())

    return compiled_formula(formula)


def _rnn_formula(weights, slots, previous):
    raise TypeError("for compiled code only")


@overload(_rnn_formula)
def _choose_nonlinearity(weights, slots, previous):
    cell_forward = weights.instance_class.cell.forward
    return lambda weights, slots, previous: cell_forward(slots, previous, (), ())


_advance_lstm = _make_advance(LSTM, _formula_of(LSTM))
_advance_gru = _make_advance(GRU, _formula_of(GRU))
_advance_rnn = _make_advance(RNN_TANH, _rnn_formula)


@kernel
def lstm_step(weights, x, h, c):
    """Advance `h` and `c` of an LSTM by one step."""
    z = _work_space(weights, h.shape[0], x)
    _flushed(_advance_lstm, (weights, x, h.shape[0], (h, c), (h, c), 0, z))


@kernel
def gru_step(weights, x, h):
    """Advance `h` of a GRU by one step."""
    z = _work_space(weights, h.shape[0], x)
    _flushed(_advance_gru, (weights, x, h.shape[0], (h,), (h,), 0, z))


@kernel
def rnn_step(weights, x, h):
    """Advance `h` of a simple recurrent net by one step; the weights' class tells its nonlinearity."""
    z = _work_space(weights, h.shape[0], x)
    _flushed(_advance_rnn, (weights, x, h.shape[0], (h,), (h,), 0, z))


def _make_layer_step(cell):
    advance = _make_advance(cell, _formula_of(cell))

    @kernel(name=f"{cell.name}_layer_step")
    def layer_step(weights, x, layer, states, y, results):
        """One layer of a stack: from x (B,I) and its part of `states`, to y (B,H) and its part of `results`.

        weights: `packing.Weights` of the layer; states, results: tuples of (L,B,H) arrays. All without B, for one row.
        """
        batch = y.size // y.shape[-1]
        z = _work_space(weights, batch, x)
        _flushed(advance, (weights, x, batch, states, results, layer * batch, z))
        h, out, first = results[0].reshape(-1), y.reshape(-1), layer * y.size
        for j in range(out.size):
            out[j] = h[first + j]

    return layer_step


layer_steps = {name: _make_layer_step(cell) for name, cell in CELLS.items() if not (cell.vectors or cell.noise)}


@subroutine
def _multiply_dense(weights, x, y, z):
    width = PANEL_VECTORS * lanes(z)
    inputs, outputs = x.shape[1], y.shape[1]
    for first in range(0, y.shape[0], _ROWS):
        rows = min(_ROWS, y.shape[0] - first)
        for panel in range(weights.input.shape[0]):
            panel_product(
                outputs - panel * width, rows, z, 0, width, weights.bias, panel * width, 0,
                x, first * inputs, inputs, 0, inputs, inputs, weights.input, panel * inputs * width,
            )  # fmt: skip
            for r in range(rows):
                target = (first + r) * outputs + panel * width
                row_from_panels(z, r, 0, 0, min(width, outputs - panel * width), y, target, False)


@kernel
def dense_step(weights, x, y):
    """y = x Wᵀ + b: x (B,I), y (B,O), weights: `packing.Weights` of a linear layer."""
    _flushed(_multiply_dense, (weights, x, y, np.empty(_ROWS * weights.input.shape[2], x.dtype)))
