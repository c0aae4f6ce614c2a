"""Classes of labels, and their numbers."""

from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight


def encoded(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The index in sorted `classes` of each label of `y`, int64; ValueError for one that is not there."""
    indices = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    strange = classes[indices] != y
    if strange.any():
        raise ValueError(f"y must hold the classes {classes.tolist()} alone, got {y[strange][0]!r}")
    return indices


def class_factors(class_weight: Any, classes: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """What each class's samples are weighted by, (C,); None if there are no weights.

    class_weight: a dict of class -> weight, 1 if missing; "balanced" for weights inversely proportional to the classes'
    frequencies in `y`; None.
    """
    return None if class_weight is None else compute_class_weight(class_weight, classes=classes, y=y)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of logits (…,C), float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
