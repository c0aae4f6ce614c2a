import errno
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastrnn
from fastrnn import storage

pytest.importorskip("safetensors")


def language_model():
    return fastrnn.Sequential(
        fastrnn.Embedding(11, 5, seed=1),
        fastrnn.LSTM(5, 7, num_layers=2, bidirectional=True, dropout=0.25, seed=2),
        fastrnn.Tanh(),
        fastrnn.Linear(14, 11, seed=3),
    )


MODELS = {
    "language model": language_model,
    "batch first": lambda: fastrnn.Sequential(fastrnn.GRU(3, 4, seed=0), batch_first=True),
    "float64": lambda: fastrnn.Sequential(fastrnn.RNN(3, 4, nonlinearity="relu", dtype="float64", seed=0)),
    "layer": lambda: fastrnn.LSTM(3, 4, bias=False, batch_first=True, seed=0),
    "last of both": lambda: fastrnn.Sequential(
        fastrnn.GRU(3, 4, bidirectional=True, seed=0), fastrnn.Last(bidirectional=True)
    ),
    "pooled": lambda: fastrnn.Sequential(fastrnn.GRU(3, 4, seed=0), fastrnn.MaxPool()),
    "no parameters": lambda: fastrnn.Sequential(fastrnn.OneHot(4), fastrnn.Dropout(0.5)),
}


def parts(path):
    """Header and data of a safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def rewrite(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@pytest.fixture
def saved(tmp_path):
    """A model's file."""
    path = tmp_path / "model.safetensors"
    fastrnn.save(language_model(), path)
    return path


# ---- models ----


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_storage_model_comes_back(tmp_path, make):
    model = make()
    fastrnn.save(model, tmp_path / "m")
    loaded = fastrnn.load(str(tmp_path / "m"))
    assert type(loaded) is type(model)
    assert repr(loaded) == repr(model)
    assert loaded.batch_first == model.batch_first
    assert_same_tensors(loaded.state_dict(), model.state_dict())
    fastrnn.save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_storage_loaded_model_computes_the_same(saved):
    x = np.arange(12).reshape(4, 3) % 11
    for actual, expected in zip(fastrnn.load(saved)(x)[0], language_model()(x)[0], strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_storage_file_is_an_ordinary_safetensors_file(saved):
    from safetensors.numpy import load_file

    assert_same_tensors(load_file(saved), language_model().state_dict())
    header, _ = parts(saved)
    metadata = header["__metadata__"]
    assert metadata["format"] == "fastrnn" and metadata["format_version"] == "1" and metadata["kind"] == "model"
    assert json.loads(metadata["architecture"])["type"] == "Sequential"


def test_storage_keeps_what_is_saved_with_a_model(tmp_path, saved):
    extra = {"words": ["a", "ä"], "number": 3.5}
    fastrnn.save(language_model(), tmp_path / "with", extra=extra)
    assert storage.load_extra(tmp_path / "with") == extra
    assert storage.load_extra(saved) is None
    assert fastrnn.load(tmp_path / "with").num_parameters == fastrnn.load(saved).num_parameters
    fastrnn.save(language_model(), tmp_path / "none", extra=None)
    assert (tmp_path / "none").read_bytes() == saved.read_bytes()


def test_storage_refuses_layers_of_others(tmp_path):
    class LSTM(fastrnn.LSTM):
        pass

    for model in (LSTM(2, 2), fastrnn.Sequential(LSTM(2, 2)), object()):
        with pytest.raises(TypeError, match="fastrnn's own layers, got a"):
            fastrnn.save(model, tmp_path / "m")
    assert os.listdir(tmp_path) == []


# ---- files that are not what they should be ----


def assert_refused(path, match=None):
    with pytest.raises(fastrnn.FormatError, match=match) as caught:
        fastrnn.load(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_storage_file_cut_short(saved):
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    sizes = {*range(20), *range(20, len(content), 97), header - 1, header, header + 1, len(content) - 1}
    for size in sizes:
        saved.write_bytes(content[:size])
        assert_refused(saved, "not a fastrnn file, or damaged or cut short")
    saved.write_bytes(content + b"\0")
    assert_refused(saved)


def test_storage_damaged_header_never_gives_another_error(saved):
    content = bytearray(saved.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    expected = language_model()
    for place in range(0, end, 3):
        for flip in (0x01, 0x80):
            content[place] ^= flip
            saved.write_bytes(content)
            try:
                model = fastrnn.load(saved)
            except fastrnn.FormatError as error:
                assert saved.name in str(error)
            else:  # such as another dropout; what is there is then whole
                assert_same_tensors(model.state_dict(), expected.state_dict())
            content[place] ^= flip


@pytest.mark.parametrize(
    "content",
    [b"hello, this is a text and no model", b"\xff" * 100, b"\0" * 100, b"PK\3\4" + bytes(100), b"\x80\x04." * 20],
)
def test_storage_file_of_another_format(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    assert_refused(tmp_path / "other", "not a fastrnn file")


def test_storage_safetensors_file_of_another_program(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, tmp_path / "m")
    assert_refused(tmp_path / "m", "not one that fastrnn wrote")
    save_file({"weight": np.zeros(3)}, tmp_path / "m", {"format": "pt"})
    assert_refused(tmp_path / "m", "not one that fastrnn wrote")


@pytest.mark.parametrize(
    ("entry", "value", "match"),
    [
        ("format_version", "2", "newer fastrnn: its format version is 2, and this fastrnn reads up to 1"),
        ("format_version", "999999999", "newer"),
        ("format_version", "9" * 5000, "damaged"),
        ("format_version", "one", "damaged"),
        ("format_version", "", "damaged"),
        ("kind", "checkpoint", "must be a model, but holds a checkpoint"),
        ("kind", None, "must be a model, but holds a None"),
        ("architecture", None, "its architecture can't be read"),
        ("architecture", "{", "its architecture can't be read"),
        ("architecture", "[]", "its architecture can't be read"),
        ("architecture", "[" * 100_000, "its architecture can't be read"),
        ("architecture", '{"type": ' + "9" * 5000 + "}", "its architecture can't be read"),
        ("architecture", "{}", "no usable model|not hold a usable model"),
    ],
)
def test_storage_metadata_is_checked(saved, entry, value, match):
    header, data = parts(saved)
    if value is None:
        del header["__metadata__"][entry]
    else:
        header["__metadata__"][entry] = value
    rewrite(saved, header, data)
    assert_refused(saved, match)


def change_layer(index, **changes):
    def change(description):
        description["layers"][index]["config"] |= changes

    return change


ARCHITECTURES = {
    "unknown layer": lambda d: d["layers"][0].update(type="os.system"),
    "a model as layer": lambda d: d["layers"][0].update(type="Sequential"),
    "layer type is a list": lambda d: d["layers"][0].update(type=["LSTM"]),
    "config is a list": lambda d: d["layers"][0].update(config=[1, 2]),
    "config is missing": lambda d: d["layers"][0].pop("config"),
    "surplus entry": lambda d: d["layers"][0].update(code="print()"),
    "layers are no list": lambda d: d.update(layers={}),
    "no layers": lambda d: d.update(layers=[]),
    "one layer fewer": lambda d: d["layers"].pop(),
    "one layer more": lambda d: d["layers"].append(d["layers"][3]),
    "layer is a number": lambda d: d["layers"].append(3),
    "batch_first is a number": lambda d: d.update(batch_first=1),
    "unknown argument": change_layer(1, hidden=3),
    "huge hidden_size": change_layer(1, hidden_size=10**9),
    "endless hidden_size": change_layer(1, hidden_size=10**400),
    "negative hidden_size": change_layer(1, hidden_size=-7),
    "hidden_size is a float": change_layer(1, hidden_size=7.0),
    "hidden_size is a string": change_layer(1, hidden_size="7"),
    "huge num_layers": change_layer(1, num_layers=10**12),
    "fewer num_layers": change_layer(1, num_layers=1),
    "num_layers is a list": change_layer(1, num_layers=[2]),
    "bidirectional is a number": change_layer(1, bidirectional=1),
    "dropout out of range": change_layer(1, dropout=2.0),
    "another dtype": change_layer(1, dtype="float64"),
    "object dtype": change_layer(1, dtype="O"),
    "dtype is a list": change_layer(1, dtype=[["a", "O"]]),
    "input_size is missing": lambda d: d["layers"][1]["config"].pop("input_size"),
    "another size of a layer": change_layer(3, out_features=12),
}


@pytest.mark.parametrize("change", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_storage_architecture_is_checked(saved, change):
    header, data = parts(saved)
    description = json.loads(header["__metadata__"]["architecture"])
    change(description)
    header["__metadata__"]["architecture"] = json.dumps(description)
    rewrite(saved, header, data)
    assert_refused(saved, "does not hold a usable model")


def test_storage_tensors_are_compared_with_the_architecture(tmp_path):
    model = fastrnn.Linear(3, 2, seed=0)
    description = {"architecture": storage.architecture(model)}
    good = model.state_dict()
    cases = {
        "no tensor bias": {"weight": good["weight"]},
        "no place for tensor 'extra'": {**good, "extra": np.zeros(0, np.float32)},
        r"tensor weight is F64 \[2, 3\] but the architecture needs F32 \[2, 3\]": {
            name: array.astype(np.float64) for name, array in good.items()
        },
        r"tensor weight is F32 \[3, 2\] but .* F32 \[2, 3\]": {**good, "weight": good["weight"].T},
    }
    path = tmp_path / "m"
    for match, tensors in cases.items():
        storage._write(path, "model", tensors, description)
        assert_refused(path, match)
    storage._write(path, "model", good, description)
    assert_same_tensors(fastrnn.load(path).state_dict(), good)


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "O", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
        {"shape": [2]},
        [],
    ],
)
def test_storage_false_declarations_take_no_memory(saved, tensor):
    metadata = parts(saved)[0]["__metadata__"]
    rewrite(saved, {"__metadata__": metadata, "0.weight": tensor}, bytes(8))
    assert_refused(saved)
    metadata |= {"kind": "checkpoint", "meta": "{}"}
    rewrite(saved, {"__metadata__": metadata, "0.weight": tensor}, bytes(8))
    with pytest.raises(fastrnn.FormatError, match=saved.name):
        storage.load_tensors(saved, "checkpoint")


def test_storage_overlapping_tensors(saved):
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    rewrite(saved, {"__metadata__": parts(saved)[0]["__metadata__"], "a": tensor, "b": tensor}, bytes(8))
    assert_refused(saved, "damaged")


def test_storage_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        fastrnn.load(tmp_path / "none")
    assert_refused(tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "is not a file")


def test_storage_without_the_package(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    assert_same_tensors(fastrnn.load(saved).state_dict(), language_model().state_dict())
    with pytest.raises(ImportError, match=r"pip install safetensors \(extra fastrnn\[train\]\)"):
        fastrnn.save(language_model(), saved)


# ---- tensors of any kind ----


def test_storage_tensors_and_meta_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "fortran": np.asfortranarray(rng.standard_normal((3, 4))),
        "strided": rng.standard_normal((6, 8), dtype=np.float32)[::2, ::-1],
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 3), np.int32),
        "flags": np.array([True, False]),
        "special": np.array([np.nan, np.inf, -0.0, 5e-324]),
        "größe": np.arange(5, dtype=np.uint8),
    }
    meta = {"rng": rng.bit_generator.state, "loss": 0.1 + 0.2, "best": float("inf"), "text": 'ä"\n\ud800', "none": None}
    storage.save_tensors(tmp_path / "c", "checkpoint", tensors, meta)
    loaded, loaded_meta = storage.load_tensors(tmp_path / "c", "checkpoint")
    assert_same_tensors(loaded, tensors)
    assert loaded_meta == meta
    for array in loaded.values():
        assert array.flags.writeable and array.flags.c_contiguous
    np.testing.assert_array_equal(np.signbit(loaded["special"]), np.signbit(tensors["special"]))


def test_storage_checkpoint_can_hold_a_whole_model(tmp_path):
    model, path = language_model(), tmp_path / "c"
    storage.save_tensors(path, "checkpoint", model.state_dict(), {"architecture": storage.architecture(model)})
    tensors, meta = storage.load_tensors(path, "checkpoint")
    restored = storage.restore(meta["architecture"], tensors, path)
    assert repr(restored) == repr(model)
    assert_same_tensors(restored.state_dict(), model.state_dict())
    tensors.pop("0.weight")
    with pytest.raises(fastrnn.FormatError, match="c does not hold a usable model: it has no tensor 0.weight"):
        storage.restore(meta["architecture"], tensors, path)


def test_storage_same_content_gives_the_same_bytes(tmp_path):
    contents = set()
    for i in range(10):
        storage.save_tensors(tmp_path / f"{i}", "checkpoint", {"a": np.arange(3), "b": np.ones(2)}, {"x": 1})
        contents.add((tmp_path / f"{i}").read_bytes())
    assert len(contents) == 1
    (content,) = contents
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_storage_tensors_of_another_kind(tmp_path, saved):
    with pytest.raises(fastrnn.FormatError, match="must be a checkpoint, but holds a model"):
        storage.load_tensors(saved, "checkpoint")


@pytest.mark.parametrize(
    ("tensors", "meta"),
    [({"a": np.zeros(2, complex)}, {}), ({"a": np.array([None])}, {}), ({}, {"a": object()}), ({}, {"a": b"x"})],
)
def test_storage_refuses_what_cannot_be_stored(tmp_path, tensors, meta):
    with pytest.raises(TypeError):
        storage.save_tensors(tmp_path / "c", "checkpoint", tensors, meta)
    assert os.listdir(tmp_path) == []


# ---- atomic writing ----


@pytest.fixture
def existing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def assert_untouched(path):
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_storage_atomic_write_replaces(existing):
    with storage.atomic_write(existing) as file:
        file.write(b"new")
        assert existing.read_bytes() == b"old"
    assert existing.read_bytes() == b"new"
    assert os.listdir(existing.parent) == [existing.name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_storage_atomic_write_failing_block(existing, error):
    with pytest.raises(error), storage.atomic_write(existing) as file:
        file.write(b"new")
        raise error
    assert_untouched(existing)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_storage_disk_failure_names_the_file(existing, monkeypatch, call, code):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        fastrnn.save(language_model(), existing)
    assert caught.value.errno == code and caught.value.filename == str(existing)
    assert_untouched(existing)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_storage_full_disk(existing, monkeypatch):
    def full(path, mode):
        pathlib.Path(path).touch()
        return open("/dev/full", "wb")

    monkeypatch.setattr(storage, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left on device: .*file"):
        fastrnn.save(language_model(), existing)
    assert_untouched(existing)


def test_storage_folder_that_cannot_be_written(existing, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(storage, "open", refuse, raising=False)
    with pytest.raises(PermissionError) as caught:
        fastrnn.save(language_model(), existing)
    assert caught.value.filename == str(existing)
    assert_untouched(existing)


def test_storage_places_that_are_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none/file"), storage.atomic_write(tmp_path / "none" / "file"):
        pass
    with pytest.raises(IsADirectoryError, match=tmp_path.name), storage.atomic_write(tmp_path):
        pass
    with pytest.raises(OSError, match="can be replaced: '/dev/null'"), storage.atomic_write("/dev/null"):
        pass
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_storage_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with storage.atomic_write(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_storage_symbolic_link_stays_one(existing):
    link = existing.parent / "link"
    link.symlink_to(existing.name)
    with storage.atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert existing.read_bytes() == b"new"


def test_storage_relative_and_odd_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "x" * 255, "mit Leerzeichen, ä", os.fsdecode(b"\xff")):
        fastrnn.save(language_model(), name)
        assert fastrnn.load(name).num_parameters == language_model().num_parameters


def test_storage_killed_while_writing(existing):
    script = f"""
        import os, signal
        from fastrnn import storage
        with storage.atomic_write({str(existing)!r}) as file:
            file.write(b"new")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60)
    assert run.returncode == -signal.SIGKILL
    assert existing.read_bytes() == b"old"
