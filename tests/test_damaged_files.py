"""Files that are damaged or made to do harm: refused, with little memory and nothing changed."""

import contextlib
import json
import os
import tracemalloc

import numpy as np
import pytest

import fastrnn
from fastrnn import bptt, safetensors_reader, storage
from fastrnn.cli.training_run import Saved, Settings, _Log, read_saved
from fastrnn.safetensors_reader import ROOM
from tests.torture.files.safetensors_bytes import joined, parts

pytest.importorskip("safetensors")


@pytest.fixture
def saved(tmp_path):
    """A model's file."""
    path = tmp_path / "model.safetensors"
    model = fastrnn.Sequential(
        fastrnn.Embedding(11, 5, seed=1), fastrnn.GRU(5, 7, seed=2), fastrnn.Linear(7, 11, seed=3)
    )
    fastrnn.save(model, path, extra={"note": 1})
    return path


def rewrite(path, change, architecture=lambda description: None):
    """Change a file's header, and the architecture in it."""
    header, data = parts(path.read_bytes())
    if "architecture" in header["__metadata__"]:
        description = json.loads(header["__metadata__"]["architecture"])
        architecture(description)
        header["__metadata__"]["architecture"] = json.dumps(description)
    changed = change(header, data)
    path.write_bytes(joined(header, data) if changed is None else changed)


@contextlib.contextmanager
def memory_below(most):
    """A block that never has more than so many bytes of Python's and NumPy's memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def same(header, data):
    return None


def test_damaged_file_with_a_tensor_twice(saved):
    """Two of one name, of which a reader that goes by JSON alone takes the last."""

    def change(header, data):
        text = json.dumps(header)
        return joined((text[:-1] + f', "2.bias": {json.dumps(header["2.bias"])}}}').encode(), data)

    rewrite(saved, change)
    with pytest.raises(fastrnn.FormatError, match="a name is there twice"):
        fastrnn.load(saved)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda header: header["__metadata__"].update(note=3), "its metadata must be strings by name"),
        (lambda header: header.update(__metadata__=[]), "its metadata must be strings by name"),
        (lambda header: header["2.bias"].update(data_offsets=[0.0, 44.0]), "must have two data_offsets, integers"),
        (lambda header: header["2.bias"].update(data_offsets=[0]), "must have two data_offsets, integers"),
    ],
)
def test_damaged_file_with_a_header_of_other_types(saved, change, match):
    rewrite(saved, lambda header, data: change(header))
    with pytest.raises(fastrnn.FormatError, match=match):
        fastrnn.load(saved)


def test_damaged_file_of_very_deep_containers(saved):
    def bury(description):
        for _ in range(64):
            description["layers"] = [{"type": "Sequential", "layers": description["layers"], "batch_first": False}]

    rewrite(saved, same, bury)
    with pytest.raises(fastrnn.FormatError, match="at most 64 containers in one another"):
        fastrnn.load(saved)


def test_damaged_file_with_an_entry_of_its_json_twice(saved):
    header, data = parts(saved.read_bytes())
    header["__metadata__"]["extra"] = '{"note": 1, "note": 2}'
    saved.write_bytes(joined(header, data))
    with pytest.raises(fastrnn.FormatError, match="its extra can't be read: a name is there twice"):
        storage.load_extra(saved)


@pytest.mark.parametrize("name", ["0.weight\nand more", "w" * 100_000])
def test_damaged_file_has_a_message_of_one_sentence(saved, name):
    rewrite(saved, lambda header, data: header.update({name: header.pop("0.weight")}))
    with pytest.raises(fastrnn.FormatError) as caught:
        fastrnn.load(saved)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_damaged_file_whose_booleans_are_none(tmp_path):
    path = tmp_path / "c"
    storage.save_tensors(path, "checkpoint", {"flags": np.array([True, False])}, {})
    path.write_bytes(path.read_bytes()[:-1] + b"\2")
    with pytest.raises(fastrnn.FormatError, match="neither 0 nor 1"):
        storage.load_tensors(path, "checkpoint")


@pytest.mark.parametrize("filler", ["[],", "{},", '{"a":0},'])
def test_damaged_file_whose_json_would_take_much_memory(saved, filler):
    """Empty lists of 3 bytes each, which take 64 in Python."""
    header, data = parts(saved.read_bytes())
    header["__metadata__"]["extra"] = '{"more": [' + filler * (16_000_000 // len(filler)) + "0]}"
    saved.write_bytes(joined(header, data))
    del header
    with memory_below(5 * 16_000_000), pytest.raises(fastrnn.FormatError, match="might take .* bytes of memory"):
        storage.load_extra(saved)


SMALL_PARTS = {  # of JSON, each taking many times the memory of its characters
    "lists": lambda i: "[]",
    "objects": lambda i: "{}",
    "entries": lambda i: '{"a":0}',
    "numbers": lambda i: "0.1",
    "texts": lambda i: '"ab"',
    "nested": lambda i: "[[[[]]]]",
}


def of_parts(part, count):
    return '{"more":[' + ",".join(map(part, range(count))) + "]}"


def of_names(count):
    return "{" + ",".join(f'"{i:x}":0' for i in range(count)) + "}"


@pytest.mark.parametrize("count", [10_000, 45_000, 400_000])
@pytest.mark.parametrize("part", [*SMALL_PARTS, "names"])
def test_memory_of_small_parts(tmp_path, part, count):
    """Loaded or refused: never more than twice the file and a constant."""
    path = tmp_path / "c"
    storage.save_tensors(path, "checkpoint", {"a": np.zeros(2)}, {})
    header, data = parts(path.read_bytes())
    text = of_names(count) if part == "names" else of_parts(SMALL_PARTS[part], count)
    header["__metadata__"]["meta"] = text
    path.write_bytes(joined(header, data))
    size, few = path.stat().st_size, count == 10_000
    del header, text
    with memory_below(2 * size + (4 << 20 if few else ROOM)), contextlib.suppress(() if few else fastrnn.FormatError):
        storage.load_tensors(path, "checkpoint")


def test_largest_description_of_a_model_can_be_read_again(tmp_path):
    """10,000 layers of a tensor each: what a file says of them must not count as a bomb."""
    layer = fastrnn.Linear(2, 2, bias=False)
    tensors = {f"model.{i}.weight": layer.state_dict()["weight"] for i in range(10_000)}
    member = {"type": "Linear", "config": layer.config()}
    meta = {"architecture": {"type": "Sequential", "batch_first": False, "layers": [member] * 10_000}}
    storage.save_tensors(tmp_path / "c", "checkpoint", tensors, meta)
    found, found_meta = storage.load_tensors(tmp_path / "c", "checkpoint")
    assert found.keys() == tensors.keys() and found_meta == meta


def test_memory_of_a_model_of_many_layers(tmp_path):
    """As docs/reliability.md has it: 4 KiB for each layer and tensor."""
    path, count = tmp_path / "m", 1_000
    fastrnn.save(fastrnn.Sequential(*[fastrnn.Linear(2, 2, seed=0) for _ in range(count)]), path)
    with memory_below(2 * path.stat().st_size + (2 << 20) + 3 * count * 4096):
        fastrnn.load(path)


def test_saving_refuses_a_header_that_could_not_be_read(tmp_path, monkeypatch):
    """Each of its texts could."""
    path = tmp_path / "c"
    storage.save_tensors(path, "checkpoint", {}, {"a": 1})
    before = path.read_bytes()
    empty = np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="the file could not be read again: JSON of .* might take"):
        storage.save_tensors(path, "checkpoint", {str(i): empty for i in range(40_000)}, {})
    with pytest.raises(ValueError, match="the file could not be read again: .*header too large"):
        storage.write_safetensors(path, {"a": np.zeros(1)}, {"text": "x" * 100_000_000})
    monkeypatch.setattr(safetensors_reader, "_LONGEST_HEADER", 3_000)
    with pytest.raises(ValueError, match="the file could not be read again: its header has .* bytes, more than 3000"):
        storage.write_safetensors(path, {"a": np.zeros(1)}, {"text": "é" * 1_000})  # two bytes each, or six
    assert path.read_bytes() == before and len(os.listdir(tmp_path)) == 1


def test_names_may_take_the_memory_that_the_numbers_beside_them_do(tmp_path):
    words = [f"w{i}" for i in range(400_000)]
    path = tmp_path / "c"
    with pytest.raises(ValueError, match="meta could not be read again: JSON of .* might take"):
        storage.save_tensors(path, "checkpoint", {}, {"words": words})
    storage.save_tensors(path, "checkpoint", {"a": np.zeros((400_000, 8), np.float32)}, {"words": words})
    assert storage.load_tensors(path, "checkpoint")[1] == {"words": words}


def test_damaged_file_whose_layers_do_not_fit(tmp_path):
    """Found when the layers are there, with their gradients: twice the file, and no numbers are drawn."""
    path = tmp_path / "m"
    size = 4 * 700 * 700
    fastrnn.save(fastrnn.Sequential(fastrnn.Linear(700, 700, bias=False, seed=0), fastrnn.Tanh()), path)
    rewrite(
        path, same, lambda description: description["layers"].append({"type": "OneHot", "config": {"num": 3}})
    )
    with memory_below(2 * size + 100_000), pytest.raises(fastrnn.FormatError, match="it can only be the first"):
        fastrnn.load(path)


def test_damaged_file_of_very_many_layers(saved):
    def add(description):
        description["layers"] += [{"type": "Tanh", "config": {}}] * 20_000

    rewrite(saved, same, add)
    with memory_below(40_000_000), pytest.raises(fastrnn.FormatError, match="at most 10,000 layers"):
        fastrnn.load(saved)


@pytest.mark.parametrize("argument", [{"init": "orthogonal"}, {"seed": 3}])
def test_damaged_file_says_nothing_of_first_values(saved, argument):
    """Some take very long to be drawn."""
    rewrite(saved, same, lambda description: description["layers"][1]["config"].update(argument))
    with pytest.raises(fastrnn.FormatError, match="of GRU is of no use"):
        fastrnn.load(saved)


def test_damaged_file_cut_short_while_it_is_read(tmp_path):
    """One that is mapped into memory would end the process."""
    path = tmp_path / "c"
    storage.save_tensors(path, "checkpoint", {"a": np.zeros(100_000)}, {})
    with storage._opened(path, "checkpoint") as file:
        os.truncate(path, 400_000)
        with pytest.raises(ValueError, match="tensor 'a' is cut short"):
            file.read("a")


def test_saving_refuses_what_could_not_be_read(saved):
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="extra could not be read again: a name is there twice"):
        fastrnn.save(fastrnn.load(saved), saved, extra={1: "a", "1": "b"})
    assert saved.read_bytes() == before


def test_reading_that_fails_names_the_file():
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("needs Linux's /proc")
    with pytest.raises(OSError, match="/proc/self/mem"):
        fastrnn.load("/proc/self/mem")


# ---- checkpoints ----


def trainer():
    model = fastrnn.Sequential(
        fastrnn.OneHot(7), fastrnn.LSTM(7, 3, seed=0), fastrnn.Dropout(0.1), fastrnn.Linear(3, 7, seed=1)
    )
    return fastrnn.Trainer(
        model, fastrnn.CrossEntropy(), fastrnn.SGD(0.1, momentum=0.9), bptt=bptt.Randomized(0.3, seed=3)
    )


@pytest.fixture
def checkpoint(tmp_path):
    job = trainer()
    stream = fastrnn.data.TokenStream(np.arange(100) % 7, 2, 6)
    job.fit(stream, callbacks=lambda job, record: job.updates == 2, progress=False)
    job.save_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors, meta: meta.update(updates=10**30), "updates must be at most"),
        (lambda tensors, meta: meta.update(more=1), "unknown entry 'more'"),
        (lambda tensors, meta: tensors.update({"state.9": np.zeros(2)}), "unknown entry 'state.9'"),
        (lambda tensors, meta: meta["state"][1].__setitem__(0, meta["state"][1][1]), "two parts of its state"),
        (lambda tensors, meta: meta["optimizer"].update(step=-1), "step must be at least 0"),
        (lambda tensors, meta: meta["rule"].update(random={}), "does not fit this trainer"),
        (lambda tensors, meta: meta["random"].__setitem__(0, []), "does not fit this trainer"),
        (lambda tensors, meta: meta.pop("state"), "its 'state' is missing"),
    ],
)
def test_damaged_checkpoint_leaves_the_trainer(checkpoint, change, match):
    tensors, meta = storage.load_tensors(checkpoint, "checkpoint")
    change(tensors, meta)
    storage.save_tensors(checkpoint, "checkpoint", tensors, meta)
    job = trainer()
    before = (
        job.model.parameters_to_vector(),
        bptt.random_states(job.model),
        job.bptt.state_dict(),
        job.optimizer.state_dict(),
    )
    with pytest.raises(fastrnn.FormatError, match=match):
        job.load_checkpoint(checkpoint)
    np.testing.assert_array_equal(job.model.parameters_to_vector(), before[0])
    assert (bptt.random_states(job.model), job.bptt.state_dict(), job.optimizer.state_dict()) == before[1:]
    assert job.updates == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda extra: extra["settings"].update(hidden=10**6),
        lambda extra: extra["settings"].update(layers=256),
        lambda extra: extra["settings"].update(embedding=5),
        lambda extra: extra["settings"].update(cell="gru"),
        lambda extra: extra["settings"].update(hidden=True),
        lambda extra: extra["settings"].update(steps=0),
        lambda extra: extra["settings"].update(cell="os.system"),
        lambda extra: extra["settings"].update(lr=float("nan")),
        lambda extra: extra["settings"].update(more=1),
        lambda extra: extra["settings"].update(files="abc"),
        lambda extra: extra["log"].update(lines=[{}]),
        lambda extra: extra["log"].update(lines=["step"]),
        lambda extra: extra["log"].update(lines='{"step": 20, "seconds": 0.1}\n{}'),
        lambda extra: extra["log"].update(lines='{"step": 20, "seconds": ' + "[" * 100_000),
        lambda extra: extra["log"].update(lines=None),
        lambda extra: extra["log"].update(step=1.5),
        lambda extra: extra["log"].update(lines='{"step": 20, "seconds": 1%s}' % ("0" * 400)),
        lambda extra: extra["log"].update(lines='{"step": 1%s, "seconds": 1}' % ("0" * 400)),
        lambda extra: extra["log"].update(lines='{"step": 20, "seconds": 1, "loss": 1%s}' % ("0" * 400)),
        lambda extra: extra["log"].update(lines='{"step": 20.5, "seconds": 1}'),
        lambda extra: extra["log"].update(lines='{"step": 20, "seconds": NaN}'),
        lambda extra: extra.update(seconds=-1.0),
        lambda extra: extra.update(text=None),
    ],
)
def test_damaged_checkpoint_of_a_run(checkpoint, change):
    """Its settings are checked before a model of their size is made."""
    tensors, meta = storage.load_tensors(checkpoint, "checkpoint")
    log = _Log(3, ('{"step": 20, "seconds": 0.1}', '{"step": 40, "seconds": 0.2}'), 0, (0.5,))
    meta["extra"] = Saved(Settings(hidden=3, embedding=0), "digest", 1.5, log).as_json()
    storage.save_tensors(checkpoint, "checkpoint", tensors, meta)
    assert read_saved(str(checkpoint)).log == log
    change(meta["extra"])
    storage.save_tensors(checkpoint, "checkpoint", tensors, meta)
    with pytest.raises(fastrnn.FormatError, match="is not a checkpoint of 'fastrnn train', or is damaged"):
        read_saved(str(checkpoint))


def test_damaged_checkpoint_of_a_run_with_a_larger_model(checkpoint):
    """Settings and architecture agree on many layers, for which there are no tensors: nothing of that size is made."""
    tensors, meta = storage.load_tensors(checkpoint, "checkpoint")
    meta["extra"] = Saved(Settings(hidden=3, embedding=0, layers=5_000), "digest", 1.5, _Log()).as_json()
    meta["architecture"]["layers"][1]["config"]["num_layers"] = 5_000
    storage.save_tensors(checkpoint, "checkpoint", tensors, meta)
    with memory_below(1 << 20), pytest.raises(fastrnn.FormatError, match="it has no tensor 1.weight_ih_l1"):
        read_saved(str(checkpoint))


def test_history_of_older_checkpoints(checkpoint):
    """Objects, where there is text now."""
    tensors, meta = storage.load_tensors(checkpoint, "checkpoint")
    log = _Log(3, ('{"step": 20, "seconds": 0.1}', '{"step": 40, "seconds": 0.2}'), 0, (0.5,))
    meta["extra"] = Saved(Settings(hidden=3, embedding=0), "digest", 1.5, log).as_json()
    meta["extra"]["log"]["lines"] = [{"step": 20, "seconds": 0.1}, {"step": 40, "seconds": 0.2}]
    storage.save_tensors(checkpoint, "checkpoint", tensors, meta)
    assert read_saved(str(checkpoint)).log == log


def test_damaged_state_of_a_generator_with_arrays(tmp_path):
    def job():
        rng = np.random.Generator(np.random.MT19937(5))
        model = fastrnn.Sequential(fastrnn.Dropout(0.2, seed=rng), fastrnn.Linear(3, 2, seed=1))
        return fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.SGD(0.1))

    path = tmp_path / "checkpoint"
    job().save_checkpoint(path)
    tensors, meta = storage.load_tensors(path, "checkpoint")
    meta["random"][0]["state"]["key"].pop()
    storage.save_tensors(path, "checkpoint", tensors, meta)
    with pytest.raises(fastrnn.FormatError, match="does not fit this trainer"):
        job().load_checkpoint(path)
