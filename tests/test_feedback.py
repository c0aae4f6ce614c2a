"""Output fed back as input in training, against PyTorch's autograd run step by step."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import bptt

T, B, F, H, OUT = 9, 4, 5, 6, 3
LENGTHS = np.array([9, 2, 7, 5])


def real_model(cell="GRU", layers=2, outputs=OUT, dtype="float64", **options):
    return fastrnn.Sequential(
        getattr(fastrnn, cell)(F, H, layers, dtype=dtype, seed=1), fastrnn.Linear(H, outputs, dtype=dtype, seed=2),
        **options,
    )  # fmt: skip


def token_model(cell="LSTM", classes=F):
    return fastrnn.Sequential(
        fastrnn.Embedding(F, 4, dtype="float64", seed=1), getattr(fastrnn, cell)(4, H, dtype="float64", seed=2),
        fastrnn.Linear(H, classes, dtype="float64", seed=3),
    )  # fmt: skip


def real_batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((T, B, F)), rng.standard_normal((T, B, OUT))


def state_of(model, seed=3):
    """A random state, in the structure of the model's."""
    rng = np.random.default_rng(seed)
    tokens = model.layers[0]._step_dimensions() == 1
    _, state = model.forward(np.zeros((1, B), np.int64) if tokens else np.zeros((1, B, F)))
    return bptt.map_state(lambda array: rng.standard_normal(array.shape), state)


def own_inputs(teacher, seed, lengths, resets=None):
    """Which inputs a rule with this seed takes from the model, at its first batch."""
    own = np.ones((T, B), bool) if teacher == 0 else np.random.default_rng(seed).random((T, B)) >= teacher
    own[0] = False
    if resets is not None:
        own &= ~resets
    return own & (np.arange(T)[:, np.newaxis] < (np.full(B, T) if lengths is None else lengths))


def torch_copy(model):
    """PyTorch modules with the model's parameters."""
    torch = pytest.importorskip("torch")
    modules = []
    for i, layer in enumerate(model.layers):
        if isinstance(layer, fastrnn.Embedding):
            module = torch.nn.Embedding(layer.num_embeddings, layer.embedding_dim)
        elif isinstance(layer, fastrnn.Linear):
            module = torch.nn.Linear(layer.in_features, layer.out_features)
        else:
            module = getattr(torch.nn, type(layer).__name__)(layer.input_size, layer.hidden_size, layer.num_layers)
        parameters = {n[2:]: torch.from_numpy(a) for n, a in model.state_dict().items() if n.startswith(f"{i}.")}
        module.double().load_state_dict(parameters)
        modules.append(module)
    return modules


def torch_oracle(model, loss, x, targets, state, own, lengths, mask, resets=None):
    """Value, parameter gradients and the gradient of the initial state: each sequence alone, each step by itself."""
    torch = pytest.importorskip("torch")
    modules = torch_copy(model)
    leaves, total, count = [], 0.0, 0
    for b, length in enumerate([T] * B if lengths is None else lengths):
        carried = None
        if state is not None:
            entry = next(entry for entry in state if entry is not None)
            parts = entry if isinstance(entry, tuple) else (entry,)
            parts = [torch.from_numpy(p[:, b : b + 1].copy()).requires_grad_() for p in parts]
            leaves.append(parts)
            carried = tuple(parts) if len(parts) > 1 else parts[0]
        y = None
        for t in range(length):
            given_x = torch.from_numpy(np.asarray(x[t, b]))
            if resets is not None and resets[t, b]:
                carried = None
            if own[t, b]:
                given_x = y.argmax() if given_x.ndim == 0 else torch.cat([y, given_x[len(y) :]])
            y = given_x[None, None]
            for module in modules:
                if isinstance(module, torch.nn.RNNBase):
                    y, carried = module(y, carried)
                else:
                    y = module(y)
            y = y[0, 0]
            if mask is None or mask[t, b]:
                total = total + loss(y, torch.from_numpy(np.asarray(targets[t, b])))
                count += y.numel() if targets.ndim > 2 else 1
    (total / count).backward()
    gradients = np.concatenate([p.grad.numpy().ravel() for m in modules for p in m.parameters()])
    zero = torch.zeros(1)

    def gradient(part):
        return (zero.expand_as(part) if part.grad is None else part.grad).numpy()  # None where all is reset

    dstate = [np.concatenate([gradient(part) for part in parts], 1) for parts in zip(*leaves, strict=True)]
    return (total / count).item(), gradients, dstate or None


def relative(a, b):
    return np.max(np.abs(a - b)) / np.max(np.abs(b))


def squared(y, target):
    return ((y - target) ** 2).sum()


def assert_as_autograd(rule, model, own, x, targets, state, lengths, mask, tokens=False, resets=None):
    torch = pytest.importorskip("torch")
    torch_loss = torch.nn.functional.cross_entropy if tokens else squared
    value, gradients, dstate = torch_oracle(model, torch_loss, x, targets, state, own, lengths, mask, resets)
    loss = fastrnn.CrossEntropy() if tokens else fastrnn.MSE()
    if lengths is not None:  # padding is not read
        x, targets = x.copy(), targets.copy()
        for b, length in enumerate(lengths):
            x[length:, b] = -1 if tokens else np.nan
            targets[length:, b] = -1 if tokens else np.nan
    model.zero_grad()
    run = bptt.Run(model, loss, bptt.Buffers(), x, targets, state, lengths, mask, resets=resets, joint=True)
    (add_gradients,) = rule.updates(run)
    add_gradients()
    assert run.value == pytest.approx(value, rel=1e-10)
    assert relative(model.gradients_to_vector(), gradients) < 1e-10
    if dstate is not None and own.any():
        ours = []
        bptt.map_state(ours.append, run.dstate)
        for a, b in zip(ours, dstate, strict=True):
            assert relative(a, b) < 1e-10


@pytest.mark.parametrize("kind", ["plain", "state", "ragged", "masked"])
@pytest.mark.parametrize("teacher", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_feedback_of_real_vectors_against_autograd(cell, teacher, kind):
    model = real_model(cell)
    x, targets = real_batch()
    state = state_of(model) if kind in ("state", "masked") else None
    lengths = LENGTHS if kind in ("ragged", "masked") else None
    mask = np.random.default_rng(5).random((T, B)) < 0.6 if kind == "masked" else None
    own = own_inputs(teacher, 7, lengths)
    assert_as_autograd(bptt.Feedback(teacher, seed=7), model, own, x, targets, state, lengths, mask)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("teacher", [0.0, 0.6])
def test_feedback_of_tokens_against_autograd(teacher, ragged):
    model, rng = token_model(), np.random.default_rng(0)
    x, targets = rng.integers(0, F, (2, T, B))
    lengths = LENGTHS if ragged else None
    own = own_inputs(teacher, 7, lengths)
    rule = bptt.Feedback(teacher, seed=7)
    assert_as_autograd(rule, model, own, x, targets, state_of(model), lengths, None, tokens=True)


@pytest.mark.parametrize("tokens", [False, True], ids=["real", "tokens"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("teacher", [0.0, 0.5])
def test_feedback_with_resets_against_autograd(teacher, ragged, tokens):
    rng = np.random.default_rng(1)
    model = token_model() if tokens else real_model("LSTM")
    x, targets = rng.integers(0, F, (2, T, B)) if tokens else real_batch()
    lengths, resets = LENGTHS if ragged else None, rng.random((T, B)) < 0.3
    own = own_inputs(teacher, 7, lengths, resets)
    rule = bptt.Feedback(teacher, seed=7)
    assert_as_autograd(rule, model, own, x, targets, state_of(model), lengths, None, tokens, resets)


@settings(deadline=None, max_examples=25)
@given(
    teacher=st.floats(0, 1), seed=st.integers(0, 99), lengths=st.lists(st.integers(1, T), min_size=B, max_size=B),
    exogenous=st.booleans(),
)  # fmt: skip
def test_feedback_property_gradients_are_those_of_autograd(teacher, seed, lengths, exogenous):
    outputs = OUT if exogenous else F
    model = real_model("GRU", 1, outputs)
    rng = np.random.default_rng(seed)
    x, targets = rng.standard_normal((T, B, F)), rng.standard_normal((T, B, outputs))
    own = own_inputs(teacher, seed, np.array(lengths))
    rule = bptt.Feedback(teacher, seed=seed)
    assert_as_autograd(rule, model, own, x, targets, None, np.array(lengths), None)


def test_feedback_batch_first_is_the_same():
    x, targets = real_batch()
    results = []
    for first in (False, True):
        model = real_model("LSTM", batch_first=first)
        arrays = [np.ascontiguousarray(a.swapaxes(0, 1)) if first else a for a in (x, targets)]
        value, state = bptt.Feedback(0.5).gradients(model, fastrnn.MSE(), *arrays, lengths=LENGTHS)
        leaves = []
        bptt.map_state(lambda a, leaves=leaves: leaves.append(a.copy()), state)
        results.append((value, model.gradients_to_vector(), leaves))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    for a, b in zip(results[0][2], results[1][2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_feedback_with_a_teacher_throughout_is_full():
    x, targets = real_batch()
    gradients, values = [], []
    for rule in (bptt.Full(), bptt.Feedback(1.0), bptt.Feedback(lambda update: 1.0)):
        model = real_model()
        values.append(rule.gradients(model, fastrnn.MSE(), x, targets, lengths=LENGTHS)[0])
        gradients.append(model.gradients_to_vector())
    assert values[0] == values[1] == values[2]
    np.testing.assert_array_equal(gradients[0], gradients[1])
    np.testing.assert_array_equal(gradients[0], gradients[2])


def test_feedback_final_state_is_that_at_each_sequences_end():
    model = real_model("LSTM", 1)
    x, targets = real_batch()
    _, state = bptt.Feedback(0.0).gradients(model, fastrnn.MSE(), x, targets, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        alone, y = None, None
        for t in range(length):
            x_t = x[t, b : b + 1].copy()
            if t:
                x_t[:, :OUT] = y
            y, alone = model.step(x_t, alone)
        for ours, theirs in zip(state[0], alone[0], strict=True):
            np.testing.assert_allclose(ours[:, b], theirs[:, 0], rtol=1e-12)


def test_feedback_drawn_tokens_follow_the_softmax():
    model = fastrnn.Sequential(fastrnn.OneHot(3, dtype="float64"), fastrnn.Linear(3, 3, dtype="float64"))
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    model.load_state_dict({"1.weight": logits.T.copy(), "1.bias": np.zeros(3)})
    seen = {}
    rule = bptt.Feedback(0.0, sample="sample", seed=1)
    feed = rule._feed

    def recording(x_t, y_before, own):
        feed(x_t, y_before, own)
        seen["x"] = x_t.copy()

    rule._feed = recording
    x = np.zeros((2, 20_000), np.int64)
    rule.gradients(model, fastrnn.CrossEntropy(), x, x)
    np.testing.assert_allclose(np.bincount(seen["x"]) / x.shape[1], [0.5, 0.3, 0.2], atol=0.015)


@pytest.mark.parametrize("sample", ["argmax", "sample"])
def test_feedback_of_logits_that_are_no_numbers_is_none(sample):
    """A token was chosen by them, though the mask has the loss not look at them."""
    model = fastrnn.Sequential(fastrnn.Embedding(5, 3, seed=0), fastrnn.Linear(3, 5, seed=1))
    values = model.state_dict()
    values["0.weight"][4] = np.nan
    model.load_state_dict(values)
    x, mask = np.array([[4], [1], [1]]), np.array([[False], [True], [True]])
    trainer = fastrnn.Trainer(
        model, fastrnn.CrossEntropy(), fastrnn.SGD(0.1), bptt=bptt.Feedback(0.0, sample=sample), nonfinite="skip"
    )
    value, _ = trainer.step(x, x, mask=mask)
    assert np.isnan(value) and (trainer.nonfinite, trainer.updates) == (1, 0)


def test_feedback_learns_to_run_freely():
    """A sine that the model has to go on with by itself: free running it must follow, teacher forced it need not."""
    steps = np.arange(41)
    wave = np.sin(0.4 * steps)[:, np.newaxis, np.newaxis].astype("f") * np.ones((1, 2, 1), "f")
    x, targets = wave[:-1], wave[1:]
    model = fastrnn.Sequential(fastrnn.GRU(1, 8, seed=0), fastrnn.Linear(8, 1, seed=1))
    rule = bptt.Feedback(bptt.LinearDecay(150))
    trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(0.01), bptt=rule, clip_norm=1.0)
    for _ in range(500):
        value, _ = trainer.step(x, targets)
    assert rule.updates_done == trainer.updates == 500
    assert value < 0.01
    assert np.mean((fastrnn.generate(model, x[:1, 0], 40) - targets[:, 0]) ** 2) < 0.01


def test_feedback_state_dict_continues_the_draws():
    x, targets = real_batch()
    model, rule = real_model(), bptt.Feedback(fastrnn.Exponential(0.8), seed=4)
    for _ in range(3):
        rule.gradients(model, fastrnn.MSE(), x, targets)
    saved = json.loads(json.dumps(rule.state_dict()))
    other = bptt.Feedback(fastrnn.Exponential(0.8), seed=99)
    other.load_state_dict(saved)
    values = [r.gradients(model, fastrnn.MSE(), x, targets)[0] for r in (rule, other)]
    assert values[0] == values[1] and other.updates_done == 4
    for bad in (None, {}, {**saved, "updates_done": -1}, {**saved, "random": 3}, {**saved, "random": {"state": 1}}):
        with pytest.raises((ValueError, TypeError)):
            other.load_state_dict(bad)
    assert other.state_dict() == rule.state_dict()


def test_feedback_a_batch_broken_off_has_drawn_nothing():
    x, targets = real_batch()
    model, rule = real_model(), bptt.Feedback(0.5)
    before = json.dumps(rule.state_dict())

    class Broken(fastrnn.MSE):
        def evaluate(self, *arguments):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rule.gradients(model, Broken(), x, targets)
    assert json.dumps(rule.state_dict()) == before


def test_feedback_schedules():
    linear = bptt.LinearDecay(4, 0.8, 0.2)
    np.testing.assert_allclose([linear(i) for i in (0, 2, 4, 9)], [0.8, 0.5, 0.2, 0.2])
    sigmoid = bptt.InverseSigmoidDecay(10)
    np.testing.assert_allclose([sigmoid(i) for i in (0, 20)], [10 / 11, 10 / (10 + np.exp(2))])
    assert 0 <= sigmoid(10**9) < 1e-300
    with pytest.raises(ValueError, match="teacher must be at most 1"):
        bptt.Feedback(lambda update: 1.5).gradients(real_model(), fastrnn.MSE(), *real_batch())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": -0.1}, "teacher must be at least 0"),
        ({"teacher": "half"}, "teacher must be a real number"),
        ({"sample": "beam"}, "sample must be one of"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_feedback_refuses_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        bptt.Feedback(**arguments)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [fastrnn.GRU(F, H, bidirectional=True), fastrnn.Linear(2 * H, F)], "bidirectional"),
        (lambda: [fastrnn.GRU(F, H), fastrnn.Last(), fastrnn.Linear(H, F)], "Last gives one a sequence"),
        (lambda: [fastrnn.GRU(F, H)], "6 outputs must be features of x"),
        (lambda: [fastrnn.Embedding(F, H), fastrnn.GRU(H, H)], "6 logits"),
    ],
)
def test_feedback_refuses_models_that_cannot_feed_themselves(layers, message):
    model = fastrnn.Sequential(*layers())
    tokens = isinstance(model.layers[0], fastrnn.Embedding)
    x = np.zeros((T, B), np.int64) if tokens else np.zeros((T, B, F), "f")
    y, _ = model.forward(x)
    with pytest.raises(ValueError, match=message):
        bptt.Feedback(0.5).gradients(model, fastrnn.MSE(), x, np.zeros_like(y))
    assert not model.gradients_to_vector().any()


def test_feedback_allocates_nothing_that_grows_with_the_problem():
    def peak(steps, batch):
        model = fastrnn.Sequential(fastrnn.GRU(8, 16, seed=0), fastrnn.Linear(16, 8, seed=0))
        rng = np.random.default_rng(0)
        x, targets = rng.standard_normal((2, steps, batch, 8)).astype("f")
        rule, loss = bptt.Feedback(0.0), fastrnn.MSE()
        for _ in range(2):
            rule.gradients(model, loss, x, targets)
        tracemalloc.start()
        rule.gradients(model, loss, x, targets)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    small, large = peak(16, 8), peak(16, 512)
    assert large < small + 16 * 512 * 8 * 4 / 4  # a quarter of x


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
def test_feedback_of_narrow_and_unsigned_tokens(dtype):
    net = fastrnn.Sequential(fastrnn.GRU(7, 5, dtype="float64", seed=0), fastrnn.Linear(5, 7, dtype="float64", seed=0))
    tokens = np.random.default_rng(0).integers(0, 7, (6, 3))
    expected = fastrnn.bptt.Feedback(0.0).gradients(net, fastrnn.CrossEntropy(), tokens, tokens)[0]
    value = fastrnn.bptt.Feedback(0.0).gradients(net, fastrnn.CrossEntropy(), tokens.astype(dtype), tokens)[0]
    assert value == expected
