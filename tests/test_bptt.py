"""Rules of truncation, against PyTorch's autograd with explicit detaching."""

import gc
import tracemalloc

import numpy as np
import pytest

import fastrnn
from fastrnn import bptt

T, B, F, H, C = 11, 4, 3, 5, 6
LENGTHS = np.array([11, 3, 8, 6])  # some end at a chunk's end, some within
STATE_KINDS = ("zeros", "given")


def model(dtype="float64", layers=2, **options):
    return fastrnn.Sequential(
        fastrnn.LSTM(F, H, layers, dtype=dtype, seed=1), fastrnn.Linear(H, C, dtype=dtype, seed=2), **options
    )


def batch(seed=0, dtype="float64", steps=T):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((steps, B, F)).astype(dtype), rng.integers(0, C, (steps, B))


def initial_state(seed=3):
    h, c = np.random.default_rng(seed).standard_normal((2, 2, B, H))
    return (h, c), None


def copied(state):
    return bptt.map_state(np.copy, state)


def leaves(state):
    found = []
    bptt.map_state(found.append, state)
    return found


def torch_oracle(net, x, targets, state, lengths, k, reduction, weights=None):
    """Value, gradients and final state of truncated BPTT, sequence by sequence, the state detached at each cut."""
    torch = pytest.importorskip("torch")
    lstm, linear = torch.nn.LSTM(F, H, 2).double(), torch.nn.Linear(H, C).double()
    tensors = {name: torch.from_numpy(array) for name, array in net.state_dict().items()}
    lstm.load_state_dict({n[2:]: t for n, t in tensors.items() if n[0] == "0"})
    linear.load_state_dict({n[2:]: t for n, t in tensors.items() if n[0] == "1"})
    total, finals = 0.0, []
    for b, length in enumerate(lengths):
        parts = np.zeros((2, 2, B, H)) if state is None else state[0]
        carried = tuple(torch.from_numpy(part[:, b : b + 1].copy()) for part in parts)
        for start in range(0, length, k):
            stop = min(start + k, length)
            carried = tuple(part.detach() for part in carried)
            y, carried = lstm(torch.from_numpy(x[start:stop, b : b + 1]), carried)
            y, wanted = linear(y)[:, 0], torch.from_numpy(targets[start:stop, b])
            losses = torch.nn.functional.cross_entropy(y, wanted, reduction="none")
            total = total + (losses if weights is None else losses * torch.from_numpy(weights[start:stop, b])).sum()
        finals.append([part.detach().numpy() for part in carried])
    count = np.sum(lengths) if weights is None else sum(weights[:n, b].sum() for b, n in enumerate(lengths))
    loss = total / {"mean": count, "sum": 1, "sequence": len(lengths)}[reduction]
    loss.backward()
    gradients = [p.grad.numpy().ravel() for p in (*lstm.parameters(), *linear.parameters())]
    final = [np.concatenate(parts, 1) for parts in zip(*finals, strict=True)]
    return loss.item(), np.concatenate(gradients), final


def relative(a, b):
    return np.max(np.abs(a - b)) / np.max(np.abs(b))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", STATE_KINDS)
@pytest.mark.parametrize("k", [1, 3, 4, T, 20])
def test_truncated_against_autograd(k, kind, ragged, reduction):
    net, (x, targets) = model(), batch()
    state = None if kind == "zeros" else initial_state()
    lengths = LENGTHS if ragged else None
    if ragged:
        for b, length in enumerate(LENGTHS):
            x[length:, b], targets[length:, b] = np.nan, -5  # padding is not read
    expected, gradients, final = torch_oracle(
        net, x, targets, state, LENGTHS if ragged else [T] * B, k, reduction
    )
    loss = fastrnn.CrossEntropy(reduction=reduction)
    value, new = bptt.Truncated(k).gradients(net, loss, x, targets, state, lengths=lengths)
    assert value == pytest.approx(expected, rel=1e-12)
    assert relative(net.gradients_to_vector(), gradients) < 1e-10
    for ours, theirs in zip(leaves(new), final, strict=True):
        assert relative(ours, theirs) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("k", [4, T])
def test_weights_and_reductions_against_autograd(k, batch_first, reduction):
    """Chunk by chunk the same loss, although sequences end before the later chunks."""
    net, (x, targets) = model(batch_first=batch_first), batch()
    weights = np.random.default_rng(5).random((T, B)) * (np.arange(T * B).reshape(T, B) % 5 > 0)
    expected, gradients, _ = torch_oracle(net, x, targets, None, LENGTHS, k, reduction, weights)
    targets[weights == 0] = C  # not read
    swap = (lambda a: np.swapaxes(a, 0, 1)) if batch_first else (lambda a: a)
    loss = fastrnn.CrossEntropy(reduction=reduction)
    value, _ = bptt.Truncated(k).gradients(net, loss, swap(x), swap(targets), lengths=LENGTHS, mask=swap(weights))
    assert value == pytest.approx(expected, rel=1e-12)
    assert relative(net.gradients_to_vector(), gradients) < 1e-10


def test_full_is_the_layers_own_backward():
    net, (x, targets) = model(), batch()
    workspace, loss = net.workspace(T, B), fastrnn.CrossEntropy()
    y, state = net.forward(x, workspace=workspace)
    expected, dy = loss(y, targets)
    net.backward(dy, workspace=workspace)
    gradients, state = net.gradients_to_vector(), copied(state)
    net.zero_grad()
    value, new = bptt.Full().gradients(net, loss, x, targets)
    assert value == expected
    np.testing.assert_array_equal(net.gradients_to_vector(), gradients)
    for a, b in zip(leaves(new), leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradients_are_added_and_parameters_stay():
    net, (x, targets) = model(), batch()
    before = net.parameters_to_vector()
    rule, loss = bptt.Truncated(4), fastrnn.CrossEntropy()
    rule.gradients(net, loss, x, targets)
    once = net.gradients_to_vector()
    rule.gradients(net, loss, x, targets)
    assert relative(net.gradients_to_vector(), 2 * once) < 1e-14
    np.testing.assert_array_equal(net.parameters_to_vector(), before)


def test_batch_mates_and_padding_do_not_matter():
    """The sum over sequences alone is the batch's, and states are the same bit for bit."""
    net, (x, targets) = model(), batch()
    rule, loss = bptt.Truncated(3), fastrnn.CrossEntropy(reduction="sum")
    value, state = rule.gradients(net, loss, x, targets, lengths=LENGTHS)
    state, together = copied(state), net.gradients_to_vector()
    net.zero_grad()
    alone = 0.0
    for b, length in enumerate(LENGTHS):
        part, final = rule.gradients(net, loss, x[:length, b : b + 1], targets[:length, b : b + 1])
        alone += part
        for a, c in zip(leaves(state), leaves(final), strict=True):
            np.testing.assert_array_equal(a[:, b : b + 1], c)
    assert value == pytest.approx(alone, rel=1e-14)
    assert relative(net.gradients_to_vector(), together) < 1e-13


@pytest.mark.parametrize("rule", [bptt.Full(), bptt.Truncated(4)], ids=repr)
def test_batch_first_and_masks(rule):
    time_major, batch_major = model(), model(batch_first=True)
    x, targets = batch()
    mask = np.random.default_rng(5).random((T, B)) < 0.6
    mask[4:8] = False  # a chunk without valid elements
    ignored = np.where(mask & (np.arange(T)[:, None] < LENGTHS), targets, -100)
    loss = fastrnn.CrossEntropy()
    expected, _ = rule.gradients(time_major, loss, x, ignored)  # without lengths, but nothing more is valid
    gradients = time_major.gradients_to_vector()
    time_major.zero_grad()
    value, _ = rule.gradients(time_major, loss, x, targets, lengths=LENGTHS, mask=mask)
    assert value == pytest.approx(expected, rel=1e-14)
    assert relative(time_major.gradients_to_vector(), gradients) < 1e-13
    exact = time_major.gradients_to_vector()
    swapped = x.swapaxes(0, 1), targets.T
    value, _ = rule.gradients(batch_major, loss, *swapped, lengths=LENGTHS, mask=mask.T)
    assert value == pytest.approx(expected, rel=1e-14)
    assert relative(batch_major.gradients_to_vector(), exact) < 1e-13


def test_masks_of_every_leading_shape():
    net = fastrnn.LSTM(F, H, dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((T, B, F)), rng.standard_normal((T, B, H))
    steps = np.arange(T) % 3 > 0
    rule, loss = bptt.Truncated(4), fastrnn.MSE()
    values = set()
    for mask in (steps, np.repeat(steps[:, None], B, 1), np.tile(steps[:, None, None], (1, B, H))):
        values.add(round(rule.gradients(net, loss, x, targets, lengths=LENGTHS, mask=mask)[0], 13))
    valid = steps[:, None] & (np.arange(T)[:, None] < LENGTHS)
    values.add(round(loss(net(x)[0], targets, mask=valid)[0], 13))
    assert len(values) == 1


def test_pooled_outputs():
    net = fastrnn.Sequential(
        fastrnn.LSTM(F, H, dtype="float64", seed=1), fastrnn.Last(), fastrnn.Linear(H, C, dtype="float64", seed=2)
    )
    x, targets = batch()
    loss = fastrnn.CrossEntropy()
    value, _ = bptt.Full().gradients(net, loss, x, targets[0], lengths=LENGTHS, mask=np.array([True, False] * 2))
    assert value == loss(net(x, lengths=LENGTHS)[0][::2], targets[0, ::2])[0]
    with pytest.raises(ValueError, match="Last"):
        bptt.Truncated(3).gradients(net, loss, x, targets[0])


def test_input_without_time():
    net, rng = fastrnn.Linear(F, C, dtype="float64", seed=0), np.random.default_rng(0)
    x, targets = rng.standard_normal((B, F)), rng.integers(0, C, B)
    loss = fastrnn.CrossEntropy()
    value, state = bptt.Full().gradients(net, loss, x, targets)
    assert value == loss(net(x)[0], targets)[0] and state is None


def refused(error, match, net=None, rule=None, loss=None, x=None, targets=None, **arguments):
    """The call raises, and changes neither gradients nor random generators."""
    net = model() if net is None else net
    good_x, good_targets = batch()
    x, targets = good_x if x is None else x, good_targets if targets is None else targets
    random = [g.bit_generator.state for g in net._generators()] if isinstance(net, fastrnn.Sequential) else None
    with pytest.raises(error, match=match):
        (rule or bptt.Truncated(3)).gradients(net, loss or fastrnn.CrossEntropy(), x, targets, **arguments)
    if random:
        assert not net.gradients_to_vector().any()
        assert [g.bit_generator.state for g in net._generators()] == random


def test_refusals():
    for k, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="k must"):
            bptt.Truncated(k)
    refused(ValueError, "bidirectional", fastrnn.LSTM(F, H, bidirectional=True, dtype="float64"))
    refused(TypeError, "model", object())
    refused(TypeError, "loss", loss=np.mean)
    refused(TypeError, "loss", loss=fastrnn.CrossEntropy)
    x, targets = batch()
    refused(ValueError, "x must", x=x[..., :2])
    refused(ValueError, "x must", x=x[0])
    targets[-1, 0] = C  # in the last chunk
    refused(ValueError, r"targets must be in \[0, 6\)", targets=targets)
    refused(ValueError, "targets", targets=targets[:-1])
    mask = np.ones((T - 1, B), bool)
    refused(ValueError, "targets", targets=targets[:-1], mask=mask, lengths=LENGTHS)
    refused(ValueError, "lengths", lengths=[T, 1, 0, 2])
    refused(ValueError, "lengths", lengths=[T + 1, 1, 1, 2])
    refused(ValueError, "state", state=(initial_state()[0],))
    refused(TypeError, "mask", mask=np.ones((T, B), int))
    refused(ValueError, "mask", mask=np.ones((B, T), bool))
    refused(ValueError, "no valid element", mask=np.zeros((T, B), bool))
    past = np.arange(T)[:, None] >= LENGTHS
    refused(ValueError, "no valid element", mask=past, lengths=LENGTHS)


def test_buffers_grow_and_serve_several_models():
    rule, loss = bptt.Truncated(4), fastrnn.CrossEntropy()
    x, targets = batch()
    for net in (model(), model(layers=1)):
        for steps, sequences in ((2, 2), (T, 1), (3, B), (T, B), (1, 1)):
            part = np.ascontiguousarray(x[:steps, :sequences]), np.ascontiguousarray(targets[:steps, :sequences])
            net.zero_grad()
            rule.gradients(net, loss, *part)
            kept = net.gradients_to_vector()
            net.zero_grad()
            bptt.Truncated(4).gradients(net, loss, *part)
            np.testing.assert_array_equal(kept, net.gradients_to_vector())


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("rule", [bptt.Full(), bptt.Truncated(40)], ids=repr)
def test_nothing_is_allocated_after_the_first_call(rule, batch_first):
    rng = np.random.default_rng(0)
    steps, sequences, hidden = 200, 32, 32
    net = fastrnn.Sequential(
        fastrnn.LSTM(8, hidden, dtype="float64", seed=0),
        fastrnn.Linear(hidden, 8, dtype="float64", seed=0),
        batch_first=batch_first,
    )
    lead = (sequences, steps) if batch_first else (steps, sequences)
    x, targets = rng.standard_normal((*lead, 8)), rng.integers(0, 8, lead)
    mask, lengths = np.ones(lead, bool), rng.integers(steps // 2, steps + 1, sequences)
    loss, state = fastrnn.CrossEntropy(), None

    def run():
        nonlocal state
        state = rule.gradients(net, loss, x, targets, state, lengths=lengths, mask=mask)[1]

    for _ in range(2):
        run()
    gc.collect()
    tracemalloc.start()
    try:
        run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000  # the mask alone has 6,400 bytes, a state 8,192 and dy 409,600
