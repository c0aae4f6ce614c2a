"""Products over all rows of a batch at once: the linear layer, and the weight gradients of every layer."""

from typing import NamedTuple

import numpy as np
from numba import types

from .gemm import PANEL_VECTORS, panel_product, transposed_product
from .jit import formula, kernel, subroutine
from .layout import gather_rows, scatter_rows, stretch_rows
from .parallel import in_parallel
from .simd import lanes, load, load_first, splat, store, store_first
from .sums import BLOCKS_PER_SUM, ROWS_PER_BLOCK, order_by_value, sum_ordered_rows

_PAIR = types.UniTuple(types.intp, 2)
_PLACE = types.UniTuple(types.intp, 3)


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
    gradient: np.ndarray  # (gates·H, K)


class BiasJob(NamedTuple):
    """The gradients of a layer's biases, which are sums of dz; fields as in `GradientJob`."""

    dz: np.ndarray
    z_rows: int
    units: int
    slot_gates: np.ndarray  # (biases, slots) int64, each bias's gate for every slot; -1 where it has no part
    hidden_size: int
    z_starts: np.ndarray
    counts: np.ndarray
    steps_per_block: int
    gradients: tuple  # of (gates·H) arrays, empty without a bias


@subroutine
def _forward_part(part, before, parts, x, y, weights, schedule, buffers, start, stop):
    width = PANEL_VECTORS * lanes(buffers.z)
    first, last = stretch_rows(schedule, start, stop, before + part, parts)
    gather_rows(x, False, schedule, buffers.x, buffers.x_rows, start, stop, first, last)
    row = schedule.rows[start] + first
    for panel in range(weights.input.shape[0]):
        panel_product(
            y.columns - panel * width, last - first, buffers.z, (panel * buffers.x_rows + row) * width, width,
            weights.bias, panel * width, 0,
            buffers.x, row * width, width, buffers.x_rows * width, width, x.columns,
            weights.input, panel * x.columns * width,
        )  # fmt: skip
    scatter_rows(buffers.z, buffers.x_rows, schedule.rows[start], y, False, schedule, start, stop, first, last, False)


@kernel
def dense_forward(x, y, weights, schedule, buffers, begin, end, stretch, share, shares):
    """y = x Wᵀ + b for the active rows of steps `begin` to `end`. x, y: `View`s.

    Of the rows of each stretch, share number `share` of `shares` equal ones is computed.
    """
    parts = schedule.bounds.shape[0]
    for start in range(begin, end, stretch):
        stop = min(start + stretch, end)
        in_parallel(
            _forward_part, parts,
            (share * parts, shares * parts, x, y, weights, schedule, buffers, start, stop),
        )  # fmt: skip


@subroutine
def _backward_part(part, before, parts, dy, dx, weights, schedule, buffers, start, stop):
    width = PANEL_VECTORS * lanes(buffers.z)
    depth = weights.input.shape[1]
    first, last = stretch_rows(schedule, start, stop, before + part, parts)
    gather_rows(dy, False, schedule, buffers.z, buffers.x_rows, start, stop, first, last)
    if dx.columns > 0:
        row = schedule.rows[start] + first
        for panel in range(weights.input.shape[0]):
            panel_product(
                dx.columns - panel * width, last - first, buffers.dx, (panel * buffers.dx_rows + first) * width, width,
                weights.zero, 0, 0,
                buffers.z, row * width, width, buffers.x_rows * width, width, dy.columns,
                weights.input, panel * depth * width,
            )  # fmt: skip
        scatter_rows(buffers.dx, buffers.dx_rows, 0, dx, False, schedule, start, stop, first, last, False)


@kernel
def dense_backward(dy, dx, weights, schedule, buffers, begin, end, stretch, share, shares):
    """dx = dy W for the active rows of steps `begin` to `end`; leaves dy in `buffers.z` for the weight gradient.

    Shares as in `dense_forward`.
    """
    parts = schedule.bounds.shape[0]
    for start in range(begin, end, stretch):
        stop = min(start + stretch, end)
        in_parallel(
            _backward_part, parts,
            (share * parts, shares * parts, dy, dx, weights, schedule, buffers, start, stop),
        )  # fmt: skip


_PANELS = 4  # of a's, whose sums are under way at once while dz's columns are in the cache
SCRATCH_TILES = 2 * PANEL_VECTORS * _PANELS + 1  # (lanes, P) tiles of work space for a part's weight gradients


@formula
def steps_per_block(batch):
    """Steps of so many sequences that are summed together, at least."""
    return max(1, ROWS_PER_BLOCK // batch)


@subroutine(returns=types.intp)
def _run_of_steps(job, first, stop):
    """Where the run of steps from `first` ends, whose rows stand without a gap in both dz and a; at most `stop`."""
    rows = job.counts[first]
    t = first + 1
    while t < stop and job.z_starts[t] - job.z_starts[first] == rows and job.a_starts[t] - job.a_starts[first] == rows:
        rows += job.counts[t]
        t += 1
    return t


@subroutine(returns=types.intp)
def _rows_of_run(job, first, after):
    return job.z_starts[after - 1] + job.counts[after - 1] - job.z_starts[first]


@subroutine(returns=types.intp)
def _block_end(job, start):
    """Where the block of steps from `start` on ends: it takes in what steps of fewer sequences leave room for."""
    steps = job.counts.size - 1
    stop = min(start + job.steps_per_block, steps)
    rows = _rows_of_run(job, start, stop)
    while stop < steps and rows + job.counts[stop] <= ROWS_PER_BLOCK:
        rows += job.counts[stop]
        stop += 1
    return stop


@subroutine(returns=types.intp)
def _pieces(job, start):
    """Blocks of rows that the block of steps from `start` on is: several for a step of many sequences."""
    return (job.counts[start] + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK if job.steps_per_block == 1 else 1


@subroutine(returns=_PAIR)
def _piece_rows(rows, piece, pieces):
    """First and past the last of `rows` that are in one piece of them."""
    return rows * piece // pieces, rows * (piece + 1) // pieces


@subroutine
def _sum_block(job, z, units_valid, a, columns, start, stop, piece, pieces, scratch, s):
    """scratch (lanes, P) = Σ dz[row, lanes from z]ᵀ a[row, panel from a] over the rows of steps `start` to `stop`, or a
    piece of them."""
    width = PANEL_VECTORS * lanes(scratch)
    for j in range(s, s + units_valid * width, lanes(scratch)):
        store(scratch, j, 0.0)
    t = start
    while t < stop:
        after = _run_of_steps(job, t, stop)
        first, last = _piece_rows(_rows_of_run(job, t, after), piece, pieces)
        transposed_product(
            columns, units_valid, scratch, s, width, job.dz, z + (job.z_starts[t] + first) * width,
            last - first, job.a, a + (job.a_starts[t] + first) * width,
        )  # fmt: skip
        t = after


@subroutine
def _add_row(source, s, target, t, columns, overwrite):
    """Add `columns` numbers to a row of `target`, or write over it."""
    step = lanes(target)
    for j in range(0, columns, step):
        count = min(step, columns - j)
        value = load(source, s + j)
        if count == step:
            store(target, t + j, value if overwrite else load(target, t + j) + value)
        else:
            store_first(target, t + j, value if overwrite else load_first(target, t + j, count) + value, count)


@subroutine
def _add_tile(scratch, source, target, units_valid, overwrite):
    """Add a tile of `scratch` to another, or write over that."""
    width = PANEL_VECTORS * lanes(scratch)
    for u in range(units_valid):
        _add_row(scratch, source + u * width, scratch, target + u * width, width, overwrite)


@subroutine(returns=_PLACE)
def _place(job, group):
    """Of a vector of dz's columns: its row in the gradient, how many units it holds, and where it begins in dz."""
    step = lanes(job.dz)
    unit, j = group // job.gates.size * step, group % job.gates.size
    column = (job.slot_first + j) * job.units + unit % job.units
    z = unit // job.units * job.z_rows * PANEL_VECTORS * step + column
    return job.gates[j] * job.hidden_size + unit, min(step, job.hidden_size - unit), z


@subroutine
def _accumulate_groups(job, group_first, group_last, first, last, overwrite, scratch, s):
    """The gradient's columns `first` to `last`, some panels of them, for a few vectors of dz's columns.

    Block by block of rows, so that both sides come from the cache but once. From `s` on there is a total for each panel
    and vector, then their sums of some blocks, and then one of the block under way.
    """
    step = lanes(scratch)
    width = PANEL_VECTORS * step
    tile = step * width
    totals = PANEL_VECTORS * _PANELS * tile
    steps = job.counts.size - 1
    block_sum = s + (SCRATCH_TILES - 1) * tile
    block = 0
    start = 0
    while start < steps:
        stop = _block_end(job, start)
        pieces = _pieces(job, start)
        for piece in range(pieces):
            for column in range(first, last, width):
                columns = min(width, last - column)
                a = column * job.a_rows
                for group in range(group_first, group_last):
                    _, valid, z = _place(job, group)
                    total = s + ((column - first) // width * PANEL_VECTORS + group - group_first) * tile
                    several = total + totals
                    begins = block % BLOCKS_PER_SUM == 0
                    if begins and block > 0:
                        _add_tile(scratch, several, total, valid, block == BLOCKS_PER_SUM)
                    target = several if begins else block_sum
                    _sum_block(job, z, valid, a, columns, start, stop, piece, pieces, scratch, target)
                    if not begins:
                        _add_tile(scratch, block_sum, several, valid, False)
            block += 1
        start = stop
    for column in range(first, last, width):
        for group in range(group_first, group_last):
            row, valid, _ = _place(job, group)
            total = s + ((column - first) // width * PANEL_VECTORS + group - group_first) * tile
            _add_tile(scratch, total + totals, total, valid, block <= BLOCKS_PER_SUM)
            for u in range(valid):
                at = (row + u) * job.gradient.shape[1] + column
                _add_row(scratch, total + u * width, job.gradient, at, min(width, last - column), overwrite)


@subroutine
def _accumulate(job, part, parts, overwrite, scratch, s):
    """One weight's gradient, for one part's share of dz's columns, some vectors of them at a time.

    From `s` on there is work space.
    """
    step = lanes(job.dz)
    width = PANEL_VECTORS * step
    columns = job.gradient.shape[1]
    groups = (job.hidden_size + step - 1) // step * job.gates.size
    last = groups * (part + 1) // parts
    for group in range(groups * part // parts, last, PANEL_VECTORS):
        group_last = min(group + PANEL_VECTORS, last)
        for first in range(0, columns, _PANELS * width):
            _accumulate_groups(
                job, group, group_last, first, min(first + _PANELS * width, columns), overwrite, scratch, s
            )


@subroutine
def _sum_rows(job, z, start, stop, piece, pieces, scratch, s):
    """scratch (lanes) += Σ dz[row, lanes from z] over steps `start` to `stop`, or a piece of each, in four sums that
    don't wait for each other."""
    width = PANEL_VECTORS * lanes(scratch)
    zero = splat(scratch, 0.0)
    a, b, c, d = zero, zero, zero, zero
    for t in range(start, stop):
        first, last = _piece_rows(job.counts[t], piece, pieces)
        at = z + (job.z_starts[t] + first) * width
        rows = last - first
        for r in range(0, rows - 3, 4):
            a = a + load(job.dz, at + r * width)
            b = b + load(job.dz, at + (r + 1) * width)
            c = c + load(job.dz, at + (r + 2) * width)
            d = d + load(job.dz, at + (r + 3) * width)
        for r in range(rows // 4 * 4, rows):
            a = a + load(job.dz, at + r * width)
    store(scratch, s, load(scratch, s) + ((a + b) + (c + d)))


@subroutine
def _accumulate_biases(job, part, parts, overwrite, scratch, s):
    """All biases' gradients, for one part's share of dz's columns."""
    step = lanes(job.dz)
    width = PANEL_VECTORS * step
    steps = job.counts.size - 1
    slots = job.slot_gates.shape[1]
    groups = (job.hidden_size + step - 1) // step * slots
    for group in range(groups * part // parts, groups * (part + 1) // parts):
        unit, slot = group // slots * step, group % slots
        z = unit // job.units * job.z_rows * width + slot * job.units + unit % job.units
        several = s + step
        store(scratch, s, 0.0)
        store(scratch, several, 0.0)
        block = 0
        start = 0
        while start < steps:
            stop = _block_end(job, start)
            pieces = _pieces(job, start)
            for piece in range(pieces):
                if block % BLOCKS_PER_SUM == 0:
                    _add_row(scratch, several, scratch, s, step, False)
                    store(scratch, several, 0.0)
                _sum_rows(job, z, start, stop, piece, pieces, scratch, several)
                block += 1
            start = stop
        _add_row(scratch, several, scratch, s, step, False)
        for bias in range(len(job.gradients)):
            gradient, gate = job.gradients[bias], job.slot_gates[bias, slot]
            if gate >= 0 and gradient.size > 0:
                valid = min(step, job.hidden_size - unit)
                _add_row(scratch, s, gradient, gate * job.hidden_size + unit, valid, overwrite)


@subroutine
def _accumulate_columns(part, before, parts, job, counts, order, overwrite, scratch):
    """The gradient of a weight that was multiplied by one-hot vectors, for one part's share of dz's columns.

    Column v is the sum of dz over the rows of token v, which are `order`[counts[v − 1]] to `order`[counts[v]].
    """
    step = lanes(job.dz)
    width = PANEL_VECTORS * step
    s = part * SCRATCH_TILES * step * width
    groups = (job.hidden_size + step - 1) // step * job.gates.size
    for group in range(groups * (before + part) // parts, groups * (before + part + 1) // parts):
        row, valid, z = _place(job, group)
        if overwrite:
            for u in range(row, row + valid):
                for v in range(job.gradient.shape[1]):
                    job.gradient[u, v] = 0.0
        start = 0
        for v in range(counts.size):
            stop = counts[v]
            if stop > start:
                sum_ordered_rows(job.dz, z, order, start, stop, width, step, 1.0, scratch, s, False)
                for u in range(valid):
                    job.gradient[row + u, v] += scratch[s + u]
            start = stop


@kernel
def accumulate_token_gradient(job, tokens, lengths, counts, order, overwrite, scratch, parts, share, shares):
    """gradient[:, token] += dz over all rows, or with `overwrite` written: `job`'s factor is one-hot `tokens`.

    counts, order: where the tokens stand, see `sums.order_by_value`; int64 work space that share 0 fills for all.
    lengths (1,): N. scratch and shares as in `accumulate_weight_gradients`. Tokens are below K.
    """
    if share == 0:
        order_by_value(tokens, 1, 0, lengths[0], lengths, counts, order, 0, 2 * lengths[0])
    in_parallel(_accumulate_columns, parts, (share * parts, shares * parts, job, counts, order, overwrite, scratch))


@subroutine
def _accumulate_part(part, before, parts, jobs, bias_job, overwrite, scratch):
    step = lanes(scratch)
    s = part * SCRATCH_TILES * step * PANEL_VECTORS * step
    for job in jobs:
        _accumulate(job, before + part, parts, overwrite, scratch, s)
    if bias_job.gradients[0].size > 0:
        _accumulate_biases(bias_job, before + part, parts, overwrite, scratch, s)


@kernel
def accumulate_weight_gradients(jobs, bias_job, overwrite, scratch, parts, share, shares):
    """gradient += dzᵀ a over all rows of all steps for each of a tuple of `GradientJob`s, and Σ dz for the biases.

    With `overwrite` the gradients are written, not added to. Blocks of `steps_per_block` steps are summed first, from
    step 0 on, then added in order, by way of sums of some: the result does not depend on the number of parts, and
    rounding errors of long sums stay small. scratch (parts · SCRATCH_TILES · lanes · P) is work space. Of the
    gradients' rows, share number `share` of `shares` about equal ones is computed.
    """
    in_parallel(_accumulate_part, parts, (share * parts, shares * parts, jobs, bias_job, overwrite, scratch))
