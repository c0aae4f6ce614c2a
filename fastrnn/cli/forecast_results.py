"""What `fastrnn forecast` writes: the forecast, a plot and a report."""

import contextlib
import os
from typing import Any, NamedTuple

import numpy as np

from .. import plot, storage
from .common import say
from .table import Series

FORECAST_FILE, PLOT_FILE, REPORT_FILE = "forecast.csv", "forecast.png", "report.md"

_SHOWN = 5  # times the horizon, and no less than so many seasons, of the history in the plot
_DOTS = 24  # steps of a forecast that are marked one by one, at most


class Results(NamedTuple):
    """A series, its season, the `Backtest`, and the forecast, a DataFrame (H,3) of "forecast", "lower", "upper"."""

    series: Series
    season: int
    test: Any
    forecast: Any

    def verdict(self) -> str:
        """How the backtest went, in a sentence."""
        others = [name for name in self.test.forecasts if name != "forecaster"]
        return f"Mean absolute error in the backtest: {', '.join(map(self._beside, others))}."

    def _beside(self, name):
        what, ratio = f"that of the {name.replace(' ', '-')} forecast", self.test.ratio(name)
        return f"{ratio:.2f} times {what}" if np.isfinite(ratio) else f"{what} is 0"

    def as_json(self) -> dict:
        """All of it as one object."""
        time = self.forecast.index.name
        rows = zip(self.forecast.index, self.forecast.to_dict("records"), strict=True)
        return {
            "target": self.series.name,
            "rows": len(self.series.values),
            "season": self.season,
            "origins": self.test.origins,
            "scores": self.test.scores,
            "coverage": self.test.coverage,
            "nominal_coverage": self.test.nominal,
            "forecast": [{time: self.series.shown(when), **row} for when, row in rows],
        }

    def write_csv(self, folder: str) -> None:
        """The forecast: time, forecast, lower, upper."""
        with storage.atomic_write(os.path.join(folder, FORECAST_FILE)) as file:
            self.forecast.to_csv(file, date_format=self.series.form)

    def draw(self, folder: str) -> bool:
        """The forecast and the backtest as a picture; False without matplotlib, which is said."""
        try:
            figure = plot.new_figure("the plot", 9, 7)
        except ImportError as error:
            say(f"no plot: {error}")
            return False
        ahead, before = figure.subplots(2)
        times, values, name = _drawable(self.series.values.index), self.series.values.to_numpy(), self.series.name
        recent = slice(-_SHOWN * max(len(self.forecast), self.season), None)
        when = np.concatenate([times[recent], _drawable(self.forecast.index)])
        forecast, lower, upper = (self.forecast[column].to_numpy() for column in ("forecast", "lower", "upper"))
        plot.forecast(when, values[recent], forecast, lower, upper, ax=ahead)
        ahead.set(title=f"{name}: {_steps(len(self.forecast))} ahead", ylabel=name)
        self._draw_backtest(before, times, values)
        before.set(ylabel=name)
        plot.save(figure, os.path.join(folder, PLOT_FILE), dpi=120)
        return True

    @staticmethod
    def remove_plot(folder: str) -> None:
        """Leave no picture of an earlier run beside this one's results."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, PLOT_FILE))

    def _draw_backtest(self, ax, times, values):
        """Forecasts that do not overlap, from the last origin back, upon what came."""
        test, horizon = self.test, len(self.forecast)
        chosen, start = [], len(values)
        for k, origin in reversed(list(enumerate(test.origins))):
            if origin + horizon <= start:
                chosen, start = [k, *chosen], origin
        begin = max(start - horizon, 0)
        ax.plot(times[begin:], values[begin:], color="0.35", linewidth=1, label="series")
        style = {"color": plot.COLORS[0], "marker": "." if horizon <= _DOTS else "", "markersize": 4}
        for k in chosen:
            when = times[test.origins[k] : test.origins[k] + horizon]
            labels = ("interval", "forecast") if k == chosen[0] else (None, None)
            bounds, width = (test.lower[k, :, 0], test.upper[k, :, 0]), 0 if horizon > 1 else 4
            ax.fill_between(when, *bounds, color=plot.COLORS[0], alpha=0.2, linewidth=width, label=labels[0])
            ax.plot(when, test.forecasts["forecaster"][k, :, 0], label=labels[1], **style)
        ax.set_title(f"backtest: {len(chosen)} of {len(test.origins)} origins")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)

    def write_report(self, folder: str, arguments: Any, drawn: bool) -> None:
        """The backtest's and the forecast's tables as Markdown, with the plot if there is one."""
        test, series = self.test, self.series
        exogenous = f"; exogenous: {', '.join(arguments.exogenous)}" if arguments.exogenous else ""
        bounds = [f"{100 * level:g} %" for level in arguments.quantiles]
        lines = [
            f"# Forecast of {series.name}",
            "",
            f"{len(series.values)} rows of {os.path.basename(arguments.file)}, {series.span}; season of {self.season}; "
            f"{_steps(arguments.horizon)} ahead, {arguments.strategy}{exogenous}.",
            "",
            "## Backtest",
            "",
            f"{len(test.origins)} origins, the first at row {test.origins[0] + 1}. The net was trained on the rows "
            "before the first, and has seen those before each.",
            "",
            *_table("", {name: scores.values() for name, scores in test.scores.items()}, test.scores["naive"], ".4g"),
            "",
            f"{self.verdict()} {100 * test.coverage:.0f} % of the values lay in the {100 * test.nominal:.0f} % "
            "interval.",
            "",
            *([f"![forecast and backtest]({PLOT_FILE})", ""] if drawn else []),
            "## Forecast",
            "",
            *_table(
                self.forecast.index.name,
                dict(zip(map(series.shown, self.forecast.index), self.forecast.to_numpy(), strict=True)),
                ["forecast", *bounds],
                ".6g",
            ),
            "",
        ]
        with storage.atomic_write(os.path.join(folder, REPORT_FILE)) as file:
            file.write("\n".join(lines).encode())


def _steps(count):
    return f"{count} step{'s' if count > 1 else ''}"


def _table(corner, rows, columns, form):
    """The lines of a Markdown table of numbers."""
    yield f"| {corner} | {' | '.join(columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for name, values in rows.items():
        yield f"| {name} | {' | '.join(format(value, form) for value in values)} |"


def _drawable(index):
    """Times as matplotlib takes them: without a zone, as the clocks there show."""
    return (index.tz_localize(None) if getattr(index, "tz", None) is not None else index).to_numpy()
