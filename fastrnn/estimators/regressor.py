"""A value, or several, for each sequence."""

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .base import PooledEstimator, checked_array, checked_weights
from .magnitudes import r2
from .regression import StandardizedTargets


class RNNRegressor(RegressorMixin, StandardizedTargets, PooledEstimator):
    """A value for each sequence, or several: recurrent layers, pooling over time and a linear layer.

    X: as in `RNNClassifier`.
    y: (n,) or (n,O) numbers. They are standardised within, with mean and deviation of the first fit.

    pooling, features_per_step: as in `RNNClassifier`.
    loss: "squared_error", "absolute_error" or "huber", of standardised values.
    Other parameters as in `RecurrentEstimator`. A wrong parameter is a TypeError or ValueError in `fit`.

    Attributes: `target_mean_`, `target_scale_`, (O,), and those of `RecurrentEstimator`.
    """

    _single: bool  # whether y was one-dimensional

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
        loss: str = "squared_error",
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
        self.loss = loss

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "RNNRegressor":
        """Train on all of `X`, `epochs` times over; `sample_weight` (n,) says how much each sequence counts."""
        self._changed_by(self._fit, X, y, sample_weight, incremental=False)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "RNNRegressor":
        """Train on `X` once more."""
        self._changed_by(self._fit, X, y, sample_weight, incremental=True)
        return self

    def _fit(self, X, y, sample_weight, *, incremental):
        self._require_y(y)
        going_on = self._goes_on(incremental)
        x = self._sequences(X, None if going_on else self._width_of_a_step())
        y = checked_array(y, dtype=np.float64, ensure_2d=False, estimator=self, input_name="y")
        check_consistent_length(x, y)
        self._single = y.ndim == 1
        y = y.reshape(len(y), -1)
        if going_on and y.shape[1] != len(self.target_mean_):
            raise ValueError(f"y must have {len(self.target_mean_)} columns, as in the first fit, got {y.shape[1]}")
        weights = checked_weights(sample_weight, len(x))
        targets = self._standardized(y, weights, reset=not going_on)
        return self._train(x, targets, weights, self._regression_loss(), y.shape[1], incremental=incremental)

    def predict(self, X: Any) -> np.ndarray:
        """The value of each sequence, float64: (n,), or (n,O) if `y` had two dimensions; NaN where the output is."""
        check_is_fitted(self)
        values = self._in_units(self._outputs(self._sequences(X)))
        return values[:, 0] if self._single else values

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions, for several outputs the mean."""
        prediction = self.predict(X)
        y = checked_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
        check_consistent_length(prediction, y)
        return r2(y, prediction, checked_weights(sample_weight, len(y)))

    def _score(self, outputs, targets, weights):
        return float(r2_score(targets, outputs, sample_weight=weights))
