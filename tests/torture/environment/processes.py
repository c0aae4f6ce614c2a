"""Starting `child.py` in an environment of one's choice."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

_HERE = pathlib.Path(__file__).parent
_PATIENCE = 240  # seconds; a cold start of all kernels that a child takes is some 20


class Failed(Exception):
    """A child did not do what it was to do."""


class Site:
    """A folder with a copy of the child and of its tiny kernels, whose `__pycache__` can't be written."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        for name in ("child.py", "tiny.py"):
            shutil.copy(_HERE / name, self.folder)
        (self.folder / "__pycache__").write_text("a file")
        self._home = self.folder / "no home"
        self._home.write_text("a file, in which there can be no cache")

    def command(self, what, report, flags=(), preparation=""):
        return [sys.executable, *flags, str(self.folder / "child.py"), preparation, what, str(report)]

    def variables(self, changes):
        """This process's variables with `changes`, of which None removes one."""
        changed = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | changes
        return {name: value for name, value in changed.items() if value is not None}

    def without_cache(self):
        """Variables for a process that has no folder for a cache."""
        nowhere = str(self._home)
        return {"NUMBA_CACHE_DIR": nowhere, "HOME": nowhere, "XDG_CACHE_HOME": nowhere}

    def start(self, what, report, changes=None, flags=(), preparation="", **options):
        """A started child."""
        return subprocess.Popen(
            self.command(what, report, flags, preparation),
            env=self.variables(changes or {}), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", **options,
        )  # fmt: skip

    def run(self, what, changes=None, flags=(), preparation="", **options):
        """What a child reports; `Failed` if it ends otherwise."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            os.chmod(folder, 0o777)  # for a child of another user
            report = pathlib.Path(folder) / "report.json"
            process = self.start(what, report, changes, flags, preparation, **options)
            return finish(process, report)


def finish(process, report):
    """What a started child reports."""
    try:
        _, errors = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed(f"not done after {_PATIENCE} s") from None
    if process.returncode:
        raise Failed(f"status {process.returncode}: {errors.strip()[-600:]}")
    return json.loads(report.read_text())
