"""`python -m bench.cold_start`: seconds from nothing to a first training step, compiled anew and from the cache."""

import os
import statistics
import subprocess
import sys
import tempfile

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
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(run.stdout)


def main():
    with tempfile.TemporaryDirectory() as cache:
        _seconds(_IMPORT, cache)  # byte code and file cache
        print(f"import fastrnn: {statistics.median(_seconds(_IMPORT, cache) for _ in range(5)):.2f} s")
        print(f"first training step of an LSTM, empty cache: {_seconds(_STEP, cache):.2f} s")
        print(f"the same in a new process: {statistics.median(_seconds(_STEP, cache) for _ in range(5)):.2f} s")


if __name__ == "__main__":
    main()
