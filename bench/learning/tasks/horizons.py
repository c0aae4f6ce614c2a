"""A language model trained with a gradient that goes one step back, the whole chunk, or further and further."""

import functools
import itertools
import time

import numpy as np

import fastrnn
from fastrnn import bptt, corpus, language_model

TITLE = "Horizon 1 against full against growing"
SETUP = """\
Byte-level language model on the standard library's sources: embedding 32, LSTM 128, softmax over 256; chunks of 128
steps of 16 lanes, the state carried from chunk to chunk. Horizon 1: a gradient of one step and an update after every
step, `Online()`; full: through the whole chunk, one update, `Full()`; growing: an update after every k steps, k = 1 for
10 chunks, 2 for 10, and so on up to 128, `Growing(1, 128, every=10)`. Adam at 0.01·(k/128)^¼, near the best of a few
rates for k = 1 and for k = 128. Time is the training's on one core; judged by the bits a byte of 16,384 held-out bytes,
where up to 0.05 apart, as far as the seeds, is a tie.
"""
GOAL = "the three curves in one plot, and what holds of it: horizon 1 leads early, full wins, growing is fastest"
PUBLISHED = "none; the claim is a rule of thumb."
SEEDS = (0, 1)

_LANES, _STEPS = 16, 128
_RATE, _POWER = 0.01, 0.25
_SECONDS, _FIRST, _RATIO = 30.0, 0.5, 1.25  # of training; when the held-out text is first looked at, and how on
_HELD_OUT = 16_384  # bytes
_RULES = {
    "horizon 1": bptt.Online,
    "full": bptt.Full,
    "growing": functools.partial(bptt.Growing, 1, _STEPS, factor=2, every=10),
}
_TIE = 0.05  # bits a byte, as much as seeds differ


def _rate(rule):
    """The learning rate: the gradient of fewer steps is noisier."""
    match rule:
        case bptt.Growing():
            horizon = rule.horizon
        case bptt.Online():
            horizon = 1
        case bptt.Full():
            horizon = _STEPS
    return _RATE * (horizon / _STEPS) ** _POWER


def _curve(rule, text, seed, seconds):
    """Points (seconds of training, bytes read, bits a byte of the held-out text)."""
    model = language_model.build("lstm", embedding=32, hidden=128, seed=seed)
    trainer = fastrnn.Trainer(model, fastrnn.CrossEntropy(), fastrnn.Adam(_RATE), clip_norm=1.0, bptt=rule)
    held_out = language_model.evaluation_stream(text.held_out[:_HELD_OUT])
    stream = fastrnn.data.TokenStream(text.training, _LANES, _STEPS)
    points, state, spent, due = [], None, 0.0, _FIRST
    for n, (x, targets) in enumerate(itertools.chain.from_iterable(itertools.repeat(stream))):
        trainer.optimizer.lr = _rate(rule)
        began = time.process_time()  # of one thread: what else runs on the machine does not count
        _, state = trainer.step(x, targets, state)
        spent += time.process_time() - began
        if spent >= min(due, seconds):
            points.append((spent, (n + 1) * x.size, language_model.bits_per_byte(model, held_out)))
            due *= _RATIO
        if spent >= seconds:
            return points


def run(seed, quick=False):
    """A curve for each rule, from the same initial weights and on the same text."""
    text = corpus.load()
    warm = 2 * _FIRST  # compiled kernels are loaded outside the measured time
    for rule in _RULES.values():
        _curve(rule(), text, seed, warm / 10)
    return {name: _curve(rule(), text, seed, warm if quick else _SECONDS) for name, rule in _RULES.items()}


def _bits(results, name, seconds):
    """The mean over the seeds of a rule's bits a byte after so many seconds, between the points by their logarithm."""
    curves = [np.array(result[name]) for result in results]
    return np.mean([np.interp(np.log(seconds), np.log(curve[:, 0]), curve[:, 2]) for curve in curves], axis=0)


def _spans(ahead, seconds):
    """When something holds, in words."""
    spans = []
    for holds, steps in itertools.groupby(range(len(seconds)), key=lambda i: bool(ahead[i])):
        steps = list(steps)
        if holds:
            spans.append(f"{seconds[steps[0]]:.1f} to {seconds[steps[-1]]:.1f} s")
    return ", ".join(spans) or "never"


def summarise(results):
    """Rows; the goal is a plot and a statement, so it is reached."""
    first = max(points[0][0] for result in results for points in (result[name] for name in _RULES))
    last = min(result[name][-1][0] for result in results for name in _RULES)
    seconds = np.geomspace(first, last, 60)
    bits = {name: _bits(results, name, seconds) for name in _RULES}
    leads = [
        f"{name} ahead of {other} {_spans(bits[name] < bits[other] - _TIE, seconds)}"
        for name, other in (("horizon 1", "full"), ("growing", "full"), ("full", "growing"))
    ]
    rows = [("by time", "; ".join(leads))]
    for i in np.linspace(0, len(seconds) - 1, 5).astype(int):
        text = ", ".join(f"{name} {bits[name][i]:.2f}" for name in _RULES)
        rows.append((f"bits a byte after {seconds[i]:.1f} s", text))
    return rows, True


def draw(results, path):
    """The curves over time, and over the bytes read."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axis, column, label in zip(axes, (0, 1), ("seconds of training", "bytes read"), strict=True):
        for color, name in zip(("C0", "C1", "C2"), _RULES, strict=True):
            for i, result in enumerate(results):
                points = np.array(result[name])
                axis.plot(points[:, column], points[:, 2], color, alpha=0.8, label=None if i else name)
        axis.set(xscale="log", xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held-out text, bits a byte")
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
