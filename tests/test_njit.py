"""Whole layers, losses and updates in a user's compiled code: the bits of the layers, losses and optimisers."""

import importlib
import json
import math
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

import fastrnn
from fastrnn import kernels
from fastrnn.kernels.simd import panel_width

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="kernels are for compiled code")

DATA = pathlib.Path(__file__).parent / "data"
WIDTH = panel_width(np.dtype("float32"))
SIZES = [(1, 1), (3, WIDTH // 4 + 1), (WIDTH + 1, WIDTH - 1), (2, 2 * WIDTH + 3)]
LAYERS = {
    "lstm": (fastrnn.LSTM, {}),
    "gru": (fastrnn.GRU, {}),
    "gru_reset_before": (fastrnn.GRU, {"reset_after": False, "dtype": "float64"}),
    "rnn": (fastrnn.RNN, {}),
}


def make_layer(kind, *sizes, **options):
    make, own = LAYERS[kind]
    return make(*sizes, **own, **options)


def draw(layer, steps, batch, seed=0):
    """x, dy, the initial state and the gradient of the final one; the latter two as lists of (B,H)."""
    rng = np.random.default_rng(seed)
    x, dy = (
        rng.standard_normal((steps, batch, size)).astype(layer.dtype) for size in (layer.input_size, layer.hidden_size)
    )
    h, dh = (
        [rng.standard_normal((batch, layer.hidden_size)).astype(layer.dtype) for _ in range(layer.states)]
        for _ in range(2)
    )
    return x, dy, h, dh


def as_state(parts):
    state = tuple(part[np.newaxis].copy() for part in parts)
    return state if len(state) > 1 else state[0]


def as_parts(state):
    return [part[0] for part in (state if isinstance(state, tuple) else (state,))]


def run_layer(layer, x, dy, h, dh):
    """y, dx, the final state, the initial state's gradient, and the parameters'."""
    workspace = layer.workspace(*x.shape[:2])
    layer.zero_grad()
    y, final = layer.forward(x, as_state(h), workspace=workspace)
    y, final = y.copy(), [part.copy() for part in as_parts(final)]
    dx, d_initial = layer.backward(dy, as_state(dh), workspace=workspace)
    return y, dx.copy(), final, [part.copy() for part in as_parts(d_initial)], layer.gradients_to_vector()


def run_kernels(layer, workspace, x, dy, h, dh):
    """The same by the kernels."""
    name = "rnn" if isinstance(layer, fastrnn.RNN) else type(layer).__name__.lower()
    forward, backward = getattr(kernels, f"{name}_forward"), getattr(kernels, f"{name}_backward")
    weights, parameters = layer.kernel_weights(), layer.parameters_to_vector()
    h, dh, gradients = [part.copy() for part in h], [part.copy() for part in dh], np.zeros_like(parameters)
    y = forward(weights, x, *h, workspace)
    dx = backward(weights, parameters, dy, *dh, workspace, gradients)
    return y, dx, h, dh, gradients


def assert_same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        if isinstance(a, list):
            assert_same(a, b)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", LAYERS)
def test_kernels_equal_the_layer(kind):
    """In a workspace that is larger than it must be, and of another batch before."""
    for n, sizes in enumerate(SIZES):
        layer = make_layer(kind, *sizes, bias=n != 1, seed=n)
        workspace = layer.kernel_workspace(20, 5)
        for steps, batch in ((20, 5), (17, 3), (1, 1)):
            arrays = draw(layer, steps, batch, n)
            assert_same(run_kernels(layer, workspace, *arrays), run_layer(layer, *arrays))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("batch", [1, 7])
def test_kernels_on_several_threads(batch):
    """By sequences, and by units where there are too few."""
    layer = fastrnn.LSTM(5, 70, seed=1)
    arrays = draw(layer, 9, batch)
    workspace = layer.kernel_workspace(9, batch, threads=2)
    assert workspace.by_units == (batch == 1)
    assert_same(run_kernels(layer, workspace, *arrays), run_layer(layer, *arrays))


def test_backward_without_input_gradient():
    layer = fastrnn.LSTM(3, 9, seed=1)
    arrays = draw(layer, 5, 2)
    ours = run_kernels(layer, layer.kernel_workspace(5, 2, input_gradient=False), *arrays)
    assert ours[1].shape == (5, 2, 0)
    expected = run_layer(layer, *arrays)
    assert_same((ours[0], *ours[2:]), (expected[0], *expected[2:]))


def test_backward_adds_to_gradients_and_leaves_y():
    layer = fastrnn.GRU(3, 9, seed=1)
    x, dy, (h,), (dh,) = draw(layer, 5, 2)
    weights, parameters, workspace = layer.kernel_weights(), layer.parameters_to_vector(), layer.kernel_workspace(5, 2)
    once, twice = np.zeros_like(parameters), np.zeros_like(parameters)
    for gradients, times in ((once, 1), (twice, 2)):
        for _ in range(times):
            y = kernels.gru_forward(weights, x, h.copy(), workspace)
            kept = y.copy()
            kernels.gru_backward(weights, parameters, dy, dh.copy(), workspace, gradients)
            np.testing.assert_array_equal(y, kept)
    np.testing.assert_array_equal(2 * once, twice)


@pytest.mark.parametrize("bias", [True, False])
def test_dense_kernels_equal_the_layer(bias):
    for n, (inputs, outputs) in enumerate(SIZES):
        layer = fastrnn.Linear(inputs, outputs, bias=bias, seed=n)
        rng = np.random.default_rng(n)
        workspace = layer.kernel_workspace(20, 5)
        for steps, batch in ((20, 5), (3, 2)):
            x, dy = (rng.standard_normal((steps, batch, size), np.float32) for size in (inputs, outputs))
            ws = layer.workspace(steps, batch)
            layer.zero_grad()
            y, _ = layer.forward(x, workspace=ws)
            dx, _ = layer.backward(dy, workspace=ws)
            weights, parameters = layer.kernel_weights(), layer.parameters_to_vector()
            gradients = np.zeros_like(parameters)
            np.testing.assert_array_equal(kernels.dense_forward(weights, x, workspace), y)
            np.testing.assert_array_equal(kernels.dense_backward(weights, parameters, dy, workspace, gradients), dx)
            np.testing.assert_array_equal(gradients, layer.gradients_to_vector())
            y_step = np.empty((batch, outputs), np.float32)
            kernels.dense_step(weights, x[0], y_step)
            np.testing.assert_array_equal(y_step, y[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_pack_renews_weights(kind):
    for bias in (True, False):
        old, new = (make_layer(kind, 5, 21, bias=bias, seed=seed) for seed in (1, 2))
        weights = old.kernel_weights()
        kernels.pack(new.parameters_to_vector(), weights)
        assert_same(weights, new.kernel_weights())


def test_learned_initial_states_are_no_biases():
    """They stand last among the parameters, also of a layer without bias."""
    for make in (fastrnn.RNN, fastrnn.LSTM):
        layer = make(3, 5, bias=False, initial_state="learned", seed=1)
        weights = layer.kernel_weights()
        vector = layer.parameters_to_vector()
        vector[-5:] = 7
        kernels.pack(vector, weights)
        assert_same(weights, layer.kernel_weights())


# ---- training ----


@njit(nogil=True)
def train(values, gradients, moments, split, layers, workspaces, x, targets, lr, losses):
    """A whole training run of an LSTM and a linear layer; `split` of the parameters are the LSTM's."""
    (lstm, dense), (lstm_workspace, dense_workspace) = layers, workspaces
    h = np.empty((x.shape[1], lstm.recurrent.shape[1]), x.dtype)
    c, dh, dc = np.empty_like(h), np.empty_like(h), np.empty_like(h)
    for n in range(losses.size):
        kernels.pack(values[:split], lstm)
        kernels.pack(values[split:], dense)
        h[:], c[:], dh[:], dc[:], gradients[:] = 0, 0, 0, 0, 0
        y = kernels.lstm_forward(lstm, x, h, c, lstm_workspace)
        dy = kernels.dense_forward(dense, y, dense_workspace)
        losses[n] = kernels.softmax_cross_entropy(dy, targets, dy)
        dy = kernels.dense_backward(dense, values[split:], dy, dense_workspace, gradients[split:])
        kernels.lstm_backward(lstm, values[:split], dy, dh, dc, lstm_workspace, gradients[:split])
        kernels.clip_norm(gradients, 0.5)
        kernels.adam_update(values, gradients, moments[0], moments[1], n + 1, lr)


def make_training(seed, updates=8):
    """A model, the arguments of `train` for it, x and targets."""
    model = fastrnn.Sequential(fastrnn.LSTM(3, 21, seed=seed), fastrnn.Linear(21, 6, seed=seed))
    rng = np.random.default_rng(seed)
    x, targets = rng.standard_normal((20, 4, 3), np.float32), rng.integers(0, 6, (20, 4))
    targets[15:, 1] = -100
    values = model.parameters_to_vector()
    arguments = (
        values, np.empty_like(values), np.zeros((2, values.size), np.float32), model.layers[0].num_parameters,
        tuple(layer.kernel_weights() for layer in model.layers),
        tuple(layer.kernel_workspace(20, 4) for layer in model.layers), x, targets, 0.01, np.empty(updates),
    )  # fmt: skip
    return model, arguments, x, targets


def test_compiled_training_loop_equals_the_trainer():
    model, arguments, x, targets = make_training(1)
    train(*arguments)
    trainer = fastrnn.Trainer(model, fastrnn.CrossEntropy(), fastrnn.Adam(0.01), clip_norm=0.5)
    expected = [trainer.step(x, targets)[0] for _ in range(8)]
    assert expected[-1] < expected[0]
    np.testing.assert_array_equal(arguments[-1], expected)
    np.testing.assert_array_equal(arguments[0], model.parameters_to_vector())


def test_compiled_training_loops_in_python_threads():
    expected = []
    for seed in range(4):
        _, arguments, _, _ = make_training(seed)
        train(*arguments)
        expected.append(arguments[0])
    runs = [make_training(seed)[1] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda arguments: train(*arguments), runs))
    assert_same([arguments[0] for arguments in runs], expected)


def test_compiled_training_loop_releases_the_gil():
    arguments = make_training(0, updates=2000)[1]
    train(*make_training(0, updates=1)[1])
    thread = threading.Thread(target=train, args=arguments)
    thread.start()
    turns = 0
    while thread.is_alive():
        turns += 1
    assert turns > 1000


def test_softmax():
    rng = np.random.default_rng(1)
    for shape in ((3, 1), (2, 3, WIDTH + 3)):
        y = rng.standard_normal(shape, np.float32) * 20
        out = np.empty_like(y)
        kernels.softmax(y, out)
        e = np.exp(y.astype(np.float64) - y.max(-1, keepdims=True))
        np.testing.assert_allclose(out, e / e.sum(-1, keepdims=True), rtol=1e-5, atol=1e-30)
        kernels.softmax(y, y)
        np.testing.assert_array_equal(y, out)


def test_softmax_keeps_nan_in_its_row():
    y = np.zeros((3, 5), np.float32)
    y[1, 2] = np.nan
    kernels.softmax(y, y)
    assert np.isnan(y[1]).all() and np.all(y[[0, 2]] == np.float32(0.2))


def test_softmax_cross_entropy_of_nothing():
    y = np.ones((2, 3), np.float32)
    assert math.isnan(kernels.softmax_cross_entropy(y, np.full(2, -100), y))
    assert not y.any()
    y[...] = 1
    assert kernels.softmax_cross_entropy(y, np.array([0, 3]), y, 3) == pytest.approx(math.log(3))
    assert not y[1].any()


@pytest.mark.parametrize(
    ("optimizer", "call"),
    [
        (fastrnn.SGD(0.1), lambda p, g, s, n: kernels.sgd_update(p, g, p, 0.1)),
        (
            fastrnn.SGD(0.1, momentum=0.9, weight_decay=0.01),
            lambda p, g, s, n: kernels.sgd_update(p, g, s[0], 0.1, 0.9, 0.01),
        ),
        (fastrnn.Adam(0.1), lambda p, g, s, n: kernels.adam_update(p, g, s[0], s[1], n, 0.1)),
        (
            fastrnn.AdamW(0.1, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
            lambda p, g, s, n: kernels.adam_update(p, g, s[0], s[1], n, 0.1, 0.8, 0.99, 1e-6, 0.1),
        ),
    ],
)
def test_updates_equal_the_optimizers(optimizer, call):
    model, rng = fastrnn.Linear(9, 11, seed=1), np.random.default_rng(1)
    values = model.parameters_to_vector()
    state = np.zeros((2, values.size), np.float32)
    for n in range(1, 4):
        gradients = rng.standard_normal(values.size, np.float32)
        model.parameters.gradients[:] = gradients
        optimizer.step(model)
        call(values, gradients, state, n)
        np.testing.assert_array_equal(values, model.parameters_to_vector())


def test_clipping_equals_that_of_a_model():
    model, rng = fastrnn.Linear(9, 11, seed=1), np.random.default_rng(1)
    for scale, bad in ((1, 0.0), (1e-3, 0.0), (1, np.nan)):
        gradients = (rng.standard_normal(model.num_parameters) * scale).astype(np.float32)
        gradients[3] += bad
        model.parameters.gradients[:] = gradients
        norm = fastrnn.clip_grad_norm(model, 1.0)
        np.testing.assert_array_equal(kernels.clip_norm(gradients, 1.0), norm)
        np.testing.assert_array_equal(gradients, model.gradients_to_vector())
        fastrnn.clip_grad_value(model, 0.1)
        kernels.clip_value(gradients, 0.1)
        np.testing.assert_array_equal(gradients, model.gradients_to_vector())


# ---- copies for threads ----


@njit
def compiled_replica(replicas, index):
    return kernels.replica(replicas, index)


def test_replicas():
    layer = fastrnn.LSTM(3, 5, seed=1)
    for value in (layer.kernel_weights(), layer.kernel_workspace(4, 2)):
        replicas = kernels.replicate(value, 3)
        assert type(replicas) is type(value)
        for one in (kernels.replica(replicas, 2), compiled_replica(replicas, 2)):
            assert type(one) is type(value)
            for name, array, copies in zip(value._fields, one, replicas, strict=True):
                assert copies.shape == (3, *np.shape(getattr(value, name)))
                assert copies.ctypes.data % 64 == 0
                assert not isinstance(array, np.ndarray) or array.flags.c_contiguous
                assert not isinstance(array, np.ndarray) or array.size == 0 or np.shares_memory(array, copies)
    assert_same(kernels.replica(kernels.replicate(layer.kernel_weights(), 2), 1), layer.kernel_weights())


# ---- what is refused ----


def test_workspace_refuses_wrong_arguments():
    layer = fastrnn.LSTM(3, 5, seed=1)
    for bad in ({"T": 0}, {"B": 0}, {"threads": 0}, {"threads": numba.config.NUMBA_NUM_THREADS + 1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            layer.kernel_workspace(**{"T": 2, "B": 2, **bad})
    for bad in ({"T": 2.0}, {"B": None}, {"threads": True}, {"input_gradient": 1}):
        with pytest.raises(TypeError, match=next(iter(bad))):
            layer.kernel_workspace(**{"T": 2, "B": 2, **bad})
    with pytest.raises(MemoryError, match="workspace"):
        layer.kernel_workspace(10**9, 10**4)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"dilation": 2}, {"zoneout": 0.1}])
def test_workspace_needs_a_plain_layer(options):
    layer = fastrnn.LSTM(3, 5, **options)
    for method in (layer.kernel_weights, lambda: layer.kernel_workspace(2, 2)):
        with pytest.raises(ValueError, match="kernel"):
            method()


def test_compiler_refuses_weights_of_another_cell():
    lstm, gru, linear = fastrnn.LSTM(3, 5, seed=1), fastrnn.GRU(3, 5, seed=1), fastrnn.Linear(3, 5, seed=1)
    x, h = np.zeros((4, 2, 3), np.float32), np.zeros((2, 5), np.float32)
    workspace = lstm.kernel_workspace(4, 2)
    for weights in (gru.kernel_weights(), linear.kernel_weights(), tuple(lstm.kernel_weights())):
        with pytest.raises(TypingError, match="weights must be those of lstm"):
            kernels.lstm_forward(weights, x, h, h.copy(), workspace)
    with pytest.raises(TypingError, match="weights must be those of a linear layer"):
        kernels.dense_forward(gru.kernel_weights(), x, workspace)
    with pytest.raises(TypingError, match="contiguous"):
        kernels.lstm_forward(lstm.kernel_weights(), x.swapaxes(0, 1), h, h.copy(), workspace)


# ---- every kernel from a user's module, serial and parallel, compiled in one process and cached for another ----


def dispatchers():
    """All compiled kernels of the package, as (module, name) -> kernel."""
    found = {}
    for info in pkgutil.walk_packages(kernels.__path__, "fastrnn.kernels."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if hasattr(value, "py_func") and value.py_func.__module__ == info.name:
                found[info.name.removeprefix("fastrnn.kernels."), name] = value
    return found


def test_users_module_calls_every_public_kernel():
    source = (DATA / "user_kernels.py").read_text(encoding="utf-8")
    called = set(re.findall(r"(\w+\.\w+)\(", source))
    assert {f"kernels.{name}" for name in kernels.__all__ if name != "replicate"} <= called
    public = "losses", "update", "embedding", "elementwise", "sequence"
    for module, name in dispatchers():
        if module in public:
            assert f"{module}.{name}" in called
    assert "replicate" in (DATA / "call_user_kernels.py").read_text(encoding="utf-8")


def test_users_module(tmp_path):
    source = (DATA / "user_kernels.py").read_text(encoding="utf-8")
    options = '"nogil": True}'
    variants = {"serial": source, "parallel": source.replace(options, '"nogil": True, "parallel": True}')}
    assert options in source
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for hits, misses in ((0, 1), (1, 0)):
        processes = []
        for name, text in variants.items():
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            for file, content in (
                ("user_kernels.py", text),
                ("call_user_kernels.py", (DATA / "call_user_kernels.py").read_text(encoding="utf-8")),
            ):
                if not hits:
                    (folder / file).write_text(content, encoding="utf-8")
            command = [sys.executable, "call_user_kernels.py"]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            processes.append(subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes))
        for process in processes:
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            counts = json.loads(output)
            assert len(counts) == source.count("@njit(")
            assert all(count == [hits, misses] for count in counts.values())
