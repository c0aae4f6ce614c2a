"""Files larger than memory: streams, windows and models over memory-mapped arrays."""

import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from test_memory import peak

import fastrnn
from fastrnn import data

LARGE = 100_000_000  # bytes of a file with holes: it takes no room on the disk
BATCH = 400_000  # bytes that a batch below and what it is made of take, at most


def file_with_a_hole(path, dtype, shape=None):
    """An array of zeros in a large file, (N,), or (N,F)."""
    count = LARGE // np.dtype(dtype).itemsize
    with open(path, "wb") as file:
        file.truncate(LARGE)
    return np.memmap(path, dtype, "r", shape=(count // shape, shape) if shape else (count,))


def to_file(path, array):
    array.tofile(path)
    return np.memmap(path, array.dtype, "r", shape=array.shape)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u8", ">i4"])
def test_memmap_tokens_take_the_memory_of_a_batch(dtype, tmp_path):
    tokens = file_with_a_hole(tmp_path / "tokens", dtype)

    def run():
        stream = data.TokenStream(tokens, 32, 100)
        x, targets = next(iter(stream))
        stream.load_state_dict({**stream.state_dict(), "position": len(stream) - 1})
        ((last, _),) = stream
        return x, targets, last

    x, targets, last = run()
    assert x.shape == targets.shape == (100, 32) and x.dtype == np.int64 and last.shape[1] == 32
    assert peak(run, repeats=1) < BATCH


@pytest.mark.parametrize("dtype", ["f4", ">f8"])
@pytest.mark.parametrize("kind", ["series", "targets", "classes", "windows", "shuffled"])
def test_memmap_series_take_the_memory_of_a_batch(kind, dtype, tmp_path):
    series = file_with_a_hole(tmp_path / "series", dtype, 4)
    classes = np.zeros(len(series), np.uint8) if kind == "classes" else None

    def run():
        if kind in ("windows", "shuffled"):
            batches = data.WindowBatches(series, 100, batch_size=32, shuffle=kind == "shuffled", seed=0)
        else:
            targets = {"series": None, "targets": series[:, 1], "classes": classes}[kind]
            batches = data.SeriesStream(series, 32, 100, targets=targets)
        return next(iter(batches))

    assert run()[0].shape == (100, 32, 4)
    assert peak(run, repeats=1) < BATCH


def test_memmap_training_is_that_from_memory(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 50, 2001).astype("u2")

    def trained(tokens):
        model = fastrnn.Sequential(fastrnn.LSTM(50, 8, seed=0), fastrnn.Linear(8, 50, seed=1))
        trainer = fastrnn.Trainer(model, fastrnn.CrossEntropy(), fastrnn.Adam(1e-2))
        history = trainer.fit(data.TokenStream(tokens, 4, 50), epochs=2, progress=False)
        return model.parameters_to_vector(), [record["loss"] for record in history]

    parameters, losses = trained(to_file(tmp_path / "tokens", tokens))
    expected, expected_losses = trained(tokens)
    np.testing.assert_array_equal(parameters, expected)
    assert losses == expected_losses


def test_memmap_series_training_carries_the_state():
    """A model that must remember beyond the batch learns from a stream of real vectors, and not without the state."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 1)).astype("float32")
    targets = np.roll(x, 3, 0)  # the input three steps ago, of batches of two steps

    def error(stateful):
        stream = data.SeriesStream(x, 8, 2, targets=targets)
        stream.stateful = stateful
        model = fastrnn.Sequential(fastrnn.RNN(1, 16, init="identity", seed=0), fastrnn.Linear(16, 1, seed=1))
        trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(1e-2))
        trainer.fit(stream, epochs=6, progress=False)
        return trainer.evaluate(stream)

    assert error(True) < 0.9 * error(False)


@pytest.mark.parametrize("block", [1, 64, 999])
def test_memmap_in_and_out_block_by_block(block, tmp_path):
    """Prediction from file to file in blocks, the state carried: the same bits as in memory, in one pass."""
    series = np.random.default_rng(0).standard_normal((1000, 2, 3)).astype("float32")
    model = fastrnn.Sequential(fastrnn.GRU(3, 8, seed=0), fastrnn.Linear(8, 2, seed=1))
    expected, final = model.forward(series)
    x = to_file(tmp_path / "x", series)
    y = np.memmap(tmp_path / "y", "float32", "w+", shape=(1000, 2, 2))
    state = None
    for t in range(0, len(x), block):
        _, state = model.forward(x[t : t + block], state, out=y[t : t + block])
    y.flush()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y", "float32").reshape(y.shape), expected)
    np.testing.assert_array_equal(state[0], final[0])


LIMITED = """
    import resource, sys
    import numpy as np
    import fastrnn

    steps, features, room = 100_000, 256, 40_000_000  # 102 MB in, as much out, with 40 MB
    model = fastrnn.Sequential(fastrnn.RNN(features, 4, seed=0), fastrnn.Linear(4, features, seed=1))
    fastrnn.set_num_threads(1)
    x = np.memmap(sys.argv[1], "float32", "r", shape=(steps, 1, features))
    y = np.memmap(sys.argv[2], "float32", "w+", shape=x.shape)
    _, state = model.forward(x[:100], out=y[:100])  # loads the kernels
    with open("/proc/self/status") as file:
        used = next(1024 * int(line.split()[1]) for line in file if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))  # of all memory but mapped files
    try:
        np.ones(x.size, "float32")
    except MemoryError:
        print("limited")
    model.forward(x, out=y)  # all of it, without a copy
    state, begin = None, y[-1].copy()
    for t in range(0, steps, 4096):
        _, state = model.forward(x[t : t + 4096], state, out=y[t : t + 4096])
    print("equal" if (y[-1] == begin).all() and y[-1].any() else "not equal")
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's limit of a process's data")
def test_memmap_larger_than_the_memory_allowed(tmp_path):
    """A process that may have less memory than the file takes reads and writes all of it."""
    with open(tmp_path / "x", "wb") as file:
        file.truncate(100_000 * 256 * 4)
    code = textwrap.dedent(LIMITED)
    command = [sys.executable, "-c", code, str(tmp_path / "x"), str(tmp_path / "y")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["limited", "equal"]
