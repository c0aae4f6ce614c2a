"""fastrnn: recurrent neural networks (RNN, GRU, LSTM) for the CPU, in Python, NumPy and Numba.

Layers: `RNN`, `GRU`, `LSTM`, `PeepholeLSTM`, `LayerNormLSTM`, `Jordan`, `Linear`, `Embedding`, `OneHot`, `Tanh`,
`ReLU`, `Sigmoid`, `Dropout`, `ActivityRegularization`, `Last`, `MeanPool`, `MaxPool`, `Repeat`, joined by `Sequential`,
`Residual` and `Concatenated`. Initialisers are in `init`, initial states are zeros, learned or a `NoisyState`.
Training: losses, optimisers and learning-rate schedules, `Trainer` with `EarlyStopping` and `ReduceOnPlateau`, and the
rules of backpropagation through time of `bptt`. Looking at gradients: `diagnostics`, and its `gradcheck`. Running
freely: `generate`, `stream`, `beam_search`. Data and files: `data`, `save` and `load`. `kernels` is the compiled code.

Everything takes and returns NumPy arrays; shapes and names are PyTorch's.
"""

import importlib.util as _importlib_util
import logging as _logging
import sys as _sys
from importlib import import_module as _import_module
from typing import Any as _Any

if _importlib_util.find_spec("fastrnn.kernels") is None:
    _message = (
        f"fastrnn in {__path__[0]} is a source checkout that is not installed: run `pip install -e .` in its folder"
    )
    if _sys.argv[:1] == ["-m"]:  # python -m fastrnn: a command's way to fail
        _sys.stderr.write(f"fastrnn: {_message}\n")
        raise SystemExit(2)
    raise ImportError(_message)

from . import bptt, data, diagnostics, init, kernels  # noqa: E402, I001
from .callbacks import EarlyStopping, ReduceOnPlateau  # noqa: E402
from .diagnostics import GradcheckReport, gradcheck  # noqa: E402
from .finite import NonFiniteError  # noqa: E402
from .generation import beam_search, generate, stream  # noqa: E402
from .layers import (  # noqa: E402
    GRU,
    LSTM,
    RNN,
    ActivityRegularization,
    Dropout,
    Embedding,
    Jordan,
    Last,
    LayerNormLSTM,
    Linear,
    MaxPool,
    MeanPool,
    NoisyState,
    OneHot,
    PeepholeLSTM,
    ReLU,
    Repeat,
    Sigmoid,
    Tanh,
)
from .losses import MAE, MSE, BinaryCrossEntropy, CrossEntropy, Huber, Quantile  # noqa: E402
from .model import Concatenated, Residual, Sequential  # noqa: E402
from .optim import (  # noqa: E402
    SGD,
    Adagrad,
    Adam,
    AdamW,
    RMSprop,
    clip_grad_norm,
    clip_grad_value,
    clip_gradients,
)
from .schedules import Constant, Cosine, Exponential, OneCycle, StepDecay, WarmUp  # noqa: E402
from .storage import FormatError, load, save  # noqa: E402
from .trainer import Trainer  # noqa: E402
from .threads import get_num_threads, set_num_threads  # noqa: E402


def __getattr__(name: str) -> _Any:
    if name in ("estimators", "interop", "plot", "types"):  # which few programs need
        return _import_module(f"{__name__}.{name}")
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # only now: it takes longer to import than much of fastrnn

    return version(__name__)


_logging.getLogger(__name__).addHandler(_logging.NullHandler())  # whoever wants to see the log says where

__all__ = [
    "GRU",
    "LSTM",
    "MAE",
    "MSE",
    "RNN",
    "SGD",
    "ActivityRegularization",
    "Adagrad",
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "Concatenated",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Exponential",
    "FormatError",
    "GradcheckReport",
    "Huber",
    "Jordan",
    "Last",
    "LayerNormLSTM",
    "Linear",
    "MaxPool",
    "MeanPool",
    "NoisyState",
    "NonFiniteError",
    "OneCycle",
    "OneHot",
    "PeepholeLSTM",
    "Quantile",
    "RMSprop",
    "ReLU",
    "ReduceOnPlateau",
    "Repeat",
    "Residual",
    "Sequential",
    "Sigmoid",
    "StepDecay",
    "Tanh",
    "Trainer",
    "WarmUp",
    "beam_search",
    "bptt",
    "clip_grad_norm",
    "clip_grad_value",
    "clip_gradients",
    "data",
    "diagnostics",
    "generate",
    "get_num_threads",
    "gradcheck",
    "init",
    "kernels",
    "load",
    "save",
    "set_num_threads",
    "stream",
]
