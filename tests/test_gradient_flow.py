"""`gradient_flow` against PyTorch's autograd, whose states are handed on by tensors of their own."""

import math
from typing import NamedTuple

import numpy as np
import pytest

import fastrnn
from fastrnn.diagnostics import flow as flow_module
from fastrnn.diagnostics import gradient_flow

T, B, F, H, C = 9, 4, 3, 5, 6
LENGTHS = np.array([9, 3, 8, 1])
TOLERANCE = {"rtol": 1e-10, "atol": 1e-14}


def rng(seed=0):
    return np.random.default_rng(seed)


def stacked_lstm(**options):
    return fastrnn.Sequential(
        fastrnn.Embedding(C, F, dtype="float64", seed=0),
        fastrnn.LSTM(F, H, 2, dropout=0.3, dtype="float64", seed=1),
        fastrnn.Tanh(dtype="float64"),
        fastrnn.Dropout(0.2, dtype="float64", seed=2),
        fastrnn.LSTM(H, 4, dtype="float64", seed=3),
        fastrnn.Linear(4, C, dtype="float64", seed=4),
        **options,
    )


def gru(**options):
    return fastrnn.Sequential(
        fastrnn.GRU(F, H, dtype="float64", seed=1), fastrnn.Linear(H, 2, dtype="float64", seed=2), **options
    )


class Oracle(NamedTuple):
    """Tensors of PyTorch's, a list entry a step: losses (B,), and what each recurrent layer hands on, (h[, c])."""

    losses: list
    handed_on: list
    jacobian: object


def oracle(net, x, loss, *, resets=None, zoneout=0.0):
    """Step by step through cells of PyTorch's; `loss(t, y)` is (B,). x: time first. The initial state is zeros.

    zoneout: the share of the state that stays, as at inference.
    """
    torch = pytest.importorskip("torch")
    kinds = {fastrnn.LSTM: torch.nn.LSTMCell, fastrnn.GRU: torch.nn.GRUCell, fastrnn.RNN: torch.nn.RNNCell}
    stages = []
    for layer in net.layers:
        own = {name: torch.from_numpy(array) for name, array in layer.state_dict().items()}
        if type(layer) in kinds:
            for n in range(layer.num_layers):
                size = layer.input_size if n == 0 else layer.hidden_size
                cell = kinds[type(layer)](size, layer.hidden_size).double()
                cell.load_state_dict({name[:-3]: own[name] for name in own if name.endswith(f"_l{n}")})
                stages.append(cell)
        elif isinstance(layer, fastrnn.Linear):
            stages.append(lambda y, own=own: y @ own["weight"].T + own["bias"])
        elif isinstance(layer, fastrnn.Embedding):
            stages.append(lambda y, own=own: own["weight"][y])
        elif isinstance(layer, fastrnn.Tanh):
            stages.append(torch.tanh)
    cells = [stage for stage in stages if isinstance(stage, torch.nn.Module)]
    states = [[torch.zeros(x.shape[1], cell.hidden_size).double() for _ in range(2)] for cell in cells]
    states = [s if isinstance(cell, torch.nn.LSTMCell) else s[:1] for cell, s in zip(cells, states, strict=True)]
    losses, handed_on, inputs = [], [], []
    for t, x_t in enumerate(torch.from_numpy(x)):
        if resets is not None:
            keep = torch.from_numpy(~resets[t, :, np.newaxis])
            states = [[part * keep for part in s] for s in states]
        y, used, new = x_t, [], []
        for stage in stages:
            if stage not in cells:
                y = stage(y)
                continue
            state = states[len(new)]
            used.append((y, state))
            out = stage(y, tuple(state)) if len(state) == 2 else (stage(y, state[0]),)
            if zoneout:
                out = [zoneout * before + (1 - zoneout) * after for before, after in zip(state, out, strict=True)]
            new.append([part.clone() for part in out])  # handed on apart from what goes up
            y = out[0]
        losses.append(loss(t, y))
        handed_on.append(new)
        inputs.append(used)
        states = new

    def jacobian(n, t, row):
        y, state = inputs[t][n]
        y = y[row : row + 1].detach()

        def step(flat):
            parts = flat.reshape(len(state), 1, -1)
            out = cells[n](y, tuple(parts)) if len(state) == 2 else (cells[n](y, parts[0]),)
            return torch.cat(out, 1)[0]

        start = torch.cat([part[row] for part in state]).detach()
        return torch.autograd.functional.jacobian(step, start).numpy()

    return Oracle(losses, handed_on, jacobian)


def assert_by_lag(flow, found, valid, resets=None):
    """Each norm by lag, from a gradient of its own; valid: (T,B), where there is a loss."""
    torch = pytest.importorskip("torch")
    for k in flow.lags:
        squares, pairs = [[0.0] * len(parts) for parts in found.handed_on[0]], 0
        for t in range(k, len(found.losses)):
            counts = torch.from_numpy(valid[t] & (True if resets is None else ~resets[t - k + 1 : t + 1].any(0)))
            pairs += int(counts.sum())
            wanted = [part for parts in found.handed_on[t - k] for part in parts]
            total = (found.losses[t] * torch.from_numpy(valid[t])).sum()
            gradients = iter(torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True))
            for n, parts in enumerate(found.handed_on[0]):
                for part in range(len(parts)):
                    gradient = next(gradients)
                    squares[n][part] += 0.0 if gradient is None else float((gradient[counts] ** 2).sum())
        assert flow.pairs[k - 1] == pairs
        for layer, wanted in zip(flow.layers, squares, strict=True):
            for norms, square in zip(layer.by_lag.values(), wanted, strict=True):
                np.testing.assert_allclose(norms[k - 1], math.sqrt(square / pairs) if pairs else 0, **TOLERANCE)


def assert_by_step(flow, found, total):
    torch = pytest.importorskip("torch")
    for t, states in enumerate(found.handed_on):
        wanted = [part for parts in states for part in parts]
        gradients = iter(torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True))
        for layer in flow.layers:
            for norms in layer.by_step.values():
                gradient = next(gradients)
                norm = 0.0 if gradient is None else float(gradient.norm())
                np.testing.assert_allclose(norms[t], norm, **TOLERANCE)
    np.testing.assert_allclose(flow.loss, float(total.detach()), rtol=1e-12)


def cross_entropies(targets):
    torch = pytest.importorskip("torch")

    def loss(t, y):
        return torch.nn.functional.cross_entropy(y, torch.from_numpy(targets[t]), reduction="none")

    return loss


def test_gradient_flow_of_stacked_lstms_with_lengths_and_mask():
    torch = pytest.importorskip("torch")
    net = stacked_lstm()
    x, targets = rng().integers(0, C, (2, T, B))
    mask = rng(1).random((T, B)) < 0.7
    flow = gradient_flow(net, fastrnn.CrossEntropy(), x, targets, lengths=LENGTHS, mask=mask)
    found = oracle(net, x, cross_entropies(targets))
    valid = mask & (np.arange(T)[:, np.newaxis] < LENGTHS)
    assert [layer.name for layer in flow.layers] == ["1.l0", "1.l1", "4.l0"]
    assert_by_lag(flow, found, valid)
    total = sum((loss * torch.from_numpy(v)).sum() for loss, v in zip(found.losses, valid, strict=True)) / valid.sum()
    assert_by_step(flow, found, total)


def test_gradient_flow_of_a_gru_with_resets_batch_first():
    net = gru(batch_first=True)
    x, targets = rng().standard_normal((B, T, F)), rng(1).standard_normal((B, T, 2))
    resets = rng(2).random((B, T)) < 0.2
    flow = gradient_flow(net, fastrnn.MSE(), x, targets, resets=resets)
    torch = pytest.importorskip("torch")
    found = oracle(
        net, x.swapaxes(0, 1), lambda t, y: ((y - torch.from_numpy(targets[:, t])) ** 2).mean(1), resets=resets.T
    )
    assert_by_lag(flow, found, np.ones((T, B), bool), resets.T)
    assert_by_step(flow, found, sum(loss.sum() for loss in found.losses) / (T * B))


def test_gradient_flow_of_one_loss_at_the_end():
    torch = pytest.importorskip("torch")
    net = fastrnn.Sequential(
        fastrnn.RNN(F, H, dtype="float64", seed=0),
        fastrnn.Last(dtype="float64"),
        fastrnn.Linear(H, 2, dtype="float64", seed=1),
    )
    x, targets = rng().standard_normal((T, B, F)), rng(1).standard_normal((B, 2))
    flow = gradient_flow(net, fastrnn.MSE(reduction="sum"), x, targets, lengths=LENGTHS)
    found = oracle(net, x, lambda t, y: ((y - torch.from_numpy(targets)) ** 2).sum(1))
    valid = np.arange(T)[:, np.newaxis] == LENGTHS - 1
    assert_by_lag(flow, found, valid)
    total = sum((loss * torch.from_numpy(v)).sum() for loss, v in zip(found.losses, valid, strict=True))
    assert_by_step(flow, found, total)


@pytest.mark.parametrize("make", [stacked_lstm, gru])
def test_gradient_flow_jacobians(make):
    net = make()
    if make is gru:
        x, targets, loss = rng().standard_normal((T, B, F)), rng(1).standard_normal((T, B, 2)), fastrnn.MSE()
    else:
        x, targets, loss = *rng().integers(0, C, (2, T, B)), fastrnn.CrossEntropy()
    flow = gradient_flow(net, loss, x, targets, jacobians=5)
    found = oracle(net, x, lambda t, y: y.sum(1))
    rows = np.linspace(B, T * B - 1, 5).astype(int)  # those of the first step have no state before them
    np.testing.assert_array_equal(flow.jacobian_steps, rows // B)
    for n, layer in enumerate(flow.layers):
        for row, value in zip(rows, layer.singular_values, strict=True):
            wanted = np.linalg.norm(found.jacobian(n, row // B, row % B), 2)
            np.testing.assert_allclose(value, wanted, rtol=1e-10)


def test_gradient_flow_is_that_of_inference():
    """Noise of training counts as what it is on average."""
    torch = pytest.importorskip("torch")
    noisy = fastrnn.GRU(
        F, H, zoneout=0.3, recurrent_dropout=0.4, initial_state=fastrnn.NoisyState(0.5), dtype="float64", seed=1
    )
    net = fastrnn.Sequential(noisy, fastrnn.Dropout(0.4, dtype="float64"))
    x, targets = rng().standard_normal((T, B, F)), rng(1).standard_normal((T, B, H))
    flow = gradient_flow(net, fastrnn.MSE(), x, targets)
    found = oracle(net, x, lambda t, y: ((y - torch.from_numpy(targets[t])) ** 2).mean(1), zoneout=0.3)
    assert_by_lag(flow, found, np.ones((T, B), bool))
    np.testing.assert_allclose(flow.loss, fastrnn.MSE()(net(x)[0], targets)[0], rtol=1e-12)


def test_gradient_flow_gates():
    net = stacked_lstm()
    x, targets = rng().integers(0, C, (2, T, B))
    flow = gradient_flow(net, fastrnn.CrossEntropy(), x, targets, lengths=LENGTHS)
    assert [list(layer.gates) for layer in flow.layers] == [["i", "f", "g", "o"]] * 3
    lstm = fastrnn.LSTM(F, H, dtype="float64")  # the first layer alone, with gates driven to their bounds
    bias = np.repeat([9.0, -9.0, -9.0, 0.0], H)
    lstm.load_state_dict({
        **{name: np.zeros_like(array) for name, array in lstm.state_dict().items()}, "bias_ih_l0": bias
    })  # fmt: skip
    (layer,) = gradient_flow(lstm, fastrnn.MSE(), rng().random((T, B, F)), np.zeros((T, B, H))).layers
    found = {name: (gate.low, gate.high) for name, gate in layer.gates.items()}
    assert found == {"i": (0, 1), "f": (1, 0), "g": (1, 0), "o": (0, 0)}
    assert layer.gates["o"].mean == pytest.approx(0.5) and layer.gates["g"].mean == pytest.approx(-1)


@pytest.mark.parametrize(
    ("nonlinearity", "bias", "expected"),
    [("tanh", -9.0, (1, 0)), ("tanh", 0.1, (0, 0)), ("relu", -9.0, (1, 0)), ("relu", 9.0, (0, 0))],
)
def test_gradient_flow_of_simple_nets_looks_at_the_state(nonlinearity, bias, expected):
    net = fastrnn.RNN(F, H, nonlinearity=nonlinearity, dtype="float64")
    net.load_state_dict({
        **{name: np.zeros_like(array) for name, array in net.state_dict().items()}, "bias_ih_l0": np.full(H, bias)
    })  # fmt: skip
    (layer,) = gradient_flow(net, fastrnn.MSE(), rng().random((T, B, F)), np.zeros((T, B, H))).layers
    assert list(layer.gates) == ["h"] and (layer.gates["h"].low, layer.gates["h"].high) == expected


def test_gradient_flow_with_dilation_goes_in_strides():
    """The loss at t feels steps t − d, t − 2d, … alone: from the last, the state that a step hands on lives d steps."""
    net = fastrnn.GRU(F, H, dilation=3, dtype="float64", seed=0)
    plain = fastrnn.GRU(F, H, dtype="float64", seed=0)
    x, targets = rng().standard_normal((T, B, F)), rng(1).standard_normal((T, B, H))
    mask = np.zeros((T, B), bool)
    mask[-1] = True
    dilated = gradient_flow(net, fastrnn.MSE(), x, targets, mask=mask).layers[0].by_lag["h"]
    strides = gradient_flow(plain, fastrnn.MSE(), x[2::3], targets[2::3], mask=mask[2::3]).layers[0].by_lag["h"]
    np.testing.assert_allclose(dilated[:6], np.repeat(strides, 3), rtol=1e-12)


def test_gradient_flow_given_state_goes_on_where_another_ended():
    """The second half of a sequence, from the state at its middle, has the gradients of a whole with losses there."""
    net, x, targets = gru(), rng().standard_normal((T, B, F)), rng(1).standard_normal((T, B, 2))
    half = 4
    _, state = net(x[:half])
    flow = gradient_flow(net, fastrnn.MSE(reduction="sum"), x[half:], targets[half:], state=state)
    mask = np.zeros((T, B), bool)
    mask[half:] = True
    whole = gradient_flow(net, fastrnn.MSE(reduction="sum"), x, targets, mask=mask)
    np.testing.assert_allclose(flow.layers[0].by_step["h"], whole.layers[0].by_step["h"][half:], rtol=1e-12)


def concatenated():
    inner = fastrnn.Sequential(
        fastrnn.Residual(fastrnn.LSTM(F, F, dtype="float64", seed=0)), fastrnn.GRU(F, 4, 2, dtype="float64", seed=1)
    )
    return fastrnn.Concatenated(inner, fastrnn.RNN(4, 2, dtype="float64", seed=2), include_input=True)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: fastrnn.PeepholeLSTM(F, H, 2, dtype="float64", seed=0), ["l0", "l1"]),
        (lambda: fastrnn.LayerNormLSTM(F, H, dtype="float64", seed=0), ["l0"]),
        (lambda: fastrnn.Jordan(F, H, 2, output_nonlinearity="tanh", dtype="float64", seed=0), ["l0"]),
        (lambda: fastrnn.GRU(F, H, initial_state="learned", init="xavier_normal", dtype="float64", seed=0), ["l0"]),
        (concatenated, ["0.0.0.l0", "0.1.l0", "0.1.l1", "1.l0"]),
    ],
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_gradient_flow_by_step_is_the_gradient_of_the_rest_by_its_initial_state(make, names, batch_first):
    net = make()
    net.batch_first = batch_first
    lead = (B, T) if batch_first else (T, B)
    x = rng().standard_normal((*lead, F))
    targets, weights = rng(1).standard_normal(net(x)[0].shape), rng(2).random(lead)
    options = {"reduction": "sequence", "batch_first": batch_first}
    flow = gradient_flow(net, fastrnn.MSE(**options), x, targets, mask=weights)
    assert [layer.name for layer in flow.layers] == names and "nan" not in str(flow)
    total = fastrnn.MSE(reduction="sum")(net(x)[0], targets, mask=weights)[0]
    np.testing.assert_allclose(flow.loss, total / B, rtol=1e-12)
    axis = 1 if batch_first else 0
    workspace = net.workspace(T, B)
    for t in range(T - 1):
        (x_to_t, x_rest), (_, targets_rest), (_, weights_rest) = (
            np.split(array, [t + 1], axis) for array in (x, targets, weights)
        )
        y, _ = net.forward(x_rest, net(x_to_t)[1], workspace=workspace)
        _, dstate = net.backward(fastrnn.MSE(**options)(y, targets_rest, mask=weights_rest)[1], workspace=workspace)
        wanted = [np.linalg.norm(part) for part in states_of_layers(dstate)]
        np.testing.assert_allclose([n[t] for layer in flow.layers for n in layer.by_step.values()], wanted, rtol=1e-10)


def states_of_layers(state):
    """The arrays (B,H) of a model's state, those of a layer of a stack together."""
    if isinstance(state, (tuple, list)) and any(isinstance(entry, (tuple, list)) for entry in state):
        return [array for entry in state for array in states_of_layers(entry)]
    parts = state if isinstance(state, (tuple, list)) else (state,)
    return [part[number] for number in range(len(parts[0])) for part in parts]


def test_gradient_flow_leaves_the_model_alone():
    net, (x, targets) = stacked_lstm(), rng().integers(0, C, (2, T, B))
    net.parameters.gradients[:] = rng(1).standard_normal(net.num_parameters)
    workspace = net.workspace(T, B)
    y, _ = net.forward(x, workspace=workspace)
    before = net.parameters_to_vector(), net.gradients_to_vector()
    random = [g.bit_generator.state for g in net._generators()]
    first = gradient_flow(net, fastrnn.CrossEntropy(), x, targets)
    again = gradient_flow(net, fastrnn.CrossEntropy(), x, targets)
    np.testing.assert_array_equal(net.parameters_to_vector(), before[0])
    np.testing.assert_array_equal(net.gradients_to_vector(), before[1])
    assert [g.bit_generator.state for g in net._generators()] == random
    net.backward(np.ones_like(y), workspace=workspace)  # what was recorded before can still be gone back through
    for ours, theirs in zip(first.layers, again.layers, strict=True):
        np.testing.assert_array_equal(ours.lag_norms, theirs.lag_norms)


def test_gradient_flow_never_reads_padding():
    net, x, targets = gru(), rng().standard_normal((T, B, F)), rng(1).standard_normal((T, B, 2))
    given = x.copy()
    flow = gradient_flow(net, fastrnn.MSE(), x, targets, lengths=LENGTHS)
    np.testing.assert_array_equal(x, given)
    for row, length in enumerate(LENGTHS):
        x[length:, row] = targets[length:, row] = np.nan
    again = gradient_flow(net, fastrnn.MSE(), x, targets, lengths=LENGTHS)
    assert str(flow) == str(again) and "nan" not in str(flow)


def test_gradient_flow_text_tells_all():
    net = fastrnn.LSTM(2, 3, seed=0)
    x, targets = rng().standard_normal((2, 40, 2, 2)).astype("float32")
    targets = np.concatenate([targets, targets[..., :1]], axis=2)
    text = str(gradient_flow(net, fastrnn.MSE(), x, targets, max_lag=20, jacobians=3))
    assert text.startswith("gradient flow over 40 steps of 2 sequences, loss ")
    assert "k =" in text and "1  " in text and " 20\n" in text and "l0 LSTM" in text
    assert text.splitlines()[-1].startswith("l0: vanishes: halves every ")
    assert "singular value" not in str(gradient_flow(net, fastrnn.MSE(), x, targets, jacobians=0))


# ---- verdicts ----


def norms(factor, lags=50):
    return np.arange(1, lags + 1), factor ** np.arange(lags)


@pytest.mark.parametrize(
    ("factor", "kind", "text"),
    [
        (0.5, "vanishes", "halves every 1 steps"),
        (0.9, "vanishes", "halves every 6.6 steps"),
        (0.95, "healthy", "times 0.081 from 1 to 50 steps back"),
        (1.0, "healthy", "times 1 from 1 to 50 steps back"),
        (2 ** (1 / 4), "explodes", "doubles every 4 steps"),
    ],
)
def test_gradient_flow_verdict(factor, kind, text):
    found = flow_module.verdict(*norms(factor))
    assert found.kind == kind and str(found) == f"{kind}: {text}"
    assert found.factor == pytest.approx(factor)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.0] * 5, "unknown: no loss sends a gradient through time"),
        ([1.0, 2.0], "unknown: too few lags for a trend"),
        ([1.0, 0.0, 0.0, 0.0], "vanishes: zero beyond 1 steps back"),
        ([1.0, 3.0, math.inf, math.nan], "explodes: not finite from 3 steps back on"),
    ],
)
def test_gradient_flow_verdict_without_a_line(values, text):
    assert str(flow_module.verdict(np.arange(1, len(values) + 1), np.array(values))) == text


def test_gradient_flow_verdict_of_networks():
    """A linear-ish recurrence by an orthogonal matrix keeps the norm; scaled it vanishes or explodes at its factor."""
    x, targets = np.zeros((60, 2, 1)), np.full((60, 2, 8), 1.0)
    mask = np.zeros((60, 2), bool)
    mask[-1] = True
    orthogonal = np.linalg.qr(rng().standard_normal((8, 8)))[0]
    for factor, kind in ((0.8, "vanishes"), (1.0, "healthy"), (1.25, "explodes")):
        net = fastrnn.RNN(1, 8, bias=False, dtype="float64")
        net.load_state_dict({"weight_ih_l0": np.zeros((8, 1)), "weight_hh_l0": factor * orthogonal})
        (layer,) = gradient_flow(net, fastrnn.MSE(), x, targets, mask=mask).layers
        assert layer.verdict.kind == kind and layer.verdict.factor == pytest.approx(factor, rel=1e-9)
        np.testing.assert_allclose(layer.singular_values, factor, rtol=1e-12)


def test_gradient_flow_beyond_all_numbers():
    net = fastrnn.RNN(1, 2, bias=False, dtype="float64")
    net.load_state_dict({"weight_ih_l0": np.zeros((2, 1)), "weight_hh_l0": 1e50 * np.eye(2)})
    flow = gradient_flow(net, fastrnn.MSE(), np.zeros((12, 2, 1)), np.ones((12, 2, 2)))
    assert str(flow).endswith("l0: explodes: not finite from 4 steps back on")


def test_gradient_flow_spectral_norm_of_large_matrices(monkeypatch):
    matrix = rng().standard_normal((60, 60))
    exact = flow_module.spectral_norm(matrix)
    monkeypatch.setattr(flow_module, "_EXACT_NORM", 10)
    assert flow_module.spectral_norm(matrix) == pytest.approx(exact, rel=1e-4)
    assert flow_module.spectral_norm(np.zeros((20, 20))) == 0
    assert math.isnan(flow_module.spectral_norm(np.full((20, 20), np.nan)))


# ---- wrong arguments ----


@pytest.mark.parametrize(
    ("layers", "pattern"),
    [
        ([fastrnn.GRU(F, H, bidirectional=True)], "unidirectional"),
        ([fastrnn.GRU(F, H), fastrnn.MeanPool()], "MeanPool joins or makes steps"),
        ([fastrnn.GRU(F, H), fastrnn.Last(), fastrnn.Repeat(T)], "Repeat joins or makes steps"),
        ([fastrnn.Linear(F, H)], "a model with a recurrent layer"),
    ],
)
def test_gradient_flow_refuses_models(layers, pattern):
    with pytest.raises(ValueError, match=pattern):
        gradient_flow(fastrnn.Sequential(*layers), fastrnn.MSE(), np.zeros((T, B, F)), np.zeros((T, B, H)))


@pytest.mark.parametrize(
    ("change", "error", "pattern"),
    [
        ({"model": 3}, TypeError, "model must be a layer or model"),
        ({"loss": fastrnn.MSE}, TypeError, "loss must be a loss"),
        ({"x": np.zeros((1, B, F)), "targets": np.zeros((1, B, 2))}, ValueError, "at least 2 steps"),
        ({"targets": np.zeros((T, B, 3))}, ValueError, "targets must have shape"),
        ({"max_lag": 0}, ValueError, "max_lag must be at least 1"),
        ({"max_lag": T}, ValueError, f"max_lag must be at most {T - 1}"),
        ({"jacobians": -1}, ValueError, "jacobians must be at least 0"),
        ({"resets": np.zeros((T, B + 1), bool)}, ValueError, "resets must have shape"),
        ({"resets": np.zeros((T, B))}, TypeError, "resets must hold booleans"),
        ({"state": (None, None)}, ValueError, "an entry for each recurrent layer"),
        ({"mask": np.zeros((T, B), bool)}, ValueError, "no valid element"),
    ],
)
def test_gradient_flow_refuses_arguments(change, error, pattern):
    arguments = {
        "model": gru(), "loss": fastrnn.MSE(), "x": np.zeros((T, B, F)), "targets": np.zeros((T, B, 2)), **change
    }  # fmt: skip
    with pytest.raises(error, match=pattern):
        gradient_flow(**arguments)
