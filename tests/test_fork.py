"""Forked processes: what is left of the threads, and of the locks."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import fastrnn
from fastrnn.kernels import parallel

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python's own, of threads and forks
]

CHILDREN = textwrap.dedent("""
    import json, os, sys, warnings
    import numpy as np
    import numba
    import fastrnn, fastrnn.threads

    fastrnn.threads._WORTH_A_THREAD = 1
    layer = fastrnn.LSTM(8, 32, seed=0)
    x = np.random.default_rng(0).standard_normal((50, 6, 8)).astype("f4")

    def report():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = [layer.forward(x)[0].tobytes().hex() for _ in range(3)]
        warned = [w.category.__name__ for w in caught]
        return len(set(results)), results[0], fastrnn.get_num_threads(), warned

    def forked(call):
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            with os.fdopen(write, "w") as pipe:
                json.dump(call(), pipe)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            found = pipe.read()
        assert os.waitpid(pid, 0)[1] == 0
        return json.loads(found)

    found = {"before": forked(report)} if "before" in sys.argv else {}
    found["parent"] = report()
    found["after"] = forked(report)
    found["grandchild"] = forked(lambda: forked(report))
    fastrnn.set_num_threads(1)
    found["wanted"] = forked(report)
    print(json.dumps(found))
""")


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_fork_children_of_a_process_that_has_run_kernels_use_one_thread(layer):
    """GNU OpenMP ends such a child, or it hangs, if it enters a parallel region; the child of a child as well."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, "before"], env=environment, capture_output=True, text=True, timeout=200
    )
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"Numba has no {layer} here")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len({y for _, y, _, _ in found.values()}) == 1
    assert {count for count, _, _, _ in found.values()} == {1}
    threads_and_warnings = {name: (threads, warned) for name, (_, _, threads, warned) in found.items()}
    assert threads_and_warnings == {
        "before": (2, []),
        "parent": (2, []),
        "after": (1, ["RuntimeWarning"]),
        "grandchild": (1, ["RuntimeWarning"]),
        "wanted": (1, []),
    }


def _forked(call):
    """Whether `call()` ran through in a forked child within half a minute."""
    pid = os.fork()
    if pid == 0:
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    for _ in range(3000):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


def test_fork_while_another_thread_packs_weights():
    """The lock that it holds is nobody's in the child."""
    layer, x = fastrnn.LSTM(3, 4, seed=0), np.ones((2, 1, 3), np.float32)
    expected = layer.forward(x)[0]
    layer.load_state_dict(layer.state_dict())  # they have to be packed again
    packing, packed = threading.Event(), threading.Event()

    def pack():
        with layer.parameters.lock:
            packing.set()
            packed.wait(60)

    thread = threading.Thread(target=pack)
    thread.start()
    packing.wait()
    try:
        assert _forked(lambda: np.testing.assert_array_equal(layer.forward(x)[0], expected))
    finally:
        packed.set()
        thread.join()


class _ForksOnce:
    """A callback, or a schedule, whose child is sent Ctrl-C, and SIGTERM that Python answers; `answered` in the end."""

    answered = None

    def __call__(self, *_):
        if self.answered is None:
            self.answered = _forked(self._child)
        return 1.0

    @staticmethod
    def _child():
        for number in (signal.SIGINT, signal.SIGTERM):
            with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
                os.kill(os.getpid(), number)
                time.sleep(20)


class _ForksOnceWithState(_ForksOnce):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("place", ["callback", "callback with a state", "schedule"])
def test_fork_within_fit_answers_signals_as_before_it(place):
    """The parent keeps them waiting while a callback with a state, or an update, is under way."""
    forks = _ForksOnceWithState() if place == "callback with a state" else _ForksOnce()
    net = fastrnn.Sequential(fastrnn.GRU(2, 3, seed=0), fastrnn.Last(), fastrnn.Linear(3, 1, seed=1))
    schedule, callbacks = (forks, ()) if place == "schedule" else (None, (forks,))
    trainer = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(0.1), schedule=schedule)
    before = signal.signal(signal.SIGTERM, lambda *_: 1 // 0)
    try:
        data = [(np.ones((4, 2, 2), np.float32), np.ones((2, 1), np.float32))]
        history = trainer.fit(data, epochs=2, callbacks=callbacks, progress=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert forks.answered and history.stopped is None and trainer.updates == 2


@pytest.fixture
def busy(monkeypatch):
    """Another thread holds the lock that a child would never get back, and frees it a fifth of a second later."""
    taken, release, threads = threading.Event(), threading.Event(), []

    def hold():
        taken.set()
        release.wait(30)

    def compile_for_long():
        with parallel.global_compiler_lock:
            hold()

    def start_for_long():
        monkeypatch.setattr(parallel.threading_layer, "_is_initialized", False)
        monkeypatch.setattr(parallel.threading_layer, "_launch_threads", hold)
        parallel.start_threads()
        monkeypatch.undo()

    def begin(what):
        threads.append(threading.Thread(target={"compiles": compile_for_long, "starts threads": start_for_long}[what]))
        threads[0].start()
        taken.wait()
        threads.append(threading.Timer(0.2, release.set))
        threads[1].start()

    yield begin
    for thread in threads:
        thread.join()


def _take_lock():
    with parallel.global_compiler_lock:
        pass


@pytest.mark.parametrize("what", ["compiles", "starts threads"])
def test_fork_waits_while_another_thread(what, busy):
    began = time.monotonic()
    busy(what)
    assert _forked(_take_lock)
    assert time.monotonic() - began >= 0.2


def test_fork_answers_ctrl_c_after_it_has_waited(busy):
    """Not within the hook, where Python would print the exception, forget it, and fork without the lock."""
    busy("compiles")
    threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        assert _forked(_take_lock)
        time.sleep(5)
    _take_lock()


def test_fork_import_starts_no_threads():
    """So that a child forked after the import has threads of its own."""
    code = "import fastrnn, threading; from numba.np.ufunc import parallel as p; print(p._is_initialized)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == ["False"]
