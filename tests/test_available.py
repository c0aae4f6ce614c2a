"""How much memory can be had, from files as Linux has them; and that whatever a size asks for is compared with it."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastrnn
from fastrnn.available import available_memory
from fastrnn.layers.base import Layer, Workspace

GIB = 1 << 30
MACHINE = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   8388608 kB\n"}  # 8 GiB
UNLIMITED_V1 = "9223372036854771712\n"


def group(version, limit, usage, inactive=0, active=0, folder=""):
    """The files of one control group."""
    names = {2: ("memory.max", "memory.current", ""), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")}
    limit_name, usage_name, prefix = names[version]
    top = "sys/fs/cgroup/memory" if version == 1 else "sys/fs/cgroup"
    return {
        f"{top}{folder}/{limit_name}": f"{limit}\n",
        f"{top}{folder}/{usage_name}": f"{usage}\n",
        f"{top}{folder}/memory.stat": f"anon 1\n{prefix}inactive_file {inactive}\n{prefix}active_file {active}\n",
    }


V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n"}
V2 = {"proc/self/cgroup": "0::/user.slice/job\n"}

CASES = {
    "the machine": (MACHINE, 8 * GIB),
    "no files at all": ({}, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
    "v2, own group": (MACHINE | V2 | group(2, 3 * GIB, GIB, folder="/user.slice/job"), 2 * GIB),
    "v2, group above": (
        MACHINE | V2 | group(2, "max", GIB, folder="/user.slice/job") | group(2, 4 * GIB, GIB, folder="/user.slice"),
        3 * GIB,
    ),
    "v2, at the top of a container": (MACHINE | V2 | group(2, 3 * GIB, GIB), 2 * GIB),
    "v2, file cache is given back": (MACHINE | V2 | group(2, 3 * GIB, 3 * GIB, GIB // 2, GIB // 2), GIB),
    "v2, without limit": (MACHINE | V2 | group(2, "max", GIB), 8 * GIB),
    "v2, over its limit": (MACHINE | V2 | group(2, GIB, 2 * GIB), 0),
    "v2, above the group seen": (MACHINE | {"proc/self/cgroup": "0::/../..\n"} | group(2, 2 * GIB, 0), 2 * GIB),
    "v1, own group": (MACHINE | V1 | group(1, 3 * GIB, GIB, folder="/docker/abc"), 2 * GIB),
    "v1, at the top of a container": (MACHINE | V1 | group(1, 3 * GIB, 2 * GIB, 0, GIB), 2 * GIB),
    "v1, without limit": (MACHINE | V1 | group(1, UNLIMITED_V1, GIB), 8 * GIB),
    "unreadable numbers": (MACHINE | V2 | group(2, "", "?"), 8 * GIB),
}


@pytest.mark.skipif(sys.platform != "linux", reason="files that Linux has")
@pytest.mark.parametrize("name", CASES)
def test_available_memory_from_files(tmp_path, name):
    files, expected = CASES[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert available_memory(tmp_path) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce the limit")
def test_available_memory_below_the_limit_of_the_address_space():
    code = f"""
import resource, fastrnn
resource.setrlimit(resource.RLIMIT_AS, ({64 * GIB}, {64 * GIB}))
from fastrnn.available import _address_space
import pathlib
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
room = _address_space(pathlib.Path("/"))
assert abs({64 * GIB} - used - room) < 1 << 24, (used, room)
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 27), {64 * GIB}))
try:
    fastrnn.LSTM(2000, 2000)
except MemoryError as error:
    assert "parameters needs" in str(error) and "bytes" in str(error), error
else:
    raise AssertionError("granted")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


HUGE = 10**12
WIDE = fastrnn.Sequential(fastrnn.OneHot(7), fastrnn.RNN(7, 4, seed=0), fastrnn.Linear(4, 7, seed=0))
TOKENS = np.zeros(3, np.int64)


def floats(*shape):
    return np.zeros(shape, np.float32)


def forecast():
    from fastrnn.estimators import RNNForecaster

    model = RNNForecaster(window=2, horizon=1, hidden_size=2, epochs=1, random_state=0)
    return model.fit(np.arange(20.0)).predict(steps=HUGE)


# whatever takes a size, with one that no machine has the memory for
CALLS = {
    "RNN": lambda: fastrnn.RNN(HUGE, 1),
    "LSTM": lambda: fastrnn.LSTM(10**6, 10**6),
    "layers": lambda: fastrnn.GRU(1, 1, HUGE),
    "Jordan": lambda: fastrnn.Jordan(3, HUGE, 3),
    "Linear": lambda: fastrnn.Linear(10**10, 10**10),  # more than 64 bits count
    "Embedding": lambda: fastrnn.Embedding(HUGE, 4),
    "LayerNormLSTM": lambda: fastrnn.LayerNormLSTM(HUGE, HUGE),
    "workspace, steps": lambda: fastrnn.RNN(2, 2).workspace(HUGE, 1),
    "workspace, batch": lambda: fastrnn.Jordan(2, 2, 2).workspace(1, HUGE),
    "workspace, model": lambda: WIDE.workspace(10**6, 10**6),
    "workspace, features": lambda: fastrnn.Tanh().workspace(HUGE, 1),
    "workspace, dilation": lambda: fastrnn.RNN(2, 2, dilation=HUGE).workspace(1, 1),
    "workspace, repeat": lambda: fastrnn.Sequential(fastrnn.Repeat(HUGE)).workspace(1, 1),
    "kernel_workspace": lambda: fastrnn.RNN(2, 2).kernel_workspace(HUGE, 1),
    "dense kernel_workspace": lambda: fastrnn.Linear(2, 2).kernel_workspace(HUGE, 1),
    "one-hot": lambda: fastrnn.OneHot(HUGE).forward(TOKENS[:, None]),
    "repeat": lambda: fastrnn.Repeat(HUGE).forward(floats(1, 1)),
    "repeat in a model": lambda: fastrnn.Sequential(fastrnn.Repeat(HUGE), fastrnn.RNN(1, 1)).forward(floats(1, 1)),
    "dilation": lambda: fastrnn.GRU(2, 2, dilation=HUGE).forward(floats(1, 1, 2)),
    "dilation in a model": lambda: fastrnn.Sequential(fastrnn.GRU(2, 2, dilation=HUGE)).forward(floats(1, 1, 2)),
    "generate": lambda: fastrnn.generate(WIDE, TOKENS, HUGE),
    "generate vectors": lambda: fastrnn.generate(fastrnn.RNN(2, 2), floats(1, 2), HUGE),
    "pad": lambda: fastrnn.data.pad([floats(1)] * 4 + [np.broadcast_to(np.float32(0), (HUGE,))]),
    "windows": lambda: fastrnn.data.windows(np.broadcast_to(np.float32(0), (10**7,)), 10**6),
    "WindowBatches": lambda: fastrnn.data.WindowBatches(
        np.broadcast_to(np.float32(0), (10**7,)), 10**6, batch_size=10**6
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_available_memory_is_compared_with_what_is_asked_for(name):
    with pytest.raises(MemoryError, match=r"needs [\d,]{12,} bytes, [\d,]+ are available"):
        CALLS[name]()


def test_available_memory_and_a_forecast():
    pytest.importorskip("sklearn")
    with pytest.raises(MemoryError, match="a forecast of"):
        forecast()


def test_available_memory_and_what_comes_with_a_model(monkeypatch):
    layer = fastrnn.Linear(3000, 3000, init="zeros")
    optimizer, loss = fastrnn.Adam(), fastrnn.MSE()
    y = np.zeros((3000, 6000), np.float32)
    wide = fastrnn.data.WindowBatches(np.zeros((10, 3000), np.float32), 1, batch_size=4)
    tanh, step = fastrnn.Tanh(), np.zeros((3000, 1, 6000), np.float32)
    workspace = tanh.workspace(3000, 1)
    before = layer.state_dict()
    monkeypatch.setattr("fastrnn.checks.available_memory", lambda: 1 << 26)
    with pytest.raises(MemoryError, match="a model of these layers"):
        fastrnn.Sequential(layer)
    with pytest.raises(MemoryError, match="the state of Adam"):
        optimizer.step(layer)
    with pytest.raises(MemoryError, match="the gradient of the loss"):
        loss(y, y)
    with pytest.raises(MemoryError, match="the workspace of Tanh"):
        tanh.forward(step, workspace=workspace)
    assert len(wide)
    assert optimizer.state_dict()["step"] == 0 and layer.owner is None
    assert all((layer.state_dict()[name] == value).all() for name, value in before.items())


def test_available_memory_and_inference_buffers(monkeypatch):
    """A batch of few numbers a sequence takes more inside of a layer than its output does."""
    layer, x = fastrnn.LSTM(1, 1), np.zeros((1, 300_000, 1), np.float32)
    monkeypatch.setattr("fastrnn.checks.available_memory", lambda: 1 << 26)
    for model in (layer, fastrnn.Sequential(layer), fastrnn.Sequential(fastrnn.Residual(fastrnn.LSTM(1, 1)))):
        with pytest.raises(MemoryError, match="inference"):
            model.forward(x)


def arrays_of(value, found):
    """Every array that a workspace holds, of whole allocations, by identity; layers are not of it."""
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        found[id(value)] = value
    elif isinstance(value, (list, tuple)):
        for item in value:
            arrays_of(item, found)
    elif isinstance(value, dict):
        arrays_of(list(value.values()), found)
    elif isinstance(value, Workspace) or type(value).__module__ == "fastrnn.passes" and hasattr(value, "keep"):
        arrays_of([v for v in vars(value).values() if not isinstance(v, Layer)], found)
    return found


LAYERS = {
    "stack": lambda: fastrnn.LSTM(5, 70, 2, bidirectional=True),
    "dropout": lambda: fastrnn.LSTM(5, 70, 3, dropout=0.5),
    "noise": lambda: fastrnn.LSTM(5, 70, zoneout=0.1, recurrent_dropout=0.2),
    "vectors": lambda: fastrnn.PeepholeLSTM(5, 70),
    "rows": lambda: fastrnn.LayerNormLSTM(5, 70),
    "dilation": lambda: fastrnn.GRU(3, 70, dilation=50),
    "jordan": lambda: fastrnn.Jordan(50, 70, 3),
    "linear": lambda: fastrnn.Linear(100, 3),
    "embedding": lambda: fastrnn.Embedding(100, 3),
    "model": lambda: fastrnn.Sequential(fastrnn.Embedding(20, 30), fastrnn.LSTM(30, 40), fastrnn.Linear(40, 20)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("steps, batch", [(1, 3000), (3000, 1), (60, 60)])
def test_available_memory_is_compared_with_what_a_workspace_takes(kind, steps, batch):
    layer = LAYERS[kind]()
    taken = sum(array.nbytes for array in arrays_of(layer.workspace(steps, batch), {}).values())
    asked = layer._workspace_bytes(steps, batch)
    slack = 300_000 * (1 + 2 * getattr(layer, "num_layers", 1))  # threads' scratch, of fixed size
    assert taken - slack <= asked <= 3 * taken
