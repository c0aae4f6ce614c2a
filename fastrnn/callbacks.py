"""Callbacks for `Trainer.fit` that go by the validation loss: early stopping, and lower learning rates on a plateau.

A callback is anything that can be called as `callback(trainer, record)`. `fit` heeds attributes besides, if there:
a true `needs_validation` refuses training without validation, and `finish(trainer)` is called when training has ended,
by its last epoch or by a callback. It is not called after an error, nor after Ctrl-C, a pause from which `fit` goes on.
What `state_dict()` gives, arrays and what JSON can hold, goes into checkpoints, and comes back to a callback of the
same class by `load_state_dict(state)` when `fit` goes on from one.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, finite
from .layers.base import check_model

if TYPE_CHECKING:
    from .layers.base import Layer
    from .trainer import Trainer

_log = logging.getLogger(__name__)


def check_trainer(trainer: Any) -> None:
    """`TypeError` for what has no model and no optimizer, as a `Trainer` does."""
    if not (hasattr(trainer, "model") and hasattr(trainer, "optimizer")):
        raise TypeError(f"trainer must be a fastrnn.Trainer, got {type(trainer).__name__}")


class _ValidationWatch(ABC):
    """Looks at each epoch's validation loss; one that is not finite is no improvement."""

    needs_validation = True

    def __call__(self, trainer: Trainer, record: Mapping[str, Any]) -> bool:
        """Take notice of a record of `fit`; True stops training."""
        if not isinstance(record, Mapping):
            raise TypeError(f"record must be one of Trainer.fit's, a mapping, got {type(record).__name__}")
        check_trainer(trainer)
        if "validation_loss" not in record:
            return False
        try:
            loss = float(record["validation_loss"])
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"validation_loss of record must be a float: {error}") from None
        return self._watch(trainer, loss)

    @abstractmethod
    def _watch(self, trainer, loss):
        """Act on an epoch's validation loss; whether to stop."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that going on in another process needs, beside the constructor's arguments."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict()` gave. TypeError or ValueError, before anything is changed, if it does not fit."""
        values = self._values(state)
        self.__dict__.update((name, np.copy(v) if isinstance(v, np.ndarray) else v) for name, v in values.items())

    @abstractmethod
    def _values(self, state):
        """The attributes, by name, that are in what `state_dict()` gave; TypeError or ValueError if it did not."""

    def _checked(self, state):
        """`state` if it has the entries of `state_dict()`."""
        if not isinstance(state, Mapping):
            raise TypeError(f"state_dict must be a mapping, got {type(state).__name__}")
        if set(state) != (expected := set(self.state_dict())):
            raise ValueError(f"state_dict must have the entries {sorted(expected)}, got {sorted(state, key=str)}")
        return state


def _checked_loss(name, value):
    """`value` as a float that a loss can be compared with: infinite before the first one."""
    infinite = isinstance(value, (float, np.floating, np.ndarray)) and np.ndim(value) == 0 and value == math.inf
    return math.inf if infinite else checks.number(name, value)


class EarlyStopping(_ValidationWatch):
    """Stops training when the validation loss has not improved for `patience` epochs, and gives the best weights back.

    patience: epochs without improvement, at least 1.
    min_delta: by how much the loss must fall to count as improved.
    restore_best: keep a copy of the weights of the lowest loss and give them back to the model when `fit` ends, by this
        callback or otherwise; after Ctrl-C, `restore` does so. The optimizer's state stays that of the last epoch.

    `best` is the lowest validation loss so far, `waited` the number of epochs since the last improvement; weights that
    are not finite are none. Prechelt, "Early Stopping – But When?", 1998.
    """

    def __init__(self, patience: int, *, min_delta: float = 0.0, restore_best: bool = True):
        self.patience = checks.integer("patience", patience, minimum=1)
        self.min_delta = checks.number("min_delta", min_delta, minimum=0.0)
        self.restore_best = checks.flag("restore_best", restore_best)
        self.best, self.waited = math.inf, 0
        self._improved = math.inf  # the loss that counted as improved last
        self._weights = None  # of the best loss

    def __repr__(self):
        return f"EarlyStopping({self.patience}, min_delta={self.min_delta}, restore_best={self.restore_best})"

    def _watch(self, trainer, loss):
        values = trainer.model.parameters.values
        if not (math.isfinite(loss) and finite.is_finite(values)):  # what is to be kept must be good
            loss = math.nan
        if loss < self.best:
            self.best = loss
            if self.restore_best:
                self._keep(values)
        if loss < self._improved - self.min_delta:
            self._improved, self.waited = loss, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def _keep(self, weights):
        if self._weights is None:
            self._weights = np.empty_like(weights)
        np.copyto(self._weights, weights)

    def restore(self, model: Layer) -> None:
        """Give `model` the weights of the lowest validation loss; ValueError if none are kept, or they don't fit."""
        if self._weights is None:
            raise ValueError("no weights are kept: it takes restore_best=True and a finite validation loss")
        check_model(model)
        model.vector_to_parameters(self._weights)

    def finish(self, trainer: Trainer) -> None:
        """The end of training: the best weights are given back."""
        check_trainer(trainer)
        if self._weights is not None:
            self.restore(trainer.model)
            _log.info("the model has its weights of the lowest validation loss, %.6g", self.best)

    def state_dict(self) -> dict[str, Any]:
        """All that going on in another process needs, beside the constructor's arguments: three numbers, and the kept
        weights (1-D array or None)."""
        weights = None if self._weights is None else self._weights.copy()
        return {"best": self.best, "improved": self._improved, "waited": self.waited, "weights": weights}

    def _values(self, state):
        state = self._checked(state)
        best, improved = (_checked_loss(name, state[name]) for name in ("best", "improved"))
        waited, weights = checks.integer("waited", state["waited"], minimum=0), state["weights"]
        if weights is not None:
            dtype = checks.as_array("weights", weights).dtype
            if dtype not in checks.FLOAT_DTYPES:
                raise TypeError(f"weights must hold float32 or float64, got dtype {dtype}")
            weights = checks.float_array("weights", weights, dtype.newbyteorder("="), (None,))
        return {"best": best, "_improved": improved, "waited": waited, "_weights": weights}


class ReduceOnPlateau(_ValidationWatch):
    """Multiplies the optimizer's `lr` by `factor` after more than `patience` epochs without improvement.

    factor: between 0 and 1.
    patience: epochs without improvement that are borne with.
    threshold, threshold_mode: a loss improves on the best if it is below best · (1 - threshold) with "rel", below
        best - threshold with "abs".
    cooldown: epochs after a reduction in which none is counted.
    min_lr: what `lr` is never lowered beyond.
    eps: smallest reduction that is made.

    A `schedule` of the trainer's multiplies `lr` besides. The rule is that of PyTorch's `ReduceLROnPlateau`.
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        min_lr: float = 0.0,
        *,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        eps: float = 1e-8,
    ):
        self._config = {
            "factor": checks.number("factor", factor, above=0.0, below=1.0),
            "patience": checks.integer("patience", patience, minimum=0),
            "min_lr": checks.number("min_lr", min_lr, minimum=0.0),
            "threshold": checks.number("threshold", threshold, minimum=0.0),
            "threshold_mode": checks.choice("threshold_mode", threshold_mode, ("rel", "abs")),
            "cooldown": checks.integer("cooldown", cooldown, minimum=0),
            "eps": checks.number("eps", eps, minimum=0.0),
        }
        self.best, self.waited = math.inf, 0
        self._cooling = 0  # epochs of the cooldown that are left

    def __repr__(self):
        return f"ReduceOnPlateau({', '.join(f'{name}={value!r}' for name, value in self._config.items())})"

    def _watch(self, trainer, loss):
        c, optimizer = self._config, trainer.optimizer
        relative = c["threshold_mode"] == "rel"
        bound = self.best * (1 - c["threshold"]) if relative else self.best - c["threshold"]
        if math.isfinite(loss) and loss < bound:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self._cooling > 0:
            self._cooling -= 1
            self.waited = 0
        if self.waited > c["patience"]:
            lr = max(optimizer.lr * c["factor"], c["min_lr"])
            if optimizer.lr - lr > c["eps"]:
                optimizer.lr = lr
                _log.info("learning rate reduced to %g", lr)
            self._cooling, self.waited = c["cooldown"], 0
        return False

    def state_dict(self) -> dict[str, Any]:
        """All that going on in another process needs, beside the constructor's arguments and `lr`: numbers alone."""
        return {"best": self.best, "waited": self.waited, "cooling": self._cooling}

    def _values(self, state):
        state = self._checked(state)
        waited, cooling = (checks.integer(name, state[name], minimum=0) for name in ("waited", "cooling"))
        return {"best": _checked_loss("best", state["best"]), "waited": waited, "_cooling": cooling}


def check_state(name: str, state: Mapping[str, Any], parameters: np.ndarray) -> None:
    """`TypeError` or `ValueError` if `state`, out of a file, is no state of the callback of this module with that name.

    parameters: (P,), of the model that it is for. A state with other entries is one of somebody else's class.
    """
    known: dict[str, _ValidationWatch] = {"EarlyStopping": EarlyStopping(1), "ReduceOnPlateau": ReduceOnPlateau()}
    callback = known.get(name)
    if callback is None or state.keys() != callback.state_dict().keys():
        return
    weights = callback._values(state).get("_weights")
    if weights is not None and (weights.shape, weights.dtype) != (parameters.shape, parameters.dtype):
        raise ValueError(f"weights must be {parameters.size} numbers of {parameters.dtype}")
