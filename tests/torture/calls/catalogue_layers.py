"""Right calls of everything that layers and models have."""

import numpy as np

import fastrnn as fr

from .arguments import Argument
from .judge import Call, Entry, setting

SIZE = Argument(minimum=1, huge="refused")
COUNT = Argument(minimum=1)
SEED = Argument(minimum=0)


def floats(rng, *shape, dtype="float32"):
    """Random numbers that float32 holds."""
    return rng.standard_normal(shape).astype("float32").astype(dtype)


def _recurrent(kind):
    def make(rng, one_way):
        size, hidden = (int(n) for n in rng.integers(1, 6, 2))
        many = {} if one_way else {"num_layers": int(rng.integers(1, 3)), "bidirectional": bool(rng.integers(2))}
        return kind(size, hidden, batch_first=bool(rng.integers(2)), **many, seed=1), size

    return make


def _jordan(rng, one_way):
    return fr.Jordan(3, 4, 2, batch_first=bool(rng.integers(2)), seed=1), 3


def _plain(layer, size=4):
    return lambda rng, one_way: (layer(), size)


def _sequential(rng, one_way):
    layers = fr.LSTM(3, 4, seed=1), fr.Dropout(0.2, seed=2), fr.Linear(4, 2, seed=3)
    return fr.Sequential(*layers, batch_first=bool(rng.integers(2))), 3


def _residual(rng, one_way):
    return fr.Residual(fr.GRU(4, 4, seed=1), batch_first=bool(rng.integers(2))), 4


def _concatenated(rng, one_way):
    return fr.Concatenated(fr.RNN(3, 4, seed=1), fr.Linear(4, 2, seed=2), include_input=bool(rng.integers(2))), 3


_TOKENS = 5
_MAKERS = {  # (rng, one_way) -> the layer and the features of its input, None for tokens
    "LSTM": _recurrent(fr.LSTM),
    "GRU": _recurrent(fr.GRU),
    "RNN": _recurrent(fr.RNN),
    "PeepholeLSTM": _recurrent(fr.PeepholeLSTM),
    "LayerNormLSTM": _recurrent(fr.LayerNormLSTM),
    "Jordan": _jordan,
    "Linear": _plain(lambda: fr.Linear(4, 3, seed=1)),
    "Embedding": _plain(lambda: fr.Embedding(_TOKENS, 3, seed=1), None),
    "OneHot": _plain(lambda: fr.OneHot(_TOKENS), None),
    "Tanh": _plain(fr.Tanh),
    "ReLU": _plain(fr.ReLU),
    "Sigmoid": _plain(fr.Sigmoid),
    "Dropout": _plain(lambda: fr.Dropout(0.3, seed=1)),
    "ActivityRegularization": _plain(lambda: fr.ActivityRegularization(0.1, 0.1, 0.1)),
    "Last": _plain(fr.Last),
    "MeanPool": _plain(fr.MeanPool),
    "MaxPool": _plain(fr.MaxPool),
    "Repeat": _plain(lambda: fr.Repeat(3)),
    "Sequential": _sequential,
    "Residual": _residual,
    "Concatenated": _concatenated,
}


class Sample:
    """A layer with a batch for it, and what its forward pass gives."""

    def __init__(self, rng, kind, *, one_way=False):
        self.rng = rng
        self.layer, self.features = _MAKERS[kind](rng, one_way)
        self.steps, self.batch = (int(n) for n in rng.integers(1, 5, 2))
        self.lead = (self.batch, self.steps) if self.layer.batch_first else (self.steps, self.batch)
        if kind == "Repeat":
            self.lead = (self.batch,)
        self.x = self.input(*self.lead)
        self.y, self.state = self.layer.forward(self.x)
        if not self.layer.stateful:
            self.state = None

    def input(self, *lead):
        """A random input."""
        if self.features is None:
            return self.rng.integers(0, _TOKENS, lead)
        return floats(self.rng, *lead, self.features)

    def some(self, **options):
        """Those of these arguments that are not None, each by chance."""
        return {name: value for name, value in options.items() if value is not None and self.rng.random() < 0.5}

    def sequences(self):
        """Arguments that say where sequences begin and end, by chance."""
        if len(self.lead) == 1:
            return {}
        return self.some(
            lengths=self.rng.integers(1, self.steps + 1, self.batch), resets=self.rng.random(self.lead) < 0.3
        )


def _forward(kind, method):
    def make(rng):
        sample = Sample(rng, kind)
        layer = sample.layer
        workspace = layer.workspace(sample.steps + 1, sample.batch + 1)
        some = sample.some(state=sample.state, out=sample.y.copy(), workspace=workspace)
        watched = (layer, workspace) if "workspace" in some else (layer,)
        return Call(getattr(layer, method), {"x": sample.x, **some, **sample.sequences()}, watched)

    return make


def _backward(kind):
    def make(rng):
        sample = Sample(rng, kind)
        layer, workspace = sample.layer, sample.layer.workspace(sample.steps + 1, sample.batch + 1)
        y, state = layer.forward(sample.x, workspace=workspace, **sample.sequences())
        dstate = None if sample.state is None else _copied(state)
        arguments = {"dy": floats(rng, *y.shape), "workspace": workspace, **sample.some(dstate=dstate)}
        return Call(layer.backward, arguments, (layer, workspace))

    return make


def _change(call):
    """Write the parameters of the layer whose method a call is."""
    layer = call.function.__self__
    layer.vector_to_parameters(layer.parameters_to_vector())


def _copied(state):
    if isinstance(state, tuple):
        return tuple(_copied(entry) for entry in state)
    return None if state is None else state.copy()


def _step(kind):
    def make(rng):
        sample = Sample(rng, kind, one_way=True)
        x_t = sample.input(sample.batch)
        some = {"state": sample.state, "resets": rng.random(sample.batch) < 0.3}
        return Call(sample.layer.step, {"x_t": x_t, **sample.some(**some)}, (sample.layer,))

    return make


def _method(kind, method, arguments=lambda sample: {}, observe=lambda result: result):
    def make(rng):
        sample = Sample(rng, kind, one_way=method.startswith("kernel_"))
        return Call(getattr(sample.layer, method), arguments(sample), (sample.layer,), observe)

    return make


_ARRAYS = {
    "lengths": Argument(minimum=1, fixed=True),
    "resets": Argument(fixed=True),
    "workspace": Argument(),
    "state": Argument(none=True, words=("state",)),
}
_TAKE_TOKENS = ("LSTM", "GRU", "RNN", "PeepholeLSTM", "LayerNormLSTM", "Sequential", "Residual", "Concatenated")
_SHAPE = Argument(words=("layer", "dimensions"))


def _known_forward(kind):
    maximum = _TOKENS - 1 if _MAKERS[kind] in (_MAKERS["Embedding"], _MAKERS["OneHot"]) else None
    minimum = None if maximum is None else 0
    others = ("state", "out", "lengths", "resets")  # which an x of another shape does not go with
    kind_of_x = "integers" if minimum == 0 else "input" if kind in _TAKE_TOKENS else "floats"
    x = Argument(kind_of_x, minimum=minimum, maximum=maximum, padded=True, words=(*others, *_SHAPE.words))
    return {**_ARRAYS, "x": x}


def _layer_entries(kind):
    name = f"fastrnn.{kind}"
    known_x = _known_forward(kind)
    wide = {"state_dict": Argument(words=("weight", "bias", "state_dict"))}
    yield Entry(f"{name}.forward", _forward(kind, "forward"), known_x)
    yield Entry(f"{name}.__call__", _forward(kind, "__call__"), known_x)
    backward = {"dy": Argument(fixed=True), "dstate": Argument(none=True), "workspace": Argument(fixed=True)}
    disorders = {"a second time": lambda call: call()}
    if _MAKERS[kind](np.random.default_rng(0), True)[0].num_parameters:
        disorders["after the parameters were changed"] = _change
    yield Entry(f"{name}.backward", _backward(kind), backward, disorders=disorders)
    whole = ("single step",)  # of some layers there is none
    step = {"state": Argument(none=True, words=whole), "resets": Argument(fixed=True, words=whole)}
    step["x_t"] = known_x["x"]._replace(padded=False, words=(*known_x["x"].words, *whole))
    yield Entry(f"{name}.step", _step(kind), step)
    sizes = {"T": COUNT if kind == "Repeat" else SIZE, "B": SIZE, "threads": COUNT}  # what it repeats has no steps
    yield Entry(f"{name}.workspace", _method(kind, "workspace", lambda s: {"T": s.steps, "B": s.batch}), sizes)
    for method in ("config", "grad_dict", "gradients_to_vector", "parameters_to_vector", "state_dict", "zero_grad"):
        yield Entry(f"{name}.{method}", _method(kind, method))
    yield Entry(
        f"{name}.load_state_dict",
        _method(kind, "load_state_dict", lambda s: {"state_dict": {n: 2 * a for n, a in s.layer.state_dict().items()}}),
        wide,
    )
    vector = Argument(fixed=True, words=("has no parameters",))
    yield Entry(
        f"{name}.vector_to_parameters",
        _method(kind, "vector_to_parameters", lambda s: {"v": floats(s.rng, s.layer.num_parameters)}), {"v": vector},
    )  # fmt: skip
    layer_class = getattr(fr, kind)
    if hasattr(layer_class, "kernel_weights"):
        yield Entry(f"{name}.kernel_weights", _method(kind, "kernel_weights"))
        options = {"T": 3, "B": 2, "threads": 1, "input_gradient": True}
        words = ("kernels",)  # of some cells there are none for compiled code
        known = {option: argument._replace(words=words) for option, argument in sizes.items()}
        known["input_gradient"] = Argument(words=words)
        # the contents are undefined
        make = _method(kind, "kernel_workspace", lambda s: dict(options), lambda made: [a.shape for a in made[:-1]])
        yield Entry(f"{name}.kernel_workspace", make, known)


def _constructor(name, make_arguments, known=None, **options):
    def make(rng):
        return Call(getattr(fr, name), make_arguments(rng))

    return Entry(f"fastrnn.{name}", make, {**_CONSTRUCTORS, **(known or {})}, **options)


_CONSTRUCTORS = {
    **dict.fromkeys(
        ("input_size", "hidden_size", "num_layers", "output_size", "in_features", "out_features", "num_embeddings",
         "embedding_dim"), SIZE,
    ),
    **dict.fromkeys(("num", "steps", "dilation"), COUNT),
    **dict.fromkeys(("dropout", "recurrent_dropout", "p"), Argument(minimum=0, maximum=1)),
    "bidirectional": Argument(words=("dilation",)),
    "seed": SEED,
    "init": Argument("other", words=("",)),  # it may be a function, which raises what it likes
    "initial_state": Argument("other"),
    "dtype": Argument("other", none=False),
    "layer": Argument("model", words=("layer",)),
    "l1": Argument(minimum=0), "l2": Argument(minimum=0), "slowness": Argument(minimum=0), "std": Argument(minimum=0),
}  # fmt: skip


def _stack(rng, **more):
    return {
        "input_size": 3, "hidden_size": 4, "num_layers": 2, "batch_first": True, "bidirectional": False,
        "dropout": 0.25, "variational": True, "initial_state": "learned", "dilation": 2, "init": "orthogonal",
        "dtype": "float64", "seed": 5, **more,
    }  # fmt: skip


_NEW = {
    "LSTM": lambda rng: _stack(rng, bias=True, recurrent_dropout=0.5, zoneout=0.5, forget_bias=1.0),
    "GRU": lambda rng: _stack(rng, bias=True, recurrent_dropout=0.5, zoneout=0.5, reset_after=False),
    "RNN": lambda rng: _stack(rng, bias=False, nonlinearity="relu", zoneout=0.5),
    "PeepholeLSTM": lambda rng: _stack(rng, bias=True, forget_bias=1.0),
    "LayerNormLSTM": _stack,
    "Jordan": lambda rng: {
        "input_size": 3, "hidden_size": 4, "output_size": 2, "nonlinearity": "tanh", "output_nonlinearity": "sigmoid",
        "bias": True, "batch_first": True, "init": "orthogonal", "dtype": "float32", "seed": 5,
    },
    "Linear": lambda rng: {"in_features": 3, "out_features": 2, "bias": True, "dtype": "float64", "seed": 5,
                           "init": "xavier_normal"},
    "Embedding": lambda rng: {"num_embeddings": 3, "embedding_dim": 2, "dtype": "float64", "seed": 5, "init": "ones"},
    "OneHot": lambda rng: {"num": 3, "dtype": "float64"},
    **{kind: lambda rng: {"dtype": "float64"} for kind in ("Tanh", "ReLU", "Sigmoid", "MeanPool", "MaxPool")},
    "Last": lambda rng: {"bidirectional": True, "dtype": "float64"},
    "Dropout": lambda rng: {"p": 0.25, "variational": True, "dtype": "float64", "seed": 5},
    "ActivityRegularization": lambda rng: {"l2": 0.5, "l1": 0.25, "slowness": 0.125, "dtype": "float64"},
    "Repeat": lambda rng: {"steps": 3, "dtype": "float64"},
    "NoisyState": lambda rng: {"std": 0.5},
}  # fmt: skip


def _containers():
    def layers(rng):
        return [fr.LSTM(3, 4, seed=1), fr.Linear(4, 3, seed=2)]

    words = Argument(words=("layer", "itera"))
    known = {"*": words}
    yield _constructor("Sequential", lambda rng: {"*": layers(rng), "batch_first": True}, known)
    yield _constructor(
        "Concatenated", lambda rng: {"*": layers(rng), "batch_first": True, "include_input": True}, known
    )
    yield _constructor("Residual", lambda rng: {"layer": fr.LSTM(3, 3, seed=1), "batch_first": True})
    for kind in ("Sequential", "Concatenated", "Residual"):

        def batch_first(rng, kind=kind):
            model, _ = _MAKERS[kind](rng, False)
            return setting(model, "batch_first", True)

        yield Entry(f"fastrnn.{kind}.batch_first", batch_first)


def entries():
    """All of them."""
    for name, make_arguments in _NEW.items():
        yield _constructor(name, make_arguments)
    yield from _containers()
    yield Entry("fastrnn.NoisyState.config", lambda rng: Call(fr.NoisyState(0.5).config, {}))
    for kind in _MAKERS:
        yield from _layer_entries(kind)
