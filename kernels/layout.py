"""How sequences and weights lie in memory: what the API lays out once and the kernels walk through.

A *pass* is one layer in one direction over a batch. Its rows are sorted by falling length, so that at step t the first
`counts[t]` rows are active, and stand packed: no buffer holds a row past its sequence's end. A reverse pass reads each
sequence from its own last step, and is a forward pass from there on. P is the panel width, U the units of a block of
pre-activations (see gemm).

A sequence here is what runs from an initial state to its end, in steps of its own. It may be a part of one in the
caller's arrays: what stands between two resets, or every d-th step of a net whose state comes from d steps before.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from .gemm import PANEL_VECTORS, row_from_panels, row_to_panels
from .jit import kernel, subroutine
from .simd import lanes

STRETCH = 16  # steps whose input is multiplied at once: their pre-activations stay in the cache


class Schedule(NamedTuple):
    """Which rows are active when, and where they stand in the buffers. All int64.

    A pass that keeps everything for the backward pass has a place for each row of each step; one that keeps nothing
    uses a few places in turn. The loops don't know which of both it is.
    """

    counts: np.ndarray  # (T+1,) active rows of step t; counts[T] = 0
    rows: np.ndarray  # (T+1,) first row of step t in x and z
    state_rows: np.ndarray  # (T+1,) first row of the state before step t
    order: np.ndarray  # (B,) the sequence in each row
    lengths: np.ndarray  # (B,) length of each row's sequence, falling
    starts: np.ndarray  # (B,) where each row's sequence begins in the caller's arrays
    sources: np.ndarray  # (B,) the batch index there
    dilation: int  # how far apart a sequence's steps stand there
    bounds: np.ndarray  # (parts, 2) first and past the last row of each part; all rows each when split by units
    progress: np.ndarray  # (parts · PROGRESS_STRIDE,) where parts split by units meet: see parallel


class View(NamedTuple):
    """A (T, B, columns) sequence inside a flat array: element (t, b, j) at t·time + b·batch + first + j."""

    data: np.ndarray  # flat, contiguous
    time: int
    batch: int
    first: int
    columns: int


class Buffers(NamedTuple):
    """One pass's buffers. Flat, 64-byte aligned, owned by the workspace; laid out anew in every call."""

    x: np.ndarray  # [⌈I/P⌉][x_rows][P] input
    z: np.ndarray  # [⌈H/U⌉][x_rows][P] pre-activations, then the values that the cell keeps
    dz: np.ndarray  # the same size: gradients of the pre-activations; z itself, if that is no longer needed
    recurrent: tuple  # laid out as z, the product with h_{t−1} and its gradient; empty where the cell adds it to z
    states: tuple  # of [⌈H/P⌉][state_rows][P]: h, c; then what one stage of a step gives to the next
    d_states: tuple  # of [⌈H/P⌉][B][P]: gradients of these, carried from step to step
    d_vectors: tuple  # of [⌈H/P⌉][B][P]: gradients of the cell's vectors, summed over each row's steps
    dx: np.ndarray  # [⌈I/P⌉][dx_rows][P] gradient of the input, for one stretch of steps
    x_rows: int
    state_rows: int
    dx_rows: int


def window(slots):
    """First slot and number of slots of a product, which must be neighbours."""
    first, count = min(slots), len(slots)
    if sorted(slots) != list(range(first, first + count)):
        raise ValueError(f"a product's slots must be neighbours, got {slots}")
    return first, count


@subroutine(returns=types.intp)
def time_of(reverse, length, t):
    """Where step t of a pass stands in the sequence."""
    return length - 1 - t if reverse else t


@subroutine(returns=types.intp)
def place(view, reverse, schedule, row, t):
    """Where a row's step t of a pass begins in a sequence's flat array."""
    step = schedule.starts[row] + time_of(reverse, schedule.lengths[row], t) * schedule.dilation
    return step * view.time + schedule.sources[row] * view.batch + view.first


@subroutine(returns=types.intp)
def active_rows(schedule, t, bound):
    return min(schedule.counts[t], bound)


@subroutine
def gather(view, reverse, schedule, panels, panel_rows, t, first, last):
    """Rows `first` to `last` of step t from a sequence into panels."""
    width = PANEL_VECTORS * lanes(panels)
    for row in range(first, last):
        source = place(view, reverse, schedule, row, t)
        row_to_panels(view.data, source, view.columns, panels, schedule.rows[t] + row, panel_rows * width)


_PAIR = types.UniTuple(types.intp, 2)


@subroutine(returns=_PAIR)
def stretch_rows(schedule, start, stop, part, parts):
    """The packed rows of a stretch of steps, counted from its first, that fall to one part."""
    rows = schedule.rows[stop - 1] + schedule.counts[stop - 1] - schedule.rows[start]
    return rows * part // parts, rows * (part + 1) // parts


@subroutine(returns=_PAIR)
def rows_of_step(schedule, start, t, first, last):
    """The rows of step t among the packed rows `first` to `last` of a stretch of steps from `start`."""
    offset = schedule.rows[t] - schedule.rows[start]
    return max(first - offset, 0), min(last - offset, schedule.counts[t])


@subroutine
def gather_rows(view, reverse, schedule, panels, panel_rows, start, stop, first, last):
    """Packed rows `first` to `last` of a stretch from a sequence into panels."""
    for t in range(start, stop):
        low, high = rows_of_step(schedule, start, t, first, last)
        if high > low:
            gather(view, reverse, schedule, panels, panel_rows, t, low, high)


@subroutine
def scatter_rows(panels, panel_rows, base, view, reverse, schedule, start, stop, first, last, add):
    """Packed rows `first` to `last` of a stretch, which stand at `base` + row in the panels, into a sequence."""
    width = PANEL_VECTORS * lanes(panels)
    for t in range(start, stop):
        low, high = rows_of_step(schedule, start, t, first, last)
        for row in range(low, high):
            target = place(view, reverse, schedule, row, t)
            at = base + schedule.rows[t] - schedule.rows[start] + row
            row_from_panels(panels, at, panel_rows * width, 0, view.columns, view.data, target, add)


@subroutine
def restart(schedule):
    """Before a pass: no part has begun anything."""
    for n in range(schedule.progress.size):
        schedule.progress[n] = 0


@kernel
def fill_schedule(lengths, starts, sources, by_units, keep, stretch, schedule):
    """Work out the schedule of sequences with the given lengths (B,), each from 1 to T, into `schedule`'s arrays.

    starts, sources (B,): each sequence's place in the caller's arrays; empty where sequence b is all of number b.

    Rows are sorted by falling length, equal ones in their order in the batch. With `keep` each step has rows of its
    own; otherwise those of `stretch` steps are used over and over, and the state has two places. Parts get rows of
    about equally many steps in sum, or all rows each when split `by_units`.
    """
    batch = lengths.size
    steps = schedule.counts.size - 1
    parts = schedule.bounds.shape[0]
    counts, rows, state_rows = schedule.counts, schedule.rows, schedule.state_rows
    # counting sort: first how many sequences are longer than t, which is also the number of active rows
    # (loops, here and elsewhere: Numba takes half a second to compile assignments to slices, and sums)
    for t in range(steps + 1):
        counts[t] = 0
        rows[t] = 0  # rows[n] will count the rows of length n placed so far
    total = 0
    for b in range(batch):
        total += lengths[b]
        counts[lengths[b] - 1] += 1
    for t in range(steps - 1, -1, -1):
        counts[t] += counts[t + 1]
    for b in range(batch):
        n = lengths[b]
        row = counts[n] + rows[n]
        rows[n] += 1
        schedule.order[row] = b
        schedule.lengths[row] = n
        schedule.starts[row] = starts[b] if starts.size > 0 else 0
        schedule.sources[row] = sources[b] if sources.size > 0 else b
    rows[0] = 0
    state_rows[0] = 0
    state_rows[1] = batch
    for t in range(1, steps + 1):
        if keep:
            rows[t] = rows[t - 1] + counts[t - 1]
            if t > 1:
                state_rows[t] = state_rows[t - 1] + counts[t - 2]
        else:
            rows[t] = t % stretch * batch
            state_rows[t] = t % 2 * batch
    row, done = 0, 0
    for part in range(parts):
        schedule.bounds[part, 0] = 0 if by_units else row
        while row < batch and done * parts < total * (part + 1):
            done += schedule.lengths[row]
            row += 1
        schedule.bounds[part, 1] = batch if by_units or part == parts - 1 else row
