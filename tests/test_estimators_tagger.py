"""`SequenceTagger`; what it shares with the others is tested in `test_estimators_classifier`."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV, cross_val_score

from fastrnn.estimators import SequenceTagger

SMALL = {"hidden_size": 6, "epochs": 4, "batch_size": 16, "random_state": 0}
NAMES = np.array(["down", "up"])


def ragged(n=60, seed=0):
    """Sequences of 2 to 7 steps of one feature, and whether their sum so far is positive."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(2, 8), 1)) for _ in range(n)]
    return X, [NAMES[(x[:, 0].cumsum() > 0).astype(int)] for x in X]


def sums(X):
    """The sum so far at each step."""
    return [x[:, 0].cumsum() for x in X]


def test_estimators_tagger_learns_labels():
    X, y = ragged(300)
    tagger = SequenceTagger("gru", 16, epochs=30, random_state=0).fit(X[:200], y[:200])
    assert tagger.score(X[200:], y[200:]) > 0.9
    labels, shares = tagger.predict(X[200:]), tagger.predict_proba(X[200:])
    assert tagger.classes_.tolist() == ["down", "up"] and is_classifier(tagger) and not is_regressor(tagger)
    for x, said, share in zip(X[200:], labels, shares, strict=True):
        assert said.shape == (len(x),) and share.shape == (len(x), 2)
        assert np.array_equal(said, tagger.classes_[share.argmax(axis=1)])
        assert np.array_equal(share, tagger.predict_proba([x])[0])
    right = np.concatenate(labels) == np.concatenate(y[200:])
    assert tagger.score(X[200:], y[200:]) == right.mean()
    weights = np.arange(100.0)
    lengths = [len(x) for x in X[200:]]
    assert tagger.score(X[200:], y[200:], weights) == pytest.approx(np.average(right, weights=weights.repeat(lengths)))


def test_estimators_tagger_learns_values():
    X, _ = ragged(300)
    y = [1e3 * total - 50 for total in sums(X)]
    tagger = SequenceTagger("gru", 16, task="regress", epochs=60, learning_rate=0.02, random_state=0)
    tagger.fit(X[:200], y[:200])
    assert tagger.score(X[200:], y[200:]) > 0.95 and is_regressor(tagger) and not is_classifier(tagger)
    assert [value.shape for value in tagger.predict(X)] == [total.shape for total in y]
    assert not hasattr(tagger, "predict_proba")
    vectors = [np.stack([total, -total], axis=1) for total in y]
    both = SequenceTagger("gru", task="regress", epochs=1, random_state=0).fit(X, vectors)
    assert [value.shape for value in both.predict(X)] == [vector.shape for vector in vectors]
    with pytest.raises(ValueError, match="y must have 2 numbers a step, as in the first fit, got 1"):
        both.partial_fit(X, y)


def test_estimators_tagger_sees_ahead_only_if_bidirectional():
    X, y = np.random.default_rng(0).standard_normal((20, 6, 1)), np.zeros((20, 6), int)
    y[:, ::2] = 1
    later = X.copy()
    later[:, 4:] += 1
    for bidirectional in (False, True):
        tagger = SequenceTagger(**SMALL, bidirectional=bidirectional).fit(X, y)
        same = np.array_equal(tagger.predict_proba(X)[:, :4], tagger.predict_proba(later)[:, :4])
        assert same is not bidirectional


def test_estimators_tagger_takes_the_same_sequences_in_every_form():
    pandas = pytest.importorskip("pandas")
    X = np.random.default_rng(0).standard_normal((20, 5, 3))
    y = (X.sum(axis=2) > 0).astype(int)
    fitted = SequenceTagger(**SMALL).fit(X, y)
    expected = fitted.predict_proba(X)
    assert expected.shape == (20, 5, 2) and fitted.n_features_in_ == 3
    rows = X.reshape(20, 15)
    for form, labels in ((list(X), list(y)), (rows, y), (pandas.DataFrame(rows), y), (rows, y.tolist())):
        other = SequenceTagger(**SMALL).fit(form, labels)
        assert np.array_equal(expected, other.predict_proba(form))
        assert other.score(form, labels) == fitted.score(X, y)
    assert isinstance(fitted.predict(list(X)), list)
    with pytest.raises(ValueError, match="multiple of features_per_step=4"):
        SequenceTagger(**SMALL, features_per_step=4).fit(rows, y)
    numbers = [x[:n, 0] for x, n in zip(X, [2, 3, 4, 5] * 5, strict=True)]
    of_numbers = SequenceTagger(**SMALL).fit(numbers, [row > 0 for row in numbers])
    assert [row.shape for row in of_numbers.predict(numbers)] == [row.shape for row in numbers]


def test_estimators_tagger_gives_lists_for_lists():
    numbers = [np.arange(n) - 2.0 for n in (3, 5, 4, 4)]
    tagger = SequenceTagger(**SMALL).fit(numbers, [row > 0 for row in numbers])
    objects = np.empty(2, object)
    objects[:] = numbers[2:]
    array = tagger.predict_proba(np.array(numbers[2:]))
    assert array.shape == (2, 4, 2)
    for form in (numbers[2:], tuple(numbers[2:]), [row.tolist() for row in numbers[2:]], objects):
        found = tagger.predict_proba(form)
        assert isinstance(found, list) and np.array_equal(found, array)
        assert isinstance(tagger.predict(form), list)


def test_estimators_tagger_of_single_steps():
    rows = np.random.default_rng(0).standard_normal((50, 4))
    y = NAMES[(rows[:, 0] > 0).astype(int)]
    tagger = SequenceTagger(**SMALL).fit(rows, y)
    assert tagger.predict(rows).shape == (50,) and tagger.predict_proba(rows).shape == (50, 2)
    assert tagger.n_features_in_ == 4
    steps = SequenceTagger(**SMALL).fit(rows[:, np.newaxis], y[:, np.newaxis])
    assert np.array_equal(tagger.predict_proba(rows), steps.predict_proba(rows[:, np.newaxis])[:, 0])


def test_estimators_tagger_weights_of_steps():
    X, y = ragged(40)
    weights = [np.random.default_rng(i).integers(0, 2, len(x)).astype(float) for i, x in enumerate(X)]
    weights[3][:] = 0
    tagger = SequenceTagger(**SMALL).fit(X, y, sample_weight=weights)
    other = [np.where(w > 0, labels, "up") for labels, w in zip(y, weights, strict=True)]
    again = SequenceTagger(**SMALL).fit(X, other, sample_weight=weights)
    assert all(map(np.array_equal, tagger.predict_proba(X), again.predict_proba(X)))
    plain = SequenceTagger(**SMALL).fit(X, other)
    assert not all(map(np.array_equal, tagger.predict_proba(X), plain.predict_proba(X)))
    balanced = SequenceTagger(**SMALL, class_weight={"up": 2.0}).fit(X, y)
    by_step = SequenceTagger(**SMALL).fit(X, y, sample_weight=[np.where(row == "up", 2.0, 1.0) for row in y])
    assert all(map(np.array_equal, balanced.predict_proba(X), by_step.predict_proba(X)))


def test_estimators_tagger_loss_is_the_mean_over_steps():
    X, y = ragged(40)
    still = SequenceTagger(**SMALL | {"batch_size": 7, "learning_rate": 0.0, "dtype": "float64"}).fit(X, y)
    shares = np.concatenate(still.predict_proba(X))
    numbers = np.searchsorted(NAMES, np.concatenate(y))
    expected = -np.log(shares[np.arange(len(shares)), numbers]).mean()
    np.testing.assert_allclose(still.loss_curve_, expected, rtol=1e-12)


def test_estimators_tagger_goes_on_and_stops_early():
    X, y = ragged(40)
    whole = SequenceTagger(**SMALL).fit(X, y)
    parts = SequenceTagger(**SMALL)
    for _ in range(4):
        parts = pickle.loads(pickle.dumps(parts.partial_fit(X, y, classes=NAMES)))
    assert all(map(np.array_equal, whole.predict_proba(X), parts.predict_proba(X)))
    with pytest.raises(ValueError, match="classes must be passed"):
        SequenceTagger(**SMALL).partial_fit(X, y)
    for task, targets in (("classify", y), ("regress", sums(X))):
        tagger = SequenceTagger(**SMALL | {"epochs": 40}, task=task, early_stopping=True, patience=2)
        tagger.fit(X, targets)
        assert len(tagger.validation_scores_) == tagger.n_iter_


def test_estimators_tagger_in_model_selection():
    X, y = ragged(30)
    scores = cross_val_score(SequenceTagger(**SMALL), X, y, cv=3)
    objects = np.empty(30, object)
    objects[:] = y
    assert np.array_equal(scores, cross_val_score(SequenceTagger(**SMALL), X, objects, cv=3))
    search = GridSearchCV(SequenceTagger(**SMALL, task="regress"), {"cell": ["rnn", "gru"]}, cv=3).fit(X, sums(X))
    assert search.best_params_["cell"] in ("rnn", "gru") and len(search.predict(X)) == 30


@pytest.mark.parametrize(
    ("settings", "y", "error"),
    [
        ({}, [np.array([0, 1]), np.array([0, 1])], r"y\[1\] must have an entry for each of the 3 steps of X"),
        ({}, [np.array([0, 1])], "inconsistent numbers of samples"),
        ({}, [np.zeros((2, 1), int), np.zeros((3, 1), int)], "y must have one label"),
        ({}, [np.zeros(2) + 0.5, np.zeros(3)], "Unknown label type"),
        ({"task": "regress"}, [np.zeros(2), np.full(3, np.nan)], "Input y contains NaN"),
        ({"task": "translate"}, [np.zeros(2), np.zeros(3)], "task must be one of 'classify', 'regress'"),
        ({}, None, "requires y to be passed"),
    ],
)  # fmt: skip
def test_estimators_tagger_refuses(settings, y, error):
    X = [np.zeros((2, 1)), np.zeros((3, 1))]
    with pytest.raises(ValueError, match=error):
        SequenceTagger(**SMALL, **settings).fit(X, y)


def test_estimators_tagger_refuses_weights():
    X, y = ragged(5)
    weights = [np.ones(len(x)) for x in X]
    with pytest.raises(ValueError, match=r"sample_weight\[4\] must have an entry for each"):
        SequenceTagger(**SMALL).fit(X, y, sample_weight=[*weights[:4], np.ones(9)])
    with pytest.raises(ValueError, match="sample_weight and class_weight leave nothing to train on"):
        SequenceTagger(**SMALL, class_weight={"up": 0.0, "down": 0.0}).fit(X, y)
