"""Time series out of CSV and Parquet files, checked: what is wrong with a file is said in one sentence."""

import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .common import CommandError, require

_SEASONS = {"M": 12, "Q": 4, "W": 52, "D": 7, "B": 5}  # of pandas' frequencies, by their first letter
_PER_DAY = 24 * 60 * 60


class Series(NamedTuple):
    """A column over time, and others beside it.

    name, time: of the columns; `time` is None if the rows are numbered. values: pandas Series (N,), indexed by time.
    exogenous: DataFrame (N,E), or None. ahead: the same of the rows at the end without a value, (S,E), or None.
    """

    name: str
    time: str | None
    values: Any
    exogenous: Any
    ahead: Any

    @property
    def span(self) -> str:
        """The first and the last time."""
        return f"{shown(self.values.index[0])} to {shown(self.values.index[-1])}"

    @property
    def season(self) -> int:
        """The season that goes with the frequency: a year of quarters, months or weeks, a week of days, a day of less;
        1 for anything else."""
        import pandas as pd

        index = self.values.index
        if not isinstance(index, pd.DatetimeIndex):
            return 1
        step = (index[1] - index[0]).total_seconds()
        if step < _PER_DAY:
            return round(_PER_DAY / step) if _PER_DAY % step == 0 else 1
        name = index.freqstr
        return _SEASONS.get(name[0], 1) if name[0].isalpha() else 1


def read(path: str, target: str, time: str | None, exogenous: Sequence[str] = (), fill: bool = False) -> Series:
    """The series `target` of a CSV file or, by the ending .parquet or .pq, a Parquet file.

    Rows at the end that have `exogenous` columns alone are those to come. fill: missing numbers are those before them.
    `CommandError` for what is not a series: missing columns and values, text, times out of order or at irregular
    distances.
    """
    frame = _read_file(path)
    import pandas as pd

    chosen = [name for name in (time, target, *exogenous) if name is not None]
    for name in chosen:
        if name not in frame.columns:
            raise CommandError(f"{path} has no column {name!r}: it has {', '.join(map(str, frame.columns))}")
    if len(set(chosen)) < len(chosen):
        raise CommandError(f"--time, --target and --exogenous must name different columns, got {', '.join(chosen)}")
    if frame.empty:
        raise CommandError(f"{path} has no rows")
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row") if time is None else _times(frame[time], path)
    numbers = frame[[target, *exogenous]].apply(lambda column: _numbers(column, path))
    ahead = None
    if exogenous:
        known = int(numbers[target].notna().to_numpy().nonzero()[0].max(initial=-1)) + 1
        numbers, to_come = numbers.iloc[:known], numbers.iloc[known:]
        if len(to_come):
            ahead = _complete(to_come[list(exogenous)], fill, path)
    numbers = _complete(numbers, fill, path)
    return Series(target, time, numbers[target], numbers[list(exogenous)] if exogenous else None, ahead)


def _read_file(path):
    require("pandas", "a table of data", "forecast")
    import pandas as pd

    with open(path, "rb"):  # what can't be opened is an OSError, whatever pandas makes of it
        pass
    try:
        if os.path.splitext(path)[1].lower() in (".parquet", ".pq"):
            require("pyarrow", "a Parquet file", "forecast")
            return pd.read_parquet(path).reset_index()
        return pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' parsers raise kinds of ValueError, pyarrow's of both
        raise CommandError(f"{path} can't be read as a table: {error}") from None


def _times(column, path):
    """The index that a column of times makes."""
    import pandas as pd

    from ..estimators.index import with_frequency

    name = column.name
    if column.isna().any():
        raise CommandError(f"{path}: {name} has no time in row {_row(column.isna())}")
    if pd.api.types.is_bool_dtype(column):
        raise CommandError(f"{path}: {name} has neither dates nor numbers")
    if pd.api.types.is_numeric_dtype(column):
        whole = np.equal(np.mod(column, 1), 0).all()
        index = pd.Index(column.astype(np.int64) if whole else column, name=name)
        gaps = np.diff(index.to_numpy())
        regular = len(gaps) > 0 and np.allclose(gaps, gaps[0], rtol=1e-6, atol=0)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # pandas warns where it would guess, row by row
                index = pd.DatetimeIndex(pd.to_datetime(column), name=name)
        except (ValueError, TypeError, UserWarning):
            raise CommandError(f"{path}: {name} has no times that can be read, such as {column.iloc[0]!r}") from None
        gaps = np.diff(index.to_numpy()).astype("timedelta64[ns]").astype(np.int64)
        index = with_frequency(index)
        regular = index.freq is not None
    if (gaps <= 0).any():
        first = int(np.argmax(gaps <= 0)) + 1
        what = "comes twice" if gaps[first - 1] == 0 else "is before the one above it"
        raise CommandError(
            f"{path}: the times of {name} must increase, but {shown(index[first])} in row {first + 1} {what}"
        )
    if not regular:
        raise CommandError(f"{path}: the times of {name} must be at least three, at regular distances{_gap(index)}")
    return index


def shown(time: Any) -> str:
    """A time as text, without the hours of a whole day."""
    return str(time).removesuffix(" 00:00:00")


def _gap(index):
    """Where the distance of times is largest, in words."""
    if len(index) < 3:
        return ""
    widest = int(np.argmax(np.diff(index.to_numpy())))
    return f"; the widest gap is between {shown(index[widest])} and {shown(index[widest + 1])}"


def _numbers(column, path):
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    wrong = (numbers.isna() & column.notna()) | np.isinf(numbers)
    if wrong.any():
        value = column[wrong].tolist()[0]
        raise CommandError(f"{path}: {column.name} must hold numbers, got {value!r} in row {_row(wrong)}")
    return numbers


def _complete(numbers, fill, path):
    """The table without missing numbers."""
    if fill:
        numbers = numbers.ffill()
    missing = numbers.isna()
    if missing.any(axis=None):
        name = next(name for name in numbers if missing[name].any())
        hint = "" if fill else "; --fill takes the value before"
        raise CommandError(
            f"{path}: {name} has {int(missing[name].sum())} missing values, first in row {_row(missing[name])}{hint}"
        )
    return numbers


def _row(mask):
    """The number, from 1, of the first row that is marked."""
    return int(np.argmax(mask.to_numpy())) + 1
