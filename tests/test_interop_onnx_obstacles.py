"""ONNX graphs that are almost a chain of layers: each says what is in the way, and none gets a model that it is not."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fastrnn.interop.onnx import load  # noqa: E402

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 2, 3)  # steps, batch, features
TOKENS = np.arange(8).reshape(4, 2) % 3
LENGTHS = np.array([4, 2])
W, R = np.linspace(-0.5, 0.5, 54, dtype=np.float32).reshape(2, 1, 9, 3)
CONSTANTS = {
    "W": W, "R": R, "W2": np.tile(W, (2, 1, 1)), "R2": np.tile(R, (2, 1, 1)), "square": np.eye(3, dtype=np.float32),
    "two": np.eye(2, dtype=np.float32), "cube": np.ones((4, 3, 3), np.float32), "bias": np.ones(3, np.float32),
    "column": np.ones((3, 1), np.float32), "ones": np.ones((4, 2, 3), np.float32), "0": np.array([0]),
    "1": np.array([1]), "2": np.array([2]), "-1": np.array([-1]), "zero": np.array(0), "one": np.array(1),
    "0,0": np.array([0, 0]), "1,1": np.array([1, 1]), "0,1": np.array([0, 1]), "end": np.array([2**62]),
    "depth": np.array(3), "off,on": np.array([0, 1], np.float32), "on,off": np.array([1, 0], np.float32),
    "integers": np.array([0, 1]), "table": np.ones((3, 3), np.float32), "-1,4": np.array([-1, 4]),
    "3,-1": np.array([3, -1]),
    "lens": np.array([4, 2], np.int32), "nothing": np.array(0, np.float32), "five": np.array(5, np.float32),
    "low": np.array(-np.inf, np.float32), "states": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "same states": np.ones((1, 2, 3), np.float32), "true": np.array(True), "0,2,3": np.array([0, 2, 3]),
    "state": np.ones((1, 2, 3), np.float32), "half": np.array(0.5, np.float32),
}  # fmt: skip


def node(operator, inputs, outputs, **attributes):
    """`inputs` and `outputs` are names, several of them with spaces between."""
    names = [name.replace("_", " ") if name.startswith("same") else name for name in inputs.split(" ")]
    return helper.make_node(operator, ["" if n == "." else n for n in names], outputs.split(" "), **attributes)


def gru(inputs="X W R", outputs="Y h", **attributes):
    return node("GRU", inputs, outputs, hidden_size=3, name="gru", **attributes)


def loaded(folder, nodes, inputs, output="z", opset=18):
    """The graph in a file; constants are those that nodes take."""
    used = {name for n in nodes for name in n.input}
    initializers = [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items() if name in used]
    typed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", typed, [result], initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(proto, folder / "model.onnx")
    return load(folder / "model.onnx")


SQUEEZED = [gru(), node("Squeeze", "Y 1", "y")]  # (4,2,3)
BOTH = gru("X W2 R2", direction="bidirectional")
MASK = [  # (4,2,1), which steps are valid
    node("Shape", "X", "s"), node("Gather", "s zero", "t", axis=0), node("Range", "zero t one", "all"),
    node("Unsqueeze", "all 1", "column_of_steps"), node("Less", "column_of_steps lengths", "m"),
    node("Unsqueeze", "m 2", "mask"),
]  # fmt: skip
FLOATS, INTEGERS, RAGGED = {"X": X}, {"X": TOKENS}, {"X": X, "lengths": LENGTHS}

OBSTACLES = {  # name -> (what is said, inputs, nodes)
    "other padding": ("filled with numbers that are no zeros", RAGGED,
        [*MASK, node("Where", "mask X five", "f"), node("Tanh", "f", "z")]),
    "directions apart": ("both directions are not joined", FLOATS, [BOTH, node("Tanh", "h", "z")]),
    "product over the batch": ("goes over what are not the features", FLOATS,
        [node("Transpose", "X", "x", perm=[0, 2, 1]), node("MatMul", "x two", "z")]),
    "constant lengths": ("sequence_lens of GRU node 'gru' is no input", FLOATS, [gru("X W R . lens", "z")]),
    "features in the batch's place": ("is no sequence of features", {"X": np.zeros((3, 3, 3), np.float32)},
        [node("Transpose", "X", "x", perm=[0, 2, 1]), gru("x W R", "z")]),
    "many matrices": ("MatMul", FLOATS, [node("MatMul", "X cube", "z")]),
    "matrix turned": ("Gemm", {"X": X[0]}, [node("Gemm", "X two", "z", transA=1)]),
    "numbers added": ("Add", FLOATS, [node("Add", "X bias", "z")]),
    "a column added": ("Add", {"X": X[:, :1].repeat(3, 1)},
        [node("MatMul", "X square", "p"), node("Add", "p column", "z")]),
    "bias of another axis": ("Add", FLOATS, [
        node("MatMul", "X square", "p"), node("Transpose", "p", "q", perm=[0, 2, 1]), node("Add", "q column", "z")]),
    "cold ones": ("OneHot", INTEGERS, [node("OneHot", "X depth on,off", "z")]),
    "ones first": ("OneHot", INTEGERS, [node("OneHot", "X depth off,on", "z", axis=0)]),
    "sizes computed": ("Expand", FLOATS, [node("Shape", "X", "s"), node("Expand", "X s", "z")]),
    "columns of a table": ("Gather", INTEGERS, [node("Gather", "table X", "z", axis=1)]),
    "two steps": ("Gather", FLOATS, [*SQUEEZED, node("Gather", "y 0,1", "z", axis=0)]),
    "index computed": ("is used in a way", {"X": X, "lengths": LENGTHS},
        [*SQUEEZED, node("Gather", "y lengths", "z", axis=0)]),
    "slices of two axes": ("Slice", FLOATS, [*SQUEEZED, node("Slice", "y 0,0 1,1 0,1", "z")]),
    "steps left out": ("Slice", FLOATS, [*SQUEEZED, node("Slice", "y 0 end 0 2", "z")]),
    "first step": ("Slice", FLOATS, [*SQUEEZED, node("Slice", "y 0 1 0", "z")]),
    "slices computed": ("starts of a node is computed", {"X": X, "lengths": LENGTHS},
        [*SQUEEZED, node("Slice", "y lengths end 0", "z")]),
    "batch split": ("Split", FLOATS, [*SQUEEZED, node("Split", "y", "a z", axis=1, num_outputs=2)]),
    "sum of all steps": ("ReduceSum", FLOATS, [*SQUEEZED, node("ReduceSum", "y 0", "z", keepdims=0)]),
    "mean of everything": ("ReduceMean", FLOATS, [*SQUEEZED, node("ReduceMean", "y", "z", keepdims=0)]),
    "mean of two axes": ("ReduceMean", FLOATS, [*SQUEEZED, node("ReduceMean", "y 0,1", "z", keepdims=0)]),
    "largest of filled steps": ("ReduceMax", RAGGED,
        [*MASK, node("Where", "mask X five", "f"), node("ReduceMax", "f 0", "z", keepdims=0)]),
    "mean of filled steps": ("ReduceMean", RAGGED,
        [*MASK, node("Where", "mask X nothing", "f"), node("ReduceMean", "f 0", "z", keepdims=0)]),
    "divided by a number": ("Div", FLOATS, [*SQUEEZED, node("Div", "y five", "z")]),
    "lengths compared the other way": ("Less", RAGGED, [
        node("Shape", "X", "s"), node("Gather", "s zero", "t", axis=0), node("Range", "zero t one", "all"),
        node("Unsqueeze", "lengths 1", "l"), node("Less", "l all", "m"), node("Unsqueeze", "m 2", "mask"),
        node("Transpose", "mask", "mm", perm=[1, 0, 2]), node("Where", "mm X nothing", "z")]),
    "padding of several numbers": ("Where", RAGGED, [*MASK, node("Where", "mask X ones", "z")]),
    "padding of transposed data": ("Where", {"X": X[:2], "lengths": LENGTHS}, [
        *MASK, node("Transpose", "X", "x", perm=[1, 0, 2]), node("Where", "mask x nothing", "z")]),
    "chosen data": ("Where", RAGGED, [*MASK, node("Where", "mask nothing X", "z")]),
    "dropout that is on": ("Dropout", FLOATS, [*SQUEEZED, node("Dropout", "y half true", "z")]),
    "steps squeezed away": ("Squeeze", FLOATS, [node("GRU", "X W R", "Y h", hidden_size=3), node("Squeeze", "Y", "z")]),
    "states joined as features": ("Concat", FLOATS, [gru(), node("Concat", "h h", "z", axis=2)]),
    "reshaped across": ("Reshape", FLOATS, [*SQUEEZED, node("Reshape", "y -1,4", "z")]),
    "reshaped from the front": ("Reshape", FLOATS, [*SQUEEZED, node("Reshape", "y 3,-1", "z")]),
    "states that differ": ("initial states differ within the batch", FLOATS, [gru("X W R . . states", "z")]),
    "no data": ("it has 0 inputs besides states", FLOATS,
        [node("Gather", "X zero", "x", axis=0), node("Unsqueeze", "x 0", "h0"), gru("X W R . . h0", "z")]),
    "states of lengths": ("an initial state is made of what is no state", {"X": X, "lengths": LENGTHS},
        [
        node("Shape", "X", "s"), node("Slice", "s 1 end 0", "tail"), node("Concat", "1 tail", "sizes", axis=0),
        node("ConstantOfShape", "sizes", "h0", value=numpy_helper.from_array(np.ones(1, np.float32))),
        gru("X W R . . h0", "z")]),
    "whole numbers as vectors": ("dtype", INTEGERS,
        [node("OneHot", "X depth integers", "h"), node("Cast", "h", "z", to=TensorProto.FLOAT)]),
}  # fmt: skip


@pytest.mark.parametrize("name", OBSTACLES)
def test_graph_that_is_almost_a_chain(tmp_path, name):
    text, inputs, nodes = OBSTACLES[name]
    graph = loaded(tmp_path, nodes, inputs)
    assert graph.model is None and text in graph.obstacle, graph.obstacle


CHAINS = {  # name -> (inputs, nodes, layers)
    "product without a bias": ({"X": X[0]}, [node("Gemm", "X square", "z", alpha=2.0)], "Linear(3, 3, bias=False)"),
    "product of a turned matrix": (
        {"X": X[0]}, [node("Gemm", "X table bias", "z", transB=1, beta=0.5)], "Linear(3, 3)"),
    "the same state everywhere": (
        FLOATS, [gru("X W R . . same_states")], "GRU(3, 3, bias=False, initial_state='learned', reset_after=False)"),
    "a slice that is the last step": (
        FLOATS, [*SQUEEZED, node("Slice", "y -1 end 0", "z")], "Sequential"),
    "all but one dimension as one": (FLOATS, [*SQUEEZED, node("Tanh", "y", "t"), node("Flatten", "t", "z", axis=2)],
        "Sequential"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_graph_that_is_a_chain(tmp_path, name):
    inputs, nodes, layers = CHAINS[name]
    output = nodes[-1].output[0]
    graph = loaded(tmp_path, nodes, inputs, output)
    assert graph.obstacle is None and repr(graph.model).startswith(layers), graph.model
    expected = graph.run(inputs)[0]
    found = graph.model.forward(inputs["X"][None] if inputs["X"].ndim == 2 else inputs["X"])[0]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
