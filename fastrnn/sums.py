"""Sums of rows outside of the kernels: in float64, and without a warning of infinity or NaN, which go through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .buffers import NamedArrays

_PARTS = 32  # float32 is off by 2e-6 at most after so many


def total(rows, axis=0, out=None):
    """The sum over an axis; NumPy's own adds up the rows of float32 arrays one by one in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.sum(axis, dtype=np.float64, out=out)


def add_to(target, sums):
    """target += sums, which are rounded last of all."""
    with np.errstate(over="ignore", invalid="ignore"):
        target += sums


class SumOfParts:
    """What many parts, one after the other, add to `array` (P,): every few of them its sum moves to one in float64.

    buffers: have that one (P,) for as long as there are more parts to come.
    """

    def __init__(self, array: np.ndarray, buffers: NamedArrays):
        self._array, self._buffers = array, buffers
        self._parts = 0
        self._sums: np.ndarray | None = None

    def count(self) -> None:
        """One more part has been added to the array."""
        self._parts += 1
        if self._parts % _PARTS or self._array.dtype == np.float64:
            return
        if self._sums is None:
            self._sums = self._buffers.array("sums", self._array.shape, np.float64)
            self._sums.fill(0)
        add_to(self._sums, self._array)
        self._array.fill(0)

    def finish(self) -> None:
        """Let the array have the sum of all its parts; those that follow are added to that."""
        if self._sums is not None:
            add_to(self._sums, self._array)
            with np.errstate(over="ignore", invalid="ignore"):
                self._array[...] = self._sums
        self._parts, self._sums = 0, None
