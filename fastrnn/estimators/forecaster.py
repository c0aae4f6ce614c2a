"""Forecasts of time series."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from .. import checks
from ..finite import NonFiniteError, is_finite
from ..layers import Last
from ..losses import Quantile
from . import backtest, windows
from .base import RecurrentEstimator, checked_array, checked_data, checked_weights
from .index import check_same, extended, followed, frequency_of, index_of, is_dated
from .intervals import drawn, in_order, widening
from .magnitudes import r2
from .sequences import Sequences, refuse_masked
from .windows import Columns, Layout, Scales

_PATHS = 500  # drawn for the intervals of recursive forecasts
_SEASONS = 3  # in a window, if nothing is said
_WINDOW = 24  # steps of one without a season
_INDEX_KEPT = 50  # entries that a frequency is inferred from


class _Form(NamedTuple):
    """What the series came as: whether beside exogenous columns, whether one-dimensional, pandas' names of them."""

    exogenous: bool
    single: bool
    pandas: bool
    names: Any


class RNNForecaster(RegressorMixin, RecurrentEstimator):
    """Forecasts time series, one or several together: a recurrent net upon windows of the past.

    Rows are steps in time, oldest first. `fit(X)` takes X, (N,) or (N,F) numbers, as the series themselves;
    `fit(X, y)` takes y, (N,) or (N,F), as the series and X, (N,E), as exogenous columns. `predict` gives the steps that
    follow. Arrays or pandas: given a Series or DataFrame, forecasts are one, with the index gone on with;
    dates in it must increase from row to row, be the same in X and y, and, where they have a frequency, go on without a
    gap in what comes later; rows without an index are taken to be the next ones.

    The net sees `window` steps less the window's own seasonal means (or mean, without a season), measured in the mean
    distance from them, and puts out what is to be added to those means, for several quantiles by the pinball loss.
    So a forecast follows the series' level and scale by itself. The median is the point forecast.

    horizon: steps ahead that the net is trained for.
    window: steps seen; None for three seasons, or 24 steps and no less than twice the horizon without a season, and for
        fewer if the series is short.
    season_length: steps in a season, such as 12 for months; 1 for none.
    strategy: "direct": the net puts out all steps of the horizon at once; "recursive": one, which is fed back for the
        next. Intervals of the latter are those of 500 drawn paths.
    exogenous: what is known of the columns X when a forecast is made. "known": those of the steps that are forecast,
        too, such as prices or holidays, and `predict(X)` wants them; "past": none but those seen so far, and of an X
        given to `predict` only the number of rows counts.
    quantiles: between 0 and 1, to be forecast beside the median.
    log: forecast logarithms: for positive series whose swings grow with them.
    early_stopping: with `validation_fraction` of the windows, the last ones, held out; they also widen the quantiles
        until these hold on them (conformalized quantile regression: Romano, Patterson & Candès 2019).
    Other parameters as in `RecurrentEstimator`. A wrong parameter is a TypeError or ValueError in `fit`.

    Attributes: `window_`, `quantiles_` (Q,), increasing and with 0.5, `n_series_`, and those of `RecurrentEstimator`.
    """

    _of_the_model = (
        *RecurrentEstimator._of_the_model,
        *("horizon", "window", "season_length", "strategy", "exogenous", "quantiles", "log"),
    )
    window_: int
    quantiles_: np.ndarray
    n_series_: int
    _layout: Layout
    _scales: Scales
    _shift: np.ndarray  # (H,F,Q) that quantiles are moved by, in the scale of the targets
    _path_seed: int  # of the paths drawn for recursive intervals
    _form: _Form
    _recent: Columns  # the last rows, as many as a window and its targets, less one; with `log`, logarithms
    _seen: int  # rows since the series began
    _index: Any  # the end of it, if there is one
    _frequency: Any  # of its dates, if all of the series' first rows follow each other in one

    def __init__(
        self,
        horizon: int = 1,
        *,
        window: int | None = None,
        season_length: int = 1,
        strategy: str = "direct",
        exogenous: str = "known",
        quantiles: tuple[float, ...] = (0.1, 0.9),
        log: bool = False,
        cell: str = "gru",
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        optimizer: str = "adam",
        learning_rate: float = 0.005,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        clip_norm: float | None = 1.0,
        epochs: int = 200,
        batch_size: int = 32,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        patience: int = 20,
        tol: float = 0.0,
        dtype: str = "float32",
        random_state: Any = None,
        verbose: bool = False,
        warm_start: bool = False,
    ):
        super().__init__(
            cell,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            clip_norm=clip_norm,
            epochs=epochs,
            batch_size=batch_size,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            patience=patience,
            tol=tol,
            dtype=dtype,
            random_state=random_state,
            verbose=verbose,
            warm_start=warm_start,
        )
        self.horizon = horizon
        self.window = window
        self.season_length = season_length
        self.strategy = strategy
        self.exogenous = exogenous
        self.quantiles = quantiles
        self.log = log

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.required = False
        tags.regressor_tags.poor_score = True  # predict(X) is about the rows after those of fit, whatever X
        return tags

    # Fitting.

    def fit(self, X: Any, y: Any = None) -> "RNNForecaster":
        """Train on a series: X, or y with the exogenous columns X."""
        self._changed_by(self._fit, X, y, incremental=False)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> "RNNForecaster":
        """Take note of the rows that follow those seen so far, and train once on the windows that end in them.

        The first call begins the series. Window and scales stay those of that call, and nothing is held out.
        """
        self._changed_by(self._fit, X, y, incremental=True)
        return self

    def observe(self, X: Any, y: Any = None) -> "RNNForecaster":
        """Take note of the rows that follow those seen so far, without training: forecasts go on from their end."""
        check_is_fitted(self)
        self._changed_by(self._observe, X, y)
        return self

    def _fit(self, X, y, *, incremental):
        going_on = self._goes_on(incremental)
        if going_on and incremental:
            before, first = self._recent, self._seen - len(self._recent.series)
            columns = before.followed_by(self._go_on(X, y))
        else:
            columns, first = self._begin(X, y, reset=not going_on), 0
        return self._learn(columns, first, incremental=incremental)

    def _observe(self, X, y):
        self._go_on(X, y)

    def _begin(self, X, y, *, reset):
        """The rows of a series that begins; with `reset`, also what is chosen by the first series."""
        columns, form, index = self._read(X, y, reset=reset)
        if reset:
            layout, self.quantiles_ = self._choices(len(columns.series), form)
            self._layout, self.window_ = layout, layout.window
            self._form, self.n_series_ = form, columns.series.shape[1]
            self._scales = windows.scales(columns, layout)
            self._keep_parameters()
        self._frequency = frequency_of(index)
        self._note(columns, index, len(columns.series))
        return columns

    def _go_on(self, X, y):
        """The rows that follow those seen, taken note of."""
        columns, _, index = self._read(X, y, reset=False)
        index = self._followed(index, len(columns.series))
        self._note(self._recent.followed_by(columns), index, self._seen + len(columns.series))
        return columns

    def _followed(self, index, rows):
        """The index with that of rows that follow; ValueError if they do not."""
        return followed(self._index, index, rows, self._frequency)

    def _note(self, columns, index, seen):
        kept = columns.rows(-(self._layout.window + self._layout.horizon - 1), None)
        self._recent = Columns(*(part.copy() for part in kept))  # the caller may change what came in
        self._index, self._seen = None if index is None else index[-_INDEX_KEPT:], seen

    def _read(self, X, y, *, reset):
        """The rows in X and y as `Columns`, with `log` of logarithms, the `_Form` they came in, and their index."""
        form = None if reset else self._form
        exogenous = y is not None if reset else form.exogenous
        if exogenous and y is None:
            raise ValueError("y must be given, as in fit: X has exogenous columns")
        if not exogenous and y is not None:
            raise ValueError("y must be None, as in fit: X is the series")
        refuse_masked("X", X)
        refuse_masked("y", y)
        given, index = y if exogenous else X, index_of(X)
        if exogenous:
            index_of_y = index_of(y)
            X, y = checked_data(self, X, y, reset=reset, dtype=np.float64, multi_output=True)
            series = checked_array(y, dtype=np.float64, ensure_2d=False, estimator=self, input_name="y")
            check_same(index, index_of_y)
            index = index if index_of_y is None else index_of_y
        elif getattr(given, "ndim", None) == 1 or np.ndim(given) == 1:
            series = checked_array(X, dtype=np.float64, ensure_2d=False, estimator=self, input_name="X")
            if reset:
                self.n_features_in_ = 1
        else:
            series = checked_data(self, X, reset=reset, dtype=np.float64)
        if reset:
            pandas = index_of(given) is not None
            names = getattr(given, "columns", getattr(given, "name", None)) if pandas else None
            form = _Form(exogenous, series.ndim == 1, pandas, names)
        elif series.reshape(len(series), -1).shape[1] != self.n_series_:
            raise ValueError(f"{'y' if exogenous else 'X'} must have {self.n_series_} columns, as in fit")
        series = series.reshape(len(series), -1)
        if checks.flag("log", self.log) if reset else self._fitted["log"]:
            if not series.min() > 0:
                raise ValueError(f"log=True needs a series of positive numbers, got {series.min():g}")
            series = np.log(series)
        columns = Columns(series, X if exogenous else np.empty((len(series), 0)))
        for name, part in (("y" if exogenous else "X", columns.series), ("X", columns.exogenous)):
            windows.check_size(name, part)
        return columns, form, index

    def _choices(self, rows, form):
        """The `Layout` and the quantiles that the parameters and the number of rows make."""
        horizon = checks.integer("horizon", self.horizon, minimum=1)
        season = checks.integer("season_length", self.season_length, minimum=1)
        exogenous = checks.choice("exogenous", self.exogenous, ("known", "past"))
        if checks.choice("strategy", self.strategy, ("direct", "recursive")) == "recursive":
            horizon = 1
            if form.exogenous and exogenous == "past":
                raise ValueError('strategy must be "direct" with exogenous="past": what is fed back would lack columns')
        if self.window is None:
            window = _SEASONS * season if season > 1 else max(_WINDOW, 2 * horizon)
            window = max(min(window, (rows - horizon) // 2), season)
        else:
            window = checks.integer("window", self.window, minimum=season)
        needed = window + (2 if self.early_stopping else 1) * horizon
        if rows < needed:
            raise ValueError(
                f"X must have at least {needed} rows: a window of {window} steps and {horizon} to forecast, and as "
                f"many held out with early_stopping, got n_samples = {rows}"
            )
        if not isinstance(self.quantiles, (tuple, list, np.ndarray)):
            raise TypeError(f"quantiles must be a sequence of numbers, got {checks.shown(self.quantiles)}")
        levels = {checks.number("quantiles", level, above=0.0, below=1.0) for level in self.quantiles}
        return Layout(window, horizon, season, form.exogenous and exogenous == "known"), np.array(
            sorted({0.5, *levels})
        )

    def _learn(self, columns, first, *, incremental):
        """Train on all windows of rows, the first of which is number `first` of the series; as `_train` returns."""
        layout, going_on = self._layout, self._goes_on(incremental)
        history, targets, exogenous = windows.gather(columns, layout)
        count, window, series = history.shape
        x = self._inputs(history, exogenous, first + window + np.arange(count))
        distance = (targets - windows.centre(history, layout)) / self._scales.target
        targets = windows.of_dtype(distance.reshape(count, -1), x.steps.dtype)
        outputs, loss = targets.shape[1] * len(self.quantiles_), Quantile(self.quantiles_, reduction="sequence")
        interrupted = self._train(x, targets, None, loss, outputs, incremental=incremental)
        if not going_on:
            self._path_seed = int(self._rng.integers(2**31))
            self._shift = np.zeros((layout.horizon, series, len(self.quantiles_)))
        if self._stops_early(incremental):
            _, apart = self._split(count, None)
            self._shift = widening(self._quantiles_of(x.take(apart)), self.quantiles_, distance[apart])
        return interrupted

    def _pooling_layers(self):
        return [Last(dtype=self.dtype)]

    def _stops_early(self, incremental):
        return not incremental and checks.flag("early_stopping", self.early_stopping)

    def _split(self, count, strata):
        """The last windows are held out; between them and the others, as many are left out as have targets in both."""
        fraction = checks.number("validation_fraction", self.validation_fraction, above=0, below=1)
        gap = self._layout.horizon - 1
        apart = min(max(round(fraction * count), 1), count - gap - 1)
        return np.arange(count - apart - gap), np.arange(count - apart, count)

    def _score(self, outputs, targets, weights):
        return -Quantile(self.quantiles_)(outputs, targets)[0]

    def _inputs(self, history, exogenous, ends):
        return Sequences.of_array(
            windows.inputs(history, exogenous, ends, self._layout, self._scales, self._fitted["dtype"])
        )

    def _quantiles_of(self, x):
        """The net's quantiles (n,H,F,Q), in the scale of the targets, in order (Chernozhukov et al. 2010)."""
        shape = len(x), self._layout.horizon, self.n_series_, len(self.quantiles_)
        return in_order(self._outputs(x).reshape(shape).astype(np.float64))

    # Forecasts.

    def predict(self, X: Any = None, *, steps: int | None = None) -> Any:
        """The medians of the steps that follow the rows seen, float64: (steps,), or (steps,F) as the series in fit.

        X: (steps,E) the exogenous columns of these steps, for a forecaster with exogenous columns that are known;
            up to a multiple of the horizon, what is missing is taken to be like the last row. With dates, those that
            follow the rows seen.
        steps: how many; None for as many as X has rows, else the horizon. Beyond the horizon, forecasts are fed back.

        NaN, in all quantiles, where the net's output is NaN; `NonFiniteError` if that would have to be fed back.
        """
        ahead, steps = self._ahead(X, steps)
        return self._as_given(self._forecast(ahead, steps)[..., self._median], X)

    def predict_quantiles(self, X: Any = None, *, steps: int | None = None) -> np.ndarray:
        """Those of `quantiles_`, (steps,Q), or (steps,F,Q) as the series in fit; arguments as in `predict`.

        A direct forecast has them for at most `horizon` steps: beyond, the spread of what is fed back would be missing.
        """
        ahead, steps = self._ahead(X, steps)
        if self._fitted["strategy"] == "direct" and steps > self._layout.horizon:
            raise ValueError(f"steps must be at most the horizon {self._layout.horizon} for quantiles, got {steps}")
        values = self._forecast(ahead, steps)
        return values[:, 0] if self._form.single else values

    def predict_interval(self, X: Any = None, *, steps: int | None = None) -> tuple[Any, Any]:
        """The lowest and the highest of the quantiles, each as `predict` gives the medians."""
        values = self.predict_quantiles(X, steps=steps)
        values = values.reshape(len(values), -1, len(self.quantiles_))
        return self._as_given(values[..., 0], X), self._as_given(values[..., -1], X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """R² of `predict` for the rows that follow those seen: the series X, or y with the exogenous columns X."""
        check_is_fitted(self)
        series = X if y is None else y
        check_same(index_of(X), index_of(series))
        self._followed(index_of(series), len(series))
        forecast = self.predict(None if y is None else X, steps=len(series))
        series = checked_array(series, dtype=np.float64, ensure_2d=False, input_name="X" if y is None else "y")
        return r2(series, np.asarray(forecast), checked_weights(sample_weight, len(series)))

    @property
    def _median(self):
        return int(np.searchsorted(self.quantiles_, 0.5))

    def _ahead(self, X, steps):
        """The exogenous rows (steps,E) to come, E = 0 for none to be known, and their number."""
        check_is_fitted(self)
        if steps is not None:
            steps = checks.integer("steps", steps, minimum=1)
        if X is not None:
            if not self._form.exogenous:
                raise ValueError("X must be None: the forecaster was fitted to a series without exogenous columns")
            index = index_of(X)
            X = checked_data(self, X, reset=False, dtype=np.float64)
            windows.check_size("X", X)
            self._followed(index, len(X))
            if steps is not None and len(X) < steps:
                raise ValueError(f"X must have a row for each of {steps} steps, got {len(X)}")
            steps = steps or len(X)
        steps = steps or self._fitted["horizon"]
        if self._layout.known:
            if X is None:
                raise ValueError("X must hold the exogenous columns of the steps to come, got None")
            return X[:steps], steps
        if self._form.exogenous and steps > self._layout.horizon:
            raise ValueError(
                f'steps must be at most the horizon {self._layout.horizon} with exogenous="past", got {steps}'
            )
        return None, steps

    @np.errstate(over="ignore")  # what is beyond float64 is infinite
    def _forecast(self, ahead, steps):
        """Quantiles (steps,F,Q) in the units of the series. ahead: (steps,E), or None."""
        window, horizon = self._layout.window, self._layout.horizon
        recursive, blocks = self._fitted["strategy"] == "recursive", -(-steps // horizon)
        paths = 1 + (_PATHS if recursive and len(self.quantiles_) > 1 else 0)  # the first is that of the medians
        columns = self._recent.series.shape[1] * max(paths, len(self.quantiles_)) + self._recent.exogenous.shape[1]
        checks.memory(f"a forecast of {steps} steps", 16 * blocks * horizon * columns)  # twice: blocks, and all joined
        if ahead is None:  # never read
            ahead = np.zeros((steps, self._recent.exogenous.shape[1]))
        ahead = np.concatenate([ahead, np.repeat(ahead[-1:], blocks * horizon - steps, axis=0)])
        history = np.repeat(self._recent.series[np.newaxis, -window:], paths, axis=0)
        exogenous = np.concatenate([self._recent.exogenous[-window:], ahead])
        rng, found = np.random.default_rng(self._path_seed), []
        for block in range(0, blocks * horizon, horizon):
            seen = exogenous[block : block + window + horizon]
            seen = np.broadcast_to(seen, (paths, *seen.shape))
            x = self._inputs(history, seen, np.full(paths, self._seen + block))
            widened = in_order(self._quantiles_of(x) + self._shift)  # the median is where it was
            distance = widened * self._scales.target[:, np.newaxis]
            quantiles = windows.centre(history, self._layout)[..., np.newaxis] + distance
            taken = quantiles[..., self._median].copy()
            taken[1:] = drawn(quantiles[1:], self.quantiles_, rng)
            if block + horizon < blocks * horizon and not is_finite(taken):
                raise NonFiniteError("the forecast that would be fed back is not finite: its training went wrong")
            history = np.concatenate([history, taken], axis=1)[:, -window:]
            found.append(taken if recursive else quantiles[0])
        if not recursive:
            values = np.concatenate(found)[:steps]
        else:
            point, *others = np.concatenate(found, axis=1)
            values = np.moveaxis(np.quantile(others or [point], self.quantiles_, axis=0), 0, -1)
            below, point = np.arange(len(self.quantiles_)) < self._median, point[..., np.newaxis]
            values = np.where(below, np.minimum(values, point), np.maximum(values, point))
            values[..., self._median] = point[..., 0]
        return np.exp(values) if self._fitted["log"] else values

    def _as_given(self, values, X):
        """Forecasts (steps,F) as the series in fit was: with one dimension or two, and in pandas."""
        form = self._form
        if form.single:
            values = values[:, 0]
        if not form.pandas:
            return values
        import pandas as pd

        index = index_of(X)
        if self._index is not None and (index is None or is_dated(self._index) and not is_dated(index)):
            index = extended(self._index, len(values), self._frequency)
        if index is None:
            index = pd.RangeIndex(self._seen, self._seen + len(values))
        index = index[: len(values)]
        if form.single:
            return pd.Series(values, index, name=form.names)
        return pd.DataFrame(values, index, columns=form.names)

    # How good they would have been.

    def backtest(
        self, X: Any, y: Any = None, *, origins: int = 16, step: int | None = None, refit: bool = False
    ) -> backtest.Backtest:
        """Forecasts of `horizon` steps from several origins near the end of a series, beside what came.

        X, y: as in `fit`; a clone of this forecaster is fitted, never to anything at or after an origin. Exogenous
            columns that are known are those of the rows that are forecast.
        origins, step: how many, and how many rows apart; step None for as far as the last quarter of the rows allows.
        refit: whether to fit anew at every origin; else the fit before the first one is kept, and rows after it are
            observed only.
        """
        refit, model = checks.flag("refit", refit), clone(self)
        columns, form, _ = model._read(X, y, reset=True)
        if self.log:
            columns = columns._replace(series=np.exp(columns.series))
        rows, season = len(columns.series), checks.integer("season_length", self.season_length, minimum=1)
        horizon = checks.integer("horizon", self.horizon, minimum=1)
        starts = backtest.origins(rows, horizon, season, origins, step)

        def table(*bounds):
            part = columns.rows(*bounds)
            return (part.exogenous, part.series) if form.exogenous else (part.series,)

        model.fit(*table(0, starts[0]))
        found, seen = [], starts[0]
        for start in starts:
            if start > seen and refit:
                model = clone(self).fit(*table(0, start))
            elif start > seen:
                model.observe(*table(seen, start))
            seen = start
            found.append(model.predict_quantiles(table(start, start + horizon)[0] if form.exogenous else None))
        quantiles, series = np.stack(found), columns.series
        return backtest.Backtest(
            starts,
            series[starts[:, np.newaxis] + np.arange(horizon)],
            {"forecaster": quantiles[..., model._median], **backtest.naive_forecasts(series, starts, horizon, season)},
            quantiles[..., 0],
            quantiles[..., -1],
            float(model.quantiles_[-1] - model.quantiles_[0]),
            backtest.naive_error(series[: starts[0]], season),
        )
