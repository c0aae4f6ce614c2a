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
import re
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

# Bytes that CPython takes at most for a character of a string in ASCII's JSON, by the escapes in it: one with any grows
# by a quarter more than it needs, and one that becomes wider is there twice while it is copied.
_WIDTHS = {
    r"\\u[dD][89abAB]": 1.25 * (2 + 4),  # half of a character of four bytes
    r"\\u(?!00)": 1.25 * (1 + 2),
    r"\\u": 1.25 * (1 + 1),  # Latin-1, which is not ASCII
}
_NARROW = 1.25
_CHUNK = 1 << 18  # numbers that are made longer at a time
_LONGEST_QUOTE = 80


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
        header = parse_json(self._text(length), self.size, strict=True)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        if not isinstance(self.metadata, dict) or not all(isinstance(text, str) for text in self.metadata.values()):
            raise ValueError("its metadata must be strings by name")
        self.specs = {name: _spec(name, entry) for name, entry in header.items()}
        end = 0
        for name, spec in sorted(self.specs.items(), key=lambda item: item[1][2:]):
            if spec.begin != end:
                raise ValueError(f"tensor {quoted(name)} begins at byte {spec.begin}, but the one before ends at {end}")
            end = spec.end
        if end != self.size - self._start:
            raise ValueError(f"its tensors have {end} bytes, the file has {self.size - self._start} for them")

    def read(self, name: str) -> np.ndarray:
        """The tensor as a fresh array."""
        dtype, shape, _, _ = self.specs[name]
        if dtype == BFLOAT16:
            return self._read_bfloat16(name, shape)
        array = np.empty(shape, DTYPES[dtype])
        self.read_into(name, array)
        return array

    def read_into(self, name: str, array: np.ndarray) -> None:
        """Fill `array`, C-contiguous, of the tensor's dtype and shape."""
        self._fill(name, array)
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise ValueError(f"tensor {quoted(name)} has booleans that are neither 0 nor 1")

    def _read_bfloat16(self, name, shape):
        """As float32, whose upper halves the numbers are."""
        array = np.empty(shape, np.uint32)
        numbers = array.reshape(-1)
        halves = np.empty(min(_CHUNK, numbers.size), np.uint16)
        for first in range(0, numbers.size, _CHUNK):
            chunk = numbers[first : first + _CHUNK]
            self._fill(name, halves[: chunk.size], 2 * first)
            np.left_shift(halves[: chunk.size], 16, out=chunk, dtype=np.uint32)
        return array.view(np.float32)

    def _fill(self, name, array, begin=0):
        """begin: of the tensor's bytes, that from which on `array` is filled."""
        if array.nbytes == 0:
            return
        self._file.seek(self._start + self.specs[name].begin + begin)
        if self._file.readinto(memoryview(array.reshape(-1)).cast("B")) != array.nbytes:
            raise ValueError(f"tensor {quoted(name)} is cut short")
        if sys.byteorder == "big":
            array.byteswap(inplace=True)

    def _text(self, size):
        data = self._exactly(size)
        if not data.isascii():  # as text it may take four bytes where one is here
            _check_memory(data.decode("latin-1"), self.size)
        return data.decode("utf-8")

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
        raise ValueError(f"tensor {quoted(name)} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in (*DTYPES, BFLOAT16):
        raise ValueError(f"tensor {quoted(name)} has dtype {quoted(dtype)}, which is not supported")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(
            f"tensor {quoted(name)} must have a shape of at most {_MOST_DIMENSIONS} integers from 0 to 2^63 - 1"
        )
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {quoted(name)} must have two data_offsets, integers from 0 to 2^63 - 1")
    itemsize = 2 if dtype == BFLOAT16 else np.dtype(DTYPES[dtype]).itemsize
    size = math.prod(shape) * itemsize  # of Python's integers, which do not overflow
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"tensor {quoted(name)} has {offsets[1] - offsets[0]} bytes, its shape and dtype need {size}")
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
    needed = int(_bytes_of_texts(text)) + sum(cost * text.count(mark) for mark, cost in _COSTS.items())
    if needed > 2 * file_size + ROOM:
        raise ValueError(f"JSON of {len(text)} characters might take {needed} bytes of memory")


def _bytes_of_texts(text):
    """What JSON and the strings made from it may take."""
    if not text.isascii():
        return (4 + max(_WIDTHS.values())) * len(text)
    size = len(text)
    text = text.replace("\\\\", "__")  # what comes after an escaped backslash is no escape
    if "\\u" not in text:
        return (1 + _NARROW) * size
    text = text.replace('\\"', "__")
    return size + sum(_bytes_of_string(match.group()) for match in re.finditer('"[^"]*"?', text))


def _bytes_of_string(text):
    length = len(text) - 5 * text.count("\\u")  # six characters become one
    return length * next((width for escape, width in _WIDTHS.items() if re.search(escape, text)), _NARROW)


def quoted(value: Any) -> str:
    """How a message shows `value`, which comes out of a file: a string by its beginning, anything else by its type."""
    if not isinstance(value, str):
        return type(value).__name__
    return repr(value if len(value) <= _LONGEST_QUOTE else f"{value[:_LONGEST_QUOTE]}…")


def _object(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name is there twice")
    return value


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON")
