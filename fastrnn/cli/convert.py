"""`fastrnn convert`: a model file as another library's."""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import layers, storage
from ..interop import torch as interop_torch
from ..interop.common import named_layers
from ..model import Container
from .common import MODEL_FILE, CommandError, add_json, check_output, file_in_run, report, require, say

_STEPS, _BATCH = 7, 3  # of the input that outputs are compared on
_TOLERANCE = 1e-3  # of outputs, relative to the largest
# What Keras may compute with here, and the package it then needs; JAX, also behind NumPy, would compute in float32.
_BACKENDS = {"torch": "torch", "tensorflow": "tensorflow", "numpy": "jax"}


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "convert",
        help="a model for ONNX, PyTorch or Keras, or one from PyTorch",
        description="Write a model for another library: an ONNX file, a safetensors file with PyTorch's names, a "
        "Keras file. It is read back and, where that library is installed, its output compared. What the other library "
        "has no counterpart of is named, and nothing is written.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a run")
    parser.add_argument("--to", required=True, choices=_TARGETS, help="the other library")
    parser.add_argument(
        "--output", metavar="FILE", help="file to write (default: beside the model, with another ending; for keras "
        "*.keras, or *.weights.h5 for the weights alone)",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", choices=("fastrnn", "torch"), default="fastrnn",
        help="what MODEL is: torch for a safetensors file of a PyTorch state dict",
    )  # fmt: skip
    parser.add_argument(
        "--layers", metavar="NAMES",
        help="with --from torch, where it does not follow from the file: modules' names and layers in their order, as "
        "in embed,lstm,Last,head; a name may have the kind of its layer after it: embed:Embedding",
    )  # fmt: skip
    parser.add_argument(
        "--nonlinearity", choices=("tanh", "relu"), help="with --from torch: of RNNs, which the file does not tell"
    )
    parser.add_argument("--batch-first", action="store_true", help="with --from torch: sequences are (B,T,F)")
    parser.add_argument(
        "--inference", action="store_true", help="leave out what acts in training alone, if it can't be converted"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Convert, and say what came of it."""
    target = _TARGETS[arguments.to]
    for package in target.packages:
        require(package, f"converting to {target.title}", arguments.to)
    source = file_in_run(arguments.model, MODEL_FILE)
    if source.endswith((".onnx", ".keras", ".h5")):
        raise CommandError(f"{source}: only fastrnn's and PyTorch's files are converted; fastrnn.interop reads others")
    output = arguments.output or os.path.splitext(source)[0] + target.endings[0]
    check_output("--output", output)
    if not output.endswith(target.endings):
        raise CommandError(f"--output: a file for {target.title} must end in {' or '.join(target.endings)}: {output}")
    if os.path.realpath(source) == os.path.realpath(output):
        raise CommandError(f"--output: {output} is the model itself")
    model, scaling = _read(arguments, source)
    # Written and checked in a folder of its own: an existing file is replaced whole, or stays as it was.
    with tempfile.TemporaryDirectory(prefix=".fastrnn-", dir=os.path.dirname(output) or os.curdir) as folder:
        draft = os.path.join(folder, os.path.basename(output))
        target.write(model, draft, arguments.inference)
        difference = _largest_difference(model, draft, target, scaling)
        os.replace(draft, output)
    names = [type(layer).__name__ for _, layer in named_layers(model)]
    compared = f"not run, for {target.runner} is not installed"
    if difference is not None:
        compared = f"largest difference in the output {difference:.1e}"
    figures = {
        "output": output, "format": arguments.to, "layers": names, "parameters": model.num_parameters,
        "largest_difference": difference,
    }  # fmt: skip
    if scaling is not None:
        figures["classes"] = scaling.classes
        say(
            "the scaling of the input is part of the first layer now; the classes, in the order of the outputs: "
            + ", ".join(map(str, scaling.classes))
        )
    report(arguments, figures, f"{output}: {', '.join(names)}; {model.num_parameters:,} parameters; {compared}")


class _Scaling(NamedTuple):
    """What `classify` saved with its model, which takes (x − mean) / scale, and whose outputs stand for the classes."""

    classes: list
    mean: np.ndarray  # (features,)
    scale: np.ndarray  # (features,)


def _read(arguments, source):
    """The model to convert, and the `_Scaling` that became part of it; None if there was none."""
    hints = {"nonlinearity": arguments.nonlinearity, "layers": arguments.layers, "batch_first": arguments.batch_first}
    given = {name: value for name, value in hints.items() if value}
    if arguments.source == "fastrnn":
        for name in given:
            raise CommandError(f"--{name.replace('_', '-')} goes with --from torch")
        model, extra = storage.load(source), storage.load_extra(source) or {}
        return (model, None) if extra.get("task") != "classify" else _scaled(model, extra, source)
    if arguments.layers:
        given["layers"] = [_described(word) for word in arguments.layers.split(",")]
    try:
        return interop_torch.load(source, **given), None
    except (ValueError, TypeError) as error:
        text = str(error)
        for hint in ("layers", "nonlinearity"):
            text = text.replace(f"pass {hint}=", f"pass --{hint} ")
        raise CommandError(text) from None


def _scaled(model, extra, source):
    """A classifier for input as it comes, and its `_Scaling`: W (x − mean) / scale + b is V x + (b − V mean)."""
    try:
        scaling = _Scaling(list(extra["classes"]), *(np.array(extra[name], np.float64) for name in ("mean", "scale")))
        parameters = model.state_dict()
        for name in [name for name in parameters if name.startswith("0.weight_ih_l0")]:
            bias = name.replace("weight", "bias")
            weight = parameters[name] / scaling.scale
            parameters[name] = weight.astype(model.dtype)
            parameters[bias] = (parameters[bias] - weight @ scaling.mean).astype(model.dtype)
        model.load_state_dict(parameters)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise CommandError(f"{source}: its classes or its scaling are damaged") from None
    return model, scaling


def _described(word):
    """A word of `--layers` as an entry of the argument `layers`: a layer, a pair, or a name."""
    plain = ("Last", "MeanPool", "MaxPool", "Tanh", "ReLU", "Sigmoid")
    if word in plain:
        return getattr(layers, word)()
    name, _, kind = word.partition(":")
    return (name, layers.LAYERS.get(kind, kind)) if kind else name


# ---- checking ----


def _largest_difference(model, path, target, scaling):
    """Between the model's output and that of the file at `path`; None where there is nothing to run it with."""
    if importlib.util.find_spec(target.runner) is None:
        return None
    x = _example(model)
    if scaling is not None:
        x = (x * scaling.scale + scaling.mean).astype(model.dtype)
    expected, _ = model.forward(x)
    found = target.output(model, path, x)
    if found.shape != expected.shape:
        raise CommandError(f"what was written has an output of shape {found.shape}, the model of {expected.shape}")
    difference = float(np.abs(found - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise CommandError(f"what was written computes something else: its output differs by {difference:.1e}")
    return difference


def _example(model):
    """A random input for a model."""
    rng = np.random.default_rng(0)
    shape = (_BATCH, _STEPS) if model.batch_first else (_STEPS, _BATCH)
    if model._step_dimensions() == 1:
        first = model
        while isinstance(first, Container):
            first = first.layers[0]
        return rng.integers(0, first._classes, shape)
    if isinstance(model, layers.Repeat) or isinstance(model, Container) and not model._takes_sequences:
        shape = (_BATCH,)
    return rng.standard_normal((*shape, model._input_features() or 4)).astype(model.dtype)


# ---- the other libraries ----


def _write_fastrnn(model, path, inference):
    storage.save(model, path)


def _fastrnn_output(model, path, x):
    return storage.load(path).forward(x)[0]


def _write_torch(model, path, inference):
    interop_torch.refuse_inexpressible(model, inference=inference)
    interop_torch.save(model, path)


def _torch_output(model, path, x):
    import safetensors.torch
    import torch

    module = interop_torch.to_module(model, inference=True)
    for parameter in module.parameters():
        parameter.data.zero_()
    module.load_state_dict(safetensors.torch.load_file(path))
    with torch.inference_mode():
        y = module.eval()(torch.from_numpy(x))
    return (y[0] if isinstance(y, tuple) else y).numpy()


def _keras():
    """Keras, computing with what is there, unless the environment says what."""
    if "KERAS_BACKEND" not in os.environ:
        there = [name for name, package in _BACKENDS.items() if importlib.util.find_spec(package) is not None]
        if not there:
            raise CommandError("Keras needs one of the packages jax, torch and tensorflow")
        os.environ["KERAS_BACKEND"] = there[0]
    import keras

    return keras


def _write_keras(model, path, inference):
    _keras()
    from ..interop import keras as interop_keras

    made = interop_keras.to_model(model, inference=inference)
    if path.endswith(".keras"):
        made.save(path)
    else:
        made.save_weights(path)


def _keras_output(model, path, x):
    keras = _keras()
    from ..interop import keras as interop_keras

    if path.endswith(".keras"):
        made = keras.saving.load_model(path)
    else:
        made = interop_keras.to_model(model, inference=True)
        for weight in made.weights:
            weight.assign(keras.ops.zeros_like(weight))
        made.load_weights(path)
    sequences = x.ndim == 3 or x.dtype.kind in "iu"
    y = np.asarray(made.predict_on_batch(x.swapaxes(0, 1) if sequences and not model.batch_first else x))
    return y.swapaxes(0, 1) if y.ndim == 3 and not model.batch_first else y


def _write_onnx(model, path, inference):
    from ..interop import onnx as interop_onnx

    interop_onnx.export(model, path)  # what it computes at inference, all of it


def _onnx_output(model, path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    learned = model.state_dict()
    inputs = {}
    for entry in session.get_inputs():
        *prefix, own = entry.name.split(".")
        if own == "x":
            inputs[entry.name] = x
            continue
        first = learned.get(".".join([*prefix, f"initial_{own}"]), np.zeros((), model.dtype))
        shape = [n if isinstance(n, int) else _BATCH for n in entry.shape]
        inputs[entry.name] = np.broadcast_to(first[:, np.newaxis] if first.ndim else first, shape)
    return session.run(None, inputs)[0]


class _Target(NamedTuple):
    """Another library: how to write a file for it, and what the model in that file computes."""

    title: str
    endings: tuple[str, ...]  # of files, the usual one first
    packages: tuple[str, ...]  # needed to write
    runner: str  # the package that runs what was written
    write: Callable[[Any, str, bool], None]
    output: Callable[[Any, str, np.ndarray], np.ndarray]


_TARGETS = {
    "onnx": _Target("ONNX", (".onnx",), ("onnx",), "onnxruntime", _write_onnx, _onnx_output),
    "torch": _Target(
        "PyTorch", (".torch.safetensors", ".safetensors"), ("safetensors",), "torch", _write_torch, _torch_output
    ),
    "keras": _Target("Keras", (".keras", ".weights.h5"), ("keras",), "keras", _write_keras, _keras_output),
    "fastrnn": _Target(
        "fastrnn",
        (".fastrnn.safetensors", ".safetensors"),
        ("safetensors",),
        "fastrnn",
        _write_fastrnn,
        _fastrnn_output,
    ),
}
