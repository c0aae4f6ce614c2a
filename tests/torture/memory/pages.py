"""Memory between pages that can't be touched, filled with canaries where no array lies."""

import ctypes
import functools
import mmap
from collections import defaultdict

import numpy as np

_PAGE = mmap.PAGESIZE
_FENCE = 16 * _PAGE  # on either side: a stray index is seldom off by one
_PROT_NONE = 0

# Signalling NaNs: to read one spoils a result, and to write back what was computed from one changes its bits.
_CANARIES = {np.dtype(np.float32): 0xFFA5A5A5FFA5A5A5}
_OTHERS = 0xFFF4A5A5A5A5A5A5  # also a negative integer

_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


@functools.lru_cache(maxsize=64)
def canaries(words, dtype):
    """Bytes of so many 64-bit words of canaries for an array of `dtype`, not to be changed."""
    return np.full(words, _CANARIES.get(np.dtype(dtype), _OTHERS), np.uint64).view(np.uint8)


def _forbid(address, size):
    if _mprotect(address, size, _PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect failed")


class Region:
    """Pages for at least `size` bytes, behind and before pages where any access ends the process.

    An array in it begins at the first byte or ends at the last one.
    """

    def __init__(self, size):
        length = max(-(-size // _PAGE), 1) * _PAGE
        self.map = mmap.mmap(-1, length + 2 * _FENCE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.bytes = np.frombuffer(self.map, np.uint8)[_FENCE : _FENCE + length]
        start = self.bytes.ctypes.data
        _forbid(start - _FENCE, _FENCE)
        _forbid(start + length, _FENCE)
        self.start = start

    def place(self, size, dtype, at_end):
        """The address of `size` bytes at one end of the region, the rest of which is filled with canaries."""
        self._blank = canaries(self.bytes.size // 8, dtype)
        self.bytes[:] = self._blank
        self._first = self.bytes.size - size if at_end else 0
        self._last = self._first + size
        return self.start + self._first

    def array(self, address, like):
        """An array at `address`, of the form of `like`."""
        offset = _FENCE + address - self.start
        array = np.ndarray(like.shape, like.dtype, self.map, offset, like.strides)
        array.flags.writeable = like.flags.writeable
        return array

    @property
    def canary_count(self):
        """Bytes of canaries."""
        return self.bytes.size - (self._last - self._first)

    def is_intact(self):
        """Whether all canaries are as they were."""
        parts = slice(None, self._first), slice(self._last, None)
        return all(self.bytes[part].tobytes() == self._blank[part].tobytes() for part in parts)


_KEPT = 16 * _PAGE  # the largest regions that are used again; of larger ones there are too many sizes


class Regions:
    """Regions that are used again: to map and protect pages takes longer than most kernels here."""

    def __init__(self):
        self._free = defaultdict(list)  # by number of pages

    def take(self, size):
        """A region for `size` bytes."""
        free = self._free[max(-(-size // _PAGE), 1)]
        return free.pop() if free else Region(size)

    def give_back(self, regions):
        """No array is in these regions any more."""
        for region in regions:
            if region.bytes.size <= _KEPT:
                self._free[region.bytes.size // _PAGE].append(region)
