"""`WatchGradients` and the pictures of gradient flows."""

import sys

import numpy as np
import pytest

import fastrnn
from fastrnn.diagnostics import WatchGradients, gradient_flow

T, B, F, H = 12, 4, 3, 5


def model():
    return fastrnn.Sequential(fastrnn.GRU(F, H, 2, seed=1), fastrnn.Dropout(0.2, seed=2), fastrnn.Linear(H, 1, seed=3))


def batches(count):
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((T, B, F), np.float32), rng.standard_normal((T, B, 1), np.float32)) for _ in range(count)
    ]


def train(callbacks, net=None, **options):
    net = model() if net is None else net
    trainer = fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.Adam(), **options)
    trainer.fit(batches(5), epochs=2, validation=batches(1), callbacks=callbacks, progress=False)
    return trainer


def test_watch_gradients_measures_every_so_often():
    x, targets = batches(1)[0]
    watch = WatchGradients((x, targets, [12, 3, 5, 7]), every=4, max_lag=6, jacobians=2)
    trainer = train(watch)
    assert watch.updates == [1, 5, 9]
    assert all(flow.lags.size == 6 and flow.jacobian_steps.size == 2 for flow in watch.flows)
    now = gradient_flow(trainer.model, trainer.loss, x, targets, lengths=[12, 3, 5, 7], max_lag=6, jacobians=2)
    assert str(now).splitlines()[0] != str(watch.flows[-1]).splitlines()[0]  # the tenth update came after it


def test_watch_gradients_with_several_updates_a_batch():
    watch = WatchGradients(batches(1)[0], every=4)
    train(watch, bptt=fastrnn.bptt.Truncated(4))  # 3 updates a batch
    assert watch.updates == [3, 9, 15, 21, 27]


def test_watch_gradients_changes_no_training():
    watched = train(WatchGradients(dict(zip(("x", "targets"), batches(1)[0], strict=True)), every=1))
    np.testing.assert_array_equal(watched.model.parameters_to_vector(), train(()).model.parameters_to_vector())


def test_watch_gradients_draws(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "flow.png"
    train(WatchGradients(batches(1)[0], 5, path))
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "error", "pattern"),
    [
        ((3,), TypeError, "a batch must be a tuple or a dict"),
        (((1, 2), 0), ValueError, "every must be at least 1"),
        (((1, 2), 1, 7), TypeError, "path must be a path"),
    ],
)
def test_watch_gradients_refuses(arguments, error, pattern):
    with pytest.raises(error, match=pattern):
        WatchGradients(*arguments)


def flow():
    net, (x, targets) = model(), batches(1)[0]
    return gradient_flow(net, fastrnn.MSE(), x, targets, jacobians=3)


def test_gradient_flow_plots(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    found = flow()
    found.plot(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    axes = Figure().add_subplot()
    found.plot(axes)
    assert axes.get_yscale() == "log" and len(axes.lines) == 2
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), found.layers[0].by_lag["h"])
    with pytest.raises(TypeError, match="target must be a path or Axes"):
        found.plot(3)
    with pytest.raises(OSError):
        found.plot(tmp_path / "nowhere" / "flow.png")


def test_gradient_flow_plot_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ImportError, match=r"pip install matplotlib \(extra fastrnn\[plot\]\)"):
        flow().plot(tmp_path / "flow.png")
    with pytest.raises(ImportError, match="WatchGradients needs matplotlib"):
        WatchGradients(batches(1)[0], path=tmp_path / "flow.png")
