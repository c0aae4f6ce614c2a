"""ONNX files that are written: valid, and ONNX Runtime computes what the model does, for any T and B."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.interop.onnx import export, load
from fastrnn.model import Container

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FEATURES, TOKENS = 4, 6


def session(path):
    """ONNX Runtime on one thread, once the file is found valid."""
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def named_states(layer, state, prefix=""):
    """The parts of a layer's state by their names in the graph."""
    if isinstance(layer, Container):
        entries = [state] if isinstance(layer, fastrnn.Residual) else state
        pairs = enumerate(zip(layer.layers, entries, strict=True))
        return {k: v for i, pair in pairs for k, v in named_states(*pair, f"{prefix}{i}.").items()}
    parts = () if state is None else state if isinstance(state, tuple) else (state,)
    return {f"{prefix}{name}": part for name, part in zip("hc", parts, strict=False)}


def like(state, rng):
    """A random state of the same structure."""
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(like(part, rng) for part in state)
    return rng.standard_normal(state.shape).astype(state.dtype)


def padded(x, lengths, batch_first, rng):
    """`x` with what must not be read past the ends: NaN, or numbers that are no tokens."""
    x = x.copy()
    for row, length in zip(x if batch_first else x.swapaxes(0, 1), lengths, strict=True):
        row[length:] = np.nan if x.dtype.kind == "f" else 1000
    return x


def assert_runtime_agrees(model, path, x, *, lengths=None, states=True, tokens=False, rng=None):
    """Export, run, and compare outputs and states, from a random state if there are `states`."""
    export(model, path, lengths=lengths is not None, states=states, tokens=tokens)
    runtime = session(path)
    state = like(model.forward(x, lengths=lengths)[1], rng) if states else None
    feeds = {"x": x, **(named_states(model, state) if states else {})}
    if lengths is not None:
        feeds["lengths"] = np.asarray(lengths, np.int32)
    assert {value.name for value in runtime.get_inputs()} == set(feeds)
    y, final = model.forward(x, state, lengths=lengths)
    expected = {"y": y, **({f"{k}_n": v for k, v in named_states(model, final).items()} if states else {})}
    names = [value.name for value in runtime.get_outputs()]
    assert names[0] == "y" and set(names) == set(expected)
    for name, array in zip(names, runtime.run(None, feeds), strict=True):
        assert array.shape == expected[name].shape and array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5, err_msg=name)


# ---- random models ----


@st.composite
def recurrent_layers(draw, width):
    kind = draw(st.sampled_from(["RNN", "GRU", "reset before", "LSTM", "PeepholeLSTM"]))
    options = {
        "num_layers": draw(st.integers(1, 3)),
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "initial_state": draw(st.sampled_from(["zeros", "learned"])),
        "seed": draw(st.integers(0, 9)),
    }
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu", "sigmoid"]))
    if kind == "reset before":
        kind, options["reset_after"] = "GRU", False
    layer = getattr(fastrnn, kind)(width, draw(st.integers(1, 5)), dropout=0.5, **options)
    return layer, layer.hidden_size * layer.directions


@st.composite
def models(draw):
    """A model, and whether its input is integers, and whether only as an option."""
    source = draw(st.sampled_from(["real", "linear", "tokens", "embedding", "one-hot"]))
    layers, width = [], FEATURES if source in ("real", "linear") else TOKENS
    if source == "linear":
        layers, width = [fastrnn.Linear(width, 3, bias=draw(st.booleans())), fastrnn.ReLU()], 3
    elif source == "embedding":
        layers, width = [fastrnn.Embedding(TOKENS, 3)], 3
    elif source == "one-hot":
        layers = [fastrnn.OneHot(TOKENS)]
    layer, out = draw(recurrent_layers(width))
    join = draw(st.sampled_from(["alone", "alone", "residual", "concatenated"]))
    if source == "tokens" or join == "alone":
        layers.append(layer)
    elif join == "residual":
        layers.append(fastrnn.Residual(fastrnn.Sequential(layer, fastrnn.Linear(out, width))))
        out = width
    else:
        include, other = draw(st.booleans()), fastrnn.GRU(out, 2)
        layers.append(fastrnn.Concatenated(layer, other, include_input=include))
        out += 2 + width * include
    end = draw(st.sampled_from(["nothing", "linear", "last", "mean", "max", "repeat"]))
    if end == "linear":
        layers += [fastrnn.Dropout(0.5), fastrnn.Linear(out, 2), fastrnn.Sigmoid()]
    elif end in ("last", "mean", "max"):
        pooling = {"last": fastrnn.Last, "mean": fastrnn.MeanPool, "max": fastrnn.MaxPool}[end]
        halves = {"bidirectional": True} if end == "last" and out % 2 == 0 and draw(st.booleans()) else {}
        layers += [fastrnn.Tanh(), pooling(**halves), fastrnn.Linear(out, 2)]
    elif end == "repeat":
        layers += [fastrnn.Last(), fastrnn.Repeat(3), fastrnn.GRU(out, 2)]
    batch_first = draw(st.booleans())
    if len(layers) == 1 and isinstance(layers[0], fastrnn.LSTM) and draw(st.booleans()):
        model = layers[0]
        model.batch_first = batch_first
    else:
        model = fastrnn.Sequential(*layers, batch_first=batch_first)
    return model, source not in ("real", "linear"), source == "tokens"


@given(models(), st.integers(1, 6), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=60)
def test_export_runs_as_the_model(tmp_path_factory, drawn, steps, batch, ragged, states, seed):
    model, integers, tokens = drawn
    rng = np.random.default_rng(seed)
    model.vector_to_parameters(rng.uniform(-0.7, 0.7, model.num_parameters).astype(np.float32))
    lead = (batch, steps) if model.batch_first else (steps, batch)
    x = rng.integers(0, TOKENS, lead) if integers else rng.standard_normal((*lead, FEATURES)).astype(np.float32)
    lengths = rng.integers(1, steps + 1, batch) if ragged else None
    if ragged:
        x = padded(x, lengths, model.batch_first, rng)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert_runtime_agrees(model, path, x, lengths=lengths, states=states, tokens=tokens, rng=rng)


# ---- what is in the file ----


def test_export_names_states_as_parameters_are_named(tmp_path):
    model = fastrnn.Sequential(
        fastrnn.Linear(3, 4), fastrnn.Residual(fastrnn.LSTM(4, 4)), fastrnn.Concatenated(fastrnn.GRU(4, 2, 2))
    )
    export(model, tmp_path / "m.onnx", lengths=True)
    runtime = session(tmp_path / "m.onnx")
    shapes = {value.name: value.shape for value in (*runtime.get_inputs(), *runtime.get_outputs())}
    assert shapes == {
        "x": ["T", "B", 3], "lengths": ["B"], "1.0.h": [1, "B", 4], "1.0.c": [1, "B", 4], "2.0.h": [2, "B", 2],
        "y": ["T", "B", 2], "1.0.h_n": [1, "B", 4], "1.0.c_n": [1, "B", 4], "2.0.h_n": [2, "B", 2],
    }  # fmt: skip
    text = onnx.load(tmp_path / "m.onnx").doc_string
    assert "GRU(4, 2, num_layers=2)" in text


def test_export_uses_one_node_a_layer(tmp_path):
    export(fastrnn.GRU(3, 4, 2, bidirectional=True), tmp_path / "m.onnx", states=False)
    nodes = [node for node in onnx.load(tmp_path / "m.onnx").graph.node if node.op_type == "GRU"]
    attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in nodes]
    assert attributes == [{"hidden_size": 4, "direction": b"bidirectional", "linear_before_reset": 1}] * 2


@pytest.mark.parametrize("lengths", [None, [3, 1, 5]])
@pytest.mark.parametrize("batch_first", [False, True])
def test_export_of_the_last_output_of_each_direction(tmp_path, batch_first, lengths):
    model = fastrnn.Sequential(
        fastrnn.LSTM(2, 3, bidirectional=True, seed=0), fastrnn.Last(bidirectional=True), batch_first=batch_first
    )
    x = np.random.default_rng(0).standard_normal((3, 5, 2) if batch_first else (5, 3, 2)).astype(np.float32)
    assert_runtime_agrees(model, tmp_path / "m.onnx", x, lengths=lengths, states=False)


def test_export_of_vectors(tmp_path):
    model = fastrnn.Sequential(fastrnn.Linear(2, 3), fastrnn.Repeat(4), fastrnn.LSTM(3, 2), batch_first=True)
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    assert_runtime_agrees(model, tmp_path / "m.onnx", x, states=False)
    with pytest.raises(ValueError, match="lengths must be False for a model that takes vectors"):
        export(model, tmp_path / "n.onnx", lengths=True)


def test_export_noise_is_what_inference_makes_of_it(tmp_path):
    rng = np.random.default_rng(1)
    noisy = fastrnn.NoisyState(1.0)
    model = fastrnn.Sequential(
        fastrnn.LSTM(3, 4, 2, dropout=0.5, recurrent_dropout=0.5, initial_state=noisy),
        fastrnn.ActivityRegularization(1),
    )
    x = rng.standard_normal((3, 2, 3)).astype(np.float32)
    assert_runtime_agrees(model, tmp_path / "m.onnx", x, states=False)


def test_export_in_double_precision(tmp_path):
    """ONNX Runtime has no recurrent operator in float64; the file is valid, and `load` runs it."""
    model = fastrnn.Sequential(fastrnn.GRU(3, 4, bidirectional=True, dtype="float64"), fastrnn.MeanPool())
    export(model, tmp_path / "m.onnx", lengths=True, states=False)
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    x, lengths = np.random.default_rng(2).standard_normal((4, 2, 3)), np.array([2, 4])
    [y] = load(tmp_path / "m.onnx").run({"x": x, "lengths": lengths})
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, model.forward(x, lengths=lengths)[0], rtol=0, atol=1e-12)


# ---- refusals ----


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: fastrnn.LayerNormLSTM(2, 2), "LayerNormLSTM can't be expressed in ONNX: there is no operator"),
        (lambda: fastrnn.Sequential(fastrnn.Tanh(), fastrnn.Jordan(2, 3, 2)), "layer 1, Jordan, can't be expressed"),
        (lambda: fastrnn.Sequential(fastrnn.Residual(fastrnn.GRU(2, 2, dilation=3))), "layer 0.0, GRU, .*dilation=3"),
        (lambda: fastrnn.LSTM(2, 2, zoneout=(0.0, 0.1)), "LSTM can't be expressed in ONNX: zoneout"),
    ],
)
def test_export_refuses_what_has_no_node(tmp_path, model, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=message):
        export(model(), path)
    assert path.read_bytes() == b"before"


def test_export_checks_its_arguments(tmp_path, monkeypatch):
    path, model = tmp_path / "m.onnx", fastrnn.Sequential(fastrnn.Linear(2, 2), fastrnn.GRU(2, 2))
    with pytest.raises(TypeError, match="model must be a layer or a model, got dict"):
        export({}, path)
    with pytest.raises(TypeError, match="states must be True or False"):
        export(model, path, states=1)
    with pytest.raises(ValueError, match="tokens must be False for a model whose first layer"):
        export(model, path, tokens=True)
    with pytest.raises(ValueError, match="tokens must be False"):
        export(fastrnn.Residual(fastrnn.GRU(2, 2)), path, tokens=True)
    monkeypatch.setattr("fastrnn.interop.onnx.exporter._LARGEST", 60)
    with pytest.raises(ValueError, match="model has more than 60 bytes of parameters"):
        export(model, path)
    assert not path.exists()


def test_export_and_load_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: export(fastrnn.GRU(2, 2), tmp_path / "m.onnx"), lambda: load(tmp_path / "m.onnx")):
        with pytest.raises(ImportError, match=r"pip install onnx \(extra fastrnn\[onnx\]\)"):
            call()
