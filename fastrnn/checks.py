"""Checks of callers' arguments: once, at the public door. Kernels trust what passed here.

Every function returns the checked value in the form the kernels take, or raises `TypeError` or `ValueError` with the
argument's name, what was expected and what came.
"""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from .available import available_memory

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

# What Python and NumPy raise where false entries of a file are put to use.
MISFITS = (ValueError, TypeError, LookupError, OverflowError, AttributeError, RecursionError)
FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_INT64 = np.iinfo(np.int64)
_LONGEST_TEXT = 80  # that messages show
_MOST_BITS = 1023  # of an integer: it still fits into a float, and a product of some into a message


def shown(value: Any) -> str:
    """`value` as messages show it: numbers and short strings as they are, of anything else its type, in one line."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:  # Python refuses to write very long ones
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (str, bytes)) and len(value) > _LONGEST_TEXT:  # its repr can take several times the memory
        return type(value).__name__
    if value is None or isinstance(value, (bool, int, float, complex, np.number, np.bool_, str, bytes)):
        text = repr(value)
        if len(text) <= _LONGEST_TEXT:
            return text
    return type(value).__name__


def integer(name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """`value` as an int within the bounds; booleans and floats are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except Exception:  # an object may raise anything
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {shown(number)}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {shown(number)}")
    if number.bit_length() > _MOST_BITS:
        raise ValueError(f"{name} must have at most {_MOST_BITS} bits, got {shown(number)}")
    return number


def _as_float(value):
    """A real number as a float, of an array one without dimensions; any exception for what is none."""
    if type(value) in (float, int):
        return float(value)
    if isinstance(value, (bool, np.bool_, str, bytes)) or np.iscomplexobj(value) or np.ndim(value):
        raise TypeError
    return float(value)


def number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """`value` as a finite float within the bounds (`minimum`, `maximum` inclusive; `above`, `below` not)."""
    try:
        result = _as_float(value)
    except Exception:  # an object may raise anything
        raise TypeError(f"{name} must be a real number, got {shown(value)}") from None
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {result}")
    if minimum is not None and result < minimum:
        raise ValueError(f"{name} must be at least {minimum:g}, got {result:g}")
    if maximum is not None and result > maximum:
        raise ValueError(f"{name} must be at most {maximum:g}, got {result:g}")
    if above is not None and result <= above:
        raise ValueError(f"{name} must be above {above:g}, got {result:g}")
    if below is not None and result >= below:
        raise ValueError(f"{name} must be below {below:g}, got {result:g}")
    return result


def quantiles(name: str, values: Any) -> tuple[float, ...]:
    """`values` as a tuple of increasing floats between 0 and 1, at least one."""
    entries = enumerate(sequence(name, values, "numbers"))
    levels = tuple(number(f"{name}[{i}]", value, above=0.0, below=1.0) for i, value in entries)
    if not levels or any(a >= b for a, b in itertools.pairwise(levels)):
        raise ValueError(f"{name} must be increasing numbers between 0 and 1, at least one, got {levels}")
    return levels


def sequence(name: str, value: Any, of: str) -> tuple:
    """The entries of `value`, which must be a sequence, or at least iterable; a string is none. of: what, in words."""
    if not isinstance(value, (str, bytes)):
        try:
            return tuple(value)
        except TypeError:
            pass
    raise TypeError(f"{name} must be a sequence of {of}, got {shown(value)}")


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; anything but a boolean is refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def choice(name: str, value: Any, options: Collection[str]) -> str:
    """`value` if it is one of the strings in `options`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {shown(value)}")
    return str(value)  # NumPy's strings are written otherwise


def float_dtype(value: Any) -> np.dtype:
    """`value` as the NumPy dtype float32 or float64."""
    try:
        dtype = None if value is None else np.dtype(value)  # NumPy takes None for float64
    except Exception:  # strings that are no text, deep lists: it may raise anything
        dtype = None
    if dtype is None:
        raise TypeError(f"dtype must be 'float32' or 'float64', got {shown(value)}")
    if dtype not in FLOAT_DTYPES:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {shown(value)}")
    return dtype


def _shape_text(shape):
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"


def shape(name: str, actual: tuple[int, ...], expected: tuple[int | None, ...]) -> None:
    """Refuse a shape that differs from `expected`, in which None stands for any size of at least 1."""
    fits = len(actual) == len(expected)
    if fits:
        for n, e in zip(actual, expected, strict=True):
            fits = fits and (e is None or n == e)
    if not fits:
        raise ValueError(f"{name} must have shape {_shape_text(expected)}, got {_shape_text(actual)}")
    if 0 in actual:
        raise ValueError(f"{name} must not be empty, got shape {_shape_text(actual)}")


def path(name: str, value: Any) -> str:
    """A path, whose file may be there or not, as a string."""
    try:
        text = os.fsdecode(value)
    except TypeError:  # an integer, too, which would be taken for an open file
        raise TypeError(f"{name} must be a string or another path, got {type(value).__name__}") from None
    if "\0" in text:
        raise ValueError(f"{name} must not hold zero bytes, got {shown(text)}")
    return text


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as a NumPy array of whatever dtype. A masked array is refused: its mask would be lost."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: give its data, and `mask` or `lengths` where they are taken")
    try:
        return np.asarray(value)
    except Exception as error:  # an array-like object may raise anything
        raise TypeError(f"{name} can't be taken as an array: {error}") from None


class _Lent:
    """The memory of an array, given out as writable; NumPy reads the attribute `__array_interface__`."""

    def __init__(self, array):
        interface = array.__array_interface__
        self.array = array  # whose memory it is: it must live as long
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def _not_constant(array):
    """`array`, or where it is read-only, such as a memory-mapped file, one over the same memory that is not.

    Numba sees another type in a constant array, for which every kernel would be compiled again. No kernel writes into
    its input.
    """
    return array if array.flags.writeable else np.asarray(_Lent(array))


def _as_kernels_take(name, array, dtype):
    """`array` in `dtype`, C-contiguous, aligned and not constant: a copy only where it must be."""
    dtype = np.dtype(dtype)
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        return _not_constant(array)
    memory(f"a copy of {name}", array.size * dtype.itemsize)
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinity, visibly
        return np.array(array, dtype, order="C")


def is_plain(value: Any, dtype: DTypeLike, shape_: tuple[int, ...]) -> bool:
    """Whether `value` is an array of exactly this dtype and shape that the kernels take as it is."""
    return type(value) is np.ndarray and value.shape == shape_ and value.dtype == dtype and value.flags.carray


def float_array(name: str, value: Any, dtype: DTypeLike, expected_shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` as a C-contiguous, aligned array of floats of precision `dtype` and the expected shape.

    No copy is made where none is needed. Floats of another precision are converted; integers, booleans, objects and
    complex numbers are a `TypeError`, for a real-valued argument that holds them is more often a slip than meant.
    """
    if type(value) is np.ndarray and value.dtype == dtype and value.flags.carray:  # as a rule, and nothing to convert
        shape(name, value.shape, expected_shape)
        return value
    array = as_array(name, value)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {array.dtype}")
    shape(name, array.shape, expected_shape)
    return _as_kernels_take(name, array, dtype)


def integer_array(
    name: str,
    value: Any,
    expected_shape: tuple[int | None, ...],
    *,
    minimum: int | None = None,
    maximum: int | None = None,
) -> np.ndarray:
    """`value` as a C-contiguous int64 array of the expected shape with every element within the bounds."""
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    shape(name, array.shape, expected_shape)
    low, high = int(array.min()), int(array.max())
    if minimum is not None and low < minimum:
        raise ValueError(f"{name} must be at least {minimum} everywhere, got {low}")
    if maximum is not None and high > maximum:
        raise ValueError(f"{name} must be at most {maximum} everywhere, got {high}")
    if high > _INT64.max:
        raise ValueError(f"{name} must fit into 64-bit integers, got {high}")
    return _as_kernels_take(name, array, np.int64)


def prediction(name: str, value: Any) -> tuple[np.ndarray, np.dtype]:
    """`value` as a floating-point array that is not empty, with the precision, float32 or float64, to compute in."""
    array = as_array(name, value)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name} must have at least one dimension and one element, got shape {array.shape}")
    return array, FLOAT_DTYPES[0 if array.itemsize <= 4 else 1]


def leading_mask(name: str, value: Any, shape_: tuple[int, ...]) -> np.ndarray | None:
    """`value` as booleans, or finite weights ≥ 0, of the first dimensions of `shape_`, some or all; or None."""
    if value is None:
        return None
    array = as_array(name, value)
    if array.dtype.kind not in "bf":
        raise TypeError(f"{name} must hold booleans, or weights in floating point, got dtype {array.dtype}")
    shape(name, array.shape, shape_[: max(array.ndim, min(1, len(shape_)))])
    if array.dtype.kind == "f":
        if array.itemsize > 8:
            with np.errstate(over="ignore"):  # infinity is refused below
                array = array.astype(np.float64)
        low, high = array.min(), array.max()  # both are NaN if anything is
        if not (low >= 0 and high < math.inf):
            raise ValueError(f"{name} must hold finite weights of at least 0, got {high if low >= 0 else low}")
    return array


def boolean_array(name: str, value: Any, expected_shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` as an array of booleans of this shape."""
    array = as_array(name, value)
    if array.dtype.kind != "b":
        raise TypeError(f"{name} must hold booleans, got dtype {array.dtype}")
    shape(name, array.shape, expected_shape)
    return _not_constant(array)


def destination(name: str, value: Any, dtype: DTypeLike, expected_shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` if results can be copied into it: a writable NumPy array of exactly this dtype and shape, of any strides
    that give each element memory of its own."""
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a NumPy array, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, got {value.dtype}")
    shape(name, value.shape, expected_shape)
    if not value.flags.writeable:
        raise ValueError(f"{name} must be writable, got a read-only array")
    if not (value.flags.c_contiguous or _apart(value)):
        raise ValueError(f"{name} must have memory of its own for every element, got strides {value.strides}")
    return value


def _apart(array):
    """Whether no two elements have memory in common: in some order, each dimension steps over the extent of those
    before. A few interleaved ones are taken for overlapping."""
    extent = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if stride < extent:
                return False
            extent += (size - 1) * stride
    return True


def output_array(name: str, value: Any, dtype: DTypeLike, expected_shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` if kernels can write into it as it is: a `destination` that is C-contiguous and aligned."""
    destination(name, value, dtype, expected_shape)
    if not (value.flags.c_contiguous and value.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous and aligned")
    return value


def holds_integers(value: Any) -> bool:
    """Whether it is an array of integers."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu"


def integers(name: str, value: Any, dimensions: int) -> np.ndarray:
    """`value` as an array of integers with so many dimensions."""
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    shape(name, array.shape, (None,) * dimensions)
    return _not_constant(array)


def tokens(name: str, array: np.ndarray, lengths: np.ndarray | None, batch_first: bool, count: int) -> None:
    """Refuse integers that are not from 0 to `count` − 1; with `lengths` the padding is not read."""
    if lengths is None:
        low, high = int(array.min()), int(array.max())
    else:
        rows = array if batch_first else array.T
        low, high = 0, 0
        for row, length in zip(rows, lengths, strict=True):  # one at a time: no array that grows with the batch
            low = min(low, int(row[:length].min()))
            high = max(high, int(row[:length].max()))
    if low < 0 or high >= count:
        raise ValueError(f"{name} must hold integers from 0 to {count - 1}, got {low if low < 0 else high}")


def sequence_lengths(value: Any, steps: int, batch: int) -> np.ndarray | None:
    """`lengths` as int64 (batch,), each from 1 to `steps`; None where all are full, which is the same thing."""
    if value is None:
        return None
    return integer_array("lengths", value, (batch,), minimum=1, maximum=steps)


def memory(what: str, size: int) -> None:
    """Refuse, before anything is allocated, `size` bytes that the process can't have.

    An operating system that overcommits grants them, and ends the process when they are used.
    """
    if size < 1 << 26:
        return
    available = available_memory()
    if available is not None and size > available:
        raise MemoryError(f"{what} needs {size:,} bytes, {available:,} are available")
