"""Recurrent layers with their options against PyTorch's autograd, and against each other."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn

torch_nets = pytest.importorskip("torch_nets", reason="PyTorch is not installed")
torch = torch_nets.torch

LAYERS = {"rnn": fastrnn.RNN, "gru": fastrnn.GRU, "lstm": fastrnn.LSTM, "peephole": fastrnn.PeepholeLSTM}
LAYERS |= {"layer_norm": fastrnn.LayerNormLSTM, "gru_before": functools.partial(fastrnn.GRU, reset_after=False)}
TOLERANCE = {"rtol": 1e-10, "atol": 1e-11}


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def random_state(rng, layer, batch):
    shape = (layer.num_layers * layer.directions, batch, layer.dilation * layer.hidden_size)
    state = tuple(rng.standard_normal(shape) for _ in range(layer.states))
    return state if layer.states > 1 else state[0]


def as_tensors(state):
    return None if state is None else tuple(torch.tensor(s, requires_grad=True) for s in parts(state))


def compare(layer, x, state=None, lengths=None, resets=None, *, carry_factor=1.0, seed=0):
    """Forward and backward pass against autograd: outputs, states, and gradients of all there is."""
    rng = np.random.default_rng(seed)
    steps, batch = x.shape[:2]
    workspace = layer.workspace(steps, batch)
    workspace.carry_factor = carry_factor
    layer.zero_grad()
    y, final = layer.forward(x, state, lengths=lengths, resets=resets, workspace=workspace)
    y, final = y.copy(), tuple(part.copy() for part in parts(final))
    size = steps * batch * layer.hidden_size
    noise = [[a[:size].reshape(steps, batch, -1).copy() for a in arrays] for arrays in workspace.noise]
    dy = rng.standard_normal(y.shape)
    d_final = random_state(rng, layer, batch)
    dx, d_initial = layer.backward(dy, d_final, workspace=workspace)

    parameters = torch_nets.tensors(layer.state_dict())
    their_x = torch.tensor(x)
    if their_x.is_floating_point():
        their_x.requires_grad_()
    their_state = as_tensors(state)
    expected, their_final = torch_nets.run(
        layer, parameters, their_x, their_state, lengths, resets, noise=noise if any(noise) else None,
        carry_factor=carry_factor,
    )  # fmt: skip
    np.testing.assert_allclose(y, expected.detach(), **TOLERANCE)
    for ours, theirs in zip(final, their_final, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), **TOLERANCE)
    targets = [expected, *their_final]
    torch.autograd.backward(targets, [torch.tensor(dy), *map(torch.tensor, parts(d_final))])
    if dx is not None:
        np.testing.assert_allclose(dx, their_x.grad, **TOLERANCE)
    for ours, theirs in zip(parts(d_initial), their_state or (), strict=False):
        np.testing.assert_allclose(ours, 0 if theirs.grad is None else theirs.grad, **TOLERANCE)
    for name, gradient in layer.grad_dict().items():
        theirs = parameters[name].grad
        np.testing.assert_allclose(gradient, 0 if theirs is None else theirs, err_msg=name, **TOLERANCE)
    return y, final


@pytest.mark.parametrize("kind", LAYERS)
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_recurrent_options_resets_lengths_and_states(kind, data):
    draw = data.draw
    steps, batch, hidden = draw(st.integers(1, 7)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 17]))
    options = {
        "num_layers": draw(st.integers(1, 2)),
        "bidirectional": draw(st.booleans()),
        "initial_state": draw(st.sampled_from(["zeros", "learned"])),
    }
    if kind != "layer_norm":
        options["bias"] = draw(st.booleans())
    if not options["bidirectional"]:
        options["dilation"] = draw(st.integers(1, 3))
    layer = LAYERS[kind](2, hidden, dtype="float64", seed=1, **options)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    layer.vector_to_parameters(rng.standard_normal(layer.num_parameters))
    x = rng.standard_normal((steps, batch, 2))
    state = random_state(rng, layer, batch) if draw(st.booleans()) else None
    lengths = rng.integers(1, steps + 1, batch) if draw(st.booleans()) else None
    resets = rng.random((steps, batch)) < draw(st.sampled_from([0.0, 0.3, 1.0])) if draw(st.booleans()) else None
    compare(layer, x, state, lengths, resets)


@pytest.mark.parametrize("kind", ["gru", "gru_before", "lstm"])
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_recurrent_options_noise(kind, data):
    """Recurrent dropout and zoneout, with the noise that was drawn."""
    draw = data.draw
    steps, batch, hidden = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 5, 17]))
    zoneout = draw(st.sampled_from([0.0, 0.3, 1.0]))
    layer = LAYERS[kind](
        2, hidden, draw(st.integers(1, 2)), dtype="float64", seed=draw(st.integers(0, 9)),
        recurrent_dropout=draw(st.sampled_from([0.0, 0.4])),
        zoneout=(zoneout, 0.2) if kind == "lstm" else zoneout,
    )  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    resets = rng.random((steps, batch)) < 0.3 if draw(st.booleans()) else None
    lengths = rng.integers(1, steps + 1, batch) if draw(st.booleans()) else None
    compare(layer, rng.standard_normal((steps, batch, 2)), random_state(rng, layer, batch), lengths, resets)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_recurrent_options_zoneout_at_inference_is_its_expectation(kind):
    layer = LAYERS[kind](3, 18, 2, dtype="float64", seed=0, zoneout=0.25)
    x = np.random.default_rng(0).standard_normal((5, 3, 3))
    y, state = layer.forward(x)
    expected, final = torch_nets.run(layer, torch_nets.tensors(layer.state_dict()), torch.tensor(x))
    np.testing.assert_allclose(y, expected.detach(), **TOLERANCE)
    for ours, theirs in zip(parts(state), final, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), **TOLERANCE)
    stepped = None
    for t in range(5):
        y_t, stepped = layer.step(x[t], stepped)
        np.testing.assert_array_equal(y_t, y[t])


def test_recurrent_options_noise_is_drawn_anew_and_only_in_training():
    layer = fastrnn.LSTM(2, 8, seed=0, recurrent_dropout=0.5, zoneout=0.5, dtype="float64")
    plain = fastrnn.LSTM(2, 8, seed=0, dtype="float64", zoneout=0.5)
    x = np.random.default_rng(0).standard_normal((6, 4, 2))
    workspace = layer.workspace(6, 4)
    first = layer.forward(x, workspace=workspace)[0].copy()
    assert (first != layer.forward(x, workspace=workspace)[0]).any()
    np.testing.assert_array_equal(layer.forward(x)[0], plain.forward(x)[0])
    again = fastrnn.LSTM(2, 8, seed=0, recurrent_dropout=0.5, zoneout=0.5, dtype="float64")
    np.testing.assert_array_equal(again.forward(x, workspace=again.workspace(9, 5))[0], first)


def test_recurrent_options_variational_dropout_drops_the_same_units_at_all_steps():
    layer = fastrnn.LSTM(2, 6, 2, seed=0, dropout=0.5, variational=True, batch_first=True)
    workspace = layer.workspace(5, 3)
    layer.forward(np.ones((3, 5, 2), np.float32), workspace=workspace)
    dropped = workspace.layout(5, 3).outputs[0] == 0
    assert (dropped == dropped[:, :1]).all() and dropped.any() and not dropped.all()


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_options_tokens_are_one_hot_vectors(kind):
    rng = np.random.default_rng(3)
    for layers, bidirectional, hidden, batch in ((1, False, 20, 3), (2, True, 5, 2), (1, False, 130, 1)):
        layer = LAYERS[kind](11, hidden, layers, bidirectional=bidirectional, dtype="float64", seed=0)
        tokens = rng.integers(0, 11, (6, batch)).astype(np.int16)
        y, state = compare(layer, tokens, random_state(rng, layer, batch), rng.integers(1, 7, batch))
        compare(layer, tokens, None, None, rng.random((6, batch)) < 0.3)
        lengths = np.full(batch, 6)
        one_hot = np.eye(11)[tokens]
        np.testing.assert_allclose(
            layer.forward(tokens, lengths=lengths)[0], layer.forward(one_hot, lengths=lengths)[0], **TOLERANCE
        )


def test_recurrent_options_tokens_batch_first_steps_and_errors():
    layer = fastrnn.GRU(7, 4, seed=0, batch_first=True)
    tokens = np.random.default_rng(0).integers(0, 7, (3, 5))
    y, state = layer.forward(tokens)
    time_first = fastrnn.GRU(7, 4, seed=0)
    np.testing.assert_array_equal(y, time_first.forward(tokens.T)[0].swapaxes(0, 1))
    stepped = None
    for t in range(5):
        y_t, stepped = layer.step(tokens[:, t], stepped)
        np.testing.assert_array_equal(y_t, y[:, t])
    np.testing.assert_array_equal(layer.step(3)[0], layer.step(np.array([3]))[0][0])
    for wrong in (np.array([[7]]), np.array([[-1]])):
        with pytest.raises(ValueError, match="x must hold integers from 0 to 6"):
            layer.forward(wrong)
    with pytest.raises(TypeError):
        layer.forward(np.ones((3, 5, 7), np.int64))
    with pytest.raises(ValueError, match="dimensions|shape"):
        layer.forward(np.array([1, 2]))
    padded = np.array([[1, 99], [2, 3]])
    layer.forward(padded, lengths=[1, 2])


def test_recurrent_options_gradient_overwrites_after_zero_grad_with_tokens():
    layer = fastrnn.LSTM(5, 4, dtype="float64", seed=0)
    workspace = layer.workspace(3, 2)
    tokens = np.array([[0, 1], [1, 1], [4, 0]])
    dy = np.ones((3, 2, 4))
    for _ in range(2):
        layer.zero_grad()
        layer.forward(tokens, workspace=workspace)
        layer.backward(dy, workspace=workspace)
    once = layer.grad_dict()
    layer.forward(tokens, workspace=workspace)
    layer.backward(dy, workspace=workspace)
    for name, gradient in layer.grad_dict().items():
        np.testing.assert_allclose(gradient, 2 * once[name], rtol=1e-13)


def test_recurrent_options_noisy_state_has_zero_mean_and_is_for_training():
    layer = fastrnn.GRU(2, 5, seed=0, dtype="float64", initial_state=fastrnn.NoisyState(0.5))
    plain = fastrnn.GRU(2, 5, seed=0, dtype="float64")
    x = np.zeros((1, 4000, 2))
    np.testing.assert_array_equal(layer.forward(x)[0], plain.forward(x)[0])
    workspace = layer.workspace(1, 4000)
    layer.forward(x, workspace=workspace)
    drawn = workspace.states_before(np.zeros(4000, np.int64), np.arange(4000))
    assert abs(drawn.mean()) < 0.02 and abs(drawn.std() - 0.5) < 0.02
    np.testing.assert_array_equal(
        layer.forward(x[:, :3], drawn[:, :3])[0], plain.forward(x[:, :3], drawn[:, :3])[0]
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_options_backward_can_be_repeated(kind):
    layer = LAYERS[kind](3, 20, 2, dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 3))
    once, workspace = layer.workspace(5, 3), layer.workspace(5, 3)
    workspace.repeatable = True
    layer.forward(x, workspace=workspace)
    for dy in rng.standard_normal((3, 5, 3, 20)):
        layer.zero_grad()
        dx, dstate = layer.backward(dy, workspace=workspace)
        gradients = layer.grad_dict()
        layer.zero_grad()
        layer.forward(x, workspace=once)
        expected, expected_state = layer.backward(dy, workspace=once)
        np.testing.assert_array_equal(dx, expected)
        np.testing.assert_array_equal(parts(dstate)[-1], parts(expected_state)[-1])
        for name, gradient in layer.grad_dict().items():
            np.testing.assert_array_equal(gradients[name], gradient)


@pytest.mark.parametrize("kind", ["rnn", "gru", "gru_before", "lstm"])
def test_recurrent_options_carry_factor(kind):
    rng = np.random.default_rng(1)
    layer = LAYERS[kind](3, 18, 2, dtype="float64", seed=0)
    compare(layer, rng.standard_normal((6, 3, 3)), random_state(rng, layer, 3), [6, 2, 4], carry_factor=1.25)


@pytest.mark.parametrize("kind", ["gru", "gru_before", "lstm", "rnn", "layer_norm"])
def test_recurrent_options_states_and_gates(kind):
    rng = np.random.default_rng(2)
    layer = LAYERS[kind](3, 19, 2, bidirectional=True, dtype="float64", seed=0)
    x, lengths = rng.standard_normal((6, 3, 3)), np.array([6, 2, 4])
    workspace = layer.workspace(8, 4)
    with pytest.raises(ValueError, match="forward pass"):
        workspace.states()
    y, final = layer.forward(x, lengths=lengths, workspace=workspace)
    states, gates = workspace.states(), workspace.gates()
    assert len(states) == len(gates) == 4
    np.testing.assert_array_equal(np.concatenate([states[2]["h"], states[3]["h"]], axis=2), y)
    for b, n in enumerate(lengths):
        for part, name in zip(parts(final), "hc", strict=False):
            np.testing.assert_array_equal(states[2][name][n - 1, b], part[2, b])
            np.testing.assert_array_equal(states[3][name][0, b], part[3, b])
    assert all((a[lengths[b] :, b] == 0).all() for s in (*states, *gates) for a in s.values() for b in range(3))
    if kind in ("lstm", "layer_norm"):
        i, f, g, o = (gates[2][name] for name in "ifgo")
        c = states[2]["c"]
        np.testing.assert_allclose(c[1:2, 0], f[1:2, 0] * c[:1, 0] + (i * g)[1:2, 0], rtol=1e-14)
        if kind == "layer_norm":
            c = (c - c.mean(2, keepdims=True)) / np.sqrt(c.var(2, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y[..., :19], o * np.tanh(c), rtol=1e-12, atol=1e-14)
    if kind.startswith("gru"):
        r, z, n = (gates[2][name] for name in "rzn")
        h = states[2]["h"]
        np.testing.assert_allclose(h[1, 0], ((1 - z) * n)[1, 0] + z[1, 0] * h[0, 0], rtol=1e-13)
        assert ((r > 0) & (r < 1))[0].all()
    before = layer._states_before(workspace, np.array([0, 1, 5, 3]), np.array([1, 1, 0, 2]))
    h = parts(before)[0]
    np.testing.assert_array_equal(h[2, 0], 0)
    np.testing.assert_array_equal(h[2, 1], states[2]["h"][0, 1])
    np.testing.assert_array_equal(h[3, 2], 0)  # the reverse direction begins there
    np.testing.assert_array_equal(h[3, 3], 0)
    np.testing.assert_array_equal(h[2, 3], states[2]["h"][2, 2])
    layer.backward(y, workspace=workspace)
    with pytest.raises(ValueError, match="forward pass"):
        workspace.gates()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("options", [{}, {"dilation": 3}, {"initial_state": "learned"}], ids=str)
def test_recurrent_options_steps_with_resets_are_forward(kind, options):
    rng = np.random.default_rng(4)
    layer = LAYERS[kind](2, 18, 2, dtype="float64", seed=0, **options)
    layer.vector_to_parameters(rng.standard_normal(layer.num_parameters))
    x, resets = rng.standard_normal((9, 4, 2)), rng.random((9, 4)) < 0.25
    state = random_state(rng, layer, 4)
    y, final = layer.forward(x, state, resets=resets)
    for t in range(9):
        y_t, state = layer.step(x[t], state, resets=resets[t])
        np.testing.assert_array_equal(y_t, y[t])
    for ours, theirs in zip(parts(state), parts(final), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_recurrent_options_chunks_carry_a_dilated_state():
    layer = fastrnn.LSTM(2, 5, dilation=4, dtype="float64", seed=0)
    x = np.random.default_rng(0).standard_normal((11, 3, 2))
    y, final = layer.forward(x)
    state, pieces = None, []
    for piece in np.split(x, [2, 3, 8]):
        out, state = layer.forward(piece, state)
        pieces.append(out)
    np.testing.assert_array_equal(np.concatenate(pieces), y)
    np.testing.assert_array_equal(state[1], final[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_recurrent_options_resets_do_not_depend_on_threads_or_on_batch_mates(threads):
    rng = np.random.default_rng(5)
    layer = fastrnn.GRU(6, 96, seed=0)
    x = rng.standard_normal((40, 24, 6), dtype=np.float32)
    resets = rng.random((40, 24)) < 0.1
    expected = layer.forward(x, resets=resets)[0]
    before = fastrnn.get_num_threads()
    try:
        fastrnn.set_num_threads(min(threads, before))
        workspace = layer.workspace(40, 24)
        np.testing.assert_array_equal(layer.forward(x, resets=resets, workspace=workspace)[0], expected)
        alone = layer.forward(x[:, 3:4], resets=resets[:, 3:4])[0]
        np.testing.assert_array_equal(alone, expected[:, 3:4])
    finally:
        fastrnn.set_num_threads(before)


def test_recurrent_options_travel_in_files_and_copies(tmp_path):
    import copy

    pytest.importorskip("safetensors")
    for layer in (
        fastrnn.LSTM(3, 4, 2, zoneout=(0.1, 0.2), recurrent_dropout=0.3, initial_state="learned", seed=0),
        fastrnn.GRU(3, 4, dilation=2, initial_state=fastrnn.NoisyState(0.1), seed=0),
        fastrnn.GRU(3, 4, reset_after=False, seed=0),
        fastrnn.PeepholeLSTM(3, 4, 2, dropout=0.1, variational=True, seed=0),
        fastrnn.RNN(3, 4, zoneout=0.5, nonlinearity="relu", seed=0),
    ):
        path = tmp_path / "layer.safetensors"
        fastrnn.save(layer, path)
        x = np.random.default_rng(0).standard_normal((5, 2, 3), dtype=np.float32)
        for other in (fastrnn.load(path), copy.deepcopy(layer)):
            assert other.config() == layer.config()
            np.testing.assert_array_equal(other.forward(x)[0], layer.forward(x)[0])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lstm", {"zoneout": 1.5}, "zoneout"),
        ("lstm", {"zoneout": (0.1,)}, "pair"),
        ("gru", {"zoneout": (0.1, 0.2)}, "zoneout must be a number"),
        ("gru", {"recurrent_dropout": 1.0}, "recurrent_dropout"),
        ("lstm", {"dilation": 0}, "dilation"),
        ("lstm", {"dilation": 2, "bidirectional": True}, "unidirectional"),
        ("lstm", {"initial_state": "ones"}, "initial_state"),
        ("lstm", {"initial_state": 0}, "initial_state"),
        ("lstm", {"variational": 1}, "variational"),
    ],
)
def test_recurrent_options_errors(kind, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        LAYERS[kind](2, 3, **options)


@pytest.mark.parametrize("resets", [np.zeros((4, 3)), np.zeros((3, 4), bool), [[True]], "no"], ids=str)
def test_recurrent_options_wrong_resets(resets):
    layer = fastrnn.LSTM(2, 3)
    with pytest.raises((ValueError, TypeError), match="resets"):
        layer.forward(np.zeros((4, 3, 2)), resets=resets)
    with pytest.raises((ValueError, TypeError), match="resets"):
        layer.step(np.zeros((3, 2)), resets=resets)
