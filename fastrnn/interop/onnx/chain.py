"""Recognises graphs that are one chain of fastrnn's layers.

The data are followed through the graph by what their dimensions are made of: see `axes`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...layers import (
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
from ...layers.base import Layer
from ...model import Sequential
from .axes import Atom, Axes, are_features, regrouped, size_arithmetic
from .nodes import OPERATORS, fitting_layer, read_options, read_weights


class NotAChain(Exception):
    """Why a graph is no chain of fastrnn's layers."""


_LENGTHS = (Atom("lengths"),)  # the axis of the numbers of valid steps
_MOST_DIMENSIONS = 64  # of arrays in NumPy
_ENDS = {"forward": "last", "reverse": "first"}
_GLUE = {
    "Cast",
    "Concat",
    "Expand",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


class _Tensor(NamedTuple):
    """A value that depends on inputs.

    kind: "data", what runs through the layers; "final", the last h of a layer; "finals", those of several layers;
        "sum", over the steps; "forward" and "reverse", halves of the features, which become "last" and "first", those
        of these steps, as are the two directions of "final";
        "state", what states are made of or become; "zeros" and "learned", states that depend on sizes alone; "sizes",
        of other tensors; "lengths", "ends", "steps" and "mask": the numbers of valid steps, the last of these, the
        numbers of all steps, and which are valid.
    axes: of what it is made; of "sizes", the dimensions that these are the sizes of. None where it does not matter.
    age: how many nodes had changed the data when it was made.
    fill: number past the sequences' ends, where that is known.
    array: of "learned", (D,H).
    """

    kind: str
    axes: Axes | None = None
    age: int = 0
    fill: float | None = None
    array: np.ndarray | None = None


def chain_of(proto: onnx.ModelProto, constants: dict[str, np.ndarray]) -> Layer:
    """The trainable model of a graph, of which `constants` are values by name. `NotAChain` where it is none."""
    try:
        walk = _Walk(proto.graph, constants)
        for node in proto.graph.node:
            if not constants.keys() >= set(node.output):
                walk.visit(node)
        return walk.model()
    except (ValueError, TypeError) as error:  # of layers that don't fit together
        raise NotAChain(str(error)) from None
    except (AttributeError, LookupError):  # of nodes that are not used as in any chain
        raise NotAChain(f"{_name(node)} is used in a way that none of fastrnn's layers is") from None


class _Walk:
    """The way through a graph's nodes, and the layers found on it."""

    def __init__(self, graph: onnx.GraphProto, constants: dict[str, np.ndarray]):
        self._graph = graph
        self._values: dict[str, _Tensor | np.ndarray] = dict(constants)
        self._layers: list[Layer] = []
        self._age = 0
        self._node: onnx.NodeProto | None = None  # that is being visited
        self._input_time: Atom | None = None  # which of the input's dimensions are the steps, once that is known
        self._time: Atom | None = None  # the same of the data now
        self._ragged: bool | None = None  # whether nodes know where sequences end, once that is known
        self._dtype = np.dtype(np.float32)
        states = _makings_of_states(graph)
        inputs = [value for value in graph.input if value.name not in constants]
        tensors = {value.name: self._input(value, value.name in states) for value in inputs}
        self._values.update(tensors)
        data = [name for name, tensor in tensors.items() if tensor.kind == "data"]
        if len(data) != 1:
            raise NotAChain(f"it has {len(data)} inputs besides states and lengths, {', '.join(data)}")

    def _input(self, value, is_state):
        if is_state:
            return _Tensor("state")
        type_ = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(type_.elem_type)
        leading, features = [], ()
        if type_.HasField("shape"):
            sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in type_.shape.dim]
            if dtype.kind == "f" and sizes:
                features = ((Atom("F", sizes.pop()),),)
                self._dtype = dtype
            leading = [(Atom(str(i), size),) for i, size in enumerate(sizes)]
        if dtype.kind == "i" and len(leading) == 1:
            return _Tensor("lengths", (_LENGTHS,))
        if dtype.kind not in "if" or not (1 if features else 2) <= len(leading) <= 2:
            raise NotAChain(f"its input {value.name} is of no shape or dtype that layers take")
        return _Tensor("data", (*leading, *features))

    def visit(self, node):
        """Find out what the outputs of a node are."""
        self._node = node
        inputs = [self._values[name] if name else None for name in node.input]
        kinds = {value.kind for value in inputs if isinstance(value, _Tensor)}
        if node.op_type in OPERATORS:
            outputs = self._recurrent(node, inputs)
        elif node.op_type == "Shape":
            outputs = [_sizes(node, *inputs)]
        elif kinds <= {"sizes", "zeros", "learned"}:
            outputs = [_made_of_sizes(node, inputs)]
        elif _goes_to_states(node, kinds):
            outputs = [_Tensor("state") for _ in node.output]
        else:
            handler = getattr(self, f"_{node.op_type.lower()}", None)
            if handler is None or node.domain:
                raise NotAChain(f"{_name(node)} is none of fastrnn's layers")
            output = handler(node, *inputs)
            if output is None:
                raise NotAChain(f"{_name(node)} is used in a way that none of fastrnn's layers is")
            outputs = output if isinstance(output, list) else [output]
        self._values.update(zip(node.output, outputs, strict=False))

    def model(self):
        """The model of all layers found."""
        outputs = [self._values[value.name] for value in self._graph.output]
        found = [value for value in outputs if isinstance(value, _Tensor)]
        data = [value for value in found if value.kind == "data"] or [v for v in found if v.kind == "final"]
        if len(data) != 1:
            raise NotAChain(f"{len(data)} of its outputs are data, rather than one")
        self._take(data[0])
        if not self._layers:
            raise NotAChain("it has no layers")
        model = self._layers[0] if len(self._layers) == 1 else Sequential(*self._layers)
        model.batch_first = self._input_time is not None and self._input_time.name == "1"
        return model

    # ---- the data ----

    def _take(self, value):
        """The axes of the data, before a node changes it."""
        if not isinstance(value, _Tensor) or value.kind not in ("data", "final"):
            raise NotAChain(f"{_name(self._node)} computes with what is not the data")
        if value.age != self._age:
            raise NotAChain("it branches: the output of a layer is used twice")
        if value.fill not in (None, 0):
            raise NotAChain("the padding is filled with numbers that are no zeros")
        self._age += 1
        if value.kind == "final":
            directions = [axis for axis in value.axes if Atom("D", 2) in axis]
            if not all(map(are_features, directions)):
                raise NotAChain("the final states of both directions are not joined as features")
            self._layers.append(Last(bidirectional=bool(directions), dtype=self._dtype))
            self._time = None
        return value.axes

    def _data(self, axes):
        return _Tensor("data", tuple(axes), self._age)

    def _changed(self, value, layer, features=None):
        """The data after a layer that treats all steps alike, and gives so many features."""
        axes = self._take(value)
        if features is not None:
            if not are_features(axes[-1]):
                raise NotAChain("a matrix product goes over what are not the features")
            axes = (*axes[:-1], (Atom("F", features),))
        self._layers.append(layer)
        return self._data(axes)

    def _without_time(self, value, axis, layer, ragged):
        """The data after a layer that sums up the steps, the valid ones if `ragged`."""
        axes = self._take(value)
        self._be_time(axes[axis])
        self._be_ragged(ragged)
        self._time = None
        self._layers.append(layer)
        return self._data(axes[:axis] + axes[axis:][1:])

    def _be_time(self, axis):
        """Take note that an axis is the steps."""
        if len(axis) != 1 or axis[0].name in "FD":
            raise NotAChain("a node goes over steps that are not a dimension of their own")
        if self._input_time is None:
            self._time = self._input_time = axis[0]
        if self._time != axis[0]:
            raise NotAChain("nodes don't agree on which dimension is the steps")

    def _be_ragged(self, ragged):
        """Take note of whether a node knows where sequences end: in a fastrnn model either all layers do or none."""
        if self._time is not None and self._time != self._input_time:
            fits = not ragged  # repeated vectors are whole sequences
        else:
            self._ragged = ragged if self._ragged is None else self._ragged
            fits = self._ragged == ragged
        if not fits:
            raise NotAChain("only some of its nodes know where sequences end")

    # ---- nodes that are layers ----

    def _recurrent(self, node, inputs):
        x, w, r, b, lengths, h, c, p = inputs + [None] * (8 - len(inputs))
        if any(isinstance(value, _Tensor) for value in (w, r, b, p)):
            raise NotAChain(f"the weights of {_name(node)} are not constant")
        options = read_options(node)
        if options.reverse == (True,):
            raise NotAChain(f"{_name(node)} is of the reverse direction alone")
        if lengths is not None and not (isinstance(lengths, _Tensor) and lengths.kind == "lengths"):
            raise NotAChain(f"sequence_lens of {_name(node)} is no input of the graph")
        axes = self._take(x)
        weights = read_weights(node.op_type, options, w, r, b, p)
        learned = _learned([h, c][: OPERATORS[node.op_type].states], options.batch_first)
        layer = None
        if options.functions[0] == options.functions[-1]:
            layer = fitting_layer(node.op_type, options, options.functions[0], weights, learned)
        if layer is None:
            raise NotAChain(f"{_name(node)} has attributes that no layer of fastrnn's has")
        if len(axes) != 3 or not are_features(axes[2]):
            raise NotAChain(f"the input of {_name(node)} is no sequence of features")
        time, batch = (axes[1], axes[0]) if options.batch_first else axes[:2]
        self._be_time(time)
        self._be_ragged(lengths is not None)
        self._layers.append(layer)
        directions = (Atom("D", 2),) if layer.bidirectional else ()
        features = (Atom("F", layer.hidden_size),)
        lead = (batch, time, directions) if options.batch_first else (time, directions, batch)
        final = (batch, directions, features) if options.batch_first else (directions, batch, features)
        return self._data((*lead, features)), _Tensor("final", final, self._age), _Tensor("state")

    def _matmul(self, node, x, weight):
        if not isinstance(weight, np.ndarray) or weight.ndim != 2:
            return None
        return self._changed(x, _linear(weight.T), weight.shape[1])

    def _gemm(self, node, x, weight, bias=None):
        given = _attributes(node)
        constant = isinstance(weight, np.ndarray) and not isinstance(bias, _Tensor)
        if not constant or given.get("transA", 0):
            return None
        weight = given.get("alpha", 1.0) * (weight if given.get("transB", 0) else weight.T)
        if bias is not None:
            bias = np.broadcast_to(given.get("beta", 1.0) * bias, (1, len(weight)))[0]
        return self._changed(x, _linear(weight, bias), len(weight))

    def _add(self, node, a, b):
        """The bias of the linear layer before."""
        x, bias = (b, a) if isinstance(a, np.ndarray) else (a, b)
        layer = self._layers[-1] if self._layers else None
        if not (isinstance(bias, np.ndarray) and isinstance(layer, Linear) and not layer.bias):
            return None
        if bias.shape[-1:] != (bias.size,) or bias.size != layer.out_features:
            return None
        axes = self._take(x)
        if bias.ndim > len(axes) or axes[-1] != (Atom("F", layer.out_features),):
            return None
        self._layers[-1] = _linear(layer.state_dict()["weight"], bias.reshape(-1))
        return self._data(axes)

    def _tanh(self, node, x):
        return self._changed(x, Tanh(dtype=self._dtype))

    def _relu(self, node, x):
        return self._changed(x, ReLU(dtype=self._dtype))

    def _sigmoid(self, node, x):
        return self._changed(x, Sigmoid(dtype=self._dtype))

    def _onehot(self, node, x, depth, values):
        if not (isinstance(depth, np.ndarray) and isinstance(values, np.ndarray) and values.tolist() == [0, 1]):
            return None
        axes = self._take(x)
        if any(map(are_features, axes)) or _attributes(node).get("axis", -1) not in (-1, len(axes)):
            return None
        self._layers.append(OneHot(int(depth.reshape(())), dtype=values.dtype))
        return self._data((*axes, (Atom("F", int(depth.reshape(()))),)))

    def _expand(self, node, x, shape):
        """Steps of a vector, each the same."""
        if not isinstance(shape, np.ndarray):
            return None
        axes, sizes = self._take(x), shape.tolist()
        steps = [i for i, size in enumerate(sizes) if size > 1]
        if len(sizes) != len(axes) or len(steps) != 1 or axes[steps[0]] or self._time:
            return None
        self._layers.append(Repeat(sizes[steps[0]], dtype=self._dtype))
        self._time = Atom("repeated", sizes[steps[0]])
        return self._data((*axes[: steps[0]], (self._time,), *axes[steps[0] + 1 :]))

    # ---- nodes that sum up steps ----

    def _gather(self, node, source, index):
        axis = _attributes(node).get("axis", 0)
        if isinstance(source, np.ndarray):  # rows of a table
            if source.ndim != 2 or axis != 0:
                return None
            axes = self._take(index)
            layer = Embedding(*source.shape, dtype=source.dtype)
            layer.load_state_dict({"weight": source})
            self._layers.append(layer)
            return self._data((*axes, (Atom("F", source.shape[1]),)))
        if not isinstance(index, np.ndarray) or index.size != 1:
            return None
        return self._last_step(source, axis, int(index.reshape(())), keep=index.ndim == 1)

    def _slice(self, node, x, *arguments):
        given = _attributes(node)
        starts, ends = [_argument(arguments, i, given, name) for i, name in enumerate(("starts", "ends"))]
        axes, steps = [
            _argument(arguments, i, given, name, default) for i, name, default in ((2, "axes", [0]), (3, "steps", [1]))
        ]
        if len(starts) != 1 or steps != [1]:
            return None
        if x.kind in ("final", "finals"):
            return _final_states(x, axes[0] % len(x.axes), slice(starts[0], ends[0]), keep=True)
        return self._last_step(x, axes[0], starts[0], keep=True) if ends[0] >= 2**31 - 1 else None

    def _last_step(self, x, axis, index, keep):
        """The data of one step, the last one; or without a dimension of size 1."""
        axis %= len(x.axes)
        if not x.axes[axis] and index in (0, -1):
            return x._replace(axes=x.axes if keep else x.axes[:axis] + x.axes[axis + 1 :])
        if x.kind in ("final", "finals"):
            return _final_states(x, axis, slice(index, index + 1 or None), keep)
        if (x.kind, index) in (("forward", -1), ("reverse", 0)):
            return None if keep else self._end(x, axis, False)
        if x.kind != "data" or index != -1:
            return None
        y = self._without_time(x, axis, Last(dtype=self._dtype), False)
        return y._replace(axes=(*y.axes[:axis], (), *y.axes[axis:])) if keep else y

    def _gathernd(self, node, x, index):
        fits = index.kind == "ends" and index.axes == (_LENGTHS, ()) and _attributes(node).get("batch_dims", 0) == 1
        if fits and x.kind == "forward":
            return self._end(x, 1, True)
        return self._without_time(x, 1, Last(dtype=self._dtype), True) if fits else None

    def _split(self, node, x, sizes=None):
        """The halves of the features."""
        axis = _attributes(node).get("axis", 0)
        if x.kind != "data" or sizes is not None or len(node.output) != 2 or not are_features(x.axes[axis]):
            return None
        return [x._replace(kind="forward"), x._replace(kind="reverse")]

    def _end(self, half, axis, ragged):
        """What a half of the features is at one end of the sequences; the first step is there, `ragged` or not."""
        self._be_time(half.axes[axis])
        if half.kind == "forward":
            self._be_ragged(ragged)
        return half._replace(kind=_ENDS[half.kind], axes=half.axes[:axis] + half.axes[axis + 1 :])

    def _join_ends(self, node, last, first):
        """The data of both ends."""
        fits = last.axes == first.axes and last.age == first.age
        if not fits or not are_features(last.axes[_attributes(node)["axis"]]):
            return None
        axes = self._take(last._replace(kind="data"))
        self._time = None
        self._layers.append(Last(bidirectional=True, dtype=self._dtype))
        return self._data(axes)

    def _reducemean(self, node, x, axes=None):
        return None if x.fill is not None else self._reduced(node, x, axes, MeanPool(dtype=self._dtype), False)

    def _reducemax(self, node, x, axes=None):
        if x.fill not in (None, -np.inf):
            return None
        return self._reduced(node, x._replace(fill=None), axes, MaxPool(dtype=self._dtype), x.fill is not None)

    def _reducesum(self, node, x, axes=None):
        """The sum over valid steps, of which a mean is going to be."""
        if x.fill != 0:
            return None
        y = self._reduced(node, x, axes, MeanPool(dtype=self._dtype), True)
        return y and y._replace(kind="sum")

    def _reduced(self, node, x, axes, layer, ragged):
        given = _attributes(node)
        axes = _argument([axes], 0, given, "axes")
        if axes is None or len(axes) != 1:
            return None
        axis = axes[0] % len(x.axes)
        y = self._without_time(x, axis, layer, ragged)
        return y._replace(axes=(*y.axes[:axis], (), *y.axes[axis:])) if given.get("keepdims", 1) else y

    def _div(self, node, total, count):
        """The mean over the valid steps, from their sum."""
        if not (isinstance(total, _Tensor) and isinstance(count, _Tensor)):
            return None
        fits = total.kind == "sum" and count.kind == "lengths" and count.axes == (_LENGTHS, ())
        return total._replace(kind="data") if fits else None

    # ---- where sequences end ----

    def _sub(self, node, a, b):
        fits = isinstance(a, _Tensor) and a.kind == "lengths" and isinstance(b, np.ndarray) and b.tolist() in (1, [1])
        return a._replace(kind="ends") if fits else None

    def _less(self, node, a, b):
        if not (isinstance(a, _Tensor) and isinstance(b, _Tensor) and a.kind == "steps" and b.kind == "lengths"):
            return None
        return _Tensor("mask", (a.axes[0], _LENGTHS)) if a.axes[1:] == ((),) and b.axes == (_LENGTHS,) else None

    def _where(self, node, mask, x, fill):
        """The data with a number past the sequences' ends."""
        fits = isinstance(mask, _Tensor) and mask.kind == "mask" and isinstance(x, _Tensor) and x.kind == "data"
        if not fits or not isinstance(fill, np.ndarray) or fill.size != 1 or len(x.axes) < 2:
            return None
        if mask.axes != (x.axes[0], _LENGTHS, ())[: len(x.axes)]:
            return None
        self._be_time(x.axes[0])
        self._be_ragged(True)
        return x._replace(fill=float(fill.reshape(()))) if are_features(x.axes[-1]) else x

    # ---- nodes that only change the layout ----

    def _identity(self, node, x):
        return x

    def _cast(self, node, x):
        floats = x.kind in ("data", "final", "sum") and any(map(are_features, x.axes))
        to = helper.tensor_dtype_to_np_dtype(_attributes(node)["to"])
        return x if not floats or to == self._dtype else None

    def _dropout(self, node, x, ratio=None, training=None):
        return None if isinstance(training, _Tensor) or (training is not None and training.any()) else x

    def _concat(self, node, *states):
        """The last h of all layers, one after the other; or the halves of the features, each at its end."""
        if [isinstance(state, _Tensor) and state.kind for state in states] == list(_ENDS.values()):
            return self._join_ends(node, *states)
        if not all(isinstance(state, _Tensor) and state.kind == "final" for state in states):
            return None
        directions, *rest = states[-1].axes
        one_a_layer = directions in ((), (Atom("D", 2),)) and all(state.axes[0] == directions for state in states)
        if not one_a_layer or _attributes(node)["axis"] not in (0, -len(states[-1].axes)):
            return None
        return states[-1]._replace(kind="finals", axes=((Atom("layers", len(states)), *directions), *rest))

    def _transpose(self, node, x):
        order = _attributes(node).get("perm", range(len(x.axes))[::-1])
        return x._replace(axes=tuple(x.axes[i] for i in order))

    def _squeeze(self, node, x, axes=None):
        axes = _argument([axes], 0, _attributes(node), "axes")
        if axes is None or any(x.axes[i] for i in axes):
            return None
        gone = {i % len(x.axes) for i in axes}
        return x._replace(axes=tuple(axis for i, axis in enumerate(x.axes) if i not in gone))

    def _unsqueeze(self, node, x, axes=None):
        axes = _argument([axes], 0, _attributes(node), "axes")
        rank = len(x.axes) + len(axes)
        if rank > _MOST_DIMENSIONS:
            return None
        new, left = {i % rank for i in axes}, iter(x.axes)
        return x._replace(axes=tuple(() if i in new else next(left) for i in range(rank)))

    def _reshape(self, node, x, shape):
        sizes = _known_sizes(shape)
        if sizes is None or (_attributes(node).get("allowzero", 0) and 0 in sizes):
            return None
        axes = regrouped(x.axes, sizes)
        return None if axes is None else x._replace(axes=axes)

    def _flatten(self, node, x):
        axis = _attributes(node).get("axis", 1)
        return x._replace(axes=tuple(sum(part, ()) for part in (x.axes[:axis], x.axes[axis:])))


def _makings_of_states(graph):
    """The names of what initial states are made of."""
    makers = {name: node for node in graph.node for name in node.output}
    names, left = set(), [name for node in graph.node if node.op_type in OPERATORS for name in node.input[5:7]]
    while left:
        name = left.pop()
        if name and name not in names:
            names.add(name)
            if name in makers and makers[name].op_type != "Shape":
                left.extend(makers[name].input)
    return names


def _goes_to_states(node, kinds):
    """Whether it only lays out states."""
    if node.op_type not in _GLUE or not kinds <= {"state", "final", "finals", "zeros", "learned", "sizes"}:
        return False
    return "state" in kinds


def _name(node):
    return (
        f"{node.op_type} node {node.name!r}" if node.name else f"the {node.op_type} node that gives {node.output[0]!r}"
    )


def _attributes(node) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _argument(inputs, i, attributes, name, default=None):
    """What later operator sets take as an input and earlier ones as an attribute, a list; `NotAChain` if computed."""
    value = inputs[i] if i < len(inputs) else None
    if isinstance(value, _Tensor):
        raise NotAChain(f"{name} of a node is computed")
    return attributes.get(name, default) if value is None else value.reshape(-1).tolist()


def _linear(weight, bias=None):
    layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


def _final_states(x, axis, chosen, keep):
    """Those of the last layer, of the final states along an axis: of both directions, or of either; None for others.

    chosen: slice of these states.
    """
    atoms = x.axes[axis]
    *layers, last = [atom.name for atom in atoms] or [""]
    if [*layers, last] not in ((["layers"], ["layers", "D"]) if x.kind == "finals" else (["D"],)):
        return None
    which = range(-math.prod(atom.size for atom in atoms), 0)[chosen]
    left = () if keep else None
    if last == "layers":
        kind, fits = "final", which == range(-1, 0)
    elif len(which) == 2:
        kind, fits, left = "final", which == range(-2, 0), atoms[-1:]
    else:
        kind, fits = ("first" if which == range(-1, 0) else "last"), which in (range(-2, -1), range(-1, 0))
    if not fits:
        return None
    axes = x.axes if kind == "final" else [(Atom("D", 2), *a) if are_features(a) else a for a in x.axes]
    return x._replace(kind=kind, axes=(*axes[:axis], *([] if left is None else [left]), *axes[axis + 1 :]))


def _sizes(node, x):
    """The sizes of a tensor, or of some of its dimensions."""
    given = _attributes(node)
    if not isinstance(x, _Tensor) or x.axes is None:
        return _Tensor("sizes")
    return _Tensor("sizes", x.axes[given.get("start", 0) : given.get("end", len(x.axes))])


def _made_of_sizes(node, inputs):
    """What depends on the inputs' sizes alone."""
    given, first = _attributes(node), inputs[0]
    if node.op_type == "ConstantOfShape":
        value = given.get("value")
        return _Tensor("sizes" if value is not None and numpy_helper.to_array(value).any() else "zeros")
    if isinstance(first, _Tensor) and first.kind != "sizes" and node.op_type in _GLUE:
        return first if first.kind == "zeros" or node.op_type == "Identity" else _Tensor("sizes")
    if node.op_type == "Expand" and isinstance(first, np.ndarray):
        if not first.any():
            return _Tensor("zeros")
        if first.ndim == 3 and first.shape[1] == 1:
            return _Tensor("learned", array=first[:, 0])
    if node.op_type == "Range":
        start, limit, step = inputs
        plain = isinstance(start, np.ndarray) and isinstance(step, np.ndarray) and (start, step) == (0, 1)
        if plain and isinstance(limit, _Tensor) and limit.axes and len(limit.axes) == 1:
            return _Tensor("steps", limit.axes)
    return _Tensor("sizes", size_arithmetic(node, [_known_sizes(value) for value in inputs], given))


def _known_sizes(value):
    """The entries of a vector of sizes, each a number or an axis; None if they are not known."""
    if isinstance(value, np.ndarray):
        return tuple(value.reshape(-1).tolist()) if value.dtype.kind in "iu" and value.size < 16 else None
    return value.axes if value is not None and value.kind == "sizes" else None


def _learned(parts, batch_first):
    """The arrays (D,H) that sequences begin with, none if these are zeros or an input."""
    arrays = []
    for part in parts:
        if isinstance(part, np.ndarray) and part.any():
            by_batch = part if batch_first else part.swapaxes(0, 1)
            if (by_batch != by_batch[0]).any():
                raise NotAChain("initial states differ within the batch")
            arrays.append(by_batch[0])
        elif part is None or isinstance(part, np.ndarray) or part.kind in ("zeros", "state"):
            arrays.append(None)
        elif part.kind == "learned":
            arrays.append(part.array)
        else:
            raise NotAChain("an initial state is made of what is no state")
    shapes = [array.shape for array in arrays if array is not None]
    return [np.zeros(shapes[0], np.float32) if array is None else array for array in arrays] if shapes else []
