"""Text for the byte-level language model: files named by the user, or the running Python's own library."""

import os
import pathlib
import sys
import sysconfig
import zlib
from typing import NamedTuple

from . import checks

LIBRARY_BYTES = 5_000_000
HELD_OUT_FRACTION = 0.05


class Corpus(NamedTuple):
    """A text cut in two: what a model learns from, and what it is judged by."""

    name: str  # for people: where the text is from
    training: bytes
    held_out: bytes


def load(paths=(), *, fraction: float = HELD_OUT_FRACTION, minimum: int = 2) -> Corpus:
    """The corpus in the files at `paths`, concatenated in this order; with no path, that of `library_files`.

    Nothing is drawn at random: the held-out part is the last `fraction` of the bytes. If a file starts inside it, and
    no more than half of it is lost by that, it begins at the first such file, so that no file is in both parts. Both
    parts must have `minimum` bytes.

    `ValueError` for a text that is empty or too short, or a library without sources; `OSError` for a file that can't
    be read. Both name the file.
    """
    fraction = checks.number("fraction", fraction, above=0, below=1)
    minimum = checks.integer("minimum", minimum, minimum=1)
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise TypeError(f"paths must be a sequence of paths, got {paths!r}")
    paths = list(paths)
    name = ", ".join(os.fsdecode(p) for p in paths) if paths else "Python's standard library"
    texts = read_files(paths) if paths else library_files()
    cut = _held_out_start([len(t) for t in texts], fraction)
    text = b"".join(texts)
    training, held_out = text[:cut], text[cut:]
    if min(len(training), len(held_out)) < minimum:
        raise ValueError(
            f"{name} is too short: {len(text)} bytes give {len(training)} to train on and {len(held_out)} held out, "
            f"and at least {minimum} of each are needed"
        )
    return Corpus(name, training, held_out)


def read_files(paths) -> list[bytes]:
    """The contents of the files, none of which may be empty."""
    texts = []
    for path in paths:
        with open(path, "rb") as file:
            text = file.read()
        if not text:
            raise ValueError(f"{os.fsdecode(path)} is empty")
        texts.append(text)
    return texts


def library_files(folder=None, max_bytes: int = LIBRARY_BYTES) -> list[bytes]:
    """The sources of the running Python's standard library, one entry a file: its first `max_bytes` bytes.

    The modules at the top of the library's folder in the order of their names; no packages, and none of the files
    that an installation adds there (site customisation, build settings), which differ between machines.
    """
    max_bytes = checks.integer("max_bytes", max_bytes, minimum=1)
    folder = pathlib.Path(sysconfig.get_path("stdlib") if folder is None else folder)
    found = sorted(folder.glob("*.py")) if folder.is_dir() else []  # a zipped library has no folder
    texts = []
    for path in found:
        if path.stem in sys.stdlib_module_names and max_bytes > 0:
            texts.append(path.read_bytes()[:max_bytes])
            max_bytes -= len(texts[-1])
    if not any(texts):
        raise ValueError(f"this Python's library in {folder} has no source files: name text files to train on")
    return texts


def _held_out_start(lengths: list[int], fraction: float) -> int:
    """Where in the concatenation of texts of these `lengths` the held-out part begins."""
    total = sum(lengths)
    size = max(1, int(total * fraction))
    start = 0
    for length in lengths:
        if total - size <= start <= total - (size + 1) // 2:
            return start
        start += length
    return total - size


def zlib_bits_per_byte(text: bytes) -> float:
    """What zlib at its best level needs for `text` by itself: the figure a language model has to beat."""
    if not text:
        raise ValueError("text must not be empty")
    return 8 * len(zlib.compress(text, 9)) / len(text)
