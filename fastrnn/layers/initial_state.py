"""The state that a new sequence begins with: zeros, noise, or parameters that are learned."""

from __future__ import annotations

from typing import Any

from .. import checks

LEARNED, ZEROS = "learned", "zeros"
NAMES = "initial_h", "initial_c"  # of the parameters, each (L·D,H)


class NoisyState:
    """Initial states drawn from N(0, std²) while training, and zeros at inference (Zimmermann et al. 2012).

    A net that has to cope with any state it might have come from learns to forget it: noise with zero mean stiffens it
    against the uncertainty of where a sequence begins.
    """

    def __init__(self, std: float):
        self.std = checks.number("std", std, minimum=0)

    def __repr__(self):
        return f"NoisyState({self.std!r})"

    def __eq__(self, other):
        return isinstance(other, NoisyState) and self.std == other.std

    def __hash__(self):
        return hash((NoisyState, self.std))

    def config(self) -> dict[str, Any]:
        """In a form for JSON, which `parse` takes."""
        return {"std": self.std}


def parse(value):
    """The argument `initial_state`: "zeros", "learned" or a `NoisyState`, also in the form of its `config`."""
    if isinstance(value, NoisyState):
        return value
    if isinstance(value, dict) and value.keys() == {"std"}:
        return NoisyState(value["std"])
    if isinstance(value, str):
        return checks.choice("initial_state", value, (ZEROS, LEARNED))
    raise TypeError(f'initial_state must be "{ZEROS}", "{LEARNED}" or a NoisyState, got {value!r}')
