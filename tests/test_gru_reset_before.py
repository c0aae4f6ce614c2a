"""The GRU with the reset gate before the recurrent product (`reset_after=False`): oracle, autograd, files.

What it shares with all cells (options, threads, steps, rules) is tested in their files.
"""

import json

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt

WIDE = {"reset_after": False, "dtype": "float64"}


def problem(layer, steps, batch, seed=0):
    """x, initial state, dy and the final state's gradient."""
    rng = np.random.default_rng(seed)
    state_shape = layer.num_layers * layer.directions, batch, layer.hidden_size
    y_shape = steps, batch, layer.directions * layer.hidden_size
    shapes = (steps, batch, layer.input_size), state_shape, y_shape, state_shape
    return [rng.standard_normal(shape).astype(layer.dtype) for shape in shapes]


def train(layer, x, state, dy, dstate, **arguments):
    """Everything that a forward and a backward pass give, by name."""
    workspace = layer.workspace(*x.shape[:2])
    layer.zero_grad()
    y, final = layer.forward(x, state, workspace=workspace, **arguments)
    results = {"y": y.copy(), "final": final.copy()}
    dx, initial = layer.backward(dy, dstate, workspace=workspace)
    return results | {"dx": dx.copy(), "initial": initial.copy()} | layer.grad_dict()


def assert_near(ours, expected, tolerance):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


# ---- the mathematics ----


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_gru_reset_before_is_the_oracle(data):
    draw = data.draw
    inputs, hidden = draw(st.integers(1, 5)), draw(st.sampled_from([1, 3, 8, 9, 31, 33, 70]))
    steps, batch = draw(st.integers(1, 20)), draw(st.integers(1, 6))
    options = {"num_layers": draw(st.integers(1, 2)), "bidirectional": draw(st.booleans())}
    layer = fastrnn.GRU(inputs, hidden, **options, bias=draw(st.booleans()), seed=1, **WIDE)
    x, state, dy, dstate = problem(layer, steps, batch, draw(st.integers(0, 99)))
    lengths = draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    y, final, tape = naive.recurrent_forward("gru_reset_before", layer.state_dict(), x, state, lengths, **options)
    dx, initial, gradients = naive.recurrent_backward(tape, dy, dstate)
    for b, n in enumerate(lengths):  # padding is not read
        x[n:, b] = dy[n:, b] = np.nan
    ours = train(layer, x, state, dy, dstate, lengths=lengths)
    assert_near(ours, {"y": y, "final": final, "dx": dx, "initial": initial, **gradients}, 1e-11)


def torch_cell(torch, p, x, h):
    """Cho et al. 2014, with PyTorch's names and roles of z and 1 − z."""
    w_r, w_z, w_n = p["weight_hh_l0"].chunk(3)
    b_r, b_z, b_n = p["bias_hh_l0"].chunk(3)
    a_r, a_z, a_n = torch.nn.functional.linear(x, p["weight_ih_l0"], p["bias_ih_l0"]).chunk(3, 1)
    r = torch.sigmoid(a_r + h @ w_r.T + b_r)
    z = torch.sigmoid(a_z + h @ w_z.T + b_z)
    n = torch.tanh(a_n + (r * h) @ w_n.T + b_n)
    return (1 - z) * n + z * h


@pytest.mark.parametrize("resets", [False, True], ids=["through", "resets"])
def test_gru_reset_before_is_autograd(resets):
    torch = pytest.importorskip("torch")
    layer = fastrnn.GRU(5, 21, seed=2, **WIDE)
    x, state, dy, dstate = problem(layer, 18, 4)
    new = np.random.default_rng(1).random((18, 4)) < (0.2 if resets else 0.0)
    ours = train(layer, x, state, dy, dstate, resets=new)
    p = {name: torch.tensor(value, requires_grad=True) for name, value in layer.state_dict().items()}
    their_x, their_state = torch.tensor(x, requires_grad=True), torch.tensor(state, requires_grad=True)
    h, outputs = their_state[0], []
    for x_t, new_t in zip(their_x, new, strict=True):
        h = torch_cell(torch, p, x_t, torch.where(torch.tensor(new_t)[:, None], 0.0, h))
        outputs.append(h)
    y = torch.stack(outputs)
    torch.autograd.backward([y, h[None]], [torch.tensor(dy), torch.tensor(dstate)])
    theirs = {"y": y.detach(), "final": h[None].detach(), "dx": their_x.grad, "initial": their_state.grad}
    assert_near(ours, theirs | {name: tensor.grad for name, tensor in p.items()}, 1e-10)


def test_gru_reset_before_float32_is_float64_to_rounding():
    wide = fastrnn.GRU(7, 37, seed=3, **WIDE)
    narrow = fastrnn.GRU(7, 37, reset_after=False, seed=3)
    wide.load_state_dict({name: value.astype(np.float64) for name, value in narrow.state_dict().items()})
    arrays = problem(narrow, 20, 9)
    expected = train(wide, *(a.astype(np.float64) for a in arrays))
    assert_near(train(narrow, *arrays), {k: v.astype(np.float32) for k, v in expected.items()}, 2e-5)


def test_gru_reset_before_differs_from_after_by_the_reset_alone():
    """Where r = 1 both forms are one; elsewhere they are not."""
    before, after = fastrnn.GRU(3, 9, seed=1, **WIDE), fastrnn.GRU(3, 9, seed=1, dtype="float64")
    arrays = problem(before, 6, 2)
    assert np.abs(train(before, *arrays)["y"] - train(after, *arrays)["y"]).max() > 1e-3
    weights = after.state_dict()
    weights["bias_ih_l0"][:9] = 60.0  # σ(60) is 1 to rounding
    for layer in (before, after):
        layer.load_state_dict(weights)
    assert_near(train(before, *arrays), train(after, *arrays), 1e-12)


def test_gru_reset_before_keeps_nan_in_its_sequence():
    layer = fastrnn.GRU(3, 18, 2, seed=1, **WIDE)
    x, state, dy, dstate = problem(layer, 6, 3)
    expected = train(layer, x, state, dy, dstate)
    x[2, 1, 0] = np.nan
    found = train(layer, x, state, dy, dstate)
    assert np.isnan(found["y"][2:, 1]).all() and np.isnan(found["weight_hh_l0"]).any()
    for name in ("y", "dx"):
        np.testing.assert_array_equal(found[name][:, [0, 2]], expected[name][:, [0, 2]])
    np.testing.assert_array_equal(found["y"][:2], expected["y"][:2])


# ---- the argument, files and copies ----


def test_gru_reset_before_is_an_argument():
    assert fastrnn.GRU(2, 3).reset_after is True and "reset_after" not in fastrnn.GRU(2, 3).config()
    layer = fastrnn.GRU(2, 3, reset_after=False)
    assert layer.reset_after is False and layer.config()["reset_after"] is False
    assert "reset_after=False" in repr(layer)
    assert list(layer.state_dict()) == list(fastrnn.GRU(2, 3).state_dict())
    for wrong in (0, "before", None):
        with pytest.raises(TypeError, match="reset_after"):
            fastrnn.GRU(2, 3, reset_after=wrong)


def test_gru_reset_before_files_keep_the_form(tmp_path):
    pytest.importorskip("safetensors")
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    for reset_after in (False, True):
        layer = fastrnn.GRU(3, 5, reset_after=reset_after, dtype="float64", seed=0)
        path = tmp_path / f"{reset_after}.safetensors"
        fastrnn.save(layer, path)
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert ("reset_after" in str(header)) == (not reset_after)  # as files were before there was a choice
        loaded = fastrnn.load(path)
        assert loaded.reset_after is reset_after
        np.testing.assert_array_equal(loaded.forward(x)[0], layer.forward(x)[0])


def test_gru_reset_before_trains_and_resumes_from_a_checkpoint(tmp_path):
    pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((12, 4, 3)), rng.standard_normal((12, 4, 2))

    def trainer():
        model = fastrnn.Sequential(fastrnn.GRU(3, 9, seed=0, **WIDE), fastrnn.Linear(9, 2, dtype="float64", seed=1))
        return fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(1e-2), bptt=bptt.Truncated(5))

    first, second = trainer(), trainer()
    losses = [first.step(x, targets)[0] for _ in range(6)]
    assert losses[-1] < losses[0]
    first.save_checkpoint(tmp_path / "checkpoint")
    second.load_checkpoint(tmp_path / "checkpoint")
    assert first.step(x, targets)[0] == second.step(x, targets)[0]


def test_gru_reset_before_needs_no_array_anew():
    """A second training step takes the buffers of the first, those of the second product as well."""
    layer = fastrnn.GRU(3, 40, seed=1, **WIDE)
    x, state, dy, dstate = problem(layer, 20, 6)
    workspace = layer.workspace(20, 6)
    layer.forward(x, state, workspace=workspace)
    layer.backward(dy, dstate, workspace=workspace)
    layer.forward(x, state, resets=np.arange(120).reshape(20, 6) % 7 == 0, workspace=workspace)
    layer.backward(dy, dstate, workspace=workspace)  # resets make more sequences, which may take larger ones
    held = *workspace.passes[0].states, *workspace.passes[0].d_states
    layer.forward(x, state, workspace=workspace)
    layer.backward(dy, dstate, workspace=workspace)
    again = *workspace.passes[0].states, *workspace.passes[0].d_states
    assert len(held) == 4 and all(a is b for a, b in zip(again, held, strict=True))


def test_gru_reset_before_states_show_h_alone():
    layer = fastrnn.GRU(3, 5, seed=1, **WIDE)
    x, state, _, _ = problem(layer, 4, 2)
    workspace = layer.workspace(4, 2)
    y, _ = layer.forward(x, state, workspace=workspace)
    (states,), (gates,) = workspace.states(), workspace.gates()
    assert list(states) == ["h"] and sorted(gates) == ["n", "r", "z"]
    np.testing.assert_array_equal(states["h"], y)
    h = np.concatenate([state, y[:-1]])
    np.testing.assert_allclose(y, (1 - gates["z"]) * gates["n"] + gates["z"] * h, rtol=1e-13, atol=1e-14)
    p = layer.state_dict()
    n = x @ p["weight_ih_l0"][10:].T + p["bias_ih_l0"][10:] + p["bias_hh_l0"][10:]
    np.testing.assert_allclose(gates["n"], np.tanh(n + (gates["r"] * h) @ p["weight_hh_l0"][10:].T), rtol=1e-12)
