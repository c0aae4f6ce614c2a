"""PyTorch: `nn.LSTM`, `nn.GRU`, `nn.RNN`; ragged batches as packed sequences."""

import copy

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from . import Peer


class Layer(Peer):
    """Inference is in `inference_mode`, by a copy in evaluation mode: oneDNN then keeps nothing for a backward pass."""

    dtypes = ("float32", "float64")
    ragged = True

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        torch.set_num_threads(threads)
        kind = getattr(torch.nn, problem.cell)
        self.layer = kind(problem.shape.inputs, problem.shape.hidden, dtype=getattr(torch, problem.dtype))
        self.layer.load_state_dict({name: torch.from_numpy(w) for name, w in problem.weights.items()})
        self.frozen = copy.deepcopy(self.layer).eval()
        self.x = torch.from_numpy(problem.x.copy()).requires_grad_()
        self.dy = torch.from_numpy(problem.dy)
        self.lengths = None if problem.lengths is None else torch.as_tensor(problem.lengths)

    def forward(self, layer):
        if self.lengths is None:
            return layer(self.x)[0]
        packed = pack_padded_sequence(self.x, self.lengths, enforce_sorted=False)
        return pad_packed_sequence(layer(packed)[0], total_length=self.problem.shape.steps)[0]

    def train(self):
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        y = self.forward(self.layer)
        y.backward(self.dy)
        return y

    def infer(self):
        with torch.inference_mode():
            return self.forward(self.frozen)

    def results(self, work):
        if work == "infer":
            return {"y": self.infer().numpy()}
        y = self.train().detach().numpy()
        gradients = {name: p.grad.numpy() for name, p in self.layer.named_parameters()}
        return {"y": y, "dx": self.x.grad.numpy(), **gradients}
