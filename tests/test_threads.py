"""How many threads there are, and several Python threads calling at once."""

import os
import subprocess
import sys
import textwrap
import threading

import numba
import numpy as np
import pytest

import fastrnn
from fastrnn import threads
from fastrnn.threads import cpu_quota, threads_for
from tests.torture.threading_layers import LAYERS, MISSING, environment

AVAILABLE = numba.config.NUMBA_NUM_THREADS


@pytest.fixture(autouse=True)
def own_count(monkeypatch):
    monkeypatch.setattr("fastrnn.threads._count", None)


def normal(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def at_once(count, call):
    """`call(i)` in `count` Python threads that start together; their results, or the first error."""
    barrier, results, errors = threading.Barrier(count), [None] * count, []

    def run(i):
        try:
            barrier.wait()
            results[i] = call(i)
        except BaseException as error:  # to be raised in the main thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


# ---- the number ----


def test_threads_number_is_what_was_set():
    assert fastrnn.get_num_threads() == threads._default_count() <= AVAILABLE
    for count in range(1, AVAILABLE + 1):
        fastrnn.set_num_threads(count)
        assert fastrnn.get_num_threads() == count
    fastrnn.set_num_threads(np.int64(1))
    assert fastrnn.get_num_threads() == 1


@pytest.mark.parametrize("wrong", [0, -1, AVAILABLE + 1, 10**20, 1.0, "1", None, True, [1], np.float64(1)], ids=repr)
def test_threads_wrong_number_changes_nothing(wrong):
    fastrnn.set_num_threads(1)
    with pytest.raises((TypeError, ValueError), match="n must be"):
        fastrnn.set_num_threads(wrong)
    assert fastrnn.get_num_threads() == 1


def test_threads_numbas_own_limit_is_kept():
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert fastrnn.get_num_threads() == 1
        assert threads_for(10**12) == 1
    finally:
        numba.set_num_threads(before)


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
def test_threads_are_not_used_for_little_work():
    assert threads_for(1) == threads_for(100_000) == 1
    assert threads_for(10**9) == AVAILABLE
    fastrnn.set_num_threads(1)
    assert threads_for(10**9) == 1


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
def test_threads_numbas_limit_between_forward_and_backward():
    """Parts laid out for two threads still all run when one is left."""
    layer = fastrnn.LSTM(32, 256, seed=0)
    x, dy = normal(20, 4, 32), normal(20, 4, 256, seed=1)
    results = []
    before = numba.get_num_threads()
    for count in (before, 1):
        workspace = layer.workspace(20, 4)
        layer.zero_grad()
        try:
            layer.forward(x, workspace=workspace)
            numba.set_num_threads(count)
            dx, _ = layer.backward(dy, workspace=workspace)
        finally:
            numba.set_num_threads(before)
        results.append((dx.copy(), layer.gradients_to_vector()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---- limits from outside ----


def _system(folder, groups, **files):
    """A file system with /proc/self/cgroup and further files."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    "groups, files, quota",
    [
        ("0::/\n", {}, np.inf),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, np.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"unified/a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("3:cpu,cpuacct:/x\n2:memory:/y\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
                                             "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 3),
        ("1:cpu:/x\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
        ("1:cpu:/gone\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "25000\n"}, 2),
        ("0::/../other\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "nonsense\n"}, np.inf),
        ("0::/\n", {"cpu.max": "0 0\n"}, np.inf),
        ("nonsense\n", {"cpu.max": "100000 100000\n"}, np.inf),
    ],
)  # fmt: skip
def test_threads_quota_of_control_groups(tmp_path, groups, files, quota):
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert cpu_quota(_system(tmp_path, groups, **files)) == quota


def test_threads_no_control_groups_are_no_limit(tmp_path):
    assert cpu_quota(tmp_path) == np.inf


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
@pytest.mark.parametrize("quota, expected", [(0.3, 1), (1.0, 1), (1.2, 2), (np.inf, AVAILABLE)])
def test_threads_default_keeps_to_the_quota(monkeypatch, quota, expected):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr("fastrnn.threads.cpu_quota", lambda: quota)
    threads._default_count.cache_clear()
    try:
        assert fastrnn.get_num_threads() == expected
        fastrnn.set_num_threads(AVAILABLE)  # which is a choice
        assert fastrnn.get_num_threads() == AVAILABLE
    finally:
        threads._default_count.cache_clear()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity")
@pytest.mark.parametrize("asked, expected", [(None, "1"), ("2", "2")])
def test_threads_default_keeps_to_the_affinity(asked, expected):
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}]); import fastrnn; print(fastrnn.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    if asked:
        environment["NUMBA_NUM_THREADS"] = asked
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.split() == [expected]


# ---- several callers ----


@pytest.mark.parametrize("stack", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "stacked"])
def test_threads_many_callers_of_one_layer(stack):
    # large enough that parallel regions are entered; the first calls pack the weights, all at once
    layer = fastrnn.LSTM(16, 128, seed=0, **stack)
    inputs = [normal(20, 16, 16, seed=i) for i in range(8)]
    results = at_once(8, lambda i: [layer.forward(inputs[i]) for _ in range(5)])
    for x, repeats in zip(inputs, results, strict=True):
        expected, state = layer.forward(x)
        for y, final in repeats:
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_array_equal(np.stack(final), np.stack(state))


def test_threads_many_callers_of_step():
    layer = fastrnn.LSTM(8, 32, seed=0)
    x = normal(8, 30, 8)

    def stream(i):
        state, outputs = None, []
        for x_t in x[i]:
            y_t, state = layer.step(x_t, state)
            outputs.append(y_t)
        return np.stack(outputs)

    for i, y in enumerate(at_once(8, stream)):
        np.testing.assert_array_equal(y, layer.forward(x[i][:, None])[0][:, 0])


def test_threads_many_callers_of_one_model():
    model = fastrnn.Sequential(
        fastrnn.Embedding(50, 64, seed=0), fastrnn.LSTM(64, 128, seed=1), fastrnn.Dropout(0.5, seed=2),
        fastrnn.Linear(128, 64, seed=3), fastrnn.Tanh(), fastrnn.MeanPool(),
    )  # fmt: skip
    inputs = np.random.default_rng(0).integers(0, 50, (8, 30, 16))
    lengths = np.random.default_rng(1).integers(1, 31, 16)
    results = at_once(8, lambda i: [model.forward(inputs[i], lengths=lengths)[0] for _ in range(5)])
    for x, repeats in zip(inputs, results, strict=True):
        expected = model.forward(x, lengths=lengths)[0]
        for y in repeats:
            np.testing.assert_array_equal(y, expected)


def test_threads_each_trains_a_model_of_its_own():
    def train(seed):
        layer = fastrnn.LSTM(32, 128, seed=seed)
        optimizer, workspace = fastrnn.Adam(0.01), layer.workspace(20, 16)
        for step in range(5):
            y, _ = layer.forward(normal(20, 16, 32, seed=step), workspace=workspace)
            layer.zero_grad()
            layer.backward(2 * y, workspace=workspace)
            optimizer.step(layer)
        return layer.parameters_to_vector()

    for seed, vector in enumerate(at_once(4, train)):
        np.testing.assert_array_equal(vector, train(seed))


def test_threads_one_layer_with_a_workspace_each_for_inference_beside_training():
    """Callers without a workspace don't disturb the one that has one."""
    layer = fastrnn.LSTM(16, 128, seed=0)
    x, dy = normal(20, 16, 16), normal(20, 16, 128, seed=1)
    workspace = layer.workspace(20, 16)
    layer.forward(x, workspace=workspace)
    expected = layer.backward(dy, workspace=workspace)[0].copy()
    y_expected = layer.forward(x)[0]

    def call(i):
        if i:
            return [layer.forward(x)[0] for _ in range(10)]
        return [(layer.forward(x, workspace=workspace), layer.backward(dy, workspace=workspace)[0].copy())[1]
                for _ in range(5)]  # fmt: skip

    results = at_once(4, call)
    for dx in results[0]:
        np.testing.assert_array_equal(dx, expected)
    for repeats in results[1:]:
        for y in repeats:
            np.testing.assert_array_equal(y, y_expected)


CALLERS = textwrap.dedent("""
    import sys, threading
    import numba, numpy as np
    import fastrnn, fastrnn.threads

    eager, sizes = sys.argv[1] == "eager", [int(a) for a in sys.argv[2:]]
    steps, batch, inputs, hidden, calls = sizes
    if eager:
        fastrnn.threads._WORTH_A_THREAD = 1
    layer = fastrnn.LSTM(inputs, hidden, seed=0)
    x = np.random.default_rng(0).standard_normal((steps, batch, inputs)).astype("f4")
    expected = layer.forward(x)[0]
    wrong, done = [], []

    def run():
        for _ in range(calls):
            if layer.forward(x)[0].tobytes() != expected.tobytes():
                wrong.append(1)
        done.append(1)

    threads = [threading.Thread(target=run) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    fastrnn.set_num_threads(1)
    alone = layer.forward(x)[0].tobytes() == expected.tobytes()
    print(numba.threading_layer(), len(done), len(wrong), alone)
""")


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("sizes", ["eager 50 6 8 32 50", "real 30 16 64 128 10", "real 20 2 64 256 5"])
def test_threads_callers_under_each_threading_layer(layer, sizes):
    """Numba's workqueue ends the process when two threads enter a parallel region at once."""
    command = [sys.executable, "-c", CALLERS, *sizes.split()]
    variables = environment(layer, AVAILABLE)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    if MISSING in done.stderr:
        pytest.skip(f"Numba has no {layer} here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [layer, "8", "0", "True"]
