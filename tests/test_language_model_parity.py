"""300 Adam updates of a small language model from PyTorch's weights on PyTorch's batches: the same loss curve."""

import functools
import pathlib

import numpy as np
import pytest

import fastrnn

V, E, H, T, B = 32, 16, 40, 20, 8
UPDATES, LR, MAX_NORM = 300, 3e-3, 0.35
LIMIT = {"float64": 1e-9, "float32": 1e-4}
GOLDEN = pathlib.Path(__file__).parent / "data" / "language_model.npz"

# RandomState, because NumPy has frozen its stream: the golden curve holds for good


def tokens():
    """(UPDATES·T + 1, B) tokens that follow one another with some regularity, so that there is something to learn."""
    random = np.random.RandomState(1)
    following = random.randint(0, V, (V, 3))
    stream = np.empty((UPDATES * T + 1, B), np.int64)
    stream[0] = random.randint(0, V, B)
    for t in range(1, len(stream)):
        surprise = random.uniform(size=B) < 0.1
        stream[t] = np.where(surprise, random.randint(0, V, B), following[stream[t - 1], random.randint(0, 3, B)])
    return stream


def weights():
    random = np.random.RandomState(2)
    shapes = {
        "0.weight": (V, E), "1.weight_ih_l0": (4 * H, E), "1.weight_hh_l0": (4 * H, H),
        "1.bias_ih_l0": (4 * H,), "1.bias_hh_l0": (4 * H,), "2.weight": (V, H), "2.bias": (V,),
    }  # fmt: skip
    bounds = {"0.weight": 1.0}
    return {n: random.uniform(-1, 1, s).astype(np.float32) * bounds.get(n, H**-0.5) for n, s in shapes.items()}


def batches():
    stream = tokens()
    for n in range(UPDATES):
        part = stream[n * T : (n + 1) * T + 1]
        yield part[:-1], part[1:]


@pytest.fixture(autouse=True)
def one_thread():
    """The model is so small that threads mostly wait for each other, and for whatever else the machine does."""
    threads = fastrnn.get_num_threads()
    fastrnn.set_num_threads(1)
    yield
    fastrnn.set_num_threads(threads)


@functools.cache
def our_losses(dtype):
    model = fastrnn.Sequential(
        fastrnn.Embedding(V, E, dtype=dtype), fastrnn.LSTM(E, H, dtype=dtype), fastrnn.Linear(H, V, dtype=dtype)
    )
    model.load_state_dict({name: value.astype(dtype) for name, value in weights().items()})
    loss, optimizer = fastrnn.CrossEntropy(), fastrnn.Adam(LR)
    workspace = model.workspace(T, B)
    losses, clipped, state = [], 0, None
    for x, targets in batches():
        y, state = model(x, state, workspace=workspace)  # the state is carried over, its gradient is not
        value, dy = loss(y, targets)
        model.zero_grad()
        model.backward(dy, workspace=workspace)
        clipped += fastrnn.clip_grad_norm(model, MAX_NORM) > MAX_NORM
        optimizer.step(model)
        losses.append(value)
    assert 10 < clipped < UPDATES - 10  # the curve shows something about clipping, and about updates without it
    return np.array(losses)


def torch_losses(dtype):
    import torch
    from torch import nn

    kind = getattr(torch, dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    layers = nn.ModuleList([nn.Embedding(V, E), nn.LSTM(E, H), nn.Linear(H, V)]).to(kind)
    layers.load_state_dict({name: torch.tensor(value).to(kind) for name, value in weights().items()})
    optimizer = torch.optim.Adam(layers.parameters(), lr=LR)
    losses, state = [], None
    for x, targets in batches():
        y, state = layers[1](layers[0](torch.tensor(x)), state)
        state = tuple(s.detach() for s in state)
        loss = nn.functional.cross_entropy(layers[2](y).reshape(-1, V), torch.tensor(targets).reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(layers.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(loss.item())
    torch.set_num_threads(threads)
    return np.array(losses)


def check(ours, theirs, dtype, record_property):
    worst = float(np.abs(ours - theirs).max())
    record_property("worst_difference", worst)
    print(f"language model {dtype}: losses {ours[0]:.4f} -> {ours[-1]:.4f}, largest difference {worst:.1e}")
    assert ours[-20:].mean() < 0.8 * ours[:5].mean()  # it does learn
    assert worst <= LIMIT[dtype]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_language_model_loss_curve_of_torch(dtype, record_property):
    pytest.importorskip("torch")
    check(our_losses(dtype), torch_losses(dtype), dtype, record_property)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_language_model_golden_loss_curve(dtype, record_property):
    with np.load(GOLDEN, allow_pickle=False) as golden:
        check(our_losses(dtype), golden["float64"], dtype, record_property)
