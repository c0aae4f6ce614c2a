"""What every rule of truncation costs: time and memory of training a small language model."""

import contextlib
import gc
import tracemalloc

import numpy as np

import fastrnn
from fastrnn.bptt import Checkpointed, Feedback, Full, Growing, Online, Randomized, Truncated, Windowed

from ..report import table
from ..timing import alternate

STEPS, BATCH, UNITS, TOKENS = 1000, 8, 64, 64
K = 20
RULES = (
    Full,
    Checkpointed,
    lambda: Truncated(K),
    lambda: Windowed(K),
    lambda: Windowed(2 * K, K),
    lambda: Randomized(1 / K),
    Online,
    lambda: Growing(K, 8 * K, every=1000),
    lambda: Feedback(0.5),
)
ROUNDS = 3


def run(_):
    """A table of time and memory of a batch by rule, on one thread."""
    tokens = np.random.default_rng(0).integers(0, TOKENS, (STEPS + 1, BATCH))
    x, targets = tokens[:-1], tokens[1:]
    with _one_thread():
        trainers = {repr(make()): _trainer(make()) for make in RULES}
        for trainer in trainers.values():
            trainer.step(x, targets)
        updates = {name: trainer.updates for name, trainer in trainers.items()}
        calls = {name: lambda trainer=trainer: trainer.step(x, targets) for name, trainer in trainers.items()}
        ms = {name: timing.seconds * 1e3 for name, timing in alternate(calls, ROUNDS).items()}
        memory = [_peak(make(), x, targets) / 2**20 for make in RULES]
    rows = [
        [f"`{name}`", str(updates[name]), ms[name], ms[name] / updates[name], mib]
        for name, mib in zip(trainers, memory, strict=True)
    ]
    return {"rules": table(["rule", "updates a batch", "ms a batch", "ms an update", "MiB"], rows)[:-1]}


@contextlib.contextmanager
def _one_thread():
    threads = fastrnn.get_num_threads()
    fastrnn.set_num_threads(1)
    try:
        yield
    finally:
        fastrnn.set_num_threads(threads)


def _trainer(rule):
    model = fastrnn.Sequential(fastrnn.LSTM(TOKENS, UNITS, seed=0), fastrnn.Linear(UNITS, TOKENS, seed=1))
    return fastrnn.Trainer(model, fastrnn.CrossEntropy(), fastrnn.SGD(1e-3), bptt=rule)


def _peak(rule, x, targets):
    """The most bytes that a first batch takes beyond `x`, `targets` and the model."""
    trainer = _trainer(rule)
    gc.collect()
    tracemalloc.start()
    trainer.step(x, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
