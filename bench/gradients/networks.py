"""The networks that are looked at: one recurrent layer and a linear one, as they were initialised."""

import numpy as np

import fastrnn

HIDDEN, INPUTS = 64, 2
_OPTIONS = {"dtype": "float64", "seed": 0}


def network(layer, features: int = HIDDEN) -> fastrnn.Sequential:
    """`layer`, whose output has so many features, with a linear readout of one number."""
    return fastrnn.Sequential(layer, fastrnn.Linear(features, 1, dtype="float64", seed=1))


def rnn(nonlinearity="tanh", recurrent=None, **options):
    """A simple recurrent layer; `recurrent`: what W_hh begins as, if not as in PyTorch."""
    init = None if recurrent is None else {"weight_hh": recurrent}
    return fastrnn.RNN(INPUTS, HIDDEN, nonlinearity=nonlinearity, init=init, **_OPTIONS, **options)


def scaled_identity(factor):
    """An initialiser: the identity times `factor`."""
    return lambda shape, rng: factor * np.eye(*shape)


def gru(**options):
    return fastrnn.GRU(INPUTS, HIDDEN, **_OPTIONS, **options)


def lstm(forget_bias=None, **options):
    return fastrnn.LSTM(INPUTS, HIDDEN, forget_bias=forget_bias, **_OPTIONS, **options)


def layer_norm_lstm(**options):
    return fastrnn.LayerNormLSTM(INPUTS, HIDDEN, **_OPTIONS, **options)
