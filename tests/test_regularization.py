"""`ActivityRegularization` and variational dropout."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt

T, B, F, H = 6, 3, 4, 5
LENGTHS = np.array([6, 2, 4])
D = {"dtype": "float64"}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def valid(lengths, steps=T, batch=B):
    return np.ones((steps, batch), bool) if lengths is None else np.arange(steps)[:, None] < lengths


# ---- activity regularisation ----


def regularized(l2=0.3, l1=0.2, slowness=0.0, **options):
    return fastrnn.Sequential(
        fastrnn.LSTM(F, H, seed=1, **D),
        fastrnn.ActivityRegularization(l2, l1, slowness),
        fastrnn.Residual(fastrnn.Sequential(fastrnn.Linear(H, H, seed=2, **D), fastrnn.ActivityRegularization(0.1))),
        fastrnn.Linear(H, 2, seed=3, **D),
        **options,
    )


def penalty_of(model, x, lengths):
    """By NumPy, from the outputs of `model`'s own layers; time first."""
    there = valid(lengths, *x.shape[:2])
    hidden = model.layers[0].forward(x, lengths=lengths)[0]
    inner = model.layers[2].layers[0].layers[0].forward(hidden, lengths=lengths)[0][there]
    first, changes = model.layers[1], np.diff(hidden, axis=0)[there[1:]]
    size = first.l2 * (hidden[there] ** 2).sum() + first.l1 * abs(hidden[there]).sum()
    return size + first.slowness * (changes**2).sum() + 0.1 * (inner**2).sum()


@settings(max_examples=30)
@given(
    steps=st.integers(1, 6), batch=st.integers(1, 4), features=st.integers(1, 5), first=st.booleans(),
    ragged=st.booleans(), reset=st.booleans(), weights=st.tuples(*[st.floats(0, 2)] * 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_penalty_is_numpys(steps, batch, features, first, ragged, reset, weights, seed):
    l2, l1, slowness, scale = weights
    layer = fastrnn.ActivityRegularization(l2, l1, slowness, **D)
    layer.batch_first = first
    swap = (lambda a: a.swapaxes(0, 1).copy()) if first else (lambda a: a.copy())
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, batch) if ragged else None
    there = valid(lengths, steps, batch)[..., None]
    x, dy = rng.standard_normal((2, steps, batch, features))
    x[rng.random(x.shape) < 0.2] = 0
    given_x, given_dy = (swap(np.where(there, a, np.nan)) for a in (x, dy))  # padding is not read
    workspace = layer.workspace(steps, batch)
    expected = np.where(there, x, 0)
    resets = rng.random((steps, batch)) < 0.4 if reset else np.zeros((steps, batch), bool)
    options = {"lengths": lengths, "resets": swap(resets)}
    for y, _ in (layer.forward(given_x, **options), layer.forward(given_x, **options, workspace=workspace)):
        np.testing.assert_array_equal(y, swap(expected))
    y[:] = 7  # the caller's
    change = np.zeros_like(x)
    change[1:] = np.where(there[1:] & ~resets[1:, :, None], np.diff(x, axis=0), 0)
    total = l2 * (expected**2).sum() + l1 * abs(expected).sum() + slowness * (change**2).sum()
    np.testing.assert_allclose(workspace.penalty(), total, rtol=1e-12)
    workspace.penalty_scale = scale
    dx, _ = layer.backward(given_dy, workspace=workspace)
    change[:-1] -= change[1:].copy()
    slope = np.where(there, dy + scale * (2 * l2 * x + l1 * np.sign(x) + 2 * slowness * change), 0)
    np.testing.assert_allclose(dx, swap(slope), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_penalty_is_part_of_the_training_loss(reduction, lengths):
    model, loss = regularized(slowness=0.4), fastrnn.MSE(reduction=reduction)
    x, targets = normal(T, B, F), normal(T, B, 2, seed=1)
    mask = np.random.default_rng(2).random((T, B)) < 0.8
    valid_elements = 2 * np.count_nonzero(mask & valid(lengths)) if reduction == "mean" else 1
    value, _ = bptt.Full().gradients(model, loss, x, targets, lengths=lengths, mask=mask)
    data = loss(model.forward(x, lengths=lengths)[0], targets, mask=mask & valid(lengths))[0]
    np.testing.assert_allclose(value, data + penalty_of(model, x, lengths) / valid_elements, rtol=1e-12)
    trainer = fastrnn.Trainer(model, loss, fastrnn.SGD(0.0))
    np.testing.assert_allclose(trainer.step(x, targets, lengths=lengths, mask=mask)[0], value, rtol=1e-12)
    batch = {"x": x, "targets": targets, "lengths": lengths, "mask": mask}
    np.testing.assert_allclose(trainer.evaluate([batch]), data, rtol=1e-12)  # without it
    report = fastrnn.gradcheck(model, loss, x, targets, lengths=lengths, mask=mask, max_elements=40)
    assert report.ok, str(report)


def test_penalty_of_chunks():
    """An update's gradient is that of its chunk's loss and penalty; all together go by the whole's denominator."""
    model, loss = regularized(), fastrnn.MSE()
    x, targets = normal(T, B, F), normal(T, B, 2, seed=1)
    value, _ = bptt.Truncated(4).gradients(model, loss, x, targets)
    data = loss(model.forward(x)[0], targets)[0]
    np.testing.assert_allclose(value, data + penalty_of(model, x, None) / (T * B * 2), rtol=1e-12)
    whole = model.gradients_to_vector()
    model.zero_grad()
    trainer = fastrnn.Trainer(model, loss, fastrnn.SGD(0.0), bptt=bptt.Truncated(4))
    np.testing.assert_allclose(trainer.step(x, targets)[0], value, rtol=1e-12)
    last = model.gradients_to_vector()  # of steps 4 and 5 alone
    model.zero_grad()
    state = copy.deepcopy(model.forward(x[:4])[1])
    bptt.Full().gradients(model, loss, x[:4], targets[:4])
    np.testing.assert_allclose(whole, 4 / T * model.gradients_to_vector() + 2 / T * last, rtol=1e-10, atol=1e-14)
    model.zero_grad()
    bptt.Full().gradients(model, loss, x[4:], targets[4:], state)
    np.testing.assert_allclose(last, model.gradients_to_vector(), rtol=1e-12, atol=1e-15)


def test_penalty_off_is_nothing():
    model, x = regularized(0, 0), normal(T, B, F)
    model.layers[2].layers[0].layers[1].l2 = 0.0
    plain = fastrnn.Sequential(
        fastrnn.LSTM(F, H, **D), fastrnn.Residual(fastrnn.Linear(H, H, **D)), fastrnn.Linear(H, 2, **D)
    )
    plain.vector_to_parameters(model.parameters_to_vector())
    values = [bptt.Full().gradients(net, fastrnn.MSE(), x, normal(T, B, 2))[0] for net in (model, plain)]
    assert values[0] == values[1]
    np.testing.assert_array_equal(model.gradients_to_vector(), plain.gradients_to_vector())


def test_penalty_shrinks_the_activity():
    def activity(l2):
        model = regularized(l2, 0)
        x, targets = normal(T, B, F), normal(T, B, 2, seed=1)
        trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(0.01))
        for _ in range(100):
            trainer.step(x, targets)
        return (model.layers[0].forward(x)[0] ** 2).mean()

    assert activity(1.0) < 0.3 * activity(0.0)


def test_penalty_arguments():
    for name in ("l2", "l1", "slowness"):
        for wrong in (-0.1, np.inf, np.nan):
            with pytest.raises(ValueError, match=name):
                fastrnn.ActivityRegularization(**{name: wrong})
        for wrong in ("1", None, True):
            with pytest.raises(TypeError, match=name):
                fastrnn.ActivityRegularization(**{name: wrong})
    layer = fastrnn.ActivityRegularization(0.1, 0.2, 0.3)
    assert repr(copy.deepcopy(layer)) == repr(layer)
    assert repr(layer) == "ActivityRegularization(l2=0.1, l1=0.2, slowness=0.3)"
    np.testing.assert_array_equal(layer.step(np.ones(F, "f"))[0], np.ones(F))


def test_regularization_in_files(tmp_path):
    pytest.importorskip("safetensors")
    model = fastrnn.Sequential(fastrnn.ActivityRegularization(0.1, 0.2), fastrnn.Dropout(0.3, variational=True))
    fastrnn.save(model, tmp_path / "m")
    assert repr(fastrnn.load(tmp_path / "m")) == repr(model)


# ---- variational dropout ----


@settings(max_examples=30)
@given(
    steps=st.integers(1, 6), batch=st.integers(1, 4), features=st.integers(1, 5), first=st.booleans(),
    ragged=st.booleans(), p=st.floats(0, 0.9), seed=st.integers(0, 99),
)  # fmt: skip
def test_variational_dropout_has_one_mask_a_sequence(steps, batch, features, first, ragged, p, seed):
    layer = fastrnn.Dropout(p, variational=True, seed=seed, **D)
    layer.batch_first = first
    swap = (lambda a: a.swapaxes(0, 1).copy()) if first else (lambda a: a.copy())
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, batch) if ragged else None
    there = valid(lengths, steps, batch)[..., None]
    x, dy = np.where(there, rng.standard_normal((2, steps, batch, features)), np.nan)
    workspace = layer.workspace(steps + 1, batch + 1)
    mask = np.random.default_rng(seed).random((batch, features))
    factors = np.where(mask >= p, 1 / (1 - p), 0)
    y, _ = layer.forward(swap(x), lengths=lengths, workspace=workspace)
    np.testing.assert_allclose(y, swap(np.where(there, x * factors, 0)), rtol=1e-15)
    dx, _ = layer.backward(swap(dy), workspace=workspace)
    np.testing.assert_allclose(dx, swap(np.where(there, dy * factors, 0)), rtol=1e-15)
    np.testing.assert_array_equal(layer.forward(swap(x), lengths=lengths)[0], swap(np.where(there, x, 0)))


def test_variational_dropout_draws_anew_and_takes_vectors():
    layer, x = fastrnn.Dropout(0.5, variational=True, seed=0, **D), np.ones((T, 40, 30))
    workspace = layer.workspace(T, 40)
    first, second = (layer.forward(x, workspace=workspace)[0].copy() for _ in range(2))
    assert (first == first[0]).all() and (second == second[0]).all() and (first != second).any()
    assert abs(first.mean() - 1) < 0.15
    y, _ = layer.forward(x[0], workspace=workspace)
    assert y.shape == (40, 30) and set(np.unique(y)) == {0.0, 2.0}
    with pytest.raises(TypeError, match="variational"):
        fastrnn.Dropout(0.5, variational=1)


def test_variational_dropout_gradcheck():
    model = fastrnn.Sequential(
        fastrnn.Dropout(0.4, variational=True, seed=0), fastrnn.GRU(F, H, seed=1, **D),
        fastrnn.Dropout(0.4, variational=True, seed=2), fastrnn.Linear(H, 2, seed=3, **D),
    )  # fmt: skip
    report = fastrnn.gradcheck(model, fastrnn.MSE(), normal(T, B, F), normal(T, B, 2), lengths=LENGTHS, max_elements=40)
    assert report.ok, str(report)
