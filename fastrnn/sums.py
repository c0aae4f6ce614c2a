"""Sums of rows outside of the kernels: in float64, and without a warning of infinity or NaN, which go through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .buffers import NamedArrays
    from .parameters import Parameters

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
    """What many parts, one after the other, add to the gradients (P,): every few of them their sum moves to float64.

    The gradients are looked at only then: those that count as zero stay to be written over.

    buffers: have the sums (P,) in float64 for as long as there are more parts to come.
    """

    def __init__(self, parameters: Parameters, buffers: NamedArrays):
        self._parameters, self._buffers = parameters, buffers
        self._parts = 0
        self._sums: np.ndarray | None = None

    def count(self) -> None:
        """One more part has been added to the gradients."""
        self._parts += 1
        if self._parts % _PARTS or self._parameters.dtype == np.float64:
            return
        gradients = self._parameters.gradients
        if self._sums is None:
            self._sums = self._buffers.array("sums", gradients.shape, np.float64)
            self._sums.fill(0)
        add_to(self._sums, gradients)
        gradients.fill(0)

    def finish(self) -> None:
        """Let the gradients be the sum of all parts; those that follow are added to that."""
        if self._sums is not None:
            gradients = self._parameters.gradients
            add_to(self._sums, gradients)
            with np.errstate(over="ignore", invalid="ignore"):
                gradients[...] = self._sums
        self._parts, self._sums = 0, None
