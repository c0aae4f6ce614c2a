"""The plot of achieved GFLOP/s: every library and shape against what the machine can do."""

from .peers import TITLES
from .report import gflops

_PANELS = tuple((cell, work) for work in ("train", "infer") for cell in ("LSTM", "GRU", "RNN"))
_SOURCES = ("recurrent", "jax", "inference_peers", "training_peers")
_MARKERS = {"fastrnn": "o", "torch": "s", "jax": "^", "onnxruntime": "D", "numpy": "v", "njit": "x"}


def plot(stored, path):
    """Draw float32 on 2 threads into `path`; False if there is nothing to draw."""
    blocks = stored.get("recurrent", {}).get("data") or []
    block = next((b for b in blocks if b["dtype"] == "float32" and b["threads"] == 2), None)
    if block is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(16, 10), sharey=True, layout="constrained")
    for (cell, work), axis in zip(_PANELS, axes.flat, strict=True):
        order = _order(block, cell)
        points = _points(stored, cell, work, order)
        for i, (name, marker) in enumerate(_MARKERS.items()):
            found = [(order[shape], rate) for (library, shape), rate in points.items() if library == name]
            found.sort()
            if found:
                line = ":" if name == "fastrnn" else ""
                axis.plot(*zip(*found, strict=True), marker, color=f"C{i}", label=TITLES[name], ls=line)
        for rate, style in (("peak", "-"), ("numpy.dot", "-."), ("torch.mm", "--")):
            axis.axhline(block["rates"][rate], color="gray", ls=style, lw=1)
            align = "top" if rate == "numpy.dot" else "bottom"
            axis.annotate(rate, (0, block["rates"][rate]), fontsize=8, va=align)
        axis.set(title=f"{cell}, {'training' if work == 'train' else 'inference'}", yscale="log", ylim=(1, None))
        axis.set_xticks(range(len(order)), [", ".join(map(str, s)) for s in order], rotation=60, ha="right", fontsize=7)
        axis.grid(True, which="major", alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("GFLOP/s of the matrix products")
    lines = {label: h for axis in axes.flat for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines))
    figure.suptitle("float32, 2 threads; shapes T, B, I, H by their work, against the measured multiply-add peak")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _order(block, cell):
    """Shape -> place on the axis, by the work of one step: the reuse of the weights grows with it."""
    rows = [row for row in block["rows"] if row["cell"] == cell and row["work"] == "train"]
    rows.sort(key=lambda row: row["flops"] / row["shape"][0])
    return {tuple(row["shape"]): place for place, row in enumerate(rows)}


def _points(stored, cell, work, order):
    """(library, shape) -> GFLOP/s, by the first source that has it."""
    points = {}
    for source in _SOURCES:
        data = stored.get(source, {}).get("data") or []
        rows = [row for block in data for row in block.get("rows", [block])]
        for row in rows:
            if (row["cell"], row["work"], row["dtype"], row["threads"]) == (cell, work, "float32", 2):
                for name in row["ms"]:
                    points.setdefault((name, tuple(row["shape"])), gflops(row, name))
    return {key: rate for key, rate in points.items() if key[1] in order}
