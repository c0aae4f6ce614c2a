"""Layers joined: `Sequential`, and the containers `Residual` and `Concatenated`; one flat buffer of parameters each."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import checks, finite, summary
from .layers.base import Layer, Workspace, apart, put_into
from .layers.stateless import clear_past_ends
from .parameters import Parameters

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .types import State


class _Record(NamedTuple):
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch: int
    lengths: np.ndarray | None


class _ContainerWorkspace(Workspace):
    """The layers' workspaces, and what the container adds."""

    def __init__(self, container, steps, batch):
        super().__init__(container, steps, batch)
        self.parts = [layer._make_workspace(n, batch) for layer, n in container._with_steps(steps)]
        self._lengths = np.empty(batch, np.int64)

    def keep_lengths(self, lengths):
        """A copy of `lengths` for the backward pass, None as they are."""
        if lengths is None:
            return None
        kept = self._lengths[: lengths.size]
        kept[...] = lengths
        return kept

    def penalty(self):
        """The sum over all layers, see `Workspace.penalty`."""
        return sum([part.penalty() for part in self.parts])

    def states(self):
        """The layers' `states()`, a list with an entry a layer, None for those without state.

        ValueError unless a forward pass was recorded, and no backward pass has taken it.
        """
        return self._of_parts(lambda part: part.states())

    def gates(self):
        """The layers' `gates()`, as `states`."""
        return self._of_parts(lambda part: part.gates())

    def _of_parts(self, function):
        if self.record is None:
            raise ValueError("states and gates need a forward pass recorded in workspace, before its backward pass")
        return self.layer._report([function(part) for part in self.parts])


class Container(Layer):
    """Base of what joins layers: takes a batch through all of them, one after the other, and gradients back.

    Each layer belongs to the container from then on, and follows its `batch_first`; layers without parameters follow
    the others' dtype. Names of parameters are the layers' with their number before: "1.weight_ih_l0".
    """

    def __init__(self, *layers: Layer, batch_first: bool = False):
        checks.flag("batch_first", batch_first)
        self._check_layers(layers)
        self.layers = layers
        self._check_fit()
        self.parameters = Parameters.joined({str(i): layer.parameters for i, layer in enumerate(layers)})
        self.owner = None
        self._kept_after = None
        for layer in layers:
            layer.owner = self
        self.batch_first = batch_first

    def _check_layers(self, layers):
        """Refuse what can't be joined, whatever the sizes."""
        if not layers:
            raise ValueError(f"{type(self).__name__} needs at least one layer")
        seen = set()
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} must be a layer, got {type(layer).__name__}")
            if layer.owner is not None or id(layer) in seen:
                raise ValueError(f"layer {i}, {type(layer).__name__}, belongs to a model already")
            if i and layer._step_dimensions() == 1:
                raise ValueError(f"layer {i}, {type(layer).__name__}, takes integers: it can only be the first")
            seen.add(id(layer))

    def _check_fit(self):
        """Find out what input the layers take, and refuse sizes that don't fit."""
        self._features = self._input_features()  # None for any
        self._output_features(2 if self._features is None else self._features)  # some layers need an even number
        ways = {1: 1, None: None}  # steps of the input, if it has any -> those of the layers' output so far
        for i, layer in enumerate(self.layers):
            left = {}
            for first, steps in ways.items():
                try:
                    left[first] = layer._output_steps(steps)
                except ValueError as error:
                    problem = str(error)  # the error itself would keep this frame, and what its callers hold
            if not left:
                raise self._misfit(i, problem)
            ways = left
        self._takes_sequences, self._takes_vectors = 1 in ways, None in ways

    def _misfit(self, i, problem):
        return ValueError(f"layer {i}, {type(self.layers[i]).__name__}, does not fit: {problem}")

    @property
    def batch_first(self) -> bool:
        """Whether sequences are (B,T,…) rather than (T,B,…); it may be set."""
        return self._batch_first

    @batch_first.setter
    def batch_first(self, value):
        value = checks.flag("batch_first", value)
        self._batch_first = value
        for layer in self.layers:
            layer.batch_first = value

    @property
    def stateful(self) -> bool:
        """Whether any layer has a state."""
        return any(layer.stateful for layer in self.layers)

    @property
    def keeps_steps(self) -> bool:
        """Whether all layers do."""
        return all(layer.keeps_steps for layer in self.layers)

    def config(self) -> dict[str, Any]:
        """The arguments beside the layers; their own configurations are in `layers`."""
        return {"batch_first": self.batch_first}

    def __repr__(self):
        return summary.table(self)

    def _repr_html_(self):
        return summary.html_table(self)

    def __reduce__(self):
        parts = [layer.__reduce__() for layer in self.layers]
        return _rebuild, (type(self), parts, self.config())

    def step(
        self,
        x_t: ArrayLike,
        state: State = None,
        *,
        resets: ArrayLike | None = None,
        out: np.ndarray | None = None,
        nonfinite: str = finite.IGNORE,
    ) -> tuple[np.ndarray, State]:
        """One time step through all layers: see `Layer.step`."""
        if nonfinite != finite.IGNORE:
            return finite.watched(nonfinite, self, self.step, x_t, state, resets=resets, out=out)
        y, state = self._step(x_t, state, resets)
        watch = finite.current()
        if watch is not None:
            watch.end(self, y, None)  # the layers have looked at their own states
        return (y, state) if out is None else (put_into(out, y), state)

    # What subclasses give: how outputs become one, and gradients of one those of all.

    @abstractmethod
    def _run(self, x, state, lengths, resets, workspace, out=None):
        """Output and the layers' states, by way of `_outputs`; `workspace` is None at inference, which may have `out`
        to write the output into."""

    @abstractmethod
    def _run_back(self, dy, dstate, workspace):
        """Gradients of the input and of the layers' states, by way of `_take_back`."""

    @abstractmethod
    def _step(self, x_t, state, resets=None): ...

    def _joined_width(self, widths):
        """The features of the output, from `_widths`."""
        return widths[-1]

    # A state, a tuple with an entry a layer, None for those without; and what else there is an entry a layer of.

    def _entries(self, name, state):
        """A list of (name, entry) with an entry a layer."""
        count = len(self.layers)
        if state is None:
            state = (None,) * count
        if not isinstance(state, (tuple, list)):
            raise TypeError(f"{name} must be a tuple with an entry a layer, got {type(state).__name__}")
        if len(state) != count:
            raise ValueError(f"{name} must have {count} entries, one a layer, got {len(state)}")
        return [(f"{name}[{i}]", entry) for i, entry in enumerate(state)]

    def _packed(self, entries):
        return tuple(entries)

    def _report(self, entries):
        return entries

    def _check_state(self, name, state, batch):
        entries = zip(self.layers, self._entries(name, state), strict=True)
        return [layer._check_state(own_name, entry, batch) for layer, (own_name, entry) in entries]

    def _given_state(self, name, state, batch):
        if state is None:
            return None
        entries = zip(self.layers, self._entries(name, state), strict=True)
        return self._packed([layer._given_state(own_name, entry, batch) for layer, (own_name, entry) in entries])

    def _states_before(self, workspace, steps, rows):
        pairs = zip(self.layers, workspace.parts, strict=True)
        return self._packed([layer._states_before(part, steps, rows) for layer, part in pairs])

    # The way through the layers, and back.

    def _outputs(self, x, state, lengths, resets, workspace, out=None):
        """Each layer's output, the last one's in `out`, and final state, one after the other; `state` has an entry a
        layer."""
        watch = finite.current()
        for i, layer in enumerate(self.layers):
            if workspace is None:
                x, new = layer._infer(x, state[i], lengths, resets, out if layer is self.layers[-1] else None)
            else:
                x, new = layer._forward(x, state[i], lengths, resets, workspace.parts[i])
            if watch is not None:
                watch.output(layer, x)
            yield x, new
            if not layer.keeps_steps:
                lengths = resets = None

    def _infer(self, x, state, lengths, resets, out=None):
        y, states = self._run(x, state, lengths, resets, None, out)
        return y, self._packed(states)

    def _forward(self, x, state, lengths, resets, workspace):
        for part in workspace.parts:
            part.repeatable = workspace.repeatable
        input_shape, batch = x.shape, self._extent(x)[1]
        lengths = workspace.keep_lengths(lengths)
        y, states = self._run(x, state, lengths, resets, workspace)
        workspace.record = _Record(input_shape, y.shape, batch, lengths)
        return y, self._packed(states)

    def _backward(self, dy, dstate, workspace):
        for part in workspace.parts:
            part.carry_factor = workspace.carry_factor
            part.state_only = workspace.state_only
            part.penalty_scale = workspace.penalty_scale
        dx, dstates = self._run_back(dy, dstate, workspace)
        return dx, self._packed(dstates)

    def _take_back(self, i, dy, dstate, workspace):
        """Gradients of layer i's input and state."""
        return self.layers[i]._backward(dy, dstate[i], workspace.parts[i])

    def _step_outputs(self, x_t, state, resets):
        """As `_outputs`, of one step."""
        for layer, (_, entry) in zip(self.layers, self._entries("state", state), strict=True):
            x_t, new = layer.step(x_t, entry, resets=resets)
            yield x_t, new

    # What `Layer` asks for.

    def _input_features(self):
        if self._step_dimensions() == 1:
            return None
        factor = 1  # by which layers that take any width have multiplied it
        for i, layer in enumerate(self.layers):
            width = layer._input_features()
            if width is not None:
                if width % factor:
                    raise self._misfit(i, f"it takes {width} features, the layers before give a multiple of {factor}")
                return width // factor
            factor *= layer._output_features(2) // 2
        return None

    def _widths(self, features):
        """The features of the input and of each layer's output; None where not known."""
        widths = [self._features if features is None else features]
        for i, layer in enumerate(self.layers):
            try:
                widths.append(layer._output_features(widths[-1]))
            except ValueError as error:
                raise self._misfit(i, error) from None
        return widths

    def _output_features(self, features):
        return self._joined_width(self._widths(features))

    def _output_steps(self, steps):
        for layer in self.layers:
            steps = layer._output_steps(steps)
        return steps

    def _check_input(self, x):
        x = self.layers[0]._check_input(x)
        if x.dtype.kind == "f":  # the first layer may take any width and dimensions, a later one does not
            if not (self._takes_sequences if x.ndim == 3 else self._takes_vectors):
                raise ValueError(f"x must have {5 - x.ndim} dimensions for this model, got {x.ndim}")
            if self._features not in (None, x.shape[-1]):
                raise ValueError(f"x must have {self._features} features for this model, got {x.shape[-1]}")
            if self._features is None:
                self._output_features(x.shape[-1])  # some layers need an even number
        return x

    def _check_values(self, name, x, lengths):
        self.layers[0]._check_values(name, x, lengths)

    def _check_step_input(self, x_t):
        return self.layers[0]._check_step_input(x_t)

    def _step_dimensions(self, x=None):
        return self.layers[0]._step_dimensions(x)

    def _extent(self, x):
        return self.layers[0]._extent(x)

    def _with_steps(self, steps):
        """The layers, each with the number of steps its input has: 1 where there is no time dimension."""
        steps = steps if self._takes_sequences else None
        for layer in self.layers:
            yield layer, steps or 1
            steps = layer._output_steps(steps)

    def _workspace_bytes(self, steps, batch):
        return sum(layer._workspace_bytes(n, batch) for layer, n in self._with_steps(steps))

    def _make_workspace(self, steps, batch):
        return _ContainerWorkspace(self, steps, batch)

    def _shape_after(self, x):
        return self._after(x)[0]

    def _check_room(self, x, given):
        shape, size = self._after(x)
        if given:
            size -= math.prod(shape) * self.dtype.itemsize
        checks.memory("inference", size)

    def _after(self, x):
        """The shape of the output for a checked input, and about the bytes that inference takes."""
        real = x.dtype.kind == "f"
        key = x.shape, real, self._batch_first
        kept = self._kept_after  # a stream's blocks are all of one shape
        if kept is None or kept[0] != key:
            steps, batch = self._extent(x)
            steps = None if real and x.ndim == 2 else steps
            size = self._bytes_at_once(steps, batch, x.shape[-1] if real else None)
            kept = self._kept_after = key, super()._shape_after(x), size
        return kept[1:]

    def _bytes_at_once(self, steps, batch, features):
        """About the bytes that inference takes: the layers' outputs, and what one of them needs inside."""
        sizes, inside = [], 0
        for layer, width in zip(self.layers, self._widths(features)[1:], strict=True):
            inside = max(inside, layer._inference_bytes(steps or 1, batch))
            steps = layer._output_steps(steps)
            sizes.append((steps or 1) * batch * (width or 1))
        return self._numbers_at_once(sizes) * self.dtype.itemsize + inside

    def _inference_bytes(self, steps, batch):
        return self._bytes_at_once(steps if self._takes_sequences else None, batch, None)

    def _numbers_at_once(self, sizes):
        """Numbers that inference holds at once, of the sizes of the layers' outputs."""
        return 2 * max(sizes)

    def _silence(self):
        for layer in self.layers:
            layer._silence()

    def _generators(self):
        return [generator for layer in self.layers for generator in layer._generators()]


def _rebuild(kind, parts, config):
    return kind(*(rebuild(*arguments) for rebuild, arguments in parts), **config)


class Sequential(Container):
    """Layers one after the other; each belongs to this model from then on.

    `batch_first` is the model's own, and its layers follow it; so does the dtype of layers without parameters. A state
    is a tuple with an entry a layer, None for those without. State-dict names are PyTorch's: "0.weight",
    "1.weight_ih_l0", and of a layer in a container "1.0.weight_ih_l0". ValueError if the sizes of neighbours don't fit,
    if a layer belongs to a model already, or without any layer.
    """

    def _check_layers(self, layers):
        for i, layer in enumerate(layers):
            if isinstance(layer, Sequential):
                raise TypeError(f"layer {i} is a Sequential: pass its layers instead, *model.layers")
        super()._check_layers(layers)

    def _run(self, x, state, lengths, resets, workspace, out=None):
        return _last_output(self._outputs(x, state, lengths, resets, workspace, out))

    def _run_back(self, dy, dstate, workspace):
        dstates = [None] * len(self.layers)
        for i in reversed(range(len(self.layers))):
            dy, dstates[i] = self._take_back(i, dy, dstate, workspace)
        return dy, dstates

    def _step(self, x_t, state, resets=None):
        y_t, states = _last_output(self._step_outputs(x_t, state, resets))
        return y_t, tuple(states)


def _last_output(outputs):
    """The last of the outputs, and all states; an output that has gone on is not held."""
    states = []
    for output, new in outputs:
        y = output
        states.append(new)
    return y, states


class _Skipping(Container):
    """A container with ways past its layers, so that each of them must keep the steps."""

    include_input = True  # has a way from the input to the output

    def _check_layers(self, layers):
        super()._check_layers(layers)
        if self.include_input and layers[0]._step_dimensions() == 1:
            name = type(layers[0]).__name__
            raise ValueError(f"layer 0, {name}, takes integers: {type(self).__name__} can't take them to its output")
        for i, layer in enumerate(layers):
            if not layer.keeps_steps:
                name = type(layer).__name__
                raise ValueError(f"layer {i}, {name}, changes the steps: {type(self).__name__} needs layers that don't")

    def _workspace_bytes(self, steps, batch):
        widths = self._widths(self._features or 1)
        own = steps * batch * (sum(widths) + max(widths)) * self.dtype.itemsize
        return super()._workspace_bytes(steps, batch) + own

    def _check_input(self, x):
        x = super()._check_input(x)
        if self.include_input and x.dtype.kind != "f":  # some layers take both
            raise TypeError(f"x must hold floating-point numbers, got dtype {x.dtype}")
        return x

    def _output(self, shape, workspace, out):
        """The array for the output."""
        if workspace is not None:
            return workspace.buffer("y", shape)
        return np.empty(shape, self.dtype) if out is None else out

    def _copy_valid(self, source, target, lengths):
        """target = source, with zeros past each sequence's end, where the source is not to be read."""
        np.copyto(target, source)
        if lengths is not None:
            clear_past_ends(target, lengths, self.batch_first)

    def _real_step(self, x_t):
        """`x_t`, of which the layers have seen to the shape, as an array of the layers' dtype."""
        return checks.float_array("x_t", x_t, self.dtype, (None,) * np.ndim(x_t))


class Residual(_Skipping):
    """y = x + layer(x) (He et al. 2016), for any layer or model whose output is as wide as its input.

    The state is the layer's own. Names of its parameters have "0." before them. ValueError if the widths differ.
    """

    def __init__(self, layer: Layer, *, batch_first: bool = False):
        super().__init__(layer, batch_first=batch_first)

    def _joined_width(self, widths):
        if widths[0] != widths[1]:
            raise ValueError(f"its output must be as wide as its input, {widths[0]} features, got {widths[1]}")
        return widths[1]

    def _entries(self, name, state):
        return [(name, state)]

    def _packed(self, entries):
        return entries[0]

    _report = _packed

    def _run(self, x, state, lengths, resets, workspace, out=None):
        y = self._output(x.shape, workspace, out)
        x = apart(x, y)
        self._copy_valid(x, y, lengths)  # before the layer's buffers are written, of which x may be a view
        [(output, new)] = self._outputs(x, state, lengths, resets, workspace)
        _add(y, output, y)
        return y, [new]

    def _run_back(self, dy, dstate, workspace):
        dx = workspace.buffer("dx", workspace.record.input_shape)
        dy = apart(dy, dx)
        self._copy_valid(dy, dx, workspace.record.lengths)
        d_input, d_state = self._take_back(0, dy, dstate, workspace)
        _add(dx, d_input, dx)
        return dx, [d_state]

    def _step(self, x_t, state, resets=None):
        [(y_t, new)] = self._step_outputs(x_t, state, resets)
        _add(y_t, self._real_step(x_t), y_t)
        return y_t, new


class Concatenated(_Skipping):
    """A chain of layers whose output is the outputs of all of them side by side: "skip connections ... from all hidden
    layers to the outputs" (Graves 2013, "Generating Sequences With Recurrent Neural Networks").

    include_input: the input stands before them, too.

    Names, state and errors are those of `Sequential`; layers that change the number of steps are refused.
    """

    def __init__(self, *layers: Layer, include_input: bool = False, batch_first: bool = False):
        self.include_input = checks.flag("include_input", include_input)
        super().__init__(*layers, batch_first=batch_first)

    def config(self) -> dict[str, Any]:
        return {"include_input": self.include_input, **super().config()}

    def _joined_width(self, widths):
        parts = widths if self.include_input else widths[1:]
        return None if None in parts else sum(parts)

    def _numbers_at_once(self, sizes):
        return 2 * sum(sizes)

    def _columns(self, array, features):
        """Views of the parts of an output, or of its gradient: one for the input if it is included, one a layer."""
        views, start = [], 0
        for width in self._widths(features)[0 if self.include_input else 1 :]:
            views.append(array[..., start : start + width])
            start += width
        return views

    def _run(self, x, state, lengths, resets, workspace, out=None):
        real = x.dtype.kind == "f"
        lead, features = (x.shape[:-1], x.shape[-1]) if real else (x.shape, None)
        y = self._output((*lead, self._output_features(features)), workspace, out)
        x = apart(x, y)
        columns = self._columns(y, features)
        if self.include_input:
            np.copyto(columns.pop(0), x)  # before the layers' buffers are written, of which x may be a view
            if lengths is not None:
                clear_past_ends(y, lengths, self.batch_first)
        states = []
        for part, (output, new) in zip(columns, self._outputs(x, state, lengths, resets, workspace), strict=True):
            np.copyto(part, output)
            states.append(new)
        return y, states

    def _run_back(self, dy, dstate, workspace):
        record = workspace.record
        lead = record.output_shape[:-1]
        features = record.input_shape[-1] if len(record.input_shape) > len(lead) else None
        widths = self._widths(features)
        d_output = workspace.buffer("d_output", (*lead, max(widths[1:])))
        d_input = workspace.buffer("dx", record.input_shape) if self.include_input else None
        dy = apart(dy, d_output, *([] if d_input is None else [d_input]))
        columns = self._columns(dy, features)
        dstates, dx = [None] * len(self.layers), None
        for i in reversed(range(len(self.layers))):
            d_output = workspace.buffer("d_output", (*lead, widths[i + 1]))
            np.copyto(d_output, columns.pop())
            if dx is not None:  # contiguous: a sum of columns would allocate
                _add(d_output, dx, d_output)
            dx, dstates[i] = self._take_back(i, d_output, dstate, workspace)
        if d_input is None:
            return dx, dstates
        self._copy_valid(columns.pop(), d_input, record.lengths)
        _add(d_input, dx, d_input)
        return d_input, dstates

    def _step(self, x_t, state, resets=None):
        outputs, states = [], []
        for y_t, new in self._step_outputs(x_t, state, resets):
            outputs.append(y_t)
            states.append(new)
        if self.include_input:
            outputs.insert(0, self._real_step(x_t))
        return np.concatenate(outputs, axis=-1), tuple(states)


CONTAINERS = {kind.__name__: kind for kind in (Sequential, Residual, Concatenated)}  # by the names that files use


def _add(a, b, out):
    """out = a + b; what becomes infinite or NaN is no cause for a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.add(a, b, out=out)


def layers_of(model: Layer) -> list[Layer]:
    """The layers of a model, those in its containers too; a layer is its own only one."""
    if not isinstance(model, Container):
        return [model]
    return [layer for member in model.layers for layer in layers_of(member)]
