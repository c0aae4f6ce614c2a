"""Time series out of CSV and Parquet files, checked: what is wrong with a file is said in one sentence."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..storage import errors_as, short
from .common import CommandError, require
from .times import first_row, read_times, regular, shown

_SEASONS = {"M": 12, "Q": 4, "W": 52, "D": 7, "B": 5}  # of pandas' frequencies, by their first letter
_PER_DAY = 24 * 60 * 60


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
            raise CommandError(f"{path} has no column {name!r}: it has {short(', '.join(frame.columns))}")
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
        numbers.index, form = read_times(frame[time], path)
        numbers = numbers.reindex(regular(numbers.index, fill, path))
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
    parquet = os.path.splitext(path)[1].lower() in (".parquet", ".pq")
    if parquet:
        require("pyarrow", "a Parquet file", "forecast")
    with errors_as(CommandError, f"{path} can't be read as a table"):
        if parquet:
            frame = pd.read_parquet(path).reset_index()
            frame.columns = [str(name).strip() for name in frame.columns]
            return frame
        frame = _read_csv(path, ",")
        if len(frame.columns) == 1 and target not in frame.columns:
            other = next((separator for separator in ";\t" if separator in frame.columns[0]), None)
            frame = frame if other is None else _read_csv(path, other)
        return frame


def _read_csv(path, separator):
    """The table, with its columns' names as they are: pandas numbers those that come twice."""
    import pandas as pd

    frame = pd.read_csv(path, sep=separator)
    names = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    if len(names) == len(frame.columns):  # else, the first column has no name and is the index
        frame.columns = [name.strip() or unnamed for name, unnamed in zip(names, frame.columns, strict=True)]
    return frame


def _numbers(column, path):
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    wrong = (numbers.isna() & column.notna()) | np.isinf(numbers)
    if wrong.any():
        value = short(repr(column[wrong].tolist()[0]))
        raise CommandError(f"{path}: {column.name} must hold numbers, got {value} in row {first_row(wrong)}")
    return numbers


def _check_complete(numbers, before, fill, path):
    """Refuse missing numbers in rows that come after so many others."""
    missing = numbers.isna()
    if missing.any(axis=None):
        name = next(name for name in numbers if missing[name].any())
        hint = "" if fill else "; --fill takes the value before"
        raise CommandError(
            f"{path}: {name} has {int(missing[name].sum())} missing values, first in row "
            f"{before + first_row(missing[name])}{hint}"
        )


def _rows_known(numbers):
    """How many rows there are up to the last with a value."""
    return int(numbers.notna().any(axis=1).to_numpy().nonzero()[0].max(initial=-1)) + 1
