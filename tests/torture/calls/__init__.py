"""Malformed calls of every public callable: each ends in a documented exception or a right answer.

`public` finds what is public, `catalogue` has a right call of each, `malformations` and `by_hypothesis` have bad values
for its arguments, `judge` makes a call and says what did not hold. All calls are made in a child process, which writes
down each of them before it is made: one that ends the process is known.
"""

import pathlib
import subprocess
import sys
import tempfile
from collections import Counter

from ..section import Section

_ROOT = pathlib.Path(__file__).parents[3]
_PATIENCE = 120  # seconds for a child to notice that its time is up
_SHORT = 30  # seconds below which no other large library is imported


def run(tally, budget):
    """Start children until the time is up: the next one where one has crashed."""
    counts, first_round = Counter(), 0
    while budget.left() or not counts:
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "log"
            problem = _child(log, budget, first_round)
            rounds = _read(log, tally, counts)
        if problem is None:
            break
        tally.broke(problem)
        first_round += rounds + 1
        if not rounds and first_round > 3:
            break
    tally.count("public callables", len(counts))
    tally.count("malformed calls", counts.total())
    tally.count("calls of the least tried callable", min(counts.values(), default=0))
    tally.count("calls of the most tried callable", max(counts.values(), default=0))


def _child(log, budget, first_round):
    """Let a child make calls until the time is up; what happened if it did not end by itself."""
    seconds = budget.left()
    arguments = [str(log), str(seconds), str(budget.seed), str(first_round), str(int(seconds < _SHORT))]
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", f"{__package__}.child", *arguments], cwd=_ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=seconds + _PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"the process hung in {_last_begun(log)}"
    if process.returncode == 0:
        return None
    return f"the process ended with {process.returncode} in {_last_begun(log)}: {errors[:1500].strip()}"


def _lines(log):
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []


def _last_begun(log):
    begun = [line for line in _lines(log) if line.startswith("begin ")]
    return begun[-1].removeprefix("begin ") if begun else "its start"


def _read(log, tally, counts):
    """Count what a child has done; the number of rounds it has begun."""
    rounds = 0
    for line in _lines(log):
        word, _, rest = line.partition(" ")
        if word == "end":
            counts[rest] += 1
        elif word == "hypothesis":
            counts[rest] += 1
            tally.count("calls by hypothesis")
        elif word == "broke":
            tally.broke(rest)
        elif word == "note":
            tally.note(rest)
        rounds += word == "round"
    return rounds


SECTION = Section(
    promise="Every malformed call ends in a documented exception, or a right answer, and changes nothing",
    run=run,
    share=1.0,
    targets={"malformed calls": 20_000, "calls of the least tried callable": 20, "public callables": 400},
)
