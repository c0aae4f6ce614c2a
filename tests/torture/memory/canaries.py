"""Buffers in which all memory that nobody has written holds canaries, and so do the gaps around and between them.

Results must be the same bits as ever, and the gaps untouched.
"""

import math
import sys

import numpy as np

from fastrnn import parameters
from fastrnn.kernels.memory import aligned_empty

from .pages import canaries

_LINE = 64  # bytes
_patrol = None  # the `Patrol` that buffers are made for; None: they are made as ever


class Patrol:
    """A `with` block in which fastrnn's buffers are full of canaries and have gaps before and behind."""

    def __init__(self):
        self._buffers = []  # (bytes, as they were, where arrays lie)

    def __enter__(self):
        global _patrol
        _patrol = self
        return self

    def __exit__(self, *_):
        global _patrol
        _patrol = None

    def allocate(self, sizes, dtype):
        """1-D arrays of these sizes, one behind the other, each from a cache line on."""
        dtype = np.dtype(dtype)
        starts = [_LINE]
        for size in sizes:
            starts.append(starts[-1] + _LINE * math.ceil(size * dtype.itemsize / _LINE))
        whole = aligned_empty(starts[-1] + _LINE, np.uint8)
        whole[:] = canaries(whole.size // 8, dtype)
        spans = [(start, start + size * dtype.itemsize) for start, size in zip(starts, sizes, strict=False)]
        self._buffers.append((whole, whole.copy(), spans))
        return [whole[start:stop].view(dtype) for start, stop in spans]

    def check(self):
        """(bytes of canaries, descriptions of the buffers in whose gaps they were changed)."""
        count, strays = 0, []
        for whole, before, spans in self._buffers:
            gap = np.ones(whole.size, bool)
            for start, stop in spans:
                gap[start:stop] = False
            count += int(gap.sum())
            changed = np.flatnonzero(gap & (whole != before))
            if changed.size:
                strays.append(f"byte {changed[0]} of a buffer with arrays at {spans} was changed")
        return count, strays


class _CanaryNumpy:
    """NumPy, whose `empty` arrays are full of canaries."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype=float):
        """As `np.empty`."""
        array = np.empty(shape, dtype)
        if _patrol is not None and array.dtype.kind in "fi":
            blank = canaries(math.ceil(array.nbytes / 8), dtype)
            array.reshape(-1).view(np.uint8)[:] = blank[: array.nbytes]
        return array


def _empty(size, dtype, alignment=_LINE):
    return aligned_empty(size, dtype, alignment) if _patrol is None else _patrol.allocate([size], dtype)[0]


def install():
    """Let fastrnn allocate through the patrol under way, if there is one."""
    aligned_pieces = parameters.aligned_pieces

    def pieces(sizes, dtype, alignment=_LINE):
        return aligned_pieces(sizes, dtype, alignment) if _patrol is None else _patrol.allocate(sizes, dtype)

    for name, module in list(sys.modules.items()):
        if name.startswith("fastrnn.") and not name.startswith("fastrnn.kernels."):
            for attribute, value in list(vars(module).items()):
                if value is aligned_empty:
                    setattr(module, attribute, _empty)
                elif value is aligned_pieces:
                    setattr(module, attribute, pieces)
                elif value is np:
                    setattr(module, attribute, _CanaryNumpy())
