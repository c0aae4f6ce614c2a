"""What truncation, clipping and gates come to in training."""

import numpy as np

import fastrnn
from fastrnn.bptt import Full, Truncated
from fastrnn.diagnostics import WatchGradients

from ..report import table
from .networks import HIDDEN, INPUTS

DELAY, STEPS, BATCH, BATCHES = 10, 60, 16, 400
WATCHED_BATCHES = 1500
ADDING_STEPS = 50
CLIP_BATCHES, RATES = 200, (0.003, 0.01, 0.03, 0.1)


def run(images):
    """Two pictures and three tables."""
    return {
        "delay": _delay(),
        "clipping": _clipping(),
        "watch": _watch(images / "watch.png"),
    }


def delayed(rng):
    """A batch: noise, and the first of its numbers again `DELAY` steps later, the echo."""
    x = rng.standard_normal((STEPS, BATCH, INPUTS), np.float32)
    targets = np.zeros((STEPS, BATCH, 1), np.float32)
    targets[DELAY:] = x[:-DELAY, :, :1]
    mask = np.arange(STEPS)[:, np.newaxis].repeat(BATCH, 1) >= DELAY
    return {"x": x, "targets": targets, "mask": mask}


def _delay():
    """An echo after `DELAY` steps, by rules of truncation."""
    rows = []
    rules = [(Truncated(k), BATCHES) for k in (1, 5, 10, 20, 30)] + [(Full(), BATCHES), (Full(), 3 * BATCHES)]
    for rule, batches in rules:
        rng = np.random.default_rng(0)
        trainer = echo_trainer(rule)
        trainer.fit([delayed(rng) for _ in range(batches)], progress=False)
        error = trainer.evaluate([delayed(rng) for _ in range(10)])
        rows.append([f"`{rule!r}`", str(batches), str(trainer.updates), f"{error:.3f}"])
    return table(["rule", "batches", "updates", "mean squared error on new sequences"], rows)[:-1]


def echo_trainer(rule, dtype="float32"):
    """A trainer of an LSTM that is to learn the echo."""
    net = fastrnn.Sequential(
        fastrnn.LSTM(INPUTS, 32, dtype=dtype, seed=0), fastrnn.Linear(32, 1, dtype=dtype, seed=1)
    )
    return fastrnn.Trainer(net, fastrnn.MSE(), fastrnn.Adam(lr=5e-3), bptt=rule, clip_norm=1.0)


def _adding(rng, steps=ADDING_STEPS):
    """The adding problem (Hochreiter & Schmidhuber 1997): the sum of the two marked of many numbers."""
    x = np.zeros((steps, BATCH, 2), np.float32)
    x[..., 0] = rng.random((steps, BATCH))
    marks = rng.integers(0, steps // 2, (2, BATCH)) + [[0], [steps // 2]]
    x[marks, np.arange(BATCH), 1] = 1
    return x, x[marks, np.arange(BATCH), 0].sum(0)[:, np.newaxis]


def _many_to_one(layer, seed=1):
    return fastrnn.Sequential(layer, fastrnn.Last(), fastrnn.Linear(layer.hidden_size, 1, seed=seed))


def _clipping():
    """A ReLU RNN that begins as the identity on the adding problem, by SGD with and without clipping."""
    rows = []
    for rate in RATES:
        cells = [f"{rate:g}"]
        for clip_norm in (None, 1.0):
            rng = np.random.default_rng(0)
            layer = fastrnn.RNN(2, HIDDEN, nonlinearity="relu", init={"weight_hh": "identity"}, seed=0)
            trainer = fastrnn.Trainer(_many_to_one(layer), fastrnn.MSE(), fastrnn.SGD(rate), clip_norm=clip_norm)
            history = trainer.fit([_adding(rng) for _ in range(CLIP_BATCHES)], progress=False)
            loss = np.mean([record["loss"] for record in history[-20:]])
            largest = np.nanmax([record["grad_norm"] for record in history])
            cells += [f"{loss:.3g}" if np.isfinite(loss) else "not finite", f"{largest:.2g}"]
        rows.append(cells)
    header = ["rate", "loss, not clipped", "largest norm", "loss, clip_norm=1", "largest norm before clipping"]
    return table(header, rows)[:-1]


def _watch(path):
    """How the gradient of an LSTM comes to reach as far as the echo while it learns it."""
    rng = np.random.default_rng(0)
    watch = WatchGradients(delayed(rng), every=100, path=path, max_lag=40)
    batches = [delayed(rng) for _ in range(WATCHED_BATCHES)]
    history = echo_trainer(Full()).fit(batches, callbacks=watch, progress=False)
    rows = []
    for index in np.linspace(0, len(watch.flows) - 1, 6).astype(int):
        (layer,) = watch.flows[index].layers
        update = watch.updates[index]
        near = np.mean([record["loss"] for record in history[max(0, update - 20) : update]])
        ratios = (f"{layer.lag_norms[k - 1] / layer.lag_norms[0]:.1e}" for k in (DELAY, 2 * DELAY))
        rows.append([str(update), f"{near:.3f}", f"{np.median(layer.singular_values):.2f}", *ratios])
    header = ["update", "loss", "median ‖∂s_t/∂s_{t−1}‖", f"k = {DELAY} over k = 1", f"k = {2 * DELAY} over k = 1"]
    return table(header, rows)[:-1]
