"""Right calls of the estimators."""

import copy
import functools
import inspect

import numpy as np

from .arguments import Argument
from .catalogue_layers import COUNT, SIZE, floats
from .judge import Call, Entry

_LOOSE = Argument("other")
_INNER = ("mask", "targets", "lengths", "lr")  # of the losses and optimizers beneath the estimators


class Learnt:
    """All that an estimator has learnt, and predicts: what it is but for its parameters."""

    def __init__(self, estimator, X):
        self._estimator, self._X = estimator, X

    def state_dict(self):
        estimator, parameters = self._estimator, self._estimator.get_params(deep=False)
        learnt = {name: value for name, value in vars(estimator).items() if name not in parameters}
        if "_fitted" in learnt:  # parameters that were accepted: an integer of NumPy's is one
            learnt["_fitted"] = {name: np.asarray(value).tolist() for name, value in learnt["_fitted"].items()}
        if hasattr(estimator, "horizon"):
            predict = functools.partial(estimator.predict, steps=2)
        else:
            predict = functools.partial(getattr(estimator, "predict", None) or estimator.transform, self._X)
        try:
            return {**learnt, "prediction": predict()}
        except Exception as error:  # not fitted, or fitted to another X; or half a fit, which shall show
            return {**learnt, "error": repr(error)}


def _estimator_entries(kind, options, arguments, methods, known):
    """The constructor, with the fit that its arguments are checked by, and the methods."""
    from fastrnn import estimators

    estimator_class = getattr(estimators, kind)
    name = f"fastrnn.estimators.{kind}"

    def new(rng):
        given = arguments(rng)
        estimator = copy.deepcopy(fitted()) if rng.random() < 0.7 else estimator_class(**options)

        def made_and_fitted(**parameters):
            made = estimator_class(**parameters)
            estimator.set_params(**made.get_params(deep=False)).fit(**given)

        made_and_fitted.__signature__ = inspect.signature(estimator_class)
        stopping = {"early_stopping": True, "validation_fraction": 0.5, "patience": 2, "tol": 0.5}
        parameters = {**options, **stopping} if hasattr(estimator, "patience") else dict(options)
        return Call(made_and_fitted, parameters, (Learnt(estimator, given["X"]),))

    @functools.cache
    def fitted():
        return estimator_class(**options).fit(**arguments(np.random.default_rng(1)))

    yield Entry(name, new, known, sklearn=True, names=False, inner=_INNER)
    for method, names in methods.items():

        def make(rng, method=method, names=names):
            given = arguments(rng)
            estimator = copy.deepcopy(fitted())
            given = {option: value for option, value in given.items() if option in names}
            if "steps" in names:
                given["steps"] = 2
            if "sample_weight" in names and "X" in given:
                given["sample_weight"] = np.ones(len(given["X"]))
            return Call(getattr(estimator, method), given, (estimator,))

        paired = method != "partial_fit" and "y" in names and "y" in arguments(np.random.default_rng(1))
        loose = {option: Argument("data", fixed=paired) for option in ("X", "y", "sample_weight")}
        loose["steps"] = Argument("other", huge="refused")
        yield Entry(f"{name}.{method}", make, loose, sklearn=True, names=False, inner=_INNER)


def entries():
    """All of them."""
    small = {"hidden_size": 2, "epochs": 1, "random_state": 3}
    known = {name: _LOOSE for name in ("random_state", "verbose", "dtype")}
    known |= {"hidden_size": SIZE, "num_layers": SIZE, "batch_size": COUNT}
    known |= {"epochs": Argument(minimum=1, huge="untried")}
    known |= {
        "clip_norm": Argument(minimum=0, none=True),
        "patience": COUNT,
        "tol": Argument(minimum=0),
        "class_weight": Argument("weights", none=True),
    }
    known |= {"horizon": Argument(minimum=1), "window": Argument(minimum=1, none=True)}

    def classified(rng):
        return {"X": floats(rng, 6, 4, 2), "y": np.array([0, 1, 0, 1, 1, 0])}

    def regressed(rng):
        return {"X": floats(rng, 6, 4, 2), "y": floats(rng, 6, dtype="float64")}

    def tagged(rng):
        return {"X": floats(rng, 6, 4, 2), "y": rng.integers(0, 2, (6, 4))}

    def forecast(rng):
        return {"X": floats(rng, 40, dtype="float64")}

    fitted, given = ("X", "y", "sample_weight"), ("X",)
    common = {"fit": fitted, "partial_fit": fitted, "predict": given}
    more = {**small, "batch_size": 3, "learning_rate": 0.5, "cell": "gru", "num_layers": 1, "dropout": 0.25,
            "bidirectional": True, "dtype": "float64", "schedule": "constant", "optimizer": "adam", "clip_norm": 1.0,
            "weight_decay": 0.125, "warm_start": False}  # fmt: skip
    yield from _estimator_entries(
        "RNNClassifier",
        {**more, "pooling": "mean", "class_weight": {0: 1.0, 1: 2.0}},
        classified,
        {**common, "predict_proba": given, "score": fitted},
        known,
    )
    yield from _estimator_entries(
        "RNNRegressor", {**more, "loss": "huber"}, regressed, {**common, "score": fitted}, known
    )
    yield from _estimator_entries(
        "SequenceTagger",
        {**more, "class_weight": {0: 1.0, 1: 2.0}},
        tagged,
        {**common, "predict_proba": given, "score": fitted},
        known,
    )
    yield from _estimator_entries(
        "SequenceScaler", {"features_per_step": 1}, lambda rng: {"X": floats(rng, 6, 4, 2, dtype="float64")},
        {"fit": given, "transform": given}, {"features_per_step": COUNT},
    )  # fmt: skip
    yield from _estimator_entries(
        "RNNForecaster",
        {**small, "horizon": 2, "window": 5, "early_stopping": False, "quantiles": (0.25, 0.75), "log": False},
        forecast,
        {
            "fit": given, "partial_fit": given, "observe": given, "predict": ("steps",), "predict_interval": ("steps",),
            "predict_quantiles": ("steps",), "score": given, "backtest": given,
        },
        known,
    )  # fmt: skip
