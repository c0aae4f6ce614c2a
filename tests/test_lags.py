"""Steps side by side: the parts of all lags together are the whole gradient."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt
from fastrnn.diagnostics import gradient_flow
from fastrnn.lags import OneStep, one_lag_back, rows_of, states_before

F, H = 3, 5


def network(kind, layers=1, **options):
    return fastrnn.Sequential(
        getattr(fastrnn, kind)(F, H, layers, dtype="float64", seed=0), fastrnn.Linear(H, 2, dtype="float64", seed=1),
        **options,
    )  # fmt: skip


def batch(steps, sequences, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((steps, sequences, F)), rng.standard_normal((steps, sequences, 2))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_lags_add_up_to_the_full_gradient(kind, batch_first):
    steps, sequences = 7, 3
    net, (x, targets) = network(kind, 2, batch_first=batch_first), batch(steps, sequences, 0)
    resets = np.random.default_rng(1).random((steps, sequences)) < 0.2
    resets[0] = True
    order = (1, 0, 2) if batch_first else (0, 1, 2)
    rows = rows_of(x.transpose(order), batch_first)
    np.testing.assert_array_equal(rows, x.reshape(-1, F))
    states = states_before(net, rows, None, resets)
    step = OneStep(net, bptt.Buffers(), rows, states, resets.reshape(-1))
    whole = net.workspace(steps, sequences)
    y, _ = net.forward(x.transpose(order), resets=resets.T if batch_first else resets, workspace=whole)
    np.testing.assert_allclose(step.y, rows_of(y, batch_first), rtol=1e-13)
    dy = 2 * (y - targets.transpose(order))
    net.zero_grad()
    net.backward(dy, workspace=whole)
    full = net.gradients_to_vector()
    net.zero_grad()
    dy, dstate = rows_of(dy, batch_first).copy(), None
    for _ in range(steps):
        dstate = one_lag_back(step.backward(dy, dstate), sequences)
        dy[...] = 0
    np.testing.assert_allclose(net.gradients_to_vector(), full, rtol=1e-11, atol=1e-14)
    bptt.map_state(lambda array: np.testing.assert_array_equal(array, 0), dstate)


@settings(max_examples=15)
@given(
    kind=st.sampled_from(["LSTM", "GRU"]),
    layers=st.integers(1, 3),
    steps=st.integers(2, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradient_flow_by_step_and_by_lag_agree_for_one_loss_at_the_end(kind, layers, steps, seed):
    x, targets = batch(steps, 1, seed)
    mask = np.arange(steps)[:, np.newaxis] == steps - 1
    flow = gradient_flow(network(kind, layers), fastrnn.MSE(reduction="sum"), x, targets, mask=mask, jacobians=0)
    assert len(flow.layers) == layers and (flow.pairs == 1).all()
    for layer in flow.layers:
        for letter, norms in layer.by_lag.items():
            np.testing.assert_allclose(layer.by_step[letter][:-1], norms[::-1], rtol=1e-12)
            assert layer.by_step[letter][-1] == 0
