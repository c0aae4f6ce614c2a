"""Keras models and layers of fastrnn, one as the other."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from ..layers import (
    GRU,
    LSTM,
    RNN,
    ActivityRegularization,
    Dropout,
    Embedding,
    Last,
    Linear,
    MaxPool,
    MeanPool,
    OneHot,
    ReLU,
    Repeat,
    Sigmoid,
    Tanh,
)
from ..layers.base import Layer
from ..layers.recurrent import Recurrent
from ..model import Sequential
from . import keras_layers
from .common import common_dtype, float_values, place_of, refuse_options
from .keras import from_weights, weights_of

_RECURRENT = {keras.layers.SimpleRNN: RNN, keras.layers.GRU: GRU, keras.layers.LSTM: LSTM}
_ACTIVATIONS = {"tanh": Tanh, "relu": ReLU, "sigmoid": Sigmoid}
_POOLING = {keras.layers.GlobalAveragePooling1D: MeanPool, keras.layers.GlobalMaxPooling1D: MaxPool}
# What acts in training alone, and may be None.
_OF_TRAINING = [
    f"{kind}_{what}"
    for what in ("regularizer", "constraint")
    for kind in ("activity", "kernel", "recurrent", "bias", "embeddings")
]


# ---- from Keras ----


def from_model(model: keras.Model, *, inference: bool) -> Layer:
    """See `fastrnn.interop.keras.from_model`."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model, got {type(model).__name__}")
    found = list(_chain(model))
    for i, layer in enumerate(found):
        if any(layer is other for other in found[:i]):
            raise ValueError(f"layer {layer.name!r} is there twice: layers of fastrnn can't share parameters")
        if layer.quantization_mode:
            raise ValueError(f"layer {layer.name!r}: fastrnn has no layers quantized to {layer.quantization_mode}")
    weights = [float_values(layer.name, array) for layer in found for array in layer.get_weights()]
    reader = _Reader(common_dtype(weights, None), inference)
    layers = [made for layer in found for made in reader.layers(layer)]
    if not layers:
        raise ValueError(f"model {model.name!r} has no layers")
    return Sequential(*layers, batch_first=True)


def _chain(model) -> Iterator[keras.Layer]:
    """The layers of a model, those of models in it too, each of which takes what the one before gives."""
    if not model.built:
        raise ValueError(f"model {model.name!r} has to be built: call it once, or give it an Input")
    if not _calls_as_kerass(model):
        raise ValueError(
            f"model {model.name!r}, {type(model).__name__}, has a call of its own: it must be a Sequential or a "
            "functional model, whose layers alone say what is computed"
        )
    sequential = isinstance(model, keras.Sequential)
    if not sequential and not _is_chain(model):
        raise ValueError(
            f"model {model.name!r} must be a Sequential or a functional model in which each layer takes the output of "
            "the one before"
        )
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _chain(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def _calls_as_kerass(model):
    """Whether what the model computes is up to Keras, not to a method of a class of the user's."""
    return all(getattr(type(model), name).__module__.startswith("keras.") for name in ("call", "__call__"))


def _is_chain(model):
    """Whether each layer of a functional model was called once, on the output of the one before."""
    try:
        inner = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
        steps = [(layer.input, layer.output) for layer in inner]
        (first,), (last,) = model.inputs, model.outputs
    except (AttributeError, ValueError):  # no functional model; several inputs; a layer called twice
        return False
    for layer in inner:
        _refuse_arguments(layer)
    ends = [first, *(output for _, output in steps)]
    return ends[-1] is last and all(given is end for (given, _), end in zip(steps, ends, strict=False))


def _refuse_arguments(layer):
    """`ValueError` for what a layer of a functional model was called with beside its input, such as a state."""
    given = layer._inbound_nodes[0].arguments
    others = [(f"argument {i}", value) for i, value in enumerate(given.args[1:], 1)]
    others += [(name, value) for name, value in given.kwargs.items() if value is not layer.input]
    names = ", ".join(name for name, value in others if value is not None and value is not False)  # the defaults
    if names:
        raise ValueError(f"layer {layer.name!r}: fastrnn has no {type(layer).__name__} called with {names}")


class _Reader:
    """Makes layers of fastrnn, of one dtype, of those of Keras."""

    def __init__(self, dtype: np.dtype, inference: bool):
        self.dtype, self.inference = dtype, inference

    def layers(self, layer: keras.Layer) -> Iterator[Layer]:
        """The layers that do what this one does."""
        kind = type(layer)
        self._refuse_training(layer)
        if kind in _RECURRENT:
            yield from self._recurrent(layer)
        elif kind is keras.layers.Bidirectional:
            yield from self._bidirectional(layer)
        elif kind is keras.layers.Dense:
            yield from_weights("dense", layer.get_weights(), dtype=self.dtype)
            yield from self._activation(layer)
        elif kind is keras.layers.TimeDistributed and type(layer.layer) is keras.layers.Dense:
            yield from self.layers(layer.layer)
        elif kind is keras.layers.Embedding:
            self._refuse(layer, [("mask_zero", True)] if layer.mask_zero else [], "give lengths= instead")
            yield from_weights("embedding", layer.get_weights(), dtype=self.dtype)
        elif kind is keras.layers.Activation:
            yield from self._activation(layer)
        elif kind is keras.layers.ReLU:
            options = {"max_value": None, "negative_slope": 0, "threshold": 0}
            self._refuse(layer, self._unusual(layer, options))
            yield ReLU(dtype=self.dtype)
        elif kind in (keras.layers.Dropout, keras.layers.SpatialDropout1D):
            yield self._dropout(layer)
        elif kind in _POOLING:
            self._refuse(layer, self._unusual(layer, {"data_format": "channels_last", "keepdims": False}))
            yield _POOLING[kind](dtype=self.dtype)
        elif kind is keras.layers.RepeatVector:
            yield Repeat(layer.n, dtype=self.dtype)
        elif kind is keras_layers.Last:
            yield Last(bidirectional=layer.bidirectional, dtype=self.dtype)
        elif kind is keras_layers.OneHot:
            yield OneHot(layer.num, dtype=self.dtype)
        elif kind is keras.layers.Masking:
            self._refuse(layer, [("mask_value", layer.mask_value)], "give lengths= instead")
        else:
            raise ValueError(f"layer {layer.name!r}: fastrnn has no counterpart of {kind.__name__}")

    def _refuse_training(self, layer):
        found = [(name, getattr(layer, name)) for name in _OF_TRAINING if getattr(layer, name, None) is not None]
        self._refuse(layer, [] if self.inference else found)

    @staticmethod
    def _refuse(layer, options, hint=""):
        """`ValueError` that names the options, if there are any."""
        if options:
            text = " and ".join(f"{name}={_text(value)}" for name, value in options)
            hint = f": {hint}" if hint else ""
            raise ValueError(f"layer {layer.name!r}: fastrnn has no {type(layer).__name__} with {text}{hint}")

    @staticmethod
    def _unusual(layer, usual):
        """Pairs of names and values of those options that are not as usual."""
        return [(name, getattr(layer, name)) for name, value in usual.items() if getattr(layer, name, value) != value]

    def _activation(self, layer):
        """The activation of a layer as one of its own, if it has any."""
        name = _activation_name(layer.activation)
        if name == "linear":
            return
        hint = "make it linear, for CrossEntropy takes logits" if name in ("softmax", "log_softmax") else ""
        self._refuse(layer, [] if name in _ACTIVATIONS else [("activation", layer.activation)], hint)
        yield _ACTIVATIONS[name](dtype=self.dtype)

    def _dropout(self, layer):
        per_sequence = isinstance(layer, keras.layers.SpatialDropout1D)
        shape = None if per_sequence else layer.noise_shape
        if shape is not None and not self.inference:
            per_sequence = len(shape) == 3 and shape[1] == 1 and shape[0] in (None, -1) and shape[2] in (None, -1)
            self._refuse(layer, [] if per_sequence else [("noise_shape", shape)])
        return Dropout(layer.rate, variational=per_sequence, dtype=self.dtype)

    def _recurrent(self, layer):
        self._refuse(layer, [("go_backwards", True)] if layer.go_backwards else [])
        options = self._options(layer)
        if layer.dropout and not self.inference:
            yield Dropout(layer.dropout, variational=True, dtype=self.dtype)  # one mask a sequence
        yield self._of_weights(layer, options, layer.get_weights())
        if not layer.return_sequences:
            yield Last(dtype=self.dtype)

    def _bidirectional(self, layer):
        ahead, back = layer.forward_layer, layer.backward_layer
        kinds = {type(ahead), type(back)}
        if len(kinds) > 1 or type(ahead) not in _RECURRENT or ahead.go_backwards or not back.go_backwards:
            raise ValueError(
                f"layer {layer.name!r}: a Bidirectional must have a SimpleRNN, GRU or LSTM and the same backwards"
            )
        self._refuse(layer, self._unusual(layer, {"merge_mode": "concat"}))
        options = self._options(ahead)
        if options != self._options(back):
            raise ValueError(f"layer {layer.name!r}: both directions of a Bidirectional must have the same options")
        if not self.inference:
            self._refuse(layer, [(n, v) for part in (ahead, back) for n, v in self._unusual(part, {"dropout": 0})])
        yield self._of_weights(ahead, options, layer.get_weights())
        if not layer.return_sequences:
            yield Last(bidirectional=True, dtype=self.dtype)

    def _of_weights(self, layer, options, weights):
        return from_weights(type(layer).__name__, weights, dtype=self.dtype, **options)

    def _options(self, layer):
        """The options of a recurrent layer that `from_weights` takes; others that are not as usual are refused."""
        self._refuse_training(layer)
        hint = "hand the state on instead" if layer.stateful else ""
        self._refuse(layer, self._unusual(layer, {"stateful": False, "return_state": False}), hint)
        if not self.inference:
            self._refuse(layer, self._unusual(layer, {"recurrent_dropout": 0}))
            self._refuse(layer, self._masks_per_gate(layer))
        name = _activation_name(layer.activation)
        if type(layer) is keras.layers.SimpleRNN:
            self._refuse(layer, [] if name in _ACTIVATIONS else [("activation", layer.activation)])
            return {"nonlinearity": name}
        functions = {"activation": "tanh", "recurrent_activation": "sigmoid"}
        found = {option: getattr(layer, option) for option in functions}
        self._refuse(layer, [(o, f) for o, f in found.items() if _activation_name(f) != functions[o]])
        return {"reset_after": layer.reset_after} if type(layer) is keras.layers.GRU else {}

    @staticmethod
    def _masks_per_gate(layer):
        """The other way of computing a layer draws a mask of dropout for each gate."""
        way = getattr(layer.cell, "implementation", 2)
        return [("dropout", layer.dropout), ("implementation", way)] if layer.dropout and way == 1 else []


def _activation_name(function):
    """The name of one of Keras's own activations, None for others."""
    name = getattr(function, "__name__", None)
    return name if name and getattr(keras.activations, name, None) is function else None


def _text(value):
    """A short text for an option's value: the name of a function or of an object's class."""
    if isinstance(value, (str, bool, int, float, tuple)) or value is None:
        return repr(value)
    return getattr(value, "__name__", type(value).__name__)


# ---- to Keras ----


def to_model(model: Layer, *, inference: bool) -> keras.Sequential:
    """See `fastrnn.interop.keras.to_model`."""
    layers = model.layers if isinstance(model, Sequential) else (model,)
    made: list[tuple[keras.Layer, list[np.ndarray]]] = []  # with their weights
    sequences, last_done = getattr(model, "_takes_sequences", True), False
    for i, layer in enumerate(layers):
        place = place_of(layer, str(i))
        refuse_options(layer, place, "Keras", inference=inference)
        if isinstance(layer, (RNN, GRU, LSTM)):
            after = next(iter(layers[i + 1 :]), None)
            last_done = isinstance(after, Last) and after.bidirectional == layer.bidirectional
            made += _stack(layer, return_sequences=not last_done)
        elif last_done:
            last_done = False
        else:
            made.append((_single(layer, place, sequences), weights_of(layer, 0)))
        sequences = layer._output_steps(1 if sequences else None) is not None
    result = keras.Sequential([*_inputs(model), *(layer for layer, _ in made)])
    for layer, weights in made:
        if weights:
            layer.set_weights(weights)
    return result


def _inputs(model):
    """What the model takes, where it takes only one thing."""
    if model._step_dimensions() == 1:
        return [keras.Input((None,), dtype="int32")]
    features = model._input_features()
    if features is None:
        return []
    sequences = getattr(model, "_takes_sequences", True)  # a layer alone that takes a certain size does
    return [keras.Input((None, features) if sequences else (features,), dtype=model.dtype.name)]


def _stack(layer: Recurrent, *, return_sequences: bool):
    """A layer of Keras's for each of the stack, with its weights."""
    kind = {ours: theirs for theirs, ours in _RECURRENT.items()}[type(layer)]
    options: dict[str, Any] = {"use_bias": layer.bias, "dtype": layer.dtype.name}
    if isinstance(layer, RNN):
        options["activation"] = layer.nonlinearity
    if isinstance(layer, GRU):
        options["reset_after"] = layer.reset_after
    for n in range(layer.num_layers):
        if n and layer.dropout:
            yield _dropout(layer.dropout, layer.variational, layer.dtype), []
        top = n == layer.num_layers - 1
        part = kind(layer.hidden_size, return_sequences=return_sequences or not top, **options)
        if layer.bidirectional:
            part = keras.layers.Bidirectional(part, dtype=layer.dtype.name)
        yield part, weights_of(layer, n)


def _dropout(rate, per_sequence, dtype):
    kind = keras.layers.SpatialDropout1D if per_sequence else keras.layers.Dropout
    return kind(rate, dtype=dtype.name)


def _single(layer: Layer, place: str, sequences: bool) -> keras.Layer:
    """One layer of Keras's. sequences: whether it takes them, or vectors."""
    dtype = {"dtype": layer.dtype.name}
    if isinstance(layer, Linear):
        return keras.layers.Dense(layer.out_features, use_bias=layer.bias, **dtype)
    if isinstance(layer, Embedding):
        return keras.layers.Embedding(layer.num_embeddings, layer.embedding_dim, **dtype)
    if isinstance(layer, OneHot):
        return keras_layers.OneHot(layer.num, **dtype)
    if isinstance(layer, Last):
        return keras_layers.Last(bidirectional=layer.bidirectional, **dtype)
    if isinstance(layer, Dropout):
        return _dropout(layer.p, layer.variational and sequences, layer.dtype)
    if isinstance(layer, Repeat):
        return keras.layers.RepeatVector(layer.steps, **dtype)
    if isinstance(layer, ActivityRegularization):  # without what acts in training
        return keras.layers.Activation("linear", **dtype)
    for name, kind in _ACTIVATIONS.items():
        if isinstance(layer, kind):
            return keras.layers.Activation(name, **dtype)
    for theirs, ours in _POOLING.items():
        if isinstance(layer, ours):
            return theirs(**dtype)
    raise ValueError(f"{place}: Keras has no such layer in a Sequential")
