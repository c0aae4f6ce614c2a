"""Byte-level language models: embedding → recurrent layer → linear, how well one predicts a text, and how it writes."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import checks
from .data import TokenStream
from .generation import stream
from .layers import GRU, LSTM, RNN, Dropout, Embedding, Last, Linear, MeanPool
from .losses import CrossEntropy
from .model import Sequential
from .optim import SGD
from .trainer import Trainer

BYTES = 256
CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}

_STEPS = 256  # of a batch when a text is evaluated
_LANES = 4  # parts of a text that are evaluated side by side: faster than one, and hardly any context is lost
_LANE_BYTES = 16_384  # shorter texts get fewer lanes


def build(
    cell: str = "lstm",
    *,
    embedding: int = 64,
    hidden: int = 256,
    layers: int = 1,
    dropout: float = 0.0,
    dtype="float32",
    seed: int = 0,
) -> Sequential:
    """A model of the next byte: (T,B) bytes → (T,B,256) logits.

    cell: "lstm", "gru" or "rnn". embedding, hidden: sizes. layers: recurrent layers.
    dropout: after the embedding, between the recurrent layers and before the output (Zaremba et al. 2014).
    """
    recurrent = CELLS[checks.choice("cell", cell, tuple(CELLS))]
    rngs = np.random.default_rng(checks.integer("seed", seed, minimum=0)).spawn(5)
    members = [
        Embedding(BYTES, embedding, dtype=dtype, seed=rngs[0]),
        Dropout(dropout, dtype=dtype, seed=rngs[1]),
        recurrent(embedding, hidden, layers, dropout=dropout, dtype=dtype, seed=rngs[2]),
        Dropout(dropout, dtype=dtype, seed=rngs[3]),
        Linear(hidden, BYTES, dtype=dtype, seed=rngs[4]),
    ]
    return Sequential(*(layer for layer in members if dropout > 0 or not isinstance(layer, Dropout)))


def check(model: Any) -> None:
    """`ValueError` unless `model` takes bytes one after the other and gives the logits of the next."""
    layers = getattr(model, "layers", ())
    fits = (
        len(layers) > 1
        and isinstance(layers[0], Embedding)
        and layers[0].num_embeddings == BYTES
        and model._output_features(None) == BYTES
        and not model.batch_first
        and not any(isinstance(layer, (Last, MeanPool)) or getattr(layer, "bidirectional", False) for layer in layers)
    )
    if not fits:
        raise ValueError("the model is not a byte-level language model")


def evaluation_stream(text: bytes) -> TokenStream:
    """`text` in batches for `Trainer.evaluate`: every byte after the first is predicted, but for at most 3 at the end.

    `ValueError` for a text of fewer than 2 bytes.
    """
    if len(text) < 2:
        raise ValueError(f"a text must have at least 2 bytes to be evaluated, got {len(text)}")
    lanes = min(_LANES, 1 + len(text) // _LANE_BYTES)
    return TokenStream(text, lanes, min(_STEPS, (len(text) - 1) // lanes))


def bits_per_byte(model: Sequential, batches) -> float:
    """The mean of -log₂ p over the bytes of `batches`, such as an `evaluation_stream`; each p given all bytes before.

    The state is carried over from batch to batch.
    """
    check(model)
    return Trainer(model, CrossEntropy(), SGD(0.0), seed=None).evaluate(batches) / math.log(2)


def generate(
    model: Sequential,
    prime: bytes = b"\n",
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[int]:
    """Bytes that go on from `prime`, one after the other, without end.

    temperature, top_k, top_p, seed: as in `fastrnn.generate`.
    """
    check(model)
    if not prime:
        raise ValueError("prime must have at least one byte")
    start = np.frombuffer(bytes(prime), np.uint8)
    tokens = stream(model, start, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return (int(token) for (token,) in tokens)
