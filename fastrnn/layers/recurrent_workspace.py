"""Buffers of a recurrent layer, and what can be read from them after a forward pass."""

import math

import numpy as np

from ..buffers import NamedArrays
from ..kernels.memory import aligned_empty
from ..passes import PassBuffers, SequenceBatch
from .base import Workspace


class RecurrentWorkspace(Workspace):
    """Buffers of a recurrent layer: about 4 to 8 numbers a step, row and unit in each layer and direction."""

    def __init__(self, layer, steps, batch):
        super().__init__(layer, steps, batch)
        dtype, directions, hidden = layer.dtype, layer.directions, layer.hidden_size
        features = directions * hidden
        states = layer.states
        self.plan = SequenceBatch(steps, batch, keep=True)
        self.passes = [PassBuffers(p, steps, batch, True, layer.cell.parts) for p in layer.passes]
        # outputs of every layer, (T,B,D·H) in the caller's order: y of the last, input of the next of the others
        self.outputs = [aligned_empty(steps * batch * features, dtype) for _ in range(layer.num_layers)]
        # gradients of those outputs between two layers, in turn, and of the input
        between = steps * batch * features if layer.num_layers > 1 else 0
        self.d_outputs = [aligned_empty(between, dtype) for _ in range(min(2, layer.num_layers - 1))]
        self.d_input = aligned_empty(steps * batch * layer.input_size, dtype)
        drops = layer.num_layers - 1 if layer.dropout > 0 else 0
        self.masks = [np.empty(steps * batch * features, dtype) for _ in range(drops)]  # 0 or 1 / (1 − dropout)
        self.noise = self._room_for_noise(steps * batch * hidden)
        size = math.prod(layer._state_shape(batch))
        self.final = tuple(aligned_empty(size, dtype) for _ in range(states))
        self.d_initial = tuple(aligned_empty(size, dtype) for _ in range(states))
        self.zeros = np.zeros(size, dtype)
        self.returned = ()  # the final state as the last forward pass gave it out
        self.arrays = NamedArrays()  # what only some calls need
        self._layout = None

    def _room_for_noise(self, size):
        """For each pass the arrays of its `Noise`."""
        passes = self.layer.passes
        return [
            tuple(np.zeros(size + p.panel, self.layer.dtype) for _ in range(p.cell.noise)) for p in passes
        ]

    def room(self, name, shape):
        """An array for the call under way, its contents undefined."""
        return self.arrays.array(name, shape, self.layer.dtype)

    def layout(self, steps, batch):
        """The `_Layout` for a batch of this size; made anew when the size has changed."""
        kept, batch_first = self._layout, self.layer.batch_first
        if kept is None or kept.steps != steps or kept.batch != batch or kept.batch_first != batch_first:
            kept = self._layout = Layout(self, steps, batch)
        return kept

    def states(self):
        """The state after every step of the last forward pass: for each layer and direction, as in the state's first
        dimension, a dict of "h" and for LSTMs "c", arrays (T,B,H) or (B,T,H), zero past a sequence's end."""
        record = self._recorded("states")

        def of_pass(product, arrays):
            time, source, _, _, after = self.plan.places(product.reverse)
            names = ("h", "c")[: self.layer.states]
            return {
                name: self._in_order(record, time, source, arrays.state_at(part, after))
                for part, name in enumerate(names)
            }

        return [of_pass(*pair) for pair in zip(self.layer.passes, self.passes, strict=True)]

    def gates(self):
        """The values of all gates in the last forward pass, in the form of `states`: LSTM "i", "f", "g", "o"; GRU "r",
        "z", "n"; none for the simple net."""
        record = self._recorded("gates")

        def of_pass(product, arrays):
            time, source, row, _, _ = self.plan.places(product.reverse)
            values = arrays.gates_at(row)
            return {name: self._in_order(record, time, source, gate) for name, gate in values.items()}

        return [of_pass(*pair) for pair in zip(self.layer.passes, self.passes, strict=True)]

    def _recorded(self, what):
        if self.record is None:
            raise ValueError(f"{what} needs a forward pass recorded in the workspace, before the backward pass")
        return self.record

    def _in_order(self, record, time, source, values):
        """`values` (N,H) of the rows of all steps as a sequence."""
        sequence = np.zeros(self.layer._sequence_shape(record.steps, record.batch, values.shape[1]), values.dtype)
        sequence[(source, time) if self.layer.batch_first else (time, source)] = values
        return sequence

    def states_before(self, steps, rows):
        """The state before each of the pairs of a step and a batch index, in the form of a batch's state."""
        record = self._recorded("states_before")
        if self.layer.dilation > 1:
            raise ValueError("there is no single state before a step of a dilated layer, whose states are several")
        parts = [np.empty(self.layer._state_shape(len(steps)), self.layer.dtype) for _ in self.final]
        where = np.empty((record.steps, record.batch), np.int64)
        for n, (product, arrays) in enumerate(zip(self.layer.passes, self.passes, strict=True)):
            time, source, _, before, _ = self.plan.places(product.reverse)
            where.fill(0)  # steps past a sequence's end get any state
            where[time, source] = before
            for index, part in enumerate(parts):
                part[n] = arrays.state_at(index, where[steps, rows])
        return self.layer._pack_state(parts)


class Layout:
    """A workspace's arrays as a batch of `steps` by `batch` has them, and the views of them that the passes take.

    Lists have an entry a layer, or where they say so a pass, that is a layer and direction.
    """

    def __init__(self, workspace, steps, batch):
        layer = workspace.layer
        self.steps, self.batch, self.batch_first = steps, batch, layer.batch_first
        shape = layer._sequence_shape(steps, batch, layer.directions * layer.hidden_size)
        state_shape = layer._state_shape(batch)
        mask_shape = (batch, 1, shape[-1]) if self.batch_first else (1, batch, shape[-1])

        def shaped(buffers, shape):
            return [buffer[: math.prod(shape)].reshape(shape) for buffer in buffers]

        self.outputs = shaped(workspace.outputs, shape)
        self.masks = shaped(workspace.masks, mask_shape if layer.variational else shape)
        between = shaped(workspace.d_outputs, shape)
        d_input = shaped([workspace.d_input], layer._sequence_shape(steps, batch, layer.input_size))
        self.d_inputs = d_input + [between[n % len(between)] for n in range(1, layer.num_layers)]
        self.output_views = [view for y in self.outputs for view in layer._views(y)]  # of passes
        self.input_views = [layer._whole(y) for y in self.outputs[:-1]]  # of the layers past the first
        self.d_input_views = [layer._whole(dx) for dx in self.d_inputs]
        self.no_dx = self.d_input_views[0]._replace(columns=0)
        self.final = tuple(shaped(workspace.final, state_shape))
        self.d_initial = tuple(shaped(workspace.d_initial, state_shape))
        # of passes
        self.final_rows = layer._row_states(self.final)
        self.d_initial_rows = layer._row_states(self.d_initial)
        self.zero_rows = layer._zero_rows(workspace.zeros, batch)
