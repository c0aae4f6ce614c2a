"""Calls each function of the module `user_kernels`, compiled and as Python, with the same results to the bit.

Prints the hits and misses of each one's cache.
"""

import json

import numpy as np
import user_kernels

import fastrnn
from fastrnn import kernels

N, T, B, INPUTS, UNITS, CLASSES = 2, 5, 3, 4, 6, 7
rng = np.random.default_rng(0)


def floats(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def net_arguments(layer):
    """Of `gru_net` and `rnn_net`."""
    values = layer.parameters_to_vector()
    return (
        layer.kernel_weights(), kernels.replicate(layer.kernel_workspace(T, B), N), values, floats(N, values.size),
        floats(N, T, B, INPUTS), floats(N, B, UNITS), floats(N, B, UNITS),
    )  # fmt: skip


def arguments():
    """The arguments of each function by its name."""
    lstm, gru, rnn = (kind(INPUTS, UNITS, seed=1) for kind in (fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN))
    model = fastrnn.Sequential(fastrnn.LSTM(INPUTS, UNITS, seed=2), fastrnn.Linear(UNITS, CLASSES, seed=3))
    size = model.num_parameters
    layers = [kernels.replicate(layer.kernel_weights(), N) for layer in model.layers]
    workspaces = [kernels.replicate(layer.kernel_workspace(T, B), N) for layer in model.layers]
    lengths, classes = np.array([2, T, 4]), rng.integers(0, CLASSES, (N, T, B))
    return {
        "steps": (
            lstm.kernel_weights(), gru.kernel_weights(), rnn.kernel_weights(), model.layers[1].kernel_weights(),
            floats(N, B, INPUTS), floats(N, 3, B, UNITS), floats(N, B, UNITS), floats(N, B, CLASSES),
        ),
        "lstm_and_dense": (
            *layers, *workspaces, floats(N, size), np.zeros((N, size), np.float32), np.zeros((N, 3, size), np.float32),
            floats(N, T, B, INPUTS), classes, floats(N, 2, B, UNITS), floats(N, 2, B, UNITS), floats(N, T, B, CLASSES),
        ),
        "gru_net": net_arguments(gru),
        "rnn_net": net_arguments(rnn),
        "use_losses": (
            floats(N, B, CLASSES), rng.random((N, B, CLASSES), np.float32), classes[:, 0].copy(), rng.random((N, B)),
            np.array([0.3]), np.empty((N, B)), floats(N, 6, B, CLASSES), np.empty((N, 10)),
        ),
        "use_updates": (floats(N, 2, 100), np.ones((N, 3, 100), np.float32), np.empty(N)),
        "use_activations": (floats(N, 50), floats(N, 50), floats(N, 3, 50), floats(N, 3, 50)),
        "use_pooling": (
            floats(N, T * B * INPUTS), lengths, np.empty((N, B * INPUTS), np.int64), floats(N, 4, B * INPUTS),
            floats(N, 4, T * B * INPUTS), INPUTS, np.empty(N),
        ),
        "use_tokens": (
            classes.reshape(N, -1), lengths, floats(CLASSES, UNITS), floats(N, T * B * UNITS),
            floats(N, CLASSES, UNITS), floats(N, T * B * CLASSES),
        ),
    }  # fmt: skip


def copied(value):
    if isinstance(value, tuple):
        return type(value)(*map(copied, value)) if hasattr(value, "_fields") else tuple(map(copied, value))
    return value.copy() if isinstance(value, np.ndarray) else value


def main():
    counts = {}
    for name, given in arguments().items():
        function = getattr(user_kernels, name)
        ours, expected = copied(given), copied(given)
        function(*ours)
        function.py_func(*expected)
        changed = 0
        for a, b, before in zip(ours, expected, given, strict=True):
            if isinstance(a, np.ndarray):
                np.testing.assert_array_equal(a, b, err_msg=name)
                changed += not np.array_equal(a, before)
        assert changed, name
        counts[name] = [sum(c.values()) for c in (function.stats.cache_hits, function.stats.cache_misses)]
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
