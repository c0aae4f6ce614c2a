"""exp, tanh, sigmoid of vectors: error in units in the last place, bounds, and the special values."""

import numpy as np
import pytest

from fastrnn.kernels import pointwise
from fastrnn.kernels.jit import kernel
from fastrnn.kernels.simd import lanes, load, store

ULP_LIMIT = {"float32": 8, "float64": 4}
DTYPES = list(ULP_LIMIT)
NAMES = ["exp", "tanh", "sigmoid"]


def _over_array(name):
    function = getattr(pointwise, name)

    @kernel(name=f"test_{name}_over_array")
    def run(x, y):
        for at in range(0, x.size, lanes(x)):
            store(y, at, function(load(x, at)))

    return run


KERNELS = {name: _over_array(name) for name in NAMES}


def apply(name, x):
    """The function of a flat array, padded to whole vectors."""
    padded = np.zeros(-(-x.size // 64) * 64, x.dtype)
    padded[: x.size] = x
    y = np.empty_like(padded)
    KERNELS[name](padded, y)
    return y[: x.size]


def true_value(name, x):
    """In the next wider format."""
    wide = np.float64 if x.dtype == np.float32 else np.longdouble
    if wide is np.longdouble and np.finfo(wide).nmant < 60:
        pytest.skip("the platform has no format wider than float64")
    x = x.astype(wide)
    with np.errstate(over="ignore", under="ignore"):
        return {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v))}[name](x)


def ulp_error(y, true, dtype):
    """|y − true| in units of the last place of the true value."""
    _, exponent = np.frexp(true)
    return np.abs(y.astype(true.dtype) - true) / np.ldexp(np.ones_like(true), exponent - 1 - np.finfo(dtype).nmant)


def samples(dtype, seed=0):
    """All magnitudes of both signs (every 1000th bit pattern or so), and densely where the functions bend."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        bits = np.arange(rng.integers(1009), 2**32, 1009, dtype=np.uint32).view(np.float32)
    else:
        bits = rng.integers(0, 2**64, 1_000_000, dtype=np.uint64).view(np.float64)
    dense = [rng.uniform(-s, s, 250_000) for s in (0.01, 1, 10, 100, 800)]
    # around every multiple of ln 2 / 2, where the reduced argument is longest
    edges = (np.arange(-2100, 2101) * np.log(2) / 2)[:, None] * (1 + np.linspace(-4, 4, 9) * np.finfo(dtype).eps)
    x = np.concatenate([bits, *(d.astype(dtype) for d in dense), edges.ravel().astype(dtype)])
    return x[np.isfinite(x)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_pointwise_ulp(name, dtype, record_property):
    x = samples(dtype)
    true = true_value(name, x)
    normal = (np.abs(true) >= np.finfo(dtype).tiny) & (np.abs(true) <= np.finfo(dtype).max)
    error = ulp_error(apply(name, x)[normal], true[normal], dtype)
    worst = error.argmax()
    record_property("worst_ulp", float(error[worst]))
    print(f"{name} {dtype}: {float(error[worst]):.2f} ulp at {x[normal][worst]!r}, {error.size} samples")
    assert error[worst] <= ULP_LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_pointwise_exp_underflows_gradually(dtype):
    info = np.finfo(dtype)
    low = np.log(np.float64(info.smallest_subnormal))
    x = np.random.default_rng(1).uniform(low, np.log(np.float64(info.tiny)), 20_000).astype(dtype)
    y, true = apply("exp", x), true_value("exp", x)
    assert np.all(np.abs(y.astype(true.dtype) - true) <= 2 * true.dtype.type(info.smallest_subnormal))
    assert np.count_nonzero(y) > 19_000  # not flushed


@pytest.mark.parametrize("dtype", DTYPES)
def test_pointwise_bounds(dtype):
    x = np.sort(samples(dtype, 1))
    for name, low in (("tanh", -1), ("sigmoid", 0), ("exp", 0)):
        y = apply(name, x)
        assert not np.isnan(y).any(), name
        assert y.min() >= low, name
        if name != "exp":
            assert y.max() <= 1, name
    # where 1 − tanh² goes into a gradient, it must not turn negative just below saturation either
    near = np.linspace(5, 25, 400_000).astype(dtype)
    assert np.all(np.abs(apply("tanh", np.concatenate([near, -near]))) <= 1)
    assert np.all(apply("sigmoid", np.concatenate([2 * near, 30 * near])) <= 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pointwise_specials(dtype):
    info = np.finfo(dtype)
    largest, tiny, denormal = info.max, info.tiny, info.smallest_subnormal
    nan, inf = np.nan, np.inf
    x = np.array([nan, -nan, inf, -inf, largest, -largest, 0.0, -0.0, tiny, -tiny, denormal, -denormal], dtype)
    expected = {
        "exp": [nan, nan, inf, 0, inf, 0, 1, 1, 1, 1, 1, 1],
        "tanh": [nan, nan, 1, -1, 1, -1, 0, 0, tiny, -tiny, denormal, -denormal],
        "sigmoid": [nan, nan, 1, 0, 1, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    }
    for name in NAMES:
        y = apply(name, x)
        np.testing.assert_array_equal(y, np.array(expected[name], dtype), err_msg=name)
    assert list(np.signbit(apply("tanh", x)[6:])) == [False, True] * 3  # tanh keeps the sign, of zero too


@pytest.mark.parametrize("dtype", DTYPES)
def test_pointwise_tanh_is_odd(dtype):
    x = samples(dtype, 2)[:500_000]
    np.testing.assert_array_equal(apply("tanh", -x), -apply("tanh", x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_pointwise_lanes_are_independent(name, dtype):
    """A value does not depend on its lane or on its neighbours, be they NaN."""
    values = np.array([-3.7, 0.1, 1e-3, 20.5, 88.0], dtype)
    for value in values:
        rows = np.full((64, 64), np.nan, dtype)
        np.fill_diagonal(rows, value)
        y = apply(name, rows.ravel()).reshape(64, 64)
        assert np.unique(np.diag(y)).size == 1
        assert np.isnan(y).sum() == 64 * 63
