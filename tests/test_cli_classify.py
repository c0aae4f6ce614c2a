"""`fastrnn classify`: training, prediction, files that are none."""

import contextlib
import csv
import io
import json
import pathlib
import zipfile

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")
pytest.importorskip("safetensors")

import fastrnn
from fastrnn import cli, storage

TINY = ["--hidden-size", "6", "--epochs", "12", "--threads", "1", "--batch-size", "16"]


@pytest.fixture(autouse=True)
def restored():
    threads = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(threads)


def sequences(n=120, seed=0):
    """Ragged sequences of two features, far from 0, and which of them is the larger one in the mean."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(2, 8), 2)) + rng.permutation([0, 1]) for _ in range(n)]
    y = np.array(["right" if x[:, 1].mean() > x[:, 0].mean() else "left" for x in X])
    return [100 + 5 * x for x in X], y


def written(path, X, **arrays):
    np.savez(path, X=np.concatenate(X), lengths=[len(x) for x in X], **arrays)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data, the model file and what `classify` said in JSON."""
    folder = tmp_path_factory.mktemp("classify")
    X, y = sequences()
    data, model = written(folder / "data.npz", X, y=y), str(folder / "model.safetensors")
    return data, model


@pytest.fixture(scope="module")
def result(trained):
    data, model = trained
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["classify", data, "--out", model, *TINY, "--json"]) == 0
    return json.loads(out.getvalue())


def refused(capsys, *arguments):
    """The one sentence on stderr, with exit status 2 and nothing on stdout."""
    capsys.readouterr()
    assert cli.main(["classify", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastrnn: ") and err.count("\n") == 1, (out, err)
    return err


def test_cli_classify_says_what_came_out(trained, result, tmp_path, capsys):
    data, model = trained
    assert result["sequences"] == 120 and result["held_out"] == 24 and result["epochs"] == 12
    assert result["accuracy"] > 0.8 > result["majority_accuracy"] and result["classes"] == ["left", "right"]
    confusion = np.array(result["confusion"])
    assert np.trace(confusion) / 24 == result["accuracy"] and confusion.sum(axis=1).tolist() == result["support"]
    np.testing.assert_allclose(np.diag(confusion) / confusion.sum(axis=1), result["recall"])
    np.testing.assert_allclose(np.diag(confusion) / confusion.sum(axis=0), result["precision"])
    again = tmp_path / "again.safetensors"
    assert cli.main(["classify", data, "--out", str(again), *TINY]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"model: {result['accuracy']:.1%}" and "majority class, " in out
    assert f"model file: {again}" in out and err == ""
    assert again.read_bytes() == pathlib.Path(model).read_bytes()


def test_cli_classify_predicts_with_a_saved_model(result, trained, tmp_path, capsys):
    data, model = trained
    X, y = sequences(40, seed=1)
    unlabelled, labelled = written(tmp_path / "new.npz", X), written(tmp_path / "known.npz", X, y=y)
    assert cli.main(["classify", unlabelled, "--model", model]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(out.splitlines()))
    assert list(rows[0]) == ["sequence", "predicted", "p(left)", "p(right)"] and len(rows) == 40
    assert err == "40 sequences\n"
    path = tmp_path / "predictions.csv"
    assert cli.main(["classify", labelled, "--model", model, "--out", str(path)]) == 0
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert [line["predicted"] for line in lines] == [row["predicted"] for row in rows]
    assert [line["true"] for line in lines] == y.tolist()
    right = np.mean([line["predicted"] == line["true"] for line in lines])
    assert right > 0.8
    assert capsys.readouterr().out == f"predictions: {path}\nmodel: {right:.1%}\n"
    assert cli.main(["classify", labelled, "--model", model, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == right and found["predictions"] == [row["predicted"] for row in rows]
    scaled = fastrnn.load(model)  # by hand: the saved mean and deviation, then the model
    extra = storage.load_extra(model)
    x = ((X[0] - extra["mean"]) / extra["scale"]).astype(np.float32)
    logits, _ = scaled.forward(x[np.newaxis])
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    np.testing.assert_allclose(found["probabilities"][0], shares, rtol=1e-5)


def test_cli_classify_makes_no_class_of_what_is_not_finite(trained, tmp_path, capsys):
    labelled, model = trained[0], str(tmp_path / "m.safetensors")
    assert cli.main(["classify", labelled, "--out", model, *TINY, "--epochs", "1"]) == 0
    broken = fastrnn.load(model)
    broken.vector_to_parameters(np.full(broken.num_parameters, np.nan))
    fastrnn.save(broken, model, extra=storage.load_extra(model))
    assert "the model's output is not finite" in refused(capsys, labelled, "--model", model)


def test_cli_classify_of_arrays_and_numbers(tmp_path, capsys):
    X = np.random.default_rng(0).standard_normal((40, 5))
    data, model = tmp_path / "rows.npz", str(tmp_path / "m.safetensors")
    np.savez(data, X=X, y=(X.sum(axis=1) > 0).astype(int))
    options = ["--cell", "rnn", "--layers", "2", "--bidirectional", "--dropout", "0.1", "--pooling", "max"]
    options += ["--patience", "2", "--balanced", "--lr", "0.02", "--seed", "3", "--held-out", "0.25"]
    assert cli.main(["classify", str(data), "--out", model, *TINY, *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["classes"] == [0, 1] and result["held_out"] == 10 and result["epochs"] <= 12
    assert cli.main(["classify", str(data), "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0] in (0, 1)


def test_cli_classify_draws_the_confusion_matrix(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "confusion.png"
    model = str(tmp_path / "m.safetensors")
    assert cli.main(["classify", trained[0], "--out", model, *TINY, "--epochs", "1", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG") and capsys.readouterr().err == f"plot: {path}\n"


def test_cli_classify_names_the_model_after_the_data(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["classify", trained[0], *TINY, "--epochs", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "data-model.safetensors"
    assert (tmp_path / "data-model.safetensors").exists()


def classifier_of(features, hidden, classes, *between):
    """A net as `classify` makes them, with layers between pooling and output that it has not."""
    layers = fastrnn.GRU(features, hidden), fastrnn.MeanPool(), *between, fastrnn.Linear(hidden, classes)
    return fastrnn.Sequential(*layers, batch_first=True)


def test_cli_classify_does_not_run_a_net_that_grows_within(result, trained, tmp_path, capsys, monkeypatch):
    path, extra = tmp_path / "m.safetensors", storage.load_extra(trained[1])
    repeated = classifier_of(2, 3, 2, fastrnn.Repeat(100_000_000), fastrnn.MeanPool())
    layers = fastrnn.GRU(2, 3, dilation=100_000_000), fastrnn.MeanPool(), fastrnn.Linear(3, 2)
    monkeypatch.setattr(fastrnn.Sequential, "forward", lambda *_, **__: pytest.fail("the net was run"))
    for huge in (repeated, fastrnn.Sequential(*layers, batch_first=True)):
        fastrnn.save(huge, path, extra=extra)
        assert "its model is of another kind" in refused(capsys, trained[0], "--model", path)


def test_cli_classify_looks_at_a_saved_net_without_running_it(result, trained, monkeypatch):
    from fastrnn.cli.classify import _load

    monkeypatch.setattr(fastrnn.Sequential, "forward", lambda *_, **__: pytest.fail("the net was run"))
    assert _load(trained[1]).classes.tolist() == ["left", "right"]


GOOD = {"X": np.zeros((8, 3, 2)), "y": np.arange(8) % 2}


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"X": GOOD["X"]}, "must have arrays X and y, and may have lengths, it has X"),
        ({"y": GOOD["y"]}, "it has y"),
        ({**GOOD, "z": np.zeros(1)}, "it has X, y, z"),
        ({**GOOD, "X": np.zeros((8, 3), complex)}, "X must hold numbers, got complex128"),
        ({**GOOD, "X": np.zeros(8)}, "X must have 2 or 3 dimensions"),
        ({**GOOD, "X": np.zeros((8, 0, 2))}, "X must have 2 or 3 dimensions, got shape"),
        ({**GOOD, "X": np.full((8, 3), np.nan)}, "X must be finite everywhere"),
        ({**GOOD, "y": np.arange(7)}, "y must be 8 integers or strings"),
        ({**GOOD, "y": np.zeros(8)}, "y must be 8 integers or strings, a class for each sequence, got float64"),
        ({**GOOD, "y": np.array(["a\x1b[31m"] * 8)}, "y has names that can't be printed"),
        ({**GOOD, "y": np.ones(8, int)}, "y must have two classes at least, all of it is 1"),
        ({**GOOD, "y": np.arange(8)}, "class 0 has one sequence alone"),
        ({**GOOD, "y": np.array([None] * 8)}, "is damaged, or holds what is no array: Object arrays cannot be loaded"),
        ({**GOOD, "lengths": [3] * 8}, "X must have 1 or 2 dimensions"),
        ({"X": np.zeros((8, 2)), "y": [0, 1], "lengths": [3, 4]}, "lengths must add up to the 8 steps of X, got 7"),
        ({"X": np.zeros((8, 2)), "y": [0, 1], "lengths": [8, 0]}, "lengths must be integers of at least 1"),
        ({"X": np.zeros((8, 2)), "y": [0, 1], "lengths": [2**62, 2**62]}, "lengths must add up"),
    ],
)
def test_cli_classify_refuses_data(arrays, problem, tmp_path, capsys):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    assert problem in refused(capsys, path, "--out", tmp_path / "m.safetensors", *TINY)
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"classes": [["a"], ["b"]]}, "its classes or its scaling are damaged"),
        ({"classes": [0.5, 1.5]}, "its classes or its scaling are damaged"),
        ({"mean": [10**400]}, "int too large to convert to float"),
        ({"scale": []}, "its classes or its scaling are damaged"),
        ({"scale": [0.0, 1.0]}, "its scaling has numbers that are not finite, or no deviation"),
        ({"mean": [float("nan"), 0.0]}, "its scaling has numbers that are not finite, or no deviation"),
        ({"classes": ["a\u001b[2J", "b"]}, "its classes have names that can't be printed"),
        ({"task": "forecast"}, "it is of something else"),
    ],
)
def test_cli_classify_refuses_damaged_models(change, problem, result, trained, tmp_path, capsys):
    data, model = trained
    damaged = tmp_path / "m.safetensors"
    fastrnn.save(fastrnn.load(model), damaged, extra=storage.load_extra(model) | change)
    assert problem in refused(capsys, data, "--model", damaged)


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("y", b"text", "what is no array: y"),
        ("X", b"", "is damaged"),
        ("X", npy(np.zeros((2, 3))).replace(b"), }", b"((( "), "is damaged"),  # the tokenizer's own error
        ("X", npy(np.zeros((2, 3))).replace(b"2, 3", b"9" * 40), "is damaged"),
        ("y", npy(np.array([0x110000, 65], np.uint32).view("<U1")), "y has names that can't be printed"),
    ],
)
def test_cli_classify_refuses_what_is_damaged_within_an_archive(name, content, problem, tmp_path, capsys):
    members = {"X": npy(np.zeros((2, 3))), "y": npy(np.array(["a", "b"]))} | {name: content}
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        for member, data in members.items():
            archive.writestr(f"{member}.npy", data)
    assert problem in refused(capsys, tmp_path / "data.npz")


def test_cli_classify_refuses_damaged_compression(tmp_path, capsys):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, X=np.arange(4000.0).reshape(2, -1), y=[0, 1])
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(40) + content[240:])
    assert "is damaged" in refused(capsys, path)


def test_cli_classify_refuses_files_and_options(result, trained, tmp_path, capsys):
    data, model = trained
    assert "nowhere.npz: No such file" in refused(capsys, "nowhere.npz")
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    assert "is not an .npz file" in refused(capsys, text)
    cut = tmp_path / "cut.npz"
    whole = bytearray(pathlib.Path(data).read_bytes())
    whole[60:200] = bytes(140)
    cut.write_bytes(whole)
    assert "is damaged" in refused(capsys, cut)
    assert "--out: there is no folder" in refused(capsys, data, "--out", tmp_path / "no" / "model")
    assert "--held-out: it must be below 1" in refused(capsys, data, "--held-out", 1)
    assert "--epochs is for training" in refused(capsys, data, "--model", model, "--epochs", 3)
    other = tmp_path / "other.safetensors"
    fastrnn.save(fastrnn.GRU(2, 3), other)
    assert "is no model that 'fastrnn classify' saved" in refused(capsys, data, "--model", other)
    fastrnn.save(fastrnn.GRU(2, 3), other, extra={"task": "classify", "classes": ["a"], "mean": [0.0]})
    assert "its 'scale' is missing" in refused(capsys, data, "--model", other)
    fastrnn.save(fastrnn.GRU(2, 3), other, extra=storage.load_extra(model))
    assert "its model is of another kind" in refused(capsys, data, "--model", other)
    tagger = fastrnn.Sequential(fastrnn.GRU(2, 3), fastrnn.Linear(3, 2), batch_first=True)
    fastrnn.save(tagger, other, extra=storage.load_extra(model))
    assert "its model is of another kind" in refused(capsys, data, "--model", other)
    for sizes, problem in (((2, 3, 3), "its model does not fit its classes"), ((3, 3, 2), "it takes 3 features")):
        fastrnn.save(classifier_of(*sizes), other, extra=storage.load_extra(model))
        assert problem in refused(capsys, data, "--model", other)
    narrow = tmp_path / "narrow.npz"
    np.savez(narrow, X=np.zeros((4, 5)))
    assert "X must have 2 features a step for this model, got 1" in refused(capsys, narrow, "--model", model)
    numbers = tmp_path / "numbers.npz"
    np.savez(numbers, **GOOD)
    assert "y has int64, the model's classes are <U5" in refused(capsys, numbers, "--model", model)
