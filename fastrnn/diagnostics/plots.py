"""Pictures of gradient flows, by matplotlib, which is imported where it is used."""

import os

import numpy as np

from .. import storage

_STYLES = {"h": "-", "c": "--", "y": "-."}


def plot_flow(flow, target) -> None:
    """Into a PNG at the path `target`, or the norms by lag into Axes."""
    if not isinstance(target, (str, bytes, os.PathLike)):
        if not hasattr(target, "plot"):
            raise TypeError(f"target must be a path or Axes of matplotlib's, got {type(target).__name__}")
        _by_lag(flow, target)
        return
    figure = new_figure("flow.plot", 10, 7)
    axes = figure.subplots(2, 2)
    for axis, draw in zip(axes.flat, (_by_lag, _by_step, _jacobians, _gates), strict=True):
        draw(flow, axis)
    figure.suptitle("; ".join(f"{layer.name} {layer.verdict}" for layer in flow.layers), fontsize=9)
    save(figure, target)


def plot_history(updates, flows, path) -> None:
    """The norms by lag of each layer into a PNG at `path`, a line for each of `flows`, dark ones late in training."""
    from matplotlib import colormaps

    layers = flows[0].layers
    figure = new_figure("WatchGradients", 4.5 * len(layers), 4)
    shades = colormaps["viridis_r"](np.linspace(0.1, 1, len(flows)))
    for number, axis in enumerate(np.atleast_1d(figure.subplots(1, len(layers), sharey=True))):
        for flow, update, shade in zip(flows, updates, shades, strict=True):
            label = f"update {update}" if update in (updates[0], updates[-1]) else None
            axis.plot(flow.lags, positive(flow.layers[number].lag_norms), color=shade, linewidth=1, label=label)
        name = f"{layers[number].name} {layers[number].kind}"
        axis.set(title=f"{name}\n{flows[-1].layers[number].verdict}", xlabel="lag k", yscale="log")
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("‖∂L_t/∂s_{t−k}‖")
    figure.axes[0].legend(fontsize=8)
    save(figure, path)


def new_figure(user: str, width: float, height: float):
    """A Figure that needs no screen and leaves pyplot's state alone. ImportError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"{user} needs matplotlib: pip install matplotlib (extra fastrnn[plot])") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure, path) -> None:
    """`figure` as a PNG at `path`, whole or not at all."""
    with storage.atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)


def positive(norms: np.ndarray) -> np.ndarray:
    """`norms` with NaN for what a logarithmic axis can't show."""
    return np.where(np.isfinite(norms) & (norms > 0), norms, np.nan)


def _lines(flow, axis, x, norms):
    for number, layer in enumerate(flow.layers):
        for letter, values in norms(layer).items():
            style = {"color": f"C{number}", "linestyle": _STYLES[letter]}
            axis.plot(x, positive(values), label=f"{layer.name} {letter}", **style)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _by_lag(flow, axis):
    _lines(flow, axis, flow.lags, lambda layer: layer.by_lag)
    axis.set(xlabel="lag k", ylabel="‖∂L_t/∂h_{t−k}‖", yscale="log")


def _by_step(flow, axis):
    _lines(flow, axis, np.arange(flow.steps), lambda layer: layer.by_step)
    axis.set(xlabel="step t", ylabel="‖∂L/∂h_t‖", yscale="log")


def _jacobians(flow, axis):
    for number, layer in enumerate(flow.layers):
        axis.plot(flow.jacobian_steps, layer.singular_values, "o-", color=f"C{number}", label=layer.name)
    axis.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    axis.set(xlabel="step t", ylabel="largest singular value of ∂s_t/∂s_{t−1}")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def _gates(flow, axis):
    found = [(layer.name, letter, gate) for layer in flow.layers for letter, gate in layer.gates.items()]
    names = [f"{name} {letter}" for name, letter, _ in found]
    low, high = (np.array([getattr(gate, side) for *_, gate in found]) for side in ("low", "high"))
    axis.bar(names, low, label="low", color="C0")
    axis.bar(names, high, bottom=low, label="high", color="C3")
    axis.set(ylabel="fraction saturated", ylim=(0, 1))
    axis.tick_params(axis="x", rotation=60)
    if found:
        axis.legend(fontsize=8)
