"""Measurements in processes of their own: thread counts must be set before a library is loaded.

`python -m bench.child MODULE:FUNCTION` calls the function with keyword arguments read as JSON from stdin, and writes
what it returns as JSON to stdout.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys

from .checks import Void

_VOID = 3  # exit status
_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "XLA_", "FASTRNN_")  # the caller's own would mix in


def environment(threads, **more):
    """The caller's environment, but `threads` threads for every library; `more` variables, None to remove one."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_VARIABLES) and name not in ("NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER")
    }
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
    variables |= dict.fromkeys(names, str(threads)) | {"JAX_PLATFORMS": "cpu"}
    if threads == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    variables |= more
    return {name: value for name, value in variables.items() if value is not None}


def run(function, process_threads, variables=None, **arguments):
    """What `function`, of a module of this package, returns for `arguments` in a new process of so many threads.

    `variables`: further ones of its environment. `Void` passes through.
    """
    process = subprocess.run(
        [sys.executable, "-m", __name__, f"{function.__module__}:{function.__qualname__}"],
        input=json.dumps(arguments),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(process_threads, **(variables or {})),
        cwd=pathlib.Path(__file__).parent.parent,
    )
    if process.returncode == _VOID:
        raise Void(process.stdout)
    if process.returncode:
        raise RuntimeError(f"{function.__module__}.{function.__qualname__} ended with status {process.returncode}")
    return json.loads(process.stdout)


def main():
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints
    module, name = sys.argv[1].split(":")
    function = getattr(importlib.import_module(module), name)
    try:
        json.dump(function(**json.load(sys.stdin)), out)
    except Void as error:
        out.write(str(error))
        out.flush()
        raise SystemExit(_VOID) from None
    out.close()


if __name__ == "__main__":
    main()
