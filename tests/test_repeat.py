"""`Repeat`, and the shapes it makes possible: one-to-many, many-to-one, the sequence autoencoder."""

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


def one_to_many(steps=T, **options):
    return fastrnn.Sequential(
        fastrnn.Repeat(steps), fastrnn.LSTM(F, H, seed=1, **D), fastrnn.Linear(H, 2, seed=2, **D), **options
    )


def many_to_one(**options):
    return fastrnn.Sequential(
        fastrnn.GRU(F, H, seed=1, **D), fastrnn.Last(), fastrnn.Linear(H, 2, seed=2, **D), **options
    )


def autoencoder(steps=T, **options):
    return fastrnn.Sequential(
        fastrnn.LSTM(F, H, seed=1, **D),
        fastrnn.Last(),
        fastrnn.Repeat(steps),
        fastrnn.LSTM(H, H, seed=2, **D),
        fastrnn.Linear(H, F, seed=3, **D),
        **options,
    )


# ---- the layer ----


@settings(max_examples=30)
@given(
    steps=st.integers(1, 9), batch=st.integers(1, 5), features=st.integers(1, 5), first=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_repeat_is_numpys(steps, batch, features, first, dtype, seed):
    layer = fastrnn.Repeat(steps, dtype=dtype)
    layer.batch_first = first
    x = normal(batch, features, seed=seed).astype(dtype)
    expected = np.repeat(x[:, None] if first else x[None], steps, axis=1 if first else 0)
    workspace = layer.workspace(1, batch + 1)
    for y, state in (layer.forward(x), layer.forward(x, workspace=workspace)):
        np.testing.assert_array_equal(y, expected)
        assert y.dtype == dtype and state is None
    dy = normal(*expected.shape, seed=seed + 1).astype(dtype)
    dx, _ = layer.backward(dy, workspace=workspace)
    total = np.zeros(x.shape, dtype)
    for t in range(steps):
        total += dy[:, t] if first else dy[t]
    np.testing.assert_array_equal(dx, total)  # in the order of the steps, whatever the batch


def test_repeat_refusals():
    layer = fastrnn.Repeat(T)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="steps"):
            fastrnn.Repeat(wrong)
    for wrong in (2.0, None, "2", True):
        with pytest.raises(TypeError, match="steps"):
            fastrnn.Repeat(wrong)
    for shape in ((T, B, F), (F,), (0, F), (B, 0)):
        with pytest.raises(ValueError, match="x"):
            layer.forward(np.zeros(shape, "f"))
    with pytest.raises(TypeError, match="x"):
        layer.forward(np.zeros((B, F), int))
    with pytest.raises(ValueError, match="no single step"):
        layer.step(np.zeros((B, F), "f"))
    with pytest.raises(ValueError, match="no single step"):
        one_to_many().step(normal(B, F))
    with pytest.raises((MemoryError, ValueError)):
        fastrnn.Repeat(10**12).forward(np.zeros((B, F), "f"))
    for chain, match in (
        ((fastrnn.GRU(F, H), fastrnn.Repeat(T)), "layer 1, Repeat, does not fit: .* gets sequences"),
        ((fastrnn.Repeat(T), fastrnn.Repeat(T)), "layer 1, Repeat"),
        ((fastrnn.Embedding(F, H), fastrnn.Repeat(T)), "layer 1, Repeat"),
        ((fastrnn.Repeat(T), fastrnn.Last(), fastrnn.GRU(F, H)), "layer 2, GRU"),
    ):
        with pytest.raises(ValueError, match=match):
            fastrnn.Sequential(*chain)
    with pytest.raises(ValueError, match="x must have 2 dimensions"):
        fastrnn.Sequential(fastrnn.Tanh(**D), *[fastrnn.Repeat(T)]).forward(normal(T, B, F))


# ---- models ----


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("steps", [3, T, 9])
def test_autoencoder_is_its_layers(steps, batch_first):
    """Before the pooling the sequences' lengths count, after it all steps are valid."""
    model = autoencoder(steps, batch_first=batch_first)
    swap = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
    x = normal(T, B, F)
    for b, n in enumerate(LENGTHS):
        x[n:, b] = np.nan
    workspace = model.workspace(T + 2, B)
    y, state = model.forward(swap(x), lengths=LENGTHS, workspace=workspace)
    np.testing.assert_array_equal(y, model.forward(swap(x), lengths=LENGTHS)[0])
    plain = autoencoder(steps)
    read, last, _, write, out = plain.layers
    encoded = last.forward(read.forward(x, lengths=LENGTHS)[0], lengths=LENGTHS)[0]
    hidden, final = write.forward(np.repeat(encoded[None], steps, axis=0))
    np.testing.assert_array_equal(swap(y), out.forward(hidden)[0])
    np.testing.assert_array_equal(state[3][0], final[0])
    dx, dstate = model.backward(np.ones(y.shape), workspace=workspace)
    assert [d is None for d in dstate] == [False, True, True, False, True]
    for b, n in enumerate(LENGTHS):
        alone = model.forward(swap(x[:n, b : b + 1]))[0]
        np.testing.assert_array_equal(swap(alone)[:, 0], swap(y)[:, b])
        assert swap(dx)[:n, b].any() and not swap(dx)[n:, b].any()


@pytest.mark.parametrize("batch_first", [False, True])
def test_shapes_in_gradcheck(batch_first):
    def ordered(*shape, seed=0):
        array = normal(*shape, seed=seed)
        return array.swapaxes(0, 1).copy() if batch_first else array

    cases = [
        (one_to_many(batch_first=batch_first), normal(B, F), ordered(T, B, 2, seed=1), {}),
        (one_to_many(batch_first=batch_first), normal(B, F), ordered(T, B, 2, seed=1), {"lengths": [1] * B}),
        (many_to_one(batch_first=batch_first), ordered(T, B, F), normal(B, 2, seed=1), {"lengths": LENGTHS}),
        (autoencoder(8, batch_first=batch_first), ordered(T, B, F), ordered(8, B, F, seed=1), {"lengths": LENGTHS}),
        (autoencoder(2, batch_first=batch_first), ordered(T, B, F), ordered(2, B, F, seed=1), {"lengths": LENGTHS}),
    ]
    for model, x, targets, options in cases:
        mask = np.random.default_rng(0).random(targets.shape[:2] if targets.ndim > 2 else B) < 0.7
        mask.flat[0] = True
        report = fastrnn.gradcheck(model, fastrnn.MSE(), x, targets, mask=mask, max_elements=40, **options)
        assert report.ok and "x" in report.errors, str(report)


def test_lengths_do_not_mask_the_loss_behind_a_repeat():
    model, x = autoencoder(), normal(T, B, F)
    y = model.forward(x, lengths=LENGTHS)[0]
    value, _ = bptt.Full().gradients(model, fastrnn.MSE(), x, np.zeros_like(y), lengths=LENGTHS)
    assert value == fastrnn.MSE()(y, np.zeros_like(y))[0]
    valid = np.arange(T)[:, None] < LENGTHS  # who wants it says so
    value, _ = bptt.Full().gradients(model, fastrnn.MSE(), x, np.zeros_like(y), lengths=LENGTHS, mask=valid)
    assert value == fastrnn.MSE()(y, np.zeros_like(y), mask=valid)[0]


def test_rules_that_cut_refuse_it():
    for model, x in ((one_to_many(), normal(B, F)), (autoencoder(), normal(T, B, F))):
        targets = model.forward(x)[0]
        with pytest.raises(ValueError, match="cuts sequences, and (Repeat|Last)"):
            bptt.Truncated(2).gradients(model, fastrnn.MSE(), x, targets)
        with pytest.raises(ValueError, match="cuts sequences"):
            fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.SGD(0.1), bptt=bptt.Truncated(2))


def test_repeat_in_files_and_pickles(tmp_path):
    pytest.importorskip("safetensors")
    model = autoencoder(batch_first=True)
    fastrnn.save(model, tmp_path / "m")
    loaded, x = fastrnn.load(tmp_path / "m"), normal(B, T, F)
    assert repr(loaded) == repr(model)
    np.testing.assert_array_equal(loaded.forward(x)[0], model.forward(x)[0])


# ---- training ----


def falls(model, loss, batches, to, epochs=60):
    trainer = fastrnn.Trainer(model, loss, fastrnn.Adam(0.03), clip_norm=1.0)
    history = trainer.fit(batches, epochs=epochs, progress=False)
    assert trainer.evaluate(batches) < to * history[0]["loss"]


def test_one_to_many_learns_curves():
    """The phase of a wave is given once, and the wave comes out."""
    phase = normal(8, 1)
    x = np.concatenate([np.sin(phase), np.cos(phase), phase * 0, phase * 0], axis=1)
    wave = np.stack([np.sin(0.5 * np.arange(T)[:, None] + phase.T), np.cos(0.5 * np.arange(T)[:, None] + phase.T)], -1)
    falls(one_to_many(), fastrnn.MSE(), [(x, wave)], 0.1, epochs=150)


def test_many_to_one_learns_to_classify():
    """Which of two features has the larger sum over a sequence of its own length."""
    x, lengths = normal(20, 16, F), np.random.default_rng(1).integers(3, 21, 16)
    sums = np.where((np.arange(20)[:, None] < lengths)[..., None], x, 0).sum(0)
    falls(many_to_one(), fastrnn.CrossEntropy(), [(x, (sums[:, 0] > sums[:, 1]).astype(int), lengths)], 0.3)


def test_sequence_autoencoder_learns():
    x = np.repeat(normal(1, 6, F), T, axis=0) * np.linspace(1, -1, T)[:, None, None]
    falls(autoencoder(), fastrnn.MSE(), [(x, x)], 0.4, epochs=150)
