"""The training loop: updates, epochs, stops, checkpoints."""

import contextlib
import copy
import gc
import itertools
import json
import pathlib
import pickle
import signal
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt
from fastrnn.data import TokenStream, WindowBatches
from fastrnn.trainer import Trainer
from fastrnn.words import SentenceBatches

T, B, V, H = 10, 4, 7, 6


def model(dropout=0.25, dtype="float64"):
    return fastrnn.Sequential(
        fastrnn.Embedding(V, 5, dtype=dtype, seed=0),
        fastrnn.LSTM(5, H, 2, dropout=dropout, dtype=dtype, seed=1),
        fastrnn.Dropout(dropout, dtype=dtype, seed=2),
        fastrnn.Linear(H, V, dtype=dtype, seed=3),
    )


def trainer(net=None, *, optimizer=None, loss=None, **options):
    net = model() if net is None else net
    return Trainer(net, loss or fastrnn.CrossEntropy(), optimizer or fastrnn.Adam(1e-2), **options)


def batch(seed=0, steps=T):
    return np.random.default_rng(seed).integers(0, V, (2, steps, B))


def stream(tokens=501):
    return TokenStream(np.random.default_rng(0).integers(0, V, tokens), B, T)


def fit(job, batches, **options):
    return job.fit(batches, progress=False, **options)


def copied(state):
    return bptt.map_state(np.copy, state)


# ---- one step ----


def test_step_is_written_out_by_hand():
    ours, by_hand = model(dropout=0.0), model(dropout=0.0)
    loss, optimizer = fastrnn.CrossEntropy(), fastrnn.SGD(0.5)
    job = trainer(ours, optimizer=fastrnn.SGD(0.5), clip_norm=0.1, schedule=lambda step: 1 / (1 + step))
    workspace = by_hand.workspace(T, B)
    for step in range(3):
        x, targets = batch(step)
        by_hand.zero_grad()
        y, _ = by_hand(x, workspace=workspace)
        expected, dy = loss(y, targets)
        by_hand.backward(dy, workspace=workspace)
        assert fastrnn.clip_grad_norm(by_hand, 0.1) > 0.1
        optimizer.step(by_hand, 1 / (1 + step))
        value, _ = job.step(x, targets)
        assert value == expected
    np.testing.assert_array_equal(ours.parameters_to_vector(), by_hand.parameters_to_vector())
    np.testing.assert_array_equal(ours.gradients_to_vector(), by_hand.gradients_to_vector())
    assert job.updates == 3


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_truncated_makes_an_update_a_chunk(reduction):
    """As feeding the chunks one by one by hand; the value weighs each by its valid elements."""
    loss, lengths = fastrnn.CrossEntropy(reduction=reduction), np.array([10, 7, 9, 8])  # none ends before a chunk
    (x, targets), k = batch(), 4
    mask = np.random.default_rng(1).random((T, B)) < 0.7
    one, other = (trainer(model(0.0), loss=loss, bptt=rule) for rule in (bptt.Truncated(k), bptt.Full()))
    value, final = one.step(x[:, :2], targets[:, :2], lengths=[10, 9], mask=mask[:, :2])
    total, count, state = 0.0, 0, None
    lengths = np.array([10, 9])
    for start in range(0, T, k):
        part = slice(start, start + k)
        clipped = np.clip(lengths - start, 0, k)
        valid = mask[part, :2] & (np.arange(T)[part, None] < lengths)
        chunk, state = other.step(x[part, :2], targets[part, :2], state, lengths=np.minimum(clipped, T - start),
                                  mask=valid)  # fmt: skip
        weight = valid.sum() if reduction == "mean" else 1
        total, count = total + chunk * weight, count + weight
    assert value == pytest.approx(total / count if reduction == "mean" else total, rel=1e-14)
    assert one.updates == other.updates == 3
    np.testing.assert_array_equal(one.model.parameters_to_vector(), other.model.parameters_to_vector())
    bptt.map_state(np.testing.assert_array_equal, final, state)


def test_each_update_averages_over_all_sequences():
    """With `reduction="sequence"`, also in chunks that some sequences do not reach; weights count as elsewhere."""
    (x, targets), k, lengths = batch(), 4, np.array([10, 3, 5, 8])
    weights = np.random.default_rng(1).random((T, B))
    per_sequence = fastrnn.CrossEntropy(reduction="sequence")
    one = trainer(model(0.0), loss=per_sequence, bptt=bptt.Truncated(k), optimizer=fastrnn.SGD(0.4))
    other = trainer(model(0.0), loss=fastrnn.CrossEntropy(reduction="sum"), bptt=bptt.Truncated(k),
                    optimizer=fastrnn.SGD(0.1))  # fmt: skip
    value, _ = one.step(x, targets, lengths=lengths, mask=weights)
    assert value == pytest.approx(other.step(x, targets, lengths=lengths, mask=weights)[0] / B, rel=1e-12)
    difference = one.model.parameters_to_vector() - other.model.parameters_to_vector()
    assert np.abs(difference).max() < 1e-13 and one.updates == 3
    part = x[:, :3], targets[:, :3]
    assert one.evaluate([(x, targets), part]) == pytest.approx(
        (B * one.evaluate([(x, targets)]) + 3 * one.evaluate([part])) / (B + 3), rel=1e-13
    )


def test_chunks_without_valid_elements_make_no_update():
    x, targets = batch()
    targets[4:8] = -100
    job = trainer(bptt=bptt.Truncated(4))
    job.step(x, targets)
    assert job.updates == 2
    job = trainer(bptt=bptt.Truncated(4))
    job.step(x, targets, lengths=[4, 4, 4, 3])
    assert job.updates == 1


def test_the_seed_decides_the_dropout():
    def trained(**options):
        job = trainer(**options)
        job.step(*batch())
        return job.model.parameters_to_vector()

    used = model()
    used(batch()[0], workspace=used.workspace(T, B))  # its generators have moved on
    np.testing.assert_array_equal(trained(), trained(net=used))
    assert (trained(seed=1) != trained(seed=0)).any()
    np.testing.assert_array_equal(trained(seed=None), trained(seed=None))  # the layers' own seeds


def test_a_wrong_argument_changes_nothing():
    job = trainer(bptt=bptt.Truncated(4))
    x, targets = batch()
    job.step(x, targets)
    before = job.model.parameters_to_vector(), job.model.gradients_to_vector()
    random = bptt.random_states(job.model)
    targets[-1, -1] = V
    with pytest.raises(ValueError, match="targets"):
        job.step(x, targets)
    with pytest.raises(ValueError, match="lengths"):
        job.step(*batch(), lengths=[0, 1, 2, 3])
    np.testing.assert_array_equal(job.model.parameters_to_vector(), before[0])
    np.testing.assert_array_equal(job.model.gradients_to_vector(), before[1])
    assert bptt.random_states(job.model) == random and job.updates == 3


def test_constructor_refusals():
    for error, wrong in (
        (ValueError, {"clip_norm": 0}),
        (ValueError, {"clip_value": -1.0}),
        (ValueError, {"nonfinite": "stop"}),
        (TypeError, {"schedule": 0.5}),
        (TypeError, {"bptt": bptt.Full}),
        (ValueError, {"seed": -1}),
        (TypeError, {"loss": fastrnn.MSE}),
        (TypeError, {"optimizer": fastrnn.Adam}),
        (TypeError, {"net": object()}),
        (ValueError, {"net": fastrnn.LSTM(3, 4, bidirectional=True), "bptt": bptt.Truncated(3)}),
    ):
        with pytest.raises(error):
            trainer(**wrong)


@pytest.mark.parametrize("rule", [bptt.Full(), bptt.Truncated(40)], ids=repr)
def test_a_step_allocates_nothing_that_grows(rule):
    rng = np.random.default_rng(0)
    net = fastrnn.Sequential(
        fastrnn.Embedding(50, 16, dtype="float64", seed=0),
        fastrnn.LSTM(16, 48, dtype="float64", seed=0),
        fastrnn.Linear(48, 50, dtype="float64", seed=0),
    )
    job, state = trainer(net, bptt=rule, clip_norm=1.0), None
    x, targets = rng.integers(0, 50, (2, 100, 24))
    for _ in range(3):
        _, state = job.step(x, targets, state)
    gc.collect()
    tracemalloc.start()
    try:
        _, state = job.step(x, targets, state)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000  # dy has 960,000 bytes, the parameters 140,000


# ---- clipping, gradients that are not finite ----


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32), st.none() | st.floats(0.01, 1), st.none() | st.floats(0.001, 0.1))
def test_a_step_clips_as_by_hand(seed, clip_norm, clip_value):
    ours, by_hand = model(dropout=0.0), model(dropout=0.0)
    x, targets = batch(seed)
    trainer(ours, optimizer=fastrnn.SGD(1.0), clip_norm=clip_norm, clip_value=clip_value).step(x, targets)
    workspace = by_hand.workspace(T, B)
    y, _ = by_hand(x, workspace=workspace)
    by_hand.backward(fastrnn.CrossEntropy()(y, targets)[1], workspace=workspace)
    fastrnn.clip_gradients(by_hand, clip_norm, clip_value)
    fastrnn.SGD(1.0).step(by_hand)
    np.testing.assert_array_equal(ours.parameters_to_vector(), by_hand.parameters_to_vector())


class ExplodingLoss(fastrnn.CrossEntropy):
    """Gradients that are `bad` at the calls of these numbers."""

    def __init__(self, *bad_calls, bad=np.nan):
        super().__init__()
        self._calls, self._bad_calls, self._bad = 0, bad_calls, bad

    def evaluate(self, *arguments):
        total, count, dy = super().evaluate(*arguments)
        if self._calls in self._bad_calls:
            dy[0, 0, 0] = self._bad
        self._calls += 1
        return total, count, dy


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_gradients_are_skipped(bad):
    """As if the chunk had been looked at only: the schedule does not move on either."""
    rates = []
    options = {"bptt": bptt.Truncated(5), "schedule": lambda step: rates.append(step) or 1.0, "clip_norm": 1.0}
    job = trainer(model(0.0), loss=ExplodingLoss(0, 3, bad=bad), nonfinite="skip", **options)
    before = job.model.parameters_to_vector()
    history = fit(job, [tuple(batch())] * 3)
    assert job.updates == 4 and job.nonfinite == 2 and rates == [0, 0, 1, 2, 2, 3]
    assert [record.get("nonfinite") for record in history] == [1, 1, None]
    assert not np.isfinite(history[1]["grad_norm"]) and history[1]["lr"] == 1e-2
    assert np.isfinite(job.model.parameters_to_vector()).all() and (job.model.parameters_to_vector() != before).any()
    assert job.optimizer.state_dict()["step"] == 4


def test_non_finite_gradients_are_raised():
    job = trainer(loss=ExplodingLoss(1), nonfinite="raise", clip_norm=1.0)
    job.step(*batch())
    before, state = job.model.parameters_to_vector(), job.optimizer.state_dict()
    with pytest.raises(FloatingPointError, match=r"norm of the gradients is nan: .* \(after 1 updates\)"):
        job.step(*batch())
    np.testing.assert_array_equal(job.model.parameters_to_vector(), before)
    for name, value in job.optimizer.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    assert (job.updates, job.nonfinite) == (1, 1)
    assert np.isfinite(job.model.gradients_to_vector()).any()  # as they came, not scaled to NaN
    job.step(*batch())
    assert job.updates == 2


def test_non_finite_gradients_are_ignored_unless_asked_for():
    job = trainer(loss=ExplodingLoss(0))
    job.step(*batch())
    assert (job.updates, job.nonfinite) == (1, 1) and np.isnan(job.model.parameters_to_vector()).any()


def test_checkpoints_count_non_finite_gradients(tmp_path):
    pytest.importorskip("safetensors")
    job, other = trainer(loss=ExplodingLoss(0), nonfinite="skip"), trainer()
    fit(job, [tuple(batch())] * 2)
    job.save_checkpoint(tmp_path / "checkpoint")
    other.load_checkpoint(tmp_path / "checkpoint")
    assert other.nonfinite == 1
    tensors, meta = fastrnn.storage.load_tensors(tmp_path / "checkpoint", "checkpoint")
    del meta["nonfinite"]  # as it was written before there was such a count
    fastrnn.storage.save_tensors(tmp_path / "older", "checkpoint", tensors, meta)
    other.load_checkpoint(tmp_path / "older")
    assert (other.updates, other.nonfinite) == (1, 0)


# ---- many batches ----


def test_fit_records_and_carries_the_state():
    job, by_hand, data = trainer(), trainer(), stream()
    seen = []
    history = fit(job, data, epochs=2, validation=data, callbacks=[lambda t, r: seen.append((t, r))])
    assert [record for t, record in seen if t is job] == history and history.stopped is None
    expected = []
    for _ in range(2):
        state = None
        for x, targets in data:
            value, state = by_hand.step(x, targets, state)
            expected.append(value)
    assert [r["loss"] for r in history if "loss" in r] == expected
    np.testing.assert_array_equal(job.model.parameters_to_vector(), by_hand.model.parameters_to_vector())
    validation = [r for r in history if "validation_loss" in r]
    assert [r["epoch"] for r in validation] == [0, 1] and history[-1] is validation[1]
    assert validation[1]["validation_loss"] == job.evaluate(data)
    assert [r["step"] for r in history if "loss" in r] == list(range(1, 2 * len(data) + 1))
    assert json.loads(json.dumps(history)) == history
    assert {"lr", "grad_norm", "seconds"} < history[0].keys() and history[0]["grad_norm"] > 0
    assert (job.epoch, job.batch, job.updates) == (2, 0, 2 * len(data))


def test_evaluate_weighs_elements_and_carries_state():
    net = model()
    job = trainer(net)
    x, targets = batch()
    before, random = net.parameters_to_vector(), bptt.random_states(job.model)
    lengths = np.array([10, 1, 2, 3])
    ragged = [(x, targets, lengths), {"x": x[:2], "targets": targets[:2], "mask": np.arange(8).reshape(2, 4) > 3}]
    valid = [np.arange(T)[:, None] < lengths, ragged[1]["mask"]]
    sums = [fastrnn.CrossEntropy(reduction="sum")(net(b)[0], t, mask=m)[0]
            for b, t, m in ((x, targets, valid[0]), (x[:2], targets[:2], valid[1]))]  # fmt: skip
    assert job.evaluate(ragged) == pytest.approx(sum(sums) / sum(v.sum() for v in valid), rel=1e-13)
    data = stream(401)
    whole = [np.concatenate(part) for part in zip(*data, strict=True)]
    assert job.evaluate(data) == pytest.approx(fastrnn.CrossEntropy()(net(whole[0])[0], whole[1])[0], rel=1e-13)
    total = trainer(net, loss=fastrnn.CrossEntropy(reduction="sum"), seed=None).evaluate(data)
    assert total == pytest.approx(job.evaluate(data) * whole[1].size, rel=1e-13)
    np.testing.assert_array_equal(net.parameters_to_vector(), before)
    assert bptt.random_states(job.model) == random and job.updates == 0
    with pytest.raises(ValueError, match="empty"):
        job.evaluate([])


def test_fit_refusals():
    job, one = trainer(), [tuple(batch())]
    for error, match, batches, options in (
        (TypeError, "batches", 3, {}),
        (TypeError, "validation", one, {"validation": 3}),
        (TypeError, "callbacks", one, {"callbacks": [3]}),
        (ValueError, "epochs", one, {"epochs": 0}),
        (TypeError, "progress", one, {"progress": None}),
        (TypeError, "a batch", [batch()], {}),
        (ValueError, "a batch", [(1, 2, 3, 4)], {}),
        (ValueError, "a batch", [{"x": batch()[0]}], {}),
        (ValueError, "a batch", [{"x": 1, "targets": 2, "y": 3}], {}),
        (ValueError, "gave nothing", [], {}),
    ):
        with pytest.raises(error, match=match):
            job.fit(batches, **{"progress": False, **options})
    assert job.updates == 0
    with pytest.raises(ValueError, match="gave nothing"):
        fit(job, iter(one), epochs=2)
    assert job.updates == 1


def test_progress_bar_on_a_terminal_alone(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    trainer().fit([tuple(batch())] * 3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trainer().fit([tuple(batch())] * 3)
    assert "3/3" in capsys.readouterr().err


def test_progress_bar_in_a_notebook(capsys, monkeypatch):
    """Whose class of bars is another one than a terminal's, and whose streams are no terminal."""
    auto = pytest.importorskip("tqdm.auto")
    monkeypatch.setattr(auto, "tqdm", type("notebook_bar", (auto.tqdm,), {}))
    trainer().fit([tuple(batch())] * 3)
    assert "3/3" in capsys.readouterr().err


def test_progress_bar_without_tqdm(capsys, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.asyncio", None)
    trainer().fit([tuple(batch())] * 3)
    assert "fastrnn[train]" in caplog.text and capsys.readouterr().err == ""


# ---- stops ----


def test_a_callback_stops_and_fit_goes_on():
    data = stream()
    straight, stopped = trainer(), trainer()
    expected = fit(straight, data, epochs=2)
    first = fit(stopped, data, epochs=2, callbacks=lambda t, r: t.updates == 5)
    assert first.stopped == "callback" and len(first) == 5 and (stopped.epoch, stopped.batch) == (0, 5)
    rest = fit(stopped, data, epochs=2)
    assert [r["loss"] for r in first + rest] == [r["loss"] for r in expected]
    np.testing.assert_array_equal(stopped.model.parameters_to_vector(), straight.model.parameters_to_vector())


def test_other_batches_begin_at_their_first():
    job = trainer()
    fit(job, stream(), callbacks=lambda t, r: t.updates == 5)
    assert len(fit(job, [tuple(batch())] * 7)) == 7
    remaining = iter([tuple(batch())] * 7)
    fit(job, remaining, callbacks=lambda t, r: t.batch == 3)
    assert len(fit(job, remaining)) == 4


def test_ctrl_c_loses_nothing(monkeypatch):
    """Wherever the signal comes: in the middle of a backward pass, of an update, in a callback or between batches."""
    data, expected = stream(), trainer()
    fit(expected, data)
    job = trainer()

    def raises_in(owner, name, at):
        real, calls = getattr(owner, name), 0

        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == at:
                signal.raise_signal(signal.SIGINT)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    def press(job, record):
        if record["step"] == 6:
            signal.raise_signal(signal.SIGINT)

    def check(history, steps):
        assert [record["step"] for record in history] == steps and history.stopped == "interrupt"

    handler = signal.getsignal(signal.SIGINT)
    raises_in(job.model, "backward", 3)
    check(fit(job, data), [1, 2])
    raises_in(job.optimizer, "step", 2)
    check(fit(job, data), [3, 4])
    check(fit(job, data, callbacks=press), [5, 6])
    assert signal.getsignal(signal.SIGINT) is handler
    assert fit(job, data).stopped is None
    np.testing.assert_array_equal(job.model.parameters_to_vector(), expected.model.parameters_to_vector())


def test_ctrl_c_in_the_last_update():
    data, job = stream(), trainer(schedule=lambda step: signal.raise_signal(signal.SIGINT) or 1.0)
    history = fit(job, [next(iter(data))])
    assert history.stopped == "interrupt" and job.updates == 1
    job.schedule = None
    job.step(*batch())  # nothing is left of it


# ---- checkpoints ----

SCRIPT = """
import sys
import fastrnn
from tests_of_trainer import fit, stream, trainer, bptt
job = trainer(**OPTIONS)
extra = job.load_checkpoint(sys.argv[1])
assert extra == {"note": [1, 2.5, None]}, extra
fit(job, stream(), epochs=2 - job.epoch)
job.model.parameters_to_vector().tofile(sys.argv[2])
"""


@pytest.mark.parametrize("stop", [5, 13, 17])  # in the first epoch, at its end, in the second
@pytest.mark.parametrize("rule", [bptt.Full(), bptt.Truncated(4)], ids=repr)
def test_resuming_is_exact(tmp_path, rule, stop):
    pytest.importorskip("safetensors")
    options = {"bptt": rule, "clip_norm": 0.5, "schedule": lambda step: 1 / (1 + 0.1 * step)}
    straight, stopped, resumed = (trainer(**options) for _ in range(3))
    data = stream()
    assert len(data) == 13
    expected = fit(straight, data, epochs=2)
    count = iter(range(1, 100))
    first = fit(stopped, data, epochs=2, callbacks=lambda t, r: next(count) == stop)
    stopped.save_checkpoint(tmp_path / "checkpoint", extra={"note": [1, 2.5, None]})
    assert resumed.load_checkpoint(tmp_path / "checkpoint") == {"note": [1, 2.5, None]}
    assert resumed.updates == stopped.updates
    rest = fit(resumed, data, epochs=2 - resumed.epoch)
    assert [r["loss"] for r in first + rest] == [r["loss"] for r in expected]
    np.testing.assert_array_equal(resumed.model.parameters_to_vector(), straight.model.parameters_to_vector())


def shuffled(seed=0, **options):
    series = np.random.default_rng(0).standard_normal((60, 2))
    return WindowBatches(series, 5, **{"batch_size": 8, "shuffle": True, "seed": seed, **options})


def watched(epochs=3, stop=None, resume=None, save=None, **seeds):
    """A run of a noisy net over shuffled windows, watched by callbacks: the trainer, and its history.

    resume, save: checkpoints to begin and end with. stop: records after which it ends.
    """
    net = fastrnn.Sequential(
        fastrnn.GRU(2, H, zoneout=0.1, initial_state=fastrnn.NoisyState(0.1), dtype="float64", seed=1),
        fastrnn.Last(dtype="float64"),
        fastrnn.Linear(H, 2, dtype="float64", seed=2),
    )
    job = trainer(net, loss=fastrnn.MSE(), optimizer=fastrnn.Adam(0.3), schedule=fastrnn.Exponential(0.99))
    if resume is not None:
        job.load_checkpoint(resume)
    callbacks = [fastrnn.ReduceOnPlateau(0.5, 0), fastrnn.EarlyStopping(4)]
    if stop is not None:
        records = itertools.count(1)
        callbacks.append(lambda job, record: next(records) == stop and (job.save_checkpoint(save) or True))
    data = shuffled(**seeds)
    return job, fit(job, data, epochs=epochs - job.epoch, validation=data, callbacks=callbacks)


@pytest.mark.parametrize("stop", [1, 7, 8, 11, 14, 16])  # 7 batches and a validation an epoch
def test_resuming_goes_on_with_the_batches_not_yet_seen(tmp_path, stop):
    """With shuffled batches, which are also the validation, and callbacks that count epochs and keep weights."""
    pytest.importorskip("safetensors")
    straight, expected = watched()
    assert straight.optimizer.lr < 0.3
    _, first = watched(stop=stop, save=tmp_path / "checkpoint")
    resumed, rest = watched(resume=tmp_path / "checkpoint", seed=99)  # the checkpoint's draws count
    assert [{**r, "seconds": 0} for r in first + rest] == [{**r, "seconds": 0} for r in expected]
    np.testing.assert_array_equal(resumed.model.parameters_to_vector(), straight.model.parameters_to_vector())


class _Drawn:
    """Batches of somebody's own, in an order out of a generator that goes on from pass to pass."""

    def __init__(self, seed=0):
        self._x = np.random.default_rng(0).standard_normal((3, 4, 5, 2))
        self._rng, self._done = np.random.default_rng(seed), 0
        self._begin = self._rng.bit_generator.state

    def __iter__(self):
        done = self._done
        self._begin = self._rng.bit_generator.state
        for i in self._rng.permutation(3)[done:]:
            self._done += 1
            yield self._x[i], self._x[i][-1]
        self._begin, self._done = self._rng.bit_generator.state, 0

    def state_dict(self):
        return {"begin": self._begin, "done": self._done}

    def load_state_dict(self, state):
        self._rng.bit_generator.state, self._done = state["begin"], state["done"]
        self._begin = state["begin"]


def _sentences(seed=0):
    lengths = np.random.default_rng(0).integers(2, 6, 6)
    return SentenceBatches([np.arange(n) % V for n in lengths], 2, seed=seed)


def _windowed(seed=0):
    return WindowBatches(np.random.default_rng(0).standard_normal((16, 2)), 5, batch_size=4, shuffle=True, seed=seed)


class _Breaks:
    """Raises `error` in the call number `at` of `function`."""

    def __init__(self, function, at, error):
        self._function, self._left, self._error = function, at, error

    def __call__(self, *args, **kwargs):
        self._left -= 1
        if self._left == 0:
            raise self._error
        return self._function(*args, **kwargs)


@pytest.mark.parametrize("batches", [_windowed, _sentences, _Drawn])
def test_whatever_stops_it_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, batches):
    """In every batch, the first of an epoch too, by Ctrl-C or an error, in the data, the model, the loss or a callback;
    with the same trainer, or from a checkpoint; the batches are also the validation."""
    epochs = 2

    def job():
        net, loss = model(), None
        if batches is not _sentences:
            layers = fastrnn.GRU(2, H, zoneout=0.1, seed=1), fastrnn.Last(), fastrnn.Linear(H, 2, seed=2)
            net, loss = fastrnn.Sequential(*layers), fastrnn.MSE()
        return trainer(net, loss=loss)

    def go_on(job, data, **options):
        return fit(job, data, epochs=epochs - job.epoch, validation=data, **options)

    straight, data = job(), batches()
    records = go_on(straight, data)
    per_epoch = len(records) // epochs
    places = {  # where it breaks, and the calls there
        "callback": range(1, len(records) + 1),
        "backward": range(1, straight.updates + 1),
        "evaluate": range(1, straight.updates + epochs * (per_epoch - 1) + 1),  # of the loss, in the validation too
        "_fit_batch": range(1, straight.updates + 1),
    }
    for place, calls in places.items():
        for at in calls:
            for error in (KeyboardInterrupt(), RuntimeError("broken")):
                stopped, data = job(), batches()
                owner = {"backward": stopped.model, "evaluate": stopped.loss, "_fit_batch": stopped}.get(place)
                options = {"callbacks": _Breaks(lambda job, record: None, at, error)} if owner is None else {}
                with monkeypatch.context() as patch:
                    if owner is not None:
                        patch.setattr(owner, place, _Breaks(getattr(owner, place), at, error))
                    with contextlib.suppress(RuntimeError):
                        assert go_on(stopped, data, **options).stopped == "interrupt"
                stopped.save_checkpoint(tmp_path / "checkpoint")
                resumed = job()
                resumed.load_checkpoint(tmp_path / "checkpoint")
                for other, rest in ((stopped, data), (resumed, batches(99))):
                    if other.epoch < epochs:
                        go_on(other, rest)
                    ours, expected = (t.model.parameters_to_vector() for t in (other, straight))
                    np.testing.assert_array_equal(ours, expected, f"{place} {at}, {error!r}, {other is stopped}")


@pytest.mark.parametrize("rule", [bptt.Truncated(4), bptt.Windowed(3), bptt.Feedback(0.5)], ids=repr)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda job: pickle.loads(pickle.dumps(job))], ids=["copy", "pickle"])
def test_copies_and_pickles_go_on_to_the_same_bits(rule, how):
    """From the middle of an epoch, with all that changes."""
    options = {"bptt": rule, "nonfinite": "raise", "schedule": fastrnn.WarmUp(3, fastrnn.Cosine(30))}
    job, data, stopping = trainer(**options), stream(161), fastrnn.EarlyStopping(3)
    fit(job, data, callbacks=[stopping, lambda job, record: job.batch == 3], validation=data)
    assert (job.batch, len(data)) == (3, 4)
    twin, ends = how(job), []
    for each, callback in ((twin, fastrnn.EarlyStopping(3)), (job, stopping)):
        history = fit(each, data, epochs=2, callbacks=callback, validation=data)
        ends.append((each.model.parameters_to_vector(), [r["step"] for r in history], callback.state_dict()["best"]))
    for ours, expected in zip(*ends, strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert twin.model is not job.model and twin.updates == job.updates


@pytest.mark.parametrize("how", [copy.deepcopy, lambda job: pickle.loads(pickle.dumps(job))], ids=["copy", "pickle"])
def test_copies_go_on_to_the_same_bits_where_layers_share_a_generator(how):
    rng = np.random.default_rng(1)
    layers = fastrnn.Dropout(0.3, seed=rng), fastrnn.GRU(4, 5, seed=rng), fastrnn.Dropout(0.3, seed=rng)
    job = fastrnn.Trainer(fastrnn.Sequential(*layers), fastrnn.MSE(), fastrnn.SGD(0.1))
    x, targets = np.ones((6, 3, 4), "f"), np.zeros((6, 3, 5), "f")
    job.step(x, targets)
    twin = how(job)
    for each in (job, job, twin, twin):
        each.step(x, targets)
    np.testing.assert_array_equal(twin.model.parameters_to_vector(), job.model.parameters_to_vector())


def test_a_copied_optimizer_serves_a_model_of_its_own():
    job = trainer()
    job.step(*batch())
    other = copy.deepcopy(job.optimizer)
    with pytest.raises(ValueError, match="must be the one of the steps before"):
        job.optimizer.step(model())
    other.step(model())
    assert [optimizer.state_dict()["step"] for optimizer in (job.optimizer, other)] == [1, 2]


def test_resuming_without_what_the_checkpoint_has(tmp_path, caplog):
    """Other batches, or other callbacks: refused in the middle of an epoch of batches, and told of."""
    pytest.importorskip("safetensors")
    path = tmp_path / "checkpoint"
    watched(stop=2, save=path)
    other, data = trainer(watched(epochs=1)[0].model, loss=fastrnn.MSE()), shuffled(batch_size=9)
    other.load_checkpoint(path)
    before = other.model.parameters_to_vector()
    with pytest.raises(ValueError, match="batches with batch_size 8, these have 9"):
        fit(other, data)
    np.testing.assert_array_equal(other.model.parameters_to_vector(), before)
    assert len(fit(other, list(shuffled()))) == 5  # those can't tell: as many as are left
    assert "the state of ReduceOnPlateau in the checkpoint is not used" in caplog.text

    watched(stop=8, save=path)  # the end of an epoch: the next one may have other batches
    other.load_checkpoint(path)
    assert len(fit(other, data)) == len(data) == 7
    other.load_checkpoint(path)
    other.save_checkpoint(path)  # what nobody has taken stays in it
    _, meta = fastrnn.storage.load_tensors(path, "checkpoint")
    assert [entry["type"] for entry in meta["callbacks"]] == ["ReduceOnPlateau", "EarlyStopping"]


def test_checkpoints_without_places_and_callbacks(tmp_path):
    """As they were written before they had them: batches that were done are passed over."""
    pytest.importorskip("safetensors")
    straight, expected = watched(epochs=1)
    watched(stop=3, save=tmp_path / "checkpoint")
    tensors, meta = fastrnn.storage.load_tensors(tmp_path / "checkpoint", "checkpoint")
    del meta["batches"], meta["callbacks"]
    older = {name: array for name, array in tensors.items() if not name.startswith("callback.")}
    fastrnn.storage.save_tensors(tmp_path / "older", "checkpoint", older, meta)
    resumed, rest = watched(epochs=1, resume=tmp_path / "older")
    assert [r["loss"] for r in rest[:-1]] == [r["loss"] for r in expected[3:-1]]
    np.testing.assert_array_equal(resumed.model.parameters_to_vector(), straight.model.parameters_to_vector())
    for broken in ({"batches": 3}, {"callbacks": 3}, {"callbacks": [{"type": 1, "state": {}}]}, {"callbacks": [{}]}):
        fastrnn.storage.save_tensors(tmp_path / "broken", "checkpoint", tensors, {**meta, **broken})
        with pytest.raises(fastrnn.FormatError):
            resumed.load_checkpoint(tmp_path / "broken")


def test_a_stream_that_did_not_begin_at_its_beginning(tmp_path):
    """The place is the stream's own, not the number of batches done."""
    pytest.importorskip("safetensors")
    straight, stopped, resumed = trainer(), trainer(), trainer()
    for job, stop in ((straight, None), (stopped, 3)):
        data = stream()
        data.load_state_dict({**data.state_dict(), "position": 4})
        fit(job, data, callbacks=lambda t, r, stop=stop: t.updates == stop)
    stopped.save_checkpoint(tmp_path / "checkpoint")
    resumed.load_checkpoint(tmp_path / "checkpoint")
    assert len(fit(resumed, stream())) == 13 - 4 - 3
    np.testing.assert_array_equal(resumed.model.parameters_to_vector(), straight.model.parameters_to_vector())


def test_resuming_in_a_fresh_process(tmp_path):
    pytest.importorskip("safetensors")
    straight, stopped, data = trainer(), trainer(), stream()
    fit(straight, data, epochs=2)
    fit(stopped, data, epochs=2, callbacks=lambda t, r: t.updates == 17)
    stopped.save_checkpoint(tmp_path / "checkpoint", extra={"note": [1, 2.5, None]})
    (tmp_path / "tests_of_trainer.py").write_text(pathlib.Path(__file__).read_text())
    root = str(pathlib.Path(fastrnn.__file__).parents[1])
    script = f"import sys; sys.path[:0] = {[root, str(tmp_path)]!r}\n" + textwrap.dedent(SCRIPT)
    script = script.replace("**OPTIONS", "seed=99")  # the checkpoint's generators count
    subprocess.run([sys.executable, "-c", script, tmp_path / "checkpoint", tmp_path / "out"], check=True)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "out"), straight.model.parameters_to_vector())


def test_checkpoints_that_do_not_fit(tmp_path):
    pytest.importorskip("safetensors")
    path, job = tmp_path / "checkpoint", trainer()
    fit(job, stream(), callbacks=lambda t, r: t.updates == 3)
    job.save_checkpoint(path)
    before = job.model.parameters_to_vector()
    tensors, meta = fastrnn.storage.load_tensors(path, "checkpoint")

    def wrong(name, tensors=tensors, **changes):
        fastrnn.storage.save_tensors(tmp_path / name, "checkpoint", tensors, {**meta, **changes})
        return tmp_path / name

    fastrnn.save(job.model, tmp_path / "model")
    random = [dict(state) for state in meta["random"]]
    random[0]["bit_generator"] = "MT19937"
    others = trainer(model(dtype="float32")), trainer(optimizer=fastrnn.SGD(0.1)), trainer(model(dropout=0.5))
    for other in others:
        with pytest.raises(fastrnn.FormatError, match="does not fit"):
            other.load_checkpoint(path)
    narrow = {**tensors, "optimizer.exp_avg": tensors["optimizer.exp_avg"][:-1]}
    for file in (
        tmp_path / "model",
        wrong("updates", updates=-1),
        wrong("random", random=random),
        wrong("fewer", random=random[:1]),
        wrong("layout", state=[None, ["nowhere", "state.1"], None, None]),
        wrong("state", state=[None, ["state.0", "0.weight"], None, None]),
        wrong("optimizer", optimizer={}),
        wrong("moments", narrow),
        wrong("parameters", {n: a for n, a in tensors.items() if n != "model.0.weight"}),
    ):
        fresh = trainer()
        start, places = fresh.model.parameters_to_vector(), bptt.random_states(fresh.model)
        with pytest.raises(fastrnn.FormatError):
            fresh.load_checkpoint(file)
        np.testing.assert_array_equal(fresh.model.parameters_to_vector(), start)
        assert bptt.random_states(fresh.model) == places and fresh.updates == 0
        assert fresh.optimizer.state_dict().keys() == fastrnn.Adam().state_dict().keys()
    with pytest.raises(OSError):
        job.load_checkpoint(tmp_path / "nothing")
    with pytest.raises(TypeError):
        job.save_checkpoint(path, extra={"no": object()})
    np.testing.assert_array_equal(job.model.parameters_to_vector(), before)
    job.load_checkpoint(path)


def test_other_generators_and_layers(tmp_path):
    """Bit generators whose state has arrays, and a layer that a file can't name."""
    pytest.importorskip("safetensors")

    class Mine(fastrnn.Tanh):
        pass

    def make():
        rng = np.random.Generator(np.random.MT19937(0))
        return trainer(fastrnn.Sequential(fastrnn.OneHot(V, dtype="float64"), Mine(dtype="float64"),
                                          fastrnn.Dropout(0.5, dtype="float64", seed=rng),
                                          fastrnn.Linear(V, V, dtype="float64", seed=0)))  # fmt: skip

    one, other = make(), make()
    one.step(*batch())
    one.save_checkpoint(tmp_path / "checkpoint")
    other.load_checkpoint(tmp_path / "checkpoint")
    for job in (one, other):
        job.step(*batch(1))
    np.testing.assert_array_equal(one.model.parameters_to_vector(), other.model.parameters_to_vector())


class Stop(Exception):
    """What a user's handler of Ctrl-C raises."""


def _stop(*_):
    raise Stop


@pytest.fixture
def handler():
    """A user's handler of Ctrl-C, which is there again afterwards."""
    before = signal.signal(signal.SIGINT, _stop)
    yield _stop
    assert signal.signal(signal.SIGINT, before) is _stop


def _small_trainer(optimizer):
    return fastrnn.Trainer(fastrnn.Linear(1, 1, seed=0), fastrnn.MSE(), optimizer)


_SMALL_BATCH = [(np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32))]


def test_trainer_answers_a_users_handler_between_updates(handler):
    class Interrupted(fastrnn.SGD):
        def step(self, model, factor=1.0):
            signal.raise_signal(signal.SIGINT)
            super().step(model, factor)

    trainer = _small_trainer(Interrupted(0.1))
    with pytest.raises(Stop):
        trainer.fit(_SMALL_BATCH, epochs=3, progress=False)
    assert trainer.updates == trainer.optimizer.state_dict()["step"] == 1


def test_trainer_answers_ctrl_c_in_a_callbacks_end():
    class Finishing:
        def __call__(self, trainer, record):
            pass

        def finish(self, trainer):
            signal.raise_signal(signal.SIGINT)

    history = _small_trainer(fastrnn.SGD(0.1)).fit(_SMALL_BATCH, callbacks=Finishing(), progress=False)
    assert history.stopped == "interrupt"


def test_trainer_leaves_a_handler_that_a_callback_has_set(handler):
    def ignore(trainer, record):
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    _small_trainer(fastrnn.SGD(0.1)).fit(_SMALL_BATCH, callbacks=ignore, progress=False)
    assert signal.signal(signal.SIGINT, handler) == signal.SIG_IGN
