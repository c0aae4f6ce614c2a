"""Modules of PyTorch's and layers of fastrnn, one as the other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..layers import (
    GRU,
    LSTM,
    RNN,
    ActivityRegularization,
    Dropout,
    Embedding,
    Last,
    Linear,
    MaxPool,
    MeanPool,
    OneHot,
    ReLU,
    Repeat,
    Sigmoid,
    Tanh,
)
from ..layers.base import Layer
from ..layers.recurrent import Recurrent
from ..layers.stateless import FloatInput
from ..model import Concatenated, Residual, Sequential
from . import torch_modules, torch_names, torch_trace
from .common import Part, common_dtype, float_values

_RECURRENT: dict[type[nn.Module], type[Recurrent]] = {nn.RNN: RNN, nn.GRU: GRU, nn.LSTM: LSTM}
_CELLS: dict[type[nn.Module], type[Recurrent]] = {nn.RNNCell: RNN, nn.GRUCell: GRU, nn.LSTMCell: LSTM}
_ACTIVATIONS: dict[type[nn.Module], type[FloatInput]] = {nn.Tanh: Tanh, nn.ReLU: ReLU, nn.Sigmoid: Sigmoid}
_POOLING: dict[type[torch_modules.OverTime], type[FloatInput]] = {
    torch_modules.Last: Last, torch_modules.MeanPool: MeanPool, torch_modules.MaxPool: MaxPool,
}  # fmt: skip
_CONTAINERS = torch_modules.Residual, torch_modules.Concatenated
_LEAVES = {
    *_RECURRENT, *_CELLS, *_ACTIVATIONS, *_POOLING, *_CONTAINERS, nn.Linear, nn.Embedding, nn.Dropout, nn.Identity,
    torch_modules.OneHot, torch_modules.Repeat, torch_modules.VariationalDropout,
}  # fmt: skip
_CHAINS = nn.Sequential, torch_modules.Stack  # what they do between their modules is known: nothing


# ---- from PyTorch ----


def from_module(module: nn.Module, layers: Sequence[Any] | None, example: Any) -> Layer:
    """See `fastrnn.interop.torch.from_module`."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__}")
    leaves = _leaves(module)
    _refuse_shared(leaves)
    _refuse_hooks(module)
    batch_first = _batch_first(leaves)
    tensors = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    values = [float_values(name, tensor.new_zeros(())) for name, tensor in tensors.items()]
    dtype = common_dtype(values, None)
    if layers is None:
        if type(module) in _LEAVES:
            return _part("", module, batch_first, dtype).filled()
        plain = all(type(part) in _CHAINS for part in _parents(module))
        order = list(leaves) if plain else torch_trace.trace(module, leaves, example, batch_first)
    else:
        order = _described(layers, leaves)
    if not order:
        raise ValueError(f"{type(module).__name__} has no modules that are layers")
    parts = [
        Part(item, {}) if isinstance(item, Layer) else _part(item, leaves[item], batch_first, dtype) for item in order
    ]
    return Sequential(*[part.filled() for part in parts], batch_first=batch_first)


def _leaves(module, prefix=""):
    """The modules that are layers by name, in the order they are registered; `ValueError` for one that is no layer."""
    if type(module) in _LEAVES:
        return {prefix: module}
    name = _named(prefix, module)
    own = [n for n, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]]
    of_torch = type(module).__module__.startswith("torch.") and not isinstance(
        module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    )
    if own or of_torch:
        tensors = f", with {', '.join(own)} of its own" if own else ""
        raise ValueError(f"{name} has no counterpart in fastrnn{tensors}")
    found = {}
    for child, part in module.named_children():
        found.update(_leaves(part, f"{prefix}.{child}" if prefix else child))
    return found


def _parents(module):
    """The modules that are no leaves."""
    if type(module) not in _LEAVES:
        yield module
        for part in module.children():
            yield from _parents(part)


def _named(name, module):
    return f"module {name!r}, {type(module).__name__}," if name else type(module).__name__


def _refuse_shared(leaves):
    owners = {}
    for name, leaf in leaves.items():
        for parameter in leaf.parameters():
            other = owners.setdefault(id(parameter), name)
            if other != name:
                raise ValueError(
                    f"modules {other!r} and {name!r} share a parameter, which layers of fastrnn can't: "
                    "from_state_dict gives each a copy"
                )


def _refuse_hooks(module):
    for name, part in module.named_modules():
        if part._forward_hooks or part._forward_pre_hooks:
            raise ValueError(f"{_named(name, part)} has forward hooks, which may change what it computes: remove them")


def _batch_first(leaves):
    """Whether the batch comes first in all of the modules that have a time dimension."""
    given = {name: part.batch_first for name, leaf in leaves.items()
             for part in leaf.modules() if hasattr(part, "batch_first")}  # fmt: skip
    if len(set(given.values())) > 1:
        raise ValueError(f"modules must have one batch_first, got {given}")
    return any(given.values())


def _described(layers, leaves):
    """The argument `layers`, checked: names of leaves and layers without parameters."""
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(f"layers must be a list of submodules' names and of layers without parameters, got {layers!r}")
    for i, item in enumerate(layers):
        if isinstance(item, Layer):
            if item.num_parameters:
                raise ValueError(f"layers[{i}] must be a layer without parameters or a name, got {item!r}")
        elif item not in leaves:
            raise ValueError(f"layers[{i}] must be one of {', '.join(map(repr, leaves))}, or a layer, got {item!r}")
        elif item in layers[:i]:
            raise ValueError(f"layers[{i}]: {item!r} is given twice")
    for name, leaf in leaves.items():
        if name not in layers and any(True for _ in leaf.parameters()):
            raise ValueError(f"layers leaves out {name!r}, {type(leaf).__name__}")
    return layers


def _part(name, module, batch_first, dtype) -> Part:
    """A leaf as a layer."""
    kind = type(module)
    place = _named(name, module)
    if isinstance(module, torch_modules.Container):
        members = [_part(f"{name}.{i}" if name else str(i), m, batch_first, dtype) for i, m in enumerate(module)]
        layers = [member.filled() for member in members]
        if isinstance(module, torch_modules.Concatenated):
            container = Concatenated(*layers, include_input=module.include_input, batch_first=batch_first)
            return Part(container, {})
        return Part(Residual(*layers, batch_first=batch_first), {})
    values = {n: float_values(n, t).astype(dtype, copy=False) for n, t in module.state_dict().items()}
    layer = _layer(kind, module, place, batch_first, dtype)
    values = torch_names.layer_names(values)
    for own in values.keys() ^ layer.state_dict().keys():
        raise ValueError(f"{place} has a tensor {own}, or lacks it, unlike its counterpart in fastrnn")
    return Part(layer, values)


def _layer(kind, module, place, batch_first, dtype) -> Layer:
    """A layer of fastrnn with the architecture of a leaf."""
    if kind in _RECURRENT:
        if module.proj_size:
            raise ValueError(f"{place} has proj_size={module.proj_size}: fastrnn has no LSTM with a projection")
        options = {"nonlinearity": module.nonlinearity} if kind is nn.RNN else {}
        return _RECURRENT[kind](
            module.input_size, module.hidden_size, module.num_layers, bias=module.bias, batch_first=batch_first,
            dropout=module.dropout, bidirectional=module.bidirectional, dtype=dtype, seed=0, **options,
        )  # fmt: skip
    if kind in _CELLS:
        options = {"nonlinearity": module.nonlinearity} if kind is nn.RNNCell else {}
        sizes = module.input_size, module.hidden_size
        return _CELLS[kind](*sizes, bias=module.bias, batch_first=batch_first, dtype=dtype, seed=0, **options)
    if kind is nn.Linear:
        bias = module.bias is not None
        return Linear(module.in_features, module.out_features, bias=bias, dtype=dtype, seed=0)
    if kind is nn.Embedding:
        if module.max_norm is not None:
            raise ValueError(f"{place} has max_norm={module.max_norm}: fastrnn has no embedding with such a bound")
        return Embedding(module.num_embeddings, module.embedding_dim, dtype=dtype, seed=0)
    if kind in (nn.Dropout, torch_modules.VariationalDropout):
        return Dropout(module.p, variational=kind is not nn.Dropout, dtype=dtype)
    if kind is nn.Identity:
        return ActivityRegularization(dtype=dtype)  # of nothing, which keeps the numbers of the layers
    if kind is torch_modules.OneHot:
        return OneHot(module.num, dtype=dtype)
    if kind is torch_modules.Repeat:
        return Repeat(module.steps, dtype=dtype)
    if kind is torch_modules.Last:
        return Last(bidirectional=module.bidirectional, dtype=dtype)
    plain: Callable[..., Layer] = _ACTIVATIONS.get(kind) or _POOLING[kind]
    return plain(dtype=dtype)


# ---- to PyTorch ----


def to_module(model: Layer) -> nn.Module:
    """See `fastrnn.interop.torch.to_module`; the model was found to be expressible."""
    module = _module(model)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in model.state_dict().items()})
    return module


def _module(layer: Layer) -> nn.Module:
    dtype = getattr(torch, layer.dtype.name)
    if isinstance(layer, Sequential):
        return torch_modules.Stack(*map(_module, layer.layers))
    if isinstance(layer, Residual):
        return torch_modules.Residual(*map(_module, layer.layers))
    if isinstance(layer, Concatenated):
        return torch_modules.Concatenated(*map(_module, layer.layers), include_input=layer.include_input)
    if isinstance(layer, Recurrent):
        return _recurrent_module(layer, dtype)
    if isinstance(layer, Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias=layer.bias, dtype=dtype)
    if isinstance(layer, Embedding):
        return nn.Embedding(layer.num_embeddings, layer.embedding_dim, dtype=dtype)
    if isinstance(layer, OneHot):
        return torch_modules.OneHot(layer.num, dtype=dtype)
    if isinstance(layer, Repeat):
        return torch_modules.Repeat(layer.steps, batch_first=layer.batch_first)
    if isinstance(layer, Dropout):
        if layer.variational:
            return torch_modules.VariationalDropout(layer.p, batch_first=layer.batch_first)
        return nn.Dropout(layer.p)
    if isinstance(layer, ActivityRegularization):  # without what acts in training
        return nn.Identity()
    if isinstance(layer, Last):
        return torch_modules.Last(bidirectional=layer.bidirectional, batch_first=layer.batch_first)
    for module, kind in _ACTIVATIONS.items():
        if isinstance(layer, kind):
            return module()
    for module, kind in _POOLING.items():
        if isinstance(layer, kind):
            return module(batch_first=layer.batch_first)
    raise ValueError(f"PyTorch has no counterpart of {type(layer).__name__}")


def _recurrent_module(layer: Recurrent, dtype: torch.dtype) -> nn.Module:
    kind = {ours: theirs for theirs, ours in _RECURRENT.items()}[type(layer)]
    options: dict[str, Any] = {"nonlinearity": layer.nonlinearity} if isinstance(layer, RNN) else {}
    if layer.num_layers > 1 and not layer.variational:  # PyTorch warns of dropout without a layer to follow
        options["dropout"] = layer.dropout
    return kind(
        layer.input_size, layer.hidden_size, layer.num_layers, bias=layer.bias, batch_first=layer.batch_first,
        bidirectional=layer.bidirectional, dtype=dtype, **options,
    )  # fmt: skip
