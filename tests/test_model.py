"""`Sequential`: what may be joined, the flat buffers, the state, names, and calls through all layers."""

import copy
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastrnn
from fastrnn.parameters import Parameters

T, B, F, H, V = 6, 3, 5, 8, 7
LENGTHS = np.array([6, 2, 5])


def normal(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def tokens(seed=0):
    return np.random.default_rng(seed).integers(0, V, (T, B))


def language_model(**options):
    return fastrnn.Sequential(
        fastrnn.Embedding(V, F, dtype="float64", seed=0),
        fastrnn.LSTM(F, H, 2, dtype="float64", seed=1),
        fastrnn.Dropout(0.0),
        fastrnn.Linear(H, V, dtype="float64", seed=2),
        **options,
    )


def classifier(pool, **options):
    return fastrnn.Sequential(
        fastrnn.Linear(F, H, dtype="float64", seed=0), fastrnn.Tanh(),
        fastrnn.GRU(H, H, bidirectional=True, dtype="float64", seed=1), pool(),
        fastrnn.Linear(2 * H, 4, dtype="float64", seed=2), fastrnn.Sigmoid(), **options,
    )  # fmt: skip


# ---- joining ----


def test_model_needs_layers():
    with pytest.raises(ValueError, match="at least one"):
        fastrnn.Sequential()
    for wrong in (None, 5, "LSTM", fastrnn.LSTM, [fastrnn.Tanh()], object()):
        layer = fastrnn.Tanh()
        with pytest.raises(TypeError, match="layer 1"):
            fastrnn.Sequential(layer, wrong)
        fastrnn.Sequential(layer)  # was not taken


MISFITS = {
    "lstm, linear": lambda: (fastrnn.LSTM(F, H), fastrnn.Linear(H + 1, V)),
    "two directions": lambda: (fastrnn.LSTM(F, H, bidirectional=True), fastrnn.Linear(H, V)),
    "embedding, gru": lambda: (fastrnn.Embedding(V, F), fastrnn.GRU(V, H)),
    "one-hot, gru": lambda: (fastrnn.OneHot(V), fastrnn.GRU(F, H)),
    "through tanh": lambda: (fastrnn.Linear(F, H), fastrnn.Tanh(), fastrnn.Dropout(0.1), fastrnn.Linear(F, H)),
    "through pooling": lambda: (fastrnn.GRU(F, H), fastrnn.Last(), fastrnn.Linear(F, H)),
    "embedding second": lambda: (fastrnn.Linear(F, H), fastrnn.Embedding(V, F)),
    "one-hot second": lambda: (fastrnn.Tanh(), fastrnn.OneHot(F)),
    "recurrent after pooling": lambda: (fastrnn.GRU(F, H), fastrnn.Last(), fastrnn.GRU(H, H)),
    "pooled twice": lambda: (fastrnn.Last(), fastrnn.Tanh(), fastrnn.MeanPool()),
    "dtypes": lambda: (fastrnn.GRU(F, H), fastrnn.Linear(H, V, dtype="float64")),
}


@pytest.mark.parametrize("name", MISFITS)
def test_model_refuses_misfits_and_leaves_the_layers_free(name):
    layers = MISFITS[name]()
    before = [layer.parameters_to_vector() for layer in layers]
    with pytest.raises(ValueError):
        fastrnn.Sequential(*layers)
    for layer, vector in zip(layers, before, strict=True):
        np.testing.assert_array_equal(layer.parameters_to_vector(), vector)
        fastrnn.Sequential(layer)


def test_model_owns_its_layers():
    layer = fastrnn.GRU(F, F, seed=0)
    other = fastrnn.Linear(F, F)
    with pytest.raises(ValueError, match="layer 1"):
        fastrnn.Sequential(layer, layer)
    model = fastrnn.Sequential(layer)
    with pytest.raises(ValueError, match="layer 1"):
        fastrnn.Sequential(other, layer)
    fastrnn.Sequential(other)
    with pytest.raises((TypeError, ValueError)):
        fastrnn.Sequential(model)
    with pytest.raises((TypeError, ValueError)):
        fastrnn.Sequential(fastrnn.Sequential(fastrnn.Tanh()), fastrnn.Tanh())


def test_model_batch_first_is_a_flag():
    for wrong in (1, 0, None, "True"):
        with pytest.raises(TypeError, match="batch_first"):
            fastrnn.Sequential(fastrnn.Tanh(), batch_first=wrong)


def test_model_layers_follow_its_batch_first_and_dtype():
    layer = fastrnn.GRU(F, H, batch_first=True, dtype="float64", seed=0)
    x = normal(T, B, F)
    expected = layer.forward(x.swapaxes(0, 1))[0].swapaxes(0, 1)
    model = fastrnn.Sequential(fastrnn.Dropout(0.5), layer, fastrnn.Tanh(), fastrnn.Last())  # float32 by default
    assert model.dtype == np.float64 and all(layer.dtype == np.float64 for layer in model.layers)
    np.testing.assert_allclose(model.forward(x)[0], np.tanh(expected[-1]), rtol=1e-14)
    assert model.forward(x)[0].dtype == np.float64


# ---- widths and dimensions: a wrong one was heap corruption ----


def test_model_refuses_a_width_that_a_later_layer_does_not_take():
    script = textwrap.dedent("""
        import numpy as np
        import fastrnn as f

        MODELS = [
            lambda: [f.Tanh(), f.LSTM(5, 4)],
            lambda: [f.Dropout(0.1), f.Tanh(), f.GRU(5, 64, bidirectional=True)],
            lambda: [f.Tanh(), f.Linear(5, 4)],
            lambda: [f.Last(), f.Linear(5, 4)],
            lambda: [f.Tanh(), f.MeanPool(), f.ReLU(), f.Linear(5, 4)],
            lambda: [f.Linear(5, 4), f.Last()],
            lambda: [f.Linear(5, 4), f.Tanh(), f.GRU(4, 3)],
            lambda: [f.Linear(5, 4)],
        ]
        for make in MODELS:
            for batch_first in (False, True):
                model = f.Sequential(*make(), batch_first=batch_first)
                flat = not model.stateful and not any(isinstance(n, (f.Last, f.MeanPool)) for n in model.layers)
                workspace = model.workspace(8, 8)
                shapes = [(4, 2, n) for n in (1, 4, 6, 7, 200, 5000)] + [(2, 7), (2, 200), (7, 2), (5,), (1, 4, 2, 5)]
                for shape in shapes if flat else [*shapes, (2, 5), (5, 5), (8, 5)]:
                    for options in ({}, {"workspace": workspace}):
                        try:
                            model.forward(np.zeros(shape, "f4"), **options)
                        except ValueError:
                            continue
                        raise SystemExit(f"{model} took {shape}")
                for shape in [(2, 7), (2, 200), (7,), (200,), (1,)]:
                    try:
                        model.step(np.zeros(shape, "f4"))
                    except ValueError:
                        continue
                    if not isinstance(model.layers[0], f.Last):
                        raise SystemExit(f"{model} took a step of {shape}")
                y, _ = model.forward(np.zeros((4, 2, 5), "f4"), workspace=workspace)
                model.backward(np.zeros_like(y), workspace=workspace)
        print("fine")
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stdout + done.stderr


def test_model_of_pointwise_layers_takes_any_width():
    model = fastrnn.Sequential(fastrnn.Tanh(dtype="float64"), fastrnn.Dropout(0.0), fastrnn.Last())
    workspace = model.workspace(T, B)
    for width in (3, 40, 7):  # buffers grow, and serve smaller inputs again
        x = normal(T, B, width)
        y, _ = model.forward(x, workspace=workspace)
        np.testing.assert_allclose(y, np.tanh(x[-1]), rtol=1e-14)
        dx, _ = model.backward(np.ones((B, width)), workspace=workspace)
        np.testing.assert_allclose(dx[-1], 1 - np.tanh(x[-1]) ** 2, rtol=1e-12)
        assert not dx[:-1].any()


# ---- calls ----


def by_hand(model, x, state, lengths):
    """Layer by layer; y and states."""
    states = []
    for i, layer in enumerate(model.layers):
        x, new = layer.forward(x, None if state is None else state[i], lengths=lengths)
        if isinstance(layer, (fastrnn.Last, fastrnn.MeanPool)):
            lengths = None
        states.append(new)
    return x, states


def assert_states_equal(ours, theirs):
    assert isinstance(ours, tuple) and len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(np.stack(a), np.stack(b))


MODELS = {
    "language": (language_model, tokens),
    "last": (lambda **o: classifier(fastrnn.Last, **o), lambda: normal(T, B, F)),
    "mean": (lambda **o: classifier(fastrnn.MeanPool, **o), lambda: normal(T, B, F)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_model_is_its_layers_one_after_the_other(name, lengths):
    make, data = MODELS[name]
    model, x = make(), data()
    y, state = model.forward(x, lengths=lengths)
    expected, states = by_hand(model, x, None, lengths)
    np.testing.assert_array_equal(y, expected)
    assert_states_equal(state, states)
    y, state = model(x, state, lengths=lengths)
    expected, states = by_hand(model, x, states, lengths)
    np.testing.assert_array_equal(y, expected)
    assert_states_equal(state, states)
    # with a workspace, whose views go into the next call
    workspace = model.workspace(T + 3, B + 1)
    carried = None
    for _ in range(2):
        kept, carried = model.forward(x, carried, lengths=lengths, workspace=workspace)
    np.testing.assert_array_equal(kept, y)
    assert_states_equal(carried, states)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_model_backward_is_its_layers_in_reverse(name, lengths):
    make, data = MODELS[name]
    model, x = make(), data()
    workspace = model.workspace(T, B)
    y, _ = model.forward(x, lengths=lengths, workspace=workspace)
    dy = normal(*y.shape, seed=3)
    dx, dstate = model.backward(dy, workspace=workspace)
    gradients = model.gradients_to_vector()
    dx = None if dx is None else dx.copy()
    model.zero_grad()
    workspaces = [layer.workspace(T, B) for layer in model.layers]
    inner = x
    for layer, kept in zip(model.layers, workspaces, strict=True):
        per_sequence = inner.ndim == (1 if inner.dtype.kind == "i" else 2)
        inner, _ = layer.forward(inner, lengths=None if per_sequence else lengths, workspace=kept)
    d_inner, d_states = dy, []
    for layer, kept in zip(reversed(model.layers), reversed(workspaces), strict=True):
        d_inner, d_state = layer.backward(d_inner, workspace=kept)
        d_states.insert(0, d_state)
    np.testing.assert_array_equal(gradients, model.gradients_to_vector())
    assert gradients.any()
    assert_states_equal(dstate, d_states)
    if dx is None:
        assert d_inner is None
    else:
        np.testing.assert_array_equal(dx, d_inner)


def test_model_gradient_is_the_slope():
    """A check from outside, in one random direction of all parameters."""
    for make, data in MODELS.values():
        model, x = make(), data()
        workspace = model.workspace(T, B)
        y, _ = model.forward(x, lengths=LENGTHS, workspace=workspace)
        weights = normal(*y.shape, seed=4)
        model.backward(weights, workspace=workspace)
        start, direction = model.parameters_to_vector(), normal(model.num_parameters, seed=5)
        values = []
        for side in (-1e-5, 1e-5):
            model.vector_to_parameters(start + side * direction)
            y = model.forward(x, lengths=LENGTHS)[0]
            values.append(np.vdot(weights, y))
        slope = (values[1] - values[0]) / 2e-5
        np.testing.assert_allclose(model.gradients_to_vector() @ direction, slope, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_model_batch_first_is_time_first(name, lengths):
    make, data = MODELS[name]
    x, results = data(), []
    for batch_first in (False, True):
        model = make(batch_first=batch_first)
        swap = (lambda a: a.swapaxes(0, 1) if a is not None and a.ndim > 2 else a) if batch_first else (lambda a: a)
        given = x.swapaxes(0, 1) if batch_first else x
        inferred = model.forward(given, lengths=lengths)[0]
        workspace = model.workspace(T, B)
        y, state = model.forward(given, lengths=lengths, workspace=workspace)
        np.testing.assert_array_equal(y, inferred)
        y = swap(y).copy()
        final = np.concatenate([np.ravel(s) for s in state if s is not None])
        dy = normal(*y.shape, seed=3)
        dx, _ = model.backward(swap(dy), workspace=workspace)
        results.append((y, final, swap(dx), model.gradients_to_vector()))
    for ours, theirs in zip(*results, strict=True):
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)


def test_model_gradients_of_the_state():
    model = language_model()
    x, state = tokens(), (None, tuple(normal(2, 2, B, H)), None, None)
    workspace = model.workspace(T, B)
    model.forward(x, state, workspace=workspace)
    dy, dfinal = normal(T, B, V, seed=1), tuple(normal(2, 2, B, H, seed=2))
    dx, dstate = model.backward(dy, (None, dfinal, None, None), workspace=workspace)
    assert dx is None and [d is None for d in dstate] == [True, False, True, True]
    # the slope of Σ dy·y + Σ dfinal·final along one direction of h
    direction, values = normal(2, B, H, seed=3), []
    for side in (-1e-6, 1e-6):
        y, final = model.forward(x, (None, (state[1][0] + side * direction, state[1][1]), None, None))
        values.append(np.vdot(dy, y) + sum(np.vdot(d, s) for d, s in zip(dfinal, final[1], strict=True)))
    np.testing.assert_allclose(np.vdot(dstate[1][0], direction), (values[1] - values[0]) / 2e-6, rtol=1e-6)


GOOD = (normal(2, B, H), normal(2, B, H))


@pytest.mark.parametrize("state", [
    (), (None,) * 3, (None,) * 5, [None] * 5, GOOD, 5.0, "none", {1: GOOD}, np.zeros((4, 2, B, H)),
    (GOOD, GOOD, None, None), (None, GOOD[0], None, None), (None, (GOOD[0],), None, None),
    (None, (GOOD[0], GOOD[1][:1]), None, None), (None, (GOOD[0], GOOD[1][:, :1]), None, None),
    (None, (GOOD[0].astype(int), GOOD[1]), None, None), (None, GOOD, None, GOOD),
], ids=lambda state: None)  # fmt: skip
def test_model_bad_state(state):
    model = language_model()
    workspace = model.workspace(T, B)
    y, _ = model.forward(tokens(), workspace=workspace)
    expected = y.copy()
    for call in (
        lambda: model.forward(tokens(), state), lambda: model.forward(tokens(), state, workspace=workspace),
        lambda: model.backward(np.zeros((T, B, V)), state, workspace=workspace), lambda: model.step(tokens()[0], state),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match="state"):
            call()
    np.testing.assert_array_equal(y, expected)
    assert not model.gradients_to_vector().any()
    model.backward(np.ones((T, B, V)), workspace=workspace)
    assert model.gradients_to_vector().any()


def test_model_state_may_be_a_list_with_none():
    model = language_model()
    y, state = model.forward(tokens(), [None, [GOOD[0], GOOD[1]], None, None])
    np.testing.assert_array_equal(y, model.forward(tokens(), (None, GOOD, None, None))[0])
    assert isinstance(state, tuple) and isinstance(state[1], tuple)
    np.testing.assert_array_equal(model.forward(tokens(), (None,) * 4)[0], model.forward(tokens())[0])


def test_model_lengths_of_sequences_stop_at_the_pooling():
    model = classifier(fastrnn.MeanPool)
    x = normal(T, B, F)
    for b, n in enumerate(LENGTHS):
        x[n:, b] = np.nan
    workspace = model.workspace(T, B)
    y, _ = model.forward(x, lengths=LENGTHS, workspace=workspace)
    y = y.copy()
    dx, _ = model.backward(np.ones_like(y), workspace=workspace)
    assert np.isfinite(y).all() and np.isfinite(dx).all() and np.isfinite(model.gradients_to_vector()).all()
    for b, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(model.forward(x[:n, b : b + 1])[0], y[b : b + 1])
        assert not dx[n:, b].any() and dx[:n, b].any()


# ---- parameters ----


@pytest.mark.filterwarnings("default")  # PyTorch's own
def test_model_state_dict_names_are_pytorchs():
    torch = pytest.importorskip("torch")
    model = classifier(fastrnn.Last)
    nn = torch.nn
    theirs = nn.Sequential(nn.Linear(F, H), nn.Tanh(), nn.GRU(H, H, bidirectional=True), nn.Identity(),
                           nn.Linear(2 * H, 4), nn.Sigmoid()).double()  # fmt: skip
    ours = model.state_dict()
    assert {n: a.shape for n, a in ours.items()} == {n: tuple(p.shape) for n, p in theirs.named_parameters()}
    model.load_state_dict(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], tensor.numpy())


def test_model_state_dict_names_without_pytorch():
    assert list(language_model().state_dict()) == [
        "0.weight",
        *(f"1.{kind}_l{n}" for n in range(2) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        "3.weight", "3.bias",
    ]  # fmt: skip
    assert list(language_model().grad_dict()) == list(language_model().state_dict())


def test_model_keeps_parameters_and_gradients_of_its_layers():
    layers = fastrnn.GRU(F, H, seed=0), fastrnn.Linear(H, V, seed=1)
    for i, layer in enumerate(layers):
        layer.parameters.gradients[:] = i + 1
    before = [layer.state_dict() for layer in layers]
    model = fastrnn.Sequential(*layers)
    for i, state in enumerate(before):
        for name, array in state.items():
            np.testing.assert_array_equal(model.state_dict()[f"{i}.{name}"], array)
            np.testing.assert_array_equal(model.grad_dict()[f"{i}.{name}"], np.full(array.shape, i + 1))
    assert model.num_parameters == sum(layer.num_parameters for layer in layers)


def test_model_one_flat_buffer():
    model = language_model()
    values, gradients = model.parameters.values, model.parameters.gradients
    for layer in model.layers:
        if layer.num_parameters:
            assert np.shares_memory(layer.parameters.values, values)
            assert np.shares_memory(layer.parameters.gradients, gradients)
    flat = np.concatenate([a.ravel() for a in model.state_dict().values()])
    np.testing.assert_array_equal(model.parameters_to_vector(), flat)
    assert values.ctypes.data % 64 == gradients.ctypes.data % 64 == 0


def test_model_vectors_are_copies_and_come_back():
    model, other = language_model(), language_model()
    vector = model.parameters_to_vector()
    assert vector.shape == (model.num_parameters,) and vector.dtype == model.dtype
    other.vector_to_parameters(2 * vector)
    np.testing.assert_array_equal(other.parameters_to_vector(), 2 * vector)
    assert (other.forward(tokens())[0] != model.forward(tokens())[0]).any()
    other.vector_to_parameters(vector)
    np.testing.assert_array_equal(other.forward(tokens())[0], model.forward(tokens())[0])
    vector[:] = 0
    model.gradients_to_vector()[:] = 1
    assert model.parameters_to_vector().any() and not model.gradients_to_vector().any()
    strided = np.repeat(other.parameters_to_vector() + 1, 2)[::2]
    other.vector_to_parameters(strided)
    strided[:] = 0
    assert (other.parameters_to_vector() != 0).any()
    other.vector_to_parameters(other.parameters_to_vector().astype("float16"))  # converted


def test_model_gradients_of_layers_are_the_models():
    model = language_model()
    workspace = model.workspace(T, B)
    y, _ = model.forward(tokens(), workspace=workspace)
    model.backward(np.ones(y.shape), workspace=workspace)
    np.testing.assert_array_equal(
        np.concatenate([layer.gradients_to_vector() for layer in model.layers]), model.gradients_to_vector()
    )
    once = model.gradients_to_vector()
    model.forward(tokens(), workspace=workspace)
    model.backward(np.ones(y.shape), workspace=workspace)
    np.testing.assert_allclose(model.gradients_to_vector(), 2 * once, rtol=1e-13, atol=1e-13)
    model.layers[1].zero_grad()
    assert not model.grad_dict()["1.weight_hh_l0"].any() and model.grad_dict()["3.weight"].any()
    model.zero_grad()
    assert not model.gradients_to_vector().any()


def test_model_packed_weights_follow_every_way_of_writing():
    def output(model):
        workspace = model.workspace(T, B)
        y, _ = model.forward(tokens(), workspace=workspace)
        y = y.copy()
        model.zero_grad()
        model.backward(np.ones(y.shape), workspace=workspace)
        return y, model.forward(tokens())[0], model.step(tokens()[0])[0], model.gradients_to_vector()

    model = language_model()
    changes = [
        lambda: model.vector_to_parameters(1.5 * model.parameters_to_vector()),
        lambda: model.load_state_dict({n: 0.5 * a for n, a in model.state_dict().items()}),
        lambda: fastrnn.Adam(0.01).step(model),
        lambda: model.layers[1].load_state_dict({n: a + 0.1 for n, a in model.layers[1].state_dict().items()}),
        lambda: model.layers[3].vector_to_parameters(np.ones(model.layers[3].num_parameters)),
    ]
    before = output(model)
    for change in changes:
        change()
        fresh = language_model()
        fresh.load_state_dict(model.state_dict())
        after = output(model)
        for ours, theirs in zip(after, output(fresh), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert all((a != b).any() for a, b in zip(after[:3], before[:3], strict=True))
        before = after


COPIES = pytest.mark.parametrize(
    "how",
    [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "copy", "pickle"],
)


@COPIES
def test_copies_of_layers_that_share_a_generator_share_one_of_their_own(how):
    rng = np.random.default_rng(1)
    model = fastrnn.Sequential(
        fastrnn.Dropout(0.3, seed=rng), fastrnn.Residual(fastrnn.GRU(F, F, recurrent_dropout=0.3, seed=rng)),
        fastrnn.Dropout(0.3, seed=rng),
    )  # fmt: skip
    twins = [how(model), how(model)]
    for twin in twins:
        assert len({id(generator) for generator in twin._generators()}) == 1 and twin._generators()[0] is not rng
    passes = []
    for each in (model, *twins):  # one after the other: they share nothing with one another
        workspace, x = each.workspace(T, B), np.ones((T, B, F), "f")
        passes.append([each.forward(x, workspace=workspace)[0].copy() for _ in range(3)])
    assert (passes[0][0] != passes[0][1]).any()
    for found in passes[1:]:
        np.testing.assert_array_equal(found, passes[0])


@COPIES
@pytest.mark.parametrize("batch_first", [False, True])
def test_model_copies_are_independent(how, batch_first):
    model = fastrnn.Sequential(
        fastrnn.Embedding(V, F, seed=0), fastrnn.LSTM(F, H, 2, dropout=0.5, seed=1), fastrnn.Dropout(0.5, seed=2),
        fastrnn.Linear(H, V, seed=3), batch_first=batch_first,
    )  # fmt: skip

    def train(model):
        workspace = model.workspace(T + B, T + B)
        y, _ = model.forward(tokens(), workspace=workspace)
        y = y.copy()
        model.backward(np.ones(y.shape, "f"), workspace=workspace)
        return y, model.gradients_to_vector()

    train(model)
    twin = how(model)
    assert twin.batch_first == batch_first and list(twin.state_dict()) == list(model.state_dict())
    np.testing.assert_array_equal(twin.gradients_to_vector(), model.gradients_to_vector())
    for ours, theirs in zip(train(twin), train(model), strict=True):  # the same dropout too
        np.testing.assert_array_equal(ours, theirs)
    before = model.parameters_to_vector()
    y = model.forward(tokens())[0]
    fastrnn.SGD(0.1).step(twin)
    twin.layers[1].zero_grad()
    np.testing.assert_array_equal(model.parameters_to_vector(), before)
    np.testing.assert_array_equal(model.forward(tokens())[0], y)
    assert np.shares_memory(twin.layers[1].parameters.values, twin.parameters.values)
    assert not np.shares_memory(twin.parameters.values, model.parameters.values)


def test_model_workspace_of_a_part_is_not_the_models():
    model = language_model()
    with pytest.raises(ValueError):
        model.forward(tokens(), workspace=model.layers[0].workspace(T, B))
    with pytest.raises(ValueError):
        model.layers[0].forward(tokens(), workspace=model.workspace(T, B))


def test_model_says_what_it_is():
    text = repr(language_model(batch_first=True))
    assert all(word in text for word in ("Sequential", "batch_first=True", "Embedding", "LSTM", "Dropout", "Linear"))


class _Name(str):
    """A name that counts how often it is compared."""

    compared = 0

    __hash__ = str.__hash__

    def __eq__(self, other):
        _Name.compared += 1
        return str.__eq__(self, other)


def test_state_dicts_of_many_tensors_are_looked_up_not_searched():
    layer, count = fastrnn.Linear(1, 1, bias=False, seed=0), 500
    layer.parameters = Parameters({str(i): (1,) for i in range(count)}, "float32")
    layer.load_state_dict({_Name(i): np.full(1, i, "f") for i in range(count)})
    np.testing.assert_array_equal(layer.parameters_to_vector(), np.arange(count))
    assert _Name.compared < 10 * count
