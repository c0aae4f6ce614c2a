"""The step kernels in a user's own compiled code: the bits of `layer.step` and `forward`, on one thread or several."""

import os
import subprocess
import sys
import textwrap

import numba
import numpy as np
import pytest
from numba import njit, prange
from numba.core.errors import TypingError

import fastrnn
from fastrnn import kernels
from fastrnn.kernels.simd import panel_width

KINDS = ["rnn_tanh", "rnn_relu", "rnn_sigmoid", "gru", "gru_before", "lstm"]
DTYPES = ["float32", "float64"]
WIDTH = panel_width(np.dtype("float32"))
SIZES = [(1, 1), (3, 7), (5, WIDTH // 4 + 1), (WIDTH + 1, WIDTH - 1), (2, 2 * WIDTH + 3)]

step_kernels = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="steps are for compiled code")


def make_layer(kind, input_size, hidden_size, **options):
    if kind.startswith("rnn"):
        return fastrnn.RNN(input_size, hidden_size, nonlinearity=kind[4:], **options)
    if kind == "gru_before":
        return fastrnn.GRU(input_size, hidden_size, reset_after=False, **options)
    return {"gru": fastrnn.GRU, "lstm": fastrnn.LSTM}[kind](input_size, hidden_size, **options)


@njit
def run_rnn(weights, x, h, y):
    for t in range(x.shape[0]):
        kernels.rnn_step(weights, x[t], h)
        y[t] = h


@njit
def run_gru(weights, x, h, y):
    for t in range(x.shape[0]):
        kernels.gru_step(weights, x[t], h)
        y[t] = h


@njit
def run_lstm(weights, x, h, c, y):
    for t in range(x.shape[0]):
        kernels.lstm_step(weights, x[t], h, c)
        y[t] = h


def user_code(kind):
    return {"rnn": run_rnn, "gru": run_gru, "lstm": run_lstm}[kind.split("_")[0]]


def draw(layer, steps, batch, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, batch, layer.input_size)).astype(layer.dtype)
    states = [rng.standard_normal((batch, layer.hidden_size)).astype(layer.dtype) for _ in range(layer.cell.states)]
    return x, states


def as_state(states):
    """(B,H) arrays as `forward` takes a state."""
    parts = tuple(s[np.newaxis] for s in states)
    return parts if len(parts) > 1 else parts[0]


def as_parts(state):
    return [s[0] for s in (state if isinstance(state, tuple) else (state,))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_step_kernel_equals_forward(kind, dtype):
    for n, sizes in enumerate(SIZES):
        for bias in (True, False):
            layer = make_layer(kind, *sizes, bias=bias, dtype=dtype, seed=n)
            x, states = draw(layer, 4, 3, n)
            expected, final = layer.forward(x, as_state(states))
            y = np.empty_like(expected)
            ours = [s.copy() for s in states]
            user_code(kind)(layer.kernel_weights(), x, *ours, y)
            np.testing.assert_array_equal(y, expected)
            for a, b in zip(ours, as_parts(final), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_step_of_layer_equals_forward(kind, dtype):
    for n, sizes in enumerate(SIZES):
        layer = make_layer(kind, *sizes, dtype=dtype, batch_first=n % 2 == 1, seed=n)
        x, states = draw(layer, 5, 2, n)
        expected, final = layer.forward(x.swapaxes(0, 1) if layer.batch_first else x, as_state(states))
        expected = expected.swapaxes(0, 1) if layer.batch_first else expected
        state = as_state(states)
        for t in range(5):
            y, state = layer.step(x[t], state)
            np.testing.assert_array_equal(y, expected[t])
        for a, b in zip(as_parts(state), as_parts(final), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_step_of_stacked_layer_and_of_one_stream(kind):
    layer = make_layer(kind, 3, 9, num_layers=3, seed=1)
    x = np.random.default_rng(1).standard_normal((6, 2, 3)).astype(np.float32)
    expected, _ = layer.forward(x)
    state = one = None
    for t in range(6):
        y, state = layer.step(x[t], state)
        np.testing.assert_array_equal(y, expected[t])
        single, one = layer.step(x[t, 1], one)
        assert single.shape == (9,)
        np.testing.assert_array_equal(single, expected[t, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_step_kernel_called_from_python(kind):
    layer = make_layer(kind, 4, 10, seed=2)
    x, states = draw(layer, 1, 2)
    expected, state = layer.step(x[0], as_state(states))
    step = {"rnn": kernels.rnn_step, "gru": kernels.gru_step, "lstm": kernels.lstm_step}[kind.split("_")[0]]
    assert step(layer.kernel_weights(), x[0], *states) is None
    np.testing.assert_array_equal(states[0], expected)
    for a, b in zip(states, as_parts(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_step_kernel_touches_nothing_outside_the_state(kind):
    layer = make_layer(kind, 3, 5, seed=1)
    x, states = draw(layer, 1, 2)
    guarded = [np.full((4, 5), -77, np.float32) for _ in states]
    for array, state in zip(guarded, states, strict=True):
        array[1:3] = state
    user_code(kind)(layer.kernel_weights(), x, *(a[1:3] for a in guarded), np.empty((1, 2, 5), np.float32))
    for array in guarded:
        assert np.all(array[[0, 3]] == -77) and not np.any(array[1:3] == -77)


@pytest.mark.parametrize("kind", KINDS)
def test_step_kernel_keeps_nan_in_its_row(kind):
    layer = make_layer(kind, 3, 5, seed=1)
    x, states = draw(layer, 2, 3)
    x[0, 1, 2] = np.nan
    y = np.empty((2, 3, 5), np.float32)
    user_code(kind)(layer.kernel_weights(), x, *states, y)
    assert np.isnan(y[:, 1]).all() and np.isfinite(y[:, [0, 2]]).all()


def test_step_kernel_weights_are_a_snapshot():
    layer = fastrnn.GRU(3, 5, seed=1)
    weights = layer.kernel_weights()
    kept = [w.copy() for w in weights]
    layer.vector_to_parameters(np.zeros(layer.num_parameters, np.float32))
    for a, b in zip(weights, kept, strict=True):
        np.testing.assert_array_equal(a, b)
    x, states = draw(layer, 1, 2)
    fresh = states[0].copy()
    kernels.gru_step(layer.kernel_weights(), x[0], fresh)
    np.testing.assert_array_equal(fresh, states[0] / 2)  # z = 1/2, n = 0


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}])
def test_step_kernel_weights_need_one_layer_and_direction(options):
    with pytest.raises(ValueError, match="kernel_weights"):
        fastrnn.LSTM(3, 5, **options).kernel_weights()


# ---- a user's own parallel loop ----


@njit(parallel=True)
def many_lstms(weights, x, h, c):
    """Independent streams: x (N,T,1,I), h and c (N,1,H)."""
    for n in prange(x.shape[0]):
        for t in range(x.shape[1]):
            kernels.lstm_step(weights, x[n, t], h[n], c[n])


@njit(parallel=True)
def many_rnns(weights, x, h):
    for n in prange(x.shape[0]):
        for t in range(x.shape[1]):
            kernels.rnn_step(weights, x[n, t], h[n])


def test_step_kernel_under_prange():
    rng = np.random.default_rng(3)
    lstm, rnn = fastrnn.LSTM(3, 21, seed=1), fastrnn.RNN(3, 21, nonlinearity="sigmoid", seed=1)
    x = rng.standard_normal((64, 10, 1, 3)).astype(np.float32)
    h, c = (np.zeros((64, 1, 21), np.float32) for _ in range(2))
    many_lstms(lstm.kernel_weights(), x, h, c)
    expected = lstm.forward(np.ascontiguousarray(x[:, :, 0].swapaxes(0, 1)))[1]
    np.testing.assert_array_equal(h[:, 0], expected[0][0])
    np.testing.assert_array_equal(c[:, 0], expected[1][0])
    h[:] = 0
    many_rnns(rnn.kernel_weights(), x, h)
    np.testing.assert_array_equal(h[:, 0], rnn.forward(np.ascontiguousarray(x[:, :, 0].swapaxes(0, 1)))[1][0])


# ---- what the compiler refuses ----


@step_kernels
@pytest.mark.parametrize("which", ["x", "h", "c"])
def test_step_kernel_refuses_arrays_that_are_not_contiguous(which):
    layer = fastrnn.LSTM(6, 6, seed=1)
    arrays = {name: np.zeros((2, 6), np.float32) for name in ("x", "h", "c")}
    arrays[which] = np.zeros((6, 2), np.float32).T
    with pytest.raises(TypingError, match="contiguous"):
        kernels.lstm_step(layer.kernel_weights(), *arrays.values())
    arrays[which] = np.zeros((2, 12), np.float32)[:, ::2]
    with pytest.raises(TypingError, match="contiguous"):
        kernels.lstm_step(layer.kernel_weights(), *arrays.values())


@step_kernels
@pytest.mark.parametrize("kind", ["rnn_tanh", "gru"])
def test_step_kernel_refuses_a_column_slice(kind):
    layer = make_layer(kind, 4, 6, seed=1)
    step = kernels.gru_step if kind == "gru" else kernels.rnn_step
    with pytest.raises(TypingError, match="contiguous"):
        step(layer.kernel_weights(), np.zeros((2, 8), np.float32)[:, :4], np.zeros((2, 6), np.float32))


@step_kernels
@pytest.mark.parametrize("kind", ["gru", "lstm", "gru_before"])
def test_step_kernel_refuses_the_weights_of_another_cell(kind):
    step = kernels.lstm_step if kind == "gru_before" else kernels.rnn_step
    arrays = [np.zeros((2, 6), np.float32)] * (3 if kind == "gru_before" else 2)
    with pytest.raises(TypingError, match="weights must be those of"):
        step(make_layer(kind, 6, 6, seed=1).kernel_weights(), *arrays)


# ---- a user's cached function, in a process of its own ----

USER = textwrap.dedent(
    """
    import sys
    import numpy as np
    from numba import njit
    import fastrnn
    from fastrnn import kernels

    @njit(cache=True)
    def run(weights, x, h):
        for t in range(x.shape[0]):
            kernels.gru_step(weights, x[t], h)

    layer = fastrnn.GRU(3, 9, seed=1)
    x = np.random.default_rng(1).standard_normal((5, 2, 3)).astype(np.float32)
    h = np.zeros((2, 9), np.float32)
    run(layer.kernel_weights(), x, h)
    np.testing.assert_array_equal(h, layer.forward(x)[1][0])
    print(sum(run.stats.cache_hits.values()), sum(run.stats.cache_misses.values()))
    """
)


@step_kernels
def test_step_kernel_in_a_users_cached_function(tmp_path):
    """Compiled in one process, linked from the cache and run in another."""
    path = tmp_path / "user.py"
    path.write_text(USER)
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    runs = [
        subprocess.run(
            [sys.executable, str(path)], env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=300
        )
        for _ in range(2)
    ]
    assert [r.returncode for r in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    assert [r.stdout.split() for r in runs] == [["0", "1"], ["1", "0"]]
