"""A class for each sequence."""

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from ..losses import CrossEntropy
from .base import PooledEstimator, checked_array, checked_weights
from .labels import ClassTargets, likeliest, probabilities
from .sequences import refuse_masked


class RNNClassifier(ClassifierMixin, ClassTargets, PooledEstimator):
    """A class for each sequence: recurrent layers, pooling over time and a linear layer, trained by cross-entropy.

    X: (n,T,F) array; a list of arrays (T_i,F) or, of numbers, (T_i,), also as an array of objects; or an array or data
        frame (n,T·F), `features_per_step` F numbers a step, so that (n,T) is T steps of one feature. All finite.
    y: (n,) labels.

    pooling: what the output layer gets: "last", the last step's output, or the "mean" or "max" over all steps; with
        `bidirectional`, "last" is what each direction gives last, the reverse one at the first step.
    features_per_step: numbers a step in rows of numbers.
    class_weight: None, "balanced", or a dict of class -> weight.
    Other parameters as in `RecurrentEstimator`. A wrong parameter is a TypeError or ValueError in `fit`.

    Attributes: `classes_`, (C,) sorted labels, and those of `RecurrentEstimator`.
    """

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int = 32,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        features_per_step: int = 1,
        class_weight: Any = None,
        optimizer: str = "adam",
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        clip_norm: float | None = 1.0,
        epochs: int = 50,
        batch_size: int = 64,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        tol: float = 1e-4,
        dtype: str = "float32",
        random_state: Any = None,
        verbose: bool = False,
        warm_start: bool = False,
    ):
        super().__init__(
            cell,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            clip_norm=clip_norm,
            epochs=epochs,
            batch_size=batch_size,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            patience=patience,
            tol=tol,
            dtype=dtype,
            random_state=random_state,
            verbose=verbose,
            warm_start=warm_start,
        )
        self.pooling = pooling
        self.features_per_step = features_per_step
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "RNNClassifier":
        """Train on all of `X`, `epochs` times over; `sample_weight` (n,) says how much each sequence counts."""
        self._changed_by(self._fit, X, y, sample_weight, None, incremental=False)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> "RNNClassifier":
        """Train on `X` once more; `classes`, all there will be, must be given in the first call."""
        self._changed_by(self._fit, X, y, sample_weight, classes, incremental=True)
        return self

    def _fit(self, X, y, sample_weight, classes, *, incremental):
        self._require_y(y)
        going_on = self._goes_on(incremental)
        x = self._sequences(X, None if going_on else self._width_of_a_step())
        labels = column_or_1d(checked_array(y, dtype=None, ensure_2d=False, estimator=self, input_name="y"), warn=True)
        check_consistent_length(x, labels)
        targets, weights = self._class_targets(
            labels, checked_weights(sample_weight, len(x)), classes, new=not going_on, incremental=incremental
        )
        return self._train(
            x, targets, weights, CrossEntropy(reduction="sequence"), len(self.classes_),
            incremental=incremental, strata=targets,
        )  # fmt: skip

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each sequence, (n,); `NonFiniteError`, a ValueError, if any output is not finite."""
        chosen = likeliest(self._logits(X))  # which finds out whether there are classes
        return self.classes_[chosen]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, (n,C) float64, in the order of `classes_`; NaN for a sequence whose output is
        not finite."""
        return probabilities(self._logits(X))

    @np.errstate(invalid="ignore")  # scikit-learn looks whether labels are integers
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of sequences whose class is predicted; `NonFiniteError` as in `predict`."""
        refuse_masked("y", y)
        refuse_masked("sample_weight", sample_weight)
        return super().score(X, y, sample_weight)

    def _logits(self, X):
        check_is_fitted(self)
        return self._outputs(self._sequences(X))

    def _score(self, outputs, targets, weights):
        return float(accuracy_score(targets, likeliest(outputs), sample_weight=weights))
