"""Results as short texts that are equal if and only if all bits are: these go from process to process."""

import hashlib

import numpy as np


def of_arrays(value):
    """A text for an array, None, or dicts and sequences of such; a zero's sign and a NaN's bits count, too."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()[:16]


def _feed(digest, value):
    if isinstance(value, dict):
        for name in sorted(value):
            digest.update(f"{name}:".encode())
            _feed(digest, value[name])
    elif isinstance(value, (tuple, list)):
        digest.update(f"({len(value)}".encode())
        for entry in value:
            _feed(digest, entry)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    else:
        digest.update(repr(value).encode())


def differing(ours, theirs):
    """The names under which two dicts differ, in one line; empty if they are the same."""
    return ", ".join(name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name))
