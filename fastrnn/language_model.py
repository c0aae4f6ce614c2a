"""Language models of bytes or words: (embedding →) recurrent layer → linear, how well one predicts, how it writes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import checks, init, words
from .data import TokenStream
from .generation import check_stepwise, stream
from .layers import GRU, LSTM, RNN, Dropout, Embedding, Linear
from .losses import CrossEntropy
from .model import Sequential
from .optim import SGD
from .trainer import Trainer

BYTES = 256
CELLS: dict[str, type[LSTM] | type[GRU] | type[RNN]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}

_STEPS = 256  # of a batch when a text is evaluated
_LANES = 4  # parts of a text that are evaluated side by side: faster than one, and hardly any context is lost
_LANE_BYTES = 16_384  # shorter texts get fewer lanes
_LARGEST_LOSS = 709.0  # whose exp is a float


def build(
    cell: str = "lstm",
    *,
    vocabulary: int = BYTES,
    embedding: int = 64,
    hidden: int = 256,
    layers: int = 1,
    dropout: float = 0.0,
    dtype="float32",
    seed: int = 0,
) -> Sequential:
    """A model of the next token: (T,B) tokens → (T,B,V) logits.

    cell: "lstm", "gru" or "rnn". vocabulary: V, the number of tokens. hidden: size. layers: recurrent layers.
    embedding: size; 0 for none, the tokens going straight into the recurrent layer.
    dropout: after the embedding, between the recurrent layers and before the output (Zaremba et al. 2014).
    """
    recurrent = CELLS[checks.choice("cell", cell, tuple(CELLS))]
    embedding = checks.integer("embedding", embedding, minimum=0)
    rngs = np.random.default_rng(checks.integer("seed", seed, minimum=0)).spawn(5)
    members = [
        *_embedding(vocabulary, embedding, dropout, dtype, *rngs[:2]),
        recurrent(embedding or vocabulary, hidden, layers, dropout=dropout, dtype=dtype, seed=rngs[2]),
        Dropout(dropout, dtype=dtype, seed=rngs[3]),
        Linear(hidden, vocabulary, dtype=dtype, seed=rngs[4]),
    ]
    return Sequential(*(layer for layer in members if dropout > 0 or not isinstance(layer, Dropout)))


def _embedding(vocabulary, size, dropout, dtype, rng, dropout_rng):
    """The layers before the recurrent one."""
    if size == 0:
        return []
    return [Embedding(vocabulary, size, dtype=dtype, seed=rng), Dropout(dropout, dtype=dtype, seed=dropout_rng)]


def check(model: Any, vocabulary: int = BYTES) -> None:
    """`ValueError` unless `model` takes tokens one after the other and gives the logits of the next."""
    layers = getattr(model, "layers", ())
    try:
        fits = (
            len(layers) > 1
            and _takes_tokens(model, vocabulary)
            and model._output_features(None) == vocabulary
            and not model.batch_first
        )
        check_stepwise(model, "a language model")
    except (TypeError, ValueError):
        fits = False
    if not fits:
        kind = "byte-level" if vocabulary == BYTES else f"{vocabulary}-word"
        raise ValueError(f"the model is not a {kind} language model")


def _takes_tokens(model, count):
    """Whether the tokens that `model` takes are those below `count`."""
    model._check_input(np.zeros((1, 1), np.int64))
    model._check_values("x", np.full((1, 1), count - 1), None)
    try:
        model._check_values("x", np.full((1, 1), count), None)
    except ValueError:
        return True
    return False


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


def perplexity(model: Sequential, batches) -> float:
    """exp of the mean of -log p over the tokens of `batches`, such as `words.SentenceBatches`, each p given all tokens
    of its sentence before."""
    return perplexity_of(Trainer(model, CrossEntropy(), SGD(0.0), seed=None).evaluate(batches))


def perplexity_of(loss: float) -> float:
    """exp(loss), for a mean of -log p; of losses too large for that, the largest that can be written."""
    return math.exp(min(loss, _LARGEST_LOSS))


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


def generate_sentences(
    model: Sequential,
    vocabulary: words.Vocabulary,
    prime: Sequence[int] = (),
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[int]:
    """Tokens of sentences, one after the other, without end: the first goes on from the tokens `prime`, and after each
    `words.END` another one begins. `words.START` and `words.UNKNOWN` never come.

    temperature, top_k, top_p, seed: as in `fastrnn.generate`.
    """
    check(model, len(vocabulary))
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": init.generator(seed)}

    def sentence(*prime):
        start = np.array([words.START, *prime])
        return stream(model, start, exclude=(words.START, words.UNKNOWN), **options)

    return _until_end(sentence(*prime), sentence)


def _until_end(tokens, sentence):
    while True:
        for (token,) in tokens:
            yield int(token)
            if token == words.END:
                break
        tokens = sentence()
