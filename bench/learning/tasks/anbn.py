"""aⁿbⁿ with two peephole cells."""

import statistics

import numpy as np

import fastrnn

TITLE = "aⁿbⁿ"
SEEDS = tuple(range(5))

_SYMBOLS = 3  # S, a, b go in, and T, a, b may come next
_LARGEST, _TESTED = 10, 500  # n of training and of the test
_UPDATES = 20_000
_LR, _FB, _HS = 0.01, None, 2


def strings(largest):
    """S aⁿ bⁿ for n = 1 to `largest`: x (T,B), what may come next (T,B,3), and the lengths (B,)."""
    n = np.arange(1, largest + 1)
    steps = np.arange(2 * largest + 1)[:, np.newaxis]
    x = (steps > 0) + (steps > n).astype(np.int64)
    legal = np.stack([steps == 2 * n, steps <= n, (0 < steps) & (steps < 2 * n)], -1)
    return x, legal, 2 * n + 1


def _largest_accepted(model, largest):
    """The n up to which all strings, from n = 1 on, have only right predictions."""
    x, legal, lengths = strings(largest)
    y, _ = model.forward(x, lengths=lengths)
    right = ((y > 0) == legal).all(-1)
    right |= np.arange(len(x))[:, np.newaxis] >= lengths
    accepted = right.all(0)
    return largest if accepted.all() else int(accepted.argmin())


def run(seed, quick=False):
    rngs = np.random.default_rng(seed).spawn(2)
    cell = getattr(fastrnn, "PeepholeLSTM", fastrnn.LSTM)(_SYMBOLS, _HS, seed=rngs[0])
    if _FB is not None:
        p = cell.state_dict(); p["bias_ih_l0"][_HS:2*_HS] = _FB; cell.load_state_dict(p)
    model = fastrnn.Sequential(fastrnn.OneHot(_SYMBOLS), cell, fastrnn.Linear(_HS, _SYMBOLS, seed=rngs[1]))
    x, legal, lengths = strings(_LARGEST)
    targets = legal.astype(np.float32)
    updates = 10 if quick else _UPDATES
    trainer = fastrnn.Trainer(
        model, fastrnn.BinaryCrossEntropy(), fastrnn.Adam(_LR), clip_norm=1.0, schedule=fastrnn.Cosine(updates)
    )
    first = None
    for update in range(updates):
        value, _ = trainer.step(x, targets, lengths=lengths)
        if first is None and update % 100 == 99 and _largest_accepted(model, _LARGEST) == _LARGEST:
            first = update + 1
    return {"largest": _largest_accepted(model, _TESTED), "learnt": first, "loss": value}
def summarise(r): return [],False
