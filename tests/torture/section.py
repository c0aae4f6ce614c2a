"""What every section of the torture is made of: what it promises, its time, and its count of what was tried."""

import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_BROKEN_KEPT = 20  # descriptions; the number is counted in full


class Budget:
    """The time a section has, and the random numbers it draws from."""

    def __init__(self, seconds, seed):
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self._end = time.monotonic() + seconds

    def left(self):
        """Seconds that are left, 0 at least."""
        return max(0.0, self._end - time.monotonic())

    def part(self, share):
        """A budget of `share` of the time that is left, with the same random numbers."""
        budget = Budget(share * self.left(), self.seed)
        budget.rng = self.rng
        return budget


class Tally:
    """What a section tried, and what did not hold."""

    def __init__(self):
        self.counts = Counter()
        self.broken = []
        self.broken_count = 0
        self.notes = []

    def count(self, what, number=1):
        """`number` more of `what` were tried; all that is counted appears in the report."""
        self.counts[what] += number

    def broke(self, what):
        """Something did not hold: `what`, in one line, with the seed or the arguments that show it again."""
        self.broken_count += 1
        if len(self.broken) < _BROKEN_KEPT:
            self.broken.append(what)

    def note(self, what):
        """Something that the reader of the report must know: what could not be tried here, and why."""
        if what not in self.notes:
            self.notes.append(what)


class Section(NamedTuple):
    """One section: `run(tally, budget)` tries cases until `budget.left()` is 0, at least one of each kind."""

    promise: str  # what must hold, in one sentence
    run: Callable[[Tally, Budget], None]
    share: float  # of the whole run's time, relative to the other sections
    targets: dict[str, int]  # what a whole run must have counted, and any run at least once
    whole_only: dict[str, str] = {}  # of these, what a short run need not come to, and why
