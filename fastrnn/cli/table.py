"""Time series out of CSV and Parquet files, checked: what is wrong with a file is said in one sentence."""

import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .common import CommandError, require

_SEASONS = {"M": 12, "Q": 4, "W": 52, "D": 7, "B": 5}  # of pandas' frequencies, by their first letter
_PER_DAY = 24 * 60 * 60
_COMPACT = {r"\d{8}": "%Y%m%d", r"\d{6}": "%Y%m"}  # dates that look like numbers
_COMPACT_YEARS = 1800, 2200  # any other number of so many digits is not taken for a date
_MONTH_AND_DAY = r"\d{1,2}([/.-])\d{1,2}\1\d{4}(\D.*)?"  # in either order
_REMEDY = "write ISO dates, such as 2015-01-31"
_QUARTER = r"\d{4}-?Q[1-4]"
_OFFSET = r":\d{2}[\d.]*\s*(Z|[+-]\d{2}:?\d{2})$"  # from UTC, after the time of day


class Series(NamedTuple):
    """A column over time, and others beside it.

    name, time: of the columns; `time` is None if the rows are numbered. values: pandas Series (N,), indexed by time.
    exogenous: DataFrame (N,E), or None. ahead: the same of the rows at the end without a value, (S,E), or None.
    form: how dates are written, as of `strftime`; None is as ISO 8601 has it.
    """

    name: str
    time: str | None
    values: Any
    exogenous: Any
    ahead: Any
    form: str | None = None

    @property
    def span(self) -> str:
        """The first and the last time."""
        return f"{self.shown(self.values.index[0])} to {self.shown(self.values.index[-1])}"

    def shown(self, time: Any) -> str:
        """A time as text, in the form that the table has."""
        return shown(time) if self.form is None else time.strftime(self.form)

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

    Rows at the end without a target are those to come: their `exogenous` columns, if any, are known ahead.
    fill: missing numbers, and those of missing rows, are those before them.
    `CommandError` for what is not a series: missing columns and values, text, times out of order or at irregular
    distances.
    """
    frame = _read_file(path, target)
    import pandas as pd

    chosen = [name for name in (time, target, *exogenous) if name is not None]
    for name in chosen:
        if name not in frame.columns:
            raise CommandError(f"{path} has no column {name!r}: it has {', '.join(frame.columns)}")
        if (frame.columns == name).sum() > 1:
            raise CommandError(f"{path} has several columns {name!r}")
    if len(set(chosen)) < len(chosen):
        raise CommandError(f"--time, --target and --exogenous must name different columns, got {', '.join(chosen)}")
    if frame.empty:
        raise CommandError(f"{path} has no rows")
    numbers = frame[[target, *exogenous]].apply(lambda column: _numbers(column, path))
    form = None
    if time is None:
        numbers.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    else:
        numbers.index, form = _times(frame[time], path)
        numbers = numbers.reindex(_regular(numbers.index, fill, path))
    known = _rows_known(numbers[[target]])
    if not known:
        raise CommandError(f"{path}: {target} has no values")
    to_come = _rows_known(numbers.iloc[known:][list(exogenous)])
    if fill:
        numbers = numbers.ffill()
    past, ahead = numbers.iloc[:known], numbers.iloc[known : known + to_come][list(exogenous)]
    _check_complete(past, 0, fill, path)
    _check_complete(ahead, known, fill, path)
    return Series(
        target, time, past[target], past[list(exogenous)] if exogenous else None, ahead if to_come else None, form
    )


def _read_file(path, target):
    """The table, its columns' names without spaces around them."""
    require("pandas", "a table of data", "forecast")
    import pandas as pd

    with open(path, "rb"):  # what can't be opened is an OSError, whatever pandas makes of it
        pass
    try:
        if os.path.splitext(path)[1].lower() in (".parquet", ".pq"):
            require("pyarrow", "a Parquet file", "forecast")
            frame = pd.read_parquet(path).reset_index()
            frame.columns = [str(name).strip() for name in frame.columns]
            return frame
        frame = _read_csv(path, ",")
        if len(frame.columns) == 1 and target not in frame.columns:
            other = next((separator for separator in ";\t" if separator in frame.columns[0]), None)
            frame = frame if other is None else _read_csv(path, other)
        return frame
    except (ValueError, OSError) as error:  # pandas' parsers raise kinds of ValueError, pyarrow's of both
        raise CommandError(f"{path} can't be read as a table: {error}") from None


def _read_csv(path, separator):
    """The table, with its columns' names as they are: pandas numbers those that come twice."""
    import pandas as pd

    frame = pd.read_csv(path, sep=separator)
    names = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    if len(names) == len(frame.columns):  # else, the first column has no name and is the index
        frame.columns = [name.strip() or unnamed for name, unnamed in zip(names, frame.columns, strict=True)]
    return frame


def _times(column, path):
    """The index that a column of times makes, which increases, and its dates' form: None if that is not compact."""
    import pandas as pd

    name = column.name
    if column.isna().any():
        raise CommandError(f"{path}: {name} has no time in row {_row(column.isna())}")
    if pd.api.types.is_bool_dtype(column):
        raise CommandError(f"{path}: {name} has neither dates nor numbers")
    dates, form = _compact_dates(column)
    if dates is None and pd.api.types.is_numeric_dtype(column):
        whole = np.equal(np.mod(column, 1), 0).all()
        index = pd.Index(column.astype(np.int64) if whole else column, name=name)
    else:
        index = pd.DatetimeIndex(_dates(column, path) if dates is None else dates, name=name)
    gaps = _gaps(index)
    if (gaps <= 0).any():
        first = int(np.argmax(gaps <= 0)) + 1
        what = "comes twice" if gaps[first - 1] == 0 else "is before the one above it"
        raise CommandError(
            f"{path}: the times of {name} must increase, but {shown(index[first])} in row {first + 1} {what}"
        )
    return index, form


def _compact_dates(column):
    """Dates such as 20150131 or 201501, and their form; None, None of anything else."""
    import pandas as pd

    text = column.astype(str)
    for pattern, form in _COMPACT.items():
        if text.str.fullmatch(pattern).all():
            dates = pd.to_datetime(text, format=form, errors="coerce")
            if dates.dt.year.between(*_COMPACT_YEARS).all():
                return dates, form
    return None, None


def _dates(column, path):
    """Dates in one of the forms that pandas knows, or quarters."""
    import pandas as pd

    text = column.astype(str)
    if text.str.fullmatch(_QUARTER).all():
        return pd.PeriodIndex(text.str.replace("-", ""), freq="Q").to_timestamp()
    orders = (False, True) if text.str.fullmatch(_MONTH_AND_DAY).all() else (False,)
    in_utc = text.str.extract(_OFFSET)[0].nunique() > 1  # with and without daylight saving time
    readings = [_parsed(column, day_first, in_utc) for day_first in orders]
    readable = [dates for dates in readings if dates.notna().all()]
    if not readable:
        row = max(_row(dates.isna()) for dates in readings)
        raise CommandError(
            f"{path}: {column.name} has a time that can't be read, {column.iloc[row - 1]!r} in row {row}: {_REMEDY}"
        )
    if len(readable) == 1 or readable[0].equals(readable[1]):
        return readable[0]
    for fits in (_increases, _is_regular):
        fitting = [dates for dates in readable if fits(pd.DatetimeIndex(dates))]
        if len(fitting) == 1:
            return fitting[0]
    row = _row(readable[0] != readable[1])
    raise CommandError(
        f"{path}: {column.name} can be read with the month or the day first, such as {column.iloc[row - 1]!r} in row "
        f"{row}: {_REMEDY}"
    )


def _parsed(column, day_first, in_utc):
    """Dates, NaT where they are not of the form of the first."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Parsing dates in", UserWarning)  # only one order is possible: it is taken
        warnings.filterwarnings("error", "Could not infer format", UserWarning)  # pandas would guess, row by row
        try:
            return pd.to_datetime(column, errors="coerce", dayfirst=day_first, utc=in_utc)
        except (ValueError, TypeError, UserWarning):
            return pd.Series(pd.NaT, column.index)


def _gaps(index):
    """The distances of times, of dates in nanoseconds."""
    import pandas as pd

    dates = isinstance(index, pd.DatetimeIndex)
    return np.diff(index.to_numpy("datetime64[ns]").astype(np.int64) if dates else index.to_numpy())


def _increases(index):
    return (_gaps(index) > 0).all()


def _is_regular(index):
    """Whether increasing times, at least three, have a frequency or a common distance."""
    import pandas as pd

    from ..estimators.index import with_frequency

    if isinstance(index, pd.DatetimeIndex):
        return with_frequency(index).freq is not None
    gaps = _gaps(index)
    return np.allclose(gaps, gaps[0], rtol=1e-6, atol=0)


def _regular(index, fill, path):
    """The index, with its frequency; fill: with the times that are missing within."""
    import pandas as pd

    from ..estimators.index import with_frequency

    name = index.name
    if len(index) < 3:
        raise CommandError(f"{path}: there must be at least three times in {name}, got {len(index)}")
    if not _is_regular(index):
        full = _without_gaps(index)
        rule = f"{path}: the times of {name} must be at regular distances"
        if full is None:
            widest = int(np.argmax(_gaps(index)))
            raise CommandError(
                f"{rule}; the widest gap is between {shown(index[widest])} and {shown(index[widest + 1])}; without "
                "--time, rows are numbered"
            )
        if not fill:
            after = int(np.argmin(full[: len(index)] == index))  # the first time that is missing comes there
            raise CommandError(
                f"{rule}, but {len(full) - len(index)} missing, first between {shown(index[after - 1])} and "
                f"{shown(index[after])}; --fill adds rows with the values before"
            )
        index = full
    return with_frequency(index) if isinstance(index, pd.DatetimeIndex) else index


def _without_gaps(index):
    """The regular index, of the coarsest frequency, with all these times and fewer others; None if there is none."""
    import pandas as pd

    gaps = _gaps(index)
    step = gaps.min()
    even = gaps.dtype.kind == "i" and not (gaps % step).any() and gaps.sum() // step + 1 < 2 * len(index)
    if not isinstance(index, pd.DatetimeIndex):
        return pd.RangeIndex(index[0], index[-1] + 1, step, name=index.name) if even else None
    month, offsets = index[0].month, pd.offsets
    quarter = (month - 1) % 3 + 1
    frequencies = [
        offsets.YearBegin(month=month),
        offsets.YearEnd(month=month),
        offsets.QuarterBegin(startingMonth=quarter),
        offsets.QuarterEnd(startingMonth=quarter),
        offsets.MonthBegin(),
        offsets.MonthEnd(),
        offsets.BDay(),
        *([pd.Timedelta(step, "ns")] if even else []),
    ]
    for frequency in frequencies:
        full = pd.date_range(index[0], index[-1], freq=frequency, name=index.name)
        if len(full) < 2 * len(index) and index.isin(full).all():
            full.freq = None  # to be told by its dates: seven days are a week
            return full
    return None


def shown(time: Any) -> str:
    """A time as text, without the hours of a whole day."""
    return str(time).removesuffix(" 00:00:00")


def _numbers(column, path):
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    wrong = (numbers.isna() & column.notna()) | np.isinf(numbers)
    if wrong.any():
        value = column[wrong].tolist()[0]
        raise CommandError(f"{path}: {column.name} must hold numbers, got {value!r} in row {_row(wrong)}")
    return numbers


def _check_complete(numbers, before, fill, path):
    """Refuse missing numbers in rows that come after so many others."""
    missing = numbers.isna()
    if missing.any(axis=None):
        name = next(name for name in numbers if missing[name].any())
        hint = "" if fill else "; --fill takes the value before"
        raise CommandError(
            f"{path}: {name} has {int(missing[name].sum())} missing values, first in row "
            f"{before + _row(missing[name])}{hint}"
        )


def _rows_known(numbers):
    """How many rows there are up to the last with a value."""
    return int(numbers.notna().any(axis=1).to_numpy().nonzero()[0].max(initial=-1)) + 1


def _row(mask):
    """The number, from 1, of the first row that is marked."""
    return int(np.argmax(mask.to_numpy())) + 1
