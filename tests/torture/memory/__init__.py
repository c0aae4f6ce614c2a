"""Memory: every kernel reads and writes inside its arrays alone."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from ..section import Section
from ..sharing import REACHED

_ROOT = pathlib.Path(__file__).parents[3]
_CRASHES = 5  # after which no further process is started


def _run(tally, budget):
    if os.name != "posix":
        tally.note("pages are forbidden by POSIX' mprotect: there is none here")
        return
    _start("strays", [], tally, set())
    called = set()
    for crash in range(_CRASHES):
        if _start("worker", [str(budget.left()), str(budget.seed + crash)], tally, called) or not budget.left():
            break
    tally.count("kernels", len(called))


def _start(module, arguments, tally, called):
    """Run a module of this package in a process of its own; whether it came to its end.

    The names of the kernels that it has called are added to `called`.
    """
    case = "no case"
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", f"{__name__}.{module}", *arguments],
            cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=os.environ | {"NUMBA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        with process:
            for line in process.stdout:
                what, value = json.loads(line)
                if what == "case":
                    case = value
                elif what == "counts":
                    for name, number in value.items():
                        tally.count(name, number)
                elif what == "called":
                    called.update(value)
                else:
                    tally.broke(value)
        if process.returncode:
            errors.seek(0)
            tally.broke(f"status {process.returncode} in {case}: {errors.read()[:2000].strip()}")
    return process.returncode == 0


SECTION = Section(
    promise="Every kernel reads and writes inside its arrays alone.",
    run=_run,
    share=1.3,
    targets={"kernels": 131, "shapes swept": 150, "deliberate strays caught": 10}
    | {f"shapes with {what}": 10 for what in REACHED},
)
