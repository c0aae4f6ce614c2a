"""Where the time of an LSTM's training step goes, and how near each part comes to the machine's peak."""

import contextlib

from .. import child, peers
from ..problem import SHAPES, Problem
from ..rates import Peak
from ..report import shape_text, share, table
from ..timing import Stopwatch, alternate, progress, repeat
from . import THREADS

TITLE = "Where the time of a training step goes"
_PRODUCTS = {"forward": "_forward_pass", "backward": "_backward_pass", "weight gradients": "_accumulate"}
_SECONDS = 0.3


def _parts(peer):
    """Seconds of a training step and of its parts, name -> seconds, averages over many steps."""
    recurrent = peer.layer.passes[0]
    stopwatch = Stopwatch()
    with contextlib.ExitStack() as stack:
        for name in ("forward_weights", "backward_weights"):
            stack.enter_context(stopwatch.watch(recurrent, name, "packing"))
        for name, attribute in _PRODUCTS.items():
            stack.enter_context(stopwatch.watch(recurrent, attribute, name))
        repeat(peer.train, _SECONDS / 3)
        stopwatch.seconds.clear()
        times = repeat(peer.train, _SECONDS)
    steps = len(times)
    return sum(times) / steps, {name: seconds / steps for name, seconds in stopwatch.seconds.items()}


def measure(shapes, rounds):
    peers.load(("fastrnn",))
    peak = Peak("float32", THREADS)
    rows = []
    for shape in shapes:
        problem = Problem("LSTM", shape)
        peer = peers.make("fastrnn", problem, THREADS)
        peer.train()
        best = peak.flops / alternate({"peak": peak}, rounds)["peak"].least
        total, parts = _parts(peer)
        row = {"shape": shape, "total": total, "parts": parts, "peak": best, "flops": problem.flops("infer")}
        progress(f"  ({shape_text(row)}): {total * 1e3:.3g} ms")
        rows.append(row)
    return rows


def run(options):
    return child.run(measure, THREADS, shapes=options.choose(SHAPES), rounds=options.rounds)


def _cells(row):
    parts = row["parts"]
    yield shape_text(row)
    yield row["total"] * 1e6
    yield share(parts["packing"] / row["total"])
    for name in _PRODUCTS:
        yield f"{share(parts[name] / row['total'])} ({share(row['flops'] / parts[name] / row['peak'])})"
    yield share(1 - sum(parts.values()) / row["total"])


def render(data):
    header = ("T, B, I, H", "µs", "packing", *_PRODUCTS, "Python")
    return [
        f"LSTM, float32, {THREADS} threads. Shares of the time; in brackets a part's rate, pointwise work and all, as",
        "a share of the peak of the machine's multiply-add units, measured a moment before.",
        "",
        *table(header, [list(_cells(row)) for row in data]),
    ]


def verdicts(data):
    return ()
