"""The index of a forecast: that of the series, gone on with."""

from typing import Any

import numpy as np


def index_of(table: Any) -> Any:
    """The index of a pandas Series or DataFrame; None of anything else. ValueError for dates that do not increase."""
    index = getattr(table, "index", None)
    if not hasattr(index, "get_indexer"):  # a list has an `index`, too: a method
        return None
    _check_order(index)
    return index


def _check_order(index):
    """Refuse dates and periods out of order or twice: what is learnt would not be the series."""
    if not hasattr(index, "freqstr"):
        return  # numbers and names: rows are often picked by them
    wrong = np.flatnonzero(np.asarray(index[1:] <= index[:-1]))
    if wrong.size:
        earlier, later = index[wrong[0]], index[wrong[0] + 1]
        raise ValueError(f"the index must increase from row to row, oldest first, but {later} comes after {earlier}")


def extended(index: Any, steps: int) -> Any:
    """The `steps` entries after the end of a pandas index, dates and periods by their frequency, numbers by their step;
    None if these do not follow from the index."""
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[-1] + 1, periods=steps, name=index.name)
    if isinstance(index, pd.DatetimeIndex):
        frequency = with_frequency(index).freq
        if frequency is not None:
            return pd.date_range(index[-1], periods=steps + 1, freq=frequency, name=index.name)[1:]
    elif index.dtype.kind in "iuf" and len(index) > 1:
        gaps = np.diff(index.to_numpy())
        if gaps[0] > 0 and np.allclose(gaps, gaps[0], rtol=1e-9, atol=0):
            return pd.Index(index[-1] + gaps[0] * np.arange(1, steps + 1), name=index.name)
    return None


def with_frequency(index: Any) -> Any:
    """A DatetimeIndex with the frequency that it has, or that its dates show, at least three; else without."""
    return type(index)(index, freq="infer") if index.freq is None and len(index) > 2 else index


def followed(index: Any, later: Any) -> Any:
    """An index and a later one; None if either is None or they are of different kinds.

    ValueError for dates that are not later.
    """
    if index is None or type(index) is not type(later):
        return None
    joined = index.append(later)
    _check_order(joined)
    return joined
