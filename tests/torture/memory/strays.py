"""Whether strays are noticed: kernels that leave their arrays on purpose, each access in a child that has to die of it.

`python -m tests.torture.memory.strays`
"""

import faulthandler
import os
import resource
import signal

import numpy as np

from fastrnn import parameters
from fastrnn.kernels.jit import kernel
from fastrnn.kernels.layout import View
from fastrnn.kernels.simd import load, store

from . import canaries, guard
from .worker import tell

_SIZE = 40


@kernel
def peek(array, index, out):
    """Read a vector."""
    store(out, 0, load(array, index))


@kernel
def poke(array, index):
    """Write a vector."""
    store(array, index, 1.0)


@kernel
def poke_own(size, index):
    """Write a vector into an array that the kernel allocates."""
    array = np.empty(size, np.float32)
    store(array, index, 1.0)


@kernel
def poke_view(view, index):
    """Write a vector into a view's array."""
    store(view.data, index, 1.0)


def _dies(function, *arguments):
    """Whether a child that calls it is ended by an access to a forbidden page."""
    child = os.fork()
    if child == 0:
        function(*arguments)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGBUS)


def _array(size=_SIZE):
    return np.zeros(size, np.float32)


def _attempts():
    """(what is tried, whether it was noticed)."""
    last = _SIZE - 16  # where the widest vector just fits
    calls = {
        "read": lambda index: peek(_array(), index, _array()),
        "write": lambda index: poke(_array(), index),
        "write of a kernel's own array": lambda index: poke_own(_SIZE, index),
    }
    for what, call in calls.items():
        for at_end, index in ((True, _SIZE), (False, -1)):
            with guard.Guard(at_end):
                call(0), call(last)  # compiled, and alive
                yield f"{what} {'past the end' if at_end else 'before the beginning'}", _dies(call, index)
    for at_end, index in ((True, -1), (False, _SIZE)):
        with guard.Guard(at_end) as pages:
            poke(_array(), index)
        yield f"write {'before the beginning' if at_end else 'past the end'}, canaries there", bool(pages.strays)
    with guard.Guard(True) as pages:
        poke_view(View(_array(), 20, 20, 0, 16), 16)
    yield "write into other columns of a view", bool(pages.strays)
    with canaries.Patrol() as patrol:
        poke(parameters.aligned_pieces([_SIZE, _SIZE], np.float32)[0], _SIZE)
    yield "write into the gap between two buffers", bool(patrol.check()[1])


def main():
    """Tell of each attempt."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()  # the children's ends are no news
    guard.install()
    canaries.install()
    guard.guard_kernels()
    for what, noticed in _attempts():
        if noticed:
            tell("counts", {"deliberate strays caught": 1})
        else:
            tell("broken", f"not noticed: {what}")


if __name__ == "__main__":
    main()
