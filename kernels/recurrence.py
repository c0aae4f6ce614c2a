"""The two time loops, over any cell, forward and backward.

Work is divided over parts either by rows of the batch, each part going through a whole stretch of steps alone, or by
units, where all parts meet after every step. To that end a stretch is a list of phases, of which a part runs all that
may go together. Either way each number is computed by the same chain of operations.
"""

from typing import NamedTuple

from .cells import CELLS
from .gemm import PANEL_VECTORS, panel_product, product_by_vectors, row_from_panels, row_to_panels
from .jit import kernel, subroutine
from .layout import Buffers, Schedule, View, active_rows, gather, time_of, window
from .packing import BackwardWeights, Weights
from .parallel import in_parallel
from .simd import lanes, load, load_each, load_first, slot_access, store, store_each


class ForwardJob(NamedTuple):
    """All that a forward pass reads and writes. The sizes must agree with each other, and are not checked."""

    x: View
    y: View
    reverse: bool
    initial_state: tuple  # of flat (B·H) arrays, read at step 0
    final_state: tuple  # likewise, written row by row where a sequence ends
    weights: Weights
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
        step = time_of(job.reverse, schedule.lengths[row], t)
        target = step * y.time + schedule.order[row] * y.batch + y.first
        row_from_panels(buffers.states[0], offset + row, stride, column, end, y.data, target, False)
    ended = max(first, schedule.counts[t + 1])
    _store_state(
        buffers.states, buffers.state_rows, offset, schedule.order, hidden_size, job.final_state, ended, last, column,
        end,
    )  # fmt: skip


@subroutine
def _clear_lanes(z, at, slots, units, states, state_at, rows, filled):
    """Zeros in a block's lanes past the last unit, from lane `filled` on: whole vectors may then be taken."""
    width = PANEL_VECTORS * lanes(z)
    for r in range(rows):
        for u in range(filled, units):
            for slot in range(slots):
                z[at + r * width + slot * units + u] = 0.0
            for part in range(len(states)):
                states[part][state_at + r * width + u] = 0.0


def make_forward(cell):
    """The forward pass over a `Cell`, as a kernel."""
    slots = cell.slots
    vectors = PANEL_VECTORS // slots  # vectors of a slot
    x_first, x_slots = window(cell.input_slots)
    h_first, h_slots = window(cell.recurrent_slots)
    input_product = product_by_vectors[x_slots * vectors]
    recurrent_product = product_by_vectors[h_slots * vectors]
    load_slots, store_slots = slot_access(slots)
    cell_forward = cell.forward

    @subroutine
    def multiply_input(weights, buffers, block, row, rows):
        """z = bias + W_ih x for `rows` rows from `row`."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        z = (block * buffers.x_rows + row) * width
        input_size = weights.input.shape[1]
        for slot in range(slots):
            if slot < x_first or slot >= x_first + x_slots:  # the product does not reach it
                for r in range(rows):
                    for v in range(slot * vectors * step, (slot + 1) * vectors * step, step):
                        store(buffers.z, z + r * width + v, load(weights.bias, block * width + v))
        input_product(
            rows, buffers.z, z + x_first * vectors * step, width,
            weights.bias, block * width + x_first * vectors * step, 0,
            buffers.x, row * width, buffers.x_rows * width, width, input_size,
            weights.input, block * input_size * x_slots * vectors * step,
        )  # fmt: skip

    @subroutine
    def multiply_inputs(job, start, stop, first, bound, block_first, block_last):
        """`multiply_input` for all steps of a stretch."""
        schedule = job.schedule
        whole = first == 0 and bound >= schedule.counts[start]
        for block in range(block_first, block_last):
            if whole:  # the stretch's rows are neighbours: one product
                row = schedule.rows[start]
                rows = schedule.rows[stop - 1] + schedule.counts[stop - 1] - row
                multiply_input(job.weights, job.buffers, block, row, rows)
            else:
                for t in range(start, stop):
                    rows = active_rows(schedule, t, bound) - first
                    if rows > 0:
                        multiply_input(job.weights, job.buffers, block, schedule.rows[t] + first, rows)

    @subroutine
    def advance(weights, schedule, buffers, t, first, last, block):
        """One block of units of rows `first` to `last` through step t."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        units = vectors * step
        hidden_size = weights.recurrent.shape[1]
        z = (block * buffers.x_rows + schedule.rows[t] + first) * width
        recurrent_product(
            last - first, buffers.z, z + h_first * units, width, buffers.z, z + h_first * units, width,
            buffers.states[0], (schedule.state_rows[t] + first) * width, buffers.state_rows * width, width,
            hidden_size, weights.recurrent, block * hidden_size * h_slots * units,
        )  # fmt: skip
        panel = block * units // width * buffers.state_rows * width + block * units % width
        before = panel + (schedule.state_rows[t] + first) * width
        after = panel + (schedule.state_rows[t + 1] + first) * width
        for r in range(last - first):
            for v in range(0, units, step):
                at = z + r * width + v
                previous = load_each(buffers.states, before + r * width + v)
                kept, state = cell_forward(load_slots(buffers.z, at, units), previous)
                store_slots(buffers.z, at, units, kept)
                store_each(buffers.states, after + r * width + v, state)
        _clear_lanes(
            buffers.z, z, slots, units, buffers.states, after, last - first, hidden_size - block * units
        )

    @subroutine
    def run_phases(part, parts, phase_first, phase_last, by_units, start, stop, job):
        """Phase 0 gathers the stretch's input, phase 1 multiplies it, phase 2 + n advances step start + n."""
        schedule, buffers = job.schedule, job.buffers
        units = vectors * lanes(buffers.z)
        hidden_size = job.weights.recurrent.shape[1]
        blocks = job.weights.recurrent.shape[0]
        first, bound = schedule.bounds[part, 0], schedule.bounds[part, 1]
        block_first, block_last = 0, blocks
        gather_first, gather_bound = first, bound
        if by_units:
            block_first, block_last = blocks * part // parts, blocks * (part + 1) // parts
            gather_first, gather_bound = bound * part // parts, bound * (part + 1) // parts
        for phase in range(phase_first, phase_last):
            t = start + phase - 2
            if phase == 0:
                if start == 0:
                    _load_state(job, hidden_size, gather_first, gather_bound)
                for t in range(start, stop):
                    last = active_rows(schedule, t, gather_bound)
                    gather(job.x, job.reverse, schedule, buffers.x, buffers.x_rows, t, gather_first, last)
            elif phase == 1:
                multiply_inputs(job, start, stop, first, bound, block_first, block_last)
            elif active_rows(schedule, t, bound) > first:
                last = active_rows(schedule, t, bound)
                for block in range(block_first, block_last):
                    advance(job.weights, schedule, buffers, t, first, last, block)
                _emit(job, hidden_size, t, first, last, block_first * units, min(block_last * units, hidden_size))

    @kernel(name=f"{cell.name}_forward_pass")
    def forward_pass(job, begin, end, stretch, by_units):
        """Steps `begin` to `end` of a `ForwardJob`, the input of `stretch` steps multiplied at once."""
        parts = job.schedule.bounds.shape[0]
        for start in range(begin, end, stretch):
            stop = min(start + stretch, end)
            phases = stop - start + 2
            together = 1 if by_units else phases
            for phase in range(0, phases, together):
                in_parallel(run_phases, parts, (parts, phase, phase + together, by_units, start, stop, job))

    return forward_pass


@subroutine
def _recur(weights, schedule, buffers, column, columns, t, first, last, panel):
    """dh_t += W_hhᵀ dz_{t+1} for one panel of units, for rows that go on after step t.

    dz's columns of a block that take part are `columns` from `column` on.
    """
    width = PANEL_VECTORS * lanes(buffers.z)
    depth = weights.recurrent.shape[1]
    dh = buffers.d_states[0]
    at = (panel * schedule.order.size + first) * width
    panel_product(
        last - first, dh, at, width, dh, at, width,
        buffers.z, (schedule.rows[t + 1] + first) * width + column, buffers.x_rows * width, columns, depth,
        weights.recurrent, panel * depth * width,
    )  # fmt: skip


@subroutine
def _receive(job, t, first, last, panel):
    """The gradients that enter at step t: of the final state where a row ends here, and of y."""
    schedule, d_states, dy = job.schedule, job.buffers.d_states, job.dy
    step = lanes(d_states[0])
    width = PANEL_VECTORS * step
    rows = schedule.order.size
    column = panel * width
    columns = min(width, dy.columns - column)
    for part in range(len(job.d_final)):
        for row in range(max(first, schedule.counts[t + 1]), last):
            source = schedule.order[row] * dy.columns + column
            row_to_panels(job.d_final[part], source, columns, d_states[part], panel * rows + row, 0)
    dh = d_states[0]
    for row in range(first, last):
        time = time_of(job.reverse, schedule.lengths[row], t)
        source = time * dy.time + schedule.order[row] * dy.batch + dy.first + column
        at = (panel * rows + row) * width
        for j in range(0, columns, step):
            store(dh, at + j, load(dh, at + j) + load_first(dy.data, source + j, min(step, columns - j)))


@subroutine
def _differentiate_input(job, column, columns, start, t, first, last):
    """dx_t = W_ihᵀ dz_t for rows `first` to `last`, and its way out; `column`, `columns` as in `_recur`."""
    weights, schedule, buffers, dx = job.weights, job.schedule, job.buffers, job.dx
    width = PANEL_VECTORS * lanes(buffers.z)
    depth = weights.input.shape[1]
    row = schedule.rows[t] - schedule.rows[start]
    for panel in range(weights.input.shape[0]):
        panel_product(
            last - first, buffers.dx, (panel * buffers.dx_rows + row + first) * width, width, weights.zero, 0, 0,
            buffers.z, (schedule.rows[t] + first) * width + column, buffers.x_rows * width, columns, depth,
            weights.input, panel * depth * width,
        )  # fmt: skip
    for r in range(first, last):
        time = time_of(job.reverse, schedule.lengths[r], t)
        target = time * dx.time + schedule.order[r] * dx.batch + dx.first
        row_from_panels(buffers.dx, row + r, buffers.dx_rows * width, 0, dx.columns, dx.data, target, job.add_dx)


def make_backward(cell):
    """The backward pass (BPTT) over a `Cell`, as a kernel."""
    slots = cell.slots
    vectors = PANEL_VECTORS // slots
    x_first, x_slots = window(cell.input_slots)
    h_first, h_slots = window(cell.recurrent_slots)
    load_slots, store_slots = slot_access(slots)
    cell_backward = cell.backward

    @subroutine
    def differentiate(schedule, buffers, hidden_size, t, first, last, block):
        """dz_t of one block of units, in place of the values kept, and the state's gradient past the products."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        units = vectors * step
        z = (block * buffers.x_rows + schedule.rows[t] + first) * width
        panel, column = block * units // width, block * units % width
        before = (panel * buffers.state_rows + schedule.state_rows[t] + first) * width + column
        after = (panel * buffers.state_rows + schedule.state_rows[t + 1] + first) * width + column
        gradient = (panel * schedule.order.size + first) * width + column
        for r in range(last - first):
            for v in range(0, units, step):
                offset = r * width + v
                d_slots, d_previous = cell_backward(
                    load_slots(buffers.z, z + offset, units),
                    load_each(buffers.states, before + offset),
                    load_each(buffers.states, after + offset),
                    load_each(buffers.d_states, gradient + offset),
                )
                store_slots(buffers.z, z + offset, units, d_slots)
                store_each(buffers.d_states, gradient + offset, d_previous)
        _clear_lanes(
            buffers.z, z, slots, units, buffers.d_states, gradient, last - first, hidden_size - block * units
        )

    @subroutine
    def step_back(job, t, first, bound, panel_first, panel_last):
        """One step of BPTT for some rows and panels of units."""
        schedule, buffers = job.schedule, job.buffers
        units = vectors * lanes(buffers.z)
        hidden_size = job.dy.columns
        blocks = (hidden_size + units - 1) // units
        last, going_on = active_rows(schedule, t, bound), active_rows(schedule, t + 1, bound)
        for panel in range(panel_first, panel_last):
            if going_on > first:
                _recur(
                    job.weights, schedule, buffers, h_first * units, h_slots * units, t, first, going_on, panel
                )
            _receive(job, t, first, last, panel)
            for block in range(panel * slots, min((panel + 1) * slots, blocks)):
                differentiate(schedule, buffers, hidden_size, t, first, last, block)

    @subroutine
    def leave(job, first, last, panel_first, panel_last):
        """The initial state's gradient, and its way out."""
        schedule, buffers = job.schedule, job.buffers
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        units = vectors * step
        for panel in range(panel_first, panel_last):
            _recur(job.weights, schedule, buffers, h_first * units, h_slots * units, -1, first, last, panel)
        _store_state(
            buffers.d_states, schedule.order.size, 0, schedule.order, job.dy.columns, job.d_initial, first, last,
            panel_first * width, min(panel_last * width, job.dy.columns),
        )  # fmt: skip

    @subroutine
    def run_phases(part, parts, phase_first, phase_last, by_units, start, stop, job):
        """Phase n goes back through step stop − 1 − n; the last but one gives dx, the last the initial state's."""
        schedule = job.schedule
        units = vectors * lanes(job.buffers.z)
        first, bound = schedule.bounds[part, 0], schedule.bounds[part, 1]
        panels = job.weights.recurrent.shape[0]
        panel_first, panel_last = 0, panels
        steps = stop - start
        dx_start, dx_stop = start, stop
        if by_units:
            panel_first, panel_last = panels * part // parts, panels * (part + 1) // parts
            dx_start, dx_stop = start + steps * part // parts, start + steps * (part + 1) // parts
        for phase in range(phase_first, phase_last):
            t = stop - 1 - phase
            if phase < steps:
                if active_rows(schedule, t, bound) > first:
                    step_back(job, t, first, bound, panel_first, panel_last)
            elif phase == steps:
                if job.dx.columns > 0:
                    for t in range(dx_start, dx_stop):
                        last = active_rows(schedule, t, bound)
                        if last > first:
                            _differentiate_input(job, x_first * units, x_slots * units, start, t, first, last)
            elif start == 0 and bound > first:
                leave(job, first, bound, panel_first, panel_last)

    @kernel(name=f"{cell.name}_backward_pass")
    def backward_pass(job, begin, end, stretch, by_units):
        """Steps `end` − 1 down to `begin` of a `BackwardJob`, dx of `stretch` steps computed at once."""
        parts = job.schedule.bounds.shape[0]
        for stretches_left in range((end - begin + stretch - 1) // stretch, 0, -1):
            start = begin + (stretches_left - 1) * stretch
            stop = min(start + stretch, end)
            phases = stop - start + 2
            together = 1 if by_units else phases
            for phase in range(0, phases, together):
                in_parallel(run_phases, parts, (parts, phase, phase + together, by_units, start, stop, job))

    return backward_pass


forward_passes = {name: make_forward(cell) for name, cell in CELLS.items()}
backward_passes = {name: make_backward(cell) for name, cell in CELLS.items()}
