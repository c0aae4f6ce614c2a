"""What a forecast's quantiles say: moved until they hold, and drawn from."""

from statistics import NormalDist

import numpy as np


def in_order(quantiles: np.ndarray) -> np.ndarray:
    """Quantiles (…,Q), each row sorted; NaN throughout where any is, which sorting would make the highest."""
    return np.where(np.isnan(quantiles).any(-1, keepdims=True), np.nan, np.sort(quantiles, axis=-1))


def widening(quantiles: np.ndarray, levels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How far each quantile (n,H,F,Q) has to go outwards until it holds for so many of the held-out values (n,H,F):
    the conformity scores' quantile of both tails by themselves (Romano et al. 2019, theorem 2). NaN for a quantile that
    is NaN at any of them."""
    errors = np.sort(values[..., np.newaxis] - quantiles, axis=0)  # NaN comes last
    count, shift = len(errors), np.zeros(errors.shape[1:])
    for q, level in enumerate(levels):
        if level > 0.5:
            place = min(int(np.ceil((count + 1) * level)), count)
            shift[..., q] = np.maximum(errors[place - 1, ..., q], 0)
        elif level < 0.5:
            place = max(int(np.floor((count + 1) * level)), 1)
            shift[..., q] = np.minimum(errors[place - 1, ..., q], 0)
    return np.where(np.isnan(errors[-1]), np.nan, shift)


def drawn(quantiles: np.ndarray, levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One value each (n,H,F) from distributions that have these quantiles (n,H,F,Q): piecewise linear in the normal
    scores of the levels, and linear beyond, so that a normal distribution is met exactly."""
    scores = np.array([NormalDist().inv_cdf(level) for level in levels])
    if len(scores) == 1:
        return quantiles[..., 0]
    score = rng.standard_normal(quantiles.shape[:-1])
    right = np.clip(np.searchsorted(scores, score), 1, len(scores) - 1)
    low, high = (np.take_along_axis(quantiles, (right - k)[..., np.newaxis], -1)[..., 0] for k in (1, 0))
    return low + (high - low) * (score - scores[right - 1]) / (scores[right] - scores[right - 1])
