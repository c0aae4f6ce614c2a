"""`gradcheck`: analytic gradients against central differences."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import checks
from ..bptt import Buffers, Full, Run, check_loss, map_state
from ..layers.initial_state import ZEROS
from ..model import layers_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..layers.base import Layer
    from ..types import Loss, State

_REFINEMENTS = (1, 10, 100)  # divisors of eps


@dataclass(frozen=True)
class GradcheckReport:
    """What `gradcheck` found. True as a condition if everything agreed.

    errors: error of each tensor by name: parameters, "x", and "state" with an index for each of its arrays.
    checked: number of elements checked of each tensor.
    """

    errors: dict[str, float]
    checked: dict[str, int]
    tolerance: float

    @property
    def max_error(self) -> float:
        """The largest error of all tensors, NaN if any is."""
        return float(np.max(list(self.errors.values())))

    @property
    def ok(self) -> bool:
        """Whether no error is above the tolerance."""
        return self.max_error <= self.tolerance

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        width = max(map(len, self.errors))
        lines = [
            f"  {name:{width}}  {error:8.1e}  of {self.checked[name]} elements"
            + ("" if error <= self.tolerance else "  WRONG")
            for name, error in self.errors.items()
        ]
        verdict = "agree with" if self.ok else "DIFFER from"
        head = f"gradients {verdict} central differences: {self.max_error:.1e}, tolerance {self.tolerance:.1e}"
        return "\n".join([head, *lines])


def gradcheck(
    model: Layer,
    loss: Loss,
    x: ArrayLike,
    targets: ArrayLike,
    state: State = None,
    *,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    eps: float = 1e-3,
    tolerance: float = 1e-7,
    max_elements: int | None = 1000,
    seed: int = 0,
) -> GradcheckReport:
    """Compare the gradients of a float64 model with central differences of its loss.

    x, targets, state, lengths, resets, mask: as for `bptt.Full().gradients`, the gradients that are checked: those of
        all parameters, of `x` if it is real-valued, and of the initial state, also where it is None for zeros.
    eps: step of the five-point difference [8 (L(+eps) − L(−eps)) − (L(+2 eps) − L(−2 eps))] / 12 eps, whose own error
        is eps⁴ L⁽⁵⁾ / 30 and rounding. Where it disagrees, a tenth and a hundredth of the step are tried: the kink of
        a ReLU may lie within it. At a kink itself no difference is a gradient.
    tolerance: largest error that is accepted. The error of a tensor is max |analytic − numeric| / max |analytic|, with
        the divisor no smaller than what rounding of the loss lets differences resolve to the tolerance; it is NaN if
        any element of the analytic gradient, drawn or not, or the loss is not finite.
    max_elements: of a larger tensor that many elements are checked, drawn with `seed`; None for all.

    Dropout is on, with the masks that training would draw next. Parameters, gradients and random generators are left as
    they were found, bit for bit. Other threads must leave the model alone meanwhile. ValueError for a float32 model;
    TypeError or ValueError if an argument does not fit.
    """
    Full().check(model)
    check_loss(loss)
    if model.dtype != np.float64:
        raise ValueError(f"gradcheck needs a model of dtype float64, got {model.dtype}")
    eps, tolerance = checks.number("eps", eps, above=0), checks.number("tolerance", tolerance, above=0)
    if max_elements is not None:
        max_elements = checks.integer("max_elements", max_elements, minimum=1)
    rng = np.random.default_rng(checks.integer("seed", seed, minimum=0))
    x, state = _copy("x", x), map_state(lambda part: _copy("state", part), state)
    buffers = Buffers()
    with _unchanged(model) as rewind:

        def start():
            rewind()
            return Run(model, loss, buffers, x, targets, state, lengths, mask, resets=resets, joint=True)

        def evaluate():
            model.parameters.changed()
            return start().evaluate(training=True)

        run = start()
        model.zero_grad()
        run.segment(0, run.steps)
        rounding = 8 * float(np.finfo(np.float64).eps) * abs(run.value) / eps
        if state is None and _begins_with_zeros(model):
            state = map_state(np.zeros_like, run.dstate)
        errors, checked = {}, {}
        for name, tensor, analytic in _tensors(model, run, x, state):
            every = max_elements is None or tensor.size <= max_elements
            indices = range(tensor.size) if every else rng.choice(tensor.size, max_elements, replace=False)
            scale = float(np.maximum(rounding / tolerance, np.max(np.abs(analytic)))) or 1.0  # NaN stays
            if math.isfinite(scale):
                errors[name] = _largest_error(evaluate, tensor, analytic, indices, eps, tolerance * scale) / scale
            else:  # in an element that may not be drawn, or in the loss
                errors[name] = math.nan
            checked[name] = len(indices)
    return GradcheckReport(errors, checked, tolerance)


@contextlib.contextmanager
def _unchanged(model):
    """Put parameters, gradients and random generators of `model` back in the end, the generators on call as well."""
    generators = model._generators()
    random = [generator.bit_generator.state for generator in generators]
    values, gradients = model.parameters_to_vector(), model.gradients_to_vector()

    def rewind():
        for generator, state in zip(generators, random, strict=True):
            generator.bit_generator.state = state

    try:
        yield rewind
    finally:
        rewind()
        with model.parameters.writing() as own:
            own[:] = values
        model.parameters.gradients[:] = gradients


def _begins_with_zeros(model):
    """Whether no state is one of zeros, rather than learned or drawn."""
    return all(getattr(layer, "initial_state", ZEROS) == ZEROS for layer in layers_of(model))


def _copy(name, value):
    """A copy that can be perturbed, if it is real-valued."""
    array = checks.as_array(name, value)
    return np.array(array, np.float64, order="C") if array.dtype.kind == "f" else array


def _tensors(model, run, x, state):
    """(name, the tensor, its analytic gradient) of all that is checked, the last two flat."""
    parameters, found, start = model.parameters, [], 0
    with parameters.writing() as values:  # each change is counted by who makes it
        for name, shape in parameters.shapes.items():
            part = slice(start, start := start + math.prod(shape))
            found.append((name, values[part], parameters.gradients[part]))
    if run.dx is not None:
        found.append(("x", x, run.dx))
    if isinstance(state, np.ndarray):
        found.append(("state", state, run.dstate))
    elif state is not None:
        found += _state_tensors("state", state, run.dstate)
    return [(name, tensor.reshape(-1), gradient.reshape(-1).copy()) for name, tensor, gradient in found]


def _state_tensors(name, state, gradients):
    for i, (entry, gradient) in enumerate(zip(state, gradients, strict=True)):
        if isinstance(entry, np.ndarray):
            yield f"{name}[{i}]", entry, gradient
        elif entry is not None:
            yield from _state_tensors(f"{name}[{i}]", entry, gradient)


def _largest_error(evaluate, tensor, analytic, indices, eps, accepted):
    """The largest |analytic − numeric| over the elements `indices`; more than `accepted` is looked into."""
    largest = 0.0
    for index in indices:
        error = math.inf
        for divisor in _REFINEMENTS:
            difference = abs(_derivative(evaluate, tensor, index, eps / divisor) - analytic[index])
            error = difference if math.isnan(difference) else min(error, difference)
            if error <= accepted:
                break
        largest = float(np.maximum(largest, error))  # NaN stays
    return largest


def _derivative(evaluate, tensor, index, step):
    """The five-point difference of the loss with respect to one element, which is put back."""
    kept = tensor[index]

    def at(offset):
        tensor[index] = kept + offset
        return evaluate()

    try:
        return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    finally:
        tensor[index] = kept
