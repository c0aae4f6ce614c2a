"""What a trainer's checkpoint says beside parameters: names of entries, states of callbacks, the place in the batches.

It comes out of a file: what is wrong with it is a `ValueError`, `TypeError` or `KeyError` of one sentence.
"""

from __future__ import annotations

import itertools
import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, storage
from .bit_generators import plain
from .bptt import map_state
from .callbacks import check_state
from .safetensors_reader import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .types import Callback

COUNTS = ("updates", "epoch", "batch", "nonfinite")  # of a trainer
_META = {
    *COUNTS, "optimizer", "random", "rule", "state", "architecture", "batches", "validation", "callbacks", "extra",
}  # fmt: skip
_MOST_CALLBACKS = 1_000  # that have a state: each takes memory, however short it is in the file
_OF_A_CALLBACK = re.compile(r"callback\.(0|[1-9][0-9]{0,2})\.")  # how its tensors' names begin

_log = logging.getLogger(__name__)


def keeps_state(value: Any) -> bool:
    """Whether batches or a callback have a state for checkpoints."""
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def place_of_next_pass(batches: Any) -> dict[str, Any] | None:
    """Where the next pass begins, of batches that can tell; a look at the first ones is a pass of its own."""
    if not keeps_state(batches):
        return None
    return getattr(batches, "_state_of_next_pass", batches.state_dict)()


def check_names(tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Refuse a checkpoint with more in it than `Trainer.save_checkpoint` puts there: it would be lost."""
    states: list[str] = []
    map_state(states.append, meta["state"])
    if not all(isinstance(name, str) for name in states):
        raise TypeError("its state must hold names of tensors")
    if len(set(states)) < len(states):
        raise ValueError("two parts of its state are one tensor")
    _check_callbacks(meta["callbacks"])
    expected, count = set(states), len(meta["callbacks"])
    unknown = list(meta.keys() - _META)
    for name in tensors.keys() - expected:
        found = _OF_A_CALLBACK.match(name)
        if not (name.startswith(("model.", "optimizer.")) or found and int(found[1]) < count):
            unknown.append(name)
    if unknown:
        raise ValueError(f"it has an unknown entry {quoted(min(unknown))}")


def _check_callbacks(entries):
    """Refuse what is no list of callbacks' classes and states."""
    if not isinstance(entries, list):
        raise TypeError(f"callbacks must be a list, got {checks.shown(entries)}")
    _check_number_of_callbacks(len(entries))
    for entry in entries:
        if not isinstance(entry, dict) or entry.keys() != {"type", "state"}:
            raise ValueError("a callback must have a type and a state, and nothing else")
        if not isinstance(entry["type"], str) or not isinstance(entry["state"], dict):
            raise TypeError("the type of a callback must be a name, and its state entries by name")


def _check_number_of_callbacks(count):
    if count > _MOST_CALLBACKS:
        raise ValueError(f"there must be at most {_MOST_CALLBACKS:,} callbacks with a state, got {count:,}")


def checked_callback_states(
    tensors: dict[str, np.ndarray], entries: list[dict[str, Any]], parameters: np.ndarray
) -> list[tuple[str, dict[str, Any]]]:
    """(name of a class, state) of each callback, whose arrays are among `tensors`; `check_names` has seen them.

    parameters: (P,), of the model, which a callback may have kept.
    """
    arrays: list[dict[str, np.ndarray]] = [{} for _ in entries]
    for name, array in tensors.items():
        if found := _OF_A_CALLBACK.match(name):
            arrays[int(found[1])][name[found.end() :]] = array
    states = []
    for entry, own in zip(entries, arrays, strict=True):
        name = entry["type"]
        if twice := entry["state"].keys() & own.keys():
            raise ValueError(f"the state of {quoted(name)} has {quoted(min(twice))} twice")
        state = {**entry["state"], **own}
        try:
            check_state(name, state, parameters)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the state of {quoted(name)}: {error}") from None
        states.append((name, state))
    return states


def stored_callback_states(
    states: list[tuple[str, dict[str, Any]]], tensors: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Entries of a checkpoint's meta for callbacks' `states`; the arrays in them go into `tensors`."""
    _check_number_of_callbacks(len(states))
    entries = []
    for i, (name, state) in enumerate(states):
        arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        tensors |= {f"callback.{i}.{key}": array for key, array in arrays.items()}
        scalars = {key: value for key, value in state.items() if key not in arrays}
        entries.append({"type": name, "state": plain(scalars)})
    return entries


def restore_callbacks(callbacks: Iterable[Callback], states: list[tuple[str, dict[str, Any]]]) -> None:
    """Give the states out of a checkpoint to those `callbacks` that they are of, all or none.

    ValueError if one does not take its own.
    """
    left = list(states)
    taken: list[tuple[Any, tuple[str, dict[str, Any]]]] = []
    for callback in filter(keeps_state, callbacks):
        names = [name for name, _ in left]
        if type(callback).__name__ in names:
            taken.append((callback, left.pop(names.index(type(callback).__name__))))
    before = [callback.state_dict() for callback, _ in taken]
    done = 0
    try:
        for callback, (_, state) in taken:
            callback.load_state_dict(state)
            done += 1
    except BaseException as error:
        for (callback, _), state in itertools.islice(zip(taken, before, strict=True), done):
            callback.load_state_dict(state)
        if not isinstance(error, (TypeError, ValueError, LookupError)):
            raise
        name = taken[done][1][0]
        raise ValueError(f"the checkpoint's state of {name} does not fit: {storage.short(str(error))}") from error
    for name, _ in left:
        _log.warning("the state of %s in the checkpoint is not used: there is no such callback", name)


def checked_place(name: str, place: Any) -> dict[str, Any] | None:
    """The place in the batches, or the validation, as far as it can be known without them."""
    if not (place is None or isinstance(place, dict)):
        raise TypeError(f"{name} must be a place in them, entries by name, got {checks.shown(place)}")
    return place


def restore_place(batches: Any, place: dict[str, Any] | None, done: int) -> bool:
    """Let the next pass over `batches` begin at `place`; whether they do so.

    done: the number of batches behind it in the epoch. ValueError if they are not batches that it can be a place in;
    between two epochs they begin at their beginning instead.
    """
    if done > (count := _length(batches)):
        raise ValueError(f"the checkpoint is from after batch {done} of an epoch, these batches are {count}")
    if place is None or not keeps_state(batches):
        return False
    try:
        batches.load_state_dict(place)
    except (TypeError, ValueError) as error:
        text = storage.short(str(error))
        if done:
            raise ValueError(f"the checkpoint's place in the batches does not fit: {text}") from error
        _log.warning("the place in the batches in the checkpoint is not used: %s", text)
        return False
    return True


def _length(batches):
    """The number of batches; infinite where it can't be known."""
    try:
        return len(batches)
    except TypeError:  # it has none, or does not know
        return float("inf")
