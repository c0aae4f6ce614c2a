"""`fastrnn info`: what this machine and installation are."""

import platform
import subprocess

import llvmlite
import llvmlite.binding
import numba
import numpy as np

from .. import __version__
from ..kernels.losses import cross_entropy
from ..kernels.parallel import start_threads
from ..kernels.simd import CPU_FEATURES, VECTOR_BYTES
from ..threads import get_num_threads
from .common import add_json, report, styled

_FEATURES_THAT_MATTER = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bf16", "amx-bf16", "neon", "sve")


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "info",
        help="versions, CPU features, threads, cache folder",
        description="Print versions, what the kernels use of this CPU, threads, and where compiled kernels are kept.",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print a line each."""
    start_threads()  # only then is the threading layer settled
    found = {
        "fastrnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_target": llvmlite.binding.get_host_cpu_name(),
        "cpu_features": [name for name in _FEATURES_THAT_MATTER if name in CPU_FEATURES],
        "vector_bytes": VECTOR_BYTES,
        "threads": get_num_threads(),
        "most_threads": numba.config.NUMBA_NUM_THREADS,
        "threading_layer": numba.threading_layer(),
        "kernel_cache": kernel_cache(),
    }
    lines = {
        "fastrnn": found["fastrnn"],
        "Python": found["python"],
        "NumPy": found["numpy"],
        "Numba": found["numba"],
        "llvmlite": found["llvmlite"],
        "system": found["system"],
        "CPU": f"{found['cpu']} ({found['cpu_target']})",
        "CPU features": " ".join(found["cpu_features"]) or "none that matter",
        "vector width": f"{VECTOR_BYTES} bytes: {VECTOR_BYTES // 4} float32, {VECTOR_BYTES // 8} float64",
        "threads": f"{found['threads']} of at most {found['most_threads']}",
        "threading layer": found["threading_layer"],
        "kernel cache": found["kernel_cache"] or "none that can be written: what a process compiles ends with it",
    }
    text = "\n".join(f"{styled(f'{name}:'.ljust(16), 'name')} {value}" for name, value in lines.items())
    report(arguments, found, text)


def kernel_cache() -> str | None:
    """The folder where compiled kernels are kept."""
    return cross_entropy.stats.cache_path


def _cpu_name():
    try:
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return platform.processor() or platform.machine()
