"""How far the gradient travels, through time and through layers, in networks as they are initialised."""

import numpy as np

import fastrnn
from fastrnn.diagnostics import gradient_flow
from fastrnn.plot import new_figure, positive, save

from ..report import significant, table
from .networks import INPUTS, gru, layer_norm_lstm, lstm, network, rnn, scaled_identity

STEPS, BATCH, LAG = 150, 16, 100
DEPTH, DEPTH_HIDDEN, DEPTH_STEPS = 8, 32, 30
SCALES = (1, 10, 100)  # of the input


def run(images):
    """Pictures, and a table of each and of layer normalisation."""
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
        "tanh, orthogonal": rnn(recurrent="orthogonal"),
        "ReLU, uniform": rnn("relu"),
        "ReLU, 0.95 × identity": rnn("relu", scaled_identity(0.95)),
        "ReLU, identity": rnn("relu", "identity"),
        "ReLU, 1.1 × identity": rnn("relu", scaled_identity(1.1)),
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
        "depth": _depth(images / "depth.png"),
        "layer-norm": _layer_norm(),
    }


def _data(steps):
    rng = np.random.default_rng(0)
    return rng.standard_normal((steps, BATCH, INPUTS)), rng.standard_normal((steps, BATCH, 1))


def _measure(layers, path, title):
    x, targets = _data(STEPS)
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


def _deep(wrap, join=None):
    """GRUs one above the other, each through `wrap`, all through `join` if given, between two linear layers."""
    options = {"dtype": "float64"}
    cells = [wrap(fastrnn.GRU(DEPTH_HIDDEN, DEPTH_HIDDEN, seed=seed, **options)) for seed in range(DEPTH)]
    width = DEPTH_HIDDEN if join is None else DEPTH * DEPTH_HIDDEN
    return fastrnn.Sequential(
        fastrnn.Linear(INPUTS, DEPTH_HIDDEN, seed=DEPTH, **options),
        *(cells if join is None else [join(*cells)]),
        fastrnn.Linear(width, 1, seed=DEPTH + 1, **options),
    )


def _depth(path):
    """What each layer of a deep stack gets from the loss one step later, plain and with skips."""
    networks = {
        "plain": _deep(lambda layer: layer),
        "`Residual`": _deep(fastrnn.Residual),
        "`Concatenated`": _deep(lambda layer: layer, fastrnn.Concatenated),
    }
    x, targets = _data(DEPTH_STEPS)
    figure = new_figure("bench.gradients", 7, 4)
    axes = figure.subplots()
    numbers, rows = np.arange(1, DEPTH + 1), []
    for name, net in networks.items():
        flow = gradient_flow(net, fastrnn.MSE(), x, targets, max_lag=1, jacobians=0)
        norms = np.array([layer.lag_norms[0] for layer in flow.layers])
        norms /= norms[-1]
        axes.plot(numbers, norms, "o-", markersize=3, label=name.strip("`"))
        rows.append([name, *(f"{norms[n - 1]:.1e}" for n in (1, 2, 4, 6, DEPTH))])
    axes.set(title=f"{DEPTH} GRUs one above the other", xlabel="layer, from the input", yscale="log")
    axes.set_ylabel("‖∂L_t/∂h_{t−1}‖, of the last layer = 1")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)
    return table(["network", *(f"layer {n}" for n in (1, 2, 4, 6, DEPTH))], rows)[:-1]


def _layer_norm():
    """Gates and gradients of the LSTM with and without layer normalisation, given inputs of any scale."""
    x, targets = _data(STEPS)
    rows = []
    for name, make in (("`LSTM`", lstm), ("`LayerNormLSTM`", layer_norm_lstm)):
        for scale in SCALES:
            (layer,) = gradient_flow(network(make()), fastrnn.MSE(), scale * x, targets, max_lag=LAG).layers
            saturated = np.mean([layer.gates[gate].low + layer.gates[gate].high for gate in "ifo"])
            ratios = (f"{layer.lag_norms[k - 1] / layer.lag_norms[0]:.1e}" for k in (10, 50))
            rows.append([name, f"× {scale}", f"{saturated:.0%}", *ratios])
    return table(["network", "input", "gates saturated", "k = 10 over k = 1", "k = 50 over k = 1"], rows)[:-1]
