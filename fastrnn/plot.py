"""Pictures of training, states, forecasts and mistakes, by matplotlib (extra `fastrnn[plot]`).

    from fastrnn import plot
    plot.save(plot.history(history), "history.png")

Each function draws into `ax`, or into the Axes of a figure of its own where that is None, and returns the Axes;
`new_figure` and `save` help with several of them in one figure. pyplot takes no part: nothing is shown, no screen is
needed, and a figure goes when nobody holds it. Colours are those of Okabe and Ito, "Color Universal Design", which
people with any colour vision can tell apart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, storage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from .diagnostics import GradientFlow

__all__ = ["COLORS", "confusion", "forecast", "gradient_flow", "history", "new_figure", "save", "states"]

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
DIVERGING, SEQUENTIAL = "RdBu_r", "Blues"  # colour maps: around zero, and from zero on

_PARTS_OF_STATE = {"h": "-", "c": "--", "y": "-."}  # and their lines
_SMOOTH_PARTS = 30  # a smooth curve averages this part of all values
_LOGARITHMIC = 20.0  # times higher than the lowest loss is the highest one that makes an axis logarithmic
_NAMED_STEPS = 60  # at most, of labels below a heat map


def history(
    history: Sequence[Mapping[str, Any]],
    ax: Axes | None = None,
    *,
    training: str = "loss",
    validation: str = "validation_loss",
    log: bool | None = None,
) -> Axes:
    """Losses over the updates: each update's and their running mean, and those of validation.

    history: what `Trainer.fit` returns; several of them may be added up. Any sequence of dicts with "step" will do.
    training, validation: the entries to draw.
    log: whether the axis of losses is logarithmic; None: if they span more than a factor of 20.

    TypeError or ValueError if there is no such entry in any record.
    """
    records = list(history)
    if not all(isinstance(record, Mapping) and "step" in record for record in records):
        raise TypeError("history must be a sequence of dicts with a step, as Trainer.fit returns it")
    curves = [_curve(records, name) for name in (training, validation)]
    if not any(len(steps) for steps, _ in curves):
        raise ValueError(f"history must have records with {training!r} or {validation!r}, got none")
    ax = _axes(ax, "plot.history")
    (steps, losses), (evaluated, validated) = curves
    smooth = _running_mean(losses, max(1, len(losses) // _SMOOTH_PARTS))
    if len(losses) >= 2 * _SMOOTH_PARTS:
        ax.plot(steps, losses, color=COLORS[0], alpha=0.3, linewidth=0.8)
    if len(losses):
        ax.plot(steps, smooth, ".-" if len(losses) == 1 else "-", color=COLORS[0], label="training")
    if len(validated):
        ax.plot(evaluated, validated, "o-", color=COLORS[1], markersize=4, label="validation")
    if _spans(losses, validated) if log is None else checks.flag("log", log):
        ax.set_yscale("log")
    ax.set(xlabel="updates", ylabel="loss")
    _finish(ax)
    return ax


def gradient_flow(flow: GradientFlow, ax: Axes | None = None, *, by: str = "lag") -> Axes:
    """What `diagnostics.gradient_flow` found, a line for each recurrent layer and part of its state.

    by: "lag", norms over the number of steps back; "step", norms over the steps; "jacobian", the largest singular value
        of single steps' Jacobians; "gates", the fractions of each gate's values near its lower and upper bound.
    """
    draw = _FLOWS[checks.choice("by", by, tuple(_FLOWS))]
    if not hasattr(flow, "layers"):
        raise TypeError(f"flow must come from diagnostics.gradient_flow, got {type(flow).__name__}")
    ax = _axes(ax, "plot.gradient_flow")
    draw(flow, ax)
    return ax


def states(
    states: ArrayLike | Sequence[Any],
    ax: Axes | None = None,
    *,
    batch: int = 0,
    layer: int = -1,
    part: str = "h",
    batch_first: bool = False,
    labels: Sequence[str] | None = None,
) -> Axes:
    """Hidden states over time as a heat map, a row for each unit.

    states: `workspace.states()` of a recurrent layer or a model, or an array (T,H), (T,B,H) or, `batch_first`, (B,T,H).
    batch: which sequence.
    layer, part: of `workspace.states()`, which of the recurrent layers and directions, from the input on, and which
        array: "h", or of an LSTM "c". (`gates()` has the same form and other names.)
    labels: (T,) what to write below the steps, such as the symbols that were read; no longer than the first 60 are.

    TypeError or ValueError if there is no such layer, part or sequence.
    """
    values = _sequence(states, layer, part)
    if values.ndim == 3:
        sequences = values if batch_first else values.swapaxes(0, 1)
        count = len(sequences)
        values = sequences[checks.integer("batch", batch, minimum=0, maximum=count - 1)]
    if labels is not None and len(labels) != len(values):
        raise ValueError(f"labels must have {len(values)} entries, one a step, got {len(labels)}")
    ax = _axes(ax, "plot.states", 8, 4)
    from matplotlib.ticker import MaxNLocator

    finite = values[np.isfinite(values)]
    bound = float(np.abs(finite).max()) if finite.size and finite.any() else 1.0
    image = ax.imshow(
        values.T, aspect="auto", interpolation="nearest", cmap=DIVERGING, vmin=-bound, vmax=bound, origin="lower"
    )
    ax.figure.colorbar(image, ax=ax, label=part, pad=0.02)
    ax.set(xlabel="step", ylabel="unit")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if labels is not None and len(labels) <= _NAMED_STEPS:
        ax.set_xticks(np.arange(len(labels)), [str(label) for label in labels])
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def forecast(
    time: ArrayLike | None,
    history: ArrayLike,
    forecast: ArrayLike,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    actual: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A series and its forecast, with the interval that it is expected in, and with what came.

    time: (n + h,) numbers or dates of the history's n values and the forecast's h; None for 0 … n + h − 1.
    history: (n,) the last known values. forecast: (h,).
    lower, upper: (h,) the bounds of the interval, both or neither. actual: (h,) what came, as far as it is known.

    TypeError or ValueError if the shapes do not fit.
    """
    past, future = _series("history", history), _series("forecast", forecast)
    if (lower is None) != (upper is None):
        raise ValueError("lower and upper must be given together")
    n, h = len(past), len(future)
    when = np.arange(n + h) if time is None else checks.as_array("time", time)
    if when.shape != (n + h,):
        raise ValueError(f"time must have the shape ({n + h},), of history and forecast together, got {when.shape}")
    bounds = None if lower is None else (_series("lower", lower, h), _series("upper", upper, h))
    came = None if actual is None else _series("actual", actual, h)
    ax = _axes(ax, "plot.forecast", 8, 4)
    ax.plot(when[:n], past, color="0.35", linewidth=1, label="history")
    if came is not None:  # goes on from the history, of which it is
        ax.plot(
            when[n - 1 :], np.concatenate([past[-1:], came]), color=COLORS[1], linewidth=2.5, alpha=0.8, label="actual"
        )
    if bounds is not None:
        width = 4 if h == 1 else 0  # one step has no area
        ax.fill_between(when[n:], *bounds, color=COLORS[0], alpha=0.2, linewidth=width, label="interval")
    marker = "." if h <= 24 else None
    ax.plot(when[n:], future, color=COLORS[0], linewidth=1.2, marker=marker, markersize=4, label="forecast")
    ax.axvline(when[n - 1], color="0.6", linewidth=0.8, linestyle=":")
    if time is None:
        ax.set_xlabel("step")
    elif when.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator()
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    _finish(ax)
    return ax


def confusion(
    y_true: ArrayLike, y_pred: ArrayLike | None = None, labels: Sequence[Any] | None = None, ax: Axes | None = None
) -> Axes:
    """How often each class was taken for each: counts, and as colours the shares of each true class.

    y_true, y_pred: (n,) classes; or `y_true` alone, a matrix (C,C) of counts, row: true, column: predicted.
    labels: (C,) the classes in the order they are to be shown in; or, for a matrix and for classes 0 … C − 1, their
        names. None for the classes there are, sorted.

    TypeError or ValueError if the shapes do not fit, or a class is none of `labels`.
    """
    counts, names = _confusion(y_true, y_pred, labels)
    size = min(4 + 0.35 * len(counts), 12)
    ax = _axes(ax, "plot.confusion", size + 0.8, size)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = ax.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1)
    ax.figure.colorbar(image, ax=ax, label="share of the true class", pad=0.02)
    if len(counts) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{count:,}" if counts.dtype.kind in "iu" else f"{count:.2g}"
            ax.text(column, row, text, ha="center", va="center", color=color, fontsize=9 if len(counts) <= 12 else 6)
    ticks = np.arange(len(names))
    upright = sum(map(len, names)) > 6 * len(names)
    ax.set_xticks(ticks, names, rotation=45 if upright else 0, ha="right" if upright else "center")
    ax.set_yticks(ticks, names)
    ax.set(xlabel="predicted", ylabel="true")
    return ax


# ---- figures ----


def new_figure(user: str, width: float, height: float) -> Figure:
    """An empty Figure of this size in inches that needs no screen and leaves pyplot's state alone.

    ImportError without matplotlib, naming `user` as what needs it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"{user} needs matplotlib: pip install matplotlib (extra fastrnn[plot])") from None
    size = checks.number("width", width, above=0), checks.number("height", height, above=0)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(picture: Axes | Figure, path: str | bytes | os.PathLike, *, dpi: int = 100) -> None:
    """The whole figure of `picture`, Axes or the Figure itself, as a PNG at `path`; OSError leaves what was there."""
    figure: Any = picture if hasattr(picture, "savefig") else getattr(picture, "figure", None)
    if not hasattr(figure, "savefig"):
        raise TypeError(f"picture must be Axes or a Figure of matplotlib's, got {type(picture).__name__}")
    dpi = checks.integer("dpi", dpi, minimum=1)
    width, height = figure.get_size_inches()
    checks.memory("the picture", int(4 * width * dpi) * int(height * dpi))
    with storage.atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def positive(norms: np.ndarray) -> np.ndarray:
    """`norms` with NaN for what a logarithmic axis can't show."""
    return np.where(np.isfinite(norms) & (norms > 0), norms, np.nan)


def _axes(ax, user, width=6.4, height=4.0):
    if ax is None:
        return new_figure(user, width, height).subplots()
    if not hasattr(ax, "plot"):
        raise TypeError(f"ax must be Axes of matplotlib's, got {type(ax).__name__}")
    return ax


def _finish(ax):
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


# ---- history ----


def _curve(records, name):
    """Steps and values of the records that have `name`."""
    found = [(record["step"], record[name]) for record in records if name in record]
    try:
        return np.array([step for step, _ in found], float), np.array([value for _, value in found], float)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"history must have numbers for step and {name}: {error}") from None


def _running_mean(values, width):
    """The mean of the last `width` values, of fewer at the beginning."""
    if not len(values):
        return values
    counts = np.minimum(np.arange(1, len(values) + 1), width)
    return np.convolve(values, np.ones(width))[: len(values)] / counts


def _spans(*curves):
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    return values.size > 0 and values.min() > 0 and values.max() > _LOGARITHMIC * values.min()


# ---- gradient flow ----


def _flow_lines(flow, ax, x, norms):
    for number, layer in enumerate(flow.layers):
        for letter, values in norms(layer).items():
            style = {"color": COLORS[number % len(COLORS)], "linestyle": _PARTS_OF_STATE[letter]}
            ax.plot(x, positive(values), label=f"{layer.name} {letter}", **style)
    _finish(ax)


def _by_lag(flow, ax):
    _flow_lines(flow, ax, flow.lags, lambda layer: layer.by_lag)
    ax.set(xlabel="lag k", ylabel="‖∂L_t/∂h_{t−k}‖", yscale="log")


def _by_step(flow, ax):
    _flow_lines(flow, ax, np.arange(flow.steps), lambda layer: layer.by_step)
    ax.set(xlabel="step t", ylabel="‖∂L/∂h_t‖", yscale="log")


def _jacobians(flow, ax):
    for number, layer in enumerate(flow.layers):
        color = COLORS[number % len(COLORS)]
        ax.plot(flow.jacobian_steps, layer.singular_values, "o-", color=color, label=layer.name)
    ax.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    ax.set(xlabel="step t", ylabel="largest singular value of ∂s_t/∂s_{t−1}")
    ax.set_ylim(bottom=0)
    _finish(ax)


def _gates(flow, ax):
    found = [(layer.name, letter, gate) for layer in flow.layers for letter, gate in layer.gates.items()]
    names = [f"{name} {letter}" for name, letter, _ in found]
    low, high = (np.array([getattr(gate, side) for *_, gate in found]) for side in ("low", "high"))
    ax.bar(names, low, label="low", color=COLORS[0])
    ax.bar(names, high, bottom=low, label="high", color=COLORS[4])
    ax.set(ylabel="fraction saturated", ylim=(0, 1))
    ax.tick_params(axis="x", rotation=60)
    ax.legend(fontsize=8)


_FLOWS = {"lag": _by_lag, "step": _by_step, "jacobian": _jacobians, "gates": _gates}


# ---- states ----


def _sequence(states, layer, part):
    """The array (T,H) or (T,B,H) that is meant."""
    layers = list(_state_dicts(states))
    if layers:
        count = len(layers)
        layer = checks.integer("layer", layer, minimum=-count, maximum=count - 1)
        states = layers[layer][checks.choice("part", part, tuple(layers[layer]))]
    values = checks.as_array("states", states)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"states must be workspace.states() or an array of numbers, got {type(states).__name__}")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(f"states must be an array (T,H) or (T,B,H), got shape {values.shape}")
    return values.astype(float)


def _state_dicts(states):
    """The dicts of arrays in what `workspace.states()` gives, which containers nest."""
    if isinstance(states, Mapping):
        yield states
    elif isinstance(states, (list, tuple)):
        for entry in states:
            yield from _state_dicts(entry)


# ---- forecast ----


def _series(name, values, length=None):
    array = checks.as_array(name, values)
    if array.dtype.kind == "c":
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    try:
        array = array.astype(float)
    except Exception as error:  # of objects, anything
        raise TypeError(f"{name} must hold numbers: {error}") from None
    if array.ndim != 1 or not array.size or length not in (None, array.size):
        expected = "(n,)" if length is None else f"({length},), as forecast"
        raise ValueError(f"{name} must have the shape {expected}, got {array.shape}")
    return array


# ---- confusion ----


def _confusion(y_true, y_pred, labels):
    """Counts (C,C) and the names of the classes."""
    true = checks.as_array("y_true", y_true)
    if y_pred is None:
        if true.ndim != 2 or true.shape[0] != true.shape[1] or not true.size:
            raise ValueError(f"y_true must be a matrix (C,C) where y_pred is None, got shape {true.shape}")
        counts = true
        names = np.arange(len(counts)) if labels is None else labels
        if len(names) != len(counts):
            raise ValueError(f"labels must have {len(counts)} entries, got {len(names)}")
        return counts, [str(name) for name in names]
    predicted = checks.as_array("y_pred", y_pred)
    if true.ndim != 1 or true.shape != predicted.shape or not true.size:
        raise ValueError(f"y_true and y_pred must have one shape (n,), got {true.shape} and {predicted.shape}")
    classes, codes = np.unique(np.concatenate([true, predicted]), return_inverse=True)
    names = classes.tolist() if labels is None else list(labels)
    places = {name: place for place, name in enumerate(names)}
    if labels is not None and classes.dtype.kind in "iu" and not set(classes.tolist()) <= places.keys():
        places = {place: place for place in range(len(names))}  # names of the classes 0 … C − 1
    unknown = [value for value in classes.tolist() if value not in places]
    if unknown:
        raise ValueError(f"labels must have every class, and {unknown[0]!r} is missing")
    order = np.array([places[value] for value in classes.tolist()])[codes.reshape(-1)]
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (order[: true.size], order[true.size :]), 1)
    return counts, [str(name) for name in names]
