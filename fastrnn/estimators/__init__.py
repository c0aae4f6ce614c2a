"""scikit-learn's convention for recurrent nets: `RNNClassifier`, `RNNRegressor`, `SequenceTagger`, `RNNForecaster`;
`SequenceScaler`.

They need scikit-learn: `pip install 'fastrnn[sklearn]'`.
"""

try:
    from sklearn.utils.validation import validate_data as _validate_data  # noqa: F401  (as of scikit-learn 1.6)
except ImportError:
    raise ImportError("fastrnn.estimators needs scikit-learn 1.6 or later: pip install 'fastrnn[sklearn]'") from None

from .classifier import RNNClassifier
from .forecaster import RNNForecaster
from .regressor import RNNRegressor
from .scaler import SequenceScaler
from .tagger import SequenceTagger

__all__ = ["RNNClassifier", "RNNForecaster", "RNNRegressor", "SequenceScaler", "SequenceTagger"]
