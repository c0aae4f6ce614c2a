"""A training on several threads, to be killed: `python -m tests.torture.files.threaded_child FOLDER LINES`."""

import os
import pathlib
import sys

import fastrnn

from .kills import THREADS, Threads


class _Checked(Threads):
    """Refuses to have trained on one."""

    _trains = False

    def _batches(self):
        self._trains = True
        return super()._batches()

    def run(self):
        super().run()
        threads = len(os.listdir("/proc/self/task"))
        if self._trains and threads < THREADS:
            raise RuntimeError(f"it ran on {threads} threads")


fastrnn.set_num_threads(THREADS)
_Checked(pathlib.Path(sys.argv[1])).run_and_exit(int(sys.argv[2]))
