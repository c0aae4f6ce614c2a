"""Training that is killed again and again, at any moment, and must end as if it never had been."""

import contextlib
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

import numpy as np

import fastrnn
from fastrnn import bptt, data, storage
from fastrnn.cli import main
from fastrnn.cli.common import CHECKPOINT_FILE, MODEL_FILE

from . import sources
from .children import Ended, in_child

_EPOCHS = 4  # of 13 updates, with a checkpoint after each
_STEPS = 40  # of `fastrnn train`
_LONGEST = 0.3  # seconds from the start of a process to its end, about
_LINES = 300  # of the code that saves: some ten checkpoints
_PATIENCE = 15  # seconds after which a run is no longer killed: it can take long to get anywhere
THREADS = 2
_WAYS = 5  # to choose the moment of a kill: these, and any time
_AT_LINE, _AT_TEMPORARY, _AT_RENAME = range(3)
_FIRST_WAYS = _AT_RENAME, _AT_LINE, _AT_TEMPORARY  # of every run: the first is certain to be in the middle of a save
_SECONDS = 120  # in which a process must have been killed, or done
_TEXT = b"the quick brown fox jumps over the lazy dog, and again. " * 40


def killed_runs(tally, budget):
    """Kill runs until the time is up, at least one of each kind."""
    number = 0
    while number < len(_KINDS) or budget.left():
        kind = _KINDS[number % len(_KINDS)]
        place = f"{kind.__name__.strip('_')}, seed {budget.seed}, run {number}"
        end = time.monotonic() + min(_PATIENCE, budget.left() / max(1, len(_KINDS) - number))
        try:
            for what, problem in in_child(_chain, kind, (budget.seed, number), end, seconds=_SECONDS):
                tally.count(what)
                if problem:
                    tally.broke(f"{place}: {problem}")
        except Ended as error:
            tally.broke(f"{place}: the process {error.how}")
        number += 1


def _chain(kind, seed, end):
    """In a child, from which those that are killed are forked, with all kernels loaded: what came of each kill.

    From the time `end` on, the run is left alone.
    """
    fastrnn.set_num_threads(1)  # threads would not survive the fork
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, job = kind(pathlib.Path(folder) / "undisturbed"), kind(pathlib.Path(folder) / "killed")
        undisturbed.run()
        before, killed, ways = -1, True, list(_FIRST_WAYS)
        while killed and time.monotonic() < end or before < 0 or ways:
            killed = _killed(rng, job, ways.pop(0) if ways else int(rng.integers(_WAYS)))
            if killed:
                unfinished, problem = job.leftovers(), job.problem(before)
                before = job.progress() if problem is None else before
                if before < 0:
                    yield f"kills before the first checkpoint{job.suffix}", problem
                    continue
                yield "kills survived", problem
                if job.suffix:
                    yield f"of them{job.suffix}", None
                if unfinished:
                    yield f"of them in the middle of a save{job.suffix}", None
        if killed:
            _wait_for_end(job.start())
        problem = None if job.result() == undisturbed.result() else "it ended in other bits"
        yield f"resumed runs compared{job.suffix}", problem
        left = job.leftovers()
        yield "folders looked through for leftovers", f"there are {left}" if left else None


def _killed(rng, job, way):
    """Run `job` in a process of its own and kill it at a random moment; whether that came before the end."""
    moment, lines = rng.uniform(0, _LONGEST), int(rng.integers(1, _LINES))
    if way == _AT_RENAME:
        lines = -int(rng.integers(3, 6))
    pid = job.start(lines if way in (_AT_LINE, _AT_RENAME) else 0)
    if way == _AT_TEMPORARY:
        _wait_for_temporary(job.folder, pid)
        time.sleep(rng.choice((0, 1e-4, 1e-3)))
    elif way not in (_AT_LINE, _AT_RENAME):
        job.wait_for_beginning(pid)
        time.sleep(moment)
    if way not in (_AT_LINE, _AT_RENAME):
        os.kill(pid, signal.SIGKILL)  # it can have ended, but is waited for
    return _wait_for_end(pid) != 0


def _wait_for_end(pid):
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a resumed process ended with status {code}")
    return code


def _die_after(lines):
    """Let this process kill itself when so many lines of the code that saves have been run; below 0: when so many files
    have been written and are to take their places."""
    if lines < 0:
        return _die_at_rename(-lines)

    def local(frame, event, argument):
        nonlocal lines
        lines -= 1
        if lines <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return local

    def trace(frame, event, argument):
        saves = frame.f_code.co_filename == storage.__file__ and frame.f_code.co_name in ("atomic_write", *_SAVING)
        return local if saves else None

    sys.settrace(trace)


def _die_at_rename(number):
    real = os.replace

    def replace(source, target):
        nonlocal number
        number -= 1
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = replace


_SAVING = ("_write", "write_safetensors", "_sync_folder", "_open_locked", "_remove_stale")


def _wait_for_temporary(folder, pid):
    """Until a file is being written in `folder`, or the process has ended."""
    while not any(name.startswith(".fastrnn-") for name in _names(folder)):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        os.sched_yield()


def _names(folder):
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


class _Training:
    """`Trainer.fit` with a callback that saves after each update."""

    suffix = ""  # of what is counted

    def __init__(self, folder):
        self.folder = folder
        self._path = folder / "checkpoint"
        folder.mkdir(exist_ok=True)

    def start(self, lines=0):
        """The process id of a `run` in a process of its own, which kills itself after so many lines of saving, see
        `_die_after`; 0: does not."""
        pid = os.fork()
        if pid == 0:
            self.run_and_exit(lines)
        return pid

    def run_and_exit(self, lines):
        """All that such a process does."""
        status = 1
        try:
            if lines:
                _die_after(lines)
            self.run()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)

    def wait_for_beginning(self, pid):
        """Until it is worth while to kill the process."""

    def leftovers(self):
        """The names of temporary files."""
        return sorted(name for name in _names(self.folder) if name.startswith("."))

    def _trainer(self):
        return sources.trainer()

    def _batches(self):
        return sources.stream()

    def run(self):
        """From the last checkpoint, if there is one, to the end."""
        job, losses = self._trainer(), []
        if self._path.exists():
            losses = job.load_checkpoint(self._path)["losses"]

        def save(trainer, record):
            losses.append(record["loss"])
            trainer.save_checkpoint(self._path, extra={"losses": losses})

        if job.epoch < _EPOCHS:
            job.fit(self._batches(), epochs=_EPOCHS - job.epoch, callbacks=save, progress=False)
        job.save_checkpoint(self._path, extra={"losses": losses})  # after the last epoch's end

    def progress(self):
        """Updates in the checkpoint; −1 if there is none."""
        if not self._path.exists():
            return -1
        job = self._trainer()
        job.load_checkpoint(self._path)
        return job.updates

    def problem(self, before):
        """What is wrong after a kill; None for nothing."""
        try:
            after = self.progress()
        except Exception as error:
            return f"the checkpoint can't be loaded: {error}"
        return None if after >= before else f"there were {before} updates, now there are {after}"

    def result(self):
        """All of the run's end: parameters, optimizer, counts, generators, losses."""
        return self._path.read_bytes()


class _CommandLine(_Training):
    """`fastrnn train`."""

    def __init__(self, folder):
        super().__init__(folder)
        self._path = folder / CHECKPOINT_FILE
        self._text = folder.parent / "text"
        self._text.write_bytes(_TEXT)

    def run(self):
        """Begin, or resume."""
        if self._path.exists():
            begin = ["--resume", str(self.folder)]
        else:
            small = ["--hidden", "6", "--embedding", "4", "--batch", "4", "--sequence", "8", "--steps", str(_STEPS)]
            begin = [str(self._text), "--out", str(self.folder), *small]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            status = main(["train", *begin, "--checkpoint-interval", "1e-6", "--threads", "1", "--quiet"])
        if status:
            raise RuntimeError(f"fastrnn train ended with status {status}")

    def progress(self):
        """Updates in the checkpoint; −1 if there is none."""
        return storage.load_tensors(self._path, "checkpoint")[1]["updates"] if self._path.exists() else -1

    def result(self):
        """The model, and the losses as the history has them."""
        lines = storage.load_tensors(self._path, "checkpoint")[1]["extra"]["log"]["lines"].splitlines()
        return (self.folder / MODEL_FILE).read_bytes(), [{**json.loads(line), "seconds": None} for line in lines]


class Threads(_Training):
    """Training on two threads in processes that are started anew, for threads do not survive a fork."""

    suffix = " with two threads"

    def start(self, lines=0):
        command = [sys.executable, "-m", f"{__package__}.threaded_child", str(self.folder), str(lines)]
        number = str(THREADS)
        count = {"NUMBA_NUM_THREADS": number, "OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": "1"}
        return os.posix_spawn(sys.executable, command, os.environ | count)

    def wait_for_beginning(self, pid):
        _wait_for_temporary(self.folder, pid)

    def _trainer(self):
        model = fastrnn.Sequential(
            fastrnn.Embedding(11, 64, seed=1), fastrnn.LSTM(64, 64, seed=2), fastrnn.Dropout(0.3),
            fastrnn.Linear(64, 11, seed=3),
        )  # fmt: skip
        return fastrnn.Trainer(model, fastrnn.CrossEntropy(), fastrnn.Adam(0.01), bptt=bptt.Truncated(16), seed=2)

    def _batches(self):
        return data.TokenStream(np.arange(8_400) * 7 % 11, 64, 16)


_KINDS = _Training, _CommandLine, Threads
