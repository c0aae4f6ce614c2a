"""Gradient flow during training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .. import checks
from ..callbacks import check_trainer
from .flow import GradientFlow, gradient_flow

if TYPE_CHECKING:
    from ..trainer import Trainer
    from ..types import Batch


class WatchGradients:
    """A callback for `Trainer.fit` that measures `gradient_flow` again and again on one batch.

    batch: one batch as `Trainer.fit` takes it: (x, targets), (x, targets, lengths), or a dict with more.
    every: at least so many updates between two measurements; the first is after the first batch.
    path: a PNG that is drawn anew each time (matplotlib, extra `fastrnn[plot]`); None for none.
    max_lag, jacobians: as for `gradient_flow`.

    `flows` are the measurements so far, `updates` the numbers of updates before each. One takes about as long as
    `max_lag` training steps on `batch`. A batch that does not fit the model raises in `fit`, after its first batch.
    """

    def __init__(
        self,
        batch: Batch,
        every: int = 100,
        path: str | bytes | os.PathLike | None = None,
        *,
        max_lag: int | None = None,
        jacobians: int = 4,
    ):
        from ..trainer import _arguments  # which stands above the rest of diagnostics

        self._arguments = _arguments(batch)
        self.every = checks.integer("every", every, minimum=1)
        if path is not None and not isinstance(path, (str, bytes, os.PathLike)):
            raise TypeError(f"path must be a path or None, got {type(path).__name__}")
        self.path = path
        self._options: dict[str, Any] = {
            "max_lag": None if max_lag is None else checks.integer("max_lag", max_lag, minimum=1),
            "jacobians": checks.integer("jacobians", jacobians, minimum=0),
        }
        if path is not None:
            from ..plot import new_figure

            new_figure("WatchGradients", 1, 1)  # better known before training than in the middle of it
        self.flows: list[GradientFlow] = []
        self.updates: list[int] = []

    def __call__(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Measure, if it is time."""
        check_trainer(trainer)
        if "loss" not in record or (self.updates and trainer.updates < self.updates[-1] + self.every):
            return
        self.flows.append(gradient_flow(trainer.model, trainer.loss, **self._arguments, **self._options))
        self.updates.append(trainer.updates)
        if self.path is not None:
            from .plots import plot_history

            plot_history(self.updates, self.flows, self.path)
