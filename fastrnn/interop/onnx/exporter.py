"""Layers and models as ONNX graphs."""

import functools
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ... import checks, layers
from ...layers.base import Layer
from ...layers.initial_state import LEARNED, NAMES
from ...layers.recurrent import Recurrent
from ...model import Concatenated, Container, Residual, Sequential
from ...storage import Path, architecture, atomic_write
from .weights import OPERATORS, node_weights

OPSET = 17  # of 2022: recent runtimes take it, and those of the years before
IR_VERSION = 8
_LARGEST = 2**31 - 2**20  # bytes of parameters, for a protobuf message has less than 2**31
_ELEMENTWISE = {layers.Tanh: "Tanh", layers.ReLU: "Relu", layers.Sigmoid: "Sigmoid"}


def write(model: Layer, path: Path, *, lengths: bool, states: bool, tokens: bool) -> None:
    """See `fastrnn.interop.onnx.export`."""
    data = to_proto(model, lengths=lengths, states=states, tokens=tokens).SerializeToString()
    with atomic_write(path) as file:
        file.write(data)


def to_proto(model: Layer, *, lengths: bool, states: bool, tokens: bool) -> onnx.ModelProto:
    """The ONNX model that `write` writes."""
    if not isinstance(model, Layer):
        raise TypeError(f"model must be a layer or a model, got {type(model).__name__}")
    architecture(model)  # TypeError for layers of other people's
    flags = {"lengths": lengths, "states": states, "tokens": tokens}
    lengths, states, tokens = (checks.flag(name, value) for name, value in flags.items())
    if model.num_parameters * model.dtype.itemsize > _LARGEST:
        raise ValueError(f"model has more than {_LARGEST:,} bytes of parameters, which an ONNX file can't hold")
    graph = _Graph(model, states)
    _add_output(graph, model, _translate(model, graph, _add_input(graph, model, lengths, tokens), ""))
    return graph.proto(f"{type(model).__name__} of fastrnn, as it computes at inference.\n\n{model!r}")


class _Graph:
    """A graph in the making. Sequences in it are time first."""

    def __init__(self, model, states):
        self.dtype, self.batch_first, self.states = model.dtype, model.batch_first, states
        self._nodes, self._inputs, self._outputs, self._initializers = [], [], [], {}

    def node(self, operator, inputs, *outputs, **attributes):
        """Add a node with these outputs, or with one that is named after it; the first one's name."""
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, outputs or [name], name=name, **attributes))
        return outputs[0] if outputs else name

    def constant(self, value, dtype=np.int64, name=None):
        """The name of a constant tensor: `name`, or one after the value."""
        array = np.asarray(value, dtype)
        name = name or f"{array.dtype}_{array.tolist()}"
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def size(self, x, axis):
        """The name of the size (1,) of a dimension of x."""
        return self.node("Shape", [x], start=axis, end=axis + 1)

    def input(self, name, dtype, shape):
        """Add an input; its name."""
        self._inputs.append(_described(name, dtype, shape))
        return name

    def output(self, name, shape):
        """Declare that the tensor of this name is an output."""
        self._outputs.append(_described(name, self.dtype, shape))

    def in_order(self, time, batch):
        """The pair in the order of the model's dimensions."""
        return (batch, time) if self.batch_first else (time, batch)

    def proto(self, text):
        """The model, with the output that was declared last as its first."""
        *states, y = self._outputs
        graph = helper.make_graph(
            self._nodes, "fastrnn", self._inputs, [y, *states], list(self._initializers.values()), doc_string=text
        )
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, ir_version=IR_VERSION, opset_imports=imports, producer_name="fastrnn", doc_string=text
        )


def _described(name, dtype, shape):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


class _Ends:
    """Where the sequences of x (T,B,…) end, by the input `lengths` (B,) int32."""

    def __init__(self, graph, x, lengths):
        self._graph, self._x, self.lengths = graph, x, lengths

    @functools.cached_property
    def count(self):
        """The lengths as int64."""
        return self._graph.node("Cast", [self.lengths], to=onnx.TensorProto.INT64)

    @functools.cached_property
    def mask(self):
        """(T,B), true before each sequence's end."""
        graph = self._graph
        steps = graph.node("Squeeze", [graph.size(self._x, 0), graph.constant([0])])
        numbers = graph.node("Range", [graph.constant(0), steps, graph.constant(1)])
        return graph.node("Less", [graph.node("Unsqueeze", [numbers, graph.constant([1])]), self.count])

    def fill(self, x, number):
        """x (T,B,F) with a number past the ends."""
        mask = self._graph.node("Unsqueeze", [self.mask, self._graph.constant([2])])
        return self._graph.node("Where", [mask, x, self._graph.constant(number, self._graph.dtype)])


class _Value(NamedTuple):
    """A tensor of the graph: (T,B,F), or (B,F) without steps."""

    name: str
    steps: str | int | None  # name or size of its first dimension
    ends: _Ends | None = None  # None where all steps are valid


# ---- input and output ----


def _add_input(graph, model, lengths, tokens):
    integers = tokens or model._step_dimensions() == 1
    one_hot = model._step_dimensions() != 1 and tokens
    if one_hot and not _takes_tokens(model):
        raise ValueError("tokens must be False for a model whose first layer does not take integers")
    if not _takes_sequences(model):
        if lengths:
            raise ValueError("lengths must be False for a model that takes vectors, not sequences")
        return _Value(graph.input("x", model.dtype, ("B", model._input_features() or "F")), None)
    features = () if integers else (model._input_features() or "F",)
    x = graph.input("x", np.int64 if integers else model.dtype, (*graph.in_order("T", "B"), *features))
    if graph.batch_first:
        x = graph.node("Transpose", [x], perm=(1, 0, 2)[: 2 + len(features)])
    ends = _Ends(graph, x, graph.input("lengths", np.int32, ("B",))) if lengths else None
    if one_hot:
        x = _one_hot(graph, x, model._input_features())
    return _Value(x, "T", ends)


def _takes_sequences(model):
    try:
        model._output_steps(1)
    except ValueError:
        return False
    return True


def _takes_tokens(model):
    """Whether it takes integers besides floats."""
    while isinstance(model, Container):
        if getattr(model, "include_input", False):
            return False
        model = model.layers[0]
    return isinstance(model, Recurrent)


def _add_output(graph, model, value):
    features = model._output_features(model._input_features())
    if value.steps is None:
        graph.node("Identity", [value.name], "y")
        graph.output("y", ("B", features))
        return
    y = value.ends.fill(value.name, 0) if value.ends else value.name
    if graph.batch_first:
        graph.node("Transpose", [y], "y", perm=(1, 0, 2))
    else:
        graph.node("Identity", [y], "y")
    graph.output("y", (*graph.in_order(value.steps, "B"), features))


# ---- layers ----


@functools.singledispatch
def _translate(layer, graph, value, prefix):
    """Add a layer's nodes; the `_Value` of its output for that of its input. `prefix` stands before its names."""
    raise _Inexpressible(layer, prefix, "there is no operator for it")


class _Inexpressible(ValueError):
    def __init__(self, layer, prefix, why):
        place = f"layer {prefix[:-1]}, {type(layer).__name__}," if prefix else type(layer).__name__
        super().__init__(f"{place} can't be expressed in ONNX: {why}")


@_translate.register
def _(model: Sequential, graph, value, prefix):
    for i, layer in enumerate(model.layers):
        value = _translate(layer, graph, value, f"{prefix}{i}.")
    return value


@_translate.register
def _(model: Residual, graph, value, prefix):
    output = _translate(model.layers[0], graph, value, f"{prefix}0.")
    return value._replace(name=graph.node("Add", [value.name, output.name]))


@_translate.register
def _(model: Concatenated, graph, value, prefix):
    parts = [value.name] if model.include_input else []
    for i, layer in enumerate(model.layers):
        value = _translate(layer, graph, value, f"{prefix}{i}.")
        parts.append(value.name)
    return value._replace(name=graph.node("Concat", parts, axis=-1))


@_translate.register
def _(layer: Recurrent, graph, value, prefix):
    if type(layer) not in OPERATORS:
        raise _Inexpressible(layer, prefix, "there is no operator for it")
    if layer.dilation > 1:
        raise _Inexpressible(layer, prefix, f"no operator has dilation={layer.dilation}")
    if any(layer.zoneout):
        raise _Inexpressible(layer, prefix, "zoneout mixes states at inference, too")
    parts = ("h", "c")[: layer.states]
    initial = [_initial_states(layer, graph, value, prefix, i) for i in range(len(parts))]
    finals = [[f"{prefix}{part}_n{suffix}" for suffix in _suffixes(layer)] for part in parts]
    for number in range(layer.num_layers):
        weights = node_weights(layer, number)
        w, r, b, p = [
            graph.constant(weights[name], graph.dtype, f"{prefix}{name}_l{number}") if name in weights else ""
            for name in ("W", "R", "B", "P")
        ]
        lengths = value.ends.lengths if value.ends else ""
        inputs = [value.name, w, r, b, lengths, *[states[number] for states in initial], p]
        while not inputs[-1]:
            inputs.pop()
        outputs = [states[number] for states in finals] if graph.states else []
        y = graph.node(OPERATORS[type(layer)], inputs, f"{prefix}Y_l{number}", *outputs, **_attributes(layer))
        value = value._replace(name=_joined_directions(layer, graph, y))
    if graph.states:
        for part, states in zip(parts, finals, strict=True):
            if len(states) > 1:
                graph.node("Concat", states, f"{prefix}{part}_n", axis=0)
            graph.output(f"{prefix}{part}_n", (len(layer.passes), "B", layer.hidden_size))
    return value


def _suffixes(layer):
    """Of the names of the layers' own states."""
    return [""] if layer.num_layers == 1 else [f"_l{number}" for number in range(layer.num_layers)]


def _attributes(layer):
    attributes = {"hidden_size": layer.hidden_size}
    if layer.bidirectional:
        attributes["direction"] = "bidirectional"
    if isinstance(layer, layers.RNN):
        attributes["activations"] = [layer.nonlinearity.capitalize()] * layer.directions
    if isinstance(layer, layers.GRU):
        attributes["linear_before_reset"] = int(layer.reset_after)
    return attributes


def _initial_states(layer, graph, value, prefix, part):
    """The names of each layer's part of the initial state, (D,B,H); "" stands for zeros."""
    shape = layer.num_layers, layer.directions, layer.hidden_size
    if graph.states:
        name = graph.input(f"{prefix}{'hc'[part]}", graph.dtype, (len(layer.passes), "B", layer.hidden_size))
        if layer.num_layers == 1:
            return [name]
        names = [name + suffix for suffix in _suffixes(layer)]
        graph.node("Split", [name, graph.constant([layer.directions] * layer.num_layers)], *names, axis=0)
        return names
    if layer.initial_state != LEARNED:
        return [""] * layer.num_layers
    one = graph.constant([1])
    batch = graph.node("Concat", [one, graph.size(value.name, 1), one], axis=0)
    learned = layer.state_dict()[NAMES[part]].reshape(shape)
    names = [f"{prefix}{NAMES[part]}_l{number}" for number in range(layer.num_layers)]
    return [
        graph.node("Expand", [graph.constant(array[:, np.newaxis], graph.dtype, name), batch])
        for name, array in zip(names, learned, strict=True)
    ]


def _joined_directions(layer, graph, y):
    """(T,B,D·H) of (T,D,B,H)."""
    if not layer.bidirectional:
        return graph.node("Squeeze", [y, graph.constant([1])])
    together = graph.node("Transpose", [y], perm=(0, 2, 1, 3))
    return graph.node("Reshape", [together, graph.constant([0, 0, 2 * layer.hidden_size])])


@_translate.register
def _(layer: layers.Linear, graph, value, prefix):
    values = layer.state_dict()
    weight = graph.constant(values["weight"].T, graph.dtype, f"{prefix}weight")
    y = graph.node("MatMul", [value.name, weight])
    if layer.bias:
        y = graph.node("Add", [y, graph.constant(values["bias"], graph.dtype, f"{prefix}bias")])
    return value._replace(name=y)


@_translate.register
def _(layer: layers.Embedding, graph, value, prefix):
    x = value.name
    if value.ends:  # the padding may hold anything
        x = graph.node("Where", [value.ends.mask, x, graph.constant(0)])
    weight = graph.constant(layer.state_dict()["weight"], graph.dtype, f"{prefix}weight")
    return value._replace(name=graph.node("Gather", [weight, x], axis=0))


@_translate.register
def _(layer: layers.OneHot, graph, value, prefix):
    return value._replace(name=_one_hot(graph, value.name, layer.num))


def _one_hot(graph, x, size):
    return graph.node("OneHot", [x, graph.constant(size), graph.constant([0, 1], graph.dtype)], axis=-1)


@_translate.register(layers.Tanh)
@_translate.register(layers.ReLU)
@_translate.register(layers.Sigmoid)
def _(layer, graph, value, prefix):
    return value._replace(name=graph.node(_ELEMENTWISE[type(layer)], [value.name]))


@_translate.register(layers.Dropout)
@_translate.register(layers.ActivityRegularization)
def _(layer, graph, value, prefix):
    return value


@_translate.register
def _(layer: layers.Last, graph, value, prefix):
    if not layer.bidirectional:
        return _Value(_last_step(graph, value.name, value.ends), None)
    halves = f"{prefix}forward", f"{prefix}reverse"
    graph.node("Split", [value.name], *halves, axis=-1)
    last = _last_step(graph, halves[0], value.ends)
    first = graph.node("Gather", [halves[1], graph.constant(0)], axis=0)
    return _Value(graph.node("Concat", [last, first], axis=-1), None)


def _last_step(graph, x, ends):
    """(B,F) of (T,B,F)."""
    if ends is None:
        return graph.node("Gather", [x, graph.constant(-1)], axis=0)
    steps = graph.node("Sub", [ends.count, graph.constant(1)])
    by_batch = graph.node("Transpose", [x], perm=(1, 0, 2))
    return graph.node("GatherND", [by_batch, graph.node("Unsqueeze", [steps, graph.constant([1])])], batch_dims=1)


@_translate.register
def _(layer: layers.MeanPool, graph, value, prefix):
    if value.ends is None:
        return _Value(graph.node("ReduceMean", [value.name], axes=[0], keepdims=0), None)
    total = graph.node("ReduceSum", [value.ends.fill(value.name, 0), graph.constant([0])], keepdims=0)
    counts = graph.node("Cast", [value.ends.lengths], to=helper.np_dtype_to_tensor_dtype(graph.dtype))
    return _Value(graph.node("Div", [total, graph.node("Unsqueeze", [counts, graph.constant([1])])]), None)


@_translate.register
def _(layer: layers.MaxPool, graph, value, prefix):
    x = value.ends.fill(value.name, -np.inf) if value.ends else value.name
    return _Value(graph.node("ReduceMax", [x], axes=[0], keepdims=0), None)


@_translate.register
def _(layer: layers.Repeat, graph, value, prefix):
    step = graph.node("Unsqueeze", [value.name, graph.constant([0])])
    return _Value(graph.node("Expand", [step, graph.constant([layer.steps, 1, 1])]), layer.steps)
