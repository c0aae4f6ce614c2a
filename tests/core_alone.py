"""The core in an environment with NumPy and Numba alone: python tests/core_alone.py

Layers, training, gradients and streaming work; what needs more says which package is missing, and how to get it.
"""

import importlib
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys

import numpy as np

import fastrnn
import fastrnn.interop.keras
import fastrnn.interop.onnx
import fastrnn.interop.torch
from fastrnn import interop, plot

CORE = {"fastrnn", "numpy", "numba", "llvmlite"}
TOOLS = {"pip", "setuptools", "wheel"}


def check_environment():
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert installed <= CORE | TOOLS, f"more is installed than the core needs: {sorted(installed - CORE - TOOLS)}"
    loaded = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
    assert CORE <= loaded
    assert importlib.util.find_spec("fastrnn.kernels").origin.startswith(sys.prefix), "not the installed package"


def check_learning(recurrent):
    """A model learns to repeat what it saw two steps before."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 16, 2), dtype=np.float32)
    targets = np.roll(x[..., :1], 2, axis=0)
    targets[:2] = 0.0
    model = fastrnn.Sequential(recurrent, fastrnn.Linear(recurrent.hidden_size, 1, seed=1))
    trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(lr=2e-2), clip_norm=1.0)
    losses = [trainer.step(x, targets)[0] for _ in range(150)]
    assert losses[-1] < 0.3 * losses[0], (recurrent, losses[0], losses[-1])
    y, _ = model(x[:, :1])
    state, streamed = None, []
    for x_t in x[:, :1]:
        y_t, state = model.step(x_t, state)
        streamed.append(y_t)
    assert np.array_equal(np.stack(streamed), y), recurrent


def check_gradients():
    rng = np.random.default_rng(0)
    model = fastrnn.Sequential(
        fastrnn.RNN(3, 5, dtype="float64", seed=0), fastrnn.Linear(5, 2, dtype="float64", seed=1)
    )
    x, targets = rng.standard_normal((4, 3, 3)), rng.standard_normal((4, 3, 2))
    report = fastrnn.gradcheck(model, fastrnn.MSE(), x, targets)
    assert report.max_error < 1e-7, report


def check_missing():
    """Each optional part names the extra that it needs."""
    layer = fastrnn.Linear(1, 1)
    pathlib.Path("series.csv").write_text("sales\n" + "1\n" * 99, "utf-8")
    for extra, use in {
        "train": lambda: fastrnn.save(layer, "never.safetensors"),
        "plot": lambda: plot.history([{"step": 1, "loss": 0.5}]),
        "sklearn": lambda: importlib.import_module("fastrnn.estimators"),
        "torch": lambda: interop.torch.to_module(layer),
        "keras": lambda: interop.keras.to_model(layer),
        "onnx": lambda: interop.onnx.export(layer, "never.onnx"),
    }.items():
        try:
            use()
        except ImportError as error:
            assert f"fastrnn[{extra}]" in str(error), error
        else:
            raise AssertionError(f"{extra}: nothing was missing")
    for extra, command in {
        "train": ["train", "series.csv"],
        "forecast": ["forecast", "series.csv", "--target", "sales", "--horizon", "3"],
        "completion": ["completion", "bash"],
    }.items():
        done = subprocess.run([sys.executable, "-m", "fastrnn", *command], capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr, (command, done)
        assert f"fastrnn[{extra}]" in done.stderr, (command, done.stderr)


if __name__ == "__main__":
    check_environment()
    for layer in fastrnn.LSTM(2, 24, seed=0), fastrnn.GRU(2, 24, seed=0), fastrnn.RNN(2, 24, seed=0):
        check_learning(layer)
    check_gradients()
    check_missing()
    print(f"fastrnn {fastrnn.__version__} with NumPy {np.__version__} and Numba alone: all works")
