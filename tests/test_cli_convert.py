import importlib.util
import json
import os
import re
import sys

import numpy as np
import pytest

import fastrnn
from fastrnn import cli
from fastrnn.cli import convert
from fastrnn.interop import torch as interop_torch

pytest.importorskip("safetensors")
HAS = {name: importlib.util.find_spec(name) is not None for name in ("torch", "keras", "onnx", "onnxruntime")}
if HAS["torch"]:
    os.environ.setdefault("KERAS_BACKEND", "torch")  # as in the tests of Keras, for it can't be changed


def a_model(**options):
    """All parts that every target has."""
    return fastrnn.Sequential(
        fastrnn.Embedding(9, 4, seed=0), fastrnn.LSTM(4, 6, bidirectional=True, seed=1),
        fastrnn.GRU(12, 5, seed=2), fastrnn.Last(), fastrnn.Dropout(0.1), fastrnn.Linear(5, 3, seed=3), fastrnn.Tanh(),
        **options,
    )  # fmt: skip


COUNT = a_model().num_parameters


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    fastrnn.save(a_model(), path)
    return path


def run(capsys, *arguments):
    """What the command prints, which is all that it does."""
    capsys.readouterr()
    status = cli.main(["convert", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def assert_refused(capsys, pattern, *arguments):
    """Exit status 2 and one sentence; no file is left behind."""
    folder = os.path.dirname(arguments[0])
    before = sorted(os.listdir(folder))
    capsys.readouterr()
    assert cli.main(["convert", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert re.search(pattern, err), err
    assert sorted(os.listdir(folder)) == before


TARGETS = {
    "torch": (["torch"], "model.torch.safetensors"),
    "keras": (["keras"], "model.keras"),
    "onnx": (["onnx", "onnxruntime"], "model.onnx"),
    "fastrnn": ([], "model.fastrnn.safetensors"),
}


@pytest.mark.parametrize("to", TARGETS)
def test_cli_convert_writes_what_computes_the_same(to, saved, capsys):
    needed, name = TARGETS[to]
    if not all(HAS[package] for package in needed):
        pytest.skip(f"without {needed}")
    out = run(capsys, saved, "--to", to)
    output = saved.parent / name
    assert output.exists() and sorted(os.listdir(saved.parent)) == sorted([name, saved.name])
    pattern = rf"{re.escape(str(output))}: Embedding, LSTM, .*, Tanh; {COUNT} parameters; largest difference .* (\S+)\n"
    assert float(re.fullmatch(pattern, out)[1]) < 1e-5

    result = json.loads(run(capsys, saved, "--to", to, "--json"))
    assert result["output"] == str(output) and result["format"] == to and result["parameters"] == COUNT
    assert result["layers"][:2] == ["Embedding", "LSTM"] and 0 <= result["largest_difference"] < 1e-5


@pytest.mark.skipif(not HAS["keras"], reason="without Keras")
def test_cli_convert_to_keras_weights(saved, capsys):
    output = saved.parent / "model.weights.h5"
    run(capsys, saved, "--to", "keras", "--output", output)
    assert output.read_bytes()[1:4] == b"HDF"


@pytest.mark.parametrize("to", ["torch", "onnx", "keras"])
def test_cli_convert_batch_first_vectors_and_single_layers(to, tmp_path, capsys):
    if not all(HAS[package] for package in TARGETS[to][0]):
        pytest.skip(f"without {TARGETS[to][0]}")
    path = tmp_path / "model.safetensors"
    for model in (
        fastrnn.Sequential(fastrnn.GRU(3, 4), fastrnn.Linear(4, 2), batch_first=True),
        fastrnn.Sequential(fastrnn.Repeat(4), fastrnn.LSTM(3, 5)),
        fastrnn.LSTM(3, 4, 2),
        fastrnn.OneHot(5),
    ):
        fastrnn.save(model, path)
        out = run(capsys, path, "--to", to)
        assert float(out.split()[-1]) < 1e-5, out


@pytest.mark.parametrize("to", ["fastrnn", "torch", "onnx", "keras"])
def test_cli_convert_makes_a_classifiers_scaling_part_of_it(to, tmp_path, capsys):
    if not all(HAS[package] for package in TARGETS[to][0]):
        pytest.skip(f"without {TARGETS[to][0]}")
    model = fastrnn.Sequential(
        fastrnn.GRU(2, 4, bidirectional=True, seed=0), fastrnn.Last(), fastrnn.Linear(8, 2, seed=1), batch_first=True
    )
    mean, scale = np.array([100.0, -3.0]), np.array([20.0, 0.5])
    extra = {"task": "classify", "classes": ["no", "yes"], "mean": mean.tolist(), "scale": scale.tolist()}
    fastrnn.save(model, tmp_path / "model.safetensors", extra=extra)
    assert cli.main(["convert", str(tmp_path / "model.safetensors"), "--to", to, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["classes"] == ["no", "yes"] and json.loads(out)["largest_difference"] < 1e-5
    assert "scaling" in err and "no, yes" in err
    if to == "fastrnn":
        scaled = np.random.default_rng(0).standard_normal((5, 6, 2))
        found = fastrnn.load(tmp_path / "model.fastrnn.safetensors").forward(scaled * scale + mean)[0]
        np.testing.assert_allclose(found, model.forward(scaled)[0], atol=1e-5)


def test_cli_convert_refuses_a_damaged_scaling(tmp_path, capsys):
    extra = {"task": "classify", "classes": ["no", "yes"], "mean": [1.0] * 5, "scale": [1.0] * 5}
    model = fastrnn.Sequential(fastrnn.GRU(2, 4), fastrnn.Last(), fastrnn.Linear(4, 2), batch_first=True)
    fastrnn.save(model, tmp_path / "model.safetensors", extra=extra)
    assert_refused(capsys, "its classes or its scaling are damaged", tmp_path / "model.safetensors", "--to", "torch")


def test_cli_convert_takes_no_files_of_other_libraries(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(b"")
    assert_refused(capsys, "fastrnn.interop reads others", tmp_path / "m.onnx", "--to", "torch")


def test_cli_convert_takes_the_folder_of_a_run(saved, capsys):
    run(capsys, saved.parent, "--to", "torch")
    assert (saved.parent / "model.torch.safetensors").exists()


def test_cli_convert_onnx_of_learned_states(tmp_path, capsys):
    if not (HAS["onnx"] and HAS["onnxruntime"]):
        pytest.skip("without ONNX")
    layer = fastrnn.GRU(3, 4, initial_state="learned", seed=0)
    layer.vector_to_parameters(np.linspace(-1, 1, layer.num_parameters, dtype=np.float32))
    fastrnn.save(fastrnn.Sequential(layer), tmp_path / "model.safetensors")
    run(capsys, tmp_path / "model.safetensors", "--to", "onnx")


def test_cli_convert_from_pytorch(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    path = tmp_path / "theirs.safetensors"
    rnn, head = torch.nn.RNN(3, 4, nonlinearity="relu", batch_first=True), torch.nn.Linear(4, 2)
    tensors = {f"rnn.{name}": tensor for name, tensor in rnn.state_dict().items()}
    save_file(tensors | {f"head.{name}": tensor for name, tensor in head.state_dict().items()}, path)
    assert_refused(capsys, "theirs.*pass --nonlinearity", path, "--to", "fastrnn", "--from", "torch")
    out = run(
        capsys, path, "--to", "fastrnn", "--from", "torch", "--nonlinearity", "relu", "--batch-first",
        "--layers", "rnn,Last,head:Linear", "--output", tmp_path / "ours.safetensors",
    )  # fmt: skip
    assert "RNN, Last, Linear" in out
    x = torch.randn(2, 5, 3)
    expected = head(rnn(x)[0][:, -1]).detach().numpy()
    ours = fastrnn.load(tmp_path / "ours.safetensors")
    np.testing.assert_allclose(ours.forward(x.numpy())[0], expected, atol=1e-6)
    arguments = [path, "--to", "fastrnn", "--from", "torch", "--nonlinearity", "relu", "--layers"]
    assert_refused(capsys, "leaves out module 'head'", *arguments, "rnn")
    assert_refused(capsys, "'Lost' is not there", *arguments, "rnn,Lost,head")
    assert_refused(capsys, "must be Linear, got Spam", *arguments, "rnn,head:Spam")


def test_cli_convert_there_and_back(saved, capsys):
    between, back = saved.parent / "a.torch.safetensors", saved.parent / "b.safetensors"
    run(capsys, saved, "--to", "torch", "--output", between)
    run(capsys, between, "--from", "torch", "--to", "fastrnn", "--output", back)
    assert back.read_bytes() == saved.read_bytes()


def test_cli_convert_refuses(saved, capsys, tmp_path):
    assert_refused(capsys, "required: --to", saved)
    assert_refused(capsys, "invalid choice", saved, "--to", "tensorflow")
    assert_refused(capsys, "No such file", saved.parent / "none", "--to", "torch")
    assert_refused(capsys, "is the model itself", saved, "--to", "fastrnn", "--output", saved)
    assert_refused(
        capsys, r"must end in \.torch\.safetensors or \.safetensors", saved, "--to", "torch", "--output", "x.pt"
    )
    assert_refused(capsys, "no folder", saved, "--to", "torch", "--output", saved.parent / "no" / "x.safetensors")
    assert_refused(capsys, "--batch-first goes with --from torch", saved, "--to", "torch", "--batch-first")
    assert_refused(capsys, "read it by fastrnn.load", saved, "--to", "torch", "--from", "torch")
    interop_torch.save(a_model(), tmp_path / "theirs.safetensors")
    assert_refused(capsys, "not one that fastrnn wrote", tmp_path / "theirs.safetensors", "--to", "torch")


@pytest.mark.parametrize("to", ["torch", "keras", "onnx"])
def test_cli_convert_names_what_is_missing_elsewhere(to, tmp_path, capsys):
    if not all(HAS[package] for package in TARGETS[to][0]):
        pytest.skip(f"without {TARGETS[to][0]}")
    path, output = tmp_path / "model.safetensors", tmp_path / TARGETS[to][1]
    fastrnn.save(fastrnn.Sequential(fastrnn.Linear(3, 3), fastrnn.LayerNormLSTM(3, 4)), path)
    output.write_bytes(b"as it was")
    assert_refused(capsys, "1, LayerNormLSTM", path, "--to", to)
    assert output.read_bytes() == b"as it was"


def test_cli_convert_leaves_out_what_acts_in_training(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    fastrnn.save(fastrnn.Sequential(fastrnn.LSTM(3, 4, recurrent_dropout=0.2)), path)
    assert_refused(capsys, "recurrent_dropout=0.2", path, "--to", "torch")
    run(capsys, path, "--to", "torch", "--inference")


def test_cli_convert_without_the_library(saved, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "keras") else found(name))
    assert "not run, for torch is not installed" in run(capsys, saved, "--to", "torch")
    assert json.loads(run(capsys, saved, "--to", "torch", "--json"))["largest_difference"] is None
    assert_refused(
        capsys, r"needs the keras package: pip install keras \(extra fastrnn\[keras\]", saved, "--to", "keras"
    )


def test_cli_convert_keeps_nothing_that_computes_something_else(saved, capsys, monkeypatch):
    if not HAS["torch"]:
        pytest.skip("without PyTorch")
    target = convert._TARGETS["torch"]
    wrong = target._replace(output=lambda model, path, x: target.output(model, path, x) + 1)
    monkeypatch.setitem(convert._TARGETS, "torch", wrong)
    assert_refused(capsys, "computes something else: its output differs by 1", saved, "--to", "torch")


def test_convert_refuses_a_classifier_scaled_beyond_floats(tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    model = fastrnn.Sequential(fastrnn.GRU(2, 4, seed=1), fastrnn.Last(), fastrnn.Linear(4, 2), batch_first=True)
    extra = {"task": "classify", "classes": [0, 1], "mean": [10**400, 0], "scale": [1.0, 1.0]}
    fastrnn.save(model, path, extra=extra)
    assert_refused(capsys, "its classes or its scaling are damaged", path, "--to", "torch")
