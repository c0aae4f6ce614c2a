"""How things are timed: warm, in alternating bursts in one process, medians over all rounds."""

import contextlib
import statistics
import sys
import time
from typing import NamedTuple

LEAD_IN = 0.015  # s, untimed
BURST = 0.040  # s
_SLICE, _SLICES = 0.004, 100  # s; at most so many
CPUS_ALLOWED = 0.2  # beyond the number of threads


class Timing(NamedTuple):
    """Seconds of a call: median, least, median of each round; and the CPUs that the process kept busy meanwhile."""

    seconds: float
    least: float
    rounds: list
    cpus: float


def repeat(call, seconds):
    """Seconds of each of the calls, at least one, that fill `seconds`."""
    times = []
    now = begin = time.perf_counter()
    while not times or now - begin < seconds:
        call()
        after = time.perf_counter()
        times.append(after - now)
        now = after
    return times


def _settle():
    """Sleep until the threads of the one before sleep: they spin, those of OpenBLAS for 100 ms."""
    for _ in range(_SLICES):
        before = time.process_time()
        time.sleep(_SLICE)
        if time.process_time() - before < 0.1 * _SLICE:
            return


def alternate(contestants, rounds):
    """A `Timing` for each of `contestants`, name -> call; who begins and who follows whom changes with every round."""
    for call in contestants.values():
        call()
    names = list(contestants)
    times = {name: [[]] * rounds for name in names}
    cpu, wall = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for turn in range(rounds):
        first = turn % len(names)
        for name in (names[first:] + names[:first])[:: -1 if turn % 2 else 1]:
            _settle()
            repeat(contestants[name], LEAD_IN)
            cpu_before, wall_before = time.process_time(), time.perf_counter()
            times[name][turn] = repeat(contestants[name], BURST)
            wall[name] += time.perf_counter() - wall_before
            cpu[name] += time.process_time() - cpu_before
    timings = {}
    for name in names:
        every = [seconds for burst in times[name] for seconds in burst]
        medians = [statistics.median(burst) for burst in times[name]]
        timings[name] = Timing(statistics.median(every), min(every), medians, cpu[name] / wall[name])
    return timings


def ratios_to(timings, base):
    """Time of each over that of `base`, by name: the median of the ratios within a round.

    A machine that is shared turns slower and faster by the second; what ran within one second bore the same.
    """
    return {
        name: statistics.median(a / b for a, b in zip(timing.rounds, timings[base].rounds, strict=True))
        for name, timing in timings.items()
    }


def progress(text):
    """A line on stderr: stdout belongs to the results."""
    print(text, file=sys.stderr, flush=True)


def cpus_used(timings, threads):
    """CPUs kept busy by name, with a warning for those that used more than their `threads`."""
    for name, timing in timings.items():
        if timing.cpus > threads + CPUS_ALLOWED:
            progress(f"  warning: {name} used {timing.cpus:.1f} CPUs, it has {threads} threads")
    return {name: timing.cpus for name, timing in timings.items()}


class Stopwatch:
    """Adds up the time of calls by name."""

    def __init__(self):
        self.seconds = {}

    @contextlib.contextmanager
    def watch(self, owner, attribute, name):
        """Time every call of `owner.attribute` meanwhile."""
        function = getattr(owner, attribute)
        own = attribute in vars(owner)

        def timed(*arguments, **named):
            start = time.perf_counter()
            result = function(*arguments, **named)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            return result

        setattr(owner, attribute, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, attribute, function)
            else:
                delattr(owner, attribute)
