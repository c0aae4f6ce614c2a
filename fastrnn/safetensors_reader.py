"""Safetensors files that nobody vouches for: all that the header says is checked before memory is taken for it.

The format (https://huggingface.co/docs/safetensors, "Format"): the header's length, 8 bytes, little-endian; the header,
a JSON object of tensor name -> {"dtype", "shape", "data_offsets"}, and "__metadata__", strings by name; the tensors'
numbers, C-ordered and little-endian, without gap or overlap.

The library's own reader takes the last of two tensors of one name, lets a small header become a lot of memory, and maps
the file, so that a process dies of SIGBUS when another one cuts the file short.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import IO, Any, NamedTuple

import numpy as np

DTYPES = {
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "BOOL": np.bool_,
}
BFLOAT16 = "BF16"  # which NumPy lacks: it is read as float32

_LONGEST_HEADER = 100_000_000  # bytes, as in the library
_MOST_DIMENSIONS = 32  # of arrays in NumPy 1
ROOM = 32 << 20  # bytes that a file's JSON may take, beside twice the file

# What CPython needs at most for a JSON value, by the characters that it can't come without: an object, an entry of one
# with its part of the table and of the list of pairs before, a list with its first entries, an entry and a number,
# half a string.
_COSTS = {"{": 72, ":": 116, "[": 88, ",": 40, '"': 32}


class Spec(NamedTuple):
    """What the header says of a tensor."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    begin: int  # in the data
    end: int


class Reader:
    """A safetensors file, open for reading.

    file: binary and seekable. `specs` (name -> `Spec`) and `metadata` (name -> str) are what its header says.
    ValueError for a file that is damaged, cut short or none, RecursionError for JSON that is nested too deeply.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(self._exactly(8), "little")
        self._start = 8 + length
        if length > self.size - 8:
            raise ValueError(f"its header would have {length} bytes, the file has {self.size}")
        _check_length(length)
        header = parse_json(self._exactly(length).decode("utf-8"), self.size, strict=True)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        if not isinstance(self.metadata, dict) or not all(isinstance(text, str) for text in self.metadata.values()):
            raise ValueError("its metadata must be strings by name")
        self.specs = {name: _spec(name, entry) for name, entry in header.items()}
        end = 0
        for name, spec in sorted(self.specs.items(), key=lambda item: item[1][2:]):
            if spec.begin != end:
                raise ValueError(f"tensor {name!r} begins at byte {spec.begin}, but the one before ends at {end}")
            end = spec.end
        if end != self.size - self._start:
            raise ValueError(f"its tensors have {end} bytes, the file has {self.size - self._start} for them")

    def read(self, name: str) -> np.ndarray:
        """The tensor as a fresh array."""
        dtype, shape, _, _ = self.specs[name]
        if dtype == BFLOAT16:  # the upper halves of float32 numbers
            halves = np.empty(shape, np.uint16)
            self._fill(name, halves)
            return (halves.astype(np.uint32) << 16).view(np.float32)
        array = np.empty(shape, DTYPES[dtype])
        self.read_into(name, array)
        return array

    def read_into(self, name: str, array: np.ndarray) -> None:
        """Fill `array`, C-contiguous, of the tensor's dtype and shape."""
        self._fill(name, array)
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise ValueError(f"tensor {name!r} has booleans that are neither 0 nor 1")

    def _fill(self, name, array):
        if array.nbytes == 0:
            return
        self._file.seek(self._start + self.specs[name].begin)
        if self._file.readinto(memoryview(array.reshape(-1)).cast("B")) != array.nbytes:
            raise ValueError(f"tensor {name!r} is cut short")
        if sys.byteorder == "big":
            array.byteswap(inplace=True)

    def _exactly(self, size):
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError(f"it ends after {self.size} bytes")
        return data


def check_header(text: str, file_size: int) -> None:
    """`ValueError` for a header that `Reader` would refuse for its size, in a file of `file_size` bytes."""
    _check_length(len(text.encode()))
    _check_memory(text, file_size)


def _check_length(length):
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header has {length} bytes, more than {_LONGEST_HEADER}")


def _spec(name, entry):
    """What a header's `entry` says of the tensor `name`, found to agree with itself."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in (*DTYPES, BFLOAT16):
        raise ValueError(f"tensor {name!r} has dtype {dtype!r}, which is not supported")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"tensor {name!r} must have a shape of at most {_MOST_DIMENSIONS} integers from 0 to 2^63 - 1")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} must have two data_offsets, integers from 0 to 2^63 - 1")
    itemsize = 2 if dtype == BFLOAT16 else np.dtype(DTYPES[dtype]).itemsize
    size = math.prod(shape) * itemsize  # of Python's integers, which do not overflow
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"tensor {name!r} has {offsets[1] - offsets[0]} bytes, its shape and dtype need {size}")
    return Spec(dtype, tuple(shape), *offsets)


def _are_sizes(values):
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def parse_json(text: str, file_size: int, *, strict: bool = False) -> dict[str, Any]:
    """The JSON object `text` out of a file of `file_size` bytes.

    ValueError for anything else, for two entries of one name, and for what might take more memory than twice the file
    and `ROOM`; RecursionError for what is nested too deeply. strict: NaN and Infinity, which Python writes beyond the
    standard, are refused.
    """
    _check_memory(text, file_size)
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant if strict else None)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _check_memory(text, file_size):
    """Refuse JSON that might take too much memory, before it takes any."""
    width = 1 if text.isascii() else 4  # bytes a character
    needed = 2 * width * len(text) + sum(cost * text.count(mark) for mark, cost in _COSTS.items())
    if needed > 2 * file_size + ROOM:
        raise ValueError(f"JSON of {len(text)} characters might take {needed} bytes of memory")


def _object(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name is there twice")
    return value


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON")
