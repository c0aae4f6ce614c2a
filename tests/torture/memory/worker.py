"""A process that runs cases and tells of each, line by line: what it is before it runs, and what came of it.

Whoever started it knows then which case has ended the process. `python -m tests.torture.memory.worker SECONDS SEED`
"""

import json
import sys
import traceback
from collections import Counter

import numba
import numpy as np

import fastrnn
from fastrnn.kernels import jit

from ..section import Budget
from . import canaries, compiled, guard, layers, sharing, training

KINDS = (
    layers.draw_recurrent, layers.draw_stateless, training.draw_loss, compiled.draw_layer, training.draw_optimizer,
    compiled.draw_packing, training.draw_trainer, compiled.draw_training, layers.draw_jordan, compiled.draw_replicas,
)  # fmt: skip
_SHARES = (4, 1, 1, 2, 1, 1, 2, 1, 1, 1)  # cases of each kind in a round
_WIDE = 60  # seconds from which on every cell is tried, of which many may have to be compiled
_called = set()


def tell(what, value):
    """A line for whoever reads."""
    print(json.dumps([what, value]), flush=True)


def run_case(run):
    """(counts, what did not hold) of one case: on ordinary arrays, at either page, and among canaries."""
    counts, problems = Counter({"shapes swept": 1}), []
    expected = run()
    for at_end in (True, False):
        with guard.Guard(at_end) as pages:
            results = run()
        problems += [*pages.strays, *_difference(expected, results, f"{'before' if at_end else 'behind'} a page")]
        counts += pages.counts
        _called.update(pages.called)
    with canaries.Patrol() as patrol:
        results = run()
    count, strays = patrol.check()
    counts["canaries checked"] += count
    return counts, [*problems, *strays, *_difference(expected, results, "among canaries")]


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
    sharing.install()
    first_round = True
    while first_round or budget.left():
        for draw, share in zip(KINDS, _SHARES, strict=True):
            for _ in range(share):
                if first_round or budget.left():
                    _try(draw, budget.rng, seconds >= _WIDE)
        first_round = False
    tell("kernels", [[".".join(name), name in _called] for name in jit._kernels])


def _try(draw, rng, wide):
    threads, by_units = int(rng.integers(1, numba.config.NUMBA_NUM_THREADS + 1)), bool(rng.integers(2))
    case, run = draw(rng, wide)
    case = f"{case}; {threads} threads, by units: {by_units}"
    tell("case", case)
    fastrnn.set_num_threads(threads)
    sharing.share(by_units)
    guard.guard_kernels()
    try:
        counts, problems = run_case(run)
    except Exception:
        counts, problems = {}, [traceback.format_exc().strip()]
    tell("counts", counts)
    for problem in problems:
        tell("broken", f"{problem}: {case}")


if __name__ == "__main__":
    main()
