"""Sums of rows outside of the kernels: in float64, and without a warning of infinity or NaN, which go through."""

import numpy as np


def total(rows, axis=0, out=None):
    """The sum over an axis; NumPy's own adds up the rows of float32 arrays one by one in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.sum(axis, dtype=np.float64, out=out)


def add_to(target, sums):
    """target += sums, which are rounded last of all."""
    with np.errstate(over="ignore", invalid="ignore"):
        target += sums
