"""scikit-learn's own checks of estimators: all of them, none excused.

They run on rows of numbers, which the estimators take as sequences of one feature, or of one step. In float64, for one
check compares a fit with weights to one with repeated samples to 1e-7.
"""

import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.utils.estimator_checks import parametrize_with_checks

from fastrnn.estimators import RNNClassifier, RNNRegressor, SequenceScaler, SequenceTagger

SMALL = {"hidden_size": 8, "epochs": 25, "dtype": "float64"}


@parametrize_with_checks(
    [
        RNNClassifier(**SMALL),
        RNNRegressor(hidden_size=16, dtype="float64"),
        SequenceTagger(**SMALL),
        SequenceTagger(task="regress", **SMALL),
        SequenceScaler(),
    ]
)
def test_estimators_pass_the_checks(estimator, check):
    check(estimator)
