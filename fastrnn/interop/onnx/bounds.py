"""What an ONNX file might become in memory, by what it says of itself: looked at before a library is given it."""

import math
import os
from collections.abc import Iterator

import onnx
from onnx import external_data_helper

ROOM = 32 << 20  # bytes that may be taken beside twice the file
_MOST_DIMENSIONS = 64  # of arrays in NumPy


def check(proto: onnx.ModelProto, size: int, folder: str) -> None:
    """`ValueError` for a model, in a file of `size` bytes in `folder`, of which a small part stands for a lot."""
    room = 2 * size + ROOM
    bodies = [body for outer in (proto.graph, *proto.functions) for body in graphs(outer)]
    _refuse_large("functions", "within one another", _inlined(proto), room)
    _refuse_large("shapes", "of all values", _shapes(bodies), room)
    for body in bodies:
        for node in body.node:
            for attribute in node.attribute:
                _refuse_large("strings", f"in {attribute.name}", _padded(attribute.strings), room)
    external, files = 0, {}
    for tensor in _tensors(bodies):
        _refuse_large("strings", f"in {tensor.name}", _padded(tensor.string_data), room)
        if external_data_helper.uses_external_data(tensor):
            info = external_data_helper.ExternalDataInfo(tensor)
            path = os.path.join(folder, info.location)
            files[path] = os.path.getsize(path) if os.path.isfile(path) else 0
            external += files[path] if info.length is None else info.length
    _refuse_large("tensors", "in other files", external, room + 2 * sum(files.values()))


def refuse_splits(proto: onnx.ModelProto) -> None:
    """`ValueError` for a node, of a model without functions, that splits into more than it has outputs.

    Shape inference takes memory for as many as an attribute says.
    """
    for body in graphs(proto.graph):
        for node in body.node:
            for attribute in node.attribute:
                if attribute.name == "num_outputs" and attribute.i > len(node.output):
                    raise ValueError(f"a {node.op_type} node has {len(node.output)} outputs, not {attribute.i:,}")


def has_few_dimensions(proto: onnx.ModelProto) -> bool:
    """Whether no value of a model without functions seems to have more dimensions than an array may.

    Shape inference writes all of them down, and a node that gathers a tensor by itself doubles them. An estimate: what
    a node makes smaller counts as it was.
    """
    ranks, lengths = {}, {}  # by the names of values: dimensions, and numbers where the value is dimensions of another
    for body in graphs(proto.graph):
        for value in body.input:
            sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            ranks[value.name], lengths[value.name] = len(sizes), sizes[0] if len(sizes) == 1 else 0
        for tensor in body.initializer:
            ranks[tensor.name], lengths[tensor.name] = len(tensor.dims), math.prod(tensor.dims)
        for node in body.node:
            rank = max((ranks.get(name, 0) for name in node.input), default=0)
            length = max((lengths.get(name, 0) for name in node.input), default=0)
            second = node.input[1] if len(node.input) > 1 else None
            numbers = [len(attribute.ints) for attribute in node.attribute] + [
                math.prod(attribute.t.dims) for attribute in node.attribute if attribute.HasField("t")
            ]
            if node.op_type in ("Gather", "GatherND"):
                rank, length = sum(ranks.get(name, 0) for name in node.input), lengths.get(second, 0)
            elif node.op_type == "Unsqueeze":
                rank += max(lengths.get(second, 0), *numbers, 0)
            elif node.op_type in ("Reshape", "Expand"):
                rank = max(rank, lengths.get(second, 0), *numbers, 0)
            elif node.op_type == "ConstantOfShape":
                rank = length
            elif node.op_type == "Shape":
                rank, length = 1, rank
            elif node.op_type == "Concat":
                length = sum(lengths.get(name, 0) for name in node.input)
            elif node.op_type == "Constant":
                rank, length = 1, max(numbers, default=1)
            if rank > _MOST_DIMENSIONS:
                return False
            for name in node.output:
                ranks[name], lengths[name] = rank, length
    return True


def graphs(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """A graph and those in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from graphs(inner)


def _refuse_large(what, where, size, room):
    if size > room:
        raise ValueError(f"its {what} {where} might take {size:,} bytes of memory, more than {room:,}")


def _inlined(proto):
    """Bytes of the graph once its functions stand in the places of their calls; infinite if one calls itself."""
    functions = {(function.domain, function.name): function for function in proto.functions}
    sizes: dict[tuple[str, str], float] = {}

    def size(body):
        nodes = [node for inner in graphs(body) for node in inner.node]
        return body.ByteSize() + sum(called((node.domain, node.op_type)) for node in nodes)

    def called(key):
        if key in functions and key not in sizes:
            sizes[key] = math.inf
            sizes[key] = size(functions[key])
        return sizes.get(key, 0)

    return size(proto.graph)


def _shapes(bodies):
    """Bytes of the shapes of all nodes' outputs, if each is as long as the longest that is declared."""
    values = [value for body in bodies if isinstance(body, onnx.GraphProto)
              for value in (*body.input, *body.output, *body.value_info)]  # fmt: skip
    ranks = [len(value.type.tensor_type.shape.dim) for value in values] + [len(t.dims) for t in _tensors(bodies)]
    if max(ranks, default=0) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor must have at most {_MOST_DIMENSIONS} dimensions, got {max(ranks)}")
    longest = max((value.type.ByteSize() for value in values), default=0)
    return longest * sum(len(node.output) for body in bodies for node in body.node)


def _padded(strings):
    """Bytes of strings as an array, in which all take what the longest does."""
    return 4 * len(strings) * max(map(len, strings), default=0)


def _tensors(bodies):
    for body in bodies:
        if isinstance(body, onnx.GraphProto):
            yield from body.initializer
        for node in body.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
