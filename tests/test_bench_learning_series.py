"""The series that `bench.learning` forecasts: their integrators, the error measures and the protocols."""

import json

import numpy as np
import pytest

import fastrnn
from bench.learning.tasks import mackey_glass, state_space

# Mackey-Glass


def test_mackey_glass_starts_as_the_closed_form():
    """Over the first delay the fed-back value is constant: x(t) = F/0.1 + (x(0) - F/0.1)·e^(-0.1·t)."""
    past = 0.7206597
    fixed = 2 * past / (1 + past**10)
    t = np.arange(17 * 75 + 1) / 75
    np.testing.assert_allclose(mackey_glass.trajectory(1), fixed + (past - fixed) * np.exp(-0.1 * t), rtol=1e-13)


def test_mackey_glass_converges_with_the_fourth_order():
    coarse, middle, fine = (mackey_glass.trajectory(8, 5 * refine)[::refine] for refine in (1, 2, 4))
    assert 12 < np.abs(coarse - middle).max() / np.abs(middle - fine).max() < 20  # 16
    used, finer = mackey_glass.trajectory(12), mackey_glass.trajectory(12, 150)[::2]
    assert np.abs(used - finer).max() < 1e-11


def test_mackey_glass_obeys_its_equation():
    x, steps = mackey_glass.trajectory(6), 75
    now, delayed = x[17 * steps :], x[: -17 * steps]
    slope = (now[2:] - now[:-2]) * steps / 2
    expected = 0.2 * delayed / (1 + delayed**10) - 0.1 * now
    np.testing.assert_allclose(slope, expected[1:-1], atol=2e-5)


def test_mackey_glass_repeats_are_stretches_of_one_series():
    first, second = mackey_glass.series(0), mackey_glass.series(37)
    assert len(first) == len(second) == 1501
    np.testing.assert_array_equal(first[37:], second[:-37])


def test_smape():
    truth = np.array([1.0, 2.0, 1.0, 1.0])
    assert mackey_glass.smape(truth, truth) == 0
    assert mackey_glass.smape(np.array([1.0, 2.0, 3.0, 0.0]), truth) == pytest.approx((100 + 200) / 4)
    assert mackey_glass.smape(-truth, truth) == 200
    assert mackey_glass.smape(np.array([1.0, np.nan, 1.0, 1.0]), truth) == 200


def test_forecast_by_the_script_is_pytorchs():
    """Weights, layer normalisation with gain and bias, updates and feedback, against the same in PyTorch."""
    torch = pytest.importorskip("torch")
    x = mackey_glass.series(100)
    model = mackey_glass.script_model(iter(range(3)))
    lstm, head, norm = torch.nn.LSTM(50, 40).double(), torch.nn.Linear(40, 1).double(), torch.nn.LayerNorm(50).double()
    for module, prefix in ((lstm, "1."), (head, "3.")):
        weights = {name: model.state_dict()[prefix + name] for name in module.state_dict()}
        module.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    outputs = mackey_glass.forecast_by_script(x, model, updates=3)

    parameters = [*lstm.parameters(), *head.parameters(), *norm.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3, weight_decay=1e-3)
    padded = torch.from_numpy(np.concatenate((np.zeros(49), x)))
    windows = padded.unfold(0, 50, 1)
    for _ in range(3):
        y = head(torch.relu(lstm(norm(windows[:750]))[0]))[:, 0]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(y, padded[50:800]).backward()
        optimizer.step()
    with torch.no_grad():
        _, state = lstm(norm(windows[:750]))
        window, expected = windows[750], []
        for _ in range(50):
            h, state = lstm(norm(window)[None], state)
            expected.append(head(torch.relu(h))[0])
            window = torch.cat((window[1:], expected[-1]))
    np.testing.assert_allclose(outputs[:50], torch.cat(expected).numpy(), rtol=1e-8)


# State space


def test_pendulum_converges_and_keeps_its_energy():
    angle, velocity = np.array([-2.0, 0.3, 1.9]), np.array([1.0, 0.0, -0.7])
    coarse, middle, fine = (state_space.pendulum(angle, velocity, 200, refine) for refine in (4, 8, 16))
    assert np.abs(coarse - fine).max() < 1e-4
    assert np.abs(coarse - middle).max() > 12 * np.abs(middle - fine).max()  # 16 or, of the amplitude alone, 32
    turning = np.abs(fine).max(0)  # where all energy is potential
    np.testing.assert_allclose(-np.cos(turning), velocity**2 / 2 - np.cos(angle), atol=0.01)


def test_tanks_settle_where_inflow_is_outflow_and_overflow():
    levels = state_space.cascaded_tanks(np.tile([1.0, 2.0, 4.5], (500, 1)))
    np.testing.assert_allclose(levels[-1, :2], [1, 4], atol=1e-3)
    assert levels[-1, 2] == levels.max() == 10 and levels.min() >= 0


def test_nrmse_of_the_mean_is_one():
    truth = np.random.default_rng(0).standard_normal(50)
    assert state_space.nrmse(np.full(50, truth.mean()), truth) == pytest.approx(1)


@pytest.mark.parametrize("features", [0, 1])
def test_window_runs_on_its_own_outputs(features):
    """Past the warm-up nothing measured is read, and each output is the model's of the window before it."""
    rng = np.random.default_rng(1)
    inputs, measured = (rng.standard_normal((state_space.STEPS, 3, n)).astype(np.float32) for n in (features, 1))
    net = state_space.SlidingWindow(10, features, iter((0, 1)))
    warm = state_space.WARM_UP
    outputs = net.run_free(state_space.Sequences(inputs, measured, measured))
    measured[warm:] = np.nan
    np.testing.assert_array_equal(outputs, net.run_free(state_space.Sequences(inputs, measured, measured)))
    measured[warm:] = outputs
    x, targets = net.examples(state_space.Sequences(inputs, measured, measured))
    np.testing.assert_allclose(net.model(x)[0][warm - 10 :], outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(targets, measured[10:])


def test_recurrent_net_runs_on_its_own_outputs():
    measured = np.random.default_rng(2).standard_normal((state_space.STEPS, 3, 1)).astype(np.float32)
    net, warm = state_space.Recurrent("GRU", 0, iter((0, 1))), state_space.WARM_UP
    sequences = state_space.Sequences(np.empty((state_space.STEPS, 3, 0), np.float32), measured, measured)
    outputs = net.run_free(sequences)
    measured[warm:] = outputs
    np.testing.assert_allclose(net.model(measured)[0][warm - 1 : -1], outputs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", [mackey_glass, state_space])
def test_task_runs_from_end_to_end(task, tmp_path):
    threads = fastrnn.get_num_threads()
    try:
        results = [{"seed": 0, "seconds": 1.0, **task.run(0, quick=True)}]
    finally:
        fastrnn.set_num_threads(threads)
    results = json.loads(json.dumps(results))
    rows, reached = task.summarise(results)
    assert all(isinstance(label, str) and isinstance(text, str) for label, text in rows)
    assert not reached
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    task.draw(results * 3, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
