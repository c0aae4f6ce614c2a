"""PyTorch's state dicts and modules, both ways. As a script, it prints the worst figures of more random models."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

import fastrnn
from fastrnn.interop import torch as interop
from fastrnn.storage import FormatError

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from torch import nn  # noqa: E402

from fastrnn.interop import torch_modules  # noqa: E402

COUNT = 60  # random models, each in both dtypes
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def sizes(rng):
    return int(rng.integers(1, 20))


def random_recurrent(rng, features, dtype, forward=("LSTM", "GRU", "RNN")):
    name = str(rng.choice(forward))
    options = {"nonlinearity": str(rng.choice(["tanh", "relu"]))} if name == "RNN" else {}
    layers = int(rng.integers(1, 4))
    return getattr(fastrnn, name)(
        features, sizes(rng), layers, bias=bool(rng.random() < 0.8), bidirectional=bool(rng.random() < 0.4),
        dropout=float(rng.choice([0.0, 0.3])) if layers > 1 else 0.0, dtype=dtype, seed=3, **options,
    )  # fmt: skip


def random_model(rng, dtype):
    """A `Sequential` with any of the layers that PyTorch can compute."""
    layers, features = [], None
    start = rng.random()
    if start < 0.3:
        features = sizes(rng)
        layers.append(fastrnn.Embedding(9, features, dtype=dtype, seed=1))
    elif start < 0.4:
        layers.append(fastrnn.OneHot(9, dtype=dtype))
        features = 9
    for _ in range(int(rng.integers(1, 3))):
        layers.append(random_recurrent(rng, features or sizes(rng), dtype))
        features = layers[-1]._output_features(None)
        if rng.random() < 0.2:
            layers.append(fastrnn.Residual(fastrnn.GRU(features, features, dtype=dtype, seed=2)))
        elif rng.random() < 0.2:
            include = bool(rng.random() < 0.5)
            inner = fastrnn.LSTM(features, 3, dtype=dtype, seed=3), fastrnn.Linear(3, 2, dtype=dtype, seed=4)
            layers.append(fastrnn.Concatenated(*inner, include_input=include))
            features = 5 + include * features
        if rng.random() < 0.3:
            layers.append(fastrnn.Dropout(0.25, variational=bool(rng.random() < 0.5), dtype=dtype))
    if rng.random() < 0.5:
        pooling = rng.choice(["Last", "MeanPool", "MaxPool"])
        halves = {"bidirectional": True} if pooling == "Last" and features % 2 == 0 and rng.random() < 0.5 else {}
        layers.append(getattr(fastrnn, str(pooling))(dtype=dtype, **halves))
        if rng.random() < 0.3:
            layers += [fastrnn.Repeat(4, dtype=dtype), fastrnn.LSTM(features, 6, dtype=dtype, seed=5)]
            features = 6
    if rng.random() < 0.7:
        layers.append(fastrnn.Linear(features, sizes(rng), bias=bool(rng.random() < 0.8), dtype=dtype, seed=6))
        if rng.random() < 0.6:
            layers.append(getattr(fastrnn, str(rng.choice(["Tanh", "ReLU", "Sigmoid"])))(dtype=dtype))
    return fastrnn.Sequential(*layers, batch_first=bool(rng.random() < 0.5))


def random_input(rng, model):
    steps, batch = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    shape = (batch, steps) if model.batch_first else (steps, batch)
    if model._step_dimensions() == 1:
        return rng.integers(0, 9, shape)
    return rng.standard_normal((*shape, model._input_features())).astype(model.dtype)


def flat(state):
    """The arrays in a nested state."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for entry in state for array in flat(entry)]
    return [np.asarray(state.detach() if hasattr(state, "detach") else state)]


def assert_same_layers(a, b):
    """The same architecture, and the same parameters bit for bit."""
    assert fastrnn.storage.architecture(a) == fastrnn.storage.architecture(b)
    first, second = a.state_dict(), b.state_dict()
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def difference(ours, theirs):
    pairs = list(zip(ours, theirs, strict=True))
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def round_trip(seed, dtype):
    """The largest difference of outputs and states; parameters and architecture come back as they were."""
    rng = np.random.default_rng([seed, 7])
    model = random_model(rng, dtype)
    module = interop.to_module(model).eval()
    x = random_input(rng, model)
    y, state = model.forward(x)
    with torch.inference_mode():
        their_y, their_state = module.run(torch.from_numpy(x))
        assert torch.equal(module(torch.from_numpy(x)), their_y)
    worst = difference([y, *flat(state)], [their_y.numpy(), *flat(their_state)])

    assert list(module.state_dict()) == list(model.state_dict())
    assert_same_layers(interop.from_module(module), model)
    return worst


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_interop_torch_random_models_there_and_back(dtype):
    for seed in range(COUNT):
        assert round_trip(seed, dtype) < TOLERANCE[dtype], seed


def random_chain(rng, dtype):
    """A model that its state dict tells all of, and the hints for it."""
    features = sizes(rng)
    layers = [fastrnn.Embedding(features + 100, features, dtype=dtype)] if rng.random() < 0.4 else []
    for _ in range(int(rng.integers(1, 4))):
        layers.append(random_recurrent(rng, features, dtype, ("LSTM", "GRU")))
        features = layers[-1]._output_features(None)
    if rng.random() < 0.7:
        layers.append(fastrnn.Linear(features, features + 50, dtype=dtype))
    for layer in layers:
        layer.dropout = 0.0
    return fastrnn.Sequential(*layers)


def test_interop_torch_state_dicts_tell_the_architecture():
    for seed in range(COUNT):
        rng = np.random.default_rng([seed, 8])
        model = random_chain(rng, ["float32", "float64"][seed % 2])
        assert_same_layers(interop.from_state_dict(interop.to_state_dict(model, tensors=bool(seed % 3))), model)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_interop_torch_state_dict_of_one_module_is_a_layer(kind, bidirectional):
    theirs = getattr(nn, kind)(3, 5, 2, batch_first=True, bidirectional=bidirectional)
    ours = interop.from_state_dict(theirs.state_dict(), nonlinearity="tanh", batch_first=True)
    assert type(ours) is getattr(fastrnn, kind) and ours.bidirectional == bidirectional and ours.num_layers == 2
    x = torch.randn(2, 6, 3)
    np.testing.assert_allclose(ours.forward(x.numpy())[0], theirs(x)[0].detach(), atol=1e-6)
    assert_same_layers(interop.from_module(theirs), ours)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("bias", [False, True])
def test_interop_torch_cells_become_layers(kind, bias):
    cell = getattr(nn, f"{kind}Cell")(3, 5, bias=bias)
    x = torch.randn(2, 3)
    expected = cell(x)
    expected = expected[0] if kind == "LSTM" else expected
    for layer in (interop.from_module(cell), interop.from_state_dict(cell.state_dict(), nonlinearity="tanh")):
        np.testing.assert_allclose(layer.step(x.numpy())[0], expected.detach(), atol=1e-6)


class Tagger(nn.Module):
    """As people write them; `between` and `after` are what the test is about."""

    def __init__(self, between=lambda y, final: y, after=lambda y: y, rnn=None):
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
        self.embed = nn.Embedding(9, 3)
        self.rnn = nn.LSTM(3, 5, 2, batch_first=True) if rnn is None else rnn
        self.between, self.after = between, after

    def forward(self, tokens):
        zeros = torch.zeros(2, len(tokens), 5)
        y, (h, c) = self.rnn(self.embed(tokens), (zeros, zeros))
        return self.after(self.head(self.between(y, (h, c))))


RECOGNISED = {
    "every step": (lambda y, final: y, lambda y: y, [], []),
    "last step": (lambda y, final: y[:, -1, :], lambda y: y, ["Last"], []),
    "final state": (lambda y, final: final[0][-1], lambda y: y, ["Last"], []),
    "last and relu": (lambda y, final: torch.relu(y[:, -1]), torch.sigmoid, ["Last", "ReLU"], ["Sigmoid"]),
    "mean": (lambda y, final: y.mean(dim=1), lambda y: (y, None), ["MeanPool"], []),
    "maximum": (lambda y, final: y.contiguous().max(1).values, torch.tanh, ["MaxPool"], ["Tanh"]),
    "turned": (lambda y, final: y.transpose(0, 1)[-1], lambda y: y, ["Last"], []),
    "tanh, mean": (lambda y, final: torch.tanh(y).mean(1), lambda y: y, ["Tanh", "MeanPool"], []),
}


@pytest.mark.parametrize("case", RECOGNISED)
def test_interop_torch_sees_what_a_module_of_ones_own_does(case):
    between, after, between_names, after_names = RECOGNISED[case]
    module = Tagger(between, after)
    model = interop.from_module(module)
    assert module.training and module.head.training
    names = [type(layer).__name__ for layer in model.layers]
    assert names == ["Embedding", "LSTM", *between_names, "Dropout", "Linear", "ReLU", "Linear", *after_names]
    assert model.batch_first
    x = torch.randint(0, 9, (4, 7))
    expected = module.eval()(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(model.forward(x.numpy())[0], expected.detach(), atol=1e-6)


ENDS = {
    "states": lambda y, h: torch.cat((h[-2], h[-1]), dim=1),
    "negative dimension": lambda y, h: torch.cat([h[-2, :, :], h[-1, :, :]], -1),
    "hstack": lambda y, h: torch.hstack((h[-2], h[-1])),
    "view": lambda y, h: torch.cat(h.view(2, 2, -1, 5)[-1].unbind(0), 1),
    "reshaped": lambda y, h: h[-2:].transpose(0, 1).reshape(-1, 10),
    "outputs": lambda y, h: torch.cat((y[:, -1, :5], y[:, 0, 5:]), -1),
    "relu": lambda y, h: torch.relu(torch.cat((h[-2], h[-1]), dim=1)),
}


class Ends(nn.Module):
    def __init__(self, kind, join):
        super().__init__()
        self.rnn = getattr(nn, kind)(3, 5, 2, batch_first=True, bidirectional=True)
        self.join, self.head = join, nn.Linear(10, 2)

    def forward(self, x):
        y, final = self.rnn(x)
        return self.head(self.join(y, final[0] if isinstance(final, tuple) else final))


@pytest.mark.parametrize(("kind", "how"), [*(("LSTM", how) for how in ENDS), ("GRU", "states"), ("RNN", "states")])
def test_interop_torch_sees_the_final_states_of_both_directions(kind, how):
    module = Ends(kind, ENDS[how])
    model = interop.from_module(module)
    relu = ["ReLU()"] if how == "relu" else []
    assert [repr(layer) for layer in model.layers[1:-1]] == ["Last(bidirectional=True)", *relu]
    x = torch.randn(4, 7, 3)
    for other in (module, interop.to_module(model)):
        np.testing.assert_allclose(model.forward(x.numpy())[0], other(x).detach(), atol=1e-6)
    packed = module.rnn(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 4, 2, 1]), True))
    final = packed[1][0] if kind == "LSTM" else packed[1]
    if how == "states":
        expected = module.head(torch.cat((final[-2], final[-1]), 1)).detach()
        np.testing.assert_allclose(model.forward(x.numpy(), lengths=[7, 4, 2, 1])[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "join",
    [
        lambda y, h: torch.cat((h[-1], h[-2]), 1),
        lambda y, h: torch.cat((h[0], h[1]), 1),  # of the layer below
        lambda y, h: torch.cat((h[-2], torch.tanh(h[-1])), 1),
        lambda y, h: torch.cat((y[:, 0, :5], y[:, -1, 5:]), 1),
    ],
)
def test_interop_torch_other_pairs_are_refused(join):
    with pytest.raises(ValueError, match=r"between 'rnn' and 'head' several things are joined \(Cat\)"):
        interop.from_module(Ends("LSTM", join))


REFUSED = {
    "first step": (lambda y, final: y[:, 0], lambda y: y, r"between 'rnn' and 'head.0'.*Select.*pass layers="),
    "fifth step": (lambda y, final: y[:, 4], lambda y: y, "between 'rnn' and 'head.0'.*Select"),
    "first steps": (lambda y, final: y[:, :5].mean(1), lambda y: y, "between 'rnn' and 'head.0'.*Slice"),
    "long ones alone": (lambda y, final: y[:, -1] if y.shape[1] < 6 else y.mean(1), lambda y: y, "another length"),
    "small batches alone": (lambda y, final: y[:, -1] if len(y) == 3 else y.mean(1), lambda y: y, "length or batch"),
    "batches of three": (lambda y, final: y.view(3, -1, 5), lambda y: y, r"can't be run on an input of shape \(4, 7\)"),
    "memory": (lambda y, final: final[1][-1], lambda y: y, "between 'rnn' and 'head.0'"),
    "two things": (lambda y, final: y[:, -1] + y.mean(1), lambda y: y, r"several things are joined \(Add\)"),
    "both layers": (lambda y, final: torch.cat(tuple(final[0]), 0), lambda y: y, r"joined \(Cat\)"),
    "detached": (lambda y, final: y.detach(), lambda y: y, "there is no way"),
    "scaled": (lambda y, final: 2 * y, lambda y: y, "does \\(Mul\\)"),
    "softmax": (lambda y, final: y, lambda y: y.softmax(-1), "between 'head.3' and the output.*Softmax"),
    "squeezed": (lambda y, final: y[:, -1], lambda y: y[:, 0], "the output"),
    "dictionary": (lambda y, final: y, lambda y: {"logits": y}, "returns dict"),
    "failing": (lambda y, final: y.no_such_thing, lambda y: y, r"can't be run on.*shape \(3, 5\).*example="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_interop_torch_names_what_it_does_not_recognise(case):
    between, after, pattern = REFUSED[case]
    module = Tagger(between, after)
    with pytest.raises(ValueError, match=pattern):
        interop.from_module(module)
    assert module.training and not module.rnn._forward_hooks and not module.rnn._forward_pre_hooks


def swallowing(y):
    try:
        return torch.relu(y) if y.mean() > 0 else y
    except ValueError:
        return y


def scripted(y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's retirement
        return torch.jit.script(branching)(y)


def branching(y):
    if bool(y.mean() > 0):
        y = torch.relu(y)
    return y


BRANCHES = {
    "a mean": (lambda y: torch.relu(y) if y.mean() > 0 else y, "item"),
    "its contrary": (lambda y: torch.relu(y) if y.mean() <= 0 else y, "item"),
    "item": (lambda y: torch.relu(y) if y[0, 0, 0].item() > 0 else y, "item"),
    "float": (lambda y: torch.relu(y) if float(y.detach().sum()) > 0 else y, "item"),
    "a list": (lambda y: torch.relu(y) if sum(y.detach()[0, 0].tolist()) > 0 else y, "tolist"),
    "an array": (lambda y: torch.relu(y) if y.detach().numpy().sum() > 0 else y, "numpy"),
    "NumPy's": (lambda y: torch.relu(y) if np.sum(np.asarray(y.detach())) > 0 else y, "__array__"),
    "equal": (lambda y: y if torch.equal(y, torch.relu(y)) else torch.relu(y), "equal"),
    "allclose": (lambda y: y if torch.allclose(y, torch.relu(y)) else torch.relu(y), "allclose|item"),
    "is_nonzero": (lambda y: torch.relu(y) if torch.is_nonzero((y > 0).any()) else y, "item"),
    "nonzero": (lambda y: torch.relu(y) if len((y > 0).nonzero()) > 9 else y, "nonzero"),
    "a mask": (lambda y: torch.relu(y) if len(y.detach()[y > 0]) > 9 else y, "index"),
    "a script": (lambda y: scripted(y), "item"),
    "a swallowed error": (lambda y: swallowing(y), "item"),
    "an index": (lambda y: (torch.relu(y), y)[(y.mean() > 0).long()], "item"),
}


@pytest.mark.parametrize("case", BRANCHES)
def test_interop_torch_what_the_data_decide_is_refused(case):
    branch, operation = BRANCHES[case]
    decided = r"decided by the data: Tagger, after {}, takes numbers out of a tensor \(({})\).*pass layers="
    with pytest.raises(ValueError, match=decided.format("'rnn'", operation)):
        interop.from_module(Tagger(lambda y, final: branch(y)))
    with pytest.raises(ValueError, match=decided.format("'head.3'", operation)):
        interop.from_module(Tagger(after=branch))
    with pytest.raises(ValueError, match=decided.format("'rnn'", operation)):
        interop.from_module(Tagger(lambda y, final: branch(y)), example=torch.zeros(2, 6, dtype=torch.long))


def test_interop_torch_what_the_input_decides_is_refused():
    class Guarded(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, x):
            return torch.relu(self.rnn(x)[0]) if x.mean() > 0 else self.rnn(x)[0]

    with pytest.raises(ValueError, match="decided by the data: Guarded, after the input"):
        interop.from_module(Guarded())


def test_interop_torch_the_last_step_before_padding_is_not_the_last_step():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)

        def forward(self, x):
            lengths = (x != 0).any(-1).sum(1)
            return self.rnn(x)[0][torch.arange(len(x)), lengths - 1]

    with pytest.raises(ValueError, match="between 'rnn' and the output.*Index"):
        interop.from_module(Padded())


def test_interop_torch_what_layers_and_shapes_decide_is_not_decided_by_the_data():
    def last(y, final):
        assert y.shape[-1] == 5 and len(y) == y.size(0)
        return y[:, [y.shape[1] - 1]][:, 0]

    names = [type(layer).__name__ for layer in interop.from_module(Tagger(last)).layers]
    assert names[:3] == ["Embedding", "LSTM", "Last"]

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = interop.to_module(fastrnn.OneHot(5))  # looks for the smallest of its integers
            self.rnn = nn.RNN(5, 4)

        def forward(self, tokens):
            return self.rnn(self.encode(tokens))[0]

    assert [type(layer).__name__ for layer in interop.from_module(Reading()).layers] == ["OneHot", "RNN"]


def test_interop_torch_sees_it_whatever_the_mode_and_the_numbers():
    module = Tagger()
    with torch.inference_mode():
        assert len(interop.from_module(module).layers) == 6
    dead = Tagger(lambda y, final: y[:, 0])
    with torch.no_grad():
        for parameter in dead.rnn.parameters():
            parameter.zero_()  # all outputs are zero, whichever step
    with pytest.raises(ValueError, match="Select"):
        interop.from_module(dead)


def hooked(hook):
    module = nn.Sequential(nn.Linear(3, 3))
    hook(module[0])
    return module


@pytest.mark.parametrize(
    "hook",
    [
        lambda part: part.register_forward_hook(lambda module, given, y: 2 * y),
        lambda part: part.register_forward_pre_hook(lambda module, given: (2 * given[0],)),
    ],
)
def test_interop_torch_hooks_are_refused(hook):
    with pytest.raises(ValueError, match="module '0', Linear, has forward hooks"):
        interop.from_module(hooked(hook))


class Described(nn.Module):
    """One whose calls can't be seen: packed sequences, a state of its own, a module called twice, one never called."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.rnn, self.head, self.spare = nn.GRU(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        if self.how == "packed":
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((x.shape[1],), len(x)))
            y = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0]
        else:
            y = self.rnn(x, torch.ones(1, x.shape[1], 4) if self.how == "state" else None)[0]
        y = self.head(self.head(y) if self.how == "twice" else y)
        return y if self.how == "unused" else self.spare(y)


@pytest.mark.parametrize(
    ("how", "pattern"),
    [("packed", "packed sequences"), ("state", "a state that is not zero"), ("twice", "'head', Linear, is called more"),
     ("unused", "'spare', Linear, is not used")],
)  # fmt: skip
def test_interop_torch_layers_says_what_a_module_computes(how, pattern):
    module = Described(how)
    with pytest.raises(ValueError, match=pattern):
        interop.from_module(module)
    model = interop.from_module(module, layers=["rnn", fastrnn.Last(), "head", "spare"])
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    y = module.spare(module.head(module.rnn(torch.from_numpy(x))[0][-1]))
    np.testing.assert_allclose(model.forward(x)[0], y.detach(), atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "error", "pattern"),
    [
        ("rnn", TypeError, "layers must be a list"),
        (["rnn", "head"], ValueError, "leaves out 'spare', Linear"),
        (["rnn", "head", "head", "spare"], ValueError, r"layers\[2\]: 'head' is given twice"),
        (["rnn", "head", "tail"], ValueError, r"layers\[2\] must be one of 'rnn', 'head', 'spare'.*'tail'"),
        (["rnn", fastrnn.Linear(4, 4), "head", "spare"], ValueError, r"layers\[1\] must be a layer without parameters"),
    ],
)
def test_interop_torch_layers_are_checked(layers, error, pattern):
    with pytest.raises(error, match=pattern):
        interop.from_module(Described(""), layers)


def test_interop_torch_example_may_be_given():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(3, 4, nonlinearity="relu")

        def forward(self, x, reverse):
            assert len(x) == 8
            return self.rnn(x.flip(0) if reverse else x)[0]

    module = Scaled()
    with pytest.raises(
        ValueError, match=r"Scaled can't be run on an input of shape \(5, 3, 3\).*pass another one as ex"
    ):
        interop.from_module(module)
    with pytest.raises(ValueError, match=r"between the input and 'rnn'.*Flip"):
        interop.from_module(module, example=(torch.zeros(8, 2, 3), True))
    assert len(interop.from_module(module, example=(torch.zeros(8, 2, 3), False)).layers) == 1
    with pytest.raises(TypeError, match="example must be a tensor"):
        interop.from_module(module, example=[1.0])


def test_interop_torch_an_nn_sequential_hands_on_outputs():
    stack = nn.Sequential(nn.LSTM(3, 4, batch_first=True), nn.Sequential(nn.Tanh(), nn.Dropout(0.1)), nn.Linear(4, 2))
    model = interop.from_module(stack)
    assert [type(layer).__name__ for layer in model.layers] == ["LSTM", "Tanh", "Dropout", "Linear"]
    x = torch.randn(2, 5, 3)
    expected = stack[2](torch.tanh(stack[0](x)[0]))
    np.testing.assert_allclose(model.forward(x.numpy())[0], expected.detach(), atol=1e-6)

    class Output(nn.Module):
        def forward(self, result):
            return result[0]

    model = interop.from_module(nn.Sequential(nn.LSTM(3, 4), Output(), nn.Linear(4, 2)))
    assert [type(layer).__name__ for layer in model.layers] == ["LSTM", "Linear"]


class WithParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


def tied():
    stack = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    stack[1].weight = stack[0].weight
    return stack


@pytest.mark.parametrize(
    ("module", "pattern"),
    [
        (lambda: nn.LSTM(3, 4, proj_size=2), r"LSTM, ?has proj_size=2|LSTM has proj_size=2"),
        (lambda: nn.Sequential(nn.LSTM(3, 4, proj_size=2)), "module '0', LSTM, has proj_size=2"),
        (lambda: nn.Sequential(nn.GRU(3, 4), nn.LayerNorm(4)), "'1', LayerNorm, has no counterpart.*weight, bias"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU()), "'1', GELU, has no counterpart"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)), "'1', Softmax, has no counterpart"),
        (lambda: nn.Sequential(nn.Linear(3, 4), WithParameter()), "WithParameter, has no counterpart.*scale"),
        (lambda: nn.Embedding(5, 3, max_norm=1.0), "max_norm=1.0"),
        (lambda: nn.Sequential(nn.LSTM(3, 4), nn.LSTM(4, 4, batch_first=True)), "one batch_first"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), "has no counterpart"),
        (lambda: nn.Sequential(), "Sequential has no modules"),
        (tied, "modules '0' and '1' share a parameter.*from_state_dict"),
    ],
)
def test_interop_torch_modules_without_counterpart_are_named(module, pattern):
    with pytest.raises(ValueError, match=pattern):
        interop.from_module(module())


def test_interop_torch_modules_and_models_must_be_such():
    with pytest.raises(TypeError, match="module must be an nn.Module, got dict"):
        interop.from_module({})
    for take in (interop.to_module, interop.to_state_dict, lambda model: interop.load_state_dict_into(model, {})):
        with pytest.raises(TypeError, match="model must be a layer or a model of fastrnn, got Linear"):
            take(nn.Linear(3, 2))


def test_interop_torch_the_identity_keeps_its_place():
    stack = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 2))
    model = interop.from_module(stack)
    assert list(model.state_dict()) == list(stack.state_dict())
    assert isinstance(interop.to_module(model)[1], nn.Identity)


@pytest.mark.parametrize(
    ("layer", "pattern"),
    [
        (lambda: fastrnn.PeepholeLSTM(3, 4), "PeepholeLSTM: PyTorch has no such layer"),
        (lambda: fastrnn.LayerNormLSTM(3, 4), "LayerNormLSTM"),
        (lambda: fastrnn.Jordan(3, 4, 2), "Jordan"),
        (lambda: fastrnn.LSTM(3, 4, dilation=2), "no LSTM with dilation=2"),
        (lambda: fastrnn.LSTM(3, 4, zoneout=(0.1, 0.2)), r"zoneout=\(0.1, 0.2\)"),
        (lambda: fastrnn.GRU(3, 4, initial_state="learned"), "initial_state='learned'"),
        (lambda: fastrnn.GRU(3, 4, reset_after=False), "reset_after=False"),
        (lambda: fastrnn.RNN(3, 4, nonlinearity="sigmoid"), "nonlinearity='sigmoid'"),
    ],
)
def test_interop_torch_layers_without_counterpart_are_named(layer, pattern, tmp_path):
    for model in (layer(), fastrnn.Sequential(fastrnn.Linear(3, 3), layer())):
        for convert in (
            interop.to_module,
            lambda model: interop.to_module(model, inference=True),
            interop.to_state_dict,
            lambda model: interop.save(model, tmp_path / "file"),
        ):
            with pytest.raises(ValueError, match=pattern):
                convert(model)
    with pytest.raises(ValueError, match="layer 1, "):
        interop.to_module(model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layer", "pattern"),
    [
        (lambda: fastrnn.LSTM(3, 4, recurrent_dropout=0.2), "recurrent_dropout=0.2"),
        (lambda: fastrnn.LSTM(3, 4, 2, dropout=0.2, variational=True), "variational=True"),
        (lambda: fastrnn.GRU(3, 4, initial_state=fastrnn.NoisyState(0.1)), r"NoisyState\(0.1\)"),
        (lambda: fastrnn.ActivityRegularization(l2=0.1), "l2=0.1"),
    ],
)
def test_interop_torch_what_acts_in_training_may_be_left_out(layer, pattern):
    model = fastrnn.Sequential(fastrnn.Linear(3, 3, seed=0), layer())
    with pytest.raises(ValueError, match=pattern):
        interop.to_module(model)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    y = interop.to_module(model, inference=True)(torch.from_numpy(x))  # in training mode
    np.testing.assert_allclose(model.forward(x)[0], y.detach(), atol=1e-6)


def test_interop_torch_modules_train():
    model = fastrnn.Sequential(
        fastrnn.GRU(3, 4, seed=0), fastrnn.Dropout(0.5, variational=True), fastrnn.Last(), fastrnn.Linear(4, 2, seed=1),
        batch_first=True,
    )  # fmt: skip
    module = interop.to_module(model)
    torch.manual_seed(0)
    module(torch.randn(6, 5, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    kept = torch_modules.VariationalDropout(0.5, batch_first=True)(torch.ones(40, 5, 3))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept, kept[:, :1].expand_as(kept))


# ---- state dicts ----


def lstm_dict(prefix="", inputs=3, hidden=4, **options):
    return {f"{prefix}{name}": tensor for name, tensor in nn.LSTM(inputs, hidden, **options).state_dict().items()}


def linear_dict(prefix, inputs, outputs, bias=True):
    return {f"{prefix}{name}": t for name, t in nn.Linear(inputs, outputs, bias=bias).state_dict().items()}


@pytest.mark.parametrize(
    ("layers", "error", "match"),
    [
        ("rnn", TypeError, "layers must be a list"),
        ([], TypeError, "layers must be a list"),
        (["embedding", 3], TypeError, r"layers\[1\] must be a name, a pair"),
        (["first", "second"], ValueError, "may be a Linear's or an Embedding's"),
    ],
)
def test_interop_torch_refuses_layers_that_say_nothing(layers, error, match):
    weights = {"first.weight": np.ones((4, 4), np.float32), "second.weight": np.ones((4, 4), np.float32)}
    if layers == ["embedding", 3]:
        weights = {"embedding.weight": np.ones((5, 4), np.float32)}
    with pytest.raises(error, match=match):
        interop.from_state_dict(weights, layers=layers)


def test_interop_torch_order_of_many_modules_is_not_searched_for():
    weights = {f"m{name}.weight": np.ones((4, 4), np.float32) for name in "abcdefghijklmnopqrstuvwxyz"}
    with pytest.raises(ValueError, match="the order of 26 modules is not known: pass layers="):
        interop.from_state_dict(weights)


def test_interop_torch_order_follows_from_sizes_and_numbers():
    tensors = linear_dict("head.", 4, 2) | lstm_dict("rnn.") | {"embed.weight": torch.randn(10, 3)}
    model = interop.from_state_dict(tensors)
    assert [type(layer).__name__ for layer in model.layers] == ["Embedding", "LSTM", "Linear"]
    tensors = {name: tensor for i in (10, 9) for name, tensor in linear_dict(f"{i}.", 4, 4).items()}
    tensors |= {name: tensor for i in range(9) for name, tensor in lstm_dict(f"{i}.", 4).items()}
    model = interop.from_state_dict(tensors)
    assert [type(layer).__name__ for layer in model.layers] == ["LSTM"] * 9 + ["Linear"] * 2
    np.testing.assert_array_equal(model.state_dict()["10.weight"], tensors["10.weight"])


def test_interop_torch_layers_fills_in_what_a_state_dict_does_not_tell():
    tensors = {"0.weight": torch.randn(6, 6)} | lstm_dict("1.", 6) | linear_dict("3.", 4, 2)
    with pytest.raises(ValueError, match=r"what has no parameters, 2: pass layers="):
        interop.from_state_dict(tensors)
    with pytest.raises(ValueError, match="Linear's or an Embedding's"):
        interop.from_state_dict(tensors, ["0", "1", fastrnn.Last(), "3"])
    layers = [("0", fastrnn.Embedding), "1", fastrnn.Last(), "3", fastrnn.Sigmoid()]
    model = interop.from_state_dict(tensors, layers, batch_first=True)
    assert [type(layer).__name__ for layer in model.layers] == ["Embedding", "LSTM", "Last", "Linear", "Sigmoid"]
    assert model.batch_first
    model = interop.from_state_dict(tensors, [("0", fastrnn.Linear), "1", fastrnn.Last(), "3"])
    assert type(model.layers[0]) is fastrnn.Linear


def test_interop_torch_embedding_or_linear_follows_from_the_next_layer():
    embedded = {"a.weight": torch.randn(9, 3)} | lstm_dict("b.")
    assert type(interop.from_state_dict(embedded).layers[0]) is fastrnn.Embedding
    assert type(interop.from_state_dict(embedded, ["a", "b"]).layers[0]) is fastrnn.Embedding
    projected = {"a.weight": torch.randn(3, 9)} | lstm_dict("b.")
    assert type(interop.from_state_dict(projected).layers[0]) is fastrnn.Linear


@pytest.mark.parametrize(
    ("tensors", "hints", "pattern"),
    [
        ({}, {}, "state_dict is empty"),
        (lambda: lstm_dict(proj_size=2), {}, "state_dict: fastrnn has no LSTM with proj_size.*weight_hr_l0"),
        (lambda: lstm_dict("a.", proj_size=2), {}, "module 'a'.*proj_size"),
        (lambda: nn.RNN(3, 4).state_dict(), {}, 'pass nonlinearity="tanh" or "relu"'),
        (lambda: nn.RNN(3, 4).state_dict(), {"nonlinearity": "gelu"}, "nonlinearity must be one of"),
        (lambda: nn.LayerNorm(4).state_dict(), {}, r"no layer of fastrnn has these tensors: weight \(4,\), bias"),
        (lambda: nn.Conv1d(3, 4, 2).state_dict(), {}, "no layer of fastrnn has these tensors"),
        (lambda: {"weight": torch.randn(3, 4)}, {}, "a Linear's or an Embedding's: pass layers="),
        (lambda: linear_dict("a.", 4, 4) | linear_dict("b.", 4, 4), {}, "more than one way: pass layers=.*'a', 'b'"),
        (lambda: linear_dict("a.", 4, 3) | linear_dict("b.", 4, 5), {}, "don't fit in any order"),
        (lambda: {"weight_hh_l0": torch.randn(8, 4), "weight_ih_l0": torch.randn(8, 3)}, {}, "as many rows as columns"),
        (lambda: {"weight_hh_l0": torch.randn(4, 4)}, {}, "matrices weight_ih_l0 and weight_hh_l0"),
        (lambda: {k: v for k, v in lstm_dict().items() if k != "bias_hh_l0"}, {}, "LSTM's bias_hh_l0 is missing"),
        (lambda: lstm_dict() | {"peephole_l0": torch.randn(12)}, {}, "LSTM's peephole_l0 is unknown"),
        (lambda: lstm_dict() | {"bias_hh_l0": torch.randn(3)}, {}, r"bias_hh_l0 must have shape \(16,\), got \(3,\)"),
        (lambda: {"weight": torch.randn(3, 4), "bias": torch.randn(4)}, {}, r"bias must have shape \(3,\), got"),
        (lambda: lstm_dict("a."), {"layers": ["b"]}, r"layers\[0\]: module 'b' is not there: there are 'a'"),
        (lambda: lstm_dict("a."), {"layers": ["a", "a"]}, r"layers\[1\]: module 'a' is given twice"),
        (lambda: lstm_dict("a.") | linear_dict("b.", 4, 2), {"layers": ["a"]}, "layers leaves out module 'b'"),
        (lambda: lstm_dict("a."), {"layers": [("a", fastrnn.GRU)]}, "module 'a' must be LSTM, got GRU"),
        (lambda: lstm_dict("a."), {"layers": ["a", fastrnn.Linear(4, 2)]}, "layer without parameters"),
        (lambda: lstm_dict("a."), {"dtype": "float16"}, "dtype must be"),
    ],
)
def test_interop_torch_state_dicts_that_are_not_clear_are_refused(tensors, hints, pattern):
    with pytest.raises(ValueError, match=pattern):
        interop.from_state_dict(tensors() if callable(tensors) else tensors, **hints)


@pytest.mark.parametrize(
    ("tensors", "pattern"),
    [
        ([1], "must be a mapping"),
        ({1: torch.ones(2)}, "strings for names, got 1"),
        ({"weight": torch.ones(2, 2, dtype=torch.int64)}, r"state_dict\['weight'\] must hold .*got dtype int64"),
        ({"weight": torch.ones(2, 2, dtype=torch.complex64)}, "complex64"),
        ({"weight": "text"}, "must hold"),
    ],
)
def test_interop_torch_what_is_no_state_dict_is_refused(tensors, pattern):
    with pytest.raises(TypeError, match=pattern):
        interop.from_state_dict(tensors)


@pytest.mark.parametrize("short", ["float16", "bfloat16"])
def test_interop_torch_shorter_floats_become_float32(short, tmp_path):
    tensors = {name: tensor.to(getattr(torch, short)) for name, tensor in lstm_dict().items()}
    safetensors_torch.save_file(tensors, tmp_path / "short.safetensors")
    for model in (interop.from_state_dict(tensors), interop.load(tmp_path / "short.safetensors")):
        assert model.dtype == np.float32
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, tensors[name].float())
    wide = interop.from_state_dict(tensors, dtype="float64")
    assert wide.dtype == np.float64


def test_interop_torch_the_widest_dtype_counts():
    tensors = lstm_dict("a.") | {name: tensor.double() for name, tensor in linear_dict("b.", 4, 2).items()}
    assert interop.from_state_dict(tensors).dtype == np.float64
    assert interop.from_state_dict(tensors, dtype="float32").dtype == np.float32


def test_interop_torch_copies():
    theirs = nn.LSTM(3, 4)
    ours = interop.from_state_dict(theirs.state_dict())
    before = ours.state_dict()
    with torch.no_grad():
        theirs.weight_ih_l0.zero_()
    assert before["weight_ih_l0"].any() and ours.state_dict()["weight_ih_l0"].any()
    tensors = interop.to_state_dict(ours, tensors=True)
    tensors["weight_ih_l0"].zero_()
    assert ours.state_dict()["weight_ih_l0"].any()
    assert isinstance(interop.to_state_dict(ours)["weight_ih_l0"], np.ndarray)


def test_interop_torch_loads_into_a_model_by_name_prefix_or_shape():
    model = fastrnn.Sequential(
        fastrnn.LSTM(3, 4), fastrnn.Last(), fastrnn.Linear(4, 4), fastrnn.Linear(4, 4, bias=False)
    )
    rnn = lstm_dict("net.rnn.")
    own = {name.replace("net.rnn.", "0."): tensor for name, tensor in rnn.items()}
    own |= linear_dict("2.", 4, 4) | linear_dict("3.", 4, 4, bias=False)
    interop.load_state_dict_into(model, own)
    np.testing.assert_array_equal(model.state_dict()["3.weight"], own["3.weight"])
    model.vector_to_parameters(np.zeros(model.num_parameters, np.float32))
    theirs = rnn | linear_dict("net.head.", 4, 4) | {"net.out.weight": torch.randn(4, 4), "other.weight": torch.ones(1)}
    interop.load_state_dict_into(model, theirs, prefix="net.")
    np.testing.assert_array_equal(model.state_dict()["0.weight_hh_l0"], theirs["net.rnn.weight_hh_l0"])
    np.testing.assert_array_equal(model.state_dict()["2.bias"], theirs["net.head.bias"])
    np.testing.assert_array_equal(model.state_dict()["3.weight"], theirs["net.out.weight"])


def test_interop_torch_loading_into_a_model_is_all_or_nothing():
    model = fastrnn.Sequential(fastrnn.Linear(4, 4, seed=0), fastrnn.Linear(4, 4, seed=1))
    tensors = linear_dict("a.", 4, 4) | linear_dict("b.", 4, 4)
    before = model.parameters_to_vector()
    with pytest.raises(ValueError, match="modules 'a', 'b' and layers '0', '1' have the same tensors: pass names="):
        interop.load_state_dict_into(model, tensors)
    with pytest.raises(ValueError, match="no layer with the tensors of module 'c'"):
        interop.load_state_dict_into(model, linear_dict("c.", 4, 3))
    with pytest.raises(ValueError, match="entry for module 'b'"):
        interop.load_state_dict_into(model, tensors, names={"a": "0"})
    with pytest.raises(ValueError, match="no names that begin with 'x.'"):
        interop.load_state_dict_into(model, tensors, prefix="x.")
    with pytest.raises(TypeError, match="names must be a mapping"):
        interop.load_state_dict_into(model, tensors, names=["a", "b"])
    with pytest.raises(ValueError, match="missing 1.weight"):
        interop.load_state_dict_into(model, linear_dict("a.", 4, 4), names={"a": "0"})
    np.testing.assert_array_equal(model.parameters_to_vector(), before)
    interop.load_state_dict_into(model, tensors, names={"a": "1", "b": "0"})
    np.testing.assert_array_equal(model.state_dict()["1.weight"], tensors["a.weight"])


# ---- files ----


def test_interop_torch_files_are_pytorchs_and_tell_the_architecture(tmp_path):
    path = tmp_path / "model.safetensors"
    for seed in range(10):
        model = random_model(np.random.default_rng([seed, 9]), "float32")
        interop.save(model, path)
        tensors = safetensors_torch.load_file(path)
        interop.to_module(model).load_state_dict(tensors)
        assert_same_layers(interop.load(path), model)


def test_interop_torch_reads_files_of_others(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = lstm_dict("0.") | linear_dict("1.", 4, 2)
    safetensors_torch.save_file(tensors, path)
    model = interop.load(path, batch_first=True)
    assert model.batch_first and [type(layer).__name__ for layer in model.layers] == ["LSTM", "Linear"]
    model = interop.load(path, ["0", fastrnn.Last(), "1"])
    assert len(model.layers) == 3


def test_interop_torch_hints_come_before_a_files_architecture(tmp_path):
    path = tmp_path / "model.safetensors"
    interop.save(fastrnn.Sequential(fastrnn.LSTM(3, 4), fastrnn.Dropout(0.1), fastrnn.Linear(4, 2)), path)
    assert len(interop.load(path, ["0", "2"]).layers) == 2


def test_interop_torch_files_that_are_none_are_refused(tmp_path):
    pickled = tmp_path / "model.pt"
    torch.save(nn.Linear(3, 2).state_dict(), pickled)
    with pytest.raises(FormatError, match="is not a safetensors file"):
        interop.load(pickled)
    with pytest.raises(FileNotFoundError):
        interop.load(tmp_path / "none")
    fastrnn.save(fastrnn.Linear(3, 2), tmp_path / "ours")
    with pytest.raises(FormatError, match="read it by fastrnn.load"):
        interop.load(tmp_path / "ours")
    tensors = nn.Linear(3, 2).state_dict()
    for text in ("{", "[1]", json.dumps({"type": "Linear", "config": {"in_features": 4, "out_features": 2}})):
        safetensors_torch.save_file(tensors, tmp_path / "bad", {"fastrnn_architecture": text})
        with pytest.raises(FormatError, match="bad"):
            interop.load(tmp_path / "bad")


def test_interop_torch_state_dicts_need_no_pytorch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import fastrnn, fastrnn.interop.torch as interop\n"
        "model = fastrnn.Sequential(fastrnn.LSTM(3, 4), fastrnn.Linear(4, 2))\n"
        "interop.from_state_dict(interop.to_state_dict(model))\n"
        "try: interop.to_module(model)\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "needs the torch package" in run.stdout and "fastrnn[torch]" in run.stdout


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    warnings.simplefilter("ignore")
    for precision in TOLERANCE:
        figures = [round_trip(seed, precision) for seed in range(count)]
        print(f"{count} random models there and back, {precision}: largest difference {max(figures):.1e}")
