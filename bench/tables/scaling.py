"""What the second thread is worth to fastrnn, both numbers in one process."""

from .. import child, peers
from ..problem import GATES, SHAPES, Problem
from ..report import Verdict, geometric_mean, ratio, shape_text, table
from ..timing import alternate, progress, ratios_to
from . import THREADS

TITLE = "2 threads against 1"
_LEAST, _MEAN = 1.6, 1.8


def measure(shapes, rounds):
    import fastrnn

    peers.load(("fastrnn",))
    rows = []
    for cell in GATES:
        for shape in shapes:
            peer = peers.make("fastrnn", Problem(cell, shape), THREADS)

            def train(threads, peer=peer):
                fastrnn.set_num_threads(threads)
                peer.train()

            calls = {threads: lambda threads=threads, train=train: train(threads) for threads in (1, THREADS)}
            timings = alternate(calls, rounds)
            row = {"cell": cell, "shape": shape, "ms": [timing.seconds * 1e3 for timing in timings.values()]}
            row["gain"] = ratios_to(timings, THREADS)[1]
            progress(f"  {cell} ({shape_text(row)}): {row['ms'][0]:.3g} ms, {row['ms'][1]:.3g} ms")
            rows.append(row)
    return rows


def run(options):
    shapes = [shape for shape in options.choose(SHAPES) if shape[1] >= 16 or shape[3] >= 512]
    return child.run(measure, THREADS, shapes=shapes, rounds=options.rounds)


def _gains(data):
    return [row["gain"] for row in data]


def render(data):
    body = [[r["cell"], shape_text(r), *r["ms"], ratio(gain)] for r, gain in zip(data, _gains(data), strict=True)]
    if data:
        body.append(["all", "geometric mean", "", "", ratio(geometric_mean(_gains(data)))])
    header = ("cell", "T, B, I, H", "1 thread, ms", f"{THREADS} threads, ms", "ratio")
    return ["fastrnn's training, float32, where B ≥ 16 or H ≥ 512.", "", *table(header, body)]


def verdicts(data):
    if data:
        gains = _gains(data)
        least, mean = min(gains), geometric_mean(gains)
        where = data[gains.index(least)]
        yield Verdict(
            "2 threads against 1, train, B ≥ 16 or H ≥ 512",
            f"every shape {_LEAST:g}, mean {_MEAN:g}",
            f"{least:.2f} ({where['cell']} {shape_text(where)}), mean {mean:.2f}; "
            f"{sum(gain < _LEAST for gain in gains)} of {len(gains)} short",
            least >= _LEAST and mean >= _MEAN,
        )
