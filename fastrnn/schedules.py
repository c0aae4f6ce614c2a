"""Schedules: callables, number of updates so far -> factor of the learning rate, or another number that changes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from . import checks


class Schedule(ABC):
    """A callable step -> factor of the learning rate; steps count from 0."""

    def __init__(self, **config):
        self._config = config

    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self._config)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._config.items())})"

    def __call__(self, step: int) -> float:
        return self._factor(checks.integer("step", step, minimum=0), **self._config)

    @abstractmethod
    def _factor(self, step, **config):
        """The factor at a checked step, for the constructor's arguments."""


class Constant(Schedule):
    """`factor` at every step."""

    def __init__(self, factor: float = 1.0):
        super().__init__(factor=checks.number("factor", factor, minimum=0.0))

    def _factor(self, step, factor):
        return factor


def _power(gamma, exponent):
    """gamma^exponent, infinite where it is too large for a float."""
    try:
        return gamma**exponent
    except OverflowError:
        return math.inf


class StepDecay(Schedule):
    """gamma^⌊step / step_size⌋."""

    def __init__(self, step_size: int, gamma: float = 0.1):
        super().__init__(
            step_size=checks.integer("step_size", step_size, minimum=1),
            gamma=checks.number("gamma", gamma, above=0.0),
        )

    def _factor(self, step, step_size, gamma):
        return _power(gamma, step // step_size)


class Exponential(Schedule):
    """gamma^step."""

    def __init__(self, gamma: float):
        super().__init__(gamma=checks.number("gamma", gamma, above=0.0))

    def _factor(self, step, gamma):
        return _power(gamma, step)


def _cosine(start, end, fraction):
    """From `start` at fraction 0 to `end` at 1, along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))


class Cosine(Schedule):
    """final + (1 - final)·(1 + cos(π·step / total_steps)) / 2, and `final` from `total_steps` on."""

    def __init__(self, total_steps: int, final: float = 0.0):
        super().__init__(
            total_steps=checks.integer("total_steps", total_steps, minimum=1),
            final=checks.number("final", final, minimum=0.0),
        )

    def _factor(self, step, total_steps, final):
        return _cosine(1.0, final, min(step / total_steps, 1.0))


class OneCycle(Schedule):
    """Up from 1 / div_factor to 1, then down to 1 / (div_factor · final_div_factor), along half a cosine each.

    The peak is at step pct_start·total_steps - 1, the end at total_steps - 1, as in PyTorch's `OneCycleLR`, whose
    `max_lr` is the optimizer's `lr`. Smith and Topin, "Super-Convergence", arXiv 1708.07120.
    """

    def __init__(
        self, total_steps: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
    ):
        super().__init__(
            total_steps=checks.integer("total_steps", total_steps, minimum=1),
            pct_start=checks.number("pct_start", pct_start, minimum=0.0, below=1.0),
            div_factor=checks.number("div_factor", div_factor, above=0.0),
            final_div_factor=checks.number("final_div_factor", final_div_factor, above=0.0),
        )

    def _factor(self, step, total_steps, pct_start, div_factor, final_div_factor):
        peak, last = pct_start * total_steps - 1, total_steps - 1
        if step < peak:
            return _cosine(1 / div_factor, 1.0, step / peak)
        return _cosine(1.0, 1 / div_factor / final_div_factor, min((step - peak) / (last - peak), 1.0))


class WarmUp(Schedule):
    """(step + 1) / steps for the first `steps` steps, then `after(step - steps)`, 1 if no schedule is given."""

    def __init__(self, steps: int, after: Callable[[int], float] | None = None):
        if after is not None and not callable(after):
            raise TypeError(f"after must be a schedule, got {type(after).__name__}")
        super().__init__(steps=checks.integer("steps", steps, minimum=1), after=after)

    def _factor(self, step, steps, after):
        if step < steps:
            return (step + 1) / steps
        return 1.0 if after is None else after(step - steps)
