"""How the gradient travels back through time, layer by layer, and where it dies.

Let s_t be all that a recurrent layer hands from step t to step t + 1: h_t, in an LSTM the pair (h_t, c_t). By the chain
rule ∂L_t/∂s_{t−k} is a product of k Jacobians ∂s_j/∂s_{j−1}, so its norm tends to fall or grow like the k-th power of
something: the gradient vanishes or explodes (Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio
2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import checks
from ..bptt import Buffers, Run, check_loss, layers_of, map_state
from ..lags import OneStep, one_lag_back, rows_of, states_before
from ..layers.base import Layer, check_model
from ..layers.jordan import Jordan
from ..layers.pooling import Last
from ..layers.recurrent import Recurrent
from ..model import Container

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from ..storage import Path
    from ..types import Loss, State

CHANGED = 100  # times lower or higher at the last lag than at the first: the fitted line of a norm that isn't healthy
SATURATED = 0.05  # how close to its bounds a gate's value is called saturated; a tanh beyond ±(1 − this)

_DEFAULT_LAGS = 100
_JACOBIAN_ROWS = 1024  # of one-step backward passes at once
_EXACT_NORM = 512  # the largest Jacobian whose norm comes from a singular value decomposition
_POWER_ITERATIONS = 500


@dataclass(frozen=True)
class Verdict:
    """What became of the gradient over the lags that were looked at.

    kind: "vanishes", "explodes", "healthy" or "unknown".
    factor: by which the norm changes with each step back, from a least-squares line through log norm against lag; NaN
        where there is no line.
    text: the same in words.
    """

    kind: str
    factor: float
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Gate:
    """The values of one gate over all steps, sequences and units.

    low, high: fractions within 0.05 of the lower and of the upper bound, 0 and 1, or −1 and 1 of a tanh; of a ReLU, the
        fraction at 0, and none. mean: of the values.
    """

    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class LayerFlow:
    """What `gradient_flow` found in one recurrent layer; a stack of n layers has n of them.

    name, kind: as in the state dict, such as "1.l0", and the layer's class.
    by_lag: for each part of the state, "h" and in an LSTM "c", in a Jordan net "y", (K,) norms ‖∂L_t/∂h_{t−k}‖ for
        k = 1 … K.
    by_step: for each part (T,) norms ‖∂L/∂h_t‖.
    singular_values: (n,) the largest singular value of the Jacobian ∂s_t/∂s_{t−1} at each of `jacobian_steps`.
    gates: by name. A layer without gates has "h", its state, or in a Jordan net its hidden units.
    """

    name: str
    kind: str
    by_lag: dict[str, np.ndarray]
    by_step: dict[str, np.ndarray]
    singular_values: np.ndarray
    gates: dict[str, Gate]
    verdict: Verdict

    @property
    def lag_norms(self) -> np.ndarray:
        """(K,) norms of the gradient with respect to the whole state."""
        return _joined(self.by_lag)

    @property
    def step_norms(self) -> np.ndarray:
        """(T,) norms of the gradient with respect to the whole state."""
        return _joined(self.by_step)


def _joined(parts):
    return np.sqrt(sum(np.square(norms) for norms in parts.values()))


@dataclass(frozen=True)
class GradientFlow:
    """What `gradient_flow` found: print it, plot it, or take the arrays.

    loss: its value. lags: (K,) 1 … K. pairs: (K,) how many losses reach that far back. jacobian_steps: (n,) the steps t
    of the Jacobians. layers: a `LayerFlow` for each recurrent layer, from the input on.
    """

    loss: float
    steps: int
    batch: int
    lags: np.ndarray
    pairs: np.ndarray
    jacobian_steps: np.ndarray
    layers: tuple[LayerFlow, ...]

    def __str__(self) -> str:
        from .text import table

        return table(self)

    def plot(self, target: Axes | Path) -> None:
        """Draw the flow: four panels into a PNG at the path `target`, or, into Axes of matplotlib's, the norms by lag.

        ImportError without matplotlib (extra `fastrnn[plot]`), OSError for a path that can't be written.
        """
        from .plots import plot_flow

        plot_flow(self, target)


def gradient_flow(
    model: Layer,
    loss: Loss,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    state: State = None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    max_lag: int | None = None,
    jacobians: int = 8,
) -> GradientFlow:
    """Measure how the gradient of `loss` travels back through time in each recurrent layer of `model`.

    x, targets, state, lengths, mask: as for `bptt.Full().gradients`. resets: (T,B) booleans as in `model.forward`.
    max_lag: the longest lag; None for min(T − 1, 100). Time and memory: `max_lag` backward passes over T·B rows.
    jacobians: how many Jacobians to take, at steps spread evenly over the sequences; 0 for none. Each costs as many
        rows of a step as the layer's state has numbers.

    The model is that of inference, without dropout, zoneout and activity penalties. By lag: with L_t the loss of step t
    of one sequence alone, the root mean square over all steps t and sequences that have such a loss, of the norm
    ‖∂L_t/∂h_{t−k}‖, if t and t − k belong to one sequence. By step: the norm of ∂L/∂h_t over the whole batch, where L
    is the loss that training minimises; zero at the last step. In both, h_t (and c_t) is what the layer hands to its
    own next step: the gradient that travels through time. What the layers above, or the loss, read of it at step t
    itself is not in it.

    The verdict is "vanishes" where the line through log norm against lag falls by more than a factor of 100 from the
    first lag to the last, "explodes" where it rises by more than that, else "healthy".

    Model, gradients and random generators are left as they are. TypeError or ValueError if an argument does not fit, or
    for a model without recurrent layers, with bidirectional ones, or with layers that change the steps but for `Last`.
    """
    _check_model(model)
    check_loss(loss)
    buffers = Buffers()
    run = Run(model, loss, buffers, x, targets, state, lengths, mask, resets=resets, joint=True)
    if run.steps < 2:
        raise ValueError("x must have at least 2 steps: there is no time to travel through")
    if max_lag is None:
        max_lag = min(run.steps - 1, _DEFAULT_LAGS)
    max_lag = checks.integer("max_lag", max_lag, minimum=1, maximum=run.steps - 1)
    jacobians = checks.integer("jacobians", jacobians, minimum=0)
    with np.errstate(over="ignore", invalid="ignore"):  # what explodes is told by the verdict
        return _Measurement(model._silenced(), run, buffers).flow(max_lag, jacobians)


def _check_model(model):
    check_model(model)
    for layer in layers_of(model):
        if getattr(layer, "bidirectional", False):
            raise ValueError("gradient_flow needs unidirectional layers: in a bidirectional one no step is the last")
        if not layer.keeps_steps and not isinstance(layer, Last):
            name = type(layer).__name__
            raise ValueError(f"gradient_flow needs losses of single steps, and {name} joins or makes steps")
    if not any(isinstance(layer, (Recurrent, Jordan)) for layer in layers_of(model)):
        raise ValueError(f"gradient_flow needs a model with a recurrent layer, got {type(model).__name__}")


class _Part:
    """One layer of a stack, in one of the model's recurrent layers: where its state is in the model's."""

    def __init__(self, name, layer, way, number):
        self.name, self.layer, self.number = f"{name}l{number}", layer, number
        self._way = way  # from the model down to the layer: containers, and which of their layers comes next
        self.letters = ("y",) if isinstance(layer, Jordan) else ("h", "c")[: layer.states]

    def arrays(self, state):
        """Its (B,H) arrays of a model's state; None if there is none of its layer."""
        for container, index in self._way:
            _, state = container._entries("state", state)[index]
        if state is None:
            return None
        return [array[self.number] for array in (state if isinstance(state, (tuple, list)) else (state,))]

    def squares(self, state):
        """(letters, B) squared norms of its part of a state's gradient."""
        return np.array([np.einsum("bh,bh->b", a, a, dtype=np.float64) for a in self.arrays(state)])

    def gates(self, workspace):
        """Its gates by name, arrays (…,H); the state of a layer without gates."""
        for _, index in self._way:
            workspace = workspace.parts[index]
        return workspace.gates()[self.number] or workspace.states()[self.number]


def _parts(model, name="", way=()):
    """The `_Part`s of all recurrent layers, from the input on."""
    if isinstance(model, Container):
        for index, layer in enumerate(model.layers):
            yield from _parts(layer, f"{name}{index}.", (*way, (model, index)))
    elif isinstance(model, (Recurrent, Jordan)):
        for number in range(getattr(model, "num_layers", 1)):
            yield _Part(name, model, way, number)


class _Measurement:
    """One batch of sequences: row t·B + b is step t of sequence b."""

    def __init__(self, model, run, buffers):
        self._model, self._run, self._buffers = model, run, buffers
        self._steps, self._batch = run.steps, run.batch
        self._parts = list(_parts(model))
        if run.state is not None and any(part.arrays(run.state) is None for part in self._parts):
            raise ValueError("state must be None, or have an entry for each recurrent layer")
        axis = 1 if model.batch_first else 0
        self._inside = self._inside_sequences()  # (T,B): the step is not padding
        self._resets = np.zeros((self._steps, self._batch), bool)
        if run.resets is not None:
            self._resets[...] = np.moveaxis(run.resets, axis, 0)
        if run.state is None:
            self._resets[0] = True
        self._x = rows_of(run.x, model.batch_first).copy()
        self._x[~self._inside.reshape(-1)] = 0  # padding may be anything
        self._states = states_before(model, self._x, run.state, self._resets)
        self._step = OneStep(model, buffers, self._x, self._states, self._resets.reshape(-1))
        self._set_losses()

    def _inside_sequences(self):
        lengths = self._run.lengths
        return np.arange(self._steps)[:, np.newaxis] < (
            np.full(self._batch, self._steps) if lengths is None else lengths
        )

    def _set_losses(self):
        """Gradients (T·B,F) of the sum of all losses with respect to the output, and (T,B) where there is a loss."""
        run, y = self._run, self._step.y
        targets, mask, rows = run.targets, run.mask, np.arange(len(y))
        if any(isinstance(layer, Last) for layer in layers_of(self._model)):  # the loss is that of the last steps
            rows = (self._inside.sum(0) - 1) * self._batch + rows[: self._batch]
        else:
            targets = rows_of(targets, self._model.batch_first)
            mask = None if mask is None else rows_of(mask, self._model.batch_first)
        self._dy = np.zeros_like(y)
        total, count, self._dy[rows] = run.loss.evaluate(y[rows], targets, mask, None, 1)
        valid = np.ones(rows.size, bool) if mask is None else mask.reshape(rows.size, -1).any(1)
        if "ignore_index" in run.loss.config():
            valid &= targets != run.loss.config()["ignore_index"]
        has_loss = np.zeros(len(y), bool)
        has_loss[rows] = valid
        self._has_loss = has_loss.reshape(self._steps, self._batch)
        self._scale = 1 / run.loss.denominator(count, run.batch)  # of the loss as training sees it
        self.value = total * self._scale
        self._step_scale = valid.sum() / count if run.loss.reduction == "mean" else 1.0

    def flow(self, max_lag, jacobians):
        by_lag, pairs = self._by_lag(max_lag)
        by_step = self._by_step()
        gates = self._gates()
        steps, values = self._jacobians(jacobians)
        lags = np.arange(1, max_lag + 1)
        layers = tuple(
            LayerFlow(
                part.name,
                type(part.layer).__name__,
                dict(zip(part.letters, by_lag[n], strict=True)),
                dict(zip(part.letters, by_step[n], strict=True)),
                values[n],
                gates[n],
                verdict(lags, np.sqrt(np.square(by_lag[n]).sum(0))),
            )
            for n, part in enumerate(self._parts)
        )
        return GradientFlow(self.value, self._steps, self._batch, lags, pairs, steps, layers)

    def _by_lag(self, max_lag):
        """For each part (letters, K) root mean squares, and (K,) of how many pairs."""
        found = [np.zeros((len(part.letters), max_lag)) for part in self._parts]
        pairs = np.zeros(max_lag, int)
        has_loss = self._has_loss
        dy = self._dy * self._dy.dtype.type(self._step_scale)
        dstate = None
        for lag in range(max_lag):
            has_loss = has_loss & ~self._resets
            dstate = self._step.backward(dy, dstate)
            pairs[lag] = has_loss[1:].sum()  # the state before the first step is none of a step
            dy.fill(0)
            if pairs[lag]:
                for part, norms in zip(self._parts, found, strict=True):
                    norms[:, lag] = np.sqrt(part.squares(dstate)[:, self._batch :].sum(1) / pairs[lag])
            dstate = one_lag_back(dstate, self._batch)
            has_loss = np.concatenate([has_loss[1:], np.zeros_like(has_loss[:1])])
        return found, pairs

    def _by_step(self):
        """For each part (letters, T): from the last step to the first, one step at a time."""
        found = [np.zeros((len(part.letters), self._steps)) for part in self._parts]
        dy = self._dy * self._dy.dtype.type(self._scale)
        dstate = None
        for t in range(self._steps - 1, 0, -1):
            rows = slice(t * self._batch, (t + 1) * self._batch)
            step = self._rows(rows)
            dstate = step.backward(dy[rows], dstate)
            for part, norms in zip(self._parts, found, strict=True):
                norms[:, t - 1] = np.sqrt(part.squares(dstate).sum(1))
        return found

    def _rows(self, rows):
        """The one step of some rows, a slice or indices."""
        state = map_state(lambda array: np.ascontiguousarray(array[:, rows]), self._states)
        return OneStep(self._model, self._buffers, self._x[rows], state, self._resets.reshape(-1)[rows])

    def _gates(self):
        """For each part a dict of `Gate`s."""
        workspace, inside = self._rows(slice(None)).workspace, self._inside.reshape(-1)
        return [
            {
                name: _gate(values.reshape(inside.size, -1)[inside], _range(name, part.layer))
                for name, values in part.gates(workspace).items()
            }
            for part in self._parts
        ]

    def _jacobians(self, count):
        """The steps, and for each part the largest singular values there."""
        candidates = np.flatnonzero((self._inside & ~self._resets).reshape(-1))
        count = min(count, candidates.size)
        rows = candidates[np.linspace(0, candidates.size - 1, count).astype(int)]
        values = [np.array([spectral_norm(self._jacobian(part, row)) for row in rows]) for part in self._parts]
        return rows // self._batch, values

    def _jacobian(self, part, row):
        """∂s_t/∂s_{t−1} of one layer at one row, (S,S), S = the numbers in its state: row i is that of number i."""
        width = part.arrays(self._states)[0].shape[1]
        size = width * len(part.letters)
        checks.memory(f"the Jacobian of a state of {size} numbers", 8 * size * size)
        jacobian = np.empty((size, size))
        for first in range(0, size, _JACOBIAN_ROWS):
            chosen = np.arange(first, min(first + _JACOBIAN_ROWS, size))
            step = self._rows(np.full(chosen.size, row))
            dstate = map_state(lambda array, n=chosen.size: np.zeros_like(array[:, :1]).repeat(n, 1), self._states)
            for place, array in enumerate(part.arrays(dstate)):
                unit = np.flatnonzero(chosen // width == place)
                array[unit, chosen[unit] % width] = 1
            dy = np.zeros((chosen.size, step.y.shape[1]), self._dy.dtype)
            jacobian[chosen] = np.concatenate(part.arrays(step.backward(dy, dstate)), axis=1)
        return jacobian


def _range(name, layer):
    """The bounds that a gate's values come near to when it saturates."""
    nonlinearity = getattr(layer, "nonlinearity", "tanh") if name in "ghn" else "sigmoid"
    return {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, math.inf)}[nonlinearity]


def _gate(values, bounds):
    near = SATURATED if bounds[1] < math.inf else 0.0  # a ReLU is saturated where it is 0
    low, high = (values <= bounds[0] + near).mean(), (values >= bounds[1] - near).mean()
    return Gate(float(low), float(high), float(values.mean()))


def spectral_norm(matrix: np.ndarray) -> float:
    """The largest singular value, of a large matrix by power iteration on MᵀM; NaN if it is not finite."""
    if not np.isfinite(matrix).all():
        return math.nan
    if len(matrix) <= _EXACT_NORM:
        return float(np.linalg.norm(matrix, 2))
    vector = np.random.default_rng(0).standard_normal(matrix.shape[1])
    value = 0.0
    for _ in range(_POWER_ITERATIONS):
        norm = np.linalg.norm(vector)
        if norm == 0:
            return 0.0
        image = matrix @ (vector / norm)
        previous, value = value, float(np.linalg.norm(image))
        if value - previous <= 1e-9 * value:  # it only grows
            break
        vector = matrix.T @ image
    return value


def verdict(lags: np.ndarray, norms: np.ndarray) -> Verdict:
    """What a line through log norm against lag says: see `gradient_flow`."""
    finite = np.isfinite(norms)
    if not finite.all():
        return Verdict("explodes", math.nan, f"explodes: not finite from {lags[~finite][0]} steps back on")
    there = norms > 0
    if not there.any():
        return Verdict("unknown", math.nan, "unknown: no loss sends a gradient through time")
    span = int(lags[there][-1])
    if there.sum() < 3:
        if there[-1]:
            return Verdict("unknown", math.nan, "unknown: too few lags for a trend")
        return Verdict("vanishes", 0.0, f"vanishes: zero beyond {span} steps back")
    slope = np.polynomial.polynomial.polyfit(lags[there], np.log(norms[there]), 1)[1]
    factor, change = math.exp(slope), math.exp(slope * (lags[-1] - lags[0]))
    period = math.log(2) / abs(slope) if slope else math.inf
    if change * CHANGED < 1:
        return Verdict("vanishes", factor, f"vanishes: halves every {_steps(period)}")
    if change > CHANGED:
        return Verdict("explodes", factor, f"explodes: doubles every {_steps(period)}")
    return Verdict("healthy", factor, f"healthy: times {change:.2g} from {lags[0]} to {lags[-1]} steps back")


def _steps(period):
    return f"{period:.2g} steps" if period < 100 else f"{period:.0f} steps"
