"""Ctrl-C at random moments of long calls: how long until it is answered, and whether all is usable afterwards."""

import os
import signal
import threading
import time

import numpy as np

import fastrnn

LIMIT = 1.0  # seconds


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
        return _Layer(layer, x, _normal(rng, 7, min(batch, 3), inputs), **options)

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
    """`Trainer.fit`, which ends with a whole update."""

    def __init__(self, rng):
        self._batches = [(_normal(rng, 200, 64, 32), _normal(rng, 200, 64, 64)) for _ in range(3)]
        self._model = fastrnn.LSTM(32, 64, seed=0)
        self._optimizer = fastrnn.SGD(0.01)
        self._trainer = fastrnn.Trainer(self._model, fastrnn.MSE(), self._optimizer)
        self._trainer.fit(self._batches[:1], progress=False)

    def work(self):
        history = self._trainer.fit(self._batches, epochs=100, progress=False)
        if history.stopped == "interrupt":
            raise KeyboardInterrupt

    def check(self):
        assert self._trainer.updates == self._optimizer.state_dict()["step"], "an update was not counted"
        assert np.isfinite(self._model.parameters.values).all()


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


CASES = {
    "a long sequence": _recurrent(fastrnn.LSTM, 4, 8, 1_000_000, 1, backward=False),
    "training on a long sequence": _recurrent(fastrnn.LSTM, 4, 8, 200_000, 1),
    "a wide layer": _recurrent(fastrnn.GRU, 32, 2048, 20, 16, backward=False),
    "training a wide layer": _recurrent(fastrnn.RNN, 32, 2048, 20, 32),
    "training a large batch": _recurrent(fastrnn.LSTM, 32, 64, 200, 512),
    "a linear layer": _dense,
    "an embedding": _embedding,
    "a loss": _Loss,
    "an optimizer": _Optimizer,
    "a trainer": _Training,
    "gradcheck": _Gradcheck,
}


def _interrupted(case, delay):
    """Seconds that Ctrl-C was waited for, when it comes `delay` seconds after work has begun."""
    sent = []

    def interrupt():
        time.sleep(delay)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        while True:
            case.work()
    except KeyboardInterrupt:
        answered = time.monotonic()
    thread.join()
    return answered - sent[0]


def run(rng, counts, end):
    """Interrupt all kinds of work in turn, one kind at least; what the longest answer was."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    longest = 0.0, ""
    names = rng.permutation(list(CASES))
    while True:
        for n, name in enumerate(names):
            if n >= 1 and time.monotonic() > end:
                break
            case = CASES[name](rng)
            for _ in range(8):
                seconds = _interrupted(case, float(rng.exponential(0.06)))
                case.check()
                longest = max(longest, (seconds, str(name)))
                assert seconds < LIMIT, f"{name}: Ctrl-C was answered after {seconds:.2f} s"
                counts["interrupts answered"] += 1
        if time.monotonic() > end:
            return {"longest": longest}
