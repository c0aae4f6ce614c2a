"""The two time loops, over any cell, forward and backward.

Work is divided over `parts` either by rows of the batch, each part going through a whole stretch of steps alone, or by
units, where all parts meet after every step. Either way each number is computed by the same chain of operations.
"""

from .cells import CELLS
from .gemm import PANEL_VECTORS, panel_product, product_by_vectors, row_from_panels, row_to_panels
from .jit import kernel, subroutine
from .layout import active_rows, gather, time_of, window
from .parallel import in_parallel
from .simd import lanes, load, load_each, load_first, slot_access, store, store_each


@subroutine
def _load_state(sources, schedule, hidden_size, panels, panel_rows, first, last):
    for part in range(len(sources)):
        width = PANEL_VECTORS * lanes(panels[part])
        for row in range(first, last):
            source = schedule.order[row] * hidden_size
            at = schedule.state_rows[0] + row
            row_to_panels(sources[part], source, hidden_size, panels[part], at, panel_rows * width)


@subroutine
def _store_state(panels, panel_rows, row_offset, schedule, hidden_size, targets, first, last, column, end):
    for part in range(len(targets)):
        width = PANEL_VECTORS * lanes(panels[part])
        for row in range(first, last):
            target = schedule.order[row] * hidden_size
            row_from_panels(
                panels[part], row_offset + row, panel_rows * width, column, end, targets[part], target, False
            )


@subroutine
def _row_add(target, at, source, s, columns):
    step = lanes(target)
    for j in range(0, columns, step):
        store(target, at + j, load(target, at + j) + load_first(source, s + j, min(step, columns - j)))


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
            if slot < x_first or slot >= x_first + x_slots:
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
    def clear_padding(buffers, states, row, state_row, rows, units, hidden_size):
        """Zero in the last block's lanes past the last unit: the backward pass may then take whole vectors."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        block = (hidden_size - 1) // units
        z = (block * buffers.x_rows + row) * width
        unit = block * units
        panel = unit // width * buffers.state_rows * width + state_row * width
        for r in range(rows):
            for u in range(hidden_size - unit, units):
                for slot in range(slots):
                    buffers.z[z + r * width + slot * units + u] = 0.0
                for part in range(len(states)):
                    states[part][panel + r * width + unit % width + u] = 0.0

    @subroutine
    def advance(weights, schedule, buffers, states, t, first, last, block):
        """One block of units of rows `first` to `last` through step t."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        units = vectors * step
        hidden_size = weights.recurrent.shape[1]
        row = schedule.rows[t] + first
        z = (block * buffers.x_rows + row) * width
        recurrent_product(
            last - first, buffers.z, z + h_first * units, width, buffers.z, z + h_first * units, width,
            states[0], (schedule.state_rows[t] + first) * width, buffers.state_rows * width, width,
            hidden_size, weights.recurrent, block * hidden_size * h_slots * units,
        )  # fmt: skip
        panel = block * units // width * buffers.state_rows * width + block * units % width
        before = panel + (schedule.state_rows[t] + first) * width
        after = panel + (schedule.state_rows[t + 1] + first) * width
        for r in range(last - first):
            for v in range(0, units, step):
                at = z + r * width + v
                previous = load_each(states, before + r * width + v)
                kept, state = cell_forward(load_slots(buffers.z, at, units), previous)
                store_slots(buffers.z, at, units, kept)
                store_each(states, after + r * width + v, state)
        if (block + 1) * units > hidden_size:
            clear_padding(buffers, states, row, schedule.state_rows[t + 1] + first, last - first, units, hidden_size)

    @subroutine
    def emit(schedule, buffers, states, y, reverse, final_state, hidden_size, t, first, last, column, end):
        """Columns of h_t into y, and into the final state those rows that end here."""
        width = PANEL_VECTORS * lanes(buffers.z)
        at = schedule.state_rows[t + 1]
        for row in range(first, last):
            step = time_of(reverse, schedule.lengths[row], t)
            target = step * y.time + schedule.order[row] * y.batch + y.first
            row_from_panels(
                states[0], at + row, buffers.state_rows * width, column, end, y.data, target, False
            )
        ended = max(first, schedule.counts[t + 1])
        _store_state(
            states, buffers.state_rows, at, schedule, hidden_size, final_state, ended, last, column, end
        )

    @subroutine
    def run_phase(
        phase, part, parts, by_units, start, stop, x, y, reverse, initial_state, final_state, weights, schedule,
        buffers, states,
    ):  # fmt: skip
        """Phase 0 gathers the stretch's input, phase 1 multiplies it, phase 2 + n advances step start + n."""
        units = vectors * lanes(buffers.z)
        hidden_size = weights.recurrent.shape[1]
        blocks = weights.recurrent.shape[0]
        first, bound = schedule.bounds[part, 0], schedule.bounds[part, 1]
        block_first, block_last = 0, blocks
        if by_units:
            block_first, block_last = blocks * part // parts, blocks * (part + 1) // parts
        if phase == 0:
            if by_units:
                first, bound = bound * part // parts, bound * (part + 1) // parts
            if start == 0:
                _load_state(initial_state, schedule, hidden_size, states, buffers.state_rows, first, bound)
            for t in range(start, stop):
                gather(x, reverse, schedule, buffers.x, buffers.x_rows, t, first, active_rows(schedule, t, bound))
        elif phase == 1:
            whole = first == 0 and bound >= schedule.counts[start]
            for block in range(block_first, block_last):
                if whole:  # the stretch's rows are neighbours: one product
                    row = schedule.rows[start]
                    rows = schedule.rows[stop - 1] + schedule.counts[stop - 1] - row
                    multiply_input(weights, buffers, block, row, rows)
                else:
                    for t in range(start, stop):
                        rows = active_rows(schedule, t, bound) - first
                        if rows > 0:
                            multiply_input(weights, buffers, block, schedule.rows[t] + first, rows)
        else:
            t = start + phase - 2
            last = active_rows(schedule, t, bound)
            if last > first:
                for block in range(block_first, block_last):
                    advance(weights, schedule, buffers, states, t, first, last, block)
                column, end = block_first * units, min(block_last * units, hidden_size)
                emit(schedule, buffers, states, y, reverse, final_state, hidden_size, t, first, last, column, end)

    @subroutine
    def run_phases(
        part, first, last, parts, by_units, start, stop, x, y, reverse, initial_state, final_state, weights, schedule,
        buffers, states,
    ):  # fmt: skip
        for phase in range(first, last):
            run_phase(
                phase, part, parts, by_units, start, stop, x, y, reverse, initial_state, final_state, weights,
                schedule, buffers, states,
            )  # fmt: skip

    @kernel(name=f"{cell.name}_forward_pass")
    def forward_pass(
        x, y, reverse, initial_state, final_state, weights, schedule, buffers, states, begin, end, stretch, by_units
    ):
        """Steps `begin` to `end` of a pass.

        x, y: `View`s of the input and the output; initial_state, final_state: tuples of flat (B·H) arrays, the first
        read at step 0, the second written row by row where a sequence ends; stretch: steps whose input is multiplied
        at once; the sizes must agree with each other, and are not checked.
        """
        parts = schedule.bounds.shape[0]
        for start in range(begin, end, stretch):
            stop = min(start + stretch, end)
            phases = stop - start + 2
            together = 1 if by_units else phases
            for phase in range(0, phases, together):
                in_parallel(
                    run_phases, parts,
                    (
                        phase, phase + together, parts, by_units, start, stop, x, y, reverse, initial_state,
                        final_state, weights, schedule, buffers, states,
                    ),
                )  # fmt: skip

    return forward_pass


def make_backward(cell):
    """The backward pass (BPTT) over a `Cell`, as a kernel."""
    slots = cell.slots
    vectors = PANEL_VECTORS // slots
    x_first, x_slots = window(cell.input_slots)
    h_first, h_slots = window(cell.recurrent_slots)
    load_slots, store_slots = slot_access(slots)
    cell_backward = cell.backward

    @subroutine
    def recur(weights, schedule, buffers, d_states, t, first, last, panel):
        """dh_t += W_hhᵀ dz_{t+1} for one panel of units; rows that go on after step t."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        depth = weights.recurrent.shape[1]
        rows = schedule.order.size
        at = (panel * rows + first) * width
        panel_product(
            last - first, d_states[0], at, width, d_states[0], at, width,
            buffers.z, (schedule.rows[t + 1] + first) * width + h_first * vectors * step, buffers.x_rows * width,
            h_slots * vectors * step, depth, weights.recurrent, panel * depth * width,
        )  # fmt: skip

    @subroutine
    def receive(schedule, d_states, dy, reverse, d_final, hidden_size, t, first, last, panel):
        """The gradients that enter at step t: of the final state where a row ends here, and of y."""
        width = PANEL_VECTORS * lanes(d_states[0])
        rows = schedule.order.size
        columns = min(width, hidden_size - panel * width)
        for part in range(len(d_final)):
            for row in range(max(first, schedule.counts[t + 1]), last):
                source = schedule.order[row] * hidden_size + panel * width
                row_to_panels(d_final[part], source, columns, d_states[part], panel * rows + row, 0)
        for row in range(first, last):
            t_of = time_of(reverse, schedule.lengths[row], t)
            source = t_of * dy.time + schedule.order[row] * dy.batch + dy.first + panel * width
            at = (panel * rows + row) * width
            _row_add(d_states[0], at, dy.data, source, columns)

    @subroutine
    def differentiate(schedule, buffers, states, d_states, hidden_size, t, first, last, block):
        """dz_t of one block of units, in place of the values kept, and the state's gradient past the products."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        units = vectors * step
        rows = schedule.order.size
        z = (block * buffers.x_rows + schedule.rows[t] + first) * width
        panel, column = block * units // width, block * units % width
        before = (panel * buffers.state_rows + schedule.state_rows[t] + first) * width + column
        after = (panel * buffers.state_rows + schedule.state_rows[t + 1] + first) * width + column
        gradient = (panel * rows + first) * width + column
        for r in range(last - first):
            for v in range(0, units, step):
                at = z + r * width + v
                offset = r * width + v
                d_slots, d_previous = cell_backward(
                    load_slots(buffers.z, at, units),
                    load_each(states, before + offset),
                    load_each(states, after + offset),
                    load_each(d_states, gradient + offset),
                )
                store_slots(buffers.z, at, units, d_slots)
                store_each(d_states, gradient + offset, d_previous)
            for u in range(hidden_size - block * units, units):  # lanes past the last unit
                for slot in range(slots):
                    buffers.z[z + r * width + slot * units + u] = 0.0
                for part in range(len(d_states)):
                    d_states[part][gradient + r * width + u] = 0.0

    @subroutine
    def multiply_input(weights, schedule, buffers, start, t, first, last, dx, reverse, add):
        """dx_t = W_ihᵀ dz_t for rows `first` to `last`, and its way out."""
        step = lanes(buffers.z)
        width = PANEL_VECTORS * step
        depth = weights.input.shape[1]
        row = schedule.rows[t] - schedule.rows[start]
        for panel in range(weights.input.shape[0]):
            panel_product(
                last - first, buffers.dx, (panel * buffers.dx_rows + row + first) * width, width, weights.zero, 0, 0,
                buffers.z, (schedule.rows[t] + first) * width + x_first * vectors * step, buffers.x_rows * width,
                x_slots * vectors * step, depth, weights.input, panel * depth * width,
            )  # fmt: skip
        for r in range(first, last):
            t_of = time_of(reverse, schedule.lengths[r], t)
            target = t_of * dx.time + schedule.order[r] * dx.batch + dx.first
            row_from_panels(buffers.dx, row + r, buffers.dx_rows * width, 0, dx.columns, dx.data, target, add)

    @subroutine
    def run_phase(
        phase, part, parts, by_units, start, stop, dy, dx, add_dx, reverse, d_final, d_initial, weights, schedule,
        buffers, states, d_states,
    ):  # fmt: skip
        """Phase n goes back through step stop − 1 − n; the last but one gives dx, the last the initial state's."""
        width = PANEL_VECTORS * lanes(buffers.z)
        hidden_size = dy.columns
        first, bound = schedule.bounds[part, 0], schedule.bounds[part, 1]
        panels = weights.recurrent.shape[0]
        panel_first, panel_last = 0, panels
        if by_units:
            panel_first, panel_last = panels * part // parts, panels * (part + 1) // parts
        steps = stop - start
        if phase < steps:
            t = stop - 1 - phase
            last = active_rows(schedule, t, bound)
            going_on = active_rows(schedule, t + 1, bound)
            blocks = (hidden_size + vectors * lanes(buffers.z) - 1) // (vectors * lanes(buffers.z))
            if last > first:
                for panel in range(panel_first, panel_last):
                    if going_on > first:
                        recur(weights, schedule, buffers, d_states, t, first, going_on, panel)
                    receive(schedule, d_states, dy, reverse, d_final, hidden_size, t, first, last, panel)
                    for block in range(panel * slots, min((panel + 1) * slots, blocks)):
                        differentiate(schedule, buffers, states, d_states, hidden_size, t, first, last, block)
        elif phase == steps:
            if dx.columns > 0:
                from_step, to_step = start, stop
                if by_units:
                    from_step, to_step = start + steps * part // parts, start + steps * (part + 1) // parts
                for t in range(from_step, to_step):
                    last = active_rows(schedule, t, bound)
                    if last > first:
                        multiply_input(weights, schedule, buffers, start, t, first, last, dx, reverse, add_dx)
        elif start == 0:
            for panel in range(panel_first, panel_last):
                if bound > first:
                    recur(weights, schedule, buffers, d_states, -1, first, bound, panel)
            _store_state(
                d_states, schedule.order.size, 0, schedule, hidden_size, d_initial, first, bound,
                panel_first * width, min(panel_last * width, hidden_size),
            )  # fmt: skip

    @subroutine
    def run_phases(
        part, first, last, parts, by_units, start, stop, dy, dx, add_dx, reverse, d_final, d_initial, weights,
        schedule, buffers, states, d_states,
    ):  # fmt: skip
        for phase in range(first, last):
            run_phase(
                phase, part, parts, by_units, start, stop, dy, dx, add_dx, reverse, d_final, d_initial, weights,
                schedule, buffers, states, d_states,
            )  # fmt: skip

    @kernel(name=f"{cell.name}_backward_pass")
    def backward_pass(
        dy, dx, add_dx, reverse, d_final, d_initial, weights, schedule, buffers, states, d_states, begin, end,
        stretch, by_units,
    ):  # fmt: skip
        """Steps `end` − 1 down to `begin` of a pass whose forward pass kept everything.

        dy, dx: `View`s of the gradients of y, read, and of x, written or (`add_dx`) added to; with no columns in dx
        it is left out. d_final, d_initial: tuples of flat (B·H) arrays, the gradients of the final state, read, and of
        the initial one, written. Sizes must agree with each other and with the forward pass, and are not checked.
        """
        parts = schedule.bounds.shape[0]
        for stretches_left in range((end - begin + stretch - 1) // stretch, 0, -1):
            start = begin + (stretches_left - 1) * stretch
            stop = min(start + stretch, end)
            phases = stop - start + 2
            together = 1 if by_units else phases
            for phase in range(0, phases, together):
                in_parallel(
                    run_phases, parts,
                    (
                        phase, phase + together, parts, by_units, start, stop, dy, dx, add_dx, reverse, d_final,
                        d_initial, weights, schedule, buffers, states, d_states,
                    ),
                )  # fmt: skip

    return backward_pass


forward_passes = {name: make_forward(cell) for name, cell in CELLS.items()}
backward_passes = {name: make_backward(cell) for name, cell in CELLS.items()}
