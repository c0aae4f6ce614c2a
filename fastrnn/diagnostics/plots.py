"""Whole figures of gradient flows, of the panels in `fastrnn.plot`."""

import os

import numpy as np

from .. import plot


def plot_flow(flow, target) -> None:
    """Into a PNG at the path `target`, or the norms by lag into Axes."""
    if not isinstance(target, (str, bytes, os.PathLike)):
        if not hasattr(target, "plot"):
            raise TypeError(f"target must be a path or Axes of matplotlib's, got {type(target).__name__}")
        plot.gradient_flow(flow, target)
        return
    figure = plot.new_figure("flow.plot", 10, 7)
    for axis, by in zip(figure.subplots(2, 2).flat, ("lag", "step", "jacobian", "gates"), strict=True):
        plot.gradient_flow(flow, axis, by=by)
    figure.suptitle("; ".join(f"{layer.name} {layer.verdict}" for layer in flow.layers), fontsize=9)
    plot.save(figure, target)


def plot_history(updates, flows, path) -> None:
    """The norms by lag of each layer into a PNG at `path`, a line for each of `flows`, dark ones late in training."""
    figure = plot.new_figure("WatchGradients", 4.5 * len(flows[0].layers), 4)
    from matplotlib import colormaps

    layers = flows[0].layers
    shades = colormaps["viridis_r"](np.linspace(0.1, 1, len(flows)))
    for number, axis in enumerate(np.atleast_1d(figure.subplots(1, len(layers), sharey=True))):
        for flow, update, shade in zip(flows, updates, shades, strict=True):
            label = f"update {update}" if update in (updates[0], updates[-1]) else None
            axis.plot(flow.lags, plot.positive(flow.layers[number].lag_norms), color=shade, linewidth=1, label=label)
        name = f"{layers[number].name} {layers[number].kind}"
        axis.set(title=f"{name}\n{flows[-1].layers[number].verdict}", xlabel="lag k", yscale="log")
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("‖∂L_t/∂s_{t−k}‖")
    figure.axes[0].legend(fontsize=8)
    plot.save(figure, path)
