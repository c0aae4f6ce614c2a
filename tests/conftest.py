"""What all tests share."""

import gc
import os
import signal

from hypothesis import settings

import fastrnn

# Compiling takes seconds the first time, so no deadline; a failure in CI must come back when it is run again.
settings.register_profile("fastrnn", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("fastrnn")

# Whole files go to the workers (`--dist loadfile`). The slowest begin first, for the workers to end together.
SLOWEST = [
    "test_recurrent_options", "test_narrow_vectors", "test_docs", "test_recurrence", "test_njit", "test_layers",
    "test_step", "test_contract", "test_memory", "test_estimators_checks", "test_forecaster", "test_torch_parity",
    "test_interop_torch", "test_options", "test_interop_onnx_export", "test_out", "test_torture",
]  # fmt: skip


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; tests raise it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: tests of several threads ask for them
        fastrnn.set_num_threads(1)
    config.option.loadscopereorder = False  # or pytest-xdist would begin with the files of the most tests


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SLOWEST.index(item.path.stem) if item.path.stem in SLOWEST else len(SLOWEST))


def pytest_collection_finish():
    gc.freeze()  # libraries and tests: to look through them over and over while kernels are compiled takes long
    gc.set_threshold(50_000)  # and so does to look often
