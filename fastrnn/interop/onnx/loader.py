"""ONNX files, read without trusting them, and run."""

import itertools
import os
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx.inliner
from onnx.reference import ReferenceEvaluator

from ... import checks
from ...layers.base import Layer
from ...storage import FormatError, Path
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
        defaults = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        self._types = {value.name: value.type for value in graph.input}
        self.inputs = tuple(name for name in self._types if name not in defaults)
        self.outputs = tuple(value.name for value in graph.output)
        constants = constant_values(proto)
        fixed = frozenset(constants) - self._types.keys()  # an input may take the place of its default
        try:
            self._evaluator = ReferenceEvaluator(proto, new_ops=operators(fixed))
        except (NotImplementedError, RuntimeError, TypeError) as error:  # the library's own, of operators it lacks
            raise ValueError(f"the graph is not supported: {error}") from None
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
        unknown, missing = inputs.keys() - self._types.keys(), set(self.inputs) - inputs.keys()
        if unknown or missing:
            text = f"without {', '.join(sorted(missing))}" if missing else f"with {', '.join(map(str, unknown))}"
            raise ValueError(f"inputs must be {', '.join(self.inputs)}, got them {text}")
        feeds = {name: _fitting(name, value, self._types[name]) for name, value in inputs.items()}
        try:
            with np.errstate(all="ignore"):  # what becomes infinite or NaN is visible, as in ONNX Runtime
                return list(self._evaluator.run(None, feeds))
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # the evaluator's operators raise what NumPy does
            raise ValueError(f"the graph can't be computed for these inputs: {error}") from error

    def __repr__(self):
        kind = "no chain" if self.model is None else type(self.model).__name__
        return f"<ONNX graph ({', '.join(self.inputs)}) -> ({', '.join(self.outputs)}), {kind}>"


def read(path: Path) -> OnnxModel:
    """See `fastrnn.interop.onnx.load`."""
    path = os.path.abspath(os.fsdecode(path))
    with open(path, "rb") as file:
        data = file.read()
    try:
        proto = onnx.load_model_from_string(data)
        onnx.load_external_data_for_model(proto, os.path.dirname(path))
    except Exception as error:  # many kinds, the library's own and protobuf's
        raise FormatError(f"{path} is no ONNX file, or damaged or cut short: {error}") from None
    if proto.ByteSize() > _LARGEST:
        raise ValueError(f"{path} has more than {_LARGEST:,} bytes of weights, which is not supported")
    try:
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)  # the checker wants the outputs' shapes
        onnx.checker.check_model(proto)
        proto = onnx.inliner.inline_local_functions(proto)
    except Exception as error:
        raise FormatError(f"{path} is no valid ONNX model: {error}") from None
    return OnnxModel(proto)


def _name_outputs(graph):
    """Give every output of a node a name: what is left out has none, and the evaluator takes it for a missing input."""
    used = {name for inner in _graphs(graph) for node in inner.node for name in (*node.input, *node.output)}
    fresh = (name for i in itertools.count() if (name := f"unused_{i}") not in used)
    for inner in _graphs(graph):
        for node in inner.node:
            for i, name in enumerate(node.output):
                if not name:
                    node.output[i] = next(fresh)


def _graphs(graph) -> Iterator[onnx.GraphProto]:
    """A graph and those in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _fitting(name, value, type_):
    """An input as an array of its declared dtype and shape."""
    if not type_.HasField("tensor_type"):  # a sequence, or an optional one
        return value
    array = checks.as_array(name, value)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(type_.tensor_type.elem_type)
    if array.dtype != dtype:
        kinds = "f" if dtype.kind == "f" else "iu" if dtype.kind in "iu" else ""
        if array.dtype.kind not in kinds:
            raise TypeError(f"{name} must hold {dtype}, got {array.dtype}")
        with np.errstate(over="ignore"):
            converted = array.astype(dtype)
        if dtype.kind != "f" and not np.array_equal(converted, array):
            raise ValueError(f"{name} must hold numbers that fit into {dtype}")
        array = converted
    if type_.tensor_type.HasField("shape"):
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in type_.tensor_type.shape.dim]
        if len(sizes) != array.ndim or any(
            size not in (None, actual) for size, actual in zip(sizes, array.shape, strict=True)
        ):
            expected = ", ".join("any" if size is None else str(size) for size in sizes)
            raise ValueError(f"{name} must have shape ({expected}), got {array.shape}")
    return array
