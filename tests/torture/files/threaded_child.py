"""A training on several threads, to be killed: `python -m tests.torture.files.threaded_child FOLDER LINES`."""

import os
import pathlib
import sys

import fastrnn

from .kills import THREADS, Threads


class _Checked(Threads):
    """Refuses to have trained on one. After the last update of all there may be nothing left to train."""

    def _trainer(self):
        self._job = super()._trainer()
        return self._job

    def run(self):
        before = max(self.progress(), 0)
        super().run()
        threads = len(os.listdir("/proc/self/task"))
        if self._job.updates > before and threads < THREADS:
            raise RuntimeError(f"it ran on {threads} threads")


fastrnn.set_num_threads(THREADS)
_Checked(pathlib.Path(sys.argv[1])).run_and_exit(int(sys.argv[2]))
