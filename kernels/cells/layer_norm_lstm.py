"""The LSTM with layer normalisation (Ba, Kiros & Hinton 2016, equations 20 to 22).

z = γ_x N(W_ih x_t) + γ_h N(W_hh h_{t−1}) + β;   i, f, o = σ(z_i), σ(z_f), σ(z_o);   g = tanh(z_g);
c_t = f c_{t−1} + i g;   h_t = o tanh(γ_c N(c_t) + β_c),   with N(a) = (a − mean a) / √(var a + ε)
over all numbers of a row: 4·H pre-activations, or H units. The three shifts of the paper's sum are one here, β.

With n = N(a) and r = 1 / √(var a + ε) the gradient is da = r (dn − mean dn − n mean(dn n)).

A row is a step of one sequence. Its units come in blocks, of which `Row` says where they stand.
"""

import math
from typing import NamedTuple

from numba import types

from ..jit import formula, kernel, subroutine
from ..pointwise import sigmoid, tanh
from ..simd import PANEL_VECTORS, horizontal_sum, lanes, load, splat, store
from .cell import Cell
from .lstm import LSTM

SLOTS = LSTM.slots
_GAIN_X, _GAIN_H, _SHIFT, _GAIN_C, _SHIFT_C = 0, 4, 8, 12, 13  # the first of each kind among the vectors
_EPSILON = 1e-5
_PAIR = types.UniTuple(types.float64, 2)


class Row(NamedTuple):
    """Where a row begins in a stack of blocks, or of panels, and how far on the next one is."""

    first: int
    stride: int


@subroutine(returns=types.intp)
def _unit(row, unit, width):
    """Where a unit, the first of a vector, stands in the panels of a state."""
    return row.first + unit // width * row.stride + unit % width


@subroutine(returns=types.float64)
def _sum_from(array, at, valid, mean, squared):
    """Σ (a − mean), or of its squares, over `valid` numbers."""
    step = lanes(array)
    total = splat(array, 0.0)
    for v in range(at, at + valid // step * step, step):
        d = load(array, v) - mean
        total = total + (d * d if squared else d)
    rest = 0.0
    for v in range(at + valid // step * step, at + valid):
        d = array[v] - mean
        rest += d * d if squared else d
    return horizontal_sum(total) + rest


@subroutine(returns=types.float64)
def _sum_of_row(array, row, slots, units, hidden_size, mean, squared):
    """The same over a row's units, each with a number in `slots` slots of its block of `units` units."""
    total = 0.0
    for block in range((hidden_size + units - 1) // units):
        for slot in range(slots):
            at = row.first + block * row.stride + slot * units
            total += _sum_from(array, at, min(units, hidden_size - block * units), mean, squared)
    return total


@subroutine(returns=_PAIR)
def _moments(array, row, slots, units, hidden_size):
    """Mean of a row's numbers, and 1 / √(variance + ε)."""
    count = slots * hidden_size
    mean = _sum_of_row(array, row, slots, units, hidden_size, 0.0, False) / count
    return mean, 1.0 / math.sqrt(_sum_of_row(array, row, slots, units, hidden_size, mean, True) / count + _EPSILON)


@subroutine
def forward_row(z, u, row, states, before, after, vectors, hidden_size):
    """One row's new state. z, u: the products with the input and with h_{t−1}, which stay as they are for the way back;
    before, after: the `Row`s of the states."""
    step = lanes(z)
    width = PANEL_VECTORS * step
    units = width // SLOTS
    mean_x, scale_x = _moments(z, row, SLOTS, units, hidden_size)
    mean_h, scale_h = _moments(u, row, SLOTS, units, hidden_size)
    for unit in range(0, hidden_size, step):
        at = row.first + unit // units * row.stride + unit % units
        i, f, g, o = _gates(z, u, at, units, vectors, unit, mean_x, scale_x, mean_h, scale_h)
        store(states[1], _unit(after, unit, width), f * load(states[1], _unit(before, unit, width)) + i * g)
        store(states[0], _unit(after, unit, width), o)
    mean_c, scale_c = _moments(states[1], after, 1, width, hidden_size)
    for unit in range(0, hidden_size, step):
        at = _unit(after, unit, width)
        c = (load(states[1], at) - mean_c) * scale_c
        squashed = tanh(c * load(vectors[_GAIN_C], unit) + load(vectors[_SHIFT_C], unit))
        store(states[0], at, load(states[0], at) * squashed)


@formula
def _normalised(array, at, mean, scale):
    return (load(array, at) - mean) * scale


@formula
def _preactivation(z, u, at, slot, units, vectors, unit, mean_x, scale_x, mean_h, scale_h):
    from_input = _normalised(z, at + slot * units, mean_x, scale_x) * load(vectors[_GAIN_X + slot], unit)
    from_state = _normalised(u, at + slot * units, mean_h, scale_h) * load(vectors[_GAIN_H + slot], unit)
    return from_input + from_state + load(vectors[_SHIFT + slot], unit)


@formula
def _gates(z, u, at, units, vectors, unit, mean_x, scale_x, mean_h, scale_h):
    i = sigmoid(_preactivation(z, u, at, 0, units, vectors, unit, mean_x, scale_x, mean_h, scale_h))
    f = sigmoid(_preactivation(z, u, at, 1, units, vectors, unit, mean_x, scale_x, mean_h, scale_h))
    g = tanh(_preactivation(z, u, at, 2, units, vectors, unit, mean_x, scale_x, mean_h, scale_h))
    o = sigmoid(_preactivation(z, u, at, 3, units, vectors, unit, mean_x, scale_x, mean_h, scale_h))
    return i, f, g, o


@kernel
def row_gates(z, u, rows, x_rows, vectors, hidden_size, gates):
    """The values of i, f, g and o in some rows, (4,n,⌈H/P⌉·P), after a forward pass and before the backward pass."""
    step = lanes(z)
    width = PANEL_VECTORS * step
    units = width // SLOTS
    flat = gates.reshape(-1)
    for n in range(rows.size):
        row = Row(rows[n] * width, x_rows * width)
        mean_x, scale_x = _moments(z, row, SLOTS, units, hidden_size)
        mean_h, scale_h = _moments(u, row, SLOTS, units, hidden_size)
        for unit in range(0, hidden_size, step):
            at = row.first + unit // units * row.stride + unit % units
            values = _gates(z, u, at, units, vectors, unit, mean_x, scale_x, mean_h, scale_h)
            for slot in range(SLOTS):
                store(flat, (slot * rows.size + n) * gates.shape[2] + unit, values[slot])


@subroutine
def _add(array, at, value):
    store(array, at, load(array, at) + value)


@subroutine
def backward_row(z, u, dz, du, row, states, before, after, d_states, gradient, vectors, d_vectors, hidden_size):
    """dz, du, and in `d_states`, at the `Row` gradient, the state's gradient past the products; d_vectors are added to,
    at the same places."""
    step = lanes(z)
    width = PANEL_VECTORS * step
    units = width // SLOTS
    mean_x, scale_x = _moments(z, row, SLOTS, units, hidden_size)
    mean_h, scale_h = _moments(u, row, SLOTS, units, hidden_size)
    mean_c, scale_c = _moments(states[1], after, 1, width, hidden_size)
    zero = splat(z, 0.0)
    # down to dn of the memory; the gates wait in dz
    total, dotted = zero, zero
    for unit in range(0, hidden_size, step):
        at = row.first + unit // units * row.stride + unit % units
        i, f, g, o = _gates(z, u, at, units, vectors, unit, mean_x, scale_x, mean_h, scale_h)
        c = _normalised(states[1], _unit(after, unit, width), mean_c, scale_c)
        gain = load(vectors[_GAIN_C], unit)
        squashed = tanh(c * gain + load(vectors[_SHIFT_C], unit))
        place = _unit(gradient, unit, width)
        dh = load(d_states[0], place)
        ds = dh * o * (1.0 - squashed * squashed)
        _add(d_vectors[_GAIN_C], place, ds * c)
        _add(d_vectors[_SHIFT_C], place, ds)
        dn = ds * gain
        store(d_states[0], place, dn)
        total, dotted = total + dn, dotted + dn * c
        store(dz, at, i)
        store(dz, at + units, f)
        store(dz, at + 2 * units, g)
        store(dz, at + 3 * units, dh * squashed * o * (1.0 - o))
    mean_dn, mean_dot = horizontal_sum(total) / hidden_size, horizontal_sum(dotted) / hidden_size
    # through the memory to the gates
    total_x, dotted_x, total_h, dotted_h = zero, zero, zero, zero
    for unit in range(0, hidden_size, step):
        at = row.first + unit // units * row.stride + unit % units
        place = _unit(gradient, unit, width)
        c = _normalised(states[1], _unit(after, unit, width), mean_c, scale_c)
        dc = load(d_states[1], place) + (load(d_states[0], place) - mean_dn - c * mean_dot) * scale_c
        i, f, g = load(dz, at), load(dz, at + units), load(dz, at + 2 * units)
        store(dz, at, dc * g * i * (1.0 - i))
        store(dz, at + units, dc * load(states[1], _unit(before, unit, width)) * f * (1.0 - f))
        store(dz, at + 2 * units, dc * i * (1.0 - g * g))
        store(d_states[0], place, 0.0)
        store(d_states[1], place, dc * f)
        for slot in range(SLOTS):
            d = load(dz, at + slot * units)
            dn_x, dn_h = d * load(vectors[_GAIN_X + slot], unit), d * load(vectors[_GAIN_H + slot], unit)
            total_x, total_h = total_x + dn_x, total_h + dn_h
            dotted_x = dotted_x + dn_x * _normalised(z, at + slot * units, mean_x, scale_x)
            dotted_h = dotted_h + dn_h * _normalised(u, at + slot * units, mean_h, scale_h)
    count = SLOTS * hidden_size
    mean_dx, dot_x = horizontal_sum(total_x) / count, horizontal_sum(dotted_x) / count
    mean_dh, dot_h = horizontal_sum(total_h) / count, horizontal_sum(dotted_h) / count
    # and through both normalisations to the products
    for unit in range(0, hidden_size, step):
        at = row.first + unit // units * row.stride + unit % units
        place = _unit(gradient, unit, width)
        for slot in range(SLOTS):
            here = at + slot * units
            d = load(dz, here)
            n_x, n_h = _normalised(z, here, mean_x, scale_x), _normalised(u, here, mean_h, scale_h)
            _add(d_vectors[_GAIN_X + slot], place, d * n_x)
            _add(d_vectors[_GAIN_H + slot], place, d * n_h)
            _add(d_vectors[_SHIFT + slot], place, d)
            store(dz, here, (d * load(vectors[_GAIN_X + slot], unit) - mean_dx - n_x * dot_x) * scale_x)
            store(du, here, (d * load(vectors[_GAIN_H + slot], unit) - mean_dh - n_h * dot_h) * scale_h)


LAYER_NORM_LSTM: Cell = LSTM._replace(
    name="layer_norm_lstm",
    forward=forward_row,
    backward=backward_row,
    row_gates=row_gates,
    vectors=(("gain_ih", 4), ("gain_hh", 4), ("shift", 4), ("gain_c", 1), ("shift_c", 1)),
    by_row=True,
)
