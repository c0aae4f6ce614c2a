"""Work shared out among threads, and cut into calls, however little it is; and whether a case came to that.

A part then gets a row, a vector of units, or nothing. Without this small shapes would never see several threads, calls
for some steps each, or calls for a share of the rows.
"""

import contextlib
import functools
import inspect
import sys

from fastrnn import losses, passes, spans, threads
from fastrnn.dispatch import TypedKernel
from fastrnn.kernels import sums
from fastrnn.layers import jordan

_CALLS = 9  # that work is cut into, about
_reached = set()
_cut = False


class _Share(float):
    """A share's work: of any more than that there are several shares, but never more than there may be calls."""

    def __rtruediv__(self, work):
        return min(work / float(self), _CALLS)


def _set(module, **limits):
    """Set constants, which must be there: without one of them the torture would no longer reach what it says."""
    for name, value in limits.items():
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name} any more: the torture has to lift another limit")
        setattr(module, name, value)


def eager():
    """From here on, threads are used however little there is to do, and sums that go into float64 are short."""
    _set(threads, _WORTH_A_THREAD=1)
    _set(passes, _STEP_WORK_OF_A_THREAD=1, _STEPS_OF_A_VECTOR_SUM=7)
    _set(jordan, _ROWS_OF_A_SUM=5)


def share(by_units):
    """From now on parts share out units rather than sequences, or the other way round."""
    for module in ("fastrnn.layers.recurrent", "fastrnn.layers.compiled"):
        _set(sys.modules[module], split_by_units=lambda *_: by_units)


@contextlib.contextmanager
def cut_short(cut=True):
    """A `with` block in which work is cut into several calls, to the same results."""
    global _cut
    limits = (losses, "_SHORT"), (passes, "_WORK_OF_A_SHARE"), (spans, "_FIRST_WORK")
    before = [(module, name, getattr(module, name)) for module, name in limits]
    try:
        _cut = cut
        if cut:
            _set(losses, _SHORT=0)
            _set(passes, _WORK_OF_A_SHARE=_Share(1e3))
            _set(spans, _FIRST_WORK=0)
        yield
    finally:
        _cut = False
        for module, name, value in before:
            setattr(module, name, value)


def watch():
    """Let `reached` tell of what is called from here on, and `cut_short` cut the steps, too."""
    plain, call, shares = spans.spans, TypedKernel.__call__, passes.SequenceBatch.shares

    def in_calls(count, work, grain=1):
        if _cut:
            _set(spans, _FIRST_WORK=count * work / _CALLS)
        for first, last in plain(count, work, grain):
            if _cut:
                _set(spans, _FIRST_WORK=0)
            if first:
                _reached.add("several spans")
            yield first, last

    def watched(self, *arguments):
        _look(_parameters(self._kernel.py_func), arguments)
        return call(self, *arguments)

    def watched_shares(self, count):
        _reached.add("several shares of a step")
        return shares(self, count)

    TypedKernel.__call__ = watched
    passes.SequenceBatch.shares = watched_shares
    for name, module in list(sys.modules.items()):
        if name.startswith("fastrnn.") and getattr(module, "spans", None) is plain:
            module.spans = in_calls


@functools.cache
def _parameters(function):
    return tuple(inspect.signature(function).parameters)


def _look(parameters, arguments):
    """What the arguments of a kernel say of the shape."""
    named = dict(zip(parameters, arguments, strict=True))
    if named.get("shares", 1) > 1:
        _reached.add("several shares")
    if "bias_job" in named:
        job = named["bias_job"]
        counts = job.counts[:-1].tolist()
        if max(counts) > sums.ROWS_PER_BLOCK:
            _reached.add(f"more than {sums.ROWS_PER_BLOCK} rows in a step")
        if _blocks(counts, job.steps_per_block) > sums.BLOCKS_PER_SUM:
            _reached.add(f"more than {sums.BLOCKS_PER_SUM} blocks of rows")


def _blocks(counts, steps_per_block):
    """How many blocks a weight's gradient is summed in, of so many rows in each step."""
    blocks = start = 0
    while start < len(counts):
        stop = min(start + steps_per_block, len(counts))
        rows = sum(counts[start:stop])
        while stop < len(counts) and rows + counts[stop] <= sums.ROWS_PER_BLOCK:
            rows += counts[stop]
            stop += 1
        blocks += -(-rows // sums.ROWS_PER_BLOCK) if stop == start + 1 else 1
        start = stop
    return blocks


def reached():
    """What the calls since the last time came to, of what small shapes seldom do."""
    found = sorted(_reached)
    _reached.clear()
    return found


REACHED = (
    "several shares", "several shares of a step", "several spans", f"more than {sums.ROWS_PER_BLOCK} rows in a step",
    f"more than {sums.BLOCKS_PER_SUM} blocks of rows",
)  # fmt: skip
