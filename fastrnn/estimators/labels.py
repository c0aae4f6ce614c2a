"""Targets that are classes: their numbers, weights and probabilities."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from .. import checks
from ..finite import NonFiniteError, is_finite
from .base import checked_array
from .magnitudes import normalised


class ClassTargets:
    """What estimators of classes share; they have the parameter `class_weight`."""

    class_weight: Any
    classes_: np.ndarray

    def _class_targets(
        self, labels: np.ndarray, weights: np.ndarray | None, classes: Any, *, new: bool, incremental: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The number in `classes_` of each of the labels (n,), and the weights times those of the classes.

        new: the classes are found, among the labels or in `classes` if the fit is `incremental`.
        """
        with np.errstate(invalid="ignore"):  # it looks whether numbers are integers
            check_classification_targets(labels)
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight must be a dict or None for partial_fit, which sees part of the data at a time"
            )
        if classes is not None:
            classes = np.unique(
                column_or_1d(checked_array(classes, dtype=None, ensure_2d=False, input_name="classes"), warn=True)
            )
        if new:
            if incremental and classes is None:
                raise ValueError("classes must be passed in the first call of partial_fit")
            self.classes_ = np.unique(labels) if classes is None else classes
        elif classes is not None and not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"classes must be those of the first call, {self.classes_.tolist()}, got {classes.tolist()}"
            )
        targets = encoded(labels, self.classes_)
        if self.class_weight is not None:
            if isinstance(self.class_weight, Mapping):
                for weight in self.class_weight.values():
                    checks.number("class_weight", weight, minimum=0)
            of_classes = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)
            factors = normalised(of_classes[targets])
            weights = factors if weights is None else normalised(factors * weights)
        return targets, weights


def encoded(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The index in sorted `classes` of each label, int64; ValueError for one that is not there."""
    indices = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    strange = classes[indices] != labels
    if strange.any():
        raise ValueError(f"y must hold the classes {classes.tolist()} alone, got {labels[strange].tolist()[0]!r}")
    return indices


def likeliest(logits: np.ndarray) -> np.ndarray:
    """The index of the largest of each row of logits (n,C); NonFiniteError where there is none."""
    if not is_finite(logits):
        raise NonFiniteError("the model's output is not finite: its training went wrong, or X is too large for it")
    return logits.argmax(axis=1)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of logits (…,C), float64; NaN for a row that is not finite."""
    logits = np.where(np.isfinite(logits).all(axis=-1, keepdims=True), logits, np.nan).astype(np.float64)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
