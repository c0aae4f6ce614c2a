"""The adding problem: two marked numbers of a long sequence are to be added."""

import time

import numpy as np

import fastrnn

TITLE = "Adding problem"
SEEDS = (0, 1, 2, 3, 4)
STEPS, BATCH, TEST, UPDATES, QUICK_UPDATES = 100, 32, 4000, 10_000, 50
SETUP = f"""\
Sequences of {STEPS} steps and two inputs: a number from U[0, 1], and a marker that is 1 at one step of the first half
and at one of the second, 0 elsewhere. The target, at the end, is the sum of the two marked numbers. Always predicting
the mean 1 has an error of 1/6; knowing one of the addends, 1/12."""
GOAL = "MSE < 0.005 on 5 of 5 seeds, LSTM with 8 units, batch 32; a tanh RNN of the same budget stays above 0.05"
PUBLISHED = """\
Hochreiter & Schmidhuber 1997"""


def sequences(rng, count):
    """x (T,B,2) and targets (B,1), float32."""
    rows = np.arange(count)
    x = np.zeros((STEPS, count, 2), np.float32)
    x[:, :, 0] = rng.random((STEPS, count), np.float32)
    marked = rng.integers(0, STEPS // 2, count), rng.integers(STEPS // 2, STEPS, count)
    for steps in marked:
        x[steps, rows, 1] = 1
    targets = sum(x[steps, rows, 0] for steps in marked)
    return x, targets[:, np.newaxis]


def run(seed, quick=False):
    raise NotImplementedError


def summarise(results):
    return [("nothing", "")], False
