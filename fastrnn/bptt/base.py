"""What all rules of backpropagation through time share: buffers, a batch on its way, and the base class.

A new rule gives `updates(run)`: an iterator of callables, one for each update, each of which adds that update's
gradients to the model's by the means of `Run` and returns the number of valid elements they come from. The caller
may move the parameters between two of them, so nothing may be computed ahead. Before it looks at the gradients it calls
`Run._finish_sums`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks, finite
from ..bit_generators import check_state
from ..buffers import NamedArrays
from ..kernels.interrupts import interrupts_held
from ..layers.base import Layer, Workspace, check_model
from ..layers.regularization import ActivityRegularization
from ..losses import error_of_loss
from ..model import layers_of
from ..sums import SumOfParts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..types import Loss, State


def check_loss(loss: Loss) -> None:
    """Refuse what is not one of `fastrnn`'s losses, or of their kind."""
    if isinstance(loss, type) or not all(hasattr(loss, name) for name in ("count", "denominator", "evaluate")):
        raise TypeError(f"loss must be a loss of fastrnn, got {checks.shown(loss)}")


def map_state(function: Callable, state: State, *others: Any) -> State:
    """`function` of every array of a state, and of its counterparts in `others`; None stays None."""
    if state is None:
        return None
    if isinstance(state, (tuple, list)):
        return tuple(map_state(function, *entries) for entries in zip(state, *others, strict=True))
    return function(state, *others)


class Buffers(NamedArrays):
    """What stays from one call to the next: workspaces and arrays by name, grown on demand.

    One thread uses them at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._workspaces: dict[Any, Workspace] = {}

    def workspace(self, model: Layer, steps: int, batch: int, name: Any = None) -> Workspace:
        """The workspace of `model`, a layer or model, for at least `steps` and `batch`."""
        kept = self._workspaces.get(name)
        if kept is not None and kept.layer is model:
            if steps <= kept.steps and batch <= kept.batch:
                return kept
            steps, batch = max(steps, kept.steps), max(batch, kept.batch)
        kept = None  # given back before the larger one is asked for
        self._workspaces.pop(name, None)
        larger = self._workspaces[name] = model.workspace(steps, batch)
        return larger

    def keep_state(self, name: Any, state: State, rows: np.ndarray | slice | None = None) -> State:
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


class Segment(NamedTuple):
    """Some steps of a batch after their forward pass: what the way back needs.

    rows: indices of the sequences that have not ended before; None for all.
    """

    start: int
    stop: int
    rows: np.ndarray | None
    y: np.ndarray
    workspace: Workspace


class Run:
    """One batch of sequences on its way through a rule: checked arguments, and what came out so far.

    x, targets, state, lengths, resets, mask: as for `Rule.gradients`; a wrong one raises before anything is changed.
    joint: whether the gradients are those of the whole batch's loss, whose mean is over all its valid elements, rather
        than of the mean over the elements of a segment.

    `total` and `count` are the sum of the losses and the number of valid elements so far, with `mask`'s weights if it
    has any, `state` the state at the end of the last segment, `dx` and `dstate` the gradients with respect to that
    segment's input and initial state. They may be views of buffers, good until the next segment.
    """

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        buffers: Buffers,
        x: ArrayLike,
        targets: ArrayLike,
        state: State,
        lengths: ArrayLike | None,
        mask: ArrayLike | None,
        *,
        resets: ArrayLike | None = None,
        joint: bool,
    ):
        self.model, self.loss, self.joint, self._buffers = model, loss, joint, buffers
        self.x = model._check_input(x)
        self.steps, self.batch = model._extent(self.x)
        self.lengths = checks.sequence_lengths(lengths, self.steps, self.batch)
        model._check_values("x", self.x, self.lengths)
        self.state, self.dstate = model._given_state("state", state, self.batch), None
        self.resets = model._check_resets(resets, self.steps, self.batch)
        self.dx: np.ndarray | None = None
        self._axis = 1 if model.batch_first else 0  # of time; the batch has the other
        self._timed = self.x.ndim > model._step_dimensions(self.x)
        self.targets = checks.as_array("targets", targets)
        shape = self._output_shape()
        lead = min(len(shape) - 1, self.targets.ndim)  # the output's dimensions before the features
        y = np.broadcast_to(np.zeros((), model.dtype), shape)  # takes no memory: only shape and dtype count
        if self.targets.shape[:lead] != shape[:lead]:
            loss.count(y, self.targets, None)  # which says so
        self.mask = self._loss_mask(checks.leading_mask("mask", mask, self.targets.shape), shape[:lead])
        self._whole = loss.count(y, self.targets, self.mask)
        if self._whole == 0:
            raise ValueError("mask, lengths and targets leave no valid element, expected at least one")
        self.total, self.count = 0.0, 0
        self._sums = SumOfParts(model.parameters, buffers)

    def _output_shape(self):
        """The shape of the model's output for the whole of `x`."""
        features = None if self.x.dtype.kind in "iu" else self.x.shape[-1]
        steps = self.model._output_steps(self.steps if self._timed else None)
        lead = (self.batch,) if steps is None else (self.batch, steps) if self._axis else (steps, self.batch)
        return (*lead, self.model._output_features(features))

    def _loss_mask(self, mask, lead):
        """`mask` and `lengths` as one mask, with all dimensions of `lead`; None if everything is valid."""
        if mask is not None and mask.ndim < len(lead):
            mask = np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(lead) - mask.ndim)), lead)
        if self.lengths is None or len(lead) < 2 or not self.model.keeps_steps:
            return mask
        valid = self._buffers.array("valid", lead, np.bool_)
        valid.fill(False)
        for row, length in zip(np.moveaxis(valid, 1 - self._axis, 0), self.lengths, strict=True):
            row[:length] = True
        if mask is None:
            return valid
        valid = valid.reshape(lead + (1,) * (mask.ndim - 2))
        return np.multiply(mask, valid, out=self._buffers.array("mask", mask.shape, mask.dtype))

    @property
    def value(self) -> float:
        """The loss over all segments so far, by its reduction."""
        return float(self.total / self.loss.denominator(self.count, self.batch))

    def evaluate(self, *, training: bool = False) -> float:
        """The loss of the whole batch without gradients; `training` is with dropout."""
        workspace = self._buffers.workspace(self.model, self.steps, self.batch) if training else None
        y, self.state = self.model.forward(
            self.x, self.state, lengths=self.lengths, resets=self.resets, workspace=workspace
        )
        self._add_loss(y, self.targets, self.mask, 1)
        if workspace is not None:
            self.total += workspace.penalty()
        return self.value

    def _add_loss(self, y, targets, mask, denominator):
        """Add to the loss so far; returns the gradient of the part's sum / `denominator`."""
        dy = self._buffers.array("dy", y.shape, y.dtype)
        total, count, dy = self.loss.evaluate(y, targets, mask, dy, denominator)
        watch = finite.current()
        if watch is not None and not math.isfinite(total):
            raise watch.placed(error_of_loss(self.loss, y, targets, mask, self.model.batch_first))
        self.total += float(total)
        self.count += count
        return dy

    def segment(self, start: int, stop: int, carry_factor: float = 1.0) -> float:
        """Go forward over steps `start` to `stop` from `state`, and back to `start`: gradients are added.

        carry_factor: what the state's gradient is multiplied by from each step to the one before.

        Returns the number of valid elements. Without any, only the state goes on.
        """
        segment = self.forward(start, stop)
        return 0 if segment is None else self.backward(segment, carry_factor=carry_factor)

    def forward(self, start: int, stop: int) -> Segment | None:
        """Take `state` over steps `start` to `stop`, for one `backward`; None where every sequence has ended."""
        rows, lengths = self._running(start, stop)
        if rows is not None and not rows.size:
            return None
        state = self.state if rows is None else self._split_off(rows)
        resets = None if self.resets is None else self._part(start, stop, rows, "resets", self.resets)
        workspace = self._buffers.workspace(self.model, stop - start, self.batch)
        self._say_place(start, rows)
        y, state = self.model.forward(
            self._part(start, stop, rows, "x", self.x), state, lengths=lengths, resets=resets, workspace=workspace
        )
        if rows is None:
            self.state = state
        else:
            put_rows(self.state, rows, state)
        return Segment(start, stop, rows, y, workspace)

    @staticmethod
    def _say_place(start: int, rows: np.ndarray | None) -> None:
        """Say where what is computed next stands in the batch, should it turn out not to be finite."""
        watch = finite.current()
        if watch is not None:
            watch.place(start, rows)

    def backward(self, segment: Segment, dstate: State = None, *, carry_factor: float = 1.0) -> float:
        """Add a segment's loss and gradients, given that of its final state; returns the number of valid elements."""
        y, workspace = segment.y, segment.workspace
        targets, mask = self._expected(segment)
        count = self.loss.count(y, targets, mask)
        if count or dstate is not None:
            denominator = self._denominator(count)
            dy = self._add_loss(y, targets, mask, denominator)
            self.total += workspace.penalty()
            workspace.penalty_scale = 1 / denominator
            workspace.carry_factor = carry_factor
            self.dx, self.dstate = self.model.backward(dy, dstate, workspace=workspace)
            self._count_part()
        return count

    def _count_part(self) -> None:
        """One more part of the batch has added its gradients to the model's."""
        self._sums.count()

    def _finish_sums(self) -> None:
        """Let the model's gradients be the sum over all parts so far."""
        self._sums.finish()

    def _look_at_loss(self, segment: Segment) -> None:
        """Raise the error of a segment whose loss is not finite, within a watch; what comes of the run is void."""
        targets, mask = self._expected(segment)
        self._add_loss(segment.y, targets, mask, 1)

    def _expected(self, segment):
        """A segment's targets and mask; a watch is told of the place."""
        start, stop, rows, y, _ = segment
        self._say_place(start, rows)
        targets, mask = self.targets, self.mask
        if y.ndim > 2 and self.model.keeps_steps:  # else the output's steps are not the input's
            targets = self._part(start, stop, rows, "targets", targets)
            mask = None if mask is None else self._part(start, stop, rows, "mask part", mask)
        return targets, mask

    def _denominator(self, count):
        return self.loss.denominator(self._whole if self.joint else count, self.batch)

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


def random_states(model: Layer) -> list[dict[str, Any]]:
    """The states of the random generators that `model` draws dropout masks from."""
    return [generator.bit_generator.state for generator in model._generators()]


def set_random_states(model: Layer, states: list[dict[str, Any]]) -> None:
    """Put the generators of `model` back to where `random_states` found them, all of them or, with ValueError, none."""
    generators = list(model._generators())
    if not isinstance(states, (list, tuple)) or len(states) != len(generators):
        found = f"{len(states)} of them" if isinstance(states, (list, tuple)) else type(states).__name__
        raise ValueError(f"states must be those of the model's {len(generators)} generators, got {found}")
    for generator, state in zip(generators, states, strict=True):
        check_state(generator.bit_generator, state)
    with interrupts_held():
        restore_random_states(model, states)


def restore_random_states(model: Layer, states: list[dict[str, Any]]) -> None:
    """`set_random_states` of states that are known to be good."""
    for generator, state in zip(model._generators(), states, strict=True):
        generator.bit_generator.state = state


def put_rows(state: State, rows: np.ndarray | slice, part: State) -> None:
    """Write the state `part` of the sequences `rows` into that of all."""
    map_state(lambda whole, some: whole.__setitem__((slice(None), rows), some), state, part)


def refuse_whole_masks(rule, model) -> None:
    """Refuse a model with masks that are the same at all steps of a sequence, for a rule that goes in parts."""
    for layer in layers_of(model):
        if getattr(layer, "variational", False):
            name = type(layer).__name__
            raise ValueError(f"{rule!r} goes in parts, and {name} has masks for whole sequences: use Full()")


def refuse_penalties(rule, model) -> None:
    """Refuse a model with penalties, for a rule whose passes are not the loss's own."""
    for layer in layers_of(model):
        if isinstance(layer, ActivityRegularization):
            raise ValueError(f"{rule!r} can't train ActivityRegularization, whose penalty belongs to a whole pass")


def refuse_slowness(rule, model) -> None:
    """Refuse a model with penalties on changes, for a rule in parts whose gradient is to be that of the whole."""
    for layer in layers_of(model):
        if getattr(layer, "slowness", 0):
            raise ValueError(f"{rule!r} goes in parts, and slowness counts the changes between them, too: use Full()")


class Rule(ABC):
    """Base of all rules."""

    cuts = False  # cuts the sequence, so that what looks ahead or at the whole of it can't be computed

    def __init__(self) -> None:
        self._buffers = Buffers()

    def gradients(
        self,
        model: Layer,
        loss: Loss,
        x: ArrayLike,
        targets: ArrayLike,
        state: State = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[float, State]:
        """Add the gradients of a batch of sequences to the model's; no parameter moves.

        x, state, lengths, resets: as in `model.forward`, batch first if the model is.
        targets: as `loss` takes them for the model's output.
        mask: booleans or weights ≥ 0 of the leading shape of `targets`, the elements that count or how much they do;
            with `lengths`, steps past a sequence's end do not count either.

        Returns `(value, state)`: the loss of the whole batch, of which the gradients of all parts are the sum, each
        with its rule's paths cut, and the final state. Buffers are kept by the rule, for one thread at a time.
        Raises TypeError or ValueError before anything is changed if an argument does not fit.
        """
        self.check(model)
        check_loss(loss)
        run = Run(model, loss, self._buffers, x, targets, state, lengths, mask, resets=resets, joint=True)
        self._add_all(run)
        return run.value, run.state

    def _add_all(self, run):
        """Add the gradients of all updates of a batch, with no update made."""
        for add_gradients in self.updates(run):
            add_gradients()
        run._finish_sums()

    def check(self, model: Layer) -> None:
        """Refuse what is no model, and a model that the rule can't train."""
        check_model(model)
        if not self.cuts:
            return
        for layer in layers_of(model):
            if getattr(layer, "bidirectional", False):
                raise ValueError(f"{self!r} cuts sequences, and a bidirectional layer needs them whole: use Full()")
            if not layer.keeps_steps:
                name = type(layer).__name__
                raise ValueError(f"{self!r} cuts sequences, and {name} needs or makes whole ones: use Full()")

    @abstractmethod
    def updates(self, run: Run) -> Iterator[Callable[[], float]]:
        """The updates of one batch, in order; each adds its gradients and returns its number of valid elements."""

    def observe(self, validation_loss: float) -> None:
        """Take note of a validation loss, which `Trainer.fit` tells of after each epoch; most rules don't care."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What changes from batch to batch, numbers and dicts of them: a trainer's checkpoint keeps it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` of such a rule gave; TypeError or ValueError, and no change, if it was not."""
        if not isinstance(state, dict):
            raise TypeError(f"state must be a dict, got {type(state).__name__}")
        expected = self.state_dict().keys()
        if state.keys() != expected:
            raise ValueError(f"{self!r} has a state with the entries {list(expected)}, got {list(state)}")
