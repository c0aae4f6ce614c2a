"""Numba's threading layers, each for a process of its own."""

import os
import pathlib
import sys

LAYERS = "omp", "workqueue", "tbb"
MISSING = "No threading layer could be loaded"  # Numba's words, in what such a process prints


def environment(layer, threads):
    """The variables of a process that has `threads` threads of this layer, or ends with `MISSING`."""
    libraries = [str(pathlib.Path(sys.prefix) / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]  # where pip puts TBB
    return {
        **os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": str(threads),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }  # fmt: skip
