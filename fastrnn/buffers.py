"""Arrays that stay from one call to the next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks
from .kernels.memory import aligned_empty

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class NamedArrays:
    """Arrays by name, grown on demand. One thread uses them at a time. Copies and pickles are empty."""

    def __init__(self):
        self._arrays = {}

    def __reduce__(self):
        return type(self), ()

    def array(self, name: Any, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An array with undefined contents, in the memory that `name` had before."""
        size, dtype = math.prod(shape), np.dtype(dtype)
        flat = self._arrays.get(name)
        if flat is None or flat.size < size or flat.dtype != dtype:
            checks.memory(f"an array of shape {shape}", size * dtype.itemsize)
            flat = self._arrays[name] = aligned_empty(size, dtype)
        return flat[:size].reshape(shape)
