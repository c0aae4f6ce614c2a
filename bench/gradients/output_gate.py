"""What the gradient of an LSTM's output gate is made of: whole, and as the LSTM of 1997 had it.

The network is one in the midst of learning the echo of learning.py.
"""

import numpy as np

import fastrnn
from fastrnn.bptt import Buffers, Full, map_state
from fastrnn.lags import OneStep, one_lag_back, states_before
from fastrnn.plot import new_figure, positive, save

from ..report import table
from .learning import delayed, echo_trainer
from .networks import INPUTS

UPDATES, LAG = 200, 40
GATES = "ifgo"
PROBES = 20  # weights whose gradient is compared with difference quotients
EPS = 1e-5


class Sequence:
    """A network, one sequence, and the gradients of the sum of its losses by one backward step after another."""

    def __init__(self, net, x, targets, mask):
        self.net, self.x, self.targets, self._mask = net, x, targets, mask
        self.hidden = net.layers[0].hidden_size
        self._buffers = Buffers()
        begins = np.zeros((len(x), 1), bool)
        begins[0] = True
        self.states = states_before(net, x, None, begins)
        self._begins = begins[:, 0]
        self.dy = 2 * (self.rows(slice(None)).y - targets) * mask

    def loss(self):
        """The sum of the squared errors."""
        y, _ = self.net.forward(self.x[:, np.newaxis])
        return float((np.square(y[:, 0] - self.targets) * self._mask).sum())

    def rows(self, rows):
        """One step from each of some steps' states."""
        state = map_state(lambda array: np.ascontiguousarray(array[:, rows]), self.states)
        return OneStep(self.net, self._buffers, self.x[rows], state, self._begins[rows])

    def full(self):
        """dW (4H, I+H) by `bptt.Full`."""
        self.net.zero_grad()
        loss = fastrnn.MSE(reduction="sum")
        Full().gradients(self.net, loss, self.x[:, np.newaxis], self.targets[:, np.newaxis], mask=self._mask)
        return self.weights()[0]

    def backward(self, through_h, through_c):
        """dW and dz (T,4H), step by step: what each hands to the step before in h and c is multiplied by these."""
        dw, dz, dstate = 0.0, np.empty((len(self.x), 4 * self.hidden)), None
        for t in range(len(self.x) - 1, -1, -1):
            self.net.zero_grad()
            (dh, dc), _ = self.rows(slice(t, t + 1)).backward(self.dy[t : t + 1], dstate)
            dstate = (through_h * dh, through_c * dc), None
            part, dz[t] = self.weights()
            dw = dw + part
        return dw, dz

    def by_lag(self):
        """dW of each lag: what the losses k = 0, 1, … steps later add to it."""
        steps, dy, dstate = self.rows(slice(None)), self.dy.copy(), None
        for _ in range(LAG + 1):
            self.net.zero_grad()
            dstate = one_lag_back(steps.backward(dy, dstate), 1)
            yield self.weights()[0]
            dy[...] = 0

    def weights(self):
        """The gradients of [W_ih, W_hh] and of a bias, that is the sum of dz over the steps."""
        gradients = self.net.grad_dict()
        dw = np.concatenate([gradients["0.weight_ih_l0"], gradients["0.weight_hh_l0"]], axis=1)
        return dw, gradients["0.bias_ih_l0"]

    def quotients(self):
        """Central differences of the loss by the first weights of W_ho, recurrent ones."""
        values = self.net.state_dict()
        weight = values["0.weight_hh_l0"].reshape(-1)
        first = 3 * self.hidden**2  # past the gates i, f, g
        for index in range(first, first + PROBES):
            kept, losses = weight[index], []
            for step in (EPS, -EPS):
                weight[index] = kept + step
                self.net.load_state_dict(values)
                losses.append(self.loss())
            weight[index] = kept
            yield (losses[0] - losses[1]) / (2 * EPS)
        self.net.load_state_dict(values)


def run(images):
    """The picture of what the gates learn from later losses, and the tables of both gradients."""
    rng = np.random.default_rng(0)
    trainer = echo_trainer(Full(), "float64")
    trainer.fit([delayed(rng) for _ in range(UPDATES)], progress=False)
    batch = delayed(rng)
    x, targets = (batch[name][:, 0].astype(np.float64) for name in ("x", "targets"))
    sequence = Sequence(trainer.model, x, targets, batch["mask"][:, :1])
    full = sequence.full()
    stepwise, dz = sequence.backward(1.0, 1.0)
    own, own_dz = sequence.backward(0.0, 0.0)
    original, _ = sequence.backward(0.0, 1.0)
    inputs = np.concatenate([sequence.x, sequence.states[0][0][0]], axis=1)  # [x_t, h_{t−1}]
    quotients = np.array(list(sequence.quotients()))
    _draw(sequence, images / "output-gate.png")

    o = slice(3 * sequence.hidden, None)

    def probes(dw):
        return dw[o, INPUTS:].reshape(-1)[:PROBES]

    facts = [
        ["full BPTT − Σ_t dz_o,t ⊗ [x_t, h_{t−1}]", _largest(full[o] - np.einsum("tz,ti->zi", dz[:, o], inputs))],
        ["full BPTT in one call − step by step", _largest(full - stepwise)],
        ["full BPTT − difference quotients of the loss", _largest(probes(full) - quotients)],
        ["LSTM of 1997 − difference quotients of the loss", _largest(probes(original) - quotients)],
        ["dz_o,t of full BPTT − that of the own loss alone", _largest(dz[:, o] - own_dz[:, o])],
        ["the same at the last step", _largest(dz[-1, o] - own_dz[-1, o])],
    ]
    return {
        "output-gate": _compare(full, own, original),
        "output-gate-facts": table(["difference", "largest element"], facts)[:-1],
    }


def _compare(full, own, original):
    rows = []
    for gate, *parts in zip(GATES, *(np.split(dw, 4) for dw in (full, own, original)), strict=True):
        norms = (f"{np.linalg.norm(part):.3f}" for part in parts)
        rows.append([f"dW_{gate}", *norms, f"{_cosine(parts[2], parts[0]):.3f}"])
    return table(["norm of", "full BPTT", "own losses only", "LSTM of 1997", "cosine, 1997 to full"], rows)[:-1]


def _draw(sequence, path):
    norms = {gate: [] for gate in GATES}
    for dw in sequence.by_lag():
        for gate, part in zip(GATES, np.split(dw, 4), strict=True):
            norms[gate].append(np.linalg.norm(part))
    figure = new_figure("bench.gradients", 7, 3.5)
    axes = figure.subplots()
    for gate, values in norms.items():
        axes.plot(positive(np.array(values)), label=f"dW_{gate}", linewidth=2.5 if gate == "o" else 1.2)
    axes.set(xlabel="steps k between a gate and the loss", ylabel="norm of that loss's part of dW", yscale="log")
    axes.set_title("What losses k steps later add to the weight gradient of each gate")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def _largest(difference):
    return f"{np.abs(difference).max():.1e}"


def _cosine(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
