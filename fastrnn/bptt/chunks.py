"""Rules that go through a batch once, chunk by chunk: the state is carried over, the gradient is not."""

from __future__ import annotations

import functools
import math
import numbers
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..bit_generators import check_state
from ..layers.initial_state import LEARNED
from ..model import layers_of
from .base import Rule, Run, refuse_slowness, refuse_whole_masks

if TYPE_CHECKING:
    from ..layers.base import Layer


class Full(Rule):
    """The whole sequence at once, the exact gradient (Werbos 1990): one update a batch."""

    def __repr__(self):
        return "Full()"

    def updates(self, run: Run) -> Iterator[Callable[[], float]]:
        yield functools.partial(run.segment, 0, run.steps)


def _chunks(run, k):
    """An update for each `k` steps, the last may have fewer."""
    for start in range(0, run.steps, k):
        yield functools.partial(run.segment, start, min(start + k, run.steps))


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

    def updates(self, run: Run) -> Iterator[Callable[[], float]]:
        return _chunks(run, self.k)


class Online(Truncated):
    """An update after every step, with a gradient that goes no further back than that step: `Truncated(1)`."""

    def __init__(self) -> None:
        super().__init__(1)

    def __repr__(self):
        return "Online()"


class Growing(Rule):
    """`Truncated(horizon)` with a `horizon` that begins at `start` and grows by `factor` up to `stop`.

    Short horizons give many cheap updates while there is little to remember, long ones the gradient that remembers.

    start: the first horizon.
    stop: the last; None for no limit, until whole sequences go back at once.
    factor: of each growth, above 1; the horizon grows by at least one step.
    every: number of batches after which it grows, or "plateau": each time that a validation loss is not below the least
        so far. `Trainer.fit` with `validation` tells the rule of it; who calls the rule alone calls `observe`.

    `horizon` and what it depends on are part of a trainer's checkpoints.
    """

    cuts = True

    def __init__(self, start: int = 1, stop: int | None = None, factor: float = 2, *, every: int | str):
        self.start = checks.integer("start", start, minimum=1)
        self.stop = None if stop is None else checks.integer("stop", stop, minimum=self.start)
        self.factor = checks.number("factor", factor, above=1)
        self.every: int | str
        if isinstance(every, str):
            self.every = checks.choice("every", every, ("plateau",))
        else:
            self.every = checks.integer("every", every, minimum=1)
        self.horizon = self.start
        self._batches = 0  # since the horizon grew
        self._least: float | None = None  # of all validation losses
        super().__init__()

    def __repr__(self):
        return f"Growing({self.start}, {self.stop}, {self.factor:g}, every={self.every!r})"

    def updates(self, run: Run) -> Iterator[Callable[[], float]]:
        yield from _chunks(run, self.horizon)
        self._batches += 1
        if self._batches == self.every:
            self._grow()

    @property
    def needs_validation(self) -> bool:
        """Whether `Trainer.fit` has to be given a validation, without which the horizon would never grow."""
        return self.every == "plateau"

    def observe(self, validation_loss: float) -> None:
        """Grow if the loss is not below the least so far and the rule was made with `every="plateau"`."""
        if not isinstance(validation_loss, numbers.Real):
            raise TypeError(f"validation_loss must be a number, got {type(validation_loss).__name__}")
        improved = math.isfinite(validation_loss) and (self._least is None or validation_loss < self._least)
        if improved:
            self._least = float(validation_loss)
        elif self.every == "plateau":
            self._grow()

    def _grow(self):
        longest = sys.maxsize if self.stop is None else self.stop
        self.horizon = int(min(max(self.horizon + 1, self.horizon * self.factor), longest))
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """`horizon`, the number of batches since it grew, and the least validation loss."""
        return {"horizon": self.horizon, "batches": self._batches, "least": self._least}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        horizon = checks.integer("horizon", state["horizon"], minimum=self.start, maximum=self.stop)
        last = None if isinstance(self.every, str) else self.every - 1
        batches = checks.integer("batches", state["batches"], minimum=0, maximum=last)
        least = state["least"]
        self._least = None if least is None else checks.number("least", least)
        self.horizon, self._batches = horizon, batches


class Randomized(Rule):
    """Cuts at random places, reweighted so that the expected gradient is the full one: ARTBP (Tallec & Ollivier 2017).

    Between any two steps the gradient of the state is cut with probability `p`, for the whole batch alike, and
    multiplied by 1 / (1 − p) where it is not. A loss reaches 1 / p steps in the mean; the price of no bias is variance,
    which grows with the lag j as (1 − p)⁻ʲ. One update a batch, of the gradients of all chunks. Refused are, besides
    what all rules that cut refuse, masks for whole sequences, penalties on changes over time, and learned initial
    states of dilated layers, from which a cut may part the steps that begin with them.

    seed: of the cuts, an integer ≥ 0 or a NumPy `Generator`, whose state is part of a trainer's checkpoints.
    """

    cuts = True

    def __init__(self, p: float, seed: int | np.random.Generator = 0):
        self.p = checks.number("p", p, minimum=0, below=1)
        if isinstance(seed, np.random.Generator):
            self._seed: int | np.random.Generator = seed
        else:
            self._seed = checks.integer("seed", seed, minimum=0)
        self._rng = np.random.default_rng(self._seed)
        super().__init__()

    def __repr__(self):
        return f"Randomized({self.p:g}, seed={self._seed!r})"

    def check(self, model: Layer) -> None:
        super().check(model)
        refuse_slowness(self, model)
        refuse_whole_masks(self, model)
        for layer in layers_of(model):
            if getattr(layer, "dilation", 1) > 1 and getattr(layer, "initial_state", None) == LEARNED:
                name = type(layer).__name__
                raise ValueError(f"{self!r} cuts the first steps of a dilated {name} from its learned initial state")

    def updates(self, run: Run) -> Iterator[Callable[[], float]]:
        yield functools.partial(self._add_gradients, run)

    def _add_gradients(self, run):
        run.joint = True
        cut = 1 + np.flatnonzero(self._rng.random(run.steps - 1) < self.p)
        bounds = [0, *cut.tolist(), run.steps]
        return sum(run.segment(start, stop, 1 / (1 - self.p)) for start, stop in pairwise(bounds))

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator that places the cuts."""
        return {"random": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        check_state(self._rng.bit_generator, state["random"])
        self._rng.bit_generator.state = state["random"]
