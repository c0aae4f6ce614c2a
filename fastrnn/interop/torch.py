"""Weights and models from PyTorch, and back.

State dicts may hold tensors or arrays, and need no PyTorch; float16 and bfloat16 become float32. What fastrnn or
PyTorch has no counterpart of is a `ValueError` that names it; nothing is left out in silence.

Layers and models of fastrnn name and lay out their parameters as PyTorch's do. So `to_state_dict` is
`model.state_dict()` with a check, and arrays under the model's own names can go to `model.load_state_dict` as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks, init, parameters, storage
from ..layers import GRU, LSTM, RNN, Jordan, LayerNormLSTM, PeepholeLSTM
from ..layers.base import Layer
from ..safetensors_reader import parse_json
from . import torch_names
from .common import check_model, common_dtype, named_layers, place_of, refuse_options, require

if TYPE_CHECKING:
    from numpy.typing import DTypeLike
    from torch import nn

__all__ = [
    "from_module",
    "from_state_dict",
    "load",
    "load_state_dict_into",
    "save",
    "to_module",
    "to_state_dict",
]

_ARCHITECTURE = "fastrnn_architecture"  # in the metadata of files


def from_state_dict(
    state_dict: Mapping[str, Any],
    layers: Sequence[Any] | None = None,
    *,
    nonlinearity: str | None = None,
    batch_first: bool = False,
    dtype: DTypeLike | None = None,
) -> Layer:
    """The layer or model that a state dict of PyTorch's belongs to, with its parameters.

    state_dict: names -> tensors or arrays. Without a dot in its names it is one layer's, which is returned; else a
        `Sequential` is. Kinds and sizes follow from names and shapes: RNN, GRU, LSTM (and their cells, as layers),
        Linear, Embedding, and their order from the sizes and from numbers in the names.
    layers: the order, where that leaves it open, and the layers without parameters, which a state dict does not tell:
        a list of modules' names, of pairs (name, fastrnn.Embedding), and of layers, such as
        `["embed", "lstm", fastrnn.Last(), "head"]`.
    nonlinearity: of RNNs, "tanh" or "relu".
    batch_first: of the layer or model.
    dtype: "float32" or "float64"; None takes the state dict's, which is float32 for shorter floats.

    ValueError, saying what to pass, if it is not clear; naming the tensors if fastrnn has no such layer, or if they
    have no numbers (PyTorch's device "meta"); for more than 10,000 tensors, names of more than 1,000 characters or of
    more than 64 modules in one another. TypeError for tensors of other dtypes.
    """
    hints = _Hints.checked(nonlinearity, batch_first, dtype)
    return _model(_candidates(state_dict, hints), layers, hints)


class _Hints(NamedTuple):
    """What the caller of `from_state_dict` says besides the layers."""

    nonlinearity: str | None
    batch_first: bool
    dtype: np.dtype | None

    @classmethod
    def checked(cls, nonlinearity=None, batch_first=False, dtype=None):
        """The arguments, if they are what they should be."""
        if nonlinearity is not None:
            nonlinearity = checks.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        dtype = None if dtype is None else checks.float_dtype(dtype)
        return cls(nonlinearity, checks.flag("batch_first", batch_first), dtype)


class _Modules(NamedTuple):
    """What the modules of a state dict may be."""

    candidates: dict[str, list[torch_names.Candidate]]  # by the modules' names
    dtype: np.dtype  # of the layers


def _candidates(state_dict, hints) -> _Modules:
    """What does not depend on the argument `layers`: with the hints as they should be, all errors are the tensors'."""
    arrays = torch_names.arrays_of(state_dict)
    if not arrays:
        raise ValueError("state_dict is empty")
    groups = torch_names.by_module(arrays)
    found = {name: torch_names.candidates(name, own, hints.nonlinearity) for name, own in groups.items()}
    return _Modules(found, common_dtype(arrays.values(), hints.dtype))


def _model(modules, layers, hints):
    """The model of these modules, in the order that the caller says or that follows from their names and sizes."""
    found, batch_first, dtype = modules.candidates, hints.batch_first, modules.dtype
    size = sum(array.size for ways in found.values() for array in ways[0].values.values())
    with init.left_out(), parameters.in_place(size, dtype):
        if layers is None:
            parts = [candidate.build(batch_first, dtype) for candidate in torch_names.chain(found)]
        else:
            parts = torch_names.described(layers, found, batch_first, dtype)
        return torch_names.assembled(parts, "" in found and len(parts) == 1, batch_first)


def load_state_dict_into(
    model: Layer, state_dict: Mapping[str, Any], *, prefix: str = "", names: Mapping[str, str] | None = None
) -> None:
    """Take all parameters of `model` from a state dict of PyTorch's, whose modules may have other names.

    prefix: of the names that count; others are not looked at.
    names: modules' names in `state_dict` -> those in the model ("lstm" -> "0"). Without it they are the same, or each
        module goes to the layer that has the same tensors.

    ValueError if something is missing, left over or of another shape, or if more than one layer fits, or more than one
    module goes to one. Nothing changes unless all of it fits.
    """
    check_model(model)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, got {type(prefix).__name__}")
    arrays = torch_names.arrays_of(state_dict, prefix)
    if not arrays:
        raise ValueError(f"state_dict has no names that begin with {prefix!r}" if prefix else "state_dict is empty")
    theirs = torch_names.by_module(arrays)
    ours = torch_names.by_module(model.state_dict())
    if names is None:
        names = {name: name for name in theirs} if theirs.keys() == ours.keys() else _matched(theirs, ours)
    if not isinstance(names, Mapping):
        raise TypeError(f"names must be a mapping of modules' names, got {type(names).__name__}")
    owners: dict[str, str] = {}
    for module in theirs:
        if module not in names:
            raise ValueError(f"names must have an entry for module {module!r}")
        if not isinstance(names[module], str):
            raise TypeError(f"names must give a layer's name for module {module!r}, got {names[module]!r}")
        other = owners.setdefault(names[module], module)
        if other != module:
            raise ValueError(f"names must not give modules {other!r} and {module!r} to one layer, {names[module]!r}")
    values = {}
    for module, tensors in theirs.items():
        for own, array in torch_names.layer_names(tensors).items():
            values[f"{names[module]}.{own}" if names[module] else own] = array
    model.load_state_dict(values)


def _matched(theirs, ours):
    """The names of modules -> those of the layers with the same tensors."""

    def signature(tensors):
        return tuple(sorted((name, array.shape) for name, array in torch_names.layer_names(tensors).items()))

    names = {}
    for module, tensors in theirs.items():
        wanted = signature(tensors)
        fitting = [name for name, own in ours.items() if signature(own) == wanted]
        alike = [name for name, own in theirs.items() if signature(own) == wanted]
        if not fitting:
            raise ValueError(f"the model has no layer with the tensors of module {module!r}: {wanted}")
        if len(fitting) > 1 or len(alike) > 1:
            raise ValueError(
                f"modules {', '.join(map(repr, alike))} and layers {', '.join(map(repr, fitting))} have the same "
                "tensors: pass names={module: layer, …}"
            )
        names[module] = fitting[0]
    return names


def to_state_dict(model: Layer, tensors: bool = False) -> dict[str, Any]:
    """The parameters of `model` for PyTorch: a dict of arrays, or of tensors with `tensors`.

    The names are those of the module that `to_module` makes, and of an `nn.Sequential` of the same layers. ValueError
    for a model that PyTorch can't compute.
    """
    refuse_inexpressible(model, inference=True)  # what acts in training has no tensors
    values = model.state_dict()
    if not checks.flag("tensors", tensors):
        return values
    torch = require("torch", "extra fastrnn[torch]")
    return {name: torch.from_numpy(array) for name, array in values.items()}


def refuse_inexpressible(model: Layer, *, inference: bool) -> None:
    """`ValueError`, naming it, for a layer or an option that PyTorch has no counterpart of."""
    check_model(model)
    for name, layer in named_layers(model):
        place = place_of(layer, name)
        if isinstance(layer, (PeepholeLSTM, LayerNormLSTM, Jordan)):
            raise ValueError(f"{place}: PyTorch has no such layer")
        others: list[tuple[str, Any]] = []
        if isinstance(layer, RNN) and layer.nonlinearity == "sigmoid":
            others.append(("nonlinearity", "sigmoid"))
        if isinstance(layer, GRU) and not layer.reset_after:
            others.append(("reset_after", False))
        if not inference and isinstance(layer, (RNN, GRU, LSTM)) and layer.dropout and layer.variational:
            others.append(("variational", True))
        refuse_options(layer, place, "PyTorch", inference=inference, others=others)


# ---- files ----


def save(model: Layer, path: storage.Path) -> None:
    """Write the parameters of `model` to a safetensors file at `path`, under PyTorch's names.

    `safetensors.torch.load_file(path)` is the state dict. The architecture stands in the file's metadata, so that
    `load` needs no hints. An existing file is replaced whole, or stays as it was. ValueError as in `to_state_dict`.
    """
    values = to_state_dict(model)
    storage.write_safetensors(
        path, values, {"format": "pt", _ARCHITECTURE: json.dumps(storage.architecture(model), allow_nan=False)}
    )


def load(path: storage.Path, layers: Sequence[Any] | None = None, **hints: Any) -> Layer:
    """The layer or model of the state dict in a safetensors file at `path`.

    Of a file that `save` wrote it is the model that was saved. Of others, or with any hint, it is
    `from_state_dict(state_dict, layers, **hints)`.

    `FormatError` for a file that is no safetensors file (those of `torch.save` are pickles, which are never read), or
    whose tensors are no layers of fastrnn's or don't tell by themselves which, with what to pass; `ValueError` or
    `TypeError` for hints that don't fit; `OSError` for a file that can't be read.
    """
    if unknown := hints.keys() - set(_Hints._fields):
        raise TypeError(f"load takes no argument {min(unknown)}")
    checked = _Hints.checked(**hints)
    tensors, metadata = storage.read_safetensors(path)
    if metadata.get("format") == storage.FORMAT:
        raise storage.FormatError(f"{os.fsdecode(path)} was written by fastrnn.save: read it by fastrnn.load")
    if _ARCHITECTURE in metadata and layers is None and not hints:
        try:
            description = parse_json(metadata[_ARCHITECTURE], len(metadata[_ARCHITECTURE]))
        except (ValueError, RecursionError) as error:
            raise storage.FormatError(
                f"{os.fsdecode(path)}: its architecture can't be read: {storage.short(str(error))}"
            ) from None
        return storage.restore(description, tensors, path)
    try:
        modules = _candidates(tensors, checked)
        if layers is None:
            return _model(modules, None, checked)
    except (ValueError, TypeError) as error:
        raise storage.FormatError(f"{os.fsdecode(path)}: {storage.short(str(error))}") from None
    try:
        return _model(modules, layers, checked)
    except ValueError as error:  # which has names out of the file
        raise ValueError(f"{os.fsdecode(path)}: {storage.short(str(error))}") from None


# ---- modules ----


def from_module(module: nn.Module, layers: Sequence[Any] | None = None, *, example: Any = None) -> Layer:
    """The layer or model that computes what a module of PyTorch's computes, with its parameters.

    module: RNN, GRU, LSTM (or a cell), Linear, Embedding, Tanh, ReLU, Sigmoid, Dropout, a module that `to_module` made,
        an `nn.Sequential` of them (a recurrent module in it hands on its output), or a module of one's own that calls
        such modules one after the other. The latter is run twice, in evaluation mode, on random numbers of two sizes,
        to see what goes from one to the next: the output (`[0]`), its last step or the final state `h[-1]`, its mean or
        maximum over time, tanh, relu or sigmoid of it. What a functional dropout does in training can't be seen, nor a
        branch on sizes that neither run has; one that the data decide is refused.
    layers: says instead what is computed, and nothing is run: a list of submodules' names in the order of the calls,
        and of layers without parameters between them, such as `["embed", "lstm", fastrnn.Last(), "head"]`.
    example: input to run it on, once, a tensor or a tuple of arguments. None makes inputs up.

    Returns a layer for a layer, else a `Sequential`. ValueError that names the module, or what happens between two of
    them, if fastrnn has no such thing. Training alone is concerned by what `requires_grad`, and an embedding's
    `padding_idx`, `sparse` and `scale_grad_by_freq` say; they are not taken over.
    """
    require("torch", "extra fastrnn[torch]")
    from . import torch_conversion

    return torch_conversion.from_module(module, layers, example)


def to_module(model: Layer, *, inference: bool = False) -> nn.Module:
    """A module of PyTorch's that computes what `model` computes, with copies of its parameters.

    An RNN, GRU or LSTM becomes PyTorch's, which returns output and state; a `Sequential` becomes a `Stack`
    (`fastrnn.interop.torch_modules`), an `nn.Sequential` that returns the output alone: `module(x)`. Its method
    `run(x, state)` gives the state besides. Names of parameters are those of the model. Time or batch come first as in
    the model; all steps count, for there are no `lengths`.

    inference: what acts in training alone and PyTorch lacks, recurrent dropout for instance, is left out. Without it,
        it is a ValueError, as is, always, whatever else PyTorch has no counterpart of.
    """
    require("torch", "extra fastrnn[torch]")
    from . import torch_conversion

    refuse_inexpressible(model, inference=checks.flag("inference", inference))
    return torch_conversion.to_module(model)
