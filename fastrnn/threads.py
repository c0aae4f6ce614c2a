"""How many threads the kernels use."""

import numba

from . import checks

_count = None


def set_num_threads(n: int) -> None:
    """Let every kernel use `n` threads, from 1 to the number Numba was started with; results do not depend on it."""
    global _count
    _count = checks.integer("n", n, minimum=1, maximum=numba.config.NUMBA_NUM_THREADS)


def get_num_threads() -> int:
    """The number of threads the kernels use, at most what Numba allows the calling Python thread."""
    allowed = numba.get_num_threads()
    return allowed if _count is None else min(_count, allowed)
