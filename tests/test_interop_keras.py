"""Keras's weights and models, both ways. As a script, it prints the worst figures of more random models."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastrnn
from fastrnn.interop import keras as interop

pytest.importorskip("torch")  # what Keras computes with here
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from fastrnn.interop import keras_layers  # noqa: E402

K = keras.layers
COUNT = 40  # random models each way
TOLERANCE = 1e-5
INPUTS = 3


def randomised(model, rng):
    """The model with random weights, biases too, which Keras has zero at first."""
    model.set_weights([rng.uniform(-0.6, 0.6, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def predicted(model, x):
    return np.asarray(model.predict_on_batch(x))


def size(rng):
    return int(rng.integers(1, 16))


def flip(rng, p=0.5):
    return bool(rng.random() < p)


def random_recurrent_of_keras(rng, *, last):
    """A layer; its output is a sequence unless it is the last one."""
    kind = rng.choice(["SimpleRNN", "GRU", "LSTM"])
    options = {"use_bias": flip(rng, 0.8)}
    if kind == "SimpleRNN":
        options["activation"] = str(rng.choice(["tanh", "relu", "sigmoid"]))
    if kind == "GRU":
        options["reset_after"] = flip(rng)
    both = flip(rng, 0.4)
    layer = getattr(K, str(kind))(size(rng), return_sequences=not last or flip(rng), **options)
    return K.Bidirectional(layer) if both else layer


def random_keras_model(rng):
    """Of all layers that fastrnn has; as a Sequential, or a functional chain."""
    tokens = flip(rng, 0.3)
    layers = [K.Embedding(9, size(rng))] if tokens else []
    count = int(rng.integers(1, 4))
    for n in range(count):
        layers.append(random_recurrent_of_keras(rng, last=n == count - 1))
        if flip(rng, 0.2):
            layers.append(K.Dropout(0.3))
    sequence = getattr(layers[-1], "return_sequences", True)
    if isinstance(layers[-1], K.Dropout):
        sequence = layers[-2].return_sequences
    if sequence and flip(rng, 0.4):
        layers.append((K.GlobalAveragePooling1D if flip(rng) else K.GlobalMaxPooling1D)())
        sequence = False
    if not sequence and flip(rng, 0.3):
        layers += [K.RepeatVector(4), K.GRU(5, return_sequences=True)]
        sequence = True
    activation = str(rng.choice(["linear", "tanh", "relu", "sigmoid"]))
    dense = K.Dense(size(rng), activation=activation, use_bias=flip(rng, 0.8))
    layers.append(K.TimeDistributed(dense) if sequence and flip(rng) else dense)
    if flip(rng, 0.3):
        layers.append(K.Activation("tanh") if flip(rng) else K.ReLU())
    given = keras.Input((None,), dtype="int32") if tokens else keras.Input((None, INPUTS))
    if flip(rng):
        return randomised(keras.Sequential([given, *layers]), rng), tokens
    output = given
    for layer in layers:
        output = layer(output)
    return randomised(keras.Model(given, output), rng), tokens


def random_input(rng, tokens, features=INPUTS):
    shape = int(rng.integers(1, 5)), int(rng.integers(1, 10))
    if tokens:
        return rng.integers(0, 9, shape).astype(np.int32)
    return rng.standard_normal((*shape, features), dtype=np.float32)


def from_keras(seed):
    """The largest difference of the output; the layers survive a second round trip bit for bit."""
    rng = np.random.default_rng([seed, 1])
    theirs, tokens = random_keras_model(rng)
    ours = interop.from_model(theirs)
    x = random_input(rng, tokens)
    again = interop.from_model(interop.to_model(ours))
    assert [repr(layer.config()) for layer in again.layers] == [repr(layer.config()) for layer in ours.layers]
    np.testing.assert_array_equal(again.parameters_to_vector(), ours.parameters_to_vector())
    return float(np.abs(ours.forward(x)[0] - predicted(theirs, x)).max())


def random_model(rng):
    """One of ours that Keras can compute."""
    tokens = flip(rng, 0.3)
    layers, features = [], INPUTS
    if tokens:
        features = size(rng)
        layers.append(fastrnn.Embedding(9, features, seed=1))
        if flip(rng, 0.3):
            layers, features = [fastrnn.OneHot(9)], 9
    for _ in range(int(rng.integers(1, 3))):
        kind = str(rng.choice(["RNN", "GRU", "LSTM"]))
        options = {"nonlinearity": str(rng.choice(["tanh", "relu", "sigmoid"]))} if kind == "RNN" else {}
        if kind == "GRU":
            options["reset_after"] = flip(rng)
        layer = getattr(fastrnn, kind)(
            features, size(rng), int(rng.integers(1, 3)), bias=flip(rng, 0.8), bidirectional=flip(rng, 0.4),
            dropout=0.2, variational=flip(rng), seed=2, **options,
        )  # fmt: skip
        layers.append(layer)
        features = layer.directions * layer.hidden_size
    pooling = str(rng.choice(["Last", "MeanPool", "MaxPool", "none"]))
    if pooling != "none":
        options = {"bidirectional": True} if pooling == "Last" and features % 2 == 0 and flip(rng) else {}
        layers.append(getattr(fastrnn, pooling)(**options))
    layers += [fastrnn.Dropout(0.1, variational=flip(rng)), fastrnn.Linear(features, size(rng), bias=flip(rng), seed=3)]
    layers.append(getattr(fastrnn, str(rng.choice(["Tanh", "ReLU", "Sigmoid"])))())
    model = fastrnn.Sequential(*layers, batch_first=flip(rng))
    model.vector_to_parameters(rng.uniform(-0.6, 0.6, model.num_parameters).astype(np.float32))
    return model, tokens


def to_keras(seed):
    """The largest difference of the output, there and back again."""
    rng = np.random.default_rng([seed, 2])
    ours, tokens = random_model(rng)
    theirs = interop.to_model(ours)
    x = random_input(rng, tokens)
    given = x if ours.batch_first else x.swapaxes(0, 1)
    y = ours.forward(given)[0]
    y = y if ours.batch_first or y.ndim == 2 else y.swapaxes(0, 1)
    back = interop.from_model(theirs)
    return max(float(np.abs(y - other).max()) for other in (predicted(theirs, x), back.forward(x)[0]))


def test_interop_keras_random_models_of_keras():
    for seed in range(COUNT):
        assert from_keras(seed) < TOLERANCE, seed


def test_interop_keras_random_models_of_ours():
    for seed in range(COUNT):
        assert to_keras(seed) < TOLERANCE, seed


RECURRENT = {
    "simple_rnn": (K.SimpleRNN, {}, {}),
    "SimpleRNN": (K.SimpleRNN, {"activation": "relu"}, {"nonlinearity": "relu"}),
    "lstm": (K.LSTM, {}, {}),
    "gru": (K.GRU, {"reset_after": True}, {}),
    "GRU": (K.GRU, {"reset_after": False}, {}),
}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", RECURRENT)
def test_interop_keras_weights_of_a_recurrent_layer(kind, both, use_bias):
    theirs, options, hints = RECURRENT[kind]
    layer = theirs(5, return_sequences=True, use_bias=use_bias, **options)
    layer = K.Bidirectional(layer) if both else layer
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 3), dtype=np.float32)
    layer.build(x.shape)
    layer.set_weights([rng.uniform(-1, 1, w.shape).astype(np.float32) for w in layer.get_weights()])
    if theirs is K.GRU and not use_bias:
        with pytest.raises(ValueError, match="pass reset_after="):
            interop.from_weights(kind, layer.get_weights())
        hints = {"reset_after": options["reset_after"]}
    ours = interop.from_weights(kind, layer.get_weights(), **hints)
    assert ours.batch_first and ours.bias == use_bias and ours.bidirectional == both
    expected = keras.ops.convert_to_numpy(keras.ops.stop_gradient(layer(x)))
    np.testing.assert_allclose(ours.forward(x)[0], expected, atol=TOLERANCE)
    for one, other in zip(interop.to_weights(ours), layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    layer.set_weights(interop.to_weights(ours))


def test_interop_keras_weights_of_other_layers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3), dtype=np.float32)
    for options in ({}, {"use_bias": False}):
        layer = K.Dense(4, **options)
        layer.build(x.shape)
        ours = interop.from_weights("dense", layer.get_weights())
        np.testing.assert_allclose(ours.forward(x)[0], keras.ops.convert_to_numpy(layer(x)), atol=1e-6)
        for one, other in zip(interop.to_weights(ours), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.flags.c_contiguous
    table = rng.standard_normal((7, 4), dtype=np.float32)
    ours = interop.from_weights("embedding", [table])
    np.testing.assert_array_equal(ours.state_dict()["weight"], table)
    np.testing.assert_array_equal(interop.to_weights(ours)[0], table)


def test_interop_keras_two_biases_become_their_sum():
    ours = fastrnn.LSTM(3, 4, seed=0)
    values = ours.state_dict()
    *_, bias = interop.to_weights(ours)
    np.testing.assert_array_equal(bias, values["bias_ih_l0"] + values["bias_hh_l0"])
    again = interop.from_weights("lstm", interop.to_weights(ours), batch_first=False)
    x = np.random.default_rng(0).standard_normal((5, 2, 3), dtype=np.float32)
    np.testing.assert_allclose(again.forward(x)[0], ours.forward(x)[0], atol=1e-6)
    kept = interop.to_weights(fastrnn.GRU(3, 4, seed=0))[2]
    assert kept.shape == (2, 12) and kept[0].any() and kept[1].any()


@pytest.mark.parametrize("short", ["float16", "bfloat16"])
def test_interop_keras_shorter_floats_become_float32(short):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = ml_dtypes.bfloat16 if short == "bfloat16" else np.float16
    weights = [np.random.default_rng(0).standard_normal(shape).astype(dtype) for shape in ((3, 4), (4,))]
    ours = interop.from_weights("dense", weights)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.state_dict()["weight"], weights[0].T.astype(np.float32))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="JAX, which the others use, computes in float32")
def test_interop_keras_float64():
    rng = np.random.default_rng(0)
    theirs = keras.Sequential([keras.Input((None, 3), dtype="float64"), K.LSTM(4, dtype="float64")])
    ours = interop.from_model(randomised(theirs, rng))
    assert ours.dtype == np.float64
    x = rng.standard_normal((2, 5, 3))
    np.testing.assert_allclose(ours.forward(x)[0], predicted(theirs, x), atol=1e-12)
    back = interop.to_model(ours)
    np.testing.assert_allclose(predicted(back, x), predicted(theirs, x), atol=1e-12)


LSTM_WEIGHTS = [np.zeros(shape, np.float32) for shape in ((3, 16), (4, 16), (16,))]
GRU_WEIGHTS = [np.zeros(shape, np.float32) for shape in ((3, 12), (4, 12), (12,))]


@pytest.mark.parametrize(
    ("kind", "weights", "hints", "error", "pattern"),
    [
        ("conv", [], {}, ValueError, 'kind must be "simple_rnn", "gru".*got \'conv\''),
        (3, [], {}, TypeError, "kind must be .*got int"),
        ("lstm", np.zeros((3, 16)), {}, TypeError, "weights must be a list of arrays, got ndarray"),
        ("lstm", LSTM_WEIGHTS[:1], {}, ValueError, "twice that if bidirectional, got 1 arrays"),
        ("lstm", LSTM_WEIGHTS[:2] + [np.zeros((2, 16))], {}, ValueError, r"weights\[2\] must have shape \(16,\)"),
        ("lstm", [LSTM_WEIGHTS[0], np.zeros((4, 12))], {}, ValueError, r"weights\[1\] must have shape \(4, 16\), got"),
        ("lstm", [*LSTM_WEIGHTS, *GRU_WEIGHTS], {}, ValueError, r"weights\[3\] must have shape \(3, 16\)"),
        ("lstm", [np.zeros((3, 16), np.int64), *LSTM_WEIGHTS[1:]], {}, TypeError, r"weights\[0\] must hold .*int64"),
        (
            "gru",
            GRU_WEIGHTS,
            {"reset_after": True},
            ValueError,
            r"reset_after=True does not go with a bias of shape \(12,",
        ),
        (
            "rnn",
            [np.zeros((3, 4)), np.zeros((4, 4))],
            {"nonlinearity": "elu"},
            ValueError,
            "nonlinearity must be one of",
        ),
        ("dense", [], {}, ValueError, r"\[kernel, bias\] or \[kernel\], got 0"),
        ("dense", [np.zeros((3, 4)), np.zeros(3)], {}, ValueError, r"weights\[1\] must have shape \(4,\), got \(3,\)"),
        ("embedding", [np.zeros((3, 4)), np.zeros(3)], {}, ValueError, r"\[embeddings\], got 2"),
    ],
)
def test_interop_keras_weights_that_do_not_fit_are_refused(kind, weights, hints, error, pattern):
    with pytest.raises(error, match=pattern):
        interop.from_weights(kind, weights, **hints)


@pytest.mark.parametrize(
    ("layer", "pattern"),
    [
        (lambda: fastrnn.LSTM(3, 4, 2), "num_layers=1, got 2"),
        (lambda: fastrnn.Tanh(), "must be an RNN, GRU, LSTM, Linear or Embedding, got Tanh"),
        (lambda: fastrnn.PeepholeLSTM(3, 4), "got PeepholeLSTM"),
        (lambda: fastrnn.LSTM(3, 4, dilation=2), "Keras has no LSTM with dilation=2"),
    ],
)
def test_interop_keras_layers_without_weights_are_refused(layer, pattern):
    with pytest.raises(ValueError, match=pattern):
        interop.to_weights(layer())


def built(*layers):
    return keras.Sequential([keras.Input((None, 3)), *layers])


def joined():
    given = keras.Input((None, 3))
    return keras.Model(given, K.Add()([K.Dense(2)(given), K.Dense(2)(given)]))


def branched():
    given = keras.Input((None, 3))
    K.Dense(2)(given)
    return keras.Model(given, [K.Dense(2)(given), K.LSTM(2)(given)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = K.Dense(2)

    def call(self, x):
        return 2 * self.dense(x)


class Doubled(keras.Sequential):
    def call(self, x, **options):
        return 2 * super().call(x, **options)


def called(layer, **arguments):
    """A functional model whose layer is called with constants beside its input."""
    given = keras.Input((4, 3))
    return keras.Model(given, layer(given, **arguments))


def twice():
    layer = K.Dense(3, name="a")
    return built(layer, layer)


def quantized():
    model = built(K.Dense(2))
    model.layers[0].quantize("int8")
    return model


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 3), np.float32))
    return model


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        (lambda: built(K.LSTM(2, activation="relu", name="a")), "layer 'a': fastrnn has no LSTM with activation=relu"),
        (lambda: built(K.GRU(2, recurrent_activation="hard_sigmoid")), "GRU with recurrent_activation=hard_sigmoid"),
        (lambda: built(K.SimpleRNN(2, activation="elu")), "SimpleRNN with activation=elu"),
        (lambda: built(K.SimpleRNN(2, activation=None)), "SimpleRNN with activation=linear"),
        (lambda: built(K.LSTM(2, go_backwards=True)), "go_backwards=True"),
        (lambda: built(K.Bidirectional(K.LSTM(2, return_sequences=True), merge_mode="sum")), "merge_mode='sum'"),
        (lambda: built(K.Bidirectional(K.LSTM(2), merge_mode="ave")), "merge_mode='ave'"),
        (lambda: built(K.Bidirectional(K.LSTM(2, return_sequences=True, go_backwards=True),
                                       backward_layer=K.LSTM(2, return_sequences=True))), "the same backwards"),
        (lambda: built(K.Masking(), K.LSTM(2)), "Masking with mask_value=0.0: give lengths= instead"),
        (lambda: keras.Sequential([keras.Input((None,)), K.Embedding(5, 3, mask_zero=True)]), "mask_zero=True: give"),
        (lambda: built(K.Dense(2, activation="softmax")), "Dense with activation=softmax: make it linear"),
        (lambda: built(K.Dense(2, activation=keras.ops.sin)), "activation=sin"),
        (lambda: built(K.ReLU(max_value=6)), "ReLU with max_value=6"),
        (lambda: built(K.GlobalMaxPooling1D(keepdims=True)), "keepdims=True"),
        (lambda: built(K.LayerNormalization(name="b")), "layer 'b': fastrnn has no counterpart of LayerNormalization"),
        (lambda: built(K.Flatten()), "no counterpart of Flatten"),
        (lambda: built(K.RNN(K.LSTMCell(3))), "no counterpart of RNN"),
        (lambda: keras.Sequential([keras.Input(batch_shape=(2, None, 3)), K.GRU(2, stateful=True)]), "hand the state"),
        (joined, "must be a Sequential or a functional model in which each"),
        (branched, "must be a Sequential or a functional model"),
        (subclassed, "must be a Sequential or a functional model"),
        (lambda: Doubled([keras.Input((None, 3)), K.Dense(2)]), "Doubled, has a call of its own"),
        (lambda: called(K.GRU(2, name="a"), initial_state=keras.ops.ones((5, 2))), "'a'.*called with initial_state"),
        (lambda: called(K.LSTM(2), mask=keras.ops.ones((5, 4), "bool")), "LSTM called with mask"),
        (lambda: called(K.Dropout(0.5), training=True), "Dropout called with training"),
        (twice, "layer 'a' is there twice"),
        (quantized, "quantized to int8"),
        (lambda: keras.Sequential([K.LSTM(3)]), "has to be built"),
    ],
)  # fmt: skip
def test_interop_keras_what_fastrnn_lacks_is_named(model, pattern):
    made = model()
    for inference in (False, True):
        with pytest.raises(ValueError, match=pattern):
            interop.from_model(made, inference=inference)


@pytest.mark.parametrize(
    ("layer", "pattern"),
    [
        (lambda: K.LSTM(2, recurrent_dropout=0.2), "recurrent_dropout=0.2"),
        (lambda: K.GRU(2, kernel_regularizer="l2"), "kernel_regularizer=L2"),
        (lambda: K.Dense(2, bias_constraint="non_neg"), "bias_constraint=NonNeg"),
        (lambda: K.Bidirectional(K.LSTM(2, return_sequences=True, dropout=0.2)), "dropout=0.2"),
        (lambda: K.Bidirectional(K.LSTM(2, return_sequences=True, bias_regularizer="l1")), "bias_regularizer=L1"),
        (lambda: K.Dropout(0.2, noise_shape=(None, None, 1)), r"noise_shape=\(None, None, 1\)"),
    ],
)
def test_interop_keras_what_acts_in_training_may_be_left_out(layer, pattern):
    theirs = built(layer())
    with pytest.raises(ValueError, match=pattern):
        interop.from_model(theirs)
    x = np.random.default_rng(0).standard_normal((2, 4, 3), dtype=np.float32)
    ours = interop.from_model(theirs, inference=True)
    np.testing.assert_allclose(ours.forward(x)[0], predicted(theirs, x), atol=TOLERANCE)


def test_interop_keras_dropout_of_inputs_has_one_mask_a_sequence():
    ours = interop.from_model(built(K.LSTM(2, dropout=0.25), K.Dropout(0.5)))
    assert [type(layer).__name__ for layer in ours.layers] == ["Dropout", "LSTM", "Last", "Dropout"]
    assert ours.layers[0].variational and ours.layers[0].p == 0.25 and not ours.layers[3].variational
    ours = interop.from_model(built(K.SpatialDropout1D(0.5), K.Dropout(0.5, noise_shape=(None, 1, None))))
    assert all(layer.variational for layer in ours.layers)


def test_interop_keras_models_in_models():
    rng = np.random.default_rng(0)
    inner = keras.Sequential([keras.Input((None, 3)), K.GRU(4, return_sequences=True), K.Dense(3)])
    theirs = randomised(keras.Sequential([keras.Input((None, 3)), inner, K.LSTM(2)]), rng)
    ours = interop.from_model(theirs)
    assert [type(layer).__name__ for layer in ours.layers] == ["GRU", "Linear", "LSTM", "Last"]
    x = random_input(rng, False)
    np.testing.assert_allclose(ours.forward(x)[0], predicted(theirs, x), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("layer", "pattern"),
    [
        (lambda: fastrnn.PeepholeLSTM(3, 4), "layer 0, PeepholeLSTM: Keras has no such layer"),
        (lambda: fastrnn.Jordan(3, 4, 2), "Jordan: Keras has no such layer"),
        (lambda: fastrnn.Residual(fastrnn.GRU(3, 3)), "Residual: Keras has no such layer"),
        (lambda: fastrnn.GRU(3, 4, zoneout=0.1), r"zoneout"),
        (lambda: fastrnn.LSTM(3, 4, initial_state="learned"), "initial_state='learned'"),
    ],
)
def test_interop_keras_what_keras_lacks_is_named(layer, pattern):
    for inference in (False, True):
        with pytest.raises(ValueError, match=pattern):
            interop.to_model(fastrnn.Sequential(layer()), inference=inference)


def test_interop_keras_training_alone_to_keras():
    ours = fastrnn.Sequential(fastrnn.ActivityRegularization(l1=0.1), fastrnn.LSTM(3, 4, recurrent_dropout=0.1))
    with pytest.raises(ValueError, match="layer 0, ActivityRegularization: .* l1=0.1"):
        interop.to_model(ours)
    x = np.random.default_rng(0).standard_normal((4, 2, 3), dtype=np.float32)
    theirs = interop.to_model(ours, inference=True)
    np.testing.assert_allclose(predicted(theirs, x.swapaxes(0, 1)), ours.forward(x)[0].swapaxes(0, 1), atol=TOLERANCE)


def test_interop_keras_layers_of_our_own_are_saved(tmp_path):
    ours = fastrnn.Sequential(
        fastrnn.OneHot(9), fastrnn.GRU(9, 4, bidirectional=True, seed=0), fastrnn.Last(), batch_first=True
    )
    theirs = interop.to_model(ours)
    assert [type(layer) for layer in theirs.layers] == [keras_layers.OneHot, K.Bidirectional, keras_layers.Last]
    theirs.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = np.arange(6).reshape(2, 3)
    np.testing.assert_allclose(predicted(again, x), ours.forward(x)[0], atol=TOLERANCE)
    assert len(interop.from_model(again).layers) == 3


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_interop_keras_bidirectional_gives_the_last_output_of_each_direction(kind):
    rng = np.random.default_rng(0)
    layers = K.Bidirectional(getattr(K, kind)(4, return_sequences=True)), K.Bidirectional(getattr(K, kind)(5))
    theirs = randomised(built(*layers, K.Dense(2)), rng)
    ours = interop.from_model(theirs)
    assert repr(ours.layers[2]) == "Last(bidirectional=True)" and len(ours.layers) == 4
    back = interop.to_model(ours)
    assert [type(layer) for layer in back.layers] == [K.Bidirectional, K.Bidirectional, K.Dense]
    assert not back.layers[1].return_sequences
    x = random_input(rng, False)
    for model in (theirs, back):
        np.testing.assert_allclose(predicted(model, x), ours.forward(x)[0], atol=TOLERANCE)


def test_interop_keras_last_of_both_directions_elsewhere_is_a_layer_of_our_own(tmp_path):
    gru = fastrnn.GRU(3, 4, bidirectional=True, seed=0)
    ours = fastrnn.Sequential(gru, fastrnn.Tanh(), fastrnn.Last(bidirectional=True), batch_first=True)
    interop.to_model(ours).save(tmp_path / "model.keras")
    theirs = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(theirs.layers[-1], keras_layers.Last) and theirs.layers[-1].bidirectional
    x = random_input(np.random.default_rng(0), False)
    for model in (ours, interop.from_model(theirs)):
        np.testing.assert_allclose(predicted(theirs, x), model.forward(x)[0], atol=TOLERANCE)


def test_interop_keras_one_layer_becomes_a_model():
    layer = fastrnn.LSTM(3, 4, 2, batch_first=True, seed=0)
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    np.testing.assert_allclose(predicted(interop.to_model(layer), x), layer.forward(x)[0], atol=TOLERANCE)
    vectors = fastrnn.Sequential(fastrnn.Repeat(3), fastrnn.GRU(3, 4, seed=0), batch_first=True)
    np.testing.assert_allclose(
        predicted(interop.to_model(vectors), x[:, 0]), vectors.forward(x[:, 0])[0], atol=TOLERANCE
    )


def test_interop_keras_model_must_be_one():
    with pytest.raises(TypeError, match="model must be a Keras model, got Dense"):
        interop.from_model(K.Dense(2))
    for take in (interop.to_model, interop.to_weights):
        with pytest.raises(TypeError, match="must be a layer or a model of fastrnn, got Dense"):
            take(K.Dense(2))


def test_interop_keras_weights_need_no_keras():
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "import fastrnn, fastrnn.interop.keras as interop\n"
        "interop.from_weights('lstm', interop.to_weights(fastrnn.LSTM(3, 4)))\n"
        "try: interop.to_model(fastrnn.LSTM(3, 4))\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "needs the keras package" in run.stdout and "fastrnn[keras]" in run.stdout


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    print(f"{count} random models of Keras: largest difference {max(map(from_keras, range(count))):.1e}")
    print(f"{count} random models of ours: largest difference {max(map(to_keras, range(count))):.1e}")
