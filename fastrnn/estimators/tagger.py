"""A label, or a value, for each step of a sequence."""

from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from .. import checks
from ..losses import CrossEntropy
from .base import RecurrentEstimator, checked_array, checked_weights
from .labels import ClassTargets, likeliest, probabilities
from .magnitudes import r2
from .regression import StandardizedTargets
from .sequences import Sequences, form_of, is_list, joined, listed, refuse_masked, shape_of

TASKS = ("classify", "regress")


def _classifies(tagger):
    """Whether a tagger gives classes: as fitted, or, before, as its parameter says."""
    return getattr(tagger, "_fitted", {"task": tagger.task})["task"] == "classify"


class SequenceTagger(ClassTargets, StandardizedTargets, RecurrentEstimator):
    """A label for each step of a sequence, or a value: recurrent layers, and a linear layer at every step.

    X: as in `RNNClassifier`. In rows of numbers there are as many steps as `y` has entries.
    y: labels or numbers, an entry a step: (n,T), or a list of arrays (T_i,), for the sequences of `X`; or (n,), for
        sequences of one step each. With task "regress" an entry may be a vector: (n,T,O), or a list of (T_i,O).

    task: "classify", trained by cross-entropy, or "regress".
    loss: "squared_error", "absolute_error" or "huber", of values standardised as in `RNNRegressor`; for "regress".
    class_weight: None, "balanced", or a dict of class -> weight; for "classify".
    features_per_step: numbers a step in rows of numbers; None to go by the steps of `y`.
    Other parameters as in `RecurrentEstimator`. A wrong parameter is a TypeError or ValueError in `fit`.

    Predictions are lists of arrays where `X` is a list, and arrays (n,T,…) where it is an array. All that is said of a
    step comes from it and those before it, with `bidirectional` also from those after it.

    Attributes: `classes_`, (C,) sorted labels, or `target_mean_` and `target_scale_`, and those of
    `RecurrentEstimator`.
    """

    _of_the_model = (*RecurrentEstimator._of_the_model, "task", "features_per_step")
    _one_step: bool  # whether y was one-dimensional
    _scalar: bool  # whether an entry of y is one number

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int = 32,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        task: str = "classify",
        loss: str = "squared_error",
        features_per_step: int | None = None,
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
        self.task = task
        self.loss = loss
        self.features_per_step = features_per_step
        self.class_weight = class_weight

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self.task == "classify":
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        else:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SequenceTagger":
        """Train on all of `X`, `epochs` times over.

        sample_weight: how much each sequence counts, (n,), or each step, in the shape of `y`.
        """
        self._changed_by(self._fit, X, y, sample_weight, None, incremental=False)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> "SequenceTagger":
        """Train on `X` once more; to classify, all `classes` there will be must be given in the first call."""
        self._changed_by(self._fit, X, y, sample_weight, classes, incremental=True)
        return self

    def _fit(self, X, y, sample_weight, classes, *, incremental):
        self._require_y(y)
        classifies = checks.choice("task", self.task, TASKS) == "classify"
        new = not self._goes_on(incremental)
        y, one_step = self._checked_y(X, y, classifies)
        x = self._sequences(X, self._step_width(X, y) if new else None)
        _check_same_steps("y", y, x)
        weights = _step_weights(sample_weight, x)
        if classifies:
            values, weights = self._class_targets(y.steps, weights, classes, new=new, incremental=incremental)
            loss, outputs = CrossEntropy(reduction="sequence"), len(self.classes_)
        else:
            values, outputs = y.steps.reshape(len(y.steps), -1), y.steps[0].size
            if not new and outputs != len(self.target_mean_):
                raise ValueError(
                    f"y must have {len(self.target_mean_)} numbers a step, as in the first fit, got {outputs}"
                )
            values, loss = self._standardized(values, weights, reset=new), self._regression_loss()
        self._one_step, self._scalar = one_step, y.steps.ndim == 1
        return self._train(
            x, y.with_steps(values), None if weights is None else x.with_steps(weights), loss, outputs,
            incremental=incremental,
        )  # fmt: skip

    def _checked_y(self, X, y, classifies):
        """`y` as sequences of labels, or float64 numbers, and whether it has one dimension."""
        refuse_masked("X", X)
        refuse_masked("y", y)
        arrays, dtype = listed(y), None if classifies else np.float64
        if arrays is None:
            array = checked_array(y, dtype=dtype, ensure_2d=False, allow_nd=True, estimator=self, input_name="y")
            if array.ndim == 2 and array.shape[1] == 1 and listed(X) is None and len(shape_of(X)) == 2:
                array = column_or_1d(array, warn=True)
            one_step = array.ndim == 1
            result = Sequences.of_array(array[:, np.newaxis] if one_step else array)
        else:
            one_step, result = False, joined("y", arrays)
            steps = checked_array(result.steps, dtype=dtype, ensure_2d=False, estimator=self, input_name="y")
            result = result.with_steps(steps)
        if result.steps.ndim > (1 if classifies else 2):
            raise ValueError(
                f"y must have one label or number a step, or vectors to regress, got {result.steps.shape[1:]}"
            )
        return result, one_step

    def _step_width(self, X, y):
        """The numbers of a step in rows of numbers."""
        if self.features_per_step is not None:
            return self._width_of_a_step()
        arrays, shape = form_of(X)
        if arrays is None:
            return max(1, shape[-1] // y.longest)
        return max(1, len(arrays[0]) // int(y.lengths[0]))

    def predict(self, X: Any) -> Any:
        """The most likely class of each step, or its value, float64, in a list or an array as described above.

        NonFiniteError if there is no most likely class, for the model's output is not finite.
        """
        outputs, x = self._step_outputs(X)
        if _classifies(self):
            steps = self.classes_[likeliest(outputs)]
        else:
            steps = self._in_units(outputs)
            steps = steps[:, 0] if self._scalar else steps
        return self._shaped(steps, x, X)

    @available_if(_classifies)
    def predict_proba(self, X: Any) -> Any:
        """The probability of each class at each step, float64, in the order of `classes_`: (n,T,C) or a list; NaN for
        a step whose output is not finite."""
        outputs, x = self._step_outputs(X)
        return self._shaped(probabilities(outputs), x, X)

    @np.errstate(invalid="ignore")  # scikit-learn looks whether labels are integers
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of steps that are labelled right, or R² over all steps; `sample_weight` as in `fit`."""
        classifies = _classifies(self)
        outputs, x = self._step_outputs(X)
        y, _ = self._checked_y(X, y, classifies)
        _check_same_steps("y", y, x)
        weights = _step_weights(sample_weight, x)
        if classifies:
            return float(accuracy_score(y.steps, self.classes_[likeliest(outputs)], sample_weight=weights))
        return r2(y.steps.reshape(outputs.shape), self._in_units(outputs), weights)

    def _step_outputs(self, X):
        check_is_fitted(self)
        x = self._sequences(X)
        return self._outputs(x), x

    def _shaped(self, steps, x, X):
        """What is said of each step in the form that goes with `X`."""
        if self._one_step and x.longest == 1:
            return steps
        result = x.with_steps(steps)
        return list(result) if is_list(X) else result.array

    def _score(self, outputs, targets, weights):
        weights = None if weights is None else weights.steps
        if _classifies(self):
            return float(accuracy_score(targets.steps, likeliest(outputs), sample_weight=weights))
        return float(r2_score(targets.steps, outputs, sample_weight=weights))


def _check_same_steps(name, rows, x):
    """Refuse what has not an entry for each step of the sequences."""
    check_consistent_length(rows, x)
    different = np.flatnonzero(rows.lengths != x.lengths)
    if different.size:
        i = different[0]
        raise ValueError(
            f"{name}[{i}] must have an entry for each of the {x.lengths[i]} steps of X[{i}], got {rows.lengths[i]}"
        )


def _step_weights(sample_weight, x):
    """A weight for each step, (Σ T_i,) float64, of weights of sequences or steps; None of None."""
    if sample_weight is None:
        return None
    refuse_masked("sample_weight", sample_weight)
    arrays = listed(sample_weight)
    if arrays is None and len(shape_of(sample_weight, "sample_weight")) != 2:
        return np.repeat(checked_weights(sample_weight, len(x)), x.lengths)
    rows = Sequences.of_array(np.asarray(sample_weight)) if arrays is None else joined("sample_weight", arrays)
    _check_same_steps("sample_weight", rows, x)
    return checked_weights(rows.steps, len(x.steps))
