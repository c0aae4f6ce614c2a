"""How far truncated gradients are from the full one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks
from ..bptt import Buffers, Full, Run, Truncated, Windowed, check_loss
from ..layers.base import Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from ..storage import Path
    from ..types import Loss, State


class HorizonBias(NamedTuple):
    """A horizon's gradients against the full one: cosine of the angle between them, and ratio of their norms."""

    horizon: int
    windowed_cosine: float
    windowed_ratio: float
    truncated_cosine: float
    truncated_ratio: float


@dataclass(frozen=True)
class TruncationBias:
    """What `truncation_bias` found: a row for each horizon, rising. `str` gives a table, `plot` a picture.

    norm: that of the full gradient.
    """

    rows: tuple[HorizonBias, ...]
    norm: float

    def __str__(self) -> str:
        lines = [
            f"{'':6}  {'Windowed(h)':>21}  {'Truncated(h)':>21}",
            f"{'h':>6}  {'cosine':>9}  {'norm ratio':>10}  {'cosine':>9}  {'norm ratio':>10}",
        ]
        lines += [f"{row[0]:6}  {row[1]:9.4f}  {row[2]:10.4f}  {row[3]:9.4f}  {row[4]:10.4f}" for row in self.rows]
        return "\n".join(lines)

    def plot(self, target: Axes | Path | None = None) -> Axes:
        """Draw cosine and norm ratio over the horizon.

        target: a path of a picture to write, a matplotlib `Axes` to draw into, or None for axes of a new figure.

        Returns the axes. ImportError without matplotlib (extra `fastrnn[plot]`), OSError for a path that can't be
        written.
        """
        from .. import plot

        given: Any = target  # of which kind, it shows by what it can do
        axes = given if hasattr(given, "plot") else plot.new_figure("TruncationBias.plot", 6.4, 4.8).subplots()
        horizons = [row.horizon for row in self.rows]
        for i, name in enumerate(HorizonBias._fields[1:]):
            rule, quantity = name.split("_")
            label = f"{rule.title()}(h), {'cosine' if quantity == 'cosine' else 'norm ratio'}"
            style: dict[str, Any] = {
                "color": plot.COLORS[i // 2],
                "linestyle": "-" if quantity == "cosine" else "--",
                "marker": ".",
            }
            axes.plot(horizons, [getattr(row, name) for row in self.rows], label=label, **style)
        axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("horizon h, steps")
        axes.set_ylabel("truncated against full gradient")
        axes.legend()
        if given is not None and axes is not given:
            plot.save(axes, given)
        return axes


def truncation_bias(
    model: Layer,
    loss: Loss,
    x: ArrayLike,
    targets: ArrayLike,
    horizons: Iterable[int],
    *,
    state: State = None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> TruncationBias:
    """Compare the gradients of `Windowed(h)` and of `Truncated(h)` with the full one, for each h of `horizons`.

    x, targets, state, lengths, resets, mask: as for `bptt.Full().gradients`.

    The expected full gradient is what training descends by: a cosine below 1, or a norm ratio other than 1, that does
    not average out over batches is bias. All windowed gradients come from one pass up to the largest horizon.

    The model is that of inference, without dropout and noise, which differ from rule to rule. Model, gradients and
    random generators are left as they are. TypeError or ValueError if an argument does not fit, and for models that
    `Windowed` refuses.
    """
    entries = checks.sequence("horizons", horizons, "integers")
    horizons = sorted({checks.integer("horizons", horizon, minimum=1) for horizon in entries})
    if not horizons:
        raise ValueError("horizons must not be empty")
    windowed = Windowed(horizons[-1])
    if isinstance(model, Layer):
        model = model._silenced()
    windowed.check(model)
    check_loss(loss)
    buffers = Buffers()

    def run():
        model.zero_grad()
        return Run(model, loss, buffers, x, targets, state, lengths, mask, resets=resets, joint=True)

    def gradient(rule):
        rule._add_all(run())
        return model.gradients_to_vector()

    full = gradient(Full())
    found = [(horizon, *_compare(model.gradients_to_vector(), full)) for horizon in windowed.horizons(run(), horizons)]
    rows = tuple(HorizonBias(*row, *_compare(gradient(Truncated(row[0])), full)) for row in found)
    return TruncationBias(rows, float(np.linalg.norm(full)))


def _compare(gradient, full):
    """Cosine and ratio of norms, in double precision; NaN where a norm is zero."""
    gradient, full = gradient.astype(np.float64), full.astype(np.float64)
    norms = math.sqrt(gradient @ gradient), math.sqrt(full @ full)
    cosine = float(gradient @ full) / (norms[0] * norms[1]) if norms[0] and norms[1] else math.nan
    return cosine, norms[0] / norms[1] if norms[1] else math.nan
