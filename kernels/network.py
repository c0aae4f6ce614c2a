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
from numba.extending import overload

from . import dense
from .cells import GRU, GRU_RESET_BEFORE, LSTM, RNN_RELU, RNN_SIGMOID, RNN_TANH
from .dense import BiasJob, GradientJob
from .jit import formula, kernel, subroutine
from .layout import STRETCH, Buffers, Schedule, View, fill_schedule
from .packing import BackwardWeights, Weights, pack_backward, pack_forward, slot_gates
from .recurrence import BackwardJob, ForwardJob, Noise, backward_pass, forward_pass
from .weights import RECURRENT_CELLS, cell_of


class LayerWorkspace(NamedTuple):
    """Buffers of one layer for up to T steps and B sequences. P is the panel width, see `layout.Buffers`."""

    input_backward: np.ndarray  # flat, as the following: `packing.BackwardWeights`' `input`
    recurrent_backward: np.ndarray  # all of `recurrent`
    zero: np.ndarray  # and `zero`
    x: np.ndarray  # panels of T·B rows
    z: np.ndarray  # likewise
    states: np.ndarray  # (`Cell.parts`, panels of (T+1)·B rows)
    d_states: np.ndarray  # (`Cell.parts`, panels of B rows)
    dx_panels: np.ndarray  # panels of a stretch's rows, of size 0 where no gradient of the input is wanted
    scratch: np.ndarray  # of the weight gradients
    y: np.ndarray  # (T·B·H,)
    dx: np.ndarray  # (T·B·I,), or of size 0
    steps: np.ndarray  # (3, T+1) int64: `counts`, `rows` and `state_rows` of the schedule
    sequences: np.ndarray  # (5, B) int64: the lengths; `order`, `lengths`, `starts` and `sources` of the schedule
    bounds: np.ndarray  # (parts, 2) int64, of the schedule
    progress: np.ndarray  # (parts · PROGRESS_STRIDE,) int64, likewise
    by_units: bool  # whether parts share out units rather than sequences


def _cell(weights):
    """The cell, given the type of its weights, or None of a linear layer."""
    return cell_of(weights, (*RECURRENT_CELLS, None))


def _slot_gates(weights):
    raise TypeError("for compiled code only")


@overload(_slot_gates)
def _make_slot_gates(weights):
    """`packing.slot_gates` of the weights' cell."""
    gates = tuple(tuple(row.tolist()) for row in slot_gates(_cell(weights)))
    return lambda weights: np.array(gates)


@subroutine(returns=types.UniTuple(types.intp, 2))
def _window(gates, product):
    """First slot and number of slots of a product, a row of `packing.slot_gates`."""
    first, count = 0, 0
    for slot in range(gates.shape[1] - 1, -1, -1):
        if gates[product, slot] >= 0:
            first, count = slot, count + 1
    return first, count


@formula
def _run(gates, product):
    """The first slot of a product, and the gates of its slots."""
    first, count = _window(gates, product)
    return first, gates[product][first : first + count]


@formula
def _units(weights, gates):
    """Units of a block."""
    return weights.bias.size // weights.input.shape[0] // gates.shape[1]


def _two_stages(weights):
    """Whether the cell, given the type of its weights, has two stages, and so two recurrent products."""
    cell = _cell(weights)
    return cell is not None and cell.before is not None


def _stage_gates(weights, gates):
    raise TypeError("for compiled code only")


@overload(_stage_gates)
def _choose_stage_gates(weights, gates):
    """The gates of each stage's product."""
    if _two_stages(weights):
        return lambda weights, gates: (_run(gates, 2)[1], _run(gates, 3)[1])
    return lambda weights, gates: (_run(gates, 2)[1],)


def _stage_firsts(weights, gates):
    raise TypeError("for compiled code only")


@overload(_stage_firsts)
def _choose_stage_firsts(weights, gates):
    """The first slot of each stage's product."""
    if _two_stages(weights):
        return lambda weights, gates: (_run(gates, 2)[0], _run(gates, 3)[0])
    return lambda weights, gates: (_run(gates, 2)[0],)


def _stage_panels(weights, gates, workspace):
    raise TypeError("for compiled code only")


@formula
def _panels(weights, gates, workspace, stage, first):
    """The panels of a stage's `packing.BackwardWeights`, from number `first` on of the buffer, and their end."""
    width = workspace.zero.size
    rows = weights.bias.size // gates.shape[1] * _window(gates, 2 + stage)[1]
    panels = (weights.recurrent.shape[1] + width - 1) // width if weights.recurrent.size > 0 else 0
    last = first + panels * rows * width
    return workspace.recurrent_backward[first:last].reshape(panels, rows, width), last


@overload(_stage_panels)
def _choose_stage_panels(weights, gates, workspace):
    """The panels of each stage."""

    def one_stage(weights, gates, workspace):
        return (_panels(weights, gates, workspace, 0, 0)[0],)

    def two_stages(weights, gates, workspace):
        first, end = _panels(weights, gates, workspace, 0, 0)
        return first, _panels(weights, gates, workspace, 1, end)[0]

    return two_stages if _two_stages(weights) else one_stage


def _recurrent_jobs(weights, gates, schedule, buffers, gradient):
    raise TypeError("for compiled code only")


@overload(_recurrent_jobs)
def _choose_recurrent_jobs(weights, gates, schedule, buffers, gradient):
    """The job of the recurrent weight's gradient for each stage: its factor is h_{t−1}, or what the one before gave."""

    def one_stage(weights, gates, schedule, buffers, gradient):
        starts, rows = schedule.state_rows, buffers.state_rows
        return (_gradient_job(weights, gates, 2, schedule, buffers, buffers.states[0], rows, starts, gradient),)

    def two_stages(weights, gates, schedule, buffers, gradient):
        starts, rows = schedule.state_rows, buffers.state_rows
        return (
            _gradient_job(weights, gates, 2, schedule, buffers, buffers.states[0], rows, starts, gradient),
            _gradient_job(weights, gates, 3, schedule, buffers, buffers.states[-1], rows, starts[1:], gradient),
        )

    return two_stages if _two_stages(weights) else one_stage


@formula
def _view(flat, batch, features):
    """A (T,B,features) sequence."""
    return View(flat, batch * features, features, 0, features)


def _parts(weights, array):
    raise TypeError("for compiled code only")


@overload(_parts)
def _choose_parts(weights, array):
    """The rows of a two-dimensional array as a tuple: of the states' parts, as many as the engine has of the cell."""
    cell = _cell(weights)
    if cell is None:
        return lambda weights, array: ()
    if cell.parts == 1:
        return lambda weights, array: (array[0],)
    return lambda weights, array: (array[0], array[1])


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
def _buffers(weights, workspace, steps, batch):
    """The buffers laid out for this number of steps and sequences."""
    rows = steps * batch
    return Buffers(
        workspace.x, workspace.z, workspace.z, (), _parts(weights, workspace.states),
        _parts(weights, workspace.d_states), (), workspace.dx_panels, rows, batch + rows,
        min(STRETCH, steps) * batch,
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
def _pack_backward(parameters, weights, gates, workspace):
    """What the backward products take, into the workspace: it is needed once an update, as a rule."""
    weight_ih, weight_hh, _, _ = _tensors(weights, gates, parameters)
    input_gates, units = _run(gates, 0)[1], _units(weights, gates)
    inputs, width = weights.input.shape[1], workspace.zero.size
    packed = BackwardWeights(
        workspace.input_backward.reshape((inputs + width - 1) // width, -1, width),
        _stage_panels(weights, gates, workspace), workspace.zero,
    )  # fmt: skip
    pack_backward(
        weight_ih, weight_hh, weights.recurrent.shape[1], input_gates, _stage_gates(weights, gates), units, packed,
        workspace.bounds.shape[0],
    )  # fmt: skip
    return packed


# made at once, so that they are there when a user's function that calls one comes out of the cache
_FORWARD_PASSES = {cell.name: forward_pass(cell.name, False) for cell in RECURRENT_CELLS}
_BACKWARD_PASSES = {cell.name: backward_pass(cell.name) for cell in RECURRENT_CELLS}


def _run_forward(weights, job, steps, by_units):
    raise TypeError("for compiled code only")


@overload(_run_forward)
def _choose_forward(weights, job, steps, by_units):
    run = _FORWARD_PASSES[cell_of(weights, RECURRENT_CELLS).name]
    return lambda weights, job, steps, by_units: run(job, 0, steps, STRETCH, by_units)


def _run_backward(weights, job, steps, by_units):
    raise TypeError("for compiled code only")


@overload(_run_backward)
def _choose_backward(weights, job, steps, by_units):
    run = _BACKWARD_PASSES[cell_of(weights, RECURRENT_CELLS).name]
    return lambda weights, job, steps, by_units: run(job, 0, steps, STRETCH, by_units)


def _make_expectation(*cells):
    """`expect(weights)`, which the compiler refuses unless their class is that of one of `cells`."""

    def expect(weights):
        raise TypeError("for compiled code only")

    @overload(expect)
    def check(weights):
        cell_of(weights, cells)
        return lambda weights: None

    return expect


_expect_lstm = _make_expectation(LSTM)
_expect_gru = _make_expectation(GRU, GRU_RESET_BEFORE)
_expect_rnn = _make_expectation(RNN_TANH, RNN_RELU, RNN_SIGMOID)
_expect_dense = _make_expectation(None)


@formula
def _forward(weights, x, states, workspace):
    """y, and the final state in the flat arrays `states`."""
    steps, batch, inputs = x.shape
    hidden = weights.recurrent.shape[1]
    y = workspace.y[: steps * batch * hidden]
    job = ForwardJob(
        _view(x.reshape(-1), batch, inputs), _view(y, batch, hidden), False, states, states,
        _forward_weights(weights), (), _no_noise(), _begin(workspace, steps, batch),
        _buffers(weights, workspace, steps, batch),
    )  # fmt: skip
    _run_forward(weights, job, steps, workspace.by_units)
    return y.reshape(steps, batch, hidden)


@formula
def _dx(weights, workspace, steps, batch):
    """The flat gradient of the input, and its features: none if it is not wanted."""
    features = weights.input.shape[1] if workspace.dx_panels.size > 0 else 0
    return workspace.dx[: steps * batch * features], features


@formula
def _tensors(weights, gates, vector):
    """Both weight matrices and both biases, views of a layer's flat vector; of size 0 for what there isn't."""
    inputs, hidden = weights.input.shape[1], weights.recurrent.shape[1]
    rows = _window(gates, 0)[1] * hidden  # of each matrix and bias
    recurrent_rows, depth = (rows, hidden) if weights.recurrent.size > 0 else (0, 0)
    first = rows * inputs
    second = first + recurrent_rows * depth
    third, fourth = second + rows, second + rows + recurrent_rows
    if vector.size < fourth:  # no bias
        third = fourth = second
    weight_hh = vector[first:second].reshape(recurrent_rows, depth)
    return vector[:first].reshape(rows, inputs), weight_hh, vector[second:third], vector[third:fourth]


@formula
def _gradient_job(weights, gates, product, schedule, buffers, a, a_rows, a_starts, gradient):
    first, run = _run(gates, product)
    return GradientJob(
        buffers.dz, buffers.x_rows, _units(weights, gates), first, run, weights.recurrent.shape[1], schedule.rows,
        a, a_rows, a_starts, schedule.counts, dense.steps_per_block(schedule.order.size), gradient,
    )  # fmt: skip


@formula
def _input_job(weights, gates, schedule, buffers, gradient):
    return _gradient_job(
        weights, gates, 0, schedule, buffers, buffers.x, buffers.x_rows, schedule.rows, gradient
    )  # fmt: skip


@formula
def _accumulate(weights, gates, jobs, schedule, buffers, d_biases, workspace):
    """Add to all gradients of a layer."""
    bias_job = BiasJob(
        buffers.dz, buffers.x_rows, _units(weights, gates), gates, weights.recurrent.shape[1], schedule.rows,
        schedule.counts, dense.steps_per_block(schedule.order.size), d_biases,
    )  # fmt: skip
    parts = workspace.bounds.shape[0]
    dense.accumulate_weight_gradients(jobs, bias_job, False, workspace.scratch, parts, 0, 1)


@formula
def _backward(weights, parameters, dy, d_states, workspace, gradients):
    """dx, the initial state's gradient in the flat arrays `d_states`, and the parameters' added to `gradients`."""
    steps, batch, hidden = dy.shape
    gates = _slot_gates(weights)
    schedule, buffers = _schedule(workspace, steps, batch), _buffers(weights, workspace, steps, batch)
    dx, features = _dx(weights, workspace, steps, batch)
    job = BackwardJob(
        _view(dy.reshape(-1), batch, hidden), _view(dx, batch, features), False, False, d_states, d_states,
        _pack_backward(parameters, weights, gates, workspace), (), _no_noise(), 1.0, schedule, buffers,
    )  # fmt: skip
    _run_backward(weights, job, steps, workspace.by_units)
    d_input, d_recurrent, d_bias, d_recurrent_bias = _tensors(weights, gates, gradients)
    jobs = (_input_job(weights, gates, schedule, buffers, d_input),)
    jobs = jobs + _recurrent_jobs(weights, gates, schedule, buffers, d_recurrent)
    _accumulate(weights, gates, jobs, schedule, buffers, (d_bias, d_recurrent_bias), workspace)
    return dx.reshape(steps, batch, features)


@kernel
def lstm_forward(weights, x, h, c, workspace):
    """y (T,B,H) of an LSTM; `h` and `c` are the initial state, and then the final one."""
    _expect_lstm(weights)
    return _forward(weights, x, (h.reshape(-1), c.reshape(-1)), workspace)


@kernel
def lstm_backward(weights, parameters, dy, dh, dc, workspace, gradients):
    """dx (T,B,I), given the gradients of y and of the final state in `dh` and `dc`, which become the initial state's.

    parameters: those that `weights` are packed from. Their gradients are added to `gradients`.
    dx is (T,B,0) of a workspace without `input_gradient`.
    """
    _expect_lstm(weights)
    return _backward(weights, parameters, dy, (dh.reshape(-1), dc.reshape(-1)), workspace, gradients)


@kernel
def gru_forward(weights, x, h, workspace):
    """y (T,B,H) of a GRU, whose weights' class tells its form; `h` is the initial state, and then the final one."""
    _expect_gru(weights)
    return _forward(weights, x, (h.reshape(-1),), workspace)


@kernel
def gru_backward(weights, parameters, dy, dh, workspace, gradients):
    """dx (T,B,I), as `lstm_backward`."""
    _expect_gru(weights)
    return _backward(weights, parameters, dy, (dh.reshape(-1),), workspace, gradients)


@kernel
def rnn_forward(weights, x, h, workspace):
    """y (T,B,H) of a simple recurrent net, whose weights' class tells the nonlinearity; `h` as in `gru_forward`."""
    _expect_rnn(weights)
    return _forward(weights, x, (h.reshape(-1),), workspace)


@kernel
def rnn_backward(weights, parameters, dy, dh, workspace, gradients):
    """dx (T,B,I), as `lstm_backward`."""
    _expect_rnn(weights)
    return _backward(weights, parameters, dy, (dh.reshape(-1),), workspace, gradients)


@kernel
def dense_forward(weights, x, workspace):
    """y = x Wᵀ + b (T,B,H) of a linear layer."""
    _expect_dense(weights)
    steps, batch, inputs = x.shape
    outputs = weights.recurrent.shape[1]
    y = workspace.y[: steps * batch * outputs]
    dense.dense_forward(
        _view(x.reshape(-1), batch, inputs), _view(y, batch, outputs), _forward_weights(weights),
        _begin(workspace, steps, batch), _buffers(weights, workspace, steps, batch), 0, steps, STRETCH, 0, 1,
    )  # fmt: skip
    return y.reshape(steps, batch, outputs)


@kernel
def dense_backward(weights, parameters, dy, workspace, gradients):
    """dx = dy W (T,B,I); parameters and gradients as in `lstm_backward`."""
    _expect_dense(weights)
    steps, batch, outputs = dy.shape
    gates = _slot_gates(weights)
    schedule, buffers = _schedule(workspace, steps, batch), _buffers(weights, workspace, steps, batch)
    dx, features = _dx(weights, workspace, steps, batch)
    dense.dense_backward(
        _view(dy.reshape(-1), batch, outputs), _view(dx, batch, features),
        _pack_backward(parameters, weights, gates, workspace), schedule, buffers, 0, steps, STRETCH, 0, 1,
    )  # fmt: skip
    d_weight, _, d_bias, none = _tensors(weights, gates, gradients)
    jobs = (_input_job(weights, gates, schedule, buffers, d_weight),)
    _accumulate(weights, gates, jobs, schedule, buffers, (d_bias, none), workspace)
    return dx.reshape(steps, batch, features)


@kernel
def pack(parameters, weights):
    """Renew the `weights` of any layer from its `parameters`."""
    gates = _slot_gates(weights)
    weight_ih, weight_hh, bias_ih, bias_hh = _tensors(weights, gates, parameters)
    first, run = _run(gates, 0)
    pack_forward(
        weight_ih, weight_hh, bias_ih, bias_hh, weights.recurrent.shape[1], run, _stage_gates(weights, gates),
        (first,) + _stage_firsts(weights, gates), _forward_weights(weights), 1,
    )  # fmt: skip
