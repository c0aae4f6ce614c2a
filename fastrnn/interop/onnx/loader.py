"""ONNX files, read without trusting them, and run."""

import itertools
import os
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.inliner
from onnx.reference import ReferenceEvaluator

from ... import checks
from ...layers.base import Layer
from ...storage import FormatError, Path, errors_as
from . import bounds
from .chain import NotAChain, chain_of
from .constants import constant_values
from .operators import operators

_LARGEST = 2**31 - 1  # bytes of a protobuf message


class OnnxModel:
    """The graph of an ONNX file, as `fastrnn.interop.onnx.load` returns it.

    inputs: names of the inputs that `run` needs, in the graph's order; those with a default value are not among them.
    outputs: names of the outputs, in the graph's order.
    model: where the graph is one chain of layers, the trainable fastrnn model of them, with the file's weights; its
        input and output are the graph's first. Else None.
    obstacle: why there is no `model`; None where there is one.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: Layer | None
    obstacle: str | None

    def __init__(self, proto: onnx.ModelProto):
        graph = proto.graph
        _name_outputs(graph)
        with errors_as(ValueError, "the graph is not supported"):
            self._declared = {value.name: _declaration(value.type) for value in graph.input}
            constants = constant_values(proto)
            overlap = constants.keys() & self._declared.keys()  # an input may take the place of its default
            fixed = constant_values(proto, overlap) if overlap else constants
            self._evaluator = ReferenceEvaluator(proto, new_ops=operators(frozenset(fixed)))
        defaults = {tensor.name for tensor in graph.initializer}
        self.inputs = tuple(name for name in self._declared if name not in defaults)
        self.outputs = tuple(value.name for value in graph.output)
        self.model = self.obstacle = None
        try:
            self.model = chain_of(proto, constants)
        except NotAChain as error:
            self.obstacle = str(error)

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, in the graph's order, for arrays by the names of the inputs.

        Floats of another precision and integers of another size are converted. `ValueError` or `TypeError` for inputs
        that don't fit, and for a graph that can't compute them.
        """
        if not isinstance(inputs, Mapping):
            raise TypeError(f"inputs must be a mapping of names to arrays, got {type(inputs).__name__}")
        missing = [name for name in self.inputs if name not in inputs]
        unknown = [checks.shown(name) for name in inputs if name not in self._declared]
        if missing or unknown:
            wrong = [("without", missing), ("with", unknown)]
            text = " and ".join(f"{word} {', '.join(names)}" for word, names in wrong if names)
            raise ValueError(f"inputs must be {', '.join(self.inputs)}, got them {text}")
        feeds = {name: _fitting(name, value, *self._declared[name]) for name, value in inputs.items()}
        with errors_as(ValueError, "the graph can't compute these inputs"), np.errstate(all="ignore"):
            return list(self._evaluator.run(None, feeds))

    def __repr__(self):
        kind = "no chain" if self.model is None else type(self.model).__name__
        return f"<ONNX graph ({', '.join(self.inputs)}) -> ({', '.join(self.outputs)}), {kind}>"


def read(path: Path) -> OnnxModel:
    """See `fastrnn.interop.onnx.load`."""
    path = os.path.abspath(os.fsdecode(path))
    with open(path, "rb") as file:
        data = file.read()
    with errors_as(FormatError, f"{path} is no ONNX file, or damaged or cut short"):
        proto = onnx.load_model_from_string(data)
        bounds.check(proto, len(data), os.path.dirname(path))
        onnx.load_external_data_for_model(proto, os.path.dirname(path))
    if proto.ByteSize() > _LARGEST:
        raise ValueError(f"{path} has more than {_LARGEST:,} bytes of weights, which is not supported")
    with errors_as(FormatError, f"{path} is no valid ONNX model"):
        _check(proto)
        proto = onnx.inliner.inline_local_functions(proto)
        bounds.refuse_splits(proto)
        if bounds.has_few_dimensions(proto):
            onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    return OnnxModel(proto)


def _check(proto):
    """Raise the library's errors for what is no valid model."""
    types = [value.type.tensor_type for value in (*proto.graph.input, *proto.graph.output) if value.HasField("type")]
    open_types = [type_ for type_ in types if type_.elem_type and not type_.HasField("shape")]
    for type_ in open_types:  # the checker wants shapes, which ONNX Runtime does without
        type_.shape.SetInParent()
    onnx.checker.check_model(proto)
    for type_ in open_types:
        type_.ClearField("shape")


def _name_outputs(graph):
    """Give every output of a node a name: what is left out has none, and the evaluator takes it for a missing input."""
    used = {name for inner in bounds.graphs(graph) for node in inner.node for name in (*node.input, *node.output)}
    fresh = (name for i in itertools.count() if (name := f"unused_{i}") not in used)
    for inner in bounds.graphs(graph):
        for node in inner.node:
            for i, name in enumerate(node.output):
                if not name:
                    node.output[i] = next(fresh)


def _declaration(type_):
    """The dtype and the sizes of an input, None for what it does not declare: nothing unless it is a tensor."""
    tensor = type_.tensor_type
    if not type_.HasField("tensor_type"):
        return None, None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]


def _fitting(name, value, dtype, sizes):
    """An input in its declared dtype, if its shape is as declared."""
    if dtype is None:
        return value
    array = checks.as_array(name, value)
    if array.dtype != dtype:
        array = _converted(name, array, dtype)
    if sizes is not None and (
        len(sizes) != array.ndim or any(s not in (None, n) for s, n in zip(sizes, array.shape, strict=True))
    ):
        expected = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"{name} must have shape ({expected}), got {array.shape}")
    return array


def _converted(name, array, dtype):
    """Floats as floats, integers as integers, if they fit."""
    kinds = "f" if dtype.kind == "f" else "iu" if dtype.kind in "iu" else ""
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name} must hold {dtype}, got {array.dtype}")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(converted, array):
        raise ValueError(f"{name} must hold numbers that fit into {dtype}")
    return converted
