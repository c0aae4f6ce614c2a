"""What each layer computes, and how it treats the arrays, copies and parameters of its callers."""

import copy
import pickle
import signal
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import passes

T, B, F, H = 5, 4, 6, 7
LENGTHS = np.array([5, 1, 3, 4])
SEQUENCES = {"time first": False, "batch first": True}

RECURRENT = {
    "rnn": lambda **options: fastrnn.RNN(F, H, **{"dtype": "float64", "seed": 1, **options}),
    "gru": lambda **options: fastrnn.GRU(F, H, **{"dtype": "float64", "seed": 1, **options}),
    "lstm": lambda **options: fastrnn.LSTM(F, H, **{"dtype": "float64", "seed": 1, **options}),
}
every_cell = pytest.mark.parametrize("cell", RECURRENT)
with_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])


def normal(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def states(layer, batch=B, seed=5):
    shape = layer.num_layers * layer.directions, batch, layer.hidden_size
    arrays = tuple(normal(*shape, seed=seed + i, dtype=layer.dtype) for i in range(layer.cell.states))
    return arrays if len(arrays) > 1 else arrays[0]


def valid(lengths, steps=T, batch=B):
    """(T,B) whether a step belongs to its sequence."""
    return np.arange(steps)[:, None] < (np.full(batch, steps) if lengths is None else lengths)


def with_nan_padding(x, lengths):
    x = x.copy()
    x[~valid(lengths, *x.shape[:2])] = np.nan
    return x


def in_model(layer, batch_first):
    """The layer as a model of its own: the way to make a stateless layer batch first."""
    return fastrnn.Sequential(layer, batch_first=batch_first)


def both_ways(layer, x, dy, lengths, batch_first):
    """y and dx, time first, of a layer in a model."""
    model = in_model(layer, batch_first)
    pooled = dy.ndim == 2
    swap = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
    inferred, _ = model.forward(swap(x), lengths=lengths)
    workspace = model.workspace(T + 2, B + 1)
    y, _ = model.forward(swap(x), lengths=lengths, workspace=workspace)
    if not isinstance(layer, fastrnn.Dropout):
        np.testing.assert_array_equal(y, inferred)
    y = y.copy()
    dx, _ = model.backward(dy if pooled else swap(dy), workspace=workspace)
    return y if pooled else swap(y), None if dx is None else swap(dx)


# ---- layers without state against plain NumPy ----

ACTIVATIONS = {
    "tanh": (fastrnn.Tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (fastrnn.ReLU, lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "sigmoid": (fastrnn.Sigmoid, lambda x: 1 / (1 + np.exp(-x)), lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("batch_first", SEQUENCES.values(), ids=SEQUENCES)
@with_lengths
def test_layers_activation_is_numpys(name, batch_first, lengths):
    layer, function, derivative = ACTIVATIONS[name]
    x, dy = with_nan_padding(normal(T, B, F), lengths), with_nan_padding(normal(T, B, F, seed=1), lengths)
    y, dx = both_ways(layer(dtype="float64"), x, dy, lengths, batch_first)
    there = valid(lengths)[:, :, None]
    np.testing.assert_allclose(y, np.where(there, function(x), 0), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(dx, np.where(there, dy * derivative(x), 0), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", SEQUENCES.values(), ids=SEQUENCES)
@with_lengths
def test_layers_linear_is_numpys(bias, batch_first, lengths):
    layer = fastrnn.Linear(F, H, bias=bias, dtype="float64", seed=0)
    assert set(layer.state_dict()) == ({"weight", "bias"} if bias else {"weight"})
    weight, offset = layer.state_dict()["weight"], layer.state_dict().get("bias", np.zeros(H))
    x, dy = with_nan_padding(normal(T, B, F), lengths), with_nan_padding(normal(T, B, H, seed=1), lengths)
    y, dx = both_ways(layer, x, dy, lengths, batch_first)
    there = valid(lengths)
    np.testing.assert_allclose(y, np.where(there[:, :, None], x @ weight.T + offset, 0), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(dx, np.where(there[:, :, None], dy @ weight, 0), rtol=1e-13, atol=1e-14)
    gradients = layer.grad_dict()
    np.testing.assert_allclose(gradients["weight"], dy[there].T @ x[there], rtol=1e-13, atol=1e-14)
    if bias:
        np.testing.assert_allclose(gradients["bias"], dy[there].sum(axis=0), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("layer", ["linear", "tanh", "dropout"])
def test_layers_two_dimensional_input_is_one_step(layer):
    make = {
        "linear": lambda: fastrnn.Linear(F, H, dtype="float64", seed=0),
        "tanh": lambda: fastrnn.Tanh(dtype="float64"),
        "dropout": lambda: fastrnn.Dropout(0.0, dtype="float64"),
    }[layer]
    flat, sequence = make(), make()
    x = normal(B, F)
    workspace = flat.workspace(1, B), sequence.workspace(1, B)
    y, _ = flat.forward(x, workspace=workspace[0])
    expected, _ = sequence.forward(x[None], workspace=workspace[1])
    np.testing.assert_array_equal(y, expected[0])
    dy = normal(*y.shape, seed=1)
    dx, _ = flat.backward(dy, workspace=workspace[0])
    np.testing.assert_array_equal(dx, sequence.backward(dy[None], workspace=workspace[1])[0][0])
    np.testing.assert_array_equal(flat.gradients_to_vector(), sequence.gradients_to_vector())


@pytest.mark.parametrize("batch_first", SEQUENCES.values(), ids=SEQUENCES)
@with_lengths
@pytest.mark.parametrize("integers", ["int64", "uint8", ">i2", "uint64"])
def test_layers_embedding_is_numpys(integers, batch_first, lengths):
    layer = fastrnn.Embedding(9, F, dtype="float64", seed=0)
    table = layer.state_dict()["weight"]
    x = np.random.default_rng(0).integers(0, 9, (T, B)).astype(integers)
    dy = with_nan_padding(normal(T, B, F), lengths)
    there = valid(lengths)
    x[~there] = 99
    y, dx = both_ways(layer, x, dy, lengths, batch_first)
    assert dx is None
    np.testing.assert_array_equal(y, np.where(there[:, :, None], table[np.where(there, x, 0)], 0))
    expected = np.zeros_like(table)
    np.add.at(expected, x[there].astype(int), dy[there])
    np.testing.assert_allclose(layer.grad_dict()["weight"], expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("batch_first", SEQUENCES.values(), ids=SEQUENCES)
@with_lengths
def test_layers_one_hot_is_numpys(batch_first, lengths):
    x = np.random.default_rng(0).integers(0, F, (T, B))
    there = valid(lengths)
    expected = np.where(there[:, :, None], np.eye(F)[x], 0)
    x[~there] = -1
    y, dx = both_ways(fastrnn.OneHot(F, dtype="float64"), x, normal(T, B, F), lengths, batch_first)
    np.testing.assert_array_equal(y, expected)
    assert dx is None


@pytest.mark.parametrize("batch_first", SEQUENCES.values(), ids=SEQUENCES)
@with_lengths
def test_layers_last_is_numpys(batch_first, lengths):
    x, dy = with_nan_padding(normal(T, B, F), lengths), normal(B, F, seed=1)
    y, dx = both_ways(fastrnn.Last(dtype="float64"), x, dy, lengths, batch_first)
    ends = (np.full(B, T) if lengths is None else lengths) - 1
    np.testing.assert_array_equal(y, x[ends, np.arange(B)])
    expected = np.zeros((T, B, F))
    expected[ends, np.arange(B)] = dy
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("batch_first", SEQUENCES.values(), ids=SEQUENCES)
@with_lengths
def test_layers_last_of_both_directions_is_numpys(batch_first, lengths):
    x, dy = with_nan_padding(normal(T, B, F), lengths), normal(B, F, seed=1)
    y, dx = both_ways(fastrnn.Last(bidirectional=True, dtype="float64"), x, dy, lengths, batch_first)
    ends = (np.full(B, T) if lengths is None else lengths) - 1
    half = F // 2
    np.testing.assert_array_equal(y, np.hstack([x[ends, np.arange(B), :half], x[0, :, half:]]))
    expected = np.zeros((T, B, F))
    expected[ends, np.arange(B), :half] = dy[:, :half]
    expected[0, :, half:] = dy[:, half:]
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32), st.integers(1, T + 2), st.integers(1, B + 1), st.integers(1, 2), st.booleans())
def test_layers_last_of_both_directions_is_pytorchs_final_state(kind, seed, steps, batch, layers, batch_first):
    torch = pytest.importorskip("torch")
    ours = RECURRENT[kind](bidirectional=True, num_layers=layers, batch_first=batch_first)
    theirs = getattr(torch.nn, kind.upper())(F, H, layers, bidirectional=True, batch_first=batch_first).double()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, steps, F) if batch_first else (steps, batch, F))
    lengths, dy = rng.integers(1, steps + 1, batch), rng.standard_normal((batch, 2 * H))
    leaf = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(leaf, torch.tensor(lengths), batch_first, enforce_sorted=False)
    final = theirs(packed)[1]
    final = final[0] if kind == "lstm" else final
    expected = torch.cat([final[-2], final[-1]], -1)
    expected.backward(torch.tensor(dy))
    model = fastrnn.Sequential(ours, fastrnn.Last(bidirectional=True), batch_first=batch_first)
    workspace = model.workspace(steps, batch)
    y, _ = model.forward(x, lengths=lengths, workspace=workspace)
    np.testing.assert_allclose(y, expected.detach(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(model.backward(dy, workspace=workspace)[0], leaf.grad, rtol=0, atol=1e-12)
    gradients = model.grad_dict()
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(gradients[f"0.{name}"], parameter.grad, rtol=0, atol=1e-11, err_msg=name)


def test_layers_last_of_both_directions_needs_halves_and_whole_sequences():
    last = fastrnn.Last(bidirectional=True)
    assert repr(last) == "Last(bidirectional=True)" and repr(fastrnn.Last()) == "Last()"
    assert fastrnn.Last(bidirectional=False).config() == {"dtype": "float32"}
    for workspace in (None, last.workspace(2, 2)):
        with pytest.raises(ValueError, match="an even number of features for bidirectional=True, got 3"):
            last.forward(np.zeros((2, 2, 3), "f"), workspace=workspace)
    with pytest.raises(ValueError, match="bidirectional=True needs the whole sequence: it has no single step"):
        last.step(np.zeros(4, "f"))
    with pytest.raises(TypeError, match="bidirectional must be True or False"):
        fastrnn.Last(bidirectional=1)
    for layers in ((fastrnn.GRU(2, 3), last), (fastrnn.Tanh(), last, fastrnn.Linear(3, 2))):
        with pytest.raises(ValueError, match="layer 1, Last, does not fit: bidirectional=True needs an even number"):
            fastrnn.Sequential(*layers)
    anything = fastrnn.Sequential(fastrnn.Tanh(), last)
    for workspace in (None, anything.workspace(2, 2)):
        with pytest.raises(ValueError, match="layer 1, Last, does not fit: .*got 5"):
            anything.forward(np.zeros((2, 2, 5), "f"), workspace=workspace)
        assert anything.forward(np.zeros((2, 2, 4), "f"), workspace=workspace)[0].shape == (2, 4)
    skip = fastrnn.Concatenated(fastrnn.Tanh(), include_input=True)
    doubled = fastrnn.Sequential(skip, fastrnn.Last(bidirectional=True))
    assert doubled.forward(np.zeros((2, 2, 5), "f"))[0].shape == (2, 10)


@pytest.mark.parametrize("batch_first", SEQUENCES.values(), ids=SEQUENCES)
@with_lengths
def test_layers_mean_pool_is_numpys(batch_first, lengths):
    x, dy = with_nan_padding(normal(T, B, F), lengths), normal(B, F, seed=1)
    y, dx = both_ways(fastrnn.MeanPool(dtype="float64"), x, dy, lengths, batch_first)
    there = valid(lengths)[:, :, None]
    np.testing.assert_allclose(y, np.where(there, x, 0).sum(axis=0) / there.sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(dx, np.where(there, dy / there.sum(axis=0), 0), rtol=1e-14)


@pytest.mark.parametrize("batch_first", SEQUENCES.values(), ids=SEQUENCES)
@with_lengths
def test_layers_max_pool_is_numpys(batch_first, lengths):
    x, dy = with_nan_padding(np.round(normal(T, B, F)), lengths), normal(B, F, seed=1)  # some maxima come twice
    y, dx = both_ways(fastrnn.MaxPool(dtype="float64"), x, dy, lengths, batch_first)
    visible = np.where(valid(lengths)[:, :, None], x, -np.inf)
    np.testing.assert_array_equal(y, visible.max(axis=0))
    np.testing.assert_array_equal(dx, np.where(visible.argmax(axis=0) == np.arange(T)[:, None, None], dy, 0))


def test_layers_max_pool_shows_nan_and_infinity():
    x, dy = np.full((5, 1, 3), -np.inf), np.array([[1.0, 2.0, 3.0]])
    x[3, 0, :2], x[4, 0, :2] = (np.inf, np.nan), (1.0, np.nan)
    y, dx = both_ways(fastrnn.MaxPool(dtype="float64"), x, dy, None, False)
    np.testing.assert_array_equal(y, [[np.inf, np.nan, -np.inf]])
    expected = np.zeros((5, 1, 3))
    expected[[3, 3, 0], 0, [0, 1, 2]] = dy
    np.testing.assert_array_equal(dx, expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, T + 2), st.integers(1, B + 1), st.integers(1, 20), st.booleans())
def test_layers_max_pool_as_torch(seed, steps, batch, features, batch_first):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((steps, batch, features)), rng.standard_normal((batch, features))
    lengths = rng.integers(1, steps + 1, batch)
    y, dx = both_ways(fastrnn.MaxPool(dtype="float64"), x, dy, lengths, batch_first)
    leaf = torch.tensor(x, requires_grad=True)
    theirs = torch.stack([leaf[:n, b].max(dim=0).values for b, n in enumerate(lengths)])
    theirs.backward(torch.tensor(dy))
    np.testing.assert_array_equal(y, theirs.detach().numpy())
    np.testing.assert_array_equal(dx, leaf.grad.numpy())


def test_layers_dropout_masks():
    layer = fastrnn.Dropout(0.25, dtype="float64", seed=0)
    x, dy = normal(50, 20, 10), normal(50, 20, 10, seed=1)
    workspace = layer.workspace(50, 20)
    y, state = layer.forward(x, workspace=workspace)
    y = y.copy()
    assert state is None
    factors = y / x
    dropped = factors == 0
    np.testing.assert_allclose(factors[~dropped], 1 / 0.75, rtol=1e-15)
    assert abs(dropped.mean() - 0.25) < 0.02  # 10,000 draws: 4.6 standard deviations
    np.testing.assert_allclose(layer.backward(dy, workspace=workspace)[0], dy * factors, rtol=1e-14)
    assert (layer.forward(x, workspace=workspace)[0] != y).any()  # a new mask each time
    again = fastrnn.Dropout(0.25, dtype="float64", seed=0)
    np.testing.assert_array_equal(again.forward(x, workspace=again.workspace(50, 20))[0], y)
    np.testing.assert_array_equal(layer.forward(x)[0], x)  # inference
    np.testing.assert_array_equal(layer.step(x[0])[0], x[0])


def test_layers_dropout_between_stacked_layers():
    def build(dropout):
        return RECURRENT["gru"](num_layers=2, dropout=dropout)

    layer, plain = build(0.5), build(0.0)
    x = normal(T, B, F)
    np.testing.assert_array_equal(layer.forward(x)[0], plain.forward(x)[0])  # off at inference
    workspace = layer.workspace(T, B)
    y, state = layer.forward(x, workspace=workspace)
    np.testing.assert_array_equal(state[0], plain.forward(x)[1][0])  # the first layer is not touched
    assert (np.abs(y - plain.forward(x)[0]) > 1e-6).any()
    y = y.copy()
    again = build(0.5)
    np.testing.assert_array_equal(again.forward(x, workspace=again.workspace(T, B))[0], y)
    single = RECURRENT["gru"](num_layers=1, dropout=0.5)  # nothing lies between
    np.testing.assert_array_equal(single.forward(x, workspace=single.workspace(T, B))[0], single.forward(x)[0])


@pytest.mark.parametrize("model", ["dropout", "between"])
def test_layers_infinite_padding_raises_no_warning(model):
    layer = fastrnn.Dropout(0.5, dtype="float64", seed=0)
    if model == "between":
        layer = fastrnn.Sequential(layer, RECURRENT["gru"](num_layers=2, dropout=0.5))
    x = normal(T, B, F)
    x[~valid(LENGTHS)] = np.inf
    workspace = layer.workspace(T, B)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        y, _ = layer.forward(x, lengths=LENGTHS, workspace=workspace)
        dy = np.where(valid(LENGTHS)[:, :, None], np.ones(y.shape), np.inf)
        assert np.isfinite(y).all()
        dx, _ = layer.backward(dy, workspace=workspace)
    assert np.isfinite(dx).all()


# ---- the arrays that come in ----


def odd_forms(array):
    """The same numbers in every form NumPy has."""
    yield "fortran", np.asfortranarray(array)
    yield "strided", np.repeat(array, 2, axis=-1)[..., ::2]
    yield "reversed", np.ascontiguousarray(array[::-1, ..., ::-1])[::-1, ..., ::-1]
    yield "swapped axes", np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1)
    yield "byte-swapped", array.astype(array.dtype.newbyteorder("S"))
    unaligned = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    unaligned[...] = array
    yield "unaligned", unaligned
    fixed = array.copy()
    fixed.flags.writeable = False
    yield "read-only", fixed
    yield "list", array.tolist()


FORMS = ["fortran", "strided", "reversed", "swapped axes", "byte-swapped", "unaligned", "read-only", "list"]


@pytest.mark.parametrize("form", FORMS)
def test_layers_arrays_of_any_form(form):
    layer = RECURRENT["lstm"](num_layers=2)

    def changed(array):
        return dict(odd_forms(array))[form]

    def run(x, state, dy, dstate):
        layer.zero_grad()
        workspace = layer.workspace(T, B)
        y, final = layer.forward(x, state, lengths=LENGTHS, workspace=workspace)
        return [y, *final, *(a for r in layer.backward(dy, dstate, workspace=workspace) for a in r)], (
            layer.gradients_to_vector()
        )

    plain = normal(T, B, F), states(layer), normal(T, B, H, seed=1), states(layer, seed=9)
    x, dy = changed(plain[0]), changed(plain[2])
    state, dstate = (tuple(changed(s) for s in pair) for pair in (plain[1], plain[3]))
    results, gradients = run(x, state, dy, dstate)
    expected, expected_gradients = run(*plain)
    for ours, theirs in zip(results, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(gradients, expected_gradients)
    for array, before in zip((x, *state, dy, *dstate), (plain[0], *plain[1], plain[2], *plain[3]), strict=True):
        np.testing.assert_array_equal(array, before)  # unchanged
    np.testing.assert_array_equal(layer.step(x[0], state)[0], layer.step(plain[0][0], plain[1])[0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "longdouble"])
def test_layers_floats_of_another_precision_are_converted(dtype):
    layer = RECURRENT["gru"]()
    x = normal(T, B, F).astype(dtype)
    before = x.copy()
    np.testing.assert_array_equal(layer.forward(x)[0], layer.forward(x.astype("float64"))[0])
    np.testing.assert_array_equal(x, before)
    narrow = fastrnn.Linear(F, H, seed=0)
    y, _ = narrow.forward(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, narrow.forward(x.astype("float32"))[0])


def test_layers_broadcast_input():
    layer = RECURRENT["gru"]()
    row = normal(F)
    x = np.broadcast_to(row, (T, B, F))
    y, _ = layer.forward(x, lengths=np.broadcast_to(3, B))
    np.testing.assert_array_equal(y, layer.forward(np.array(x), lengths=np.full(B, 3))[0])
    workspace = layer.workspace(T, B)
    layer.forward(x, workspace=workspace)
    ones = np.broadcast_to(1.0, (T, B, H))
    dx, _ = layer.backward(ones, workspace=workspace)
    dx = dx.copy()
    layer.forward(x, workspace=workspace)
    np.testing.assert_array_equal(dx, layer.backward(np.ones((T, B, H)), workspace=workspace)[0])


@pytest.mark.parametrize("make", [RECURRENT["lstm"], lambda: fastrnn.Linear(F, H, dtype="float64"),
                                  lambda: fastrnn.Tanh(dtype="float64"), lambda: fastrnn.Last(dtype="float64"),
                                  lambda: fastrnn.Dropout(0.5, dtype="float64")],
                         ids=["lstm", "linear", "tanh", "last", "dropout"])  # fmt: skip
def test_layers_results_are_apart_from_the_input(make):
    """Without a workspace results are the caller's own, and the input is never written."""
    layer = make()
    x = normal(T, B, F)
    before = x.copy()
    first = layer.forward(x)[0]
    kept = first.copy()
    layer.forward(x + 1)
    np.testing.assert_array_equal(first, kept)
    first += 1
    np.testing.assert_array_equal(x, before)
    y_t, _ = layer.step(x[0])
    y_t += 1
    workspace = layer.workspace(T, B)
    y, _ = layer.forward(x, workspace=workspace)
    dy = np.ones(y.shape)
    layer.backward(dy, workspace=workspace)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(dy, 1)


# ---- NaN and infinity ----


@every_cell
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("default")  # PyTorch's own
def test_layers_nan_and_infinity_go_where_they_go_in_pytorch(cell, value):
    torch = pytest.importorskip("torch")
    layer = RECURRENT[cell](num_layers=2)
    theirs = getattr(torch.nn, cell.upper())(F, H, 2, dtype=torch.float64)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in layer.state_dict().items()})
    x = normal(T, B, F)
    x[2, 1, 3] = x[0, 3, 0] = value
    x_theirs = torch.from_numpy(x.copy()).requires_grad_()
    y_theirs, final_theirs = theirs(x_theirs)
    y_theirs.sum().backward()
    workspace = layer.workspace(T, B)
    y, final = layer.forward(x, workspace=workspace)
    pairs = [(y.copy(), y_theirs), *((a.copy(), b) for a, b in zip(parts(final), parts(final_theirs), strict=True))]
    dx, _ = layer.backward(np.ones((T, B, H)), workspace=workspace)
    pairs.append((dx, x_theirs.grad))
    pairs += [(layer.grad_dict()[name], p.grad) for name, p in theirs.named_parameters()]
    for ours, other in pairs:
        np.testing.assert_allclose(ours, other.detach().numpy(), rtol=1e-9, atol=1e-12)  # NaN equals NaN
    if np.isnan(value):
        assert np.isnan(y[2:, 1]).all() and np.isnan(y[:, 3]).all()
        assert np.isfinite(y[:2, 1]).all() and np.isfinite(y[:, [0, 2]]).all()  # the other sequences are not reached


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_layers_activations_at_nan_and_infinity(name):
    x = np.array([[[np.nan, np.inf, -np.inf, 0.0, 1e300, -1e300]]])
    expected = {"tanh": [np.nan, 1, -1, 0, 1, -1], "relu": [np.nan, np.inf, 0, 0, 1e300, 0],
                "sigmoid": [np.nan, 1, 0, 0.5, 1, 0]}[name]  # fmt: skip
    np.testing.assert_array_equal(ACTIVATIONS[name][0](dtype="float64").forward(x)[0][0, 0], expected)


# ---- gradients ----


@pytest.mark.parametrize("make", [*(lambda c=c: RECURRENT[c](num_layers=2, bidirectional=True) for c in RECURRENT),
                                  lambda: fastrnn.Linear(F, H, dtype="float64", seed=0)],
                         ids=[*RECURRENT, "linear"])  # fmt: skip
def test_layers_gradients_add_up_over_backward_passes(make):
    layer = make()
    sums = 0
    workspace = layer.workspace(T, B)
    problems = [(normal(T, B, F, seed=s), lengths) for s, lengths in ((0, None), (1, LENGTHS))]
    for x, lengths in problems:
        layer.zero_grad()
        y, _ = layer.forward(x, lengths=lengths, workspace=workspace)
        layer.backward(np.ones(y.shape), workspace=workspace)
        sums = sums + layer.gradients_to_vector()
    layer.zero_grad()
    for x, lengths in problems:
        y, _ = layer.forward(x, lengths=lengths, workspace=workspace)
        layer.backward(np.ones(y.shape), workspace=workspace)
    np.testing.assert_allclose(layer.gradients_to_vector(), sums, rtol=1e-12, atol=1e-13)
    layer.zero_grad()
    assert not layer.gradients_to_vector().any()
    assert not any(gradient.any() for gradient in layer.grad_dict().values())


@every_cell
def test_layers_no_gradient_of_the_final_state_is_zero(cell):
    layer = RECURRENT[cell]()
    x, dy = normal(T, B, F), normal(T, B, H, seed=1)
    results = []
    zeros = tuple(np.zeros((1, B, H)) for _ in range(layer.cell.states))
    for dstate in (None, zeros if len(zeros) > 1 else zeros[0]):
        workspace = layer.workspace(T, B)
        layer.forward(x, workspace=workspace)
        dx, d_initial = layer.backward(dy, dstate, workspace=workspace)
        results.append([dx, *parts(d_initial)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_cell
def test_layers_call_is_forward(cell):
    layer = RECURRENT[cell]()
    x, state = normal(T, B, F), states(layer)
    y, final = layer(x, state, lengths=LENGTHS)
    expected, expected_final = layer.forward(x, state, lengths=LENGTHS)
    np.testing.assert_array_equal(y, expected)
    for ours, theirs in zip(parts(final), parts(expected_final), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.shape == (1, B, H)


@every_cell
def test_layers_batch_first_is_time_first(cell):
    results = []
    x, dy = normal(T, B, F), normal(T, B, 2 * H, seed=1)
    for batch_first in (False, True):
        layer = RECURRENT[cell](num_layers=2, bidirectional=True, batch_first=batch_first)
        swap = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
        workspace = layer.workspace(T, B)
        y, final = layer.forward(swap(x), states(layer), lengths=LENGTHS, workspace=workspace)
        assert y.shape == ((B, T, 2 * H) if batch_first else (T, B, 2 * H))
        forward = [swap(y).copy(), *(s.copy() for s in parts(final))]
        dx, d_initial = layer.backward(swap(dy), states(layer, seed=8), workspace=workspace)
        results.append([*forward, swap(dx), *parts(d_initial), layer.gradients_to_vector()])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---- views of the workspace handed back ----


@every_cell
def test_layers_state_views_go_into_the_next_call(cell):
    layer = RECURRENT[cell](num_layers=2)
    x = normal(T, B, F)
    workspace = layer.workspace(T, B)
    state = expected = None
    for _ in range(3):
        _, state = layer.forward(x, state, workspace=workspace)
        _, expected = layer.forward(x, expected)
        for ours, theirs in zip(parts(state), parts(expected), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@every_cell
@pytest.mark.parametrize("rows", [slice(1, None), slice(None, 2), slice(None, None, -1), slice(None, None, 2), [2, 0]])
def test_layers_part_of_a_state_goes_into_the_next_call(cell, rows):
    """Of another batch size: the view then overlaps another part of the buffer that the final state goes into."""
    layer = RECURRENT[cell](num_layers=2)
    x = normal(T, B, F)
    workspace = layer.workspace(T, B)

    def cut(state):
        pieces = tuple(s[:, rows] for s in parts(state))
        return pieces if len(pieces) > 1 else pieces[0]

    y, final = layer.forward(x[:, rows], cut(layer.forward(x)[1]))
    ours, ours_final = layer.forward(x[:, rows], cut(layer.forward(x, workspace=workspace)[1]), workspace=workspace)
    np.testing.assert_array_equal(ours, y)
    for a, b in zip(parts(ours_final), parts(final), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_states_handed_back_the_other_way_round():
    layer = RECURRENT["lstm"]()
    x = normal(T, B, F)
    h, c = layer.forward(x)[1]
    expected, _ = layer.forward(x, (c, h))
    workspace = layer.workspace(T, B)
    h, c = layer.forward(x, workspace=workspace)[1]
    y, _ = layer.forward(x, (c, h), workspace=workspace)
    np.testing.assert_array_equal(y, expected)


STEPS, WIDTH = 2, 8  # T = L·D, so that sequences and states can have one shape

VIEWED = {
    "gru": lambda: fastrnn.GRU(WIDTH, WIDTH, 2, dtype="float64", seed=0),
    "lstm": lambda: fastrnn.LSTM(WIDTH, WIDTH, 2, dtype="float64", seed=0),
    "gru, I = D·H": lambda: fastrnn.GRU(WIDTH, WIDTH // 2, bidirectional=True, dtype="float64", seed=0),
    "gru, I = H": lambda: fastrnn.GRU(WIDTH, WIDTH, bidirectional=True, dtype="float64", seed=0),
    "linear": lambda: fastrnn.Linear(WIDTH, WIDTH, dtype="float64", seed=0),
    "tanh": lambda: fastrnn.Tanh(dtype="float64"),
    "dropout": lambda: fastrnn.Dropout(0.0, dtype="float64"),
}


def viewed_shapes(layer):
    """Shapes of all that a forward and a backward pass take and return; of a pair's first part, h."""
    sequence, outcome = (STEPS, B, WIDTH), (STEPS, B, layer._output_features(WIDTH))
    shapes = {"x": sequence, "y": outcome, "dy": outcome, "dx": sequence}
    if layer.stateful:
        shapes["state"] = shapes["dstate"] = (layer.num_layers * layer.directions, B, layer.hidden_size)
    return shapes


def viewed_cases():
    """Every array that a layer returns, with every array it takes in the same shape."""
    for kind, make in VIEWED.items():
        shapes = viewed_shapes(make())
        for returned in ("y", "state", "dx", "dstate"):
            for taken in ("x", "state", "dy", "dstate"):
                if returned in shapes and taken in shapes and shapes[returned] == shapes[taken]:
                    yield kind, returned, taken


@pytest.mark.parametrize("lengths", [None, np.array([1, 2, 2, 1])], ids=["full", "ragged"])
@pytest.mark.parametrize(("kind", "returned", "taken"), list(viewed_cases()))
def test_layers_any_view_of_a_workspace_goes_into_the_next_call(kind, returned, taken, lengths):
    layer = VIEWED[kind]()
    shapes = viewed_shapes(layer)
    arrays = {"state": None, "dstate": None}
    for i, name in enumerate(name for name in ("x", "state", "dy", "dstate") if name in shapes):
        arrays[name] = normal(*shapes[name], seed=i)

    def with_c(array, seed):
        """A state of which `array` is h."""
        return (array, normal(*array.shape, seed=seed)) if kind == "lstm" and array is not None else array

    def h(state):
        return state[0] if kind == "lstm" else state

    def forward(arrays, workspace):
        y, state = layer.forward(arrays["x"], with_c(arrays["state"], 8), lengths=lengths, workspace=workspace)
        return {"y": y, "state": h(state)}

    def backward(arrays, workspace):
        dx, dstate = layer.backward(arrays["dy"], with_c(arrays["dstate"], 9), workspace=workspace)
        return {"dx": dx, "dstate": h(dstate)}

    def copied(results):
        return {name: array.copy() for name, array in results.items() if array is not None}

    workspace = layer.workspace(STEPS, B)
    views = {**forward(arrays, workspace), **backward(arrays, workspace)}
    layer.zero_grad()
    apart = arrays if taken in ("dy", "dstate") else {**arrays, taken: views[returned].copy()}
    given = arrays if taken in ("dy", "dstate") else {**arrays, taken: views[returned]}
    results = copied(forward(given, workspace))
    if taken in ("dy", "dstate"):  # what the view holds by now is what is handed back
        apart, given = {**arrays, taken: views[returned].copy()}, {**arrays, taken: views[returned]}
    results |= copied(backward(given, workspace))
    gradients = layer.gradients_to_vector()
    layer.zero_grad()
    workspace = layer.workspace(STEPS, B)
    expected = copied({**forward(apart, workspace), **backward(apart, workspace)})
    assert results.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(results[name], array, err_msg=name)
    np.testing.assert_array_equal(gradients, layer.gradients_to_vector())


# ---- parameters ----


def fresh(layer):
    """Another layer with the same parameters, never run before."""
    other = type(layer)(**layer.config())
    other.load_state_dict(layer.state_dict())
    return other


def run_both(layer, x):
    workspace = layer.workspace(T, B)
    y, _ = layer.forward(x, workspace=workspace)
    y = y.copy()
    dx, _ = layer.backward(np.ones(y.shape), workspace=workspace)
    step = layer.step(x[0])[0]
    return y, layer.forward(x)[0], dx, step


def change_by_load(layer):
    layer.load_state_dict({name: 0.5 * array for name, array in layer.state_dict().items()})


def change_by_vector(layer):
    layer.vector_to_parameters(0.5 * layer.parameters_to_vector())


def change_by_optimizer(layer):
    fastrnn.Adam(0.1).step(layer)


def change_by_joining(layer):
    model = fastrnn.Sequential(fastrnn.Tanh(dtype="float64"), layer)
    model.vector_to_parameters(0.5 * model.parameters_to_vector())


def change_by_model_and_optimizer(layer):
    model = fastrnn.Sequential(fastrnn.Tanh(dtype="float64"), layer)
    model.forward(normal(T, B, F))
    fastrnn.SGD(0.1, momentum=0.9).step(model)


def change_in_a_model_by_itself(layer):
    fastrnn.Sequential(fastrnn.Tanh(dtype="float64"), layer)
    change_by_load(layer)


CHANGES = [change_by_load, change_by_vector, change_by_optimizer, change_by_joining, change_by_model_and_optimizer,
           change_in_a_model_by_itself]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", [*RECURRENT, "linear"])
def test_layers_packed_weights_are_never_stale(kind, change):
    layer = fastrnn.Linear(F, H, dtype="float64", seed=0) if kind == "linear" else RECURRENT[kind]()
    x = normal(T, B, F)
    before = run_both(layer, x)  # packs everything, and leaves gradients
    change(layer)
    after = run_both(layer, x)
    for ours, theirs, old in zip(after, run_both(fresh(layer), x), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours != old).any()


def test_layers_parameters_are_not_written_behind_their_back():
    for layer in (RECURRENT["lstm"](), fastrnn.Linear(F, H), fastrnn.Embedding(3, 4)):
        name = next(iter(layer.state_dict()))
        before = layer.parameters_to_vector()
        with pytest.raises(ValueError):
            layer.parameters[name][...] = 0
        with pytest.raises(ValueError):
            layer.parameters[name] += 1
        np.testing.assert_array_equal(layer.parameters_to_vector(), before)


@every_cell
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_layers_state_dict_is_pytorchs(cell, bidirectional, bias):
    layer = RECURRENT[cell](num_layers=2, bidirectional=bidirectional, bias=bias)
    gates, directions = {"rnn": 1, "gru": 3, "lstm": 4}[cell], 1 + bidirectional
    expected = {}
    for n in range(2):
        for suffix in ("", "_reverse")[:directions]:
            expected[f"weight_ih_l{n}{suffix}"] = (gates * H, F if n == 0 else directions * H)
            expected[f"weight_hh_l{n}{suffix}"] = (gates * H, H)
            if bias:
                expected[f"bias_ih_l{n}{suffix}"] = expected[f"bias_hh_l{n}{suffix}"] = (gates * H,)
    for tensors in (layer.state_dict(), layer.grad_dict()):
        assert {name: array.shape for name, array in tensors.items()} == expected
        assert all(array.dtype == layer.dtype == np.float64 for array in tensors.values())
    assert layer.num_parameters == sum(np.prod(shape) for shape in expected.values())


@pytest.mark.parametrize("form", FORMS)
def test_layers_state_dict_of_any_form(form):
    layer = RECURRENT["lstm"]()
    state = {name: array + 0.25 for name, array in layer.state_dict().items()}
    matrices = {name: dict(odd_forms(a))[form] if a.ndim == 2 else a for name, a in state.items()}
    layer.load_state_dict(matrices)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_layers_state_dict_is_a_copy():
    layer = RECURRENT["gru"]()
    before = layer.parameters_to_vector()
    for tensors in (layer.state_dict(), layer.grad_dict()):
        for array in tensors.values():
            array += 1
    layer.parameters_to_vector()[:] = 0
    layer.gradients_to_vector()[:] = 1
    np.testing.assert_array_equal(layer.parameters_to_vector(), before)
    assert not layer.gradients_to_vector().any()
    mine = {name: array + 1 for name, array in layer.state_dict().items()}
    layer.load_state_dict(mine)
    loaded = layer.parameters_to_vector()
    for array in mine.values():
        array[...] = 0
    np.testing.assert_array_equal(layer.parameters_to_vector(), loaded)


@pytest.mark.filterwarnings("default")  # PyTorch's own
def test_layers_load_pytorchs_state_dict():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(F, H, 2, bidirectional=True, dtype=torch.float64)
    layer = RECURRENT["lstm"](num_layers=2, bidirectional=True)
    layer.load_state_dict(theirs.state_dict())
    assert list(layer.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(layer.state_dict()[name], tensor.numpy())


def test_layers_seed_decides_the_parameters():
    for make in (lambda seed: fastrnn.LSTM(F, H, seed=seed), lambda seed: fastrnn.Linear(F, H, seed=seed),
                 lambda seed: fastrnn.Embedding(F, H, seed=seed)):  # fmt: skip
        np.testing.assert_array_equal(make(3).parameters_to_vector(), make(3).parameters_to_vector())
        assert (make(3).parameters_to_vector() != make(4).parameters_to_vector()).any()
        assert (make(None).parameters_to_vector() != make(None).parameters_to_vector()).any()


# ---- copies ----

COPIES = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda layer: pickle.loads(pickle.dumps(layer))}

COPIED = {
    "lstm": lambda: RECURRENT["lstm"](num_layers=2, dropout=0.5, bidirectional=True),
    "relu rnn": lambda: RECURRENT["rnn"](nonlinearity="relu", bias=False),
    "batch first": lambda: RECURRENT["gru"](batch_first=True),
    "linear": lambda: fastrnn.Linear(F, H, bias=False, dtype="float64", seed=2),
    "dropout": lambda: fastrnn.Dropout(0.5, dtype="float64", seed=2),
    "tanh": lambda: fastrnn.Tanh(dtype="float64"),
    "last": lambda: fastrnn.Last(bidirectional=True, dtype="float64"),
    "mean": lambda: fastrnn.MeanPool(dtype="float64"),
    "max": lambda: fastrnn.MaxPool(dtype="float64"),
    "other generator": lambda: fastrnn.Dropout(0.5, dtype="float64", seed=np.random.Generator(np.random.MT19937(0))),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", COPIED)
def test_layers_copies_are_independent(kind, how):
    layer = COPIED[kind]()
    x = normal(T, B, F)

    def train(layer):
        workspace = layer.workspace(10, 10)
        y, _ = layer.forward(x, workspace=workspace)
        dx, _ = layer.backward(np.ones(y.shape), workspace=workspace)
        return y.copy(), dx.copy(), layer.gradients_to_vector()

    train(layer)  # packed weights, gradients, a generator that has moved on
    twin = COPIES[how](layer)
    assert type(twin) is type(layer) and twin.config() == layer.config() and twin.dtype == layer.dtype
    np.testing.assert_array_equal(twin.parameters_to_vector(), layer.parameters_to_vector())
    np.testing.assert_array_equal(twin.gradients_to_vector(), layer.gradients_to_vector())
    for ours, theirs in zip(train(twin), train(layer), strict=True):  # the same dropout too
        np.testing.assert_array_equal(ours, theirs)
    if layer.num_parameters:
        before, gradients = layer.parameters_to_vector(), layer.gradients_to_vector()
        y = layer.forward(x)[0]
        twin.vector_to_parameters(np.zeros(layer.num_parameters))
        twin.zero_grad()
        np.testing.assert_array_equal(layer.parameters_to_vector(), before)
        np.testing.assert_array_equal(layer.gradients_to_vector(), gradients)
        np.testing.assert_array_equal(layer.forward(x)[0], y)


def test_layers_copy_of_a_token_layer():
    for layer in (fastrnn.Embedding(9, F, seed=0), fastrnn.OneHot(9)):
        x = np.arange(6).reshape(2, 3)
        for make in COPIES.values():
            np.testing.assert_array_equal(make(layer).forward(x)[0], layer.forward(x)[0])


@pytest.mark.parametrize("how", COPIES)
def test_layers_copy_of_a_layer_in_a_model_is_outside(how):
    layer = RECURRENT["gru"]()
    model = fastrnn.Sequential(layer)
    twin = COPIES[how](layer)
    before = model.parameters_to_vector()
    twin.vector_to_parameters(np.zeros(twin.num_parameters))
    np.testing.assert_array_equal(model.parameters_to_vector(), before)
    fastrnn.Sequential(twin)  # belongs to no model so far


def test_layers_workspaces_of_a_layer_are_independent():
    layer = RECURRENT["lstm"]()
    x, dy = normal(2, T, B, F), normal(2, T, B, H, seed=1)
    alone = []
    for i in range(2):
        workspace = layer.workspace(T, B)
        layer.forward(x[i], workspace=workspace)
        alone.append(layer.backward(dy[i], workspace=workspace)[0])
    first, second = layer.workspace(T, B), layer.workspace(T, B)
    layer.forward(x[0], workspace=first)
    layer.forward(x[1], workspace=second)
    layer.forward(x[1])
    layer.step(x[1, 0])
    np.testing.assert_array_equal(layer.backward(dy[0], workspace=first)[0], alone[0])
    np.testing.assert_array_equal(layer.backward(dy[1], workspace=second)[0], alone[1])


@pytest.mark.parametrize("kind", [fastrnn.Tanh, fastrnn.ReLU, fastrnn.Sigmoid])
def test_layers_activation_output_may_be_overwritten(kind):
    """As a loss does that puts its gradient where the predictions were."""
    x = np.random.default_rng(0).standard_normal((3, 2, 5))
    layer = kind(dtype="float64")
    ws = layer.workspace(3, 2)
    y, _ = layer.forward(x, workspace=ws)
    expected, _ = layer.backward(2 * y, workspace=ws)
    expected = expected.copy()
    y, _ = layer.forward(x, workspace=ws)
    y *= 2
    assert np.array_equal(layer.backward(y, workspace=ws)[0], expected)


def test_layers_parameters_are_written_in_one_way():
    layer = fastrnn.Linear(3, 2, seed=0)
    x = np.ones((4, 3), np.float32)
    before = layer.forward(x)[0]
    with pytest.raises(ValueError, match="read-only"):
        layer.parameters.values[:] = 0
    assert np.array_equal(layer.forward(x)[0], before)
    with layer.parameters.writing() as values:
        values[:] = 0
    assert not layer.forward(x)[0].any()


def test_layers_refuse_masked_arrays():
    x = np.ma.masked_array(np.ones((4, 3), np.float32), mask=np.eye(4, 3, dtype=bool))
    with pytest.raises(TypeError, match="masked"):
        fastrnn.Linear(3, 2).forward(x)


def test_layers_copied_workspace_is_empty_and_works():
    """A copy shares nothing with the original, and computes the same."""
    layer = fastrnn.LSTM(5, 7, num_layers=2, bidirectional=True, seed=0)
    x = np.random.default_rng(0).standard_normal((6, 3, 5), dtype=np.float32)
    workspace = layer.workspace(6, 3)
    expected = layer.forward(x, workspace=workspace)[0].copy()
    for copied in (copy.deepcopy(workspace), pickle.loads(pickle.dumps(workspace))):
        y = copied.layer.forward(x, workspace=copied)[0]
        np.testing.assert_array_equal(y, expected)
        assert copied.layer is not layer and not np.shares_memory(y, expected)
        with pytest.raises(ValueError, match="forward pass"):
            again = copy.deepcopy(copied)
            again.layer.backward(y, workspace=again)
    layer.backward(expected, workspace=workspace)  # the original still holds its forward pass


@pytest.mark.parametrize("kind", ["Tanh", "ReLU", "Last", "MeanPool", "MaxPool", "Dropout", "ActivityRegularization"])
def test_layers_workspaces_follow_a_layer_into_a_model_of_another_dtype(kind):
    """One without parameters takes the model's dtype when it joins."""
    rng = np.random.default_rng(0)
    layer = getattr(fastrnn, kind)(*((0.0,) if kind == "Dropout" else ()))
    workspace = layer.workspace(4, 2)
    layer.forward(rng.standard_normal((4, 2, 3), dtype=np.float32), workspace=workspace)
    fastrnn.Sequential(fastrnn.LSTM(3, 3, dtype="float64", seed=0), layer)
    x = rng.standard_normal((4, 2, 3))
    y, _ = layer.forward(x, workspace=workspace)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, layer.forward(x)[0])
    dx, _ = layer.backward(np.ones_like(y), workspace=workspace)
    assert dx.dtype == np.float64


@pytest.mark.parametrize(
    "layer, name",
    [
        (fastrnn.LSTM(2, 3, seed=0), "input_size"), (fastrnn.GRU(2, 3, seed=0), "hidden_size"),
        (fastrnn.RNN(2, 3, seed=0), "num_layers"), (fastrnn.Embedding(5, 3, seed=0), "num_embeddings"),
        (fastrnn.Embedding(5, 3, seed=0), "embedding_dim"), (fastrnn.OneHot(4), "num"), (fastrnn.Repeat(3), "steps"),
        (fastrnn.Linear(2, 3, seed=0), "in_features"), (fastrnn.Jordan(2, 3, 1, seed=0), "output_size"),
        (fastrnn.Sequential(fastrnn.Tanh()), "layers"), (fastrnn.LSTM(2, 3, seed=0).workspace(4, 2), "steps"),
        (fastrnn.LSTM(2, 3, seed=0).workspace(4, 2), "batch"),
    ],
)  # fmt: skip
def test_layers_sizes_are_fixed(layer, name):
    """What kernels trust has been checked once."""
    before = getattr(layer, name)
    with pytest.raises(AttributeError, match=name):
        setattr(layer, name, 10**6)
    assert getattr(layer, name) is before
    assert getattr(copy.deepcopy(layer), name) is not None


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals")
def test_layers_may_be_called_by_a_signal_that_comes_while_weights_are_packed(monkeypatch):
    layer, x = fastrnn.LSTM(3, 4, seed=0), np.ones((2, 1, 3), np.float32)
    expected, answers = layer.forward(x)[0], []
    layer.load_state_dict(layer.state_dict())  # they have to be packed again
    real = passes.threads_for_elements

    def interrupted(*args):
        monkeypatch.setattr(passes, "threads_for_elements", real)
        signal.raise_signal(signal.SIGUSR1)
        return real(*args)

    before = signal.signal(signal.SIGUSR1, lambda *_: answers.append(layer.forward(x)[0]))
    hung = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        monkeypatch.setattr(passes, "threads_for_elements", interrupted)
        signal.alarm(20)
        answers.append(layer.forward(x)[0])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGALRM, hung)
    assert len(answers) == 2
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)
