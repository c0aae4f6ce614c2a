"""Fingerprints: what two results, or an object before and after a call, are compared by, bit for bit."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastrnn import Trainer
from fastrnn.bptt import Buffers, Rule, Run
from fastrnn.bptt.base import Segment
from fastrnn.layers.base import Layer, Workspace

_TAKEN = 3  # of what an iterator gives
_CLOCK = ("seconds",)  # entries of records that no two runs have alike


def fingerprint(value: Any) -> Any:
    """Nested tuples of bytes, strings and numbers; equal for what is the same bit for bit."""
    if isinstance(value, (np.ndarray, np.generic)):
        plain = np.asarray(value)
        if plain.dtype.hasobject:
            return "objects", plain.shape, repr(plain.tolist())
        return "array", plain.dtype.str, plain.shape, plain.tobytes()
    if value is None or isinstance(value, (bool, int, str, bytes, complex, type)):
        return type(value).__name__, repr(value)
    if isinstance(value, float):
        return "float", value.hex()
    if isinstance(value, Mapping):
        entries = ((str(key), fingerprint(entry)) for key, entry in value.items() if key not in _CLOCK)
        return "mapping", tuple(sorted(entries, key=lambda entry: entry[0]))
    if isinstance(value, (tuple, list)):
        return "sequence", tuple(fingerprint(entry) for entry in value)
    if isinstance(value, Iterator):
        return "iterator", tuple(fingerprint(entry) for entry in itertools.islice(value, _TAKEN))
    if dataclasses.is_dataclass(value):
        return type(value).__name__, fingerprint({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    for kind, describe in _OBJECTS:
        if isinstance(value, kind):
            return type(value).__name__, fingerprint(describe(value))
    return _by_methods(value)


def _by_methods(value):
    """What an object says of itself, and its public attributes; all that an estimator has."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        return type(value).__name__, fingerprint(vars(value))
    said = [getattr(value, name)() for name in ("config", "state_dict") if hasattr(value, name)]
    learnt = {name: entry for name, entry in getattr(value, "__dict__", {}).items() if _is_learnt(name, entry)}
    return type(value).__name__, fingerprint(said), fingerprint(learnt)


def _is_learnt(name, value):
    """Whether an attribute is a public number or array."""
    return not name.startswith("_") and isinstance(value, (bool, int, float, str, np.ndarray, np.generic))


def _layer(layer):
    return (
        layer.config(), layer.batch_first, layer.parameters_to_vector(), layer.gradients_to_vector(),
        [generator.bit_generator.state for generator in layer._generators()], layer.owner is None,
    )  # fmt: skip


def _trainer(trainer):
    counts = trainer.updates, trainer.epoch, trainer.batch, trainer.nonfinite
    return counts, trainer.model, trainer.optimizer, trainer.bptt.state_dict(), trainer._state


_OBJECTS = (
    (Layer, _layer),
    (Workspace, lambda workspace: (workspace.steps, workspace.batch, workspace.record is None)),
    (Trainer, _trainer),
    (Run, lambda run: (run.total, run.count, run.state)),
    (Segment, lambda segment: (segment.start, segment.stop, segment.y)),
    (Buffers, lambda _: None),
    (Rule, lambda rule: (repr(rule), rule.state_dict())),
    (np.random.Generator, lambda generator: generator.bit_generator.state),
)


def arrays_in(value: Any) -> list[np.ndarray]:
    """All arrays that a caller's arguments hold."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Mapping):
        return [array for entry in value.values() for array in arrays_in(entry)]
    if isinstance(value, (tuple, list)):
        return [array for entry in value for array in arrays_in(entry)]
    return []
