"""One recurrent layer, ours and PyTorch's, with the same weights on the same data."""

import numpy as np
import torch

import fastrnn

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SHAPES = (  # T, B, I, H
    (100, 32, 64, 64),
    (50, 32, 128, 128),
    (50, 32, 256, 256),
    (50, 1, 64, 64),
)


class Problem:
    """A layer of `cell` for one shape; each method is one unit of work, as a user would call it."""

    def __init__(self, cell, shape, dtype="float32"):
        steps, batch, inputs, hidden = shape
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((steps, batch, inputs)).astype(dtype)
        self.dy = rng.standard_normal((steps, batch, hidden)).astype(dtype)
        self.layer = getattr(fastrnn, cell)(inputs, hidden, dtype=dtype, seed=0)
        self.workspace = self.layer.workspace(steps, batch)
        self.peer = getattr(torch.nn, cell)(inputs, hidden, dtype=getattr(torch, dtype))
        self.peer.load_state_dict({k: torch.from_numpy(v) for k, v in self.layer.state_dict().items()})
        self.peer_x = torch.from_numpy(self.x).requires_grad_()
        self.peer_dy = torch.from_numpy(self.dy)
        # multiply-adds of the matrix products count twice; backward has two products for each of forward's
        self.inference_flops = 2 * steps * batch * GATES[cell] * hidden * (inputs + hidden)
        self.training_flops = 3 * self.inference_flops

    def train(self):
        """Forward and backward with all gradients; the weights count as new, and are packed again."""
        self.layer.zero_grad()
        self.layer.parameters.changed()
        self.layer.forward(self.x, workspace=self.workspace)
        return self.layer.backward(self.dy, workspace=self.workspace)

    def peer_train(self):
        self.peer.zero_grad()
        self.peer_x.grad = None
        y, _ = self.peer(self.peer_x)
        y.backward(self.peer_dy)

    def infer(self):
        return self.layer.forward(self.x)

    def peer_infer(self):
        with torch.inference_mode():
            return self.peer(self.peer_x)

    def worst_error(self):
        """The largest difference of output and gradients from the peer's, relative to each one's largest element."""
        self.train()
        self.peer_train()
        dx = self.workspace.d_input[: self.x.size].reshape(self.x.shape)
        pairs = [(self.infer()[0], self.peer_infer()[0].numpy()), (dx, self.peer_x.grad.numpy())]
        gradients = self.layer.grad_dict()
        pairs += [(gradients[name], p.grad.numpy()) for name, p in self.peer.named_parameters()]
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
