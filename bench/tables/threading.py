"""Numba's threading layers: each works, and what it costs."""

import importlib.metadata
import os
import sys
import tempfile

from .. import child
from ..report import Verdict, table
from ..timing import alternate, progress
from . import THREADS, variants

TITLE = "Threading layers"
_REGIONS = 1000
_NAMES = ("omp", "tbb", "workqueue")


def measure_region(rounds):
    """µs of opening a parallel region with nothing to do."""
    import fastrnn

    from ..regions import open_regions

    fastrnn.get_num_threads()  # starts them
    calls = {parts: lambda parts=parts: open_regions(_REGIONS, parts) for parts in (1, THREADS)}
    alone, together = (timing.seconds for timing in alternate(calls, rounds).values())
    return (together - alone) / _REGIONS * 1e6


def _variants():
    chosen = {}
    for name in _NAMES:
        chosen[name] = {"NUMBA_THREADING_LAYER": name}
        if name == "tbb":
            try:
                importlib.metadata.version("tbb")
            except importlib.metadata.PackageNotFoundError:
                del chosen[name]
                continue
            # its wheel puts the library where the loader does not look
            folders = os.path.join(sys.prefix, "lib"), os.environ.get("LD_LIBRARY_PATH", "")
            chosen[name]["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, folders))
    return chosen


def run(options):
    chosen = _variants()
    with tempfile.TemporaryDirectory() as folder:
        rows = variants.run(options, chosen, folder)
    for row in rows:
        row["region"] = child.run(measure_region, THREADS, chosen[row["name"]], rounds=options.rounds)
        progress(f"  {row['name']}: {row['region']:.3g} µs a region")
    return rows


def render(data):
    return [
        f"LSTM, float32, {THREADS} threads; a region is one with nothing to do, against the same without threads.",
        "",
        *table(*variants.render(data, (("µs a region", "region"),))),
    ]


def verdicts(data):
    used = [row["layer"] for row in data]
    yield Verdict(
        "threading layers all run, with the same results",
        ", ".join(row["name"] for row in data),
        f"{', '.join(used)}; difference {max(row['error'] for row in data):.0e}",
        all(row["layer"] == row["name"] for row in data),
    )
