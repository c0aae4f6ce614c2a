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
from numba.extending import intrinsic

from .cells import CELLS, GRU, GRU_RESET_BEFORE, LSTM, RNN_RELU, RNN_SIGMOID, RNN_TANH
from .gemm import PANEL_VECTORS, make_slot_product, panel_product, row_from_panels, tile_rows
from .jit import call_subroutine, formula, kernel, subroutine
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
from .weights import cell_of


def _call_flushed(context, builder, function, arguments_type, arguments):
    """Emit a call of the subroutine `function(*arguments)` with denormal numbers counted as zero, as in the forward
    pass."""
    saved = enter_flush_to_zero(builder)
    inner = types.void(*arguments_type.types)
    call_subroutine(context, builder, function, inner, cgutils.unpack_tuple(builder, arguments))
    leave_flush_to_zero(builder, saved)
    return context.get_dummy_value()


@intrinsic
def _flushed(typingctx, function, arguments):
    """Call the subroutine `function(*arguments)` so."""

    def codegen(context, builder, sig, args):
        return _call_flushed(context, builder, function.typing_key, arguments, args[1])

    return types.void(function, arguments), codegen


_ROWS = tile_rows(PANEL_VECTORS)  # rows of the batch that are taken together


@formula
def _work_space(weights, batch, x, slots, stages):
    """Room for the rows that are taken together: their pre-activations, and what a stage gives to the next."""
    return np.empty(min(batch, _ROWS) * (weights.bias.size // slots) * (slots + stages - 1), x.dtype)


def _make_advance(cell):
    """A subroutine that takes all rows of a batch through a step.

    Row r of x (B,I) and row first + r of `states` give row first + r of `results`; both are tuples of (…,H) arrays,
    which may be the same. z is work space, see `_work_space`.
    """
    vectors = PANEL_VECTORS // cell.slots
    x_first, x_slots = window(cell.input_slots)
    h_slots = len(cell.recurrent_slots)
    input_product = make_slot_product(x_slots, vectors)
    load_slots, store_slots = slot_access(cell.slots)
    cell_forward, two_stages = cell.forward, cell.before is not None
    before_forward = cell.before.forward if two_stages else None

    @subroutine
    def multiply_input(weights, x, row, rows, z, block):
        """z of one block of units = bias + W_ih x, in the order of the forward pass."""
        step = lanes(z)
        width = PANEL_VECTORS * step
        units = vectors * step
        first = block * rows * width
        for j in range(0, width, step):
            bias = load(weights.bias, block * width + j)
            for r in range(rows):
                store(z, first + r * width + j, bias)
        inputs, hidden = x.shape[-1], weights.recurrent.shape[1]
        input_product(
            hidden - block * units, rows, z, first + x_first * units, width, z, first + x_first * units, width,
            x, row * inputs, inputs, 0, inputs, inputs, weights.input, block * inputs * x_slots * units,
        )  # fmt: skip

    def make_multiply(stage):
        slot_first, stage_slots = window(cell.products[stage])
        product = make_slot_product(stage_slots, vectors)
        packed_first = sum(len(slots) for slots in cell.products[:stage])  # slots of the stages before

        @subroutine
        def multiply(weights, a, at, stride, rows, z, block):
            """z of one block of units += W_hh a for `rows` rows from flat `at` of `a` on, `stride` apart."""
            units = vectors * lanes(z)
            width = PANEL_VECTORS * lanes(z)
            hidden = weights.recurrent.shape[1]
            column = block * rows * width + slot_first * units
            product(
                hidden - block * units, rows, z, column, width, z, column, width, a, at, stride, 0, hidden, hidden,
                weights.recurrent, (block * h_slots + packed_first) * hidden * units,
            )  # fmt: skip

        return multiply

    multiply_first, multiply_last = make_multiply(0), make_multiply(len(cell.products) - 1)

    @subroutine
    def advance_before(weights, rows, states, at, z):
        """The stage before the last. What it gives stands in z past all blocks, as rows of whole blocks' units."""
        step = lanes(z)
        width = PANEL_VECTORS * step
        units = vectors * step
        hidden = states[0].shape[-1]
        blocks = weights.input.shape[0]
        given, stride = blocks * rows * width, blocks * units
        for block in range(blocks):
            for r in range(rows):
                for unit in range(block * units, min((block + 1) * units, hidden), step):
                    here = (block * rows + r) * width + unit - block * units
                    place = (at + r) * hidden + unit
                    count = min(step, hidden - unit)
                    previous = load_each_first(states, place, count) if count < step else load_each(states, place)
                    kept, state = before_forward(load_slots(z, here, units), previous, (), ())
                    store_slots(z, here, units, kept)
                    store(z, given + r * stride + unit, state[0])
        for block in range(blocks):
            multiply_last(weights, z, given, stride, rows, z, block)

    @subroutine
    def advance_rows(weights, x, row, rows, states, results, at, z):
        step = lanes(z)
        width = PANEL_VECTORS * step
        units = vectors * step
        hidden = states[0].shape[-1]
        blocks = weights.input.shape[0]
        for block in range(blocks):
            multiply_input(weights, x, row, rows, z, block)
            multiply_first(weights, states[0], at * hidden, hidden, rows, z, block)
        if two_stages:
            advance_before(weights, rows, states, at, z)
        for block in range(blocks):
            for r in range(rows):
                for v in range(0, units, step):
                    unit = block * units + v
                    place = (at + r) * hidden + unit
                    slots = load_slots(z, (block * rows + r) * width + v, units)
                    if unit + step <= hidden:
                        _, state = cell_forward(slots, load_each(states, place), (), ())
                        store_each(results, place, state)
                    elif unit < hidden:
                        _, state = cell_forward(slots, load_each_first(states, place, hidden - unit), (), ())
                        store_each_first(results, place, state, hidden - unit)

    @subroutine
    def advance(weights, x, batch, states, results, first, z):
        for row in range(0, batch, _ROWS):
            advance_rows(weights, x, row, min(_ROWS, batch - row), states, results, first + row, z)

    return advance


_STEP_CELLS = {name: cell for name, cell in CELLS.items() if not (cell.vectors or cell.noise)}
_ADVANCES = {name: _make_advance(cell) for name, cell in _STEP_CELLS.items()}


def _make_choice(*cells):
    """`advance(arguments)`, as `_flushed`, for the one of `cells` that the class of the weights tells."""

    @intrinsic
    def advance(typingctx, arguments):
        cell = cell_of(arguments[0], cells)

        def codegen(context, builder, sig, args):
            return _call_flushed(context, builder, _ADVANCES[cell.name], arguments, args[0])

        return types.void(arguments), codegen

    return advance


_advance_lstm = _make_choice(LSTM)
_advance_gru = _make_choice(GRU, GRU_RESET_BEFORE)
_advance_rnn = _make_choice(RNN_TANH, RNN_RELU, RNN_SIGMOID)


@kernel
def lstm_step(weights, x, h, c):
    """Advance `h` and `c` of an LSTM by one step."""
    z = _work_space(weights, h.shape[0], x, 4, 1)
    _advance_lstm((weights, x, h.shape[0], (h, c), (h, c), 0, z))


@kernel
def gru_step(weights, x, h):
    """Advance `h` of a GRU by one step; the weights' class tells its form."""
    z = _work_space(weights, h.shape[0], x, 4, 2)
    _advance_gru((weights, x, h.shape[0], (h,), (h,), 0, z))


@kernel
def rnn_step(weights, x, h):
    """Advance `h` of a simple recurrent net by one step; the weights' class tells its nonlinearity."""
    z = _work_space(weights, h.shape[0], x, 1, 1)
    _advance_rnn((weights, x, h.shape[0], (h,), (h,), 0, z))


def _make_layer_step(cell):
    advance, slots, stages = _ADVANCES[cell.name], cell.slots, len(cell.products)

    @kernel(name=f"{cell.name}_layer_step")
    def layer_step(weights, x, layer, states, y, results):
        """One layer of a stack: from x (B,I) and its part of `states`, to y (B,H) and its part of `results`.

        weights: `packing.Weights` of the layer; states, results: tuples of (L,B,H) arrays. All without B, for one row.
        """
        batch = y.size // y.shape[-1]
        z = _work_space(weights, batch, x, slots, stages)
        _flushed(advance, (weights, x, batch, states, results, layer * batch, z))
        h, out, first = results[0].reshape(-1), y.reshape(-1), layer * y.size
        for j in range(out.size):
            out[j] = h[first + j]

    return layer_step


layer_steps = {name: _make_layer_step(cell) for name, cell in _STEP_CELLS.items()}


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
