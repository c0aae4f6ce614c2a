"""Ctrl-C, a user's handler of it, and errors at the worst moments of a trainer's work."""

import signal

import numpy as np
import pytest

import fastrnn
from fastrnn import passes
from fastrnn import trainer as trainer_module
from fastrnn.data import WindowBatches

SERIES = np.random.default_rng(0).standard_normal((60, 2), dtype=np.float32)
OTHER = np.random.default_rng(1).standard_normal((40, 2), dtype=np.float32)


def press(*_):
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def make_trainer(**options):
    layers = fastrnn.Dropout(0.2), fastrnn.GRU(2, 4, seed=0), fastrnn.Last(), fastrnn.Linear(4, 2, seed=1)
    return fastrnn.Trainer(fastrnn.Sequential(*layers), fastrnn.MSE(), fastrnn.SGD(0.1, momentum=0.9), **options)


def training(**options):
    return WindowBatches(SERIES, 5, batch_size=16, shuffle=True, seed=1, **options)


def validation():
    return WindowBatches(OTHER, 5, batch_size=8, shuffle=True, seed=2)


def before(owner, name, do, at=1):
    """Let `owner`'s method `name` do something else first at its call number `at`."""
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            do()
        return real(*args, **kwargs)

    setattr(owner, name, call)


class Recorder:
    """A callback that notes what it is told of; with `state`, one that keeps a state."""

    def __init__(self):
        self.steps = []

    def __call__(self, trainer, record):
        self.steps.append(record["step"])


class StateKeeper(Recorder):
    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = list(state["steps"])


def press_at(step):
    return lambda trainer, record: record["step"] == step and press()


def fail_at(step):
    def fail(trainer, record):
        if record["step"] == step:
            raise RuntimeError("broken")

    return fail


def press_in_update(trainer):
    trainer.schedule = lambda step: (step == 1 and press()) or 1.0


@pytest.mark.parametrize("kind", [Recorder, StateKeeper])
@pytest.mark.parametrize("breaks", ["update", "callback", "error"])
def test_interrupts_keep_no_callback_from_a_record(breaks, kind):
    trainer, batches, first, last = make_trainer(), training(), kind(), kind()
    between = {"update": lambda *_: None, "callback": press_at(2), "error": fail_at(2)}[breaks]
    if breaks == "update":
        press_in_update(trainer)
    callbacks = first, between, last
    if breaks == "error":
        with pytest.raises(RuntimeError, match="broken"):
            trainer.fit(batches, callbacks=callbacks, progress=False)
    else:
        history = trainer.fit(batches, callbacks=callbacks, progress=False)
        assert history.stopped == "interrupt" and [record["step"] for record in history] == [1, 2]
    trainer.schedule = None
    trainer.fit(batches, callbacks=(first, last), progress=False)
    assert first.steps == last.steps == list(range(1, len(batches) + 1))


def test_interrupts_leave_a_callback_with_a_state_whole():
    class Halves(StateKeeper):
        def __call__(self, trainer, record):
            press()
            super().__call__(trainer, record)

    trainer, callback = make_trainer(), Halves()
    assert trainer.fit(training(), callbacks=callback, progress=False).stopped == "interrupt"
    assert callback.steps == [1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupts_keep_no_callback_from_stopping(when):
    trainer, stop = make_trainer(), lambda trainer, record: True
    callbacks = {"before": (press_at(1), stop), "after": (stop, press_at(1))}[when]
    history = trainer.fit(training(), callbacks=callbacks, progress=False)
    assert history.stopped == "callback" and history.interrupted
    assert not make_trainer().fit(training(), callbacks=stop, progress=False).interrupted


def test_interrupts_with_an_error_are_both_told_of():
    def schedule(step):
        press()
        raise RuntimeError("broken")

    trainer, handler = make_trainer(schedule=schedule), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as raised:
        trainer.fit(training(), progress=False)
    assert str(raised.value.__context__) == "broken"
    assert signal.getsignal(signal.SIGINT) is handler
    trainer.schedule = None
    trainer.step(*next(iter(training())))
    assert trainer.fit(training(), progress=False).stopped is None


def test_interrupts_after_a_fit_within_a_fit_was_refused():
    trainer, handler = make_trainer(), signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="at work"):
        trainer.fit(training(), callbacks=lambda trainer, _: trainer.fit(training()), progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert trainer.fit(training(), callbacks=press_at(2), progress=False).stopped == "interrupt"


def test_interrupts_of_a_callback_that_trains():
    """Its own steps are whole, and the rest of it can be left."""
    batches, left = training(), []

    def callback(trainer, record):
        if not left:
            before(trainer.optimizer, "step", press)
            left.append(trainer.updates)
            trainer.step(*batch)
            left.append("gone on")

    trainer, batch = make_trainer(), next(iter(training()))
    assert trainer.fit(batches, callbacks=callback, progress=False).stopped == "interrupt"
    assert left == [1]
    assert trainer.updates == trainer.optimizer.state_dict()["step"] == 2

    def train_and_wait(trainer, record):
        trainer.step(*batch)
        press()
        left.append("not left")

    assert trainer.fit(batches, callbacks=train_and_wait, progress=False).stopped == "interrupt"
    assert "not left" not in left


def test_interrupts_of_a_step_alone_come_after_its_update():
    trainer, batch = make_trainer(), next(iter(training()))
    before(trainer.optimizer, "step", press)
    with pytest.raises(KeyboardInterrupt):
        trainer.step(*batch)
    assert trainer.updates == trainer.optimizer.state_dict()["step"] == 1


def test_interrupts_twice_leave_generators_where_the_last_update_left_them(monkeypatch):
    trainer, batch = make_trainer(), next(iter(training()))
    generator, *_ = trainer.model._generators()
    state = generator.bit_generator.state
    before(trainer.loss, "evaluate", press)
    before(trainer.bptt, "load_state_dict", press)
    monkeypatch.setattr("fastrnn.trainer.set_random_states", _pressing(trainer_module.set_random_states))
    with pytest.raises(KeyboardInterrupt):
        trainer.step(*batch)
    assert generator.bit_generator.state == state and trainer.updates == 0


def _pressing(real):
    def call(*args):
        press()
        return real(*args)

    return call


def test_interrupts_of_loading_come_when_all_is_taken(tmp_path):
    trainer, path = make_trainer(), tmp_path / "checkpoint"
    for batch in training():
        trainer.step(*batch)
    trainer.save_checkpoint(path)
    other = make_trainer()
    before(other.model, "load_state_dict", press)
    with pytest.raises(KeyboardInterrupt):
        other.load_checkpoint(path)
    assert other.updates == other.optimizer.state_dict()["step"] == trainer.updates
    np.testing.assert_array_equal(other.model.parameters_to_vector(), trainer.model.parameters_to_vector())


EPOCHS = 6


def plateau():
    return fastrnn.ReduceOnPlateau(patience=0, factor=0.5)


def fit_rest(trainer, batches, held_out, *callbacks):
    epochs = EPOCHS - trainer.epoch
    history = trainer.fit(batches, epochs=epochs, validation=held_out, callbacks=callbacks, progress=False)
    return [record["validation_loss"] for record in history if "validation_loss" in record]


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("anew", [False, True])
def test_interrupts_lose_no_place_in_a_shuffled_validation(tmp_path, epoch, anew):
    straight = make_trainer()
    expected = fit_rest(straight, training(), validation(), plateau())
    trainer, batches, held_out, callback = make_trainer(), training(), validation(), plateau()
    real = trainer.evaluate
    trainer.evaluate = lambda batches: (real(batches), trainer.epoch == epoch and press())[0]
    found = fit_rest(trainer, batches, held_out, callback)
    assert len(found) == epoch
    trainer.evaluate = real
    trainer.save_checkpoint(tmp_path / "checkpoint")
    if anew:
        trainer, batches, held_out, callback = make_trainer(), training(), validation(), plateau()
        trainer.load_checkpoint(tmp_path / "checkpoint")
    assert found + fit_rest(trainer, batches, held_out, callback) == expected
    np.testing.assert_array_equal(trainer.model.parameters_to_vector(), straight.model.parameters_to_vector())


def test_interrupts_of_a_validation_are_no_place_in_another():
    trainer, other = make_trainer(), WindowBatches(OTHER, 4, batch_size=3, shuffle=True, seed=2)
    fit_rest(trainer, training(), validation(), lambda trainer, _: trainer.epoch == 1)
    fit_rest(trainer, training(), other, lambda trainer, _: trainer.epoch == 2)
    assert other.state_dict()["epoch"] == 1


def test_interrupts_validation_may_be_an_array():
    """Of batches: a sequence that has no truth value."""
    trainer = fastrnn.Trainer(fastrnn.Linear(2, 1, seed=0), fastrnn.MSE(), fastrnn.SGD(0.1))
    pair = [(np.ones((3, 2), np.float32), np.ones((3, 1), np.float32))] * 2
    batches = np.empty(2, object)
    batches[:] = [tuple(one) for one in pair]
    assert len(trainer.fit(pair, validation=batches, progress=False)) == 3


# ---- what stays half done ----


@pytest.mark.parametrize("what", ["_fill_schedule", "Buffers"])
def test_interrupts_leave_no_layout_of_another_batch(what, monkeypatch):
    """A workspace that is new, or has served a larger batch, is laid out anew after what came in between."""
    layer, x, dy = fastrnn.LSTM(3, 4, seed=0), np.ones((5, 2, 3), np.float32), np.ones((5, 2, 4), np.float32)

    def gradients(workspace):
        layer.zero_grad()
        layer.forward(x, workspace=workspace)
        layer.backward(dy, workspace=workspace)
        return layer.gradients_to_vector()

    expected, workspace = gradients(layer.workspace(5, 64)), layer.workspace(5, 64)
    if what == "_fill_schedule":
        layer.forward(np.ones((5, 64, 3), np.float32), workspace=workspace)
    real = getattr(passes, what)

    def interrupted(*_):
        monkeypatch.setattr(passes, what, real)
        raise KeyboardInterrupt

    monkeypatch.setattr(passes, what, interrupted)
    with pytest.raises(KeyboardInterrupt):
        layer.forward(x, workspace=workspace)
    np.testing.assert_array_equal(gradients(workspace), expected)


def test_interrupts_leave_no_state_dict_half_loaded():
    layer, other = fastrnn.LSTM(3, 4, seed=0), fastrnn.LSTM(3, 4, seed=1)

    class Presses(dict):
        def __getitem__(self, name):
            press()
            return super().__getitem__(name)

    layer.parameters._value_views = Presses(layer.parameters._value_views)
    with pytest.raises(KeyboardInterrupt):
        layer.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(layer.parameters_to_vector(), other.parameters_to_vector())


def test_what_is_packed_while_somebody_writes_is_stale():
    layer, x = fastrnn.LSTM(3, 4, seed=0), np.ones((5, 2, 3), np.float32)
    with layer.parameters.writing() as values:
        layer.forward(x)  # as another thread may
        values[:] = 0
    assert not layer.forward(x)[0].any()


# ---- handlers that save ----


def ending_of(trainer):
    return trainer.updates, trainer.epoch, trainer.model.parameters_to_vector().tobytes()


class Ended(Exception):
    pass


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("when", ["passes", "update", "callbacks"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_handlers_of_signals_save_a_checkpoint_to_go_on_from(name, when, goes_on, tmp_path, monkeypatch):
    number, straight, path = signal.Signals[name], make_trainer(), tmp_path / "saved"
    straight.fit(training(), epochs=2, progress=False)
    trainer, keeper = make_trainer(), StateKeeper()

    def handler(*_):
        trainer.save_checkpoint(path)
        if not goes_on:
            raise Ended

    def send(*_):
        signal.raise_signal(number)

    if when == "passes":
        before(trainer.loss, "evaluate", send, at=2)  # the masks of this batch have been drawn
    elif when == "update":
        before(trainer.optimizer, "step", send, at=2)
    sends = (lambda _, record: record["step"] == 2 and send()) if when == "callbacks" else lambda *_: None
    handler_before = signal.signal(number, handler)
    try:
        trainer.fit(training(), epochs=2, callbacks=(sends, keeper), progress=False)
        assert goes_on and ending_of(trainer) == ending_of(straight)
    except Ended:
        assert not goes_on
    finally:
        signal.signal(number, handler_before)
    resumed, other = make_trainer(), StateKeeper()
    resumed.load_checkpoint(path)
    resumed.fit(training(), epochs=2, callbacks=other, progress=False)
    assert ending_of(resumed) == ending_of(straight)
    assert other.steps == list(range(1, straight.updates + 1))


def test_all_signals_that_waited_are_answered():
    answered, trainer = [], make_trainer()
    handler = signal.signal(signal.SIGTERM, lambda *_: answered.append("SIGTERM"))

    def both(*_):
        press()
        signal.raise_signal(signal.SIGTERM)

    before(trainer.optimizer, "step", both)
    try:
        assert trainer.fit(training(), progress=False).stopped == "interrupt"
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert answered == ["SIGTERM"]


# ---- callbacks ----


@pytest.mark.parametrize("order", [1, -1])
def test_errors_of_callbacks_are_not_lost_to_an_interrupt(order):
    trainer = make_trainer()
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(training(), callbacks=(press_at(1), fail_at(1))[::order], progress=False)


def test_every_callback_finishes():
    class Finishes(Recorder):
        def finish(self, trainer):
            self.steps.append("finished")
            raise RuntimeError("broken")

    first, last = Finishes(), Finishes()
    with pytest.raises(RuntimeError, match="broken"):
        make_trainer().fit(training(), callbacks=(first, last), progress=False)
    assert first.steps[-1] == last.steps[-1] == "finished"


def test_a_checkpoint_is_not_loaded_by_what_fit_calls(tmp_path):
    trainer, path = make_trainer(), tmp_path / "saved"
    trainer.save_checkpoint(path)
    with pytest.raises(RuntimeError, match="must not call its `load_checkpoint`"):
        trainer.fit(training(), callbacks=lambda trainer, _: trainer.load_checkpoint(path), progress=False)


def test_going_back_goes_back_in_the_validation(tmp_path):
    """With the same objects, to a checkpoint from before the first validation."""
    trainer, batches, others, path = make_trainer(), training(), validation(), tmp_path / "saved"

    def save(trainer, record):
        if record["step"] == 1 and not path.exists():
            trainer.save_checkpoint(path)

    first = trainer.fit(batches, epochs=2, validation=others, callbacks=save, progress=False)
    trainer.load_checkpoint(path)
    again = trainer.fit(batches, epochs=2, validation=others, progress=False)
    losses = [[r["validation_loss"] for r in history if "validation_loss" in r] for history in (first, again)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("way", ["in place", "checkpoint"])
@pytest.mark.parametrize("looked_at", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_look_at_batches_before_training_is_a_pass_of_its_own(looked_at, way, step, tmp_path):
    """Also of those of a validation: the place in them is not what a stop early on goes back to."""

    def made():
        batches, others = training(), validation()
        for look, data in zip(looked_at, (batches, others), strict=True):
            for _ in zip(range(look), data, strict=False):
                pass
        return make_trainer(), batches, others

    trainer, batches, others = made()
    straight = trainer.fit(batches, epochs=2, validation=others, progress=False)
    expected = ending_of(trainer)
    trainer, batches, others = made()
    before(trainer.loss, "evaluate", press, at=step)
    history = trainer.fit(batches, epochs=2, validation=others, progress=False)
    assert history.stopped == "interrupt"
    if way == "checkpoint":
        path = tmp_path / "saved"
        trainer.save_checkpoint(path)
        trainer, batches, others = made()
        trainer.load_checkpoint(path)
    history += trainer.fit(batches, epochs=2 - trainer.epoch, validation=others, progress=False)
    assert ending_of(trainer) == expected
    losses = [[r["validation_loss"] for r in records if "validation_loss" in r] for records in (straight, history)]
    assert losses[0] == losses[1]


def test_a_checkpoint_at_the_first_moment_of_going_on(tmp_path, monkeypatch):
    """Between two epochs: new batches begin where these would."""
    straight, trainer, batches, path = make_trainer(), make_trainer(), training(), tmp_path / "saved"
    straight.fit(training(), epochs=2, progress=False)
    trainer.fit(batches, progress=False)

    def save(*_):
        trainer.save_checkpoint(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_records", save)
    assert trainer.fit(batches, progress=False).stopped == "interrupt"
    resumed = make_trainer()
    resumed.load_checkpoint(path)
    resumed.fit(training(), progress=False)
    assert ending_of(resumed) == ending_of(straight)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals")
@pytest.mark.parametrize("where", ["update", "loss", "validation"])
def test_handlers_may_evaluate_in_the_middle_of_an_update(where):
    """On buffers of their own: the run has the bits of one without them."""

    def run(interrupt):
        trainer, found = make_trainer(), []

        def answer(*_):
            found.append((trainer.evaluate(training()), trainer.evaluate(validation())))
            with pytest.raises(RuntimeError, match="at work"):
                trainer.fit(training(), progress=False)
            if where != "validation":
                with pytest.raises(RuntimeError, match="in the middle of an update"):
                    trainer.step(np.ones((5, 2, 2), np.float32), np.ones((2, 2), np.float32))

        if interrupt:
            target, name = {
                "update": (trainer.model, "_run_back"), "loss": (trainer.loss, "_sum"),
                "validation": (trainer.model.layers[-1], "_compute"),
            }[where]  # fmt: skip
            at = 7 if where == "validation" else 2  # there are 4 batches in an epoch
            before(target, name, lambda: signal.raise_signal(signal.SIGUSR1), at)
        usual = signal.signal(signal.SIGUSR1, answer)
        try:
            history = trainer.fit(training(), epochs=2, validation=validation(), progress=False)
        finally:
            signal.signal(signal.SIGUSR1, usual)
        assert len(found) == interrupt
        records = [{name: value for name, value in record.items() if name != "seconds"} for record in history]
        return records, trainer.model.parameters_to_vector().tolist()

    assert run(True) == run(False)
