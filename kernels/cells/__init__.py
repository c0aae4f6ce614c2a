"""The cells, each a file of formulas."""

from .cell import Cell
from .gru import GRU
from .lstm import LSTM
from .rnn import RNN_RELU, RNN_SIGMOID, RNN_TANH

CELLS = {cell.name: cell for cell in (LSTM, GRU, RNN_TANH, RNN_RELU, RNN_SIGMOID)}

__all__ = ["CELLS", "GRU", "LSTM", "RNN_RELU", "RNN_SIGMOID", "RNN_TANH", "Cell"]
