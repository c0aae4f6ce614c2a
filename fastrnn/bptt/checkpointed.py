"""The exact gradient in little memory: states are kept at few points, and what lies between is computed again."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .. import checks
from ..finite import NonFiniteError
from .base import (
    Rule,
    Run,
    map_state,
    put_rows,
    random_states,
    refuse_slowness,
    refuse_whole_masks,
    restore_random_states,
)

if TYPE_CHECKING:
    from ..layers.base import Layer


class Checkpointed(Rule):
    """The gradient of `Full()` in memory that grows as √T beyond x and targets (Chen et al. 2016): one update a batch.

    The sequence is gone through in `segments` parts, about √T / 2 by default, of which only the states that they begin
    with are kept: a step takes more room than a state, and a part has costs of its own. From the last part to the
    first, each is then computed again, output and loss too, and gone back through.
    That takes one forward pass more than `Full()`.

    Dropout has the same masks both times. They are other ones than `Full()` would draw, and a mask that is the same at
    every step of a sequence can't be had in parts: it is refused, as bidirectional layers, pooled outputs and penalties
    on changes over time are.
    """

    cuts = True

    def __init__(self, segments: int | None = None):
        self.segments = None if segments is None else checks.integer("segments", segments, minimum=1)
        super().__init__()

    def __repr__(self):
        return f"Checkpointed({'' if self.segments is None else self.segments})"

    def check(self, model: Layer) -> None:
        super().check(model)
        refuse_slowness(self, model)
        refuse_whole_masks(self, model)

    def updates(self, run: Run) -> Iterator[Callable[[], float]]:
        yield functools.partial(self._add_gradients, run)

    def _add_gradients(self, run):
        run.joint = True
        keep = self._buffers.keep_state
        length = math.ceil(run.steps / (self.segments or max(1, math.isqrt(run.steps) // 2)))
        starts = range(0, run.steps, length)
        points = []  # what each segment begins with: the state, and those of the random generators
        for n, start in enumerate(starts):
            points.append((keep(("start", n), run.state), random_states(run.model)))
            segment = run.forward(start, min(start + length, run.steps))
        final, random = keep("final", run.state), random_states(run.model)
        dstate = keep("gradient", final)  # of the state that the segment at hand ends with
        map_state(lambda array: array.fill(0), dstate)

        def again(n):
            run.state, states = points[n]
            restore_random_states(run.model, states)
            return run.forward(starts[n], starts[n] + length)

        count = 0
        for n in reversed(range(len(starts))):
            if n < len(starts) - 1:
                segment = again(n)
            if segment is not None:
                rows = slice(None) if segment.rows is None else segment.rows
                part = dstate if segment.rows is None else keep("part of gradient", dstate, rows)
                try:
                    count += run.backward(segment, part)
                except NonFiniteError:  # of a loss: one of an earlier part is to be named first
                    for earlier in range(n):
                        run._look_at_loss(again(earlier))
                    raise
                put_rows(dstate, rows, run.dstate)
        restore_random_states(run.model, random)
        run.state, run.dstate = final, dstate
        return count
