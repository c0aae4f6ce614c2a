"""Work shared out among threads however little it is, so that parts get a row, a vector of units, or nothing."""

from fastrnn import passes, threads
from fastrnn.layers import compiled, recurrent

_by_units = False


def install():
    """Let kernels take as many threads as are set."""
    threads._WORTH_A_THREAD = 1
    passes._STEP_WORK_OF_A_THREAD = 1
    for module in (recurrent, compiled):
        module.split_by_units = lambda *_: _by_units


def share(by_units):
    """From now on parts share out units rather than sequences, or the other way round."""
    global _by_units
    _by_units = by_units
