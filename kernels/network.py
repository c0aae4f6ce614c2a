"""Whole layers over sequences, forward and backward, in a user's own compiled code.

Sizes: T steps, B batch, I inputs, H units (of a dense layer: outputs). What the functions take:

weights: of `layer.kernel_weights()`, packed forms of the parameters.
workspace: of `layer.kernel_workspace(T, B)`, for sequences of up to T steps in batches of up to B. It belongs to one
    layer and one thread at a time, and holds between a forward and a backward pass what the latter needs. Results are
    views of it, good until the next call of the same kind: a forward pass's y is not touched by a backward pass.
parameters, gradients: flat (n,) vectors of all of the layer's parameters, in the order and PyTorch's layout of
    `layer.parameters_to_vector()`; for a layer in a model, its part of the model's vector. Gradients are added to.
    After every change of `parameters` the weights must be packed anew, by `pack`.
x (T,B,I), dy (T,B,H), h, c, dh, dc (B,H): C-contiguous, of the layer's dtype, and not views of the same workspace.

A backward pass belongs to the forward pass before it in the same workspace. Nothing is checked beyond the types: arrays
of other sizes are read and written out of bounds.

The kernels work on the calling thread alone, unless the workspace was made for more, so that they can be called in a
`prange`: with `replicate` and `replica` for a workspace to each iteration. Weights may be shared. The results are those
of `layer.forward` and `layer.backward`, bit for bit.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

from . import dense
from .dense import BiasJob, GradientJob
from .jit import formula, kernel, subroutine
from .layout import STRETCH, Buffers, Schedule, View, fill_schedule
from .packing import BackwardWeights, Weights, pack_backward, pack_forward, slot_gates
from .recurrence import BackwardJob, ForwardJob, Noise, backward_pass, forward_pass


class LayerWorkspace(NamedTuple):
    """Buffers of one layer for up to T steps and B sequences. P is the panel width, see `layout.Buffers`."""

    input_backward: np.ndarray  # `packing.BackwardWeights`: `input`
    recurrent_backward: np.ndarray  # and `recurrent`
    zero: np.ndarray  # and `zero`
    x: np.ndarray  # panels of T·B rows
    z: np.ndarray  # likewise
    states: np.ndarray  # (parts of the state, panels of (T+1)·B rows)
    d_states: np.ndarray  # (parts of the state, panels of B rows)
    dx_panels: np.ndarray  # panels of a stretch's rows, of size 0 where no gradient of the input is wanted
    scratch: np.ndarray  # of the weight gradients
    y: np.ndarray  # (T·B·H,)
    dx: np.ndarray  # (T·B·I,), or of size 0
    steps: np.ndarray  # (3, T+1) int64: `counts`, `rows` and `state_rows` of the schedule
    sequences: np.ndarray  # (5, B) int64: the lengths; `order`, `lengths`, `starts` and `sources` of the schedule
    bounds: np.ndarray  # (parts, 2) int64, of the schedule
    progress: np.ndarray  # (parts · PROGRESS_STRIDE,) int64, likewise
    by_units: bool  # whether parts share out units rather than sequences


def _slot_gates(weights):
    raise TypeError("for compiled code only")


@overload(_slot_gates)
def _make_slot_gates(weights):
    """`packing.slot_gates` of the weights' cell."""
    gates = tuple(tuple(row.tolist()) for row in slot_gates(weights.instance_class.cell))
    return lambda weights: np.array(gates)


@subroutine(returns=types.UniTuple(types.intp, 2))
def _window(slot_gates, product):
    """First slot and number of slots of the input's product (0) or the recurrent one (1): those that have a gate."""
    first, count = 0, 0
    for slot in range(slot_gates.shape[1] - 1, -1, -1):
        if slot_gates[product, slot] >= 0:
            first, count = slot, count + 1
    return first, count


@formula
def _gates(slot_gates, product):
    """The first slot of a product, and the gates of its slots."""
    first, count = _window(slot_gates, product)
    return first, slot_gates[product][first : first + count]


@formula
def _units(weights, slot_gates):
    """Units of a block."""
    return weights.bias.size // weights.input.shape[0] // slot_gates.shape[1]


@formula
def _view(flat, batch, features):
    """A (T,B,features) sequence."""
    return View(flat, batch * features, features, 0, features)


def _rows(array, like):
    raise TypeError("for compiled code only")


@overload(_rows)
def _rows_of(array, like):
    """As many rows of a two-dimensional array as there are arrays in the tuple `like`, as a tuple."""
    if len(like) == 0:
        return lambda array, like: ()
    if len(like) == 1:
        return lambda array, like: (array[0],)
    return lambda array, like: (array[0], array[1])


@formula
def _schedule(workspace, steps, batch):
    """The schedule's arrays for this number of steps and sequences."""
    per_step, per_row = workspace.steps, workspace.sequences
    return Schedule(
        per_step[0][: steps + 1], per_step[1][: steps + 1], per_step[2][: steps + 1],
        per_row[1][:batch], per_row[2][:batch], per_row[3][:batch], per_row[4][:batch],
        1, workspace.bounds, workspace.progress,
    )  # fmt: skip


@formula
def _buffers(workspace, steps, batch, like):
    """The buffers laid out for this number of steps and sequences."""
    rows = steps * batch
    return Buffers(
        workspace.x, workspace.z, workspace.z, (), _rows(workspace.states, like), _rows(workspace.d_states, like), (),
        workspace.dx_panels, rows, batch + rows, min(STRETCH, steps) * batch,
    )  # fmt: skip


@formula
def _begin(workspace, steps, batch):
    """Lay out a batch whose sequences all have this number of steps."""
    lengths = workspace.sequences[0][:batch]
    for b in range(batch):
        lengths[b] = steps
    schedule = _schedule(workspace, steps, batch)
    fill_schedule(lengths, lengths[:0], lengths[:0], workspace.by_units, True, STRETCH, schedule)
    return schedule


@formula
def _no_noise():
    return Noise((), 0, 0, 0)


@formula
def _forward_weights(weights):
    return Weights(weights.input, weights.recurrent, weights.bias)


@formula
def _pack_backward(parameters, weights, slot_gates, workspace):
    """What the backward products take, into the workspace: it is needed once an update, as a rule."""
    weight_ih, weight_hh, _, _ = _tensors(weights, slot_gates, parameters)
    packed = BackwardWeights(workspace.input_backward, workspace.recurrent_backward, workspace.zero)
    hidden, units = weights.recurrent.shape[1], _units(weights, slot_gates)
    pack_backward(
        weight_ih, weight_hh, hidden, _gates(slot_gates, 0)[1], _gates(slot_gates, 1)[1], units, packed,
        workspace.bounds.shape[0],
    )  # fmt: skip
    return packed


def _cell(weights, states):
    """The cell of weights, by their class, with as many parts of the state as there are arrays."""
    cell = getattr(getattr(weights, "instance_class", None), "cell", None)
    if cell is None or cell.states != len(states):
        raise TypingError(f"weights must be those of a layer with {len(states)} arrays of states, got {weights}")
    return cell


def _run_forward(weights, states, job, steps, by_units):
    raise TypeError("for compiled code only")


@overload(_run_forward)
def _choose_forward(weights, states, job, steps, by_units):
    run = forward_pass(_cell(weights, states).name, False)
    return lambda weights, states, job, steps, by_units: run(job, 0, steps, STRETCH, by_units)


def _run_backward(weights, states, job, steps, by_units):
    raise TypeError("for compiled code only")


@overload(_run_backward)
def _choose_backward(weights, states, job, steps, by_units):
    run = backward_pass(_cell(weights, states).name)
    return lambda weights, states, job, steps, by_units: run(job, 0, steps, STRETCH, by_units)


@formula
def _forward(weights, x, states, workspace):
    """y, and the final state in the flat arrays `states`."""
    steps, batch, inputs = x.shape
    hidden = weights.recurrent.shape[1]
    y = workspace.y[: steps * batch * hidden]
    job = ForwardJob(
        _view(x.reshape(-1), batch, inputs), _view(y, batch, hidden), False, states, states,
        _forward_weights(weights), (), _no_noise(), _begin(workspace, steps, batch),
        _buffers(workspace, steps, batch, states),
    )  # fmt: skip
    _run_forward(weights, states, job, steps, workspace.by_units)
    return y.reshape(steps, batch, hidden)


@formula
def _dx(weights, workspace, steps, batch):
    """The flat gradient of the input, and its features: none if it is not wanted."""
    features = weights.input.shape[1] if workspace.dx_panels.size > 0 else 0
    return workspace.dx[: steps * batch * features], features


@formula
def _backward(weights, parameters, dy, d_states, workspace, gradients):
    """dx, the initial state's gradient in the flat arrays `d_states`, and the parameters' added to `gradients`."""
    steps, batch, hidden = dy.shape
    slot_gates = _slot_gates(weights)
    schedule, buffers = _schedule(workspace, steps, batch), _buffers(workspace, steps, batch, d_states)
    dx, features = _dx(weights, workspace, steps, batch)
    job = BackwardJob(
        _view(dy.reshape(-1), batch, hidden), _view(dx, batch, features), False, False, d_states, d_states,
        _pack_backward(parameters, weights, slot_gates, workspace), (), _no_noise(), 1.0, schedule, buffers,
    )  # fmt: skip
    _run_backward(weights, d_states, job, steps, workspace.by_units)
    tensors = _tensors(weights, slot_gates, gradients)
    jobs = (
        _gradient_job(weights, slot_gates, 0, schedule, buffers, buffers.x, buffers.x_rows, schedule.rows, tensors[0]),
        _gradient_job(
            weights, slot_gates, 1, schedule, buffers, buffers.states[0], buffers.state_rows, schedule.state_rows,
            tensors[1],
        ),
    )  # fmt: skip
    _accumulate(weights, slot_gates, jobs, schedule, buffers, tensors[2:], workspace)
    return dx.reshape(steps, batch, features)


@formula
def _tensors(weights, slot_gates, vector):
    """Both weight matrices and both biases, views of a layer's flat vector; of size 0 for what there isn't."""
    _, gates = _gates(slot_gates, 0)
    inputs, hidden = weights.input.shape[1], weights.recurrent.shape[1]
    rows = gates.size * hidden  # of each matrix and bias
    recurrent_rows, depth = (rows, hidden) if weights.recurrent.size > 0 else (0, 0)
    first = rows * inputs
    second = first + recurrent_rows * depth
    third, fourth = second + rows, second + rows + recurrent_rows
    if vector.size < fourth:  # no bias
        third = fourth = second
    weight_hh = vector[first:second].reshape(recurrent_rows, depth)
    return vector[:first].reshape(rows, inputs), weight_hh, vector[second:third], vector[third:fourth]


@formula
def _gradient_job(weights, slot_gates, product, schedule, buffers, a, a_rows, a_starts, gradient):
    first, gates = _gates(slot_gates, product)
    return GradientJob(
        buffers.dz, buffers.x_rows, _units(weights, slot_gates), first, gates, weights.recurrent.shape[1],
        schedule.rows, a, a_rows, a_starts, schedule.counts, dense.steps_per_block(schedule.order.size), gradient,
    )  # fmt: skip


@formula
def _accumulate(weights, slot_gates, jobs, schedule, buffers, biases, workspace):
    """Add to all gradients of a layer."""
    bias_job = BiasJob(
        buffers.dz, buffers.x_rows, _units(weights, slot_gates), slot_gates, weights.recurrent.shape[1], schedule.rows,
        schedule.counts, dense.steps_per_block(schedule.order.size), biases,
    )  # fmt: skip
    parts = workspace.bounds.shape[0]
    dense.accumulate_weight_gradients(jobs, bias_job, False, workspace.scratch, parts)


@kernel
def lstm_forward(weights, x, h, c, workspace):
    """y (T,B,H) of an LSTM; `h` and `c` are the initial state, and then the final one."""
    return _forward(weights, x, (h.reshape(-1), c.reshape(-1)), workspace)


@kernel
def lstm_backward(weights, parameters, dy, dh, dc, workspace, gradients):
    """dx (T,B,I), given the gradients of y and of the final state in `dh` and `dc`, which become the initial state's.

    The parameters' are added to `gradients`. dx is (T,B,0) of a workspace without `input_gradient`.
    """
    return _backward(weights, parameters, dy, (dh.reshape(-1), dc.reshape(-1)), workspace, gradients)


@kernel
def gru_forward(weights, x, h, workspace):
    """y (T,B,H) of a GRU; `h` is the initial state, and then the final one."""
    return _forward(weights, x, (h.reshape(-1),), workspace)


@kernel
def gru_backward(weights, parameters, dy, dh, workspace, gradients):
    """dx (T,B,I), as `lstm_backward`."""
    return _backward(weights, parameters, dy, (dh.reshape(-1),), workspace, gradients)


@kernel
def rnn_forward(weights, x, h, workspace):
    """y (T,B,H) of a simple recurrent net, whose weights' class tells the nonlinearity; `h` as in `gru_forward`."""
    return _forward(weights, x, (h.reshape(-1),), workspace)


@kernel
def rnn_backward(weights, parameters, dy, dh, workspace, gradients):
    """dx (T,B,I), as `lstm_backward`."""
    return _backward(weights, parameters, dy, (dh.reshape(-1),), workspace, gradients)


@kernel
def dense_forward(weights, x, workspace):
    """y = x Wᵀ + b (T,B,H) of a linear layer."""
    steps, batch, inputs = x.shape
    outputs = weights.recurrent.shape[1]
    y = workspace.y[: steps * batch * outputs]
    dense.dense_forward(
        _view(x.reshape(-1), batch, inputs), _view(y, batch, outputs), _forward_weights(weights),
        _begin(workspace, steps, batch), _buffers(workspace, steps, batch, ()), 0, steps, STRETCH,
    )  # fmt: skip
    return y.reshape(steps, batch, outputs)


@kernel
def dense_backward(weights, parameters, dy, workspace, gradients):
    """dx = dy W (T,B,I); the parameters' gradients are added to `gradients`."""
    steps, batch, outputs = dy.shape
    slot_gates = _slot_gates(weights)
    schedule, buffers = _schedule(workspace, steps, batch), _buffers(workspace, steps, batch, ())
    dx, features = _dx(weights, workspace, steps, batch)
    dense.dense_backward(
        _view(dy.reshape(-1), batch, outputs), _view(dx, batch, features),
        _pack_backward(parameters, weights, slot_gates, workspace), schedule, buffers, 0, steps, STRETCH,
    )  # fmt: skip
    tensors = _tensors(weights, slot_gates, gradients)
    job = _gradient_job(
        weights, slot_gates, 0, schedule, buffers, buffers.x, buffers.x_rows, schedule.rows, tensors[0]
    )
    _accumulate(weights, slot_gates, (job,), schedule, buffers, tensors[2:], workspace)
    return dx.reshape(steps, batch, features)


@kernel
def pack(parameters, weights):
    """Renew the `weights` of any layer from its `parameters`."""
    slot_gates = _slot_gates(weights)
    weight_ih, weight_hh, bias_ih, bias_hh = _tensors(weights, slot_gates, parameters)
    (first, gates), (recurrent_first, recurrent_gates) = _gates(slot_gates, 0), _gates(slot_gates, 1)
    firsts, hidden = (first, recurrent_first), weights.recurrent.shape[1]
    pack_forward(
        weight_ih, weight_hh, bias_ih, bias_hh, hidden, gates, recurrent_gates, firsts, _forward_weights(weights), 1
    )
