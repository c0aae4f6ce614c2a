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
_SAVES = 3  # without room, by each way in a round
_NO_ROOM = (errno.ENOSPC, errno.EFBIG)


def full_disks(tally, budget):
    """Fill disks until the time is up, each way at least once."""
    number = 0
    while number == 0 or budget.left():
        with tempfile.TemporaryDirectory() as folder, _small_file_system(tally) as small:
            places = {way: folder for way in _WAYS} | ({_filled: small} if small else {})
            try:
                for way, problem in in_child(_all_ways, places, (budget.seed, number), seconds=_SECONDS):
                    tally.count("full disks")
                    if problem:
                        tally.broke(f"full disk, {way}, seed {budget.seed}, round {number}: {problem}")
            except Ended as end:
                tally.broke(f"full disk after {end.last}, seed {budget.seed}, round {number}: the process {end.how}")
        number += 1


@contextlib.contextmanager
def _small_file_system(tally):
    """The folder of one that is mounted for the time of the block, None where that is not allowed."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or str(error)
            tally.note(f"no small file system could be mounted, so none was filled ({' '.join(reason.split())})")
            yield None
            return
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True, capture_output=True)


def _all_ways(places, seed):
    """In a child: the name of each way, with what was wrong, None for nothing."""
    rng = np.random.default_rng(seed)
    for way, folder in places.items():
        for problem in _saved_without_room(way, folder, rng):
            yield way.__name__, problem


def _saved_without_room(way, folder, rng):
    """Some training, each time with a checkpoint that has no room before, and one that has it again after."""
    job, untroubled = sources.trainer(), sources.trainer()
    batches, other_batches = sources.stream(), sources.stream()
    path = pathlib.Path(folder) / "checkpoint"
    job.save_checkpoint(path, extra="old")
    for _ in range(_SAVES):
        problem, before, old = None, sources.snapshot(job), path.read_bytes()
        with way(folder, len(old), rng):
            try:
                job.save_checkpoint(path, extra="new")
                problem = "it was saved"
            except OSError as error:
                if error.errno not in _NO_ROOM or error.filename != str(path):
                    problem = f"the error is {error!r}"
        names = sorted(set(os.listdir(folder)) - {path.name})
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


# Ways to have no room for a file of `size` bytes in `folder`, within a block.


@contextlib.contextmanager
def _filled(folder, size, rng):
    """A small file system with fewer free pages than it takes."""
    ballast, state = pathlib.Path(folder) / "ballast", os.statvfs(folder)
    left = int(rng.integers(-(-size // state.f_bsize)))
    ballast.write_bytes(bytes((state.f_bavail - left) * state.f_bsize))
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def _limited(folder, size, rng):
    """The process may not write files of this size: EFBIG, for Python ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(rng.integers(size)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _failing(name):
    """The call `os.<name>` finds no room, as that of a network file system may."""

    @contextlib.contextmanager
    def failing(folder, size, rng):
        def fail(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        real = getattr(os, name)
        setattr(os, name, fail)
        try:
            yield
        finally:
            setattr(os, name, real)

    failing.__name__ = f"os.{name} fails"
    return failing


_WAYS = _limited, _failing("fsync"), _failing("replace")
