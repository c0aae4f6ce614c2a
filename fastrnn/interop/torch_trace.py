"""What a module of PyTorch's does between its layers, seen by running it once.

In place of a layer's output go random numbers, a new variable of autograd's. What then comes to the next layer has a
graph of operations that goes back to just these variables. An operation is recognised by its name in the graph, and by
what it made of the numbers; nothing is overlooked, for everything leaves a node. One run sees one branch of an `if`, so
that numbers may not leave their tensors between the layers, and a second run has other sizes.
"""

import contextlib
import functools
import itertools
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..layers import Last, MaxPool, MeanPool, ReLU, Sigmoid, Tanh
from ..layers.base import Layer

_SIZES, _OTHER_SIZES = (5, 3), (7, 4)  # steps and batch of the inputs that are made up
# Nodes of operations that move numbers, or some of them, and change none.
_MOVES = {
    "Alias", "AsStrided", "Clone", "Expand", "Index", "IndexSelect", "Permute", "ReshapeAlias", "Select", "Slice",
    "Split", "SplitWithSizes", "Squeeze", "T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
_JOIN = "Cat"
# Methods that give a tensor's numbers without an operation of PyTorch's.
_WAYS_OUT = {"numpy", "tolist", "__array__", "__dlpack__", "storage", "untyped_storage", "data_ptr"}
_ELEMENTWISE = {"Relu": ReLU, "Tanh": Tanh, "Sigmoid": Sigmoid}
_OVER_TIME = {"Mean": MeanPool, "Max": MaxPool, "Amax": MaxPool}
_LAST_OF_BOTH = functools.partial(Last, bidirectional=True)


def _last_of_both(x, time):
    half = x.shape[-1] // 2
    return torch.cat([x.select(time, -1)[:, :half], x.select(time, 0)[:, half:]], -1)


_COMPUTE = {
    ReLU: lambda x, time: torch.relu(x),
    Tanh: lambda x, time: torch.tanh(x),
    Sigmoid: lambda x, time: torch.sigmoid(x),
    Last: lambda x, time: x.select(time, -1),
    _LAST_OF_BOTH: _last_of_both,
    MeanPool: lambda x, time: x.mean(time),
    MaxPool: lambda x, time: x.amax(time),
}


class _Unclear(ValueError):
    def __init__(self, problem):
        super().__init__(
            f'{problem}: pass layers=, such as ["lstm", fastrnn.Last(), "head"], to say what shall be computed'
        )


def trace(module: nn.Module, leaves: dict[str, nn.Module], example: Any, batch_first: bool) -> list[str | Layer]:
    """Names of `leaves` in the order of their calls, with layers that stand for what is done in between.

    `ValueError` if that can't be said: the caller is told to pass `layers`.
    """
    order = _first_traced(module, leaves, _arguments(leaves, example, batch_first, _SIZES), batch_first)
    for name, leaf in leaves.items():
        if name not in order:
            raise _Unclear(f"{name!r}, {type(leaf).__name__}, is not used when the module is run")
    if example is None:  # sizes are of no account to layers of fastrnn: `y[4]` is no last step
        others = _arguments(leaves, None, batch_first, _OTHER_SIZES)
        if _kinds(_first_traced(module, leaves, others, batch_first)) != _kinds(order):
            raise _Unclear(f"{type(module).__name__} does not do the same with another length or batch")
    return order


def _first_traced(module, leaves, candidates, batch_first):
    """The layers of a run with the first of these arguments that the module can be run with."""
    failed = None
    for arguments in candidates:
        try:
            return _traced(module, leaves, arguments, batch_first)
        except _CannotRun as error:
            failed = failed or error
    assert failed is not None
    raise _Unclear(f"{failed}; pass another one as example=, or") from failed


def _kinds(order):
    return [item if isinstance(item, str) else type(item) for item in order]


class _CannotRun(Exception):
    pass


def _traced(module, leaves, arguments, batch_first):
    """The layers of a run with these arguments."""
    recording = _Recording(1 if batch_first else 0)
    with contextlib.ExitStack() as stack:
        for part in module.modules():
            stack.callback(setattr, part, "training", part.training)
        for name, leaf in leaves.items():
            stack.callback(leaf.register_forward_pre_hook(recording.before(name), with_kwargs=True).remove)
            stack.callback(leaf.register_forward_hook(recording.after(name)).remove)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        module.eval()
        x = recording.hand_on("the input", arguments[0])
        watch = recording.watch = _Watch(type(module).__name__)
        try:
            with _WatchFunctions(watch), watch:
                result = module(x, *arguments[1:])
        except Exception as error:  # a module of the caller's may raise anything
            if isinstance(error, _Unclear) or watch.refusal:
                raise watch.refusal or error from None
            raise _CannotRun(
                f"{type(module).__name__} can't be run on an input of shape {tuple(arguments[0].shape)} and dtype "
                f"{arguments[0].dtype} ({type(error).__name__}: {error})"
            ) from error
    if watch.refusal:  # the module has caught it
        raise watch.refusal
    if isinstance(result, (tuple, list)) and result:
        result = result[0]
    if not isinstance(result, Tensor):
        raise _Unclear(f"{type(module).__name__} returns {type(result).__name__}, not an output")
    recording.connect(result, "the output")
    return recording.order


class _Watch(TorchDispatchMode):
    """Refuses operations that tell Python what numbers there are in tensors, or how many are of some kind.

    place: the module after which the run is, outside of any that is a layer; None within these, which may do so.
    refusal: the first error, which the module's own code may turn into another.
    """

    def __init__(self, name):
        super().__init__()
        self._name = name
        self.place: str | None = "the input"
        self.refusal: _Unclear | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func.overloadpacket is not torch.ops.aten.index or any(t.dtype == torch.bool for t in _tensors(args[1]))
        if torch.Tag.data_dependent_output in func.tags or (torch.Tag.dynamic_output_shape in func.tags and masks):
            name = func.overloadpacket.__name__
            self.refuse("item" if name == "_local_scalar_dense" else name)
        return func(*args, **(kwargs or {}))

    def refuse(self, operation):
        if self.place is not None:
            self.refusal = self.refusal or _Unclear(
                f"what is computed is decided by the data: {self._name}, after {self.place}, takes numbers out of a "
                f"tensor ({operation})"
            )
            raise self.refusal


class _WatchFunctions(TorchFunctionMode):
    """Lets `watch` refuse `_WAYS_OUT`."""

    def __init__(self, watch):
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in _WAYS_OUT:
            self._watch.refuse(name)
        return func(*args, **(kwargs or {}))


def _arguments(leaves, example, batch_first, sizes):
    """What the module may be called with, the likeliest first; made up in these `_SIZES` if there is no example."""
    if example is None:
        return [(x,) for x in _made_up(leaves.values(), batch_first, *sizes)]
    arguments = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    if not arguments or not isinstance(arguments[0], Tensor):
        raise TypeError("example must be a tensor, or a tuple of arguments, the first of which is one")
    return [arguments]


def _made_up(leaves, batch_first, steps, batch):
    """Inputs for those leaves that take a certain one."""
    parameter = next((p for leaf in leaves for p in leaf.parameters()), torch.zeros(()))
    like = {"dtype": parameter.dtype, "device": parameter.device}
    lead = (batch, steps) if batch_first else (steps, batch)
    for leaf in leaves:
        count = getattr(leaf, "num_embeddings", getattr(leaf, "num", None))  # of Embedding, of OneHot
        if count is not None:  # tokens come first in any model of fastrnn
            yield torch.arange(steps * batch, device=like["device"]).reshape(lead) % count
            return
    widths = [getattr(leaf, "input_size", getattr(leaf, "in_features", None)) for leaf in leaves]
    for width in dict.fromkeys(width for width in widths if width is not None):
        yield torch.zeros(*lead, width, **like)
        yield torch.zeros(batch, width, **like)
    if not any(widths):
        yield torch.zeros(*lead, 4, **like)


class _Recording:
    """The calls of leaves during a run, and what is done between them."""

    def __init__(self, time):
        self.time = time
        self.order = []  # names of leaves, and layers
        self.watch = None  # during the run
        self._generator = torch.Generator().manual_seed(0)
        self._handed = []  # what the last leaf has given, its output first
        self._giver = ""

    def hand_on(self, giver, given, leaf=None):
        """What goes on instead of `given`, tensors or a tuple with them, from `giver`, the module `leaf` or none."""
        self._handed, self._giver = [], giver
        variables = self._variables(given)
        if isinstance(leaf, nn.RNNBase):
            self._set_final_state(leaf, *self._handed[:2])
        elif leaf is None:
            self._pad(self._handed[0])
        return _clones(variables)

    def _variables(self, given):
        if isinstance(given, (tuple, list)):
            return tuple([self._variables(part) for part in given])
        if given.is_floating_point():
            numbers = torch.randn(given.shape, generator=self._generator, dtype=given.dtype)
            given = numbers.to(given.device).requires_grad_()
        self._handed.append(given)
        return given

    @torch.no_grad()
    def _set_final_state(self, leaf, y, h):
        """The final state of the last layer's directions is a step of their output, as it has to be."""
        for direction, part in enumerate(y.chunk(2 if leaf.bidirectional else 1, -1)):
            h[(-2 if leaf.bidirectional else -1) + direction] = part.select(self.time, 0 if direction else -1)

    @torch.no_grad()
    def _pad(self, x):
        """The first sequence ends with zeros, as padding does: who looks for the last step before it finds another."""
        if x.is_floating_point() and x.dim() == 3:
            x.select(self.time, -1)[0] = 0

    def before(self, name):
        """The hook for the call of leaf `name`."""

        def hook(leaf, arguments, options):
            self.watch.place = None
            place = f"{name!r}, {type(leaf).__name__},"
            if name in self.order:
                raise _Unclear(f"{place} is called more than once")
            options = dict(options)
            x, *rest = arguments or (options.pop("input", None),)
            if isinstance(x, PackedSequence):
                raise _Unclear(f"{place} takes packed sequences, for which layers of fastrnn have lengths=")
            if isinstance(x, tuple):  # an nn.Sequential hands on a recurrent layer's state, too
                x = x[0]
            for state in _tensors((rest, options)):
                if state.any():
                    raise _Unclear(f"{place} begins with a state that is not zero")
            self.connect(x, repr(name))
            self.order.append(name)
            return (x, *rest), options

        return hook

    def after(self, name):
        """The hook for the result of leaf `name`."""

        def hook(leaf, arguments, result):
            handed = self.hand_on(repr(name), result, leaf)
            self.watch.place = repr(name)
            return handed

        return hook

    def connect(self, x, taker):
        """Add the layers that stand for what was done to what was handed on, until it became `x`, which `taker` takes.

        `_Unclear` if there are none.
        """
        between = f"between {self._giver} and {taker}"
        output = self._handed[0]
        if not output.is_floating_point():
            if not isinstance(x, Tensor) or x.shape != output.shape or not torch.equal(x.to(output.dtype), output):
                raise _Unclear(f"{between} something is done to the integers")
            return
        operations = _operations(x, self._handed, between)
        for layers in _possible(operations, output.dim()):
            value = output.detach()
            for layer in layers:
                value = _COMPUTE[layer](value, self.time)
            if value.shape == x.shape and torch.allclose(value, x, rtol=1e-5, atol=1e-7):
                self.order += [layer() for layer in layers]
                return
        if _JOIN in operations:
            raise _joined(between, _JOIN)
        done = ", ".join(operations[1:])  # the first is our own copy
        raise _Unclear(f"{between} is done what no layer of fastrnn does ({done})")


def _clones(variables):
    """Copies, which may be written to."""
    return tuple(map(_clones, variables)) if isinstance(variables, tuple) else variables.clone()


def _tensors(values):
    """The tensors in tuples and dicts of them and other things."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)


def _joined(between, name):
    return _Unclear(f"{between} several things are joined ({name})")


def _operations(x, variables, between):
    """The names of the operations that made `x` of one of the `variables`, in their order.

    What is joined of two, each of them numbers that were only moved, comes first, after two names that say so.
    """
    return _operations_at(x.grad_fn if isinstance(x, Tensor) else None, variables, between)


def _operations_at(node, variables, between):
    names = []
    while node is not None and not hasattr(node, "variable"):
        names.insert(0, re.sub(r"Backward\d*$", "", node.name()))
        following = [other for other, _ in node.next_functions if other is not None]
        if len(following) > 1:
            pair = len(following) == 2 and names[0] == _JOIN
            if pair and all(_MOVES.issuperset(_operations_at(part, variables, between)) for part in following):
                return ["Clone", *names]
            raise _joined(between, names[0])
        node = following[0] if following else None
    if node is None or not any(node.variable is variable for variable in variables):
        raise _Unclear(f"{between} there is no way: something else comes in")
    return names


def _possible(operations, dimensions):
    """Lists of the classes of layers that these operations on a tensor of so many dimensions may come to."""
    ways = []  # of each operation, or run of moves; None for no layer
    for moves, run in itertools.groupby(operations, lambda name: name in _MOVES):
        if moves:
            ways.append((None, Last, _LAST_OF_BOTH))
            continue
        for name in run:
            if name == _JOIN:
                ways.append((_LAST_OF_BOTH,))
                continue
            if name not in _ELEMENTWISE and name not in _OVER_TIME:
                return
            ways.append((_ELEMENTWISE[name],) if name in _ELEMENTWISE else (_OVER_TIME[name],))
    for choice in itertools.product(*ways):
        layers = [layer for layer in choice if layer is not None]
        if sum(layer in (Last, _LAST_OF_BOTH, MeanPool, MaxPool) for layer in layers) <= (dimensions == 3):
            yield layers
