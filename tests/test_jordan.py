"""The output-recurrent net, against its formulas in PyTorch, step by step."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt

T, B, F, H, OUT = 7, 3, 5, 6, 2
LENGTHS = np.array([7, 1, 4])


def layer(dtype="float64", **options):
    return fastrnn.Jordan(F, H, OUT, dtype=dtype, seed=1, **options)


def arrays(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    shapes = ((T, B, F), (1, B, OUT), (T, B, OUT), (1, B, OUT))  # x, state, and the gradients of both results
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


FUNCTIONS = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", None: "clone"}


def torch_oracle(net, x, state, dy, dstate, lengths, resets):
    """y, final state, dx, the gradient of the state and of all parameters; each sequence alone."""
    torch = pytest.importorskip("torch")
    w = {name: torch.from_numpy(a).requires_grad_() for name, a in net.state_dict().items()}
    x, y0 = torch.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(state.copy()).requires_grad_()
    hidden, output = (getattr(torch, FUNCTIONS[f]) for f in (net.nonlinearity, net.output_nonlinearity))
    outputs, finals, total = np.zeros((T, B, OUT)), np.zeros((1, B, OUT)), 0.0
    for b in range(B):
        y = y0[0, b]
        for t in range(lengths[b]):
            if resets is not None and resets[t, b]:
                y = torch.zeros(OUT, dtype=torch.float64)
            h = hidden(w["weight_ih_l0"] @ x[t, b] + w["weight_hh_l0"] @ y + w.get("bias_ih_l0", 0))
            y = output(w["weight_ho_l0"] @ h + w.get("bias_ho_l0", 0))
            outputs[t, b] = y.detach().numpy()
            total = total + (y * torch.from_numpy(dy[t, b])).sum()
        total = total + (y * torch.from_numpy(dstate[0, b])).sum()
        finals[0, b] = y.detach().numpy()
    total.backward()
    d_initial = torch.zeros_like(y0) if y0.grad is None else y0.grad  # None where all sequences begin anew
    return outputs, finals, x.grad.numpy(), d_initial.numpy(), {name: a.grad.numpy() for name, a in w.items()}


@settings(deadline=None, max_examples=40)
@given(
    nonlinearity=st.sampled_from(["tanh", "relu", "sigmoid"]), output=st.sampled_from([None, "tanh", "sigmoid"]),
    bias=st.booleans(), batch_first=st.booleans(), seed=st.integers(0, 99), reset=st.booleans(),
    lengths=st.none() | st.lists(st.integers(1, T), min_size=B, max_size=B),
)  # fmt: skip
def test_jordan_property_is_its_formulas(nonlinearity, output, bias, batch_first, seed, reset, lengths):
    net = layer(nonlinearity=nonlinearity, output_nonlinearity=output, bias=bias, batch_first=batch_first)
    x, state, dy, dstate = arrays(seed)
    resets = np.random.default_rng(seed).random((T, B)) < 0.3 if reset else None
    ends = [T] * B if lengths is None else lengths
    expected = torch_oracle(net, x, state, dy, dstate, ends, resets)
    for b, end in enumerate(ends):  # padding is not read
        x[end:, b] = dy[end:, b] = np.nan

    def own(array):  # in the layer's order
        return np.ascontiguousarray(array.swapaxes(0, 1)) if batch_first and array is not None else array

    options = {"lengths": lengths, "resets": own(resets)}
    y, final = net.forward(own(x), state, **options)
    workspace = net.workspace(T + 2, B + 1)
    y_kept, final_kept = net.forward(own(x), state, **options, workspace=workspace)
    np.testing.assert_array_equal(y, y_kept)
    np.testing.assert_array_equal(final, final_kept)
    y_kept[...] = np.nan  # the caller's to write over
    dx, d_initial = net.backward(own(dy), dstate, workspace=workspace)
    found = own(y), final, own(dx), d_initial
    for ours, theirs in zip(found, expected[:4], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    for name, gradient in net.grad_dict().items():
        np.testing.assert_allclose(gradient, expected[4][name], rtol=1e-10, atol=1e-12)


def test_jordan_gradcheck():
    model = fastrnn.Sequential(layer(output_nonlinearity="tanh"), fastrnn.Linear(OUT, 3, dtype="float64", seed=2))
    x, state, *_ = arrays()
    targets = np.random.default_rng(3).standard_normal((T, B, 3))
    report = fastrnn.gradcheck(model, fastrnn.MSE(), x, targets, (state, None), lengths=LENGTHS)
    assert report.ok and report.max_error < 1e-7, str(report)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jordan_steps_are_those_of_forward(dtype):
    net = layer(dtype)
    x, state, *_ = arrays(dtype=dtype)
    resets = np.random.default_rng(1).random((T, B)) < 0.3
    y, final = net.forward(x, state, resets=resets)
    single, carried = state[:, 0], state
    for t in range(T):
        y_t, carried = net.step(x[t], carried, resets=resets[t])
        np.testing.assert_array_equal(y_t, y[t])
        y_t, single = net.step(x[t, 0], single, resets=resets[t, 0])
        np.testing.assert_array_equal(y_t, y[t, 0])
    np.testing.assert_array_equal(carried, final)
    assert y.dtype == final.dtype == dtype


def test_jordan_batch_mates_padding_and_threads_do_not_matter():
    net = layer()
    workspace = net.workspace(T + 3, B)
    x, _, dy, _ = arrays()
    padded_x, padded_dy = (np.concatenate([a, np.full((3, *a.shape[1:]), np.nan)]) for a in (x, dy))
    y, _ = net.forward(padded_x, lengths=LENGTHS, workspace=workspace)
    net.backward(padded_dy, workspace=workspace)
    gradients = net.gradients_to_vector()
    net.zero_grad()
    again, _ = net.forward(x, lengths=LENGTHS, workspace=workspace)
    np.testing.assert_array_equal(again, y[:T])
    net.backward(dy, workspace=workspace)
    np.testing.assert_array_equal(net.gradients_to_vector(), gradients)
    alone, _ = net.forward(np.ascontiguousarray(x[:, :1]))
    np.testing.assert_array_equal(alone[:, 0], again[:, 0])


def test_jordan_state_goes_on_and_may_be_the_workspaces_own():
    net = layer()
    x, state, *_ = arrays()
    workspace = net.workspace(T, B)
    whole, final = net.forward(x, state)
    _, carried = net.forward(x[:3], state, workspace=workspace)
    y, carried = net.forward(x[3:], carried, workspace=workspace)
    np.testing.assert_array_equal(y, whole[3:])
    np.testing.assert_array_equal(carried, final)


def test_jordan_carry_factor_scales_the_gradient_of_the_state():
    net = layer()
    x, _, _, dstate = arrays()
    found = []
    for factor in (1.0, 0.5):
        workspace = net.workspace(T, B)
        net.forward(x, workspace=workspace)
        workspace.carry_factor = factor
        found.append(net.backward(np.zeros((T, B, OUT)), dstate, workspace=workspace)[1].copy())
    np.testing.assert_allclose(found[1], found[0] * 0.5 ** (T - 1), rtol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_jordan_workspace_shows_its_states(batch_first):
    net = layer(batch_first=batch_first)
    x, state, dy, _ = arrays()
    x = np.ascontiguousarray(x.swapaxes(0, 1)) if batch_first else x
    workspace = net.workspace(T, B)
    with pytest.raises(ValueError, match="states needs a forward pass"):
        workspace.states()
    y, _ = net.forward(x, state, lengths=LENGTHS, workspace=workspace)
    (states,), (gates,) = workspace.states(), workspace.gates()
    np.testing.assert_array_equal(states["y"], y)
    w = net.state_dict()
    out = gates["h"] @ w["weight_ho_l0"].T + w["bias_ho_l0"]
    inside = np.arange(T)[:, np.newaxis] < LENGTHS
    inside = inside.T if batch_first else inside
    np.testing.assert_allclose(out[inside], y[inside], rtol=1e-12)
    assert not gates["h"][~inside].any()
    before = net._states_before(workspace, np.array([0, 3, 6]), np.array([1, 2, 0]))
    time_first = y.swapaxes(0, 1) if batch_first else y
    np.testing.assert_array_equal(before[0], [state[0, 1], time_first[2, 2], time_first[5, 0]])


def test_jordan_repeatable_workspace_adds_the_same_gradients_again():
    net = layer()
    x, _, dy, _ = arrays()
    workspace = net.workspace(T, B)
    workspace.repeatable = True
    net.forward(x, workspace=workspace)
    first, _ = net.backward(dy, workspace=workspace)
    first, once = first.copy(), net.gradients_to_vector()
    np.testing.assert_array_equal(net.backward(dy, workspace=workspace)[0], first)
    np.testing.assert_allclose(net.gradients_to_vector(), 2 * once, rtol=1e-12)


def test_jordan_in_a_model_is_saved_copied_and_trained(tmp_path):
    pytest.importorskip("safetensors")
    model = fastrnn.Sequential(layer("float32"), fastrnn.Linear(OUT, OUT, seed=2))
    x, _, targets, _ = arrays(dtype="float32")
    fastrnn.save(model, tmp_path / "model")
    for other in (fastrnn.load(tmp_path / "model"), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.forward(x)[0], model.forward(x)[0])
    for rule in (bptt.Full(), bptt.Truncated(3)):
        trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(0.02), bptt=rule)
        before = trainer.evaluate([(x, targets)])
        for _ in range(30):
            trainer.step(x, targets)
        assert trainer.evaluate([(x, targets)]) < before
    assert list(model.state_dict())[:5] == [
        "0.weight_ih_l0", "0.weight_hh_l0", "0.weight_ho_l0", "0.bias_ih_l0", "0.bias_ho_l0"
    ]  # fmt: skip


def test_jordan_refuses_bad_arguments():
    with pytest.raises(ValueError, match="output_nonlinearity must be one of"):
        fastrnn.Jordan(F, H, OUT, output_nonlinearity="relu")
    with pytest.raises(ValueError, match="output_size must be at least 1"):
        fastrnn.Jordan(F, H, 0)
    net = layer()
    x, *_ = arrays()
    for options in ({"x": x[..., :2]}, {"state": np.zeros((1, B, H))}, {"resets": np.zeros((T, 1), bool)}):
        with pytest.raises(ValueError, match="must have shape"):
            net.forward(**{"x": x, **options})
    with pytest.raises(ValueError, match="2 dimensions"):
        net.step(x[0, 0], np.zeros((1, 1, OUT)))


def test_jordan_nan_stays_nan_on_the_way_back():
    """Through a rectifier as through any other."""
    for kind in ("relu", "tanh", "sigmoid"):
        net, x = fastrnn.Jordan(3, 4, 2, nonlinearity=kind, seed=0), np.ones((3, 1, 3), np.float32)
        x[1, 0, 0] = np.nan
        value, _ = fastrnn.bptt.Full().gradients(net, fastrnn.MSE(), x, np.zeros((3, 1, 2), np.float32))
        assert np.isnan(value) and np.isnan(net.grad_dict()["bias_ih_l0"]).all()
