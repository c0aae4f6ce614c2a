"""The flat buffers behind every layer and model: all parameters in one, all gradients in the other."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import checks
from .kernels.interrupts import interrupts_held
from .kernels.memory import aligned_empty

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike


def aligned_pieces(sizes: Iterable[int], dtype: DTypeLike, alignment: int = 64) -> list[np.ndarray]:
    """Uninitialised 1-D arrays that start on a cache line each, in one allocation."""
    dtype = np.dtype(dtype)
    unit = alignment // dtype.itemsize
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // unit) * unit)
    checks.memory("the buffers of a pass", starts[-1] * dtype.itemsize)
    whole = aligned_empty(starts[-1], dtype, alignment)
    return [whole[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def aligned_zeros(size: int, dtype: DTypeLike) -> np.ndarray:
    """Zeros that start on a cache line."""
    array = aligned_empty(size, dtype)
    array.fill(0)
    return array


def _zeros(size, dtype):
    """Values and gradients."""
    return aligned_zeros(size, dtype), aligned_zeros(size, dtype)


class _Ground:
    """Flat arrays of values and gradients that a whole model's layers take theirs from, one after the other."""

    def __init__(self, size: int, dtype: DTypeLike):
        self.dtype = np.dtype(dtype)
        self.values, self.gradients = _zeros(size, dtype)
        self.taken = 0

    def take(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and gradients of the next layer."""
        self.taken += size
        if self.taken > self.values.size:  # slices would be too short, which no kernel looks at
            raise RuntimeError("the model's layers have more parameters than the model")
        return self.last(size)

    def last(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Those taken last: a container's, which is made right after its members."""
        part = slice(self.taken - size, self.taken)
        return self.values[part], self.gradients[part]


_ground: contextvars.ContextVar[_Ground | None] = contextvars.ContextVar("where new layers stand", default=None)


def _ground_for(dtype):
    """What new parameters of this dtype take their arrays from, if anything."""
    ground = _ground.get()
    return ground if ground is not None and ground.dtype == dtype else None


@contextlib.contextmanager
def in_place(size: int, dtype: DTypeLike) -> Iterator[None]:
    """A block in which one model is made, each container right after its members, whose parameters of this dtype are
    `size` numbers: they stand where the model has them from the beginning, and `Parameters.joined` moves none.
    """
    checks.memory(f"a model with {size:,} parameters", 2 * size * np.dtype(dtype).itemsize)
    token = _ground.set(_Ground(size, dtype))
    try:
        yield
    finally:
        _ground.reset(token)


def making_bytes(dtype: np.dtype) -> int:
    """Bytes that a parameter takes while its layer is made: value, gradient, and the float64 that its first value is
    drawn as; none `in_place`."""
    return 2 * dtype.itemsize + 8 if _ground.get() is None else 0


_alive: weakref.WeakSet[Parameters] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked child: whoever held a lock has stayed behind."""
    for parameters in _alive:
        parameters.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class Parameters:
    """Named tensors in one flat buffer, their gradients in a second of the same layout.

    Owned by one layer, or by the model the layer belongs to, whose layers then hold views of its buffers, and so on
    through models within models. `version` grows with every write: packed forms of the weights carry the version they
    were made from.

    Gradients set to zero are cleared when somebody looks at them; a backward pass that comes first writes over them.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: DTypeLike,
        arrays: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        """`shapes`: dict of name -> shape, in the order of the flat buffer; `arrays`: values and gradients, None for
        zeros."""
        self.shapes = dict(shapes)
        self.size = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self.lock = threading.RLock()  # a signal's handler may call the model in the middle of packing
        _alive.add(self)
        self._members: tuple[Parameters, ...] = ()  # those that hold views of this one's buffers, one after the other
        self._version = 0  # of the root
        self.finite_version = -1  # at which all values were found to be finite
        self._uncleared: dict[int, int] = {}  # of the root: first -> past the last of the gradients that count as 0
        if arrays is None:
            ground = _ground_for(dtype)
            arrays = _zeros(self.size, dtype) if ground is None else ground.take(self.size)
        values, gradients = arrays
        self._place(self, values, gradients, 0)

    def _place(self, root: Parameters, values: np.ndarray, gradients: np.ndarray, offset: int) -> None:
        """Take the flat arrays `values` and `gradients`, from number `offset` on of those of `root`, for one's own."""
        self._root = root  # whose version counts: the outermost model's, once the layer is in one
        self.dtype = values.dtype
        self._values = values  # (size,) flat
        self.values = values.view()  # the same for reading
        self.values.flags.writeable = False
        self._gradients = gradients  # (size,) flat
        self._value_views: dict[str, np.ndarray] = {}
        self._gradient_views: dict[str, np.ndarray] = {}
        self._ranges: dict[str, tuple[int, int]] = {}  # name -> first and past the last number in the root's buffer
        start = 0
        for name, shape in self.shapes.items():
            stop = start + int(np.prod(shape))
            self._value_views[name] = values[start:stop].reshape(shape)
            self._gradient_views[name] = gradients[start:stop].reshape(shape)
            self._ranges[name] = offset + start, offset + stop
            start = stop
        start = 0
        for member in self._members:
            part = slice(start, start + member.size)
            member._place(root, values[part], gradients[part], offset + start)
            start += member.size

    @property
    def version(self) -> int:
        return self._root._version

    def changed(self) -> None:
        """Count a write: what was packed before is stale."""
        self._root._version += 1

    @contextlib.contextmanager
    def writing(self) -> Iterator[np.ndarray]:
        """A block that writes into the flat buffer; `values` is the same for reading.

        It counts at both ends: what another thread packs in between is stale, too.
        """
        self.changed()
        try:
            yield self._values
        finally:
            self.changed()

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor as a view that can't be written: writing takes `writing`, or a state dict."""
        view = self._value_views[name].view()
        view.flags.writeable = False
        return view

    def tensor(self, name: str) -> np.ndarray:
        """The tensor as the kernels take it. Not to be written."""
        return self._value_views[name]

    def place(self, number: int) -> tuple[str, tuple[int, ...]]:
        """The tensor that has the flat buffer's element `number`, and its index there."""
        names, stops = list(self.shapes), np.cumsum([view.size for view in self._value_views.values()])
        name = names[np.searchsorted(stops, number, "right")]
        view = self._value_views[name]
        offset = number - (stops[names.index(name)] - view.size)
        return name, tuple(map(int, np.unravel_index(offset, view.shape)))

    @property
    def gradients(self) -> np.ndarray:
        """All gradients, (size,) flat."""
        self._clear()
        return self._gradients

    def gradient(self, name: str) -> np.ndarray:
        """The tensor's gradient, a view."""
        self._clear()
        return self._gradient_views[name]

    @property
    def flat_gradients(self) -> np.ndarray:
        """The buffer behind `gradients`, not to be read: what counts as zero may not be."""
        return self._gradients

    def gradient_target(self, name: str) -> np.ndarray:
        """The tensor's gradient as a kernel takes it, for one who asks `count_as_zero` in every pass."""
        return self._gradient_views[name]

    def count_as_zero(self, names: Iterable[str]) -> bool:
        """Whether these tensors' gradients shall be written over, for they are zero, rather than added to.

        Whoever does so calls `written` afterwards.
        """
        uncleared = self._root._uncleared
        if not uncleared:
            return False
        if all(self._ranges[name][0] in uncleared for name in names):
            return True
        self._clear()
        return False

    def written(self, names: Iterable[str]) -> None:
        """These tensors' gradients hold what they should, and are no longer to be cleared."""
        for name in names:
            self._root._uncleared.pop(self._ranges[name][0], None)

    def _clear(self) -> None:
        root = self._root
        for first, last in list(root._uncleared.items()):
            root._gradients[first:last] = 0
            root._uncleared.pop(first, None)  # now that it is

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    @classmethod
    def joined(cls, members: Mapping[str, Parameters]) -> Parameters:
        """One `Parameters` over those of `members` (dict of prefix -> Parameters), which become views of it.

        Gradients and values are kept, and stay where they are if they were made `in_place`. A member without tensors
        follows the others' dtype, or else the first's.
        """
        dtypes = {p.dtype for p in members.values() if p.size}
        if len(dtypes) > 1:
            raise ValueError(f"layers must have one dtype, got {', '.join(sorted(d.name for d in dtypes))}")
        shapes = {f"{prefix}.{n}": s for prefix, p in members.items() for n, s in p.shapes.items()}
        dtype = dtypes.pop() if dtypes else next(iter(members.values())).dtype
        ground = _ground_for(dtype)
        if ground is not None:
            whole = cls(shapes, dtype, ground.last(sum(member.size for member in members.values())))
        else:
            size = sum(member.values.nbytes + member.gradients.nbytes for member in members.values())
            checks.memory("a model of these layers, whose parameters move into it,", size)
            whole = cls(shapes, dtype)
            np.concatenate([member.values for member in members.values()], out=whole._values, casting="same_kind")
            np.concatenate([member.gradients for member in members.values()], out=whole._gradients, casting="same_kind")
        whole._version = 1 + max((member.version for member in members.values()), default=0)
        whole._members = tuple(members.values())
        whole._place(whole, whole._values, whole._gradients, 0)
        return whole

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all tensors by name."""
        return {name: view.copy() for name, view in self._value_views.items()}

    def grad_dict(self) -> dict[str, np.ndarray]:
        """Copies of all gradients by name."""
        self._clear()
        return {name: view.copy() for name, view in self._gradient_views.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Take all tensors from `state`, a mapping of name -> array; nothing changes unless all of it fits."""
        if not hasattr(state, "keys") or not hasattr(state, "__getitem__"):
            raise TypeError(f"state_dict must be a mapping of names to arrays, got {type(state).__name__}")
        given = list(state.keys())
        there = set(given)
        missing = [name for name in self.shapes if name not in there]
        unknown = [name for name in given if name not in self.shapes]
        if missing or unknown:
            parts = [f"missing {', '.join(missing)}"] if missing else []
            parts += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
            raise ValueError(f"state_dict does not fit: {'; '.join(parts)}")
        arrays = {n: checks.float_array(n, state[n], self.dtype, shape) for n, shape in self.shapes.items()}
        with interrupts_held(), self.writing():
            for name, array in arrays.items():
                self._value_views[name][...] = array

    def read(self, read_into: Callable[[str, np.ndarray], None]) -> None:
        """Have each tensor filled by `read_into(name, view)`; if one fails, some are, and nothing else has changed."""
        with self.writing():
            for name, view in self._value_views.items():
                read_into(name, view)

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self._root._uncleared.update(self._ranges.values())
