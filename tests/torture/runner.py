"""Runs sections, each in a process of its own: a crash is a result too."""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from .section import Budget, Tally

_ROOT = pathlib.Path(__file__).parents[2]
_PATIENCE = 300  # seconds that a section may take beyond its time before it counts as hung


class Result(NamedTuple):
    """What came of one section."""

    name: str
    promise: str
    seconds: float
    counts: dict[str, int]
    broken: list[str]
    broken_count: int
    notes: list[str]


def find(name):
    """The section of this name."""
    return importlib.import_module(f"{__package__}.{name}").SECTION


def run_here(name, seconds, seed):
    """What came of a section, as JSON can hold it; for `run`, in a process of its own."""
    tally = Tally()
    find(name).run(tally, Budget(seconds, seed))
    return {
        "counts": dict(tally.counts), "broken": tally.broken, "broken_count": tally.broken_count,
        "notes": tally.notes,
    }  # fmt: skip


def run(name, seconds, seed, *, whole=False):
    """The `Result` of a section that is given `seconds`. whole: its targets must be reached, or else one of each."""
    section = find(name)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        arguments = ["--child", name, "--seconds", str(seconds), "--seed", str(seed), "--report", str(report)]
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", __package__, *arguments],
            cwd=_ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        try:
            _, errors = process.communicate(timeout=seconds + _PATIENCE)
            problem = f"the section's process ended with status {process.returncode}" if process.returncode else None
        except subprocess.TimeoutExpired:
            problem, errors = f"the section hung: {_PATIENCE} s after its time it had not ended", ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the children of one that has crashed
            process.wait()
        found = {"counts": {}, "broken": [], "broken_count": 0, "notes": []}
        if problem is None:
            found = json.loads(report.read_text())
        else:
            found["broken"].append(f"{problem}: {errors[-2000:].strip()}")
            found["broken_count"] = 1
    if problem is None:
        missed = _missed(section, found["counts"], whole)
        found["broken"] += missed
        found["broken_count"] += len(missed)
    return Result(name=name, promise=section.promise, seconds=time.monotonic() - began, **found)


def _missed(section, counts, whole):
    """What was tried too seldom: a section that came to nothing has shown nothing."""
    if whole:
        least = section.targets
    else:
        least = dict.fromkeys(section.targets.keys() - section.whole_only.keys(), 1)
    return [
        f"only {counts.get(what, 0):,} {what}: {number:,} were to be tried"
        for what, number in sorted(least.items())
        if counts.get(what, 0) < number
    ]
