"""`layer.step` in its two forms, of arrays taken as they are and by the forward pass, and calls of typed kernels."""

import threading

import numpy as np
import pytest

import fastrnn
from fastrnn.dispatch import TypedKernel
from fastrnn.parameters import aligned_pieces

KINDS = ["rnn_tanh", "rnn_relu", "rnn_sigmoid", "gru", "lstm"]
DTYPES = ["float32", "float64"]


def make_layer(kind, *sizes, **options):
    if kind.startswith("rnn"):
        return fastrnn.RNN(*sizes, nonlinearity=kind[4:], **options)
    return {"gru": fastrnn.GRU, "lstm": fastrnn.LSTM}[kind](*sizes, **options)


def map_state(function, state):
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def draw(layer, batch, seed=0):
    """x_t (B,I) and a state; without B for `batch` None."""
    rng = np.random.default_rng(seed)
    lead = () if batch is None else (batch,)
    x = rng.standard_normal((*lead, layer.input_size)).astype(layer.dtype)
    shape = (layer.num_layers, *lead, layer.hidden_size)
    state = tuple(rng.standard_normal(shape).astype(layer.dtype) for _ in range(layer.cell.states))
    return x, state if len(state) > 1 else state[0]


def by_forward_pass(layer, x, state):
    """`layer.step`, made to go through the forward pass."""
    rows, layer._step_rows = layer._step_rows, 0
    try:
        return layer.step(x, state)
    finally:
        layer._step_rows = rows


def assert_same(ours, expected):
    (y, state), (expected_y, expected_state) = ours, expected
    for a, b in zip((y, *parts(state)), (expected_y, *parts(expected_state)), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch", [None, 1, 13])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_streaming_equals_the_forward_pass(kind, dtype, batch):
    for n, (inputs, hidden, layers) in enumerate([(1, 1, 1), (3, 17, 2), (1100, 64, 1), (7, 70, 3)]):
        layer = make_layer(kind, inputs, hidden, layers, bias=n != 2, batch_first=n == 1, dtype=dtype, seed=n)
        assert layer._step_rows >= 13
        x, state = draw(layer, batch, n)
        assert_same(layer.step(x, state), by_forward_pass(layer, x, state))
        assert_same(layer.step(x), by_forward_pass(layer, x, None))


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_streaming_of_arrays_that_need_conversion(kind, batch):
    layer = make_layer(kind, 6, 9, 2, seed=1)
    x, state = draw(layer, batch)
    expected = layer.step(x, state)

    def spread(array):
        return np.repeat(array, 2, -1)[..., ::2]

    def read_only(array):
        copy = array.copy()
        copy.flags.writeable = False
        return copy

    forms = (spread, read_only, lambda a: a.astype(np.float64), lambda a: a.astype(">f4"), np.asfortranarray)
    for form in (*forms, lambda a: a.tolist() if a is not x else a, lambda a: a.view(np.recarray)):
        if form(x) is not x:
            assert_same(layer.step(form(x) if isinstance(form(x), np.ndarray) else x, state), expected)
        if isinstance(form(parts(state)[0]), np.ndarray):
            assert_same(layer.step(x, map_state(form, state)), expected)
    if kind == "lstm":
        assert_same(layer.step(x, list(state)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_results_are_fresh(kind):
    layer = make_layer(kind, 4, 8, 2, seed=1)
    for batch in (None, 2):
        x, state = draw(layer, batch)
        kept = x.copy(), map_state(np.copy, state)
        first = layer.step(x, state)
        copies = first[0].copy(), map_state(np.copy, first[1])
        arrays = [first[0], *parts(first[1])]
        for i, a in enumerate(arrays):
            assert a.flags.carray
            assert not any(np.shares_memory(a, b) for b in (*arrays[:i], x, *parts(state)))
        second = layer.step(x, first[1])
        assert_same(first, copies)
        assert not any(np.shares_memory(a, b) for a in arrays for b in (second[0], *parts(second[1])))
        assert_same((x, state), kept)


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_lets_nan_through_and_treats_denormals_as_forward(kind):
    layer = make_layer(kind, 3, 20, seed=1)
    for value in (np.nan, np.inf, 1e-39, 1e-42):
        x, state = draw(layer, 2)
        x[0] = value
        for part in parts(state):
            part *= np.float32(min(value, 1))
        assert_same(layer.step(x, state), by_forward_pass(layer, x, state))
    layer.vector_to_parameters(layer.parameters_to_vector() * np.float32(1e-20))
    x, state = draw(layer, 2)
    x *= np.float32(1e-20)
    assert_same(layer.step(x, state), by_forward_pass(layer, x, state))


def test_streaming_weights_are_never_stale():
    layer, model_layer = fastrnn.LSTM(3, 5, 2, seed=1), fastrnn.LSTM(3, 5, 2, seed=1)
    x, state = draw(layer, None)
    before = layer.step(x, state)
    model = fastrnn.Sequential(model_layer)
    assert_same(model_layer.step(x, state), before)
    for change in (
        lambda m: m.vector_to_parameters(m.parameters_to_vector() * 2),
        lambda m: fastrnn.SGD(0.1).step(m),
        lambda m: m.load_state_dict({name: 3 * value for name, value in m.state_dict().items()}),
    ):
        for owner, part in ((layer, layer), (model, model_layer)):
            owner.zero_grad()
            owner.parameters.gradients[:] = 1
            change(owner)
            assert_same(part.step(x, state), by_forward_pass(part, x, state))
        assert_same(layer.step(x, state), model_layer.step(x, state))
    assert not np.array_equal(layer.step(x, state)[0], before[0])


def test_streaming_refuses_what_does_not_fit():
    layer = fastrnn.LSTM(3, 5, seed=1)
    x, (h, c) = draw(layer, 2)
    for wrong in (x[None], x[:, :2], x[0, 0], np.zeros((0, 3), "f4"), np.zeros((2, 0), "f4")):
        with pytest.raises(ValueError, match="x_t"):
            layer.step(wrong)
    for wrong in (x.astype(int), x.astype(complex), x > 0, x.astype(object), np.ma.array(x)):
        with pytest.raises(TypeError, match="x_t"):
            layer.step(wrong)
    for wrong in ((h[:, :1], c), (h, c[0]), (h[..., :4], c), (np.concatenate([h, h]), c)):
        with pytest.raises(ValueError, match="state"):
            layer.step(x, wrong)
    for wrong in (h, (h,), (h, c, c), (h.astype(int), c), (h, np.ma.array(c))):
        with pytest.raises(TypeError, match="state"):
            layer.step(x, wrong)
    with pytest.raises(ValueError, match="state"):
        layer.step(x[0], (h, c))
    with pytest.raises(ValueError, match="state"):
        layer.step(x, (h[:, 0], c[:, 0]))
    with pytest.raises(ValueError, match="unidirectional"):
        fastrnn.GRU(3, 5, bidirectional=True).step(x)


def test_streaming_of_large_layers_goes_through_the_forward_pass():
    layer = fastrnn.LSTM(8, 1024, seed=1)
    assert layer._step_rows == 0
    x, state = draw(layer, None)
    y, _ = layer.forward(x[None, None], map_state(lambda s: s[:, None], state))
    np.testing.assert_array_equal(layer.step(x, state)[0], y[0, 0])


def test_streaming_by_several_threads():
    layer = fastrnn.GRU(2, 12, 2, seed=1)
    inputs = np.random.default_rng(1).standard_normal((4, 200, 2)).astype("f4")
    expected = [layer.forward(x[:, None])[0][:, 0] for x in inputs]
    layer.vector_to_parameters(layer.parameters_to_vector())  # packed anew by whichever thread is first
    results = [np.empty((200, 12), "f4") for _ in inputs]

    def stream(x, y):
        state = None
        for t in range(200):
            y[t], state = layer.step(x[t], state)

    threads = [threading.Thread(target=stream, args=pair) for pair in zip(inputs, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(results, expected)


def test_typed_kernel_follows_the_types_of_its_own_first_call():
    layers = [fastrnn.LSTM(2, 3, dtype=dtype, seed=1) for dtype in DTYPES for _ in range(2)]
    for _ in range(2):
        for layer in layers:
            x, state = draw(layer, 2)
            y, new = layer.step(x, state)
            assert y.dtype == new[0].dtype == layer.dtype
    plain = TypedKernel(lambda a, b: a + b)  # what a kernel is under NUMBA_DISABLE_JIT
    assert plain(1, 2) == 3 and plain("a", "b") == "ab"


def test_aligned_pieces_are_apart():
    for dtype in DTYPES:
        pieces = aligned_pieces([3, 0, 16, 1], dtype)
        assert [p.size for p in pieces] == [3, 0, 16, 1]
        assert all(p.ctypes.data % 64 == 0 for p in pieces if p.size)
        for i, piece in enumerate(pieces):
            piece[:] = i
        assert all((p == i).all() for i, p in enumerate(pieces))


def test_workspace_of_changing_sizes_and_states():
    layer = fastrnn.LSTM(3, 5, 2, bidirectional=True, seed=1)
    workspace = layer.workspace(6, 4)
    rng = np.random.default_rng(1)
    for steps, batch in ((6, 4), (2, 3), (6, 4), (1, 1), (1, 4)):
        x = rng.standard_normal((steps, batch, 3)).astype("f4")
        state = expected_state = None
        for _ in range(3):  # the state that came out goes in again
            y, state = layer.forward(x, state, workspace=workspace)
            expected_y, expected_state = layer.forward(x, expected_state)
            assert_same((y, state), (expected_y, expected_state))
        dy = np.ones_like(y)
        layer.zero_grad()
        dx, dstate = layer.backward(dy, workspace=workspace)
        ours = dx.copy(), map_state(np.copy, dstate)
        gradients = layer.gradients_to_vector()
        fresh = layer.workspace(steps, batch)
        start = None
        for _ in range(3):
            _, start = layer.forward(x, start, workspace=fresh)
        layer.zero_grad()
        assert_same(ours, layer.backward(dy, workspace=fresh))
        np.testing.assert_array_equal(gradients, layer.gradients_to_vector())


def test_workspace_made_before_the_layer_joined_a_model():
    layer = fastrnn.GRU(3, 5, seed=1)
    workspace = layer.workspace(4, 2)
    x = np.random.default_rng(1).standard_normal((4, 2, 3)).astype("f4")
    y, _ = layer.forward(x, workspace=workspace)
    layer.backward(np.ones_like(y), workspace=workspace)
    once = layer.gradients_to_vector()
    model = fastrnn.Sequential(layer)
    layer.forward(x, workspace=workspace)
    layer.backward(np.ones_like(y), workspace=workspace)
    np.testing.assert_array_equal(model.gradients_to_vector(), 2 * once)


def test_workspace_results_changed_in_shape_leave_it_whole():
    layer = fastrnn.GRU(3, 4, seed=1)
    workspace = layer.workspace(4, 2)
    x = np.random.default_rng(1).standard_normal((4, 2, 3)).astype("f4")
    expected = layer.forward(x)
    for _ in range(2):
        y, state = layer.forward(x, workspace=workspace)
        assert_same((y, state), expected)
        dx, dstate = layer.backward(np.ones_like(y), workspace=workspace)
        assert dx.shape == x.shape and dstate.shape == state.shape
        for array in (y, state, dx, dstate):
            array.shape = (-1,)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_streaming_through_a_linear_layer_equals_forward(dtype, bias):
    for inputs, outputs in ((1, 1), (5, 63), (70, 130), (1100, 3)):
        layer = fastrnn.Linear(inputs, outputs, bias=bias, dtype=dtype, seed=1)
        x = np.random.default_rng(1).standard_normal((15, inputs)).astype(dtype)
        expected, _ = layer.forward(x)
        for batch in (1, 6, 15):
            y, state = layer.step(x[:batch])
            assert state is None and y.flags.carray
            np.testing.assert_array_equal(y, expected[:batch])
        np.testing.assert_array_equal(layer.step(x[3])[0], expected[3])
