"""aⁿbⁿ with two peephole cells."""

import statistics

import numpy as np

import fastrnn

TITLE = "aⁿbⁿ"
SETUP = """\
S aⁿ bⁿ for n = 1 to 10, all ten in each of 6,000 updates: which of T, a and b may come next? 2 peephole LSTM cells,
three logistic outputs, full BPTT, Adam from 0.03 down to 0 (cosine). Weights begin at 0.3 of PyTorch's, the forget
gates' biases at 5, the peepholes at 0. Of three such nets a seed keeps the one with the lowest training loss, which
counts as one. Normal noise of 0.2 on the one-hot inputs, drawn anew for each update, for counters to become exact:
cells that settle where noise moves them little go on counting. Test without noise: a string is accepted if all
outputs at all its steps are on the right side of ½, and a net is right to n if it accepts every string from 1 to n,
looked at up to n = 500.
"""
GOAL = "right to n ≥ 65, median of the seeds"
PUBLISHED = """\
Gers & Schmidhuber (2001), from the same n = 1 to 10: right to n = 118 on average, to 1,000 at best.
"""
SEEDS = tuple(range(10))

_LARGEST, _TESTED = 10, 500  # n of training and of the test
_NETS, _UPDATES, _NOISE, _SCALE = 3, 6000, 0.2, 0.3


def strings(largest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S aⁿ bⁿ for n = 1 to `largest`.

    Returns the symbols (T,B), 0 for S, 1 for a, 2 for b; what may come next (T,B,3), of T, a, b; the lengths (B,).
    """
    n = np.arange(1, largest + 1)
    step = np.arange(2 * largest + 1)[:, np.newaxis]
    symbols = (step > 0).astype(np.int64) + (step > n)
    legal = np.stack([step == 2 * n, step <= n, (step > 0) & (step < 2 * n)], -1)
    return symbols, legal, 2 * n + 1


def _one_hot(symbols):
    return np.eye(3, dtype=np.float32)[symbols]


def _right_to(model, largest):
    """The n up to which all strings, from n = 1 on, are accepted."""
    symbols, legal, lengths = strings(largest)
    y, _ = model.forward(_one_hot(symbols), lengths=lengths)
    past_the_end = np.arange(len(symbols))[:, np.newaxis] >= lengths
    accepted = (((y > 0) == legal).all(-1) | past_the_end).all(0)
    return largest if accepted.all() else int(accepted.argmin())


def _model(rng):
    """Small weights, forget gates that keep, and no peephole yet."""
    rngs = rng.spawn(2)
    cells, outputs = fastrnn.PeepholeLSTM(3, 2, seed=rngs[0]), fastrnn.Linear(2, 3, seed=rngs[1])
    parameters = {name: _SCALE * array for name, array in cells.state_dict().items()}
    parameters["bias_ih_l0"][2:4], parameters["bias_hh_l0"][2:4] = 5, 0  # gates are in the order i, f, g, o
    parameters["peephole_l0"][...] = 0
    cells.load_state_dict(parameters)
    outputs.load_state_dict({name: _SCALE * array for name, array in outputs.state_dict().items()})
    return fastrnn.Sequential(cells, outputs)


def _train(rng, updates):
    """The mean loss, with noise, of the last tenth of the updates, and the model."""
    model = _model(rng)
    symbols, legal, lengths = strings(_LARGEST)
    x, targets = _one_hot(symbols), legal.astype(np.float32)
    trainer = fastrnn.Trainer(
        model, fastrnn.BinaryCrossEntropy(), fastrnn.Adam(0.03), clip_norm=1.0, schedule=fastrnn.Cosine(updates)
    )
    losses = []
    for _ in range(updates):
        noise = rng.standard_normal(x.shape, np.float32)
        losses.append(trainer.step(x + np.float32(_NOISE) * noise, targets, lengths=lengths)[0])
    return float(np.mean(losses[-updates // 10 :])), model


def run(seed, quick=False):
    """How far the best of a few nets trained on n = 1 to 10 is right."""
    rng = np.random.default_rng(seed)
    nets = [_train(rng, 10 if quick else _UPDATES) for _ in range(_NETS)]
    _, model = min(nets, key=lambda net: net[0])
    return {"right_to": _right_to(model, _TESTED), "all_nets": [_right_to(net, _TESTED) for _, net in nets]}


def summarise(results):
    """Rows and whether the goal is reached."""
    reached = sorted(result["right_to"] for result in results)
    median = statistics.median(reached)
    rows = [
        ("right to n, median", f"{median:g}"),
        ("right to n, worst and best seed", f"{reached[0]} and {reached[-1]} (of {_TESTED})"),
        ("seeds right to n ≥ 65", f"{sum(n >= 65 for n in reached)} of {len(reached)}"),
    ]
    nets = [n for result in results for n in result["all_nets"]]
    rows.append(("of all nets, chosen or not, right to n ≥ 65", f"{sum(n >= 65 for n in nets)} of {len(nets)}"))
    return rows, median >= 65
