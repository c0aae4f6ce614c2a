"""The two time loops, over any cell, forward and backward.

Work is divided over parts either by rows of the batch, each part going through all steps alone, or by units, where
all parts meet after every step. To that end a pass is a list of phases: those of a stretch of steps, then those of the
next. Either way each number is computed by the same chain of operations.
"""

import functools
from typing import NamedTuple

from numba import types

from .cells import CELLS
from .cells.layer_norm_lstm import Row
from .gemm import PANEL_VECTORS, make_slot_product, panel_product, row_from_panels, row_to_panels
from .jit import kernel, subroutine
from .layout import (
    Buffers,
    Schedule,
    View,
    active_rows,
    gather_rows,
    place,
    restart,
    rows_of_step,
    scatter_rows,
    stretch_rows,
    window,
)
from .packing import BackwardWeights, Weights
from .parallel import in_parallel, make_in_step
from .simd import add_each, lanes, load, load_each, load_first, slot_access, store, store_each

_PAIR = types.UniTuple(types.intp, 2)
_FEW_ROWS = 4


class Span(NamedTuple):
    """Steps of a pass, and the stretch of steps that are taken together."""

    begin: int
    end: int
    stretch: int
    by_units: bool


class Noise(NamedTuple):
    """Drawn numbers, as the cell takes them: for unit j of element (t, b) at t·time + b·batch + j of each array.

    The arrays go on past the last unit of all by a panel's width.
    """

    arrays: tuple  # flat; empty for a cell that takes none
    time: int
    batch: int
    first: int


class ForwardJob(NamedTuple):
    """All that a forward pass reads and writes. The sizes must agree with each other, and are not checked."""

    x: View  # or of one int64 token for each step and sequence, all of them below the number of inputs
    y: View
    reverse: bool
    initial_state: tuple  # of flat (B·H) arrays, read at step 0
    final_state: tuple  # likewise, written row by row where a sequence ends
    weights: Weights
    vectors: tuple  # of (⌈H/P⌉·P,), the cell's own parameters
    noise: Noise
    schedule: Schedule
    buffers: Buffers


class BackwardJob(NamedTuple):
    """All that a backward pass reads and writes, after a forward pass that kept everything in `buffers`."""

    dy: View
    dx: View  # written, or with `add_dx` added to; left out when it has no columns
    add_dx: bool
    reverse: bool
    d_final: tuple  # of flat (B·H) arrays: gradients of the final state, read
    d_initial: tuple  # and of the initial state, written
    weights: BackwardWeights
    vectors: tuple  # as in the forward pass
    noise: Noise  # likewise
    carry_factor: float  # what the state's gradient is multiplied by on its way from a step to the one before
    schedule: Schedule
    buffers: Buffers


@subroutine
def _load_state(job, hidden_size, first, last):
    """The initial state of rows `first` to `last` into the panels."""
    schedule, buffers = job.schedule, job.buffers
    for part in range(len(job.initial_state)):
        panels = buffers.states[part]
        width = PANEL_VECTORS * lanes(panels)
        for row in range(first, last):
            source = schedule.order[row] * hidden_size
            at = schedule.state_rows[0] + row
            row_to_panels(job.initial_state[part], source, hidden_size, panels, at, buffers.state_rows * width)


@subroutine
def _store_state(panels, panel_rows, offset, order, hidden_size, targets, first, last, column, end):
    """Columns `column` to `end` of rows `first` to `last` out of the panels, where row r stands at offset + r."""
    for part in range(len(targets)):
        stride = panel_rows * PANEL_VECTORS * lanes(panels[part])
        for row in range(first, last):
            target = order[row] * hidden_size
            row_from_panels(panels[part], offset + row, stride, column, end, targets[part], target, False)


@subroutine
def _emit(job, hidden_size, t, first, last, column, end):
    """Columns of h_t into y, and into the final state those rows that end here."""
    schedule, buffers, y = job.schedule, job.buffers, job.y
    stride = buffers.state_rows * PANEL_VECTORS * lanes(buffers.z)
    offset = schedule.state_rows[t + 1]
    for row in range(first, last):
        target = place(y, job.reverse, schedule, row, t)
        row_from_panels(buffers.states[0], offset + row, stride, column, end, y.data, target, False)
    ended = max(first, schedule.counts[t + 1])
    _store_state(
        buffers.states, buffers.state_rows, offset, schedule.order, hidden_size, job.final_state, ended, last, column,
        end,
    )  # fmt: skip


@subroutine(returns=types.intp)
def _phase_count(span, stages):
    """Phases of a pass: one a stage of each step, and two more a stretch."""
    steps = span.end - span.begin
    return stages * steps + 2 * ((steps + span.stretch - 1) // span.stretch)


@subroutine(returns=types.intp)
def _in_turn(n, first, last, t):
    """The n-th of `first` to `last`, from either end in turn: what the step before used last is still in the cache."""
    return first + n if t % 2 == 0 else last - 1 - n


@subroutine(returns=types.boolean)
def _few_rows(schedule, start, stop, first, bound):
    """Whether a product over a stretch better goes through the steps of a row than through the rows of a step.

    A part's rows may be too few to fill a tile. They must all be active, so that the steps are evenly apart.
    """
    return (
        bound - first < _FEW_ROWS and stop - start > 1
        and schedule.counts[stop - 1] == schedule.counts[start] and bound <= schedule.counts[start]
    )  # fmt: skip


@subroutine(returns=types.boolean)
def _are_neighbours(schedule, start, stop):
    """Whether the rows of a stretch's steps stand without gaps; the few places of inference have room for all rows."""
    rows = 0
    for t in range(start, stop):
        rows += schedule.counts[t]
    return stretch_rows(schedule, start, stop, 0, 1)[1] == rows


def _grain(slots):
    """Units that parts don't divide: a block's, or a vector's where a block is nothing but one slot."""

    @subroutine(returns=types.intp)
    def grain(panels):
        return lanes(panels) * (PANEL_VECTORS // slots if slots > 1 else 1)

    return grain


@subroutine(returns=_PAIR)
def _share_of_units(hidden_size, grain, part, parts):
    """First and past the last of a part's units, of which `grain` stay together."""
    lots = (hidden_size + grain - 1) // grain
    return lots * part // parts * grain, min(lots * (part + 1) // parts * grain, hidden_size)


@subroutine(returns=_PAIR)
def _within(first, last, block, size):
    """Units `first` to `last` as far as they lie in a block of `size`, counted from its first."""
    return max(first - block * size, 0), min(last - block * size, size)


@subroutine
def _gather_values(job, start, stop, first, last):
    """The input of the packed rows `first` to `last` of a stretch, into the panels."""
    buffers = job.buffers
    gather_rows(job.x, job.reverse, job.schedule, buffers.x, buffers.x_rows, start, stop, first, last)


@subroutine
def _gather_tokens(job, start, stop, first, last):
    """The tokens of the packed rows `first` to `last` of a stretch, to where their rows of z stand."""
    schedule = job.schedule
    for t in range(start, stop):
        low, high = rows_of_step(schedule, start, t, first, last)
        for row in range(low, high):
            job.buffers.x[schedule.rows[t] + row] = job.x.data[place(job.x, job.reverse, schedule, row, t)]


@subroutine(returns=types.intp)
def _nowhere(noise, reverse, schedule, row, t):
    """In place of `place` for a cell without noise."""
    return 0


def make_forward(cell, tokens):
    """The forward pass over a `Cell`, as a kernel, whose input is `tokens` or real."""
    slots, stages = cell.slots, len(cell.products)
    vectors = PANEL_VECTORS // slots  # vectors of a slot
    x_first, x_slots = window(cell.input_slots)
    h_slots = len(cell.recurrent_slots)
    input_product = make_slot_product(x_slots, vectors)
    recurrent_product = make_slot_product(h_slots, vectors)
    grain = _grain(slots)
    load_slots, store_slots = slot_access(slots)
    cell_forward, by_row = cell.forward, cell.by_row
    two_stages = stages > 1
    noise_place = place if cell.noise else _nowhere

    @subroutine
    def multiply_input(weights, buffers, block, unit_first, unit_last, row, rows, stride):
        """z = bias + W_ih x for units of one block and `rows` rows from `row`, `stride` apart."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        units = vectors * step
        z = (block * buffers.x_rows + row) * width
        input_size = weights.input.shape[1]
        for slot in range(slots):
            if slot < x_first or slot >= x_first + x_slots:  # the product does not reach it
                for r in range(0, rows * stride, stride):
                    for v in range(slot * units, (slot + 1) * units, step):
                        store(buffers.z, z + r * width + v, load(weights.bias, block * width + v))
        column = x_first * units + unit_first
        input_product(
            unit_last - unit_first, rows, buffers.z, z + column, stride * width,
            weights.bias, block * width + column, 0,
            buffers.x, row * width, stride * width, buffers.x_rows * width, width, input_size,
            weights.input, block * input_size * x_slots * units + unit_first,
        )  # fmt: skip

    @subroutine
    def look_up(job, alone, start, stop, first, bound, block, unit_first, unit_last):
        """z = bias + the token's column of W_ih, for units of one block and all steps of a stretch."""
        schedule, weights, buffers = job.schedule, job.weights, job.buffers
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        units = vectors * step
        for t in range(start, stop):
            for row in range(schedule.rows[t] + first, schedule.rows[t] + active_rows(schedule, t, bound)):
                z = (block * buffers.x_rows + row) * width
                column = (block * weights.input.shape[1] + buffers.x[row]) * x_slots * units
                for slot in range(slots):
                    for v in range(slot * units + unit_first, slot * units + unit_last, step):
                        value = load(weights.bias, block * width + v)
                        if slot >= x_first and slot < x_first + x_slots:
                            value = value + load(weights.input, column + v - x_first * units)
                        store(buffers.z, z + v, value)

    @subroutine
    def multiply_inputs(job, alone, start, stop, first, bound, block, unit_first, unit_last):
        """`multiply_input` for all steps of a stretch.

        Parts that run on by themselves may be at different stretches, and must keep to their own rows. With `alone` no
        other part does: then all the stretch's rows go into one product, if they are neighbours.
        """
        schedule, weights, buffers = job.schedule, job.weights, job.buffers
        if alone:
            rows = stretch_rows(schedule, start, stop, 0, 1)[1]
            multiply_input(weights, buffers, block, unit_first, unit_last, schedule.rows[start], rows, 1)
        elif _few_rows(schedule, start, stop, first, bound):
            row = schedule.rows[start]
            stride = schedule.rows[start + 1] - row
            for r in range(first, bound):
                multiply_input(weights, buffers, block, unit_first, unit_last, row + r, stop - start, stride)
        else:
            for t in range(start, stop):
                rows = active_rows(schedule, t, bound) - first
                if rows > 0:
                    row = schedule.rows[t] + first
                    multiply_input(weights, buffers, block, unit_first, unit_last, row, rows, 1)

    def make_advance(stage):
        """A stage's product, and its formula. It takes h_{t−1}, or what the stage before has left for this step, and
        gives the state's parts from `part_first` on."""
        slot_first, stage_slots = window(cell.products[stage])
        stage_product = make_slot_product(stage_slots, vectors)
        packed_first = sum(len(slots) for slots in cell.products[:stage])  # slots of the stages before
        stage_forward = cell_forward if stage == stages - 1 else cell.before.forward
        source = cell.states if stage > 0 else 0
        part_first, part_last = (0, cell.states) if stage == stages - 1 else (cell.states, cell.parts)

        @subroutine
        def advance(job, t, first, last, block, unit_first, unit_last):
            """Units of one block of rows `first` to `last` through a stage of step t."""
            weights, schedule, buffers = job.weights, job.schedule, job.buffers
            step = lanes(buffers.z)
            width = PANEL_VECTORS * step
            units = vectors * step
            hidden_size = weights.recurrent.shape[1]
            z = (block * buffers.x_rows + schedule.rows[t] + first) * width
            column = z + slot_first * units + unit_first
            stage_product(
                unit_last - unit_first, last - first, buffers.z, column, width, buffers.z, column, width,
                buffers.states[source], (schedule.state_rows[t + stage] + first) * width, width,
                buffers.state_rows * width, width, hidden_size,
                weights.recurrent, (block * h_slots + packed_first) * hidden_size * units + unit_first,
            )  # fmt: skip
            panel = block * units // width * buffers.state_rows * width + block * units % width
            before = panel + (schedule.state_rows[t] + first) * width
            after = panel + (schedule.state_rows[t + 1] + first) * width
            for r in range(last - first):
                noise = noise_place(job.noise, job.reverse, schedule, first + r, t) + block * units
                for v in range(unit_first, unit_last, step):
                    at = z + r * width + v
                    kept, state = stage_forward(
                        load_slots(buffers.z, at, units),
                        load_each(buffers.states, before + r * width + v),
                        load_each(job.vectors, block * units + v),
                        load_each(job.noise.arrays, noise + v),
                    )
                    store_slots(buffers.z, at, units, kept)
                    store_each(buffers.states[part_first:part_last], after + r * width + v, state)

        return advance

    advance_before, advance_last = make_advance(0), make_advance(stages - 1)

    @subroutine
    def advance_rows(job, t, first, last):
        """Whole rows through step t: all of the recurrent product comes before the cell."""
        weights, schedule, buffers = job.weights, job.schedule, job.buffers
        hidden_size = weights.recurrent.shape[1]
        width = PANEL_VECTORS * lanes(buffers.z)
        units = width // slots
        z = (schedule.rows[t] + first) * width
        before = (schedule.state_rows[t] + first) * width
        for block in range(weights.recurrent.shape[0]):
            recurrent_product(
                min(units, hidden_size - block * units), last - first,
                buffers.recurrent[0], block * buffers.x_rows * width + z, width, weights.bias, block * width, 0,
                buffers.states[0], before, width, buffers.state_rows * width, width,
                hidden_size, weights.recurrent, block * hidden_size * h_slots * units,
            )  # fmt: skip
        after = (schedule.state_rows[t + 1] + first) * width
        for r in range(0, (last - first) * width, width):
            cell_forward(
                buffers.z, buffers.recurrent[0], Row(z + r, buffers.x_rows * width),
                buffers.states, Row(before + r, buffers.state_rows * width), Row(after + r, buffers.state_rows * width),
                job.vectors, hidden_size,
            )  # fmt: skip

    gather_inputs = _gather_tokens if tokens else _gather_values
    enter_inputs = look_up if tokens else multiply_inputs

    @subroutine
    def run_phase(part, parts, phase, span, job):
        """A stretch's phase 0 gathers its input, phase 1 multiplies it, then each advances it a stage of a step."""
        schedule, buffers = job.schedule, job.buffers
        units = vectors * lanes(buffers.z)
        hidden_size = job.weights.recurrent.shape[1]
        phases = stages * span.stretch + 2
        start = span.begin + phase // phases * span.stretch
        stop = min(start + span.stretch, span.end)
        phase %= phases
        t, stage = start + (phase - 2) // stages, (phase - 2) % stages
        first, bound = schedule.bounds[part, 0], schedule.bounds[part, 1]
        unit_first, unit_last = 0, hidden_size
        if span.by_units:
            unit_first, unit_last = _share_of_units(hidden_size, grain(buffers.z), part, parts)
        block_first, block_last = unit_first // units, (unit_last + units - 1) // units
        if phase == 0:
            if span.by_units:
                row_first, row_last = stretch_rows(schedule, start, stop, part, parts)
                gather_inputs(job, start, stop, row_first, row_last)
                first, bound = bound * part // parts, bound * (part + 1) // parts
            else:
                for t in range(start, stop):
                    gather_inputs(job, t, t + 1, first, active_rows(schedule, t, bound))
            if start == 0:
                _load_state(job, hidden_size, first, bound)
        elif phase == 1:
            alone = (span.by_units or parts == 1) and _are_neighbours(schedule, start, stop)
            for block in range(block_first, block_last):
                low, high = _within(unit_first, unit_last, block, units)
                enter_inputs(job, alone, start, stop, first, bound, block, low, high)
        elif active_rows(schedule, t, bound) > first:
            last = active_rows(schedule, t, bound)
            if by_row:
                advance_rows(job, t, first, last)
            else:
                for n in range(block_last - block_first):
                    block = _in_turn(n, block_first, block_last, t)
                    low, high = _within(unit_first, unit_last, block, units)
                    if stage == stages - 1:
                        advance_last(job, t, first, last, block, low, high)
                    elif two_stages:
                        advance_before(job, t, first, last, block, low, high)
            if stage == stages - 1:
                _emit(job, hidden_size, t, first, last, unit_first, unit_last)

    run_part = make_in_step(run_phase)

    @kernel(name=f"{cell.name}_forward_pass{'_of_tokens' if tokens else ''}")
    def forward_pass(job, begin, end, stretch, by_units):
        """Steps `begin` to `end` of a `ForwardJob`, the input of `stretch` steps multiplied at once."""
        parts = job.schedule.bounds.shape[0]
        span = Span(begin, end, stretch, by_units)
        restart(job.schedule)
        in_parallel(run_part, parts, (parts, _phase_count(span, stages), by_units, job.schedule.progress, span, job))

    return forward_pass


@subroutine
def _scale(job, first, last, panel, unit_first, unit_last):
    """The carried gradient of the state times `carry_factor`, for units of one panel."""
    d_states = job.buffers.d_states
    step = lanes(d_states[0])
    width = PANEL_VECTORS * step
    for part in range(len(job.d_final)):
        for row in range(first, last):
            at = (panel * job.schedule.order.size + row) * width
            for j in range(unit_first, unit_last, step):
                store(d_states[part], at + j, load(d_states[part], at + j) * job.carry_factor)


@subroutine
def _receive(job, t, first, last, panel, unit_first, unit_last):
    """The gradients that enter at step t: of the final state where a row ends here, and of y."""
    schedule, d_states, dy = job.schedule, job.buffers.d_states, job.dy
    step = lanes(d_states[0])
    width = PANEL_VECTORS * step
    rows = schedule.order.size
    column = panel * width
    for part in range(len(job.d_final)):
        for row in range(max(first, schedule.counts[t + 1]), last):
            source = schedule.order[row] * dy.columns + column
            at = (panel * rows + row) * width
            for j in range(unit_first, unit_last, step):
                store(d_states[part], at + j, load_first(job.d_final[part], source + j, min(step, unit_last - j)))
    dh = d_states[0]
    for row in range(first, last):
        source = place(dy, job.reverse, schedule, row, t) + column
        at = (panel * rows + row) * width
        for j in range(unit_first, unit_last, step):
            store(dh, at + j, load(dh, at + j) + load_first(dy.data, source + j, min(step, unit_last - j)))


@subroutine
def _differentiate_input(job, column, columns, depth, rows, row, stride, dx_row, dx_stride):
    """dx = W_ihᵀ dz for `rows` rows, from `row` on and `stride` apart in dz, from `dx_row` and `dx_stride` in dx.

    One panel of inputs for all rows, then the next. dz's columns of a block that take part are `columns` from `column`
    on, `depth` in sum.
    """
    weights, buffers = job.weights, job.buffers
    width = PANEL_VECTORS * lanes(buffers.z)
    for panel in range(weights.input.shape[0]):
        panel_product(
            job.dx.columns - panel * width, rows,
            buffers.dx, (panel * buffers.dx_rows + dx_row) * width, dx_stride * width, weights.zero, 0, 0,
            buffers.dz, row * width + column, stride * width, buffers.x_rows * width, columns, depth,
            weights.input, panel * weights.input.shape[1] * width,
        )  # fmt: skip


@subroutine
def _emit_dx(job, base, start, stop, first, last):
    """dx of the packed rows `first` to `last` of steps `start` to `stop`, from row `base` + `first` on, on its way."""
    scatter_rows(
        job.buffers.dx, job.buffers.dx_rows, base, job.dx, job.reverse, job.schedule, start, stop, first, last,
        job.add_dx,
    )  # fmt: skip


@subroutine
def _clear_lanes(z, at, slots, units, rows, valid):
    """Zeros in a block past its last unit: as a factor such a lane meets zero weights, but may hold 0·∞."""
    step = lanes(z)
    for v in range(valid // step * step, units, step):
        for r in range(rows):
            for slot in range(slots):
                place = at + r * PANEL_VECTORS * step + slot * units + v
                store(z, place, load_first(z, place, max(0, valid - v)))


def make_backward(cell):
    """The backward pass (BPTT) over a `Cell`, as a kernel."""
    slots, states, stages = cell.slots, cell.states, len(cell.products)
    vectors = PANEL_VECTORS // slots
    x_first, x_slots = window(cell.input_slots)
    grain = _grain(slots)
    load_slots, store_slots = slot_access(slots)
    cell_backward, by_row = cell.backward, cell.by_row
    two_stages = stages > 1
    noise_place = place if cell.noise else _nowhere

    def make_differentiate(stage):
        """A stage's formula on the way back, the last one's first: the other finds the slots as that has left them."""
        is_last = stage == stages - 1
        stage_backward = cell_backward if is_last else cell.before.backward

        @subroutine
        def differentiate(job, t, first, last, block, unit_first, unit_last):
            """dz_t of units of one block, and the state's gradient past the products."""
            schedule, buffers = job.schedule, job.buffers
            step = lanes(buffers.z)
            width = PANEL_VECTORS * step
            units = vectors * step
            z = (block * buffers.x_rows + schedule.rows[t] + first) * width
            panel, column = block * units // width, block * units % width
            before = (panel * buffers.state_rows + schedule.state_rows[t] + first) * width + column
            gradient = (panel * schedule.order.size + first) * width + column
            for r in range(last - first):
                noise = noise_place(job.noise, job.reverse, schedule, first + r, t) + block * units
                for v in range(unit_first, unit_last, step):
                    offset = r * width + v
                    d_slots, d_previous, d_vectors = stage_backward(
                        load_slots(buffers.z if is_last else buffers.dz, z + offset, units),
                        load_each(buffers.states, before + offset),
                        load_each(buffers.d_states, gradient + offset),
                        load_each(job.vectors, block * units + v),
                        load_each(job.noise.arrays, noise + v),
                    )
                    store_slots(buffers.dz, z + offset, units, d_slots)
                    store_each(buffers.d_states[:states], gradient + offset, d_previous)
                    add_each(buffers.d_vectors, gradient + offset, d_vectors)
            if slots > 1 and unit_last < units:
                _clear_lanes(buffers.dz, z, slots, units, last - first, unit_last)

        return differentiate

    differentiate_before, differentiate_last = make_differentiate(0), make_differentiate(stages - 1)

    @subroutine
    def differentiate_rows(job, t, first, last):
        """The same for whole rows."""
        schedule, buffers, hidden_size = job.schedule, job.buffers, job.dy.columns
        width = PANEL_VECTORS * lanes(buffers.z)
        units = width // slots
        z = (schedule.rows[t] + first) * width
        before = (schedule.state_rows[t] + first) * width
        after = (schedule.state_rows[t + 1] + first) * width
        for r in range(0, (last - first) * width, width):
            cell_backward(
                buffers.z, buffers.recurrent[0], buffers.dz, buffers.recurrent[1],
                Row(z + r, buffers.x_rows * width),
                buffers.states, Row(before + r, buffers.state_rows * width), Row(after + r, buffers.state_rows * width),
                buffers.d_states, Row(first * width + r, schedule.order.size * width),
                job.vectors, buffers.d_vectors, hidden_size,
            )  # fmt: skip
        block = hidden_size // units
        if block * units < hidden_size:
            at = block * buffers.x_rows * width + z
            _clear_lanes(buffers.dz, at, slots, units, last - first, hidden_size - block * units)
            _clear_lanes(buffers.recurrent[1], at, slots, units, last - first, hidden_size - block * units)

    @subroutine(returns=types.intp)
    def depth(hidden_size, packed_rows):
        """Columns of dz that a product runs over; with one slot a block has nothing else past the last unit."""
        return hidden_size if slots == 1 else packed_rows

    def make_recur(stage):
        """A stage's product on the way back: to dh, which is added to, or to the gradient of what the stage before
        gave."""
        slot_first, stage_slots = window(cell.products[stage])
        source = states if stage > 0 else 0

        @subroutine
        def recur(job, t, first, last, panel, unit_first, unit_last):
            """W_hhᵀ dz_t for units of one panel."""
            weights, schedule, buffers = job.weights, job.schedule, job.buffers
            weight, target = weights.recurrent[stage], buffers.d_states[source]
            width = PANEL_VECTORS * lanes(target)
            units = vectors * lanes(target)
            at = (panel * schedule.order.size + first) * width + unit_first
            init, i, init_stride = (weights.zero, 0, 0) if stage > 0 else (target, at, width)
            panel_product(
                unit_last - unit_first, last - first, target, at, width, init, i, init_stride,
                buffers.recurrent[1] if by_row else buffers.dz, (schedule.rows[t] + first) * width + slot_first * units,
                width, buffers.x_rows * width, stage_slots * units, depth(job.dy.columns, weight.shape[1]),
                weight, panel * weight.shape[1] * width + unit_first,
            )  # fmt: skip

        return recur

    recur_first, recur_last = make_recur(0), make_recur(stages - 1)

    @subroutine
    def step_back(job, t, first, bound, unit_first, unit_last):
        """One step of BPTT for some rows and units, but for the stage before the last."""
        schedule, buffers = job.schedule, job.buffers
        units = vectors * lanes(buffers.z)
        width = slots * units
        last, going_on = active_rows(schedule, t, bound), active_rows(schedule, t + 1, bound)
        panel_first, panel_last = unit_first // width, (unit_last + width - 1) // width
        for n in range(panel_last - panel_first):
            panel = _in_turn(n, panel_first, panel_last, t)
            low, high = _within(unit_first, unit_last, panel, width)
            if going_on > first:
                recur_first(job, t + 1, first, going_on, panel, low, high)
                if job.carry_factor != 1.0:
                    _scale(job, first, going_on, panel, low, high)
            _receive(job, t, first, last, panel, low, high)
            if not by_row:
                for block in range(panel * slots + low // units, panel * slots + (high + units - 1) // units):
                    begin, end = _within(panel * width + low, panel * width + high, block, units)
                    differentiate_last(job, t, first, last, block, begin, end)
        if by_row:
            differentiate_rows(job, t, first, last)

    @subroutine
    def step_back_before(job, t, first, bound, unit_first, unit_last):
        """The stage before the last, once the other's dz is there for all units."""
        units = vectors * lanes(job.buffers.z)
        width = slots * units
        last = active_rows(job.schedule, t, bound)
        for panel in range(unit_first // width, (unit_last + width - 1) // width):
            low, high = _within(unit_first, unit_last, panel, width)
            recur_last(job, t, first, last, panel, low, high)
            for block in range(panel * slots + low // units, panel * slots + (high + units - 1) // units):
                begin, end = _within(panel * width + low, panel * width + high, block, units)
                differentiate_before(job, t, first, last, block, begin, end)

    @subroutine
    def leave(job, first, last, unit_first, unit_last):
        """The initial state's gradient, and its way out."""
        schedule, buffers = job.schedule, job.buffers
        width = PANEL_VECTORS * lanes(buffers.z)
        for panel in range(unit_first // width, (unit_last + width - 1) // width):
            low, high = _within(unit_first, unit_last, panel, width)
            recur_first(job, 0, first, last, panel, low, high)
        _store_state(
            buffers.d_states, schedule.order.size, 0, schedule.order, job.dy.columns, job.d_initial, first, last,
            unit_first, unit_last,
        )  # fmt: skip

    @subroutine
    def leave_stretch(job, by_units, start, stop, part, parts):
        """dx of a stretch's steps: for a part's share of all rows, or for its own rows of each step.

        Parts that run on by themselves may be at different stretches: each uses rows of the buffer that are its own.
        """
        schedule = job.schedule
        units = vectors * lanes(job.buffers.z)
        column, columns = x_first * units, x_slots * units
        rows = depth(job.dy.columns, job.weights.input.shape[1])
        first, bound = schedule.bounds[part, 0], schedule.bounds[part, 1]
        row = schedule.rows[start]
        if by_units or parts == 1:
            first, last = stretch_rows(schedule, start, stop, part, parts)
            _differentiate_input(job, column, columns, rows, last - first, row + first, 1, first, 1)
            _emit_dx(job, 0, start, stop, first, last)
        elif _few_rows(schedule, start, stop, first, bound):
            stride, batch = schedule.rows[start + 1] - row, schedule.order.size
            for r in range(first, bound):
                _differentiate_input(job, column, columns, rows, stop - start, row + r, stride, r, batch)
            for t in range(start, stop):
                _emit_dx(job, (t - start) * batch, t, t + 1, first, bound)
        else:
            for t in range(start, stop):
                last = active_rows(schedule, t, bound)
                if last > first:
                    row = schedule.rows[t] + first
                    _differentiate_input(job, column, columns, rows, last - first, row, 1, first, 1)
                    _emit_dx(job, 0, t, t + 1, first, last)

    @subroutine
    def run_phase(part, parts, phase, span, job):
        """A stretch's phases go back through a stage of a step each; then comes its dx, and the initial state's."""
        schedule = job.schedule
        phases = stages * span.stretch + 2
        stop = span.end - phase // phases * span.stretch
        start = max(stop - span.stretch, span.begin)
        phase %= phases
        first, bound = schedule.bounds[part, 0], schedule.bounds[part, 1]
        unit_first, unit_last = 0, job.dy.columns
        if span.by_units:
            unit_first, unit_last = _share_of_units(unit_last, grain(job.buffers.z), part, parts)
        t = stop - 1 - phase // stages
        if t >= start:
            if active_rows(schedule, t, bound) > first:
                if phase % stages == 0:
                    step_back(job, t, first, bound, unit_first, unit_last)
                elif two_stages:
                    step_back_before(job, t, first, bound, unit_first, unit_last)
        elif phase == stages * (stop - start):
            if job.dx.columns > 0:
                leave_stretch(job, span.by_units, start, stop, part, parts)
        elif start == 0 and bound > first:
            leave(job, first, bound, unit_first, unit_last)

    run_part = make_in_step(run_phase)

    @kernel(name=f"{cell.name}_backward_pass")
    def backward_pass(job, begin, end, stretch, by_units):
        """Steps `end` − 1 down to `begin` of a `BackwardJob`, dx of `stretch` steps computed at once."""
        parts = job.schedule.bounds.shape[0]
        span = Span(begin, end, stretch, by_units)
        restart(job.schedule)
        in_parallel(run_part, parts, (parts, _phase_count(span, stages), by_units, job.schedule.progress, span, job))

    return backward_pass


@functools.cache
def forward_pass(name, tokens=False):
    """The kernel for the cell of this name in `CELLS`; see `make_forward`."""
    return make_forward(CELLS[name], tokens)


@functools.cache
def backward_pass(name):
    """The kernel for the cell of this name in `CELLS`."""
    return make_backward(CELLS[name])
