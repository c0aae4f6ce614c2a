"""The layers."""

from .elementwise import Dropout, ReLU, Sigmoid, Tanh
from .embedding import Embedding, OneHot
from .jordan import Jordan
from .linear import Linear
from .pooling import Last, MeanPool
from .recurrent import GRU, LSTM, RNN

_ALL = (RNN, GRU, LSTM, Jordan, Linear, Embedding, OneHot, Tanh, ReLU, Sigmoid, Dropout, Last, MeanPool)
LAYERS = {layer.__name__: layer for layer in _ALL}  # by the names that files use

__all__ = [
    "GRU",
    "LAYERS",
    "LSTM",
    "RNN",
    "Dropout",
    "Embedding",
    "Jordan",
    "Last",
    "Linear",
    "MeanPool",
    "OneHot",
    "ReLU",
    "Sigmoid",
    "Tanh",
]
