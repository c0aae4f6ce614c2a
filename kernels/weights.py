"""A layer's weights as a user's compiled code holds them.

`layer.kernel_weights()` makes them and `network.pack` renews them. There is a class for each cell, by which a kernel
knows the cell when it is compiled.
"""

from typing import NamedTuple

import numpy as np
from numba.core.errors import TypingError

from .cells import GRU, GRU_RESET_BEFORE, LSTM, RNN_RELU, RNN_SIGMOID, RNN_TANH


class KernelWeights(NamedTuple):
    """`packing.Weights` of a layer whose `cell` the class has."""

    input: np.ndarray  # (⌈H/U⌉, I, gates·U)
    recurrent: np.ndarray  # (⌈H/U⌉, H, gates·U); of a dense layer (⌈H/U⌉, H, 0), where H are its outputs
    bias: np.ndarray  # (⌈H/U⌉·P,)


class LSTMWeights(KernelWeights):
    """Weights of an LSTM."""

    __slots__ = ()
    cell = LSTM


class GRUWeights(KernelWeights):
    """Weights of a GRU."""

    __slots__ = ()
    cell = GRU


class GRUResetBeforeWeights(KernelWeights):
    """Weights of a GRU with the reset gate before the product."""

    __slots__ = ()
    cell = GRU_RESET_BEFORE


class RNNTanhWeights(KernelWeights):
    """Weights of a simple recurrent net with tanh."""

    __slots__ = ()
    cell = RNN_TANH


class RNNReLUWeights(KernelWeights):
    """Weights of a simple recurrent net with ReLU."""

    __slots__ = ()
    cell = RNN_RELU


class RNNSigmoidWeights(KernelWeights):
    """Weights of a simple recurrent net with the logistic function."""

    __slots__ = ()
    cell = RNN_SIGMOID


class DenseWeights(KernelWeights):
    """Weights of a linear layer, which has no cell."""

    __slots__ = ()
    cell = None


_KINDS = LSTMWeights, GRUWeights, GRUResetBeforeWeights, RNNTanhWeights, RNNReLUWeights, RNNSigmoidWeights
RECURRENT_CELLS = tuple(kind.cell for kind in _KINDS)
WEIGHTS = {kind.cell.name: kind for kind in _KINDS}


def cell_of(weights, cells):
    """The cell of weights, given their Numba type, None of a linear layer; TypingError if it is none of `cells`."""
    kind = getattr(weights, "instance_class", tuple)
    if not issubclass(kind, KernelWeights) or kind.cell not in cells:
        names = " or ".join(cell.name if cell else "a linear layer" for cell in cells)
        raise TypingError(f"weights must be those of {names}, got {weights}")
    return kind.cell
