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
    if not is_dated(index):
        return  # numbers and names: rows are often picked by them
    wrong = np.flatnonzero(np.asarray(index[1:] <= index[:-1]))
    if wrong.size:
        earlier, later = index[wrong[0]], index[wrong[0] + 1]
        raise ValueError(f"the index must increase from row to row, oldest first, but {later} comes after {earlier}")


def is_dated(index: Any) -> bool:
    """Whether it is a pandas index of dates, periods or time spans: one that says which row follows which."""
    return hasattr(index, "freqstr")


def check_same(index: Any, other: Any) -> None:
    """Refuse rows of X and of y that are not those of the same index: they would be paired by position."""
    if index is None or other is None or _same(index, other):
        return
    at = next((i for i, (one, two) in enumerate(zip(index, other, strict=False)) if one != two), 0)
    raise ValueError(
        f"X and y must have the same index, got {index[at]} in X and {other[at]} in y at row {at}: "
        "reindex one of them, or pass arrays to pair rows by position"
    )


def _same(index, other):
    """Whether two indices have the same entries; dates may be of other units."""
    if index.equals(other):
        return True
    comparable = is_dated(index) and type(index) is type(other) and len(index) == len(other)
    return comparable and bool(np.all(index == other))


def frequency_of(index: Any) -> Any:
    """The frequency in which the dates of a whole index follow each other, as it says or they show; None for none."""
    if not is_dated(index):
        return None
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):  # may leave some out
        return index.freq if (np.diff(index.asi8) == 1).all() else None
    return with_frequency(index).freq


def extended(index: Any, steps: int, frequency: Any = None) -> Any:
    """The `steps` entries after the end of a pandas index, dates and periods by their frequency, numbers by their step;
    None if these do not follow from the index.

    frequency: of the dates, if it is known; else what these show.
    """
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[-1] + 1, periods=steps, name=index.name)
    if is_dated(index):
        frequency = with_frequency(index).freq if frequency is None else frequency
        make = pd.date_range if isinstance(index, pd.DatetimeIndex) else pd.timedelta_range
        if frequency is not None:
            return make(index[-1], periods=steps + 1, freq=frequency, name=index.name)[1:]
    elif index.dtype.kind in "iuf" and len(index) > 1:
        gaps = np.diff(index.to_numpy())
        if gaps[0] > 0 and np.allclose(gaps, gaps[0], rtol=1e-9, atol=0):
            return pd.Index(index[-1] + gaps[0] * np.arange(1, steps + 1), name=index.name)
    return None


def with_frequency(index: Any) -> Any:
    """An index of dates or time spans with the frequency that it has, or that three or more show; else without."""
    return type(index)(index, freq="infer") if index.freq is None and len(index) > 2 else index


def followed(index: Any, later: Any, steps: int, frequency: Any) -> Any:
    """An index and that of the next `steps` rows, which is gone on with where they have none, or none of dates.

    None if what follows is unknown. ValueError for dates that are not later, or leave a gap in a known `frequency`.
    """
    if index is None:
        return None
    if is_dated(index) and not is_dated(later) or later is None:
        later = extended(index, steps, frequency)
    if type(index) is not type(later):
        if is_dated(later) and is_dated(index):
            raise ValueError(f"the index must go on as {type(index).__name__}, got {type(later).__name__}")
        return None
    joined = index.append(later)
    if is_dated(index) and not is_dated(joined):
        raise ValueError(f"the index must go on with entries of {index.dtype}, got {later.dtype}")
    if frequency is not None:
        _check_next(index, later, extended(index, steps, frequency))
    _check_order(joined)
    return joined


def _check_next(index, later, expected):
    """Refuse what is not the entries that are expected after an index."""
    if _same(later, expected):
        return
    at = np.flatnonzero(np.asarray(later != expected))[0]
    before = later[at - 1] if at else index[-1]
    raise ValueError(
        f"the index must go on with {expected[at]}, the next after {before} by the series' frequency, got {later[at]}"
    )
