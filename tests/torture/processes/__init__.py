"""Threads, forks, worker processes and Ctrl-C, under every threading layer that Numba has here."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from ..section import Section
from ..threading_layers import LAYERS, MISSING, environment

_ROOT = pathlib.Path(__file__).parents[3]
_SCENARIOS = "threads", "forks", "interrupts", "pools", "prange", "cold interrupts"
_PATIENCE = 150  # seconds beyond its time in which a scenario must have ended
_LEAST = "scenarios of the least tried threading layer"
_LENGTH = 5  # seconds at most for one process


def _run_scenario(name, layer, threads, seed, seconds):
    """What a scenario's process printed, or in how it failed."""
    with tempfile.TemporaryDirectory() as folder:  # for what a process leaves that was interrupted, or killed
        return _finish(_start(name, layer, threads, seed, seconds, folder), seconds)


def _start(name, layer, threads, seed, seconds, folder):
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", f"{__package__}.scenarios", name, str(seed), str(seconds)],
        cwd=_ROOT, env=environment(layer, threads) | {"TMPDIR": folder}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip


def _finish(process, seconds):
    try:
        output, errors = process.communicate(timeout=seconds + _PATIENCE)
    except subprocess.TimeoutExpired:
        return None, "it hung"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        return None, f"status {process.returncode}: {errors[-1500:].strip()}"
    return json.loads(output.splitlines()[-1]), None


def pair(case, available):
    """The scenario of this number and its threading layer, another one in each round of the scenarios."""
    turn, place = divmod(case, len(_SCENARIOS))
    return _SCENARIOS[place], available[(place + turn) % len(available)]


def _run(tally, budget):
    available, longest, case = list(LAYERS), (0.0, ""), 0
    while case < len(_SCENARIOS) or budget.left() > 0:
        name, layer = pair(case, available)
        threads, seed = int(budget.rng.integers(2, 5)), int(budget.rng.integers(2**31))
        seconds = min(_LENGTH, budget.left() / 10)
        found, problem = _run_scenario(name, layer, threads, seed, seconds)
        if problem and MISSING in problem:
            available.remove(layer)
            tally.note(f"Numba has no {layer} here")
            continue
        case += 1
        if problem:
            tally.broke(f"{name} {seed} with {layer} and {threads} threads: {problem}")
            continue
        for what, number in found["counts"].items():
            tally.count(what, number)
        tally.count(f"scenarios with {found['layer']}")
        longest = max(longest, tuple(found.get("longest", longest)))
    tally.count(_LEAST, min((tally.counts[f"scenarios with {layer}"] for layer in available), default=0))
    tally.note(f"the longest that Ctrl-C waited: {longest[0]:.2f} s ({longest[1]})")


SECTION = Section(
    promise="threads, forks and workers get the results of one thread, none hangs, and Ctrl-C is answered in a second",
    run=_run,
    share=1.2,
    targets={
        "threads' results compared": 500,
        "forked children": 100,
        "worker pools": 15,
        "forks while threads were started": 40,
        "interrupts answered": 80,
        "interrupts of forks": 40,
        "interrupts of compilation": 40,
        "interrupts of a first call": 8,
        "runs beside a user's parallel kernels": 20,
        _LEAST: 4,
    },
    whole_only={"interrupts of a first call": "compiles a net, which takes half a minute"},
)
