"""The loss curves of a run as a picture."""

from collections.abc import Sequence

from .. import storage
from .levels import Level

_RECENT = 5  # training figures that the smooth curve averages: the last ones, so that nothing is known beforehand


def draw(path: str, title: str, lines: Sequence[dict], level: Level) -> None:
    """Write the curves of a history's `lines` to a PNG at `path`. ImportError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # needs no screen, and leaves pyplot's state alone
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, training = _curve(lines, level.training)
    smooth = [sum(part) / len(part) for part in (training[max(0, i - _RECENT) : i] for i in range(1, len(steps) + 1))]
    axes.plot(steps, training, color="tab:blue", alpha=0.3, linewidth=0.8)
    axes.plot(steps, smooth, color="tab:blue", label="training")
    steps, held_out = _curve(lines, level.held_out)
    final = f": {held_out[-1]:.3f}" if held_out else ""
    axes.plot(steps, held_out, "o-", color="tab:orange", markersize=4, label=f"held-out{final}")
    name, baseline = level.baseline()
    axes.axhline(baseline, color="0.4", linestyle="--", label=f"held-out, {name}: {baseline:.3f}")
    lowest = min([baseline, *training, *held_out])
    if level.logarithmic:
        axes.set_yscale("log")
    else:  # the first updates fall from 8 bits: they would press all that follows into a line
        axes.set_ylim(lowest - 0.1, max(baseline, *_bulk(training + held_out)) + 0.2)
    axes.set_xlim(left=0)
    axes.set(title=title, xlabel="updates", ylabel=level.figure)
    axes.grid(alpha=0.3)
    axes.legend()
    with storage.atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _curve(lines, name):
    found = [line for line in lines if name in line]
    return [line["step"] for line in found], [line[name] for line in found]


def _bulk(values):
    """All values but the largest tenth; at least one."""
    return sorted(values)[: max(1, len(values) * 9 // 10)] or [0.0]
