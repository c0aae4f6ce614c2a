"""Values in an ONNX graph that are the same in every run."""

import contextlib
from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

# What exporters do to weights, such as to put gates into another order; no subgraphs.
_FOLDED = {"Cast", "Concat", "Constant", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def constant_values(proto: onnx.ModelProto, but: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Arrays by the names of a graph's values that depend on no input: initializers, and what is made of them.

    but: names of initializers that are none.
    """
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name not in but]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    most = proto.ByteSize()  # of a node's input: by doubling, a small file could fill the memory
    for node in proto.graph.node:
        names = [name for name in node.input if name]
        if node.domain or node.op_type not in _FOLDED or not values.keys() >= set(names):
            continue
        inputs = {name: values[name] for name in names}
        if sum(array.nbytes for array in inputs.values()) <= most:
            with contextlib.suppress(Exception):  # a node that fails does so when the graph is run, and is named then
                values.update(_outputs(node, inputs, proto.opset_import))
    return values


def _outputs(node, inputs, opsets):
    """The outputs of a node by name."""
    described = [[onnx.ValueInfoProto(name=name) for name in names] for names in (inputs, filter(None, node.output))]
    graph = helper.make_graph([node], "constant", *described)
    evaluator = ReferenceEvaluator(graph, opsets={entry.domain: entry.version for entry in opsets})
    return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))
