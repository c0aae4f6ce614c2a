"""fastrnn's kernels: arrays in, arrays out. NumPy and Numba alone; every kernel can be called from `@njit` code.

`lstm_step`, `gru_step` and `rnn_step` advance a net by one step; the other kernels stand in the modules: `recurrence`
(the time loops), `dense`, `embedding`, `elementwise`, `losses`, `update`. They trust their arguments: what a caller
must guarantee stands in their docstrings.
"""

from .step import gru_step, lstm_step, rnn_step

__all__ = ["gru_step", "lstm_step", "rnn_step"]
