"""A process that runs cases and tells of each, line by line: what it is before it runs, and what came of it.

Whoever started it knows then which case has ended the process. `python -m tests.torture.memory.worker SECONDS SEED`
"""

import itertools
import json
import sys
import traceback
from collections import Counter

import numba
import numpy as np

import fastrnn
from fastrnn.kernels import jit

from .. import sharing
from ..section import Budget
from . import canaries, compiled, guard, layers, training

_CUT = 2  # of so many cases one is cut into several calls
_WIDE = 60  # seconds from which on every cell is tried, of which many may have to be compiled
_ROUND = {  # cases of each kind in a round
    layers.draw_recurrent: 4, layers.draw_stateless: 1, training.draw_loss: 1, compiled.draw_layer: 2,
    training.draw_optimizer: 1, compiled.draw_packing: 1, training.draw_trainer: 2, compiled.draw_training: 1,
    layers.draw_jordan: 1, layers.draw_crowd: 2,
}  # fmt: skip
_WIDE_ROUND = _ROUND | {compiled.draw_replicas: 1}  # whose user code is nobody else's, and compiled for this
_FIRST_WIDE_ROUND = {draw: 12 * count for draw, count in _WIDE_ROUND.items()} | {  # so many that no option is missed
    layers.draw_recurrent: len(layers.EVERY_KERNEL), compiled.draw_layer: len(compiled.EVERY_KERNEL)
}  # fmt: skip
_called = set()


def tell(what, value):
    """A line for whoever reads."""
    print(json.dumps([what, value]), flush=True)


def run_case(run):
    """(counts, what did not hold) of one case: at either page, on ordinary arrays, and among canaries.

    At the pages first, for a stray there ends the process at once, and elsewhere some time later.
    """
    counts, problems, found = Counter({"shapes swept": 1}), [], {}
    for at_end in (True, False):
        with guard.Guard(at_end) as pages:
            found["before a page" if at_end else "behind a page"] = run()
        counts += pages.counts
        problems += pages.strays
        _called.update(pages.called)
    expected = run()
    with canaries.Patrol() as patrol:
        found["among canaries"] = run()
    count, strays = patrol.check()
    counts["canary bytes checked"] += count
    problems += strays
    for where, results in found.items():
        problems += _difference(expected, results, where)
    return counts, problems


def _difference(expected, results, where):
    """What to say if the results are not the same, bit for bit."""
    if len(expected) != len(results):
        return [f"{len(results)} results {where}, {len(expected)} elsewhere"]
    for n, (a, b) in enumerate(zip(map(np.asarray, expected), map(np.asarray, results), strict=True)):
        if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes()):
            return [f"result {n} of arrays {where} differs"]
    return []


def main():
    """Run cases until the time is up, at least a round of them."""
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    budget = Budget(seconds, seed)
    guard.install()
    canaries.install()
    sharing.eager()
    sharing.watch()
    wide = seconds >= _WIDE
    number = 0
    for draw, count in (_FIRST_WIDE_ROUND if wide else _ROUND).items():
        for _ in range(count):
            _try(draw, budget.rng, wide, cut=number % _CUT == 0)
            number += 1
    again = itertools.cycle([draw for draw, count in (_WIDE_ROUND if wide else _ROUND).items() for _ in range(count)])
    while budget.left():
        _try(next(again), budget.rng, wide, cut=budget.rng.random() < 1 / _CUT)
    tell("called", [".".join(name) for name in jit._kernels if name in _called])
    missed = [".".join(name) for name in jit._kernels if name not in _called]
    if wide and missed:
        tell("broken", f"not called by any case: {', '.join(missed)}")


def _try(draw, rng, wide, cut):
    threads, by_units = int(rng.integers(1, numba.config.NUMBA_NUM_THREADS + 1)), bool(rng.integers(2))
    cut = cut and draw is not layers.draw_crowd  # whose large arrays go to the pages and back in every call
    case, run = draw(rng, wide)
    case = f"{case}; {threads} threads, by units: {by_units}, in several calls: {cut}"
    tell("case", case)
    fastrnn.set_num_threads(threads)
    sharing.share(by_units)
    guard.guard_kernels()
    try:
        with sharing.cut_short(cut):
            counts, problems = run_case(run)
    except Exception:
        counts, problems = {}, [traceback.format_exc().strip()]
    tell("counts", counts | {f"shapes with {what}": 1 for what in sharing.reached()})
    for problem in problems:
        tell("broken", f"{problem}: {case}")


if __name__ == "__main__":
    main()
