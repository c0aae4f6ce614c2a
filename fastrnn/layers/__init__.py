"""The layers."""

from .elementwise import Dropout, ReLU, Sigmoid, Tanh
from .embedding import Embedding, OneHot
from .linear import Linear
from .pooling import Last, MaxPool, MeanPool
from .recurrent import GRU, LSTM, RNN

_ALL = (RNN, GRU, LSTM, Linear, Embedding, OneHot, Tanh, ReLU, Sigmoid, Dropout, Last, MeanPool, MaxPool)
LAYERS = {layer.__name__: layer for layer in _ALL}  # by the names that files use

__all__ = [
    "GRU",
    "LAYERS",
    "LSTM",
    "RNN",
    "Dropout",
    "Embedding",
    "Last",
    "Linear",
    "MaxPool",
    "MeanPool",
    "OneHot",
    "ReLU",
    "Sigmoid",
    "Tanh",
]
