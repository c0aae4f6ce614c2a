"""How far the gradient travels in the cells as they are initialised."""

import numpy as np

import fastrnn
from fastrnn.diagnostics import gradient_flow
from fastrnn.diagnostics.plots import new_figure, positive, save

from ..report import significant, table
from .networks import HIDDEN, INPUTS, gru, lstm, network, orthogonal, rnn

STEPS, BATCH, LAG = 150, 16, 100


def run(images):
    """Three pictures and a table of each."""
    identity = np.eye(HIDDEN)
    cells = {
        "tanh RNN": rnn(),
        "GRU": gru(),
        "LSTM": lstm(),
        "LSTM, forget bias 1": lstm(1.0),
        "LSTM, forget bias 3": lstm(3.0),
        "LSTM, forget bias 5": lstm(5.0),
    }
    recurrent = {
        "tanh, uniform": rnn(),
        "tanh, orthogonal": rnn(recurrent=orthogonal()),
        "ReLU, uniform": rnn("relu"),
        "ReLU, 0.95 × identity": rnn("relu", 0.95 * identity),
        "ReLU, identity": rnn("relu", identity),
        "ReLU, 1.1 × identity": rnn("relu", 1.1 * identity),
    }
    shortcuts = {
        "tanh RNN": rnn(),
        "tanh RNN, dilation 4": rnn(dilation=4),
        "tanh RNN, dilation 16": rnn(dilation=16),
        "tanh RNN, zoneout 0.5": rnn(zoneout=0.5),
        "LSTM": lstm(),
        "LSTM, zoneout 0.5 of c": lstm(zoneout=(0.0, 0.5)),
    }
    return {
        "cells": _measure(cells, images / "cells.png", "Cells as they are initialised"),
        "initialisation": _measure(recurrent, images / "initialisation.png", "RNN: what W_hh begins as"),
        "shortcuts": _measure(shortcuts, images / "shortcuts.png", "Shortcuts through time"),
    }


def _measure(layers, path, title):
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((STEPS, BATCH, INPUTS)), rng.standard_normal((STEPS, BATCH, 1))
    figure = new_figure("bench.gradients", 7, 4)
    axes = figure.subplots()
    rows = []
    for name, layer in layers.items():
        flow = gradient_flow(network(layer), fastrnn.MSE(), x, targets, max_lag=LAG)
        (found,) = flow.layers
        norms = found.lag_norms / found.lag_norms[0]
        axes.plot(flow.lags, positive(norms), label=name)
        values = (significant(np.median(found.singular_values)), *(f"{norms[k - 1]:.1e}" for k in (10, 50, LAG)))
        rows.append([name, *values, str(found.verdict)])
    axes.set(title=title, xlabel="lag k", ylabel="‖∂L_t/∂s_{t−k}‖ over that at k = 1", yscale="log", ylim=(1e-14, 1e6))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)
    return table(["network", "median ‖∂s_t/∂s_{t−1}‖", "k = 10", "k = 50", f"k = {LAG}", "verdict"], rows)[:-1]
