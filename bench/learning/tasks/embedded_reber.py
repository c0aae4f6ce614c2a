"""The embedded Reber grammar, learnt online."""

import itertools
import statistics

import numpy as np

import fastrnn

from .. import reber

TITLE = "Embedded Reber grammar"
SETUP = """\
Next symbol out of 7 by one-hot input, LSTM 8 and softmax; 256 random strings for training and 256 for the test.
Online: each update is by one string drawn from the training set, full BPTT, Adam at 0.01. A prediction is legal if
the k symbols that may come next have the k largest outputs; a seed has learnt the grammar when all predictions on all
strings of both sets are legal, which is looked at after every 100 updates.
"""
GOAL = "legal on 10 of 10 seeds; mean below 8,440 training strings"
PUBLISHED = """\
as we remember Hochreiter & Schmidhuber (1997), experiment 1: LSTM after 8,440 strings (their fastest setting with 100 %
success), recurrent cascade correlation 182,000 with 50 % success, RTRL 25,000 or more with "some fraction", Elman nets
never.
"""
SEEDS = tuple(range(10))

_SET = 256
_MOST, _EVERY = 20_000, 100  # updates, and how many between two tests


def _batch(strings):
    """Inputs (T,B), lengths (B,), and what may come next (T,B,7) of strings."""
    x, lengths = fastrnn.data.pad([symbols[:-1] for symbols, _ in strings])
    legal = np.zeros((*x.shape, len(reber.SYMBOLS)), bool)
    for row, (_, string) in enumerate(strings):
        legal[: len(string) - 1, row] = string[1:]
    return x, lengths, legal


def _all_legal(model, x, lengths, legal):
    y, _ = model.forward(x, lengths=lengths)
    valid = np.arange(len(x))[:, np.newaxis] < lengths
    return bool(reber.predicted(y, legal)[valid].all())


def run(seed, quick=False):
    """Train until all is legal; the number of strings that took, None if it never was."""
    rng = np.random.default_rng(seed)
    strings = [reber.embedded(rng) for _ in range(2 * _SET)]
    everything = _batch(strings)
    size, rngs = len(reber.SYMBOLS), rng.spawn(2)
    model = fastrnn.Sequential(fastrnn.LSTM(size, 8, seed=rngs[0]), fastrnn.Linear(8, size, seed=rngs[1]))
    trainer = fastrnn.Trainer(model, fastrnn.CrossEntropy(), fastrnn.Adam(0.01), clip_norm=1.0)
    for count in itertools.count(1):
        symbols, _ = strings[rng.integers(_SET)]
        trainer.step(symbols[:-1, np.newaxis], symbols[1:, np.newaxis])
        if count % _EVERY == 0 and _all_legal(model, *everything):
            return {"strings": count}
        if count == (_EVERY if quick else _MOST):
            return {"strings": None}


def summarise(results):
    """Rows and whether the goal is reached."""
    counts = [result["strings"] for result in results]
    legal = [count for count in counts if count is not None]
    rows = [("seeds with every prediction legal", f"{len(legal)} of {len(counts)}")]
    if legal:
        rows.append(("training strings, mean", f"{statistics.mean(legal):,.0f}"))
        rows.append(("fewest to most", f"{min(legal):,} to {max(legal):,}"))
    return rows, len(legal) == len(counts) and statistics.mean(legal) < 8440
