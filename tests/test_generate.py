"""Sampling, beam search and free runs, against loops written out and exhaustive search."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.bptt import map_state
from fastrnn.generation import draw

V, H, F = 5, 6, 3


@pytest.fixture(scope="module")
def tokens_model():
    return fastrnn.Sequential(
        fastrnn.Embedding(V, 4, dtype="float64", seed=1), fastrnn.LSTM(4, H, dtype="float64", seed=2),
        fastrnn.Linear(H, V, dtype="float64", seed=7),
    )  # fmt: skip


def sharpened(model, factor=8.0):
    """The same model with larger output weights: less even probabilities."""
    weights = model.state_dict()
    copy = fastrnn.Sequential(*(type(layer)(**layer.config()) for layer in model.layers))
    copy.load_state_dict({n: w * factor if n.startswith("2") else w for n, w in weights.items()})
    return copy


@pytest.fixture(scope="module")
def vectors_model():
    return fastrnn.Sequential(
        fastrnn.GRU(F, H, 2, dtype="float64", seed=1), fastrnn.Linear(H, F, dtype="float64", seed=2)
    )


def log_probability(model, start, continuation, state=None):
    """log p of a continuation, step by step."""
    total = 0.0
    whole = [*start, *continuation]
    for position, (now, following) in enumerate(itertools.pairwise(whole)):
        y, state = model.step(np.array([now]), state)
        if position + 1 >= len(start):
            total += y[0, following] - y[0].max() - math.log(np.exp(y[0] - y[0].max()).sum())
    return total


# ---- tokens ----


def test_generate_greedily_follows_the_likeliest_token(tokens_model):
    start = np.array([1, 4, 2])
    found = fastrnn.generate(tokens_model, start, 12, temperature=0)
    assert found.shape == (12,) and found.dtype == np.int64
    whole, state = [*start, *found], None
    for position, token in enumerate(whole[:-1]):
        y, state = tokens_model.step(np.array([token]), state)
        if position >= 2:
            assert y[0].argmax() == whole[position + 1]
    for options in ({"top_k": 1}, {"top_k": 1, "temperature": 5.0}, {"top_p": 1e-9}):
        np.testing.assert_array_equal(fastrnn.generate(tokens_model, start, 12, **options), found)


def test_generate_many_sequences_at_once_and_ragged_starts(tokens_model):
    starts = [[1], [4, 2, 0], [3, 3]]
    padded, lengths = fastrnn.data.pad([np.array(s) for s in starts], value=-1)
    found = fastrnn.generate(tokens_model, padded, 7, temperature=0, lengths=lengths)
    assert found.shape == (7, 3)
    for b, start in enumerate(starts):
        np.testing.assert_array_equal(found[:, b], fastrnn.generate(tokens_model, np.array(start), 7, temperature=0))


def test_generate_goes_on_from_a_state_and_from_a_long_start(tokens_model):
    start = np.random.default_rng(0).integers(0, V, 600)  # longer than the parts it is read in
    expected = fastrnn.generate(tokens_model, start, 9, temperature=0)
    _, state = tokens_model.forward(start[:300, np.newaxis])
    np.testing.assert_array_equal(fastrnn.generate(tokens_model, start[300:], 9, state=state, temperature=0), expected)


def test_generate_is_repeatable_by_its_seed(tokens_model):
    start = np.zeros((1, 20), np.int64)
    a, b, c = (fastrnn.generate(tokens_model, start, 20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    streamed = itertools.islice(fastrnn.stream(tokens_model, start, seed=1), 20)
    np.testing.assert_array_equal(np.stack(list(streamed)), a)


def test_generate_stops_at_the_end(tokens_model):
    starts = np.zeros((1, 40), np.int64)
    free = fastrnn.generate(tokens_model, starts, 200, seed=0)
    found = fastrnn.generate(tokens_model, starts, 200, seed=0, end=2)
    assert 1 < len(found) < 200
    for b in range(40):
        length = int(np.flatnonzero(free[:, b] == 2)[0]) + 1
        np.testing.assert_array_equal(found[: min(length, len(found)), b], free[: min(length, len(found)), b])
        assert (found[length:, b] == 2).all()
    assert (found == 2).any(0).all() and not (found[:-1] == 2).any(0).all()


def test_generate_never_takes_what_is_excluded(tokens_model):
    found = fastrnn.generate(tokens_model, np.zeros((1, 9), np.int64), 100, seed=0, exclude=(0, 3))
    assert set(np.unique(found)) == {1, 2, 4}
    greedy = fastrnn.generate(tokens_model, np.zeros((1, 9), np.int64), 100, temperature=0, exclude=(0, 3))
    assert not np.isin(greedy, (0, 3)).any()


def test_generate_batch_first_is_the_same(tokens_model):
    weights = tokens_model.state_dict()
    first = fastrnn.Sequential(
        *(type(layer)(**layer.config()) for layer in tokens_model.layers), batch_first=True
    )
    first.load_state_dict(weights)
    start = np.random.default_rng(0).integers(0, V, (4, 3))
    found = fastrnn.generate(first, np.ascontiguousarray(start.T), 6, seed=3)
    np.testing.assert_array_equal(found, fastrnn.generate(tokens_model, start, 6, seed=3).T)
    single = fastrnn.generate(first, start[:, 0], 6, seed=3)
    np.testing.assert_array_equal(single, fastrnn.generate(tokens_model, start[:, 0], 6, seed=3))


# ---- draws ----


def nucleus(logits, temperature, top_k, top_p):
    """Probabilities as the definitions say, token by token, in order of probability."""
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: (-logits[i], i))[:top_k]
    share, kept = 0.0, []
    whole = sum(p[i] for i in order)
    for i in order:
        if top_p is not None and share >= top_p * whole:
            break
        kept.append(i)
        share += p[i]
    result = np.zeros_like(p)
    result[kept] = p[kept] / share
    return result


@settings(deadline=None, max_examples=60)
@given(
    logits=st.lists(st.floats(-4, 4), min_size=2, max_size=8), temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.none() | st.integers(1, 8), top_p=st.none() | st.floats(0.05, 0.999),
)  # fmt: skip
def test_draw_property_shares_are_those_of_the_definition(logits, temperature, top_k, top_p):
    logits = np.array(logits)
    uniform = (np.arange(20_000) + 0.5) / 20_000
    found = draw(np.tile(logits, (20_000, 1)), uniform, temperature=temperature, top_k=top_k, top_p=top_p)
    shares = np.bincount(found, minlength=len(logits)) / 20_000
    expected = nucleus(logits, temperature, top_k, top_p)
    if top_p is None:
        np.testing.assert_allclose(shares, expected, atol=2e-4)
    else:  # where the share is reached to the last digit, rounding decides about one token more
        others = [nucleus(logits, temperature, top_k, top_p + eps) for eps in (-1e-12, 1e-12)]
        assert min(np.abs(shares - e).max() for e in (expected, *others)) < 2e-4


def test_draw_at_the_ends_of_the_range():
    logits = np.array([[0.0, -np.inf, 5.0, -1e9]])
    assert draw(logits, np.array([np.nextafter(1, 0)]))[0] == 0  # the last that can come at all
    assert draw(logits, np.zeros(1))[0] == 2
    assert draw(logits, np.array([0.999]), temperature=1e-300)[0] == 2


# ---- real vectors ----


def test_generate_of_vectors_feeds_the_output_back(vectors_model):
    start = np.random.default_rng(0).standard_normal((8, 2, F))
    found = fastrnn.generate(vectors_model, start, 5)
    y, state = vectors_model.forward(start)
    y = y[-1]
    for t in range(5):
        np.testing.assert_array_equal(found[t], y)
        y, state = vectors_model.step(y, state)
    np.testing.assert_array_equal(fastrnn.generate(vectors_model, start[:, 0], 5), found[:, 0])


# ---- beam search ----


def exhaustive(model, start, steps, end, penalty):
    """All sequences with their log p, best first."""
    found = []
    for length in range(1, steps + 1):
        for tokens in itertools.product(range(V), repeat=length):
            if end is None:
                complete = length == steps
            else:
                complete = end not in tokens[:-1] and (tokens[-1] == end or length == steps)
            if complete:
                found.append((log_probability(model, start, tokens), tokens))
    return sorted(found, key=lambda entry: -entry[0] / len(entry[1]) ** penalty)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("end", [None, 3])
def test_beam_search_as_wide_as_there_are_sequences_is_exhaustive(tokens_model, end, penalty):
    model = sharpened(tokens_model)
    expected = exhaustive(model, [1, 2], 3, end, penalty)
    found, log_p = fastrnn.beam_search(model, np.array([1, 2]), 3, V**3, end=end, length_penalty=penalty)
    assert [tuple(tokens) for tokens in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose(log_p, [value for value, _ in expected], rtol=1e-12)


def test_beam_search_gives_true_log_probabilities_and_one_beam_is_greedy(tokens_model):
    model = sharpened(tokens_model)
    start = np.array([4])
    found, log_p = fastrnn.beam_search(model, start, 10, 3, end=0)
    assert len(found) == 3 and (np.diff(log_p) <= 0).all()
    for tokens, value in zip(found, log_p, strict=True):
        assert value == pytest.approx(log_probability(model, start, tokens), rel=1e-12)
        assert 0 not in tokens[:-1] and (tokens[-1] == 0 or len(tokens) == 10)
    (greedy,), _ = fastrnn.beam_search(model, start, 10, 1)
    np.testing.assert_array_equal(greedy, fastrnn.generate(model, start, 10, temperature=0))


def test_beam_search_goes_on_from_a_state_and_leaves_out_what_is_excluded(tokens_model):
    _, state = tokens_model.forward(np.array([[2], [1]]))
    whole = fastrnn.beam_search(tokens_model, np.array([2, 1, 3]), 4, 4, exclude=[1, 4])
    part = fastrnn.beam_search(tokens_model, np.array([3]), 4, 4, exclude=[1, 4], state=state)
    for a, b in zip(whole[0], part[0], strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.isin(a, (1, 4)).any()


# ---- bad arguments ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"top_k": V + 1}, "top_k must be at most 5"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.1}, "top_p must be at most 1"),
        ({"end": V}, "end must be at most 4"),
        ({"exclude": range(V)}, "exclude must leave a token"),
        ({"exclude": [V]}, "exclude must be at most 4"),
        ({"start": np.zeros((2, 2, 2), int)}, "start must have 1 or 2 dimensions"),
        ({"start": np.array([V])}, "start must hold integers from 0 to 4"),
        ({"start": np.array([])}, "2 or 3 dimensions"),
        ({"start": np.array([True])}, "start must hold tokens"),
        ({"lengths": [2]}, "lengths must be at most 1"),
        ({"state": 3}, "state must be a tuple"),
    ],
)
def test_generate_refuses_bad_arguments_at_once(tokens_model, options, message):
    arguments = {"start": np.array([1]), "steps": 3, **options}
    with pytest.raises((ValueError, TypeError), match=message):
        fastrnn.generate(tokens_model, **arguments)
    if not {"steps", "end"} & options.keys():
        del arguments["steps"]
        with pytest.raises((ValueError, TypeError), match=message):
            fastrnn.stream(tokens_model, **arguments)  # before anything is asked of it


def test_generate_of_vectors_refuses_what_is_for_tokens(vectors_model):
    start = np.zeros((2, F))
    for options in ({"temperature": 0.5}, {"top_k": 1}, {"top_p": 0.5}, {"end": 1}, {"exclude": [1]}):
        with pytest.raises(ValueError, match="for tokens"):
            fastrnn.generate(vectors_model, start, 3, **options)


def test_generate_refuses_models_that_cannot_feed_themselves():
    start = np.zeros((2, F), "f")
    for layers, message in (
        ([fastrnn.GRU(F, F, bidirectional=True)], "bidirectional"),
        ([fastrnn.GRU(F, F), fastrnn.Last()], "Last gives one a sequence"),
        ([fastrnn.GRU(F, F + 1)], "3 features of its inputs, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            fastrnn.generate(fastrnn.Sequential(*layers), start, 3)
    with pytest.raises(TypeError, match="model must be a layer"):
        fastrnn.generate(None, start, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_width": 0}, "beam_width must be at least 1"),
        ({"length_penalty": -1}, "length_penalty must be at least 0"),
        ({"start": np.zeros((2, 2), int)}, "start must be a sequence of tokens"),
        ({"end": -1}, "end must be at least 0"),
    ],
)
def test_beam_search_refuses_bad_arguments(tokens_model, options, message):
    with pytest.raises(ValueError, match=message):
        fastrnn.beam_search(tokens_model, **{"start": np.array([1]), "steps": 3, "beam_width": 2, **options})


def test_generate_says_when_a_model_is_broken(tokens_model):
    model = sharpened(tokens_model)
    model.vector_to_parameters(np.full(model.num_parameters, np.nan))
    with pytest.raises(ValueError, match="not finite"):
        fastrnn.generate(model, np.array([1]), 3)


def test_generate_leaves_the_callers_arrays_alone(tokens_model):
    start = np.array([1, 2])
    _, state = tokens_model.forward(start[:, np.newaxis])
    before = []
    map_state(lambda array: before.append(array.copy()), state)
    fastrnn.generate(tokens_model, start, 5, state=state)
    fastrnn.beam_search(tokens_model, start, 5, 3, state=state)
    after = []
    map_state(after.append, state)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stream_may_be_written_into(vectors_model, tokens_model):
    """In place, as for another scale; the run goes on by itself."""
    for model, start, change in (
        (vectors_model, np.ones((2, F)), lambda y: np.multiply(y, 3, out=y)),
        (tokens_model, np.array([1, 2]), lambda y: np.add(y, 99, out=y)),
    ):
        expected = fastrnn.generate(model, start, 5, seed=0)
        stream = fastrnn.stream(model, start, seed=0)
        for row in expected:
            y = next(stream)
            np.testing.assert_array_equal(y[0], row)
            change(y)
