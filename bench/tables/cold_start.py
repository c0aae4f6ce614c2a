"""Seconds from nothing to a first training step, compiled anew and from the cache."""

import statistics
import subprocess
import sys
import tempfile

from .. import child
from ..report import judge_limit, table
from ..timing import progress
from . import THREADS

TITLE = "Cold start"
_LIMITS = {"first training step, empty cache": 8.0, "the same in a new process": 0.6, "import fastrnn": 0.4}
_IMPORT = "import time; t = time.perf_counter(); import fastrnn; print(time.perf_counter() - t)"
_STEP = """
import time
import numpy as np
import fastrnn
x = np.zeros((20, 8, 16), np.float32)
targets = np.zeros((20, 8, 32), np.float32)
lstm = fastrnn.LSTM(16, 32, seed=0)
trainer = fastrnn.Trainer(lstm, fastrnn.MSE(), fastrnn.Adam(lr=1e-3), clip_norm=1.0)
t = time.perf_counter()
trainer.step(x, targets)
print(time.perf_counter() - t)
"""


def _seconds(code, cache):
    environment = child.environment(THREADS, NUMBA_CACHE_DIR=cache)
    run = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise RuntimeError("the first training step failed")
    return float(run.stdout)


def run(options):
    with tempfile.TemporaryDirectory() as cache:
        _seconds(_IMPORT, cache)  # byte code and file cache
        imports = [_seconds(_IMPORT, cache) for _ in range(options.rounds)]
        cold = _seconds(_STEP, cache)
        warm = [_seconds(_STEP, cache) for _ in range(options.rounds)]
    data = dict(zip(_LIMITS, (cold, statistics.median(warm), statistics.median(imports)), strict=True))
    progress("  " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in data.items()))
    return data


def render(data):
    return table(("", "s"), [[name, f"{seconds:.2f}"] for name, seconds in data.items()])


def verdicts(data):
    for name, limit in _LIMITS.items():
        yield judge_limit(name, limit, data[name], " s")
