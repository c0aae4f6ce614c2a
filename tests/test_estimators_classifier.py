"""`RNNClassifier`, and what it shares with the others: forms of input, training, persistence, model selection."""

import copy
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

import joblib
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.class_weight import compute_sample_weight

import fastrnn
from fastrnn.estimators import RNNClassifier, RNNRegressor, SequenceScaler, SequenceTagger

SMALL = {"hidden_size": 6, "epochs": 4, "batch_size": 8, "random_state": 0}


def ragged(n=60, features=2, seed=0, longest=9):
    """Sequences of 2 to `longest` steps, and which of the first two features adds up to more."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(2, longest + 1), features)) for _ in range(n)]
    y = np.array(["second" if x[:, 1].sum() > x[:, 0].sum() else "first" for x in X])
    return X, y


def stacked(n=40, seed=0):
    """The same in an array (n,5,2)."""
    X = np.random.default_rng(seed).standard_normal((n, 5, 2))
    return X, (X[:, :, 1].sum(1) > X[:, :, 0].sum(1)).astype(int)


def same(a, b):
    return np.array_equal(a.model_.parameters_to_vector(), b.model_.parameters_to_vector())


# ---- what it learns ----


def test_estimators_classifier_takes_the_last_output_of_each_direction():
    X = np.random.default_rng(0).standard_normal((40, 6, 2))
    y = (X[:, -1, 0] > 0).astype(int)
    for both in (False, True):
        model = RNNClassifier("gru", 4, bidirectional=both, epochs=1, random_state=0).fit(X, y).model_
        assert repr(model.layers[1]) == ("Last(bidirectional=True)" if both else "Last()")


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_estimators_classifier_learns_ragged_sequences(pooling):
    X, y = ragged(300)
    classifier = RNNClassifier("gru", 16, pooling=pooling, epochs=30, random_state=0).fit(X[:200], y[:200])
    assert classifier.score(X[200:], y[200:]) > 0.85
    assert classifier.classes_.tolist() == ["first", "second"]
    assert classifier.n_iter_ == len(classifier.loss_curve_) == 30
    assert classifier.loss_curve_[-1] < 0.5 * classifier.loss_curve_[0]
    assert classifier.validation_scores_ is None


def test_estimators_classifier_probabilities_do_not_depend_on_batch_mates():
    X, y = ragged()
    classifier = RNNClassifier(**SMALL).fit(X, y)
    together = classifier.predict_proba(X)
    assert together.shape == (60, 2) and together.dtype == np.float64
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-12)
    assert np.array_equal(together, np.concatenate([classifier.predict_proba([x]) for x in X]))
    assert np.array_equal(classifier.predict(X), classifier.classes_[together.argmax(axis=1)])


@pytest.mark.parametrize("ragged_batch", [False, True])
def test_estimators_classifier_trains_as_pytorch_does(ragged_batch):
    torch = pytest.importorskip("torch")
    X, y = (ragged if ragged_batch else stacked)(20)
    weights = np.random.default_rng(1).uniform(0.5, 2, 20)
    settings = {
        "hidden_size": 5, "num_layers": 2, "batch_size": 20, "dtype": "float64", "random_state": 0,
        "optimizer": "adamw", "weight_decay": 0.1, "clip_norm": 0.1, "schedule": "cosine",
    }  # fmt: skip
    untrained = RNNClassifier(**settings, epochs=1).set_params(learning_rate=0.0).fit(X, y)
    ours = RNNClassifier(**settings, epochs=6).fit(X, y, sample_weight=weights)

    lstm, linear = torch.nn.LSTM(2, 5, 2, batch_first=True).double(), torch.nn.Linear(5, 2).double()
    state = {name: torch.from_numpy(array) for name, array in untrained.model_.state_dict().items()}
    lstm.load_state_dict({name[2:]: array for name, array in state.items() if name.startswith("0.")})
    linear.load_state_dict({name[2:]: array for name, array in state.items() if name.startswith("2.")})
    parameters = [*lstm.parameters(), *linear.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    packed = torch.nn.utils.rnn.pack_sequence([torch.from_numpy(x) for x in X], enforce_sorted=False)
    targets, factors = torch.from_numpy(np.unique(y, return_inverse=True)[1]), torch.from_numpy(weights)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        logits = linear(lstm(packed)[1][0][-1])
        loss = (factors * torch.nn.functional.cross_entropy(logits, targets, reduction="none")).sum() / factors.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    np.testing.assert_allclose(ours.loss_curve_, losses, rtol=1e-9)
    expected = linear(lstm(packed)[1][0][-1]).softmax(1).detach().numpy()
    np.testing.assert_allclose(ours.predict_proba(X), expected, rtol=1e-7)


# ---- input ----


def test_estimators_classifier_takes_the_same_sequences_in_every_form():
    pandas = pytest.importorskip("pandas")
    X, y = stacked()
    rows = X.reshape(40, 10)
    fitted = RNNClassifier(**SMALL).fit(X, y)
    assert fitted.n_features_in_ == 2
    objects = np.empty(40, object)
    objects[:] = list(X)
    for form in (list(X), tuple(X), [x.tolist() for x in X], objects, pandas.Series(list(X)), np.asfortranarray(X)):
        other = RNNClassifier(**SMALL).fit(form, pandas.Series(y))
        assert same(fitted, other) and other.n_features_in_ == 2
        assert np.array_equal(fitted.predict_proba(X), other.predict_proba(form))
    frame = pandas.DataFrame(rows, columns=[f"{name}{t}" for t in range(5) for name in "ab"])
    for form in (rows, frame, rows.tolist()):
        other = RNNClassifier(**SMALL, features_per_step=2).fit(form, y)
        assert same(fitted, other) and other.n_features_in_ == 10
        assert np.array_equal(fitted.predict_proba(X), other.predict_proba(form))
    by_name = RNNClassifier(**SMALL, features_per_step=2).fit(frame, y)
    assert by_name.feature_names_in_.tolist() == frame.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        by_name.predict(frame[frame.columns[::-1]])


def test_estimators_classifier_takes_numbers_for_steps_of_one_feature():
    X, y = ragged(features=2)
    numbers = [x[:, 0] for x in X]
    fitted = RNNClassifier(**SMALL).fit(numbers, y)
    other = RNNClassifier(**SMALL).fit([row[:, np.newaxis] for row in numbers], y)
    assert same(fitted, other)
    row = np.ones((1, 7))  # a list of rows that are equally long is an array of rows
    assert np.array_equal(fitted.predict_proba(row), other.predict_proba([np.ones((7, 1))]))


def test_estimators_classifier_padding_and_length_do_not_matter_in_training():
    X, y = ragged(20)
    settings = SMALL | {"batch_size": 20, "dtype": "float64"}
    fitted = RNNClassifier(**settings).fit(X, y)
    longer = RNNClassifier(**settings).fit([*X, np.full((50, 2), 9.0)], [*y, "first"], sample_weight=[1.0] * 20 + [0.0])
    assert same(fitted, longer)


@pytest.mark.parametrize(
    ("X", "error"),
    [
        ([np.ones((3, 2)), np.ones((2, 3))], r"X\[1\] must have steps of shape \(2,\), got \(3,\)"),
        ([np.ones((3, 2)), np.ones((0, 2))], r"X\[1\] must not be empty"),
        ([np.ones((3, 2)), np.full((2, 2), np.nan)], "Input X contains NaN"),
        (np.full((2, 3, 2), np.inf), "Input X contains infinity"),
        (np.full((2, 3, 2), 1e300), "too large for dtype"),
        (np.ones((2, 3, 2, 2)), r"X must be an array \(n,T,F\), a list of .*, got shape \(2, 3, 2, 2\)"),
        (None, r"X must be an array \(n,T,F\), a list of .*, got None"),
        ([], r"X must be an array \(n,T,F\), a list of .*, got \[\]"),
        ([np.ones((3, 2)), np.ones(3)], r"all \(T_i,F\) or all \(T_i,\), got shapes \(3, 2\) of X\[0\] and \(3,\)"),
        ([np.ones((3, 2)), [[1], [2, 3]]], r"X\[1\] must be an array \(T,F\) or \(T,\), got rows of different lengths"),
        (np.ones((2, 0, 2)), "must not be empty"),
        (np.ones(2), "Expected 2D array"),
        (np.ones((3, 4)), "inconsistent numbers of samples"),
        ([np.ones((3, 2), complex), np.ones((2, 2))], "Complex data not supported"),
        ([np.array([["a"]]), np.array([["b"]])], "could not convert|dtype='numeric' is not compatible"),
    ],
)
def test_estimators_classifier_refuses_input(X, error):
    with pytest.raises(ValueError, match=error):
        RNNClassifier(**SMALL).fit(X, [0, 1])


@pytest.mark.parametrize("estimator", [RNNClassifier, RNNRegressor, SequenceTagger], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("X", "error"),
    [
        (None, "X must be an array .*, got None"),
        ([], r"X must be an array .*, got \[\]"),
        (np.ones((2, 5, 2, 2)), r"X must be an array .*, got shape \(2, 5, 2, 2\)"),
        ([np.ones((3, 2)), np.ones(3)], "X must be a list of arrays that are all"),
    ],
    ids=["None", "nothing", "4-D", "mixed"],
)
def test_estimators_say_what_they_take(estimator, X, error):
    sequences, y = stacked(10)
    y = np.repeat(y[:, np.newaxis], 5, axis=1) if estimator is SequenceTagger else y
    for call in (lambda: estimator(**SMALL).fit(X, y[:2]), lambda: estimator(**SMALL).fit(sequences, y).predict(X)):
        with pytest.raises(ValueError, match=error):
            call()


@pytest.mark.parametrize("estimator", [RNNClassifier, RNNRegressor, SequenceTagger], ids=lambda kind: kind.__name__)
def test_estimators_do_not_take_one_sequence_for_many(estimator):
    X, y = stacked()
    y = np.repeat(y[:, np.newaxis], 5, axis=1) if estimator is SequenceTagger else y
    for form in (X, list(X)):
        fitted = estimator(**SMALL).fit(form, y)
        with pytest.raises(ValueError, match=r"one array of shape \(5, 2\): pass X\[None\] for one sequence of 5"):
            fitted.predict(X[0])
        assert len(fitted.predict(X[0][None])) == 1 and len(fitted.predict(X[0][:1])) == 1
    rows = estimator(**SMALL, features_per_step=2).fit(X[:, 0], y[..., 0] if y.ndim == 2 else y)
    assert len(rows.predict(X[0])) == 5


def test_estimators_classifier_refuses_other_input_than_it_was_fitted_to():
    X, y = stacked()
    fitted = RNNClassifier(**SMALL).fit(X, y)
    with pytest.raises(ValueError, match="X must have 2 features a step, as in fit, got 3"):
        fitted.predict(np.ones((4, 5, 3)))
    with pytest.raises(ValueError, match="X must have a multiple of features_per_step=2 numbers a row, got 7"):
        fitted.predict(np.ones((4, 7)))
    assert fitted.predict(np.ones((4, 99, 2))).shape == (4,)  # any number of steps
    rows = RNNClassifier(**SMALL).fit(X.reshape(40, 10), y)
    with pytest.raises(ValueError, match="X has 8 features, but RNNClassifier is expecting 10"):
        rows.predict(np.ones((4, 8)))


@pytest.mark.parametrize(
    "parameters",
    [
        {"cell": "elman"}, {"hidden_size": 0}, {"num_layers": 0}, {"bidirectional": 1}, {"dropout": 1.0},
        {"pooling": "sum"}, {"features_per_step": 3}, {"features_per_step": 0}, {"class_weight": {7: 1.0}},
        {"optimizer": "newton"}, {"learning_rate": -1.0}, {"weight_decay": -1.0}, {"schedule": "linear"},
        {"clip_norm": 0.0}, {"epochs": 0}, {"batch_size": 0}, {"early_stopping": "yes"}, {"patience": 0},
        {"early_stopping": True, "validation_fraction": 1.0}, {"tol": -1.0}, {"dtype": "float16"}, {"warm_start": 2},
    ],
    ids=str,
)  # fmt: skip
def test_estimators_classifier_refuses_parameters(parameters):
    X, y = stacked(10)
    with pytest.raises((ValueError, TypeError), match=f"{list(parameters)[-1]}|classes"):
        RNNClassifier(**(SMALL | parameters)).fit(X.reshape(10, 10), y)


@pytest.mark.parametrize("estimator", [RNNClassifier, SequenceTagger], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_estimators_make_no_class_of_what_is_not_finite(estimator, value):
    X, y = stacked()
    y = np.repeat(y[:, np.newaxis], 5, axis=1) if estimator is SequenceTagger else y
    fitted = estimator(**SMALL).fit(X, y)
    fitted.model_.vector_to_parameters(np.full(fitted.model_.num_parameters, value))
    for call in (lambda: fitted.predict(X), lambda: fitted.score(X, y)):
        with pytest.raises(fastrnn.NonFiniteError, match="the model's output is not finite"):
            call()
    assert np.isnan(fitted.predict_proba(X)).all()


# ---- training ----


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "adagrad", "sgd"])
def test_estimators_classifier_partial_fit_and_warm_start_go_on_bit_for_bit(optimizer):
    X, y = ragged(30)
    settings = SMALL | {"cell": "gru", "num_layers": 2, "dropout": 0.2, "optimizer": optimizer}
    whole = RNNClassifier(**settings).fit(X, y)
    parts = RNNClassifier(**settings)
    for _ in range(4):
        parts = pickle.loads(pickle.dumps(parts.partial_fit(X, y, classes=["first", "second"])))
    assert same(whole, parts) and parts.loss_curve_ == whole.loss_curve_ and parts.n_iter_ == 4
    warm = RNNClassifier(**settings | {"epochs": 2}, warm_start=True).fit(X, y)
    warm = copy.deepcopy(warm).fit(X, y)
    assert same(whole, warm) and warm.n_iter_ == 4
    assert not same(whole, warm.set_params(warm_start=False).fit(X, y)) and warm.n_iter_ == 2


def test_estimators_classifier_partial_fit_refuses():
    X, y = stacked()
    classifier = RNNClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes must be passed in the first call"):
        classifier.partial_fit(X, y)
    classifier.partial_fit(X[:10], y[:10], classes=[0, 1, 2])
    assert classifier.predict_proba(X).shape == (40, 3)
    with pytest.raises(ValueError, match=r"classes must be those of the first call, \[0, 1, 2\]"):
        classifier.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"y must hold the classes \[0, 1, 2\] alone, got 3"):
        classifier.partial_fit(X, y + 2)
    with pytest.raises(ValueError, match="X must have 2 features a step"):
        classifier.partial_fit(X[:, :, :1], y)
    with pytest.raises(ValueError, match="class_weight must be a dict or None for partial_fit"):
        classifier.set_params(class_weight="balanced").partial_fit(X, y)
    with pytest.raises(ValueError, match="early_stopping must be False for partial_fit"):
        classifier.set_params(class_weight=None, early_stopping=True).partial_fit(X, y)


def test_estimators_classifier_goes_on_with_other_settings():
    X, y = ragged(30)
    settings = SMALL | {"epochs": 1, "warm_start": True}
    still = RNNClassifier(**settings).fit(X, y)
    before = copy.deepcopy(still)
    assert same(before, still.set_params(learning_rate=0.0).fit(X, y))
    still.set_params(learning_rate=0.01, optimizer="sgd", clip_norm=None).fit(X, y)
    assert not same(before, still) and still.n_iter_ == 3
    still.set_params(early_stopping=True).fit(X, y)
    assert len(still.validation_scores_) == 1 and still.n_iter_ == 4


@pytest.mark.parametrize("estimator", [RNNClassifier, RNNRegressor, SequenceTagger], ids=lambda kind: kind.__name__)
def test_estimators_stay_as_they_were_fitted(estimator):
    X, y = stacked()
    y = np.repeat(y[:, np.newaxis], 5, axis=1) if estimator is SequenceTagger else y
    fitted = estimator(**SMALL).fit(X, y)
    other = {
        "cell": "gru",
        "hidden_size": 3,
        "num_layers": 2,
        "bidirectional": True,
        "dropout": 0.5,
        "dtype": "float64",
    }
    other |= {"task": "regress"} if estimator is SequenceTagger else {"pooling": "mean"}
    other |= {"features_per_step": 7}
    changed = copy.deepcopy(fitted).set_params(**other)
    np.testing.assert_array_equal(changed.predict(X), fitted.predict(X))
    assert changed.score(X, y) == fitted.score(X, y)
    assert hasattr(changed, "predict_proba") == hasattr(fitted, "predict_proba")
    for name, value in other.items():
        changed = copy.deepcopy(fitted).set_params(**{name: value, "warm_start": True})
        for fit in (changed.fit, changed.partial_fit):
            with pytest.raises(
                ValueError, match=f"{name} must be that of the first fit, .* for a fit that goes on, got"
            ):
                fit(X, y)
        assert same(fitted, changed)
    assert estimator(**SMALL).fit(X, y).set_params(epochs=1, **other | {"features_per_step": 2}).fit(X, y).n_iter_ == 1


def test_estimators_classifier_stops_early_with_the_best_weights():
    X, y = ragged(80)
    settings = SMALL | {"learning_rate": 0.03, "validation_fraction": 0.25}
    free = RNNClassifier(**settings | {"epochs": 30}, early_stopping=True, patience=30).fit(X, y)
    scores = free.validation_scores_
    best = int(np.argmax(scores))
    assert len(scores) == free.n_iter_ == 30 and scores[best] > scores[0] and all(0 <= score <= 1 for score in scores)
    to_best = RNNClassifier(**settings | {"epochs": best + 1}, early_stopping=True, patience=30).fit(X, y)
    assert to_best.validation_scores_ == scores[: best + 1] and same(free, to_best)
    stopped = RNNClassifier(**settings | {"epochs": 30}, early_stopping=True, patience=3).fit(X, y)
    assert stopped.n_iter_ < 30 and stopped.validation_scores_ == scores[: stopped.n_iter_]


def test_estimators_classifier_class_weights_are_sample_weights():
    X, y = ragged(30)
    y[:20] = "first"
    fitted = RNNClassifier(**SMALL, class_weight="balanced").fit(X, y)
    by_sample = RNNClassifier(**SMALL).fit(X, y, sample_weight=compute_sample_weight("balanced", y))
    assert same(fitted, by_sample)
    weights = {"first": 1.0, "second": 3.0}
    both = RNNClassifier(**SMALL, class_weight=weights).fit(X, y, sample_weight=np.arange(30.0))
    product = RNNClassifier(**SMALL).fit(X, y, sample_weight=np.arange(30) * np.where(y == "second", 3.0, 1.0))
    assert same(both, product) and not same(both, fitted)


@pytest.mark.parametrize(
    ("weights", "error"), [(np.ones(39), r"sample_weight must have shape \(40,\)"), (-np.ones(40), "at least 0")]
)
def test_estimators_classifier_refuses_sample_weights(weights, error):
    with pytest.raises(ValueError, match=error):
        RNNClassifier(**SMALL).fit(*stacked(), sample_weight=weights)


def test_estimators_classifier_seeds():
    X, y = ragged(30)
    settings = SMALL | {"dropout": 0.2}
    assert same(RNNClassifier(**settings).fit(X, y), RNNClassifier(**settings).fit(X, y))
    assert not same(RNNClassifier(**settings).fit(X, y), RNNClassifier(**settings | {"random_state": 1}).fit(X, y))
    state = np.random.RandomState(0)
    drawn = [RNNClassifier(**settings | {"random_state": state}).fit(X, y) for _ in range(2)]
    assert same(drawn[0], RNNClassifier(**settings).fit(X, y)) and not same(*drawn)


def test_estimators_classifier_tells_of_each_epoch(capsys):
    X, y = stacked()
    RNNClassifier(**SMALL, verbose=True, early_stopping=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("epoch 1: loss 0.") and ", validation score " in lines[3]


def test_estimators_classifier_raises_ctrl_c_after_taking_stock(monkeypatch):
    class Interrupted(RNNClassifier):
        def _score(self, outputs, targets, weights):
            if len(self.loss_curve_) == 2:
                signal.raise_signal(signal.SIGINT)
            return 0.0

    X, y = stacked()
    classifier = Interrupted(**SMALL, early_stopping=True)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(X, y)
    assert classifier.n_iter_ == 2 and classifier.predict(X).shape == (40,)


# ---- with the rest of scikit-learn ----


def threads():
    return fastrnn.get_num_threads()


def test_estimators_classifier_grid_search_of_a_pipeline_in_processes(tmp_path):
    X, y = ragged(60)
    pipeline = make_pipeline(SequenceScaler(), RNNClassifier(**SMALL))
    grid = {"rnnclassifier__cell": ["gru", "lstm"], "rnnclassifier__hidden_size": [4, 6]}
    alone = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    search = GridSearchCV(clone(pipeline), grid, cv=3, n_jobs=2).fit(X, y)
    assert np.array_equal(alone.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"])
    assert np.array_equal(alone.predict_proba(X), search.predict_proba(X))
    objects = np.empty(60, object)
    objects[:] = X
    again = GridSearchCV(clone(pipeline), grid, cv=3).fit(objects, y)
    assert np.array_equal(alone.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"])
    joblib.dump(search.best_estimator_, tmp_path / "model.joblib")
    assert np.array_equal(joblib.load(tmp_path / "model.joblib").predict_proba(X), search.predict_proba(X))
    share = max(1, joblib.cpu_count() // 2)  # of the machine, which joblib gives each worker
    assert max(joblib.Parallel(n_jobs=2)(joblib.delayed(threads)() for _ in range(2))) <= share


def test_estimators_scaler():
    X, _ = ragged(30)
    X = [5 * x + [1, 100] for x in X]
    scaler = SequenceScaler().fit(X)
    steps = np.concatenate(X)
    np.testing.assert_allclose(scaler.mean_, steps.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaler.scale_, steps.std(axis=0), rtol=1e-12)
    for x, scaled in zip(X, scaler.transform(X), strict=True):
        np.testing.assert_allclose(scaled, (x - scaler.mean_) / scaler.scale_, rtol=1e-12)
    assert scaler.transform(np.ones((3, 4, 2))).shape == (3, 4, 2)
    rows = np.random.default_rng(0).standard_normal((8, 6)) * ([1, 2, 3] * 2)
    scaled = SequenceScaler(features_per_step=3).fit_transform(rows)
    np.testing.assert_allclose(scaled.reshape(-1, 3).std(axis=0), 1, rtol=1e-12)
    scaler = SequenceScaler().fit([np.ones(3), np.zeros(5)])
    for lengths in ((3, 5), (4, 4)):
        numbers = scaler.transform([np.ones(length) for length in lengths])
        assert isinstance(numbers, list) and tuple(map(len, numbers)) == lengths
    constant = SequenceScaler().fit_transform(np.full((2, 3, 1), 0.1))
    assert np.abs(constant).max() < 1e-15


def test_estimators_need_scikit_learn():
    code = "import sys, fastrnn; assert 'sklearn' not in sys.modules; sys.modules['sklearn'] = None\n"
    code += "import fastrnn.estimators"
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert end.returncode == 1
    last = end.stderr.splitlines()[-1]
    assert last == ("ImportError: fastrnn.estimators needs scikit-learn 1.6 or later: pip install 'fastrnn[sklearn]'")
