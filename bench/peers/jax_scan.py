"""JAX: `jit` of `lax.scan`, with the input's product hoisted out of the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..problem import TENSORS
from ..timing import repeat
from . import Peer

_UNROLLS = (1, 4)


def _lstm(weights, x, hidden):
    weight_ih, weight_hh, bias_ih, bias_hh = weights

    def step(state, z):
        h, c = state
        i, f, g, o = jnp.split(z + h @ weight_hh.T, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return step, (hidden, hidden), x @ weight_ih.T + (bias_ih + bias_hh)


def _gru(weights, x, hidden):
    weight_ih, weight_hh, bias_ih, bias_hh = weights

    def step(h, projected):
        r_x, z_x, n_x = jnp.split(projected, 3, axis=-1)
        r_h, z_h, n_h = jnp.split(h @ weight_hh.T + bias_hh, 3, axis=-1)
        r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
        h = (1 - z) * jnp.tanh(n_x + r * n_h) + z * h
        return h, h

    return step, hidden, x @ weight_ih.T + bias_ih


def _rnn(weights, x, hidden):
    weight_ih, weight_hh, bias_ih, bias_hh = weights

    def step(h, z):
        h = jnp.tanh(z + h @ weight_hh.T)
        return h, h

    return step, hidden, x @ weight_ih.T + (bias_ih + bias_hh)


_CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def _forward(weights, x, cell, unroll):
    hidden = jnp.zeros((x.shape[1], weights[1].shape[1]), x.dtype)
    step, state, projected = _CELLS[cell](weights, x, hidden)
    return lax.scan(step, state, projected, unroll=unroll)[1]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _infer(weights, x, cell, unroll):
    return _forward(weights, x, cell, unroll)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _train(weights, x, dy, cell, unroll):
    y, pull_back = jax.vjp(lambda weights, x: _forward(weights, x, cell, unroll), weights, x)
    return y, pull_back(dy)


class Layer(Peer):
    """With the better `unroll` for each work, found when it is first done."""

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        self.weights = tuple(jnp.asarray(problem.weights[name]) for name in TENSORS)
        self.x, self.dy = jnp.asarray(problem.x), jnp.asarray(problem.dy)

    def _best(self, call):
        def seconds(unroll):
            jax.block_until_ready(call(unroll))
            return min(repeat(lambda: jax.block_until_ready(call(unroll)), 0.05))

        return functools.partial(call, min(_UNROLLS, key=seconds))

    @functools.cached_property
    def _trained(self):
        return self._best(lambda unroll: _train(self.weights, self.x, self.dy, self.problem.cell, unroll))

    @functools.cached_property
    def _inferred(self):
        return self._best(lambda unroll: _infer(self.weights, self.x, self.problem.cell, unroll))

    def train(self):
        return jax.block_until_ready(self._trained())

    def infer(self):
        return jax.block_until_ready(self._inferred())

    def results(self, work):
        if work == "infer":
            return {"y": np.asarray(self.infer())}
        y, (gradients, dx) = self.train()
        named = dict(zip(TENSORS, map(np.asarray, gradients), strict=True))
        return {"y": np.asarray(y), "dx": np.asarray(dx), **named}
