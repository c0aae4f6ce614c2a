"""`RNNForecaster`: learns what can be learnt, leaks nothing, keeps scikit-learn's convention."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastrnn.estimators import RNNForecaster, backtest, windows
from fastrnn.estimators.windows import Columns, Layout

SMALL = {"hidden_size": 8, "epochs": 3, "random_state": 0}
ORDER = "predict(X) is a forecast of consecutive steps: the order of X's rows is time, and each depends on those before"
EXCUSED = {"check_methods_sample_order_invariance": ORDER, "check_methods_subset_invariance": ORDER}


@parametrize_with_checks(
    [RNNForecaster(hidden_size=8, epochs=5), RNNForecaster(hidden_size=8, epochs=5, early_stopping=False)],
    expected_failed_checks=lambda estimator: EXCUSED,
)
def test_forecaster_passes_the_checks(estimator, check):
    check(estimator)


def seasonal(rows=180, season=12, seed=0, trend=0.05):
    """A trend, a season and noise."""
    t = np.arange(rows)
    return trend * t + np.sin(2 * np.pi * t / season) + 0.1 * np.random.default_rng(seed).standard_normal(rows)


# ---- windows ----


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 6), st.integers(1, 7), st.integers(1, 2))
def test_windows_centre_is_the_mean_of_the_same_phase(seed, season, more, horizon, series):
    window = season + more
    history = np.random.default_rng(seed).standard_normal((3, window, series))
    centre = windows.centre(history, Layout(window, horizon, season, False))
    for step in range(horizon):
        same = [row for row in range(window) if (window + step - row) % season == 0 and row >= window % season]
        np.testing.assert_allclose(centre[:, step], history[:, same].mean(1), atol=1e-12)


def test_windows_inputs_see_nothing_of_the_future():
    """Neither targets nor, unless they are known, their exogenous columns."""
    rng = np.random.default_rng(0)
    columns = Columns(rng.standard_normal((30, 2)), rng.standard_normal((30, 3)))
    for known in (False, True):
        layout = Layout(6, 4, 3, known)
        scales = windows.scales(columns, layout)
        history, targets, exogenous = windows.gather(columns, layout)
        np.testing.assert_array_equal(targets[5], columns.series[11:15])
        x = windows.inputs(history, exogenous, 6 + np.arange(len(history)), layout, scales, "float64")
        changed = exogenous.copy()
        changed[:, 6:] += 1
        again = windows.inputs(history, changed, 6 + np.arange(len(history)), layout, scales, "float64")
        assert x.shape == (21, 6, 2 + 2 + 2 + 3 + (12 if known else 0)) and np.array_equal(x, again) is not known
        np.testing.assert_array_equal(x[:, :-1], again[:, :-1])


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_forecaster_follows_level_and_scale(strategy):
    """In all it does: a series in other units has the same forecast in those units."""
    y = seasonal(120)
    forecaster = RNNForecaster(4, season_length=12, strategy=strategy, dtype="float64", **SMALL)
    one = forecaster.fit(y).predict_quantiles()
    other = forecaster.fit(500 * y + 3e4).predict_quantiles()
    np.testing.assert_allclose(other, 500 * one + 3e4, rtol=1e-7)


# ---- what is learnt ----


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_forecaster_beats_the_naive_forecasts(strategy):
    forecaster = RNNForecaster(6, season_length=12, strategy=strategy, epochs=40, hidden_size=16, random_state=0)
    found = forecaster.backtest(seasonal(240))
    assert found.ratio("seasonal naive") < 0.5 and found.ratio("naive") < 0.5
    assert 0.6 < found.coverage <= 1 and found.nominal == pytest.approx(0.8)
    assert not hasattr(forecaster, "model_")
    assert str(found).splitlines()[-1].startswith("16 origins, 6 steps each; ")


def test_forecaster_uses_exogenous_columns():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 2))
    y = 2 * x[:, 0] + 0.1 * rng.standard_normal(400)
    options = {"window": 8, "hidden_size": 16, "epochs": 40, "random_state": 0}
    known = RNNForecaster(3, **options).fit(x[:380], y[:380])
    assert known.score(x[380:], y[380:]) > 0.6
    past = RNNForecaster(3, exogenous="past", **options).fit(x[:380], y[:380])
    assert past.score(x[380:383], y[380:383]) < 0.6
    np.testing.assert_array_equal(past.predict(), past.predict(1e9 * x[380:383]))  # what can't be known is not read
    late = np.roll(y, 1)  # follows the column by one step
    past = RNNForecaster(1, exogenous="past", **options).fit(x[:380], late[:380])
    assert abs(past.predict()[0] - late[380]) < 0.5 * late.std()


def test_forecaster_of_several_series():
    t = np.arange(200)
    waves = np.stack([np.sin(t / 4), 5 * np.cos(t / 4) + 100], 1)
    forecaster = RNNForecaster(4, epochs=40, hidden_size=16, random_state=0).fit(waves[:180])
    assert forecaster.predict().shape == (4, 2) and forecaster.predict(steps=9).shape == (9, 2)
    assert forecaster.predict_quantiles().shape == (4, 2, 3) and forecaster.n_series_ == 2
    assert forecaster.score(waves[180:184]) > 0.9


def test_forecaster_recursive_feeds_back_its_median():
    y = seasonal(100)
    forecaster = RNNForecaster(3, strategy="recursive", **SMALL).fit(y)
    found = []
    for _ in range(5):
        found.append(forecaster.predict(steps=1)[0])
        forecaster.observe(found[-1:])
    np.testing.assert_allclose(
        RNNForecaster(3, strategy="recursive", **SMALL).fit(y).predict(steps=5), found, rtol=1e-6
    )


def test_forecaster_intervals_of_paths_are_those_of_a_random_walk():
    """Drawn steps add up: after k of them the spread is √k times that of one."""
    y = np.cumsum(np.random.default_rng(0).standard_normal(600))
    forecaster = RNNForecaster(9, window=2, strategy="recursive", epochs=20, hidden_size=8, random_state=0).fit(y)
    low, high = forecaster.predict_interval()
    assert (high - low)[8] / (high - low)[0] == pytest.approx(3, rel=0.4)
    assert (high - low)[0] == pytest.approx(2 * 1.2816, rel=0.3)


def test_forecaster_quantiles_hold_where_they_were_widened():
    """On the held-out windows of the fit itself."""
    y = np.random.default_rng(0).standard_normal(300)
    forecaster = RNNForecaster(2, window=10, quantiles=(0.05, 0.25, 0.75, 0.95), **SMALL).fit(y)
    np.testing.assert_array_equal(forecaster.quantiles_, [0.05, 0.25, 0.5, 0.75, 0.95])
    layout = Layout(10, 2, 1, False)
    history, targets, exogenous = windows.gather(Columns(y[:, None], np.empty((300, 0))), layout)
    _, apart = forecaster._split(len(history), None)
    assert len(apart) == 58
    x = forecaster._inputs(history[apart], exogenous[apart], apart + 10)
    distance = (targets - windows.centre(history, layout))[apart] / forecaster._scales.target
    below = (distance[..., None] <= forecaster._quantiles_of(x) + forecaster._shift).mean((0, 1, 2))
    assert (below[3:] >= forecaster.quantiles_[3:]).all() and (below[:2] <= forecaster.quantiles_[:2] + 0.02).all()
    assert (forecaster._shift[..., 2] == 0).all()


def test_forecaster_holds_the_end_out():
    """No target of training is one of the held-out windows."""
    forecaster = RNNForecaster(4, window=8, validation_fraction=0.3, **SMALL).fit(seasonal(60))
    kept, apart = forecaster._split(49, None)
    assert apart[-1] == 48 and len(apart) == 15 and kept[-1] + 4 == apart[0]


def test_forecaster_log():
    y = np.exp(seasonal(150, trend=0.02))
    forecaster = RNNForecaster(6, season_length=12, log=True, epochs=30, random_state=0)
    assert forecaster.backtest(y).ratio("seasonal naive") < 0.7
    assert (forecaster.fit(y).predict_quantiles() > 0).all()
    with pytest.raises(ValueError, match="log=True needs a series of positive numbers, got -1"):
        forecaster.fit(np.append(y, -1.0))


# ---- nothing leaks ----


def test_backtest_does_not_see_what_is_to_come():
    """Rows at and after an origin, put to other values, change no forecast from it."""
    y, x = seasonal(120), np.random.default_rng(1).standard_normal((120, 1))
    forecaster = RNNForecaster(4, season_length=12, exogenous="past", **SMALL)
    before = forecaster.backtest(x, y, origins=4)
    assert len(before.origins) == 4 and before.origins[-1] == 116
    for k, origin in enumerate(before.origins):
        noise = np.where(np.arange(120) < origin, 0, 100.0)
        after = forecaster.backtest(x + noise[:, None], y + noise, origins=4)
        for name in ("forecaster", "naive", "seasonal naive"):
            np.testing.assert_array_equal(after.forecasts[name][: k + 1], before.forecasts[name][: k + 1])
        np.testing.assert_array_equal(after.naive_error, before.naive_error)


def test_backtest_refits_if_asked_to():
    y, forecaster = seasonal(100), RNNForecaster(4, **SMALL)
    found = forecaster.backtest(y, origins=3, step=7, refit=True)
    np.testing.assert_array_equal(found.origins, [82, 89, 96])
    np.testing.assert_array_equal(found.forecasts["forecaster"][1, :, 0], clone(forecaster).fit(y[:89]).predict())


def test_backtest_measures():
    actual = np.array([[[1.0], [2.0]], [[3.0], [5.0]]])
    forecast = np.array([[[2.0], [2.0]], [[3.0], [2.0]]])
    forecasts = {"forecaster": forecast, "naive": actual - 4}
    found = backtest.Backtest(np.array([8, 10]), actual, forecasts, forecast - 1, forecast + 1, 0.8, np.array([2.0]))
    scores = found.scores["forecaster"]
    assert scores["MAE"] == 1 and scores["RMSE"] == pytest.approx(np.sqrt(10 / 4)) and scores["MASE"] == 0.5
    assert scores["sMAPE"] == pytest.approx((200 / 3 + 600 / 7) / 4)
    assert found.coverage == 0.75 and found.ratio("naive") == 0.25


def test_backtest_naive_forecasts():
    series = np.arange(20.0)[:, None]
    found = backtest.naive_forecasts(series, np.array([10]), 5, 3)
    np.testing.assert_array_equal(found["naive"][0, :, 0], [9] * 5)
    np.testing.assert_array_equal(found["seasonal naive"][0, :, 0], [7, 8, 9, 7, 8])
    np.testing.assert_array_equal(backtest.naive_error(series, 3), [3])
    assert "seasonal naive" not in backtest.naive_forecasts(series, np.array([10]), 5, 1)
    np.testing.assert_array_equal(backtest.origins(100, 10, 1, 4, None), [75, 80, 85, 90])
    np.testing.assert_array_equal(backtest.origins(20, 10, 1, 4, None), [10])
    with pytest.raises(ValueError, match="more than season_length 10 rows before the first origin .* got 10"):
        backtest.origins(20, 10, 10, 4, None)


# ---- going on ----


def test_forecaster_goes_on_from_what_it_observes():
    y = seasonal(130)
    forecaster = RNNForecaster(3, season_length=12, **SMALL).fit(y[:100])
    weights = forecaster.model_.parameters_to_vector()
    in_parts = pickle.loads(pickle.dumps(forecaster))
    forecaster.observe(y[100:])
    in_parts.observe(y[100:101]).observe(y[101:])
    np.testing.assert_array_equal(forecaster.predict(), in_parts.predict())
    np.testing.assert_array_equal(forecaster.model_.parameters_to_vector(), weights)
    assert np.abs(forecaster.predict() - y[129]).max() < 3


def test_forecaster_partial_fit_trains_on_windows_that_end_in_new_rows():
    y = seasonal(100)
    forecaster = RNNForecaster(3, window=6, batch_size=1, **SMALL).partial_fit(y[:80])
    assert forecaster.n_iter_ == 1 and (forecaster._shift == 0).all()
    before = forecaster.model_.parameters_to_vector()
    forecaster.partial_fit(y[80:82])
    assert forecaster.n_iter_ == 2 and forecaster._optimizer_state["step"] == 72 + 2
    assert not np.array_equal(before, forecaster.model_.parameters_to_vector())


def test_forecaster_warm_start():
    y = seasonal(100)
    forecaster = RNNForecaster(3, warm_start=True, early_stopping=False, **SMALL).fit(y[:80])
    assert forecaster.fit(y).n_iter_ == 6 and len(forecaster.loss_curve_) == 6
    assert forecaster.set_params(warm_start=False).fit(y).n_iter_ == 3


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_forecaster_stays_as_it_was_fitted(strategy):
    y = np.exp(0.1 * seasonal(80))
    levels = [0.2, 0.8]
    forecaster = RNNForecaster(3, strategy=strategy, log=True, quantiles=levels, warm_start=True, **SMALL).fit(y)
    expected, twin = forecaster.predict_quantiles(), pickle.loads(pickle.dumps(forecaster))
    twin.set_params(
        horizon=5, window=9, season_length=4, strategy="direct" if strategy == "recursive" else "recursive",
        exogenous="past", quantiles=(0.4,), log=False, dtype="float64", hidden_size=3,
    )  # fmt: skip
    np.testing.assert_array_equal(twin.predict_quantiles(), expected)
    assert twin.predict().shape == (3,) and twin.predict(steps=5).shape == (5,)
    gone_on = pickle.loads(pickle.dumps(forecaster)).observe(y[:9])
    np.testing.assert_array_equal(twin.observe(y[:9]).predict(), gone_on.predict())
    for name, value in {"horizon": 4, "window": 9, "season_length": 4, "quantiles": (0.4,), "log": False}.items():
        twin = pickle.loads(pickle.dumps(forecaster)).set_params(**{name: value})
        for fit in (twin.fit, twin.partial_fit):
            with pytest.raises(ValueError, match=f"{name} must be that of the first fit, .* for a fit that goes on"):
                fit(y)
        np.testing.assert_array_equal(twin.predict_quantiles(), expected)
    levels.append(0.9)
    with pytest.raises(ValueError, match=r"quantiles must be that of the first fit, \[0.2, 0.8\]"):
        forecaster.fit(y)


def test_forecaster_can_be_repeated_and_copied():
    y = seasonal(80)
    forecaster = RNNForecaster(3, strategy="recursive", **SMALL).fit(y)
    twin = pickle.loads(pickle.dumps(forecaster))
    for other in (twin, clone(forecaster).fit(y), forecaster):
        np.testing.assert_array_equal(other.predict_quantiles(steps=5), forecaster.predict_quantiles(steps=5))


def test_forecaster_in_a_grid_search():
    y, x = seasonal(90), np.random.default_rng(0).standard_normal((90, 1))
    for data in ((y,), (x, y)):
        search = GridSearchCV(RNNForecaster(4, **SMALL), {"window": [6, 9]}, cv=TimeSeriesSplit(2, test_size=4))
        assert search.fit(*data).best_params_["window"] in (6, 9) and np.isfinite(search.best_score_)


# ---- pandas ----


@pytest.mark.parametrize(
    ("index", "following"),
    [
        (("date_range", {"start": "2020-01-31", "freq": "ME"}), "2024-03-31"),
        (("period_range", {"start": "2020-01", "freq": "M"}), "2024-03"),
        (("RangeIndex", {"start": 3, "step": 2}), "103"),
    ],
)
def test_forecaster_goes_on_with_the_index(index, following):
    pd = pytest.importorskip("pandas")
    (make, options) = index
    rows = {"stop": 103} if make == "RangeIndex" else {"periods": 50}
    index = getattr(pd, make)(**options, **rows, name="when")
    forecaster = RNNForecaster(3, **SMALL).fit(pd.Series(seasonal(50), index, name="sales"))
    found = forecaster.predict()
    assert str(found.index[0]).startswith(following) and found.name == "sales" and found.index.name == "when"
    low, high = forecaster.predict_interval()
    assert (low <= found).all() and (found <= high).all()
    np.testing.assert_allclose(found, RNNForecaster(3, **SMALL).fit(seasonal(50)).predict())


def test_forecaster_pandas_with_columns():
    pd = pytest.importorskip("pandas")
    days = pd.date_range("2024-01-01", periods=60, freq="D").delete(20)  # no frequency
    frame = pd.DataFrame({"a": seasonal(59), "b": seasonal(59, seed=1), "price": np.arange(59.0)}, days)
    found = RNNForecaster(2, **SMALL).fit(frame[["a", "b"]]).predict()
    assert list(found.columns) == ["a", "b"] and list(found.index) == [59, 60]
    forecaster = RNNForecaster(2, **SMALL).fit(frame[["price"]][:50], frame["a"][:50])
    found = forecaster.predict(frame[["price"]][50:])
    assert found.index.equals(days[50:]) and list(forecaster.feature_names_in_) == ["price"]
    forecaster.observe(frame[["price"]][50:], frame["a"][50:])
    assert len(forecaster.predict(frame[["price"]][:2].reset_index(drop=True))) == 2
    with pytest.raises(ValueError, match="2024-01-01 00:00:00 comes after 2024-02-29"):
        forecaster.predict(frame[["price"]][:2])


def test_forecaster_pairs_rows_by_the_same_index_alone():
    pd = pytest.importorskip("pandas")
    months = pd.date_range("2020-01-01", periods=50, freq="MS")
    prices, sales = pd.DataFrame({"price": np.arange(50.0)}, months), pd.Series(seasonal(50), months)
    forecaster = RNNForecaster(2, **SMALL)
    for other, words in (
        (prices.set_index(months + pd.DateOffset(months=1)), "got 2020-02-01 00:00:00 in X and 2020-01-01 00:00:00 in"),
        (prices.reset_index(drop=True), "X and y must have the same index, got 0 in X"),
        (prices[::-1], "the index must increase"),
    ):
        with pytest.raises(ValueError, match=words):
            forecaster.fit(other, sales)
    numbers = prices.reset_index(drop=True)
    with pytest.raises(ValueError, match="X and y must have the same index, got 49 in X and 0 in y at row 0"):
        forecaster.fit(numbers[::-1], sales.reset_index(drop=True))
    forecaster.fit(prices.set_index(months.as_unit("ns")), sales.set_axis(months.as_unit("s")))
    forecaster.fit(prices.to_numpy(), sales).fit(numbers[::2][:40], sales.reset_index(drop=True)[::2][:40])


@pytest.mark.parametrize("kind", ["dates", "periods", "spans", "dates that show a frequency"])
def test_forecaster_takes_the_steps_that_follow_alone(kind):
    pd = pytest.importorskip("pandas")
    index = {
        "dates": pd.date_range("2024-01-31", periods=60, freq="ME"),
        "periods": pd.period_range("2024-01", periods=60, freq="M"),
        "spans": pd.timedelta_range("1h", periods=60, freq="h"),
        "dates that show a frequency": pd.DatetimeIndex(pd.date_range("2024-01-31", periods=60).to_numpy()),
    }[kind]
    prices, sales = pd.DataFrame({"price": np.arange(60.0)}, index), pd.Series(seasonal(60), index)
    beside, alone = (RNNForecaster(2, **SMALL).fit(*rows) for rows in ((prices[:50], sales[:50]), (sales[:50],)))
    assert beside.predict(prices[50:52]).index.equals(index[50:52])
    assert beside.predict(prices[50:52].reset_index(drop=True)).index.equals(index[50:52])
    for start in (0, 51):
        with pytest.raises(ValueError, match="the index must go on with") as error:
            beside.predict(prices[start : start + 2])
        assert all(str(index[row]) in str(error.value) for row in (49, 50, start))
    with pytest.raises(ValueError, match="must go on with") as error:
        alone.observe(pd.concat([sales[50:52], sales[53:]]))
    assert all(str(index[row]) in str(error.value) for row in (51, 52, 53))
    with pytest.raises(ValueError, match="must go on with"):
        alone.score(sales[53:55])
    assert np.isfinite(alone.score(sales[50:52])) and alone.predict().index.equals(index[50:52])
    for rows in (sales[50:51].to_numpy(), sales[51:52].reset_index(drop=True), sales[52:53]):
        alone.observe(rows)
    assert alone.predict().index.equals(index[53:55])


def test_forecaster_does_not_mix_kinds_of_dates():
    pd = pytest.importorskip("pandas")
    sales = pd.Series(seasonal(60), pd.date_range("2024-01-01", periods=60, freq="D"))
    forecaster = RNNForecaster(2, **SMALL).fit(sales[:50])
    with pytest.raises(ValueError, match="the index must go on as DatetimeIndex, got PeriodIndex"):
        forecaster.observe(sales[50:].to_period("D"))
    with pytest.raises(ValueError, match=r"the index must go on with entries of datetime64.*, got datetime64\[.*UTC"):
        forecaster.observe(sales[50:].tz_localize("UTC"))
    gaps = RNNForecaster(2, **SMALL).fit(sales.drop(sales.index[20])[:50])  # has no frequency: any later date is next
    assert gaps.observe(sales[55:]).predict().index[0] == 55


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"horizon": 0}, ValueError, "horizon must be at least 1"),
        ({"strategy": "both"}, ValueError, "strategy must be one of"),
        ({"season_length": 1.5}, TypeError, "season_length must be an integer"),
        ({"window": 3, "season_length": 4}, ValueError, "window must be at least 4, got 3"),
        ({"quantiles": (0.1, 1.0)}, ValueError, "quantiles"),
        ({"quantiles": 0.9}, TypeError, "quantiles must be a sequence"),
        ({"quantiles": ("low",)}, TypeError, "quantiles must be a real number"),
        ({"exogenous": "future"}, ValueError, "exogenous must be one of"),
        ({"log": 1}, TypeError, "log must be True or False"),
        ({"window": 40, "horizon": 10}, ValueError, "at least 60 rows.* got n_samples = 50"),
        ({"validation_fraction": 1.5}, ValueError, "validation_fraction must be below 1"),
    ],
)
def test_forecaster_refuses_parameters(options, error, words):
    with pytest.raises(error, match=words):
        RNNForecaster(**{**SMALL, **options}).fit(seasonal(50))


def test_forecaster_refuses_data():
    y, x = seasonal(50), np.ones((50, 2))
    with pytest.raises(ValueError, match="NaN"):
        RNNForecaster().fit(np.append(y, np.nan))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        RNNForecaster().fit(x[1:], y)
    with pytest.raises(ValueError, match='strategy must be "direct" with exogenous="past"'):
        RNNForecaster(strategy="recursive", exogenous="past").fit(x, y)
    alone, beside = RNNForecaster(2, **SMALL).fit(y), RNNForecaster(2, **SMALL).fit(x, y)
    past = RNNForecaster(2, exogenous="past", **SMALL).fit(x, y)
    for call, words in (
        (lambda: alone.predict(x), "X must be None"),
        (lambda: alone.observe(x, y), "y must be None, as in fit"),
        (lambda: alone.observe(x), "X must have 1 columns|X has 2 features"),
        (lambda: beside.observe(x), "y must be given, as in fit"),
        (lambda: beside.predict(), "X must hold the exogenous columns"),
        (lambda: beside.predict(x[:, :1]), "X has 1 features"),
        (lambda: beside.predict(x[:2], steps=3), "X must have a row for each of 3 steps, got 2"),
        (lambda: past.predict(steps=3), 'steps must be at most the horizon 2 with exogenous="past", got 3'),
        (lambda: alone.predict(steps=0), "steps must be at least 1"),
        (lambda: alone.predict_quantiles(steps=3), "steps must be at most the horizon 2 for quantiles, got 3"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_forecaster_verbose(capsys):
    RNNForecaster(2, verbose=True, **SMALL).fit(seasonal(50))
    assert capsys.readouterr().out.splitlines()[0].startswith("epoch 1: loss ")
