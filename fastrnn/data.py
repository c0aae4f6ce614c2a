"""Batches for training: token streams, padded sequences, sliding windows. Time comes first, as in the layers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import checks


class TokenStream:
    """One long stream of tokens as batches for truncated BPTT, in order, so that a state can be carried over.

    The stream is cut into `batch_size` contiguous lanes, and every batch goes on in each lane where the one before
    stopped. Iterating gives pairs `(inputs, targets)` of int64 arrays (T,B); targets are the inputs shifted by one
    token. T is `seq_len`, but for the last batch of a pass, which is what is left of the lanes and may be shorter.
    Only what does not divide into lanes is dropped: fewer than `batch_size` tokens at the very end.

    A stream can be iterated any number of times; every pass starts at the beginning (and with a fresh state, which
    is the caller's). `state_dict` and `load_state_dict` save and restore the place within a pass.

    `tokens` is a one-dimensional integer array, or bytes (each byte is a token). It is not copied. `ValueError` if it
    does not hold at least one full batch.
    """

    def __init__(self, tokens, batch_size: int, seq_len: int):
        self.batch_size = checks.integer("batch_size", batch_size, minimum=1)
        self.seq_len = checks.integer("seq_len", seq_len, minimum=1)
        self._tokens = _token_array(tokens)
        needed = self.batch_size * self.seq_len + 1
        if self._tokens.size < needed:
            raise ValueError(
                f"tokens must be at least {needed} for one batch (batch_size {self.batch_size} x seq_len "
                f"{self.seq_len}, and one more for the last target), got {self._tokens.size}"
            )
        self._lane = (self._tokens.size - 1) // self.batch_size  # time steps in a pass
        self._position = 0  # batches handed out in this pass
        self._first = 0  # where the next pass starts

    def __len__(self) -> int:
        """Batches in a whole pass."""
        return -(-self._lane // self.seq_len)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        used = self.batch_size * self._lane
        inputs = self._tokens[:used].reshape(self.batch_size, self._lane)
        targets = self._tokens[1 : used + 1].reshape(self.batch_size, self._lane)
        self._position, self._first = self._first, 0
        for index in range(self._position, len(self)):
            steps = slice(index * self.seq_len, (index + 1) * self.seq_len)
            self._position = index + 1
            yield _time_major(inputs[:, steps]), _time_major(targets[:, steps])
        self._position = 0

    def state_dict(self) -> dict[str, int]:
        """The place in the current pass: after the batch handed out last. Plain integers, good for JSON."""
        return {"position": max(self._position, self._first), **self._layout()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass start at a saved place; later ones start at the beginning again.

        `ValueError` if the place is one of a stream of another length, `batch_size` or `seq_len`.
        """
        if not isinstance(state, dict) or state.keys() != {"position", *self._layout()}:
            raise ValueError(f"state must be what TokenStream.state_dict returns, got {state!r}")
        for name, value in self._layout().items():
            if state[name] != value:
                raise ValueError(f"state is one of a stream with {name} {state[name]}, this one has {value}")
        self._first = checks.integer("position", state["position"], minimum=0, maximum=len(self))
        self._position = 0

    def _layout(self):
        return {"tokens": self._tokens.size, "batch_size": self.batch_size, "seq_len": self.seq_len}


def _token_array(tokens):
    array = np.frombuffer(tokens, np.uint8) if isinstance(tokens, (bytes, bytearray)) else np.asarray(tokens)
    if array.dtype.kind not in "iu":
        raise TypeError(f"tokens must be integers or bytes, got dtype {array.dtype}")
    checks.shape("tokens", array.shape, (None,))
    if array.dtype == np.uint64:
        return checks.integer_array("tokens", array, (None,))  # may not fit into the batches' int64
    return array


def _time_major(lanes):
    return np.ascontiguousarray(lanes.T, np.int64)


def pad(sequences: Sequence[Any], *, value: float = 0, batch_first: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of different lengths as one array, padded at the end: `x, lengths`.

    `sequences`: arrays (T_i,F), or (T_i,), all of floats or all of integers; none may be empty.
    `x`: (T,B,F), or (T,B), T the longest; (B,T,…) with `batch_first`. Its dtype holds all of theirs.
    `lengths`: (B,) int64, for the `lengths` argument of layers and trainers.
    `value` fills the rest; layers given `lengths` never read it. It may be NaN or infinite if the sequences are floats.
    """
    batch_first = checks.flag("batch_first", batch_first)
    arrays = [np.asarray(s) for s in sequences]
    if not arrays:
        raise ValueError("sequences must not be empty")
    first = arrays[0]
    if first.ndim not in (1, 2):
        raise ValueError(f"sequences[0] must have shape (any,) or (any, any), got {first.shape}")
    for i, array in enumerate(arrays):
        name = f"sequences[{i}]"
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name} must hold floating-point numbers or integers, got dtype {array.dtype}")
        if (array.dtype.kind == "f") != (first.dtype.kind == "f"):
            raise TypeError(f"{name} must hold numbers like those of sequences[0], {first.dtype}, got {array.dtype}")
        checks.shape(name, array.shape, (None, *first.shape[1:]))
    dtype = np.result_type(*{a.dtype for a in arrays})
    if first.dtype.kind != dtype.kind and "f" in (first.dtype.kind, dtype.kind):
        raise TypeError("sequences must not mix uint64 with signed integers: no integer type holds both")
    lengths = np.array([len(a) for a in arrays], np.int64)
    x = np.full((len(arrays), lengths.max(), *first.shape[1:]), _fill_value(value, dtype), dtype)
    for row, array in zip(x, arrays, strict=True):
        row[: len(array)] = array
    return (x if batch_first else np.ascontiguousarray(x.swapaxes(0, 1))), lengths


def _fill_value(value, dtype):
    if dtype.kind == "f":
        special = isinstance(value, (float, np.floating)) and not np.isfinite(value)
        return value if special else checks.number("value", value)
    limits = np.iinfo(dtype)
    return checks.integer("value", value, minimum=limits.min, maximum=limits.max)


def windows(series, length: int, horizon: int = 1, *, batch_first: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All windows of a time series, and what follows each: `x, targets`.

    `series`: (N,F) floats, or (N,), which is F = 1. There are n = N - length - horizon + 1 windows, in order.
    `x`: (length,n,F), window i being `series[i : i + length]`.
    `targets`: (horizon,n,F), the `horizon` steps after it; `targets[0]` (n,F) suits a model that ends in `Last()`.
    With `batch_first`: (n,length,F) and (n,horizon,F). float32 stays float32, wider floats become float64.
    `ValueError` if the series has fewer than `length + horizon` steps.
    """
    length = checks.integer("length", length, minimum=1)
    horizon = checks.integer("horizon", horizon, minimum=1)
    batch_first = checks.flag("batch_first", batch_first)
    array = np.asarray(series)
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 4
    array = checks.float_array(
        "series", array, np.float64 if wide else np.float32, (None,) if array.ndim == 1 else (None, None)
    )
    array = array.reshape(len(array), -1)
    if len(array) < length + horizon:
        raise ValueError(
            f"series must have at least {length + horizon} steps (length {length} + horizon {horizon}), "
            f"got {len(array)}"
        )
    view = np.lib.stride_tricks.sliding_window_view(array, length + horizon, axis=0)  # (n,F,length+horizon)
    view = view.transpose((0, 2, 1) if batch_first else (2, 0, 1))
    if batch_first:
        return np.ascontiguousarray(view[:, :length]), np.ascontiguousarray(view[:, length:])
    return np.ascontiguousarray(view[:length]), np.ascontiguousarray(view[length:])
