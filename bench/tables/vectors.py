"""Narrower vectors, forced: the same results to rounding, and their speed."""

import platform
import tempfile

from ..report import Verdict, table
from . import variants

TITLE = "Narrower vectors"
_HASWELL = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+f16c,+fma,+avx2,+bmi,+bmi2,-avx512f"


def _variants(cache):
    forced = {
        "default": {},
        "64 bytes": {"FASTRNN_VECTOR_BYTES": "64"},
        "32 bytes": {"FASTRNN_VECTOR_BYTES": "32"},
        "16 bytes": {"FASTRNN_VECTOR_BYTES": "16"},
    }
    if platform.machine() in ("x86_64", "AMD64"):
        forced["AVX2 code (haswell)"] = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": _HASWELL}
    return {name: v | {"NUMBA_CACHE_DIR": f"{cache}/{i}"} for i, (name, v) in enumerate(forced.items())}


def run(options):
    with tempfile.TemporaryDirectory() as folder:
        return variants.run(options, _variants(folder), folder)


def render(data):
    rows = [row | {"bits": str(8 * row["vector_bytes"])} for row in data]
    intro = "LSTM, float32. `N bytes` sets the width alone; code for AVX2 has half the registers, too."
    return [intro, "", *table(*variants.render(rows, (("bits", "bits"),)))]


def verdicts(data):
    worst = max(row["error"] for row in data)
    widths = sorted({8 * row["vector_bytes"] for row in data})
    measured = f"{worst:.0e} with {', '.join(map(str, widths))} bits"
    yield Verdict("narrower vectors, difference of results", "1e-5", measured, worst <= 1e-5)
