"""Targets that are numbers: standardised within, and the losses for them."""

from typing import Any

import numpy as np

from .. import checks, losses

LOSSES = {"squared_error": losses.MSE, "absolute_error": losses.MAE, "huber": losses.Huber}


def moments(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column of (n,O) values, float64; a deviation of 0 is given as 1."""
    mean = np.average(values, axis=0, weights=weights)
    scale = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    return mean, np.where(scale > 10 * np.finfo(np.float64).eps * np.abs(mean), scale, 1.0)


class StandardizedTargets:
    """What estimators of numbers share; they have the parameters `loss` and `dtype`."""

    loss: str
    dtype: str
    target_mean_: np.ndarray
    target_scale_: np.ndarray

    def _regression_loss(self) -> Any:
        return LOSSES[checks.choice("loss", self.loss, tuple(LOSSES))](reduction="sequence")

    def _standardized(self, values: np.ndarray, weights: np.ndarray | None, *, reset: bool) -> np.ndarray:
        """Values (n,O) in units of the deviation from the mean: those of these values with `reset`."""
        if reset:
            self.target_mean_, self.target_scale_ = moments(values, weights)
        return ((values - self.target_mean_) / self.target_scale_).astype(checks.float_dtype(self.dtype))

    def _in_units(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs (n,O) in the units of the targets, float64."""
        return outputs * self.target_scale_ + self.target_mean_
