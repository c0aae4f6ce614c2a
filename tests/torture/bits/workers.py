"""The processes that the section gives orders to."""

import json
import pathlib
import subprocess
import sys
import tempfile
import threading

from ..threading_layers import environment

_ROOT = pathlib.Path(__file__).parents[3]
_PATIENCE = 200  # seconds for an order
_GARBAGE = {"MALLOC_PERTURB_": "173", "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}  # glibc: no fresh memory holds zeros


class WorkerError(Exception):
    """A worker that has ended, or that had an error."""


class Worker:
    """A process with Numba's threading layer `layer` and `threads` threads; WorkerError if it can't have them.

    An order is given by `ask`, and its result taken by `answer`, so that several can work at once.
    """

    def __init__(self, layer, threads):
        self.layer, self.threads = layer, threads
        self.name = f"{layer} with {threads} threads"
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.torture.bits.worker"], cwd=_ROOT,
            env=environment(layer, threads) | _GARBAGE, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True,
        )  # fmt: skip

    def ask(self, order, **arguments):
        """Begin an order."""
        try:
            self._process.stdin.write(json.dumps({"order": order, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self):
        """The result of the order begun first; at first, of the start."""
        hung = threading.Timer(_PATIENCE, self._process.kill)
        hung.start()
        line = self._process.stdout.readline()
        hung.cancel()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer["result"]

    def _ended(self):
        status = self._process.wait()
        self._errors.seek(0)
        return WorkerError(f"{self.name} ended with status {status}: {self._errors.read()[-1500:].strip()}")

    def kill(self):
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()
