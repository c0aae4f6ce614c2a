"""`fastrnn forecast` on real series against naive forecasts: python -m bench.forecasts.

The series are those that come with statsmodels, so that nothing is downloaded. Each is written as a CSV file, and the
command is run on it as anybody would, with nothing but the columns, the horizon and, for the sunspots, the season; a
seed at a time. Writes bench/FORECASTS.md, and the plot of each series for the docs.
"""

import argparse
import contextlib
import io
import json
import pathlib
import shutil
import statistics
import tempfile
import time
from typing import Any, NamedTuple

from fastrnn.cli import main as fastrnn

_SEEDS = 5
_COLUMNS = (
    "series", "rows", "horizon", "naive", "seasonal naive", "fastrnn", "MASE", "fastrnn / seasonal naive",
    "values in the 80 % interval", "seconds",
)  # fmt: skip


class Case(NamedTuple):
    """A series: what it is, `load()` gives it as a DataFrame, and the command's options for it."""

    text: str
    load: Any
    options: tuple[str, ...]


def _co2():
    from statsmodels.datasets import co2

    return co2.load_pandas().data.co2.resample("MS").mean().rename_axis("month").reset_index()


def _elnino():
    import pandas as pd
    from statsmodels.datasets import elnino

    years = elnino.load_pandas().data.set_index("YEAR")
    months = pd.date_range(f"{years.index[0]:.0f}-01", periods=years.size, freq="MS")
    return pd.DataFrame({"month": months, "temperature": years.to_numpy().ravel()})


def _sunspots():
    from statsmodels.datasets import sunspots

    return sunspots.load_pandas().data.rename(columns={"YEAR": "year", "SUNACTIVITY": "sunspots"})


def _unemployment():
    import pandas as pd
    from statsmodels.datasets import macrodata

    data = macrodata.load_pandas().data
    quarters = pd.PeriodIndex.from_fields(year=data.year.astype(int), quarter=data.quarter.astype(int), freq="Q")
    return pd.DataFrame({"quarter": quarters.to_timestamp(), "unemployment": data.unemp})


CASES = {
    "co2": Case(
        "CO₂ at Mauna Loa, monthly means of `co2`", _co2,
        ("--target", "co2", "--time", "month", "--horizon", "12", "--fill"),
    ),
    "elnino": Case(
        "temperature of the Pacific, monthly, `elnino`", _elnino,
        ("--target", "temperature", "--time", "month", "--horizon", "12"),
    ),
    "sunspots": Case(
        "sunspots, yearly, `sunspots`", _sunspots,
        ("--target", "sunspots", "--time", "year", "--season", "11", "--horizon", "11"),
    ),
    "unemployment": Case(
        "unemployment in the USA, quarterly, `macrodata`", _unemployment,
        ("--target", "unemployment", "--time", "quarter", "--horizon", "4"),
    ),
}  # fmt: skip


def run(name: str, folder: pathlib.Path, seeds: int) -> list[dict]:
    """What `--json` says of one case, for each seed."""
    case, path, found = CASES[name], folder / f"{name}.csv", []
    case.load().to_csv(path, index=False)
    for seed in range(seeds):
        output = io.StringIO()
        options = ["--seed", str(seed), "--output", str(folder / f"{name}-{seed}"), "--json", "--quiet"]
        begin = time.perf_counter()
        with contextlib.redirect_stdout(output):
            status = fastrnn(["forecast", str(path), *case.options, *options])
        if status != 0:
            raise SystemExit(f"{name}: exit status {status}")
        found.append(json.loads(output.getvalue()) | {"seconds": time.perf_counter() - begin})
    return found


def _document(results):
    """The lines of FORECASTS.md."""
    seeds = len(next(iter(results.values())))
    yield from (
        "# Forecasts",
        "",
        "`fastrnn forecast` with its defaults on series that come with statsmodels: mean absolute errors in the",
        "command's backtest, from 16 origins in the last quarter of each series, by nets trained on what came before",
        f"all of them. Medians of {seeds} seeds, and the worst in brackets. From `python -m bench.forecasts`.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"| --- |{' ---: |' * (len(_COLUMNS) - 1)}",
    )
    for name, found in results.items():
        errors = {method: [one["scores"][method]["MAE"] for one in found] for method in found[0]["scores"]}
        ratios = [one["scores"]["forecaster"]["MAE"] / one["scores"]["seasonal naive"]["MAE"] for one in found]
        own = statistics.median(errors["forecaster"])
        mase = statistics.median(one["scores"]["forecaster"]["MASE"] for one in found)
        coverage = statistics.median(one["coverage"] for one in found)
        seconds = statistics.median(one["seconds"] for one in found)
        yield (
            f"| {CASES[name].text} | {found[0]['rows']} | {len(found[0]['forecast'])} | {errors['naive'][0]:.3g} | "
            f"{errors['seasonal naive'][0]:.3g} | {own:.3g} | {mase:.2f} | **{statistics.median(ratios):.2f}** "
            f"({max(ratios):.2f}) | {100 * coverage:.0f} % | {seconds:.1f} |"
        )


def main(argv: list[str] | None = None) -> None:
    """Run, print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m bench.forecasts", description=__doc__.partition("\n")[0])
    parser.add_argument("series", nargs="*", metavar="SERIES", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--seeds", type=int, default=_SEEDS, metavar="N", help=f"{_SEEDS} by default")
    root = pathlib.Path(__file__).parent.parent
    parser.add_argument(
        "--output-dir", type=pathlib.Path, default=root, metavar="DIR",
        help="of bench/FORECASTS.md and docs/images/forecast-….png",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.series) - set(CASES):
        parser.error(f"no series {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    pages, images = arguments.output_dir / "bench", arguments.output_dir / "docs" / "images"
    for each in (pages, images):
        each.mkdir(parents=True, exist_ok=True)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.series or CASES:
            results[name] = run(name, pathlib.Path(folder), arguments.seeds)
            shutil.move(pathlib.Path(folder, f"{name}-0", "forecast.png"), images / f"forecast-{name}.png")
    lines = [*_document(results), "", *(f"![{name}](../docs/images/forecast-{name}.png)" for name in results)]
    (pages / "FORECASTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
