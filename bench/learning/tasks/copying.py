"""Copying memory: ten symbols are to be written after a long delay."""

import math

import numpy as np

import fastrnn

from ..training import DECAY, decay_at_the_end, train

CLASSES, COPIED, DELAY = 8, 10, 100
BLANK, BEGIN = CLASSES, CLASSES + 1
SYMBOLS = CLASSES + 2
STEPS = DELAY + 2 * COPIED
BASELINE = COPIED * math.log(CLASSES) / STEPS
HIDDEN, BATCH, TEST_SEQUENCES = 128, 16, 2000
UPDATES, QUICK_UPDATES, EVERY = 6000, 20, 250
LEARNING_RATE = 5e-3
TITLE = "Copying memory"
SETUP = f"""\
{COPIED} random symbols out of {CLASSES}, {DELAY - 1} blanks, a sign to begin, {COPIED} blanks; to be written are blanks
up to the sign, and after it the {COPIED} symbols: T = {DELAY}, {STEPS} steps, all of them in the loss. Without memory
the best cross-entropy is 10·ln 8/(T + 20) = {BASELINE:.4f}. GRU with {HIDDEN} units, orthogonal recurrent weights
(Saxe et al. 2014) and chrono initialisation (Tallec & Ollivier 2018: the update gate's bias is log u with u from
U(1, {STEPS}), other biases 0); {UPDATES} updates by Adam with {BATCH} fresh sequences each, learning rate
{LEARNING_RATE:g}, falling to 0 over the last {DECAY:.0%}, clipped to norm 1. No curriculum. The test has
{TEST_SEQUENCES} other sequences."""
GOAL = f"mean cross-entropy of all steps below a tenth of the baseline without memory, {BASELINE / 10:.5f}"
PUBLISHED = """\
as plots, without figures, and as we remember them. Arjovsky et al. 2016: the unitary RNN learns it, the LSTM beats the
baseline only at T = 100. Tallec & Ollivier 2018: with chrono initialisation an LSTM learns it at T = 500 and 2,000,
with a forget bias of 1 it stays at the baseline."""
SEEDS = (0, 1, 2)


def sequences(rng, count):
    """Symbols x and targets (T,B)."""
    copied = rng.integers(0, CLASSES, (COPIED, count))
    symbols, targets = np.full((2, STEPS, count), BLANK)
    symbols[:COPIED], targets[-COPIED:] = copied, copied
    symbols[-COPIED - 1] = BEGIN
    return {"x": symbols, "targets": targets}


def _set_chrono_bias(gru, rng):
    """Set the update gate's bias to log u, u from U(1, STEPS): a unit then forgets within about u + 1 steps."""
    weights = gru.state_dict()
    weights["bias_ih_l0"][HIDDEN : 2 * HIDDEN] = np.log(rng.uniform(1, STEPS, HIDDEN))  # of the gates r, z, n
    gru.load_state_dict(weights)


def run(seed, quick=False):
    """The learning curve, a list of (updates, test loss), and the share of copied symbols that are right."""
    updates = QUICK_UPDATES if quick else UPDATES
    rng = np.random.default_rng(seed)
    test = sequences(rng, TEST_SEQUENCES)
    layer = fastrnn.GRU(SYMBOLS, HIDDEN, seed=rng, init={"weight_hh": "orthogonal", "bias": "zeros"})
    _set_chrono_bias(layer, rng)
    model = fastrnn.Sequential(layer, fastrnn.Linear(HIDDEN, SYMBOLS, seed=rng))
    trainer = fastrnn.Trainer(
        model,
        fastrnn.CrossEntropy(),
        fastrnn.Adam(LEARNING_RATE),
        clip_norm=1.0,
        schedule=decay_at_the_end(updates),
    )
    curve = train(trainer, lambda: sequences(rng, BATCH), updates, lambda: trainer.evaluate([test]), EVERY)
    y, _ = model.forward(test["x"])
    right = y[-COPIED:].argmax(axis=-1) == test["targets"][-COPIED:]
    return {"curve": curve, "right": float(np.mean(right))}


def summarise(results):
    losses = [result["curve"][-1][1] for result in results]
    below = [next((n for n, loss in result["curve"] if loss < BASELINE / 10), None) for result in results]
    rows = [
        ("largest cross-entropy", f"{max(losses):.5f}, {max(losses) / BASELINE:.1%} of the baseline"),
        ("cross-entropy by seed", ", ".join(f"{loss:.5f}" for loss in losses)),
        ("copied symbols right by seed", ", ".join(f"{result['right']:.2%}" for result in results)),
        ("sequences until below", ", ".join("–" if n is None else f"{n * BATCH:,}" for n in below)),
    ]
    return rows, max(losses) < BASELINE / 10


def draw(results, path):
    """Test loss by updates, a line a seed, and the baseline."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for result in results:
        axis.plot(*zip(*result["curve"], strict=True), lw=1, label=f"seed {result['seed']}")
    for loss, text in ((BASELINE, "without memory"), (BASELINE / 10, "goal")):
        axis.axhline(loss, color="gray", ls=":", lw=1)
        axis.annotate(text, (0, loss), fontsize=8, va="bottom")
    axis.set(
        xlabel=f"updates of {BATCH} sequences", ylabel="mean cross-entropy of the test", yscale="log", xlim=(0, None)
    )
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
