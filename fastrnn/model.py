"""`Sequential`: a chain of layers with one flat buffer of parameters and one of gradients."""

import math
from typing import NamedTuple

from . import checks
from .layers.base import Layer, Workspace
from .layers.pooling import _Pooling
from .parameters import Parameters


class _Record(NamedTuple):
    output_shape: tuple[int, ...]
    batch: int


class _ModelWorkspace(Workspace):
    """The layers' workspaces."""

    def __init__(self, model, steps, batch):
        super().__init__(model, steps, batch)
        self.parts = [layer._make_workspace(n, batch) for layer, n in model._with_steps(steps)]


class Sequential(Layer):
    """Layers one after the other; each belongs to this model from then on.

    `batch_first` is the model's own, and its layers follow it; so does the dtype of layers without parameters. A state
    is a tuple with an entry a layer, None for those without. State-dict names are PyTorch's: "0.weight",
    "1.weight_ih_l0". ValueError if the sizes of neighbours don't fit, if a layer belongs to a model already, or
    without any layer.
    """

    def __init__(self, *layers: Layer, batch_first: bool = False):
        self.batch_first = checks.flag("batch_first", batch_first)
        self._check_layers(layers)
        members = {str(i): layer.parameters for i, layer in enumerate(layers)}
        self.parameters = Parameters.joined(members)
        self.layers = layers
        self.owner = None
        # layers before the first of a fixed width keep the width, so it is the model's
        widths = (layer._input_features() for layer in layers if layer._step_dimensions() == 2)
        self._features = next((width for width in widths if width is not None), None)
        self._takes_sequences = any(layer.stateful or isinstance(layer, _Pooling) for layer in layers)
        for layer in layers:
            layer.owner = self
            layer.batch_first = self.batch_first

    @staticmethod
    def _check_layers(layers):
        if not layers:
            raise ValueError("Sequential needs at least one layer")
        features, pooled = None, False
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} must be a layer, got {type(layer).__name__}")
            if isinstance(layer, Sequential):
                raise TypeError(f"layer {i} is a Sequential: pass its layers instead, *model.layers")
            if layer.owner is not None or any(layer is other for other in layers[:i]):
                raise ValueError(f"layer {i}, {type(layer).__name__}, belongs to a model already")
            if i and layer._step_dimensions() == 1:
                raise ValueError(f"layer {i}, {type(layer).__name__}, takes integers: it can only be the first")
            if pooled and (layer.stateful or isinstance(layer, _Pooling)):
                raise ValueError(f"layer {i}, {type(layer).__name__}, takes sequences: there are none after pooling")
            try:
                features = layer._output_features(features)
            except ValueError as error:
                raise ValueError(f"layer {i}, {type(layer).__name__}, does not fit: {error}") from None
            pooled = pooled or isinstance(layer, _Pooling)

    @property
    def stateful(self):
        """Whether any layer has a state."""
        return any(layer.stateful for layer in self.layers)

    def config(self):
        """`batch_first`; the layers' own configurations are in `layers`."""
        return {"batch_first": self.batch_first}

    def __repr__(self):
        lines = [f"  ({i}): {layer!r}" for i, layer in enumerate(self.layers)]
        return "\n".join([f"Sequential(batch_first={self.batch_first}", *lines, ")"])

    def __reduce__(self):
        parts = [layer.__reduce__() for layer in self.layers]
        return _rebuild_model, (parts, self.batch_first)

    def step(self, x_t, state=None, *, resets=None):
        """One time step through all layers: see `Layer.step`. The state is a tuple with an entry a layer."""
        states = self._state_entries("state", state)
        for i, layer in enumerate(self.layers):
            x_t, states[i] = layer.step(x_t, states[i], resets=resets)
        return x_t, tuple(states)

    # what `Layer` asks for

    def _check_input(self, x):
        x = self.layers[0]._check_input(x)
        if x.dtype.kind == "f":  # the first layer may take any width and dimensions, a later one does not
            if self._takes_sequences and x.ndim != 3:
                raise ValueError(f"x must have 3 dimensions for this model, got {x.ndim}")
            if self._features not in (None, x.shape[-1]):
                raise ValueError(f"x must have {self._features} features for this model, got {x.shape[-1]}")
        return x

    def _check_values(self, name, x, lengths):
        self.layers[0]._check_values(name, x, lengths)

    def _check_step_input(self, x_t):
        return self.layers[0]._check_step_input(x_t)

    def _step_dimensions(self, x=None):
        return self.layers[0]._step_dimensions(x)

    def _extent(self, x):
        return self.layers[0]._extent(x)

    def _state_entries(self, name, state):
        """A list with an entry a layer."""
        if state is None:
            return [None] * len(self.layers)
        if not isinstance(state, (tuple, list)):
            raise TypeError(f"{name} must be a tuple with an entry a layer, got {type(state).__name__}")
        if len(state) != len(self.layers):
            raise ValueError(f"{name} must have {len(self.layers)} entries, one a layer, got {len(state)}")
        return list(state)

    def _check_state(self, name, state, batch):
        entries = self._state_entries(name, state)
        return [
            layer._check_state(f"{name}[{i}]", entry, batch)
            for i, (layer, entry) in enumerate(zip(self.layers, entries, strict=True))
        ]

    def _with_steps(self, steps):
        """The layers, each with the number of steps its input has: 1 after pooling."""
        for layer in self.layers:
            yield layer, steps
            if isinstance(layer, _Pooling):
                steps = 1

    def _workspace_bytes(self, steps, batch):
        return sum(layer._workspace_bytes(n, batch) for layer, n in self._with_steps(steps))

    def _make_workspace(self, steps, batch):
        return _ModelWorkspace(self, steps, batch)

    def _run(self, x, state, lengths, resets, call):
        """Take `x` through the layers by `call(i, layer, x, state, lengths, resets)`."""
        states = []
        for i, layer in enumerate(self.layers):
            x, new = call(i, layer, x, state[i], lengths, resets)
            states.append(new)
            if isinstance(layer, _Pooling):
                lengths = resets = None
        return x, tuple(states)

    def _infer(self, x, state, lengths, resets):
        return self._run(x, state, lengths, resets, lambda i, layer, *arguments: layer._infer(*arguments))

    def _forward(self, x, state, lengths, resets, workspace):
        parts = workspace.parts
        for part in parts:
            part.repeatable = workspace.repeatable
        batch = self._extent(x)[1]
        y, states = self._run(
            x, state, lengths, resets, lambda i, layer, *arguments: layer._forward(*arguments, parts[i])
        )
        workspace.record = _Record(y.shape, batch)
        return y, states

    def _backward(self, dy, dstate, workspace):
        dstates = list(dstate)
        for i in reversed(range(len(self.layers))):
            workspace.parts[i].carry_factor = workspace.carry_factor
            dy, dstates[i] = self.layers[i]._backward(dy, dstate[i], workspace.parts[i])
        return dy, tuple(dstates)

    def _add_initial_gradient(self, dstate):
        for layer, part in zip(self.layers, dstate, strict=True):
            if part is not None:
                layer._add_initial_gradient(part)

    def _output_features(self, features):
        for layer in self.layers:
            features = layer._output_features(features)
        return features

    def _step(self, x_t, state):
        return self.step(x_t, state)

    def _check_room(self, x):
        rows, batch = math.prod(self._extent(x)), self._extent(x)[1]
        features, largest = x.shape[-1] if x.dtype.kind == "f" else None, 0
        for layer in self.layers:
            features = layer._output_features(features)
            rows = batch if isinstance(layer, _Pooling) else rows
            largest = max(largest, rows * features)
        checks.memory("two layers' outputs", 2 * largest * self.dtype.itemsize)

    def _generators(self):
        return [generator for layer in self.layers for generator in layer._generators()]


def _rebuild_model(parts, batch_first):
    return Sequential(*(rebuild(*arguments) for rebuild, arguments in parts), batch_first=batch_first)
