"""Williams & Peng's BPTT(h; h′): a window of steps for the losses of every few steps."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from .. import checks, finite
from ..model import Container, Sequential, layers_of
from .base import Rule, Run, map_state, put_rows, random_states, refuse_penalties, restore_random_states

if TYPE_CHECKING:
    from ..layers.base import Layer


class Windowed(Rule):
    """BPTT(h; h′) with h = `k2`, h′ = `k1` (Williams & Peng 1990): one update a batch, of the sum over all windows.

    After every k1 steps, and at a sequence's end, the losses of these steps go back together, at most to the k2 newest
    steps; the state before them counts as given. So `Windowed(k)` takes the loss at t to the steps t, t−1, …, t−k+1.

    All windows go back at once, a step at a time: the rows of all of them are one product. On the way only the state's
    gradient is worked out; what came to each step in sum gives the parameters' gradients at the end, which are linear
    in it. That takes a forward pass over single steps besides that over the sequences, and k2 / k1 + 1 backward passes,
    all but one of which are without the weights' products.

    Refused are bidirectional layers and pooled outputs, dilation, and random masks within or between recurrent layers
    that single steps can't have the same: one for a whole sequence, with k1 > 1 any, and with `batch_first` those of
    recurrent dropout and zoneout. Index arrays of T·B numbers, and the states before all steps, are made anew in every
    call.
    """

    cuts = True

    def __init__(self, k2: int, k1: int = 1):
        self.k1 = checks.integer("k1", k1, minimum=1)
        self.k2 = checks.integer("k2", k2, minimum=self.k1)
        super().__init__()

    def __repr__(self):
        return f"Windowed({self.k2})" if self.k1 == 1 else f"Windowed({self.k2}, {self.k1})"

    def check(self, model: Layer) -> None:
        super().check(model)
        refuse_penalties(self, model)
        for layer in layers_of(model):
            name = type(layer).__name__
            if getattr(layer, "dilation", 1) > 1:
                raise ValueError(f"{self!r} goes back by single steps, and a dilated {name} has several states at once")
            noisy = getattr(layer, "recurrent_dropout", 0) or any(getattr(layer, "zoneout", ()))
            if noisy and layer.batch_first:  # its masks don't lie in the order of a batch of single steps
                raise ValueError(f"{self!r} can't draw the noise of {name} again with batch_first: use time first")

    def updates(self, run: Run) -> Iterator[Callable[[], float]]:
        yield functools.partial(self._add_gradients, run)

    def _add_gradients(self, run):
        for _ in self.horizons(run, (self.k2,)):
            pass
        return run.count

    def horizons(self, run: Run, stops: Iterable[int]) -> Iterator[int]:
        """Add gradients phase by phase, and give each of `stops` when it is reached; they rise and end with `k2`.

        With k1 = 1, the gradients added so far are those of `Windowed(stop)` then.
        """
        run.joint = True
        if not any(layer.stateful for layer in layers_of(run.model)):  # no step reaches another
            run.segment(0, run.steps)
            yield from stops
            return
        windows, done = _Windows(self, run, self._buffers), 0
        for stop in stops:
            reached = windows.phases if stop == self.k2 else min(stop, windows.phases)
            for phase in range(done, reached):
                windows.back(phase)
            windows.finish(last=stop == self.k2)
            run._finish_sums()
            yield stop
            done = reached


def _singles(layer, state, gradient):
    """A layer, or those in a container, each with its own of a state and of a gradient of states."""
    if not isinstance(layer, Container):
        yield layer, state, gradient
        return
    entries = zip(layer.layers, layer._entries("state", state), layer._entries("gradient", gradient), strict=True)
    for member, (_, own_state), (_, own_gradient) in entries:
        yield from _singles(member, own_state, own_gradient)


class _Chain:
    """Successive layers of a model, each with a workspace of its own; states are lists with an entry a layer."""

    def __init__(self, layers, buffers, name, steps, batch, *, repeatable=False):
        self.layers = layers
        self._workspaces = [buffers.workspace(layer, steps, batch, (name, i)) for i, layer in enumerate(layers)]
        for workspace in self._workspaces:
            workspace.repeatable = repeatable

    def forward(self, x, state, lengths=None, resets=None):
        """As `Layer.forward` of checked arguments, one layer after the other; what a pass of a model looks at before
        and after all of them is the caller's."""
        new, watch = [], finite.current()
        for layer, workspace, entry in zip(self.layers, self._workspaces, state, strict=True):
            entry = layer._check_state("state", entry, layer._extent(x)[1])
            x, entry = layer._take_forward(x, entry, lengths, resets, workspace, None)
            if watch is not None:
                watch.output(layer, x)
            new.append(entry)
        return x, new

    def backward(self, dy, dstate=None, *, state_only=False):
        dstate = [None] * len(self.layers) if dstate is None else list(dstate)
        for i in reversed(range(len(self.layers))):
            self._workspaces[i].state_only = state_only
            self._workspaces[i].wants_dx = i > 0 or not state_only
            dy, dstate[i] = self.layers[i].backward(dy, dstate[i], workspace=self._workspaces[i])
        return dy, dstate

    def states_before(self, steps, rows):
        """The states before these steps of these sequences, as those of a batch."""
        pairs = zip(self.layers, self._workspaces, strict=True)
        return [layer._states_before(workspace, steps, rows) if layer.stateful else None for layer, workspace in pairs]

    def _generators(self):
        return [generator for layer in self.layers for generator in layer._generators()]


_ROWS_AT_ONCE = 512  # what a product of them reads again and again stays in the cache


class _Rows:
    """Some of the steps that go back in the same phases, as a batch of n sequences of one step.

    places (n,): where they stand among the T·B rows of a whole array; steps, sequences (n,): what they are; span: where
    they stand among all rows of their phases.
    following (n,): where the row of the next step stands among those of the phase before.
    Indices of rows: `closed`, to which no gradient comes down from the next step; `late`, which the last block's window
    does not reach; `padding`, past a sequence's end; `first`, of step 0; `begun`, of a step that resets, and `fresh`,
    of either.
    """

    def __init__(self, name, span, places, steps, sequences):
        self.name, self.span, self.places, self.steps, self.sequences = name, span, places, steps, sequences
        # the core's layers for these rows, and what goes through them: dy enters once; gradient with respect to the
        # states after the rows in this phase, and total, its sum over those since the parameters had their gradients
        self.chain = self.x = self.dy = self.zeros = self.dx = self.gradient = self.total = None
        self.entered = False

    def relate(self, stride, position, ends, resets, k2):
        """Find the indices; `position` (T·B): of each place among its rows, `stride`: from a step's to the next's."""
        end, following = ends[self.sequences], np.minimum(self.places + stride, position.size - 1)
        resets_here = resets[self.places]
        self.following = position[following]
        self.closed = np.flatnonzero((self.steps + 1 >= end) | resets[following])
        self.late = np.flatnonzero(end - 1 - self.steps >= k2)
        self.padding = np.flatnonzero(self.steps >= end)
        self.first = np.flatnonzero(self.steps == 0)
        self.begun = np.flatnonzero(resets_here)
        self.fresh = np.flatnonzero(resets_here | (self.steps == 0))


def _grouped(run, ends, k1, k2, with_padding):
    """A list of `_Rows` for each of k1 phases; those of the last step of a block come first."""
    places = np.arange(run.steps * run.batch)
    if run.model.batch_first:
        sequences, steps = np.divmod(places, run.steps)
        stride = 1
    else:
        steps, sequences = np.divmod(places, run.batch)
        stride = run.batch
    resets = np.zeros(places.size, bool) if run.resets is None else run.resets.reshape(-1)
    wanted = np.ones(places.size, bool) if with_padding else steps < ends[sequences]
    groups, position = [], np.zeros(places.size, np.int64)
    for phase in range(k1):
        chosen = np.flatnonzero(wanted & (steps % k1 == k1 - 1 - phase))
        position[chosen] = np.arange(chosen.size)
        size = chosen.size if with_padding else _ROWS_AT_ONCE  # masks are drawn at once
        group = []
        for first in range(0, chosen.size, size):
            part = chosen[first : first + size]
            span = slice(first, first + part.size)
            group.append(_Rows((phase, first), span, part, steps[part], sequences[part]))
        groups.append(group)
    for rows in itertools.chain(*groups):
        rows.relate(stride, position, ends, resets, k2)
    return groups


def _clear(state, rows):
    """Set the sequences `rows` of a state to zero."""
    map_state(lambda array: array.__setitem__((slice(None), rows), 0), state)


def _add(total, part):
    """Add in place. Gradients that explode are seen in what comes of them, and are no matter for NumPy's warnings."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.add(total, part, out=total)


class _Windows:
    """All windows of a batch, on their way back together in `phases` phases.

    The layers below the first recurrent one and above the last treat every step alone: they go forward and back once,
    over whole sequences. Those between, the core, go forward once more over single steps, each from the state before
    it: T·B sequences of one step. Phase p then takes the step p before the last of every block of k1 steps back, for
    that block's losses. Blocks lie k1 steps apart, so all rows whose step is the same modulo k1 have their turn
    together, again and again, each time with the gradient that came down from the step after it.
    """

    def __init__(self, rule, run, buffers):
        self._run, self._buffers, self._k2 = run, buffers, rule.k2
        self._bare = not isinstance(run.model, Sequential)
        layers = (run.model,) if self._bare else run.model.layers
        entries = [("state", run.state)] if self._bare else run.model._entries("state", run.state)
        self._states = [state for _, state in entries]
        stateful = [i for i, layer in enumerate(layers) if layer.stateful]
        self._span = slice(stateful[0], stateful[-1] + 1)  # the core's layers
        lower, core, upper = layers[: self._span.start], layers[self._span], layers[self._span.stop :]
        self._lower = _Chain(lower, buffers, "lower", run.steps, run.batch, repeatable=True)
        self._core = _Chain(core, buffers, "core", run.steps, run.batch)
        self._upper = _Chain(upper, buffers, "upper", run.steps, run.batch)
        self._ends = np.full(run.batch, run.steps) if run.lengths is None else run.lengths
        longest = int(self._ends.max())
        self._k1 = min(rule.k1, longest)
        blocks = -(-longest // self._k1)
        # a block that is cut short begins in a later phase
        self.phases = min(self._k2 + int((-self._ends % self._k1).max()), blocks * self._k1)
        random = random_states(run.model)
        y, final = self._forward()
        if final is None:
            restore_random_states(run.model, random)  # as if nothing had been done
            raise ValueError(f"{rule!r} goes back by single steps, for which recurrent layers draw other random masks")
        count = run.loss.count(y, run.targets, run.mask)
        self._prepare_back(run._add_loss(y, run.targets, run.mask, run._denominator(count)), final)
        run.state = self._of_model(final)

    def _forward(self):
        """Forward over sequences and single steps: the output and the core's final state, None if masks differ."""
        run, watch = self._run, finite.current()
        if watch is not None:  # one look for the passes of all three chains
            run._say_place(0, None)
            watch.begin(run.model, "x", run.x, run.state, run.lengths)
        x, _ = self._lower.forward(run.x, [None] * len(self._lower.layers), run.lengths, run.resets)
        before = random_states(self._core)
        y, final = self._core.forward(x, self._states[self._span], run.lengths, run.resets)
        after = random_states(self._core)
        y, _ = self._upper.forward(y, [None] * len(self._upper.layers), run.lengths, run.resets)
        if watch is not None:
            watch.end(run.model, y, self._of_model(final))

        # all rows in the order of the whole array draw the numbers that the whole array drew
        self._groups = _grouped(run, self._ends, self._k1, self._k2, with_padding=repr(before) != repr(after))
        restore_random_states(self._core, before)
        for rows in itertools.chain(*self._groups):
            rows.chain = _Chain(self._core.layers, self._buffers, rows.name, 1, rows.places.size, repeatable=True)
            rows.x = self._single_steps("x", x, rows)
            rows.steps[rows.padding] = 0
            rows.chain.forward(rows.x, self._core.states_before(rows.steps, rows.sequences))
        again = random_states(self._core)
        restore_random_states(self._core, after)
        for a, b, c in zip(map(repr, before), map(repr, after), map(repr, again), strict=True):
            if c != a and (c != b or self._k1 > 1):
                return y, None
        return y, final

    def _prepare_back(self, dy, final):
        dy, _ = self._upper.backward(dy)
        for rows in itertools.chain(*self._groups):
            rows.dy = self._single_steps("dy", dy, rows)
            rows.zeros = self._buffers.array(("zeros", rows.dy.shape), rows.dy.shape, dy.dtype)
            rows.zeros.fill(0)
            rows.total = self._buffers.keep_state(("total", rows.name), final, np.zeros(rows.places.size, np.int64))
            _clear(rows.total, slice(None))
            if self._lower.layers:
                rows.dx = self._buffers.array(("dx", rows.name), rows.x.shape, dy.dtype)
                rows.dx.fill(0)
        self._gradient = None  # with respect to the states before all rows of the phase before
        self._reached = None  # the group of rows that it has come to, until it has been taken through them
        self._gradients = []  # room for it; the values are of no account
        for phase, group in enumerate(self._groups):
            room = np.zeros(group[-1].span.stop, np.int64)
            self._gradients.append(self._buffers.keep_state(("gradients", phase), final, room))
        self._d_initial = self._buffers.keep_state("initial", final)
        _clear(self._d_initial, slice(None))

    def _of_model(self, state):
        """A state of the core as the model's."""
        if self._bare:
            return state[0]
        return (*[None] * len(self._lower.layers), *state, *[None] * len(self._upper.layers))

    def _single_steps(self, name, array, rows):
        """`rows` of a whole array, as sequences of one step; zero where there is padding."""
        flat = array.reshape(-1, *array.shape[2:])
        taken = self._buffers.array((name, rows.name), (rows.places.size, *flat.shape[1:]), flat.dtype)
        np.take(flat, rows.places, 0, out=taken, mode="clip")  # other modes allocate
        taken[rows.padding] = 0
        return np.expand_dims(taken, 1 if self._run.model.batch_first else 0)

    def back(self, phase: int) -> None:
        """Let every window reach one step further back."""
        self._propagate()
        group = self._groups[phase % self._k1]
        for rows in group if self._gradient is not None else ():
            rows.gradient = self._buffers.keep_state(("gradient", rows.name), self._gradient, rows.following)
            _clear(rows.gradient, rows.closed)
            if phase >= self._k2:
                _clear(rows.gradient, rows.late)
            map_state(_add, rows.total, rows.gradient)
        self._reached = phase % self._k1

    def _propagate(self):
        """Take the state's gradient through the steps reached last, if it has not been."""
        if self._reached is None:
            return
        self._gradient = self._gradients[self._reached]
        for rows in self._groups[self._reached]:
            dy = rows.zeros if rows.entered else rows.dy  # a loss enters once, and goes on as the state's gradient
            _, gradient = rows.chain.backward(dy, rows.gradient, state_only=True)
            put_rows(self._gradient, rows.span, gradient)
            rows.entered = True
        self._reached = None

    def _reach_beginnings(self, rows, gradient):
        """Add the gradients of the states that sequences begin with."""
        if rows.first.size:
            first = self._buffers.keep_state(("first", rows.name), gradient, rows.first)
            _clear(first, np.flatnonzero(np.isin(rows.first, rows.begun)))
            where = rows.sequences[rows.first]
            with np.errstate(over="ignore", invalid="ignore"):  # as in `_add`
                map_state(lambda total, part: np.add.at(total, (slice(None), where), part), self._d_initial, first)
        states = self._states[self._span]
        triples = zip(self._core.layers, states, gradient, strict=True)
        singles = [single for triple in triples for single in _singles(*triple)]
        for i, (layer, state, part) in enumerate(singles):
            begun = rows.fresh if state is None else rows.begun
            if begun.size:
                layer._add_initial_gradient(self._buffers.keep_state(("begun", rows.name, i), part, begun))

    def finish(self, last: bool) -> None:
        """Add the gradients that the phases since the last time make, and take them to the layers below."""
        reached = self._reached
        if not last:
            self._propagate()
        for phase, group in enumerate(self._groups):
            for rows in group:
                if rows.entered or phase == reached:
                    dx, gradient = rows.chain.backward(rows.dy, rows.total)
                    rows.dy.fill(0)
                    _clear(rows.total, slice(None))
                    if rows.dx is not None:
                        _add(rows.dx, dx)
                    self._reach_beginnings(rows, gradient)
                    self._run._count_part()
        self._run.dstate = self._of_model(self._d_initial)
        if not self._lower.layers:
            return
        run, features = self._run, self._groups[0][0].dx.shape[-1]
        lead = (run.batch, run.steps) if run.model.batch_first else (run.steps, run.batch)
        dx = self._buffers.array("dx", (*lead, features), run.model.dtype)
        dx.fill(0)
        flat = dx.reshape(-1, features)
        for rows in itertools.chain(*self._groups):
            flat[rows.places] = rows.dx.reshape(-1, features)
            rows.dx.fill(0)
        self._lower.backward(dx)
