"""The scenarios, each run in a process of its own: `python -m tests.torture.processes.scenarios NAME SEED SECONDS`.

What held is counted in a line of JSON; what did not is an AssertionError.
"""

import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
import warnings
from collections import Counter

import numba
import numpy as np

import fastrnn

from ..sharing import eager
from . import interrupts
from .work import Problem, fork, report, users_own_kernel

_PATIENCE = 60  # seconds for one answer of a worker
_START = 2e-3  # seconds that it takes to start threads, about
_RACES = 8  # forks meanwhile


def _at_once(calls):
    """The results of the calls, each in a Python thread, all begun together."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(_PATIENCE) for future in [pool.submit(run, call) for call in calls]]


def _forked(call):
    """What `call()` returns in a forked child, which must end by itself, as JSON can hold it."""
    read, write = os.pipe()
    pid = fork()
    if pid == 0:
        status = 1
        try:
            os.write(write, json.dumps(call()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    end = time.monotonic() + _PATIENCE
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise AssertionError("a forked child hung")
        time.sleep(0.001)
    assert done[1] == 0, f"a forked child ended with {done[1]}"
    with os.fdopen(read, "rb") as pipe:
        return json.load(pipe)


def _check_lost(found, expected):
    """A child forked after kernels had run: the same bits, one thread, one warning."""
    digest, count, caught, _ = found
    assert digest == expected, "a forked child's results differ"
    assert count == 1, f"a forked child uses {count} threads"
    assert len(caught) == 1 and "forked" in caught[0], f"a forked child was warned of {caught}"


def threads(rng, counts):
    """Eight Python threads infer on one layer, others train, and one forks in between."""
    problem, trained = Problem(int(rng.integers(10**6))), [Problem(int(rng.integers(10**6))) for _ in range(2)]
    fastrnn.set_num_threads(1)
    expected = [problem.infer(), problem.stream(), *(other.train() for other in trained)]
    assert expected[0] == expected[1], "step by step is not the same"
    fastrnn.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    problem.layer.load_state_dict(problem.layer.state_dict())  # the first calls pack the weights, all at once
    calls = [problem.infer, problem.stream] * 4 + [other.train for other in trained]
    alike = expected[:2] * 4 + expected[2:]
    forks = numba.threading_layer() != "tbb"  # tbb says on stderr that only the main thread should fork
    if forks:
        whole = problem.digest()
        calls.append(lambda: _forked(lambda: report(problem.seed)))
    found = _at_once(calls)
    if forks:
        _check_lost(found.pop(), whole)
        counts["forked children"] += 1
    assert found == alike, "several threads at once gave other results than one"
    counts["threads' results compared"] += len(found)


def _race(seed, delay):
    """In a process without threads: its digest, and that of a child forked while another thread starts them."""
    thread = threading.Thread(target=fastrnn.get_num_threads)
    thread.start()
    time.sleep(delay)
    child = _forked(lambda: report(seed)[0])
    thread.join()
    return report(seed)[0], child


def forks(rng, counts):
    """Forks before and after kernels have run, forks in forks, and pools of forked processes."""
    seed = int(rng.integers(10**6))
    most = numba.config.NUMBA_NUM_THREADS
    before, raced = None, []
    if not counts["forked children"]:  # the process is new
        before = _forked(lambda: report(seed))
        delays = rng.exponential(_START, _RACES)
        raced = [_forked(lambda delay=delay: _race(seed, float(delay))) for delay in delays]
    expected = Problem(seed).digest()
    for own, child in raced:
        assert own == child == expected, "a fork while threads were started changed results"
        counts["forks while threads were started"] += 1
    if before:
        assert before[:3] == [expected, most, []], f"a child forked before any kernel ran: {before}"
        counts["forked children"] += 1
    _check_lost(_forked(lambda: report(seed)), expected)
    digest, grandchild = _forked(lambda: [report(seed)[0], _forked(lambda: report(seed)[:2])])
    assert [digest, *grandchild] == [expected, expected, 1], "a child of a forked child differs"
    counts["forked children"] += 3
    assert Problem(seed).digest() == expected, "the parent's results differ after a fork"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pool = rng.choice(["executor", "multiprocessing", "joblib"])
        if pool == "executor":
            context = multiprocessing.get_context("fork")
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
                found = [future.result(_PATIENCE) for future in [executor.submit(report, seed) for _ in range(3)]]
        elif pool == "joblib" and _has("joblib"):
            found = _joblib("multiprocessing", seed)
        else:
            with multiprocessing.get_context("fork").Pool(2) as workers:
                found = workers.map_async(report, [seed] * 3).get(_PATIENCE)
    assert {result[:2] for result in found} == {(expected, 1)}, f"a pool of forked processes: {found}"
    counts["forked children"] += 2
    counts["worker pools"] += 1


def _has(module):
    return importlib.util.find_spec(module) is not None


def _joblib(backend, seed, **limits):
    import joblib

    with joblib.parallel_config(backend, n_jobs=2, **limits):
        return joblib.Parallel(timeout=_PATIENCE)(joblib.delayed(report)(seed) for _ in range(3))


def pools(rng, counts):
    """Workers of every other kind, before or after kernels have run in the parent."""
    seed, after = int(rng.integers(10**6)), bool(rng.integers(2))
    if after:
        expected = Problem(seed).digest()
    kinds = ["spawn", "forkserver"] + ["loky", "threading"] * _has("joblib")
    kind = str(rng.choice(kinds))
    most = numba.config.NUMBA_NUM_THREADS
    if kind == "loky":
        most = int(rng.integers(1, 3))
        del os.environ["NUMBA_NUM_THREADS"]  # which would go before joblib's limit
        from joblib.externals.loky import get_reusable_executor

        found = _joblib(kind, seed, inner_max_num_threads=most)
        get_reusable_executor().shutdown(wait=True)
        os.environ["NUMBA_NUM_THREADS"] = str(numba.config.NUMBA_NUM_THREADS)
    elif kind == "threading":
        found = _joblib(kind, seed)
    else:
        context = multiprocessing.get_context(kind)
        with concurrent.futures.ProcessPoolExecutor(int(rng.integers(1, 3)), mp_context=context) as executor:
            found = [future.result(_PATIENCE) for future in [executor.submit(report, seed) for _ in range(3)]]
    if not after:
        expected = Problem(seed).digest()
    for digest, count, caught, _ in found:
        assert digest == expected, f"a worker's results differ ({kind})"
        assert count == most, f"a worker uses {count} threads, not {most} ({kind})"
        assert not caught, f"a worker was warned of {caught} ({kind})"
    counts["worker pools"] += 1


def prange(rng, counts):
    """A user's own parallel kernels before, after and, where Numba's layer bears it, beside ours."""
    problem, x = Problem(int(rng.integers(10**6))), rng.random(10_000)
    expected, total = problem.infer(), users_own_kernel(x)
    assert problem.infer() == expected
    calls = [problem.infer] * 3
    if numba.threading_layer() != "workqueue":  # which ends the process when the user's own threads meet there
        calls += [lambda: users_own_kernel(x)] * 3
    found = _at_once(calls)
    assert found[:3] == [expected] * 3, "a user's parallel kernel beside ours changed our results"
    assert np.allclose([total, *found[3:]], (x * x).sum()), "ours changed those of a user's parallel kernel"
    counts["threads' results compared"] += len(found)
    counts["runs beside a user's parallel kernels"] += 1


def main(name, seed, seconds):
    """Run a scenario over and over, once at least, and print what held."""
    counts, end = Counter(), time.monotonic() + float(seconds)
    rng = np.random.default_rng(int(seed))
    if name in ("interrupts", "cold interrupts"):
        notes = interrupts.run(rng, counts, end, cold=name != "interrupts")
    else:
        eager()
        notes = {}
        scenario = {"threads": threads, "forks": forks, "pools": pools, "prange": prange}[name]
        while True:
            scenario(rng, counts)
            if time.monotonic() > end:
                break
    fastrnn.get_num_threads()  # starts them, in a run whose work was too small for them
    print(json.dumps({"layer": numba.threading_layer(), "counts": counts, **notes}), flush=True)
    if numba.threading_layer() == "tbb":
        os._exit(0)  # a process that has forked hangs at its end, with a kernel of Numba's own and a fork alone too


if __name__ == "__main__":
    main(*sys.argv[1:])
