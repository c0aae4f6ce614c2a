"""fastrnn: recurrent neural networks (RNN, GRU, LSTM) for the CPU, in Python, NumPy and Numba.

Layers: `RNN`, `GRU`, `LSTM`, `Linear`, `Embedding`, `OneHot`, `Tanh`, `ReLU`, `Sigmoid`, `Dropout`, `Last`, `MeanPool`,
joined by `Sequential`. Losses, optimisers and learning-rate schedules, `Trainer` with the truncation rules of `bptt`,
`data`, `save` and `load`, `gradcheck`. Everything takes and returns NumPy arrays; shapes and names are PyTorch's.
"""

import importlib.util as _importlib_util
import sys as _sys

if _importlib_util.find_spec("fastrnn.kernels") is None:
    _message = (
        f"fastrnn in {__path__[0]} is a source checkout that is not installed: run `pip install -e .` in its folder"
    )
    if _sys.argv[:1] == ["-m"]:  # python -m fastrnn: a command's way to fail
        print(f"fastrnn: {_message}", file=_sys.stderr)
        raise SystemExit(2)
    raise ImportError(_message)

from . import bptt, data, kernels  # noqa: E402, I001
from .diagnostics import GradcheckReport, gradcheck  # noqa: E402
from .layers import (  # noqa: E402
    GRU,
    LSTM,
    RNN,
    Dropout,
    Embedding,
    Last,
    Linear,
    MeanPool,
    NoisyState,
    OneHot,
    PeepholeLSTM,
    ReLU,
    Sigmoid,
    Tanh,
)
from .losses import MAE, MSE, BinaryCrossEntropy, CrossEntropy, Huber  # noqa: E402
from .model import Sequential  # noqa: E402
from .optim import (  # noqa: E402
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    RMSprop,
    StepDecay,
    WarmUp,
    clip_grad_norm,
    clip_grad_value,
)
from .storage import FormatError, load, save  # noqa: E402
from .trainer import Trainer  # noqa: E402
from .threads import get_num_threads, set_num_threads  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "MAE",
    "MSE",
    "RNN",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "Dropout",
    "Embedding",
    "Exponential",
    "FormatError",
    "GradcheckReport",
    "Huber",
    "Last",
    "Linear",
    "MeanPool",
    "NoisyState",
    "OneCycle",
    "OneHot",
    "PeepholeLSTM",
    "RMSprop",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "StepDecay",
    "Tanh",
    "Trainer",
    "WarmUp",
    "bptt",
    "clip_grad_norm",
    "clip_grad_value",
    "data",
    "get_num_threads",
    "gradcheck",
    "kernels",
    "load",
    "save",
    "set_num_threads",
]
