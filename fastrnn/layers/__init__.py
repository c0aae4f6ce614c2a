"""The layers."""

from .elementwise import Dropout, ReLU, Sigmoid, Tanh
from .embedding import Embedding, OneHot
from .linear import Linear
from .pooling import Last, MeanPool
from .recurrent import GRU, LSTM, RNN
from .regularization import ActivityRegularization
from .repeat import Repeat

_ALL = (
    RNN, GRU, LSTM, Linear, Embedding, OneHot, Tanh, ReLU, Sigmoid, Dropout, Last, MeanPool, Repeat,
    ActivityRegularization,
)  # fmt: skip
LAYERS = {layer.__name__: layer for layer in _ALL}  # by the names that files use

__all__ = [
    "GRU",
    "LAYERS",
    "LSTM",
    "RNN",
    "ActivityRegularization",
    "Dropout",
    "Embedding",
    "Last",
    "Linear",
    "MeanPool",
    "OneHot",
    "ReLU",
    "Repeat",
    "Sigmoid",
    "Tanh",
]
