"""What is no file of ours at all: empty, a folder, a pipe, a device, a pickle, …"""

import os
import pathlib
import pickle
import socket
import tempfile

from . import sources
from .children import Ended, in_child

_SECONDS = 20


class _Trap:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


def other_kinds(tally):
    """Have every reader try each of them."""
    with tempfile.TemporaryDirectory() as folder:
        paths = _made(pathlib.Path(folder))
        for kind in sources.KINDS:
            try:
                for what, problem in in_child(_tried, kind, paths, seconds=_SECONDS):
                    tally.count("files of other kinds")
                    if problem:
                        tally.broke(f"{kind} read from {what}: {problem}")
            except Ended as end:
                what = list(paths)[0 if end.last is None else 1 + list(paths).index(end.last[0])]
                tally.broke(f"{kind} read from {what}: the process {end.how}")
        if (pathlib.Path(folder) / "trap").exists():
            tally.broke("a pickle was loaded")


def _made(folder):
    """name -> path of each."""
    paths = {
        what: str(folder / what)
        for what in ("empty", "pickle", "pipe", "folder", "loop", "dangling", "secret", "socket")
    }
    pathlib.Path(paths["empty"]).touch()
    pathlib.Path(paths["pickle"]).write_bytes(pickle.dumps(_Trap(str(folder / "trap"))))
    os.mkfifo(paths["pipe"])
    os.mkdir(paths["folder"])
    os.symlink("loop", paths["loop"])
    os.symlink("nowhere", paths["dangling"])
    pathlib.Path(paths["secret"]).write_bytes(b"secret")
    os.chmod(paths["secret"], 0)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(paths["socket"])
    return paths | {"endless": "/dev/zero", "null": "/dev/null", "terminal": "/dev/tty", "memory": "/proc/self/mem",
                    "nothing": str(folder / "nothing"), "too long": str(folder / ("x" * 300)),
                    "a NUL": "a\0b"}  # fmt: skip


def _tried(kind, paths):
    """In a child: what came of reading each."""
    reader = sources.reader(kind)
    for what, path in paths.items():
        if not os.path.exists(path) and what in ("terminal", "memory"):
            continue
        problem = "it was loaded"
        try:
            reader.read(path)
        except (*reader.refusals, OSError) as error:
            named = path in str(error) or getattr(error, "filename", None) == path or what == "a NUL"
            problem = None if named else f"the message does not name it: {error}"
        except ValueError as error:
            problem = None if what == "a NUL" else repr(error)
        except BaseException as error:
            problem = repr(error)
        yield what, problem
