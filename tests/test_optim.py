import json
import math
import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import optim, schedules, threads
from fastrnn.kernels import update
from fastrnn.parameters import Parameters

CONFIGS = [
    (optim.SGD, "SGD", {}),
    (optim.SGD, "SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (optim.SGD, "SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.RMSprop, "RMSprop", {}),
    (optim.RMSprop, "RMSprop", {"alpha": 0.9, "eps": 1e-6, "weight_decay": 0.01, "momentum": 0.8, "centered": True}),
    (optim.Adagrad, "Adagrad", {"initial_accumulator_value": 0.1}),
    (optim.Adagrad, "Adagrad", {"lr_decay": 0.02, "weight_decay": 0.01, "eps": 1e-8}),
    (optim.Adam, "Adam", {}),
    (optim.Adam, "Adam", {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.01, "amsgrad": True}),
    (optim.AdamW, "AdamW", {}),
    (optim.AdamW, "AdamW", {"weight_decay": 0.1, "amsgrad": True}),
]
IDS = [f"{name}-{'-'.join(config) or 'default'}" for _, name, config in CONFIGS]


class Model:
    """What an optimizer sees of a model."""

    def __init__(self, size=37, dtype="float64", seed=0):
        self.parameters = Parameters({"weight": (size,)}, dtype)
        with self.parameters.writing() as values:
            values[:] = np.random.default_rng(seed).standard_normal(size)

    def train(self, optimizer, steps, seed=1, **kwargs):
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            self.parameters.gradients[:] = gradients(rng, self.parameters.values)
            optimizer.step(self, **kwargs)
        return self.parameters.values


def gradients(rng, values):
    return 0.3 * values + rng.standard_normal(values.shape)


def naive(optimizer, p, g, s, t):
    """One step t = 1, 2, ... of an optimizer, by the textbook: new p, with the state in the dict `s`."""
    c = optimizer.config()
    lr, decay = c["lr"], c["weight_decay"]
    if isinstance(optimizer, optim.AdamW):
        p = p - lr * decay * p
    else:
        g = g + decay * p
    zero = np.zeros_like(p)
    if isinstance(optimizer, optim.SGD):
        s["v"] = g if t == 1 else c["momentum"] * s["v"] + (1 - c["dampening"]) * g
        g = g + c["momentum"] * s["v"] if c["nesterov"] else s["v"] if c["momentum"] else g
        return p - lr * g
    if isinstance(optimizer, optim.RMSprop):
        a = c["alpha"]
        s["m"], s["s"] = a * s.get("m", zero) + (1 - a) * g, a * s.get("s", zero) + (1 - a) * g**2
        variance = np.maximum(s["s"] - s["m"] ** 2, 0) if c["centered"] else s["s"]
        s["v"] = c["momentum"] * s.get("v", zero) + g / (np.sqrt(variance) + c["eps"])
        return p - lr * s["v"]
    if isinstance(optimizer, optim.Adagrad):
        s["s"] = s.get("s", zero + c["initial_accumulator_value"]) + g**2
        return p - lr / (1 + (t - 1) * c["lr_decay"]) * g / (np.sqrt(s["s"]) + c["eps"])
    b1, b2 = c["betas"]
    s["m"], s["s"] = b1 * s.get("m", zero) + (1 - b1) * g, b2 * s.get("s", zero) + (1 - b2) * g**2
    s["top"] = np.maximum(s.get("top", zero), s["s"]) if c["amsgrad"] else s["s"]
    return p - lr * s["m"] / (1 - b1**t) / (np.sqrt(s["top"] / (1 - b2**t)) + c["eps"])


# ---- update rules ----


@pytest.mark.parametrize(("make", "name", "config"), CONFIGS, ids=IDS)
@pytest.mark.parametrize("size", [1, 37])
def test_optim_against_naive(make, name, config, size):
    model, optimizer = Model(size), make(lr=0.02, **config)
    expected, state, rng = model.parameters.values.copy(), {}, np.random.default_rng(1)
    for t in range(1, 21):
        expected = naive(optimizer, expected, gradients(rng, expected), state, t)
    np.testing.assert_allclose(model.train(optimizer, 20), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("make", "name", "config", "dtype"),
    [(*case, "float64") for case in CONFIGS] + [(*CONFIGS[i], "float32") for i in (0, 7)],
)
def test_optim_against_torch(make, name, config, dtype):
    torch = pytest.importorskip("torch")
    model = Model(dtype=dtype)
    leaf = torch.tensor(model.parameters.values.copy(), requires_grad=True)
    theirs = getattr(torch.optim, name)([leaf], lr=0.01, foreach=False, **config)
    optimizer = make(lr=0.01, **config)
    rng = np.random.default_rng(1)
    for _ in range(300):
        with torch.no_grad():
            values = leaf.numpy()
        leaf.grad = torch.tensor(gradients(rng, values).astype(dtype))
        theirs.step()
    model.train(optimizer, 300)
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(model.parameters.values, leaf.detach().numpy(), rtol=0, atol=tolerance)


def test_optim_defaults_are_torchs():
    torch = pytest.importorskip("torch")
    for make, name, _ in CONFIGS:
        theirs = getattr(torch.optim, name)([torch.zeros(1, requires_grad=True)]).defaults
        assert make().config() == {key: theirs[key] for key in make().config()}


def test_optim_rates_and_factor():
    for factor, lr in ((1.0, 0.02), (0.5, 0.04)):
        optimizer = optim.Adam(1.0)
        optimizer.lr = lr
        assert optimizer.lr == lr
        values = Model().train(optimizer, 5, factor=factor)
        np.testing.assert_array_equal(values, Model().train(optim.Adam(0.02), 5))


def test_optim_marks_parameters_changed():
    model = Model()
    before = model.parameters.version
    model.train(optim.SGD(0.1), 1)
    assert model.parameters.version > before


@pytest.mark.parametrize(("make", "name", "config"), CONFIGS, ids=IDS)
def test_optim_nan_stays_visible(make, name, config):
    model, optimizer = Model(), make(**config)
    model.train(optimizer, 1)
    model.parameters.gradients[:] = 1
    model.parameters.gradients[[3, 36]] = np.nan
    optimizer.step(model)
    model.train(optimizer, 1)
    assert np.array_equal(np.flatnonzero(np.isnan(model.parameters.values)), [3, 36])


def test_optim_does_not_depend_on_threads():
    before, size = threads.get_num_threads(), 3 * update._PART_SIZE + 5
    results = []
    try:
        for n in {1, before}:
            threads.set_num_threads(n)
            model, optimizer = Model(size), optim.Adam(0.01)
            model.train(optimizer, 2)
            norm = optim.clip_gradients(model, 1.0, 0.01)
            results.append((norm, model.parameters.values, model.parameters.gradients))
    finally:
        threads.set_num_threads(before)
    for norm, values, clipped in results:
        assert norm == results[0][0]
        assert np.array_equal(values, results[0][1]) and np.array_equal(clipped, results[0][2])


def test_optim_allocates_nothing():
    model = Model(50_000)
    optimizers = [make(lr=0.01, **config) for make, _, config in CONFIGS]

    def all_steps():
        for optimizer in optimizers:
            optimizer.step(model)
        optim.clip_grad_norm(model, 1.0)
        optim.clip_grad_value(model, 0.001)
        optim.clip_gradients(model, 0.1, 0.0001)

    model.parameters.gradients[:] = 1
    all_steps()
    model.parameters.gradients[:] = 1
    tracemalloc.start()
    all_steps()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000


def test_optim_kernel_inside_njit():
    @numba.njit
    def two_steps(p, g):
        for _ in range(2):
            update.sgd((p, g, p), (0.5, 0.0, 0.0, 1.0, 0.0, 0.0), 2)

    p = np.zeros(5)
    two_steps(p, np.arange(5.0))
    assert np.array_equal(p, -np.arange(5.0))


# ---- one model, checkpoints ----


def test_optim_serves_one_model():
    optimizer = optim.Adam()
    first = Model()
    first.train(optimizer, 1)
    other = Model()
    with pytest.raises(ValueError, match="one model"):
        optimizer.step(other)
    np.testing.assert_array_equal(other.parameters.values, Model().parameters.values)
    with pytest.raises(TypeError, match="model must be"):
        optimizer.step(np.zeros(3))


@pytest.mark.parametrize(("make", "name", "config"), CONFIGS, ids=IDS)
def test_optim_state_dict_round_trip(make, name, config):
    whole = Model().train(make(lr=0.02, **config), 10).copy()
    model, optimizer = Model(), make(lr=0.02, **config)
    model.train(optimizer, 5)
    state = optimizer.state_dict()
    assert all(isinstance(value, (np.ndarray, int, float, str)) for value in state.values())
    json.dumps({key: np.asarray(value).tolist() for key, value in state.items()})
    model.train(optimizer, 2)  # the state holds copies

    resumed, fresh = Model(), make(lr=0.5)
    resumed.train(make(lr=0.02, **config), 5)
    fresh.load_state_dict(state)
    assert fresh.config() == make(lr=0.02, **config).config()
    rng = np.random.default_rng(1)
    for _ in range(5):
        rng.standard_normal(37)
    for _ in range(5):
        resumed.parameters.gradients[:] = gradients(rng, resumed.parameters.values)
        fresh.step(resumed)
    np.testing.assert_array_equal(resumed.parameters.values, whole)


def test_optim_state_dict_before_the_first_step():
    model, optimizer = Model(), optim.Adam(0.02)
    blank = optimizer.state_dict()
    expected = model.train(optimizer, 3).copy()
    optimizer.load_state_dict(blank)
    with model.parameters.writing() as values:
        values[:] = Model().parameters.values
    np.testing.assert_array_equal(model.train(optimizer, 3), expected)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"optimizer": "SGD"}, ValueError, "AdamW"),
        ({"lr": -1.0}, ValueError, "lr"),
        ({"lr": "fast"}, TypeError, "lr"),
        ({"step": 1.5}, TypeError, "step"),
        ({"step": -1}, ValueError, "step"),
        ({"step": None}, ValueError, "missing step"),
        ({"betas": np.array([0.9, 1.0])}, ValueError, "betas"),
        ({"exp_avg": None}, ValueError, "exp_avg"),
        ({"exp_avg": np.zeros(36)}, ValueError, "exp_avg must have"),
        ({"exp_avg": np.zeros(37, np.float32)}, ValueError, "exp_avg must have"),
        ({"exp_avg": np.zeros(37, int)}, TypeError, "exp_avg must hold"),
        ({"exp_avg": np.zeros((1, 37))}, ValueError, "exp_avg must have shape"),
        ({"surplus": np.zeros(37)}, ValueError, "surplus"),
        ({"amsgrad": True}, ValueError, "max_exp_avg_sq"),
    ],
)
def test_optim_load_state_dict_refuses(change, error, words):
    model, optimizer = Model(), optim.AdamW(0.02)
    model.train(optimizer, 2)
    before = optimizer.state_dict()
    state = {key: value for key, value in {**before, **change}.items() if value is not None}
    with pytest.raises(error, match=words):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after.keys() == before.keys() and all(np.array_equal(after[key], before[key]) for key in before)


def test_optim_loaded_state_must_fit_the_model():
    model, optimizer = Model(), optim.Adam()
    model.train(optimizer, 1)
    fresh = optim.Adam()
    fresh.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="36"):
        fresh.step(Model(36))
    fresh.step(model)
    with pytest.raises(TypeError, match="mapping"):
        fresh.load_state_dict([1])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: optim.SGD(-0.1), ValueError),
        (lambda: optim.SGD(math.nan), ValueError),
        (lambda: optim.SGD("0.1"), TypeError),
        (lambda: optim.SGD(0.1, nesterov=True), ValueError),
        (lambda: optim.SGD(0.1, momentum=0.9, dampening=0.1, nesterov=True), ValueError),
        (lambda: optim.SGD(0.1, nesterov=1), TypeError),
        (lambda: optim.SGD(0.1, momentum=-1), ValueError),
        (lambda: optim.RMSprop(alpha=1.5), ValueError),
        (lambda: optim.Adagrad(initial_accumulator_value=-1), ValueError),
        (lambda: optim.Adam(betas=0.9), TypeError),
        (lambda: optim.Adam(betas=(0.9, 1.0)), ValueError),
        (lambda: optim.AdamW(weight_decay=-1), ValueError),
        (lambda: setattr(optim.Adam(), "lr", math.inf), ValueError),
        (lambda: optim.Adam().step(Model(), factor=-1.0), ValueError),
        (lambda: optim.clip_grad_norm(Model(), 0.0), ValueError),
        (lambda: optim.clip_grad_norm(Model(), math.inf), ValueError),
        (lambda: optim.clip_grad_norm(None, 1.0), TypeError),
        (lambda: optim.clip_grad_value(Model(), -1.0), ValueError),
        (lambda: optim.clip_grad_norm(Model(), None), TypeError),
        (lambda: optim.clip_gradients(Model(), 1.0, 0.0), ValueError),
        (lambda: optim.clip_gradients(Model(), math.nan), ValueError),
        (lambda: optim.clip_gradients(3), TypeError),
        (lambda: schedules.StepDecay(0), ValueError),
        (lambda: schedules.Exponential(0.0), ValueError),
        (lambda: schedules.Cosine(2.5), TypeError),
        (lambda: schedules.OneCycle(10, pct_start=1.0), ValueError),
        (lambda: schedules.WarmUp(3, after=1.0), TypeError),
        (lambda: schedules.Constant()(-1), ValueError),
        (lambda: schedules.Constant()(0.5), TypeError),
    ],
)
def test_optim_refuses(make, error):
    with pytest.raises(error):
        make()


# ---- clipping ----


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([1, 3, 64, 65, 1000]), st.sampled_from(["float32", "float64"]))
def test_optim_clip_grad_norm(seed, size, dtype):
    rng = np.random.default_rng(seed)
    model, max_norm = Model(size, dtype), float(rng.uniform(0.1, 40))
    model.parameters.gradients[:] = before = rng.standard_normal(size).astype(dtype)
    expected = math.sqrt(math.fsum(before.astype(float) ** 2))
    assert optim.clip_grad_norm(model, max_norm) == pytest.approx(expected, rel=1e-14)
    clipped = before * min(1.0, max_norm / (expected + 1e-6))
    np.testing.assert_allclose(model.parameters.gradients, clipped, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("max_value", [None, 0.05])
def test_optim_clip_by_a_factor_below_the_normal_numbers(max_value):
    model = Model(dtype="float32")
    model.parameters.gradients[:] = 3e38
    assert optim.clip_gradients(model, 0.5, max_value) == pytest.approx(3e38 * math.sqrt(37))
    np.testing.assert_allclose(model.parameters.gradients, max_value or 0.5 / math.sqrt(37), rtol=1e-6)


@pytest.mark.parametrize("bad", [1e30, np.inf, np.nan])
def test_optim_clip_as_torch(bad):
    torch = pytest.importorskip("torch")
    model = Model(dtype="float32")
    model.parameters.gradients[:] = np.arange(37) - 5
    leaf = torch.zeros(37, requires_grad=True)
    leaf.grad = torch.tensor(model.parameters.gradients.copy())
    assert optim.clip_grad_norm(model, 2.0) == pytest.approx(torch.nn.utils.clip_grad_norm_([leaf], 2.0).item())
    np.testing.assert_allclose(model.parameters.gradients, leaf.grad.numpy(), rtol=1e-6)
    for array in (model.parameters.gradients, leaf.grad):
        array[7] = bad
    if bad < np.inf:  # in float32 the square overflows; here it does not
        assert optim.clip_grad_norm(model, 2.0) == pytest.approx(bad)
        assert model.parameters.gradients[7] == pytest.approx(2.0)
    else:
        optim.clip_grad_norm(model, 2.0)
        torch.nn.utils.clip_grad_norm_([leaf], 2.0)
        np.testing.assert_array_equal(model.parameters.gradients, leaf.grad.numpy())


def test_optim_clip_grad_value():
    model = Model(4, "float32")
    model.parameters.gradients[:] = [-3, 0.25, np.inf, np.nan]
    optim.clip_grad_value(model, 0.5)
    np.testing.assert_array_equal(model.parameters.gradients, np.float32([-0.5, 0.25, 0.5, np.nan]))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([1, 7, 64, 1000]), st.sampled_from(["float32", "float64"]),
    st.none() | st.floats(0.1, 40), st.none() | st.floats(1e-3, 3),
)  # fmt: skip
def test_optim_clip_gradients_as_torch(seed, size, dtype, max_norm, max_value):
    """First the norm, then the value; the scaled gradients are NumPy's product bit for bit."""
    torch = pytest.importorskip("torch")
    model = Model(size, dtype)
    model.parameters.gradients[:] = before = np.random.default_rng(seed).standard_normal(size).astype(dtype)
    leaf = torch.zeros(size, dtype=getattr(torch, dtype), requires_grad=True)
    leaf.grad = torch.tensor(before.copy())
    norm = optim.clip_gradients(model, max_norm, max_value)
    assert norm == pytest.approx(math.sqrt(math.fsum(before.astype(float) ** 2)), rel=1e-14)
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_([leaf], max_norm)
    if max_value is not None:
        torch.nn.utils.clip_grad_value_([leaf], max_value)
    np.testing.assert_allclose(model.parameters.gradients, leaf.grad.numpy(), rtol=4 * np.finfo(dtype).eps)
    scaled = before if max_norm is None or max_norm >= norm + 1e-6 else before * (max_norm / (norm + 1e-6))
    bound = np.inf if max_value is None else max_value
    np.testing.assert_array_equal(model.parameters.gradients, np.clip(scaled, -bound, bound))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_optim_clip_gradients_hides_nothing(bad):
    model = Model(3, "float32")
    model.parameters.gradients[:] = [1.0, bad, -3.0]
    assert not math.isfinite(optim.clip_gradients(model, max_value=1e300))
    np.testing.assert_array_equal(model.parameters.gradients, np.float32([1.0, bad, -3.0]))
    assert not math.isfinite(optim.clip_gradients(model, 1.0, 1.0))
    assert np.isnan(model.parameters.gradients[1])


# ---- schedules ----


def test_optim_schedules():
    assert [schedules.Constant(0.5)(step) for step in (0, 9)] == [0.5, 0.5]
    assert [schedules.StepDecay(2, 0.5)(step) for step in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert schedules.Exponential(0.9)(3) == 0.9**3
    cosine = schedules.Cosine(10, final=0.1)
    assert (cosine(0), cosine(5), cosine(10), cosine(99)) == pytest.approx((1, 0.55, 0.1, 0.1))
    assert [schedules.WarmUp(4)(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert schedules.WarmUp(4, after=cosine)(9) == cosine(5)
    others = schedules.Constant(2.0), schedules.StepDecay(3), schedules.Exponential(0.5), schedules.OneCycle(9)
    for schedule in (cosine, *others):
        assert repr(type(schedule)(**schedule.config())) == repr(schedule)
    assert repr(cosine) == "Cosine(total_steps=10, final=0.1)"


@pytest.mark.parametrize(("total", "pct_start"), [(1, 0.3), (2, 0.3), (10, 0.3), (37, 0.05), (20, 0.9), (10, 0.0)])
def test_optim_one_cycle_as_torch(total, pct_start):
    torch = pytest.importorskip("torch")
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        sgd, max_lr=2.0, total_steps=total, pct_start=pct_start, div_factor=10.0, cycle_momentum=False
    )
    ours = schedules.OneCycle(total, pct_start, div_factor=10.0)
    for step in range(total):
        assert 2.0 * ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        sgd.step()
        if step < total - 1:
            theirs.step()
    assert ours(total + 5) == ours(total - 1) == pytest.approx(1e-5)
    assert 0 < min(map(ours, range(total))) and max(map(ours, range(total))) <= 1


@pytest.mark.parametrize("name", ["momentum_buffer", "step", "lr"])
def test_optim_states_that_are_no_arrays_are_named(name):
    net = fastrnn.Linear(2, 1, seed=0)
    optimizer = fastrnn.SGD(0.1, momentum=0.9)
    optimizer.step(net)
    before = repr(optimizer.state_dict())
    with pytest.raises(TypeError, match=f"state_dict's {name}"):
        optimizer.load_state_dict(optimizer.state_dict() | {name: [1.0, [2.0, 3.0]]})
    assert repr(optimizer.state_dict()) == before
