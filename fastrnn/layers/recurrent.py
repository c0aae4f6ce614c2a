"""What the recurrent layers share: stacks of passes over one cell."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks, finite
from ..dispatch import TypedKernel
from ..init import fill, generator
from ..kernels.cells import CELLS
from ..kernels.recurrence import Noise
from ..kernels.step import layer_steps
from ..kernels.weights import WEIGHTS
from ..parameters import making_bytes
from ..passes import NO_NOISE, PassBuffers, RecurrentPass, SequenceBatch, split_by_units, threads_by_units, view
from ..segments import Segments
from ..sums import add_to, total
from ..threads import threads_for
from . import initial_state as initial
from .base import Layer, apart, put_into
from .compiled import kernel_weights, kernel_workspace
from .elementwise import draw_dropout, multiply_mask
from .recurrent_workspace import RecurrentWorkspace

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..types import Shapes, State

_PASS_BYTES = 8192  # about what the Python objects of a layer and direction take
_SEGMENT_BYTES = 64  # about what `Segments` takes of integers for each sequence and part of its state
_STEP_WORK = 4_000_000  # multiply-adds of a layer's step that one thread has done before the forward pass would have


class _Record(NamedTuple):
    """What the backward pass has to know of the forward pass."""

    output_shape: tuple[int, ...]
    steps: int
    batch: int
    fresh: bool  # whether it began without a state
    tokens: bool  # whether its input was integers


def _lay_out(layer, steps, batch, lengths, segments, plan):
    """Lay out a batch in `plan`, with the threads that one pass over it is worth."""
    if segments is not None:
        steps, batch = int(segments.lengths.max()), segments.count
    depth = layer.hidden_size + max(layer.input_size, layer.hidden_size)
    threads = threads_for(steps * batch * layer.gates * layer.hidden_size * depth)
    by_units = threads > 1 and not layer.cell.by_row and split_by_units(batch, layer.hidden_size, layer.gates, threads)
    if by_units:
        threads = threads_by_units(batch, layer.hidden_size, layer.gates, depth, layer.dtype, threads)
    else:
        threads = min(threads, batch)
    plan.fill(steps, batch, lengths, by_units and threads > 1, threads, segments)
    return plan


def _same_start(view, array):
    return view.base is not None and view.ctypes.data == array.ctypes.data


class Recurrent(Layer):
    """A stack of `num_layers` recurrent layers in one or two directions."""

    stateful = True
    gates: int  # of the cell: their number
    states: int
    vectors = ()  # (name, count) of the cell's own parameters
    _kept_room: tuple[tuple[int, int, bool], int] | None = None  # a batch's size, and the bytes that inference takes

    def __init__(
        self, cell, input_size, hidden_size, num_layers, *, bias, batch_first, dropout, bidirectional, dtype, seed,
        variational=False, recurrent_dropout=0.0, zoneout=0.0, initial_state=initial.ZEROS, dilation=1, init=None,
        forget_bias=None,
    ):  # fmt: skip
        plain_cell = CELLS[cell]
        self.input_size = checks.integer("input_size", input_size, minimum=1)
        self.hidden_size = checks.integer("hidden_size", hidden_size, minimum=1)
        self.num_layers = checks.integer("num_layers", num_layers, minimum=1)
        self.bias = checks.flag("bias", bias)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.dropout = checks.number("dropout", dropout, minimum=0, below=1)
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        self.variational = checks.flag("variational", variational)
        self.recurrent_dropout = checks.number("recurrent_dropout", recurrent_dropout, minimum=0, below=1)
        self.zoneout = _zoneout(zoneout, plain_cell.states)
        self.initial_state = initial.parse(initial_state)
        self.dilation = checks.integer("dilation", dilation, minimum=1)
        if self.dilation > 1 and self.bidirectional:
            raise ValueError("dilation above 1 needs a unidirectional layer")
        self.directions = 2 if self.bidirectional else 1
        noisy = ("_dropout" if self.recurrent_dropout else "") + ("_zoneout" if any(self.zoneout) else "")
        self.cell = CELLS[cell + noisy]
        rng = generator(seed)
        self._check_memory(dtype)
        super().__init__(self.parameter_shapes(**self._sizes()), dtype)
        fill(self.parameters, self.hidden_size, init, rng, gates=self.gates, forget_bias=forget_bias)
        self._rng = rng  # goes on to draw dropout masks
        self.passes = [
            RecurrentPass(
                self.cell, self.parameters, self._names(n, d), self._vector_names(n, d), self._layer_input(n),
                self.hidden_size, d == 1, self.cell if any(self.zoneout) else plain_cell,
            )
            for n in range(self.num_layers)
            for d in range(self.directions)
        ]  # fmt: skip
        self._begin_with_zeros()
        # at inference dropout needs no factors, which are 1 on average
        self._mean_noise = self._expected_noise() if any(self.zoneout) else NO_NOISE
        self._fixed_noise = None  # that of training, where it is not drawn
        work = self.gates * self.hidden_size * (max(p.input_size for p in self.passes) + self.hidden_size)
        self._step_rows = _STEP_WORK // work  # the largest batch whose steps don't take the forward pass
        if self.cell.name in layer_steps and self.dilation == 1 and self.initial_state != initial.LEARNED:
            self._layer_steps = [TypedKernel(layer_steps[self.cell.name]) for _ in range(2)]  # of one stream, a batch
        else:
            self._step_rows = 0

    def _check_memory(self, dtype):
        """The parameters' bytes by a formula, for a count of layers may be too large to go through them."""
        rows = self.gates * self.hidden_size * self.directions
        first = rows * (self.input_size + self.hidden_size + 2)
        others = rows * ((self.directions + 1) * self.hidden_size + 2)
        numbers = first + (self.num_layers - 1) * others
        size = numbers * making_bytes(checks.float_dtype(dtype)) + self.num_layers * self.directions * _PASS_BYTES
        checks.memory(f"{type(self).__name__} with about {numbers:,} parameters", size)

    def _layer_input(self, layer):
        return self.input_size if layer == 0 else self.directions * self.hidden_size

    @staticmethod
    def _names(layer, direction):
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        return tuple(f"{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    @classmethod
    def _vector_names(cls, layer, direction):
        suffix = cls._names(layer, direction)[0].removeprefix("weight_ih")
        return tuple((f"{kind}{suffix}", count) for kind, count in cls.vectors)

    @classmethod
    def parameter_shapes(
        cls,
        *,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        initial_state: str | initial.NoisyState | dict[str, float] = initial.ZEROS,
        **_: Any,
    ) -> Shapes:
        rows = cls.gates * hidden_size
        directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            features = input_size if layer == 0 else directions * hidden_size
            for direction in range(directions):
                sizes = ((rows, features), (rows, hidden_size), (rows,), (rows,))
                yield from zip(cls._names(layer, direction), sizes if bias else sizes[:2], strict=False)
                for name, count in cls._vector_names(layer, direction):
                    yield name, (count * hidden_size,)
        if initial_state == initial.LEARNED:
            for name in initial.NAMES[: cls.states]:
                yield name, (num_layers * directions, hidden_size)

    def _begin_with_zeros(self):
        """Learned initial states are zeros at first."""
        if self.initial_state == initial.LEARNED:
            with self.parameters.writing() as values:
                values[-self.states * len(self.passes) * self.hidden_size :] = 0

    def _sizes(self):
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "bidirectional": self.bidirectional,
            "initial_state": self.initial_state,
        }

    def config(self) -> dict[str, Any]:
        state, zoneout = self.initial_state, self.zoneout
        special = {  # what most layers do without is left out of their files
            "initial_state": (state.config() if isinstance(state, initial.NoisyState) else state, initial.ZEROS),
            "variational": (self.variational, False),
            "recurrent_dropout": (self.recurrent_dropout, 0.0),
            "zoneout": (list(zoneout) if len(set(zoneout)) > 1 else zoneout[0], 0.0),
            "dilation": (self.dilation, 1),
        }
        return {
            **{name: value for name, value in self._sizes().items() if name not in special},
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "dtype": self.dtype.name,
            **{name: value for name, (value, usual) in special.items() if value != usual},
        }

    def _output_features(self, features):
        if features not in (None, self.input_size):
            raise ValueError(f"it takes {self.input_size} features, the layer before gives {features}")
        return self.directions * self.hidden_size

    def _input_features(self):
        return self.input_size

    def _named_outputs(self, y, index):
        layer = index % self.num_layers
        parts = np.split(y, self.directions, -1)
        return [(f"h_l{layer}{'_reverse' if d else ''}", part, d == 1) for d, part in enumerate(parts)]

    # checks

    def _check_input(self, x):
        if not isinstance(x, np.ndarray):
            x = checks.as_array("x", x)
        if self._step_dimensions(x) == 1:
            return checks.integers("x", x, 2)
        return checks.float_array("x", x, self.dtype, (None, None, self.input_size))

    def _check_step_input(self, x_t):
        if self._step_dimensions(x_t[np.newaxis]) == 1:
            x_t = checks.integers("x_t", x_t, 1)
            self._check_values("x_t", x_t, None)
            return x_t
        return checks.float_array("x_t", x_t, self.dtype, (None, self.input_size))

    def _check_values(self, name, x, lengths):
        if x.dtype.kind in "iu":
            checks.tokens(name, x, lengths, self.batch_first, self.input_size)

    def _step_dimensions(self, x=None):
        """Tokens have one less than real input; a sequence of integers with as many as that is a mistake."""
        return 1 if checks.holds_integers(x) and x.ndim < 3 else 2

    def _state_shape(self, batch):
        return self.num_layers * self.directions, batch, self.dilation * self.hidden_size

    def _check_state(self, name, state, batch):
        if state is None:
            return None
        if self.states == 1:
            return (checks.float_array(name, state, self.dtype, self._state_shape(batch)),)
        if not isinstance(state, (tuple, list)) or len(state) != self.states:
            raise TypeError(f"{name} must be a pair (h, c) of arrays")
        shape = self._state_shape(batch)
        parts = zip(("h", "c"), state, strict=True)
        return tuple(checks.float_array(f"{name}'s {part}", s, self.dtype, shape) for part, s in parts)

    def _given_state(self, name, state, batch):
        return None if state is None else self._pack_state(self._check_state(name, state, batch))

    def _begin_anew(self, state, resets):
        pairs = zip(state, self._fresh_states(), strict=True)
        return tuple([np.where(resets[:, np.newaxis], np.tile(new, self.dilation), part) for part, new in pairs])

    def _state_parts(self, state):
        return state if self.states > 1 and isinstance(state, (tuple, list)) else (state,)

    def _pack_state(self, parts):
        return tuple(parts) if self.states > 1 else parts[0]

    def _with_batch(self, name, state):
        if state is None:
            return None
        parts = [checks.as_array(name, part) for part in self._state_parts(state)]
        for part in parts:
            if part.ndim != 2:
                raise ValueError(f"{name} of a single stream must have 2 dimensions, got {part.ndim}")
        return self._pack_state([part[:, np.newaxis] for part in parts])

    def _without_batch(self, state):
        return self._pack_state([s[:, 0] for s in self._state_parts(state)])

    # the work

    def _workspace_bytes(self, steps, batch):
        between = self.num_layers - 1
        arrays = self.num_layers + min(2, between) + (between if self.dropout else 0)
        noise = sum([p.cell.noise for p in self.passes])
        row = arrays * self.directions * self.hidden_size + self.input_size + noise * self.hidden_size
        numbers = steps * batch * row + (2 * self.states + 1) * math.prod(self._state_shape(batch))
        passes = sum(PassBuffers.count_bytes(p, steps, batch, self.cell.parts) for p in self.passes)
        return numbers * self.dtype.itemsize + passes + SequenceBatch.count_bytes(steps, batch)

    def _inference_bytes(self, steps, batch):
        states = self.states * math.prod(self._state_shape(batch)) * self.dtype.itemsize
        passes = max(PassBuffers.count_bytes(p, steps, batch, self.cell.parts, keep=False) for p in self.passes)
        return states + passes + SequenceBatch.count_bytes(steps, batch)

    def _make_workspace(self, steps, batch):
        return RecurrentWorkspace(self, steps, batch)

    def _sequence_shape(self, steps, batch, features):
        return (batch, steps, features) if self.batch_first else (steps, batch, features)

    def _views(self, y):
        """The columns of an output, or of its gradient, that each direction has."""
        hidden = self.hidden_size
        return [view(y, self.batch_first, direction * hidden, hidden) for direction in range(self.directions)]

    def _whole(self, x):
        return view(x, self.batch_first, 0, x.shape[-1])

    def _row_states(self, states):
        """For each pass the flat (B·H) arrays of its part of `states`, a tuple of (L·D,B,H)."""
        flat = [state.reshape(len(self.passes), -1) for state in states]
        return list(zip(*flat, strict=True))

    def _zero_rows(self, zeros, batch):
        """The same for a state of zeros, out of an array of at least B·H of them."""
        return [(zeros[: batch * self.hidden_size],) * self.states] * len(self.passes)

    def _check_room(self, x, given):
        steps, batch = self._extent(x)
        key = steps, batch, given
        kept = self._kept_room  # a stream's blocks are all of one shape
        if kept is None or kept[0] != key:
            buffers = min(2, self.num_layers - given)
            size = buffers * steps * batch * self.directions * self.hidden_size * self.dtype.itemsize
            kept = self._kept_room = key, size + self._inference_bytes(steps, batch)
        checks.memory(f"inference for T={steps}, B={batch}", kept[1])

    def _of_layer(self, layer):
        """The indices of a layer's passes."""
        return range(layer * self.directions, (layer + 1) * self.directions)

    def _segments(self, steps, batch, lengths, resets):
        """The `Segments` that a batch falls into; None if it is just its sequences."""
        if resets is None and self.dilation == 1:
            return None
        if resets is not None and self.batch_first:
            resets = resets.T
        count = batch if resets is None else batch + np.count_nonzero(resets)
        size = _SEGMENT_BYTES * count * self.dilation
        checks.memory(f"a batch of {count} sequences with dilation {self.dilation}", size)
        return Segments(steps, batch, lengths, resets, self.dilation)

    def _infer(self, x, state, lengths, resets, out=None):
        steps, batch = self._extent(x)
        tokens = x.dtype.kind in "iu"
        source = self._tokens_view(np.ascontiguousarray(x, np.int64)) if tokens else self._whole(x)
        shape = self._sequence_shape(steps, batch, self.directions * self.hidden_size)
        segments = self._segments(steps, batch, lengths, resets)
        plan = _lay_out(self, steps, batch, lengths, segments, SequenceBatch(steps, batch, keep=False))
        final = tuple([np.empty(self._state_shape(batch), self.dtype) for _ in range(self.states)])
        initial_rows, final_rows = self._state_rows(state, final, plan, None)
        watch = finite.current()
        outputs = []  # the last one and the one before: each layer but the first two writes over the latter
        for layer in range(self.num_layers):
            if out is not None and layer == self.num_layers - 1:
                y = out
            else:
                y = np.empty(shape, self.dtype) if layer < 2 else outputs[0]
            if lengths is not None:
                y.fill(0)
            for n, target in zip(self._of_layer(layer), self._views(y), strict=True):
                product = self.passes[n]
                arrays = PassBuffers(product, plan.steps, plan.batch, False, self.cell.parts, tokens and layer == 0)
                product.forward(source, target, plan, arrays, initial_rows[n], final_rows[n], self._mean_noise)
            outputs = [*outputs[-1:], y]
            source = self._whole(y)
            if watch is not None:
                watch.output(self, y, layer)
        self._end_segments(state, final, plan, final_rows)
        return y, self._pack_state(final)

    def _forward(self, x, state, lengths, resets, ws):
        steps, batch = self._extent(x)
        segments = self._segments(steps, batch, lengths, resets)
        plan = _lay_out(self, steps, batch, lengths, segments, ws.plan)
        layout = ws.layout(steps, batch)
        tokens = x.dtype.kind in "iu"
        if tokens:
            kept = ws.arrays.array("tokens", x.shape, np.int64)
            kept[...] = x
            x_view = self._tokens_view(kept)
        else:
            x_view = self._whole(apart(x, *ws.outputs, *ws.final))
        if segments is None and state is not None:
            initial_rows, final_rows = self._initial_rows(state, layout, ws), layout.final_rows
        elif segments is None and self.initial_state == initial.ZEROS:
            initial_rows, final_rows = layout.zero_rows, layout.final_rows
        else:
            if state is not None:
                state = tuple([apart(s, *ws.final, *ws.outputs) for s in state])
            initial_rows, final_rows = self._state_rows(state, layout.final, plan, ws)
        watch = finite.current()
        for layer, y in enumerate(layout.outputs):
            if lengths is not None:
                y.fill(0)
            for n in self._of_layer(layer):
                ws.passes[n].repeatable = ws.repeatable
                self.passes[n].forward(
                    x_view, layout.output_views[n], plan, ws.passes[n], initial_rows[n], final_rows[n],
                    self._draw_noise(ws.noise[n], steps, batch),
                )  # fmt: skip
            if watch is not None:
                watch.output(self, y, layer)
            if layer < self.num_layers - 1:
                if self.dropout:
                    draw_dropout(self._rng, self.dropout, layout.masks[layer])
                    multiply_mask(y, layout.masks[layer], y)
                x_view = layout.input_views[layer]
        self._end_segments(state, layout.final, plan, final_rows)
        ws.record = _Record(y.shape, steps, batch, state is None, tokens)
        ws.returned = tuple([part.view() for part in layout.final])
        return y.view(), self._pack_state(ws.returned)

    def _initial_rows(self, state, layout, ws):
        """The initial state of each pass: in place where it is this workspace's own, a copy if only a part of it is."""
        if len(ws.returned) == len(state) and all(map(operator.is_, state, ws.returned)):
            return layout.final_rows
        written = (*ws.final, *ws.outputs)
        pairs = zip(state, layout.final, strict=True)
        return self._row_states([s if _same_start(s, f) else apart(s, *written) for s, f in pairs])

    def _backward(self, dy, dstate, ws):
        plan, record = ws.plan, ws.record
        layout = ws.layout(record.steps, record.batch)
        written = (*ws.d_initial, ws.d_input, *ws.d_outputs)
        dy = apart(dy, *written)
        if dstate is not None:
            dstate = [apart(d, *written) for d in dstate]
        d_final_rows, d_initial_rows = self._gradient_rows(dstate, layout, ws)
        carry_factor = ws.carry_factor**self.dilation  # a state comes from so many steps before
        for layer in reversed(range(self.num_layers)):
            dx, dx_view = layout.d_inputs[layer], layout.d_input_views[layer]
            if layer == 0 and (record.tokens or not ws.wants_dx):
                dx, dx_view = None, layout.no_dx
            elif plan.ragged:
                dx.fill(0)
            for n, dy_view in zip(self._of_layer(layer), self._views(dy), strict=True):
                self.passes[n].backward(
                    dy_view, dx_view, n % self.directions > 0, plan, ws.passes[n], d_final_rows[n], d_initial_rows[n],
                    self._drawn_noise(ws.noise[n], record.batch), carry_factor, not ws.state_only,
                )  # fmt: skip
            if self.dropout and layer:
                multiply_mask(dx, layout.masks[layer - 1], dx)
            dy = dx
        if plan.segments is not None or self.initial_state == initial.LEARNED:
            self._end_gradients(dstate, layout.d_initial, plan, d_initial_rows, record.fresh, not ws.state_only)
        return None if dx is None else dx.view(), self._pack_state([d.view() for d in layout.d_initial])

    def _tokens_view(self, tokens):
        """A `View` of contiguous (T,B) integers, or (B,T)."""
        return view(tokens[..., np.newaxis], self.batch_first, 0, 1)

    # noise

    def _draw_noise(self, arrays, steps, batch):
        """A pass's `Noise` in training, drawn into `arrays`: dropout's factors, then where the state's parts stay."""
        if self._fixed_noise is not None:
            return self._fixed_noise
        if not arrays:
            return NO_NOISE
        drawn = [array[: steps * batch * self.hidden_size] for array in arrays]
        if self.recurrent_dropout:
            draw_dropout(self._rng, self.recurrent_dropout, drawn[0])
        if any(self.zoneout):
            for array, p in zip(drawn[-self.states :], self.zoneout, strict=True):
                self._rng.random(dtype=array.dtype, out=array)
                np.less(array, p, out=array)
        return self._drawn_noise(arrays, batch)

    def _drawn_noise(self, arrays, batch):
        if self._fixed_noise is not None:
            return self._fixed_noise
        return Noise(arrays, batch * self.hidden_size, self.hidden_size, 0) if arrays else NO_NOISE

    def _silence(self):
        self._fixed_noise = self._expected_noise()
        self.dropout, self.variational = 0.0, False
        self.recurrent_dropout, self.zoneout = 0.0, (0.0,) * self.states
        if isinstance(self.initial_state, initial.NoisyState):
            self.initial_state = initial.ZEROS

    def _expected_noise(self):
        """The means of the cell's noise: 1 of dropout's factors, of zoneout the share of units that stay."""
        zoneout = self.zoneout if any(self.zoneout) else ()
        means = [1.0] * (self.cell.noise - len(zoneout)) + list(zoneout)
        if not means:
            return NO_NOISE
        size = self.passes[0].padded(self.hidden_size) + self.passes[0].panel
        return Noise(tuple([np.full(size, mean, self.dtype) for mean in means]), 0, 0, 0)

    # the state at the beginning and the end

    def _fresh_states(self, ws=None, count=1):
        """What a new sequence begins with: for each part of the state (L·D,count,H), or (L·D,1,H) for all alike."""
        state = self.initial_state
        if state == initial.LEARNED:
            return [self.parameters[name][:, np.newaxis] for name in initial.NAMES[: self.states]]
        if isinstance(state, initial.NoisyState) and ws is not None:
            shape = len(self.passes), count, self.hidden_size
            drawn = [ws.room(("fresh", part), shape) for part in range(self.states)]
            for array in drawn:
                self._rng.standard_normal(dtype=array.dtype, out=array)
                array *= state.std
            return drawn
        return [np.zeros((len(self.passes), 1, self.hidden_size), self.dtype)] * self.states

    def _phases(self, state):
        """One pass's state (B,d·H) as (B·d,H): see `Segments`."""
        return state.reshape(-1, self.hidden_size)

    def _state_rows(self, state, final, plan, ws):
        """Of each pass the flat arrays (R·H) of the initial and the final states of the plan's R sequences.

        `_end_segments` takes from the final ones what belongs into `final`. `ws` is None at inference.
        """
        segments = plan.segments
        if segments is None and state is not None:
            return self._row_states(state), self._row_states(final)
        if segments is None and self.initial_state == initial.ZEROS:
            zeros = np.zeros(plan.batch * self.hidden_size, self.dtype)
            return self._zero_rows(zeros, plan.batch), self._row_states(final)

        def make(name):
            shape, parts = (len(self.passes), plan.batch, self.hidden_size), range(self.states)
            return [np.empty(shape, self.dtype) if ws is None else ws.room((name, part), shape) for part in parts]

        begins, fresh = make("begins"), self._fresh_states(ws, plan.batch)
        for part, new in enumerate(fresh):
            begins[part][...] = new
            if state is not None:
                for n, product in enumerate(self.passes):
                    segments.begin(product.reverse, self._phases(state[part][n]), begins[part][n])
        return self._row_states(begins), self._row_states(final if segments is None else make("ends"))

    def _end_segments(self, state, final, plan, final_rows):
        """The batch's final states, from those of its segments."""
        segments = plan.segments
        if segments is None:
            return
        for part, (target, new) in enumerate(zip(final, self._fresh_states(), strict=True)):
            for n, product in enumerate(self.passes):
                before = None if state is None else self._phases(state[part][n])
                target_rows = self._phases(target[n])
                target_rows[...] = new[n]
                segments.end(product.reverse, self._phases(final_rows[n][part]), before, target_rows)

    def _gradient_rows(self, dstate, layout, ws):
        """Of each pass the flat arrays of the gradients of its sequences' final and initial states."""
        segments = ws.plan.segments
        if segments is None:
            return layout.zero_rows if dstate is None else self._row_states(dstate), layout.d_initial_rows
        shape = len(self.passes), segments.count, self.hidden_size
        d_ends = [ws.room(("d_ends", part), shape) for part in range(self.states)]
        d_begins = [ws.room(("d_begins", part), shape) for part in range(self.states)]
        for part, target in enumerate(d_ends):
            target.fill(0)
            if dstate is not None:
                for n, product in enumerate(self.passes):
                    segments.end_gradients(product.reverse, self._phases(dstate[part][n]), target[n])
        return self._row_states(d_ends), self._row_states(d_begins)

    def _end_gradients(self, dstate, d_initial, plan, d_initial_rows, fresh, parameters):
        """The gradients of the batch's initial states, and of those that new sequences begin with, where learned.

        fresh: whether the batch began without a state. parameters: whether to add to those of parameters.
        """
        segments, learned = plan.segments, parameters and self.initial_state == initial.LEARNED
        for part, d_state in enumerate(d_initial):
            gradient = self.parameters.gradient(initial.NAMES[part]) if learned else None
            for n, product in enumerate(self.passes):
                rows = self._phases(d_state[n])
                if segments is not None:
                    d_begins = self._phases(d_initial_rows[n][part])
                    d_final = None if dstate is None else self._phases(dstate[part][n])
                    d_new = segments.begin_gradients(product.reverse, d_begins, d_final, rows)
                    if learned:
                        add_to(gradient[n], d_new)
                if learned and fresh:
                    add_to(gradient[n], total(rows))

    def _add_initial_gradient(self, dstate):
        if self.initial_state == initial.LEARNED:
            for name, part in zip(initial.NAMES, self._state_parts(dstate), strict=False):
                add_to(self.parameters.gradient(name), total(part, 1))

    def _states_before(self, workspace, steps, rows):
        return workspace.states_before(steps, rows)

    def step(
        self,
        x_t: ArrayLike,
        state: State = None,
        *,
        resets: ArrayLike | None = None,
        out: np.ndarray | None = None,
        nonfinite: str = finite.IGNORE,
    ) -> tuple[np.ndarray, State]:
        if self.bidirectional:
            raise ValueError("step needs a unidirectional layer")
        plain = resets is None and nonfinite == finite.IGNORE and finite.current() is None
        result = self._step_as_given(x_t, state) if plain else None
        if result is None:
            return super().step(x_t, state, resets=resets, out=out, nonfinite=nonfinite)
        return result if out is None else (put_into(out, result[0]), result[1])

    step.__doc__ = Layer.step.__doc__

    def _step_as_given(self, x_t, state):
        """`step` of arrays that the kernels take as they are, such as the last step's; None of any other arguments."""
        if type(x_t) is not np.ndarray or x_t.ndim > 2:
            return None
        lead = x_t.shape[:-1]  # (B,), or () for a single stream
        rows = lead[0] if lead else 1
        dtype = self.parameters.dtype
        if not 0 < rows <= self._step_rows or not checks.is_plain(x_t, dtype, (*lead, self.input_size)):
            return None
        shape = (self.num_layers, *lead, self.hidden_size)
        if state is None:
            return self._step_directly(x_t, (np.zeros(shape, dtype),) * self.states)
        states = state if self.states > 1 else (state,)
        if type(states) is not tuple or len(states) != self.states:
            return None
        for part in states:
            if not checks.is_plain(part, dtype, shape):
                return None
        return self._step_directly(x_t, states)

    def _step_directly(self, x_t, states, watch=None):
        """One step of a small batch without the forward pass's preparations.

        x_t: (B,I); states: tuple of (L,B,H). All without B for a single stream. watch: looks at the outputs of a batch.
        """
        results = tuple(map(np.empty_like, states))
        y_shape = results[0].shape[1:]
        step = self._layer_steps[x_t.ndim - 1]
        for layer, product in enumerate(self.passes):
            y = np.empty(y_shape, x_t.dtype)
            step(product.forward_weights(), x_t, layer, states, y, results)
            if watch is not None:
                watch.output(self, y, layer)
            x_t = y
        return y, results if len(results) > 1 else results[0]

    def _step(self, x_t, state):
        batch = x_t.shape[0]
        if batch <= self._step_rows and x_t.dtype == self.dtype:
            if state is None:
                state = (np.zeros(self._state_shape(batch), self.dtype),) * self.states
            return self._step_directly(x_t, state, finite.current())
        time_axis = 1 if self.batch_first else 0
        y, state = self._infer(np.expand_dims(x_t, time_axis), state, None, None)
        return np.squeeze(y, time_axis), state

    def kernel_weights(self) -> NamedTuple:
        """Weights for the functions of `fastrnn.kernels`: a NamedTuple of arrays that Numba takes as an argument.

        A snapshot in packed form: later changes of the layer do not show in it. One layer, one direction only.
        """
        return kernel_weights(self._kernel_class("kernel_weights"), self.passes[0])

    def kernel_workspace(self, T: int, B: int, *, threads: int = 1, input_gradient: bool = True) -> NamedTuple:
        """Buffers for the sequence functions of `fastrnn.kernels`, for up to `T` steps in batches of up to `B`.

        threads: how many threads a call may take; only 1 may be used in a `prange`.
        input_gradient: whether backward passes give the gradient of the input.
        """
        self._kernel_class("kernel_workspace")
        return kernel_workspace(self.passes[0], T, B, self.cell.parts, threads, input_gradient)

    def _kernel_class(self, name):
        """The class of the weights for `fastrnn.kernels`, if the layer can have some."""
        if self.num_layers > 1 or self.bidirectional or self.dilation > 1:
            raise ValueError(f"{name} needs a single layer in one direction, without dilation")
        if self.cell.name not in WEIGHTS:
            raise ValueError(f"there are no kernels for compiled code for {self!r}")
        return WEIGHTS[self.cell.name]


def _zoneout(value, states):
    """The argument `zoneout` as a probability for each part of the state."""
    if isinstance(value, (tuple, list)):
        if len(value) != states or states == 1:
            raise ValueError(f"zoneout must be a number{' or a pair (h, c)' if states > 1 else ''}, got {value!r}")
        return tuple(checks.number(f"zoneout[{i}]", p, minimum=0, maximum=1) for i, p in enumerate(value))
    return (checks.number("zoneout", value, minimum=0, maximum=1),) * states
