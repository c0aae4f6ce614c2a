import itertools
import math

import numpy as np
import pytest

import fastrnn
from fastrnn import language_model


@pytest.fixture(scope="module")
def model():
    return language_model.build(embedding=3, hidden=5, seed=1)


def probabilities(model, text, start=0):
    """p of each byte after the first, given all before it: step by step, in float64."""
    state, found = None, []
    for now, following in itertools.pairwise(text):
        y, state = model.step(np.array([now]), state)
        weights = np.exp(y[0].astype(np.float64))
        found.append(weights[following] / weights.sum())
    return np.array(found[start:])


def written(model, count=20, **options):
    return bytes(itertools.islice(language_model.generate(model, **options), count))


# ---- build ----


def test_language_model_layers_and_sizes():
    model = language_model.build("gru", embedding=3, hidden=5, layers=2, dropout=0.25, dtype="float64")
    names = [type(layer).__name__ for layer in model.layers]
    assert names == ["Embedding", "Dropout", "GRU", "Dropout", "Linear"]
    assert model.layers[2].num_layers == 2 and model.layers[2].dropout == 0.25 and model.dtype == np.float64
    y, _ = model.forward(np.zeros((4, 2), np.int64))
    assert y.shape == (4, 2, 256)


def test_language_model_seed_fixes_all_parameters():
    a, b, c = (language_model.build(embedding=3, hidden=5, seed=s).parameters_to_vector() for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()


def test_language_model_build_refuses_an_unknown_cell():
    with pytest.raises(ValueError, match="cell must be one of"):
        language_model.build("transformer")


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [fastrnn.Embedding(255, 3), fastrnn.LSTM(3, 4), fastrnn.Linear(4, 256)],
        lambda: [fastrnn.Embedding(256, 3), fastrnn.LSTM(3, 4), fastrnn.Linear(4, 255)],
        lambda: [fastrnn.Embedding(256, 3), fastrnn.LSTM(3, 4, bidirectional=True), fastrnn.Linear(8, 256)],
        lambda: [fastrnn.Embedding(256, 3), fastrnn.LSTM(3, 4), fastrnn.Last(), fastrnn.Linear(4, 256)],
        lambda: [fastrnn.LSTM(255, 4), fastrnn.Linear(4, 256)],
    ],
)
def test_language_model_check_refuses_other_models(layers):
    with pytest.raises(ValueError, match="not a byte-level language model"):
        language_model.check(fastrnn.Sequential(*layers()))


def test_language_model_check_refuses_a_layer():
    with pytest.raises(ValueError, match="not a byte-level language model"):
        language_model.check(fastrnn.LSTM(256, 256))


# ---- bits per byte ----


def test_language_model_bits_per_byte_by_hand(model):
    text = b"The quick brown fox jumps over the lazy dog. " * 7
    expected = -np.log2(probabilities(model, text)).mean()
    value = language_model.bits_per_byte(model, language_model.evaluation_stream(text))
    assert value == pytest.approx(expected, rel=1e-6)


def test_language_model_bits_per_byte_of_a_long_text_is_that_of_its_lanes(model):
    text = np.random.default_rng(0).integers(0, 256, 3 * 16_384 + 10, np.uint8).tobytes()
    stream = language_model.evaluation_stream(text)
    assert stream.batch_size == 4
    lane = (len(text) - 1) // 4
    lanes = [text[i * lane : (i + 1) * lane + 1] for i in range(4)]
    expected = np.mean([language_model.bits_per_byte(model, fastrnn.data.TokenStream(p, 1, 999)) for p in lanes])
    assert language_model.bits_per_byte(model, stream) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("length", [2, 3, 257, 258, 16_383, 16_385])
def test_language_model_evaluation_stream_predicts_all_but_the_rest_of_the_lanes(length):
    predicted = sum(targets.size for _, targets in language_model.evaluation_stream(bytes(length)))
    assert length - 1 - 3 <= predicted <= length - 1


@pytest.mark.parametrize("text", [b"", b"a"])
def test_language_model_evaluation_stream_refuses_a_text_without_targets(text):
    with pytest.raises(ValueError, match="at least 2 bytes"):
        language_model.evaluation_stream(text)


def test_language_model_bits_per_byte_leaves_the_model_alone(model):
    before = model.parameters_to_vector()
    language_model.bits_per_byte(model, language_model.evaluation_stream(b"some text"))
    np.testing.assert_array_equal(model.parameters_to_vector(), before)


# ---- writing ----


def test_language_model_generate_is_repeatable_by_its_seed(model):
    assert written(model, seed=3) == written(model, seed=3) != written(model, seed=4)


def test_language_model_generate_greedily_follows_the_likeliest_byte(model):
    text = written(model, prime=b"ab", temperature=0)
    assert text == written(model, prime=b"ab", top_k=1) == written(model, prime=b"ab", top_k=1, temperature=5.0)
    whole, state = b"ab" + text, None
    for position, byte in enumerate(whole[:-1]):
        y, state = model.step(np.array([byte]), state)
        if position >= 1:
            assert y[0].argmax() == whole[position + 1]


def test_language_model_generate_goes_on_from_the_prime(model):
    prime = bytes(range(256)) * 3  # longer than the parts it is read in
    y, _ = model.forward(np.frombuffer(prime, np.uint8)[:, np.newaxis])
    assert written(model, 1, prime=prime, temperature=0)[0] == y[-1, 0].argmax()


def test_language_model_generate_draws_by_the_probabilities():
    model = language_model.build(embedding=2, hidden=2)
    weights = model.state_dict()
    weights["2.weight"][:] = 0  # the same logits at every step
    weights["2.bias"][:] = -np.inf
    weights["2.bias"][[65, 66, 67]] = np.log([0.5, 0.3, 0.2])
    weights["2.bias"][np.isinf(weights["2.bias"])] = -100
    model.load_state_dict(weights)

    def shares(**options):
        text = written(model, 4000, seed=0, **options)
        return np.array([text.count(letter) for letter in (b"A", b"B", b"C")]) / len(text)

    np.testing.assert_allclose(shares(), [0.5, 0.3, 0.2], atol=0.03)
    np.testing.assert_allclose(shares(top_k=2), [0.625, 0.375, 0], atol=0.03)
    squares = np.array([0.25, 0.09, 0.04])
    np.testing.assert_allclose(shares(temperature=0.5), squares / squares.sum(), atol=0.03)
    np.testing.assert_array_equal(shares(temperature=1e-300), [1, 0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": math.nan}, "temperature must be finite"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_k": 257}, "top_k must be at most 256"),
        ({"prime": b""}, "prime must have at least one byte"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_language_model_generate_refuses_bad_arguments_at_once(model, options, message):
    with pytest.raises(ValueError, match=message):
        language_model.generate(model, **options)


def test_language_model_generate_says_when_a_model_is_broken():
    model = language_model.build(embedding=2, hidden=2)
    model.vector_to_parameters(np.full(model.num_parameters, np.nan, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        written(model)
