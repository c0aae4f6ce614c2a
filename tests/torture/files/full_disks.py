"""Saving without room for it: the old file stays, one error says so, and training goes on."""

import contextlib
import errno
import os
import pathlib
import resource
import subprocess
import tempfile

import numpy as np

from . import sources
from .children import Ended, in_child

_SECONDS = 120
_NO_ROOM = (errno.ENOSPC, errno.EFBIG)


def full_disks(tally, budget):
    """Fill disks until the time is up, each way at least once."""
    number = 0
    while number < len(_WAYS) or budget.left():
        way = _WAYS[number % len(_WAYS)]
        try:
            with tempfile.TemporaryDirectory() as folder, way.place(folder) as place:
                for problem in in_child(_saved_without_room, way, place, (budget.seed, number), seconds=_SECONDS):
                    tally.count("full disks")
                    if problem:
                        tally.broke(f"full disk, {way.__name__}, seed {budget.seed}, number {number}: {problem}")
        except subprocess.CalledProcessError as error:
            tally.note(f"no small file system could be mounted, so none was filled ({error.stderr.decode().strip()})")
        except Ended as end:
            tally.broke(f"full disk, {way.__name__}, seed {budget.seed}, number {number}: the process {end.how}")
        number += 1


def _saved_without_room(way, folder, seed):
    """In a child: a few rounds of training, a checkpoint that has no room, and one that has it again."""
    rng = np.random.default_rng(seed)
    job, untroubled = sources.trainer(), sources.trainer()
    batches, path = sources.stream(), pathlib.Path(folder) / "checkpoint"
    other_batches = sources.stream()
    job.save_checkpoint(path, extra="old")
    for _ in range(3):
        problem, before, old = None, sources.snapshot(job), path.read_bytes()
        with way.full(folder, len(old), rng):
            try:
                job.save_checkpoint(path, extra="new")
                problem = "it was saved"
            except OSError as error:
                if error.errno not in _NO_ROOM or error.filename != str(path):
                    problem = f"the error is {error!r}"
        names = sorted(set(os.listdir(folder)) - {"checkpoint"})
        if problem is None and names:
            problem = f"there are {names}"
        if problem is None and (path.read_bytes() != old or sources.snapshot(job) != before):
            problem = "the old checkpoint or the trainer has changed"
        for trainer, data in ((job, batches), (untroubled, other_batches)):
            trainer.fit(data, callbacks=lambda *_: True, progress=False)
        job.save_checkpoint(path, extra="old")
        reader = sources.trainer()
        reader.load_checkpoint(path)
        if problem is None and sources.snapshot(reader)[:-1] != sources.snapshot(untroubled)[:-1]:
            problem = "training went on otherwise"
        yield problem


class _SmallFileSystem:
    """A mounted one, filled up to less than a checkpoint."""

    @staticmethod
    @contextlib.contextmanager
    def place(folder):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True, capture_output=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True, capture_output=True)

    @staticmethod
    @contextlib.contextmanager
    def full(folder, size, rng):
        ballast = pathlib.Path(folder) / "ballast"
        page = os.statvfs(folder).f_bsize
        free = os.statvfs(folder).f_bavail * page
        ballast.write_bytes(bytes(free - int(rng.integers(-(-size // page))) * page))
        try:
            yield
        finally:
            ballast.unlink()


class _Elsewhere:
    """Where a temporary folder is."""

    @staticmethod
    @contextlib.contextmanager
    def place(folder):
        yield folder


class _FileSizeLimit(_Elsewhere):
    """The process may not write files of this size: EFBIG, for Python ignores SIGXFSZ."""

    @staticmethod
    @contextlib.contextmanager
    def full(folder, size, rng):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(rng.integers(0, size)), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _failing(name):
    """A way in which the call `os.<name>` finds no room, as that of a network file system may."""

    class Failing(_Elsewhere):
        @staticmethod
        @contextlib.contextmanager
        def full(folder, size, rng):
            def fail(*_):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            real = getattr(os, name)
            setattr(os, name, fail)
            try:
                yield
            finally:
                setattr(os, name, real)

    Failing.__name__ = f"os.{name}"
    return Failing


_WAYS = (_SmallFileSystem, _FileSizeLimit, _failing("fsync"), _failing("replace"))
