"""The policy `nonfinite="raise"`: NaN and infinity are looked for in what goes into a pass and in what comes out of
each layer, and the first place is named.

As NumPy's `errstate`, the policy belongs to a context: whatever a model computes within `watching` is looked at. A look
is two reductions over an array; only when one has found something is the place searched for, a stretch of steps at a
time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import checks

if TYPE_CHECKING:
    from .layers.base import Layer
    from .parameters import Parameters
    from .types import State

IGNORE, RAISE, SKIP = "ignore", "raise", "skip"
_AT_ONCE = 1 << 20  # numbers that a search makes booleans of at a time


class NonFiniteError(FloatingPointError, ValueError):
    """NaN or infinity where `nonfinite="raise"` wants none; the message names the first place.

    what: what was found there, such as "x is nan" or "h_l0 of layer 1 (GRU) becomes inf".
    time, batch: the step and the sequence, counted from 0; None where there are none, as for a parameter.
    layer: the layer it was found in, such as "layer 1 (GRU)"; None outside of all layers.
    detail: what is left to say of the place.
    note: what was going on.
    """

    def __init__(
        self,
        what: str,
        *,
        time: int | None = None,
        batch: int | None = None,
        layer: str | None = None,
        detail: str = "",
    ):
        super().__init__(what)
        self.what, self.time, self.batch, self.layer, self.detail = what, time, batch, layer, detail
        self.note = ""

    def __str__(self):
        places = [f"{name} {n}" for name, n in (("time", self.time), ("batch", self.batch)) if n is not None]
        places += [self.detail] if self.detail else []
        where = f" at {', '.join(places)}" if places else ""
        return f"{self.what}{where}{f' ({self.note})' if self.note else ''}"

    def __reduce__(self):
        return type(self), (self.what,), self.__dict__


def policy(value: Any) -> str:
    """The argument `nonfinite` of a call."""
    return checks.choice("nonfinite", value, (IGNORE, RAISE))


def is_finite(array: np.ndarray) -> bool:
    """Whether all of an array is; nothing of its size is allocated."""
    if not array.size:
        return True
    with np.errstate(invalid="ignore"):
        return math.isfinite(array.min()) and math.isfinite(array.max())  # both are NaN if anything is


class _Place(NamedTuple):
    """An element of an array, and what stands there."""

    at: tuple[int, ...]
    value: float


def find_place(array: np.ndarray, valid: Callable[[slice], Any] | None = None) -> _Place | None:
    """The first element in C order that is not finite, of those that are `valid`: booleans for a slice of rows."""
    rows = max(1, _AT_ONCE // max(1, array[0].size)) if array.ndim else 1
    array = np.atleast_1d(array)
    for start in range(0, len(array), rows):
        part = slice(start, start + rows)
        wrong = ~np.isfinite(array[part])
        if valid is not None:
            wrong &= valid(part)
        if wrong.any():
            n, *rest = np.unravel_index(wrong.argmax(), wrong.shape)
            index = (start + int(n), *map(int, rest))
            return _Place(index, float(array[index]))
    return None


def first_place(array: np.ndarray) -> _Place:
    """`find_place` of an array that is known not to be finite."""
    place = find_place(array)
    assert place is not None
    return place


def _arrays(name: str, state: State) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a state as it was given, each with its name."""
    if isinstance(state, (tuple, list)):
        for i, entry in enumerate(state):
            yield from _arrays(f"{name}[{i}]", entry)
    elif state is not None:
        yield name, np.asarray(state)


def is_finite_state(state: State) -> bool:
    """Whether all arrays of a state are finite."""
    return all(is_finite(array) for _, array in _arrays("state", state))


def _path(model: Layer, layer: Layer) -> tuple[int, ...]:
    """The indices that lead from `model` to a layer in it, none for itself."""

    def paths(outer, before):
        for i, member in enumerate(getattr(outer, "layers", ())):
            yield (*before, i), member
            yield from paths(member, (*before, i))

    return next((path for path, member in paths(model, ()) if member is layer), ())


def _label(model: Layer, layer: Layer) -> str:
    """What a message calls a layer of `model`."""
    path, kind = _path(model, layer), type(layer).__name__
    return f"layer {'.'.join(map(str, path))} ({kind})" if path else f"the {kind}"


def error_in_vector(model: Layer, flat: np.ndarray, what: str = "", *, whole: Layer | None = None) -> NonFiniteError:
    """The error of the first element that is not finite of `flat`, a number for each of the model's parameters: what it
    is of them. whole: what the model is a part of."""
    [number], value = first_place(flat)
    full_name, index = model.parameters.place(number)
    *path, name = full_name.split(".")
    layer: Any = model
    for i in path:
        layer = layer.layers[int(i)]
    label = _label(model if whole is None else whole, layer)
    return NonFiniteError(f"{what}{name} of {label} is {value}", layer=label, detail=str(list(index)))


def check_parameters(model: Layer, whole: Layer | None = None) -> None:
    """Refuse parameters that are not finite; those found to be once are not looked at again until they are written.

    whole: what the model is a part of."""
    parameters: Parameters = model.parameters
    version = parameters.version
    if parameters.finite_version == version:
        return
    if not is_finite(parameters.values):
        raise error_in_vector(model, parameters.values, whole=whole)
    parameters.finite_version = version


class Watch:
    """Looks at the passes of `model`, or of layers in it, within a context.

    The first place is the one of the earliest step, and at that step of the layer that comes first. What needs the
    whole sequence, such as a layer's reverse direction or a pooling, comes after all steps of the layers before it.
    """

    def __init__(self, model: Layer):
        self._model = model
        self._first_step = 0
        self._rows: np.ndarray | None = None
        self._begin()

    def _begin(self):
        self._stage = 0  # grows with everything that needs the whole sequence
        self._last: Any = None  # the output looked at last
        self._found: tuple[tuple, NonFiniteError] | None = None  # the least key so far, and what to say

    def place(self, first_step: int, rows: np.ndarray | None) -> None:
        """Say what the next passes' steps and sequences are of the whole batch's."""
        self._first_step, self._rows = first_step, rows

    def begin(self, layer: Layer, name: str, x: np.ndarray, state: State, lengths: np.ndarray | None) -> None:
        """Look at what goes into a pass: parameters, then the state, then the input `x`, without its padding."""
        self._begin()
        check_parameters(layer, self._model)
        path = _path(self._model, layer)
        label = _label(self._model, layer) if path else None
        for own_name, array in _arrays("".join(["state", *(f"[{i}]" for i in path)]), state):
            if array.dtype.kind != "f":
                continue
            with np.errstate(over="ignore", invalid="ignore"):  # what the layer's dtype can't hold is found below
                array = array.astype(layer.dtype, copy=False)
            if not is_finite(array):
                at, value = first_place(array)
                raise NonFiniteError(f"{own_name} is {value}", layer=label, detail=str(list(at)))
        if x.dtype.kind != "f" or is_finite(x):
            return
        place = find_place(*_time_first(x, layer.batch_first, lengths))
        if place is not None:
            raise self._error(f"{name} is", place, None)  # of a layer in a chain: what came before has been looked at

    def output(self, layer: Layer, y: np.ndarray, index: int = -1) -> None:
        """Look at the output of a layer, or of layer `index` in its stack. Padding in it is 0."""
        if y is self._last:  # a container's that is its last layer's
            return
        self._last = y
        whole = not layer.keeps_steps or getattr(layer, "bidirectional", False)
        self._stage += whole
        if not is_finite(y):
            self._search(layer, y, index)
        self._stage += whole

    def _search(self, layer, y, index):
        label = _label(self._model, layer)
        for name, part, reverse in layer._named_outputs(np.atleast_2d(y), index):  # a single stream's step is (F,)
            part = _time_first(part, layer.batch_first, None)[0]
            place = find_place(part[::-1] if reverse else part)
            if place is None:
                continue
            time = place.at[0] if part.ndim == 3 else 0
            if self._found is None or (self._stage, time) < self._found[0]:
                if reverse:
                    place = place._replace(at=(len(part) - 1 - time, *place.at[1:]))
                self._found = (self._stage, time), self._error(f"{name} of {label} becomes", place, label)

    def end(self, layer: Layer, y: np.ndarray, state: State) -> None:
        """Look at what a pass gives; raise the error of the first place that was found in it."""
        self.output(layer, y)
        if self._found is not None:
            raise self._found[1]
        for name, array in _arrays("the final state", state):
            if not is_finite(array):
                place = first_place(array)
                label = _label(self._model, layer)
                raise NonFiniteError(
                    f"{name} of {label} becomes {place.value}", layer=label, detail=str(list(place.at))
                )

    def _error(self, what, place, label):
        """The error of a place in an array (T,B,F) or (B,F)."""
        *time, batch, feature = place.at
        step, detail = time[0] if time else None, f"feature {feature}"
        return self.placed(NonFiniteError(f"{what} {place.value}", time=step, batch=batch, layer=label, detail=detail))

    def placed(self, error: NonFiniteError) -> NonFiniteError:
        """An error of a pass with the place in the whole batch."""
        if error.time is not None:
            error.time += self._first_step
        if error.batch is not None and self._rows is not None:
            error.batch = int(self._rows[error.batch])
        return error


def _time_first(array, batch_first, lengths):
    """`array` with time before the batch, and what `find_place` takes for valid: the steps before the ends."""
    if array.ndim == 2:
        return array, None
    array = array.swapaxes(0, 1) if batch_first else array
    if lengths is None:
        return array, None
    return array, lambda part: (np.arange(len(array))[part, np.newaxis] < lengths)[..., np.newaxis]


_current: ContextVar[Watch | None] = ContextVar("watch", default=None)
current = _current.get  # the `Watch` of this context, None as a rule


@contextlib.contextmanager
def watching(model: Layer) -> Iterator[Watch]:
    """A block in which all that `model` computes has to be finite: else a `NonFiniteError`."""
    watch = Watch(model)
    token = _current.set(watch)
    try:
        yield watch
    finally:
        _current.reset(token)


def watched(nonfinite: Any, model: Layer, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `call`, one of `model` or about it, gives where its argument `nonfinite` is not "ignore"."""
    policy(nonfinite)
    with watching(model):
        return call(*args, **kwargs)
