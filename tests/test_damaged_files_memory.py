"""Files of megabytes that are made to take many times as much memory: see docs/reliability.md, "Files"."""

import contextlib
import json
import time
import tracemalloc

import numpy as np
import pytest

import fastrnn
from fastrnn import storage
from fastrnn.model import layers_of
from fastrnn.safetensors_reader import ROOM
from tests.torture.files.safetensors_bytes import joined

pytest.importorskip("safetensors")

LENGTH = 16_000_000
MANY = [0] * 800_000
WIDE = "\N{GRINNING FACE}"  # makes four bytes of every character beside it
LONG = "a" * LENGTH


@contextlib.contextmanager
def memory_as_promised(path):
    """A block that takes at most twice the file's size and `ROOM` of Python's and NumPy's memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + ROOM
    finally:
        tracemalloc.stop()


def header(metadata, **tensors):
    entries = {"format": "fastrnn", "format_version": "1", "kind": "model", **metadata}
    return {"__metadata__": entries, **tensors}


def of_architecture(description, **tensors):
    return header({"architecture": json.dumps(description, separators=(",", ":"))}, **tensors)


def of_lstm(hidden_size):
    """With the tensor whose shape is looked at first."""
    tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    config = {"input_size": 1, "hidden_size": hidden_size}
    return of_architecture({"type": "LSTM", "config": config}, weight_ih_l0=tensor)


LARGE = {  # models of some 20 MB
    "one layer": lambda: fastrnn.Linear(2000, 2500, seed=0),
    "a chain": lambda: fastrnn.Sequential(fastrnn.Linear(1600, 1600, seed=0), fastrnn.Linear(1600, 1600, seed=1)),
    "containers in one another": lambda: fastrnn.Sequential(
        fastrnn.Residual(fastrnn.Residual(fastrnn.Linear(1600, 1600, seed=0))),
        fastrnn.Concatenated(fastrnn.Dropout(0.5), fastrnn.Linear(1600, 1500, seed=1)),
        fastrnn.Tanh(),
    ),
    "recurrent layers": lambda: fastrnn.Sequential(
        fastrnn.LSTM(500, 500, num_layers=2, seed=0), fastrnn.GRU(500, 250, bidirectional=True, seed=1)
    ),
}


@pytest.mark.parametrize("what", LARGE)
def test_memory_of_a_whole_model(tmp_path, what):
    """Its parameters and gradients, which are twice the file, stand where they belong from the beginning."""
    path, model = tmp_path / "m", LARGE[what]()
    fastrnn.save(model, path)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        loaded = fastrnn.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * size + (1 << 20)
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(loaded.parameters.values, model.parameters.values)
    assert not loaded.parameters.gradients.any()
    parts = [loaded, *layers_of(loaded)]
    assert all(
        np.may_share_memory(part.parameters.values, loaded.parameters.values) for part in parts if part.parameters.size
    )
    own = loaded.state_dict()
    loaded.vector_to_parameters(loaded.parameters_to_vector() + 1)
    assert all((array == own[name] + 1).all() for name, array in loaded.state_dict().items())


HEADERS = {
    "escapes": lambda: header({"more": WIDE + LONG}),
    "escapes at the end": lambda: header({"more": LONG + WIDE}),
    "escapes that widen twice": lambda: header({"more": "a" * (LENGTH // 2) + "\u0100" + "a" * (LENGTH // 2) + WIDE}),
    "escapes of two bytes": lambda: header({"more": LONG + "\u0100"}),
    "UTF-8": lambda: json.dumps(header({"more": LONG + WIDE}), ensure_ascii=False).encode(),
    "UTF-8 of escapes": lambda: (
        json.dumps(header({"more": "é\\u" + LONG}), ensure_ascii=False).replace("\\\\u", "\\ud83d\\ude00").encode()
    ),
    "escapes within JSON": lambda: of_architecture({"type": WIDE + LONG}),
    "type": lambda: of_architecture({"type": LONG}),
    "name of an argument": lambda: of_architecture({"type": "Tanh", "config": {LONG: 1}}),
    "argument": lambda: of_architecture({"type": "Tanh", "config": {"dtype": LONG}}),
    "argument of a container": lambda: of_architecture({"type": "Sequential", "layers": [], "batch_first": LONG}),
    "list for a size": lambda: of_lstm(MANY),
    "list in a list": lambda: of_lstm([MANY]),
    "object for a size": lambda: of_architecture(
        {"type": "Linear", "config": {"in_features": {"a": MANY}, "out_features": 1}}
    ),
    "kind": lambda: header({"kind": LONG}),
    "words of a kind": lambda: header({"kind": "a " * (LENGTH // 2)}),
    "version": lambda: header({"format_version": LONG}),
    "name": lambda: header({}, **{LONG: 0}),
    "tensor": lambda: header(
        {"architecture": json.dumps({"type": "Tanh", "config": {}})},
        **{LONG: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    ),
    "dtype": lambda: header({}, tensor={"dtype": LONG, "shape": [], "data_offsets": [0, 0]}),
}


@pytest.mark.parametrize("what", HEADERS)
def test_memory_of_long_texts(tmp_path, what):
    """None of them is shown in full, nor made wide before it is refused."""
    path = tmp_path / "m"
    path.write_bytes(joined(HEADERS[what](), b""))
    with memory_as_promised(path), pytest.raises(fastrnn.FormatError) as caught:
        fastrnn.load(path)
    assert len(str(caught.value)) < 1000


def test_wide_texts_of_other_entries_are_no_reason_to_refuse(tmp_path):
    """Words that are not ASCII, twice escaped in the header, beside a long text that is."""
    words = [f"{i}é" for i in range(50_000)] + [f"{i}{WIDE}" for i in range(50_000)] + ["é" * 1_000_000, LONG]
    path = tmp_path / "m"
    fastrnn.save(fastrnn.Linear(2, 2, seed=0), path, extra={"words": words})
    with memory_as_promised(path):
        assert storage.load_extra(path) == {"words": words}


def test_memory_of_bfloat16(tmp_path):
    """A number of 2 bytes becomes one of 4, and no more than that is taken."""
    path, count = tmp_path / "m", 4_000_001
    numbers = np.arange(count, dtype=np.uint32) % 65_536
    entry = {"dtype": "BF16", "shape": [count, 1], "data_offsets": [0, 2 * count]}
    path.write_bytes(joined({"a": entry}, numbers.astype("<u2").tobytes()))
    tracemalloc.start()
    try:
        tensors, _ = storage.read_safetensors(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + (1 << 20)
    finally:
        tracemalloc.stop()
    assert tensors["a"].dtype == np.float32 and tensors["a"].shape == (count, 1)
    np.testing.assert_array_equal(tensors["a"][:, 0].view(np.uint32), numbers << 16)


def nested(count, depth):
    """The architecture of so many chains of containers around one layer."""
    description = {"type": "Tanh", "config": {}}
    for _ in range(depth):
        description = {"type": "Residual", "layers": [description]}
    return {"type": "Sequential", "layers": [description] * count}


def test_containers_count_as_layers(tmp_path):
    """Each takes the time and the memory of one."""
    path = tmp_path / "m"
    path.write_bytes(joined(of_architecture(nested(500, 62)), b""))
    began = time.process_time()
    with memory_as_promised(path), pytest.raises(fastrnn.FormatError, match=r"at most 10,000 layers .*, got 31,500"):
        fastrnn.load(path)
    assert time.process_time() - began < 5
    path.write_bytes(joined(of_architecture(nested(3, 62)), b""))
    assert len(fastrnn.load(path).layers) == 3
    model = fastrnn.Sequential(*[fastrnn.Residual(fastrnn.Tanh()) for _ in range(5_001)])
    with pytest.raises(ValueError, match="at most 10,000 layers and tensors, got 10,002"):
        fastrnn.save(model, path)


def test_largest_number_of_layers_is_loaded_again(tmp_path):
    model = fastrnn.Sequential(*[fastrnn.Tanh() for _ in range(10_000)])
    fastrnn.save(model, tmp_path / "m")
    assert len(fastrnn.load(tmp_path / "m").layers) == 10_000
