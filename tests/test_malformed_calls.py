"""Wrong arguments end in a sentence that names them. What `tests/torture/calls` found is kept here."""

import math
import warnings

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import data, diagnostics
from fastrnn.callbacks import EarlyStopping, ReduceOnPlateau
from tests.torture.calls.malformations import Raises

LONG = 10**5000  # more digits than Python writes


def net():
    return fr.Sequential(fr.Embedding(5, 3, seed=1), fr.GRU(3, 4, seed=2), fr.Linear(4, 5, seed=3))


def refused(error, pattern, function, *args, **kwargs):
    """Check the error, that its message is one line, and that there is no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=pattern) as caught:
            function(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "\udce4", np.zeros((3, 3)), [[["f4"]]], Raises()])
def test_dtype_must_be_one(value):
    refused(TypeError, "dtype must be 'float32' or 'float64'", fr.Tanh, dtype=value)


@pytest.mark.parametrize("sign", [1, -1])
def test_integers_of_thousands_of_digits(sign):
    refused(ValueError, "hidden_size must .* bits", fr.LSTM, 3, sign * LONG)
    refused(ValueError, "T must .* bits", fr.Linear(2, 2).workspace, sign * LONG, 1)
    refused(ValueError, "step must .* bits", fr.WarmUp(3), sign * LONG)
    refused(TypeError, "lr must be a real number", fr.SGD, sign * LONG)


def test_objects_that_raise_when_they_are_looked_at():
    refused(TypeError, "patience must be an integer, got Raises", fr.EarlyStopping, Raises())
    refused(TypeError, "min_lr must be a real number, got Raises", fr.ReduceOnPlateau, min_lr=Raises())
    refused(TypeError, "x can't be taken as an array: no array", fr.Tanh().forward, Raises())


def test_an_array_is_no_number_unless_it_has_no_dimensions():
    refused(TypeError, "lr must be a real number, got ndarray", fr.SGD, np.array([0.5]))
    assert fr.SGD(np.array(0.5)).lr == 0.5


@pytest.mark.parametrize("value", [np.zeros((40, 3)), [[1, 2]] * 40, "a" * 1000])
def test_messages_show_no_whole_arrays(value):
    refused(TypeError, "bias must be True or False, got [a-z]+$", fr.Linear, 2, 2, bias=value)
    refused(TypeError, "bptt must be a rule", fr.Trainer, fr.Tanh(), fr.MSE(), fr.SGD(), bptt=value)
    refused(TypeError, "loss must be a loss of fastrnn", fr.Trainer, fr.Tanh(), value, fr.SGD())
    refused(TypeError, "optimizer must be an optimizer of fastrnn", fr.Trainer, fr.Tanh(), fr.MSE(), value)


def test_a_step_names_its_own_argument():
    for layer in (fr.Linear(4, 3), fr.Tanh(), fr.Dropout(0.5)):
        refused(TypeError, "x_t must hold floating-point numbers", layer.step, np.zeros((2, 4), bool))
        refused(ValueError, "x_t must not be empty", layer.step, np.zeros((0, 4), np.float32))


def test_callbacks_want_a_trainer_and_a_record():
    for callback in (EarlyStopping(3), ReduceOnPlateau()):
        refused(TypeError, "record must be", callback, None, None)
        refused(TypeError, "trainer must be", callback, None, {"validation_loss": 1.0})
    refused(TypeError, "trainer must be", EarlyStopping(3).finish, None)
    trainer = fr.Trainer(fr.Linear(2, 2), fr.MSE(), fr.SGD())
    stopping = EarlyStopping(3)
    stopping(trainer, {"validation_loss": 1.0})
    refused(TypeError, "model must be a layer or model of fastrnn, got int", stopping.restore, 3)
    watch = diagnostics.WatchGradients((np.zeros((3, 1, 2), np.float32),) * 2)
    refused(TypeError, "trainer must be", watch, 3, {"loss": 1.0})


def test_padding_with_a_value_beyond_the_dtype():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, _ = data.pad([np.zeros(1, "f4"), np.zeros(2, "f4")], value=1e60)
    assert x[1, 0] == np.inf


def test_dropout_of_the_largest_numbers_does_not_warn():
    layer = fr.Dropout(0.5, seed=1)
    workspace = layer.workspace(3, 2)
    x = np.full((3, 2, 4), np.finfo(np.float32).max)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, _ = layer.forward(x, workspace=workspace)
        layer.backward(x, workspace=workspace)
    assert set(np.unique(y)) == {0, np.inf}


def test_a_forecast_of_more_steps_than_there_is_memory_for():
    pytest.importorskip("sklearn")
    from fastrnn.estimators import RNNForecaster

    forecaster = RNNForecaster(hidden_size=2, epochs=1, random_state=1).fit(np.sin(np.arange(60.0)))
    refused(MemoryError, "a forecast of .* bytes", forecaster.predict, steps=2**50)


def test_what_must_be_a_sequence():
    start = np.zeros(3, np.int64)
    refused(TypeError, "exclude must be a sequence of tokens, got None", fr.generate, net(), start, 3, exclude=None)
    refused(TypeError, "exclude must be a sequence of tokens, got 3", fr.beam_search, net(), start, 3, 2, exclude=3)
    refused(TypeError, "sequences must be a sequence of arrays", data.pad, np.array(1.0))
    refused(TypeError, "quantiles must be a sequence of numbers", fr.Quantile, 3)
    batch = np.zeros((3, 1, 2), np.float32)
    gru = fr.GRU(2, 2)
    refused(TypeError, "horizons must be a sequence", diagnostics.truncation_bias, gru, fr.MSE(), batch, batch, None)
    trainer = fr.Trainer(gru, fr.MSE(), fr.SGD())
    refused(TypeError, "callbacks must be", trainer.fit, [(batch, batch)], callbacks=np.array(1.0))


def test_padding_does_not_lose_a_mask():
    refused(TypeError, r"sequences\[0\] is a masked array", data.pad, [np.ma.masked_equal([1.0, 2.0], 2.0)])


def test_states_of_streams_and_rules_are_not_written_out():
    array = np.zeros((30, 3, 4))
    stream = data.TokenStream(np.arange(20), 2, 3)
    refused(ValueError, "state must be what TokenStream.state_dict returns, got ndarray", stream.load_state_dict, array)
    feedback = fr.bptt.Feedback(0.5)
    refused(ValueError, "state must be what Feedback.state_dict returns, got ndarray", feedback.load_state_dict, array)


def test_rules_take_numbers():
    growing = fr.bptt.Growing(every="plateau")
    refused(TypeError, "validation_loss must be a number, got NoneType", growing.observe, None)
    growing.observe(math.nan)  # of a run that went wrong, it is no improvement
    assert repr(fr.bptt.Randomized(0.5, np.array(3))) == repr(fr.bptt.Randomized(0.5, 3))


def test_the_smallest_tolerance_of_gradcheck():
    x = np.ones((2, 1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fr.gradcheck(fr.Linear(2, 2, dtype="float64", seed=1), fr.MSE(), x, x, tolerance=5e-324)


def test_options_of_a_watch_are_checked_at_once():
    batch = (np.zeros((3, 1, 2), np.float32),) * 2
    refused(TypeError, "jacobians must be an integer", diagnostics.WatchGradients, batch, jacobians=object())
    refused(ValueError, "max_lag must be at least 1", diagnostics.WatchGradients, batch, max_lag=0)


def test_a_number_is_no_path():
    for path in (0, True, np.uint64(3)):
        refused(TypeError, "path must be a string", fr.load, path)


@pytest.mark.parametrize("value, error", [(0, ValueError), (-1.0, ValueError), ("a", TypeError), (None, None)])
def test_the_denominator_of_a_loss(value, error):
    y = np.ones((2, 3), np.float32)
    if error is None:
        assert fr.MSE().evaluate(y, y, denominator=value)[0] == 0
    else:
        refused(error, "denominator must be", fr.MSE().evaluate, y, y, denominator=value)


def test_schedules_that_grow_beyond_floats():
    assert fr.Exponential(2.0)(10**6) == math.inf
    assert fr.StepDecay(1, 2.0)(10**6) == math.inf


def test_strings_of_numpy():
    assert repr(fr.MSE(reduction=np.str_("sum"))) == repr(fr.MSE(reduction="sum"))


def test_generate_refuses_more_steps_than_there_is_memory_for():
    refused(MemoryError, "bytes", fr.generate, net(), np.zeros((3, 2), np.int64), 2**50)
    refused(MemoryError, "bytes", fr.generate, net(), np.zeros((3, 2), np.int64), 2**62)


def test_beam_search_refuses_a_penalty_beyond_floats():
    refused(ValueError, "length_penalty must leave", fr.beam_search, net(), np.arange(3), 3, 2, length_penalty=1e6)


def test_pictures_want_their_own():
    pytest.importorskip("matplotlib")
    from fastrnn import plot

    refused(TypeError, "picture must be Axes or a Figure", plot.save, 3, "p.png")
    refused(TypeError, "dpi must be an integer", plot.save, plot.new_figure("test", 1, 1), "p.png", dpi=2j)
    refused(MemoryError, "the picture needs .* bytes", plot.save, plot.new_figure("test", 1, 1), "p.png", dpi=10**30)
    refused(TypeError, "width must be a real number", plot.new_figure, "test", Raises(), 1)


@pytest.mark.parametrize("kind", ["RNNClassifier", "RNNRegressor", "SequenceScaler"])
def test_features_per_step_of_estimators_is_always_checked(kind):
    pytest.importorskip("sklearn")
    from fastrnn import estimators

    estimator = getattr(estimators, kind)(features_per_step=None)
    refused(TypeError, "features_per_step must be an integer", estimator.fit, np.ones((4, 3, 2)), [0, 1, 0, 1])


def test_paths_and_what_goes_into_files(tmp_path):
    layer, path = fr.Linear(1, 1, seed=0), tmp_path / "file"
    refused(TypeError, "path must be a string or another path, got int", fr.save, layer, 5)
    refused(ValueError, "path must not hold zero bytes", fr.save, layer, "a\0b")
    refused(ValueError, "path must not hold zero bytes", fr.load, "a\0b")
    refused(IsADirectoryError, "Is a directory", fr.save, layer, f"{path}/")
    refused(TypeError, "extra must hold what JSON can", fr.save, layer, path, extra={"a": np.float32(1)})
    refused(ValueError, "extra must hold what JSON can", fr.save, layer, path, extra=10**5000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("factor", [None, "a", [1.0], 10**400, np.array([0.5]), np.nan, -1, True])
def test_what_a_schedule_returns(factor):
    trainer = fr.Trainer(fr.Linear(1, 1, seed=0), fr.MSE(), fr.SGD(0.1), schedule=lambda _: factor)
    before, x = trainer.model.parameters_to_vector(), np.ones((1, 1, 1), np.float32)
    refused((TypeError, ValueError), "what schedule returns must be", trainer.step, x, x)
    assert trainer.updates == 0 and np.array_equal(trainer.model.parameters_to_vector(), before)


def test_a_learning_rate_that_becomes_infinite():
    refused(ValueError, "factor must leave the learning rate", fr.SGD(1e300).step, fr.Linear(1, 1, seed=0), 1e300)
