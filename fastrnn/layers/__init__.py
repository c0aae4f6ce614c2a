"""The layers."""

from .cells import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from .elementwise import Dropout, ReLU, Sigmoid, Tanh
from .embedding import Embedding, OneHot
from .initial_state import NoisyState
from .jordan import Jordan
from .linear import Linear
from .pooling import Last, MaxPool, MeanPool
from .regularization import ActivityRegularization
from .repeat import Repeat

_RECURRENT = RNN, GRU, LSTM, PeepholeLSTM, LayerNormLSTM, Jordan
_OTHERS = (
    Linear, Embedding, OneHot, Tanh, ReLU, Sigmoid, Dropout, Last, MeanPool, MaxPool, Repeat, ActivityRegularization,
)  # fmt: skip
LAYERS = {layer.__name__: layer for layer in (*_RECURRENT, *_OTHERS)}  # by the names that files use

__all__ = [
    "GRU",
    "LAYERS",
    "LSTM",
    "RNN",
    "ActivityRegularization",
    "Dropout",
    "Embedding",
    "Jordan",
    "Last",
    "LayerNormLSTM",
    "Linear",
    "MaxPool",
    "MeanPool",
    "NoisyState",
    "OneHot",
    "PeepholeLSTM",
    "ReLU",
    "Repeat",
    "Sigmoid",
    "Tanh",
]
