"""Recurrent layers and their companions against the naive oracle, central differences and PyTorch's recorded values."""

import pathlib

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.kernels.simd import panel_width

KINDS = list(naive.GATES)
GOLDEN = pathlib.Path(__file__).parent / "data" / "recurrent.npz"
UNIT = panel_width(np.dtype("float64")) // 4  # units in a block of an LSTM


def make_layer(kind, input_size, hidden_size, num_layers=1, **options):
    if kind.startswith("rnn"):
        return fastrnn.RNN(input_size, hidden_size, num_layers, nonlinearity=kind[4:], **options)
    if kind == "gru_reset_before":
        return fastrnn.GRU(input_size, hidden_size, num_layers, reset_after=False, **options)
    return {"gru": fastrnn.GRU, "lstm": fastrnn.LSTM}[kind](input_size, hidden_size, num_layers, **options)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def draw_state(rng, layer, batch):
    shape = (layer.num_layers * layer.directions, batch, layer.hidden_size)
    h = tuple(rng.standard_normal(shape).astype(layer.dtype) for _ in range(layer.cell.states))
    return h if len(h) > 1 else h[0]


def spoil_padding(array, lengths):
    """NaN past each sequence's end of a (T,B,F) array."""
    array = array.copy()
    for b, n in enumerate(lengths or []):
        array[n:, b] = np.nan
    return array


def assert_near(actual, expected, tolerance, name):
    """Equal to `tolerance` times the largest element."""
    assert actual.shape == expected.shape, name
    error = np.abs(actual - expected).max()
    assert error <= tolerance * np.abs(expected).max(), f"{name}: {error} of {np.abs(expected).max()}"


def run_layer(layer, x, state, lengths, dy, dstate, workspace=None):
    """All results of a forward and a backward pass by name; time first, gradients from zero."""
    if layer.batch_first:
        x, dy = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in (x, dy))
    workspace = workspace or layer.workspace(x.shape[1 if layer.batch_first else 0], max(x.shape[:2]))
    layer.zero_grad()
    y, final = layer.forward(x, state, lengths=lengths, workspace=workspace)
    y, final = y.copy(), tuple(f.copy() for f in parts(final))
    dx, d_initial = layer.backward(dy, dstate, workspace=workspace)
    dx = dx.copy()
    if layer.batch_first:
        y, dx = y.swapaxes(0, 1), dx.swapaxes(0, 1)
    results = {"y": y, "dx": dx}
    results |= {f"final_{n}": f for n, f in zip("hc", final, strict=False)}
    results |= {f"d_{n}0": d.copy() for n, d in zip("hc", parts(d_initial), strict=False)}
    return results | {f"d_{n}": g for n, g in layer.grad_dict().items()}


def run_oracle(kind, layer, x, state, lengths, dy, dstate):
    options = {"num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    y, final, tape = naive.recurrent_forward(kind, layer.state_dict(), x, state, lengths, **options)
    dx, d_initial, gradients = naive.recurrent_backward(tape, dy, dstate)
    results = {"y": y, "dx": dx}
    results |= {f"final_{n}": f for n, f in zip("hc", parts(final), strict=False)}
    results |= {f"d_{n}0": d for n, d in zip("hc", parts(d_initial), strict=False)}
    return results | {f"d_{n}": g for n, g in gradients.items()}


def compare_with_oracle(kind, layer, steps, batch, lengths, with_state, seed, tolerance):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, batch, layer.input_size)).astype(layer.dtype)
    dy = rng.standard_normal((steps, batch, layer.directions * layer.hidden_size)).astype(layer.dtype)
    state, dstate = (draw_state(rng, layer, batch), draw_state(rng, layer, batch)) if with_state else (None, None)
    ours = run_layer(layer, spoil_padding(x, lengths), state, lengths, spoil_padding(dy, lengths), dstate)
    theirs = run_oracle(kind, layer, x, state, lengths, dy, dstate)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert_near(ours[name], expected, tolerance, name)


# ---- the oracle itself ----


@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_oracle_against_central_differences(kind):
    layer = make_layer(kind, 2, 3, 2, bidirectional=True, dtype="float64", seed=1)
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((4, 2, 2)), rng.standard_normal((4, 2, 6))
    state, dstate = draw_state(rng, layer, 2), draw_state(rng, layer, 2)
    parameters = layer.state_dict()
    options = {"num_layers": 2, "bidirectional": True}
    tensors = {"x": x, **parameters, **{n: s for n, s in zip(("h", "c"), parts(state), strict=False)}}

    def objective():
        y, final, _ = naive.recurrent_forward(kind, parameters, x, state, [3, 4], **options)
        return (y * dy).sum() + sum((f * d).sum() for f, d in zip(parts(final), parts(dstate), strict=True))

    _, _, tape = naive.recurrent_forward(kind, parameters, x, state, [3, 4], **options)
    dx, d_initial, gradients = naive.recurrent_backward(tape, dy, dstate)
    gradients |= {"x": dx, **{n: d for n, d in zip(("h", "c"), parts(d_initial), strict=False)}}
    for name, tensor in tensors.items():
        numeric = central_differences(objective, tensor)
        assert_near(gradients[name], numeric, 1e-7, name)


def central_differences(objective, tensor, eps=1e-5):
    gradient = np.zeros(tensor.shape)
    for index in np.ndindex(tensor.shape):
        kept = tensor[index]
        tensor[index] = kept + eps
        above = objective()
        tensor[index] = kept - eps
        gradient[index] = (above - objective()) / (2 * eps)
        tensor[index] = kept
    return gradient


# ---- layers against the oracle ----

# input_size, hidden_size, options, steps, batch, lengths
SHAPES = [
    (1, 1, {}, 1, 1, None),
    (17, 34, {}, 1, 7, None),
    (3, UNIT - 1, {"bias": False}, 5, 2, None),
    (UNIT, UNIT, {"batch_first": True}, 17, 3, [17, 1, 16]),
    (5, UNIT + 1, {"bidirectional": True}, 6, 4, [2, 6, 6, 1]),
    (40, 33, {"num_layers": 2, "bidirectional": True, "batch_first": True}, 4, 3, None),
    (2, 9, {"num_layers": 3}, 33, 5, [33, 16, 17, 2, 32]),
    (130, 65, {}, 3, 9, None),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", range(len(SHAPES)))
def test_recurrence_float64_against_oracle(case, kind):
    inputs, hidden, options, steps, batch, lengths = SHAPES[case]
    layer = make_layer(kind, inputs, hidden, dtype="float64", seed=case, **options)
    for with_state in (False, True):
        compare_with_oracle(kind, layer, steps, batch, lengths, with_state, case, 1e-12)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "rnn_relu"])  # its kink: see test_torch_parity
@pytest.mark.parametrize("case", range(len(SHAPES)))
def test_recurrence_float32_against_oracle(case, kind):
    inputs, hidden, options, steps, batch, lengths = SHAPES[case]
    layer = make_layer(kind, inputs, hidden, dtype="float32", seed=case, **options)
    compare_with_oracle(kind, layer, steps, batch, lengths, True, case, 3e-6)


SIZES = st.one_of(st.integers(1, 12), st.sampled_from([UNIT - 1, UNIT, UNIT + 1, 31, 32, 33, 64, 65]))


@settings(max_examples=120)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_recurrence_properties_against_oracle(data, kind):
    steps, batch = data.draw(st.integers(1, 19), "T"), data.draw(st.integers(1, 5), "B")
    layer = make_layer(
        kind, data.draw(SIZES, "I"), data.draw(SIZES, "H"), data.draw(st.integers(1, 3), "layers"),
        bias=data.draw(st.booleans(), "bias"), bidirectional=data.draw(st.booleans(), "bidirectional"),
        batch_first=data.draw(st.booleans(), "batch_first"), dtype="float64", seed=data.draw(st.integers(0, 99)),
    )  # fmt: skip
    lengths = data.draw(st.none() | st.lists(st.integers(1, steps), min_size=batch, max_size=batch), "lengths")
    with_state = data.draw(st.booleans(), "with_state")
    compare_with_oracle(kind, layer, steps, batch, lengths, with_state, data.draw(st.integers(0, 99)), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_against_central_differences(kind):
    """The layer's own forward pass, along random directions of every tensor."""
    layer = make_layer(kind, 5, 11, 2, bidirectional=True, dtype="float64", seed=3)
    rng = np.random.default_rng(4)
    steps, batch, lengths = 7, 3, [7, 2, 5]
    x, dy = rng.standard_normal((steps, batch, 5)), rng.standard_normal((steps, batch, 22))
    state, dstate = draw_state(rng, layer, batch), draw_state(rng, layer, batch)
    analytic = run_layer(layer, x, state, lengths, dy, dstate)
    weights = layer.state_dict()
    tensors = {"dx": x, **{f"d_{n}": w for n, w in weights.items()}}
    tensors |= {f"d_{n}0": s for n, s in zip("hc", parts(state), strict=False)}

    def objective():
        layer.load_state_dict(weights)
        y, final = layer.forward(x, state, lengths=lengths)
        return (y * dy).sum() + sum((f * d).sum() for f, d in zip(parts(final), parts(dstate), strict=True))

    # a five-point difference: its own error is far below the tolerance
    eps = 1e-3 if kind != "rnn_relu" else 1e-6
    for name, tensor in tensors.items():
        kept = tensor.copy()
        for _ in range(3):
            direction = rng.standard_normal(tensor.shape)
            direction /= np.linalg.norm(direction)
            values = {}
            for n in (-2, -1, 1, 2):
                tensor[...] = kept + n * eps * direction
                values[n] = objective()
            tensor[...] = kept
            numeric = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * eps)
            difference = abs(numeric - (analytic[name] * direction).sum())
            assert difference <= (1e-9 if kind != "rnn_relu" else 1e-7) * np.linalg.norm(analytic[name]), name


# ---- rules of the engine ----


@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_padding_is_zero_and_state_is_the_last_steps(kind):
    layer = make_layer(kind, 3, 10, bidirectional=True, seed=1)
    rng = np.random.default_rng(1)
    lengths = [4, 1, 6]
    x, dy = (spoil_padding(rng.standard_normal((6, 3, n)), lengths) for n in (3, 20))
    results = run_layer(layer, x, None, lengths, dy, None)
    for b, n in enumerate(lengths):
        assert not results["y"][n:, b].any() and not results["dx"][n:, b].any()
        np.testing.assert_array_equal(results["final_h"][0, b], results["y"][n - 1, b, :10])
        np.testing.assert_array_equal(results["final_h"][1, b], results["y"][0, b, 10:])
    assert all(np.isfinite(value).all() for value in results.values())


@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_full_lengths_equal_none(kind):
    layer = make_layer(kind, 3, 10, seed=1)
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal((6, 3, n)).astype(np.float32) for n in (3, 10))
    a, b = (run_layer(layer, x, None, lengths, dy, None) for lengths in (None, [6, 6, 6]))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_inference_equals_workspace(kind, dtype):
    """Bit for bit, at lengths on both sides of the stretch of steps that inference goes by."""
    layer = make_layer(kind, 7, 19, 2, bidirectional=True, dtype=dtype, seed=1)
    rng = np.random.default_rng(1)
    workspace = layer.workspace(40, 4)
    for steps, lengths in ((1, None), (15, None), (16, None), (17, None), (40, None), (40, [40, 16, 17, 1])):
        x, state = rng.standard_normal((steps, 4, 7)).astype(dtype), draw_state(rng, layer, 4)
        y, final = layer.forward(x, state, lengths=lengths)
        kept_y, kept_final = layer.forward(x, state, lengths=lengths, workspace=workspace)
        np.testing.assert_array_equal(y, kept_y)
        for a, b in zip(parts(final), parts(kept_final), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_sequence_alone_and_in_a_batch(kind):
    """Bit for bit, gradients of x and of the state too."""
    layer = make_layer(kind, 5, 13, 2, bidirectional=True, seed=2)
    rng = np.random.default_rng(2)
    lengths = [9, 3, 9, 1, 6, 9, 2]
    x, dy = (rng.standard_normal((9, 7, n)).astype(np.float32) for n in (5, 26))
    state, dstate = draw_state(rng, layer, 7), draw_state(rng, layer, 7)
    together = run_layer(layer, x, state, lengths, dy, dstate)

    def row(states, b):
        rows = tuple(np.ascontiguousarray(s[:, b : b + 1]) for s in parts(states))
        return rows if isinstance(states, tuple) else rows[0]

    for b, n in enumerate(lengths):
        alone = run_layer(layer, x[:n, b : b + 1], row(state, b), None, dy[:n, b : b + 1], row(dstate, b))
        for name in ("y", "dx"):
            np.testing.assert_array_equal(alone[name][:, 0], together[name][:n, b], err_msg=name)
        for name in [n for n in together if n.startswith("final") or n.endswith("0") and len(n) == 4]:
            np.testing.assert_array_equal(alone[name][:, 0], together[name][:, b], err_msg=name)


def test_recurrence_gradients_are_added():
    layer = make_layer("gru", 3, 5, dtype="float64", seed=1)
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 5))
    once = {n[2:]: g for n, g in run_layer(layer, x, None, None, dy, None).items() if n.startswith(("d_w", "d_b"))}
    workspace = layer.workspace(4, 2)
    layer.forward(x, workspace=workspace)
    layer.backward(dy, workspace=workspace)
    for name, gradient in layer.grad_dict().items():
        np.testing.assert_allclose(gradient, 2 * once[name], rtol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_nan_stays_visible_and_in_its_row(kind):
    layer = make_layer(kind, 3, 10, seed=1)
    x = np.ones((5, 4, 3), np.float32)
    x[2, 1, 0] = np.nan
    y, final = layer(x)
    assert np.isnan(y[2:, 1]).all() and np.isnan(parts(final)[0][0, 1]).all()
    assert np.isfinite(np.delete(y, 1, axis=1)).all() and np.isfinite(y[:2, 1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_infinite_input(kind):
    """Saturates where the formula does, and gives NaN only where it does."""
    layer = make_layer(kind, 1, 6, dtype="float64", seed=1)
    layer.load_state_dict({n: np.abs(w) + 0.1 for n, w in layer.state_dict().items()})
    for value in (np.inf, -np.inf):
        x = np.full((2, 1, 1), value)
        with np.errstate(over="ignore", invalid="ignore"):
            expected, _, _ = naive.recurrent_forward(kind, layer.state_dict(), x)
        np.testing.assert_allclose(layer(x)[0], expected, rtol=1e-12, atol=1e-300)


# ---- the layers without recurrence ----


def stateless_results(layer, x, lengths, dy):
    workspace = layer.workspace(*x.shape[:2])
    layer.zero_grad()
    y = layer.forward(x, lengths=lengths, workspace=workspace)[0].copy()
    np.testing.assert_array_equal(layer.forward(x, lengths=lengths)[0], y)
    dx, state = layer.backward(dy, workspace=workspace)
    assert state is None
    return y, dx, layer.grad_dict()


@pytest.mark.parametrize("lengths", [None, [3, 7, 1, 7]])
@pytest.mark.parametrize("sizes", [(1, 1), (5, 33), (33, 5), (70, 130)])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrence_linear_against_oracle(bias, sizes, lengths):
    layer = fastrnn.Linear(*sizes, bias=bias, dtype="float64", seed=1)
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal((7, 4, n)) for n in sizes)
    y, dx, gradients = stateless_results(layer, spoil_padding(x, lengths), lengths, spoil_padding(dy, lengths))
    weight = layer.state_dict()["weight"]
    assert_near(y, naive.linear_forward(weight, layer.state_dict().get("bias"), x, lengths), 1e-13, "y")
    expected_dx, dweight, dbias = naive.linear_backward(weight, x, dy, lengths)
    assert_near(dx, expected_dx, 1e-13, "dx")
    assert_near(gradients["weight"], dweight, 1e-13, "weight")
    if bias:
        assert_near(gradients["bias"], dbias, 1e-13, "bias")


@pytest.mark.parametrize("lengths", [None, [3, 7, 1, 7]])
def test_recurrence_embedding_against_oracle(lengths):
    layer = fastrnn.Embedding(6, 37, dtype="float64", seed=1)
    rng = np.random.default_rng(1)
    tokens, dy = rng.integers(0, 6, (7, 4)), rng.standard_normal((7, 4, 37))
    y, dx, gradients = stateless_results(layer, tokens, lengths, spoil_padding(dy, lengths))
    weight = layer.state_dict()["weight"]
    assert dx is None
    np.testing.assert_array_equal(y, naive.embedding_forward(weight, tokens, lengths))
    np.testing.assert_array_equal(gradients["weight"], naive.embedding_backward(weight, tokens, dy, lengths))


@pytest.mark.parametrize("lengths", [None, [3, 7, 1, 7]])
@pytest.mark.parametrize("name", ["last", "mean"])
def test_recurrence_pooling_against_oracle(name, lengths):
    layer = fastrnn.Last(dtype="float64") if name == "last" else fastrnn.MeanPool(dtype="float64")
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((7, 4, 5)), rng.standard_normal((4, 5))
    y, dx, _ = stateless_results(layer, spoil_padding(x, lengths), lengths, dy)
    full = lengths or [7] * 4
    assert_near(y, getattr(naive, f"pool_{name}_forward")(x, full), 1e-15, "y")
    assert_near(dx, getattr(naive, f"pool_{name}_backward")(x.shape, dy, full), 1e-15, "dx")


# ---- PyTorch's recorded values ----

GOLDEN_VARIANTS = {"plain": None, "stacked_ragged": [4, 5, 1], "no_bias_batch_first": [2, 4, 5]}


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("rnn_sigmoid", "gru_reset_before")])
def test_recurrence_golden_values_of_torch(kind, variant):
    prefix = f"{kind}/{variant}/"
    with np.load(GOLDEN, allow_pickle=False) as file:
        case = {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}
    weights = {n: a for n, a in case.items() if n.startswith(("weight", "bias"))}
    batch_first = variant.endswith("batch_first")
    layer = make_layer(
        kind, case["x"].shape[-1], weights["weight_hh_l0"].shape[1], 1 + ("weight_ih_l1" in weights),
        bias="bias_ih_l0" in weights, bidirectional="weight_ih_l0_reverse" in weights, batch_first=batch_first,
        dtype="float64",
    )  # fmt: skip
    layer.load_state_dict(weights)
    state, dstate = ((case["h0"], case["c0"]), (case["dh"], case["dc"])) if kind == "lstm" else (case["h0"], case["dh"])
    lengths = GOLDEN_VARIANTS[variant]
    workspace = layer.workspace(5, 3)
    y, final = layer.forward(case["x"], state, lengths=lengths, workspace=workspace)
    results = {"y": y.copy(), "h": parts(final)[0].copy(), "c": parts(final)[-1].copy()}
    dx, d_initial = layer.backward(case["dy"], dstate, workspace=workspace)
    results |= {"dx": dx, "dh0": parts(d_initial)[0], "dc0": parts(d_initial)[-1]}
    results |= {f"d{name}": gradient for name, gradient in layer.grad_dict().items()}
    names = [n.removeprefix("result_") for n in case if n.startswith("result_")]
    assert len(names) == 2 + 2 * len(parts(state)) + len(weights)
    for name in names:
        assert_near(results[name], case[f"result_{name}"], 1e-13, name)
