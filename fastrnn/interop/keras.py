"""Weights and models from Keras 3, and back.

Lists of weights, as `get_weights` gives and `set_weights` takes them, need no Keras. What fastrnn or Keras has no
counterpart of is a `ValueError` that names it; nothing is left out in silence.

Keras puts the batch first, transposes its matrices, and has the GRU's gates in another order, z, r, h. It has one bias
where fastrnn has two: it becomes `bias_ih`, with `bias_hh` zero, and back their sum. Only the GRU with `reset_after`
keeps them apart, for there they do not act alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..layers import GRU, LSTM, RNN, Embedding, Linear
from ..layers.base import Layer
from ..layers.recurrent import Recurrent
from .common import Part, check_model, common_dtype, float_values, refuse_options, require

if TYPE_CHECKING:
    import keras
    from numpy.typing import DTypeLike

__all__ = ["from_model", "from_weights", "to_model", "to_weights"]

_KINDS: dict[str, type[Layer]] = {
    "simple_rnn": RNN, "simplernn": RNN, "rnn": RNN, "gru": GRU, "lstm": LSTM,
    "dense": Linear, "linear": Linear, "embedding": Embedding,
}  # fmt: skip
_NAMES = '"simple_rnn", "gru", "lstm", "dense" or "embedding"'
_BLOCKS = {RNN: (0,), GRU: (1, 0, 2), LSTM: (0, 1, 2, 3)}  # Keras's gates in fastrnn's order, and the other way round


def from_weights(
    kind: str,
    weights: Sequence[Any],
    *,
    nonlinearity: str = "tanh",
    reset_after: bool | None = None,
    batch_first: bool = True,
    dtype: DTypeLike | None = None,
) -> Layer:
    """The layer that a list of weights belongs to, as `get_weights()` of a Keras layer gives it.

    kind: "simple_rnn", "gru", "lstm", "dense" or "embedding", or the name of the Keras class.
    weights: of a recurrent layer `[kernel, recurrent_kernel, bias]`, without the last if it has none, and twice as many
        of one in `Bidirectional`, forward first; `[kernel, bias]` or `[kernel]`; `[embeddings]`.
    nonlinearity: of a simple RNN, "tanh", "relu" or "sigmoid".
    reset_after: of a GRU, which its bias tells: (2,3·H) if it resets after the product, (3·H) before. Needed without.
    batch_first: of a recurrent layer.
    dtype: "float32" or "float64"; None takes the weights', float32 for shorter floats.

    ValueError if the weights do not fit together.
    """
    if not isinstance(kind, str):
        raise TypeError(f"kind must be {_NAMES}, got {type(kind).__name__}")
    layer_class = _KINDS.get(kind.lower())
    if layer_class is None:
        raise ValueError(f"kind must be {_NAMES}, got {kind!r}")
    if isinstance(weights, np.ndarray) or not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a list of arrays, got {type(weights).__name__}")
    arrays = [float_values(f"weights[{i}]", array) for i, array in enumerate(weights)]
    dtype = common_dtype(arrays, dtype)
    arrays = [array.astype(dtype, copy=False) for array in arrays]
    if layer_class in _BLOCKS:
        options = {"nonlinearity": nonlinearity} if layer_class is RNN else {}
        return _recurrent(layer_class, arrays, reset_after, batch_first, options).filled()
    return (_linear if layer_class is Linear else _embedding)(arrays).filled()


def _linear(arrays):
    if len(arrays) not in (1, 2):
        raise ValueError(f"weights of a Dense layer must be [kernel, bias] or [kernel], got {len(arrays)} arrays")
    kernel, *rest = arrays
    checks.shape("weights[0]", kernel.shape, (None, None))
    inputs, outputs = kernel.shape
    for bias in rest:
        checks.shape("weights[1]", bias.shape, (outputs,))
    layer = Linear(inputs, outputs, bias=bool(rest), dtype=kernel.dtype, seed=0)
    return Part(layer, {"weight": kernel.T, **({"bias": rest[0]} if rest else {})})


def _embedding(arrays):
    if len(arrays) != 1:
        raise ValueError(f"weights of an Embedding must be [embeddings], got {len(arrays)} arrays")
    checks.shape("weights[0]", arrays[0].shape, (None, None))
    return Part(Embedding(*arrays[0].shape, dtype=arrays[0].dtype, seed=0), {"weight": arrays[0]})


def _recurrent(kind, arrays, reset_after, batch_first, options):
    """One recurrent layer, of one direction or two."""
    count = len(arrays)
    if count not in (2, 3, 4, 6):
        raise ValueError(
            f"weights must be [kernel, recurrent_kernel, bias], or without the bias, and twice that if bidirectional, "
            f"got {count} arrays"
        )
    has_bias, bidirectional = count % 3 == 0, count > 3
    checks.shape("weights[0]", arrays[0].shape, (None, None))
    checks.shape("weights[1]", arrays[1].shape, (None, None))
    inputs, hidden = len(arrays[0]), len(arrays[1])
    if kind is GRU:
        options = {**options, "reset_after": _reset_after(arrays[2] if has_bias else None, reset_after)}
    two = options.get("reset_after", False)
    columns = kind.gates * hidden
    shapes = [(inputs, columns), (hidden, columns), *([(2, columns) if two else (columns,)] if has_bias else [])]
    for i, array in enumerate(arrays):
        checks.shape(f"weights[{i}]", array.shape, shapes[i % len(shapes)])
    values = {}
    for direction in range(1 + bidirectional):
        names = kind._names(0, direction)
        kernel, square, *bias = arrays[direction * len(shapes) :][: len(shapes)]
        both = [*(bias[0] if two else (bias[0], np.zeros_like(bias[0])))] if bias else []
        for name, array in zip(names, (kernel.T, square.T, *both), strict=False):
            values[name] = _reordered(kind, array)
    layer = kind(
        inputs, hidden, bias=has_bias, bidirectional=bidirectional, batch_first=batch_first, dtype=arrays[0].dtype,
        seed=0, **options,
    )  # fmt: skip
    return Part(layer, values)


def _reset_after(bias, asked):
    if asked is not None:
        asked = checks.flag("reset_after", asked)
    if bias is None:
        if asked is None:
            raise ValueError("pass reset_after=True or False: the weights of a GRU without bias do not tell")
        return asked
    told = bias.ndim == 2
    if asked not in (None, told):
        raise ValueError(f"reset_after={asked} does not go with a bias of shape {bias.shape}")
    return told


def _reordered(kind, array):
    """The blocks of rows of each gate in the other library's order."""
    blocks = array.reshape(kind.gates, -1, *array.shape[1:])
    return blocks[list(_BLOCKS[kind])].reshape(array.shape)


def to_weights(layer: Layer) -> list[np.ndarray]:
    """A layer's parameters as the list that `set_weights` of the Keras layer takes.

    layer: `RNN`, `GRU` or `LSTM` of one layer (for `Bidirectional` if it has two directions), `Linear`, `Embedding`.
    ValueError for another, a stack, which `to_model` makes several layers of, or options that Keras lacks.
    """
    check_model(layer)
    if isinstance(layer, (RNN, GRU, LSTM)) and layer.num_layers > 1:
        raise ValueError(f"layer must have num_layers=1, got {layer.num_layers}: a layer of Keras's is never a stack")
    if not isinstance(layer, (RNN, GRU, LSTM, Linear, Embedding)):
        raise ValueError(f"layer must be an RNN, GRU, LSTM, Linear or Embedding, got {type(layer).__name__}")
    refuse_options(layer, type(layer).__name__, "Keras", inference=True)
    return weights_of(layer, 0)


def weights_of(layer: Layer, number: int) -> list[np.ndarray]:
    """Keras's weights of a layer, none for one without; of a stack, those of the one with this number in it."""
    values = layer.state_dict()
    if not values:
        return []
    if isinstance(layer, Embedding):
        return [values["weight"]]
    if isinstance(layer, Linear):
        return [np.ascontiguousarray(values["weight"].T), *([values["bias"]] if layer.bias else [])]
    assert isinstance(layer, Recurrent)
    kind = type(layer)
    weights = []
    for direction in range(layer.directions):
        found = [_reordered(kind, values[name]) for name in layer._names(number, direction) if name in values]
        weights += [np.ascontiguousarray(array.T) for array in found[:2]]
        if layer.bias:
            both = found[2:]
            weights.append(np.stack(both) if isinstance(layer, GRU) and layer.reset_after else both[0] + both[1])
    return weights


def from_model(model: keras.Model, *, inference: bool = False) -> Layer:
    """The `Sequential` (with `batch_first`) that computes what a Keras model computes, with its weights.

    model: built, a `keras.Sequential` or a functional model that is a chain, of SimpleRNN, GRU, LSTM, Bidirectional,
        Dense, TimeDistributed of one, Embedding, Dropout, SpatialDropout1D, Activation, ReLU, RepeatVector,
        GlobalAveragePooling1D and GlobalMaxPooling1D, and models of them. `return_sequences=False` becomes `Last`,
        with `bidirectional=True` of a Bidirectional, a Dense layer's activation a layer of its own, a recurrent layer's
        `dropout` a variational `Dropout` before it.
    inference: what acts in training alone and fastrnn lacks, such as recurrent dropout or regularisers, is left out.
        Without it, it is a ValueError.

    ValueError that names the layer and what it has for which fastrnn has no counterpart: masks (fastrnn has `lengths`),
    `go_backwards`, `stateful` (hand the state on instead), other activations, ways to merge but "concat". Training
    alone is concerned by `trainable`, which is not taken over.
    """
    require("keras", "extra fastrnn[keras]")
    from . import keras_conversion

    return keras_conversion.from_model(model, inference=checks.flag("inference", inference))


def to_model(model: Layer, *, inference: bool = False) -> keras.Sequential:
    """A built `keras.Sequential` that computes what a layer or `Sequential` computes, with copies of its parameters.

    It takes the batch first, whatever `model` does, and full sequences: there are no `lengths`. A stack becomes several
    layers, with Dropout between them; `Last` a `return_sequences=False` where it can. What Keras has no layer for, a
    last step elsewhere and one-hot vectors, are layers of `fastrnn.interop.keras_layers`.

    inference: as in `from_model`, what Keras lacks. ValueError for what it has no counterpart of.
    """
    check_model(model)
    require("keras", "extra fastrnn[keras]")
    from . import keras_conversion

    return keras_conversion.to_model(model, inference=checks.flag("inference", inference))
