"""Batches for training: streams, padded sequences, sliding windows. Time comes first, as in the layers.

Streams and `WindowBatches` read what they give out and no more: over a memory-mapped file (`np.memmap`, or `np.load`
with `mmap_mode="r"`) they need the memory of a batch, however long the file is.
"""

from __future__ import annotations

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from . import checks
from .bit_generators import plain

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .types import Seed

__all__ = [
    "SeriesStream",
    "TokenStream",
    "WindowBatches",
    "pad",
    "windows",
]


_Batch = TypeVar("_Batch")
_Pair = tuple[np.ndarray, np.ndarray]


class Passes(ABC, Generic[_Batch]):
    """Batches in passes, each numbered, and the place within a pass: what `Trainer.fit` can go on with elsewhere.

    A subclass gives `__len__`, the batches of a pass from one on, and what fixes the passes besides their number.
    """

    def __init__(self) -> None:
        self._next = self._place = 0, 0  # the number of a pass and of a batch in it: the next, and after the last one

    @abstractmethod
    def __len__(self) -> int:
        """Batches in a whole pass."""

    def __iter__(self) -> Iterator[_Batch]:
        number, first = self._place = self._next
        self._next = number + 1, 0
        for index, batch in enumerate(self._pass(number, first), first + 1):
            self._place = number, index
            yield batch
        self._place = number + 1, 0

    @abstractmethod
    def _pass(self, number, first):
        """The batches of a pass from number `first` on."""

    @abstractmethod
    def _layout(self):
        """Plain values by name that have to be the same for a place to be one of these batches."""

    def state_dict(self) -> dict[str, Any]:
        """The place in the current pass: after the batch handed out last. Plain values, good for JSON."""
        return self._state_at(self._place)

    def _state_of_next_pass(self) -> dict[str, Any]:
        """As `state_dict`, the place that the next pass begins at, whatever was looked at before."""
        return self._state_at(self._next)

    def _state_at(self, place):
        return {"position": place[1], **self._layout()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass start at a saved place; later ones start at the beginning again.

        `TypeError` or `ValueError`, and no change, if the place is one of other batches.
        """
        own = self.state_dict()
        if not isinstance(state, dict) or state.keys() != own.keys():
            found = f"one with {list(state)}" if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state must be what {type(self).__name__}.state_dict returns, got {found}")
        for name, value in self._layout().items():
            if plain(state[name]) != value:
                raise ValueError(f"state is one of batches with {name} {state[name]}, these have {value}")
        self._set_place(state, checks.integer("position", state["position"], minimum=0, maximum=len(self)))

    def _set_place(self, state, position):
        """Let the next pass start at a checked `position`."""
        self._next = self._place = 0, position


class ShuffledPasses(Passes[_Batch]):
    """Passes in an order that follows from a seed and the number of the pass; without a seed, all are the same."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = seed

    def state_dict(self) -> dict[str, Any]:
        """The place in the current pass, after the batch handed out last: its number, how many batches were, and the
        seed. Plain values, good for JSON."""
        return super().state_dict()

    def _state_at(self, place):
        return {"epoch": place[0], "seed": self.seed, **super()._state_at(place)}

    def _set_place(self, state, position):
        epoch = checks.integer("epoch", state["epoch"], minimum=0)
        if (state["seed"] is None) != (self.seed is None):
            raise ValueError(f"state is one of batches with seed {state['seed']}, these have {self.seed}")
        if self.seed is not None:
            self.seed = checks.integer("seed", state["seed"], minimum=0)
        self._next = self._place = epoch, position


class _Stream(Passes[_Pair]):
    """Lanes of one long sequence, batch by batch in order.

    `count` numbers or vectors, called `name`, of which the lanes have `ahead` fewer: the last one is a target alone.
    """

    stateful = True  # a state is carried from batch to batch

    def __init__(self, name, count, ahead, batch_size, seq_len):
        super().__init__()
        self.batch_size = checks.integer("batch_size", batch_size, minimum=1)
        self.seq_len = checks.integer("seq_len", seq_len, minimum=1)
        needed = self.batch_size * self.seq_len + ahead
        if count < needed:
            last = ", and one more for the last target" if ahead else ""
            raise ValueError(
                f"{name} must be at least {needed} for one batch (batch_size {self.batch_size} x seq_len "
                f"{self.seq_len}{last}), got {count}"
            )
        self._name, self._count = name, count
        self._lane = (count - ahead) // self.batch_size  # time steps in a pass

    def __len__(self) -> int:
        """Batches in a whole pass."""
        return -(-self._lane // self.seq_len)

    def _pass(self, number, first):
        for index in range(first, len(self)):
            yield self._batch(slice(index * self.seq_len, (index + 1) * self.seq_len))

    def _lanes(self, array, begin=0):
        """A view (batch_size,lane,…) of `array` from `begin` on."""
        used = array[begin : begin + self.batch_size * self._lane]
        return used.reshape(self.batch_size, self._lane, *array.shape[1:])

    def _batch(self, steps):
        """Inputs and targets of these steps of all lanes."""
        raise NotImplementedError

    def _layout(self):
        return {self._name: self._count, "batch_size": self.batch_size, "seq_len": self.seq_len}


class TokenStream(_Stream):
    """One long stream of tokens as batches for truncated BPTT, in order, so that a state can be carried over.

    The stream is cut into `batch_size` contiguous lanes, and every batch goes on in each lane where the one before
    stopped. Iterating gives pairs `(inputs, targets)` of int64 arrays (T,B); targets are the inputs shifted by one
    token. T is `seq_len`, but for the last batch of a pass, which is what is left of the lanes and may be shorter.
    Only what does not divide into lanes is dropped: fewer than `batch_size` tokens at the very end.

    A stream can be iterated any number of times; every pass starts at the beginning (and with a fresh state, which
    is the caller's). `state_dict` and `load_state_dict` save and restore the place within a pass.

    `tokens` is a one-dimensional integer array, or bytes (each byte is a token). It is not copied, and read batch by
    batch. `ValueError` if it does not hold at least one full batch; of uint64, when a batch does not fit into int64.
    """

    def __init__(self, tokens: ArrayLike | bytes | bytearray, batch_size: int, seq_len: int):
        self._tokens = _token_array(tokens)
        super().__init__("tokens", self._tokens.size, 1, batch_size, seq_len)

    def _batch(self, steps):
        inputs, targets = (self._lanes(self._tokens, begin)[:, steps] for begin in (0, 1))
        return _time_major("tokens", inputs), _time_major("tokens", targets)


def _token_array(tokens):
    raw = isinstance(tokens, (bytes, bytearray))
    array = np.frombuffer(tokens, np.uint8) if raw else checks.as_array("tokens", tokens)
    if array.dtype.kind not in "iu":
        raise TypeError(f"tokens must be integers or bytes, got dtype {array.dtype}")
    checks.shape("tokens", array.shape, (None,))
    return array


def _time_major(name, lanes):
    """A batch (T,B,…) out of (B,T,…)."""
    if lanes.dtype == np.uint64:
        checks.integer_array(name, lanes, lanes.shape)  # they may not fit into int64
    return _for_models(lanes.swapaxes(0, 1))


def _batch_dtype(array):
    """The dtype that numbers of an array have in batches: one that models take."""
    if array.dtype.kind in "iu":
        return np.dtype(np.int64)
    return np.dtype(np.float64 if array.dtype.itemsize > 4 else np.float32)


def _for_models(array):
    """A new contiguous array in a dtype that models take."""
    with np.errstate(over="ignore"):  # a number beyond float64's range becomes infinity, visibly
        return np.array(array, _batch_dtype(array), order="C")


class SeriesStream(_Stream):
    """One long series of real vectors as batches for truncated BPTT, in order: what `TokenStream` is for tokens.

    `series`: (N,F) floats, or (N,), which is F = 1. Iterating gives pairs `(inputs, targets)`, inputs (T,B,F).
    `targets`: what belongs to each step of `series`: (N,O) floats, or (N,), which give (T,B,O); or (N,) integers, such
    as classes, which give (T,B) int64. None: the series itself one step later, for models that predict it.

    float32 stays float32, wider floats become float64. Arrays are not copied, and read batch by batch. `ValueError` if
    they don't hold at least one full batch.
    """

    def __init__(self, series: ArrayLike, batch_size: int, seq_len: int, *, targets: ArrayLike | None = None):
        self._series = _series_array("series", series)
        steps = len(self._series)
        if targets is None:
            self._targets, self._ahead = self._series, 1
        else:
            self._targets, self._ahead = _target_array(targets, steps), 0
        super().__init__("series", steps, self._ahead, batch_size, seq_len)

    def _batch(self, steps):
        inputs, targets = self._lanes(self._series)[:, steps], self._lanes(self._targets, self._ahead)[:, steps]
        return _time_major("series", inputs), _time_major("targets", targets)


def _series_array(name, value):
    """`value`, (N,F) or (N,) floats, as an array (N,F) that is not copied."""
    array = checks.as_array(name, value)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {array.dtype}")
    checks.shape(name, array.shape, (None,) if array.ndim == 1 else (None, None))
    return array[:, np.newaxis] if array.ndim == 1 else array


def _target_array(targets, steps):
    array = checks.as_array("targets", targets)
    if array.dtype.kind in "iu":
        checks.shape("targets", array.shape, (steps,))
    else:
        array = _series_array("targets", array)
        checks.shape("targets", array.shape, (steps, None))
    return array


def pad(
    sequences: Sequence[ArrayLike], *, value: float = 0, batch_first: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of different lengths as one array, padded at the end: `x, lengths`.

    `sequences`: arrays (T_i,F), or (T_i,), all of floats or all of integers; none may be empty.
    `x`: (T,B,F), or (T,B), T the longest; (B,T,…) with `batch_first`. Its dtype holds all of theirs.
    `lengths`: (B,) int64, for the `lengths` argument of layers and trainers.
    `value` fills the rest; layers given `lengths` never read it. It may be NaN or infinite if the sequences are floats.
    """
    batch_first = checks.flag("batch_first", batch_first)
    entries = checks.sequence("sequences", sequences, "arrays")
    arrays = [checks.as_array(f"sequences[{i}]", entry) for i, entry in enumerate(entries)]
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
    shape = len(arrays), int(lengths.max()), *first.shape[1:]
    checks.memory("the padded sequences", (1 if batch_first else 2) * math.prod(shape) * dtype.itemsize)
    with np.errstate(over="ignore"):  # a value beyond the dtype's range becomes infinity, visibly
        x = np.full(shape, _fill_value(value, dtype), dtype)
    for row, array in zip(x, arrays, strict=True):
        row[: len(array)] = array
    return (x if batch_first else np.ascontiguousarray(x.swapaxes(0, 1))), lengths


def _fill_value(value, dtype):
    if dtype.kind == "f":
        special = isinstance(value, (float, np.floating)) and not np.isfinite(value)
        return value if special else checks.number("value", value)
    limits = np.iinfo(dtype)
    return checks.integer("value", value, minimum=limits.min, maximum=limits.max)


def windows(
    series: ArrayLike, length: int, horizon: int = 1, *, batch_first: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """All windows of a time series, and what follows each: `x, targets`.

    `series`: (N,F) floats, or (N,), which is F = 1. There are n = N - length - horizon + 1 windows, in order.
    `x`: (length,n,F), window i being `series[i : i + length]`.
    `targets`: (horizon,n,F), the `horizon` steps after it; `targets[0]` (n,F) suits a model that ends in `Last()`.
    With `batch_first`: (n,length,F) and (n,horizon,F). float32 stays float32, wider floats become float64.
    These are new arrays, about length + horizon times as large as the series: see `WindowBatches` for a long one.
    `ValueError` if the series has fewer than `length + horizon` steps.
    """
    batch_first = checks.flag("batch_first", batch_first)
    view = _window_view(series, length, horizon)
    checks.memory("the windows", view.size * _batch_dtype(view).itemsize)
    return _split_windows(view, length, batch_first)


class WindowBatches(ShuffledPasses[_Pair]):
    """The windows of a time series batch by batch, made when they are asked for: `windows` for a series of any length.

    Iterating gives pairs `(x, targets)` as `windows` does, of `batch_size` windows each, the last may have fewer; or,
    with `horizon=None`, targets (B,F): the step after the window, for models that end in `Last()`. In order, or with
    `shuffle` drawn at random, in every pass others and as many as there are (with replacement: an order of all windows
    would take memory that grows with the series).

    seed: of the draws, an integer or `Generator`, which gives one; None for others each time. The array is not copied,
    and read batch by batch. `ValueError` if there is no window. `state_dict` and `load_state_dict` save and restore the
    place within a pass, with all draws that follow.
    """

    def __init__(
        self,
        series: ArrayLike,
        length: int,
        horizon: int | None = None,
        *,
        batch_size: int,
        shuffle: bool = False,
        batch_first: bool = False,
        seed: Seed = None,
    ):
        self.length = checks.integer("length", length, minimum=1)
        self.horizon = None if horizon is None else checks.integer("horizon", horizon, minimum=1)
        self.batch_size = checks.integer("batch_size", batch_size, minimum=1)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.shuffle = checks.flag("shuffle", shuffle)
        self._view = _window_view(series, length, 1 if horizon is None else horizon)
        batch = self._view[: self.batch_size]
        checks.memory("a batch of windows", batch.size * _batch_dtype(batch).itemsize)
        if isinstance(seed, np.random.Generator):
            seed = int(seed.integers(2**63))
        elif seed is None:
            seed = secrets.randbits(63)
        seed = checks.integer("seed", seed, minimum=0)
        super().__init__(seed if self.shuffle else None)

    def __len__(self) -> int:
        """Batches in a pass."""
        return -(-len(self._view) // self.batch_size)

    def _pass(self, number, first):
        count = len(self._view)
        for index in range(first, len(self)):
            begin = index * self.batch_size
            end = min(begin + self.batch_size, count)
            which: Any = slice(begin, end)
            if self.seed is not None:  # each batch has a generator of its own, so that a pass can begin at any of them
                which = np.random.default_rng((self.seed, number, index)).integers(0, count, end - begin)
            x, targets = _split_windows(self._view[which], self.length, self.batch_first)
            yield x, targets if self.horizon is not None else targets.reshape(-1, targets.shape[-1])

    def _layout(self):
        sizes = {"length": self.length, "horizon": self.horizon, "batch_size": self.batch_size}
        return {"windows": len(self._view), **sizes}


def _window_view(series, length, horizon):
    """A view (n,F,length+horizon) of the windows, each with what follows it."""
    length = checks.integer("length", length, minimum=1)
    horizon = checks.integer("horizon", horizon, minimum=1)
    array = _series_array("series", series)
    if len(array) < length + horizon:
        raise ValueError(
            f"series must have at least {length + horizon} steps (length {length} + horizon {horizon}), "
            f"got {len(array)}"
        )
    return np.lib.stride_tricks.sliding_window_view(array, length + horizon, axis=0)


def _split_windows(view, length, batch_first):
    """The windows and what follows each."""
    axes = (0, 2, 1) if batch_first else (2, 0, 1)
    return _for_models(view[..., :length].transpose(axes)), _for_models(view[..., length:].transpose(axes))
