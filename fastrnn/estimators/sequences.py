"""Sequences as the estimators hold them: steps one after the other, lengths beside; and batches of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import data


class Sequences:
    """n sequences of steps, each step a number or an array of them.

    steps: (Σ T_i, …), those of all sequences one after the other, not copied.
    lengths: (n,) integers T_i ≥ 1.

    `uniform` says whether all lengths are the same; batches are views then, or gathered without padding.
    """

    def __init__(self, steps: np.ndarray, lengths: np.ndarray):
        self.steps, self.lengths = steps, lengths
        self.ends = np.cumsum(lengths)
        self.longest = int(lengths.max())
        self.uniform = int(lengths.min()) == self.longest

    @classmethod
    def of_array(cls, array: np.ndarray) -> "Sequences":
        """The n sequences of T steps in an array (n,T,…)."""
        return cls(array.reshape(-1, *array.shape[2:]), np.full(len(array), array.shape[1]))

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.steps[self.ends[i] - self.lengths[i] : self.ends[i]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @property
    def array(self) -> np.ndarray:
        """All of them in one array (n,T,…), a view; they have to be `uniform`."""
        return self.steps.reshape(len(self), self.longest, *self.steps.shape[1:])

    def take(self, indices: np.ndarray) -> "Sequences":
        """Those of `indices`, in that order."""
        if self.uniform:
            return Sequences.of_array(self.array[indices])
        return Sequences(np.concatenate([self[i] for i in indices]), self.lengths[indices])

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Those of `indices` as one array (B,T,…), T the longest, and their lengths; None if nothing is padded."""
        if self.uniform:
            return self.array[indices], None
        return data.pad([self[i] for i in indices], batch_first=True)

    def with_steps(self, steps: np.ndarray) -> "Sequences":
        """Sequences of the same lengths with other steps."""
        return Sequences(steps, self.lengths)


Targets = np.ndarray | Sequences  # one a sequence, or one a step


def take(rows: Any, indices: np.ndarray) -> Any:
    """Some of an array's rows, or of sequences; None of None."""
    return rows.take(indices) if isinstance(rows, Sequences) else None if rows is None else rows[indices]


def refuse_masked(name: str, value: Any, depth: int = 3) -> None:
    """TypeError for a masked array, or one within lists or arrays of objects: its mask would be lost.

    depth: of lists in lists, down to the numbers of X.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: leave out what is masked, or fill it")
    objects = isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim == 1
    if depth and (objects or isinstance(value, (list, tuple))):
        for i, entry in enumerate(value):
            if isinstance(entry, (np.ndarray, list, tuple)):
                refuse_masked(f"{name}[{i}]", entry, depth - 1)


def shape_of(value: Any, name: str = "X") -> tuple[int, ...]:
    """The shape of an array or what can be taken as one; ValueError for a list whose entries do not fit together."""
    if hasattr(value, "shape"):
        return value.shape
    try:
        return np.asarray(value).shape
    except ValueError:
        shapes = [_entry_shape(f"{name}[{i}]", entry) for i, entry in enumerate(value)]
        i = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
        raise ValueError(
            f"{name} must be a list of arrays that are all (T_i,F) or all (T_i,), got shapes {shapes[0]} of {name}[0] "
            f"and {shapes[i]} of {name}[{i}]"
        ) from None


def _entry_shape(name, entry):
    try:
        return np.shape(entry)
    except ValueError:
        raise ValueError(f"{name} must be an array (T,F) or (T,), got rows of different lengths") from None


def form_of(X: Any) -> tuple[list[np.ndarray] | None, tuple[int, ...]]:
    """What `listed` makes of X, and the shape of an X that is one array, () of others.

    TypeError for masked arrays. ValueError for what is neither, but for one-dimensional arrays, of which scikit-learn
    has something to say.
    """
    refuse_masked("X", X)
    arrays = listed(X)
    shape = shape_of(X) if arrays is None else ()
    if arrays is None and (shape in ((), (0,)) or len(shape) > 3):
        got = f"shape {shape}" if len(shape) > 3 else repr(X)
        raise ValueError(
            f"X must be an array (n,T,F), a list of arrays (T_i,F) or (T_i,), or rows of numbers (n,T·F), got {got}"
        )
    return arrays, shape


def is_list(X: Any) -> bool:
    """Whether X is a list of sequences, or what is taken as one, rather than one array."""
    return isinstance(X, (list, tuple)) or listed(X) is not None


def listed(X: Any) -> list[np.ndarray] | None:
    """The arrays (T_i,F), or (T_i,), of a list, a tuple or a one-dimensional array of objects.

    None if X is none of these, or a list of rows that are equally long: then it is one array, if anything.
    """
    objects = not isinstance(X, (list, tuple))
    if objects:
        if getattr(X, "ndim", None) != 1 or X.dtype.kind != "O":
            return None
        X = np.asarray(X).tolist()
    try:
        arrays = [np.asarray(entry) for entry in X]
    except ValueError:
        return None  # ragged within an entry
    dimensions = {array.ndim for array in arrays}
    if dimensions == {2} or (dimensions == {1} and (objects or len({len(array) for array in arrays}) > 1)):
        return arrays
    return None


def joined(name: str, arrays: Sequence[np.ndarray]) -> Sequences:
    """The sequences of a list of arrays with at least one step each, alike in all dimensions but the first."""
    for i, array in enumerate(arrays):
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(f"{name}[{i}] must have steps of shape {arrays[0].shape[1:]}, got {array.shape[1:]}")
        if array.size == 0:
            raise ValueError(f"{name}[{i}] must not be empty, got shape {array.shape}")
    return Sequences(np.concatenate(arrays), np.array([len(array) for array in arrays]))


class Batches:
    """Batches for `Trainer.fit`, in another order every time they are gone through.

    x: sequences of vectors. targets: an entry a sequence, or sequences with an entry a step.
    weights: how much each target counts; None for all the same.
    """

    def __init__(
        self,
        x: Sequences,
        targets: Targets,
        weights: Targets | None,
        batch_size: int,
        rng: np.random.Generator,
    ):
        self._x, self._targets, self._weights = x, targets, weights
        self._batch_size, self._rng = batch_size, rng
        self._starts = range(0, len(x), batch_size)
        self.sizes = [min(batch_size, len(x) - start) for start in self._starts]

    def __len__(self):
        return len(self._starts)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = self._rng.permutation(len(self._x))
        for start in self._starts:
            chosen = order[start : start + self._batch_size]
            x, lengths = self._x.batch(chosen)
            yield {
                "x": x,
                "lengths": lengths,
                "targets": _batch(self._targets, chosen),
                "mask": None if self._weights is None else _batch(self._weights, chosen),
            }


def _batch(rows, indices):
    return rows.batch(indices)[0] if isinstance(rows, Sequences) else rows[indices]
