"""`fastrnn.plot`: what is drawn is what was given, nothing is shown, and arguments that don't fit are named."""

import datetime
import subprocess
import sys

import numpy as np
import pytest

import fastrnn
from fastrnn import plot

matplotlib = pytest.importorskip("matplotlib")

T, B, F, H = 12, 4, 3, 5


def lines(ax):
    """Label -> (x, y)."""
    return {line.get_label(): line.get_data() for line in ax.lines}


@pytest.fixture(scope="module")
def trained():
    """A model of two recurrent layers, and the history of its training."""
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((T, B, F), np.float32), np.ones((T, B, 1), np.float32)) for _ in range(3)]
    recurrent = fastrnn.Residual(fastrnn.LSTM(F, F, seed=1))
    model = fastrnn.Sequential(recurrent, fastrnn.GRU(F, H, seed=2), fastrnn.Linear(H, 1, seed=3))
    trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam())
    history = trainer.fit(batches, epochs=2, validation=batches[:1], progress=False)
    return model, batches[0], history


@pytest.fixture(scope="module")
def flow(trained):
    model, (x, targets), _ = trained
    return fastrnn.diagnostics.gradient_flow(model, fastrnn.MSE(), x, targets, jacobians=3)


# ---- history ----


def test_plot_history_draws_training_and_validation(trained):
    history = trained[-1]
    drawn = lines(plot.history(history))
    np.testing.assert_array_equal(drawn["training"], [range(1, 7), [r["loss"] for r in history if "loss" in r]])
    validation = [r["validation_loss"] for r in history if "validation_loss" in r]
    np.testing.assert_array_equal(drawn["validation"], [[3, 6], validation])


def test_plot_history_averages_many_updates():
    losses = np.random.default_rng(0).random(90)
    ax = plot.history([{"step": n, "loss": loss} for n, loss in enumerate(losses)])
    raw, smooth = ax.lines
    np.testing.assert_array_equal(raw.get_ydata(), losses)
    expected = [losses[max(0, n - 2) : n + 1].mean() for n in range(90)]  # of the last 3
    np.testing.assert_allclose(smooth.get_ydata(), expected)


@pytest.mark.parametrize(
    ("losses", "log", "scale"),
    [([1, 0.5], None, "linear"), ([1, 0.01], None, "log"), ([1, -0.01], None, "linear"), ([1, 0.9], True, "log"),
     ([1, 0.01], False, "linear"), ([1, np.nan, np.inf, 0.01], None, "log")],
)  # fmt: skip
def test_plot_history_is_logarithmic_where_that_shows_more(losses, log, scale):
    records = [{"step": n, "loss": loss} for n, loss in enumerate(losses)]
    assert plot.history(records, log=log).get_yscale() == scale


# ---- gradient flow ----


@pytest.mark.parametrize(("by", "count"), [("lag", 3), ("step", 3), ("jacobian", 3), ("gates", 0)])
def test_plot_gradient_flow_draws_every_layer(flow, by, count):
    ax = plot.gradient_flow(flow, by=by)
    assert len(ax.lines) == count and bool(ax.patches) == (by == "gates")
    if by == "lag":
        assert list(lines(ax)) == ["0.0.l0 h", "0.0.l0 c", "1.l0 h"]
        np.testing.assert_array_equal(lines(ax)["1.l0 h"], [flow.lags, flow.layers[1].by_lag["h"]])


# ---- states ----


def test_plot_states_takes_a_workspace(trained):
    model, (x, _), _ = trained
    workspace = model.workspace(T, B)
    model.forward(x, workspace=workspace)
    states = workspace.states()

    def shown(**options):
        return plot.states(states, **options).images[0].get_array()

    np.testing.assert_array_equal(shown(), states[1][0]["h"][:, 0].T)
    np.testing.assert_array_equal(shown(batch=2, layer=0, part="c"), states[0][0]["c"][:, 2].T)
    with pytest.raises(ValueError, match="part must be one of 'h', got 'c'"):
        shown(part="c")
    with pytest.raises(ValueError, match="layer must be at most 1, got 2"):
        shown(layer=2)


def test_plot_states_takes_arrays():
    values = np.random.default_rng(0).standard_normal((T, B, H))
    for states, options in ((values, {}), (values.swapaxes(0, 1), {"batch_first": True}), (values[:, 1], {})):
        image = plot.states(states, batch=1, **options).images[0]
        np.testing.assert_array_equal(image.get_array(), values[:, 1].T)
        low, high = image.get_clim()
        assert low == -high == -np.abs(values[:, 1]).max()  # zero in the middle of the colours


def test_plot_states_names_the_steps():
    ax = plot.states(np.eye(3), labels="abc")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b", "c"]
    ax = plot.states(np.zeros((100, 2)), labels="x" * 100)  # no room for them
    assert len(ax.get_xticks()) < 20


# ---- forecast ----


def test_plot_forecast_draws_series_and_interval():
    past, future = np.arange(10.0), np.arange(3.0)
    ax = plot.forecast(None, past, future, future - 1, future + 1, actual=future + 0.5)
    drawn = lines(ax)
    np.testing.assert_array_equal(drawn["history"], [range(10), past])
    np.testing.assert_array_equal(drawn["forecast"], [range(10, 13), future])
    np.testing.assert_array_equal(drawn["actual"], [range(9, 13), [9, 0.5, 1.5, 2.5]])  # goes on from the history
    (band,) = ax.collections
    assert band.get_datalim(ax.transData).bounds == (10, -1, 2, 4)


@pytest.mark.parametrize("length", [1, 5])
def test_plot_forecast_over_dates(length, tmp_path):
    time = [datetime.date(2020, 1, 1) + datetime.timedelta(n) for n in range(6 + length)]
    values = np.ones(length)
    for dates in (time, np.array(time, "M8[D]"), np.array(time, "M8[ns]")):
        ax = plot.forecast(dates, np.ones(6), values, values - 1, values + 1)
        plot.save(ax, tmp_path / "forecast.png")
        assert any("Jan" in tick.get_text() or "2020" in tick.get_text() for tick in ax.get_xticklabels()) or (
            "2020-Jan" in ax.xaxis.get_offset_text().get_text()
        )


# ---- confusion ----


def counts(ax):
    size = int(len(ax.texts) ** 0.5)
    return np.array([int(text.get_text().replace(",", "")) for text in ax.texts]).reshape(size, size)


def names(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]


def test_plot_confusion_counts():
    true, predicted = ["b", "a", "b", "c", "b"], ["b", "b", "b", "a", "a"]
    ax = plot.confusion(true, predicted)
    np.testing.assert_array_equal(counts(ax), [[0, 1, 0], [1, 2, 0], [1, 0, 0]])
    assert names(ax) == ["a", "b", "c"]
    np.testing.assert_allclose(ax.images[0].get_array()[1], [1 / 3, 2 / 3, 0])
    ax = plot.confusion(true, predicted, labels=["d", "c", "b", "a"])
    assert names(ax) == ["d", "c", "b", "a"] and counts(ax)[2, 2] == 2 and counts(ax)[1, 3] == 1


def test_plot_confusion_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, (2, 300))
    np.testing.assert_array_equal(counts(plot.confusion(true, predicted)), metrics.confusion_matrix(true, predicted))


def test_plot_confusion_names_classes():
    ax = plot.confusion([0, 2, 2], [0, 2, 0], labels=["zero", "one", "two"])
    assert names(ax) == ["zero", "one", "two"]
    np.testing.assert_array_equal(counts(ax), [[1, 0, 0], [0, 0, 0], [1, 0, 1]])
    matrix = np.array([[1200, 3], [4, 5]])
    np.testing.assert_array_equal(counts(plot.confusion(matrix)), matrix)
    assert names(plot.confusion(matrix, labels=["yes", "no"])) == ["yes", "no"]
    assert plot.confusion(matrix / 7).texts[0].get_text() == "1.7e+02"


# ---- all of them ----


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: plot.forecast(None, [1.0], [2.0], [1.0], [3j]), TypeError, "upper must hold real numbers"),
        (lambda: plot.history([1.0]), TypeError, "history must be a sequence of dicts"),
        (lambda: plot.history([]), ValueError, "history must have records with 'loss' or 'validation_loss'"),
        (lambda: plot.gradient_flow(3), TypeError, "flow must come from diagnostics.gradient_flow, got int"),
        (lambda: plot.gradient_flow(3, by="time"), ValueError, "by must be one of 'lag'"),
        (lambda: plot.states([None]), TypeError, "states must be workspace.states"),
        (lambda: plot.states(np.ones(3)), ValueError, r"states must be an array \(T,H\) or \(T,B,H\)"),
        (lambda: plot.states(np.ones((3, 2, 2)), batch=2), ValueError, "batch must be at most 1"),
        (lambda: plot.states(np.ones((3, 2)), labels="ab"), ValueError, "labels must have 3 entries"),
        (lambda: plot.forecast(None, [[1]], [1]), ValueError, r"history must have the shape \(n,\)"),
        (lambda: plot.forecast(None, [1], []), ValueError, "forecast must have the shape"),
        (lambda: plot.forecast([1], [1], [1]), ValueError, r"time must have the shape \(2,\)"),
        (lambda: plot.forecast(None, [1], [1], [1]), ValueError, "lower and upper must be given together"),
        (lambda: plot.forecast(None, [1], [1], [1], [1, 2]), ValueError, r"upper must have the shape \(1,\)"),
        (lambda: plot.confusion([1, 2], [1]), ValueError, "y_true and y_pred must have one shape"),
        (lambda: plot.confusion([1, 2]), ValueError, "y_true must be a matrix"),
        (lambda: plot.confusion(np.eye(2), labels="abc"), ValueError, "labels must have 2 entries"),
        (lambda: plot.confusion(["a"], ["b"], labels=["a"]), ValueError, "labels must have every class, and 'b'"),
        (lambda: plot.confusion([0], [2], labels=["x", "y"]), ValueError, "and 2 is missing"),
        (lambda: plot.confusion(np.eye(2), ax=3), TypeError, "ax must be Axes of matplotlib's, got int"),
    ],
)
def test_plot_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_plot_draws_into_axes_that_are_given(trained, flow):
    axes = iter(plot.new_figure("a test", 8, 8).subplots(2, 3).flat)
    for draw in (
        lambda ax: plot.history(trained[-1], ax),
        lambda ax: plot.gradient_flow(flow, ax),
        lambda ax: plot.states(np.eye(3), ax),
        lambda ax: plot.forecast(None, [1, 2], [3], ax=ax),
        lambda ax: plot.confusion(np.eye(3), ax=ax),
    ):
        ax = next(axes)
        assert draw(ax) is ax and ax.has_data()


def test_plot_saves_whole_pictures(tmp_path):
    ax = plot.confusion(np.eye(2))
    plot.save(ax, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OSError):
        plot.save(ax.figure, tmp_path / "nowhere" / "confusion.png")


def test_plot_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    pattern = r"plot.history needs matplotlib: pip install matplotlib \(extra fastrnn\[plot\]\)"
    with pytest.raises(ImportError, match=pattern):
        plot.history([{"step": 1, "loss": 2.0}])


def test_plot_leaves_pyplot_alone_and_is_not_imported_unasked():
    code = """
import sys, fastrnn
assert not {"fastrnn.plot", "matplotlib", "tqdm"} & sys.modules.keys()
from fastrnn import plot
assert "matplotlib" not in sys.modules
plot.states([[1.0, 2.0]])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_plot_history_wants_a_step_in_every_record():
    with pytest.raises(TypeError, match="history must be a sequence of dicts with a step"):
        plot.history([{"step": 1, "loss": 1.0}, {"loss": 2.0}])
    for record in ({"step": 1, "loss": 10**400}, {"step": "first", "loss": 1.0}, {"step": 1, "loss": [1.0]}):
        with pytest.raises(TypeError, match="history must have numbers"):
            plot.history([record, record | {"loss": [1.0, 2.0]}])
