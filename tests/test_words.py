import collections
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import language_model, words

TEXT = """The cat sat on the mat. "Is it so?" asked the dog! It isn't
(not at all), well-known...

A new paragraph, without an end: 3.14

"""


def test_words_sentences_end_at_marks_and_blank_lines():
    assert words.sentences(TEXT) == [
        ["The", "cat", "sat", "on", "the", "mat", "."],
        ['"', "Is", "it", "so", "?", '"'],
        ["asked", "the", "dog", "!"],
        ["It", "isn't", "(", "not", "at", "all", ")", ",", "well-known", "..."],
        ["A", "new", "paragraph", ",", "without", "an", "end", ":", "3", ".", "14"],
    ]
    assert words.sentences(" \n\n \t") == []


def test_words_long_sentences_are_cut():
    found = words.sentences("a " * 150)
    assert [len(sentence) for sentence in found] == [64, 64, 22]


def test_words_pieces_are_spaced_as_usual():
    line = """He said "well, (perhaps) yes" and left: 5 % of it."""
    assert "".join(words.pieces(words.split(line))) == line.replace(" %", "%")
    assert "".join(words.pieces(["One", ".", "<end>", "Two", "!", "<end>"])) == "One.\nTwo!\n"


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200))
def test_words_property_nothing_but_white_space_is_lost(text):
    found = words.sentences(text)
    assert "".join(text.split()) == "".join(word for sentence in found for word in sentence)
    assert all(0 < len(sentence) <= words.MAX_WORDS for sentence in found)


def test_vocabulary_keeps_the_most_frequent_words():
    text = [["b", "a", "c"], ["a", "b", "d"], ["a"]]
    vocabulary = words.Vocabulary.of(text, 6)
    assert vocabulary.words == ("<start>", "<end>", "<unknown>", "a", "b", "c")
    np.testing.assert_array_equal(vocabulary.encoded(["d", "c", "a"]), [0, 2, 5, 3, 1])
    assert len(words.Vocabulary.of(text, 100)) == 7
    assert words.Vocabulary(list(vocabulary.words)).words == vocabulary.words


@pytest.mark.parametrize(
    "found",
    [
        [],
        ["a", "b", "c"],
        [*words.SPECIAL, "a", "a"],
        [*words.SPECIAL, 3],
        [*words.SPECIAL, "two words"],
        [*words.SPECIAL, ""],
    ],
)
def test_vocabulary_refuses_what_is_none(found):
    with pytest.raises(ValueError, match="vocabulary must"):
        words.Vocabulary(found)
    with pytest.raises(ValueError, match="size must be at least 4"):
        words.Vocabulary.of([["a"]], 3)


def sentences(count=23, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 9, n) for n in rng.integers(2, 12, count)]


def test_sentence_batches_hold_every_sentence_once():
    found = sentences()
    batches = words.SentenceBatches(found, 4, seed=1)
    assert len(batches) == 6 and batches.targets == sum(len(s) - 1 for s in found)
    seen, spread = [], []
    for x, targets, lengths in batches:
        spread.append(lengths.max() - lengths.min())
        for b, length in enumerate(lengths):
            np.testing.assert_array_equal(x[1:length, b], targets[: length - 1, b])
            seen.append((*x[:length, b], targets[length - 1, b]))
            assert not x[length + 1 :, b].any()
    assert collections.Counter(seen) == collections.Counter(tuple(s) for s in found)
    assert max(spread) <= 4  # of up to 10: similar lengths are side by side


def test_sentence_batches_are_shuffled_anew_in_each_pass_and_repeatable():
    def passes(seed, first=0, count=1):
        batches = words.SentenceBatches(sentences(), 4, seed=seed)
        batches.epoch = first
        return [[x.tobytes() for x, _, _ in batches] for _ in range(count)]

    a, b = passes(1, count=2)
    assert a != b and sorted(a) != sorted(b)
    assert passes(1, first=1) == [b]
    assert passes(2) != [a]
    lengths = [n.max() for _, _, n in words.SentenceBatches(sentences(), 4, seed=None)]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("seed", [1, None])
def test_sentence_batches_go_on_from_a_saved_place(seed):
    batches = words.SentenceBatches(sentences(), 4, seed=seed)
    list(batches)
    running = iter(batches)
    next(running)
    resumed = words.SentenceBatches(sentences(), 4, seed=seed and 2)
    resumed.load_state_dict(json.loads(json.dumps(batches.state_dict())))
    assert resumed.epoch == 1
    for expected in (running, batches):  # the rest of the pass, and the next
        assert [x.tobytes() for x, _, _ in resumed] == [x.tobytes() for x, _, _ in expected]
    assert resumed.state_dict() == {"position": 0, "epoch": 3, "seed": seed, "sentences": 23, "batch_size": 4}
    with pytest.raises(ValueError, match="batch_size"):
        words.SentenceBatches(sentences(), 5, seed=seed).load_state_dict(batches.state_dict())


def test_sentence_batches_refuse_what_is_no_sentence():
    with pytest.raises(ValueError, match="sentences must not be empty"):
        words.SentenceBatches([], 4)
    with pytest.raises(ValueError, match="at least two tokens"):
        words.SentenceBatches([np.array([0])], 4)


# ---- models of words ----


@pytest.fixture(scope="module")
def vocabulary():
    return words.Vocabulary([*words.SPECIAL, "a", "b", "."])


@pytest.mark.parametrize("embedding", [0, 4])
def test_word_model_is_checked_by_its_vocabulary(vocabulary, embedding):
    model = language_model.build("gru", vocabulary=6, embedding=embedding, hidden=5)
    assert isinstance(model.layers[0], fastrnn.Embedding) == (embedding > 0)
    language_model.check(model, 6)
    for other in (5, 7, 256):
        with pytest.raises(ValueError, match="not a .* language model"):
            language_model.check(model, other)


def test_word_model_perplexity_by_hand(vocabulary):
    model = language_model.build("gru", vocabulary=6, embedding=4, hidden=5, seed=3)
    found = [np.array([0, 3, 4, 5, 1]), np.array([0, 2, 1]), np.array([0, 4, 4, 4, 4, 4, 1])]
    losses = []
    for sentence in found:
        state = None
        for now, following in zip(sentence, sentence[1:], strict=False):
            y, state = model.step(np.array([now]), state)
            weights = np.exp(y[0].astype(np.float64))
            losses.append(-np.log(weights[following] / weights.sum()))
    value = language_model.perplexity(model, words.SentenceBatches(found, 2))
    assert value == pytest.approx(np.exp(np.mean(losses)), rel=1e-6)
    model.vector_to_parameters(np.full(model.num_parameters, 1e4, "f"))
    weights = model.state_dict()
    weights["2.bias"][:] = [0, -1e4, 0, 0, 0, 0]
    model.load_state_dict(weights)
    value = language_model.perplexity(model, words.SentenceBatches(found, 2))
    assert 1e300 < value < np.inf  # a loss of some thousands


def test_word_model_sentences_never_hold_start_or_unknown(vocabulary):
    model = language_model.build("gru", vocabulary=6, embedding=4, hidden=5, seed=3)

    def written(*prime, **options):
        tokens = language_model.generate_sentences(model, vocabulary, prime, **options)
        return [next(tokens) for _ in range(300)]

    found = written(seed=1)
    assert set(found) == {1, 3, 4, 5}
    assert found == written(seed=1) != written(seed=2)
    y, _ = model.forward(np.array([[0], [4], [2]]))
    y = y[-1, 0]
    y[[0, 2]] = -np.inf
    assert written(4, 2, temperature=0)[0] == y.argmax()
    with pytest.raises(ValueError, match="top_k must be at most 6"):
        language_model.generate_sentences(model, vocabulary, top_k=7)
