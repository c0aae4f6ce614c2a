"""Output fed back as input in training: teacher forcing, free running and scheduled sampling."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks
from ..bit_generators import check_state
from ..generation import check_stepwise, draw
from ..schedules import Schedule
from .base import Buffers, Rule, Run, map_state, put_rows, refuse_penalties, refuse_whole_masks

if TYPE_CHECKING:
    from ..layers.base import Layer


class LinearDecay(Schedule):
    """From `start` at update 0 in a straight line to `stop` at update `updates`, and `stop` from there on."""

    def __init__(self, updates: int, start: float = 1.0, stop: float = 0.0):
        super().__init__(
            updates=checks.integer("updates", updates, minimum=1),
            start=checks.number("start", start, minimum=0.0, maximum=1.0),
            stop=checks.number("stop", stop, minimum=0.0, maximum=1.0),
        )

    def _factor(self, step, updates, start, stop):
        return start + (stop - start) * min(step / updates, 1.0)


class InverseSigmoidDecay(Schedule):
    """k / (k + exp(update / k)), for k ≥ 1: near 1 for some k·ln k updates, then down to 0 within a few k."""

    def __init__(self, k: float):
        super().__init__(k=checks.number("k", k, minimum=1.0))

    def _factor(self, step, k):
        return k / (k + math.exp(min(step / k, 700.0)))  # what is beyond would overflow


class _Segment(NamedTuple):
    """Steps that one forward pass takes: after the first one, all inputs are given ones."""

    start: int
    stop: int
    rows: np.ndarray | None  # of the batch, those that have not ended; None for all
    workspace: Any


class Feedback(Rule):
    """The model's output is its next input: scheduled sampling (Bengio et al. 2015), one update a batch.

    At each step after the first, and for each sequence by itself, the given x_t is fed with probability `teacher`, and
    otherwise what the model gave at the step before. 1.0 is teacher forcing, which is `Full`, and 0.0 free running.

    teacher: probability, or a schedule, number of updates so far -> probability: `LinearDecay`, `InverseSigmoidDecay`,
        `fastrnn.Exponential` (these three are the paper's) or any callable.
    sample: tokens are fed back as the likeliest one, "argmax", or drawn from the softmax of the logits, "sample".
    seed: of all draws.

    Tokens come of logits as `CrossEntropy` takes them; no gradient goes through the choice. Of real vectors, the O
    numbers of an output become the first O of the next input, whose other features stay as they are given, and the
    gradient goes back through them: it is the exact one of the loss. With `lengths`, `mask` and a state as in `Full`.
    Where `resets` begin a sequence anew, the given input is fed.

    Steps are run one by one where outputs are fed back, and in stretches where none is. Bidirectional and pooling
    layers are refused, and outputs that don't fit the input. `updates_done` counts the batches, for the schedule.
    `Trainer.evaluate` feeds the given inputs; `fastrnn.generate` runs freely.
    """

    def __init__(self, teacher: float | Callable[[int], float] = 1.0, *, sample: str = "argmax", seed: int = 0):
        self.teacher = teacher if callable(teacher) else _probability(teacher)
        self.sample = checks.choice("sample", sample, ("argmax", "sample"))
        self._rng = np.random.default_rng(checks.integer("seed", seed, minimum=0))
        self.updates_done = 0
        self._workspaces: dict[int, list[Buffers]] = collections.defaultdict(list)  # by the steps they hold
        super().__init__()

    def __repr__(self):
        return f"Feedback({self.teacher!r}, sample={self.sample!r})"

    def check(self, model: Layer) -> None:
        super().check(model)
        check_stepwise(model, repr(self))
        refuse_penalties(self, model)
        refuse_whole_masks(self, model)

    def state_dict(self) -> dict[str, Any]:
        """Count of updates and state of the generator, good for JSON."""
        return {"updates_done": self.updates_done, "random": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called. ValueError if it is none of this rule; then nothing is changed."""
        if not isinstance(state, Mapping) or state.keys() != {"updates_done", "random"}:
            found = f"one with {list(state)}" if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"state must be what Feedback.state_dict returns, got {found}")
        updates = checks.integer("updates_done", state["updates_done"], minimum=0)
        check_state(self._rng.bit_generator, state["random"])
        self._rng.bit_generator.state = state["random"]
        self.updates_done = updates

    def updates(self, run: Run) -> Iterator[Callable[[], float]]:
        _check_fit(run)
        yield functools.partial(self._add_gradients, run)

    def _add_gradients(self, run):
        random = self._rng.bit_generator.state
        try:
            teacher = self.teacher(self.updates_done) if callable(self.teacher) else self.teacher
            own = self._own_inputs(run, _probability(teacher))
            count = run.segment(0, run.steps) if own is None else self._alternate(run, own)
        except BaseException:  # a batch that is broken off has drawn nothing
            self._rng.bit_generator.state = random
            raise
        self.updates_done += 1
        return count

    def _own_inputs(self, run, teacher):
        """(T,B) booleans: which inputs are the model's own outputs. None if none is."""
        if teacher == 1.0:
            return None
        own = self._buffers.array("own", (run.steps, run.batch), np.bool_)
        own.fill(True)
        if teacher > 0:
            drawn = self._rng.random(out=self._buffers.array("drawn", own.shape, np.float64))
            np.greater_equal(drawn, teacher, out=own)
        own[0] = False
        if run.lengths is not None:
            for column, length in zip(own.T, run.lengths, strict=True):
                column[length:] = False
        resets = run.resets
        if resets is not None:
            np.logical_and(own, ~_time_first(run, resets), out=own)
        return own if own.any() else None

    def _alternate(self, run, own):
        """Forward segment by segment with outputs fed back, the loss of the whole, and backward through all of it."""
        kind = np.int64 if run.x.dtype.kind in "iu" else run.x.dtype  # narrow integers may not hold every token
        inputs = self._buffers.array("inputs", run.x.shape, kind)
        inputs[...] = run.x
        y = self._buffers.array("y", run._output_shape(), run.model.dtype)
        segments = [self._forward(run, own, inputs, y, *bounds) for bounds in self._bounds(run, own)]
        count = run.loss.count(y, run.targets, run.mask)
        run._say_place(0, None)
        dy = run._add_loss(y, run.targets, run.mask, run._denominator(count))
        if self._spoil(run, own, y, dy):
            run.total = math.nan
        dstate = None
        for segment in reversed(segments):
            dstate = self._backward(run, own, dy, dstate, segment)
        run.dstate = dstate
        return count

    @staticmethod
    def _spoil(run, own, y, dy):
        """Make the gradients of logits NaN that were none a token could be chosen by; whether there are any.

        The token that went on in their place does not show it.
        """
        if run.x.dtype.kind == "f":
            return False
        steps, sequences = np.nonzero(own[1:])
        bad = ~np.isfinite(_time_first(run, y)[steps, sequences]).all(1)
        _time_first(run, dy)[steps[bad], sequences[bad]] = np.nan
        return bad.any()

    def _bounds(self, run, own):
        """Of the segments, each with a workspace.

        A segment begins where an output is fed back. It is cut into powers of two, so that the workspaces, which are
        kept, hold no more than T·log₂ T steps, wherever outputs come to be fed back.
        """
        starts = [0, *(t for t in range(1, run.steps) if own[t].any()), run.steps]
        used = collections.Counter()
        for start, stop in zip(starts, starts[1:], strict=False):
            while start < stop:
                size = 1 << (stop - start).bit_length() - 1
                kept = self._workspaces[size]
                if used[size] == len(kept):
                    kept.append(Buffers())
                yield start, start + size, kept[used[size]].workspace(run.model, size, run.batch)
                used[size] += 1
                start += size

    def _forward(self, run, own, inputs, y, start, stop, workspace):
        """Steps `start` to `stop`: outputs go into `y`, the state on in `run`."""
        if own[start].any():
            self._feed(_time_first(run, inputs)[start], _time_first(run, y)[start - 1], own[start])
        rows, lengths = run._running(start, stop)
        if rows is not None and not rows.size:
            return _Segment(start, stop, rows, workspace)
        state = run.state if rows is None else run._split_off(rows)
        part = run._part(start, stop, rows, "x", inputs)
        resets = run.resets
        resets = None if resets is None else run._part(start, stop, rows, "resets part", resets)
        run._say_place(start, rows)
        part, state = run.model.forward(part, state, lengths=lengths, resets=resets, workspace=workspace)
        target = _time_first(run, y)[start:stop]
        if rows is None:
            target[...] = _time_first(run, part)
            run.state = state
        else:
            target[:, rows] = _time_first(run, part)
            put_rows(run.state, rows, state)
        return _Segment(start, stop, rows, workspace)

    def _feed(self, x_t, y_before, own):
        """Put the outputs `y_before` (B,O) into the inputs `x_t` (B,F), or (B,), of the sequences `own`."""
        if x_t.ndim > 1:
            np.copyto(x_t[:, : y_before.shape[1]], y_before, where=own[:, np.newaxis])
        elif self.sample == "argmax":
            np.copyto(x_t, np.argmax(y_before, 1), where=own)
        else:  # a number for every sequence: what one draws does not depend on the others
            drawn = self._rng.random(own.size)
            x_t[own] = draw(y_before[own], drawn[own])

    def _backward(self, run, own, dy, dstate, segment):
        """Take `dy`, a whole batch's, and `dstate` back through a segment; returns the `dstate` before it."""
        start, stop, rows, workspace = segment
        if rows is not None and not rows.size:
            return dstate
        dy_part = run._part(start, stop, rows, "dy part", dy)
        if rows is None:
            dx, dstate = run.model.backward(dy_part, dstate, workspace=workspace)
        else:
            if dstate is None:
                dstate = self._buffers.keep_state("dstate", run.state)
                map_state(lambda array: array.fill(0), dstate)
            part = self._buffers.keep_state("dstate part", dstate, rows)
            dx, part = run.model.backward(dy_part, part, workspace=workspace)
            put_rows(dstate, rows, part)
        run._count_part()
        if dx is not None and own[start].any():
            self._feed_back(_time_first(run, dy)[start - 1], _time_first(run, dx)[0], own[start], rows)
        return dstate

    def _feed_back(self, dy_before, dx, own, rows):
        """Add the gradients `dx` (n,F) of the inputs of `rows` to those of the outputs they were."""
        dx = dx[:, : dy_before.shape[1]]
        if rows is not None:
            whole = self._buffers.array("dx", dy_before.shape, dx.dtype)
            whole[rows] = dx
            dx = whole
        with np.errstate(over="ignore", invalid="ignore"):  # what explodes is seen in the gradients
            np.add(dy_before, dx, out=dy_before, where=own[:, np.newaxis])


def _probability(value):
    return checks.number("teacher", value, minimum=0.0, maximum=1.0)


def _time_first(run, array):
    """A view of a batch of sequences with time as its first dimension."""
    return np.moveaxis(array, run._axis, 0)


def _check_fit(run):
    """Refuse a model whose outputs can't be its next inputs."""
    if not run._timed:
        raise ValueError(f"x must be sequences for an output to be fed back, got {run.x.ndim} dimensions")
    outputs, inputs = run._output_shape()[-1], run.x.shape[-1]
    if run.x.dtype.kind == "f":
        if outputs > inputs:
            raise ValueError(f"the model's {outputs} outputs must be features of x to be fed back, got {inputs}")
        return
    try:
        run.model._check_values("x", np.full((1, 1), outputs - 1), None)
    except ValueError:
        raise ValueError(f"the model gives {outputs} logits and does not take so many tokens") from None
