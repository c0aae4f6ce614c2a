"""Products over all rows of a batch at once: the linear layer, and the weight gradients of every layer."""

from typing import NamedTuple

import numpy as np
from numba import types

from .gemm import PANEL_VECTORS, panel_product, row_from_panels, transposed_product
from .jit import kernel, subroutine
from .layout import gather, time_of
from .parallel import in_parallel
from .simd import lanes, load, load_first, splat, store, store_first

_PAIR = types.UniTuple(types.intp, 2)


class GradientJob(NamedTuple):
    """One weight's gradient. Step t's `counts[t]` rows begin at row z_starts[t] of dz and at a_starts[t] of a.

    The sizes must agree with each other, and are not checked.
    """

    dz: np.ndarray  # [⌈H/U⌉][z_rows][P] gradients of the pre-activations
    z_rows: int
    units: int  # U, of a block
    slot_first: int  # the product's first slot in a block
    gates: np.ndarray  # (gates,) int64, the gate of each slot from there on
    hidden_size: int
    z_starts: np.ndarray  # (T+1,) int64
    a: np.ndarray  # [⌈K/P⌉][a_rows][P] what the weight was multiplied by
    a_rows: int
    a_starts: np.ndarray  # (T+1,) int64
    counts: np.ndarray  # (T+1,) int64
    steps_per_block: int
    gradient: np.ndarray  # (gates·H, K), added to
    bias_gradient: np.ndarray  # (gates·H), added to; empty without a bias


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
def _accumulate_tile(job, z, units_valid, a, start, stop, scratch, s):
    """scratch (lanes, P) = Σ dz[row, lanes from z]ᵀ a[row, panel from a] over the rows of steps `start` to `stop`."""
    z_starts, a_starts, counts = job.z_starts, job.a_starts, job.counts
    step = lanes(scratch)
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
            job.dz, z + z_starts[first] * width, rows, job.a, a + a_starts[first] * width,
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
def _accumulate_bias(job, z, units_valid, row, start, stop, scratch, s):
    width = PANEL_VECTORS * lanes(scratch)
    total = splat(scratch, 0.0)
    for t in range(start, stop):
        for r in range(job.counts[t]):
            total = total + load(job.dz, z + (job.z_starts[t] + r) * width)
    store(scratch, s, total)
    _add_row(scratch, s, job.bias_gradient, row, units_valid)


@subroutine
def _accumulate(job, part, parts, scratch):
    """The gradients of one weight and bias, for one part's share of dz's columns, a vector of them at a time."""
    step = lanes(job.dz)
    width = PANEL_VECTORS * step
    columns = job.gradient.shape[1]
    vectors = job.units // step
    per_block = job.gates.size * vectors
    groups = (job.hidden_size + job.units - 1) // job.units * per_block
    s = part * step * width
    for start in range(0, job.counts.size - 1, job.steps_per_block):
        stop = min(start + job.steps_per_block, job.counts.size - 1)
        for group in range(groups * part // parts, groups * (part + 1) // parts):
            block, j, v = group // per_block, group % per_block // vectors, group % vectors
            unit = block * job.units + v * step
            valid = min(step, job.hidden_size - unit)
            if valid <= 0:
                continue
            row = job.gates[j] * job.hidden_size + unit
            z = block * job.z_rows * width + (job.slot_first + j) * job.units + v * step
            for first in range(0, columns, width):
                _accumulate_tile(job, z, valid, first * job.a_rows, start, stop, scratch, s)
                for u in range(valid):
                    at = (row + u) * columns + first
                    _add_row(scratch, s + u * width, job.gradient, at, min(width, columns - first))
            if job.bias_gradient.size > 0:
                _accumulate_bias(job, z, valid, row, start, stop, scratch, s)


@subroutine
def _accumulate_part(part, parts, jobs, scratch):
    for job in jobs:
        _accumulate(job, part, parts, scratch)


@kernel
def accumulate_weight_gradients(jobs, scratch, parts):
    """gradient += dzᵀ a over all rows of all steps, and bias_gradient += Σ dz, for each of a tuple of `GradientJob`s.

    Blocks of `steps_per_block` steps are summed first, from step 0 on, then added in order: the result does not depend
    on the number of parts, and rounding errors of long sums stay small. scratch (parts · lanes · P) is work space.
    """
    in_parallel(_accumulate_part, parts, (parts, jobs, scratch))
