"""What the estimators share: parameters, sequences out of `X`, and training."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import validate_data

from .. import checks, optim, schedules
from ..callbacks import EarlyStopping
from ..layers import GRU, LSTM, RNN, Dropout, Last, Linear, MaxPool, MeanPool
from ..model import Sequential
from ..trainer import Trainer
from .magnitudes import normalised
from .sequences import Batches, Sequences, Targets, form_of, joined, refuse_masked, take

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
POOLING = {"last": Last, "mean": MeanPool, "max": MaxPool}
OPTIMIZERS = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
    "sgd": optim.SGD,
}
SCHEDULES: dict[str, Callable[[int], Any]] = {
    "constant": lambda total: None,
    "cosine": schedules.Cosine,
    "one_cycle": schedules.OneCycle,
}
_AT_ONCE = 256  # sequences that are predicted together
_NEGLIGIBLE = 1e-150  # of the largest weight: what is no more is none


# What is too large for a dtype becomes infinite, and is refused as that; scikit-learn finds it by adding all up.
_quiet = np.errstate(over="ignore", invalid="ignore")


@_quiet
def checked_array(array: Any, *, input_name: str, **options: Any) -> np.ndarray:
    """scikit-learn's `check_array`; TypeError for a masked array."""
    refuse_masked(input_name, array)
    return check_array(array, input_name=input_name, **options)


@_quiet
def checked_data(estimator: BaseEstimator, X: Any, y: Any = "no_validation", **options: Any) -> Any:
    """scikit-learn's `validate_data`; TypeError for a masked array."""
    refuse_masked("X", X)
    refuse_masked("y", y)
    return validate_data(estimator, X, y, **options)


class SequenceInput(BaseEstimator):
    """Base of what takes sequences: arrays (n,T,F), lists of arrays (T_i,F) or (T_i,), rows of numbers (n,T·F)."""

    features_per_step: Any
    n_features_in_: int
    _has_columns: bool  # whether it was fitted to rows of numbers, whose length is fixed
    _step_features: int  # F

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _changed_by(self, fit: Callable[..., bool | None], *args: Any, **kwargs: Any) -> None:
        """Let `fit` change this estimator as a whole, or, if it raises, not at all; then KeyboardInterrupt if it says
        that Ctrl-C ended it early.

        It puts other objects in the place of those there are, and changes none of them.
        """
        before = vars(self).copy()
        random: Any = getattr(self, "random_state", None)
        undrawn = random.get_state() if isinstance(random, np.random.RandomState) else None
        try:
            interrupted = fit(*args, **kwargs)
        except BaseException:
            self.__dict__ = before
            if undrawn is not None:
                random.set_state(undrawn)
            raise
        if interrupted:
            raise KeyboardInterrupt

    def _width_of_a_step(self) -> int:
        """The parameter `features_per_step`, checked."""
        return checks.integer("features_per_step", self.features_per_step, minimum=1)

    def _check_X(self, X: Any, dtype: Any, features_per_step: int | None = None) -> Sequences:
        """The sequences in `X`, their steps (Σ T_i,F) of `dtype`. Rows of numbers hold `features_per_step` a step.

        Takes note of X's features; with None, compares them with those of the last fit.
        """
        reset = features_per_step is not None
        features = self._step_features if features_per_step is None else features_per_step
        arrays, shape = form_of(X)
        table = arrays is None and len(shape) != 3
        if table and (reset or self._has_columns):
            X = checked_data(self, X, dtype=dtype, order="C", reset=reset)
        else:
            checked_data(self, X, reset=reset, skip_check_array=True, ensure_2d=False)  # columns' names alone
            if table:
                X = checked_array(X, dtype=dtype, order="C", estimator=self, input_name="X")
        if table:
            steps = in_steps("X", X, features)
            x = Sequences(steps, np.full(len(X), len(steps) // len(X)))
        else:
            if arrays is None:
                checks.shape("X", shape, (None, None, None))
                x = Sequences.of_array(np.asarray(X))
            else:
                x = joined("X", [in_steps(f"X[{i}]", a, features) if a.ndim == 1 else a for i, a in enumerate(arrays)])
            x = x.with_steps(checked_array(x.steps, dtype=dtype, order="C", estimator=self, input_name="X"))
        width = x.steps.shape[1]
        if reset:
            self._has_columns, self._step_features = table, width
            if not table:
                self.n_features_in_ = width
        elif width != features:
            raise ValueError(f"X must have {features} features a step, as in fit, got {width}")
        return x


class RecurrentEstimator(SequenceInput):
    """Base of the estimators: a recurrent net with a linear layer upon it, trained by `fastrnn.Trainer`.

    cell: "lstm", "gru" or "rnn".
    hidden_size, num_layers, bidirectional: of the recurrent layers.
    dropout: probability of zeros between layers and before the output, in training.
    optimizer: "adam", "adamw", "rmsprop", "adagrad" or "sgd" (with Nesterov's momentum of 0.9).
    learning_rate, weight_decay: of the optimizer.
    schedule: "constant", or "cosine" or "one_cycle" over the epochs of a fit.
    clip_norm: gradients are scaled down to this norm; None for not.
    epochs: passes over the training data, the most of them with `early_stopping`.
    batch_size: sequences in a batch.
    early_stopping: keep `validation_fraction` of the sequences apart, end training when their score has not risen by
        more than `tol` for `patience` epochs, and take the weights of the best score.
    dtype: "float32" or "float64", what is computed in.
    random_state: of the initial weights, the batches' order, the dropout and the validation split. With an integer a
        fit can be repeated bit for bit, on any number of threads.
    verbose: print a line an epoch.
    warm_start: `fit` goes on with the net of the last fit.

    What makes the net and gives its outputs their meaning is that of the fit: parameters set after it change no
    prediction, and are a ValueError where a fit goes on, with `warm_start` or in `partial_fit`. Those of training alone
    may change.

    A fit, or `partial_fit`, that raises leaves the estimator as it was, fitted or not, whether its arguments were
    refused or its training went wrong. Ctrl-C in training, once there was an update, keeps what was learnt so far.

    Attributes after fitting: `model_`, the `fastrnn.Sequential`; `loss_curve_`, the mean loss of each epoch since the
    model was made; `validation_scores_`, the same of the scores, None without `early_stopping`; `n_iter_`, the number
    of these epochs; `n_features_in_`, the columns of a two-dimensional `X`, else the features of a step;
    `feature_names_in_`, if `X` was a data frame.
    """

    _of_the_model: tuple[str, ...] = ("cell", "hidden_size", "num_layers", "bidirectional", "dropout", "dtype")
    _fitted: dict[str, Any]  # the values, in the fit that made the model, of the parameters that are `_of_the_model`
    model_: Sequential
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    n_iter_: int
    _rng: np.random.Generator  # of what training draws
    _optimizer_state: dict[str, Any] | None  # for a fit that goes on

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int = 32,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
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
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.epochs = epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.tol = tol
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start

    # What subclasses give.

    def _pooling_layers(self) -> list:
        """The layers between the recurrent ones and the output: what makes one vector of a sequence, if anything."""
        return []

    @abstractmethod
    def _score(self, outputs: np.ndarray, targets: Targets, weights: Targets | None) -> float:
        """How good the model's outputs for held-out sequences are; higher is better."""

    def _sequences(self, X: Any, features_per_step: int | None = None) -> Sequences:
        """The sequences in `X`; with None for `features_per_step`, those of a net that there is."""
        dtype = self.dtype
        if features_per_step is None:
            dtype = self._fitted["dtype"]
            self._refuse_single(X)
        return self._check_X(X, checks.float_dtype(dtype), features_per_step)

    def _refuse_single(self, X: Any) -> None:
        """Refuse one sequence (T,F) where sequences are wanted: it would be taken for T sequences of one step."""
        _, shape = form_of(X)
        if not self._has_columns and len(shape) == 2 and shape[0] > 1 and shape[1] == self._step_features:
            raise ValueError(
                f"X must hold sequences, as in fit, got one array of shape {shape}: pass X[None] for one sequence of "
                f"{shape[0]} steps, X[:, None] for {shape[0]} sequences of one step"
            )

    def _require_y(self, y: Any) -> None:
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")

    # Training.

    def _goes_on(self, incremental: bool) -> bool:
        """Whether a fit goes on with the model there is; ValueError if that was made with other parameters."""
        if not ((incremental or checks.flag("warm_start", self.warm_start)) and hasattr(self, "model_")):
            return False
        for name, value in self._fitted.items():
            if not np.array_equal(getattr(self, name), value):
                raise ValueError(
                    f"{name} must be that of the first fit, {value!r}, for a fit that goes on, "
                    f"got {getattr(self, name)!r}"
                )
        return True

    def _keep_parameters(self) -> None:
        """Take note of the parameters that are `_of_the_model`: they may be set to others after the fit."""
        self._fitted = {name: copy.deepcopy(getattr(self, name)) for name in self._of_the_model}

    def _make_model(self, inputs: int, outputs: int) -> Sequential:
        recurrent, dropout, linear = (int(seed) for seed in self._rng.integers(2**63, size=3))
        layers = [
            CELLS[checks.choice("cell", self.cell, tuple(CELLS))](
                inputs, self.hidden_size, self.num_layers, bidirectional=self.bidirectional, dropout=self.dropout,
                dtype=self.dtype, seed=recurrent,
            ),
            *self._pooling_layers(),
        ]  # fmt: skip
        if self.dropout:
            layers.append(Dropout(self.dropout, dtype=self.dtype, seed=dropout))
        width = self.hidden_size * (2 if self.bidirectional else 1)
        layers.append(Linear(width, outputs, dtype=self.dtype, seed=linear))
        return Sequential(*layers, batch_first=True)

    def _make_optimizer(self) -> Any:
        kind = OPTIMIZERS[checks.choice("optimizer", self.optimizer, tuple(OPTIMIZERS))]
        momentum = {"momentum": 0.9, "nesterov": True} if kind is optim.SGD else {}
        rate = checks.number("learning_rate", self.learning_rate, minimum=0)
        optimizer = kind(rate, weight_decay=self.weight_decay, **momentum)
        state = self._optimizer_state
        if state is not None and state["optimizer"] == kind.__name__:
            optimizer.load_state_dict(state | optimizer.config())  # its arguments are the present ones
        return optimizer

    def _train(
        self,
        x: Sequences,
        targets: Targets,
        weights: Targets | None,
        loss: Any,
        width: int,
        *,
        incremental: bool = False,
        strata: np.ndarray | None = None,
    ) -> bool:
        """Train a new model with `width` outputs, or a copy of the one there is, on `targets`, as `loss` takes them;
        whether Ctrl-C ended it early, after an update at least.

        loss: one averaged over sequences. weights: of each target; None for all the same.
        incremental: one epoch with all of the data. strata: labels whose shares the validation split keeps.
        """
        batch_size = checks.integer("batch_size", self.batch_size, minimum=1)
        epochs = 1 if incremental else checks.integer("epochs", self.epochs, minimum=1)
        schedule = SCHEDULES[checks.choice("schedule", self.schedule, tuple(SCHEDULES))]
        stopping = EarlyStopping(self.patience, min_delta=checks.number("tol", self.tol, minimum=0))
        early = self._stops_early(incremental)
        if self._goes_on(incremental):
            for name in ("model_", "_rng", "loss_curve_", "validation_scores_"):
                setattr(self, name, copy.deepcopy(getattr(self, name)))
        else:
            self._rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
            self.model_ = self._make_model(x.steps.shape[1], width)
            self._keep_parameters()
            self._optimizer_state = None
            self.loss_curve_, self.validation_scores_ = [], None
        if early and self.validation_scores_ is None:
            self.validation_scores_ = []
        score: Callable[[], float] | None = None
        if early:
            kept, apart = self._split(len(x), strata)
            held_out, *truth = (take(rows, apart) for rows in (x, targets, weights))
            x, targets, weights = (take(rows, kept) for rows in (x, targets, weights))
            if not _any(truth[1]):
                raise ValueError("sample_weight and class_weight leave nothing to stop by of what is held out")

            def score():
                return self._score(self._outputs(held_out), *truth)

        x, targets, weights = _weighted(x, targets, weights)
        batches = Batches(x, targets, weights, batch_size, self._rng)
        trainer = Trainer(
            self.model_, loss, self._make_optimizer(), clip_norm=self.clip_norm, nonfinite="raise",
            schedule=schedule(epochs * len(batches)), seed=None,
        )  # fmt: skip
        watch = _Epochs(self, batches.sizes, score, stopping)
        history = trainer.fit(batches, epochs=epochs, callbacks=(watch,), progress=False)
        self._optimizer_state = trainer.optimizer.state_dict()
        self.n_iter_ = len(self.loss_curve_)
        interrupted = history.interrupted
        if interrupted and not trainer.updates:
            raise KeyboardInterrupt
        return interrupted

    def _show_epoch(self, text: str) -> None:
        """Say what an epoch came to."""
        if self.verbose:
            print(text, flush=True)

    def _stops_early(self, incremental: bool) -> bool:
        """Whether a fit holds data out to stop by."""
        early = checks.flag("early_stopping", self.early_stopping)
        if incremental and early:
            raise ValueError("early_stopping must be False for partial_fit, which sees part of the data at a time")
        return early

    def _split(self, count: int, strata: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Indices to train on and of those held out."""
        return train_test_split(
            np.arange(count),
            test_size=checks.number("validation_fraction", self.validation_fraction, above=0, below=1),
            random_state=int(self._rng.integers(2**31)),
            stratify=strata,
        )

    def _outputs(self, x: Sequences) -> np.ndarray:
        return outputs(self.model_, x)


def outputs(model: Sequential, x: Sequences) -> np.ndarray:
    """A model's outputs for all sequences: (n,O), or those of all steps, (Σ T_i,O), if the model keeps them."""
    parts: list = [None] * len(x)
    order = np.argsort(x.lengths, kind="stable")  # less padding; results do not depend on batch mates
    for start in range(0, len(x), _AT_ONCE):
        chosen = order[start : start + _AT_ONCE]
        batch, lengths = x.batch(chosen)
        y, _ = model.forward(batch, lengths=lengths)
        for i, row in zip(chosen, y, strict=True):
            parts[i] = row[: x.lengths[i]] if y.ndim == 3 else row[np.newaxis]
    return np.concatenate(parts)


class PooledEstimator(RecurrentEstimator):
    """Base of those that make one vector of each sequence before the output layer."""

    pooling: str
    features_per_step: int
    _of_the_model = (*RecurrentEstimator._of_the_model, "pooling", "features_per_step")

    def _pooling_layers(self):
        kind = POOLING[checks.choice("pooling", self.pooling, tuple(POOLING))]
        options = {"bidirectional": self.bidirectional} if kind is Last else {}
        return [kind(dtype=self.dtype, **options)]


class _Epochs:
    """A callback that notes what each epoch came to, and ends training when the score of held-out data stands still.

    sizes: sequences in each batch of an epoch. score: of held-out data, None without.
    """

    def __init__(self, estimator: RecurrentEstimator, sizes: list[int], score: Any, stopping: EarlyStopping):
        self._estimator, self._sizes, self._score, self._stopping = estimator, sizes, score, stopping
        self._losses: list[float] = []  # of the epoch so far

    def __call__(self, trainer, record):
        self._losses.append(record["loss"])
        if len(self._losses) < len(self._sizes):
            return False
        estimator = self._estimator
        estimator.loss_curve_.append(float(np.average(self._losses, weights=self._sizes)))
        self._losses.clear()
        text = f"epoch {len(estimator.loss_curve_)}: loss {estimator.loss_curve_[-1]:.4g}"
        stops = False
        if self._score is not None:
            value = self._score()
            estimator.validation_scores_.append(value)
            text += f", validation score {value:.4g}"
            stops = self._stopping(trainer, {"validation_loss": -value})
        estimator._show_epoch(text)
        return stops

    def finish(self, trainer):
        self._stopping.finish(trainer)


def in_steps(name: str, rows: np.ndarray, features_per_step: int) -> np.ndarray:
    """Rows of numbers, step by step, as steps (…,features_per_step)."""
    features = checks.integer("features_per_step", features_per_step, minimum=1)
    if rows.shape[-1] % features:
        raise ValueError(
            f"{name} must have a multiple of features_per_step={features} numbers a row, got {rows.shape[-1]}"
        )
    return rows.reshape(-1, features)


def checked_weights(sample_weight: Any, count: int) -> np.ndarray | None:
    """`sample_weight`, a weight for each of `count` samples, as float64: finite, ≥ 0, not all 0; None stays None.

    They come back `normalised`: it is their ratios that count."""
    if sample_weight is None:
        return None
    weights = checked_array(sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
    checks.shape("sample_weight", weights.shape, (count,))
    if weights.min() < 0:
        raise ValueError(f"sample_weight must be at least 0 everywhere, got {weights.min()}")
    if not weights.any():
        raise ValueError("sample_weight must have at least one non-zero number, got weights of zero alone")
    return normalised(weights)


def _any(weights: Targets | None) -> bool:
    """Whether one of the weights is above 0."""
    return weights is None or bool(np.any(weights.steps if isinstance(weights, Sequences) else weights))


def _weighted(x, targets, weights):
    """The sequences that count, their targets, and weights for a loss averaged over sequences; None if all are 1.

    The weights add up to the number of sequences: the average over all of them is then the weighted mean of the losses,
    and that over a batch an unbiased estimate of it.
    """
    stepwise = isinstance(targets, Sequences)
    values = targets.steps if stepwise else targets
    width = values[0].size  # elements of the loss in a target
    if weights is None:
        flat = np.full(len(values), len(x) / values.size)
        return x, targets, None if flat[0] == 1 else (targets.with_steps(flat) if stepwise else flat)
    counts = np.add.reduceat(weights.steps, weights.ends - weights.lengths) if stepwise else weights
    if not counts.any():  # all that counts is held out
        raise ValueError("sample_weight and class_weight leave nothing to train on")
    kept = np.flatnonzero(counts > _NEGLIGIBLE * counts.max())
    factor = len(kept) / (width * counts.sum())
    x, targets, weights = (take(rows, kept) for rows in (x, targets, weights))
    return x, targets, weights.with_steps(factor * weights.steps) if stepwise else factor * weights
