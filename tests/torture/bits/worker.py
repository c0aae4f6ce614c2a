"""A process that trains and sweeps on order, under a threading layer of its own: `python -m tests.torture.bits.worker`.

Orders come in and answers go out as lines of JSON.
"""

import json
import sys
import traceback

import numba

import fastrnn
from fastrnn.kernels import jit

from .. import sharing
from . import sweeps
from .runs import Run


def train(seed, wide, threads, **options):
    """What a run came to, see `Run.train`."""
    fastrnn.set_num_threads(threads)
    return Run(seed, wide).train(**options)


def sweep(**options):
    """What a sweep found, see `sweeps.sweep`; and the kernels that have been at work in this process by now."""
    found = sweeps.sweep(**options)._asdict()
    return found | {"kernels": [".".join(name) for name, kernel in jit._kernels.items() if kernel.overloads]}


_ORDERS = {"train": train, "sweep": sweep}


def main():
    sharing.eager()
    sharing.watch()
    fastrnn.get_num_threads()  # starts them
    print(json.dumps({"result": [numba.threading_layer(), numba.config.NUMBA_NUM_THREADS]}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"result": _ORDERS[order.pop("order")](**order)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
