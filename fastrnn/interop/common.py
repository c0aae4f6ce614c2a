"""What the ways to and from other libraries share: their arrays, and what they have no counterpart of."""

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..layers import ActivityRegularization, NoisyState
from ..layers.base import Layer
from ..layers.initial_state import LEARNED
from ..layers.recurrent import Recurrent
from ..model import Container

_SHORT_FLOATS = "float16", "bfloat16"  # ml_dtypes' bfloat16 too, which NumPy does not count among its floats


class Part(NamedTuple):
    """A layer of fastrnn that something elsewhere stands for, and the values of its parameters by name."""

    layer: Layer
    values: dict[str, np.ndarray]

    def filled(self) -> Layer:
        """The layer, with these values."""
        if self.values:
            self.layer.load_state_dict(self.values)
        return self.layer


def require(module: str, extra: str) -> Any:
    """The module, imported; an `ImportError` that says what to install if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise
        raise ImportError(f"this needs the {package} package: pip install {package} ({extra})") from None


def float_values(name: str, value: Any) -> np.ndarray:
    """An array or a tensor as a new float32 or float64 array; float16 and bfloat16, which are shorter, as float32.

    `TypeError` for what is no array of floating-point numbers, `ValueError` for a tensor without any: on the device
    "meta", or of a lazy module that has not run.
    """
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a tensor of PyTorch, whether that can be imported or not
        value = _on_cpu(name, value)
    array = checks.as_array(name, value)
    if array.dtype.name in _SHORT_FLOATS:
        array = array.astype(np.float32)
    if array.dtype not in checks.FLOAT_DTYPES:
        raise TypeError(f"{name} must hold float16, bfloat16, float32 or float64 numbers, got dtype {array.dtype}")
    return np.array(array, order="C")


def _on_cpu(name, tensor):
    try:
        if getattr(tensor, "is_meta", False) or type(tensor).__name__.startswith("Uninitialized"):
            raise ValueError(f"{name} is a tensor without numbers: on the device meta, or of a lazy module")
        tensor = tensor.detach().cpu()
        return tensor.float() if str(tensor.dtype).endswith(_SHORT_FLOATS) else tensor  # NumPy has no bfloat16
    except (RuntimeError, NotImplementedError) as error:  # of kinds of tensors that can do neither
        raise TypeError(f"{name} can't be taken as an array: {' '.join(str(error).split())}") from None


def common_dtype(arrays, dtype) -> np.dtype:
    """`dtype` if it is given, else the widest of the arrays, float32 where there are none."""
    if dtype is not None:
        return checks.float_dtype(dtype)
    return np.result_type(np.float32, *arrays)


def refuse_options(layer: Layer, place: str, library: str, *, inference: bool, others=()) -> None:
    """`ValueError` if `layer` has options that neither PyTorch nor Keras has, or that `library` lacks besides.

    inference: those that act in training alone may be there. others: pairs of a name and a value that may not.
    """
    found = list(others)
    if isinstance(layer, Recurrent):
        found += [("dilation", layer.dilation)] if layer.dilation > 1 else []
        found += [("zoneout", layer.zoneout)] if any(layer.zoneout) else []  # its mean acts at inference, too
        found += [("initial_state", layer.initial_state)] if layer.initial_state == LEARNED else []
    if not inference:
        found += _of_training(layer)
    if found:
        options = " and ".join(f"{name}={value!r}" for name, value in found)
        raise ValueError(f"{place}: {library} has no {type(layer).__name__} with {options}")


def _of_training(layer):
    if isinstance(layer, ActivityRegularization):
        return [(name, value) for name in ("l2", "l1", "slowness") if (value := getattr(layer, name))]
    if not isinstance(layer, Recurrent):
        return []
    found = [("recurrent_dropout", layer.recurrent_dropout)] if layer.recurrent_dropout else []
    return found + ([("initial_state", layer.initial_state)] if isinstance(layer.initial_state, NoisyState) else [])


def check_model(model: Any) -> None:
    """`TypeError` for what is no layer or model of fastrnn."""
    if not isinstance(model, Layer):
        raise TypeError(f"model must be a layer or a model of fastrnn, got {type(model).__name__}")


def named_layers(model: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Every layer of a model, and of containers in it, with the number that names its parameters; "" for one alone."""
    if not isinstance(model, Container):
        yield prefix, model
        return
    for i, layer in enumerate(model.layers):
        yield from named_layers(layer, f"{prefix}.{i}" if prefix else str(i))


def place_of(layer: Layer, name: str) -> str:
    """What messages call a layer: by its number in the model, where it has one."""
    return f"layer {name}, {type(layer).__name__}" if name else type(layer).__name__
