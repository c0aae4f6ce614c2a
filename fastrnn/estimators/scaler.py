"""Features of sequences, standardised."""

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .base import SequenceInput
from .regression import moments, standardized
from .sequences import is_list, listed, shape_of


class SequenceScaler(OneToOneFeatureMixin, TransformerMixin, SequenceInput):
    """Takes from each feature its mean over all steps of all sequences, and divides it by its standard deviation.

    It is what scikit-learn's `StandardScaler` is to rows, for the steps of a pipeline before an estimator of sequences.

    X: as in `RNNClassifier`: (n,T,F), lists of arrays (T_i,F) or (T_i,), or rows of numbers (n,T·F).

    features_per_step: numbers a step in rows of numbers.

    Attributes: `mean_`, `scale_`, (F,) float64, `n_features_in_`, `feature_names_in_`.
    """

    mean_: np.ndarray
    scale_: np.ndarray

    def __init__(self, features_per_step: int = 1):
        self.features_per_step = features_per_step

    def fit(self, X: Any, y: Any = None) -> "SequenceScaler":
        """Find mean and deviation of each feature; `y` is not looked at."""
        self._changed_by(self._fit, X)
        return self

    def _fit(self, X):
        steps = self._check_X(X, np.float64, self._width_of_a_step()).steps
        self.mean_, self.scale_ = moments("X", steps)

    def transform(self, X: Any) -> Any:
        """The sequences in units of the deviation from the mean, float64, in the form that `X` has.

        ValueError for numbers that are beyond float64 in these units.
        """
        check_is_fitted(self)
        x = self._check_X(X, np.float64)
        scaled = x.with_steps(standardized("X", x.steps, self.mean_, self.scale_))
        if listed(X) is None and (self._has_columns or not is_list(X)):  # lists of rows are a table if fit's were
            return scaled.array.reshape(shape_of(X))
        return [row.reshape(shape_of(entry)) for row, entry in zip(scaled, X, strict=True)]
