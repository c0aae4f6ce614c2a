"""What a layer hands to a user's own compiled code: packed weights and workspaces for `fastrnn.kernels.network`."""

import math

import numpy as np
from numba.core.config import NUMBA_NUM_THREADS

from .. import checks
from ..kernels.dense import SCRATCH_TILES
from ..kernels.layout import STRETCH
from ..kernels.memory import aligned_empty
from ..kernels.network import LayerWorkspace
from ..kernels.parallel import PROGRESS_STRIDE
from ..kernels.simd import PANEL_VECTORS
from ..passes import split_by_units, threads_by_units


def _aligned_copy(array):
    copy = aligned_empty(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def kernel_weights(kind, product):
    """A snapshot of a product's packed weights, of a class of `kernels.weights`."""
    forward = product.forward_weights()
    recurrent = forward.recurrent
    if not recurrent.size:  # a dense layer has nothing there but its number of outputs
        recurrent = np.empty((product.blocks, product.hidden_size, 0), forward.input.dtype)
    return kind(*map(_aligned_copy, (forward.input, recurrent, forward.bias)))


def _buffer_shapes(product, steps, batch, parts, threads, input_gradient):
    """Shapes of a `LayerWorkspace`'s floating-point arrays by name."""
    rows = steps * batch
    inputs, units = product.padded(product.input_size), product.padded(product.hidden_size)
    dx = input_gradient * product.input_size
    input_backward, recurrent_backward, zero = product.backward_shapes()
    return {
        "input_backward": (math.prod(input_backward),),
        "recurrent_backward": (sum(map(math.prod, recurrent_backward)),),
        "zero": zero,
        "x": (rows * inputs,),
        "z": (rows * product.blocks * product.panel,),
        "states": (parts, (batch + rows) * units),
        "d_states": (parts, batch * units),
        "dx_panels": (min(STRETCH, steps) * batch * inputs if input_gradient else 0,),
        "scratch": (threads * SCRATCH_TILES * product.panel * product.panel // PANEL_VECTORS,),
        "y": (rows * product.hidden_size,),
        "dx": (rows * dx,),
    }


def kernel_workspace(product, steps, batch, parts, threads, input_gradient):
    """A `LayerWorkspace` for a product whose state has so many parts in the engine; the other arguments are checked."""
    steps, batch = checks.integer("T", steps, minimum=1), checks.integer("B", batch, minimum=1)
    threads = checks.integer("threads", threads, minimum=1, maximum=NUMBA_NUM_THREADS)
    input_gradient = checks.flag("input_gradient", input_gradient)
    gates, dtype = product.gates[0].size, product.parameters.dtype
    by_units = bool(parts) and threads > 1 and split_by_units(batch, product.hidden_size, gates, threads)
    if by_units:
        depth = product.hidden_size + max(product.input_size, product.hidden_size)
        threads = threads_by_units(batch, product.hidden_size, gates, depth, dtype, threads)
    shapes = _buffer_shapes(product, steps, batch, parts, threads, input_gradient)
    size = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
    checks.memory(f"the workspace for T={steps}, B={batch}", size)
    return LayerWorkspace(
        **{name: aligned_empty(math.prod(shape), dtype).reshape(shape) for name, shape in shapes.items()},
        steps=np.empty((3, steps + 1), np.int64),
        sequences=np.empty((5, batch), np.int64),
        bounds=np.empty((threads, 2), np.int64),
        progress=np.empty(threads * PROGRESS_STRIDE, np.int64),
        by_units=by_units and threads > 1,
    )
