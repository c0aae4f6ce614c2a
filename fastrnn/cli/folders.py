"""Folders for the results of runs."""

import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence

from .common import CommandError

RUNS_FOLDER = "fastrnn-runs"


@contextlib.contextmanager
def results_folder(chosen: str | None, name: str, taken: Sequence[str] = (), refusal: str = "") -> Iterator[str]:
    """The folder `chosen`, or a new one in `RUNS_FOLDER` named after `name`, found to be writable.

    taken: files that must not be in it: a `CommandError` says that it holds an earlier run, and `refusal`.
    """
    folder = chosen or _new_folder(name)
    os.makedirs(folder, exist_ok=True)
    if any(os.path.exists(os.path.join(folder, file)) for file in taken):
        raise CommandError(f"{folder} holds an earlier run: {refusal.format(folder=folder)}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, folder) from None
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # goes only if it is empty: stopped before there was anything to save
            os.rmdir(folder)


def _new_folder(name):
    """A folder of its own for every run."""
    name = re.sub(r"[^\w.-]", "_", name).strip(".") or "run"
    for count in itertools.count(1):
        folder = os.path.join(RUNS_FOLDER, name if count == 1 else f"{name}-{count}")
        with contextlib.suppress(FileExistsError):
            os.makedirs(folder)
            return folder


def stem(path: str) -> str:
    """The name of a file, without folders and extension."""
    return os.path.splitext(os.path.basename(path))[0]
