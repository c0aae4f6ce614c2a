"""Values in an ONNX graph that are the same in every run."""

import contextlib
import math
from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

# What exporters do to weights, such as to put gates into another order; no subgraphs.
_FOLDED = {"Cast", "Concat", "Constant", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


_TIMES = 8  # so many times what a file has may be made of it: exporters take a weight through a few nodes


def constant_values(proto: onnx.ModelProto, but: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Arrays by the names of a graph's values that depend on no input: initializers, and what is made of them.

    but: names of initializers that are none.
    """
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name not in but]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    left = _TIMES * proto.ByteSize()  # bytes: a node that takes one array many times could fill the memory
    for node in proto.graph.node:
        names = [name for name in node.input if name]
        if node.domain or node.op_type not in _FOLDED or not values.keys() >= set(names):
            continue
        with contextlib.suppress(Exception):  # a node that fails does so when the graph is run, and is named then
            if _most_bytes(node, [values[name] for name in names]) <= left:
                made = _outputs(node, {name: values[name] for name in names}, proto.opset_import)
                left -= sum(array.nbytes for array in made.values())
                values.update(made)
    return values


def _most_bytes(node, inputs):
    """What the outputs of a node can take at most, infinity for those that weights have no use for."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Cast":
        dtype = helper.tensor_dtype_to_np_dtype(given["to"])
        return inputs[0].size * dtype.itemsize if dtype.kind in "fiub" else math.inf
    return sum(array.nbytes for array in inputs)  # as often as they are among them


def _outputs(node, inputs, opsets):
    """The outputs of a node by name."""
    described = [[onnx.ValueInfoProto(name=name) for name in names] for names in (inputs, filter(None, node.output))]
    graph = helper.make_graph([node], "constant", *described)
    evaluator = ReferenceEvaluator(graph, opsets={entry.domain: entry.version for entry in opsets})
    return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))
