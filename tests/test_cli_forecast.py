"""`fastrnn forecast`: what it writes and says, and the one sentence for each thing that is wrong with a table."""

import json
import sys

import numpy as np
import pytest

import fastrnn
from fastrnn import cli
from fastrnn.cli import table
from fastrnn.cli.common import CommandError

pytest.importorskip("sklearn", minversion="1.6")
pd = pytest.importorskip("pandas")

QUICK = ["--epochs", "2", "--hidden-size", "4", "--threads", "1"]


@pytest.fixture(autouse=True)
def restored():
    threads = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(threads)


def frame(rows=120):
    """Monthly sales that a price goes along with."""
    t, rng = np.arange(rows), np.random.default_rng(0)
    price = rng.uniform(1, 2, rows)
    sales = 100 + t / 3 + 20 * np.sin(2 * np.pi * t / 12) - 30 * price + rng.standard_normal(rows)
    months = pd.date_range("2010-01", periods=rows, freq="MS").strftime("%Y-%m")
    return pd.DataFrame({"month": months, "sales": sales, "price": price, "holiday": t % 12 == 11, "shop": "main"})


@pytest.fixture
def sales(tmp_path):
    path = tmp_path / "sales.csv"
    frame().to_csv(path, index=False)
    return path


def run(path, *options, time=True):
    where = ["--time", "month"] if time else []
    return cli.main(["forecast", str(path), "--target", "sales", *where, "--horizon", "6", *QUICK, *map(str, options)])


def refused(capsys, path, *options, time=True):
    """The one sentence on stderr, with exit status 2 and nothing on stdout."""
    capsys.readouterr()
    assert run(path, *options, time=time) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastrnn: ") and err.count("\n") == 1, (out, err)
    return err


def changed(path, **columns):
    """The file with other columns."""
    path = path.with_name("changed.csv")
    frame().assign(**columns).to_csv(path, index=False)
    return path


# ---- what comes out ----


def test_cli_forecast_writes_a_folder(sales, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert run(sales) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "fastrnn-runs" / "sales-forecast"
    assert sorted(path.name for path in folder.iterdir()) == ["forecast.csv", "forecast.png", "report.md"]
    assert "sales: 120 rows, 2010-01-01 to 2019-12-01, a season of 12" in err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["forecaster", "naive", "seasonal"]
    assert lines[-2].endswith("fastrnn-runs/sales-forecast") and lines[-1].startswith(
        "Mean absolute error in the backt"
    )
    found = pd.read_csv(folder / "forecast.csv")
    assert list(found.columns) == ["month", "forecast", "lower", "upper"]
    assert list(found.month) == [f"2020-{month:02}-01" for month in range(1, 7)]
    assert (found.lower <= found.forecast).all() and (found.forecast <= found.upper).all()
    assert (folder / "forecast.png").read_bytes().startswith(b"\x89PNG")
    report = (folder / "report.md").read_text()
    assert report.startswith("# Forecast of sales\n") and "| seasonal naive |" in report and "![" in report
    assert f"| 2020-06-01 | {found.forecast[5]:.6g} | {found.lower[5]:.6g} | {found.upper[5]:.6g} |" in report
    assert run(sales) == 0
    assert (tmp_path / "fastrnn-runs" / "sales-forecast-2" / "report.md").exists()


def test_cli_forecast_json_is_the_estimator(sales, tmp_path, capsys):
    from fastrnn.estimators import RNNForecaster

    options = ["--json", "--no-plot", "--output", tmp_path / "out", "--quantiles", "0.05", "0.95", "--origins", "3"]
    assert run(sales, *options) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert out.count("\n") == 1 and not (tmp_path / "out" / "forecast.png").exists()
    forecaster = RNNForecaster(6, season_length=12, quantiles=(0.05, 0.95), epochs=2, hidden_size=4, random_state=0)
    test = forecaster.backtest(frame().sales.to_numpy(), origins=3)
    assert found["scores"] == test.scores and found["coverage"] == test.coverage and found["origins"] == [90, 102, 114]
    assert found["nominal_coverage"] == pytest.approx(0.9) and found["season"] == 12 and found["rows"] == 120
    ahead = forecaster.fit(frame().sales.to_numpy()).predict()
    np.testing.assert_allclose([row["forecast"] for row in found["forecast"]], ahead, rtol=1e-12)
    assert found["forecast"][0]["month"] == "2020-01-01" and found["folder"] == str(tmp_path / "out")


def test_cli_forecast_of_numbered_rows(sales, tmp_path, capsys):
    assert run(sales, "--output", tmp_path / "out", "--no-plot", "--season", 12, time=False) == 0
    assert "120 rows, 1 to 120, a season of 12" in capsys.readouterr().err
    assert list(pd.read_csv(tmp_path / "out" / "forecast.csv").row) == [121, 122, 123, 124, 125, 126]


def test_cli_forecast_exogenous(sales, tmp_path, capsys):
    options = ["--exogenous", "price", "holiday", "--no-plot", "--json", "--output", tmp_path / "out"]
    assert run(sales, *options) == 0
    past = json.loads(capsys.readouterr().out)
    to_come = changed(sales, sales=frame().sales.where(np.arange(120) < 112))
    assert run(to_come, *options) == 0
    known = json.loads(capsys.readouterr().out)
    assert (past["rows"], known["rows"]) == (120, 112)
    assert known["forecast"][0]["month"] == "2019-05-01" and past["forecast"][0]["month"] == "2020-01-01"
    assert "exogenous: price, holiday" in (tmp_path / "out" / "report.md").read_text()


def test_cli_forecast_fills(sales, tmp_path):
    holes = changed(sales, sales=frame().sales.where(np.arange(120) % 7 != 3))
    assert run(holes, "--fill", "--no-plot", "--output", tmp_path / "out") == 0
    filled = table.read(str(holes), "sales", "month", fill=True).values
    assert filled.iloc[3] == filled.iloc[2] and not filled.isna().any()


def test_cli_forecast_reads_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    data = frame()
    data["month"] = pd.to_datetime(data.month)
    data.set_index("month").to_parquet(tmp_path / "sales.parquet")
    read = table.read(str(tmp_path / "sales.parquet"), "sales", "month")
    np.testing.assert_array_equal(read.values, data.sales)
    assert read.season == 12 and read.values.index.freqstr == "MS"


@pytest.mark.parametrize(
    ("frequency", "season"),
    [
        ("MS", 12),
        ("QE", 4),
        ("W-SAT", 52),
        ("D", 7),
        ("B", 5),
        ("h", 24),
        ("30min", 48),
        ("YS", 1),
        ("2D", 1),
        ("7h", 1),
    ],
)
def test_cli_forecast_season_goes_by_the_times(frequency, season, tmp_path):
    times = pd.date_range("2020-01-03", periods=30, freq=frequency)
    pd.DataFrame({"t": times, "y": 1.0}).to_csv(tmp_path / "y.csv", index=False)
    assert table.read(str(tmp_path / "y.csv"), "y", "t").season == season


def read(tmp_path, times, values=None, **options):
    """The series of these times."""
    pd.DataFrame({"t": times, "y": np.arange(len(times)) if values is None else values}).to_csv(
        tmp_path / "y.csv", index=False
    )
    return table.read(str(tmp_path / "y.csv"), "y", "t", **options)


@pytest.mark.parametrize(
    ("form", "frequency", "last"), [("%Y%m%d", "D", "20150111"), ("%Y%m%d", "MS", "20151101"), ("%Y%m", "MS", "201511")]
)
def test_cli_forecast_takes_compact_dates(form, frequency, last, tmp_path):
    dates = pd.date_range("2015-01-01", periods=11, freq=frequency)
    series = read(tmp_path, dates.strftime(form))
    assert series.values.index.equals(dates) and series.values.index.freqstr == frequency
    assert series.span.endswith(f" to {last}")


def test_cli_forecast_writes_compact_dates_as_they_came(sales, tmp_path, capsys):
    compact = changed(sales, month=frame().month.str.replace("-", ""))
    assert run(compact, "--no-plot", "--json", "--output", tmp_path / "out") == 0
    assert json.loads(capsys.readouterr().out)["forecast"][5]["month"] == "202006"
    assert list(pd.read_csv(tmp_path / "out" / "forecast.csv").month) == list(range(202001, 202007))
    assert "201001 to 201912" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("first", [201595, 20150125, 100000])
def test_cli_forecast_takes_other_numbers_for_numbers(first, tmp_path):
    assert list(read(tmp_path, np.arange(first, first + 10)).values.index) == list(range(first, first + 10))


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%m-%d-%Y", "%d/%m/%Y %H:%M"])
@pytest.mark.parametrize(("start", "frequency"), [("2015-01-01", "MS"), ("2015-01-01", "D"), ("2015-01-31", "ME")])
def test_cli_forecast_tells_day_from_month(form, start, frequency, tmp_path):
    dates = pd.date_range(start, periods=40, freq=frequency)
    assert read(tmp_path, dates.strftime(form)).values.index.equals(dates)


def test_cli_forecast_refuses_to_guess_day_or_month(tmp_path):
    dates = pd.date_range("2015-01-01", periods=12, freq="MS")
    with pytest.raises(CommandError, match=r"month or the day first, such as '01/02/2015' in row 2: write ISO dates"):
        read(tmp_path, dates.strftime("%d/%m/%Y"))
    with pytest.raises(CommandError, match=r"can't be read, '32/01/2015' in row 14: write ISO dates"):
        read(tmp_path, [*(f"{day:02}/01/2015" for day in range(1, 14)), "32/01/2015"])


def test_cli_forecast_of_numeric_dates_with_a_gap_names_the_gap(tmp_path):
    dates = pd.date_range("2015-01-01", periods=60, freq="D").delete(20)
    with pytest.raises(CommandError, match="1 missing, first between 2015-01-20 and 2015-01-22"):
        read(tmp_path, dates.strftime("%d/%m/%Y"))


@pytest.mark.parametrize("form", ["{}Q{}", "{}-Q{}"])
def test_cli_forecast_takes_quarters(form, tmp_path):
    quarters = [form.format(year, quarter) for year in (2000, 2001) for quarter in (1, 2, 3, 4)]
    series = read(tmp_path, quarters)
    assert series.season == 4 and series.span == "2000-01-01 to 2001-10-01"


@pytest.mark.parametrize("form", [str, pd.Timestamp.isoformat, lambda time: f"{time:%Y-%m-%d %H:%M%z}"])
def test_cli_forecast_takes_hours_with_daylight_saving_time(form, tmp_path):
    times = pd.date_range("2024-03-30", periods=48, freq="h", tz="Europe/Paris")
    series = read(tmp_path, [form(time) for time in times])
    assert series.season == 24 and (series.values.index == times).all()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_cli_forecast_takes_other_separators(separator, tmp_path):
    frame().to_csv(tmp_path / "sales.csv", index=False, sep=separator)
    read = table.read(str(tmp_path / "sales.csv"), "sales", "month", ["price"])
    np.testing.assert_allclose(read.exogenous.price, frame().price)
    (tmp_path / "sales.csv").write_text("a;b\n1,5;2\n")
    with pytest.raises(CommandError, match="has no column 'sales': it has a, b"):
        table.read(str(tmp_path / "sales.csv"), "sales", None)


def test_cli_forecast_takes_columns_by_their_names(tmp_path):
    path = tmp_path / "y.csv"
    path.write_text("t, y , z,z,\n1,10,0,0,0\n2,11,0,0,0\n3,12,0,0,0\n")
    assert list(table.read(str(path), "y", "t").values) == [10, 11, 12]
    for name in ("y", "t"):
        with pytest.raises(CommandError, match="has several columns 'z'"):
            table.read(str(path), name, None, ["z"])


@pytest.mark.parametrize("frequency", ["YS", "YE", "QS-FEB", "QE", "MS", "ME", "W-SAT", "D", "B", "h", "15min"])
def test_cli_forecast_fills_missing_rows(frequency, tmp_path):
    times = pd.date_range("2020-01-03", periods=40, freq=frequency)
    few = times.delete([7, 8, 21])
    with pytest.raises(CommandError, match="but 3 missing, first between"):
        read(tmp_path, few)
    values = read(tmp_path, few, fill=True).values
    assert values.index.equals(times) and values.index.freq == pd.DatetimeIndex(times, freq="infer").freq
    assert list(values[5:11]) == [5, 6, 6, 6, 7, 8]


def test_cli_forecast_fills_missing_numbers_of_rows(tmp_path):
    values = read(tmp_path, [10, 20, 30, 50, 60], fill=True).values
    assert list(values.index) == [10, 20, 30, 40, 50, 60] and list(values) == [0, 1, 2, 2, 3, 4]
    with pytest.raises(CommandError, match="regular distances; the widest gap is between 3 and 7; without --time"):
        read(tmp_path, [1, 3, 7, 8], fill=True)


@pytest.mark.parametrize("fill", [False, True])
def test_cli_forecast_goes_on_from_the_last_value(fill, tmp_path):
    series = read(tmp_path, pd.date_range("2020-01-01", periods=9), [1, 2, 3, 4, 5, 6, *[None] * 3], fill=fill)
    assert len(series.values) == 6 and series.ahead is None and series.span == "2020-01-01 to 2020-01-06"


def test_cli_forecast_fills_what_is_known_ahead(tmp_path):
    data = {"y": [1, 2, 3, *[None] * 4], "price": [1, 2, 3, None, 5, 6, None]}
    pd.DataFrame(data).to_csv(tmp_path / "y.csv", index=False)
    ahead = table.read(str(tmp_path / "y.csv"), "y", None, ["price"], fill=True).ahead
    assert list(ahead.price) == [3, 5, 6] and list(ahead.index) == [4, 5, 6]
    with pytest.raises(CommandError, match="price has 1 missing values, first in row 4"):
        table.read(str(tmp_path / "y.csv"), "y", None, ["price"])


def test_cli_forecast_leaves_no_plot_of_another_run(sales, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(sales, "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "forecast.png").exists()
    assert run(sales, "--output", tmp_path / "out", "--no-plot") == 0
    assert not (tmp_path / "out" / "forecast.png").exists()


# ---- what is refused ----


def test_cli_forecast_refuses_tables(sales, tmp_path, capsys):
    data = frame()
    for columns, words in (
        ({"sales": data.sales.where(data.index != 4)}, "sales has 1 missing values, first in row 5; --fill"),
        ({"sales": data.sales.astype(object).where(data.index != 4, "many")}, "must hold numbers, got 'many' in row 5"),
        ({"sales": data.sales.where(data.index != 4, np.inf)}, "must hold numbers, got inf in row 5"),
        ({"sales": data.shop}, "sales must hold numbers, got 'main' in row 1"),
        ({"month": data.month.where(data.index != 4, data.month[3])}, "increase, but 2010-04-01 in row 5 comes twice"),
        ({"month": data.month[::-1].to_numpy()}, "increase, but 2019-11-01 in row 2 is before the one above it"),
        ({"month": data.month.where(data.index != 4)}, "month has no time in row 5"),
        ({"month": data.shop}, "month has a time that can't be read, 'main' in row 1"),
        ({"month": data.holiday}, "month has neither dates nor numbers"),
        ({"month": data.month.where(data.index != 4, "soon")}, "month has a time that can't be read, 'soon' in row 5"),
        ({"month": data.index.where(data.index < 50, data.index + 3)}, "3 missing, first between 49 and 53; --fill"),
        ({"month": data.index.where(data.index < 50, data.index + 0.3)}, "; the widest gap is between 49.0 and 50.3"),
        ({"sales": np.nan}, "sales has no values"),
    ):
        assert words in refused(capsys, changed(sales, **columns))
    gap = tmp_path / "gap.csv"
    data.drop(index=50).to_csv(gap, index=False)
    words = "at regular distances, but 1 missing, first between 2014-02-01 and 2014-04-01; --fill adds rows"
    assert words in refused(capsys, gap)
    data[:2].to_csv(gap, index=False)
    assert "there must be at least three times in month, got 2" in refused(capsys, gap)
    short = tmp_path / "short.csv"
    data[:30].to_csv(short, index=False)
    assert "is too short: it has 30 rows, and 6 steps ahead with a season of 12 and a backtest need 32" in refused(
        capsys, short
    )
    assert not list(tmp_path.glob("fastrnn-runs/*"))
    data[:32].to_csv(short, index=False)
    assert run(short, "--no-plot", "--output", tmp_path / "out") == 0
    for text, words in (
        ("", "can't be read as a table"),
        ("month,sales\n", "has no rows"),
        ("month,sales\n2020-01,1\n2020-02,1,1\n", "Expected 2 fields in line 3, saw 3"),
        (f"month,sales\n{'x' * 10_000},1\n", "has a time that can't be read"),
        (f"month,sales\n2020-01,{'x' * 10_000}\n", "must hold numbers, got"),
        (f"month,{'x' * 10_000}\n2020-01,1\n", "has no column 'sales'"),
    ):
        short.write_text(text)
        said = refused(capsys, short)
        assert words in said and len(said) < 1_000


def test_cli_forecast_refuses_options(sales, tmp_path, capsys):
    assert "has no column 'cost': it has month, sales, price" in refused(capsys, sales, "--exogenous", "cost")
    assert "must name different columns" in refused(capsys, sales, "--exogenous", "sales")
    assert "--quantiles must be one below 0.5" in refused(capsys, sales, "--quantiles", 0.6, 0.9)
    assert "--horizon: it must be at least 1" in refused(capsys, sales, "--horizon", 0)
    assert "--output names no folder" in refused(capsys, sales, "--output", "")
    assert "nowhere.csv: No such file" in refused(capsys, tmp_path / "nowhere.csv")
    to_come = changed(sales, sales=frame().sales.where(np.arange(120) < 117))
    assert "has 3 rows to come, without a sales, --horizon is 6" in refused(capsys, to_come, "--exogenous", "price")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no more")
    assert "can't be read as a table" in refused(capsys, broken)
    pyarrow = pytest.importorskip("pyarrow")
    whole = pyarrow.Table.from_pandas(frame())
    pyarrow.parquet.write_table(whole.replace_schema_metadata({"pandas": '{"index_columns": []}'}), broken)
    assert "can't be read as a table" in refused(capsys, broken)  # where pandas fails with a KeyError


def test_cli_forecast_goes_on_without_matplotlib(sales, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert run(sales, "--output", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert "no plot: " in err and "pip install matplotlib" in err and "forecast, report: " in out
    assert "![" not in (tmp_path / "out" / "report.md").read_text()


def test_cli_forecast_says_what_it_needs(sales, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pandas" else True)
    assert "pip install pandas (extra fastrnn[forecast])" in refused(capsys, sales)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else True)
    assert "pip install scikit-learn (extra fastrnn[forecast])" in refused(capsys, sales)
