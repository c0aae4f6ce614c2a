"""How many threads the kernels use."""

import functools
import math
import os
import pathlib

import numba

from . import checks
from .control_groups import control_groups
from .kernels.parallel import start_threads, threads_allowed, threads_lost
from .kernels.warn import warn_caller

_QUOTA_FILES = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}  # by version of the control groups
_WORTH_A_THREAD = 250_000  # multiply-adds: some 2 to 5 µs of work, against 1.5 µs to start a parallel region
_WORKQUEUE = 20  # times that: Numba's workqueue layer takes 80 to 150 µs

_count = None
_started = False
_warned = False  # of lost threads
_region_cost = 1  # of the threading layer, once threads are started


def set_num_threads(n: int) -> None:
    """Let every kernel use `n` threads, from 1 to the number Numba was started with; results do not depend on it."""
    global _count
    _count = checks.integer("n", n, minimum=1, maximum=numba.config.NUMBA_NUM_THREADS)


def get_num_threads() -> int:
    """The number of threads the kernels use, at most what Numba allows the calling Python thread.

    Unless `set_num_threads` or the environment's NUMBA_NUM_THREADS says otherwise: one for each core that the process
    may run on, and no more than its control group's share of CPU time, rounded up.

    In a process forked from one whose kernels have run it is 1, whatever was set: the threads are lost in a fork. The
    first call there tells so in a RuntimeWarning, if there would have been more.
    """
    global _started, _region_cost
    if threads_lost():
        _warn_of_lost_threads()
        return 1
    if not _started:
        start_threads()  # before Numba does, which would let idle threads spin for long
        _started = True
        if numba.threading_layer() == "workqueue":
            _region_cost = _WORKQUEUE
    return min(threads_allowed(), _default_count() if _count is None else _count)


def _warn_of_lost_threads():
    global _warned
    if not _warned and (_default_count() if _count is None else _count) > 1:
        _warned = True
        warn_caller(
            "this process was forked from one that had started threads, which are lost in a fork: its kernels use one "
            "thread, to the same results. Processes started by 'spawn' or 'forkserver' have threads of their own; "
            "set_num_threads(1) before the fork says that one is meant"
        )


def threads_for(work):
    """Threads that `work` multiply-adds are worth: as many as there are, fewer where a thread would have too little."""
    if work < 2 * _WORTH_A_THREAD:
        return 1
    threads = get_num_threads()
    return max(1, min(threads, int(work // (_WORTH_A_THREAD * _region_cost))))


def threads_for_elements(count):
    """Threads that a pass over `count` numbers is worth: memory rather than arithmetic takes the time."""
    return threads_for(50 * count)


@functools.cache
def _default_count():
    """Threads where none were asked for."""
    most = numba.config.NUMBA_NUM_THREADS  # by default, the cores that the process may run on
    if "NUMBA_NUM_THREADS" in os.environ:
        return most
    return max(1, math.ceil(min(most, cpu_quota())))


def cpu_quota(root="/"):
    """How many CPUs' time this process's control groups, or those that contain them, let it use: inf for no limit.

    Read below `root`. Linux, Documentation/admin-guide/cgroup-v2.rst: `cpu.max` is "quota period" or "max period";
    in version 1 (scheduler/sched-bwc.rst) `cpu.cfs_quota_us` is −1 without a limit.
    """
    quotas = [_quota_of(folder, _QUOTA_FILES[version]) for version, folder in control_groups(pathlib.Path(root), "cpu")]
    return min(quotas, default=math.inf)


def _quota_of(folder, names):
    """The limit that one control group sets, in files of these names."""
    try:
        quota, period = " ".join([(folder / name).read_text() for name in names]).split()
        if quota not in ("max", "-1") and int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    except (OSError, ValueError):  # not there, or not what it is documented to be
        pass
    return math.inf
