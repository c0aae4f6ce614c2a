"""A plain loop in NumPy, with the input's product hoisted out of it and the biases added once."""

import numpy as np

from ..problem import TENSORS
from . import Peer


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm(weights, x):
    """y (T,B,H), and what the backward pass needs: gates i, f, g, o (T,B,4H) and c (T+1,B,H)."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    gates = x @ weight_ih.T + (bias_ih + bias_hh)
    hidden = weight_hh.shape[1]
    y, c = (np.zeros((n, x.shape[1], hidden), x.dtype) for n in (len(x), len(x) + 1))
    h = np.zeros_like(c[0])
    for t, z in enumerate(gates):
        z += h @ weight_hh.T
        cut = slice(2 * hidden, 3 * hidden)
        g = np.tanh(z[:, cut])
        z[:] = _sigmoid(z)
        z[:, cut] = g
        i, f, g, o = np.split(z, 4, axis=1)
        c[t + 1] = f * c[t] + i * g
        h = y[t] = o * np.tanh(c[t + 1])
    return y, gates, c


def lstm_backward(weights, x, y, gates, c, dy):
    """dx and the gradients of the weights."""
    weight_ih, weight_hh, _, _ = weights
    dz = np.empty_like(gates)
    dh, dc = np.zeros_like(c[0]), np.zeros_like(c[0])
    for t in reversed(range(len(x))):
        i, f, g, o = np.split(gates[t], 4, axis=1)
        dh = dh + dy[t]
        tanh_c = np.tanh(c[t + 1])
        dc = dc + dh * o * (1 - tanh_c**2)
        parts = dc * g * i * (1 - i), dc * c[t] * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)
        np.concatenate(parts, axis=1, out=dz[t])
        dc = dc * f
        dh = dz[t] @ weight_hh
    before = np.concatenate([np.zeros_like(y[:1]), y[:-1]])
    rows = dz.reshape(-1, dz.shape[-1])
    bias = rows.sum(axis=0)
    return dz @ weight_ih, rows.T @ x.reshape(len(rows), -1), rows.T @ before.reshape(len(rows), -1), bias, bias


def gru(weights, x):
    """y (T,B,H)."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    projected = x @ weight_ih.T + bias_ih
    h = np.zeros((x.shape[1], weight_hh.shape[1]), x.dtype)
    y = np.empty((len(x), *h.shape), x.dtype)
    for t, z in enumerate(projected):
        r_x, z_x, n_x = np.split(z, 3, axis=1)
        r_h, z_h, n_h = np.split(h @ weight_hh.T + bias_hh, 3, axis=1)
        update = _sigmoid(z_x + z_h)
        n = np.tanh(n_x + _sigmoid(r_x + r_h) * n_h)
        h = y[t] = (1 - update) * n + update * h
    return (y,)


def rnn(weights, x):
    """y (T,B,H)."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    projected = x @ weight_ih.T + (bias_ih + bias_hh)
    h = np.zeros((x.shape[1], weight_hh.shape[1]), x.dtype)
    y = np.empty((len(x), *h.shape), x.dtype)
    for t, z in enumerate(projected):
        h = y[t] = np.tanh(z + h @ weight_hh.T)
    return (y,)


FORWARD = {"LSTM": lstm, "GRU": gru, "RNN": rnn}


class Layer(Peer):
    """Training of the LSTM alone."""

    trains = ("LSTM",)
    dtypes = ("float32", "float64")

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        self.weights = tuple(problem.weights[name] for name in TENSORS)

    def infer(self):
        return FORWARD[self.problem.cell](self.weights, self.problem.x)[0]

    def train(self):
        problem = self.problem
        y, gates, c = lstm(self.weights, problem.x)
        return y, *lstm_backward(self.weights, problem.x, y, gates, c, problem.dy)

    def results(self, work):
        if work == "infer":
            return {"y": self.infer()}
        return dict(zip(("y", "dx", *TENSORS), self.train(), strict=True))
