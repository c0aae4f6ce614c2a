"""What a bad call gets: an error that names the argument, and nothing changed. See also test_model and test_threads."""

import numpy as np
import pytest

import fastrnn

T, B, F, H = 4, 3, 5, 6
HUGE = 10**12
ERRORS = (TypeError, ValueError)


def x(shape=(T, B, F), dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def tokens(shape=(T, B), dtype="int64"):
    return np.random.default_rng(0).integers(0, F, shape).astype(dtype)


LAYERS = {
    "rnn": lambda: fastrnn.RNN(F, H, seed=0),
    "gru": lambda: fastrnn.GRU(F, H, seed=0),
    "lstm": lambda: fastrnn.LSTM(F, H, 2, bidirectional=True, dropout=0.5, seed=0),
    "jordan": lambda: fastrnn.Jordan(F, H, 2, seed=0),
    "linear": lambda: fastrnn.Linear(F, H, seed=0),
    "embedding": lambda: fastrnn.Embedding(F, H, seed=0),
    "onehot": lambda: fastrnn.OneHot(F),
    "tanh": lambda: fastrnn.Tanh(),
    "relu": lambda: fastrnn.ReLU(),
    "sigmoid": lambda: fastrnn.Sigmoid(),
    "dropout": lambda: fastrnn.Dropout(0.5, seed=0),
    "last": lambda: fastrnn.Last(),
    "last of both": lambda: fastrnn.Sequential(
        fastrnn.LSTM(F, H, bidirectional=True, seed=0), fastrnn.Last(bidirectional=True)
    ),
    "mean": lambda: fastrnn.MeanPool(),
    "max": lambda: fastrnn.MaxPool(),
    "model": lambda: fastrnn.Sequential(
        fastrnn.Tanh(), fastrnn.LSTM(F, H, seed=0), fastrnn.Dropout(0.5, seed=1), fastrnn.Linear(H, 2, seed=2)
    ),
    "token model": lambda: fastrnn.Sequential(fastrnn.Embedding(F, H, seed=0), fastrnn.GRU(H, H, seed=1)),
    "residual": lambda: fastrnn.Residual(fastrnn.GRU(F, F, seed=0)),
    "skips": lambda: fastrnn.Concatenated(fastrnn.LSTM(F, H, seed=0), fastrnn.Linear(H, 2), include_input=True),
    "penalty": lambda: fastrnn.ActivityRegularization(0.1, 0.1),
    "autoencoder": lambda: fastrnn.Sequential(
        fastrnn.GRU(F, H, seed=0), fastrnn.Last(), fastrnn.Repeat(2), fastrnn.GRU(H, F, seed=1)
    ),
    "pooled model": lambda: fastrnn.Sequential(fastrnn.GRU(F, H, seed=0), fastrnn.MeanPool(), fastrnn.Linear(H, 2)),
}
TOKEN_LAYERS = ("embedding", "onehot", "token model")
FLOAT_LAYERS = [name for name in LAYERS if name not in TOKEN_LAYERS]
every_layer = pytest.mark.parametrize("kind", LAYERS)
float_layer = pytest.mark.parametrize("kind", FLOAT_LAYERS)
token_layer = pytest.mark.parametrize("kind", TOKEN_LAYERS)
LSTM_STATE = (4, B, H)


def good_input(kind):
    return tokens() if kind in TOKEN_LAYERS else x()


class Recorded:
    """A layer with a forward pass recorded, and the proof that a refused call changes nothing of it."""

    def __init__(self, kind):
        self.layer = LAYERS[kind]()
        self.workspace = self.layer.workspace(T, B)
        self.input = good_input(kind)
        rng = np.random.default_rng(1)
        gradients = rng.standard_normal(self.layer.num_parameters).astype("f")
        self.layer.parameters.gradients[:] = gradients
        self.generators = [g.bit_generator.state for g in self.layer._generators()]
        y, self.state = self.layer.forward(self.input, workspace=self.workspace)
        self.dy = rng.standard_normal(y.shape).astype("f")
        self.before = self.snapshot()
        dx, _ = self.layer.backward(self.dy, workspace=self.workspace)
        self.expected = None if dx is None else dx.copy(), self.layer.gradients_to_vector()
        self.layer.parameters.gradients[:] = gradients
        for generator, state in zip(self.layer._generators(), self.generators, strict=True):
            generator.bit_generator.state = state  # the same dropout again
        self.y = self.layer.forward(self.input, workspace=self.workspace)[0]
        self.y_before = self.y.copy()

    def snapshot(self):
        layer = self.layer
        return (
            layer.parameters_to_vector().tobytes(), layer.gradients_to_vector().tobytes(), layer.parameters.version,
            [g.bit_generator.state for g in layer._generators()],
        )  # fmt: skip

    def refuses(self, call, *arguments, errors=ERRORS, match=None, **named):
        with pytest.raises(errors, match=match) as caught:
            call(*arguments, **named)
        assert str(caught.value)
        assert self.snapshot() == self.before
        np.testing.assert_array_equal(self.y, self.y_before)

    def still_works(self):
        """The recorded pass is there, and gives what it would have given."""
        dx, _ = self.layer.backward(self.dy, workspace=self.workspace)
        if dx is not None:
            np.testing.assert_array_equal(dx, self.expected[0])
        np.testing.assert_array_equal(self.layer.gradients_to_vector(), self.expected[1])


# ---- input ----

BAD_FLOATS = {
    "integers": (np.ones((T, B, F), int), TypeError),
    "bools": (np.ones((T, B, F), bool), TypeError),
    "complex": (np.ones((T, B, F), complex), TypeError),
    "objects": (np.ones((T, B, F), object), TypeError),
    "strings": (np.full((T, B, F), "1.0"), TypeError),
    "dates": (np.zeros((T, B, F), "M8[s]"), TypeError),
    "records": (np.zeros((T, B, F), [("a", "f4")]), TypeError),
    "none": (None, ERRORS),
    "number": (1.5, ERRORS),
    "text": ("text", ERRORS),
    "one dimension": (x((F,)), ValueError),
    "four dimensions": (x((1, T, B, F)), ValueError),
    "no steps": (x((0, B, F)), ValueError),
    "no sequences": (x((T, 0, F)), ValueError),
    "no features": (x((T, B, 0)), ValueError),
}
BAD_TOKENS = {
    "floats": (np.ones((T, B)), TypeError),
    "bools": (np.ones((T, B), bool), TypeError),
    "objects": (np.ones((T, B), object), TypeError),
    "text": ("ab", TypeError),
    "none": (None, ERRORS),
    "negative": (np.full((T, B), -1), ValueError),
    "one too many": (np.full((T, B), F), ValueError),
    "smallest": (np.full((T, B), np.iinfo(np.int64).min), ValueError),
    "huge": (np.full((T, B), 2**64 - 1, np.uint64), ValueError),
    "wraps to valid": (np.full((T, B), 2**64 - F + 1, np.uint64), ValueError),
    "one dimension": (tokens((T,)), ValueError),
    "three dimensions": (tokens((T, B, 1)), ValueError),
    "no steps": (tokens((0, B)), ValueError),
    "no sequences": (tokens((T, 0)), ValueError),
}


@float_layer
@pytest.mark.parametrize("workspace", [False, True], ids=["inference", "workspace"])
def test_contract_bad_float_input(kind, workspace):
    case = Recorded(kind)
    named = {"workspace": case.workspace} if workspace else {}
    for value, error in BAD_FLOATS.values():
        case.refuses(case.layer.forward, value, errors=error, **named)
        case.refuses(case.layer, value, errors=error, **named)
    case.still_works()


@token_layer
@pytest.mark.parametrize("workspace", [False, True], ids=["inference", "workspace"])
def test_contract_bad_tokens(kind, workspace):
    case = Recorded(kind)
    named = {"workspace": case.workspace} if workspace else {}
    for value, error in BAD_TOKENS.values():
        case.refuses(case.layer.forward, value, errors=error, **named)
    one_bad = tokens()
    one_bad[-1, -1] = F
    case.refuses(case.layer.forward, one_bad, errors=ValueError, **named)
    case.refuses(case.layer.forward, one_bad, lengths=np.array([1, 1, T]), errors=ValueError, **named)
    case.still_works()


@pytest.mark.parametrize(
    "kind", ["rnn", "gru", "lstm", "jordan", "linear", "model", "pooled model", "residual", "skips"]
)
@pytest.mark.parametrize("features", [1, F - 1, F + 1, 7, 200])
def test_contract_wrong_number_of_features(kind, features):
    case = Recorded(kind)
    case.refuses(case.layer.forward, x((T, B, features)), errors=ValueError, match="x")
    case.refuses(case.layer.forward, x((T, B, features)), workspace=case.workspace, errors=ValueError, match="x")
    case.still_works()


@pytest.mark.parametrize(
    "kind",
    ["rnn", "gru", "lstm", "jordan", "last", "mean", "model", "pooled model", "residual", "skips", "autoencoder"],
)
def test_contract_unbatched_input(kind):
    case = Recorded(kind)
    case.refuses(case.layer.forward, x((T, F)), errors=ValueError, match="x")
    case.refuses(case.layer.forward, x((T, F)), workspace=case.workspace, errors=ValueError, match="x")
    case.still_works()


def test_contract_errors_name_the_argument_and_both_sides():
    layer = fastrnn.LSTM(F, H)
    with pytest.raises(ValueError, match=r"x .*\(any, any, 5\).*\(4, 3, 7\)"):
        layer.forward(x((T, B, 7)))
    with pytest.raises(TypeError, match=r"x .*float.*int64"):
        layer.forward(np.ones((T, B, F), int))
    with pytest.raises(ValueError, match=r"lengths .*4.*9"):
        layer.forward(x(), lengths=np.array([1, 9, 2]))
    with pytest.raises(ValueError, match=r"hidden_size .*1.*0"):
        fastrnn.LSTM(F, 0)


@token_layer
def test_contract_padding_tokens_are_not_read(kind):
    layer = LAYERS[kind]()
    lengths = np.array([1, T, 2])
    for junk, dtype in ((-1, "int64"), (F, "int64"), (2**64 - 1, "uint64"), (255, "uint8")):
        padded = tokens(dtype=dtype)
        clean = padded.copy()
        for b, n in enumerate(lengths):
            padded[n:, b], clean[n:, b] = junk, 0
        expected = layer.forward(clean, lengths=lengths)[0]
        np.testing.assert_array_equal(layer.forward(padded, lengths=lengths)[0], expected)
        workspace = layer.workspace(T, B)
        y, _ = layer.forward(padded, lengths=lengths, workspace=workspace)
        np.testing.assert_array_equal(y, expected)
        layer.backward(np.ones(y.shape, "f"), workspace=workspace)


# ---- lengths ----

BAD_LENGTHS = {
    "zero": ([1, 0, 2], ValueError),
    "negative": ([1, -1, 2], ValueError),
    "too long": ([1, T + 1, 2], ValueError),
    "huge": (np.array([1, 2**63, 2], np.uint64), ValueError),
    "huge python": ([1, 2**80, 2], ERRORS),
    "smallest": ([1, -(2**63), 2], ValueError),
    "floats": ([1.0, 2.0, 3.0], TypeError),
    "nan": ([1.0, np.nan, 3.0], TypeError),
    "bools": ([True, True, True], TypeError),
    "complex": ([1 + 0j, 2, 3], TypeError),
    "objects": (np.array([1, 2, 3], object), TypeError),
    "text": (["1", "2", "3"], TypeError),
    "too few": ([1, 2], ValueError),
    "too many": ([1, 2, 3, 4], ValueError),
    "two dimensions": ([[1, 2, 3]], ValueError),
    "none at all": (np.array([], int), ValueError),
    "number": (3, ValueError),
}


@every_layer
@pytest.mark.parametrize("workspace", [False, True], ids=["inference", "workspace"])
def test_contract_bad_lengths(kind, workspace):
    case = Recorded(kind)
    named = {"workspace": case.workspace} if workspace else {}
    for lengths, error in BAD_LENGTHS.values():
        case.refuses(case.layer.forward, case.input, lengths=lengths, errors=error, match="lengths", **named)
    case.still_works()


# ---- state ----

GOOD_H = np.zeros(LSTM_STATE, "f")
BAD_PAIRS = {
    "array": GOOD_H,
    "array of both": np.zeros((2, *LSTM_STATE), "f"),
    "h alone": (GOOD_H,),
    "three": (GOOD_H, GOOD_H, GOOD_H),
    "empty": (),
    "one none": (GOOD_H, None),
    "batch": (GOOD_H, np.zeros((4, B + 1, H), "f")),
    "batch of one": (np.zeros((4, 1, H), "f"), GOOD_H),
    "layers": (np.zeros((2, B, H), "f"), GOOD_H),
    "units": (GOOD_H, np.zeros((4, B, H + 1), "f")),
    "two dimensions": (GOOD_H[:, 0], GOOD_H[:, 0]),
    "integers": (GOOD_H.astype(int), GOOD_H),
    "complex": (GOOD_H, GOOD_H.astype(complex)),
    "objects": (GOOD_H.astype(object), GOOD_H),
    "number": 5.0,
    "text": "hc",
    "dict": {"h": GOOD_H, "c": GOOD_H},
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_contract_bad_state_of_an_lstm(name):
    case = Recorded("lstm")
    state = BAD_PAIRS[name]
    case.refuses(case.layer.forward, x(), state, match="state")
    case.refuses(case.layer.forward, x(), state, workspace=case.workspace, match="state")
    case.refuses(case.layer.backward, case.dy, state, workspace=case.workspace, match="state")
    case.still_works()


@pytest.mark.parametrize("state", [
    np.zeros((1, B + 1, H), "f"), np.zeros((2, B, H), "f"), np.zeros((1, B, H + 1), "f"), np.zeros((B, H), "f"),
    np.zeros((1, B, H), int), np.zeros((1, B, H), bool), np.zeros((1, B, H), object), np.zeros((1, 0, H), "f"),
    5.0, "h", (), (np.zeros((1, B, H), "f"), np.zeros((1, B, H), "f")), {},
], ids=repr)  # fmt: skip
def test_contract_bad_state_of_a_gru(state):
    case = Recorded("gru")
    case.refuses(case.layer.forward, x(), state, match="state")
    case.refuses(case.layer.forward, x(), state, workspace=case.workspace, match="state")
    case.refuses(case.layer.backward, case.dy, state, workspace=case.workspace, match="state")
    case.refuses(case.layer.step, x((B, F)), state, match="state")
    case.still_works()


@pytest.mark.parametrize("kind", ["linear", "embedding", "onehot", "tanh", "dropout", "last", "mean"])
def test_contract_state_of_a_layer_without(kind):
    case = Recorded(kind)
    case.refuses(case.layer.forward, case.input, np.zeros((1, B, H), "f"), workspace=case.workspace, match="state")
    case.refuses(case.layer.backward, case.dy, np.zeros((1, B, H), "f"), workspace=case.workspace, match="state")
    case.still_works()


# ---- workspaces and the order of calls ----


@every_layer
def test_contract_bad_workspaces(kind):
    case = Recorded(kind)
    layer = case.layer
    for wrong in (LAYERS[kind]().workspace(T, B), layer.workspace(T - 1, B), layer.workspace(T, B - 1)):
        case.refuses(layer.forward, case.input, workspace=wrong, errors=ValueError, match="workspace")
    for wrong in (object(), 5, np.zeros(1000), layer, {}):
        case.refuses(layer.forward, case.input, workspace=wrong, errors=TypeError, match="workspace")
        case.refuses(layer.backward, case.dy, workspace=wrong, errors=TypeError, match="workspace")
    case.refuses(layer.backward, case.dy, workspace=None)
    case.refuses(layer.backward, case.dy)  # workspace is missing
    case.still_works()


@every_layer
def test_contract_backward_needs_a_forward_pass(kind):
    case = Recorded(kind)
    layer = case.layer
    never = layer.workspace(T, B)
    case.refuses(layer.backward, case.dy, workspace=never, errors=ValueError, match="forward")
    layer.forward(case.input)  # inference records nothing
    case.refuses(layer.backward, case.dy, workspace=never, errors=ValueError, match="forward")
    other = LAYERS[kind]()
    theirs = other.workspace(T, B)
    other.forward(case.input, workspace=theirs)
    case.refuses(layer.backward, case.dy, workspace=theirs, errors=ValueError, match="workspace")
    case.still_works()
    gradients = layer.gradients_to_vector()
    with pytest.raises(ValueError, match="forward"):
        layer.backward(case.dy, workspace=case.workspace)  # a second time
    np.testing.assert_array_equal(layer.gradients_to_vector(), gradients)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "jordan", "linear", "embedding", "model", "token model"])
@pytest.mark.parametrize("change", ["load", "vector", "optimizer"])
def test_contract_backward_after_a_change_of_parameters(kind, change):
    case = Recorded(kind)
    layer = case.layer
    if change == "load":
        layer.load_state_dict(layer.state_dict())
    elif change == "vector":
        layer.vector_to_parameters(layer.parameters_to_vector())
    else:
        fastrnn.SGD(0.1).step(layer)
    case.before = case.snapshot()
    case.refuses(layer.backward, case.dy, workspace=case.workspace, errors=ValueError, match="parameters")


def test_contract_backward_after_joining_a_model():
    """The model may be batch first: what was recorded is laid out otherwise."""
    for kind in ("gru", "linear", "tanh", "embedding"):
        layer = LAYERS[kind]()
        workspace = layer.workspace(20, 2)
        y, _ = layer.forward(tokens((20, 2)) if kind == "embedding" else x((20, 2, F)), workspace=workspace)
        fastrnn.Sequential(layer, batch_first=True)
        with pytest.raises(ValueError):
            layer.backward(np.ones(y.shape, "f"), workspace=workspace)


@every_layer
def test_contract_bad_dy(kind):
    case = Recorded(kind)
    dy = case.dy
    for wrong in (dy[:-1], dy[..., :-1], np.repeat(dy, 2, axis=-1), dy[None], dy.ravel(), dy.swapaxes(0, 1), 1.0, None,
                  dy[:, :1], dy[..., :1], dy.astype(int), dy.astype(complex), dy.astype(object), dy > 0, "dy"):
        if np.shape(wrong) == dy.shape and getattr(wrong, "dtype", None) == dy.dtype:
            continue
        case.refuses(case.layer.backward, wrong, workspace=case.workspace, match="dy")
    case.still_works()


@every_layer
def test_contract_bad_workspace_sizes(kind):
    layer = LAYERS[kind]()
    for sizes in ((0, B), (T, 0), (-1, B), (T, -5)):
        with pytest.raises(ValueError):
            layer.workspace(*sizes)
    for sizes in ((T + 0.0, B), (T, "3"), (None, B), (T, True), (np.float32(2), B), ([T], B)):
        with pytest.raises(TypeError):
            layer.workspace(*sizes)
    for sizes in ((HUGE, HUGE), (2**62, 1), (1, 2**62), (2**63, 2**63), (2**32, 2**32), (10**30, 1)):
        with pytest.raises((MemoryError, ValueError)):
            layer.workspace(*sizes)
    layer.workspace(np.int8(T), np.uint64(B)).steps.bit_length()  # any integer will do


# ---- step ----


@pytest.mark.parametrize("kind", ["rnn", "gru", "linear", "tanh", "dropout", "last", "model"])
def test_contract_step_of_bad_floats(kind):
    case = Recorded(kind)
    step = case.layer.step
    for wrong in (x((T, B, F)), x((0, F)), x((B, 0)), x((0,)), np.float32(1), np.ones((B, F), int),
                  np.ones(F, complex), np.ones((B, F), object), np.ones((B, F), bool), None, "text", 1.5):
        case.refuses(step, wrong)
    case.refuses(step, np.full(B, F) if kind in ("rnn", "gru") else np.ones(F, int))  # a token is below F
    if kind not in ("tanh", "dropout", "last"):
        for width in (1, F - 1, F + 1, 200):
            case.refuses(step, x((B, width)), errors=ValueError)
            case.refuses(step, x((width,)), errors=ValueError)
    case.still_works()


@token_layer
def test_contract_step_of_bad_tokens(kind):
    case = Recorded(kind)
    for wrong in (tokens((T, B)), tokens((0,)), -1, F, 2**64 - 1, 2**80, np.uint64(2**64 - 1), 1.0, True, None, "1",
                  np.array([0, F]), np.array([-1, 0, 0]), np.array([0.0, 1.0]), np.array([True, False])):
        case.refuses(case.layer.step, wrong)
    case.still_works()


def test_contract_step_state_of_a_single_stream():
    case = Recorded("gru")
    good = np.zeros((1, H), "f")
    case.layer.step(x((F,)), good)
    for wrong in (5.0, np.zeros((1, 1, H), "f"), np.zeros((H,), "f"), np.zeros((2, H), "f"), np.zeros((1, H + 1), "f"),
                  np.zeros((1, H), int), "h", (), (good, good), {}):
        case.refuses(case.layer.step, x((F,)), wrong, match="state")
    layer = fastrnn.LSTM(F, H)
    layer.step(x((F,)), (good, good))
    for wrong in (5.0, good, (good,), (good, None), (good, good, good), (good, 5.0), (5.0, 5.0), "hc", (), {},
                  (good, np.zeros((1, H + 1), "f")), (good[:, None], good[:, None]), (good.astype(int), good)):
        with pytest.raises(ERRORS):
            layer.step(x((F,)), wrong)
    case.still_works()


def test_contract_step_of_a_bidirectional_layer():
    case = Recorded("lstm")
    case.refuses(case.layer.step, x((B, F)), errors=ValueError, match="unidirectional")
    model = fastrnn.Sequential(fastrnn.GRU(F, H, bidirectional=True))
    with pytest.raises(ValueError):
        model.step(x((B, F)))
    with pytest.raises(ValueError):
        fastrnn.MeanPool().step(x((B, F)))
    with pytest.raises(ValueError, match="MaxPool"):
        fastrnn.MaxPool().step(x((B, F)))
    with pytest.raises(ValueError):
        case.layer.kernel_weights()


# ---- state dicts and vectors ----


def without(state, name):
    return {n: a for n, a in state.items() if n != name}


BAD_STATE_DICTS = {
    "missing": lambda s, n: without(s, n),
    "empty": lambda s, n: {},
    "unknown": lambda s, n: {**s, "more": s[n]},
    "renamed": lambda s, n: {**without(s, n), n + "_": s[n]},
    "not a string": lambda s, n: {**s, 5: s[n]},
    "shape": lambda s, n: {**s, n: s[n][:-1]},
    "dimension": lambda s, n: {**s, n: s[n][None]},
    "scalar": lambda s, n: {**s, n: 1.0},
    "integers": lambda s, n: {**s, n: np.ones(s[n].shape, int)},
    "complex": lambda s, n: {**s, n: s[n].astype(complex)},
    "objects": lambda s, n: {**s, n: s[n].astype(object)},
    "bools": lambda s, n: {**s, n: s[n] > 0},
    "none": lambda s, n: {**s, n: None},
    "list of pairs": lambda s, n: list(s.items()),
    "no mapping": lambda s, n: None,
    "array": lambda s, n: s[n],
}


@pytest.mark.parametrize("wrong", BAD_STATE_DICTS)
@pytest.mark.parametrize("kind", ["lstm", "linear", "model"])
def test_contract_bad_state_dict_changes_nothing(kind, wrong):
    case = Recorded(kind)
    others = {name: array + 1 for name, array in case.layer.state_dict().items()}
    last = list(others)[-1]  # the others fit, and must not be taken before it is looked at
    case.refuses(case.layer.load_state_dict, BAD_STATE_DICTS[wrong](others, last))
    case.still_works()


def test_contract_state_dict_of_a_transposed_weight():
    layer = fastrnn.Linear(F, H)
    with pytest.raises(ValueError, match=r"weight .*\(6, 5\).*\(5, 6\)"):
        layer.load_state_dict({"weight": layer.state_dict()["weight"].T, "bias": layer.state_dict()["bias"]})


@pytest.mark.parametrize("kind", ["gru", "linear", "model"])
def test_contract_bad_vector_changes_nothing(kind):
    case = Recorded(kind)
    n = case.layer.num_parameters
    for wrong in (np.ones(n - 1), np.ones(n + 1), np.ones((1, n)), np.ones(0), np.ones(n, int), np.ones(n, complex),
                  np.ones(n, object), np.ones(n, bool), 1.0, None, "v"):
        case.refuses(case.layer.vector_to_parameters, wrong)
    case.still_works()


def test_contract_vector_of_a_layer_without_parameters():
    for layer in (fastrnn.Tanh(), fastrnn.Dropout(0.5), fastrnn.Sequential(fastrnn.Tanh())):
        assert layer.parameters_to_vector().shape == layer.gradients_to_vector().shape == (0,)
        assert layer.num_parameters == 0 and layer.state_dict() == layer.grad_dict() == {}
        layer.load_state_dict({})
        for wrong in (np.ones(1), np.ones((0, 1)), None):
            with pytest.raises(ERRORS):
                layer.vector_to_parameters(wrong)
        with pytest.raises(ERRORS):
            layer.load_state_dict({"weight": np.ones(1)})


# ---- constructors ----

SIZED = {
    "LSTM input": lambda n: fastrnn.LSTM(n, 4),
    "LSTM hidden": lambda n: fastrnn.LSTM(4, n),
    "GRU layers": lambda n: fastrnn.GRU(4, 4, n),
    "RNN hidden": lambda n: fastrnn.RNN(4, n),
    "Linear in": lambda n: fastrnn.Linear(n, 4),
    "Linear out": lambda n: fastrnn.Linear(4, n),
    "Embedding number": lambda n: fastrnn.Embedding(n, 4),
    "Embedding dim": lambda n: fastrnn.Embedding(4, n),
    "OneHot": lambda n: fastrnn.OneHot(n),
}


@pytest.mark.parametrize("make", SIZED.values(), ids=SIZED)
def test_contract_bad_sizes(make):
    for wrong in (0, -1, -(10**20)):
        with pytest.raises(ValueError, match="at least 1"):
            make(wrong)
    for wrong in (4.0, "4", True, np.bool_(True), None, np.float32(4), [4], 4j, np.array([4, 4])):
        with pytest.raises(TypeError, match="integer"):
            make(wrong)
    make(np.int32(4)), make(np.uint8(4))


@pytest.mark.parametrize("make", [make for name, make in SIZED.items() if name != "OneHot"],
                         ids=[name for name in SIZED if name != "OneHot"])  # fmt: skip
@pytest.mark.parametrize("size", [HUGE, 2**40, 2**62, 2**63, 2**64, 10**30, np.int64(2**62), np.uint64(2**63)])
def test_contract_huge_sizes_are_refused_at_once(make, size):
    with pytest.raises((MemoryError, ValueError)):
        make(size)


def test_contract_products_of_sizes_do_not_wrap_around():
    big = np.int64(2**32)
    small = np.int32(2**16)
    for make in (fastrnn.Linear, fastrnn.Embedding, fastrnn.GRU, fastrnn.LSTM, fastrnn.RNN):
        for size in (big, small * 16, np.int32(2**20)):
            with pytest.raises((MemoryError, ValueError)):
                make(size, size)
    with pytest.raises((MemoryError, ValueError)):
        fastrnn.LSTM(2**31, 2**31, 2**31)
    layer = fastrnn.Linear(np.int8(100), np.int8(100))
    assert layer.num_parameters == 10_100 and layer.config()["in_features"] == 100


def test_contract_huge_output_is_refused_at_once():
    layer = fastrnn.OneHot(HUGE)
    with pytest.raises((MemoryError, ValueError)):
        layer.forward(tokens())
    with pytest.raises((MemoryError, ValueError)):
        layer.step(0)
    layer = fastrnn.GRU(1, 64)
    with pytest.raises((MemoryError, ValueError)):  # 4 TB of input that takes no memory
        layer.forward(np.broadcast_to(np.float32(0), (HUGE, 1, 1)))
    with pytest.raises((MemoryError, ValueError)):
        layer.forward(np.broadcast_to(np.float64(0), (10**9, 10**3, 1)))
    with pytest.raises((MemoryError, ValueError)):
        fastrnn.Tanh().forward(np.broadcast_to(np.float64(0), (10**9, 10**3, 1)))
    with pytest.raises((MemoryError, ValueError)):
        fastrnn.Embedding(4, 10**5).forward(np.broadcast_to(np.uint8(0), (10**4, 10**4)))


RECURRENT = [fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM]


@pytest.mark.parametrize("layer", RECURRENT)
def test_contract_bad_options_of_recurrent_layers(layer):
    for name in ("bias", "batch_first", "bidirectional"):
        for wrong in (1, 0, None, "True", 1.0, []):
            with pytest.raises(TypeError, match=name):
                layer(4, 4, **{name: wrong})
    with pytest.raises(TypeError):
        layer(4, 4, 1, True)  # by name only
    with pytest.raises(TypeError):
        layer(4, 4, proj_size=2)
    with pytest.raises(TypeError):
        layer(4)


DROPOUTS = {"layer": fastrnn.Dropout, "gru": lambda p: fastrnn.GRU(4, 4, 2, dropout=p)}


@pytest.mark.parametrize("make", DROPOUTS.values(), ids=DROPOUTS)
def test_contract_bad_dropout(make):
    for wrong in (-0.1, 1.0, 1.5, np.inf, np.nan, -1, 1):
        with pytest.raises(ValueError):
            make(wrong)
    for wrong in ("0.5", None, True, 0.5j, np.complex64(0.3), np.complex128(0.3), np.array([0.3 + 0j])[0], [0.5],
                  b"0.5", np.bool_(False), object()):
        with pytest.raises(TypeError):
            make(wrong)
    make(0), make(0.0), make(np.float32(0.3)), make(np.float64(0.999))


MAKERS = {
    "LSTM": lambda **o: fastrnn.LSTM(4, 4, **o),
    "Linear": lambda **o: fastrnn.Linear(4, 4, **o),
    "Embedding": lambda **o: fastrnn.Embedding(4, 4, **o),
    "Dropout": lambda **o: fastrnn.Dropout(0.5, **o),
    "Tanh": lambda **o: fastrnn.Tanh(**o),
    "OneHot": lambda **o: fastrnn.OneHot(4, **o),
    "Last": lambda **o: fastrnn.Last(**o),
}


@pytest.mark.parametrize("name", MAKERS)
def test_contract_bad_dtype_and_seed(name):
    make = MAKERS[name]
    for wrong in ("float16", "int32", "complex64", "bfloat16", "longdouble", object, "nonsense", 32, ("f4", 2)):
        with pytest.raises(ERRORS, match="dtype"):
            make(dtype=wrong)
    for right in ("float32", "float64", np.float32, np.dtype("f8"), "f4", "f8"):
        assert make(dtype=right).dtype in (np.float32, np.float64)
    if name in ("LSTM", "Linear", "Embedding", "Dropout"):
        for wrong in (-1, 1.5, "1", True, [1], -(2**70)):
            with pytest.raises(ERRORS, match="seed"):
                make(seed=wrong)
        make(seed=None), make(seed=0), make(seed=2**100), make(seed=np.random.default_rng(0))
    with pytest.raises(TypeError):
        make(nonsense=1)


def test_contract_bad_nonlinearity():
    for wrong in ("Tanh", "gelu", ""):
        with pytest.raises(ValueError, match="nonlinearity"):
            fastrnn.RNN(4, 4, nonlinearity=wrong)
    for wrong in (None, np.tanh, 1):
        with pytest.raises(TypeError, match="nonlinearity"):
            fastrnn.RNN(4, 4, nonlinearity=wrong)
    with pytest.raises(TypeError):
        fastrnn.GRU(4, 4, nonlinearity="tanh")


def test_contract_bias_of_a_linear_layer():
    for wrong in (1, None, "True"):
        with pytest.raises(TypeError, match="bias"):
            fastrnn.Linear(4, 4, bias=wrong)


def test_contract_more_memory_than_there_is(monkeypatch):
    """Asked for before any of it is allocated: an operating system that overcommits would end the process."""
    monkeypatch.setattr("fastrnn.checks.available_memory", lambda: 1 << 27)
    with pytest.raises(MemoryError):
        fastrnn.LSTM(2000, 2000)
    with pytest.raises(MemoryError):
        fastrnn.Linear(5000, 5000)
    layer = fastrnn.LSTM(100, 100)
    with pytest.raises(MemoryError):
        layer.workspace(1000, 100)
    with pytest.raises(MemoryError):
        fastrnn.Sequential(layer).workspace(1000, 100)


def test_contract_tensors_that_need_gradients():
    torch = pytest.importorskip("torch")
    layer = fastrnn.Linear(F, H)
    tensor = torch.zeros(T, B, F, requires_grad=True)
    with pytest.raises(ERRORS):
        layer.forward(tensor)
    np.testing.assert_array_equal(layer.forward(tensor.detach())[0], layer.forward(tensor.detach().numpy())[0])
