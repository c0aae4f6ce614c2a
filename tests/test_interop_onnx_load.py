"""ONNX files that are read: run as ONNX's own cases and ONNX Runtime have it, refused by name, made into models."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.interop.onnx import activations, export, load

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}
CONSTANTS = {
    "Affine": 2, "Elu": 1, "HardSigmoid": 2, "LeakyRelu": 1, "Relu": 0, "ScaledTanh": 2, "Sigmoid": 0, "Softplus": 0,
    "Softsign": 0, "Tanh": 0, "ThresholdedRelu": 1,
}  # fmt: skip


def value_info(name, array, *, open_shape=False):
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(array.dtype), None if open_shape else array.shape
    )


def model_of(nodes, inputs, outputs, constants=None, *, opset=17, functions=()):
    """A model of nodes; `inputs` are arrays by name, `outputs` names, with types to be inferred."""
    typed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [value_info(k, v) for k, v in inputs.items()], typed, initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)


def loaded(proto, folder):
    onnx.save(proto, folder / "model.onnx")
    return load(folder / "model.onnx")


def runtime(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def arrays(operator, steps, batch, features, hidden, directions, rng, dtype=np.float32):
    """All inputs of a node, small enough for no activation to explode."""
    gates = GATES[operator]
    shapes = {
        "X": (steps, batch, features), "W": (directions, gates * hidden, features),
        "R": (directions, gates * hidden, hidden), "B": (directions, 2 * gates * hidden),
        "initial_h": (directions, batch, hidden), "initial_c": (directions, batch, hidden),
        "P": (directions, 3 * hidden),
    }  # fmt: skip
    found = {name: rng.uniform(-0.5, 0.5, shape).astype(dtype) for name, shape in shapes.items()}
    found["sequence_lens"] = rng.integers(1, steps + 1, batch).astype(np.int32)
    return {name: found[name] for name in (INPUTS if operator == "LSTM" else INPUTS[:6])}


def node_of(operator, feeds, hidden, **attributes):
    names = [name if name in feeds else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    return helper.make_node(operator, names, OUTPUTS[operator], name="cell", hidden_size=hidden, **attributes)


# ---- ONNX's own cases ----


def cases():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other operators' cases overflow on purpose
        found = collect_testcases(None)
    return [case for case in found if case.name.startswith(("test_simple_rnn", "test_rnn", "test_gru", "test_lstm"))]


def test_load_passes_the_cases_of_onnx(tmp_path):
    passed = []
    for case in cases():
        graph = loaded(case.model, tmp_path)
        for inputs, outputs in case.data_sets:
            results = graph.run(dict(zip(graph.inputs, inputs, strict=True)))
            for result, expected in zip(results, outputs, strict=True):
                assert result.dtype == expected.dtype
                np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6, err_msg=case.name)
        passed.append(case.name)
    assert len(passed) >= 12  # more in later versions of onnx


# ---- nodes drawn at random, against ONNX Runtime ----


@st.composite
def nodes(draw):
    """A node's operator, attributes, inputs, and those of them that are initializers."""
    operator = draw(st.sampled_from(list(GATES)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    directions = 1 + (direction == "bidirectional")
    steps, batch, features, hidden = draw(st.tuples(*[st.integers(1, 6)] * 4))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    feeds = arrays(operator, steps, batch, features, hidden, directions, rng)
    for name in list(feeds)[3:]:
        if draw(st.booleans()):
            del feeds[name]
    attributes = {"direction": direction}
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.125, 0.5, 2.0]))
    if operator == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    if operator == "LSTM" and draw(st.booleans()):
        attributes["input_forget"] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        count = {"RNN": 1, "GRU": 2, "LSTM": 3}[operator] * directions
        names = draw(st.lists(st.sampled_from(list(CONSTANTS)), min_size=count, max_size=count))
        attributes["activations"] = names
        for i, key in enumerate(["activation_alpha", "activation_beta"]):
            size = sum(CONSTANTS[name] > i for name in names)
            if size:  # the defaults of ONNX Runtime's versions differ
                attributes[key] = draw(st.lists(st.sampled_from([0.3, 0.6, 0.9]), min_size=size, max_size=size))
    constant = {name for name in ("W", "R", "B", "P") if name in feeds} if draw(st.booleans()) else set()
    return operator, attributes, feeds, constant, hidden


@given(nodes())
@settings(max_examples=250)
def test_load_runs_any_node_as_onnx_runtime(tmp_path_factory, drawn):
    operator, attributes, feeds, constant, hidden = drawn
    constants = {name: array for name, array in feeds.items() if name in constant}
    inputs = {name: array for name, array in feeds.items() if name not in constant}
    proto = model_of([node_of(operator, feeds, hidden, **attributes)], inputs, OUTPUTS[operator], constants)
    expected = runtime(proto).run(None, inputs)
    graph = loaded(proto, tmp_path_factory.mktemp("onnx"))
    for _ in range(2):  # the second time by what was kept
        for result, array in zip(graph.run(inputs), expected, strict=True):
            assert result.shape == array.shape and result.dtype == array.dtype
            np.testing.assert_allclose(result, array, rtol=0, atol=1e-5 * max(1, np.abs(array).max()))
    if len(graph.inputs) == 1 + len(feeds.keys() & {"sequence_lens", "initial_h", "initial_c"}) and graph.model:
        assert isinstance(graph.model, fastrnn.RNN | fastrnn.GRU | fastrnn.LSTM | fastrnn.PeepholeLSTM)


def test_load_activations_have_the_defaults_of_their_operators():
    x = np.array([-2.0, -0.5, 0.0, 0.4, 3.0], np.float32)
    for name, expected in {
        "LeakyRelu": np.where(x < 0, 0.01 * x, x),
        "Elu": np.where(x < 0, np.exp(x) - 1, x),
        "HardSigmoid": np.clip(0.2 * x + 0.5, 0, 1),
    }.items():
        [function] = activations.parse([name], (), ())
        np.testing.assert_allclose(function(x), expected, rtol=1e-6)
    [affine] = activations.parse(["AFFINE"], [3.0], ())
    np.testing.assert_allclose(affine(x), 3 * x)


@pytest.mark.parametrize("operator", GATES)
def test_load_layout_swaps_time_and_batch(tmp_path, operator):
    """ONNX Runtime has no layout 1."""
    feeds = arrays(operator, 4, 3, 2, 5, 2, np.random.default_rng(0))
    turned = {
        name: array.swapaxes(0, 1) if name in ("X", "initial_h", "initial_c") else array
        for name, array in feeds.items()
    }
    node = node_of(operator, feeds, 5, direction="bidirectional")
    y, *final = loaded(model_of([node], feeds, OUTPUTS[operator]), tmp_path).run(feeds)
    node = node_of(operator, feeds, 5, direction="bidirectional", layout=1)
    y_1, *final_1 = loaded(model_of([node], turned, OUTPUTS[operator]), tmp_path).run(turned)
    np.testing.assert_array_equal(y_1, y.transpose(2, 0, 1, 3))
    for part, part_1 in zip(final, final_1, strict=True):
        np.testing.assert_array_equal(part_1, part.swapaxes(0, 1))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_load_other_precisions(tmp_path, dtype):
    feeds = arrays("GRU", 4, 3, 2, 5, 1, np.random.default_rng(0), dtype)
    node = node_of("GRU", feeds, 5)
    proto = model_of([node], feeds, OUTPUTS["GRU"])
    for output in proto.graph.output:
        output.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    single = {name: array.astype(np.float32) if array.dtype == dtype else array for name, array in feeds.items()}
    expected = loaded(model_of([node], single, OUTPUTS["GRU"]), tmp_path).run(single)
    for result, array in zip(loaded(proto, tmp_path).run(feeds), expected, strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(result, array, rtol=0, atol=1e-6 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_load_sequences_of_no_step_end_with_zeros(tmp_path, direction):
    """As in ONNX Runtime, whose earlier versions gave the initial state now and then."""
    feeds = arrays("RNN", 4, 3, 2, 5, 1, np.random.default_rng(0))
    feeds["sequence_lens"][1] = 0
    graph = loaded(model_of([node_of("RNN", feeds, 5, direction=direction)], feeds, OUTPUTS["RNN"]), tmp_path)
    y, h = graph.run(feeds)
    assert not y[:, :, 1].any() and not h[:, 1].any() and h[:, 0].all()


# ---- the rest of graphs ----


def test_load_weights_that_are_inputs_are_read_anew(tmp_path):
    feeds = arrays("LSTM", 3, 2, 2, 3, 1, np.random.default_rng(0))
    graph = loaded(model_of([node_of("LSTM", feeds, 3)], feeds, ["Y"]), tmp_path)
    [before] = graph.run(feeds)
    feeds["W"] *= 2  # in place
    [after] = graph.run(feeds)
    assert np.abs(after - before).max() > 1e-3
    assert graph.model is None and graph.obstacle == "it has 5 inputs besides states and lengths, X, W, R, B, P"


def test_load_defaults_of_inputs_can_be_replaced(tmp_path):
    """Also where the weights are made of them."""
    feeds = arrays("RNN", 3, 2, 2, 3, 1, np.random.default_rng(0))
    nodes = [helper.make_node("Identity", ["W"], ["V"]), helper.make_node("RNN", ["X", "V", "R"], ["Y"], hidden_size=3)]
    inputs = {name: feeds[name] for name in "XWR"}
    graph = loaded(model_of(nodes, inputs, ["Y"], {name: feeds[name] for name in "WR"}), tmp_path)
    assert graph.inputs == ("X",) and graph.outputs == ("Y",)
    [default] = graph.run({"X": feeds["X"]})
    [same] = graph.run(inputs)
    [other] = graph.run({**inputs, "W": -feeds["W"]})
    [again] = graph.run({"X": feeds["X"]})
    np.testing.assert_array_equal(default, same)
    np.testing.assert_array_equal(default, again)
    assert np.abs(default - other).max() > 1e-3
    assert isinstance(graph.model, fastrnn.RNN)


def test_load_outputs_left_out_are_no_inputs_left_out(tmp_path):
    """An output without a name stands before inputs without one, of another operator, too."""
    rng = np.random.default_rng(0)
    feeds = {name: array for name, array in arrays("LSTM", 3, 2, 3, 3, 1, rng).items() if name in "XWR"}
    nodes = [
        helper.make_node("LSTM", ["X", "W", "R"], ["", "h", ""], hidden_size=3),
        helper.make_node("LSTM", ["X", "W", "R", "", "", "h"], ["Y"], hidden_size=3),
        helper.make_node("Clip", ["Y", "", "half"], ["Z"]),
    ]
    proto = model_of(nodes, feeds, ["Z"], {"half": np.float32(0.05).reshape(())})
    [result] = loaded(proto, tmp_path).run(feeds)
    np.testing.assert_allclose(result, runtime(proto).run(None, feeds)[0], rtol=0, atol=1e-6)


def test_load_runs_recurrent_nodes_in_functions_and_branches(tmp_path):
    """There, too, options must not be lost: the evaluator's own operators have none."""
    feeds = {k: v for k, v in arrays("GRU", 4, 3, 2, 5, 1, np.random.default_rng(0)).items() if k != "B"}
    inner = node_of("GRU", feeds, 5, direction="reverse", clip=0.25)
    body = helper.make_function("local", "Turned", list(feeds), ["Y"], [inner], [helper.make_opsetid("", 17)])
    call = helper.make_node("Turned", list(feeds), ["Y"], domain="local")
    plain, function = model_of([inner], feeds, ["Y"]), model_of([call], feeds, ["Y"], functions=[body])
    typed = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)]
    branches = {key: helper.make_graph([inner], key, [], typed) for key in ("then_branch", "else_branch")}
    choice = helper.make_node("If", ["choose"], ["Z"], **branches)
    conditional = model_of([choice], {**feeds, "choose": np.array(True)}, ["Z"])
    [expected] = runtime(plain).run(["Y"], feeds)
    for proto, extra in ((function, {}), (conditional, {"choose": np.array(False)})):
        [result] = loaded(proto, tmp_path).run({**feeds, **extra})
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def test_load_run_checks_its_inputs(tmp_path):
    export(fastrnn.GRU(3, 2), tmp_path / "m.onnx", lengths=True)
    graph = load(tmp_path / "m.onnx")
    assert repr(graph) == "<ONNX graph (x, lengths, h) -> (y, h_n), GRU>"
    feeds = {"x": np.zeros((4, 2, 3)), "lengths": np.array([4, 1]), "h": np.zeros((1, 2, 2), np.float32)}
    assert [array.shape for array in graph.run(feeds)] == [(4, 2, 2), (1, 2, 2)]  # other precisions are converted
    for wrong, error, message in (
        ({"h": None}, ValueError, "inputs must be x, lengths, h, got them without h"),
        ({"x": None, "h": None}, ValueError, "inputs must be x, lengths, h, got them without x, h$"),
        ({"z": feeds["x"]}, ValueError, "got them with 'z'$"),
        ({"two\nlines": feeds["x"]}, ValueError, r"got them with 'two\\nlines'$"),
        ({"x": None, "z": feeds["x"], "y": feeds["x"]}, ValueError, "got them without x and with 'z', 'y'$"),
        ({"x": np.zeros((4, 2, 5))}, ValueError, r"x must have shape \(any, any, 3\), got \(4, 2, 5\)"),
        ({"x": np.zeros((4, 2, 3), int)}, TypeError, "x must hold float32, got int64"),
        ({"lengths": np.array([4, 2**40])}, ValueError, "lengths must hold numbers that fit into int32"),
        ({"lengths": np.array([4, 5])}, ValueError, "GRU node 'GRU_0': sequence_lens must be at most 4"),
        ({"h": np.zeros((1, 3, 2))}, ValueError, "GRU node 'GRU_0': initial_h must have shape"),
    ):
        inputs = {name: value for name, value in {**feeds, **wrong}.items() if value is not None}
        with pytest.raises(error, match=message):
            graph.run(inputs)


# ---- refusals ----


def simple(**attributes):
    feeds = {k: v for k, v in arrays("LSTM", 3, 2, 2, 3, 1, np.random.default_rng(0)).items() if k in "XWR"}
    return feeds, model_of([node_of("LSTM", feeds, 3, **attributes)], feeds, ["Y"])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"activations": ["Tanh", "Swish", "Tanh"]}, "LSTM node 'cell': the activation 'Swish' is not supported"),
        ({"activations": ["Tanh"]}, "activations must name 3 functions, got 1"),
        ({"activations": ["Sigmoid", "ScaledTanh", "Tanh"]}, "'ScaledTanh' needs a value in activation_alpha"),
        ({"clip": -1.0}, "clip must be above 0"),
        ({"layout": 2}, "layout must be at most 1"),
    ],
)
def test_load_names_attributes_it_does_not_support(tmp_path, attributes, message):
    with pytest.raises(ValueError, match=message):
        loaded(simple(**attributes)[1], tmp_path)


def test_load_names_operators_it_does_not_support(tmp_path):
    node = helper.make_node("Attention7", ["X"], ["Y"], domain="local")
    with pytest.raises(ValueError, match="'Attention7' from domain 'local'"):
        loaded(model_of([node], {"X": np.zeros((2, 2), np.float32)}, ["Y"]), tmp_path)


def test_load_of_inputs_that_do_not_fit_the_node(tmp_path):
    feeds, proto = simple()
    for value in proto.graph.input:
        value.type.tensor_type.ClearField("shape")
        for _ in range(3):
            value.type.tensor_type.shape.dim.add()
    graph = loaded(proto, tmp_path)
    for name, shape, message in (
        ("W", (1, 11, 2), r"W must have shape \(1, 12, any\), got \(1, 11, 2\)"),
        ("R", (1, 12, 4), r"R must have shape \(1, any, 3\)"),
        ("R", (2, 12, 3), r"R must have shape \(1, any, 3\)"),
        ("X", (3, 2, 5), r"X must have shape \(any, any, 2\)"),
        ("X", (0, 2, 2), "X must not be empty"),
    ):
        with pytest.raises(ValueError, match=f"LSTM node 'cell': {message}"):
            graph.run({**feeds, name: np.zeros(shape, np.float32)})


def test_load_refuses_damaged_files(tmp_path):
    path = tmp_path / "m.onnx"
    export(fastrnn.Sequential(fastrnn.LSTM(3, 4), fastrnn.Linear(4, 2)), path)
    data = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.onnx")
    rng = np.random.default_rng(0)
    broken = [b"", b"PK" * 40, data[: len(data) // 2], data[:-7]]
    for _ in range(60):
        changed = bytearray(data)
        for position in rng.integers(0, len(data), 4):
            changed[position] = rng.integers(256)
        broken.append(bytes(changed))
    for content in broken:
        path.write_bytes(content)
        try:
            graph = load(path)
            graph.run({name: np.ones((1, 1, 3 if name == "x" else 4), np.float32) for name in graph.inputs})
        except ValueError:
            pass  # FormatError is one
    for content in broken[:4]:
        path.write_bytes(content)
        with pytest.raises(fastrnn.FormatError, match="m.onnx is no"):
            load(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda node: node.input.__setitem__(0, "nowhere"),
        lambda node: setattr(node, "op_type", "X" * 100_000),
        lambda node: node.input.__setitem__(0, "x\ny" * 10_000),
    ],
)
def test_damaged_file_has_a_message_of_one_sentence(tmp_path, damage):
    """The library's own are of several lines, and repeat what is in the file."""
    _, proto = simple()
    damage(proto.graph.node[0])
    with pytest.raises(fastrnn.FormatError, match="is no valid ONNX model") as caught:
        loaded(proto, tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1_000


def test_load_reads_weights_of_its_own_folder_alone(tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    feeds, proto = simple()
    del proto.graph.input[1:]
    proto.graph.initializer.extend(numpy_helper.from_array(feeds[name], name) for name in "WR")
    expected = loaded(proto, tmp_path).run({"X": feeds["X"]})
    onnx.save(proto, folder / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    np.testing.assert_array_equal(load(folder / "m.onnx").run({"X": feeds["X"]}), expected)
    (folder / "weights").rename(tmp_path / "weights")
    data = (folder / "m.onnx").read_bytes()
    with pytest.raises(fastrnn.FormatError):
        load(folder / "m.onnx")
    outside = onnx.load_model_from_string(data)
    for tensor in outside.graph.initializer:
        tensor.external_data[0].value = "../weights"
    (folder / "m.onnx").write_bytes(outside.SerializeToString())
    with pytest.raises(fastrnn.FormatError):
        load(folder / "m.onnx")


# ---- chains ----


def chain_of_own(**options):
    return fastrnn.Sequential(
        fastrnn.Linear(3, 4), fastrnn.Tanh(), fastrnn.GRU(4, 3, initial_state="learned"), options["pooling"](),
        fastrnn.Linear(3, 2, bias=False), fastrnn.Repeat(3), fastrnn.PeepholeLSTM(2, 3), fastrnn.Sigmoid(),
        batch_first=options["batch_first"],
    )  # fmt: skip


@pytest.mark.parametrize("pooling", [fastrnn.Last, fastrnn.MeanPool, fastrnn.MaxPool])
@pytest.mark.parametrize(("ragged", "batch_first"), [(False, False), (True, True)])
def test_load_gives_the_model_that_was_exported(tmp_path, pooling, ragged, batch_first):
    rng = np.random.default_rng(0)
    model = chain_of_own(pooling=pooling, batch_first=batch_first)
    model.vector_to_parameters(rng.uniform(-1, 1, model.num_parameters).astype(np.float32))
    export(model, tmp_path / "m.onnx", lengths=ragged, states=False)
    graph = load(tmp_path / "m.onnx")
    assert graph.obstacle is None and repr(graph.model) == repr(model)
    x = rng.standard_normal((4, 5, 3)).astype(np.float32)
    lengths = np.array([4, 2, 1, 4]) if ragged else None
    np.testing.assert_array_equal(graph.model.forward(x, lengths=lengths)[0], model.forward(x, lengths=lengths)[0])


def test_load_gives_tokens_stacks_and_directions(tmp_path):
    model = fastrnn.Sequential(
        fastrnn.Embedding(7, 3),
        fastrnn.LSTM(3, 2, 2, bidirectional=True),
        fastrnn.RNN(4, 2, bias=False),
        fastrnn.Last(),
    )
    export(model, tmp_path / "m.onnx", lengths=True)
    found = load(tmp_path / "m.onnx").model
    kinds = [type(layer).__name__ for layer in found.layers]
    assert kinds == ["Embedding", "LSTM", "LSTM", "RNN", "Last"]
    x = np.random.default_rng(0).integers(0, 7, (4, 3))
    np.testing.assert_array_equal(found.forward(x, lengths=[4, 1, 2])[0], model.forward(x, lengths=[4, 1, 2])[0])
    export(fastrnn.Sequential(fastrnn.OneHot(7), fastrnn.GRU(7, 2)), tmp_path / "o.onnx")
    assert [type(layer).__name__ for layer in load(tmp_path / "o.onnx").model.layers] == ["OneHot", "GRU"]


@pytest.mark.parametrize("ragged", [False, True])
def test_load_gives_the_last_output_of_each_direction(tmp_path, ragged):
    model = fastrnn.Sequential(
        fastrnn.LSTM(3, 4, bidirectional=True, seed=0),
        fastrnn.Last(bidirectional=True),
        fastrnn.Linear(8, 2, seed=1),
        batch_first=True,
    )
    export(model, tmp_path / "m.onnx", lengths=ragged, states=False)
    graph = load(tmp_path / "m.onnx")
    assert graph.obstacle is None and repr(graph.model) == repr(model)
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    lengths = np.array([4, 2, 1, 5]) if ragged else None
    expected = model.forward(x, lengths=lengths)[0]
    np.testing.assert_array_equal(graph.model.forward(x, lengths=lengths)[0], expected)
    feeds = {"x": x, "lengths": lengths} if ragged else {"x": x}
    np.testing.assert_allclose(graph.run(feeds)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrong", ["first step of the forward half", "ends the wrong way round"])
def test_load_takes_no_other_halves_for_it(tmp_path, wrong):
    model = fastrnn.Sequential(fastrnn.GRU(3, 4, bidirectional=True, seed=0), fastrnn.Last(bidirectional=True))
    export(model, tmp_path / "m.onnx", states=False)
    proto = onnx.load(tmp_path / "m.onnx")
    concat = next(node for node in proto.graph.node if node.op_type == "Concat")
    if "first" in wrong:
        gather = next(node for node in proto.graph.node if node.output[0] == concat.input[1])
        gather.input[0] = "1.forward"
    else:
        concat.input[:] = list(concat.input)[::-1]
    onnx.save(proto, tmp_path / "n.onnx")
    assert load(tmp_path / "n.onnx").obstacle is not None


def test_load_gives_a_model_to_train(tmp_path):
    rng = np.random.default_rng(0)
    model = fastrnn.Sequential(fastrnn.LSTM(2, 4, seed=0), fastrnn.Last(), fastrnn.Linear(4, 1, seed=1))
    export(model, tmp_path / "m.onnx", states=False)
    graph = load(tmp_path / "m.onnx")
    x, targets = rng.standard_normal((5, 8, 2)).astype(np.float32), rng.standard_normal((8, 1)).astype(np.float32)
    trainer = fastrnn.Trainer(graph.model, fastrnn.MSE(), fastrnn.Adam(0.01))
    first, *_, last = [trainer.step(x, targets)[0] for _ in range(30)]
    assert last < 0.8 * first
    np.testing.assert_allclose(graph.run({"x": x})[0], model.forward(x)[0], rtol=0, atol=1e-6)  # the file's weights


def keras_like(rng):
    """As tf2onnx writes Keras's LSTM and Dense: batch first, h of the last step; weights are laid out at run time."""
    w, r, b = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((1, 2, 16), (1, 4, 16), (1, 32)))
    nodes = [
        helper.make_node("Transpose", ["x"], ["x_t"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["w"], ["W"], perm=[0, 2, 1]),
        helper.make_node("Transpose", ["r"], ["R"], perm=[0, 2, 1]),
        helper.make_node("LSTM", ["x_t", "W", "R", "b"], ["", "h", ""], hidden_size=4),
        helper.make_node("Squeeze", ["h", "zero"], ["last"]),
        helper.make_node("MatMul", ["last", "kernel"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["dense"]),
        helper.make_node("Relu", ["dense"], ["y"]),
    ]
    constants = {"w": w, "r": r, "b": b, "zero": np.array([0]), "bias": np.ones(3, np.float32)}
    constants["kernel"] = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
    return model_of(nodes, {"x": np.zeros((5, 6, 2), np.float32)}, ["y"], constants)


def test_load_gives_models_of_keras_style(tmp_path):
    rng = np.random.default_rng(0)
    graph = loaded(keras_like(rng), tmp_path)
    assert [type(layer).__name__ for layer in graph.model.layers] == ["LSTM", "Last", "Linear", "ReLU"]
    assert graph.model.batch_first
    x = rng.standard_normal((5, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(graph.model.forward(x)[0], graph.run({"x": x})[0], rtol=0, atol=1e-6)


def torch_models():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Tagger(nn.Module):
        def __init__(self, kind, pool=None, layers=1, **options):
            super().__init__()
            self.rnn, self.pool = kind(3, 4, layers, **options), pool
            self.head = nn.Linear(8 if options.get("bidirectional") else 4, 2)

        def forward(self, x):
            y, h = self.rnn(x)
            if self.pool == "step":
                y = torch.relu(y[:, -1] if self.rnn.batch_first else y[-1])
            if self.pool == "state":
                y = h[-1]
            if self.pool == "mean":
                y = y.mean(1 if self.rnn.batch_first else 0)
            return self.head(y)

    return {
        "LSTM": lambda: Tagger(nn.LSTM, batch_first=True),
        "LSTM Last": lambda: Tagger(nn.LSTM, "step", batch_first=True),
        "GRU GRU": lambda: Tagger(nn.GRU, layers=2, bidirectional=True),
        "GRU GRU Last": lambda: Tagger(nn.GRU, "state", layers=2),
        "RNN MeanPool": lambda: Tagger(nn.RNN, "mean", nonlinearity="relu"),
    }


@pytest.mark.parametrize("name", ["LSTM", "LSTM Last", "GRU GRU", "GRU GRU Last", "RNN MeanPool"])
def test_load_gives_models_of_pytorch(tmp_path, name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module, path = torch_models()[name]().eval(), tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's retirement, and of batch sizes
        torch.onnx.export(
            module, (torch.zeros(4, 6, 3),), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "a", 1: "b"}}
        )
    graph = load(path)
    kinds = [type(layer).__name__ for layer in graph.model.layers]
    assert kinds == [*(["LSTM", "Last", "ReLU"] if name == "LSTM Last" else name.split()), "Linear"]
    x = torch.randn(5, 3, 3)
    expected = module(x).detach().numpy()
    np.testing.assert_allclose(graph.run({"x": x.numpy()})[0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(graph.model.forward(x.numpy())[0], expected, rtol=0, atol=1e-6)


def both_directions(h, layers, how):
    import torch

    forward, reverse = 2 * layers - 2, 2 * layers - 1
    return {
        "from the end": lambda: torch.cat((h[-2], h[-1]), 1),
        "from the start": lambda: torch.cat((h[forward], h[reverse]), dim=-1),
        "slices": lambda: torch.cat((h[-2:-1], h[-1:]), 2).squeeze(0),
        "reshaped": lambda: h[-2:].transpose(0, 1).reshape(-1, 8),
        "the wrong way round": lambda: torch.cat((h[-1], h[-2]), 1),
        "one twice": lambda: torch.cat((h[-2], h[-2]), 1),
        "added": lambda: h[-2] + h[-1],
        "the layer below": lambda: torch.cat((h[0], h[1]), 1),
        "one of the layer below": lambda: torch.cat((h[0], h[-1]), 1),
    }[how]()


def ends_of_pytorch(path, how, layers, kind="LSTM", batch_first=True, dynamo=False):
    """A classifier of final states, exported by PyTorch; and what is read from the file."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = getattr(nn, kind)(3, 4, layers, bidirectional=True, batch_first=batch_first)
            self.head = nn.Linear(4 if how == "added" else 8, 2)

        def forward(self, x):
            final = self.rnn(x)[1]
            return self.head(both_directions(final[0] if kind == "LSTM" else final, layers, how))

    torch.manual_seed(0)
    module = Classifier().eval()
    names = {0: "a", 1: "b"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's retirement, and of batch sizes
        if dynamo:
            sizes = {i: torch.export.Dim(name) for i, name in names.items()}
            torch.onnx.export(
                module, (torch.zeros(4, 6, 3),), path, dynamo=True, dynamic_shapes=(sizes,), verbose=False
            )
        else:
            torch.onnx.export(
                module, (torch.zeros(4, 6, 3),), path, dynamo=False, input_names=["x"], dynamic_axes={"x": names}
            )
    return module, load(path)


@pytest.mark.parametrize(
    ("how", "layers", "options"),
    [
        ("from the end", 1, {}),
        ("from the end", 2, {}),
        ("from the end", 2, {"kind": "GRU", "batch_first": False}),
        ("from the start", 2, {}),
        ("slices", 1, {}),
        ("slices", 2, {}),
        ("reshaped", 2, {}),
        ("from the end", 2, {"dynamo": True}),
    ],
)
def test_load_gives_the_final_states_of_both_directions(tmp_path, how, layers, options):
    if options.get("dynamo"):
        pytest.importorskip("onnxscript")
    module, graph = ends_of_pytorch(tmp_path / "m.onnx", how, layers, **options)
    assert graph.obstacle is None
    kinds = [*[options.get("kind", "LSTM")] * layers, "Last", "Linear"]
    assert [type(layer).__name__ for layer in graph.model.layers] == kinds
    assert repr(graph.model.layers[-2]) == "Last(bidirectional=True)"
    sizes = (4, 6) if options.get("dynamo") else (5, 7)  # that exporter does not always keep sizes open
    x = np.random.default_rng(0).standard_normal((*sizes, 3)).astype(np.float32)
    import torch

    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(graph.model.forward(x)[0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(graph.run({graph.inputs[0]: x})[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "layers", "obstacle"),
    [
        ("the wrong way round", 1, "Concat node '/Concat' is used in a way"),
        ("one twice", 1, "Concat node '/Concat' is used in a way"),
        ("added", 1, "Add node '/Add' is used in a way"),
        ("the layer below", 2, "Gather node '/Gather' is used in a way"),
        ("one of the layer below", 2, "Gather node '/Gather' is used in a way"),
    ],
)
def test_load_takes_no_other_final_states_for_them(tmp_path, how, layers, obstacle):
    _, graph = ends_of_pytorch(tmp_path / "m.onnx", how, layers)
    assert graph.model is None and obstacle in graph.obstacle


def obstacles():
    """Graphs that are no chains, by what is in the way."""
    rng = np.random.default_rng(0)
    w, r = (rng.uniform(-1, 1, (1, 9, n)).astype(np.float32) for n in (3, 3))
    constants = {"W": w, "R": r, "one": np.array([1]), "V": np.ones((3, 3), np.float32), "last": np.array(-1)}
    x = {"X": np.zeros((4, 2, 3), np.float32)}

    def gru(source, target, *more, **attributes):
        return helper.make_node("GRU", [source, "W", "R", *more], target, hidden_size=3, name="gru", **attributes)

    squeezed = [gru("X", ["Y", "h"]), helper.make_node("Squeeze", ["Y", "one"], ["y"])]
    lens = {**x, "lens": np.zeros(2, np.int32)}

    def graph(*nodes, inputs=x, output="z"):
        return model_of(nodes, inputs, [output], constants)

    def node(operator, inputs, **attributes):
        return helper.make_node(operator, inputs, ["z"], name="end", **attributes)

    return {
        "it branches": graph(*squeezed, helper.make_node("Tanh", ["y"], ["t"]), node("Sigmoid", ["y"])),
        "Softmax node 'end' is none of": graph(*squeezed, node("Softmax", ["y"])),
        "GRU node 'gru' is of the reverse": graph(gru("X", ["z"], direction="reverse")),
        "GRU node 'gru' has attributes that": graph(gru("X", ["z"], clip=1.0)),
        "the weights of GRU node 'gru' are not constant": graph(
            helper.make_node("Identity", ["X"], ["XX"]), helper.make_node("GRU", ["X", "XX", "R"], ["z"], name="gru")
        ),
        "nodes don't agree on which dimension": graph(*squeezed, node("Gather", ["y", "last"], axis=1)),
        "only some of its nodes know": graph(
            gru("X", ["Y"], "", "lens"), helper.make_node("Squeeze", ["Y", "one"], ["y"]),
            node("Gather", ["y", "last"], axis=0), inputs=lens,
        ),
        "Gather node 'end' is used in a way": graph(*squeezed, node("Gather", ["y", "one"], axis=0)),
        "Mul node 'end' is none of": graph(*squeezed, node("Mul", ["y", "X"])),
        "2 of its outputs are data": model_of(
            [*squeezed, helper.make_node("Cast", ["y"], ["z"], to=1)], x, ["y", "z"], constants
        ),
        "Tanh node 'end' computes with what is not the data": graph(
            gru("X", ["Y"], "", "", "h"), node("Tanh", ["h"]), inputs={**x, "h": np.zeros((1, 2, 3), np.float32)}
        ),
        "it has no layers": graph(node("Identity", ["X"])),
    }  # fmt: skip


def test_load_says_why_there_is_no_model(tmp_path):
    for message, proto in obstacles().items():
        graph = loaded(proto, tmp_path)
        assert graph.model is None and message in graph.obstacle, graph.obstacle


@given(st.data())
@settings(max_examples=200)
def test_load_models_compute_what_the_graph_does(tmp_path_factory, data):
    """Nodes strung together without sense are no chain, or one whose model gives the graph's numbers."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    constants = {"one": np.array([1]), "last": np.array(-1), "first": np.array(0), "axes": np.array([0])}
    constants |= {"w": rng.uniform(-1, 1, (3, 3)).astype(np.float32), "b": rng.uniform(-1, 1, 3).astype(np.float32)}
    constants |= {
        "W": rng.uniform(-1, 1, (1, 3, 3)).astype(np.float32),
        "R": rng.uniform(-1, 1, (1, 3, 3)).astype("f4"),
    }
    constants |= {"flat": np.array([0, -1, 3]), "rows": np.array([-1, 3]), "many": np.array([3, 1, 1])}
    cell = ("RNN", ["W", "R"], {"hidden_size": 3})
    layers = [
        [cell, ("Squeeze", ["one"], {})], [("Tanh", [], {})], [("MatMul", ["w"], {}), ("Add", ["b"], {})],
        [("MatMul", ["w"], {})], [("Gather", ["last"], {"axis": 0})],
        [("ReduceMean", [], {"axes": [0], "keepdims": 0})],
        [("ReduceMax", [], {"axes": [0], "keepdims": 0}), ("Unsqueeze", ["axes"], {}), ("Expand", ["many"], {})],
    ]  # fmt: skip
    others = [
        [("RNN", ["W", "R"], {"hidden_size": 3, "layout": 1})], [cell], [("Add", ["b"], {})], [("Softmax", [], {})],
        [("Transpose", [], {"perm": [1, 0, 2]})], [("Transpose", [], {"perm": [0, 2, 1, 3]})],
        [("Expand", ["many"], {})], [("Squeeze", ["one"], {})], [("Unsqueeze", ["axes"], {})],
        [("Reshape", ["flat"], {})], [("Reshape", ["rows"], {})], [("Gather", ["last"], {"axis": 1})],
        [("Gather", ["first"], {"axis": 1})],
        [("ReduceMax", [], {"axes": [1], "keepdims": 1})],
    ]  # fmt: skip
    drawn = data.draw(st.lists(st.sampled_from(layers) | st.sampled_from(layers + others), min_size=1, max_size=6))
    nodes, values = [], ["x"]
    for operator, more, attributes in itertools.chain(*drawn):
        branches = data.draw(st.integers(0, 15)) == 0
        source = data.draw(st.sampled_from(values)) if branches else values[-1]
        values.append(f"v{len(values)}")
        nodes.append(helper.make_node(operator, [source, *more], [values[-1]], **attributes))
    x = rng.uniform(-1, 1, (4, 2, 3)).astype(np.float32)
    proto = model_of(nodes, {"x": x}, [values[-1]], constants)
    try:
        graph = loaded(proto, tmp_path_factory.mktemp("onnx"))
        [y] = graph.run({"x": x})
    except ValueError:
        return  # shapes don't fit
    if graph.model is None:
        assert graph.obstacle
        return
    result = graph.model.forward(x)[0]
    assert result.size == y.size
    orders = itertools.permutations(range(result.ndim))
    assert any(np.allclose(result.transpose(order).reshape(y.shape), y, atol=1e-5) for order in orders)
