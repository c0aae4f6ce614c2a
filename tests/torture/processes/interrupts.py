"""Ctrl-C at random moments of long calls: how long until it is answered, and whether all is usable afterwards."""

import contextlib
import functools
import math
import os
import signal
import tempfile
import threading
import time

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

import fastrnn
from fastrnn import data, words

from .work import Problem, fork, fresh_kernel, report

LIMIT = 1.0  # seconds
_DELAY = 0.06  # seconds before it comes, on average
_LOST = 5  # seconds after which Ctrl-C will not be answered any more
_PATIENCE = 20  # seconds for a child to end


def _normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


class _Layer:
    """A layer at work on a large `x`, until interrupted, with or without its gradients; small problems after that."""

    def __init__(self, layer, x, small, *, backward=True):
        self._layer, self._x, self._small, self._backward = layer, x, small, backward
        self._workspace = layer.workspace(x.shape[0], x.shape[1]) if backward else None
        self._dy = np.ones_like(self._pass(x)[0]) if backward else None
        self._expected = self._results()

    def _pass(self, x):
        return self._layer.forward(x, workspace=self._workspace)

    def _results(self):
        y = self._pass(self._small)[0].copy()
        if not self._backward:
            return y.tobytes()
        self._layer.zero_grad()
        self._layer.backward(y, workspace=self._workspace)
        return y.tobytes() + self._layer.gradients_to_vector().tobytes()

    def work(self):
        self._pass(self._x)
        if self._backward:
            self._layer.backward(self._dy, workspace=self._workspace)

    def check(self):
        assert self._results() == self._expected, "other results after an interrupt"


def _recurrent(kind, inputs, hidden, steps, batch, **options):
    def make(rng):
        x = np.zeros((steps, batch, inputs), np.float32) + np.float32(0.1)
        layer = kind(inputs, hidden, seed=int(rng.integers(100)))
        return _Layer(layer, x, _normal(rng, min(steps, 7), min(batch, 3), inputs), **options)

    return make


def _dense(rng):
    return _Layer(fastrnn.Linear(64, 64, seed=0), _normal(rng, 200, 2000, 64), _normal(rng, 5, 3, 64))


def _embedding(rng):
    tokens = rng.integers(0, 500, (2000, 200))
    return _Layer(fastrnn.Embedding(500, 128, seed=0), tokens, tokens[:5, :3])


class _Loss:
    """Cross-entropy over many logits."""

    def __init__(self, rng):
        self._loss = fastrnn.CrossEntropy()
        self._y, self._targets = _normal(rng, 40_000, 1000), rng.integers(0, 1000, 40_000)
        self._dy = np.empty_like(self._y)
        self._expected = self._value()

    def _value(self):
        value, dy = self._loss(self._y[:50], self._targets[:50])
        return value, dy.tobytes()

    def work(self):
        self._loss(self._y, self._targets, out=self._dy)

    def check(self):
        assert self._value() == self._expected, "another loss after an interrupt"


class _Optimizer:
    """Updates of many parameters by 1 each: all of them as often as are counted."""

    def __init__(self, rng):
        self._model, self._optimizer = fastrnn.Linear(5000, 4000, bias=False, init="zeros"), fastrnn.SGD(1.0)
        self._model.parameters.gradients[:] = -1
        self.work()

    def work(self):
        self._optimizer.step(self._model)

    def check(self):
        values, steps = self._model.parameters.values, self._optimizer.state_dict()["step"]
        assert values.min() == values.max(), "half an update after an interrupt"
        assert values[0] == steps, f"{values[0]} updates after an interrupt, and {steps} counted"


class _Training:
    """`Trainer.fit` over shuffled batches, which ends in the same bits however often it was stopped and went on."""

    _EPOCHS = 12

    def __init__(self, rng):
        self._words, self._seed = bool(rng.integers(2)), int(rng.integers(1000))
        self._series = _normal(rng, 300, 16)
        self._sentences = [rng.integers(0, 30, n) for n in rng.integers(20, 60, 90)]
        self._begin()
        self._go_on()
        self._expected = self._bits()

    def _begin(self):
        seed = self._seed
        if self._words:
            first, last, loss = fastrnn.Embedding(30, 16, seed=seed), [], fastrnn.CrossEntropy()
            self._batches = words.SentenceBatches(self._sentences, 32, seed=seed)
        else:
            first, last, loss = fastrnn.Linear(16, 16, seed=seed), [fastrnn.Last()], fastrnn.MSE()
            self._batches = data.WindowBatches(self._series, 50, batch_size=64, shuffle=True, seed=seed)
        last.append(fastrnn.Linear(64, 30 if self._words else 16, seed=1))
        layers = first, fastrnn.LSTM(16, 64, seed=seed), fastrnn.Dropout(0.2), *last
        self._trainer = fastrnn.Trainer(fastrnn.Sequential(*layers), loss, fastrnn.Adam(0.01), seed=seed)

    def _go_on(self):
        if self._trainer.epoch < self._EPOCHS:
            epochs = self._EPOCHS - self._trainer.epoch
            if self._trainer.fit(self._batches, epochs=epochs, progress=False).stopped == "interrupt":
                raise KeyboardInterrupt

    def _bits(self):
        updates, trainer = self._trainer.updates, self._trainer
        return updates, trainer.optimizer.state_dict()["step"], trainer.model.parameters_to_vector().tobytes()

    def work(self):
        if self._trainer.epoch == self._EPOCHS:
            self._begin()
        self._go_on()

    def check(self):
        self._go_on()
        assert self._bits() == self._expected, "a run that went on after an interrupt ended in other bits"


class _Gradcheck:
    """`gradcheck`, which moves parameters and must put them back."""

    def __init__(self, rng):
        self._model = fastrnn.LSTM(3, 12, seed=0, dtype="float64")
        self._x, self._targets = rng.standard_normal((6, 2, 3)), rng.standard_normal((6, 2, 12))
        self._before = self._model.parameters_to_vector().tobytes()
        self.work()

    def work(self):
        fastrnn.gradcheck(self._model, fastrnn.MSE(), self._x, self._targets)

    def check(self):
        assert self._model.parameters_to_vector().tobytes() == self._before, "gradcheck left parameters moved"


class _Forks:
    """Children, one by one, while another thread holds the lock that a fork has to wait for, again and again."""

    def __init__(self, rng):
        self._seed = int(rng.integers(10**6))
        self._expected = Problem(self._seed).digest()
        threading.Thread(target=self._hold, args=(float(rng.choice([1e-3, 1e-2])),), daemon=True).start()

    def _hold(self, seconds):
        while True:
            with global_compiler_lock:
                time.sleep(seconds)

    def work(self):
        pid = fork()
        if pid == 0:
            status = 1
            try:
                status = report(self._seed)[0] != self._expected
            finally:
                os._exit(status)
        self._end(*os.waitpid(pid, 0))

    def _end(self, pid, status):
        assert status == 0, f"a child forked while Ctrl-C came ended with {status}"

    def check(self):
        """The child that was under way ends, too, and nothing is locked."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid:
                self._end(pid, status)
            assert time.monotonic() < end, "a child forked while Ctrl-C came hung"
            time.sleep(0.001)
        assert Problem(self._seed).digest() == self._expected


@contextlib.contextmanager
def _empty_cache():
    """A `with` block in which kernels that are called for the first time find no cache."""
    before = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = tempfile.mkdtemp()  # left behind: to be removed takes longer than Ctrl-C may wait
        yield
    finally:
        numba.config.CACHE_DIR = before


class _Compilation:
    """Kernels that nobody has compiled before, one after the other."""

    def __init__(self, rng):
        self._rng, self._x = rng, np.arange(100.0)
        self._fresh = None

    def work(self):
        number = int(self._rng.integers(2**40))
        self._fresh = number, fresh_kernel(number)
        self.check()

    def check(self):
        if self._fresh is not None:
            number, kernel = self._fresh
            out = np.empty_like(self._x)
            with _empty_cache():
                kernel(self._x, out, 2)
            np.testing.assert_array_equal(out, self._x + number)


class _FirstCall:
    """A layer that nothing in this process has called, and whose kernels are in no cache."""

    delay, limit = 1.0, 60.0  # LLVM, which takes seconds, can't be interrupted

    def __init__(self, rng):
        self._layer, self._x = fastrnn.PeepholeLSTM(3, 20, seed=0), _normal(rng, 1, 5, 3)

    def work(self):
        with _empty_cache():
            self._layer.forward(self._x)

    def check(self):
        with _empty_cache():
            y, _ = self._layer.forward(self._x)
        weights = self._layer.state_dict()
        z = self._x[0] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
        i, _, g, o = np.split(z, 4, axis=1)
        c = np.tanh(g) / (1 + np.exp(-i))
        o += weights["peephole_l0"].reshape(3, -1)[2] * c
        np.testing.assert_allclose(y[0], np.tanh(c) / (1 + np.exp(-o)), atol=1e-6)


CASES = {
    "a long sequence": _recurrent(fastrnn.LSTM, 4, 8, 1_000_000, 1, backward=False),
    "training on a long sequence": _recurrent(fastrnn.LSTM, 4, 8, 200_000, 1),
    "a wide layer": _recurrent(fastrnn.GRU, 32, 2048, 20, 16, backward=False),
    "training a wide layer": _recurrent(fastrnn.RNN, 32, 2048, 20, 32),
    "training a large batch": _recurrent(fastrnn.LSTM, 32, 64, 200, 512),
    "one step of a wide layer": _recurrent(fastrnn.RNN, 8, 2048, 1, 8000),
    "an output-recurrent net": _recurrent(functools.partial(fastrnn.Jordan, output_size=8), 32, 64, 20_000, 16),
    "a linear layer": _dense,
    "an embedding": _embedding,
    "a loss": _Loss,
    "an optimizer": _Optimizer,
    "a trainer": _Training,
    "gradcheck": _Gradcheck,
}


# what is counted apart, in a process of its own; the last takes long
COLD_CASES = {"forks": _Forks, "compilation": _Compilation, "a first call": _FirstCall}


def _interrupted(case, delay):
    """Seconds that Ctrl-C was waited for, when it comes `delay` seconds after work has begun."""
    sent = []

    def interrupt():
        time.sleep(delay)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    answered = math.inf
    try:
        thread.start()
        while not sent or time.monotonic() < sent[0] + _LOST:
            case.work()
    except KeyboardInterrupt:
        answered = time.monotonic()
    thread.join()
    return answered - sent[0]


def run(rng, counts, end, cold):
    """Interrupt all kinds of work in turn, one kind at least, two of the cold ones; what the longest answer was."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    longest, cases = (0.0, ""), COLD_CASES if cold else CASES
    names, least = (list(cases), 2) if cold else (rng.permutation(list(cases)), 1)
    while True:
        for n, name in enumerate(names):
            if n >= least and time.monotonic() > end:
                break
            case = cases[name](rng)
            limit = getattr(case, "limit", LIMIT)
            for _ in range(8):
                seconds = _interrupted(case, float(rng.exponential(getattr(case, "delay", _DELAY))))
                case.check()
                if limit == LIMIT:
                    longest = max(longest, (seconds, str(name)))
                assert seconds < limit, f"{name}: Ctrl-C was answered after {seconds:.2f} s"
                counts[f"interrupts of {name}" if cold else "interrupts answered"] += 1
        if time.monotonic() > end:
            return {"longest": longest}
