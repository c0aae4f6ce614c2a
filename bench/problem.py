"""What is computed: a recurrent layer's shape, weights and data, the same for every library."""

from typing import NamedTuple

import numpy as np

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}  # of the largest element
TENSORS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Shape(NamedTuple):
    """Time steps, batch, input features, hidden units."""

    steps: int
    batch: int
    inputs: int
    hidden: int

    def __str__(self):
        return ", ".join(map(str, self))


SHAPES = tuple(
    Shape(*sizes)
    for sizes in (
        (100, 32, 32, 32),
        (100, 32, 64, 64),
        (50, 32, 128, 128),
        (50, 32, 256, 256),
        (35, 20, 650, 650),
        (50, 64, 512, 512),
        (25, 64, 1024, 1024),
        (25, 16, 512, 512),
        (150, 32, 256, 256),
        (50, 1, 64, 64),
        (200, 1, 128, 128),
        (50, 1, 512, 512),
        (50, 8, 40, 100),
        (1000, 4, 8, 24),
        (28, 128, 28, 128),
    )
)
# one each of the small, middle, large and single-sequence cases, where a table takes long
FEW_SHAPES = tuple(SHAPES[i] for i in (0, 2, 5, 9))


class Problem:
    """One layer of `cell` and its data: x (T,B,I), dy (T,B,H), lengths (B,) or None.

    `weights` have PyTorch's names and layout.
    """

    def __init__(self, cell, shape, dtype="float32", lengths=None, seed=0):
        self.cell, self.shape, self.dtype, self.lengths = cell, Shape(*shape), dtype, lengths
        steps, batch, inputs, hidden = self.shape
        rng = np.random.default_rng(seed)
        rows, bound = GATES[cell] * hidden, hidden**-0.5
        sizes = ((rows, inputs), (rows, hidden), (rows,), (rows,))
        self.weights = {
            name: rng.uniform(-bound, bound, size).astype(dtype) for name, size in zip(TENSORS, sizes, strict=True)
        }
        self.x = rng.standard_normal((steps, batch, inputs)).astype(dtype)
        self.dy = rng.standard_normal((steps, batch, hidden)).astype(dtype)

    def flops(self, work):
        """Of the matrix products: 2 a multiply-add; the backward pass has two products for each of the forward's."""
        steps, batch, inputs, hidden = self.shape
        rows = steps * batch if self.lengths is None else int(np.sum(self.lengths))
        return {"infer": 1, "train": 3}[work] * 2 * rows * GATES[self.cell] * hidden * (inputs + hidden)
