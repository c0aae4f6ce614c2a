"""What all layers have in common: parameters, workspaces, and the order of calls."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks, finite, summary
from ..kernels.memory import aligned_empty
from ..parameters import Parameters, making_bytes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from ..types import Shapes, State


_FIXED = frozenset({
    "bidirectional", "bias", "dilation", "embedding_dim", "hidden_size", "in_features", "input_size", "layers",
    "nonlinearity", "num", "num_embeddings", "num_layers", "out_features", "output_nonlinearity", "output_size",
    "reset_after", "steps",
})  # fmt: skip


class Workspace:
    """Preallocated buffers of one layer for sequences up to `steps` and batches up to `batch`, reusable for ever.

    Made by `layer.workspace(T, B)`. Between a forward and a backward pass it holds what the latter needs. One thread
    uses it at a time. A copy, or one that comes out of a pickle, is empty: it holds nothing of a forward pass.
    """

    def __init__(self, layer: Layer, steps: int, batch: int):
        self.layer = layer
        self._steps = steps
        self._batch = batch
        self.record: Any = None  # what the last forward pass leaves for the backward pass, until that has taken it
        self.version: int | None = None  # the parameters' version at the forward pass
        self.repeatable = False  # whether `backward` can be called again for one forward pass, before which it is set
        self.record_stays = False  # the same, as it was at the last forward pass
        self.state_only = False  # whether `backward` leaves the parameters' gradients alone
        self.wants_dx = True  # with that, whether it gives the gradient of the input
        self.carry_factor = 1.0  # by which `backward` multiplies a state's gradient from one step to the one before
        self.penalty_scale = 0.0  # by which `backward` multiplies the gradient of `penalty`; 0 leaves it out
        self._buffers: dict[str, np.ndarray] = {}

    @property
    def steps(self) -> int:
        """The most steps that there is room for."""
        return self._steps

    @property
    def batch(self) -> int:
        """The most sequences that there is room for."""
        return self._batch

    def penalty(self) -> float:
        """What the layer adds to the loss of the last forward pass, before it is divided by the loss's denominator."""
        return 0.0

    def states(self) -> Any:
        """The states of every step of the last forward pass; None for layers without state."""
        return None

    def gates(self) -> Any:
        """The gates of every step of the last forward pass; None for layers without state."""
        return None

    def buffer(self, name: str, shape: tuple[int, ...], rows: int | None = None) -> np.ndarray:
        """An array of `shape`, contents undefined, in the memory that `name` had before.

        `rows`, T·B unless given, is the most that there can be of the last dimension.
        """
        size = (self.steps * self.batch if rows is None else rows) * shape[-1]
        dtype, flat = self.layer.dtype, self._buffers.get(name)
        if flat is None or flat.size < size or flat.dtype != dtype:  # features and dtype may be known at a call only
            checks.memory(f"the workspace of {type(self.layer).__name__}", size * dtype.itemsize)
            flat = self._buffers[name] = aligned_empty(size, dtype)
        return flat[: math.prod(shape)].reshape(shape)

    def __reduce__(self):
        return _new_workspace, (self.layer, self.steps, self.batch)

    def __repr__(self):
        return f"<workspace of {type(self.layer).__name__} for T ≤ {self.steps}, B ≤ {self.batch}>"


def _new_workspace(layer, steps, batch):
    return layer.workspace(steps, batch)


class Layer(ABC):
    """Base of all layers. Subclasses give the `_…` methods, which take checked arguments.

    Shapes: `x` is (T,B,…), or (B,T,…) with `batch_first`. All arrays come out in the layer's `dtype`.
    """

    _rng: np.random.Generator | None = None  # the generator of dropout masks, where there are any
    batch_first = False
    _no_step: str | None = None  # why the layer has no single step, if so

    def __init__(self, shapes: Mapping[str, tuple[int, ...]] | Shapes, dtype: DTypeLike):
        dtype = checks.float_dtype(dtype)
        shapes = dict(shapes)
        size = sum(math.prod(map(int, shape)) for shape in shapes.values())
        checks.memory(f"{type(self).__name__} with {size:,} parameters", size * making_bytes(dtype))
        self.parameters = Parameters(shapes, dtype)
        self.owner: Layer | None = None  # the model the layer belongs to

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and name in self.__dict__:  # parameters and packed weights have it, too
            raise AttributeError(f"{name} of {type(self).__name__} can't be changed: make another layer")
        object.__setattr__(self, name, value)

    @classmethod
    def parameter_shapes(cls, *_: Any, **config: Any) -> Shapes:
        """Name and shape of every parameter for these constructor arguments, one by one; nothing is allocated."""
        return ()

    @property
    def stateful(self) -> bool:
        """Whether the layer has a recurrent state."""
        return False

    @property
    def keeps_steps(self) -> bool:
        """Whether each step of the output belongs to that step of the input, with its `lengths` and `resets`."""
        return True

    # The public calls.

    def forward(
        self,
        x: ArrayLike,
        state: State = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        workspace: Workspace | None = None,
        out: np.ndarray | None = None,
        nonfinite: str = finite.IGNORE,
    ) -> tuple[np.ndarray, State]:
        """Run the layer over a batch of sequences.

        x: input, (T,B,I) floats (Embedding, OneHot: (T,B) integers), batch first if the layer is. A C-contiguous array
            of the layer's dtype (of int64 for integers) is read where it is, also a read-only or memory-mapped one; any
            other is copied into one first. It is never changed.
        state: initial state, None for zeros; layers without state take None alone.
        lengths: (B,) integers, 1 ≤ n ≤ T, of right-padded sequences: outputs past the end are 0, padding is not read.
        resets: (T,B) booleans, batch first if the layer is: where true, another sequence begins with that step, and the
            state before it is what no `state` stands for, such as zeros. Layers without state take no notice.
        workspace: keeps what `backward` needs and applies dropout; `y` and `state` may then be views of it.
        out: an array of y's shape and the layer's dtype that `y` is written into, and returned as; it may be `x`.
            Without a workspace, and if it is C-contiguous and shares no memory with another argument, no other array of
            its size is made; else `y` is copied into it at the end.
        nonfinite: what to do about NaN and infinity. "ignore" lets them through by the rules of floating-point numbers;
            "raise" looks at parameters, `state` and `x` before the pass and at every layer's output and state after it,
            and raises a `NonFiniteError` that names the first place. Past a sequence's end nothing is looked at.

        Returns `(y, state)`. Raises TypeError or ValueError before anything is changed if an argument does not fit. If
        it is the output that is not finite, `out` has been written, and `workspace` holds no forward pass.
        """
        if nonfinite != finite.IGNORE:
            options = {"lengths": lengths, "resets": resets, "workspace": workspace, "out": out}
            return finite.watched(nonfinite, self, self.forward, x, state, **options)
        x = self._check_input(x)
        steps, batch = self._extent(x)
        if workspace is not None:
            self._check_workspace(workspace)
            if steps > workspace.steps or batch > workspace.batch:
                raise ValueError(
                    f"workspace was made for T ≤ {workspace.steps}, B ≤ {workspace.batch}, x has T={steps}, B={batch}"
                )
        lengths = checks.sequence_lengths(lengths, steps, batch)
        self._check_values("x", x, lengths)
        resets = self._check_resets(resets, steps, batch)
        given, state = state, self._check_state("state", state, batch)
        if out is not None:
            checks.destination("out", out, self.dtype, self._shape_after(x))
        watch = finite.current()
        if watch is None:
            return self._take_forward(x, state, lengths, resets, workspace, out)
        try:
            watch.begin(self, "x", x, given, lengths)
            result = self._take_forward(x, state, lengths, resets, workspace, out)
            watch.end(self, *result)
        except finite.NonFiniteError:
            if workspace is not None:
                workspace.record = None
            raise
        return result

    __call__ = forward

    def _take_forward(self, x, state, lengths, resets, workspace, out):
        """`forward` with checked arguments."""
        if workspace is None:
            target = None if out is None else _kernel_target(out, x, lengths, resets, state)
            self._check_room(x, target is not None)
            y, state = self._infer(x, state, lengths, resets, target)
            if out is None:
                return y, state
            if y is not target:
                np.copyto(out, y)
            return out, state
        workspace.record = None
        workspace.record_stays = workspace.repeatable
        y, state = self._forward(x, state, lengths, resets, workspace)
        workspace.version = self.parameters.version
        if out is None:
            return y, state
        if _shares_memory(out, state):  # a state that the workspace gave out before
            state = copy.deepcopy(state)
        np.copyto(out, y)
        return out, state

    def backward(self, dy: ArrayLike, dstate: State = None, *, workspace: Workspace) -> tuple[np.ndarray | None, State]:
        """Take gradients back through the forward pass recorded in `workspace`.

        dy: gradient of the loss with respect to `y`, in its shape; past a sequence's end it is not read.
        dstate: the same for the final state, None for zeros.

        Returns `(dx, dstate)`: the gradients with respect to the input (None for integer input) and to the initial
        state. Gradients of the parameters are added to the layer's own. ValueError without a recorded forward pass, or
        when the parameters were changed after it.
        """
        self._check_workspace(workspace)
        if workspace.record is None:
            raise ValueError("backward needs a forward pass recorded in workspace, and takes it only once")
        if workspace.version != self.parameters.version:
            raise ValueError("the parameters were changed after the forward pass recorded in workspace")
        dy, dstate = self._check_gradients(dy, dstate, workspace)
        result = self._backward(dy, dstate, workspace)
        if not workspace.record_stays:
            workspace.record = None
        return result

    def step(
        self,
        x_t: ArrayLike,
        state: State = None,
        *,
        resets: ArrayLike | None = None,
        out: np.ndarray | None = None,
        nonfinite: str = finite.IGNORE,
    ) -> tuple[np.ndarray, State]:
        """One time step, for streaming.

        x_t: (B,I) floats or (I,) for a single stream (Embedding, OneHot: (B,) integers or one integer).
        state: as in `forward`, without the batch dimension for a single stream.
        resets: (B,) booleans, or one: where true, a new sequence begins, as in `forward`.
        out: an array of y_t's shape and the layer's dtype that `y_t` is copied into, and returned as; it may be `x_t`.
        nonfinite: as in `forward`.

        Returns `(y_t, state)`, but for `out` fresh arrays; the values are those of `forward` step by step. ValueError
        of a layer that takes or makes whole sequences.
        """
        if self._no_step:
            raise ValueError(f"{self._no_step}: it has no single step")
        if nonfinite != finite.IGNORE:
            return finite.watched(nonfinite, self, self.step, x_t, state, resets=resets, out=out)
        x_t = checks.as_array("x_t", x_t)
        dimensions = self._step_dimensions(x_t[np.newaxis])
        single = x_t.ndim == dimensions - 1
        if single:
            x_t = x_t[np.newaxis]
            state = self._with_batch("state", state)
        elif x_t.ndim != dimensions:
            raise ValueError(f"x_t must have {dimensions - 1} or {dimensions} dimensions, got {x_t.ndim}")
        x_t = self._check_step_input(x_t)
        if resets is not None:
            resets = checks.boolean_array("resets", resets, () if single else x_t.shape[:1]).reshape(-1)
        given, state = state, self._check_state("state", state, x_t.shape[0])
        watch = finite.current()
        if watch is not None:
            watch.begin(self, "x_t", x_t, given, None)
        if state is not None and resets is not None and resets.any():
            state = self._begin_anew(state, resets)
        y, state = self._step(x_t, state)
        if watch is not None:
            watch.end(self, y, state)
        if single:
            y, state = y[0], self._without_batch(state)
        return (y, state) if out is None else (put_into(out, y), state)

    def workspace(self, T: int, B: int) -> Workspace:
        """Buffers for sequences of up to `T` steps in batches of up to `B`: see `Workspace`."""
        steps, batch = checks.integer("T", T, minimum=1), checks.integer("B", B, minimum=1)
        checks.memory(f"the workspace for T={steps}, B={batch}", self._workspace_bytes(steps, batch))
        return self._make_workspace(steps, batch)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters, under PyTorch's names and in its layout."""
        return self.parameters.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike]) -> None:
        """Take all parameters from `state_dict`, names -> arrays; nothing changes unless all of it fits."""
        self.parameters.load_state_dict(state_dict)

    def grad_dict(self) -> dict[str, np.ndarray]:
        """Copies of all gradients, named and laid out as in `state_dict`."""
        return self.parameters.grad_dict()

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self.parameters.zero_grad()

    def parameters_to_vector(self) -> np.ndarray:
        """All parameters in one fresh 1-D array, in the order of `state_dict`."""
        return self.parameters.values.copy()

    def vector_to_parameters(self, v: ArrayLike) -> None:
        """Take all parameters from a 1-D array in the order of `parameters_to_vector`."""
        if self.parameters.size == 0:
            raise ValueError(f"{type(self).__name__} has no parameters")
        vector = checks.float_array("v", v, self.dtype, (self.parameters.size,))
        with self.parameters.writing() as values:
            values[:] = vector

    def gradients_to_vector(self) -> np.ndarray:
        """All gradients in one fresh 1-D array, in the order of `parameters_to_vector`."""
        return self.parameters.gradients.copy()

    @property
    def num_parameters(self) -> int:
        """The number of trainable numbers."""
        return self.parameters.size

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of parameters, outputs and gradients."""
        return self.parameters.dtype

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments that fix the architecture, as JSON can hold them."""

    def __repr__(self):
        return summary.call(self)

    def __copy__(self):
        return copy.deepcopy(self)

    def __reduce__(self):
        """Copies, shallow ones too, and pickles are layers of their own, outside any model."""
        numbers = self.parameters.values, self.parameters.gradients
        return _rebuild, (type(self), self.config(), self.batch_first, *numbers, self._rng)

    # What subclasses give or refine. Arguments are checked.

    def _input_features(self):
        """The number of features the layer takes; None for any."""
        return None

    @abstractmethod
    def _check_input(self, x: Any) -> np.ndarray:
        """`x` as the kernels take it, or an error."""

    @abstractmethod
    def _check_step_input(self, x_t: np.ndarray) -> np.ndarray: ...

    def _check_room(self, x, given):
        """MemoryError where the output of `x`, unless there is an array `given` for it, needs more memory than is."""
        return

    def _shape_after(self, x):
        """The shape of the output for a checked input."""
        steps, batch = self._extent(x)
        real = x.dtype.kind == "f"
        steps = self._output_steps(None if real and x.ndim == 2 else steps)
        features = self._output_features(x.shape[-1] if real else None)
        if steps is None:
            return batch, features
        return (batch, steps, features) if self.batch_first else (steps, batch, features)

    def _output_steps(self, steps):
        """Steps of the output for `steps` of the input, None for no time dimension; ValueError if that does not fit."""
        if steps is None and (self.stateful or self._step_dimensions() == 1):  # tokens come in sequences
            raise ValueError("it takes sequences: there are none without a time dimension, or after pooling")
        return steps

    def _named_outputs(self, y, index):
        """What an output `y`, of layer `index` of a stack, consists of: name, part, whether it comes of the reverse
        direction."""
        return [("the output", y, False)]

    def _check_values(self, name, x, lengths):
        """Refuse values in an input of the right shape and dtype; any float will do."""
        return

    def _step_dimensions(self, x=None):
        """Dimensions of a batch of inputs of one time step: of those like `x`, where there are several kinds."""
        return 2

    def _extent(self, x):
        """T and B of a checked input; T is 1 where it has no time dimension."""
        if x.ndim < self._step_dimensions(x) + 1:
            return 1, x.shape[0]
        return (x.shape[1], x.shape[0]) if self.batch_first else (x.shape[0], x.shape[1])

    def _check_state(self, name, state, batch):
        if state is not None:
            raise TypeError(f"{name} must be None for {type(self).__name__}, got {type(state).__name__}")

    def _given_state(self, name, state, batch):
        """`state`, checked, as `forward` takes and gives it: arrays of the layer's dtype, whatever it came as."""
        return self._check_state(name, state, batch)

    def _check_resets(self, resets, steps, batch):
        """`resets` as booleans (T,B), or in the layer's own order; None if nothing is reset."""
        if resets is None:
            return None
        resets = checks.boolean_array("resets", resets, (batch, steps) if self.batch_first else (steps, batch))
        return resets if resets.any() else None

    def _begin_anew(self, state, resets):
        """A checked state in which the sequences of `resets` (B,) have the state that a new sequence begins with."""
        return state

    def _with_batch(self, name, state):
        return state

    def _without_batch(self, state):
        return state

    def _add_initial_gradient(self, dstate):
        """Add the gradient of initial states to that of the learned one, where there is one."""
        return

    def _states_before(self, workspace, steps, rows):
        """The state before each of the pairs of a step and a batch index, arrays (n,), as that of a batch of n."""
        return

    def _check_workspace(self, workspace):
        if not isinstance(workspace, Workspace):
            raise TypeError(f"workspace must come from layer.workspace(), got {type(workspace).__name__}")
        if workspace.layer is not self:
            raise ValueError("workspace was made by another layer")

    def _check_gradients(self, dy, dstate, workspace):
        """`dy` and `dstate` in the shapes of the recorded forward pass's results."""
        shape = workspace.record.output_shape
        dy = checks.float_array("dy", dy, self.dtype, shape)
        return dy, self._check_state("dstate", dstate, workspace.record.batch)

    def _inference_bytes(self, steps, batch):
        """About the bytes that inference takes beside its input and output."""
        return 0

    @abstractmethod
    def _workspace_bytes(self, steps, batch):
        """About the bytes a workspace takes."""

    @abstractmethod
    def _make_workspace(self, steps, batch): ...

    @abstractmethod
    def _infer(self, x, state, lengths, resets, out=None):
        """Output and final state. `out`: where the output may go, contiguous, sharing no memory with the arguments."""

    @abstractmethod
    def _forward(self, x, state, lengths, resets, workspace): ...

    @abstractmethod
    def _backward(self, dy, dstate, workspace): ...

    @abstractmethod
    def _step(self, x_t, state): ...

    @abstractmethod
    def _output_features(self, features):
        """Features of the output for `features` of the input (None: not known); ValueError if they don't fit."""

    def _silenced(self):
        """A copy that computes with a workspace what the layer computes without one."""
        layer = copy.deepcopy(self)
        layer._silence()
        return layer

    def _silence(self):
        """Have no dropout and no noise any more, but what they come to at inference."""
        return

    def _generators(self):
        """The random generators that a training pass draws from."""
        return [] if self._rng is None else [self._rng]


def _rebuild(kind, config, batch_first, values, gradients, generator):
    layer = kind(**config)
    layer.batch_first = batch_first
    with layer.parameters.writing() as own:
        own[:] = values
    layer.parameters.gradients[:] = gradients
    layer._rng = generator  # one that layers share comes here as one
    return layer


def check_model(model: Any) -> None:
    """`TypeError` for what is no layer or model of fastrnn."""
    if not isinstance(model, Layer):
        raise TypeError(f"model must be a layer or model of fastrnn, got {type(model).__name__}")


def put_into(out: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The caller's array `out` with the output `y` copied into it."""
    np.copyto(checks.destination("out", out, y.dtype, y.shape), y)
    return out


def _kernel_target(out, *arguments):
    """`out` as an array for kernels to write while they read the checked `arguments`; None where that can't be."""
    if not (out.flags.c_contiguous and out.flags.aligned) or _shares_memory(out, arguments):
        return None
    return out.view(np.ndarray)  # of a subclass such as a memory-mapped one, too


def _shares_memory(array, others):
    """Whether `array` may share memory with one of `others`: an array, None, or a sequence of such as a state is."""
    if others is None:
        return False
    if isinstance(others, np.ndarray):
        return np.may_share_memory(array, others)
    for other in others:
        if _shares_memory(array, other):
            return True
    return False


def apart(array: np.ndarray, *buffers: np.ndarray) -> np.ndarray:
    """`array`, or a copy where it shares memory with a buffer that the call writes."""
    if array.base is not None:
        for buffer in buffers:
            if np.may_share_memory(array, buffer):
                return array.copy()
    return array
