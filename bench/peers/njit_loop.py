"""A plain `@njit` loop as most people would write it: `np.dot` for each step, scalar loops over the units."""

import math

import numba
import numpy as np

from ..problem import TENSORS
from . import Peer


@numba.njit(cache=True, error_model="numpy")
def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


@numba.njit(cache=True, error_model="numpy")
def _forward(weight_ih, weight_hh, bias_ih, bias_hh, x):
    steps, batch, hidden = x.shape[0], x.shape[1], weight_hh.shape[1]
    y = np.zeros((steps, batch, hidden), x.dtype)
    gates = np.zeros((steps, batch, 4 * hidden), x.dtype)
    c = np.zeros((steps + 1, batch, hidden), x.dtype)
    h = np.zeros((batch, hidden), x.dtype)
    weight_ih, weight_hh = np.ascontiguousarray(weight_ih.T), np.ascontiguousarray(weight_hh.T)
    for t in range(steps):
        z = np.dot(x[t], weight_ih) + np.dot(h, weight_hh) + bias_ih + bias_hh
        for b in range(batch):
            for j in range(hidden):
                i, f = _sigmoid(z[b, j]), _sigmoid(z[b, hidden + j])
                g, o = np.tanh(z[b, 2 * hidden + j]), _sigmoid(z[b, 3 * hidden + j])
                c[t + 1, b, j] = f * c[t, b, j] + i * g
                h[b, j] = o * math.tanh(c[t + 1, b, j])
                y[t, b, j] = h[b, j]
                gates[t, b, j], gates[t, b, hidden + j] = i, f
                gates[t, b, 2 * hidden + j], gates[t, b, 3 * hidden + j] = g, o
    return y, gates, c


@numba.njit(cache=True, error_model="numpy")
def _backward(weight_ih, weight_hh, x, y, gates, c, dy):
    steps, batch, hidden = y.shape
    dx = np.zeros_like(x)
    d_weight_ih, d_weight_hh = np.zeros_like(weight_ih), np.zeros_like(weight_hh)
    d_bias = np.zeros(4 * hidden, x.dtype)
    dh, dc = np.zeros((batch, hidden), x.dtype), np.zeros((batch, hidden), x.dtype)
    dz = np.zeros((batch, 4 * hidden), x.dtype)
    for t in range(steps - 1, -1, -1):
        for b in range(batch):
            for j in range(hidden):
                i, f = gates[t, b, j], gates[t, b, hidden + j]
                g, o = gates[t, b, 2 * hidden + j], gates[t, b, 3 * hidden + j]
                tanh_c = math.tanh(c[t + 1, b, j])
                d = dh[b, j] + dy[t, b, j]
                dc[b, j] += d * o * (1 - tanh_c * tanh_c)
                dz[b, j] = dc[b, j] * g * i * (1 - i)
                dz[b, hidden + j] = dc[b, j] * c[t, b, j] * f * (1 - f)
                dz[b, 2 * hidden + j] = dc[b, j] * i * (1 - g * g)
                dz[b, 3 * hidden + j] = d * tanh_c * o * (1 - o)
                dc[b, j] *= f
        dx[t] = np.dot(dz, weight_ih)
        dh = np.dot(dz, weight_hh)
        dz_rows = np.ascontiguousarray(dz.T)
        d_weight_ih += np.dot(dz_rows, x[t])
        if t:
            d_weight_hh += np.dot(dz_rows, y[t - 1])
        d_bias += dz.sum(axis=0)
    return dx, d_weight_ih, d_weight_hh, d_bias, d_bias


class Layer(Peer):
    """The LSTM alone."""

    trains = infers = ("LSTM",)
    dtypes = ("float32", "float64")

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        self.weights = tuple(problem.weights[name] for name in TENSORS)

    def infer(self):
        return _forward(*self.weights, self.problem.x)[0]

    def train(self):
        x = self.problem.x
        y, gates, c = _forward(*self.weights, x)
        return y, *_backward(*self.weights[:2], x, y, gates, c, self.problem.dy)

    def results(self, work):
        if work == "infer":
            return {"y": self.infer()}
        return dict(zip(("y", "dx", *TENSORS), self.train(), strict=True))
