"""Tasks run: each seed in a process of its own, of one thread, as many at a time as there are jobs."""

import time
from concurrent.futures import ThreadPoolExecutor

from .. import child
from ..timing import progress
from . import tasks


def run_seed(name, seed, quick):
    """What a task's `run` returns, with its seed and the seconds it took; for a process of its own."""
    task = tasks.load(name)
    began = time.perf_counter()
    result = task.run(seed, quick=quick)
    return {"seed": seed, "seconds": time.perf_counter() - began, **result}


def _run_apart(name, seed, quick):
    result = child.run(run_seed, 1, name=name, seed=seed, quick=quick)
    progress(f"  {name}, seed {seed}: {result['seconds']:.0f} s")
    return result


def choose_seeds(seeds, count):
    """The first `count` of a task's seeds, counting on from the last of them if there are fewer; None for all."""
    missing = 0 if count is None else max(0, count - len(seeds))
    return (*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + missing))[:count]


def run_all(names, count, quick, jobs):
    """Yield `(name, results)` for each of the tasks, in order: a list with a dict a seed, or the error of one.

    count: of seeds, None for each task's own. jobs: processes at a time; a task begins before the last one has ended.
    """
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {
            name: [pool.submit(_run_apart, name, seed, quick) for seed in choose_seeds(tasks.load(name).SEEDS, count)]
            for name in names
        }
        for name, runs in futures.items():
            try:
                yield name, [run.result() for run in runs]
            except (RuntimeError, OSError) as error:
                yield name, error
    finally:
        pool.shutdown(cancel_futures=True)
