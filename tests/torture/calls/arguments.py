"""What an argument of a call is, and which values must be refused for it."""

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastrnn.layers.base import Layer, Workspace


class Argument(NamedTuple):
    """What is known of one argument.

    kind: "integer", "number", "flag", "choice", "floats", "integers", "booleans", "mask", "state", "model",
        "workspace", "out", "input" of a recurrent layer, floats or tokens, "weights" of classes, "data" to fit to, or
        "other", of which nothing has to be refused; "" for what the right value is.
    none: whether None means something.
    minimum, maximum: bounds of a number, or of the elements of integers.
    huge: of integers beyond any memory: "refused"; "fine", where nothing is made of that size; "untried", where they
        ask for as much time.
    fixed: whether an array of another shape, data of another length, or another workspace, must be refused.
    padded: whether there may be padding in it, where nothing is read but the first of the integers for sure.
    late: whether it is looked at after work was done, which stays: batches that come one by one.
    words: what a message may say in place of the argument's name, such as that of an argument that bounds it.
    """

    kind: str = ""
    none: bool = False
    minimum: float | None = None
    maximum: float | None = None
    huge: str = "fine"
    fixed: bool = False
    padded: bool = False
    late: bool = False
    words: tuple[str, ...] = ()


def kind_of(name: str, value: Any) -> str:
    """The kind of an argument, by a right value for it."""
    if name == "out":
        return "out"
    if name in ("state", "dstate"):
        return "state"
    if name == "mask":
        return "mask"
    if isinstance(value, (bool, np.bool_)):
        return "flag"
    if isinstance(value, np.ndarray):
        return {"f": "floats", "i": "integers", "u": "integers", "b": "booleans"}.get(value.dtype.kind, "other")
    for types, kind in (
        (int, "integer"), (float, "number"), (str, "choice"), (Layer, "model"), (Workspace, "workspace"),
    ):  # fmt: skip
        if isinstance(value, types):
            return kind
    return "other"


def refuses(argument: Argument, valid: Any, value: Any) -> bool:
    """Whether `value` must be refused where `valid` is right: nothing that could be meant."""
    if value is None:
        return not argument.none and argument.kind != "other"
    return _REFUSES.get(argument.kind, lambda *_: False)(argument, valid, value)


def _out_of_bounds(argument, low, high):
    below = argument.minimum is not None and low < argument.minimum
    return below or (argument.maximum is not None and high > argument.maximum)


def _integer(argument, valid, value):
    if isinstance(value, (bool, np.bool_)):
        return True
    try:
        number = operator.index(value)
    except Exception:  # an object may raise anything
        return True
    return _out_of_bounds(argument, number, number)


def _number(argument, valid, value):
    if isinstance(value, (bool, np.bool_, str, bytes, complex, Mapping, list, tuple, type)):
        return True
    try:
        number = float(value)
    except Exception:
        return True
    return not math.isfinite(number) or _out_of_bounds(argument, number, number)


def _flag(argument, valid, value):
    return not isinstance(value, (bool, np.bool_))


def _array(value):
    """`value` as an array, or None if it is no rectangle of anything."""
    try:
        return np.asarray(value)
    except Exception:
        return None


def _wrong_shape(argument, valid, array):
    if array.size == 0 or (argument.fixed and array.shape != np.shape(valid)):
        return True
    return array.ndim == 0 and np.ndim(valid) > 1


def _floats(argument, valid, value):
    array = _array(value)
    return array is None or array.dtype.kind != "f" or _wrong_shape(argument, valid, array)


def _integers(argument, valid, value):
    array = _array(value)
    if array is None or array.dtype.kind not in "iu" or _wrong_shape(argument, valid, array):
        return True
    if argument.padded:
        array = array.flat[:1]
    return _out_of_bounds(argument, int(array.min()), int(array.max()))


def _input(argument, valid, value):
    array = _array(value)
    return (array is None or array.dtype.kind not in "iu") and _floats(argument, valid, value)


def _booleans(argument, valid, value):
    array = _array(value)
    return array is None or array.dtype.kind != "b" or _wrong_shape(argument, valid, array)


def _mask(argument, valid, value):
    array = _array(value)
    return array is None or array.dtype.kind not in "bf" or _wrong_shape(argument, valid, array)


def _out(argument, valid, value):
    return not isinstance(value, np.ndarray) or value.dtype != valid.dtype or value.shape != valid.shape


def _state(argument, valid, value):
    """A state in another form than `valid`: arrays, and nests of them."""
    if valid is None or isinstance(valid, np.ndarray):
        return value is not None and (valid is None or _floats(argument._replace(fixed=True), valid, value))
    if not isinstance(value, (tuple, list)) or len(value) != len(valid):
        return True
    return any(_state(argument, old, new) for old, new in zip(valid, value, strict=True) if new is not None)


def _workspace(argument, valid, value):
    """Another layer's; or, where it has to hold a forward pass (`fixed`), any other."""
    if not isinstance(value, Workspace):
        return True
    return value is not valid and (argument.fixed or value.layer is not valid.layer)


def _weights(argument, valid, value):
    return isinstance(value, Mapping) and any(_number(argument._replace(minimum=0), 1.0, w) for w in value.values())


def _data(argument, valid, value):
    """What is masked, complex, not finite or no numbers; with `fixed`, or as labels, what has not an entry a row."""
    if _has_masked(value):
        return True
    array = _array(value)
    if array is None or array.size == 0 or array.ndim == 0 or array.dtype.kind in "cV":
        return not isinstance(value, (list, tuple))  # a ragged one may be sequences
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return True
    if array.dtype.kind == "O" and any(entry is None for entry in array.flat):
        return True
    return argument.fixed and len(array) != len(valid)


def _has_masked(value):
    if isinstance(value, (list, tuple)):
        return any(_has_masked(entry) for entry in value)
    return isinstance(value, np.ma.MaskedArray)


_REFUSES = {
    "data": _data,
    "weights": _weights,
    "integer": _integer,
    "number": _number,
    "flag": _flag,
    "choice": lambda argument, valid, value: not isinstance(value, str),
    "floats": _floats,
    "input": _input,
    "integers": _integers,
    "booleans": _booleans,
    "mask": _mask,
    "out": _out,
    "state": _state,
    "model": lambda argument, valid, value: not isinstance(value, Layer),
    "workspace": _workspace,
}
