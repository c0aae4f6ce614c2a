"""Right calls of data, generation, diagnostics, initialisers, files, pictures and other libraries."""

import functools
import itertools
import os

import numpy as np

import fastrnn as fr
from fastrnn import data, diagnostics, init

from .arguments import Argument
from .catalogue_layers import COUNT, SEED, SIZE, floats
from .catalogue_training import FOLDER, POSITIVE, trainer
from .judge import Call, Entry

_LOOSE = Argument("other")


def _few(made):
    """The first batches of a stream."""
    return list(itertools.islice(iter(made), 3))


def _data():
    def tokens(rng):
        return {"tokens": rng.integers(0, 9, 40), "batch_size": 2, "seq_len": 5}

    def series(rng):
        return {"series": floats(rng, 40, 2), "batch_size": 2, "seq_len": 5, "targets": floats(rng, 40, 3)}

    def windows(rng):
        return {
            "series": floats(rng, 20, 2), "length": 4, "horizon": 2, "batch_size": 3, "shuffle": True,
            "batch_first": True, "seed": 3,
        }  # fmt: skip

    known = {"tokens": _LOOSE, "series": Argument(words=("targets",)), "batch_size": COUNT, "seq_len": COUNT}
    known |= {"length": COUNT, "horizon": Argument(minimum=1, none=True), "seed": SEED}
    known["targets"] = Argument(words=("series",))
    known["batch_size"] = known["seq_len"] = COUNT._replace(words=("batch_size", "seq_len"))
    known["length"] = COUNT._replace(words=("length",))
    for kind, arguments in ((data.TokenStream, tokens), (data.SeriesStream, series), (data.WindowBatches, windows)):
        name = f"fastrnn.data.{kind.__name__}"

        def make(rng, kind=kind, arguments=arguments):
            return kind(**arguments(rng))

        yield Entry(name, lambda rng, k=kind, a=arguments: Call(k, a(rng), (), _few), known)
        yield Entry(f"{name}.__iter__", lambda rng, make=make: Call(make(rng).__iter__, {}, (), _few))
        yield Entry(f"{name}.__len__", lambda rng, make=make: Call(make(rng).__len__, {}))

        def load(rng, make=make):
            stream = make(rng)
            next(iter(stream))
            return Call(stream.load_state_dict, {"state": stream.state_dict()}, (stream,))

        yield Entry(f"{name}.load_state_dict", load, {"state": Argument("other", words=("state",))})
        yield Entry(f"{name}.state_dict", lambda rng, make=make: Call(make(rng).state_dict, {}))

    def padded(rng):
        return Call(data.pad, {"sequences": [floats(rng, n, 2) for n in (3, 1, 4)], "value": 0.5, "batch_first": True})

    yield Entry("fastrnn.data.pad", padded, {"value": _LOOSE})

    def windowed(rng):
        arguments = windows(rng)
        names = "series", "length", "horizon", "batch_first"
        return Call(data.windows, {name: arguments[name] for name in names})

    yield Entry("fastrnn.data.windows", windowed, known | {"horizon": COUNT})


def _generation():
    def model():
        return fr.Sequential(fr.Embedding(5, 3, seed=1), fr.GRU(3, 4, seed=2), fr.Linear(4, 5, seed=3))

    def some(rng, arguments, kept):
        return {name: value for name, value in arguments.items() if name in kept or rng.random() < 0.5}

    def generated(rng):
        arguments = {
            "model": model(), "start": rng.integers(0, 5, (3, 2)), "steps": 4, "temperature": 0.5, "top_k": 3,
            "top_p": 0.5, "seed": 3, "end": 2, "lengths": np.array([3, 2]), "exclude": (1,),
            "state": (None, floats(rng, 1, 2, 4), None),
        }  # fmt: skip
        return some(rng, arguments, ("model", "start", "steps", "seed"))

    def generate(rng):
        arguments = generated(rng)
        return Call(fr.generate, arguments, (arguments["model"],))

    def stream(rng):
        arguments = {name: value for name, value in generated(rng).items() if name not in ("steps", "end")}
        return Call(fr.stream, arguments, (arguments["model"],))

    def beams(rng):
        arguments = {
            "model": model(), "start": rng.integers(0, 5, 3), "steps": 3, "beam_width": 2, "end": 2,
            "state": (None, floats(rng, 1, 1, 4), None), "length_penalty": 0.5, "exclude": (1,),
        }  # fmt: skip
        arguments = some(rng, arguments, ("model", "start", "steps", "beam_width"))
        return Call(fr.beam_search, arguments, (arguments["model"],))

    start = Argument(minimum=0, maximum=4, padded=True, words=("state", "lengths", "x must"))
    known = {
        "start": start, "steps": SIZE, "temperature": POSITIVE, "top_k": Argument(minimum=1, maximum=5),
        "top_p": Argument(minimum=0, maximum=1), "seed": SEED, "end": Argument(minimum=0, maximum=4),
        "lengths": Argument(minimum=1, maximum=3, fixed=True), "exclude": Argument(words=("exclude",)),
        "state": Argument(none=True, words=("finite",)),
    }  # fmt: skip
    yield Entry("fastrnn.generate", generate, known)
    yield Entry("fastrnn.stream", stream, known)
    search = {"steps": Argument(minimum=1), "beam_width": Argument(minimum=1), "length_penalty": POSITIVE}
    search["steps"] = Argument(minimum=1, huge="untried")
    yield Entry("fastrnn.beam_search", beams, known | search)


def _net(dtype="float32"):
    return fr.Sequential(fr.GRU(2, 3, seed=1, dtype=dtype), fr.Linear(3, 2, seed=2, dtype=dtype))


def _batch(rng, dtype="float32"):
    return {"x": floats(rng, 4, 2, 2, dtype=dtype), "targets": floats(rng, 4, 2, 2, dtype=dtype)}


@functools.cache
def _flow():
    return diagnostics.gradient_flow(_net(), fr.MSE(), **_batch(np.random.default_rng(1)))


@functools.cache
def _bias():
    return diagnostics.truncation_bias(_net(), fr.MSE(), **_batch(np.random.default_rng(1)), horizons=(1, 2))


def _axes():
    """Axes to draw into, which takes less time than a file."""
    from fastrnn import plot

    return plot.new_figure("the test", 1, 1).subplots()


def _picture(made):
    """Pictures are compared by what was given back for them."""
    return type(made).__name__


def _path(name):
    return os.path.join(FOLDER.name, name)


_PATH = Argument("other", words=("path", "file", "directory", "null", "name", "encode", "PathLike", "model"))


def _diagnostics():
    def run(rng, function, dtype="float32", **more):
        model = _net(dtype)
        arguments = {"model": model, "loss": fr.MSE(), **_batch(rng, dtype), **more}
        some = {"state": (floats(rng, 1, 2, 3), None), "lengths": np.array([4, 3]), "mask": np.ones((4, 2), bool)}
        some["resets"] = rng.random((4, 2)) < 0.3
        arguments |= {name: value for name, value in some.items() if rng.random() < 0.3}
        return Call(function, arguments, (model,))

    known = {
        "lengths": Argument(minimum=1, maximum=4, fixed=True), "resets": Argument(fixed=True),
        "targets": Argument(fixed=True, words=("mask",)), "mask": Argument(words=("valid",)),
        "x": Argument(words=("lengths", "targets", "state", "mask", "resets", "max_lag")),
        "max_lag": Argument(minimum=1, maximum=3, none=True), "jacobians": Argument(minimum=0),
        "horizons": Argument(words=("horizons",)), "eps": POSITIVE, "tolerance": POSITIVE, "seed": SEED,
        "max_elements": COUNT._replace(none=True),
    }  # fmt: skip
    name = "fastrnn.diagnostics"
    yield Entry(
        "fastrnn.gradcheck",
        lambda rng: run(rng, fr.gradcheck, "float64", eps=0.001, tolerance=1e-6, max_elements=2, seed=3), known,
    )  # fmt: skip
    yield Entry(f"{name}.gradient_flow", lambda rng: run(rng, diagnostics.gradient_flow, max_lag=2, jacobians=2), known)
    yield Entry(f"{name}.truncation_bias", lambda rng: run(rng, diagnostics.truncation_bias, horizons=(1, 2)), known)
    target = {"target": _PATH._replace(words=("target", *_PATH.words))}
    for kind, made in (("GradientFlow", _flow), ("TruncationBias", _bias)):
        yield Entry(
            f"{name}.{kind}.plot",
            lambda rng, made=made: Call(made().plot, {"target": _axes()}, (), _picture), target,
        )  # fmt: skip

    def watch(rng):
        arguments = {"batch": _batch(rng), "every": 3, "path": _path("watch.png"), "max_lag": 2, "jacobians": 1}
        return Call(diagnostics.WatchGradients, arguments)

    def watching(rng):
        made, batch = trainer(rng)
        watch = diagnostics.WatchGradients(batch, max_lag=2, jacobians=1)
        return Call(watch, {"trainer": made, "record": {"loss": 1.0}}, (made,))

    new = {"every": COUNT, "batch": Argument(words=("batch",)), "path": _PATH, "max_lag": known["max_lag"]}
    new["max_lag"] = COUNT._replace(none=True)
    yield Entry(f"{name}.WatchGradients", watch, new | {"jacobians": known["jacobians"]})
    yield Entry(f"{name}.WatchGradients.__call__", watching, names=False)


def _initialisers():
    for name in ("xavier_uniform", "xavier_normal", "lecun_normal", "kaiming_uniform", "kaiming_normal", "orthogonal",
                 "identity", "zeros", "ones"):  # fmt: skip
        yield Entry(
            f"fastrnn.init.{name}",
            lambda rng, name=name: Call(getattr(init, name), {"shape": (3, 2), "rng": np.random.default_rng(1)}),
            tool=True,
        )
    seed = {"seed": SEED._replace(none=True)}
    yield Entry("fastrnn.init.generator", lambda rng: Call(init.generator, {"seed": 3}), seed)

    def fill(rng):
        layer = fr.LSTM(2, 3, seed=1)
        arguments = {
            "parameters": layer.parameters, "fan": 3, "spec": "orthogonal", "rng": np.random.default_rng(1), "gates": 4,
            "forget_bias": 1.0, "default": "uniform",
        }  # fmt: skip
        return Call(init.fill, arguments, (layer,))

    known = {"fan": _LOOSE, "gates": _LOOSE, "spec": _LOOSE, "default": _LOOSE}
    yield Entry("fastrnn.init.fill", fill, known, tool=True)


def _whole_library():
    yield Entry("fastrnn.get_num_threads", lambda rng: Call(fr.get_num_threads, {}))
    count = {"n": Argument(minimum=1, maximum=999)}
    yield Entry("fastrnn.set_num_threads", lambda rng: Call(fr.set_num_threads, {"n": 1}), count)

    def clipped(function, **arguments):
        def make(rng):
            model = fr.Linear(3, 2, seed=1)
            workspace = model.workspace(2, 2)
            y, _ = model.forward(floats(rng, 2, 2, 3), workspace=workspace)
            model.backward(np.ones_like(y), workspace=workspace)
            return Call(function, {"model": model, **arguments}, (model,))

        return make

    known = {name: POSITIVE for name in ("max_norm", "max_value", "v")}
    yield Entry("fastrnn.clip_grad_norm", clipped(fr.clip_grad_norm, max_norm=0.5), known)
    yield Entry("fastrnn.clip_grad_value", clipped(fr.clip_grad_value, v=0.5), known)
    yield Entry("fastrnn.clip_gradients", clipped(fr.clip_gradients, max_norm=0.5, max_value=0.25), known)

    def saved(rng):
        model = _net()
        return Call(fr.save, {"model": model, "path": _path("model"), "extra": {"a": 1}}, (model,))

    def loaded(rng):
        fr.save(_net(), _path("model"))
        return Call(fr.load, {"path": _path("model")}, (), fr.Linear.state_dict)

    def loaded_extra(rng):
        saved(rng)()
        return Call(fr.storage.load_extra, {"path": _path("model")})

    yield Entry("fastrnn.storage.load_extra", loaded_extra, {"path": _PATH})
    yield Entry("fastrnn.save", saved, {"path": _PATH, "extra": Argument("other", words=("JSON",))})
    yield Entry("fastrnn.load", loaded, {"path": _PATH})


def _pictures():
    from fastrnn import plot

    def drawn(function, arguments, known=None):
        name = f"fastrnn.plot.{function.__name__}"
        return Entry(name, lambda rng: Call(function, arguments(rng), (), _picture), known or {}, names=False)

    records = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "validation_loss": 0.5}]
    names = (
        "training", "validation", "states", "labels", "y_true", "y_pred", "batch_first", "history", "forecast", "lower",
        "upper", "time", "actual", "batch",
    )  # fmt: skip
    loose = dict.fromkeys(names, _LOOSE)
    curves = {"history": records, "training": "loss", "validation": "validation_loss", "log": True}
    yield drawn(plot.history, lambda rng: dict(curves), loose)
    yield drawn(plot.gradient_flow, lambda rng: {"flow": _flow(), "by": "lag"})
    yield drawn(
        plot.states,
        lambda rng: {"states": floats(rng, 4, 2, 3), "batch": 1, "batch_first": False, "labels": list("abcd")}, loose,
    )  # fmt: skip
    yield drawn(
        plot.forecast,
        lambda rng: {
            "time": np.arange(7), "history": floats(rng, 5), "forecast": floats(rng, 2), "lower": floats(rng, 2),
            "upper": floats(rng, 2), "actual": floats(rng, 2),
        }, loose,
    )  # fmt: skip
    yield drawn(
        plot.confusion,
        lambda rng: {"y_true": np.array([0, 1, 1]), "y_pred": np.array([0, 1, 0]), "labels": ["a", "b"]}, loose,
    )  # fmt: skip
    yield drawn(plot.new_figure, lambda rng: {"user": "me", "width": 1.0, "height": 1.0},
                {"user": _LOOSE, "width": _LOOSE, "height": _LOOSE})  # fmt: skip

    @functools.cache
    def figure():
        return plot.new_figure("me", 1, 1)

    yield drawn(
        plot.save, lambda rng: {"picture": figure(), "path": _path("p.png"), "dpi": 20}, {"path": _PATH, "dpi": SIZE}
    )


def _other_libraries():
    from fastrnn.interop import keras, torch

    def theirs():
        return {name: array for name, array in fr.LSTM(3, 4, seed=1).state_dict().items()}

    name = "fastrnn.interop.torch"
    loose = {"names": False}
    known = {name_: _LOOSE for name_ in ("nonlinearity", "dtype", "prefix", "kind", "tensors", "inference", "path")}
    yield Entry(
        f"{name}.from_state_dict",
        lambda rng: Call(torch.from_state_dict, {"state_dict": theirs(), "batch_first": True, "dtype": "float64"}),
        known, **loose,
    )  # fmt: skip

    def described(rng):
        return Call(torch.to_state_dict, {"model": fr.GRU(3, 4, seed=1), "tensors": False})

    yield Entry(f"{name}.to_state_dict", described, known, **loose)

    def into(rng):
        model = fr.LSTM(3, 4, seed=2)
        return Call(torch.load_state_dict_into, {"model": model, "state_dict": theirs(), "prefix": ""}, (model,))

    yield Entry(f"{name}.load_state_dict_into", into, known, **loose)

    def saved(rng):
        return Call(torch.save, {"model": fr.LSTM(3, 4, seed=1), "path": _path("torch.safetensors")})

    def loaded(rng):
        torch.save(fr.LSTM(3, 4, seed=1), _path("torch.safetensors"))
        return Call(torch.load, {"path": _path("torch.safetensors")}, (), fr.Linear.state_dict)

    yield Entry(f"{name}.save", saved, known, **loose)
    yield Entry(f"{name}.load", loaded, known, **loose)
    yield Entry(
        f"{name}.to_module", lambda rng: Call(torch.to_module, {"model": fr.LSTM(3, 4, seed=1), "inference": True}),
        known, slow=True, **loose,
    )  # fmt: skip

    def from_module(rng):
        return Call(torch.from_module, {"module": torch.to_module(fr.LSTM(3, 4, seed=1))})

    yield Entry(f"{name}.from_module", from_module, known, slow=True, **loose)

    name = "fastrnn.interop.keras"
    yield Entry(f"{name}.to_weights", lambda rng: Call(keras.to_weights, {"layer": fr.LSTM(3, 4, seed=1)}), **loose)

    def from_weights(rng):
        weights = keras.to_weights(fr.LSTM(3, 4, seed=1))
        arguments = {"kind": "lstm", "weights": weights, "batch_first": True, "dtype": "float64"}
        return Call(keras.from_weights, arguments)

    yield Entry(f"{name}.from_weights", from_weights, known, **loose)

    @functools.cache
    def keras_model():
        os.environ.setdefault("KERAS_BACKEND", "torch")  # the one that is installed for the tests
        return keras.to_model(fr.Sequential(fr.LSTM(3, 4, seed=1), fr.Linear(4, 2, seed=1), batch_first=True))

    yield Entry(
        f"{name}.from_model", lambda rng: Call(keras.from_model, {"model": keras_model(), "inference": True}), known,
        slow=True, **loose,
    )  # fmt: skip

    def to_model(rng):
        keras_model()
        model = fr.Sequential(fr.LSTM(3, 4, seed=1), fr.Linear(4, 2, seed=1), batch_first=True)
        return Call(keras.to_model, {"model": model, "inference": True}, (model,), _picture)

    yield Entry(f"{name}.to_model", to_model, known, slow=True, **loose)

    from fastrnn.interop import onnx

    def exported(rng):
        model = fr.LSTM(3, 4, seed=1)
        arguments = {"model": model, "path": _path("model.onnx"), "lengths": True, "states": True, "tokens": False}
        return Call(onnx.export, arguments, (model,))

    def read(rng):
        onnx.export(fr.LSTM(3, 4, seed=1), _path("model.onnx"))
        return Call(onnx.load, {"path": _path("model.onnx")}, (), _picture)

    @functools.cache
    def graph():
        onnx.export(fr.LSTM(3, 4, seed=1), _path("graph.onnx"), states=False)
        return onnx.load(_path("graph.onnx"))

    def ran(rng):
        return Call(graph().run, {"inputs": {"x": floats(rng, 3, 2, 3)}})

    yield Entry("fastrnn.interop.onnx.OnnxModel.run", ran, slow=True, **loose)
    yield Entry("fastrnn.interop.onnx.export", exported, {"path": _PATH}, slow=True, **loose)
    yield Entry("fastrnn.interop.onnx.load", read, {"path": _PATH}, slow=True, **loose)


def entries():
    """All of them."""
    parts = (_data, _generation, _diagnostics, _initialisers, _whole_library, _pictures, _other_libraries)
    for part in parts:
        yield from part()
