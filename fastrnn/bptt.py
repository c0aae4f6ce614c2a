"""Rules of backpropagation through time: how far back the gradient goes, and how often the parameters move.

A rule is usable alone, `value, state = rule.gradients(model, loss, x, targets)`, and as the engine of a `Trainer`.

A new rule gives `updates(run)`: an iterator of callables, one for each update, each of which adds that update's
gradients to the model's by the means of `Run` and returns the number of valid elements they come from. The caller
may move the parameters between two of them, so nothing may be computed ahead.
"""

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import checks
from .layers.base import Layer
from .layers.pooling import _Pooling
from .parameters import aligned_empty


def check_loss(loss):
    """Refuse what is not one of `fastrnn`'s losses, or of their kind."""
    if isinstance(loss, type) or not all(hasattr(loss, name) for name in ("count", "evaluate", "reduction")):
        raise TypeError(f"loss must be a loss of fastrnn, got {loss!r}")


def map_state(function: Callable, state: Any, *others: Any) -> Any:
    """`function` of every array of a state, and of its counterparts in `others`; None stays None."""
    if state is None:
        return None
    if isinstance(state, (tuple, list)):
        return tuple(map_state(function, *entries) for entries in zip(state, *others, strict=True))
    return function(state, *others)


class Buffers:
    """What stays from one call to the next: the model's workspace and arrays by name, grown on demand.

    One thread uses them at a time.
    """

    def __init__(self):
        self._workspace = None
        self._arrays = {}

    def workspace(self, model, steps: int, batch: int):
        """The workspace of `model` for at least `steps` and `batch`."""
        kept = self._workspace
        if kept is not None and kept.layer is model:
            if steps <= kept.steps and batch <= kept.batch:
                return kept
            steps, batch = max(steps, kept.steps), max(batch, kept.batch)
        self._workspace = kept = None  # given back before the larger one is asked for
        self._workspace = model.workspace(steps, batch)
        return self._workspace

    def array(self, name, shape: tuple[int, ...], dtype) -> np.ndarray:
        """An array with undefined contents, in the memory that `name` had before."""
        size, dtype = math.prod(shape), np.dtype(dtype)
        flat = self._arrays.get(name)
        if flat is None or flat.size < size or flat.dtype != dtype:
            flat = self._arrays[name] = aligned_empty(size, dtype)
        return flat[:size].reshape(shape)

    def keep_state(self, name, state, rows=None):
        """A copy of `state`, of the sequences `rows` alone if given, in the memory that `name` had before."""
        numbers = itertools.count()

        def keep(array):
            batch = array.shape[1] if rows is None else len(rows)
            kept = self.array((name, next(numbers)), (array.shape[0], batch, array.shape[2]), array.dtype)
            if rows is None:
                kept[...] = array
                return kept
            return np.take(array, rows, 1, out=kept, mode="clip")  # other modes allocate

        return map_state(keep, state)


class Run:
    """One batch of sequences on its way through a rule: checked arguments, and what came out so far.

    x, targets, state, lengths, mask: as for `Rule.gradients`; a wrong one raises before anything is changed.
    joint: whether the gradients are those of the whole batch's loss, whose mean is over all its valid elements, rather
        than of the mean over the elements that one update is made of.

    `total` and `count` are the sum of the losses and the number of valid elements so far, `state` the state at the end
    of the last segment, `dx` and `dstate` the gradients with respect to that segment's input and initial state. They
    may be views of buffers, good until the next segment.
    """

    def __init__(self, model, loss, buffers, x, targets, state, lengths, mask, *, joint):
        self.model, self.loss, self._buffers = model, loss, buffers
        self.x = model._check_input(x)
        self.steps, self.batch = model._extent(self.x)
        self.lengths = checks.sequence_lengths(lengths, self.steps, self.batch)
        model._check_values("x", self.x, self.lengths)
        model._check_state("state", state, self.batch)
        self.state, self.dx, self.dstate = state, None, None
        self._axis = 1 if model.batch_first else 0  # of time; the batch has the other
        self._timed = self.x.ndim > model._step_dimensions(self.x)
        self.targets = checks.as_array("targets", targets)
        shape = self._output_shape()
        lead = min(len(shape) - 1, self.targets.ndim)  # the output's dimensions before the features
        self.mask = self._loss_mask(checks.leading_mask("mask", mask, self.targets.shape), shape[:lead])
        y = np.broadcast_to(np.zeros((), model.dtype), shape)  # takes no memory: only shape and dtype count
        whole = loss.count(y, self.targets, self.mask)
        if whole == 0:
            raise ValueError("mask, lengths and targets leave no valid element, expected at least one")
        self._whole = whole if joint else None
        self.total, self.count = 0.0, 0

    def _output_shape(self):
        """The shape of the model's output for the whole of `x`."""
        features = None if self.x.dtype.kind in "iu" else self.x.shape[-1]
        lead = (self.batch, self.steps) if self._axis else (self.steps, self.batch)
        if not self._timed or any(isinstance(layer, _Pooling) for layer in layers_of(self.model)):
            lead = (self.batch,)
        return (*lead, self.model._output_features(features))

    def _loss_mask(self, mask, lead):
        """`mask` and `lengths` as one mask, with all dimensions of `lead`; None if everything is valid."""
        if mask is not None and mask.ndim < len(lead):
            mask = np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(lead) - mask.ndim)), lead)
        if self.lengths is None or len(lead) < 2:
            return mask
        valid = self._buffers.array("valid", lead, np.bool_)
        valid.fill(False)
        for row, length in zip(np.moveaxis(valid, 1 - self._axis, 0), self.lengths, strict=True):
            row[:length] = True
        if mask is None:
            return valid
        joined = self._buffers.array("mask", mask.shape, np.bool_)
        return np.logical_and(mask, valid.reshape(lead + (1,) * (mask.ndim - 2)), out=joined)

    @property
    def value(self) -> float:
        """The loss over all segments so far: the mean over their valid elements, or the sum."""
        return self.total / self.count if self.loss.reduction == "mean" else self.total

    def evaluate(self, *, training: bool = False) -> float:
        """The loss of the whole batch without gradients; `training` is with dropout."""
        workspace = self._buffers.workspace(self.model, self.steps, self.batch) if training else None
        y, self.state = self.model.forward(self.x, self.state, lengths=self.lengths, workspace=workspace)
        self._add_loss(y, self.targets, self.mask, 1)
        return self.value

    def _add_loss(self, y, targets, mask, denominator):
        """Add to the loss so far; returns the gradient of the part's sum / `denominator`."""
        dy = self._buffers.array("dy", y.shape, y.dtype)
        total, count, dy = self.loss.evaluate(y, targets, mask, dy, denominator)
        self.total += total
        self.count += count
        return dy

    def segment(self, start: int, stop: int) -> int:
        """Go forward over steps `start` to `stop` from `state`, and back to `start`: gradients are added.

        Returns the number of valid elements. Without any, only the state goes on.
        """
        rows, lengths = self._running(start, stop)
        if rows is not None and not rows.size:
            return 0
        part = functools.partial(self._part, start, stop, rows)
        state = self.state if rows is None else self._split_off(rows)
        workspace = self._buffers.workspace(self.model, stop - start, self.batch)
        y, state = self.model.forward(part("x", self.x), state, lengths=lengths, workspace=workspace)
        targets = part("targets", self.targets) if y.ndim > 2 else self.targets
        mask = part("mask part", self.mask) if y.ndim > 2 and self.mask is not None else self.mask
        count = self.loss.count(y, targets, mask)
        if count:
            dy = self._add_loss(y, targets, mask, self._denominator(count))
            self.dx, self.dstate = self.model.backward(dy, workspace=workspace)
        if rows is None:
            self.state = state
        else:
            map_state(lambda whole, part: whole.__setitem__((slice(None), rows), part), self.state, state)
        return count

    def _denominator(self, count):
        if self.loss.reduction == "sum":
            return 1
        return count if self._whole is None else self._whole

    def _running(self, start, stop):
        """Indices of the sequences that have not ended before `start` (None: all), and their lengths from there."""
        if self.lengths is None:
            return None, None
        lengths = self._buffers.array("lengths", self.lengths.shape, np.int64)
        np.clip(np.subtract(self.lengths, start, out=lengths), 0, stop - start, out=lengths)
        if lengths.all():
            return None, lengths
        rows = np.flatnonzero(lengths)
        return rows, lengths[rows]

    def _part(self, start, stop, rows, name, array):
        """Steps `start` to `stop` of `array`, of the sequences `rows`, contiguous."""
        if not self._timed:
            return array
        part = array[:, start:stop] if self._axis else array[start:stop]
        if rows is None and part.flags.c_contiguous:
            return part
        rows = range(self.batch) if rows is None else rows
        shape = (len(rows), *part.shape[1:]) if self._axis else (part.shape[0], len(rows), *part.shape[2:])
        copy = self._buffers.array(name, shape, part.dtype)
        source, target = (np.moveaxis(a, 1 - self._axis, 0) for a in (part, copy))
        for i, row in enumerate(rows):  # np.take would allocate
            target[i] = source[row]
        return copy

    def _split_off(self, rows):
        """The states of the sequences `rows` alone; those of all move to where no forward pass overwrites them."""
        self.state = self._buffers.keep_state("whole", self.state)
        return self._buffers.keep_state("part", self.state, rows)


def layers_of(model):
    """The layers of a model; a layer is its own only one."""
    return getattr(model, "layers", (model,))


class Rule(ABC):
    """Base of all rules."""

    cuts = False  # cuts the sequence, so that what looks ahead or at the whole of it can't be computed

    def __init__(self):
        self._buffers = Buffers()

    def gradients(
        self, model, loss, x, targets, state=None, *, lengths=None, mask=None
    ) -> tuple[float, Any]:
        """Add the gradients of a batch of sequences to the model's; no parameter moves.

        x, state, lengths: as in `model.forward`, batch first if the model is.
        targets: as `loss` takes them for the model's output.
        mask: booleans of the leading shape of `targets`, the elements that count; with `lengths`, steps past a
            sequence's end do not count either.

        Returns `(value, state)`: the loss of the whole batch, of which the gradients of all parts are the sum, each
        with its rule's paths cut, and the final state. Buffers are kept by the rule, for one thread at a time.
        Raises TypeError or ValueError before anything is changed if an argument does not fit.
        """
        self.check(model)
        check_loss(loss)
        run = Run(model, loss, self._buffers, x, targets, state, lengths, mask, joint=True)
        for add_gradients in self.updates(run):
            add_gradients()
        return run.value, run.state

    def check(self, model) -> None:
        """Refuse what is no model, and a model that the rule can't train."""
        if not isinstance(model, Layer):
            raise TypeError(f"model must be a layer or model of fastrnn, got {type(model).__name__}")
        if not self.cuts:
            return
        for layer in layers_of(model):
            if getattr(layer, "bidirectional", False):
                raise ValueError(f"{self!r} cuts sequences, and a bidirectional layer needs them whole: use Full()")
            if isinstance(layer, _Pooling):
                name = type(layer).__name__
                raise ValueError(f"{self!r} cuts sequences, and {name} needs them whole: use Full()")

    @abstractmethod
    def updates(self, run: Run) -> Iterator[Callable[[], int]]:
        """The updates of one batch, in order; each adds its gradients and returns its number of valid elements."""


class Full(Rule):
    """The whole sequence at once, the exact gradient (Werbos 1990): one update a batch."""

    def __repr__(self):
        return "Full()"

    def updates(self, run: Run) -> Iterator[Callable[[], int]]:
        yield functools.partial(run.segment, 0, run.steps)


class Truncated(Rule):
    """Chunks of `k` steps, the last may be shorter: the state is carried over, the gradient is not.

    One update a chunk, with that chunk's mean loss: BPTT(h; h′) with h = h′ = k (Williams & Peng 1990), as language
    models are trained. A chunk without valid elements makes no update.
    """

    cuts = True

    def __init__(self, k: int):
        self.k = checks.integer("k", k, minimum=1)
        super().__init__()

    def __repr__(self):
        return f"Truncated({self.k})"

    def updates(self, run: Run) -> Iterator[Callable[[], int]]:
        for start in range(0, run.steps, self.k):
            yield functools.partial(run.segment, start, min(start + self.k, run.steps))
