"""Callbacks that go by the validation loss, against a scripted loss and PyTorch's scheduler."""

import json
import math
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.trainer import Trainer

LOSSES = st.lists(st.floats(0.1, 2.0) | st.just(math.nan), min_size=1, max_size=12)


class Scripted(Trainer):
    """Each epoch's validation loss is given; the parameters before each validation are remembered."""

    def __init__(self, losses, **options):
        model = fastrnn.Linear(2, 1, dtype="float64", seed=0)
        super().__init__(model, fastrnn.MSE(), fastrnn.SGD(0.1), **options)
        self._script, self.weights = iter(losses), []

    def evaluate(self, batches):
        self.weights.append(self.model.parameters_to_vector())
        return next(self._script)

    def run(self, epochs, *callbacks):
        rng = np.random.default_rng(0)
        batches = [(rng.standard_normal((3, 2, 2)), rng.standard_normal((3, 2, 1)))] * 2
        return self.fit(batches, epochs=epochs, validation=batches, callbacks=callbacks, progress=False)


def naive_early_stopping(losses, patience, min_delta):
    """Number of epochs, and the index of the best."""
    improved, waited, seen = math.inf, 0, []
    for loss in losses:
        seen.append(math.inf if math.isnan(loss) else loss)
        improved, waited = (loss, 0) if loss < improved - min_delta else (improved, waited + 1)
        if waited == patience:
            break
    return len(seen), None if min(seen) == math.inf else seen.index(min(seen))


@settings(deadline=None, max_examples=40)
@given(LOSSES, st.integers(1, 4), st.sampled_from([0.0, 0.2]))
def test_early_stopping(losses, patience, min_delta):
    """It stops in time, and the best weights come back whether it has stopped or the epochs were over."""
    job, stopping = Scripted(losses), fastrnn.EarlyStopping(patience, min_delta=min_delta)
    history = job.run(len(losses), stopping)
    epochs, best = naive_early_stopping(losses, patience, min_delta)
    assert len(job.weights) == epochs
    assert history.stopped == ("callback" if stopping.waited >= patience else None)
    expected = job.weights[-1 if best is None else best]
    np.testing.assert_array_equal(job.model.parameters_to_vector(), expected)
    assert stopping.best == (math.inf if best is None else losses[best])


def test_early_stopping_without_restoring():
    job, stopping = Scripted([1.0, 2.0, 3.0]), fastrnn.EarlyStopping(2, restore_best=False)
    assert job.run(3, stopping).stopped == "callback"
    np.testing.assert_array_equal(job.model.parameters_to_vector(), job.weights[2])
    with pytest.raises(ValueError, match="no weights are kept"):
        stopping.restore(job.model)


def test_early_stopping_leaves_a_pause_alone():
    """Ctrl-C: training can go on from the very weights; `restore` gives the best ones for the asking."""
    job, stopping = Scripted([1.0, 2.0, 3.0, 4.0]), fastrnn.EarlyStopping(9)
    history = job.run(4, stopping, lambda t, r: r.get("validation_loss") == 3 and signal.raise_signal(signal.SIGINT))
    assert history.stopped == "interrupt"
    np.testing.assert_array_equal(job.model.parameters_to_vector(), job.weights[2])
    stopping.restore(job.model)
    np.testing.assert_array_equal(job.model.parameters_to_vector(), job.weights[0])


def test_another_callback_that_stops_gives_the_best_back_too():
    job, stopping = Scripted([1.0, 2.0]), fastrnn.EarlyStopping(9)
    assert job.run(5, lambda t, r: t.updates == 4 and t.batch == 2, stopping).stopped == "callback"
    np.testing.assert_array_equal(job.model.parameters_to_vector(), job.weights[0])


def test_finish_is_called_for_any_callback():
    class Counting:
        calls = 0

        def __call__(self, trainer, record):
            assert self.calls == 0

        def finish(self, trainer):
            self.calls += 1

    counting = Counting()
    Scripted([1.0]).run(1, counting)
    assert counting.calls == 1


@settings(deadline=None, max_examples=60)
@given(
    LOSSES, st.sampled_from([0.5, 0.1]), st.integers(0, 3), st.sampled_from(["rel", "abs"]),
    st.sampled_from([1e-4, 0.3]), st.integers(0, 2), st.sampled_from([0.0, 0.02]), st.sampled_from([1e-8, 0.06]),
)  # fmt: skip
def test_reduce_on_plateau_as_torch(losses, factor, patience, threshold_mode, threshold, cooldown, min_lr, eps):
    torch = pytest.importorskip("torch")
    options = {"threshold": threshold, "threshold_mode": threshold_mode, "cooldown": cooldown, "eps": eps}
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, factor=factor, patience=patience, min_lr=min_lr, **options
    )
    plateau, job, rates = fastrnn.ReduceOnPlateau(factor, patience, min_lr, **options), Scripted(losses), []
    job.run(len(losses), plateau, lambda t, r: "validation_loss" in r and rates.append(t.optimizer.lr))
    for rate, loss in zip(rates, losses, strict=True):
        scheduler.step(loss)
        assert rate == theirs.param_groups[0]["lr"]


def test_callbacks_go_on_from_their_state():
    losses, cut = [1.0, 0.5, 0.9, 0.8, 0.7, 0.6], 3
    straight = Scripted(losses)
    straight.run(6, stopping := fastrnn.EarlyStopping(4), plateau := fastrnn.ReduceOnPlateau(0.5, 1, cooldown=1))
    first, second = Scripted(losses[:cut]), Scripted(losses[cut:])
    paused, resumed = ([fastrnn.EarlyStopping(4), fastrnn.ReduceOnPlateau(0.5, 1, cooldown=1)] for _ in range(2))
    first.run(cut, *paused, lambda t, r: t.epoch == cut and signal.raise_signal(signal.SIGINT))
    for new, old in zip(resumed, paused, strict=True):
        new.load_state_dict(old.state_dict())
    assert json.loads(json.dumps(paused[1].state_dict())) == paused[1].state_dict()
    second.model.vector_to_parameters(first.model.parameters_to_vector())
    second.optimizer.lr = first.optimizer.lr
    second.run(6 - cut, *resumed)
    np.testing.assert_array_equal(second.model.parameters_to_vector(), straight.model.parameters_to_vector())
    assert second.optimizer.lr == straight.optimizer.lr
    for new, old in zip(resumed, (stopping, plateau), strict=True):
        for name, value in old.state_dict().items():
            np.testing.assert_array_equal(new.state_dict()[name], value)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: fastrnn.EarlyStopping(0), ValueError),
        (lambda: fastrnn.EarlyStopping(2.0), TypeError),
        (lambda: fastrnn.EarlyStopping(2, min_delta=-1), ValueError),
        (lambda: fastrnn.EarlyStopping(2, restore_best=1), TypeError),
        (lambda: fastrnn.ReduceOnPlateau(1.0), ValueError),
        (lambda: fastrnn.ReduceOnPlateau(patience=-1), ValueError),
        (lambda: fastrnn.ReduceOnPlateau(min_lr=-1), ValueError),
        (lambda: fastrnn.ReduceOnPlateau(threshold_mode="max"), ValueError),
        (lambda: fastrnn.ReduceOnPlateau(cooldown=0.5), TypeError),
    ],
)
def test_callbacks_refuse(make, error):
    with pytest.raises(error):
        make()


@pytest.mark.parametrize("make", [lambda: fastrnn.EarlyStopping(3), fastrnn.ReduceOnPlateau], ids=["stop", "plateau"])
def test_callbacks_refuse_states_and_training_without_validation(make):
    callback = make()
    state = callback.state_dict()
    for wrong, error in (
        (None, TypeError), ({}, ValueError), ({**state, "more": 1}, ValueError), ({**state, "waited": -1}, ValueError),
        ({**state, "best": math.nan}, ValueError), ({**state, "best": "low"}, TypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            callback.load_state_dict(wrong)
        assert callback.state_dict() == state
    if "weights" in state:
        for weights in ([[1.0]], np.ones(3, int), np.zeros(0)):
            with pytest.raises((TypeError, ValueError)):
                callback.load_state_dict({**state, "weights": weights})
    assert type(callback).__name__ in repr(callback)
    job = Scripted([])
    with pytest.raises(ValueError, match="validation must be given"):
        job.fit([(np.zeros((3, 2, 2)), np.zeros((3, 2, 1)))], callbacks=callback, progress=False)
    assert job.updates == 0


def test_reduce_on_plateau_is_no_schedule():
    with pytest.raises(TypeError, match="callback of fit"):
        fastrnn.Trainer(fastrnn.GRU(2, 3), fastrnn.MSE(), fastrnn.SGD(0.1), schedule=fastrnn.ReduceOnPlateau())


def test_callbacks_refuse_losses_that_are_none():
    trainer = fastrnn.Trainer(fastrnn.Linear(1, 1, seed=0), fastrnn.MSE(), fastrnn.SGD(0.1))
    for callback in (fastrnn.EarlyStopping(2), fastrnn.ReduceOnPlateau()):
        for loss in (10**400, 1j, "none", None, [1.0, 2.0]):
            with pytest.raises(TypeError, match="validation_loss of record"):
                callback(trainer, {"validation_loss": loss})
        assert callback.best == math.inf and callback.waited == 0


def test_callbacks_are_objects_not_classes():
    net = fastrnn.Linear(1, 1, seed=0)
    trainer, batch = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.SGD(0.1)), (np.ones((2, 1, 1)), np.ones((2, 1, 1)))
    for callbacks in (fastrnn.EarlyStopping, [dict]):
        with pytest.raises(TypeError, match="callbacks must be objects, got the class"):
            trainer.fit([batch], validation=[batch], callbacks=callbacks, progress=False)
    assert trainer.updates == 0


@pytest.mark.parametrize(
    "entry, value",
    [("best", np.array(["a", "b"])), ("best", np.zeros(2, [("a", int)])), ("best", 1j), ("improved", [np.inf]),
     ("weights", False), ("weights", np.zeros(3, np.uint8)), ("weights", 1j), ("weights", iter(()))],
)  # fmt: skip
def test_callbacks_states_that_do_not_fit_are_named(entry, value):
    stopping = fastrnn.EarlyStopping(2)
    state = stopping.state_dict()
    with pytest.raises((TypeError, ValueError), match=entry):
        stopping.load_state_dict(state | {entry: value})
    assert stopping.state_dict() == state
