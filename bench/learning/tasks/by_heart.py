"""A text learnt by heart, with the state carried through it."""

import pathlib

import numpy as np

import fastrnn
from fastrnn import language_model

TITLE = "A text by heart"
SETUP = """\
The first chapter of *Alice's Adventures in Wonderland* (`bench/learning/data/alice.txt`, 11,320 bytes), byte by byte:
embedding 64, LSTM 256, softmax over 256. The text is read 100 times from its beginning, the state carried through
each reading, truncated after k steps; k is drawn from 64 to 128 for each reading, for no byte must always be the
first of its chunk. Adam from 0.005 down to 0 (cosine). Then the net is given the first 16 bytes and runs free: every
byte it takes to be the likeliest is its next input.
"""
GOAL = "at least 10,000 bytes without an error, on every seed"
PUBLISHED = "none; the task is this project's own."
SEEDS = (0, 1, 2)

_TEXT = pathlib.Path(__file__).parent.parent / "data" / "alice.txt"
_READINGS, _CHUNKS, _GIVEN = 100, (64, 128), 16


def _bytes_right(model, text):
    """The number of bytes from the text's beginning to the first that differs, those given at first included."""
    symbols = np.frombuffer(text, np.uint8)
    written = fastrnn.generate(model, symbols[:_GIVEN], len(symbols) - _GIVEN, temperature=0)
    wrong = written != symbols[_GIVEN:]
    return _GIVEN + int(wrong.argmax() if wrong.any() else len(wrong))


def run(seed, quick=False):
    """Train, then let it write."""
    text = _TEXT.read_bytes()
    model = language_model.build("lstm", embedding=64, hidden=256, seed=seed)
    chunks = np.random.default_rng(seed).integers(*_CHUNKS, size=1 if quick else _READINGS, endpoint=True)
    readings = [fastrnn.data.TokenStream(text, 1, int(chunk)) for chunk in chunks]
    schedule = fastrnn.Cosine(sum(len(reading) for reading in readings))
    trainer = fastrnn.Trainer(model, fastrnn.CrossEntropy(), fastrnn.Adam(0.005), clip_norm=1.0, schedule=schedule)
    for reading in readings:
        trainer.fit(reading, progress=False)
    loss = trainer.evaluate(fastrnn.data.TokenStream(text, 1, _CHUNKS[1]))
    return {"right": _bytes_right(model, text), "bytes": len(text), "loss": loss}


def summarise(results):
    """Rows and whether the goal is reached."""
    fewest = min(result["right"] for result in results)
    whole = sum(result["right"] == result["bytes"] for result in results)
    rows = [
        ("bytes without an error", f"{fewest:,} of {results[0]['bytes']:,} on the worst seed"),
        ("seeds with the whole text right", f"{whole} of {len(results)}"),
        ("cross-entropy a byte, in nats", f"{max(result['loss'] for result in results):.4f} at most"),
    ]
    return rows, fewest >= 10_000
