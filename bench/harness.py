"""How things are timed: warm, interleaved, medians, and against what the machine can do."""

import platform
import statistics
import time

import numba
import numpy as np

import fastrnn
from fastrnn.kernels.gemm import panel_product
from fastrnn.kernels.jit import kernel, subroutine
from fastrnn.kernels.parallel import in_parallel
from fastrnn.kernels.simd import VECTOR_BYTES, panel_width
from fastrnn.parameters import aligned_zeros


def interleaved(functions, *, seconds=2.0, least=5, most=200):
    """Median seconds of each of `functions`, called in turn so that all see the same moods of the machine."""
    for function in functions:
        function()
        function()
    once = 0.0
    for function in functions:
        start = time.perf_counter()
        function()
        once += time.perf_counter() - start
    times = [[] for _ in functions]
    for _ in range(max(least, min(most, int(seconds / once)))):
        for function, record in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


@subroutine
def _multiply_part(part, rounds, rows, depth, width, out, a, b):
    for _ in range(rounds):
        at = part * rows * width
        panel_product(rows, out, at, width, out, at, width, a, 0, rows * width, width, depth, b, 0)


@kernel
def _multiply(parts, rounds, rows, depth, width, out, a, b):
    in_parallel(_multiply_part, parts, (rounds, rows, depth, width, out, a, b))


def peak_gflops(dtype="float32"):
    """The machine's multiply-add rate in GFLOP/s on the threads in use, by tile products that stay in the L1 cache."""
    dtype = np.dtype(dtype)
    width, rows, depth, rounds = panel_width(dtype), 12, 128, 5000
    parts = fastrnn.get_num_threads()
    out, a, b = (aligned_zeros(n, dtype) for n in (parts * rows * width, rows * depth, depth * width))
    arguments = (parts, rounds, rows, depth, width, out, a, b)
    (seconds,) = interleaved([lambda: _multiply(*arguments)], seconds=0.5)
    return 2 * parts * rounds * rows * depth * width / seconds / 1e9


def machine():
    """One line on CPU, threads and versions."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{name}, {8 * VECTOR_BYTES}-bit vectors, {fastrnn.get_num_threads()} threads, Python "
        f"{platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__}"
    )
