"""Targets that are numbers: standardised within, and the losses for them."""

from typing import Any

import numpy as np

from .. import checks, losses
from ..finite import is_finite
from .magnitudes import exponents

LOSSES = {"squared_error": losses.MSE, "absolute_error": losses.MAE, "huber": losses.Huber}


def moments(name: str, values: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column of (n,O) values, float64; a deviation of 0 is given as 1.

    ValueError that names the values where they are farther apart than float64 can say.
    """
    if weights is not None and not weights.all():
        values, weights = values[weights > 0], weights[weights > 0]  # of no weight, nor of any size
    exponent = exponents(values)
    small = np.ldexp(values, -exponent)
    low, high = small.min(0), small.max(0)
    with np.errstate(over="ignore"):
        if not np.isfinite(np.ldexp(high - low, exponent)).all():
            raise ValueError(f"{name} must not have numbers in a feature or output that are farther apart than 1.8e308")
    mean = np.clip(np.average(small, axis=0, weights=weights), low, high)  # whatever rounding makes of constants
    scale = np.sqrt(np.average((small - mean) ** 2, axis=0, weights=weights))
    varies = scale > 10 * np.finfo(np.float64).eps * np.abs(mean)
    return np.ldexp(mean, exponent), np.where(varies, np.ldexp(scale, exponent), 1.0)


@np.errstate(over="ignore")
def standardized(
    name: str, values: np.ndarray, mean: np.ndarray, scale: np.ndarray, dtype: Any = np.float64
) -> np.ndarray:
    """Values (n,O) in units of the deviation from the mean, of `dtype`; ValueError that names them if it can't hold
    them."""
    scaled = ((values - mean) / scale).astype(dtype)
    if not is_finite(scaled):
        raise ValueError(
            f"{name} must not be so far from what was fitted that it exceeds {scaled.dtype} in units of its deviation"
        )
    return scaled


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
            self.target_mean_, self.target_scale_ = moments("y", values, weights)
        if weights is not None and not weights.all():  # what has no weight may be anything
            values = np.where((weights > 0)[:, np.newaxis], values, self.target_mean_)
        return standardized("y", values, self.target_mean_, self.target_scale_, checks.float_dtype(self.dtype))

    @np.errstate(over="ignore")  # what is beyond float64 is infinite
    def _in_units(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs (n,O) in the units of the targets, float64."""
        return outputs * self.target_scale_ + self.target_mean_
