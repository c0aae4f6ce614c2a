"""fastrnn, as a user calls it."""

import functools

import fastrnn

from . import Peer


class Layer(Peer):
    """The weights count as new in every training step, and are packed again; inference keeps them packed."""

    dtypes = ("float32", "float64")
    ragged = True

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        fastrnn.set_num_threads(threads)
        kind = getattr(fastrnn, problem.cell)
        self.layer = kind(problem.shape.inputs, problem.shape.hidden, dtype=problem.dtype, seed=0)
        self.layer.load_state_dict(problem.weights)

    @functools.cached_property
    def workspace(self):
        return self.layer.workspace(self.problem.shape.steps, self.problem.shape.batch)

    def train(self):
        problem = self.problem
        self.layer.zero_grad()
        self.layer.parameters.changed()
        y, _ = self.layer.forward(problem.x, lengths=problem.lengths, workspace=self.workspace)
        dx, _ = self.layer.backward(problem.dy, workspace=self.workspace)
        return y, dx

    def infer(self):
        return self.layer.forward(self.problem.x, lengths=self.problem.lengths)[0]

    def results(self, work):
        if work == "infer":
            return {"y": self.infer()}
        y, dx = self.train()
        return {"y": y.copy(), "dx": dx.copy(), **self.layer.grad_dict()}
