"""The layers."""

from .cells import GRU, LSTM, RNN, PeepholeLSTM
from .elementwise import Dropout, ReLU, Sigmoid, Tanh
from .embedding import Embedding, OneHot
from .initial_state import NoisyState
from .linear import Linear
from .pooling import Last, MeanPool

_ALL = (RNN, GRU, LSTM, PeepholeLSTM, Linear, Embedding, OneHot, Tanh, ReLU, Sigmoid, Dropout, Last, MeanPool)
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
    "MeanPool",
    "NoisyState",
    "OneHot",
    "PeepholeLSTM",
    "ReLU",
    "Sigmoid",
    "Tanh",
]
