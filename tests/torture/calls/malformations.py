"""Bad values for one argument of a right call, and good ones in an unusual form."""

import copy
import datetime
import decimal
import fractions
import math
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastrnn.layers.base import Workspace

from .arguments import Argument, kind_of, refuses

HUGE = (2**40, 2**48, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**5000)  # sizes: terabytes and more
_MUCH = 1e5  # numbers: a square of as many takes gigabytes
_INTEGER_TYPES = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)


class Malformed(NamedTuple):
    """A value for an argument.

    same: whether it means what `plain` does: the call must give the same bits as with that, or refuse it clearly.
    about: of what is within a dict or a list, the keys that lead there: a message may name these.
    """

    what: str
    value: Any
    plain: Any = None
    same: bool = False
    about: tuple[str, ...] = ()


class Raises:
    """An array-like object and number that is none."""

    def __array__(self, *_, **__):
        raise RuntimeError("no array")

    def __index__(self):
        raise ValueError("no integer")

    def __float__(self):
        raise ValueError("no number")


class _ArrayLike:
    """What NumPy takes as an array, and is none."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


class _Subclass(np.ndarray):
    """An ndarray under another name."""


def _deep_list(depth=80):
    value = [1.0]
    for _ in range(depth):
        value = [value]
    return value


_OBJECTS = {
    "None": lambda: None,
    "a str": lambda: "abc",
    "an empty str": lambda: "",
    "bytes": lambda: b"abc",
    "a float": lambda: 1.5,
    "a whole float": lambda: 2.0,
    "NaN": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "True": lambda: True,
    "False": lambda: False,
    "a complex": lambda: 2 + 3j,
    "an object": object,
    "a ragged list": lambda: [[1.0, 2.0], [3.0]],
    "an empty list": lambda: [],
    "an empty tuple": lambda: (),
    "a list of None": lambda: [None, None],
    "a list of str": lambda: ["a", "b"],
    "a deep list": _deep_list,
    "an empty dict": lambda: {},
    "a dict": lambda: {"a": 1},
    "a set": lambda: {1, 2},
    "a class": lambda: int,
    "a lambda": lambda: lambda *_: 1,
    "a module": lambda: np,
    "Ellipsis": lambda: ...,
    "a slice": lambda: slice(3),
    "a range": lambda: range(3),
    "a generator": lambda: (n for n in (1, 2)),
    "a Fraction": lambda: fractions.Fraction(1, 3),
    "a Decimal": lambda: decimal.Decimal("0.5"),
    "a date": lambda: datetime.date(2020, 1, 1),
    "what raises when it is looked at": Raises,
    "a datetime64": lambda: np.datetime64("2020-01-01"),
    "a np.float32": lambda: np.float32(0.5),
    "a np.str_": lambda: np.str_("abc"),
    "an array of objects": lambda: np.array([1, None, "a"], object),
    "an array of str": lambda: np.array(["a", "b"]),
    "a 0-d array": lambda: np.array(1.0),
    "an array of one": lambda: np.array([1.0]),
    "an empty array": lambda: np.zeros((0, 3), np.float32),
    "a structured array": lambda: np.zeros(3, [("a", "f4"), ("b", "i4")]),
    "-1": lambda: -1,
    "0": lambda: 0,
}


def malformed(rng, argument, valid):
    """A `Malformed` for an argument whose right value is `valid`, drawn with `rng`."""
    empty = isinstance(valid, np.ndarray) and not valid.size  # the vector of no parameters: always refused
    made = None if empty else _BY_KIND.get(argument.kind, _others)(rng, argument, valid)
    return made if made is not None and rng.random() > 0.3 else _object(rng)


def _object(rng):
    name = str(rng.choice(list(_OBJECTS)))
    return Malformed(name, _OBJECTS[name]())


def _others(rng, argument, valid):
    """An entry of a dict, or of a list of dicts, which may be one itself, malformed; missing; or one too many."""
    if isinstance(valid, list) and valid and isinstance(valid[0], Mapping):
        index = int(rng.integers(len(valid)))
        inner = _others(rng, argument, valid[index])
        return _placed(inner, index, lambda entry: [*valid[:index], entry, *valid[index + 1 :]])
    if not isinstance(valid, Mapping) or not valid:
        return None
    kind, key = rng.random(), list(valid)[rng.integers(len(valid))]
    if kind < 0.1:
        return Malformed(f"without {key!r}", {k: v for k, v in valid.items() if k != key}, about=(str(key),))
    if kind < 0.2:
        return Malformed("with an entry more", {**valid, "nonsense": 1}, about=("nonsense",))
    if kind < 0.3:
        return Malformed("keys alone", (key, set(valid), list(valid))[rng.integers(3)])
    value = valid[key]
    number = isinstance(value, np.ndarray) and not value.size or value is None
    made = None if number else _BY_KIND.get(kind_of("", value), _others)(rng, Argument(huge="untried"), value)
    inner = made if made is not None and rng.random() > 0.3 else _object(rng)
    return _placed(inner, key, lambda entry: {**valid, key: entry})


def _placed(inner, key, put):
    """What is malformed within, put where it belongs."""
    plain = put(inner.plain) if inner.same else None
    return Malformed(f"{key!r}: {inner.what}", put(inner.value), plain, inner.same, (str(key), *inner.about))


def asks_for_much(value, depth=3):
    """Whether a size among the numbers of `value` is beyond what is small."""
    if isinstance(value, (int, np.integer, float)):
        return abs(value) >= _MUCH
    if isinstance(value, bytes):  # as a shape
        return math.prod(value) >= _MUCH
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iuf" and bool((np.abs(value.astype(np.float64)) >= _MUCH).any())
    if not depth or not isinstance(value, (list, tuple, Mapping)):
        return False
    return any(asks_for_much(entry, depth - 1) for entry in (value.values() if isinstance(value, Mapping) else value))


def overlapping(rng, arguments):
    """Cases in which `out` shares memory with another array, in part or as a whole; none if there is no such array."""
    out = arguments["out"]
    names = [
        name for name, value in arguments.items()
        if name != "out" and isinstance(value, np.ndarray) and value.dtype == out.dtype and value.size
    ]  # fmt: skip
    if not names:
        return {}
    name = str(rng.choice(names))
    value = arguments[name]
    shift = int(rng.integers(min(value.size, out.size)))
    room = np.zeros(shift + max(value.size, out.size), out.dtype)
    first, second = (value, out) if rng.random() < 0.5 else (out, value)
    views = [room[: first.size].reshape(first.shape), room[shift : shift + second.size].reshape(second.shape)]
    given, target = views if first is value else views[::-1]
    given[...] = value
    return {
        name: Malformed(f"overlapping out, {shift} numbers apart", given, value, same=True),
        "out": Malformed("overlapping", target, out, same=True),
    }


def must_refuse(argument, valid, case):
    """Whether the call must raise because of this value."""
    return not case.same and refuses(argument, valid, case.value)


# ---- numbers ----


def _integers(rng, argument, valid):
    kind = rng.integers(5)
    if kind == 0:
        scalar = _INTEGER_TYPES[rng.integers(len(_INTEGER_TYPES))]
        if np.iinfo(scalar).min <= valid <= np.iinfo(scalar).max:
            return Malformed(f"{scalar.__name__}({valid})", scalar(valid), valid, same=True)
    if kind == 1:
        return Malformed(f"np.array({valid})", np.array(valid), valid, same=True)
    if kind == 2 and argument.huge != "untried":
        number = HUGE[rng.integers(len(HUGE))]
        return Malformed(f"an integer of {number.bit_length()} bits", number)
    number = (-1, 0, -(2**31), -(2**63), -(10**30))[rng.integers(5)]
    if argument.maximum is not None and rng.random() < 0.4:
        number = int(argument.maximum) + 1
    return Malformed(str(number), number)


def _numbers(rng, argument, valid):
    kind = rng.integers(4)
    if kind == 0 and float(np.float32(valid)) == valid:
        return Malformed(f"np.float32({valid})", np.float32(valid), valid, same=True)
    if kind == 1:
        return Malformed(f"np.array({valid})", np.array(valid), valid, same=True)
    number = (-1.0, float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, 10**400)[rng.integers(8)]
    return Malformed(f"{number:.6g}" if isinstance(number, float) else "10**400", number)


def _flags(rng, argument, valid):
    if rng.random() < 0.3:
        return Malformed(f"np.bool_({valid})", np.bool_(valid), valid, same=True)
    value = (1, 0, 1.0, "True", np.array(True))[rng.integers(5)]
    return Malformed(repr(value), value)


def _choices(rng, argument, valid):
    if rng.random() < 0.2:
        return Malformed(f"np.str_({valid!r})", np.str_(valid), valid, same=True)
    value = ("nonsense", valid + " ", valid.encode(), valid + "\0", "\udce4")[rng.integers(5)]
    return Malformed(repr(value), value)


# ---- arrays ----


def _strided(array):
    apart = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    apart[..., ::2] = array
    return apart[..., ::2]


def _unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    inside = raw[1:].view(array.dtype).reshape(array.shape)
    inside[...] = array
    return inside


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def _mapped(array):
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
        mapped[...] = array
    return mapped


def _broadcast(array):
    return np.broadcast_to(array[:1], array.shape)


_FORMS = {
    "strided": _strided,
    "in Fortran order": lambda a: np.asfortranarray(a),
    "with negative strides": lambda a: a[::-1].copy()[::-1],
    "with all strides negative": lambda a: np.flip(np.flip(a).copy()),
    "transposed in memory": lambda a: np.ascontiguousarray(a.T).T,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": _read_only,
    "unaligned": _unaligned,
    "memory-mapped": _mapped,
    "of a subclass": lambda a: a.copy().view(_Subclass),
    "of an array-like object": lambda a: _ArrayLike(a.copy()),
    "masked without a mask": lambda a: np.ma.masked_array(a.copy()),
}


def _in_form(rng, valid):
    """`valid` in another form, or with strides of zero."""
    if valid.ndim and rng.random() < 0.1:
        value = _broadcast(valid)
        return Malformed("with a stride of 0", value, np.array(value), same=True)
    name = str(rng.choice(list(_FORMS)))
    return Malformed(name, _FORMS[name](valid), valid, same=True)


def _reshaped(rng, valid):
    """Another shape: a dimension more or less, or longer, shorter, or empty."""
    kind = rng.integers(7)
    if kind == 0:
        return Malformed("a dimension more", valid[np.newaxis].copy())
    if kind == 1 and valid.ndim:
        return Malformed("a dimension less", valid[0].copy())
    if kind == 2:
        return Malformed("flat", valid.reshape(-1).copy())
    if kind == 3:
        return Malformed("four dimensions more", valid.reshape(valid.shape + (1,) * 4).copy())
    if not valid.ndim:
        return None
    axis = int(rng.integers(valid.ndim))
    count = (0, valid.shape[axis] - 1, valid.shape[axis] + 1, 3 * valid.shape[axis] + 2)[rng.integers(4)]
    value = np.take(valid, np.arange(count), axis, mode="wrap") if count else np.delete(valid, np.s_[:], axis)
    return Malformed(f"{count} instead of {valid.shape[axis]} in dimension {axis}", value)


def _floats(rng, argument, valid):
    kind = rng.integers(4)
    if kind <= 1:
        return _in_form(rng, valid)
    if kind == 2:
        return _reshaped(rng, valid)
    form = rng.integers(8)
    if form == 0:
        return Malformed("a matrix", np.matrix(valid.reshape(valid.shape[0], -1)) if valid.ndim else np.matrix(valid))
    if form == 1:
        mask = np.zeros(valid.shape, bool)
        mask.flat[0] = True
        return Malformed("masked", np.ma.masked_array(valid.copy(), mask))
    if form == 2:
        value = valid.copy()
        value.flat[rng.integers(valid.size)] = (np.nan, np.inf, -np.inf, np.finfo(valid.dtype).max)[rng.integers(4)]
        return Malformed("with a number that is not finite or largest", value)
    dtype = ("int64", "uint8", "bool", "complex64", "object", "float16", "longdouble", "S8", "M8[s]")[rng.integers(9)]
    with np.errstate(invalid="ignore"):
        value = np.zeros(valid.shape, dtype) if dtype in ("S8", "M8[s]") else (4 * valid.real).astype(dtype)
    return Malformed(f"of dtype {dtype}", value)


def _data(rng, argument, valid):
    """Numbers or labels to fit to, of any size, too, or masked."""
    if rng.random() < 0.1:
        rows = [np.ma.masked_array(row, np.arange(row.size).reshape(row.shape) == 0) for row in valid]
        return Malformed("a list of masked rows", rows)
    if rng.random() < 0.25:
        size = (1e308, 1e200, 1e-200, 1e-310, 0.0, -1.0)[rng.integers(6)]
        with np.errstate(over="ignore", under="ignore"):
            return Malformed(f"times {size}", size * valid.astype(np.float64))
    if valid.dtype.kind == "f":
        return _floats(rng, argument, valid)
    made = _integer_arrays(rng, argument, valid)
    return made._replace(
        same=made.same and np.asarray(made.value).dtype == valid.dtype
    )  # labels are given back in their dtype


def _weights(rng, argument, valid):
    """A dict of weights, one of which is none."""
    number = (-1.0, -10, float("nan"), float("inf"), -1e308, None, "a", 1j, [1.0])[rng.integers(9)]
    return Malformed(f"{number!r} among them", {**valid, 1: number})


def _integer_arrays(rng, argument, valid):
    kind = rng.integers(6)
    if kind <= 1:
        return _in_form(rng, valid)
    if kind == 2:
        return _reshaped(rng, valid)
    if kind == 3:
        dtype = _INTEGER_TYPES[rng.integers(len(_INTEGER_TYPES))]
        if np.array_equal(valid.astype(dtype), valid):
            return Malformed(f"of dtype {dtype.__name__}", valid.astype(dtype), valid, same=True)
    if kind == 4:
        dtype = ("float32", "float64", "bool", "complex64", "object", "S8", "M8[s]", "m8[s]")[rng.integers(8)]
        return Malformed(f"of dtype {dtype}", valid.astype(dtype))
    bad = [-(2**63), 2**63 - 1, 2**62]
    bad += [] if argument.minimum is None else 3 * [int(argument.minimum) - 1]
    bad += [] if argument.maximum is None else 3 * [int(argument.maximum) + 1]
    number = bad[rng.integers(len(bad))]
    if rng.random() < 0.2:
        value = np.abs(valid).astype(np.uint64)
        number = (2**63, 2**64 - 1, 2**63 + 1)[rng.integers(3)]
    else:
        value = valid.astype(np.int64)
    value.flat[0 if argument.padded else rng.integers(value.size)] = number
    return Malformed(f"with {number} in it", value)


def _boolean_arrays(rng, argument, valid):
    kind = rng.integers(4)
    if kind <= 1:
        return _in_form(rng, valid)
    if kind == 2:
        return _reshaped(rng, valid)
    dtype = ("int64", "uint8", "float32", "object", "complex64", "S8")[rng.integers(6)]
    return Malformed(f"of dtype {dtype}", valid.astype(dtype))


def _states(rng, argument, valid):
    if isinstance(valid, np.ndarray):
        if rng.random() < 0.1:
            return Malformed("nested lists", valid.tolist(), valid, same=True)
        return _floats(rng, argument, valid)
    if valid is not None and rng.random() < 0.1:
        return Malformed("nested lists", _as_lists(valid), valid, same=True)
    if not isinstance(valid, tuple):
        return Malformed("an array for no state", np.zeros((1, 2, 3), np.float32))
    kind = rng.integers(6)
    if kind == 0:
        return Malformed("an entry more", (*valid, valid[-1]))
    if kind == 1:
        return Malformed("an entry less", valid[:-1])
    if kind == 2:
        return Malformed("a list of entries", list(valid), valid, same=True)
    index = int(rng.integers(len(valid)))
    inner = _states(rng, argument, valid[index])
    if inner is None:
        return None

    def put(entry):
        return (*valid[:index], entry, *valid[index + 1 :])

    what = f"entry {index}: {inner.what}"
    return Malformed(what, put(inner.value), put(inner.plain) if inner.same else None, inner.same)


def _as_lists(state):
    if isinstance(state, tuple):
        return [_as_lists(entry) for entry in state]
    return None if state is None else state.tolist()


def _outs(rng, argument, valid):
    kind = rng.integers(5)
    if kind == 0:
        return _reshaped(rng, valid)
    if kind == 1:
        dtype = ("float16", "int64", "complex128", "object", "bool")[rng.integers(5)]
        return Malformed(f"of dtype {dtype}", np.zeros(valid.shape, dtype))
    if kind == 2:
        return Malformed("a list", valid.tolist())
    if kind == 3:
        return Malformed("masked", np.ma.masked_array(valid.copy()))
    name = ("strided", "in Fortran order", "with negative strides", "byte-swapped", "read-only", "unaligned",
            "memory-mapped", "of a subclass")[rng.integers(8)]  # fmt: skip
    return Malformed(name, _FORMS[name](valid), valid, same=True)


def _workspaces(rng, argument, valid):
    kind = rng.integers(5)
    if kind == 0:
        return Malformed("a copy, which holds no forward pass", copy.deepcopy(valid))
    if kind == 1:
        return Malformed("one for a single step of one sequence", valid.layer.workspace(1, 1))
    if kind == 2:
        return Malformed("that of a copy of the layer", copy.deepcopy(valid.layer).workspace(9, 9))
    if kind == 3:
        return Malformed("the class", Workspace)
    return Malformed("another, which holds no forward pass", valid.layer.workspace(valid.steps, valid.batch))


_BY_KIND = {
    "integer": _integers,
    "number": _numbers,
    "flag": _flags,
    "choice": _choices,
    "floats": _floats,
    "input": _floats,
    "integers": _integer_arrays,
    "booleans": _boolean_arrays,
    "mask": _boolean_arrays,
    "data": _data,
    "weights": _weights,
    "state": _states,
    "out": _outs,
    "workspace": _workspaces,
}
