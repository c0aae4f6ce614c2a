"""Optimisers on a model's flat buffers, clipping of gradients.

Arguments, defaults and rules are PyTorch's. Coefficients that are numbers, such as bias corrections, are computed in
double precision, as its single-tensor implementation does; `kernels.update` holds the rules element by element.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, finite
from .buffers import NamedArrays
from .kernels import update as kernels
from .kernels.memory import aligned_empty
from .parameters import Parameters
from .threads import get_num_threads

if TYPE_CHECKING:
    from .layers.base import Layer


def _parameters_of(model):
    parameters = getattr(model, "parameters", None)
    if not isinstance(parameters, Parameters):
        raise TypeError(f"model must be a layer or model of fastrnn, got {type(model).__name__}")
    return parameters


class _Optimizer(ABC):
    """What all optimisers share: one model, flat state arrays, the count of steps, checkpoints.

    The state arrays have the model's size and dtype and are made at the first step; a second model is refused.
    """

    _state_names: tuple[str, ...] = ()  # of the arrays that the arguments call for
    _initial = 0.0

    def __init__(self, lr, **config):
        self.lr = lr
        self._config = config
        self._steps = 0
        self._arrays: dict[str, np.ndarray] = {}
        self._parameters: Parameters | None = None

    @property
    def lr(self) -> float:
        """Learning rate, at least 0. It may be set at any time."""
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr = checks.number("lr", value, minimum=0.0)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, with the present learning rate."""
        return {"lr": self._lr, **self._config}

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.config().items())})"

    def step(self, model: Layer, factor: float = 1.0) -> None:
        """Update the parameters of `model` from its gradients, with learning rate `lr` · `factor`.

        `TypeError` if `model` is none; `ValueError` if it is not the model of the steps before, or does not fit the
        state that was loaded.
        """
        parameters = _parameters_of(model)
        lr = self._lr * checks.number("factor", factor, minimum=0.0)
        if not math.isfinite(lr):
            raise ValueError(f"factor must leave the learning rate of {self._lr:g} finite, got {factor:g}")
        self._adopt(parameters)
        with parameters.writing() as values:
            kernel, state, coefficients = self._update(values, lr, self._steps + 1)
            arrays, threads = (values, parameters.gradients, *state), get_num_threads()
            self._steps += 1  # Ctrl-C can't come between this and the kernel's end: an update is counted or not done
            kernel(arrays, coefficients, threads)

    def _adopt(self, parameters):
        """Serve this model, or refuse to."""
        if self._parameters is None:
            _check_fit(self._arrays, parameters)
        elif self._parameters is not parameters:
            raise ValueError("model must be the one of the steps before: an optimizer serves one model")
        if not self._arrays:
            size = len(self._state_names) * parameters.values.nbytes
            checks.memory(f"the state of {type(self).__name__}", size)
            arrays = {name: aligned_empty(parameters.size, parameters.dtype) for name in self._state_names}
            for array in arrays.values():
                array.fill(self._initial)
            self._arrays = arrays
        self._parameters = parameters

    @abstractmethod
    def _update(self, values, lr, step):
        """The kernel, its arrays after values and gradients, and its coefficients; `step` counts from 1.

        `values` may stand in for an array that is not used.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs: class, arguments and number of steps, and copies of the state arrays."""
        state = {"optimizer": type(self).__name__, "step": self._steps, **self.config()}
        state = {name: np.array(value) if isinstance(value, tuple) else value for name, value in state.items()}
        return {**state, **{name: array.copy() for name, array in self._arrays.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take arguments, steps and arrays from the `state_dict()` of an optimizer of the same class.

        `TypeError` or `ValueError` if something in it is missing, unknown or does not fit; then nothing is changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state_dict must be a mapping, got {type(state).__name__}")
        scalars = {"optimizer", "step", *self.config()}
        if missing := scalars - set(state):
            raise ValueError(f"state_dict does not fit: missing {', '.join(sorted(missing))}")
        if str(state["optimizer"]) != type(self).__name__:
            raise ValueError(f"optimizer must be {type(self).__name__}, got {state['optimizer']}")
        plain = {name: checks.as_array(f"state_dict's {name}", state[name]) for name in ("step", *self.config())}
        steps = plain.pop("step")[()]
        fresh = type(self)(**{name: value.tolist() for name, value in plain.items()})
        fresh._steps = checks.integer("step", steps, minimum=0)
        names = sorted(set(state) - scalars, key=str)
        if names != sorted(fresh._state_names if fresh._steps else ()):
            raise ValueError(f"state_dict must hold the arrays {fresh._state_names} after a step, got {tuple(names)}")
        fresh._arrays = {name: _aligned_copy(name, state[name]) for name in names}
        _check_fit(fresh._arrays, self._parameters or next(iter(fresh._arrays.values()), None))
        fresh._parameters = self._parameters
        self.__dict__.update(fresh.__dict__)

    def __getstate__(self):
        """Copies and pickles serve a model of their own: the first one that they are given."""
        return {**self.__dict__, "_parameters": None}

    def __setstate__(self, state):
        arrays = {name: _aligned_copy(name, array) for name, array in state["_arrays"].items()}
        self.__dict__.update(state, _arrays=arrays)


def _aligned_copy(name, value):
    array = checks.as_array(f"state_dict's {name}", value)
    if array.dtype not in checks.FLOAT_DTYPES:
        raise TypeError(f"{name} must hold float32 or float64, got dtype {array.dtype}")
    checks.shape(name, array.shape, (None,))
    copy = aligned_empty(array.size, array.dtype.newbyteorder("="))
    copy[:] = array
    return copy


def _check_fit(arrays, like):
    """Refuse state arrays of another size or dtype than `like`, the model's parameters or an array."""
    for name, array in arrays.items():
        if array.size != like.size or array.dtype != like.dtype:
            expected = f"{like.size} elements of {like.dtype}"
            raise ValueError(f"{name} must have {expected}, as the model, got {array.size} of {array.dtype}")


class SGD(_Optimizer):
    """Gradient descent: v = momentum·v + (1 - dampening)·g, with v = g at the first step; p -= lr·v.

    g includes weight_decay·p; Nesterov's form takes g + momentum·v for v. As `torch.optim.SGD`.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        super().__init__(
            lr,
            momentum=checks.number("momentum", momentum, minimum=0.0),
            dampening=checks.number("dampening", dampening),
            weight_decay=checks.number("weight_decay", weight_decay, minimum=0.0),
            nesterov=checks.flag("nesterov", nesterov),
        )
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum above 0 and dampening 0, got {momentum} and {dampening}")
        self._state_names = ("momentum_buffer",) if momentum else ()

    def _update(self, values, lr, step):
        c = self._config
        keep, feed = (c["momentum"], 1.0 - c["dampening"]) if step > 1 else (0.0, 1.0)
        coefficients = lr, c["momentum"], keep, feed, c["weight_decay"], float(c["nesterov"])
        return kernels.sgd, (self._arrays.get("momentum_buffer", values),), coefficients


class RMSprop(_Optimizer):
    """s = alpha·s + (1 - alpha)·g²; v = momentum·v + g / (√s + eps); p -= lr·v. As `torch.optim.RMSprop`.

    g includes weight_decay·p; `centered` takes s less the square of g's running mean under the root.
    """

    def __init__(
        self,
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ):
        super().__init__(
            lr,
            alpha=checks.number("alpha", alpha, minimum=0.0, maximum=1.0),
            eps=checks.number("eps", eps, minimum=0.0),
            weight_decay=checks.number("weight_decay", weight_decay, minimum=0.0),
            momentum=checks.number("momentum", momentum, minimum=0.0),
            centered=checks.flag("centered", centered),
        )
        self._state_names = ("square_avg",) + ("grad_avg",) * bool(centered) + ("momentum_buffer",) * bool(momentum)

    def _update(self, values, lr, step):
        c = self._config
        state = tuple(self._arrays.get(name, values) for name in ("square_avg", "grad_avg", "momentum_buffer"))
        alpha, momentum, centered = c["alpha"], c["momentum"], float(c["centered"])
        coefficients = lr, alpha, 1.0 - alpha, c["eps"], c["weight_decay"], momentum, centered
        return kernels.rmsprop, state, coefficients


class Adagrad(_Optimizer):
    """s += g²; p -= lr / (1 + (t - 1)·lr_decay) · g / (√s + eps) at step t = 1, 2, ... As `torch.optim.Adagrad`.

    g includes weight_decay·p; s starts at `initial_accumulator_value`.
    """

    _state_names = ("sum",)

    def __init__(
        self,
        lr: float = 1e-2,
        *,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ):
        self._initial = checks.number("initial_accumulator_value", initial_accumulator_value, minimum=0.0)
        super().__init__(
            lr,
            lr_decay=checks.number("lr_decay", lr_decay, minimum=0.0),
            weight_decay=checks.number("weight_decay", weight_decay, minimum=0.0),
            initial_accumulator_value=self._initial,
            eps=checks.number("eps", eps, minimum=0.0),
        )

    def _update(self, values, lr, step):
        c = self._config
        lr = lr / (1 + (step - 1) * c["lr_decay"])
        return kernels.adagrad, (self._arrays["sum"],), (lr, c["eps"], c["weight_decay"])


class Adam(_Optimizer):
    """m = β₁·m + (1 - β₁)·g; v = β₂·v + (1 - β₂)·g²; p -= lr·m̂ / (√v̂ + eps), with m̂ = m / (1 - β₁ᵗ), v̂ likewise.

    g includes weight_decay·p; `amsgrad` takes the largest v so far. As `torch.optim.Adam`.
    """

    _decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ):
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas must be a pair of numbers, got {checks.shown(betas)}")
        super().__init__(
            lr,
            betas=tuple(checks.number("betas", beta, minimum=0.0, below=1.0) for beta in betas),
            eps=checks.number("eps", eps, minimum=0.0),
            weight_decay=checks.number("weight_decay", weight_decay, minimum=0.0),
            amsgrad=checks.flag("amsgrad", amsgrad),
        )
        self._state_names = ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * bool(amsgrad)

    def _update(self, values, lr, step):
        c = self._config
        beta1, beta2 = c["betas"]
        step_size, root2 = lr / (1 - beta1**step), (1 - beta2**step) ** 0.5
        decay, shrink = (0.0, 1 - lr * c["weight_decay"]) if self._decoupled else (c["weight_decay"], 1.0)
        state = tuple(self._arrays.get(name, values) for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
        coefficients = step_size, 1 - beta1, beta2, 1 - beta2, root2, c["eps"], decay, shrink, float(c["amsgrad"])
        return kernels.adam, state, coefficients


class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient: p is first multiplied by 1 - lr·weight_decay.

    As `torch.optim.AdamW`.
    """

    _decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ):
        super().__init__(lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)


def check_undoable(optimizer: Any) -> None:
    """Refuse an optimizer that `LastGood` can't put back."""
    for name in ("state_dict", "load_state_dict"):
        if not callable(getattr(optimizer, name, None)):
            raise TypeError(f"optimizer must have {name}, to undo an update, got {checks.shown(optimizer)}")


def _own_arrays(optimizer):
    """The arrays of an optimizer of ours; those of another make are not known."""
    return optimizer._arrays if isinstance(optimizer, _Optimizer) else {}


def _state_arrays(model, optimizer):
    """What the state of an optimizer of any make has a number of for every parameter."""
    if isinstance(optimizer, _Optimizer):
        return optimizer._arrays
    like = model.parameters.values
    return {
        name: array
        for name, array in optimizer.state_dict().items()
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.shape == like.shape
    }


class LastGood:
    """The parameters and an optimizer's state before an update, to go back to where the update makes either infinite.

    The copies take as much memory as what they are of. Of an optimizer of another make a copy of its state dict is
    kept, for that may hold the very arrays that it works on: see `check_undoable`.
    """

    def __init__(self) -> None:
        self._copies = NamedArrays()
        self._state: Any = None  # steps and number of arrays, or the state dict

    def step(self, model: Layer, optimizer: Any, factor: float) -> finite.NonFiniteError | None:
        """The optimizer's step. Where it fails, or leaves something not finite, which is returned, all is put back."""
        self._keep(model, optimizer)
        try:
            optimizer.step(model, factor)
        except BaseException:
            self._restore(model, optimizer)
            raise
        error = self._error(model, optimizer)
        if error is not None:
            self._restore(model, optimizer)
        return error

    def _copy_of(self, name, array):
        return self._copies.array(name, array.shape, array.dtype)

    def _keep(self, model, optimizer):
        """Copy what an update changes."""
        own, arrays = isinstance(optimizer, _Optimizer), {"": model.parameters.values, **_own_arrays(optimizer)}
        self._state = (optimizer._steps, len(arrays)) if own else copy.deepcopy(optimizer.state_dict())
        for name, array in arrays.items():
            np.copyto(self._copy_of(name, array), array)

    @staticmethod
    def _error(model, optimizer):
        """What is not finite after the update, None as a rule."""
        for name, array in {"": model.parameters.values, **_state_arrays(model, optimizer)}.items():
            if not finite.is_finite(array):
                return finite.error_in_vector(model, array, f"{name} of " if name else "")
        return None

    def _restore(self, model, optimizer):
        """Go back to what `_keep` found."""
        if not isinstance(optimizer, _Optimizer):
            optimizer.load_state_dict(self._state)
        else:
            optimizer._steps, count = self._state
            if count == 1:  # there was no step before
                optimizer._arrays = {}
        with model.parameters.writing() as values:
            for name, array in {"": values, **_own_arrays(optimizer)}.items():
                np.copyto(array, self._copy_of(name, array))


def gradient_norm(model) -> float:
    """The norm of all gradients together, summed in float64."""
    return math.sqrt(kernels.sum_of_squares(_parameters_of(model).gradients, np.empty(kernels.SUMS), get_num_threads()))


def limit_gradients(model, norm: float, max_norm: float | None, max_value: float | None) -> None:
    """What `clip_gradients` does once it knows the norm of all gradients: one pass, or none if nothing is to change."""
    factor = 1.0 if max_norm is None else max_norm / (norm + 1e-6)
    if factor >= 1.0:  # NaN is not, and goes on into the gradients
        factor = 1.0
    bound = math.inf if max_value is None else max_value
    gradients, threads = (model.parameters.gradients,), get_num_threads()
    if 0.0 < factor < np.finfo(gradients[0].dtype).tiny:  # which the kernel takes for 0: in two halves
        factor = math.sqrt(factor)
        kernels.clip(gradients, (factor, math.inf), threads)
    if factor != 1.0 or bound < math.inf:
        kernels.clip(gradients, (factor, bound), threads)


def clip_gradients(model: Layer, max_norm: float | None = None, max_value: float | None = None) -> float:
    """Scale all gradients down to a norm, then clip each of them to a range; return their norm as it was.

    max_norm: above 0. Gradients are multiplied by max_norm / (norm + 1e-6) if that is below 1 (Pascanu et al. 2013).
    max_value: above 0. After that, each is clipped to [-max_value, max_value]. NaN stays.

    One pass reads the gradients, whose norm together is summed in float64, and one writes them. If the norm is not
    finite, scaling by it leaves gradients that are not finite or zero, as `torch.nn.utils.clip_grad_norm_` does.
    """
    _parameters_of(model)
    if max_norm is not None:
        max_norm = checks.number("max_norm", max_norm, above=0.0)
    if max_value is not None:
        max_value = checks.number("max_value", max_value, above=0.0)
    norm = gradient_norm(model)
    limit_gradients(model, norm, max_norm, max_value)
    return norm


def clip_grad_norm(model: Layer, max_norm: float) -> float:
    """Scale all gradients down to a norm; return the norm as it was: `clip_gradients` without a range."""
    return clip_gradients(model, checks.number("max_norm", max_norm, above=0.0))


def clip_grad_value(model: Layer, v: float) -> None:
    """Clip every gradient to [-v, v]; NaN stays. `v` is above 0."""
    gradients = _parameters_of(model).gradients
    kernels.clip((gradients,), (1.0, checks.number("v", v, above=0.0)), get_num_threads())
