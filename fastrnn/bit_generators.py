"""States of bit generators that come from outside: NumPy takes any, and then draws from beyond its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import checks

_Bounds = dict[tuple[str, ...], tuple[int, int]]

_FLAG: _Bounds = {("has_uint32",): (0, 1)}
_BOUNDS: dict[type[np.random.BitGenerator], _Bounds] = {  # of numbers that say where in its state it is
    np.random.MT19937: {("state", "pos"): (0, 624)},
    np.random.Philox: {("buffer_pos",): (0, 4), **_FLAG},
    np.random.PCG64: _FLAG,
    np.random.PCG64DXSM: _FLAG,
    np.random.SFC64: _FLAG,
}


def check_state(bit_generator: np.random.BitGenerator, state: Any) -> None:
    """`ValueError` unless `state` is one that a bit generator of the same class can have; nothing is changed.

    Of classes that are not NumPy's own, what was set must come back, which is all that can be known of them.
    """
    kind = type(bit_generator)
    if not isinstance(state, dict):
        raise ValueError(f"random must be the state of a {kind.__name__}, a dict, got {type(state).__name__}")
    fresh = kind()
    try:
        fresh.state = state
        found = plain(fresh.state)
        same = found == plain(state)
    except checks.MISFITS as error:
        text = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"random must be the state of a {kind.__name__}: {text}") from None
    if not same:
        raise ValueError(f"random must be the state of a {kind.__name__}, whose parts are of other sizes or kinds")
    bounds = next((bounds for known, bounds in _BOUNDS.items() if isinstance(fresh, known)), {})
    for names, (low, high) in bounds.items():
        number = found
        for name in names:
            number = number[name]
        if not low <= number <= high:
            raise ValueError(f"{names[-1]} of a {kind.__name__} must be from {low} to {high}, got {number}")
    if isinstance(fresh, np.random.MT19937) and not (found["state"]["key"][0] >> 31 or any(found["state"]["key"][1:])):
        raise ValueError(f"key of a {kind.__name__} must not be zero: it would draw nothing else for ever")


def plain(value: Any) -> Any:
    """`value` with lists for arrays and tuples, as it comes back from JSON; some bit generators have arrays."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
