"""A layer's weights as a user's compiled code holds them.

`layer.kernel_weights()` makes them and `network.pack` renews them. There is a class for each cell, by which a kernel
knows the cell when it is compiled.
"""

from typing import NamedTuple

import numpy as np

from .cells import GRU, LSTM, RNN_RELU, RNN_SIGMOID, RNN_TANH


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


_KINDS = LSTMWeights, GRUWeights, RNNTanhWeights, RNNReLUWeights, RNNSigmoidWeights
WEIGHTS = {kind.cell.name: kind for kind in _KINDS}
