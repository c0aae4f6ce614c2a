import copy
import pickle
import threading
import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrnn import losses, threads
from fastrnn.kernels import losses as kernels

PINBALL = losses.Quantile((0.3,))  # one quantile a target: elementwise like the others
ELEMENTWISE = [losses.MSE(), losses.MAE(), losses.Huber(0.7), losses.BinaryCrossEntropy(), PINBALL]
DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


def naive_elementwise(loss, y, t):
    """Losses and derivatives, element by element, in float64."""
    d = y - t
    if isinstance(loss, losses.MSE):
        return d**2, 2 * d
    if isinstance(loss, losses.MAE):
        return abs(d), np.sign(d)
    if isinstance(loss, losses.Huber):
        delta = loss.config()["delta"]
        inside = abs(d) <= delta
        return np.where(inside, d**2 / 2, delta * (abs(d) - delta / 2)), np.where(inside, d, delta * np.sign(d))
    if isinstance(loss, losses.Quantile):
        (tau,) = loss.config()["quantiles"]
        return np.maximum(-tau * d, (1 - tau) * d), np.where(d > 0, 1 - tau, np.where(d < 0, -tau, 0))
    return np.maximum(y, 0) - y * t + np.log1p(np.exp(-abs(y))), 1 / (1 + np.exp(-y)) - t


def naive_cross_entropy(y, targets, smoothing):
    """Losses (N,) and gradients (N, C), row by row, in float64."""
    values, gradients = np.zeros(len(y)), np.zeros(y.shape)
    for r, target in enumerate(targets):
        shifted = y[r] - y[r].max()
        log_p = shifted - np.log(np.exp(shifted).sum())
        q = np.full(y.shape[1], smoothing / y.shape[1])
        q[target] += 1 - smoothing
        values[r], gradients[r] = -(q * log_p).sum(), np.exp(log_p) - q
    return values, gradients


def assert_close(actual, expected, dtype, terms=1e-2):
    """`terms`: the size of what was subtracted, if it can leave less than that."""
    scale = max(np.abs(expected).max(), terms)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def float_case(rng, shape, dtype):
    return (3 * rng.standard_normal(shape)).astype(dtype), rng.random(shape).astype(dtype)


# ---- values and gradients ----


@settings(max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([1, 2, 7, 15, 16, 17, 33, 64, 130, 1100]),
    st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from(["mean", "sum"]), st.sampled_from(DTYPES), st.booleans(),
)  # fmt: skip
def test_losses_cross_entropy_against_naive(seed, rows, classes, smoothing, reduction, dtype, masked):
    rng = np.random.default_rng(seed)
    y = (10 ** rng.uniform(-2, 2) * rng.standard_normal((rows, classes)) - 500 * rng.integers(2)).astype(dtype)
    targets = rng.integers(0, classes, rows)
    valid = rng.random(rows) < 0.6 if masked else np.ones(rows, bool)
    valid[rng.integers(rows)] = True
    values, gradients = naive_cross_entropy(y.astype(float), targets, smoothing)
    y[~valid] = np.nan
    denominator = valid.sum() if reduction == "mean" else 1
    ignored = np.where(valid, targets, -100)
    loss = losses.CrossEntropy(label_smoothing=smoothing, reduction=reduction)
    value, dy = loss(y, ignored)
    assert_close(value, values[valid].sum() / denominator, dtype)
    assert_close(dy, np.where(valid[:, None], gradients / denominator, 0), dtype, 1 / denominator)  # of probabilities
    assert dy.dtype == dtype and isinstance(value, float)
    by_mask = loss(y, np.where(valid, targets, 12345), mask=valid)
    assert by_mask[0] == value and np.array_equal(by_mask[1], dy)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32), st.sampled_from(ELEMENTWISE), st.sampled_from(DTYPES), st.integers(0, 3),
    st.lists(st.sampled_from([1, 2, 5, 17, 33]), min_size=1, max_size=3),
)  # fmt: skip
def test_losses_elementwise_against_naive(seed, loss, dtype, mask_dims, shape):
    rng = np.random.default_rng(seed)
    y, targets = float_case(rng, shape, dtype)
    mask = rng.random(shape[:mask_dims]) < 0.6 if 0 < mask_dims <= len(shape) else None
    valid = np.ones(shape, bool)
    if mask is not None:
        mask.flat[rng.integers(mask.size)] = True
        valid &= mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    values, slopes = naive_elementwise(loss, y.astype(float), targets.astype(float))
    y[~valid] = targets[~valid] = np.nan
    value, dy = loss(y, targets, mask=mask)
    assert_close(value, values[valid].mean(), dtype)
    assert_close(dy, np.where(valid, slopes, 0) / valid.sum(), dtype)
    assert loss.count(y, targets, mask) == valid.sum()
    summed, _ = type(loss)(**{**loss.config(), "reduction": "sum"})(y, targets, mask=mask)
    assert_close(summed, values[valid].sum(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_against_torch(dtype, reduction):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(3)
    y, t = float_case(rng, (5, 4, 19), dtype)
    classes = rng.integers(0, 19, (5, 4))
    classes[rng.random((5, 4)) < 0.3] = -7
    cases = [
        (losses.MSE, {}, t, functional.mse_loss, {}),
        (losses.MAE, {}, t, functional.l1_loss, {}),
        (losses.Huber, {"delta": 0.5}, t, functional.huber_loss, {"delta": 0.5}),
        (losses.BinaryCrossEntropy, {}, t, functional.binary_cross_entropy_with_logits, {}),
    ]
    for smoothing in (0.0, 0.2):
        config = {"ignore_index": -7, "label_smoothing": smoothing}
        cases.append((losses.CrossEntropy, config, classes, functional.cross_entropy, config))
    for make, config, targets, theirs, their_config in cases:
        value, dy = make(**config, reduction=reduction)(y, targets)
        leaf = torch.tensor(y, requires_grad=True)
        flat = targets.ndim == 2
        expected = theirs(
            leaf.reshape(-1, 19) if flat else leaf,
            torch.tensor(targets).reshape(-1) if flat else torch.tensor(targets),
            reduction=reduction,
            **their_config,
        )
        expected.backward()
        assert_close(value, expected.item(), dtype)
        assert_close(dy, leaf.grad.numpy(), dtype)


@pytest.mark.parametrize("loss", [*ELEMENTWISE, losses.CrossEntropy(), losses.CrossEntropy(label_smoothing=0.1)])
def test_losses_central_differences(loss):
    rng = np.random.default_rng(0)
    y, targets = float_case(rng, (4, 7), "float64")
    if isinstance(loss, losses.CrossEntropy):
        targets = rng.integers(0, 7, 4)
    mask = np.array([True, False, True, True])
    _, dy = loss(y, targets, mask=mask)
    numeric, eps = np.zeros_like(y), 1e-6
    for index in np.ndindex(y.shape):
        step = np.zeros_like(y)
        step[index] = eps
        numeric[index] = (loss(y + step, targets, mask=mask)[0] - loss(y - step, targets, mask=mask)[0]) / (2 * eps)
    np.testing.assert_allclose(dy, numeric, rtol=0, atol=1e-8 * np.abs(dy).max() + 1e-10)


# ---- quantiles ----


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 3), st.sampled_from(["mean", "sum"]),
    st.sampled_from(DTYPES), st.tuples(*[st.integers(1, n) for n in (5, 4, 6)]),
)  # fmt: skip
def test_losses_quantile_against_naive(seed, count, mask_dims, reduction, dtype, shape):
    rng = np.random.default_rng(seed)
    levels = tuple(np.sort(rng.uniform(0.01, 0.99, count)))
    y, _ = float_case(rng, (*shape, count), dtype)
    targets, _ = float_case(rng, shape, dtype)
    weights = rng.uniform(0.5, 2, shape[:mask_dims]) * (rng.random(shape[:mask_dims]) < 0.7) if mask_dims else None
    full = np.ones((*shape, 1))
    if mask_dims:
        weights.flat[0] = 1
        full = full * weights.reshape(weights.shape + (1,) * (4 - mask_dims))
    d = targets[..., None].astype(float) - y
    values = np.maximum(np.array(levels) * d, (np.array(levels) - 1) * d)
    slopes = np.where(d > 0, -np.array(levels), 1 - np.array(levels))
    targets[full[..., 0] == 0] = np.nan
    loss = losses.Quantile(levels, reduction=reduction)
    value, dy = loss(y.reshape(*shape[:2], -1), targets, mask=weights)
    wanted = full.sum() * count if reduction == "mean" else 1
    assert_close(value, (full * values).sum() / wanted, dtype)
    assert_close(dy.reshape(y.shape), full * slopes / wanted, dtype)


def test_losses_quantile_is_least_at_the_quantiles():
    sample = np.random.default_rng(0).exponential(size=(2001, 1))
    levels = np.array([0.1, 0.5, 0.95])
    best = np.quantile(sample, levels)
    _, slope = losses.Quantile(levels)(np.tile(best, (2001, 1)), sample)
    assert np.abs(slope.sum(0)).max() < 1 / 2001
    loss = losses.Quantile(levels, reduction="sum")
    for shift in (-0.01, 0.01):
        assert loss(np.tile(best + shift, (2001, 1)), sample)[0] > loss(np.tile(best, (2001, 1)), sample)[0]


def test_losses_quantile_of_one_half_is_half_the_absolute_error():
    y, targets = float_case(np.random.default_rng(0), (3, 4, 19), "float64")
    y[0] = targets[0]  # slope 0 at 0
    (value, dy), (twice, slope) = losses.Quantile((0.5,))(y, targets), losses.MAE()(y, targets)
    assert value == pytest.approx(twice / 2, rel=1e-14)
    np.testing.assert_allclose(dy, slope / 2, rtol=1e-14)


def test_losses_quantile_refuses():
    for quantiles in ((), (0.5, 0.1), (0.1, 0.1), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ValueError, match="quantiles"):
            losses.Quantile(quantiles)
    for quantiles in (0.5, "0.5", (True,), ("a",)):
        with pytest.raises(TypeError, match="quantiles"):
            losses.Quantile(quantiles)
    loss = losses.Quantile((0.1, 0.9))
    with pytest.raises(ValueError, match="multiple of 2 elements in its last dimension, got 5"):
        loss(np.zeros((3, 5)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="targets must have shape"):
        loss(np.zeros((3, 6)), np.zeros((3, 6)))


# ---- weights, and the mean over sequences ----


def denominator(reduction, weights, sequences):
    return {"mean": weights.sum(), "sum": 1, "sequence": sequences}[reduction]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([*ELEMENTWISE, losses.CrossEntropy(label_smoothing=0.1)]),
    st.sampled_from(DTYPES), st.sampled_from(["mean", "sum", "sequence"]), st.integers(1, 3), st.booleans(),
    st.sampled_from(["float16", "float32", "float64"]), st.tuples(*[st.integers(1, n) for n in (5, 4, 19)]),
)  # fmt: skip
def test_losses_weights_against_naive(seed, loss, dtype, reduction, mask_dims, batch_first, mask_dtype, shape):
    rng = np.random.default_rng(seed)
    y, targets = float_case(rng, shape, dtype)
    of_classes = isinstance(loss, losses.CrossEntropy)
    weights = (rng.uniform(0, 3, shape[: min(mask_dims, 2 if of_classes else 3)])).astype(mask_dtype)
    weights[rng.random(weights.shape) < 0.3] = 0
    weights.flat[0] = 1.5
    full = np.broadcast_to(
        weights.reshape(weights.shape + (1,) * (3 - weights.ndim)), (*shape[:2], 1) if of_classes else shape
    ).astype(float)
    if of_classes:
        targets = rng.integers(0, shape[2], shape[:2])
        values, slopes = naive_cross_entropy(y.reshape(-1, shape[2]).astype(float), targets.reshape(-1), 0.1)
        values, slopes = values.reshape(*shape[:2], 1), slopes.reshape(shape)
        targets = np.where(full[..., 0] > 0, targets, 12345)
    else:
        values, slopes = naive_elementwise(loss, y.astype(float), targets.astype(float))
        targets[full == 0] = np.nan
    y[np.broadcast_to(full, shape) == 0] = np.nan
    wanted = denominator(reduction, full, shape[0 if batch_first else 1])
    value, dy = type(loss)(**{**loss.config(), "reduction": reduction, "batch_first": batch_first})(
        y, targets, mask=weights
    )
    assert_close(value, (full * values).sum() / wanted, dtype)
    assert_close(dy, full * slopes / wanted, dtype, full.max() / wanted)
    assert loss.count(y, targets, weights) == pytest.approx(full.sum(), rel=1e-14)


def test_losses_weights_of_one_are_a_mask():
    y, mask, cases = all_cases((9, 5))
    for loss, targets in cases:
        value, dy = loss(y, targets, mask=mask)
        weighted, weighted_dy = loss(y, targets, mask=mask.astype("float32"))
        assert value == weighted and np.array_equal(dy, weighted_dy)


def test_losses_weights_as_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(3)
    (y, t), classes, weights = float_case(rng, (5, 4, 19), "float64"), rng.integers(0, 19, (5, 4)), rng.random((5, 4))
    for loss, theirs, targets in (
        (losses.MSE, functional.mse_loss, t),
        (losses.MAE, functional.l1_loss, t),
        (losses.Huber, functional.huber_loss, t),
        (losses.BinaryCrossEntropy, functional.binary_cross_entropy_with_logits, t),
        (losses.CrossEntropy, lambda y, t, **k: functional.cross_entropy(y.movedim(-1, 1), t, **k)[..., None], classes),
    ):
        for reduction in ("mean", "sum", "sequence"):
            leaf = torch.tensor(y, requires_grad=True)
            each = theirs(leaf, torch.tensor(targets), reduction="none") * torch.tensor(weights)[..., None]
            expected = each.sum() / denominator(reduction, np.broadcast_to(weights[..., None], each.shape), 4)
            expected.backward()
            value, dy = loss(reduction=reduction)(y, targets, mask=weights)
            assert value == pytest.approx(expected.item(), rel=1e-13)
            np.testing.assert_allclose(dy, leaf.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_losses_weights_do_not_depend_on_padding_or_threads():
    y, _, cases = all_cases((150, 32))
    weights = np.random.default_rng(0).random((150, 32))
    padded = np.zeros((150, 32))
    padded[:140, :30] = weights[:140, :30]
    before = threads.get_num_threads()
    for loss, targets in cases:
        value, dy = loss(y[:140, :30], targets[:140, :30], mask=weights[:140, :30])
        try:
            threads.set_num_threads(1)
            same, same_dy = loss(y, targets, mask=padded)
        finally:
            threads.set_num_threads(before)
        assert value == same and np.array_equal(dy, same_dy[:140, :30])


def test_losses_mean_over_sequences():
    y, _, cases = all_cases((6, 4), dtype="float64")
    for loss, targets in cases:
        make, config = type(loss), {**loss.config(), "reduction": "sequence"}
        summed, slopes = make(**{**config, "reduction": "sum"})(y, targets)
        for given_y, given_targets, batch_first, sequences in (
            (y, targets, False, 4), (y, targets, True, 6), (y[0], targets[0], False, 4), (y[0], targets[0], True, 4)
        ):  # fmt: skip
            value, dy = make(**{**config, "batch_first": batch_first})(given_y, given_targets)
            part, _ = make(**{**config, "reduction": "sum"})(given_y, given_targets)
            assert value == part / sequences
            if given_y is y:
                np.testing.assert_allclose(dy, slopes / sequences, rtol=1e-14)
        out = np.ones((1, *y.shape))
        with pytest.raises(ValueError, match="y must have 2 or 3 dimensions"):
            make(**config)(y[None], targets[None], out=out)
        assert (out == 1).all()


# ---- extreme values ----


def test_losses_cross_entropy_extreme_logits():
    loss = losses.CrossEntropy(reduction="sum")
    value, dy = loss(np.array([[1e30, -1e30, 0.0]], np.float32), [0])
    assert value == 0 and np.array_equal(dy, [[0, 0, 0]])
    value, dy = loss(np.array([[-np.inf, 1.0, 1.0]]), [1])
    assert value == pytest.approx(np.log(2)) and np.allclose(dy, [[0, -0.5, 0.5]])
    value, dy = loss(np.array([[-np.inf, 1.0]]), [0])
    assert value == np.inf and np.array_equal(dy, [[-1, 1]])
    smoothed, _ = losses.CrossEntropy(label_smoothing=0.1)(np.array([[-np.inf, 1.0]]), [1])
    assert smoothed == np.inf


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 16, 18])
def test_losses_nan_and_inf_stay_visible(dtype, bad, at):
    y, targets = np.zeros((3, 19), dtype), np.full((3, 19), 0.5, dtype)
    y[1, at] = bad
    value, dy = losses.CrossEntropy()(y, [0, 1, 2])
    assert np.isnan(value) and np.isnan(dy[1]).all() and np.isfinite(dy[[0, 2]]).all()
    for loss in ELEMENTWISE:
        value, dy = loss(y, targets)
        assert not np.isfinite(value)
        if np.isnan(bad):
            assert np.isnan(dy[1, at])
        assert np.isfinite(np.delete(dy, 19 + at)).all()


def test_losses_huber_slope_at_infinity():
    _, dy = losses.Huber(2.0, reduction="sum")(np.array([np.inf, -np.inf, 1.0]), np.zeros(3))
    assert np.array_equal(dy, [2, -2, 1])


def test_losses_binary_cross_entropy_large_logits():
    value, dy = losses.BinaryCrossEntropy(reduction="sum")(np.array([800.0, -800.0, 800.0]), np.array([1.0, 0.0, 0.0]))
    assert value == 800 and np.array_equal(dy, [0, 0, 1])
    value, _ = losses.BinaryCrossEntropy()(np.array([2.0, -1.0]), np.array([True, False]))
    assert value == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2, rel=1e-14)


# ---- memory, threads, copies ----


def all_cases(shape=(150, 32), width=33, dtype="float32"):
    rng = np.random.default_rng(1)
    y, targets = float_case(rng, (*shape, width), dtype)
    mask = rng.random(shape) < 0.7
    return y, mask, [(loss, targets) for loss in ELEMENTWISE] + [(losses.CrossEntropy(), rng.integers(0, width, shape))]


def test_losses_do_not_depend_on_threads():
    y, mask, cases = all_cases()
    before = threads.get_num_threads()
    for loss, targets in cases:
        results = []
        try:
            for n in {1, before}:
                threads.set_num_threads(n)
                results.append(loss(y, targets, mask=mask))
        finally:
            threads.set_num_threads(before)
        assert len({value for value, _ in results}) == 1
        assert all(np.array_equal(dy, results[0][1]) for _, dy in results)


def test_losses_do_not_depend_on_padding():
    y, _, cases = all_cases((9, 5))
    for loss, targets in cases:
        value, dy = loss(y[:6, :4], targets[:6, :4])
        mask = np.zeros((9, 5), bool)
        mask[:6, :4] = True
        padded_value, padded_dy = loss(y, targets, mask=mask)
        assert padded_value == value and np.array_equal(padded_dy[:6, :4], dy)


def test_losses_out_may_overlap_anything():
    y, mask, cases = all_cases((6, 4), dtype="float64")
    for loss, targets in cases:
        value, dy = loss(y, targets, mask=mask)
        out = y.copy()
        got, returned = loss(out, targets, mask=mask, out=out)
        assert got == value and returned is out and np.array_equal(out, dy)

        memory = np.zeros(y.size + 5)
        shifted, out = memory[5:].reshape(y.shape), memory[:-5].reshape(y.shape)
        shifted[:] = y
        assert loss(shifted, targets, mask=mask, out=out)[0] == value and np.array_equal(out, dy)

        if targets.dtype == np.float64:
            out = targets.copy()
            assert loss(y, out, mask=mask, out=out)[0] == value and np.array_equal(out, dy)

        strided = np.asfortranarray(y)
        out = np.empty_like(dy)
        assert loss(strided, targets.astype(targets.dtype.newbyteorder()), mask=mask[:], out=out)[0] == value
        assert np.array_equal(out, dy)
        read_only = y.view()
        read_only.flags.writeable = False
        assert loss(read_only, targets, mask=mask)[0] == value


def test_losses_convert_other_precisions():
    y, _, cases = all_cases((3, 2))
    for loss, targets in cases:
        value, dy = loss(y.astype(np.float16), targets)
        assert dy.dtype == np.float32 and value == loss(y.astype(np.float16).astype(np.float32), targets)[0]
        if targets.dtype.kind == "f":
            assert loss(y, targets.astype(np.float64))[0] == loss(y, targets)[0]
        else:
            for dtype in (np.uint8, np.int16, np.uint64):
                assert loss(y, targets.astype(dtype))[0] == loss(y, targets)[0]


def test_losses_allocate_nothing_that_grows():
    y, mask, cases = all_cases()
    y32 = y[::-1]  # to be copied
    out = np.empty_like(y)
    for loss, targets in cases:
        targets = targets.astype("float64" if targets.dtype.kind == "f" else "int32")
        mask_view = mask[:, ::-1]
        loss(y32, targets, mask=mask_view, out=out)
        loss.count(y32, targets, mask_view)
        tracemalloc.start()
        for _ in range(3):
            loss(y32, targets, mask=mask_view, out=out)
            loss.count(y32, targets, mask_view)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 70_000  # NumPy converts through buffers of 8192 elements


def test_losses_serve_several_threads():
    y, mask, cases = all_cases((20, 8))
    failures = []

    def work(loss, targets, rows):
        expected = loss(y[:rows].copy(), targets[:rows], mask=mask[:rows])
        for _ in range(20):
            value, dy = loss(y[:rows], targets[:rows].tolist(), mask=mask[:rows])
            if value != expected[0] or not np.array_equal(dy, expected[1]):
                failures.append(rows)

    loss, targets = cases[-1]
    workers = [threading.Thread(target=work, args=(loss, targets, rows)) for rows in (20, 11)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_losses_config_copies():
    for loss in (
        losses.CrossEntropy(ignore_index=3, label_smoothing=0.1),
        losses.Huber(2.0, reduction="sum"),
        losses.Quantile(),
    ):
        for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), type(loss)(**loss.config())):
            assert twin.config() == loss.config() and repr(twin) == repr(loss)
    assert repr(losses.Huber(2.0)) == "Huber(delta=2.0, reduction='mean', batch_first=False)"


def test_losses_evaluate_by_denominator():
    y, mask, cases = all_cases((6, 4))
    for loss, targets in cases:
        value, dy = loss(y, targets, mask=mask)
        whole = loss.count(y, targets, mask)
        parts = [loss.evaluate(y[s], targets[s], mask[s], None, whole) for s in (slice(0, 2), slice(2, 6))]
        assert sum(total for total, _, _ in parts) / whole == pytest.approx(value, rel=1e-12)
        assert sum(count for _, count, _ in parts) == whole
        np.testing.assert_allclose(np.concatenate([part for _, _, part in parts]), dy, rtol=1e-6)
        total, count, dy = loss.evaluate(y, targets, np.zeros((6, 4), bool), None, 5)
        assert (total, count) == (0, 0) and not dy.any()


def test_losses_kernels_inside_njit():
    @numba.njit
    def twice(y, targets, mask, out, partial):
        return 2 * kernels.squared_error(y, targets, mask, 1.0, 1.0, out, partial, 2)

    y, targets = float_case(np.random.default_rng(0), (3, 5), "float64")
    total = twice(y, targets, np.zeros(0, np.bool_), np.empty_like(y), np.empty(3))
    assert total == pytest.approx(2 * ((y - targets) ** 2).sum())


# ---- refused arguments ----

Y = np.zeros((3, 2, 5), np.float32)
CLASSES = np.zeros((3, 2), np.int64)


@pytest.mark.parametrize(
    ("y", "targets", "kwargs", "error", "words"),
    [
        (np.zeros((3, 5), int), [0, 0, 0], {}, TypeError, "y must hold floating-point"),
        (np.zeros((3, 5), complex), [0, 0, 0], {}, TypeError, "y must hold floating-point"),
        (np.float64(1), 0, {}, ValueError, "at least one dimension"),
        (np.zeros((0, 5)), np.zeros(0, int), {}, ValueError, "y must"),
        (Y, CLASSES.astype(float), {}, TypeError, "targets must hold integers"),
        (Y, CLASSES[:2], {}, ValueError, "targets must have shape"),
        (Y, CLASSES + 5, {}, ValueError, r"\[0, 5\)"),
        (Y, CLASSES - 1, {}, ValueError, r"\[0, 5\)"),
        (Y, np.full((3, 2), 2**64 - 100, np.uint64), {}, ValueError, r"\[0, 5\)"),
        (Y, CLASSES - 100, {}, ValueError, "valid"),
        (Y, CLASSES, {"mask": np.zeros((3, 2), bool)}, ValueError, "valid"),
        (Y, CLASSES, {"mask": np.ones((3, 3), bool)}, ValueError, "mask must have shape"),
        (Y, CLASSES, {"mask": np.ones((3, 2, 5), bool)}, ValueError, "mask must have shape"),
        (Y, CLASSES, {"mask": np.ones((3, 2), int)}, TypeError, "mask must hold booleans"),
        (Y, CLASSES, {"mask": np.zeros((3, 2))}, ValueError, "valid"),
        (Y, CLASSES, {"mask": np.full((3, 2), -1.0)}, ValueError, "weights of at least 0, got -1.0"),
        (Y, CLASSES, {"mask": np.array([1, 1, np.nan])}, ValueError, "finite weights"),
        (Y, CLASSES, {"mask": np.array([1, np.inf, 1])}, ValueError, "finite weights"),
        (Y, CLASSES, {"mask": np.full((3, 2), 1e308)}, ValueError, "mask must hold weights of a finite sum"),
        (Y, CLASSES, {"mask": np.full((3, 2), 1e-310)}, ValueError, "valid"),  # kernels take denormals for zero
        (Y, CLASSES, {"mask": True}, ValueError, "mask must have shape"),
        (Y, CLASSES, {"out": np.zeros((3, 2, 5))}, TypeError, "out must have dtype"),
        (Y, CLASSES, {"out": np.zeros((3, 2, 4), np.float32)}, ValueError, "out must have shape"),
        (Y, CLASSES, {"out": np.zeros((5, 2, 3), np.float32).T}, ValueError, "contiguous"),
        (Y, CLASSES, {"out": [0.0]}, TypeError, "out must be a NumPy array"),
    ],
)
def test_losses_cross_entropy_refuses(y, targets, kwargs, error, words):
    with pytest.raises(error, match=words):
        losses.CrossEntropy()(y, targets, **kwargs)


@pytest.mark.parametrize("ignored", [-1, -100, 2**63 - 1])
def test_losses_cross_entropy_refuses_targets_beyond_int64(ignored):
    targets = np.full((3, 2), 2**64 - 1, np.uint64)
    with pytest.raises(ValueError, match="got 18446744073709551615"):
        losses.CrossEntropy(ignore_index=ignored)(Y, targets)


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_losses_elementwise_refuse(loss):
    for targets, error in ((np.zeros((3, 2, 5), int), TypeError), (np.zeros((3, 2)), ValueError)):
        with pytest.raises(error, match="targets must"):
            loss(Y, targets)
    with pytest.raises(ValueError, match="valid"):
        loss(Y, Y, mask=np.zeros(3, bool))
    assert loss.count(Y, Y, np.zeros(3, bool)) == 0


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_losses_refused_content_changes_nothing(bad):
    y = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        losses.BinaryCrossEntropy()(y, np.array([[0.5, 0.5, 0.5], [0.5, bad, 0.5]]), out=y)
    with pytest.raises(ValueError, match="targets"):
        losses.CrossEntropy()(y.T, [0, 1, 2], out=np.ones((3, 2)))
    assert np.array_equal(y, np.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: losses.CrossEntropy(label_smoothing=1.5), ValueError),
        (lambda: losses.CrossEntropy(ignore_index=0.5), TypeError),
        (lambda: losses.CrossEntropy(ignore_index=2**63), ValueError),
        (lambda: losses.MSE(reduction="none"), ValueError),
        (lambda: losses.MSE(reduction="sequence", batch_first=1), TypeError),
        (lambda: losses.Huber(0.0), ValueError),
        (lambda: losses.Huber("1"), TypeError),
    ],
)
def test_losses_constructors_refuse(make, error):
    with pytest.raises(error):
        make()
