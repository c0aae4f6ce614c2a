"""The process in which malformed calls are made: `python -m tests.torture.calls.child LOG SECONDS SEED ROUND SHORT`.

LOG has a line "begin …" for each call before it is made, and "end …", or "hypothesis …", with the callable's name
after it was judged. With two arguments, a callable's name and a seed, that one call is made and told of.
"""

import contextlib
import faulthandler
import os
import resource
import sys
import time
import zlib

from . import by_hypothesis
from .catalogue import entries
from .catalogue_training import FOLDER
from .judge import generated
from .public import public_callables

_HUNG = 60  # seconds after which a call ends the process
_ROOM = 8 << 30  # bytes of addresses beyond those of the beginning: what asks for more shall not get it
_HYPOTHESIS = 6  # the last of so many rounds is of hypothesis


class _Log:
    """The file that the parent reads."""

    def __init__(self, path):
        self._file = open(path, "a", encoding="utf-8", buffering=1, errors="replace")

    def __call__(self, word, text):
        print(word, " ".join(text.split()), file=self._file)

    @contextlib.contextmanager
    def trial(self, entry, case, word):
        """Take down a call before and after it is judged in the block, which appends its verdict to a list."""
        self("begin", f"{entry.name} {case}")
        faulthandler.dump_traceback_later(_HUNG, exit=True)
        verdicts = []
        yield verdicts
        faulthandler.cancel_dump_traceback_later()
        for verdict in verdicts:
            if verdict.problem:
                self("broke", f"{entry.name} ({verdict.what}), {case}: {verdict.problem}")
        self(word, entry.name)


def _limit_memory():
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _seed(name, number, seed):
    return zlib.crc32(f"{name} {number} {seed}".encode())


def _check_complete(catalogue, log):
    public = set(public_callables())
    for name in sorted(public - set(catalogue)):
        log("broke", f"{name} is public and not in the catalogue")
    for name in sorted(set(catalogue) - public):
        log("broke", f"{name} is in the catalogue and not public")


def main(path, seconds, seed, first_round, short):
    """Round after round, each callable in its turn, until the time is up; one round at least."""
    log, end = _Log(path), time.monotonic() + seconds
    catalogue = entries()
    _check_complete(catalogue, log)
    chosen = [entry for entry in catalogue.values() if not (short and entry.slow)]
    os.chdir(FOLDER.name)  # a path that is any string shall not lie anywhere else
    _limit_memory()
    number = first_round
    while number == first_round or time.monotonic() < end:
        log("round", str(number))
        for entry in chosen:
            if number > first_round and time.monotonic() > end:
                return
            if number % _HYPOTHESIS == _HYPOTHESIS - 1:
                by_hypothesis.examples(entry, _seed(entry.name, number, seed), log)
            else:
                case = _seed(entry.name, number, seed)
                with log.trial(entry, str(case), "end") as verdicts:
                    verdicts.append(generated(entry, case))
        number += 1


if __name__ == "__main__":
    if len(sys.argv) == 3:
        os.chdir(FOLDER.name)
        print(generated(entries()[sys.argv[1]], int(sys.argv[2])))
    else:
        main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1")
