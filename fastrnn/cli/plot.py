"""The loss curves of a run as a picture."""

import os
from collections.abc import Sequence

from .. import plot
from .levels import Level


def draw(path: str, title: str, lines: Sequence[dict], level: Level) -> None:
    """Write the curves of a history's `lines` to a PNG at `path`. ImportError without matplotlib."""
    axes = plot.new_figure("the loss curves", 8, 5).subplots()
    plot.history(lines, axes, training=level.training, validation=level.held_out, log=level.logarithmic)
    training, held_out = ([line[name] for line in lines if name in line] for name in (level.training, level.held_out))
    name, baseline = level.baseline()
    axes.axhline(baseline, color="0.4", linestyle="--", label=f"held-out, {name}: {baseline:.3f}")
    if not level.logarithmic:  # the first updates fall from 8 bits: they would press all that follows into a line
        axes.set_ylim(min([baseline, *training, *held_out]) - 0.1, max(baseline, *_bulk(training + held_out)) + 0.2)
    axes.set_xlim(left=0)
    title = os.fsencode(title).decode("utf-8", "replace")  # with a file's name, which the locale may not have decoded
    axes.set(title=title, ylabel=level.figure)
    for line in axes.lines:
        if line.get_label() == "validation":
            line.set_label(f"held-out: {held_out[-1]:.3f}")
    axes.legend()
    plot.save(axes, path, dpi=150)


def _bulk(values):
    """All values but the largest tenth; at least one."""
    return sorted(values)[: max(1, len(values) * 9 // 10)] or [0.0]
