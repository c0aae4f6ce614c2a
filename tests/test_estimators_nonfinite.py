"""Estimators whose net gives NaN make no number or class of it; masked arrays are refused rather than unmasked."""

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from fastrnn import NonFiniteError
from fastrnn.estimators import RNNClassifier, RNNForecaster, RNNRegressor, SequenceScaler, SequenceTagger, backtest
from fastrnn.estimators.intervals import in_order, widening
from fastrnn.estimators.labels import probabilities

SMALL = {"hidden_size": 3, "epochs": 1, "random_state": 0}
X = np.random.default_rng(0).standard_normal((12, 4, 2))
STEPS = (X.sum(2) > 0).astype(int)
SERIES = np.random.default_rng(1).standard_normal((40, 2))


def with_bias(estimator, output, value):
    """The estimator, with the bias of one output of its net set."""
    arrays = estimator.model_.state_dict()
    name = max(name for name in arrays if name.endswith(".bias"))  # that of the last layer
    arrays[name][output] = value
    estimator.model_.load_state_dict(arrays)
    return estimator


# ---- NaN out of the net ----


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
@pytest.mark.parametrize("broken", [0, 1, 2])  # the quantiles of the first step of the first series
def test_a_quantile_that_is_nan_makes_no_forecast_of_others(strategy, broken):
    forecaster = RNNForecaster(2, window=5, strategy=strategy, early_stopping=False, **SMALL).fit(SERIES)
    fine = forecaster.predict_quantiles(steps=1)
    with_bias(forecaster, broken, np.nan)
    quantiles, medians = forecaster.predict_quantiles(steps=1), forecaster.predict(steps=1)
    assert np.isnan(quantiles[0, 0]).all() and np.isnan(medians[0, 0])
    if strategy == "direct":  # in the other series nothing is NaN
        np.testing.assert_array_equal(quantiles[:, 1], fine[:, 1])
    with pytest.raises(NonFiniteError, match="fed back is not finite"):
        forecaster.predict(steps=5)


def test_quantiles_in_order_and_widened_keep_nan():
    values = np.array([[2.0, 1.0, 3.0], [np.nan, 1.0, 0.0], [1.0, -np.inf, np.inf]])
    np.testing.assert_array_equal(in_order(values), [[1, 2, 3], [np.nan] * 3, [-np.inf, 1, np.inf]])
    quantiles = np.zeros((4, 1, 1, 3))
    quantiles[2, 0, 0, 2] = np.nan
    shift = widening(quantiles, np.array([0.1, 0.5, 0.9]), np.arange(4.0).reshape(4, 1, 1))
    assert np.isnan(shift).ravel().tolist() == [False, False, True]


def test_a_backtest_of_nan_has_no_measures():
    actual = np.ones((2, 2, 1))
    forecasts = {"forecaster": np.full((2, 2, 1), np.nan), "naive": 2 * actual, "perfect": actual}
    nan = forecasts["forecaster"]
    found = backtest.Backtest(np.array([8, 10]), actual, forecasts, actual, nan, 0.8, np.ones(1))
    assert np.isnan(list(found.scores["forecaster"].values())).all()
    assert np.isfinite(list(found.scores["naive"].values())).all()
    assert np.isnan(found.coverage) and np.isnan(found.ratio("naive"))
    broken = found._replace(forecasts={"forecaster": actual, "naive": nan}, upper=actual)
    assert np.isnan(broken.ratio("naive")) and broken.coverage == 1
    assert found._replace(forecasts={"forecaster": 2 * actual, "naive": actual}).ratio("naive") == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_of_no_output_that_is_not_finite_a_class_is_named(value):
    classifier = with_bias(RNNClassifier(**SMALL).fit(X, STEPS[:, 0]), 1, value)
    tagger = with_bias(SequenceTagger(**SMALL).fit(X, STEPS), 1, value)
    for estimator, y in ((classifier, STEPS[:, 0]), (tagger, STEPS)):
        assert np.isnan(estimator.predict_proba(X)).all()
        for method, given in ((estimator.predict, (X,)), (estimator.score, (X, y))):
            with pytest.raises(NonFiniteError, match="the model's output is not finite"):
                method(*given)


def test_labels_beyond_integers_are_scored_without_a_warning():
    classifier = RNNClassifier(**SMALL).fit(X, STEPS[:, 0])
    with pytest.raises(ValueError, match="label|Classification"):
        classifier.score(X, 1e200 * STEPS[:, 0])


def test_probabilities_of_a_row_that_is_not_finite_are_nan():
    logits = np.array([[0.0, 0.0], [0.0, -np.inf], [np.inf, 0.0], [np.nan, 0.0]], np.float32)
    np.testing.assert_array_equal(probabilities(logits), [[0.5, 0.5], *[[np.nan] * 2] * 3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_stay_so(value):
    regressor = with_bias(RNNRegressor(**SMALL).fit(X, X.sum(2)), 1, value)
    tagger = with_bias(SequenceTagger(task="regress", **SMALL).fit(X, X), 1, value)
    for estimator, y in ((regressor, X.sum(2)), (tagger, X)):
        prediction = estimator.predict(X)
        np.testing.assert_array_equal(prediction[..., 1], np.full_like(prediction[..., 1], value))
        assert np.isfinite(prediction[..., 0]).all()
        with pytest.raises(ValueError, match="contains"):  # scikit-learn's words
            estimator.score(X, y)


@pytest.mark.parametrize(
    "kind, y",
    [(RNNClassifier, STEPS[:, 0]), (SequenceTagger, STEPS), (RNNRegressor, X[:, 0, 0]), (RNNForecaster, None)],
)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_net_of_nan_predicts_nothing(kind, y, cell):
    options = {"early_stopping": False, "window": 5} if kind is RNNForecaster else {}
    estimator = kind(cell=cell, **SMALL, **options).fit(SERIES if y is None else X, y)
    estimator.model_.vector_to_parameters(np.full(estimator.model_.num_parameters, np.nan))
    if hasattr(estimator, "classes_"):
        with pytest.raises(NonFiniteError):
            estimator.predict(X)
        assert np.isnan(estimator.predict_proba(X)).all()
    else:
        assert np.isnan(estimator.predict(*(() if y is None else (X,)))).all()


# ---- masked arrays ----


def masked(array):
    mask = np.zeros(np.shape(array), bool)
    mask.flat[0] = True
    return np.ma.masked_array(array, mask)


def as_objects(arrays):
    objects = np.empty(len(arrays), object)
    objects[:] = arrays
    return objects


FORMS = {
    "an array": (masked, "X is a masked array"),
    "an array without a mask": (np.ma.masked_array, "X is a masked array"),
    "a table": (lambda x: masked(x.reshape(len(x), -1)), "X is a masked array"),
    "a list of sequences": (lambda x: [*x[:-1], masked(x[-1])], "X[11] is a masked array"),
    "a list of sequences of any length": (lambda x: [x[0, :2], *map(masked, x[1:])], "X[1] is a masked array"),
    "an array of objects": (lambda x: as_objects([x[0, :2], *map(masked, x[1:])]), "X[1] is a masked array"),
    "a list of rows": (lambda x: [masked(row) for row in x.reshape(len(x), -1)], "X[0] is a masked array"),
    "a list of lists of steps": (lambda x: [[*map(masked, one)] for one in x], "X[0][0] is a masked array"),
    "a list with a masked number": (lambda x: [[[np.ma.masked, 1.0]] * 4] * 12, "X[0][0][0] is a masked array"),
}


@pytest.mark.parametrize("kind, y", [(RNNClassifier, STEPS[:, 0]), (RNNRegressor, X[:, 0, 0]), (SequenceTagger, STEPS)])
@pytest.mark.parametrize("form", FORMS)
def test_masked_sequences_are_refused(kind, y, form):
    make, message = FORMS[form]
    fitted = kind(**SMALL).fit(X, y)
    for method, *rest in ((kind(**SMALL).fit, y), (fitted.partial_fit, y), (fitted.predict,), (fitted.score, y)):
        with pytest.raises(TypeError) as caught:
            method(make(X), *rest)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("form", FORMS)
def test_a_scaler_refuses_masked_sequences(form):
    make, message = FORMS[form]
    fitted = SequenceScaler().fit(X)
    for method in (SequenceScaler().fit, fitted.transform):
        with pytest.raises(TypeError) as caught:
            method(make(X))
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kind, y", [(RNNClassifier, STEPS[:, 0]), (RNNRegressor, X[:, 0, 0]), (SequenceTagger, STEPS)])
def test_masked_targets_weights_and_classes_are_refused(kind, y):
    weights = np.ones(len(X))
    fitted = kind(**SMALL).fit(X, y)
    for method in (kind(**SMALL).fit, fitted.score, fitted.partial_fit):
        with pytest.raises(TypeError, match="y is a masked array"):
            method(X, masked(y))
        with pytest.raises(TypeError, match="sample_weight is a masked array"):
            method(X, y, sample_weight=masked(weights))
    if kind is SequenceTagger:
        with pytest.raises(TypeError, match=r"y\[0\] is a masked array"):
            fitted.score(list(X), [masked(row) for row in y])
        with pytest.raises(TypeError, match="sample_weight is a masked array"):
            fitted.fit(X, y, masked(np.ones(y.shape)))
    if kind is not RNNRegressor:
        with pytest.raises(TypeError, match="classes is a masked array"):
            kind(**SMALL).partial_fit(X, y, classes=np.ma.masked_array([0, 1]))
        with pytest.raises(ValueError, match="classes contains NaN"):
            kind(**SMALL).partial_fit(X, y, classes=[0, np.nan])


def test_a_forecaster_refuses_masked_arrays():
    options = {"early_stopping": False, "window": 5, **SMALL}
    alone = RNNForecaster(**options).fit(SERIES[:, 0])
    both = RNNForecaster(**options).fit(SERIES, SERIES[:, 0])
    series = masked(SERIES[:, 0])
    for call in (RNNForecaster(**options).fit, alone.partial_fit, alone.observe, alone.score, alone.backtest):
        for given in (series, masked(SERIES[:, :1]), [masked(row) for row in SERIES[:, :1]]):
            with pytest.raises(TypeError, match=r"X(\[0\])? is a masked array"):
                call(given)
    for call in (both.fit, both.partial_fit, both.observe, both.score, both.backtest):
        with pytest.raises(TypeError, match="X is a masked array"):
            call(masked(SERIES), SERIES[:, 0])
        with pytest.raises(TypeError, match="y is a masked array"):
            call(SERIES, series)
    with pytest.raises(TypeError, match="X is a masked array"):
        both.predict(masked(SERIES[:1]))
    with pytest.raises(TypeError, match="sample_weight is a masked array"):
        alone.score(SERIES[:, 0], sample_weight=np.ma.masked_array(np.ones(40)))
