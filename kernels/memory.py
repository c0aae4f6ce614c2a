"""Arrays that start on a cache line."""

import ctypes

import numpy as np


def aligned_empty(size, dtype, alignment=64):
    """An uninitialised 1-D array that starts on a cache line (NumPy aligns to 16 bytes only)."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + alignment, np.uint8)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(raw)) % alignment  # `raw.ctypes` takes longer
    return raw[start : start + size * dtype.itemsize].view(dtype)
