"""The recurrent operators' cells a step at a time in NumPy: for what the compiled cells don't have, such as `clip`.

The formulas and names are those of https://onnx.ai/onnx/operators/onnx__LSTM.html, and of GRU and RNN there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class CellWeights(NamedTuple):
    """The inputs W (G·H,I), R (G·H,H), B (2·G·H) and P (3·H) of one direction, the last two None if they are left out.

    In a node's inputs the number of directions stands before these dimensions.
    """

    W: np.ndarray
    R: np.ndarray
    B: np.ndarray | None
    P: np.ndarray | None


class NumpyCell(ABC):
    """One direction of a recurrent node.

    functions: f, g and h, as many as the operator has.
    options: the node's, of which `clip` bounds what goes into f and g.
    """

    def __init__(self, weights: CellWeights, functions: Sequence[Callable], options):
        self._weights = weights
        if options.clip is not None:  # but not into h: so does ONNX Runtime
            functions = [*[_clipped(function, options.clip) for function in functions[:2]], *functions[2:]]
        self._functions = functions
        self._options = options
        rows = weights.W.shape[0]
        biases = np.zeros(2 * rows, weights.W.dtype) if weights.B is None else weights.B
        self._input_bias, self._recurrent_bias = biases[:rows], biases[rows:]

    def forward(self, x: np.ndarray, state: tuple, lengths: np.ndarray) -> tuple[np.ndarray, tuple]:
        """Y (T,B,H), zeros past the sequences' ends, and the final state, of x (T,B,I) and a state of (B,H) arrays."""
        products = x @ self._weights.W.T + self._input_bias
        y = np.zeros((*x.shape[:2], self._weights.R.shape[1]), x.dtype)
        for t, product in enumerate(products):
            running = (t < lengths)[:, np.newaxis]
            new = self._step(product, *state)
            state = tuple(np.where(running, part, old) for part, old in zip(new, state, strict=True))
            y[t] = np.where(running, state[0], 0)
        return y, state

    @abstractmethod
    def _step(self, product, *state):
        """The next state, of the input's product with W, (B,G·H), Wb included."""

    def _recurrent(self, h, gates=slice(None)):
        """The product with R, Rb included; `gates` are the rows of it."""
        return h @ self._weights.R[gates].T + self._recurrent_bias[gates]


def _clipped(function, clip):
    return lambda x: function(np.clip(x, -clip, clip))


class NumpyRNN(NumpyCell):
    """H = f(X Wᵀ + H Rᵀ + Wb + Rb)."""

    def _step(self, product, h):
        (f,) = self._functions
        return (f(product + self._recurrent(h)),)


class NumpyGRU(NumpyCell):
    """z, r = f(…); h = g(X Whᵀ + Wbh + (r H) Rhᵀ + Rbh); H = (1 − z) h + z H.

    With `linear_before_reset` it is r (H Rhᵀ + Rbh) instead.
    """

    def _step(self, product, h):
        f, g = self._functions
        size = h.shape[1]
        gates, candidate = slice(2 * size), slice(2 * size, None)
        z, r = np.split(f(product[:, gates] + self._recurrent(h, gates)), 2, axis=1)
        if self._options.linear_before_reset:
            recurrent = r * self._recurrent(h, candidate)
        else:
            recurrent = self._recurrent(r * h, candidate)
        return ((1 - z) * g(product[:, candidate] + recurrent) + z * h,)


class NumpyLSTM(NumpyCell):
    """i, f = f(… + Pi C), f(… + Pf C); c = g(…); C = f C + i c; o = f(… + Po C); H = o h(C).

    With `input_forget` the forget gate is 1 − i instead.
    """

    def _step(self, product, h, c):
        f, g, output = self._functions
        p_i, p_o, p_f = (0, 0, 0) if self._weights.P is None else np.split(self._weights.P, 3)
        to_i, to_o, to_f, to_c = np.split(product + self._recurrent(h), 4, axis=1)
        i = f(to_i + p_i * c)
        forget = 1 - i if self._options.input_forget else f(to_f + p_f * c)
        c = forget * c + i * g(to_c)
        return f(to_o + p_o * c) * output(c), c
