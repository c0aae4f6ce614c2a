"""The levels of a language model, bytes or words: text as batches, figures and their names, samples."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .. import bptt, checks, corpus, language_model, words
from ..data import TokenStream
from ..model import Sequential
from .common import CommandError, displayed, displayed_words

_SAMPLE_BYTES, _SAMPLE_WORDS = 600, 120


class Level(ABC):
    """What `fastrnn train` has to know of a level, for one text."""

    training: str  # names of the figures in a history
    held_out: str
    figure: str  # for people
    logarithmic = False  # how the figure is drawn
    rule: bptt.Rule
    batches: Any
    tokens_per_update: float
    extra: dict | None = None  # to be saved with the model

    @abstractmethod
    def model(self, settings) -> Sequential:
        """A new model."""

    @abstractmethod
    def measured(self, loss: float) -> float:
        """The loss of an update in the unit in which it is averaged."""

    @abstractmethod
    def value(self, mean: float) -> float:
        """The figure for a mean of what `measured` gives."""

    @abstractmethod
    def shown(self, value: float) -> str:
        """A figure in words."""

    @abstractmethod
    def speed(self, tokens_per_second: float) -> str:
        """In words."""

    @abstractmethod
    def evaluate(self, model) -> float:
        """The figure of the held-out part."""

    @abstractmethod
    def sizes(self) -> str:
        """Of both parts of the text, in words."""

    @abstractmethod
    def baseline(self) -> tuple[str, float]:
        """A figure of the held-out part to compare with, and what it is of."""

    @abstractmethod
    def sample(self, model, temperature: float, seed: int) -> Iterator[str]:
        """Some text by the model, piece by piece."""

    def take_up(self, trainer) -> None:
        """Make the batches ready for the epoch that `trainer` is in."""
        return


class Bytes(Level):
    """Bytes, as one stream: truncated backpropagation with carried state."""

    training, held_out = "training_bits_per_byte", "held_out_bits_per_byte"
    figure = "bits per byte"

    def __init__(self, settings, text: corpus.Corpus):
        batch, sequence = settings.batch, settings.sequence
        size, needed = len(text.training), batch * sequence + 1
        if size < needed:
            raise CommandError(
                f"{text.name} is too short: it gives {size} bytes to train on, and a batch of {batch} sequences of "
                f"{sequence} needs {needed}: choose a smaller --batch or --sequence"
            )
        self._text = text
        self.batches = TokenStream(text.training, batch, sequence)
        self._held_out = language_model.evaluation_stream(text.held_out)
        self.rule = bptt.Truncated(sequence)
        self.tokens_per_update = batch * sequence

    def model(self, settings):
        return _build(settings, language_model.BYTES)

    def measured(self, loss):
        return loss / math.log(2)

    def value(self, mean):
        return mean

    def shown(self, value):
        return f"{value:.3f} bits per byte"

    def speed(self, tokens_per_second):
        return f"{tokens_per_second / 1e3:.0f} kB/s"

    def evaluate(self, model):
        return language_model.bits_per_byte(model, self._held_out)

    def sizes(self):
        return f"{len(self._text.training):,} bytes to train on, {len(self._text.held_out):,} held out"

    def baseline(self):
        return "zlib -9", corpus.zlib_bits_per_byte(self._text.held_out)

    def sample(self, model, temperature, seed):
        tokens = language_model.generate(model, temperature=temperature, seed=seed)
        return displayed(itertools.islice(tokens, _SAMPLE_BYTES))


class Words(Level):
    """Words, sentence by sentence, each from the initial state: full backpropagation through ragged batches."""

    training, held_out = "training_perplexity", "held_out_perplexity"
    figure = "perplexity per word"
    logarithmic = True

    def __init__(self, settings, text: corpus.Corpus):
        training, held_out = (words.sentences(decoded(part)) for part in (text.training, text.held_out))
        if not training or not held_out:
            raise CommandError(f"{text.name} is too short: it has no sentence {'held out' if training else ''}".strip())
        self.vocabulary = words.Vocabulary.of(training, settings.vocabulary)
        self.extra = {"vocabulary": list(self.vocabulary.words)}
        self.rule = bptt.Full()
        self._tokens, self._held_out_tokens = (
            [self.vocabulary.encoded(sentence) for sentence in part] for part in (training, held_out)
        )
        self.batches = words.SentenceBatches(self._tokens, settings.batch, seed=settings.seed)
        self._held_out = words.SentenceBatches(self._held_out_tokens, settings.batch, seed=None)
        self.tokens_per_update = self.batches.targets / len(self.batches)

    def model(self, settings):
        return _build(settings, len(self.vocabulary))

    def measured(self, loss):
        return loss

    def value(self, mean):
        return language_model.perplexity_of(mean)

    def shown(self, value):
        return f"perplexity {value:.1f} per word"

    def speed(self, tokens_per_second):
        return f"{tokens_per_second / 1e3:.1f}k words/s"

    def evaluate(self, model):
        return language_model.perplexity(model, self._held_out)

    def sizes(self):
        return (
            f"{len(self._tokens):,} sentences, {self.batches.targets:,} words to train on, "
            f"{len(self._held_out_tokens):,} sentences, {self._held_out.targets:,} words held out, "
            f"{len(self.vocabulary):,} different words known, "
            f"{100 * share_of_unknown(self._held_out_tokens):.1f}% of those held out are not"
        )

    def baseline(self):
        """What the words' frequencies alone would give, each counted once more than it is there."""
        training, held_out = (self._counts(part) for part in (self._tokens, self._held_out_tokens))
        p = (training + 1) / (training + 1).sum()
        return "words by frequency alone", math.exp(-(held_out * np.log(p)).sum() / held_out.sum())

    def _counts(self, sentences):
        """How often each token is to be predicted."""
        return np.bincount(np.concatenate([tokens[1:] for tokens in sentences]), minlength=len(self.vocabulary))

    def sample(self, model, temperature, seed):
        tokens = language_model.generate_sentences(model, self.vocabulary, temperature=temperature, seed=seed)
        return displayed_words(self.vocabulary.words[token] for token in itertools.islice(tokens, _SAMPLE_WORDS))

    def take_up(self, trainer):
        self.batches.epoch = trainer.epoch


LEVELS: dict[str, Callable[..., Level]] = {"byte": Bytes, "word": Words}


def level_of(settings, text: corpus.Corpus) -> Level:
    """The level that `settings` name, for this text."""
    return LEVELS[checks.choice("level", settings.level, tuple(LEVELS))](settings, text)


def decoded(text: bytes) -> str:
    """UTF-8 as text; what is none is replaced."""
    return text.decode("utf-8", errors="replace")


def share_of_unknown(sentences: Iterable[np.ndarray]) -> float:
    """The share of words that are not in the vocabulary, of encoded sentences."""
    unknown = total = 0
    for tokens in sentences:
        unknown += int(np.count_nonzero(tokens == words.UNKNOWN))
        total += len(tokens) - 2  # but start and end
    return unknown / total


def _build(s, vocabulary):
    return language_model.build(
        s.cell, vocabulary=vocabulary, embedding=s.embedding, hidden=s.hidden, layers=s.layers, dropout=s.dropout,
        seed=s.seed,
    )  # fmt: skip
