"""fastrnn's kernels: arrays in, arrays out. NumPy and Numba alone; every kernel can be called from `@njit` code.

For a user's own compiled code, with docstrings that say what the caller must guarantee:

- `step`: `lstm_step`, `gru_step`, `rnn_step` and `dense_step` advance a net by one step,
- `network`: whole layers over sequences, forward and backward, and `pack`,
- `training`: softmax, its cross-entropy, clipping and updates,
- `replicas`: `replicate` and `replica`, for a workspace to each iteration of a `prange`.

The other modules have what those and fastrnn's layers are made of. Their kernels trust their arguments, too.
"""

from .network import (
    dense_backward,
    dense_forward,
    gru_backward,
    gru_forward,
    lstm_backward,
    lstm_forward,
    pack,
    rnn_backward,
    rnn_forward,
)
from .replicas import replica, replicate
from .step import dense_step, gru_step, lstm_step, rnn_step
from .training import adam_update, clip_norm, clip_value, sgd_update, softmax, softmax_cross_entropy

__all__ = [
    "adam_update",
    "clip_norm",
    "clip_value",
    "dense_backward",
    "dense_forward",
    "dense_step",
    "gru_backward",
    "gru_forward",
    "gru_step",
    "lstm_backward",
    "lstm_forward",
    "lstm_step",
    "pack",
    "replica",
    "replicate",
    "rnn_backward",
    "rnn_forward",
    "rnn_step",
    "sgd_update",
    "softmax",
    "softmax_cross_entropy",
]
