"""`RNNRegressor`; what it shares with the others is tested in `test_estimators_classifier`."""

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from fastrnn.estimators import RNNRegressor

SMALL = {"hidden_size": 6, "epochs": 4, "batch_size": 16, "random_state": 0}


def ragged(n=60, seed=0):
    """Sequences of 2 to 7 steps, and the sum and the first value of their only feature."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(2, 8), 1)) for _ in range(n)]
    return X, np.array([[x.sum(), x[0, 0]] for x in X])


def test_estimators_regressor_learns_two_outputs_of_ragged_sequences():
    X, y = ragged(400)
    y = y * [1e4, 1e-4] + [-1e6, 7]
    regressor = RNNRegressor("gru", epochs=60, schedule="one_cycle", random_state=0).fit(X[:300], y[:300])
    assert regressor.score(X[300:], y[300:]) > 0.95
    prediction = regressor.predict(X[300:])
    assert prediction.shape == (100, 2) and prediction.dtype == np.float64
    np.testing.assert_allclose(regressor.target_mean_, y[:300].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(regressor.target_scale_, y[:300].std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_estimators_regressor_minimises_the_loss(loss):
    X, y = np.zeros((90, 3, 1)), np.repeat([0.0, 0.0, 10.0], 30)  # nothing to go by: the best constant
    regressor = RNNRegressor(loss=loss, epochs=150, hidden_size=2, batch_size=90, learning_rate=0.02).fit(X, y)
    value = regressor.predict(X[:1])[0]
    mean, deviation = 10 / 3, np.sqrt(200) / 3
    huber = mean + deviation * (0.5 - 1 / np.sqrt(2))  # d + 1/√2 = 1/2, d the standardised value
    assert value == pytest.approx({"squared_error": mean, "absolute_error": 0.0, "huber": huber}[loss], abs=0.2)


def test_estimators_regressor_shapes_follow_y():
    X, y = ragged()
    one = RNNRegressor(**SMALL).fit(X, y[:, 0])
    column = RNNRegressor(**SMALL).fit(X, y[:, :1])
    assert one.predict(X).shape == (60,) and column.predict(X).shape == (60, 1)
    assert np.array_equal(one.predict(X), column.predict(X)[:, 0])


def test_estimators_regressor_weighs_outputs_alike():
    X, y = ragged()
    regressor = RNNRegressor(**SMALL | {"batch_size": 60, "dtype": "float64"}).set_params(learning_rate=0.0).fit(X, y)
    standardised = (regressor.predict(X) - y) / y.std(axis=0)
    assert regressor.loss_curve_[0] == pytest.approx((standardised**2).mean(), rel=1e-12)
    weights = np.arange(60.0)
    regressor.fit(X, y, sample_weight=weights)
    standardised = (regressor.predict(X) - y) / regressor.target_scale_
    expected = np.average((standardised**2).mean(axis=1), weights=weights)
    assert regressor.loss_curve_[0] == pytest.approx(expected, rel=1e-12)


def test_estimators_regressor_loss_is_that_of_the_whole_epoch():
    X, y = ragged()
    still = RNNRegressor(**SMALL | {"batch_size": 7, "learning_rate": 0.0, "dtype": "float64"}).fit(X, y[:, 0])
    error = (still.predict(X) - y[:, 0]) / still.target_scale_
    np.testing.assert_allclose(still.loss_curve_, np.mean(error**2), rtol=1e-12)


def test_estimators_regressor_goes_on():
    X, y = ragged()
    whole = RNNRegressor(**SMALL).fit(X, y)
    parts = RNNRegressor(**SMALL)
    for _ in range(4):
        parts.partial_fit(X, y)
    assert np.array_equal(whole.predict(X), parts.predict(X))
    assert np.array_equal(parts.target_mean_, parts.partial_fit(X, y + 100).target_mean_)  # of the first call
    with pytest.raises(ValueError, match="y must have 2 columns, as in the first fit, got 1"):
        parts.partial_fit(X, y[:, 0])


def test_estimators_regressor_stops_early():
    X, y = ragged(100)
    regressor = RNNRegressor(**SMALL | {"epochs": 60}, early_stopping=True, patience=4, tol=1e-3).fit(X, y)
    scores = regressor.validation_scores_
    assert len(scores) == regressor.n_iter_ and max(scores) > scores[0] and max(scores) <= 1


@pytest.mark.parametrize(
    ("y", "error"),
    [
        (np.zeros((60, 2, 1)), "dim 3"),
        (np.zeros(59), "inconsistent numbers"),
        (["a"] * 60, "could not convert|not compatible"),
        (np.full(60, np.nan), "Input y contains NaN"),
    ],
)
def test_estimators_regressor_refuses_y(y, error):
    with pytest.raises(ValueError, match=error):
        RNNRegressor(**SMALL).fit(ragged()[0], y)


def test_estimators_regressor_refuses_a_loss():
    with pytest.raises(ValueError, match="loss must be one of 'squared_error', .*got 'hinge'"):
        RNNRegressor(**SMALL, loss="hinge").fit(*ragged())


def test_estimators_regressor_says_when_numbers_run_out():
    X, y = ragged()
    with pytest.raises(FloatingPointError, match=r"the loss is not finite at batch \d+ \(after 1 updates\)"):
        RNNRegressor("rnn", optimizer="sgd", learning_rate=1e30, clip_norm=None, random_state=0).fit(X, y)
