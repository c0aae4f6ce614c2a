"""Initial values: distributions, kinds of tensors, gates, seeds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import init

MATRIX = ("xavier_uniform", "xavier_normal", "lecun_normal", "kaiming_uniform", "kaiming_normal")
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(cell="LSTM", seed=0, inputs=3, hidden=5, dtype="float64", **options):
    """A stack in both directions, freshly made, whose parameters are to be filled."""
    return getattr(fastrnn, cell)(inputs, hidden, 2, bidirectional=True, dtype=dtype, seed=seed, **options)


def filled(spec, seed=0, cell="LSTM", **options):
    """The tensors of a recurrent layer after `fill`."""
    layer = recurrent(cell)
    init.fill(layer.parameters, 5, spec, np.random.default_rng(seed), gates=GATES[cell], **options)
    return layer.state_dict()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_init_default_is_pytorchs_uniform(dtype):
    """The same numbers from a seed as ever."""
    rng = np.random.default_rng(3)
    expected = rng.uniform(-1 / math.sqrt(7), 1 / math.sqrt(7), 7 * 4 + 4).astype(dtype)
    for spec in (None, "uniform", {}, {"weight": "uniform"}):
        linear = fastrnn.Linear(7, 4, init=spec, dtype=dtype, seed=3)
        np.testing.assert_array_equal(linear.parameters_to_vector(), expected)
    table = np.random.default_rng(4).standard_normal((6, 5)).astype(dtype)
    for spec in (None, "normal"):
        embedding = fastrnn.Embedding(6, 5, init=spec, dtype=dtype, seed=4)
        np.testing.assert_array_equal(embedding.state_dict()["weight"], table)
    layer = recurrent(dtype=dtype, seed=5)
    before = layer.parameters_to_vector()
    init.fill(layer.parameters, 5, None, np.random.default_rng(5), gates=4)
    np.testing.assert_array_equal(layer.parameters_to_vector(), before)


@pytest.mark.parametrize("shape", [(300, 200), (150, 400)], ids=str)
@pytest.mark.parametrize("name", MATRIX)
def test_init_variances(name, shape):
    """60,000 numbers: mean, variance and range by the formulas, and as PyTorch's functions have them."""
    torch = pytest.importorskip("torch")
    fan_out, fan_in = shape
    weight = fastrnn.Linear(fan_in, fan_out, init=name, dtype="float64", seed=0).state_dict()["weight"]
    variance = {"xavier": 2 / (fan_in + fan_out), "lecun": 1 / fan_in, "kaiming": 2 / fan_in}[name.split("_")[0]]
    assert abs(weight.mean()) < 4 * math.sqrt(variance / weight.size)
    assert weight.var() == pytest.approx(variance, rel=0.03)
    if name.endswith("uniform"):
        assert math.sqrt(3 * variance) * 0.999 < np.abs(weight).max() <= math.sqrt(3 * variance)
    else:
        assert np.mean(np.abs(weight) < math.sqrt(variance)) == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.01)
    if name != "lecun_normal":
        theirs = getattr(torch.nn.init, f"{name}_")(torch.empty(shape, dtype=torch.float64))
        assert weight.var() == pytest.approx(theirs.var().item(), rel=0.03)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_init_orthogonal_and_identity(seed, shape):
    weight = init.orthogonal(shape, np.random.default_rng(seed))
    gram = weight @ weight.T if shape[0] <= shape[1] else weight.T @ weight
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-13)
    np.testing.assert_array_equal(init.identity(shape, None), np.eye(*shape))


def test_init_orthogonal_prefers_no_sign():
    """Haar's distribution: a plain QR decomposition would leave diagonals of one sign."""
    rng = np.random.default_rng(0)
    signs = [np.sign(np.diagonal(init.orthogonal((3, 3), rng))) for _ in range(400)]
    assert np.abs(np.mean(signs, axis=0)).max() < 0.2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from(list(GATES)), st.sampled_from(["orthogonal", "identity", *MATRIX]))
def test_init_gates_are_matrices_of_their_own(seed, cell, name):
    tensors, default = filled(name, seed, cell), filled(None, seed, cell)
    rng = np.random.default_rng(seed)
    rng.uniform(-1, 1, sum(tensor.size for tensor in tensors.values()))  # the default's draw
    for key, tensor in tensors.items():
        if key.startswith("bias"):
            np.testing.assert_array_equal(tensor, default[key])
            continue
        for gate in np.split(tensor, GATES[cell]):
            np.testing.assert_array_equal(gate, getattr(init, name)(gate.shape, rng))


def test_init_by_kind():
    seen = []

    def halves(shape, rng):
        seen.append(shape)
        return np.full(shape, 0.5, np.float32)

    spec = {"bias": "zeros", "weight_hh": "identity", "weight_ih": halves}
    for key, tensor in filled(spec, cell="GRU").items():
        if key.startswith("bias"):
            assert not tensor.any()
        elif key.startswith("weight_hh"):
            np.testing.assert_array_equal(tensor, np.vstack([np.eye(5)] * 3))
        else:
            assert (tensor == 0.5).all()
    assert seen == [(5, 3)] * 6 + [(5, 10)] * 6  # two layers, two directions, three gates
    linear = fastrnn.Linear(4, 3, init={"bias": "ones"}, seed=0)
    assert (linear.state_dict()["bias"] == 1).all()
    np.testing.assert_array_equal(linear.state_dict()["weight"], fastrnn.Linear(4, 3, seed=0).state_dict()["weight"])
    scaled = fastrnn.Linear(4, 3, init=lambda shape, rng: 0.9 * init.orthogonal(shape, rng), dtype="float64", seed=0)
    np.testing.assert_allclose(scaled.state_dict()["weight"] @ scaled.state_dict()["weight"].T, 0.81 * np.eye(3),
                               atol=1e-14)  # fmt: skip


@pytest.mark.parametrize("spec", ["orthogonal", {"weight_hh": "kaiming_normal", "bias": "normal"}], ids=str)
def test_init_is_reproducible_from_the_seed(spec):
    first, again, other = filled(spec, 1), filled(spec, 1), filled(spec, 2)
    for key, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[key])
        assert (tensor != other[key]).any()
    if isinstance(spec, dict):
        for key, tensor in filled(dict(reversed(spec.items())), 1).items():
            np.testing.assert_array_equal(tensor, first[key])


@pytest.mark.parametrize("spec", [None, {"bias": "ones"}], ids=str)
def test_init_forget_bias(spec):
    plain, tensors = filled(spec), filled(spec, forget_bias=1.5)
    for key, tensor in tensors.items():
        expected = plain[key].copy()
        if key.startswith("bias"):
            expected[5:10] = 1.5 if key.startswith("bias_ih") else 0
        np.testing.assert_array_equal(tensor, expected)


def test_init_packed_weights_are_not_stale():
    layer, x = fastrnn.LSTM(3, 5, dtype="float64", seed=0), np.ones((2, 1, 3))
    before, _ = layer.forward(x)
    init.fill(layer.parameters, 5, "zeros", np.random.default_rng(0), gates=4)
    assert (layer.forward(x)[0] != before).any()


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("glorot", ValueError, "init must be one of .*'xavier_uniform'.* got 'glorot'"),
        (3, TypeError, "init must be a name"),
        ({"weight": None}, TypeError, "init must be a name"),
        ({"weight_ih": "zeros"}, ValueError, r"\['bias', 'weight'\], got 'weight_ih'"),
        ({"bias": "orthogonal"}, ValueError, "biases"),
        ({"bias": init.identity}, ValueError, "biases"),
        (lambda shape, rng: np.zeros(shape[::-1]), ValueError, "init of weight must have shape"),
        (lambda shape, rng: 0.0, ValueError, "init of weight must have shape"),
        (lambda shape, rng: np.zeros(shape, int), TypeError, "init of weight must give floating-point"),
    ],
)
def test_init_refuses(spec, error, words):
    with pytest.raises(error, match=words):
        fastrnn.Linear(4, 3, init=spec)


def test_init_refuses_what_the_layer_has_not():
    layer = recurrent(bias=False)
    before = layer.parameters_to_vector()
    for spec, options, words in ((None, {"forget_bias": 1.0}, "forget_bias"), ({"bias": "zeros"}, {}, "kinds")):
        with pytest.raises(ValueError, match=words):
            init.fill(layer.parameters, 5, spec, np.random.default_rng(0), gates=4, **options)
    with pytest.raises(ValueError, match="forget_bias"):
        filled(None, forget_bias=math.nan)
    with pytest.raises(ValueError, match="matrix"):
        init.orthogonal((3,), np.random.default_rng(0))
    np.testing.assert_array_equal(layer.parameters_to_vector(), before)


@pytest.mark.parametrize("name", ["zeros", "ones", "xavier_uniform", "orthogonal", "identity"])
def test_init_functions_take_shapes_alone(name):
    function, rng = getattr(init, name), np.random.default_rng(0)
    for shape in (b"\x81\xd9\xc4", 3, None, "34", {2: 3}, (2.0, 3), (True, 3), (2, "3")):
        with pytest.raises(TypeError, match="shape"):
            function(shape, rng)
    with pytest.raises(ValueError, match="shape"):
        function((-1, 3), rng)
    with pytest.raises(MemoryError, match="initial values of shape"):
        function((10**9, 10**9), rng)
    assert function([3, 2], rng).shape == (3, 2)
