"""Which layers the names and shapes in a state dict of PyTorch's stand for, and in what order they may be."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..layers import GRU, LSTM, RNN, Embedding, Linear
from ..layers.base import Layer
from ..model import Sequential
from ..safetensors_reader import quoted
from .common import Part, float_values

Arrays = dict[str, np.ndarray]

_BY_GATES = {1: RNN, 3: GRU, 4: LSTM}  # rows of weight_hh over its columns
_CELL = {kind: f"{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
_MOST_UNORDERED = 12  # modules whose order is searched: the search may visit all their subsets

# Of what may be a stranger's, as in fastrnn's own files: every tensor, and every part of a name, becomes objects.
_MOST_TENSORS = 10_000
_LONGEST_NAME = 1_000
_DEEPEST = 64  # modules in one another

_MOST_GAPS = 5  # that a message tells of
_MOST_SHOWN = 16  # tensors of a module


class Candidate(NamedTuple):
    """A layer that tensors may belong to."""

    kind: Callable[..., Layer]
    arguments: dict[str, Any]
    inputs: int | None  # features, None for integers
    outputs: int
    values: Arrays

    def build(self, batch_first: bool, dtype: np.dtype) -> Part:
        """The layer, and its parameters in `dtype`."""
        recurrent = {"batch_first": batch_first} if self.kind in _BY_GATES.values() else {}
        values = {name: array.astype(dtype, copy=False) for name, array in self.values.items()}
        return Part(self.kind(**self.arguments, **recurrent, dtype=dtype, seed=0), values)


def arrays_of(state_dict: Mapping[str, Any], prefix: str = "") -> Arrays:
    """A state dict of arrays or tensors, those with `prefix`, by the rest of their names: see `float_values`."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping of names to arrays, got {type(state_dict).__name__}")
    for name in state_dict:
        if not isinstance(name, str):
            raise TypeError(f"state_dict must have strings for names, got {name!r}")
    chosen = [name for name in state_dict if name.startswith(prefix)]
    if len(chosen) > _MOST_TENSORS:
        raise ValueError(f"state_dict must have at most {_MOST_TENSORS:,} tensors, got {len(chosen):,}")
    for name in chosen:
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"names must have at most {_LONGEST_NAME:,} characters, got {len(name):,}: {quoted(name)}")
        if name.count(".") > _DEEPEST:
            raise ValueError(f"{quoted(name)} must be of at most {_DEEPEST} modules in one another")
    return {name.removeprefix(prefix): float_values(f"state_dict[{quoted(name)}]", state_dict[name]) for name in chosen}


def by_module(arrays: Arrays) -> dict[str, Arrays]:
    """The tensors of each module by their own names, under the module's name: "" for one that has no name."""
    groups: dict[str, Arrays] = {}
    for name, array in arrays.items():
        module, _, own = name.rpartition(".")
        tensors = groups.setdefault(module, {})
        if own in tensors:  # ".weight" beside "weight"
            raise ValueError(f"two tensors have the name {quoted(own)}")
        tensors[own] = array
    return groups


# ---- what a module's tensors are ----


def layer_names(tensors: Arrays) -> Arrays:
    """A module's tensors under the names of fastrnn's layers: those of a cell as those of a layer's first."""
    if "weight_hh" in tensors and tensors.keys() <= _CELL.keys():
        return {_CELL[name]: array for name, array in tensors.items()}
    return tensors


def candidates(module: str, tensors: Arrays, nonlinearity: str | None) -> list[Candidate]:
    """The layers that `tensors` of the module named `module` can belong to; `ValueError` if there are none.

    nonlinearity: of an RNN, which its tensors don't tell.
    """
    place = f"module {quoted(module)}" if module else "state_dict"
    if any(name.startswith("weight_hr") for name in tensors):
        raise ValueError(f"{place}: fastrnn has no LSTM with proj_size (it has {_found(tensors)})")
    if any(0 in array.shape for array in tensors.values()):
        raise ValueError(f"{place}: no layer of fastrnn has tensors without numbers: {_found(tensors)}")
    tensors = layer_names(tensors)
    if "weight_hh_l0" in tensors:
        return [_recurrent(place, tensors, nonlinearity)]
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or weight.ndim != 2 or tensors.keys() - {"weight", "bias"}:
        raise ValueError(f"{place}: no layer of fastrnn has these tensors: {_found(tensors)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{place}: bias must have shape ({len(weight)},), got {bias.shape}")
    rows, columns = weight.shape
    sizes = {"in_features": columns, "out_features": rows, "bias": bias is not None}
    found = [Candidate(Linear, sizes, columns, rows, tensors)]
    if bias is None:
        sizes = {"num_embeddings": rows, "embedding_dim": columns}
        found.append(Candidate(Embedding, sizes, None, columns, tensors))
    return found


def _recurrent(place, tensors, nonlinearity):
    square, first = tensors["weight_hh_l0"], tensors.get("weight_ih_l0")
    if square.ndim != 2 or first is None or first.ndim != 2:
        raise ValueError(f"{place}: an RNN, GRU or LSTM has matrices weight_ih_l0 and weight_hh_l0: {_found(tensors)}")
    hidden = square.shape[1]
    kind = _BY_GATES.get(len(square) / hidden if hidden else 0)
    if kind is None:
        raise ValueError(
            f"{place}: weight_hh_l0 must have as many rows as columns (RNN), three times (GRU) or four times (LSTM) as "
            f"many, got shape {square.shape}"
        )
    layers = 1
    while f"weight_hh_l{layers}" in tensors:
        layers += 1
    sizes = {"input_size": first.shape[1], "hidden_size": hidden, "num_layers": layers}
    arguments = {**sizes, "bias": "bias_ih_l0" in tensors, "bidirectional": "weight_hh_l0_reverse" in tensors}
    expected = dict(kind.parameter_shapes(**arguments))
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"{place}: {kind.__name__}'s {_shown(name)} is {'missing' if name in expected else 'unknown'}")
    for name, shape in expected.items():
        checks.shape(f"{place}: {name}", tensors[name].shape, shape)
    directions = 1 + arguments["bidirectional"]
    if kind is RNN:
        if nonlinearity is None:
            raise ValueError(f'{place}: pass nonlinearity="tanh" or "relu", which an RNN\'s tensors do not tell')
        arguments["nonlinearity"] = nonlinearity
    return Candidate(kind, arguments, first.shape[1], directions * hidden, tensors)


def _found(tensors):
    shown = [f"{_shown(name)} {array.shape}" for name, array in tensors.items()]
    return ", ".join([*shown[:_MOST_SHOWN], *(["…"] if len(shown) > _MOST_SHOWN else [])])


def _shown(name):
    return quoted(name)[1:-1]


# ---- their order ----


def chain(groups: dict[str, list[Candidate]]) -> list[Candidate]:
    """The candidates, one a module, in the one order in which their sizes fit.

    Modules whose names end in numbers, as an `nn.Sequential`'s, stay in the order of these. `ValueError` if no order
    fits, if several do, or if the numbers leave gaps, which stand for modules without parameters.
    """
    names = sorted(groups, key=_place)
    _refuse_gaps(names)
    if all(_before(a, b) for a, b in pairwise(names)):
        found = list(_in_order(names, groups))
    elif len(groups) > _MOST_UNORDERED:
        raise ValueError(f"the order of {len(groups)} modules is not known: {_pass_layers(groups)}")
    else:
        found = _orders(groups, {}, None, frozenset(groups), [], [])
    if not found:
        raise ValueError(f"the modules' sizes don't fit in any order: {_pass_layers(groups)}")
    if len(found) > 1:
        if [c.kind for c in found[0]] != [c.kind for c in found[1]] and len(groups) == 1:
            what = "a weight without a bias may be a Linear's or an Embedding's"
        else:
            what = "the modules' sizes fit in more than one way"
        raise ValueError(f"{what}: {_pass_layers(groups)}")
    return found[0]


def _pass_layers(groups):
    names = ", ".join(repr(name) for name in groups)
    return (
        f"pass layers=[{names}] in the order they are in, with (name, fastrnn.Embedding) or (name, fastrnn.Linear) "
        "where that is not clear"
    )


def _in_order(names: list[str], groups: dict[str, list[Candidate]]) -> Iterator[list[Candidate]]:
    """The ways to take the modules in this order: one for each layer that the first may be, if the others fit."""
    for first in groups[names[0]]:
        way = [first]
        for name in names[1:]:
            way += [candidate for candidate in groups[name] if candidate.inputs == way[-1].outputs]
        if len(way) == len(names):
            yield way


def _orders(groups, dead, features, left, so_far, found):
    """Up to two ways to put the modules `left` after `so_far`, whose output has `features`; added to `found`."""
    if not left:
        found.append(list(so_far))
        return found
    if (left, features) in dead:
        return found
    before = len(found)
    for name in groups:
        if name not in left or any(_before(other, name) for other in left):
            continue
        for candidate in groups[name]:
            fits = candidate.inputs == features if so_far and candidate.inputs is not None else not so_far
            if fits and len(found) < 2:
                _orders(groups, dead, candidate.outputs, left - {name}, [*so_far, candidate], found)
    if len(found) == before:
        dead[left, features] = True
    return found


def _place(name):
    """What names are sorted by: the parts that are numbers as such, before others."""
    return [(int(part) if part.isdecimal() else math.inf, part) for part in name.split(".")]


def _before(a, b):
    """Whether module a stands before b for sure: their names first differ in numbers."""
    for (x, one), (y, other) in zip(_place(a), _place(b), strict=False):
        if one != other:
            return x < y < math.inf
    return False


def _refuse_gaps(names):
    """names: sorted by `_place`, so that each number comes right after the one before it under the same parent."""
    before = []
    for name in names:
        place = _place(name)
        common = next((i for i, (x, y) in enumerate(zip(before, place, strict=False)) if x != y), len(before))
        for depth in range(common, len(place)):
            number, _ = place[depth]
            last = before[depth][0] if depth == common and depth < len(before) else -1
            if last + 1 < number < math.inf:
                parent = "".join(f"{part}." for _, part in place[:depth])
                gaps = range(last + 1, number)[:_MOST_GAPS]
                shown = ", ".join(f"{_shown(parent)}{gap}" for gap in gaps)
                raise ValueError(
                    f"the state dict does not tell what has no parameters, {shown}: pass layers= with the modules' "
                    'names and such layers between them, for instance layers=["0", fastrnn.Last(), "2"]'
                )
        before = place


# ---- layers as described by the caller ----


def described(
    items: Sequence[Any], groups: dict[str, list[Candidate]], batch_first: bool, dtype: np.dtype
) -> list[Part]:
    """The layers of the argument `layers`: names of modules, pairs of a name and a class, layers without parameters."""
    if isinstance(items, str) or not isinstance(items, Sequence) or not items:
        raise TypeError(f"layers must be a list of modules' names and of layers without parameters, got {items!r}")
    parts: list[Part] = []
    ways: list[list[Candidate] | Layer] = []
    used = set()
    for i, item in enumerate(items):
        if isinstance(item, Layer):
            if item.num_parameters:
                raise ValueError(f"layers[{i}] must be a layer without parameters or a module's name, got {item!r}")
            ways.append(item)
            continue
        name, kind = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not isinstance(name, str):
            raise TypeError(f"layers[{i}] must be a name, a pair (name, class) or a layer, got {item!r}")
        if name not in groups or name in used:
            problem = "is given twice" if name in used else f"is not there: there are {', '.join(map(repr, groups))}"
            raise ValueError(f"layers[{i}]: module {name!r} {problem}")
        used.add(name)
        fitting = [c for c in groups[name] if kind is None or c.kind is kind]
        if not fitting:
            kinds = " or ".join(c.kind.__name__ for c in groups[name])
            raise ValueError(f"layers[{i}]: module {name!r} must be {kinds}, got {getattr(kind, '__name__', kind)}")
        ways.append(fitting)
    for name in groups:
        if name not in used:
            raise ValueError(f"layers leaves out module {name!r}")
    for i, way in enumerate(ways):
        if isinstance(way, Layer):
            parts.append(Part(way, {}))
            continue
        if len(way) > 1:
            way = _likelier(way, i, ways)
        parts.append(way[0].build(batch_first, dtype))
    return parts


def _likelier(way, i, ways):
    """Of a linear layer and an embedding the one that fits its place."""
    if i:
        return [c for c in way if c.inputs is not None]  # an embedding comes first
    following = next((w for w in ways[1:] if not isinstance(w, Layer) or w._input_features() is not None), None)
    if following is not None:
        wanted = [following._input_features()] if isinstance(following, Layer) else [c.inputs for c in following]
        way = [c for c in way if c.outputs in wanted]
    if len(way) != 1:
        raise ValueError(
            "layers[0]: a weight without a bias may be a Linear's or an Embedding's: pass (name, fastrnn.Linear) or "
            "(name, fastrnn.Embedding)"
        )
    return way


def assembled(parts: Sequence[Part], alone: bool, batch_first: bool) -> Layer:
    """The one layer, if it stands alone, or a `Sequential`, with its parameters."""
    layers = [part.filled() for part in parts]
    return layers[0] if alone else Sequential(*layers, batch_first=batch_first)
