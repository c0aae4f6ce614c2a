"""PyTorch modules that do what the containers and layers of fastrnn do which PyTorch has no module for.

They need nothing but PyTorch: `fastrnn.interop.torch.to_module` is made of them, `from_module` knows them, and they can
be used by themselves. All names of parameters are those of the model's `state_dict()`.
"""

import torch
from torch import Tensor, nn

State = tuple["Tensor | State | None", ...] | Tensor | None


class Container(nn.Sequential):
    """Modules one after the other. Calling one gives its output alone; `run` takes and gives states besides."""

    def forward(self, x: Tensor) -> Tensor:
        """The output for `x`."""
        return self.run(x)[0]

    def run(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Output and final state; `state` in the form of fastrnn's, with tensors, or None for zeros."""
        raise NotImplementedError

    def _outputs(self, x, state):
        """The output and the state of each module in turn."""
        for module, entry in zip(self, (None,) * len(self) if state is None else state, strict=True):
            x, new = _run(module, x, entry)
            yield x, new


def _run(module, x, state):
    if isinstance(module, nn.RNNBase):
        return module(x, state)
    return module.run(x, state) if isinstance(module, Container) else (module(x), None)


class Stack(Container):
    """`fastrnn.Sequential`: an `nn.Sequential` in which a recurrent module hands on its output alone.

    The state that `run` takes and gives is a tuple with an entry a module, None for those without.
    """

    def run(self, x, state=None):
        states = []
        for y, new in self._outputs(x, state):
            x = y
            states.append(new)
        return x, tuple(states)


class Residual(Container):
    """`fastrnn.Residual`: x + module(x). The state is the module's."""

    def run(self, x, state=None):
        [(y, new)] = self._outputs(x, (state,))
        return x + y, new


class Concatenated(Container):
    """`fastrnn.Concatenated`: the outputs of all modules of a chain side by side, after the input if it is included."""

    def __init__(self, *modules: nn.Module, include_input: bool = False):
        super().__init__(*modules)
        self.include_input = include_input

    def run(self, x, state=None):
        outputs, states = zip(*self._outputs(x, state), strict=True)
        return torch.cat([x, *outputs] if self.include_input else outputs, -1), states


class OverTime(nn.Module):
    """Base of what knows which dimension is time."""

    def __init__(self, *, batch_first: bool = False):
        super().__init__()
        self.batch_first = batch_first

    @property
    def time(self) -> int:
        """The dimension of time."""
        return 1 if self.batch_first else 0

    def extra_repr(self) -> str:
        return f"batch_first={self.batch_first}"


class Last(OverTime):
    """`fastrnn.Last`: the last step of a sequence, or of both directions, halves of the features, the last output."""

    def __init__(self, *, bidirectional: bool = False, batch_first: bool = False):
        super().__init__(batch_first=batch_first)
        self.bidirectional = bidirectional

    def forward(self, x: Tensor) -> Tensor:
        """(T,B,F) → (B,F)"""
        last = x.select(self.time, -1)
        if not self.bidirectional:
            return last
        half = x.shape[-1] // 2
        return torch.cat([last[:, :half], x.select(self.time, 0)[:, half:]], -1)

    def extra_repr(self) -> str:
        return ("bidirectional=True, " if self.bidirectional else "") + super().extra_repr()


class MeanPool(OverTime):
    """`fastrnn.MeanPool`: the mean over all steps."""

    def forward(self, x: Tensor) -> Tensor:
        """(T,B,F) → (B,F)"""
        return x.mean(self.time)


class MaxPool(OverTime):
    """`fastrnn.MaxPool`: the maximum over all steps."""

    def forward(self, x: Tensor) -> Tensor:
        """(T,B,F) → (B,F)"""
        return x.amax(self.time)


class Repeat(OverTime):
    """`fastrnn.Repeat`: the same vector at each of `steps` steps."""

    def __init__(self, steps: int, *, batch_first: bool = False):
        super().__init__(batch_first=batch_first)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """(B,F) → (steps,B,F)"""
        return x.unsqueeze(self.time).repeat_interleave(self.steps, self.time)

    def extra_repr(self) -> str:
        return f"{self.steps}, {super().extra_repr()}"


class OneHot(nn.Module):
    """`fastrnn.OneHot`: one-hot vectors of integers, of a floating-point dtype."""

    def __init__(self, num: int, *, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.num, self.dtype = num, dtype

    def forward(self, x: Tensor) -> Tensor:
        """(T,B) → (T,B,num)"""
        return nn.functional.one_hot(x, self.num).to(self.dtype)

    def extra_repr(self) -> str:
        return f"{self.num}, dtype={self.dtype}"


class VariationalDropout(OverTime):
    """`fastrnn.Dropout(p, variational=True)`: drops a sequence's features at all steps or at none."""

    def __init__(self, p: float, *, batch_first: bool = False):
        super().__init__(batch_first=batch_first)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(T,B,F) or (B,F), as it comes"""
        if not self.training:
            return x
        mask = x.new_ones(x.select(self.time, 0).shape if x.dim() == 3 else x.shape)
        mask = nn.functional.dropout(mask, self.p)
        return x * (mask.unsqueeze(self.time) if x.dim() == 3 else mask)

    def extra_repr(self) -> str:
        return f"{self.p}, {super().extra_repr()}"
