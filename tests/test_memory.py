"""A training step after the first allocates nothing that grows with the problem, and nothing piles up."""

import gc
import os
import tracemalloc

import numpy as np
import pytest

import fastrnn
from fastrnn.trainer import Trainer

SLACK = 12_288  # bytes: Python objects, and NumPy's cast buffer of fixed size; each array that grows is larger below
SMALL = {"steps": 4, "batch": 2, "inputs": 3, "hidden": 8}
GROWN = {
    "steps": {**SMALL, "steps": 8000},
    "batch": {**SMALL, "batch": 8000},
    "inputs": {**SMALL, "inputs": 8000},
    "hidden": {**SMALL, "batch": 20, "hidden": 400},
    "all": {"steps": 60, "batch": 20, "inputs": 90, "hidden": 150},
}
CELLS = {"rnn": fastrnn.RNN, "gru": fastrnn.GRU, "lstm": fastrnn.LSTM}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A thread has a scratch buffer of fixed size, and how many threads are used does depend on the sizes."""
    monkeypatch.setattr("fastrnn.threads._count", 1)


def peak(call, repeats=3):
    """Most bytes that `call` holds at a time beyond what there was, after it has run twice."""
    call(), call()
    gc.disable()  # what is freed late would count
    tracemalloc.start()
    try:
        call()  # tracemalloc's own bookkeeping of what is replaced
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(repeats):
            call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        gc.enable()


def normal(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def ragged(steps, batch):
    return np.random.default_rng(0).integers(1, steps + 1, batch)


def recurrent_step(cell, steps, batch, inputs, hidden, *, lengths=False, **options):
    """A function that runs a forward and a backward pass with the state carried over."""
    layer = CELLS[cell](inputs, hidden, seed=0, **options)
    x = normal(steps, batch, inputs)
    lengths = ragged(steps, batch) if lengths else None
    dy = normal(steps, batch, layer.directions * hidden, seed=1)
    shape = layer.num_layers * layer.directions, batch, hidden
    dstate = normal(*shape), normal(*shape)
    workspace = layer.workspace(steps, batch)
    carried = [None]

    def run():
        _, carried[0] = layer.forward(x, carried[0], lengths=lengths, workspace=workspace)
        layer.backward(dy, dstate if cell == "lstm" else dstate[0], workspace=workspace)

    return run


def test_memory_the_measure_notices_an_array():
    kept = normal(8000)
    assert peak(lambda: None) < 1000
    assert peak(lambda: kept + 1) > kept.nbytes > 2 * SLACK


@pytest.mark.parametrize("grown", GROWN)
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_memory_of_a_recurrent_layer(cell, lengths, grown):
    small = peak(recurrent_step(cell, **SMALL, lengths=lengths))
    assert peak(recurrent_step(cell, **GROWN[grown], lengths=lengths)) <= small + SLACK


@pytest.mark.parametrize("grown", GROWN)
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
def test_memory_of_a_stack_with_dropout(lengths, grown):
    options = {"num_layers": 3, "bidirectional": True, "dropout": 0.5, "lengths": lengths}
    small = peak(recurrent_step("lstm", **SMALL, **options))
    assert peak(recurrent_step("lstm", **GROWN[grown], **options)) <= small + SLACK


OPTIONS = {
    "noise": {
        "zoneout": (0.1, 0.2), "recurrent_dropout": 0.3, "num_layers": 2, "dropout": 0.5, "variational": True,
        "initial_state": fastrnn.NoisyState(0.1),
    },
    "learned": {"initial_state": "learned"},
    "tokens": {},
}  # fmt: skip


@pytest.mark.parametrize("grown", GROWN)
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_memory_of_options(kind, lengths, grown):
    def run(steps, batch, inputs, hidden):
        layer = fastrnn.LSTM(inputs, hidden, dtype="float64", seed=0, **OPTIONS[kind])
        x = normal(steps, batch, inputs, dtype="float64")
        if kind == "tokens":
            x = np.random.default_rng(0).integers(0, inputs, (steps, batch))
        given, dy = ragged(steps, batch) if lengths else None, normal(steps, batch, hidden, seed=1, dtype="float64")
        workspace = layer.workspace(steps, batch)

        def call():
            layer.forward(x, lengths=given, workspace=workspace)
            layer.backward(dy, workspace=workspace)

        return call

    slack = SLACK + (8192 * 8 if kind == "noise" else 0)  # NumPy's buffer for a product with a mask for all steps
    assert peak(run(**GROWN[grown])) <= peak(run(**SMALL)) + slack


@pytest.mark.parametrize("batch_first", [False, True])
def test_memory_of_a_batch_first_layer(batch_first):
    def run(steps, batch, inputs, hidden):
        layer = fastrnn.GRU(inputs, hidden, 2, batch_first=batch_first, seed=0)
        x, dy = normal(batch, steps, inputs), normal(batch, steps, hidden, seed=1)
        workspace = layer.workspace(max(steps, batch), max(steps, batch))

        def call():
            layer.forward(x, workspace=workspace)
            layer.backward(dy, workspace=workspace)

        return call

    assert peak(run(60, 20, 90, 150)) <= peak(run(**SMALL)) + SLACK


STATELESS = {
    "linear": lambda inputs, hidden: fastrnn.Linear(inputs, hidden, seed=0),
    "tanh": lambda inputs, hidden: fastrnn.Tanh(),
    "relu": lambda inputs, hidden: fastrnn.ReLU(),
    "sigmoid": lambda inputs, hidden: fastrnn.Sigmoid(),
    "dropout": lambda inputs, hidden: fastrnn.Dropout(0.5, seed=0),
    "last": lambda inputs, hidden: fastrnn.Last(),
    "mean": lambda inputs, hidden: fastrnn.MeanPool(),
    "max": lambda inputs, hidden: fastrnn.MaxPool(),
    "penalty": lambda inputs, hidden: fastrnn.ActivityRegularization(0.1, 0.1),
    "variational dropout": lambda inputs, hidden: fastrnn.Dropout(0.5, variational=True, seed=0),
    "repeat": lambda inputs, hidden: fastrnn.Sequential(fastrnn.Last(), fastrnn.Repeat(50)),
    "residual": lambda inputs, hidden: fastrnn.Residual(fastrnn.Residual(fastrnn.Tanh())),
    "skips": lambda inputs, hidden: fastrnn.Concatenated(
        fastrnn.Linear(inputs, hidden, seed=0), fastrnn.Linear(hidden, inputs, seed=0), include_input=True
    ),
    "embedding": lambda inputs, hidden: fastrnn.Embedding(inputs, hidden, seed=0),
    "onehot": lambda inputs, hidden: fastrnn.OneHot(inputs),
}


@pytest.mark.parametrize("grown", ["steps", "batch", "all"])
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("kind", STATELESS)
def test_memory_of_a_layer_without_state(kind, lengths, grown):
    def run(steps, batch, inputs, hidden):
        layer = STATELESS[kind](inputs, hidden)
        x = normal(steps, batch, inputs)
        if kind in ("embedding", "onehot"):
            x = np.random.default_rng(0).integers(0, inputs, (steps, batch))
        given = ragged(steps, batch) if lengths else None
        workspace = layer.workspace(steps, batch)
        dy = normal(*layer.forward(x, workspace=workspace)[0].shape, seed=1)

        def call():
            layer.forward(x, lengths=given, workspace=workspace)
            layer.backward(dy, workspace=workspace)

        return call

    assert peak(run(**GROWN[grown])) <= peak(run(**SMALL)) + SLACK


def training_step(steps, batch, inputs, hidden, *, lengths=False, classes=11):
    """One update of a language model by the trainer: loss, clipping and Adam; the state is carried over."""
    model = fastrnn.Sequential(
        fastrnn.Embedding(classes, inputs, seed=0), fastrnn.LSTM(inputs, hidden, 2, dropout=0.5, seed=1),
        fastrnn.Dropout(0.5, seed=2), fastrnn.Linear(hidden, classes, seed=3),
    )  # fmt: skip
    trainer = Trainer(model, fastrnn.CrossEntropy(), fastrnn.Adam(1e-3), clip_norm=1.0)
    x, targets = np.random.default_rng(0).integers(0, classes, (2, steps, batch))
    given = ragged(steps, batch) if lengths else None
    carried = [None]

    def call():
        _, carried[0] = trainer.step(x, targets, carried[0], lengths=given)

    return call


@pytest.mark.parametrize("grown", GROWN)
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
def test_memory_of_a_training_step(lengths, grown):
    small = peak(training_step(**SMALL, lengths=lengths))
    assert peak(training_step(**GROWN[grown], lengths=lengths)) <= small + SLACK


def test_memory_of_a_training_step_with_more_classes():
    assert peak(training_step(**SMALL, classes=5000)) <= peak(training_step(**SMALL)) + SLACK


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.parametrize("what", ["layer", "trainer", "inference", "workspaces"])
def test_memory_does_not_pile_up_over_1000_steps(what):
    layer = fastrnn.LSTM(8, 16, seed=0)
    x = normal(4, 2, 8)
    call = {
        "layer": lambda: recurrent_step("lstm", 5, 3, 8, 16, lengths=True),
        "trainer": lambda: training_step(5, 3, 8, 16, lengths=True),
        "inference": lambda: lambda: (layer.forward(x), layer.step(x[0])),
        "workspaces": lambda: lambda: layer.forward(x, workspace=layer.workspace(4, 2)),
    }[what]()
    for _ in range(200):
        call()
    gc.collect()
    before = resident()
    for _ in range(1000):
        call()
    assert resident() - before < 1 << 20  # 1 KB a step would show
