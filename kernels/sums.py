"""Sums of many rows, blocked.

Where rows are equal, all roundings may go the same way, and a sum of n is off by up to n / 2 of them. So rows are
summed in blocks, the sums of some blocks to another, and those to the total.
"""

from numba import types

from .jit import subroutine
from .simd import lanes, load, load_first, splat, store, store_first

ROWS_PER_BLOCK = 256
BLOCKS_PER_SUM = 256
_ROWS_PER_SUM = ROWS_PER_BLOCK * BLOCKS_PER_SUM


def _make_sum(place):
    """`sum_rows`, where row n stands at `place(order, n)` times the stride."""

    @subroutine
    def sum_rows(source, at, order, start, stop, stride, columns, divisor, target, t, add):
        """target[t + j] = Σ source[at + place·stride + j] / divisor over rows `start` to `stop` for all `columns` j.

        With `add`, added to what is there.
        """
        step = lanes(source)
        for j in range(0, columns, step):
            count = min(step, columns - j)
            whole = count == step
            total = splat(source, 0.0)
            for first in range(start, stop, _ROWS_PER_SUM):
                last = min(first + _ROWS_PER_SUM, stop)
                several = splat(source, 0.0)
                for block in range(first, last, ROWS_PER_BLOCK):
                    rows = splat(source, 0.0)
                    for n in range(block, min(block + ROWS_PER_BLOCK, last)):
                        here = at + place(order, n) * stride + j
                        rows = rows + (load(source, here) if whole else load_first(source, here, count))
                    several = several + rows
                total = total + several
            total = total / divisor
            if add:
                total = total + load_first(target, t + j, count)
            if whole:
                store(target, t + j, total)
            else:
                store_first(target, t + j, total, count)

    return sum_rows


@subroutine(returns=types.intp)
def _in_order(order, n):
    return order[n]


@subroutine(returns=types.intp)
def _as_they_stand(order, n):
    return n


sum_ordered_rows = _make_sum(_in_order)
sum_rows = _make_sum(_as_they_stand)  # `order` is not looked at


@subroutine
def order_by_value(values, time, batch, steps, lengths, ends, order, first, last):
    """Where in the flat `values` each one stands, equal ones together, step by step (a counting sort).

    Value (t, b) stands at t·time + b·batch, for t < lengths[b]. ends (V,): past the last place of each value from 0 on
    in `order`, which has room for all. Both int64, written.

    The range first to last is what is done now of 2·steps·B pieces, in their order: first all are counted, then placed.
    """
    size = lengths.size
    count = steps * size
    if first == 0:
        for v in range(ends.size):
            ends[v] = 0
    for t in range(steps):
        for b in range(max(first - t * size, 0), min(last - t * size, size)):
            if t < lengths[b]:
                ends[values[t * time + b * batch]] += 1
    if first <= count < last:
        before = 0
        for v in range(ends.size):
            before, ends[v] = before + ends[v], before
    for t in range(steps):
        passed = count + t * size
        for b in range(max(first - passed, 0), min(last - passed, size)):
            if t < lengths[b]:
                at = t * time + b * batch
                order[ends[values[at]]] = at
                ends[values[at]] += 1
