"""How good forecasts would have been: rolling origins, measures, and the naive forecasts to beat."""

from typing import NamedTuple

import numpy as np

from .. import checks
from .magnitudes import root_mean_square

_HELD_OUT = 0.25  # of the rows, at most, if nothing else is said
_MEASURES = ("MAE", "RMSE", "MASE", "sMAPE")


class Backtest(NamedTuple):
    """Forecasts from several origins beside what came, and what came beside naive forecasts.

    origins: (K,) numbers of the first rows forecast. actual: (K,H,F). forecasts: name -> (K,H,F), the forecaster's
    first. lower, upper: (K,H,F) its interval, `nominal` the part of the values that should lie in it.
    naive_error: (F,) the mean absolute error of the seasonal-naive forecast, one step or season ahead, before the first
    origin: what MASE is measured in.
    """

    origins: np.ndarray
    actual: np.ndarray
    forecasts: dict[str, np.ndarray]
    lower: np.ndarray
    upper: np.ndarray
    nominal: float
    naive_error: np.ndarray

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Of each forecast: MAE; RMSE; MASE (Hyndman & Koehler, "Another Look at Measures of Forecast Accuracy", 2006);
        sMAPE in percent, 200·|e| / (|actual| + |forecast|) (Makridakis & Hibon, "The M3-Competition", 2000). Those of a
        forecast with NaN are NaN."""
        return {name: self._measures(forecast) for name, forecast in self.forecasts.items()}

    def _measures(self, forecast):
        error = np.abs(forecast - self.actual)
        size = np.abs(forecast) + np.abs(self.actual)
        relative = np.divide(200 * error, size, out=np.zeros(error.shape), where=size != 0)
        rmse = root_mean_square(error.reshape(-1, 1))[0]
        values = error.mean(), rmse, (error / self.naive_error).mean(), relative.mean()
        return dict(zip(_MEASURES, map(float, values), strict=True))

    @property
    def coverage(self) -> float:
        """The part of the values that lay in the interval; NaN where any of its bounds is."""
        if np.isnan(self.lower).any() or np.isnan(self.upper).any():
            return float("nan")
        return float(((self.lower <= self.actual) & (self.actual <= self.upper)).mean())

    def ratio(self, name: str) -> float:
        """The forecaster's MAE over that of the forecast `name`: below 1 if it is better; infinite where that is 0."""
        ours, theirs = (self.scores[which]["MAE"] for which in ("forecaster", name))
        return float("inf") if theirs == 0 else ours / theirs

    def __str__(self):
        lines = [f"{'':15}" + "".join(f"{name:>10}" for name in _MEASURES)]
        for name, scores in self.scores.items():
            lines.append(f"{name:15}" + "".join(f"{scores[measure]:10.4g}" for measure in _MEASURES))
        count, horizon = self.actual.shape[:2]
        held = f"{100 * self.coverage:.0f} % of the values in the {100 * self.nominal:.0f} % interval"
        lines.append(f"{count} origins, {horizon} steps each; {held}")
        return "\n".join(lines)


def origins(rows: int, horizon: int, season: int, count: int, step: int | None) -> np.ndarray:
    """`count` numbers of first rows forecast, `step` apart, the last with just `horizon` rows from it on.

    step: None for as far apart as a quarter of the rows allows. ValueError if a season and more does not come before.
    """
    count = checks.integer("origins", count, minimum=1)
    last = rows - horizon
    if step is None:
        room = max(int(rows * _HELD_OUT) - horizon, 0)
        count = min(count, room + 1)
        step = room // (count - 1) if count > 1 else 1
    else:
        step = checks.integer("step", step, minimum=1)
    found = last - step * np.arange(count)[::-1]
    if found[0] <= season:
        raise ValueError(
            f"X must have more than season_length {season} rows before the first origin of a backtest, "
            f"got {max(int(found[0]), 0)}"
        )
    return found


def naive_forecasts(series: np.ndarray, starts: np.ndarray, horizon: int, season: int) -> dict[str, np.ndarray]:
    """The last value for all steps and, with a season, the value of one season before. series (N,F) -> (K,H,F) each."""
    steps = np.arange(horizon)
    found = {"naive": np.repeat(series[starts - 1, np.newaxis], horizon, axis=1)}
    if season > 1:
        found["seasonal naive"] = series[starts[:, np.newaxis] - season + steps % season]
    return found


def naive_error(series: np.ndarray, season: int) -> np.ndarray:
    """(F,) mean absolute error of the value one season before as a forecast; 1 where there is none."""
    error = np.abs(series[season:] - series[:-season]).mean(0)
    return np.where(error > 0, error, 1.0)
