"""A fit that is refused, or goes wrong, leaves an estimator as it was; messages name what was wrong."""

import copy
import pickle
import signal
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fastrnn.estimators import RNNClassifier, RNNForecaster, RNNRegressor, SequenceScaler, SequenceTagger
from tests.torture.calls.prints import fingerprint

SMALL = {"hidden_size": 3, "epochs": 2, "batch_size": 16, "dropout": 0.25, "random_state": 0}
X = np.random.default_rng(0).standard_normal((40, 5, 2))
SUMS = X.sum((1, 2))
TARGETS = {
    RNNClassifier: (SUMS > 0).astype(int),
    RNNRegressor: SUMS,
    SequenceTagger: (X.sum(2) > 0).astype(int),
    RNNForecaster: None,
}
SERIES = np.sin(np.arange(60.0))
WRONG = [
    {"learning_rate": -1.0}, {"clip_norm": -1.0}, {"optimizer": "nonsense"}, {"weight_decay": -1.0}, {"epochs": 0},
    {"validation_fraction": 2.0, "early_stopping": True}, {"schedule": "nonsense"}, {"tol": -1.0}, {"patience": 0},
    {"batch_size": 0}, {"cell": "nonsense"}, {"hidden_size": 0}, {"dtype": "int8"},
    {"learning_rate": 1e39, "optimizer": "sgd", "clip_norm": None},  # what becomes infinite
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def data(kind):
    return (SERIES,) if kind is RNNForecaster else (X, TARGETS[kind])


def predicted(estimator):
    return estimator.predict() if isinstance(estimator, RNNForecaster) else estimator.predict(X)


def unchanged(estimator, error, call, *args, **kwargs):
    """Check that a call is refused and has changed nothing."""
    before = fingerprint(vars(estimator))
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert fingerprint(vars(estimator)) == before
    return str(caught.value)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_refused_fit_leaves_an_estimator_as_it_was(kind):
    fitted = kind(**SMALL).fit(*data(kind))
    prediction = predicted(fitted)
    for parameters in WRONG:
        for estimator in (copy.deepcopy(fitted), kind(**SMALL)):
            estimator.set_params(**parameters)
            methods = [estimator.fit]
            if "early_stopping" not in parameters and "epochs" not in parameters and hasattr(estimator, "classes_"):
                methods.append(estimator.partial_fit)
            for method in methods:
                unchanged(estimator, (ValueError, FloatingPointError), method, *data(kind))
            if hasattr(estimator, "model_"):
                np.testing.assert_array_equal(predicted(estimator), prediction)
            else:
                with pytest.raises(NotFittedError):
                    predicted(estimator)


def test_training_that_goes_wrong_after_updates_leaves_an_estimator_as_it_was():
    fitted = RNNRegressor("rnn", **SMALL).fit(X, SUMS)
    fitted.set_params(warm_start=True, optimizer="sgd", learning_rate=1e30, clip_norm=None)
    assert "(after 1 updates)" in unchanged(fitted, FloatingPointError, fitted.fit, X, SUMS)
    unfitted = clone(fitted)
    assert "(after 1 updates)" in unchanged(unfitted, FloatingPointError, unfitted.fit, X, SUMS)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_fit_that_goes_on_and_goes_wrong_leaves_net_and_optimizer_as_they_were(kind, optimizer):
    incremental = {"early_stopping": False} if kind is RNNForecaster else {}
    fitted = kind(**SMALL | {"optimizer": optimizer} | incremental).fit(*data(kind))
    model, more = fitted.model_, SERIES[:20] if kind is RNNForecaster else None
    arguments = (more,) if more is not None else data(kind)
    for wrong in ({"clip_norm": -1.0}, {"learning_rate": 1e39, "clip_norm": None, "optimizer": "sgd"}):
        estimator = copy.deepcopy(fitted).set_params(warm_start=True, **wrong)
        for method, given in ((estimator.fit, data(kind)), (estimator.partial_fit, arguments)):
            unchanged(estimator, (ValueError, FloatingPointError), method, *given)
        estimator.set_params(**fitted.get_params()).partial_fit(*arguments)
        whole = copy.deepcopy(fitted).partial_fit(*arguments)
        assert fingerprint(vars(estimator)) == fingerprint(vars(whole))
    assert fitted.model_ is model


def test_refused_data_leave_an_estimator_as_it_was():
    y = TARGETS[RNNRegressor]
    regressor = RNNRegressor(**SMALL).fit(X, y)
    unchanged(regressor, ValueError, regressor.fit, np.ones((40, 5, 3)), y[:7])
    unchanged(regressor, ValueError, regressor.fit, np.ones((40, 6)), y[:7])
    unchanged(regressor, ValueError, regressor.partial_fit, X, np.stack([y, y], 1))
    assert regressor.predict(X).shape == (40,)
    classifier = RNNClassifier(**SMALL).fit(X, TARGETS[RNNClassifier])
    unchanged(classifier, ValueError, classifier.fit, X[..., :1], TARGETS[RNNClassifier], sample_weight=-np.ones(40))
    tagger = SequenceTagger(**SMALL).fit(X, TARGETS[SequenceTagger])
    unchanged(tagger, ValueError, tagger.fit, X[..., :1], TARGETS[SequenceTagger][:, :3])
    scaler = SequenceScaler().fit(X)
    unchanged(scaler, ValueError, scaler.fit, np.array([[[1.5e308] * 3], [[-1.5e308] * 3]]))
    forecaster = RNNForecaster(**SMALL).fit(SERIES)
    for method in (forecaster.fit, forecaster.partial_fit, forecaster.observe):
        unchanged(forecaster, ValueError, method, np.full((60, 2), np.nan))
        unchanged(forecaster, ValueError, method, np.full((60, 2), 1.7e308))


def test_a_refused_fit_draws_nothing_from_a_generator_that_was_passed():
    state = np.random.RandomState(5)
    refused = RNNRegressor(**SMALL | {"random_state": state, "clip_norm": -1.0})
    unchanged(refused, ValueError, refused.fit, X, SUMS)
    fitted = refused.set_params(clip_norm=1.0).fit(X, SUMS)
    fresh = RNNRegressor(**SMALL | {"random_state": np.random.RandomState(5)}).fit(X, SUMS)
    np.testing.assert_array_equal(fitted.predict(X), fresh.predict(X))


@pytest.mark.parametrize("kind", [RNNRegressor, RNNForecaster])
def test_ctrl_c_leaves_a_whole_estimator(kind):
    """Before an update the one that there was, later the new one with what it has learnt."""
    at = 0

    class Interrupted(kind):
        def _show_epoch(self, text):
            if len(self.loss_curve_) == at:
                signal.raise_signal(signal.SIGINT)

        def _make_optimizer(self):
            if at == 0:
                signal.raise_signal(signal.SIGINT)
            return super()._make_optimizer()

    fitted = kind(**SMALL).fit(*data(kind))
    estimator = Interrupted(**fitted.get_params()).set_params(hidden_size=4, epochs=3)
    vars(estimator).update({name: value for name, value in vars(fitted).items() if name not in fitted.get_params()})
    unchanged(estimator, KeyboardInterrupt, estimator.fit, *data(kind))
    at = 1
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(*data(kind))
    assert len(estimator.loss_curve_) == estimator.n_iter_ == 1 and estimator._fitted["hidden_size"] == 4
    assert np.isfinite(predicted(estimator)).all()
    before = estimator.model_
    at = 2
    with pytest.raises(KeyboardInterrupt):
        estimator.set_params(warm_start=True).fit(*data(kind))
    assert estimator.n_iter_ == 2 and estimator.model_ is not before
    assert estimator.set_params(epochs=1).fit(*data(kind)).n_iter_ == 3


def test_fits_after_a_refusal_are_those_of_a_new_estimator():
    for kind in TARGETS:
        refused = kind(**SMALL).set_params(clip_norm=-1.0)
        unchanged(refused, ValueError, refused.fit, *data(kind))
        fitted, fresh = refused.set_params(clip_norm=1.0).fit(*data(kind)), kind(**SMALL).fit(*data(kind))
        np.testing.assert_array_equal(predicted(fitted), predicted(fresh))
        np.testing.assert_array_equal(predicted(pickle.loads(pickle.dumps(fitted))), predicted(fresh))


# ---- weights ----


@pytest.mark.parametrize("kind", [RNNClassifier, SequenceTagger])
@pytest.mark.parametrize("weight, error", [(-10.0, ValueError), (np.nan, ValueError), (np.inf, ValueError),
                                           ("a", TypeError), (None, TypeError)])  # fmt: skip
def test_class_weights_are_checked(kind, weight, error):
    estimator = kind(**SMALL, class_weight={0: 1.0, 1: weight})
    assert unchanged(estimator, error, estimator.fit, *data(kind)).startswith("class_weight must be")


@pytest.mark.parametrize("kind", [RNNClassifier, RNNRegressor, SequenceTagger])
@pytest.mark.parametrize("size", [1e308, 1e200, 1e-200, 1e-310])
def test_weights_of_any_size_count_by_their_ratios(kind, size):
    weights = np.repeat([1.0, 0.5], 20)
    plain = kind(**SMALL).fit(*data(kind), sample_weight=weights)
    scaled = kind(**SMALL).fit(*data(kind), sample_weight=size * weights)
    np.testing.assert_allclose(scaled.loss_curve_, plain.loss_curve_, rtol=1e-12)
    equal = kind(**SMALL).fit(*data(kind), sample_weight=np.full(40, size))
    np.testing.assert_allclose(equal.loss_curve_, kind(**SMALL).fit(*data(kind)).loss_curve_, rtol=1e-6)
    if kind is not RNNRegressor:
        of_classes = kind(**SMALL, class_weight={0: size, 1: size}).fit(*data(kind))
        np.testing.assert_allclose(of_classes.loss_curve_, equal.loss_curve_, rtol=1e-6)


def test_weights_that_are_lost_beside_others_are_none():
    weights = np.repeat([1.0, 1e-320], [4, 36])  # in most batches there would be none
    some = RNNRegressor(**SMALL | {"batch_size": 4, "dropout": 0.0}).fit(X, SUMS, sample_weight=weights)
    alone = RNNRegressor(**SMALL | {"batch_size": 4, "dropout": 0.0}).fit(X[:4], SUMS[:4])
    np.testing.assert_allclose(some.loss_curve_, alone.loss_curve_, rtol=1e-5)


@pytest.mark.parametrize("kind", [RNNClassifier, RNNRegressor, SequenceTagger])
def test_what_is_held_out_must_have_weight(kind):
    class Last(kind):
        def _split(self, count, strata):
            return np.arange(count - 4), np.arange(count - 4, count)

    estimator = Last(**SMALL, early_stopping=True)
    for weights, what in (([1.0, 0.0], "leave nothing to stop by"), ([0.0, 1.0], "leave nothing to train on")):
        message = unchanged(
            estimator, ValueError, estimator.fit, *data(kind), sample_weight=np.repeat(weights, [36, 4])
        )
        assert message.startswith("sample_weight and class_weight") and what in message


def test_labels_beyond_integers_are_refused_without_a_warning():
    for estimator in (RNNClassifier(**SMALL), SequenceTagger(**SMALL)):
        y = 1e300 * TARGETS[type(estimator)]
        assert "label" in unchanged(estimator, ValueError, estimator.fit, X, y)
    tagger = SequenceTagger(**SMALL).fit(X, TARGETS[SequenceTagger])
    unchanged(tagger, ValueError, tagger.score, X, 1e300 * TARGETS[SequenceTagger])


# ---- numbers ----


@pytest.mark.parametrize("size", [1e300, 1e200, 1e-200, 1e-300])
def test_finite_numbers_are_standardised_whatever_their_size(size):
    plain, scaled = SequenceScaler().fit(X), SequenceScaler().fit(size * X)
    np.testing.assert_allclose(scaled.scale_, size * plain.scale_, rtol=1e-12)
    np.testing.assert_allclose(scaled.transform(size * X), plain.transform(X), rtol=1e-9, atol=1e-12)
    fitted = RNNRegressor(**SMALL | {"epochs": 8}).fit(X, size * SUMS)
    expected = RNNRegressor(**SMALL | {"epochs": 8}).fit(X, SUMS)
    np.testing.assert_allclose(fitted.predict(X), size * expected.predict(X), rtol=1e-3)
    assert fitted.score(X, size * SUMS) == pytest.approx(expected.score(X, SUMS), abs=1e-4)
    tagger, other = (SequenceTagger(task="regress", **SMALL).fit(X, unit * X[..., 0]) for unit in (size, 1))
    assert tagger.score(X, size * X[..., 0]) == pytest.approx(other.score(X, X[..., 0]), abs=1e-4)


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
@pytest.mark.parametrize("unit", [2.0**996, 2.0**-1000])
def test_forecasts_of_finite_numbers_are_finite_whatever_their_size(strategy, unit):
    """In units of a power of two, they are the same bit for bit."""
    exogenous = np.cos(SERIES)[:, np.newaxis]

    def forecaster():
        return RNNForecaster(2, window=6, strategy=strategy, **SMALL)

    plain, scaled = forecaster().fit(SERIES), forecaster().fit(unit * SERIES)
    np.testing.assert_array_equal(scaled.predict_quantiles(), unit * plain.predict_quantiles())
    assert scaled.score(unit * SERIES[:9]) == plain.score(SERIES[:9])
    one, other = (forecaster().backtest(u * exogenous, u * SERIES, origins=3) for u in (1.0, unit))
    for name, scores in one.scores.items():
        factors = {"MAE": unit, "RMSE": unit, "MASE": 1, "sMAPE": 1}
        assert other.scores[name] == {measure: factors[measure] * value for measure, value in scores.items()}


def test_numbers_that_float64_cannot_measure_are_refused_by_name():
    far = np.where(np.arange(40) % 2, 1.5e308, -1.5e308)
    rows = np.repeat(far[:, np.newaxis], 3, 1)
    scaler, regressor = SequenceScaler(), RNNRegressor(**SMALL)
    assert unchanged(scaler, ValueError, scaler.fit, rows).startswith("X must not have numbers")
    assert unchanged(regressor, ValueError, regressor.fit, X, far).startswith("y must not have numbers")
    scaler.fit(1e-5 * rows / 1e308)
    assert unchanged(scaler, ValueError, scaler.transform, rows).startswith("X must not be so far")
    regressor.fit(X, SUMS)
    assert unchanged(regressor, ValueError, regressor.partial_fit, X, 1e300 * SUMS).startswith("y must not be so far")
    forecaster = RNNForecaster(**SMALL)
    message = unchanged(forecaster, ValueError, forecaster.fit, 1e301 * SERIES)
    assert message.startswith("X must have numbers of at most 1e+300")
    forecaster.fit(SERIES[:, np.newaxis], SERIES)
    message = unchanged(forecaster, ValueError, forecaster.partial_fit, np.ones((9, 1)), 1e200 * SERIES[:9])
    assert message.startswith("X and y must not be so far")
    assert unchanged(forecaster, ValueError, forecaster.predict, [[1e200]]).startswith("X and y must not be so far")


def test_constants_and_outliers_without_weight():
    constant = np.full((2, 3, 1), 1e200)
    np.testing.assert_array_equal(SequenceScaler().fit_transform(constant), 0)
    y = np.where(np.arange(40) < 3, np.finfo(np.float64).max, SUMS)
    weights = (np.arange(40) >= 3).astype(float)
    regressor = RNNRegressor(**SMALL).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(regressor.target_mean_, SUMS[3:].mean(), rtol=1e-12)
    np.testing.assert_array_equal(regressor.predict(X), clone(regressor).fit(X[3:], SUMS[3:]).predict(X))
