"""A language model trained with a gradient that goes one step back, the whole chunk, or further and further."""

import itertools
import math
import time

import numpy as np

import fastrnn
from fastrnn import corpus, language_model

TITLE = "Horizon 1 against full against growing"
SEEDS = (0, 1)

_LANES, _STEPS, _HIDDEN = 16, 128, 128
_RATE, _POWER = 0.01, 0.25
_BATCHES_A_HORIZON = 30  # of growing, before it doubles
_SECONDS, _FIRST, _RATIO = 45.0, 0.5, 1.25  # of training; when the held-out text is first looked at, and then
_HELD_OUT = 16_384  # bytes
_HORIZONS = {  # the horizon in batch n
    "horizon 1": lambda n: 1,
    "full": lambda n: _STEPS,
    "growing": lambda n: min(_STEPS, 2 ** (n // _BATCHES_A_HORIZON)),
}


def _rate(horizon):
    """The learning rate: the gradient of fewer steps is noisier."""
    return _RATE * (horizon / _STEPS) ** _POWER


def _curve(horizon, text, seed, seconds):
    """Points of (seconds of training, bytes read, bits a byte of the held-out text)."""
    model = language_model.build("lstm", embedding=32, hidden=_HIDDEN, seed=seed)
    trainer = fastrnn.Trainer(model, fastrnn.CrossEntropy(), fastrnn.Adam(_RATE), clip_norm=1.0)
    rules = {k: fastrnn.bptt.Truncated(k) for k in {1 << n for n in range(_STEPS.bit_length())}}
    held_out = language_model.evaluation_stream(text.held_out[:_HELD_OUT])
    stream = fastrnn.data.TokenStream(text.training, _LANES, _STEPS)
    points, state, spent, due = [], None, 0.0, _FIRST
    for n, (x, targets) in enumerate(itertools.chain.from_iterable(itertools.repeat(stream))):
        trainer.bptt, trainer.optimizer.lr = rules[horizon(n)], _rate(horizon(n))
        began = time.process_time()  # of one thread: what else runs on the machine does not count
        _, state = trainer.step(x, targets, state)
        spent += time.process_time() - began
        if spent >= due:
            points.append((spent, (n + 1) * x.size, language_model.bits_per_byte(model, held_out)))
            due *= _RATIO
        if spent >= seconds:
            return points
