"""Packed forms of PyTorch's weight matrices: what the products read as their `b` side.

P is the panel width. Units come in blocks of U = P / slots; a block's panel holds slot 0 of its U units, then slot 1,
and so on. A product's slots are a run of neighbours; `gates` names the gate of each slot of the run, that is which H
rows of PyTorch's (gates·H, K) matrix it takes.
"""

from typing import NamedTuple

import numpy as np

from .jit import kernel, subroutine
from .parallel import in_parallel
from .simd import PANEL_VECTORS, lanes, load, load_first, store, transpose_part, transpose_tile


class Weights(NamedTuple):
    """What the forward products take. Zero past the last unit."""

    input: np.ndarray  # (⌈H/U⌉, I, gates·U)
    recurrent: np.ndarray  # (⌈H/U⌉, H, gates·U); a block of several stages is (H, gates·U) of the first, then the next
    bias: np.ndarray  # (⌈H/U⌉·P,), a value for each slot of each unit of a block, then of the next


class BackwardWeights(NamedTuple):
    """What the backward products take. Rows stand as the gradients of the pre-activations do; zero past the last unit
    and the last column."""

    input: np.ndarray  # (⌈I/P⌉, ⌈H/U⌉·gates·U, P)
    recurrent: tuple  # of (⌈H/P⌉, ⌈H/U⌉·gates·U, P), the gates of each stage's product
    zero: np.ndarray  # (P,) zeros, where a product starts


def slot_gates(cell):
    """(2 + stages, slots) int64: each slot's gate in the input's product, in the recurrent one and in each stage's part
    of that; -1 where the slot has no part.

    cell: None for a linear layer, which has one slot.
    """
    if cell is None:
        return np.zeros((3, 1), np.int64)
    table = np.full((2 + len(cell.products), cell.slots), -1)
    table[0, list(cell.input_slots)] = table[1, list(cell.recurrent_slots)] = np.arange(cell.gates)
    for row, slots in zip(table[2:], cell.products, strict=True):
        row[list(slots)] = table[1, list(slots)]
    return table


@subroutine
def clear(array, start, size):
    """Zeros in `size` numbers, whole vectors of them, from flat `start` on."""
    for at in range(start, start + size, lanes(array)):
        store(array, at, 0.0)


@subroutine
def _transpose(weight, row, rows, column, columns, packed, target, width):
    """packed[target + k·width + r] = weight[row + r, column + k] for r < rows and k < columns, at most a tile."""
    depth = weight.shape[1]
    if rows == lanes(weight) and columns == lanes(weight):
        transpose_tile(weight, row * depth + column, depth, packed, target, width)
    else:
        transpose_part(weight, row * depth + column, depth, rows, columns, packed, target, width)


@subroutine
def _pack_block(weight, hidden_size, gates, units, block, before, packed):
    """`gates` of one block of units, a tile at a time, behind `before` other gates."""
    step = lanes(weight)
    depth, width = packed.shape[1], gates.size * units
    start = block * depth * packed.shape[2] + before * depth * units
    if (block + 1) * units > hidden_size:  # units past the last
        clear(packed, start, depth * width)
    for j in range(gates.size):
        for u in range(0, units, step):
            unit = block * units + u
            rows = min(step, hidden_size - unit)
            if rows > 0:
                for k in range(0, depth, step):
                    target = start + k * width + j * units + u
                    row = gates[j] * hidden_size + unit
                    _transpose(weight, row, rows, k, min(step, depth - k), packed, target, width)


@subroutine
def _pack_blocks(part, parts, weight_ih, weight_hh, hidden_size, input_gates, recurrent_gates, units, packed):
    blocks = packed.input.shape[0]
    for block in range(blocks * part // parts, blocks * (part + 1) // parts):
        _pack_block(weight_ih, hidden_size, input_gates, units, block, 0, packed.input)
        if weight_hh.size > 0:
            before = 0
            for gates in recurrent_gates:
                _pack_block(weight_hh, hidden_size, gates, units, block, before, packed.recurrent)
                before += gates.size


@subroutine
def _add_bias(bias, hidden_size, gates, slot_first, units, packed):
    width = PANEL_VECTORS * lanes(packed)
    for j in range(gates.size):
        for unit in range(hidden_size):
            block, u = unit // units, unit % units
            packed[block * width + (slot_first + j) * units + u] += bias[gates[j] * hidden_size + unit]


@kernel
def pack_forward(
    weight_ih, weight_hh, bias_ih, bias_hh, hidden_size, input_gates, recurrent_gates, firsts, packed, parts
):
    """Fill `packed`, a `Weights`, from PyTorch's matrices (gates·H, K) and biases (gates·H).

    input_gates: the gate of each slot of the input product's run, int64; recurrent_gates: a tuple of the same for each
    stage's recurrent product; firsts: the first slots of all these runs. Empty arrays stand for what a layer lacks.
    """
    units = packed.input.shape[2] // input_gates.size
    in_parallel(
        _pack_blocks, parts, (parts, weight_ih, weight_hh, hidden_size, input_gates, recurrent_gates, units, packed)
    )
    clear(packed.bias, 0, packed.bias.size)
    if bias_ih.size > 0:
        _add_bias(bias_ih, hidden_size, input_gates, firsts[0], units, packed.bias)
    if bias_hh.size > 0:
        for stage in range(len(recurrent_gates)):
            _add_bias(bias_hh, hidden_size, recurrent_gates[stage], firsts[1 + stage], units, packed.bias)


@subroutine
def _pack_row(weight, source, columns, row, packed):
    """Row `row` of every panel: `columns` numbers of PyTorch's matrix from flat `source` on, then zeros."""
    width = packed.shape[2]
    step = lanes(weight)
    for panel in range(packed.shape[0]):
        target = (panel * packed.shape[1] + row) * width
        for j in range(0, width, step):
            left = columns - panel * width - j
            if left >= step:
                store(packed, target + j, load(weight, source + panel * width + j))
            elif left > 0:
                store(packed, target + j, load_first(weight, source + panel * width + j, left))
            else:
                store(packed, target + j, 0.0)


@subroutine
def _pack_slots(part, parts, weight, hidden_size, gates, units, packed):
    """A part's share of the rows, those of one block and slot after the other."""
    slots = packed.shape[1] // units
    for slot in range(slots * part // parts, slots * (part + 1) // parts):
        unit = slot // gates.size * units
        row = gates[slot % gates.size] * hidden_size + unit
        for u in range(units):
            columns = weight.shape[1] if unit + u < hidden_size else 0
            _pack_row(weight, (row + u) * weight.shape[1], columns, slot * units + u, packed)


@subroutine
def _pack_rows(part, parts, weight_ih, weight_hh, hidden_size, input_gates, recurrent_gates, units, packed):
    _pack_slots(part, parts, weight_ih, hidden_size, input_gates, units, packed.input)
    if weight_hh.size > 0:
        for stage in range(len(recurrent_gates)):
            _pack_slots(part, parts, weight_hh, hidden_size, recurrent_gates[stage], units, packed.recurrent[stage])


@kernel
def pack_backward(weight_ih, weight_hh, hidden_size, input_gates, recurrent_gates, units, packed, parts):
    """Fill `packed`, a `BackwardWeights`, from PyTorch's matrices (gates·H, K), for blocks of `units` units.

    input_gates, recurrent_gates: as in `pack_forward`.
    """
    clear(packed.zero, 0, packed.zero.size)
    in_parallel(
        _pack_rows, parts, (parts, weight_ih, weight_hh, hidden_size, input_gates, recurrent_gates, units, packed)
    )
