"""Small ONNX files that stand for a lot of memory, and what is no mapping of inputs."""

import tracemalloc

import numpy as np
import pytest

import fastrnn
from fastrnn.interop.onnx import load

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RELU = helper.make_node("Relu", ["x"], ["y"])


def saved(folder, nodes, constants=None, *, functions=(), features=3):
    """The path of a file of a model of x (2,features), and of constants."""
    x, y = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (2, features)), ("y", None))]
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    onnx.save(
        helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions), folder / "theirs.onnx"
    )
    return folder / "theirs.onnx"


@pytest.mark.parametrize("nodes", [
    [helper.make_node("Concat", ["c"] * 1000, ["many"], axis=0)],
    [helper.make_node("Transpose", ["c"], ["t0"]),
     *[helper.make_node("Concat", [f"t{i}"], [f"t{i + 1}"], axis=0) for i in range(300)]],
    [helper.make_node("Cast", ["c"], ["text"], to=TensorProto.STRING)],
    [helper.make_node("Cast", ["c"], ["d0"], to=TensorProto.DOUBLE),
     *[helper.make_node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(8)]],
], ids=["one constant many times", "many nodes", "numbers as text", "doubling"])  # fmt: skip
def test_interop_onnx_strangers_constants_take_some_times_the_file(nodes, tmp_path):
    """What is computed of constants when a file is read is bounded by the file's size, before it is computed."""
    load(saved(tmp_path, [RELU]))  # lazy imports
    path = saved(tmp_path, [*nodes, RELU], {"c": np.zeros((1000, 250), np.float32)})
    tracemalloc.start()
    try:
        model = load(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * path.stat().st_size
    finally:
        tracemalloc.stop()
    assert type(model.model) is fastrnn.ReLU


def refused(path, pattern):
    with pytest.raises(fastrnn.FormatError, match=pattern) as caught:
        load(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600 + len(str(path))


def test_interop_onnx_strangers_split_into_more_than_its_outputs(tmp_path):
    """By a number in the file, or in what calls a function."""
    numbers = {"num_outputs": 1 << 40, "axis": 0}
    split = helper.make_node("Split", ["c"], ["a", "b"], **numbers)
    path = saved(tmp_path, [split, RELU], {"c": np.zeros(4, np.float32)})
    refused(path, "a Split node has 2 outputs, not 1,099,511,627,776")
    inner = helper.make_node("Split", ["c"], ["a", "b"], axis=0)
    inner.attribute.add(name="num_outputs", ref_attr_name="n", type=onnx.AttributeProto.INT)
    imports = [helper.make_opsetid("", 18)]
    function = helper.make_function("local", "f", ["c"], ["a", "b"], [inner], imports, attributes=["n"])
    call = helper.make_node("f", ["x"], ["y", "z"], domain="local", n=1 << 40)
    refused(saved(tmp_path, [call], functions=[function]), "a Split node has 2 outputs, not 1,099,511,627,776")


def test_interop_onnx_strangers_functions_within_functions(tmp_path):
    """Each calls the next twice, or itself."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]

    def calling(name, callee, domain):
        nodes = [helper.make_node(callee, [x], [y], domain=domain, name="n" * 100) for x, y in (("a", "m"), ("m", "b"))]
        return helper.make_function("local", name, ["a"], ["b"], nodes, imports)

    deep = [calling(f"f{i}", f"f{i + 1}", "local") for i in range(25)] + [calling("f25", "Relu", "")]
    call = helper.make_node("f0", ["x"], ["y"], domain="local")
    refused(saved(tmp_path, [call], functions=deep), "its functions within one another might take .* of memory")
    refused(saved(tmp_path, [call], functions=[calling("f0", "f0", "local")]), "its functions within one another")
    few = saved(tmp_path, [call], functions=[*deep[:2], calling("f2", "Relu", "")])
    np.testing.assert_array_equal(load(few).run({"x": np.eye(2, 3)})[0], np.eye(2, 3))


def test_interop_onnx_strangers_strings_as_long_as_the_longest(tmp_path):
    """An array of strings takes for each what the longest does."""
    strings = [b"x" * 5_000] + 5_000 * [b""]
    constant = helper.make_node("Constant", [], ["s"], value_strings=strings)
    refused(saved(tmp_path, [constant, RELU]), "its strings in value_strings might take")
    tensor = helper.make_tensor("s", TensorProto.STRING, [len(strings)], strings)
    path = saved(tmp_path, [RELU])
    proto = onnx.load(path)
    proto.graph.initializer.append(tensor)
    onnx.save(proto, path)
    refused(path, "its strings in s might take")


def test_interop_onnx_strangers_shapes_of_all_values(tmp_path):
    """Shape inference writes a shape to each node's output: the name of a dimension may be as long as the file."""
    between = [f"v{i}" for i in range(500)]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in zip(["x", *between], [*between, "y"], strict=True)]
    refused(saved(tmp_path, nodes, features="n" * 200_000), "its shapes of all values might take")
    path = saved(tmp_path, nodes)
    proto = onnx.load(path)
    for _ in range(100):
        proto.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 1
    onnx.save(proto, path)
    refused(path, "at most 64 dimensions, got 102")


def test_interop_onnx_strangers_one_external_tensor_many_times(tmp_path):
    """Tensors in another file may lie over one another there."""
    (tmp_path / "weights").write_bytes(bytes(1 << 20))
    path = saved(tmp_path, [RELU])
    proto = onnx.load(path)
    for i in range(100):
        tensor = proto.graph.initializer.add(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[1 << 18], raw_data=b"")
        onnx.external_data_helper.set_external_data(tensor, "weights", 0, 1 << 20)
        tensor.data_location = TensorProto.EXTERNAL
    path.write_bytes(proto.SerializeToString())
    refused(path, "its tensors in other files might take 104,857,600 bytes")
    del proto.graph.initializer[30:]
    path.write_bytes(proto.SerializeToString())
    assert load(path).inputs == ("x",)


def steps_to(last, *nodes):
    """The first of these nodes and so on, each of the one before: x, v0, v1, ..., `last` times."""
    names = ["x", *[f"v{i}" for i in range(last)]]
    make, *more = nodes
    return [make(a, b) for a, b in zip(names, names[1:], strict=False)] + [
        helper.make_node("Identity", [names[-1]], ["w"]), *more
    ]  # fmt: skip


@pytest.mark.parametrize("name, nodes", [
    ("gathered", lambda: steps_to(60, lambda a, b: helper.make_node("Gather", [a, "i" if a == "x" else a], [b]))),
    ("unsqueezed", lambda: steps_to(3000, lambda a, b: helper.make_node("Unsqueeze", [a, "zero"], [b]))),
    ("expanded", lambda: steps_to(1, lambda a, b: helper.make_node("Expand", [a, "ones"], [b]))),
    ("sizes joined", lambda: [
        helper.make_node("Shape", ["x"], ["s0"]),
        *[helper.make_node("Concat", [f"s{i}", f"s{i}"], [f"s{i + 1}"], axis=0) for i in range(40)],
        helper.make_node("ConstantOfShape", ["s40"], ["w"]),
    ]),
])  # fmt: skip
def test_interop_onnx_strangers_dimensions_are_not_written_down(name, nodes, tmp_path):
    """Of a few nodes that make thousands or 2^40 of them; such a file is read, and is no chain."""
    constants = {"zero": np.zeros(1, np.int64), "ones": np.ones(100_000, np.int64), "i": np.zeros((1, 2), np.int64)}
    path = saved(tmp_path, [*nodes(), RELU], constants)
    tracemalloc.start()
    try:
        assert load(path).inputs == ("x",)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("inputs", ["x", {"x"}, ["x"], np.eye(2, 3), None])
def test_interop_onnx_strangers_inputs_are_a_mapping(inputs, tmp_path):
    model = load(saved(tmp_path, [RELU]))
    with pytest.raises(TypeError, match="inputs must be a mapping of names to arrays, got "):
        model.run(inputs)
