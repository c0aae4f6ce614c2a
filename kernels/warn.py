"""Warnings that point at the user's line."""

import sys
import warnings

_OWN = ("fastrnn", "numba")  # packages whose frames lie between


def warn_caller(message):
    """A RuntimeWarning at the innermost line outside of fastrnn and Numba."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OWN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)
