"""What truncation does to the gradient: by example, and by horizon."""

import numpy as np

import fastrnn
from fastrnn.bptt import Full, Truncated
from fastrnn.diagnostics.plots import new_figure, save

from ..report import table
from .networks import HIDDEN, lstm, network, rnn

STEPS, BATCH = 200, 8
HORIZONS = (1, 2, 5, 10, 20, 50, 100, 200)
TINY_STEPS, DECAY = 10, 0.9


def run(images):
    """The tiny example's table, and cosine and norm ratio by horizon as a picture and a table."""
    networks = {
        "tanh RNN": network(rnn()),
        "LSTM": network(lstm()),
        "LSTM, forget bias 3": network(lstm(3.0)),
        "ReLU RNN, identity": network(rnn("relu", np.eye(HIDDEN))),
    }
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((STEPS, BATCH, 2)), rng.standard_normal((STEPS, BATCH, 1))
    found = {name: list(_bias(net, x, targets)) for name, net in networks.items()}
    figure = new_figure("bench.gradients", 9, 3.5)
    for axis, column, label in zip(figure.subplots(1, 2), (0, 1), ("cosine", "norm ratio"), strict=True):
        for name, values in found.items():
            axis.plot(HORIZONS, [row[column] for row in values], "o-", markersize=3, label=name)
        axis.set(xlabel="k of Truncated(k)", ylabel=f"{label} to the full gradient", xscale="log")
        axis.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
        axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_yscale("log")
    save(figure, images / "truncation.png")
    rows = [
        [str(k), *(f"{values[n][0]:.2f}, {values[n][1]:.2g}" for values in found.values())]
        for n, k in enumerate(HORIZONS)
    ]
    return {"tiny": _tiny(), "truncation": table(["k", *found], rows)[:-1]}


def _bias(net, x, targets):
    """(cosine, norm ratio) of the recurrent layer's gradient, chunks of each length against the whole."""
    whole = _gradient(Full(), net, fastrnn.MSE(), x, targets)
    for k in HORIZONS:
        part = _gradient(Truncated(k), net, fastrnn.MSE(), x, targets)
        norm, whole_norm = np.linalg.norm(part), np.linalg.norm(whole)
        yield float(part @ whole / norm / whole_norm), float(norm / whole_norm)


def _gradient(rule, net, *arguments, **options):
    net.zero_grad()
    rule.gradients(net, *arguments, **options)
    return np.concatenate([net.grad_dict()[name].reshape(-1) for name in net.grad_dict() if name.startswith("0.")])


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
