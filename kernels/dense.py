"""Products over all rows of a batch at once: the linear layer, and the weight gradients of every layer."""

from numba import types

from .gemm import PANEL_VECTORS, panel_product, row_from_panels, transposed_product
from .jit import kernel, subroutine
from .layout import gather, time_of
from .parallel import in_parallel
from .simd import lanes, load, load_first, splat, store, store_first

_PAIR = types.UniTuple(types.intp, 2)


@subroutine(returns=_PAIR)
def _rows_of_step(schedule, start, t, first, last):
    """The rows of step t among the packed rows `first` to `last` of a stretch of steps from `start`."""
    offset = schedule.rows[t] - schedule.rows[start]
    return max(first - offset, 0), min(last - offset, schedule.counts[t])


@subroutine
def _gather_rows(view, schedule, panels, panel_rows, start, stop, first, last):
    for t in range(start, stop):
        low, high = _rows_of_step(schedule, start, t, first, last)
        if high > low:
            gather(view, False, schedule, panels, panel_rows, t, low, high)


@subroutine
def _scatter_rows(panels, panel_rows, base, view, schedule, start, stop, first, last):
    width = PANEL_VECTORS * lanes(panels)
    for t in range(start, stop):
        low, high = _rows_of_step(schedule, start, t, first, last)
        for row in range(low, high):
            target = time_of(False, schedule.lengths[row], t) * view.time
            target += schedule.order[row] * view.batch + view.first
            at = base + schedule.rows[t] - schedule.rows[start] + row
            row_from_panels(panels, at, panel_rows * width, 0, view.columns, view.data, target, False)


@subroutine(returns=_PAIR)
def _stretch_rows(schedule, start, stop, part, parts):
    """The packed rows of a stretch of steps, counted from its first, that fall to one part."""
    rows = schedule.rows[stop - 1] + schedule.counts[stop - 1] - schedule.rows[start]
    return rows * part // parts, rows * (part + 1) // parts


@subroutine
def _forward_part(part, parts, x, y, weights, schedule, buffers, start, stop):
    width = PANEL_VECTORS * lanes(buffers.z)
    first, last = _stretch_rows(schedule, start, stop, part, parts)
    _gather_rows(x, schedule, buffers.x, buffers.x_rows, start, stop, first, last)
    row = schedule.rows[start] + first
    for panel in range(weights.input.shape[0]):
        panel_product(
            last - first, buffers.z, (panel * buffers.x_rows + row) * width, width, weights.bias, panel * width, 0,
            buffers.x, row * width, buffers.x_rows * width, width, x.columns,
            weights.input, panel * x.columns * width,
        )  # fmt: skip
    _scatter_rows(buffers.z, buffers.x_rows, schedule.rows[start], y, schedule, start, stop, first, last)


@kernel
def dense_forward(x, y, weights, schedule, buffers, begin, end, stretch):
    """y = x Wᵀ + b for the active rows of steps `begin` to `end`. x, y: `View`s."""
    parts = schedule.bounds.shape[0]
    for start in range(begin, end, stretch):
        stop = min(start + stretch, end)
        in_parallel(_forward_part, parts, (parts, x, y, weights, schedule, buffers, start, stop))


@subroutine
def _backward_part(part, parts, dy, dx, weights, schedule, buffers, start, stop):
    width = PANEL_VECTORS * lanes(buffers.z)
    depth = weights.input.shape[1]
    first, last = _stretch_rows(schedule, start, stop, part, parts)
    _gather_rows(dy, schedule, buffers.z, buffers.x_rows, start, stop, first, last)
    if dx.columns > 0:
        row = schedule.rows[start] + first
        for panel in range(weights.input.shape[0]):
            panel_product(
                last - first, buffers.dx, (panel * buffers.dx_rows + first) * width, width, weights.zero, 0, 0,
                buffers.z, row * width, buffers.x_rows * width, width, dy.columns,
                weights.input, panel * depth * width,
            )  # fmt: skip
        _scatter_rows(buffers.dx, buffers.dx_rows, 0, dx, schedule, start, stop, first, last)


@kernel
def dense_backward(dy, dx, weights, schedule, buffers, begin, end, stretch):
    """dx = dy W for the active rows of steps `begin` to `end`; leaves dy in `buffers.z` for the weight gradient."""
    parts = schedule.bounds.shape[0]
    for start in range(begin, end, stretch):
        stop = min(start + stretch, end)
        in_parallel(_backward_part, parts, (parts, dy, dx, weights, schedule, buffers, start, stop))


@subroutine
def _accumulate_tile(dz, z, units_valid, z_starts, a, f, a_starts, counts, start, stop, scratch, s):
    """scratch (lanes, P) = Σ dz[row, lanes from z]ᵀ a[row, panel at f] over the rows of steps `start` to `stop`."""
    step = lanes(dz)
    width = PANEL_VECTORS * step
    for j in range(0, units_valid * width, step):
        store(scratch, s + j, 0.0)
    t = start
    while t < stop:
        first, rows = t, counts[t]
        t += 1
        while t < stop and z_starts[t] - z_starts[first] == rows and a_starts[t] - a_starts[first] == rows:
            rows += counts[t]  # neighbours in both: one run
            t += 1
        transposed_product(
            units_valid, scratch, s, width, scratch, s, width,
            dz, z + z_starts[first] * width, rows, a, f + a_starts[first] * width,
        )  # fmt: skip


@subroutine
def _add_row(source, s, target, t, columns):
    step = lanes(target)
    for j in range(0, columns - step + 1, step):
        store(target, t + j, load(target, t + j) + load(source, s + j))
    rest = columns % step
    if rest:
        at = columns - rest
        store_first(target, t + at, load_first(target, t + at, rest) + load_first(source, s + at, rest), rest)


@subroutine
def _accumulate_bias(dz, z, units_valid, z_starts, counts, start, stop, scratch, s, gradient, row):
    width = PANEL_VECTORS * lanes(dz)
    total = splat(dz, 0.0)
    for t in range(start, stop):
        for r in range(counts[t]):
            total = total + load(dz, z + (z_starts[t] + r) * width)
    store(scratch, s, total)
    _add_row(scratch, s, gradient, row, units_valid)


@subroutine
def _accumulate_part(
    part, parts, dz, z_rows, units, slot_first, gates, hidden_size, z_starts, a, a_rows, a_starts, counts,
    steps_per_block, gradient, bias_gradient, scratch,
):  # fmt: skip
    step = lanes(dz)
    width = PANEL_VECTORS * step
    columns = gradient.shape[1]
    features = (columns + width - 1) // width
    vectors = units // step
    per_block = gates.size * vectors
    groups = (hidden_size + units - 1) // units * per_block
    s = part * step * width
    for start in range(0, counts.size - 1, steps_per_block):
        stop = min(start + steps_per_block, counts.size - 1)
        for group in range(groups * part // parts, groups * (part + 1) // parts):
            block, j, v = group // per_block, group % per_block // vectors, group % vectors
            unit = block * units + v * step
            valid = min(step, hidden_size - unit)
            if valid <= 0:
                continue
            row = gates[j] * hidden_size + unit
            z = block * z_rows * width + (slot_first + j) * units + v * step
            for feature in range(features):
                f = feature * a_rows * width
                _accumulate_tile(dz, z, valid, z_starts, a, f, a_starts, counts, start, stop, scratch, s)
                first = feature * width
                for u in range(valid):
                    _add_row(scratch, s + u * width, gradient, (row + u) * columns + first, min(width, columns - first))
            if bias_gradient.size > 0:
                _accumulate_bias(dz, z, valid, z_starts, counts, start, stop, scratch, s, bias_gradient, row)


@kernel
def accumulate_weight_gradient(
    dz, z_rows, units, slot_first, gates, hidden_size, z_starts, a, a_rows, a_starts, counts, steps_per_block,
    gradient, bias_gradient, scratch, parts,
):  # fmt: skip
    """gradient (gates·H, K) += dzᵀ a over all rows of all steps, and bias_gradient (gates·H) += Σ dz.

    dz [⌈H/U⌉][z_rows][P] holds the slots `slot_first` … of U units each, whose gates are `gates`; a [⌈K/P⌉][a_rows][P].
    Step t's `counts[t]` rows begin at row z_starts[t] of dz and a_starts[t] of a. Blocks of `steps_per_block` steps are
    summed first, from step 0 on, then added in order: the result does not depend on the number of parts, and rounding
    errors of long sums stay small. scratch (parts · lanes · P) belongs to the call.
    """
    in_parallel(
        _accumulate_part, parts,
        (
            parts, dz, z_rows, units, slot_first, gates, hidden_size, z_starts, a, a_rows, a_starts, counts,
            steps_per_block, gradient, bias_gradient, scratch,
        ),
    )  # fmt: skip
