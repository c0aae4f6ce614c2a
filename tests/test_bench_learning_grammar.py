"""The languages of the learning bench, against what is known of them by other means."""

import itertools
import re

import numpy as np
import pytest

anbn = pytest.importorskip("bench.learning.tasks.anbn", reason="the bench is in the source tree only")
from bench.learning import reber  # noqa: E402

# The grammar's automaton as an expression: the two branches meet in T*V, from where P leads back or to the end.
_TAIL = "T*V(?:PXT*V)*(?:V|PS)"
_REBER = f"B(?:TS*X(?:S|X{_TAIL})|P{_TAIL})E"
_EMBEDDED = re.compile(f"B(?:T{_REBER}T|P{_REBER}P)E")


def _text(symbols):
    return "".join(reber.SYMBOLS[symbol] for symbol in symbols)


def test_embedded_strings_are_of_the_grammar_and_of_all_kinds():
    rng = np.random.default_rng(0)
    texts = [_text(reber.embedded(rng)[0]) for _ in range(2000)]
    assert all(_EMBEDDED.fullmatch(text) for text in texts)
    assert 0.45 < np.mean([text[1] == "T" for text in texts]) < 0.55
    assert min(map(len, texts)) == 9  # B T BTXSE T E
    assert len(set(texts)) > 300


def test_legal_is_what_is_seen_to_follow():
    rng = np.random.default_rng(1)
    followers, legal = {}, {}
    for _ in range(4000):
        symbols, allowed = reber.embedded(rng)
        for n, symbol in enumerate(symbols):
            assert allowed[n, symbol]
            prefix = _text(symbols[:n])
            followers.setdefault(prefix, []).append(_text([symbol]))
            legal[prefix] = {c for c, a in zip(reber.SYMBOLS, allowed[n], strict=True) if a}
    often = [prefix for prefix, seen in followers.items() if len(seen) >= 40]
    assert len(often) > 30
    assert all(set(followers[prefix]) == legal[prefix] for prefix in often)


def test_a_stream_is_strings_without_a_gap():
    symbols, legal = reber.stream(np.random.default_rng(2), 1000)
    assert symbols.shape == (1000,) and legal.shape == (1000, 7)
    parts = _text(symbols).replace("EB", "E B").split(" ")
    assert all(_EMBEDDED.fullmatch(part) for part in parts[:-1])
    assert len(parts) > 50


def test_predicted_wants_the_largest_outputs_to_be_the_legal_ones():
    legal = np.array([[True, False, True], [True, False, False], [True, False, False]])
    y = np.array([[0.3, 0.1, 0.2], [0.3, 0.1, 0.2], [0.1, 0.1, 0.0]])
    assert reber.predicted(y, legal).tolist() == [True, True, False]


def test_errors_are_counted_string_by_string():
    rng = np.random.default_rng(3)
    strings = [reber.embedded(rng)[0] for _ in range(4)]
    symbols = np.concatenate(strings)
    right = np.ones(len(symbols), bool)
    right[[0, 3, len(strings[0]), len(symbols) - 1]] = False
    assert reber.errors(symbols, right).tolist() == [2, 1, 0]


def test_anbn_strings():
    x, legal, lengths = anbn.strings(4)
    for n in range(1, 5):
        text = "S" + n * "a" + n * "b"
        assert lengths[n - 1] == len(text)
        assert "".join("Sab"[symbol] for symbol in x[: len(text), n - 1]) == text
        after = ["".join(itertools.compress("Tab", step)) for step in legal[: len(text), n - 1]]
        assert after == ["a", *n * ["ab"], *(n - 1) * ["b"], "T"]
