"""`fastrnn forecast`: a forecast of a column of a table, and how good such forecasts were."""

from . import table
from .common import (
    CommandError,
    Progress,
    add_json,
    add_threads,
    integer,
    number,
    report,
    require,
    say,
    styled,
    use_threads,
)
from .folders import RUNS_FOLDER, results_folder, stem
from .forecast_results import Results


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "forecast",
        help="forecast a column of a CSV or Parquet file",
        description="Forecast a column of a table, a row a step in time. First a backtest: from several origins in the "
        "last quarter of the rows, forecasts by a net trained on what came before all of them are compared with the "
        "naive forecast, which is the last value, and the seasonal-naive one, which is the value a season before. Then "
        "the forecast of what follows the last row. A folder gets the forecast (CSV), a plot (PNG) and a report "
        "(Markdown).",
    )
    parser.add_argument("file", metavar="FILE", help="CSV file, or Parquet file by its ending .parquet or .pq")
    parser.add_argument("--target", required=True, metavar="COL", help="column to forecast")
    parser.add_argument("--time", metavar="COL", help="column of dates or numbers (default: rows are numbered)")
    parser.add_argument("--horizon", required=True, type=integer(1), metavar="N", help="steps to forecast")
    parser.add_argument(
        "--season", type=integer(1), metavar="M",
        help="steps in a season (default: by the times: 4 for quarters, 12 for months, 52 for weeks, 7 for days, 5 for "
        "business days, a day for less; else 1, none)",
    )  # fmt: skip
    parser.add_argument(
        "--exogenous", nargs="+", default=(), metavar="COL",
        help="columns that go along with the target; if they are known ahead, rows for the steps to come stand at the "
        "end of the file, without a target",
    )  # fmt: skip
    parser.add_argument(
        "--fill", action="store_true", default=False, help="take the value before for a missing one, or a missing row"
    )
    parser.add_argument("--log", action="store_true", help="forecast logarithms, of a positive series", default=False)

    group = parser.add_argument_group("net and training")
    group.add_argument(
        "--quantiles", nargs=2, type=number(above=0, below=1), default=(0.1, 0.9), metavar=("LOWER", "UPPER"),
        help="of the interval",
    )  # fmt: skip
    group.add_argument(
        "--strategy", choices=("direct", "recursive"), default="direct", help="all steps at once, or one by one"
    )
    group.add_argument("--window", type=integer(1), metavar="N", help="steps seen (default: three seasons, or 24)")
    group.add_argument("--cell", choices=("gru", "lstm", "rnn"), default="gru", help="recurrent layer")
    group.add_argument("--hidden-size", type=integer(1), default=32, metavar="N", help="units of it")
    group.add_argument("--epochs", type=integer(1), default=200, metavar="N", help="passes over the data, at most")
    group.add_argument("--seed", type=integer(0), default=0, metavar="N", help="of all that is random")
    group.add_argument("--origins", type=integer(1), default=16, metavar="N", help="of the backtest, at most")

    group = parser.add_argument_group("results and machine")
    group.add_argument("--output", metavar="FOLDER", help=f"for the results (default: a new one in {RUNS_FOLDER})")
    group.add_argument("--no-plot", action="store_true", help="draw nothing", default=False)
    add_json(group)
    add_threads(group)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Backtest, fit, forecast, write, and show what came out."""
    use_threads(arguments.threads)
    require("sklearn", "a forecast", "forecast")
    if arguments.output == "":
        raise CommandError("--output names no folder")
    lower, upper = arguments.quantiles
    if not lower < 0.5 < upper:
        raise CommandError(f"--quantiles must be one below 0.5 and one above it, got {lower:g} and {upper:g}")
    series = table.read(arguments.file, arguments.target, arguments.time, arguments.exogenous, arguments.fill)
    horizon, season = arguments.horizon, arguments.season or series.season
    if series.ahead is not None and len(series.ahead) < horizon:
        raise CommandError(
            f"{arguments.file} has {len(series.ahead)} rows to come, without a {series.name}, --horizon is {horizon}"
        )
    _check_length(series, horizon, season, arguments)
    with results_folder(arguments.output, f"{stem(arguments.file)}-forecast") as folder:
        say(f"{series.name}: {len(series.values)} rows, {series.span}, a season of {season}")
        test, forecast = _forecast(series, season, arguments)
        results = Results(series, season, test, forecast)
        results.write_csv(folder)
        drawn = not arguments.no_plot and results.draw(folder)
        if not drawn:
            results.remove_plot(folder)
        results.write_report(folder, arguments, drawn)
        text = f"{test}\n\nforecast, {'plot, ' if drawn else ''}report: {folder}\n{styled(results.verdict(), 'result')}"
        report(arguments, {**results.as_json(), "folder": folder}, text)


def _check_length(series, horizon, season, arguments):
    """Refuse a series too short for a backtest: known before there is anything in the results' folder."""
    rows = len(series.values)
    before = max((arguments.window or season) + 2 * horizon, 3 * horizon)  # the first origin
    needed = max(before + horizon, -(-4 * before // 3))
    if rows < needed:
        raise CommandError(
            f"{arguments.file} is too short: it has {rows} rows, and {horizon} steps ahead with a season of {season} "
            f"and a backtest need {needed}"
        )


def _forecast(series, season, arguments):
    """The backtest, and the forecast as a table."""
    import pandas as pd

    from ..estimators import RNNForecaster

    class Shown(RNNForecaster):
        """Shows how far a fit is."""

        def _show_epoch(self, text):
            progress.show(fits[0] + len(self.loss_curve_) / self.epochs / 2, text)

    known = series.ahead is not None
    forecaster = Shown(
        arguments.horizon, window=arguments.window, season_length=season, strategy=arguments.strategy,
        exogenous="known" if known else "past", quantiles=arguments.quantiles, log=arguments.log, cell=arguments.cell,
        hidden_size=arguments.hidden_size, epochs=arguments.epochs, random_state=arguments.seed,
    )  # fmt: skip
    data = (series.values,) if series.exogenous is None else (series.exogenous, series.values)
    ahead = series.ahead.iloc[: arguments.horizon] if known else None
    fits = [0.0]  # the part of the work before the fit under way
    with Progress("forecast") as progress:
        test = forecaster.backtest(*data, origins=arguments.origins)
        fits[0] = 0.5
        forecaster.fit(*data)
    lower, upper = forecaster.predict_interval(ahead)
    forecast = pd.DataFrame({"forecast": forecaster.predict(ahead), "lower": lower, "upper": upper})
    return test, forecast.rename_axis(series.values.index.name)
