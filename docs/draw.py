"""The drawings of docs/how-it-works.md: python docs/draw.py"""

import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

IMAGES = pathlib.Path(__file__).parent / "images"
GATES = {"i": "#88ccee", "f": "#ddcc77", "g": "#cc6677", "o": "#44aa99"}  # Tol's colours, told apart by everyone
NEUTRAL, INK = "#e6e6e6", "#333333"
SEQUENCES = ["#88ccee", "#ddcc77", "#cc6677", "#44aa99"]


def canvas(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot(aspect="equal")
    ax.axis("off")
    return figure, ax


def box(ax, x, y, width, height, color=NEUTRAL, text="", size=9):
    ax.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor=INK, linewidth=0.8))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK)


def arrow(ax, start, end):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK, linewidth=1))


def label(ax, x, y, text, **how):
    ax.text(x, y, text, **{"fontsize": 9, "color": INK, "ha": "center", "va": "center", **how})


def save(figure, ax, name):
    ax.autoscale_view()
    figure.savefig(IMAGES / f"{name}.png", dpi=130)


def packed_weights():
    """PyTorch's (4·H, I) matrix, and the panels it is packed into."""
    figure, ax = canvas(9, 3.4)
    for n, (gate, color) in enumerate(GATES.items()):
        for block in range(2):
            box(ax, 0, -2 * n - block, 5, 1, color, f"$W_{gate}$, units of block {block}", 8)
    label(ax, 2.5, 1.7, "weight_ih, (4·H, I)")
    arrow(ax, (5.4, -3), (7.6, -3))
    label(ax, 6.5, -2.4, "transposed")
    for block in range(2):
        left = 8.2 + 7 * block
        for n, (gate, color) in enumerate(GATES.items()):
            for k in range(5):
                box(ax, left + 1.5 * n, -k - 0.5, 1.5, 1, color, gate if k == 0 else "", 9)
        label(ax, left + 3, 1.7, f"panel of block {block}")
        label(ax, left + 3, 1.0, "P = 4 vectors wide: one a gate")
        label(ax, left + 3, -5.2, "a row for each input feature")
    save(figure, ax, "packed-weights")


def packed_rows():
    """Four sequences of different lengths, as they come and as they stand in the buffers."""
    figure, ax = canvas(9, 3.2)
    lengths = [3, 6, 2, 5]
    for b, length in enumerate(lengths):
        for t in range(6):
            valid = t < length
            box(ax, t, -b, 1, 1, SEQUENCES[b] if valid else "white", f"{b}" if valid else "", 9)
    label(ax, 3, 1.6, "the batch, padded: time →")
    order = sorted(range(4), key=lambda b: -lengths[b])
    arrow(ax, (6.3, -1), (8.2, -1))
    left = 8.6
    for t in range(6):
        active = [b for b in order if lengths[b] > t]
        for row, b in enumerate(active):
            box(ax, left + t, -row, 1, 1, SEQUENCES[b], f"{b}", 9)
        label(ax, left + t + 0.5, -3.6, str(len(active)))
    label(ax, left + 3, 1.6, "sorted: the active rows of a step come first")
    label(ax, left + 3, -4.4, "rows multiplied at each step")
    left = 0
    for t in range(6):
        for b in (b for b in order if lengths[b] > t):
            box(ax, left, -7, 0.9, 1, SEQUENCES[b], f"{b}", 8)
            left += 0.9
        left += 0.12
    label(ax, left / 2, -7.6, "in memory: 16 rows of 24, step after step, none past a sequence's end")
    save(figure, ax, "packed-rows")


def tile():
    """The accumulators of one tile, and the rank-one term that a step of the inner loop adds."""
    figure, ax = canvas(6, 4.2)
    for r in range(6):
        box(ax, -1.6, -r, 1, 1, "#ddcc77", "a" if r == 0 else "", 9)
        for v in range(4):
            box(ax, 2.4 * v, -r, 2.4, 1, NEUTRAL, "accumulator" if (r, v) == (0, 0) else "", 8)
    for v in range(4):
        box(ax, 2.4 * v, 1.6, 2.4, 1, "#88ccee", "b: one vector" if v == 0 else "", 8)
    label(ax, -1.1, 2.1, "column k")
    label(ax, 4.8, 3.1, "row k of the panel, P numbers")
    label(ax, 4.8, -5.6, "out[r, :] += a[r, k] · b[k, :]   for k = 0, 1, 2, …   out of registers alone")
    save(figure, ax, "tile")


def splits():
    """The two ways in which threads share a time step."""
    figure, ax = canvas(9, 3.0)
    for left, title, by_rows in ((0, "by rows of the batch", True), (9, "by hidden units", False)):
        for row in range(4):
            for unit in range(6):
                first = row < 2 if by_rows else unit < 3
                box(ax, left + unit, -row, 1, 1, SEQUENCES[0] if first else SEQUENCES[1])
        label(ax, left + 3, 1.6, title)
        label(ax, left + 3, -3.6, "units →")
        label(ax, left - 0.4, -1, "rows", rotation=90)
    label(ax, 3, -4.4, "threads never meet before the end of the sequence")
    label(ax, 12, -4.4, "threads meet after every step;\neach has its part of W_hh in its own cache", va="top")
    label(ax, 7.4, -0.4, "thread 0", color=INK, bbox={"facecolor": SEQUENCES[0], "edgecolor": INK})
    label(ax, 7.4, -1.6, "thread 1", color=INK, bbox={"facecolor": SEQUENCES[1], "edgecolor": INK})
    save(figure, ax, "splits")


if __name__ == "__main__":
    for draw in packed_weights, packed_rows, tile, splits:
        draw()
