"""Every public function and method has a type for each argument and for what it returns, and users' code can be
checked against them."""

import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys
import sysconfig

import pytest

import fastrnn
from fastrnn.layers.base import Layer, Workspace
from fastrnn.parameters import Parameters

MODULES = [
    "fastrnn",
    "fastrnn.bptt",
    "fastrnn.data",
    "fastrnn.diagnostics",
    "fastrnn.estimators",
    "fastrnn.init",
    "fastrnn.interop.keras",
    "fastrnn.interop.onnx",
    "fastrnn.interop.torch",
    "fastrnn.plot",
]
NEEDS = {"fastrnn.estimators": "sklearn"}  # packages that are not the core's
CLASSES = [Layer, Workspace, Parameters]  # that no module names, but that users meet


def public_callables():
    """The functions and methods of everything in the modules' `__all__`, by qualified name."""
    found = {}
    for thing in [*CLASSES, *public_things()]:
        members = {}
        if inspect.isclass(thing):
            for base in thing.__mro__:
                if base.__module__.startswith("fastrnn"):
                    members = {**vars(base), **members}
        elif inspect.isfunction(thing):
            found[f"{thing.__module__}.{thing.__qualname__}"] = thing
        for key, member in members.items():
            member = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", None) or member))
            if inspect.isfunction(member) and (not key.startswith("_") or key in ("__init__", "__call__")):
                if member.__module__.startswith("fastrnn"):
                    found[f"{member.__module__}.{member.__qualname__}"] = member
    return found


def public_things():
    for module in MODULES:
        if module not in NEEDS or importlib.util.find_spec(NEEDS[module]):
            loaded = importlib.import_module(module)
            yield from (getattr(loaded, name) for name in loaded.__all__)


CALLABLES = public_callables()


def test_typing_finds_what_is_public():
    expected = {"fastrnn.layers.base.Layer.forward", "fastrnn.storage.save", "fastrnn.optim.Adam.__init__"}
    assert expected <= set(CALLABLES)


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_typing_is_complete(name):
    signature = inspect.signature(CALLABLES[name])
    empty = inspect.Signature.empty
    typed = [p.name for p in signature.parameters.values() if p.annotation is not empty]
    missing = signature.parameters.keys() - {*typed, "self", "cls"}
    assert not missing
    # type checkers take an `__init__` with typed arguments for typed
    assert signature.return_annotation is not empty or (name.endswith("__init__") and typed)


USER = """
from collections.abc import Iterator

import numpy as np

import fastrnn
import fastrnn.estimators
from fastrnn import bptt, data, diagnostics, init
from fastrnn.types import Batch, State

rng = np.random.default_rng(0)


def bounded(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return init.xavier_uniform(shape, rng).clip(-1, 1)


def train(model: fastrnn.Sequential) -> fastrnn.Trainer:
    optimizer = fastrnn.AdamW(1e-3)
    trainer = fastrnn.Trainer(
        model, fastrnn.MSE(), optimizer, bptt=bptt.Truncated(4), clip_norm=1.0, schedule=fastrnn.Cosine(100), seed=1
    )
    series = rng.standard_normal((100, 3))
    stream = data.SeriesStream(series, batch_size=2, seq_len=5)
    stopping = fastrnn.EarlyStopping(3)
    history = trainer.fit(stream, epochs=2, validation=[stream_batch(stream)], callbacks=[stopping], progress=False)
    value, state = trainer.step(np.zeros((4, 2, 3)), np.zeros((4, 2, 3)), lengths=[4, 3])
    reveal_type(value)
    reveal_type(history[0]["loss"])
    trainer.save_checkpoint("checkpoint.safetensors", extra={"best": stopping.best})
    return trainer


def stream_batch(stream: data.SeriesStream) -> Batch:
    return next(iter(stream))


def run(model: fastrnn.Sequential, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    state: State = None
    out = np.empty((1, model.layers[0].num_parameters), np.float32)
    for block in blocks:
        y, state = model.step(block, state, out=out)
        yield y


model = fastrnn.Sequential(
    fastrnn.LSTM(3, 8, init={"weight_ih": bounded, "weight_hh": "orthogonal"}, dtype=np.float64, seed=rng),
    fastrnn.Linear(8, 3, dtype="float64"),
)
y, state = model.forward([[[0.5, 0.5, 0.5]]])
reveal_type(model.forward)
reveal_type(y)
workspace = model.workspace(T=5, B=2)
reveal_type(workspace)
y, _ = model(rng.standard_normal((5, 2, 3)), lengths=[5, 4], workspace=workspace)
loss, dy = fastrnn.Huber(delta=0.5)(y, np.zeros_like(y))
dx, dstate = model.backward(dy, workspace=workspace)
reveal_type(dx)
norm = fastrnn.clip_grad_norm(model, 1.0)
fastrnn.SGD(0.1, momentum=0.9).step(model)
model.zero_grad()
weights = {name: 0.5 * array for name, array in model.state_dict().items()}
model.load_state_dict(weights)

tokens = fastrnn.Sequential(fastrnn.Embedding(30, 4), fastrnn.GRU(4, 8), fastrnn.Linear(8, 30))
train(model).model.parameters.values.sum()
fastrnn.save(model, "model.safetensors")
reveal_type(fastrnn.load("model.safetensors"))
reveal_type(fastrnn.generate(tokens, [1, 2, 3], 10, seed=0))
value, final = bptt.Online().gradients(model, fastrnn.MAE(), np.zeros((5, 1, 3)), np.zeros((5, 1, 3)))
report = fastrnn.gradcheck(model, fastrnn.MSE(), np.zeros((5, 1, 3)), np.zeros((5, 1, 3)))
print(report.max_error, diagnostics.gradient_flow(model, fastrnn.MSE(), y, y, max_lag=3).layers[0].verdict)

classifier = fastrnn.estimators.RNNClassifier("gru", 16, epochs=5, random_state=0)
reveal_type(classifier.fit(np.zeros((8, 5, 1)), [0, 1] * 4).predict(np.zeros((8, 5, 1))))
"""
WRONG = """
import fastrnn

layer = fastrnn.LSTM("three", 8)
layer.forward([[[0.0]]], length=[1])
layer.workspace(5).penalty()
fastrnn.Trainer(layer, "mse", fastrnn.Adam())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where mypy keeps what it knows of NumPy and fastrnn from one run to the next."""
    return tmp_path_factory.mktemp("user")


def mypy(folder, source):
    """What `mypy --strict` prints about a user's module."""
    pytest.importorskip("mypy")
    (folder / "user.py").write_text(source)
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    home = pathlib.Path(fastrnn.__file__).parents[1]
    if home != pathlib.Path(sysconfig.get_path("purelib")):  # editable installs go by hooks, which mypy does not run
        environment["MYPYPATH"] = str(home)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "--no-error-summary"]
    options = ["--config-file=", "--follow-imports=silent", "--cache-dir", str(folder / "cache")]
    result = subprocess.run(
        [*command, *options, "user.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert not result.stderr
    return result.stdout.splitlines()


def test_typing_of_users_code(folder):
    lines = mypy(folder, USER)
    assert [line for line in lines if "error" in line] == []
    revealed = [line.partition("Revealed type is ")[2].strip('"') for line in lines if "Revealed type" in line]
    assert len(revealed) == USER.count("reveal_type")
    array = r"numpy\.ndarray\[tuple\[Any, \.\.\.\], numpy\.dtype\[Any\]\]"
    patterns = ["float", "Any", f".*-> tuple\\[{array}, Any\\]", array, r"fastrnn\.layers\.base\.Workspace"]
    patterns += [f"{array} \\| None", r"fastrnn\.layers\.base\.Layer", array, array]
    for line, pattern in zip(revealed, patterns, strict=True):
        assert re.fullmatch(pattern, re.sub(r"builtins\.|def ", "", line)), line


def test_typing_finds_users_mistakes(folder):
    errors = [line.partition("[")[2].rstrip("]") for line in mypy(folder, WRONG) if "error" in line]
    assert errors == ["arg-type", "call-arg", "call-arg", "arg-type"]
