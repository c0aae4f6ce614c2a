"""What threads, forks and workers are given to do, to the same bits wherever they do it."""

import hashlib
import os
import warnings

import numba
import numpy as np

import fastrnn
from fastrnn.kernels.jit import kernel, subroutine
from fastrnn.kernels.parallel import in_parallel

from ..sharing import eager

KINDS = fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN


class Problem:
    """A random layer, sequences for it, and the results of all it can do with them."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self._kind = KINDS[rng.integers(len(KINDS))]
        steps, batch, inputs, hidden = (int(n) for n in rng.integers([2, 1, 1, 4], [40, 20, 40, 160]))
        self._sizes = inputs, hidden
        self.seed = seed
        self.x = rng.standard_normal((steps, batch, inputs), dtype=np.float32)
        self.layer = self.make()

    def make(self):
        """A layer like the problem's, with the same parameters."""
        return self._kind(*self._sizes, seed=self.seed)

    def infer(self):
        """The output of the problem's layer, without a workspace."""
        return self.layer.forward(self.x)[0].tobytes()

    def stream(self):
        """The same, step by step."""
        state, outputs = None, []
        for x_t in self.x:
            y_t, state = self.layer.step(x_t, state)
            outputs.append(y_t)
        return np.stack(outputs).tobytes()

    def train(self, updates=3):
        """The parameters of a layer of its own after some updates."""
        layer, optimizer = self.make(), fastrnn.Adam(0.01)
        workspace = layer.workspace(*self.x.shape[:2])
        for _ in range(updates):
            y, _ = layer.forward(self.x, workspace=workspace)
            layer.zero_grad()
            layer.backward(y, workspace=workspace)
            optimizer.step(layer)
        return layer.parameters_to_vector().tobytes()

    def digest(self):
        """All of it."""
        return hashlib.sha256(self.infer() + self.stream() + self.train()).hexdigest()


def fork():
    """`os.fork` without Python's own warning, about threads and forks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def report(seed):
    """In a worker: its digest, its number of threads, what it was warned of, and its number as a process."""
    eager()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        digest = Problem(seed).digest()
    ours = [str(warning.message) for warning in caught if issubclass(warning.category, RuntimeWarning)]
    return digest, fastrnn.get_num_threads(), ours, os.getpid()


@numba.njit(parallel=True, cache=True)
def users_own_kernel(x):
    """Σ x² with Numba's own way to go parallel, as a user of both would write it."""
    total = 0.0
    for i in numba.prange(x.size):
        total += x[i] * x[i]
    return total


@subroutine
def _add_part(part, parts, x, out, number):
    for i in range(x.size * part // parts, x.size * (part + 1) // parts):
        out[i] = x[i] + number


def fresh_kernel(number):
    """A kernel out = x + number of this number's own, on some threads."""

    @kernel(name=f"fresh_{number}")
    def fresh(x, out, parts):
        in_parallel(_add_part, parts, (parts, x, out, number))

    return fresh
