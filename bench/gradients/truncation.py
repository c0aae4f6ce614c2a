"""What truncation does to the gradient: by example, by horizon, and without bias."""

import numpy as np

import fastrnn
from fastrnn.bptt import Full, Randomized, Truncated
from fastrnn.diagnostics import truncation_bias
from fastrnn.plot import new_figure, save

from ..report import table
from .networks import HIDDEN, INPUTS, lstm, rnn

STEPS, BATCH = 200, 8
HORIZONS = (1, 2, 5, 10, 20, 50, 100)
TINY_STEPS, DECAY = 10, 0.9
AVERAGED_STEPS, DRAWS, CUT = 60, (1, 10, 100, 1000), 0.05


def run(images):
    """The tiny example's table, cosine and norm ratio by horizon as picture and table, and averages of draws."""
    layers = {
        "tanh RNN": rnn(),
        "LSTM": lstm(),
        "LSTM, forget bias 3": lstm(3.0),
        "ReLU RNN, identity": rnn("relu", "identity"),
    }
    x, targets = _data(STEPS)
    found = {
        name: truncation_bias(layer, fastrnn.MSE(), x, targets, HORIZONS).rows for name, layer in layers.items()
    }
    _draw(found, images / "truncation.png")
    rows = [
        [str(k), *(f"{row[n].windowed_cosine:.2f} / {row[n].truncated_cosine:.2f}" for row in found.values())]
        for n, k in enumerate(HORIZONS)
    ]
    return {"tiny": _tiny(), "truncation": table(["k", *found], rows)[:-1], "unbiased": _unbiased()}


def _data(steps):
    """Input, and targets of the hidden units themselves: no readout, whose gradient no rule truncates."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((steps, BATCH, INPUTS)), rng.standard_normal((steps, BATCH, HIDDEN))


def _draw(found, path):
    figure = new_figure("bench.gradients", 9, 3.5)
    for axis, quantity in zip(figure.subplots(1, 2), ("cosine", "ratio"), strict=True):
        for number, (name, rows) in enumerate(found.items()):
            for rule, style in (("windowed", "-"), ("truncated", "--")):
                values = [getattr(row, f"{rule}_{quantity}") for row in rows]
                label = name if rule == "windowed" else None
                axis.plot(HORIZONS, values, f"o{style}", color=f"C{number}", markersize=3, label=label)
        axis.set(xlabel="k of Windowed(k), solid, and Truncated(k), dashed", xscale="log")
        axis.set_ylabel("cosine to the full gradient" if quantity == "cosine" else "norm over the full gradient's")
        axis.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
        axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_yscale("log")
    save(figure, path)


def _unbiased():
    """How far averages of many draws of random cuts are from the full gradient, and fixed cuts always."""
    layer, (x, targets) = lstm(3.0), _data(AVERAGED_STEPS)

    def gradient(rule):
        layer.zero_grad()
        rule.gradients(layer, fastrnn.MSE(), x, targets)
        return layer.gradients_to_vector()

    def error(estimate):
        return f"{np.linalg.norm(estimate - full) / np.linalg.norm(full):.2f}"

    full, fixed = gradient(Full()), Truncated(round(1 / CUT))
    rule, total, errors = Randomized(CUT, seed=0), 0.0, []
    for count in range(1, DRAWS[-1] + 1):
        total = total + gradient(rule)
        if count in DRAWS:
            errors.append(error(total / count))
    rows = [[f"`{rule!r}`", *errors], [f"`{fixed!r}`", *[error(gradient(fixed))] * len(DRAWS)]]
    return table(["rule", *(f"average of {count}" for count in DRAWS)], rows)[:-1]


def _tiny():
    """h_t = 0.9 h_{t−1} + u x_t with x = (−1, …, −1, 1), L = h_T: dL/du by how many of the last steps are counted."""
    net = fastrnn.RNN(1, 1, nonlinearity="relu", bias=False, dtype="float64")
    net.load_state_dict({"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.full((1, 1), DECAY)})
    x = np.full((TINY_STEPS, 1, 1), -1.0)
    x[-1] = 1
    state = np.full((1, 1, 1), 50.0)  # far above 0, where the ReLU is linear
    rows = []
    for k in (1, 2, 3, 5, 10):
        _, before = net(x[: TINY_STEPS - k], state) if k < TINY_STEPS else (None, state)
        workspace = net.workspace(k, 1)
        net.zero_grad()
        y, _ = net.forward(x[TINY_STEPS - k :], before, workspace=workspace)
        dy = np.zeros_like(y)
        dy[-1] = 1
        net.backward(dy, workspace=workspace)
        rows.append([str(k), f"{net.grad_dict()['weight_ih_l0'][0, 0]:+.2f}"])
    return table(["newest steps that count", "dL/du"], rows)[:-1]
