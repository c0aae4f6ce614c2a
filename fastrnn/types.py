"""Types that annotations of the public API name, for type checkers: nothing here is imported when a program runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from .layers.base import Layer
    from .trainer import Trainer

# A recurrent state as its layer has it: an array, a pair (h, c), None without one, and of a container a tuple of such
# things. Which of them depends on the layer, so that `y, (h, c) = lstm.forward(x)` is right for an LSTM alone.
State: TypeAlias = Any

Seed: TypeAlias = int | np.random.Generator | None  # what `fastrnn.init.generator` takes

Batch: TypeAlias = tuple[Any, ...] | list[Any] | dict[str, Any]  # of `Trainer.fit`: (x, targets), or by name

Callback: TypeAlias = Callable[["Trainer", dict[str, Any]], Any]  # of `Trainer.fit`: see `fastrnn.callbacks`

Shapes: TypeAlias = Iterable[tuple[str, tuple[int, ...]]]  # names and shapes of parameters, one by one

__all__ = ["Batch", "Callback", "Loss", "Optimizer", "Seed", "Shapes", "State"]


class Loss(Protocol):
    """What `Trainer` and the rules of `bptt` ask of a loss; `fastrnn.losses` says what the methods do."""

    def count(self, y: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> float: ...

    def denominator(self, count: float, sequences: int | None) -> float: ...

    def evaluate(
        self,
        y: ArrayLike,
        targets: ArrayLike,
        mask: ArrayLike | None = None,
        out: np.ndarray | None = None,
        denominator: float | None = None,
    ) -> tuple[float, float, np.ndarray]: ...


class Optimizer(Protocol):
    """What `Trainer` asks of an optimizer; `config` and the state dicts are for checkpoints."""

    @property
    def lr(self) -> float: ...

    @lr.setter
    def lr(self, value: float) -> None: ...

    def step(self, model: Layer, factor: float = 1.0) -> None: ...

    def config(self) -> dict[str, Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
