"""The networks that are looked at: one recurrent layer and a linear one, as they were initialised."""

import numpy as np

import fastrnn

HIDDEN, INPUTS = 64, 2


def network(layer) -> fastrnn.Sequential:
    """`layer` with a linear readout of one number."""
    return fastrnn.Sequential(layer, fastrnn.Linear(layer.hidden_size, 1, dtype="float64", seed=1))


def rnn(nonlinearity="tanh", recurrent=None, **options):
    """A simple recurrent layer; `recurrent`: W_hh in place of the uniform one."""
    layer = fastrnn.RNN(INPUTS, HIDDEN, nonlinearity=nonlinearity, dtype="float64", seed=0, **options)
    return _changed(layer, {} if recurrent is None else {"weight_hh_l0": recurrent})


def gru():
    return fastrnn.GRU(INPUTS, HIDDEN, dtype="float64", seed=0)


def lstm(forget_bias=None, **options):
    """An LSTM; `forget_bias`: what both biases of the forget gate are together."""
    layer = fastrnn.LSTM(INPUTS, HIDDEN, dtype="float64", seed=0, **options)
    if forget_bias is None:
        return layer
    biases = {name: layer.parameters[name].copy() for name in ("bias_ih_l0", "bias_hh_l0")}
    for bias, value in zip(biases.values(), (forget_bias, 0.0), strict=True):
        bias[HIDDEN : 2 * HIDDEN] = value
    return _changed(layer, biases)


def orthogonal():
    """A random orthogonal matrix (Saxe et al. 2014)."""
    q, r = np.linalg.qr(np.random.default_rng(0).standard_normal((HIDDEN, HIDDEN)))
    return q * np.sign(np.diag(r))


def _changed(layer, tensors):
    layer.load_state_dict({**layer.state_dict(), **tensors})
    return layer
