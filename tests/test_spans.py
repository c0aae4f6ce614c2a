"""Long work in short calls: the ranges, the same results, and Ctrl-C answered."""

import signal
import threading
import time

import numpy as np
import pytest

import fastrnn
from fastrnn import spans as module
from fastrnn.spans import spans


@pytest.mark.parametrize(
    "count, work, grain", [(1, 1, 1), (1000, 1e7, 16), (37, 3e8, 16), (1000, 1e12, 16), (50, 1e8, 8)]
)
@pytest.mark.parametrize("seconds", [0, 1e-4, 0.25])
def test_spans_cover_all_once_and_keep_to_the_grain(monkeypatch, count, work, grain, seconds):
    monkeypatch.setattr(module, "_SECONDS", seconds)
    ranges = list(spans(count, work, grain))
    assert [n for first, last in ranges for n in range(first, last)] == list(range(count))
    for first, last in ranges:
        within = first // grain == (last - 1) // grain
        assert within or (first % grain == 0 and (last % grain == 0 or last == count))
    assert ranges[0][1] <= max(1, module._FIRST_WORK / work)


def test_spans_become_as_long_as_the_time_allows(monkeypatch):
    clock = iter(np.arange(0, 100, 0.5))  # half a second each
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    sizes = [last - first for first, last in spans(100, 1e9 / 16)]
    assert sizes == [16, 8, 4, 2, *[1] * 70]


@pytest.fixture(params=[0, 1e3], ids=["short calls", "growing calls"])
def cut(monkeypatch, request):
    """Work is cut into as many calls as can be, or into ones that grow from one step on."""

    def cut():
        for name in ("fastrnn.losses._SHORT", "fastrnn.spans._FIRST_WORK"):
            monkeypatch.setattr(name, 0)
        monkeypatch.setattr("fastrnn.spans._SECONDS", request.param)
        monkeypatch.setattr("fastrnn.passes._WORK_OF_A_SHARE", 5e3)

    return cut


def _gradients(layer, x, lengths=None):
    workspace = layer.workspace(33, 33)
    y = layer.forward(x, lengths=lengths, workspace=workspace)[0].copy()
    layer.zero_grad()
    dx, _ = layer.backward(np.cos(y), workspace=workspace)
    y_alone = layer.forward(x, lengths=lengths)[0]
    return y, y_alone, layer.gradients_to_vector(), np.zeros(0) if dx is None else dx.copy()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "kind", ["linear", "embedding", "tanh", "lstm", "lstm of tokens", "both ways", "peephole", "normalized", "jordan"]
)
def test_spans_give_the_same_results(kind, batch_first, ragged, cut):
    rng = np.random.default_rng(0)
    tokens, x = rng.integers(0, 20, (33, 5)), rng.standard_normal((33, 5, 40), dtype=np.float32)
    layer, x = {
        "linear": (fastrnn.Linear(40, 37, seed=0), x),
        "embedding": (fastrnn.Embedding(20, 33, seed=0), tokens),
        "tanh": (fastrnn.Tanh(), x),
        "lstm": (fastrnn.LSTM(40, 37, seed=0), x),
        "lstm of tokens": (fastrnn.LSTM(20, 37, seed=0), tokens),
        "both ways": (fastrnn.GRU(40, 37, 2, bidirectional=True, seed=0), x),
        "peephole": (fastrnn.PeepholeLSTM(40, 37, dilation=2, seed=0), x),
        "normalized": (fastrnn.LayerNormLSTM(40, 37, seed=0), x),
        "jordan": (fastrnn.Jordan(40, 37, 3, seed=0), x),
    }[kind]
    steps, batch = 33, 5
    if batch_first:
        layer, steps, batch = fastrnn.Sequential(layer, batch_first=True), batch, steps
    lengths = 1 + 7 * np.arange(batch) % steps if ragged else None
    expected = _gradients(layer, x, lengths)
    cut()
    for ours, theirs in zip(_gradients(layer, x, lengths), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_spans_of_a_batch_without_time_give_the_same_results(cut):
    layer, x = fastrnn.Linear(40, 37, seed=0), np.random.default_rng(0).standard_normal((333, 40), dtype=np.float32)
    workspace = layer.workspace(1, 333)

    def results():
        y = layer.forward(x, workspace=workspace)[0].copy()
        layer.zero_grad()
        dx, _ = layer.backward(np.cos(y), workspace=workspace)
        return y, layer.forward(x)[0], dx.copy(), layer.gradients_to_vector()

    expected = results()
    cut()
    for ours, theirs in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("loss", [fastrnn.CrossEntropy(), fastrnn.MSE(), fastrnn.Quantile([0.1, 0.9])], ids=repr)
@pytest.mark.parametrize("mask", [None, (7, 6), (7,)], ids=str)
def test_spans_of_a_loss_give_the_same_value(loss, mask, cut):
    rng = np.random.default_rng(0)
    y = rng.standard_normal((7, 6, 10), dtype=np.float32)
    targets = rng.standard_normal(y.shape, dtype=np.float32)
    if isinstance(loss, fastrnn.CrossEntropy):
        targets = rng.integers(0, 10, (7, 6))
    elif isinstance(loss, fastrnn.Quantile):
        targets = targets[..., :5]
    weights = None if mask is None else rng.random(mask)
    expected, dy = loss(y, targets, mask=weights)
    cut()
    value, found = loss(y, targets, mask=weights)
    assert value == expected
    np.testing.assert_array_equal(found, dy)


def test_spans_dropout_draws_the_same_numbers(cut):
    x, layers = np.ones((9, 50, 7), np.float32), [fastrnn.Dropout(0.5, seed=0) for _ in range(2)]
    expected, _ = layers[0].forward(x, workspace=layers[0].workspace(9, 50))
    cut()
    found, _ = layers[1].forward(x, workspace=layers[1].workspace(9, 50))
    np.testing.assert_array_equal(found, expected)


def test_spans_let_ctrl_c_through():
    """During a call that would take far longer; the layer goes on as if nothing had been."""
    layer = fastrnn.LSTM(4, 8, seed=0)
    x = np.full((3_000_000, 1, 4), 0.1, np.float32)
    expected = layer.forward(x[:50])[0]
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.05, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            layer.forward(x)
    assert time.monotonic() - sent[0] < 1
    timer.join()
    np.testing.assert_array_equal(layer.forward(x[:50])[0], expected)
