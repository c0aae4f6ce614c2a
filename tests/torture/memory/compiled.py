"""Cases of the kernels that a user's own compiled code calls, called as they are there, or from such code."""

import itertools
import math

import numba
import numpy as np

import fastrnn
from fastrnn import kernels
from fastrnn.kernels.cells import CELLS
from fastrnn.kernels.memory import aligned_empty
from fastrnn.kernels.packing import BackwardWeights, Weights, pack_backward, pack_forward, slot_gates
from fastrnn.kernels.simd import panel_width

from . import guard, sizes
from .layers import in_turn, normal

_LAYERS = {
    "lstm": (fastrnn.LSTM, {}, "lstm"),
    "gru": (fastrnn.GRU, {}, "gru"),
    "gru reset before": (fastrnn.GRU, {"reset_after": False}, "gru"),
    "rnn tanh": (fastrnn.RNN, {}, "rnn"),
    "rnn relu": (fastrnn.RNN, {"nonlinearity": "relu"}, "rnn"),
    "rnn sigmoid": (fastrnn.RNN, {"nonlinearity": "sigmoid"}, "rnn"),
    "dense": (fastrnn.Linear, {}, "dense"),
}
_COMMON = [("lstm", "float32"), ("dense", "float32")]
EVERY_KERNEL = [(cell, "float32") for cell in _LAYERS]
_EVERY = EVERY_KERNEL + [(cell, "float64") for cell in _LAYERS]
_turns = itertools.count()


def draw_layer(rng, wide):
    """`…_forward`, `…_backward`, `…_step` and `pack` of a layer, in a workspace of the batch's size."""
    cell, dtype = in_turn(_EVERY if wide else _COMMON, _turns)
    kind, options, name = _LAYERS[cell]
    inputs, units = sizes.features(rng, dtype), sizes.features(rng, dtype)
    steps, batch = sizes.batch(rng)
    options = options | {"bias": bool(rng.integers(2)), "dtype": dtype, "seed": int(rng.integers(100))}
    threads, input_gradient, seed = int(rng.integers(1, 3)), bool(rng.integers(2)), int(rng.integers(1 << 30))

    def run():
        layer, numbers = kind(inputs, units, **options), np.random.default_rng(seed)
        states = getattr(layer, "states", 0)
        x, dy = (normal(numbers, (steps, batch, size), dtype) for size in (inputs, units))
        h, dh = ([normal(numbers, (batch, units), dtype) for _ in range(states)] for _ in range(2))
        weights, parameters = layer.kernel_weights(), layer.parameters_to_vector()
        kernels.pack(parameters, weights)
        workspace = layer.kernel_workspace(steps, batch, threads=threads, input_gradient=input_gradient)
        gradients = np.zeros_like(parameters)
        results = [getattr(kernels, f"{name}_forward")(weights, x, *h, workspace)]
        results.append(getattr(kernels, f"{name}_backward")(weights, parameters, dy, *dh, workspace, gradients))
        if states:
            getattr(kernels, f"{name}_step")(weights, x[0], *h)
        else:
            h = [np.empty((batch, units), dtype)]
            kernels.dense_step(weights, x[0], *h)
        return [*results, *h, *dh, gradients]

    what = f"kernels of {kind.__name__}({inputs}, {units}, **{options}), T={steps}, B={batch}, threads={threads}"
    return f"{what}, input_gradient={input_gradient}, seed={seed}", run


def draw_training(rng, wide):
    """Softmax, its cross-entropy, clipping and updates."""
    dtype = str(rng.choice(sizes.DTYPES)) if wide else "float32"
    rows, classes, seed = int(rng.choice([1, 2, 7, 16])), sizes.features(rng, dtype), int(rng.integers(1 << 30))

    def run():
        numbers = np.random.default_rng(seed)
        y = normal(numbers, (rows, classes), dtype)
        out, dy = np.empty_like(y), np.empty_like(y)
        targets = numbers.integers(0, classes, rows)
        kernels.softmax(y, out)
        loss = kernels.softmax_cross_entropy(y, targets, dy)
        values, gradients, mean, square_mean = (normal(numbers, rows * classes, dtype) for _ in range(4))
        np.abs(square_mean, out=square_mean)
        norm = kernels.clip_norm(gradients, 0.5)
        kernels.clip_value(gradients, 0.1)
        kernels.adam_update(values, gradients, mean, square_mean, 3, 0.01, weight_decay=0.1)
        kernels.sgd_update(values, gradients, mean, 0.1, 0.9)
        kernels.sgd_update(values, gradients, values, 0.1)
        return [out, loss, dy, norm, gradients, values, mean, square_mean]

    return f"kernels of training, {dtype}, {rows} by {classes}, seed={seed}", run


@numba.njit(parallel=True, nogil=True, cache=True)
def _in_threads(weights, parameters, x, dy, h, c, dh, dc, workspaces, gradients, dx):
    for n in numba.prange(x.shape[0]):
        workspace = kernels.replica(workspaces, n)
        kernels.lstm_forward(weights, x[n], h[n], c[n], workspace)
        result = kernels.lstm_backward(weights, parameters, dy[n], dh[n], dc[n], workspace, gradients[n]).reshape(-1)
        for i in range(result.size):  # which compiles in a second; assignments to slices take ten
            dx[n, i] = result[i]


def draw_replicas(rng, wide):
    """A workspace for each iteration of a user's `prange`."""
    inputs, units = sizes.features(rng, "float32"), sizes.features(rng, "float32")
    (steps, batch), copies = sizes.batch(rng), int(rng.integers(1, 5))
    seed = int(rng.integers(1 << 30))

    def run():
        layer, numbers = fastrnn.LSTM(inputs, units, seed=1), np.random.default_rng(seed)
        x, dy, *states = (
            normal(numbers, (copies, *shape), "float32")
            for shape in ((steps, batch, inputs), (steps, batch, units), *[(batch, units)] * 4)
        )
        parameters = layer.parameters_to_vector()
        workspaces = kernels.replicate(layer.kernel_workspace(steps, batch), copies)
        gradients, dx = np.zeros((copies, parameters.size), np.float32), np.empty((copies, x[0].size), np.float32)
        guard.call_guarded(_in_threads, layer.kernel_weights(), parameters, x, dy, *states, workspaces, gradients, dx)
        return [dx, *states, gradients]

    return f"replicas, LSTM({inputs}, {units}), T={steps}, B={batch}, {copies} copies, seed={seed}", run


def draw_packing(rng, wide):
    """Both packed forms of weights: every number in its place, and zeros in all columns and rows past the last."""
    dtype = str(rng.choice(sizes.DTYPES)) if wide else "float32"
    cell = CELLS[str(rng.choice(["lstm", "gru", "gru_reset_before", "rnn_tanh"]))]
    inputs, units, seed = sizes.features(rng, dtype), sizes.features(rng, dtype), int(rng.integers(1 << 30))
    threads = int(rng.integers(1, 3))

    def run():
        return _pack(cell, inputs, units, dtype, threads, np.random.default_rng(seed))

    return f"packing, {cell.name}, I={inputs}, H={units}, {dtype}, {threads} threads, seed={seed}", run


def _pack(cell, inputs, units, dtype, threads, numbers):
    """Random weights packed, after a comparison with what they should be."""
    width = panel_width(np.dtype(dtype))
    block = width // cell.slots
    blocks = math.ceil(units / block)
    tables = np.delete(slot_gates(cell), 1, 0)
    firsts, gates = [int(np.argmax(row >= 0)) for row in tables], [row[row >= 0] for row in tables]
    weights = [normal(numbers, (cell.gates * units, columns), dtype) for columns in (inputs, units)]
    biases = [normal(numbers, cell.gates * units, dtype) for _ in range(2)]
    chosen = [(weights[0], gates[0]), *((weights[1], own) for own in gates[1:])]  # of each product

    forward = [_of_blocks(weight, own, units, block).transpose(0, 3, 1, 2) for weight, own in chosen]
    expected = [forward[0].ravel(), np.concatenate([part.reshape(blocks, -1) for part in forward[1:]], 1).ravel()]
    bias = np.zeros((blocks, cell.slots, block), dtype)
    own_biases = (biases[0], *[biases[1]] * (len(gates) - 1))
    for values, own, first in zip(own_biases, gates, firsts, strict=True):
        bias[:, first : first + own.size] += _of_blocks(values[:, np.newaxis], own, units, block)[..., 0]
    expected.append(bias.ravel())
    for weight, own in chosen:
        rows = _of_blocks(weight, own, units, block).reshape(-1, weight.shape[1])
        padded = np.pad(rows, ((0, 0), (0, -weight.shape[1] % width)))
        expected.append(padded.reshape(len(rows), -1, width).transpose(1, 0, 2).ravel())
    expected.append(np.zeros(width, dtype))

    def unwritten(*shape):
        array = aligned_empty(math.prod(shape), dtype).reshape(shape)
        array.fill(np.nan)
        return array

    packed = Weights(
        unwritten(blocks, inputs, gates[0].size * block),
        unwritten(blocks, units, sum(own.size for own in gates[1:]) * block), unwritten(blocks * width),
    )  # fmt: skip
    backward = BackwardWeights(
        unwritten(math.ceil(inputs / width), blocks * gates[0].size * block, width),
        tuple(unwritten(math.ceil(units / width), blocks * own.size * block, width) for own in gates[1:]),
        unwritten(width),
    )
    own_gates = gates[0], tuple(gates[1:])
    pack_forward(*weights, *biases, units, *own_gates, tuple(firsts), packed, threads)
    pack_backward(*weights, units, *own_gates, block, backward, threads)
    results = [*packed, backward.input, *backward.recurrent, backward.zero]
    for ours, theirs in zip(results, expected, strict=True):
        np.testing.assert_array_equal(ours.ravel(), theirs)
    return results


def _of_blocks(weight, gates, units, block):
    """(blocks, gates, units of a block, columns) of PyTorch's (gates·H, columns), zero past the last unit."""
    by_gate = weight.reshape(-1, units, weight.shape[1])[gates]
    padded = np.pad(by_gate, ((0, 0), (0, -units % block), (0, 0)))
    return padded.reshape(gates.size, -1, block, weight.shape[1]).swapaxes(0, 1)
