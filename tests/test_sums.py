"""Sums over many rows stay accurate in float32."""

import numpy as np
import pytest

import fastrnn
from fastrnn import bptt
from fastrnn.kernels.warn import warn_caller
from fastrnn.sums import add_to, total


def test_sums_of_gradients_where_few_of_many_sequences_are_long():
    """Blocks of rows go on over the many steps of one sequence, however many there are in the first steps."""
    steps, x, dy = 1_000_000, np.float32(0.7), np.float32(1.1)
    layer = fastrnn.RNN(1, 1, nonlinearity="relu")
    layer.load_state_dict(
        {name: np.full_like(array, name == "weight_ih_l0") for name, array in layer.state_dict().items()}
    )
    resets = np.zeros((steps, 1), bool)
    resets[1:512] = True
    workspace = layer.workspace(steps, 1)
    layer.forward(np.full((steps, 1, 1), x), workspace=workspace, resets=resets)
    layer.backward(np.full((steps, 1, 1), dy), workspace=workspace)
    gradients = layer.grad_dict()
    assert gradients["weight_ih_l0"].item() == pytest.approx(steps * float(x) * float(dy), rel=1e-5)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        assert gradients[name].item() == pytest.approx(steps * float(dy), rel=1e-5)


@pytest.mark.parametrize(
    "rule, steps",
    [
        (lambda: bptt.Online(), 10_003),
        (lambda: bptt.Randomized(0.9), 10_003),
        (lambda: bptt.Checkpointed(6_003), 6_003),
        (lambda: bptt.Windowed(2, 1), 100_003),  # 512 rows are a part
        (lambda: bptt.Feedback(0.9), 15_003),
    ],
    ids=["Online", "Randomized", "Checkpointed", "Windowed", "Feedback"],
)
def test_sums_of_gradients_over_the_parts_of_a_rule(rule, steps):
    """All steps are alike, for every rounding to go the same way; what the gradients were before is kept."""
    gradients = []
    for dtype in ("float32", "float64"):
        layer = fastrnn.RNN(1, 1, nonlinearity="relu", dtype=dtype)
        layer.load_state_dict({n: np.full_like(a, n == "weight_ih_l0") for n, a in layer.state_dict().items()})
        x, targets = np.full((2, steps, 1, 1), [[[[1.1]]], [[[0.77]]]], np.float32).astype(dtype)
        layer.parameters.gradients[:] = steps / 4
        rule().gradients(layer, fastrnn.MSE(reduction="sum"), x, targets)
        gradients.append(layer.gradients_to_vector())
    np.testing.assert_allclose(*gradients, rtol=2e-6)


@pytest.mark.parametrize("resets", [False, True])
def test_sums_of_learned_initial_states(resets):
    """The gradient of all sequences, which are alike, is that of one as often as there are sequences."""
    batch = 100_000
    layer, gradients = fastrnn.RNN(1, 2, initial_state="learned", seed=0), []
    for steps, count in ((1, 1), (batch, 1)) if resets else ((1, 1), (1, batch)):
        workspace = layer.workspace(steps, count)
        again = np.ones((steps, count), bool) if resets else None
        y, _ = layer.forward(np.full((steps, count, 1), 0.3, np.float32), workspace=workspace, resets=again)
        layer.zero_grad()
        layer.backward(np.full_like(y, 0.7), workspace=workspace)
        gradients.append(layer.grad_dict()["initial_h"].astype(np.float64))
    np.testing.assert_allclose(gradients[1], batch * gradients[0], rtol=1e-6)


@pytest.mark.parametrize("kind", [fastrnn.PeepholeLSTM, fastrnn.LayerNormLSTM])
def test_sums_of_a_cells_vectors_do_not_depend_on_padding(kind):
    rng, gradients = np.random.default_rng(0), []
    x, dy = (rng.standard_normal((300, 2, 3), dtype=np.float32) for _ in range(2))
    for padding in (0, 30):
        layer, more = kind(3, 3, seed=0), np.zeros((padding, 2, 3), np.float32)
        workspace = layer.workspace(300 + padding, 2)
        layer.forward(np.concatenate([x, more]), lengths=(300, 270), workspace=workspace)
        layer.backward(np.concatenate([dy, more]), workspace=workspace)
        gradients.append(layer.gradients_to_vector())
    np.testing.assert_array_equal(*gradients)


def test_sums_go_to_infinity_and_nan_without_a_warning():
    rows = np.array([[3e38, np.inf], [3e38, -np.inf]], np.float32)
    target = np.zeros(2, np.float32)
    add_to(target, total(rows))
    assert np.isposinf(target[0]) and np.isnan(target[1])


def test_warnings_point_at_the_users_line():
    with pytest.warns(RuntimeWarning, match="mind") as caught:
        eval("warn(message)", {"__name__": "fastrnn.somewhere", "warn": warn_caller, "message": "mind"})
    assert caught[0].filename == __file__
