"""`out=` of `forward` and `step`: the caller's own array for the output. And input that is read where it is."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from test_memory import peak

import fastrnn

T, B, F, H, CLASSES = 7, 3, 4, 5, 6
LENGTHS = np.array([7, 2, 5])

MAKE = {
    "rnn": lambda: fastrnn.RNN(F, H, seed=0),
    "lstm": lambda: fastrnn.LSTM(F, H, 3, seed=0),
    "lstm of tokens": lambda: fastrnn.LSTM(CLASSES, H, seed=0),
    "bidirectional": lambda: fastrnn.LSTM(F, H, bidirectional=True, batch_first=True, seed=0),
    "jordan": lambda: fastrnn.Jordan(F, H, 2, seed=0),
    "jordan batch first": lambda: fastrnn.Jordan(F, H, 2, batch_first=True, seed=0),
    "linear": lambda: fastrnn.Linear(F, H, seed=0),
    "tanh": fastrnn.Tanh,
    "relu": fastrnn.ReLU,
    "sigmoid": fastrnn.Sigmoid,
    "dropout": lambda: fastrnn.Dropout(0.5, seed=0),
    "activity": lambda: fastrnn.ActivityRegularization(1.0),
    "embedding": lambda: fastrnn.Embedding(CLASSES, F, seed=0),
    "one-hot": lambda: fastrnn.OneHot(CLASSES),
    "last": fastrnn.Last,
    "mean": fastrnn.MeanPool,
    "max": fastrnn.MaxPool,
    "repeat": lambda: fastrnn.Repeat(3),
    "sequential": lambda: fastrnn.Sequential(fastrnn.LSTM(F, H, seed=0), fastrnn.Tanh(), fastrnn.Linear(H, F, seed=1)),
    "pooled": lambda: fastrnn.Sequential(fastrnn.RNN(F, H, seed=0), fastrnn.Last(), batch_first=True),
    "residual": lambda: fastrnn.Residual(fastrnn.RNN(F, F, seed=0)),
    "concatenated": lambda: fastrnn.Concatenated(
        fastrnn.RNN(F, H, seed=0), fastrnn.Tanh(), include_input=True, batch_first=True
    ),
    "nested": lambda: fastrnn.Sequential(
        fastrnn.Tanh(), fastrnn.Residual(fastrnn.Concatenated(fastrnn.RNN(F, 2, seed=0), fastrnn.Linear(2, 2, seed=1)))
    ),
}
STEPWISE = [name for name in MAKE if name not in ("bidirectional", "mean", "max", "repeat")]
TOKENS = ("lstm of tokens", "embedding", "one-hot")
every_layer = pytest.mark.parametrize("name", MAKE)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def sample(name, steps=T):
    """Input for a layer, and what else `forward` may be given with it."""
    if name == "repeat":
        return normal(B, F), {}
    shape = (B, steps) if MAKE[name]().batch_first else (steps, B)
    if name in TOKENS:
        return np.random.default_rng(0).integers(0, CLASSES, shape), {"lengths": LENGTHS}
    return normal(*shape, F), {"lengths": LENGTHS}


def arrays_of(state):
    if isinstance(state, tuple):
        return [array for part in state for array in arrays_of(part)]
    return [] if state is None else [state]


def assert_same_state(state, expected):
    for ours, theirs in zip(arrays_of(state), arrays_of(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def in_a_file(array, path, mode):
    array.tofile(path)
    return np.memmap(path, array.dtype, mode, shape=array.shape)


def places(shape, path):
    """Arrays of this shape wherever a caller may have them, each with the memory around it."""
    whole = np.full(shape, 9, "float32")
    yield whole, whole
    longer = np.full((shape[0] + 3, *shape[1:]), 9, "float32")
    yield longer[1:-2], longer
    columns = np.full((*shape, 3), 9, "float32")
    yield columns[..., 1], columns
    fortran = np.full(shape, 9, "float32", order="F")
    yield fortran, fortran
    unaligned = np.full(whole.nbytes + 2, 9, np.uint8)
    yield unaligned[1:-1].view("float32").reshape(shape), unaligned
    file = in_a_file(whole, path, "r+")
    yield file, file


def assert_written(out, around, y, before):
    """`y` stands in `out`, and nothing else has changed."""
    np.testing.assert_array_equal(out, y)
    out[...] = before
    assert (around == around.flat[0]).all()


# ---- forward ----


@every_layer
def test_out_of_forward_is_what_is_returned(name, tmp_path):
    layer = MAKE[name]()
    x, options = sample(name)
    y, state = layer.forward(x, **options)
    y, before = y.copy(), x.copy()
    for i, (out, around) in enumerate(places(y.shape, tmp_path / "y")):
        filled = out.copy()
        written, new = layer(x, **options, out=out)
        assert written is out, i
        assert_same_state(new, state)
        assert not any(np.may_share_memory(out, part) for part in arrays_of(new))
        assert_written(out, around, y, filled)
    np.testing.assert_array_equal(x, before)


@every_layer
def test_out_with_a_workspace(name, tmp_path):
    layer, plain = MAKE[name](), MAKE[name]()
    x, options = sample(name)
    workspace, own = layer.workspace(T, B), plain.workspace(T, B)
    for out, around in places(layer.forward(x, **options)[0].shape, tmp_path / "y"):
        filled = out.copy()
        y, state = plain.forward(x, **options, workspace=own)
        written, new = layer.forward(x, **options, workspace=workspace, out=out)
        assert written is out
        assert_same_state(new, state)
        assert_written(out, around, y, filled)  # which also shows that `backward` does without it
        dy = normal(*y.shape, seed=1)
        dx, dstate = layer.backward(dy, workspace=workspace)
        expected, expected_dstate = plain.backward(dy, workspace=own)
        np.testing.assert_array_equal(dx, expected)
        assert_same_state(dstate, expected_dstate)
        np.testing.assert_array_equal(layer.gradients_to_vector(), plain.gradients_to_vector())


@pytest.mark.parametrize("kept", [False, True], ids=["inference", "workspace"])
@pytest.mark.parametrize("name", ["tanh", "dropout", "sequential", "residual", "nested"])
def test_out_may_be_the_input(name, kept):
    """As with NumPy's functions, the result is that of the input as it was; so are the gradients."""
    layer, plain = MAKE[name](), MAKE[name]()
    x, options = sample(name)
    memory = np.zeros(x.size + F, "float32")

    def run(layer, x, **out):
        workspace = layer.workspace(T, B) if kept else None
        y, state = layer.forward(x, **options, **out, workspace=workspace)
        y = y.copy()
        dx = layer.backward(normal(*x.shape, seed=1), workspace=workspace)[0] if kept else 0
        return y, state, dx, layer.gradients_to_vector()

    expected = run(plain, x)
    for shift in (0, B * F):  # the whole of it, and all but the first step
        layer.zero_grad()
        plain_x, out = memory[: x.size].reshape(x.shape), memory[: x.size].reshape(x.shape)
        if shift:
            steps, memory = T + 1, np.zeros((T + 1) * B * F, "float32")
            plain_x, out = (memory.reshape(steps, B, F)[part] for part in (slice(-1), slice(1, None)))
        plain_x[...] = x
        y, state, dx, gradients = run(layer, plain_x, out=out)
        if not (kept and name == "dropout"):  # which draws
            np.testing.assert_array_equal(y, expected[0])
            np.testing.assert_array_equal(dx, expected[2])
        assert_same_state(state, expected[1])
        np.testing.assert_array_equal(gradients, expected[3])


def test_out_may_be_the_state_before():
    """A single step's output is as large as a state."""
    layer = fastrnn.LSTM(F, H, seed=0)
    x, (h, c) = normal(1, B, F), (normal(1, B, H, seed=1), normal(1, B, H, seed=2))
    y, (new_h, new_c) = layer.forward(x, (h, c))
    for part in range(2):
        for workspace in (None, layer.workspace(1, B)):
            state = h.copy(), c.copy()
            written, new = layer.forward(x, state, workspace=workspace, out=state[part])
            assert written is state[part]
            np.testing.assert_array_equal(written, y)
            assert_same_state(new, (new_h, new_c))


def test_out_may_be_a_state_of_the_workspace():
    layer = fastrnn.LSTM(F, H, seed=0)
    x, workspace = normal(2, 1, B, F), layer.workspace(1, B)
    y, state = layer.forward(x[1], layer.forward(x[0])[1])
    for part in range(2):
        old = layer.forward(x[0], workspace=workspace)[1]
        written, new = layer.forward(x[1], old, workspace=workspace, out=old[part])
        np.testing.assert_array_equal(written, y)
        assert_same_state(new, state)


def test_out_over_tokens_and_lengths():
    """Numbers that kernels trust must stay while they are read."""
    tokens = np.random.default_rng(0).integers(0, CLASSES, (T, B))
    embedding = fastrnn.Embedding(CLASSES, 2, seed=0)
    expected = embedding.forward(tokens)[0]
    out = tokens.view("float32").reshape(T, B, 2)
    np.testing.assert_array_equal(embedding.forward(tokens, out=out)[0], expected)

    layer, x = fastrnn.RNN(F, 2, seed=0), normal(T, B, F)
    memory = np.zeros(T * B * 2, "float32")
    lengths = memory[: 2 * B].view(np.int64)
    lengths[:] = LENGTHS
    expected = layer.forward(x, lengths=LENGTHS)[0]
    np.testing.assert_array_equal(layer.forward(x, lengths=lengths, out=memory.reshape(T, B, 2))[0], expected)


def test_out_block_by_block_is_one_pass():
    """A long sequence in blocks of any size, with the state carried, into slices of one array: the same bits."""
    model, x = MAKE["sequential"](), normal(500, 1, F)
    expected, final = model.forward(x)
    for block in (1, 7, 64, 500):
        y, state = np.empty((500, 1, F), "float32"), None
        for t in range(0, 500, block):
            _, state = model.forward(x[t : t + block], state, out=y[t : t + block])
        np.testing.assert_array_equal(y, expected)
        assert_same_state(state, final)


class ArrayLike:
    def __array__(self, dtype=None, copy=None):
        return np.zeros((T, B, H), "float32")


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([[0.0]], TypeError, "out must be a NumPy array, got list"),
        (ArrayLike(), TypeError, "out must be a NumPy array"),
        (np.ma.zeros((T, B, H), "float32"), TypeError, "out must be a NumPy array, got MaskedArray"),
        (np.zeros((T, B, H)), TypeError, "out must have dtype float32, got float64"),
        (np.zeros((T, B, H), np.float16), TypeError, "out must have dtype float32, got float16"),
        (np.zeros((T, B, H), np.int32), TypeError, "out must have dtype float32, got int32"),
        (np.zeros((T, B, H), ">f4"), TypeError, "out must have dtype float32, got >f4"),
        (np.zeros((T, B, F), "float32"), ValueError, r"out must have shape \(7, 3, 5\), got \(7, 3, 4\)"),
        (np.zeros((B, T, H), "float32"), ValueError, "out must have shape"),
        (np.zeros((T + 1, B, H), "float32"), ValueError, "out must have shape"),
        (np.zeros((T, H), "float32"), ValueError, "out must have shape"),
        (np.broadcast_to(np.float32(0), (T, B, H)), ValueError, "out must be writable"),
        (as_strided(np.zeros(H, "float32"), (T, B, H), (0, 0, 4)), ValueError, "memory of its own for every element"),
        (as_strided(np.zeros(99, "float32"), (T, B, H), (20, 20, 4)), ValueError, "memory of its own"),
    ],
)
@pytest.mark.parametrize("kept", [False, True], ids=["inference", "workspace"])
def test_out_that_does_not_fit_is_refused(out, error, message, kept):
    layer, x = fastrnn.RNN(F, H, seed=0), normal(T, B, F)
    workspace = layer.workspace(T, B) if kept else None
    y = layer.forward(x, workspace=workspace)[0].copy()
    with pytest.raises(error, match=message):
        layer.forward(2 * x, workspace=workspace, out=out)
    if kept:
        layer.backward(y, workspace=workspace)  # the pass before is still there


@pytest.mark.parametrize("argument", ["x", "state", "lengths", "resets"])
def test_out_stays_when_something_else_is_refused(argument):
    layer, out = fastrnn.RNN(F, H, seed=0), np.full((T, B, H), 9, "float32")
    arguments = {"x": normal(T, B, F), argument: np.zeros((2, 2), bool)}
    with pytest.raises((TypeError, ValueError), match=argument):
        layer.forward(**arguments, out=out)
    assert (out == 9).all()


# ---- step ----


@pytest.mark.parametrize("single", [False, True], ids=["batch", "single stream"])
@pytest.mark.parametrize("name", STEPWISE)
def test_out_of_step_is_what_is_returned(name, single, tmp_path):
    layer = MAKE[name]()
    x, _ = sample(name)
    x_t = np.moveaxis(x, 1, 0)[0] if layer.batch_first else x[0]
    x_t = x_t[0] if single else x_t
    _, state = layer.step(x_t)
    y, expected = layer.step(x_t, state)
    for out, around in places(y.shape, tmp_path / "y"):
        filled = out.copy()
        written, new = layer.step(x_t, state, out=out)
        assert written is out
        assert_same_state(new, expected)
        assert_written(out, around, y, filled)
    if y.shape == x_t.shape and name not in TOKENS:
        x_t = x_t.copy()
        np.testing.assert_array_equal(layer.step(x_t, state, out=x_t)[0], y)
    reset, _ = layer.step(x_t, state, resets=np.ones(x_t.shape[: 0 if single else 1], bool))
    out = np.empty_like(y)
    assert layer.step(x_t, state, resets=np.ones(x_t.shape[: 0 if single else 1], bool), out=out)[0] is out
    np.testing.assert_array_equal(out, reset)


@pytest.mark.parametrize("name", ["rnn", "linear", "sequential"])
def test_out_of_step_that_does_not_fit_is_refused(name):
    layer, x_t = MAKE[name](), normal(B, F)
    shape = layer.step(x_t)[0].shape
    for out in ([0.0], np.zeros(shape), np.zeros(shape, int)):
        with pytest.raises(TypeError, match="out must"):
            layer.step(x_t, out=out)
    for out in (np.zeros((1, *shape), "float32"), np.broadcast_to(np.float32(0), shape)):
        with pytest.raises(ValueError, match="out must"):
            layer.step(x_t, out=out)


@pytest.mark.parametrize("name", ["mean", "max", "repeat"])
def test_out_of_what_has_no_step(name):
    with pytest.raises(ValueError, match="no single"):
        MAKE[name]().step(normal(B, F), out=np.zeros((B, F), "float32"))


# ---- memory ----


def test_out_takes_the_place_of_a_new_array(monkeypatch):
    monkeypatch.setattr("fastrnn.threads._count", 1)
    layer, x = fastrnn.RNN(2, 64, seed=0), normal(2000, 4, 2)
    out = np.empty((2000, 4, 64), "float32")
    assert peak(lambda: layer.forward(x)) > out.nbytes
    assert peak(lambda: layer.forward(x, out=out)) < out.nbytes / 8
    model = fastrnn.Sequential(fastrnn.RNN(2, 2, seed=0), fastrnn.Linear(2, 64, seed=1), fastrnn.Tanh())
    assert peak(lambda: model.forward(x, out=out)) < 1.3 * out.nbytes  # the linear layer's; without, two of them
    workspace = layer.workspace(2000, 4)
    assert peak(lambda: layer.forward(x, workspace=workspace, out=out)) < out.nbytes / 8


@pytest.mark.parametrize("name", ["rnn", "lstm of two layers", "jordan", "linear", "tanh", "sequential", "residual"])
def test_out_needs_no_room_of_its_own(name, monkeypatch):
    """An output on disk may be larger than the memory there is."""
    layer, other = [fastrnn.LSTM(F, H, 2, seed=0) if name == "lstm of two layers" else MAKE[name]() for _ in range(2)]
    x, asked = normal(T, B, F), []
    monkeypatch.setattr("fastrnn.checks.memory", lambda what, size: asked.append(size))
    y, _ = layer.forward(x)
    with_room = sum(asked)
    asked.clear()
    other.forward(x, out=np.empty_like(y))
    assert with_room - sum(asked) == y.nbytes
    asked.clear()
    layer.forward(x, out=np.asfortranarray(y))  # which is copied into
    assert max(asked) >= y.nbytes


LARGE = {  # layers with little output of much input
    "rnn": lambda: fastrnn.RNN(256, 2, seed=0),
    "jordan": lambda: fastrnn.Jordan(256, 2, 2, seed=0),
    "linear": lambda: fastrnn.Linear(256, 2, seed=0),
    "last": fastrnn.Last,
    "sequential": lambda: fastrnn.Sequential(fastrnn.RNN(256, 2, seed=0), fastrnn.Linear(2, 1, seed=0)),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("form", ["plain", "read-only", "file", "read-only file"])
def test_out_input_is_read_where_it_is(name, form, tmp_path, monkeypatch):
    monkeypatch.setattr("fastrnn.threads._count", 1)
    layer, plain = LARGE[name](), normal(2000, 4, 256)
    x = plain.copy()
    if "file" in form:
        x = in_a_file(plain, tmp_path / "x", "r" if "read-only" in form else "r+")
    elif form == "read-only":
        x.flags.writeable = False
    expected = layer.forward(plain)[0]
    assert peak(lambda: layer.forward(x), repeats=1) < x.nbytes / 8
    np.testing.assert_array_equal(layer.forward(x)[0], expected)
    np.testing.assert_array_equal(x, plain)
    # for comparison, what is documented to be copied
    assert peak(lambda: layer.forward(x[:, :, ::-1]), repeats=1) > x.nbytes
    assert peak(lambda: layer.forward(x.astype("float64")), repeats=1) > 3 * x.nbytes


@every_layer
def test_out_no_layer_writes_to_its_input(name, tmp_path):
    """Pages of a file that is mapped read-only can't be written: a kernel that tried would end the process."""
    layer = MAKE[name]()
    plain, options = sample(name)
    y, _ = layer.forward(plain, **options)
    x = in_a_file(plain, tmp_path / "x", "r")
    options = {argument: in_a_file(value, tmp_path / argument, "r") for argument, value in options.items()}
    np.testing.assert_array_equal(layer.forward(x, **options)[0], y)
    workspace = layer.workspace(T, B)
    layer.forward(x, **options, workspace=workspace)
    layer.backward(in_a_file(normal(*y.shape), tmp_path / "dy", "r"), workspace=workspace)
    if name in STEPWISE:
        layer.step(x[:, 0] if layer.batch_first else x[0])


def test_out_read_only_arrays_compile_nothing():
    """A layer that meets a read-only array first is not compiled for it, and takes others after it."""
    layer, x = fastrnn.RNN(F, H, seed=0), normal(T, B, F)
    fixed, h = x.copy(), np.zeros((1, B, H), "float32")
    fixed.flags.writeable = h.flags.writeable = False
    kernels = [layer.passes[0]._forward_passes[False, False]._kernel, fastrnn.kernels.elementwise.tanh_layer[0]]
    layer.forward(x), fastrnn.Tanh().forward(x)
    before = [len(kernel.signatures) for kernel in kernels]
    fresh = fastrnn.RNN(F, H, seed=0)
    np.testing.assert_array_equal(fresh.forward(fixed, h)[0], layer.forward(x)[0])
    np.testing.assert_array_equal(fastrnn.Tanh().forward(fixed)[0], fastrnn.Tanh().forward(x)[0])
    assert [len(kernel.signatures) for kernel in kernels] == before
