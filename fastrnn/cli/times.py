"""Times out of a column of a table: dates in many forms, quarters, numbers; regular, or made so."""

import warnings
from typing import Any

import numpy as np

from ..storage import short
from .common import CommandError

_COMPACT = {r"\d{8}": "%Y%m%d", r"\d{6}": "%Y%m"}  # dates that look like numbers
_COMPACT_YEARS = 1800, 2200  # any other number of so many digits is not taken for a date
_MONTH_AND_DAY = r"\d{1,2}([/.-])\d{1,2}\1\d{4}(\D.*)?"  # in either order
_REMEDY = "write ISO dates, such as 2015-01-31"
_QUARTER = r"\d{4}-?Q[1-4]"
_OFFSET = r":\d{2}[\d.]*\s*(Z|[+-]\d{2}:?\d{2})$"  # from UTC, after the time of day


def read_times(column: Any, path: str) -> tuple[Any, str | None]:
    """The index that a column of times makes, which increases, and its dates' form: None if that is not compact."""
    import pandas as pd

    name = column.name
    if column.isna().any():
        raise CommandError(f"{path}: {name} has no time in row {first_row(column.isna())}")
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
        row = max(first_row(dates.isna()) for dates in readings)
        value = short(repr(column.iloc[row - 1]))
        raise CommandError(f"{path}: {column.name} has a time that can't be read, {value} in row {row}: {_REMEDY}")
    if len(readable) == 1 or readable[0].equals(readable[1]):
        return readable[0]
    for fits in (_increases, _is_regular):
        fitting = [dates for dates in readable if fits(pd.DatetimeIndex(dates))]
        if len(fitting) == 1:
            return fitting[0]
    row = first_row(readable[0] != readable[1])
    value = short(repr(column.iloc[row - 1]))
    raise CommandError(
        f"{path}: {column.name} can be read with the month or the day first, such as {value} in row {row}: {_REMEDY}"
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


def regular(index: Any, fill: bool, path: str) -> Any:
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


def first_row(mask: Any) -> int:
    """The number, from 1, of the first row that is marked."""
    return int(np.argmax(mask.to_numpy())) + 1
