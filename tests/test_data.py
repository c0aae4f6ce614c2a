import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn import corpus, data

# ---- TokenStream ----


def joined(batches):
    inputs, targets = zip(*batches, strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 80))
def test_data_token_stream_covers_the_lanes_in_order(batch_size, seq_len, extra):
    tokens = np.arange(batch_size * seq_len + 1 + extra)
    stream = data.TokenStream(tokens, batch_size, seq_len)
    batches = list(stream)
    assert len(batches) == len(stream)
    assert all(x.shape == t.shape == (seq_len, batch_size) for x, t in batches[:-1])
    assert 1 <= len(batches[-1][0]) <= seq_len

    inputs, targets = joined(batches)
    lane = (len(tokens) - 1) // batch_size
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(inputs, np.arange(batch_size) * lane + np.arange(lane)[:, None])
    assert len(tokens) - 1 - inputs.size < batch_size  # no more is dropped than promised


@pytest.mark.parametrize("kind", [bytes, bytearray, list, np.uint8, np.int16, np.uint64])
def test_data_token_stream_takes_integers_of_any_kind(kind):
    values = [5, 0, 255 if kind is not np.int16 else -3, 7, 1]
    tokens = kind(values) if kind in (bytes, bytearray, list) else np.array(values, kind)
    ((x, targets),) = data.TokenStream(tokens, 2, 2)
    assert x.dtype == targets.dtype == np.int64
    assert x.flags.c_contiguous and targets.flags.c_contiguous
    np.testing.assert_array_equal(x.T.ravel(), values[:4])
    np.testing.assert_array_equal(targets.T.ravel(), values[1:])


def test_data_token_stream_can_be_iterated_again_and_abandoned():
    stream = data.TokenStream(b"abcdefghijklm", 2, 2)
    first = joined(stream)
    next(iter(stream))
    assert stream.state_dict()["position"] == 1
    for again, once in zip(joined(stream), first, strict=True):
        np.testing.assert_array_equal(again, once)
    assert stream.state_dict()["position"] == 0


@pytest.mark.parametrize("done", range(5))
def test_data_token_stream_goes_on_from_a_saved_place(done):
    tokens = np.arange(30)
    stream = data.TokenStream(tokens, 2, 4)
    assert len(stream) == 4
    batches = iter(stream)
    for _ in range(done):
        next(batches)
    state = json.loads(json.dumps(stream.state_dict()))

    resumed = data.TokenStream(tokens, 2, 4)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = list(resumed)
    assert len(rest) == 4 - done
    for (x, _), (expected, _) in zip(rest, batches, strict=True):
        np.testing.assert_array_equal(x, expected)
    assert len(list(resumed)) == 4  # and then from the start


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        {"position": 5, "tokens": 30, "batch_size": 2, "seq_len": 4},
        {"position": -1, "tokens": 30, "batch_size": 2, "seq_len": 4},
        {"position": 1, "tokens": 31, "batch_size": 2, "seq_len": 4},
        {"position": 1, "tokens": 30, "batch_size": 1, "seq_len": 4},
        {"position": 1, "tokens": 30, "batch_size": 2, "seq_len": 5},
    ],
)
def test_data_token_stream_refuses_a_foreign_place(state):
    stream = data.TokenStream(np.arange(30), 2, 4)
    with pytest.raises(ValueError, match="state|position"):
        stream.load_state_dict(state)
    assert stream.state_dict()["position"] == 0


def test_data_token_stream_says_how_many_tokens_it_needs():
    assert len(data.TokenStream(bytes(13), 3, 4)) == 1
    with pytest.raises(ValueError, match="at least 13 .* got 12"):
        data.TokenStream(bytes(12), 3, 4)


@pytest.mark.parametrize(
    ("tokens", "batch_size", "seq_len", "error"),
    [
        ("abcdef", 1, 1, TypeError),
        ([1.0, 2.0, 3.0], 1, 1, TypeError),
        ([True, False, True], 1, 1, TypeError),
        (np.zeros((3, 3), int), 1, 1, ValueError),
        (np.zeros(0, int), 1, 1, ValueError),
        (b"", 1, 1, ValueError),
        (b"abcdef", 0, 1, ValueError),
        (b"abcdef", 1, 0, ValueError),
        (b"abcdef", 1.0, 1, TypeError),
        (b"abcdef", 1, True, TypeError),
    ],
)
def test_data_token_stream_checks_its_arguments(tokens, batch_size, seq_len, error):
    with pytest.raises(error, match="tokens|batch_size|seq_len"):
        data.TokenStream(tokens, batch_size, seq_len)


def test_data_token_stream_tokens_must_fit_into_int64():
    batches = iter(data.TokenStream(np.array([1, 2, 3, 2**63, 5], np.uint64), 1, 2))
    next(batches)
    with pytest.raises(ValueError, match="tokens must fit into 64-bit integers, got 9223372036854775808"):
        next(batches)


# ---- SeriesStream ----


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 20), st.sampled_from([None, 1, 3]), st.booleans())
def test_data_series_stream_covers_the_lanes_in_order(batch_size, seq_len, extra, features, own):
    rng = np.random.default_rng(0)
    steps = batch_size * seq_len + 1 + extra
    series = rng.standard_normal(steps if features is None else (steps, features))
    targets = rng.standard_normal((steps, 2), "float32") if own else None
    stream = data.SeriesStream(series, batch_size, seq_len, targets=targets)
    assert stream.stateful and len(stream) == len(list(stream))
    x, y = joined(stream)
    lane = (steps - (not own)) // batch_size
    assert x.shape == (lane, batch_size, features or 1) and x.dtype == np.float64
    after = targets if own else series.reshape(steps, -1)[1:]
    for b in range(batch_size):
        part = slice(b * lane, (b + 1) * lane)
        np.testing.assert_array_equal(x[:, b], series.reshape(steps, -1)[part])
        np.testing.assert_array_equal(y[:, b], after[part])


def test_data_series_stream_of_classes():
    stream = data.SeriesStream(np.zeros(6, "float32"), 2, 3, targets=np.arange(6, dtype=np.uint8))
    ((x, targets),) = stream
    assert x.dtype == np.float32 and x.shape == (3, 2, 1)
    assert targets.dtype == np.int64
    np.testing.assert_array_equal(targets, [[0, 3], [1, 4], [2, 5]])


def test_data_series_stream_goes_on_from_a_saved_place():
    series = np.arange(30.0)
    stream = data.SeriesStream(series, 2, 4)
    batches = iter(stream)
    next(batches)
    resumed = data.SeriesStream(series, 2, 4)
    resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    for (x, _), (expected, _) in zip(resumed, batches, strict=True):
        np.testing.assert_array_equal(x, expected)
    with pytest.raises(ValueError, match=r"must be what SeriesStream\.state_dict returns"):
        stream.load_state_dict(data.TokenStream(b"abcd", 1, 2).state_dict())


@pytest.mark.parametrize(
    "make", [lambda a: data.TokenStream(a.astype(int), 1, 3), lambda a: data.SeriesStream(a, 1, 3)]
)
def test_data_streams_give_out_arrays_of_their_own(make):
    """Also of a single lane, whose steps stand in the caller's array in order."""
    array = np.arange(10.0)
    for x, targets in make(array):
        x[...] = targets[...] = 99
    np.testing.assert_array_equal(array, np.arange(10.0))


@pytest.mark.parametrize(
    ("series", "targets", "error", "name"),
    [
        (np.zeros(5, int), None, TypeError, "series"),
        (np.ma.zeros(5), None, TypeError, "series"),
        (np.zeros((5, 1, 1)), None, ValueError, "series"),
        (np.zeros((5, 0)), None, ValueError, "series"),
        (np.zeros(4), None, ValueError, "series must be at least 5 .* one more for the last target"),
        (np.zeros(3), np.zeros(3), ValueError, "series must be at least 4"),
        (np.zeros(5), np.zeros(4), ValueError, "targets"),
        (np.zeros(5), np.zeros((5, 1), int), ValueError, "targets"),
        (np.zeros(5), np.zeros(5, bool), TypeError, "targets"),
        (np.zeros(5), np.zeros((5, 1, 1)), ValueError, "targets"),
    ],
)
def test_data_series_stream_checks_its_arguments(series, targets, error, name):
    with pytest.raises(error, match=name):
        data.SeriesStream(series, 2, 2, targets=targets)


# ---- pad ----


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from([None, 1, 3]), st.booleans())
def test_data_pad_keeps_every_sequence(sizes, features, batch_first):
    rng = np.random.default_rng(0)
    shapes = [(n,) if features is None else (n, features) for n in sizes]
    sequences = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    x, lengths = data.pad(sequences, value=np.nan, batch_first=batch_first)
    assert x.dtype == np.float32 and x.flags.c_contiguous
    assert lengths.dtype == np.int64
    np.testing.assert_array_equal(lengths, sizes)
    rows = x if batch_first else x.swapaxes(0, 1)
    assert rows.shape == (len(sizes), max(sizes), *shapes[0][1:])
    for row, sequence in zip(rows, sequences, strict=True):
        np.testing.assert_array_equal(row[: len(sequence)], sequence)
        assert np.isnan(row[len(sequence) :]).all()


def test_data_pad_of_many_mixed_precisions():
    sequences = [np.zeros(1 + i % 3, np.float64 if i == 70 else np.float32) for i in range(100)]
    assert data.pad(sequences)[0].dtype == np.float64
    x, _ = data.pad([np.array([1], np.uint8), [2, 3]], value=-100)
    assert x.dtype == np.int64
    np.testing.assert_array_equal(x, [[1, 2], [-100, 3]])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.float32("nan"), 3, -0.5])
def test_data_pad_values_of_floats(value):
    x, _ = data.pad([[1.0], [1.0, 2.0]], value=value)
    np.testing.assert_array_equal(x[1, 0], value)


@pytest.mark.parametrize(
    ("sequences", "options", "error"),
    [
        ([], {}, ValueError),
        ([[1.0], []], {}, ValueError),
        ([np.zeros((2, 0))], {}, ValueError),
        ([np.zeros((1, 2, 3))], {}, ValueError),
        ([1.0], {}, ValueError),
        ([np.zeros((2, 3)), np.zeros((2, 4))], {}, ValueError),
        ([np.zeros((2, 3)), np.zeros(2)], {}, ValueError),
        ([[1.0], [1]], {}, TypeError),
        ([[1], [1.0]], {}, TypeError),
        ([[1j]], {}, TypeError),
        ([[True]], {}, TypeError),
        (["abc"], {}, ValueError),
        ([np.array([1], np.uint64), np.array([1], np.int64)], {}, TypeError),
        ([[1], [1, 2]], {"value": 0.5}, TypeError),
        ([[1], [1, 2]], {"value": np.nan}, TypeError),
        ([np.zeros(1, np.uint8)], {"value": -1}, ValueError),
        ([[1.0]], {"value": "0"}, TypeError),
        ([[1.0]], {"batch_first": 1}, TypeError),
    ],
)
def test_data_pad_checks_its_arguments(sequences, options, error):
    with pytest.raises(error, match="sequences|value|batch_first"):
        data.pad(sequences, **options)


# ---- windows ----


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.sampled_from([None, 1, 3]))
def test_data_windows_are_slices_of_the_series(length, horizon, extra, features):
    steps = length + horizon + extra
    series = np.random.default_rng(0).standard_normal(steps if features is None else (steps, features))
    x, targets = data.windows(series, length, horizon)
    n = extra + 1
    assert x.shape == (length, n, features or 1) and targets.shape == (horizon, n, features or 1)
    assert x.flags.c_contiguous and targets.flags.c_contiguous
    columns = series.reshape(steps, -1)
    for i in range(n):
        np.testing.assert_array_equal(x[:, i], columns[i : i + length])
        np.testing.assert_array_equal(targets[:, i], columns[i + length : i + length + horizon])

    rows, row_targets = data.windows(series, length, horizon, batch_first=True)
    np.testing.assert_array_equal(rows, x.swapaxes(0, 1))
    np.testing.assert_array_equal(row_targets, targets.swapaxes(0, 1))


@pytest.mark.parametrize(("given_dtype", "dtype"), [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), (">f8", "f8")])
def test_data_windows_precision(given_dtype, dtype):
    x, targets = data.windows(np.ones(5, given_dtype), 2, 1)
    assert x.dtype == targets.dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("series", "length", "horizon", "error"),
    [
        (np.zeros(5), 3, 3, ValueError),
        (np.zeros(5), 0, 1, ValueError),
        (np.zeros(5), 1, 0, ValueError),
        (np.zeros(5), 1.0, 1, TypeError),
        (np.zeros((5, 1, 1)), 1, 1, ValueError),
        (np.zeros((5, 0)), 1, 1, ValueError),
        (np.zeros(()), 1, 1, ValueError),
        (np.zeros(5, int), 1, 1, TypeError),
        (np.zeros(5, complex), 1, 1, TypeError),
    ],
)
def test_data_windows_checks_its_arguments(series, length, horizon, error):
    with pytest.raises(error, match="series|length|horizon"):
        data.windows(series, length, horizon)


# ---- WindowBatches ----


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("horizon", [None, 1, 2])
def test_data_window_batches_are_the_windows(horizon, batch_first):
    series = np.random.default_rng(0).standard_normal((21, 3)).astype("float16")
    batches = data.WindowBatches(series, 4, horizon, batch_size=5, batch_first=batch_first)
    x, targets = data.windows(series, 4, horizon or 1, batch_first=batch_first)
    if horizon is None:
        targets = targets[:, 0] if batch_first else targets[0]
    axis = 0 if batch_first else 1
    for _ in range(2):
        found = list(batches)
        assert len(found) == len(batches) == 4
        assert all(a.dtype == np.float32 and a.flags.c_contiguous for pair in found for a in pair)
        np.testing.assert_array_equal(np.concatenate([pair[0] for pair in found], axis), x)
        joined_targets = np.concatenate([pair[1] for pair in found], 0 if horizon is None else axis)
        np.testing.assert_array_equal(joined_targets, targets)


def test_data_window_batches_drawn_at_random():
    series = np.arange(1000.0)

    def drawn(seed):
        batches = data.WindowBatches(series, 3, batch_size=64, shuffle=True, seed=seed)
        return [np.concatenate([x for x, _ in batches], 1) for _ in range(2)]

    first, second = drawn(0)
    assert first.shape == (3, 997, 1)
    np.testing.assert_array_equal(first, first[0] + np.arange(3.0)[:, None, None])  # windows all
    assert 500 < len(np.unique(first[0])) < 997 and first[0].min() < 20 and first[0].max() > 975
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(drawn(0), [first, second])
    for x, targets in data.WindowBatches(series, 3, batch_size=64, shuffle=True):
        np.testing.assert_array_equal(targets, x[-1] + 1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"length": 5}, ValueError),
        ({"length": 4, "horizon": 2}, ValueError),
        ({"length": 0}, ValueError),
        ({"length": 2, "horizon": 0}, ValueError),
        ({"length": 2, "batch_size": 0}, ValueError),
        ({"length": 2, "shuffle": 1}, TypeError),
        ({"length": 2, "batch_first": 1}, TypeError),
        ({"length": 2, "seed": -1}, ValueError),
    ],
)
def test_data_window_batches_check_their_arguments(options, error):
    with pytest.raises(error, match=f"series|{list(options)[-1]}"):
        data.WindowBatches(np.zeros(5), **{"batch_size": 2, **options})


def window_batches(seed=0, **options):
    return data.WindowBatches(np.arange(40.0), 3, **{"batch_size": 5, "shuffle": True, "seed": seed, **options})


def first_steps(batches):
    return [x[0].tolist() for x, _ in batches]


@pytest.mark.parametrize("seed", [0, None, np.random.default_rng(3)], ids=["integer", "none", "generator"])
@pytest.mark.parametrize("done", [0, 1, 7, 8])
def test_data_window_batches_go_on_from_a_saved_place(seed, done):
    """With the draws that were to come, whatever seed is given to the batches that go on."""
    batches = window_batches(seed)
    list(batches)
    running = iter(batches)
    for _ in range(done):
        next(running)
    state = json.loads(json.dumps(batches.state_dict()))
    resumed = window_batches(seed=99)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    expected = first_steps(running), first_steps(batches)
    assert (first_steps(resumed), first_steps(resumed)) == expected
    assert [len(part) for part in expected] == [8 - done, 8] and expected[1] != first_steps(window_batches())


def test_data_window_batches_of_a_numpy_horizon_have_a_state_for_json():
    batches = data.WindowBatches(np.zeros(20), 3, np.int64(2), batch_size=2)
    assert json.loads(json.dumps(batches.state_dict()))["horizon"] == 2


def test_data_window_batches_in_order_go_on_from_a_saved_place():
    batches = window_batches(shuffle=False)
    running = iter(batches)
    next(running)
    resumed = window_batches(shuffle=False, seed=5)
    resumed.load_state_dict(batches.state_dict())
    assert first_steps(resumed) == first_steps(running)


def test_data_window_batches_of_a_pass_do_not_depend_on_another_one():
    once, interrupted = window_batches(), window_batches()
    running = iter(interrupted)
    found = first_steps([next(running), next(running)])
    others = first_steps(interrupted)
    found += first_steps(running)
    assert found == first_steps(once) and others == first_steps(once)
    assert interrupted.state_dict() == {**once.state_dict(), "epoch": 1}


@pytest.mark.parametrize(
    "change",
    [{"windows": 36}, {"length": 4}, {"horizon": 1}, {"batch_size": 6}, {"position": 9}, {"position": -1},
     {"position": 1.0}, {"epoch": -1}, {"epoch": "1"}, {"seed": None}, {"seed": -1}, {"other": 0}],
    ids=repr,
)  # fmt: skip
def test_data_window_batches_refuse_a_foreign_place(change):
    batches = window_batches()
    list(batches)
    before = batches.state_dict()
    with pytest.raises((ValueError, TypeError), match=f"state|{next(iter(change))}"):
        batches.load_state_dict({**before, **change})
    assert batches.state_dict() == before
    with pytest.raises(ValueError, match="seed"):
        window_batches(shuffle=False).load_state_dict(before)


# ---- corpus ----


@pytest.fixture
def library(tmp_path):
    """A library's folder with two modules, a site's own file and a package."""
    (tmp_path / "ast.py").write_bytes(b"a" * 300)
    (tmp_path / "abc.py").write_bytes(b"b" * 200)
    (tmp_path / "sitecustomize.py").write_bytes(b"c" * 100)
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_bytes(b"d" * 100)
    return tmp_path


def test_corpus_library_takes_the_top_modules_by_name(library):
    assert corpus.library_files(library) == [b"b" * 200, b"a" * 300]
    assert corpus.library_files(library, max_bytes=250) == [b"b" * 200, b"a" * 50]
    assert corpus.library_files(library, max_bytes=200) == [b"b" * 200]


def test_corpus_of_this_python_is_split_between_files():
    text = corpus.load()
    whole = text.training + text.held_out
    assert whole == b"".join(corpus.library_files())
    assert 1_000_000 < len(whole) <= corpus.LIBRARY_BYTES
    assert 0.025 <= len(text.held_out) / len(whole) <= 0.05
    ends = np.cumsum([len(t) for t in corpus.library_files()])
    assert len(text.training) in ends
    assert corpus.load() == text


@pytest.mark.parametrize("missing", [True, False])
def test_corpus_library_without_sources(tmp_path, missing):
    (tmp_path / "abc.pyc").write_bytes(b"x")
    folder = tmp_path / "python.zip" if missing else tmp_path
    with pytest.raises(ValueError, match="has no source files"):
        corpus.library_files(folder)


def test_corpus_of_files_is_in_their_order(tmp_path):
    (tmp_path / "b").write_bytes(b"b" * 60)
    (tmp_path / "a").write_bytes(b"a" * 40)
    text = corpus.load([tmp_path / "b", str(tmp_path / "a")], fraction=0.1)
    assert text.training + text.held_out == b"b" * 60 + b"a" * 40
    assert len(text.held_out) == 10  # no file starts within the last tenth
    assert text.name == f"{tmp_path / 'b'}, {tmp_path / 'a'}"
    text = corpus.load([tmp_path / "b", tmp_path / "a"], fraction=0.5)
    assert len(text.held_out) == 40  # one starts in the last half


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_corpus_split_is_near_the_fraction(lengths, fraction):
    total = sum(lengths)
    size = max(1, int(total * fraction))
    held_out = total - corpus._held_out_start(lengths, fraction)
    assert (size + 1) // 2 <= held_out <= size


def test_corpus_errors_name_the_file(tmp_path):
    empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_bytes(b"")
    short.write_bytes(b"abc")
    with pytest.raises(ValueError, match="empty.txt is empty"):
        corpus.load([short, empty])
    with pytest.raises(ValueError, match="short.txt is too short: 3 bytes .* at least 100 of each"):
        corpus.load([short], minimum=100)
    with pytest.raises(FileNotFoundError, match="none.txt"):
        corpus.load([tmp_path / "none.txt"])
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        corpus.load([tmp_path])
    with pytest.raises(TypeError, match="paths"):
        corpus.load(str(short))
    with pytest.raises(ValueError, match="fraction"):
        corpus.load([short], fraction=1.0)


def test_corpus_zlib_figure():
    assert corpus.zlib_bits_per_byte(bytes(100_000)) < 0.02
    assert corpus.zlib_bits_per_byte(np.random.default_rng(0).bytes(100_000)) > 8
    with pytest.raises(ValueError, match="empty"):
        corpus.zlib_bits_per_byte(b"")
