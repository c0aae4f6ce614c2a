"""Windows of time series as the forecaster's net sees them: centred on their own seasonal means."""

from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..finite import is_finite
from .magnitudes import exponents

LARGEST = 1e300  # number of a column: float64 holds sums of windows


class Columns(NamedTuple):
    """Rows of time: what is forecast, and what goes along with it.

    series: (N,F). exogenous: (N,E), E = 0 for none.
    """

    series: np.ndarray
    exogenous: np.ndarray

    def rows(self, *bounds: int | None) -> "Columns":
        """A slice of them."""
        return Columns(*(part[slice(*bounds)] for part in self))

    def followed_by(self, later: "Columns") -> "Columns":
        """These rows and then those."""
        return Columns(*(np.concatenate(parts) for parts in zip(self, later, strict=True)))


class Layout(NamedTuple):
    """What a window is: `window` steps seen, `horizon` steps forecast, `season` steps in a season.

    known: whether the exogenous columns of the steps that are forecast are seen, too.
    """

    window: int
    horizon: int
    season: int
    known: bool


class Scales(NamedTuple):
    """What the net's numbers are measured in: targets and anomalies, and levels, (F,); exogenous columns (E,)."""

    target: np.ndarray
    level: np.ndarray
    exogenous_mean: np.ndarray
    exogenous: np.ndarray


def seasonal_means(history: np.ndarray, season: int) -> np.ndarray:
    """Means (B,season,F) of the whole seasons at the end of windows (B,W,F); the first is that of the step after."""
    batch, window, columns = history.shape
    whole = window - window % season
    return history[:, window - whole :].reshape(batch, -1, season, columns).mean(1)


def centre(history: np.ndarray, layout: Layout) -> np.ndarray:
    """(B,horizon,F): the seasonal mean for each step that is forecast, which the net's outputs are added to."""
    return seasonal_means(history, layout.season)[:, np.arange(layout.horizon) % layout.season]


def check_size(name: str, columns: np.ndarray) -> None:
    """Refuse numbers whose sums over windows may be beyond float64."""
    if columns.size and max(columns.max(), -columns.min()) > LARGEST:
        raise ValueError(f"{name} must have numbers of at most {LARGEST:g}, got {np.abs(columns).max():g}")


def scales(columns: Columns, layout: Layout) -> Scales:
    """Of all windows of the rows."""
    up = Columns(*map(exponents, columns))
    columns = Columns(*(np.ldexp(part, -exponent) for part, exponent in zip(columns, up, strict=True)))
    history, targets, _ = gather(columns, layout)
    level = history - history.mean(1, keepdims=True)
    size, exogenous_size = (np.abs(part).mean(0) for part in columns)
    distance = _nonzero(np.abs(targets - centre(history, layout)).mean((0, 1)), size, 1e-3 * size)
    levels = _nonzero(np.sqrt((level**2).mean((0, 1))), size, 1e-3 * size)
    deviation = _nonzero(columns.exogenous.std(0), exogenous_size, exogenous_size)
    return Scales(
        np.ldexp(distance, up.series),
        np.ldexp(levels, up.series),
        np.ldexp(columns.exogenous.mean(0), up.exogenous),
        np.ldexp(deviation, up.exogenous),
    )


def _nonzero(scale, size, instead):
    """A scale to divide by, for columns of numbers of this size; constant ones, rounding errors aside, have another
    instead, or 1 if that is 0, too."""
    return np.where(scale > 1e-13 * size, scale, np.where(instead > 0, instead, 1.0))


def gather(columns: Columns, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All n windows of the rows, views: histories (n,W,F), targets (n,horizon,F), exogenous (n,W+horizon,E).

    MemoryError if there is too little for what is made of them.
    """
    window, length = layout.window, layout.window + layout.horizon
    numbers = 2 * columns.series.shape[1] + 2 + columns.exogenous.shape[1]  # of a step
    checks.memory("the windows of X", 8 * (len(columns.series) - length + 1) * window * numbers)
    series, exogenous = (
        np.lib.stride_tricks.sliding_window_view(part, length, axis=0).transpose(0, 2, 1) for part in columns
    )
    return series[:, :window], series[:, window:], exogenous


@np.errstate(over="ignore")
def inputs(
    history: np.ndarray, exogenous: np.ndarray, ends: np.ndarray, layout: Layout, scales: Scales, dtype: str
) -> np.ndarray:
    """What the net reads of B windows, (B,W,C).

    history: (B,W,F). exogenous: (B,W+horizon,E), of the steps forecast only if `layout.known`. ends: (B,) the numbers,
    since the series began, of the first steps forecast.

    Of each step: the values' distance from the window's mean and, with a season, from its seasonal means, and the phase
    (sine, cosine); the exogenous columns; and at the last step those of all steps forecast, zeros before. ValueError
    for what `dtype` can't hold.
    """
    batch, window, _ = history.shape
    parts = [(history - history.mean(1, keepdims=True)) / scales.level]
    steps = np.arange(-window, 0)
    if layout.season > 1:
        means = seasonal_means(history, layout.season)
        parts.append((history - means[:, steps % layout.season]) / scales.target)
        angle = 2 * np.pi / layout.season * ((ends[:, np.newaxis] + steps) % layout.season)
        parts.append(np.stack([np.sin(angle), np.cos(angle)], -1))
    if exogenous.shape[2]:
        standard = (exogenous - scales.exogenous_mean) / scales.exogenous
        parts.append(standard[:, :window])
        if layout.known:
            ahead = np.zeros((batch, window, layout.horizon * exogenous.shape[2]))
            ahead[:, -1] = standard[:, window:].reshape(batch, -1)
            parts.append(ahead)
    return of_dtype(np.concatenate(parts, -1), dtype)


@np.errstate(over="ignore")
def of_dtype(scaled: np.ndarray, dtype: Any) -> np.ndarray:
    """Numbers in the scale of the first fit as the net takes them; ValueError if it can't."""
    result = scaled.astype(dtype)
    if not is_finite(result):
        raise ValueError(
            f"X and y must not be so far from the series of the first fit that they exceed {result.dtype} in its scale"
        )
    return result
