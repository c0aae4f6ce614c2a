"""The judge of malformed calls finds what is wrong: functions that do each thing they must not."""

import warnings

import numpy as np
import pytest

import fastrnn as fr
from tests.torture.calls import catalogue, public
from tests.torture.calls.arguments import Argument
from tests.torture.calls.judge import Call, Entry, judge
from tests.torture.calls.malformations import Malformed


def right(x, model, n):
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be at least 1, got {n!r}")
    return np.sum(x) * n


def accepts(x, model, n):
    return 1


def raises_what_is_not_documented(x, model, n):
    raise KeyError("n")


def names_nothing(x, model, n):
    raise ValueError("no")


def says_nothing(x, model, n):
    raise ValueError


def in_lines(x, model, n):
    raise ValueError("n\nis wrong")


def changes_the_array(x, model, n):
    x += 1
    return right(x, model, n)


def changes_the_model(x, model, n):
    model.vector_to_parameters(1 + model.parameters_to_vector())
    return right(x, model, n)


def warns(x, model, n):
    warnings.warn("n is odd", UserWarning, stacklevel=1)
    return right(x, model, n)


_seen = []


def remembers(x, model, n):
    _seen.append(n)
    return right(x, model, n) if len(_seen) != 2 else 0


def goes_by_memory_layout(x, model, n):
    return float(x.strides[0])


def takes_memory(x, model, n):
    np.ones(60_000_000)
    return right(x, model, n)


def no_bytes(x, model, n):
    raise MemoryError("n is too large")


def about_what_it_calls(x, model, n):
    raise ValueError("mask of n must be finite")


WRONG = Malformed("-1", -1)
STRIDED = {
    "x": Malformed("strided", np.arange(6.0, dtype="f4")[::2], np.arange(6.0, dtype="f4")[::2].copy(), same=True)
}


def verdict(function, cases):
    model = fr.Linear(2, 2, seed=1)

    def make(rng):
        return Call(function, {"x": np.arange(3, dtype="f4"), "model": model, "n": 2}, (model,))

    entry = Entry("a function", make, {"n": Argument(minimum=1)}, inner=("mask",))
    return judge(entry, 1, make(None), cases).problem


@pytest.mark.parametrize(
    "function, cases, expected",
    [
        (right, {"n": WRONG}, None),
        (right, STRIDED, None),
        (accepts, {"n": WRONG}, "n was not refused"),
        (raises_what_is_not_documented, {"n": WRONG}, "it raised KeyError"),
        (names_nothing, {"n": WRONG}, "its message does not name n"),
        (says_nothing, {"n": WRONG}, "ValueError has no message"),
        (in_lines, {"n": WRONG}, "several lines"),
        (changes_the_array, {"n": WRONG}, "it changed the array x"),
        (changes_the_array, STRIDED, "it changed the array x"),
        (changes_the_model, {"n": WRONG}, "what it should not have touched has changed"),
        (warns, {"n": WRONG}, "it warned: n is odd"),
        (remembers, {"n": WRONG}, "after the refusal the right call gives something else"),
        (goes_by_memory_layout, STRIDED, "its result differs from that of the plain call"),
        (takes_memory, {"n": WRONG}, "bytes"),
        (about_what_it_calls, {"n": WRONG}, "its message is about mask"),
        (no_bytes, {"n": WRONG}, "MemoryError does not say how many bytes"),
    ],
)
def test_the_judge_finds_what_is_wrong(function, cases, expected):
    problem = verdict(function, cases)
    assert problem is None if expected is None else expected in problem


def test_every_public_callable_is_in_the_catalogue():
    pytest.importorskip("sklearn")
    assert set(public.public_callables()) == set(catalogue.entries())


@pytest.mark.parametrize("seed", range(5))  # of a fitted estimator, or one that is not
@pytest.mark.parametrize("kind", ["RNNClassifier", "RNNRegressor", "SequenceTagger", "RNNForecaster"])
def test_an_estimator_that_a_refused_fit_changes_is_found(monkeypatch, kind, seed):
    pytest.importorskip("sklearn")
    from fastrnn import estimators

    entry = catalogue.entries()[f"fastrnn.estimators.{kind}"]
    wrong = {"clip_norm": WRONG} if kind != "RNNForecaster" else {"tol": WRONG}

    def problem():
        return judge(entry, seed, entry.make(np.random.default_rng(seed)), wrong).problem

    assert problem() is None

    def changed_by(self, fit, *args, **kwargs):
        fit(*args, **kwargs)

    monkeypatch.setattr(getattr(estimators, kind), "_changed_by", changed_by)
    assert "what it should not have touched has changed" in problem()
