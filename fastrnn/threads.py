"""How many threads the kernels use."""

import numba

from . import checks
from .kernels.parallel import start_threads

_WORTH_A_THREAD = 250_000  # multiply-adds: some 2 to 5 µs of work, against 1.5 µs to start a parallel region
_WORKQUEUE = 20  # times that: Numba's workqueue layer takes 80 to 150 µs

_count = None
_started = False
_region_cost = 1  # of the threading layer, once threads are started


def set_num_threads(n: int) -> None:
    """Let every kernel use `n` threads, from 1 to the number Numba was started with; results do not depend on it."""
    global _count
    _count = checks.integer("n", n, minimum=1, maximum=numba.config.NUMBA_NUM_THREADS)


def get_num_threads() -> int:
    """The number of threads the kernels use, at most what Numba allows the calling Python thread."""
    global _started, _region_cost
    if not _started:
        start_threads()  # before Numba does, which would let idle threads spin for long
        _started = True
        if numba.threading_layer() == "workqueue":
            _region_cost = _WORKQUEUE
    allowed = numba.get_num_threads()
    return allowed if _count is None else min(_count, allowed)


def threads_for(work):
    """Threads that `work` multiply-adds are worth: as many as there are, fewer where a thread would have too little."""
    if work < 2 * _WORTH_A_THREAD:
        return 1
    threads = get_num_threads()
    return max(1, min(threads, int(work // (_WORTH_A_THREAD * _region_cost))))


def threads_for_elements(count):
    """Threads that a pass over `count` numbers is worth: memory rather than arithmetic takes the time."""
    return threads_for(50 * count)
