"""Long work in calls of kernels that are short enough for Ctrl-C, which Python answers between two of them."""

import time

_FIRST_WORK = 1e9  # multiply-adds of the first call: some 10 ms on a fast core, and far below a second on a slow one
_SECONDS = 0.25  # that every later one is to take
_GROWTH = 8  # at most from one call to the next


def is_short(work):
    """Whether so many multiply-adds are one call."""
    return work <= _FIRST_WORK


def spans(count, work, grain=1):
    """The ranges (first, past the last) in which to do `count` pieces of `work` multiply-adds each, one after another.

    How long one took says how long the next is to be: the time is that between two values taken from the generator.
    A range that goes across a multiple of `grain` begins at one, and ends at one or at `count`.
    """
    if is_short(count * work):
        yield 0, count
        return
    size = max(1, int(_FIRST_WORK // work))
    first = 0
    while True:
        last = min(first + size, count)
        boundary = (first // grain + 1) * grain
        if first % grain:
            last = min(last, boundary)
        elif boundary <= last < count:
            last = last // grain * grain
        began = time.perf_counter()
        yield first, last
        if last == count:
            return
        took = time.perf_counter() - began
        size = max(1, int((last - first) * min(_GROWTH, _SECONDS / max(took, 1e-9))))
        first = last
