"""Numbers near the ends of float64's range: brought to a size that can be squared and summed, bit for bit otherwise."""

import numpy as np
from sklearn.metrics import r2_score


def exponents(values: np.ndarray) -> np.ndarray:
    """(O,) integers e with max |values| < 2**e for each column of (n,O) finite numbers.

    `np.ldexp(values, -e)` are below 1 then: what is computed from them has the same bits but for the exponent, where it
    would not overflow or lose bits without.
    """
    return np.frexp(np.abs(values).max(0))[1]


def normalised(weights: np.ndarray) -> np.ndarray:
    """Weights ≥ 0 times the power of 2 that brings the largest one, unless it is 0, to at least 0.5 and below 1."""
    return np.ldexp(weights, -exponents(weights))


def root_mean_square(values: np.ndarray) -> np.ndarray:
    """Of each column of (n,O) finite numbers."""
    exponent = exponents(values)
    return np.ldexp(np.sqrt((np.ldexp(values, -exponent) ** 2).mean(0)), exponent)


def r2(truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray | None = None) -> float:
    """R² of predictions (n,) or (n,O), the mean over columns."""
    truth, prediction = (values.reshape(len(values), -1) for values in (truth, prediction))
    if truth.shape == prediction.shape:  # else it has something to say
        exponent = np.maximum(exponents(truth), exponents(prediction))
        truth, prediction = np.ldexp(truth, -exponent), np.ldexp(prediction, -exponent)
    return float(r2_score(truth, prediction, sample_weight=weights))
