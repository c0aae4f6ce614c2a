"""Sequences and their classes in .npz files, as NumPy's `savez` writes them."""

import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from ..storage import errors_as
from .common import CommandError

if TYPE_CHECKING:
    from ..estimators.sequences import Sequences

LAYOUT = (
    "X is an array (n,T,F), or (n,T) of one feature; or, with an array `lengths` (n,), all sequences one after the "
    "other, (steps,F) or (steps,). y (n,) has their classes, integers or strings."
)


def read(path: str, *, labelled: bool) -> tuple["Sequences", np.ndarray | None]:
    """The sequences, of float64 steps (Σ T_i,F), and the labels (n,) of a file, None if it has none.

    labelled: it must have some. `CommandError` in one sentence for whatever is wrong with it; no pickle is ever loaded.
    """
    from ..estimators.sequences import Sequences

    arrays = _arrays(path)
    unknown = set(arrays) - {"X", "y", "lengths"}
    if unknown or "X" not in arrays or (labelled and "y" not in arrays):
        raise CommandError(f"{path} must have arrays X and y, and may have lengths, it has {_listed(arrays)}")
    X, lengths, y = arrays["X"], arrays.get("lengths"), arrays.get("y")
    if X.dtype.kind not in "fiu":
        raise CommandError(f"{path}: X must hold numbers, got {X.dtype}")
    dimensions = (2, 3) if lengths is None else (1, 2)
    if X.ndim not in dimensions or X.size == 0:
        raise CommandError(f"{path}: X must have {dimensions[0]} or {dimensions[1]} dimensions, got shape {X.shape}")
    X = X.astype(np.float64).reshape(*X.shape[: dimensions[0]], -1)
    if not np.isfinite(X).all():
        raise CommandError(f"{path}: X must be finite everywhere")
    if lengths is None:
        x = Sequences.of_array(X)
    else:
        _check_lengths(path, lengths, len(X))
        x = Sequences(X, lengths.astype(np.int64))
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "biuU"):
        raise CommandError(
            f"{path}: y must be {len(x)} integers or strings, a class for each sequence, got {y.dtype} {y.shape}"
        )
    if y is not None and not printable(y):
        raise CommandError(f"{path}: y has names that can't be printed")
    return x, y


def printable(names: np.ndarray) -> bool:
    """Whether no name has characters that could upset a terminal."""
    if names.dtype.kind != "U":
        return True
    codes = np.frombuffer(names.astype(names.dtype.newbyteorder("=")).tobytes(), np.uint32)
    return bool((codes <= sys.maxunicode).all()) and all(map(str.isprintable, np.unique(names).tolist()))


def _arrays(path):
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise CommandError(f"{path} is not an .npz file")
        file.seek(0)
        with errors_as(CommandError, f"{path} is damaged, or holds what is no array"):
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
                raise CommandError(", ".join(others))
            return arrays


def _check_lengths(path, lengths, steps):
    if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or lengths.size == 0 or lengths.min() < 1:
        raise CommandError(f"{path}: lengths must be integers of at least 1, got {lengths.dtype} {lengths.shape}")
    if lengths.max() > steps or lengths.sum(dtype=object) != steps:
        raise CommandError(f"{path}: lengths must add up to the {steps} steps of X, got {lengths.sum(dtype=object)}")


def _listed(arrays):
    return ", ".join(arrays) or "none"
