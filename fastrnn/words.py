"""Text as sentences of words, for the word-level language model: tokenizer, vocabulary, batches of sentences."""

import collections
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from . import checks
from .data import ShuffledPasses, pad

START, END, UNKNOWN = 0, 1, 2
SPECIAL = ("<start>", "<end>", "<unknown>")
MAX_WORDS = 64  # of a sentence: what is longer, such as a table, is cut

_PARAGRAPH = re.compile(r"\n\s*\n")
_END_OF_SENTENCE = re.compile(r"""[.!?]["'”’)\]]*(?=\s)""")
_WORD = re.compile(r"\w+(?:['’\-]\w+)*|([^\w\s])\1*")
_CLOSING = frozenset(".,;:!?)]}%”’…")  # no space before
_OPENING = frozenset("([{“‘$#@")  # no space after


def sentences(text: str) -> list[list[str]]:
    """The sentences of `text` as lists of words and punctuation marks, none empty, none of more than `MAX_WORDS`.

    A sentence ends at a full stop, an exclamation or a question mark before white space, and at a blank line. A word is
    a run of letters and digits, with apostrophes or hyphens inside, or a mark, perhaps several times.
    """
    found = []
    for paragraph in _PARAGRAPH.split(text):
        ends = [match.end() for match in _END_OF_SENTENCE.finditer(paragraph)]
        for start, stop in itertools.pairwise([0, *ends, len(paragraph)]):
            words = split(paragraph[start:stop])
            found += [words[i : i + MAX_WORDS] for i in range(0, len(words), MAX_WORDS)]
    return found


def split(text: str) -> list[str]:
    """The words and marks of `text`."""
    return [match.group() for match in _WORD.finditer(text)]


def pieces(words: Iterable[str]) -> Iterator[str]:
    """Text as its words come: with the usual spaces around marks, and a line for each sentence that `<end>` ends."""
    spaced = quoted = False  # whether a space comes next, and whether a straight quotation mark is open
    for word in words:
        if word == SPECIAL[END]:
            yield "\n"
            spaced = quoted = False
            continue
        closing = word[0] in _CLOSING or (word[0] == '"' and quoted)
        quoted ^= word[0] == '"'
        yield f" {word}" if spaced and not closing else word
        spaced = word[0] not in _OPENING and not (word[0] == '"' and quoted)


class Vocabulary:
    """Words and the tokens that stand for them: `SPECIAL` ones first, then by frequency."""

    def __init__(self, words: Sequence[str]):
        """`words`: all of them in the order of their tokens, beginning with `SPECIAL`. ValueError if they don't, or
        if a word is there twice or is no word."""
        words = tuple(words)
        if words[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"a vocabulary must begin with {', '.join(SPECIAL)}")
        for word in words[len(SPECIAL) :]:
            if not isinstance(word, str) or not _WORD.fullmatch(word):
                raise ValueError(f"a vocabulary must consist of words, got {word!r}")
        self.words = words
        self._tokens = {word: token for token, word in enumerate(words)}
        if len(self._tokens) < len(words):
            raise ValueError("a vocabulary must have every word once")

    @classmethod
    def of(cls, text: Iterable[Sequence[str]], size: int) -> "Vocabulary":
        """At most `size` words, the special ones among them: the most frequent of the sentences `text`, of equally
        frequent ones the first in the alphabet."""
        size = checks.integer("size", size, minimum=len(SPECIAL) + 1)
        counts = collections.Counter(itertools.chain.from_iterable(text))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((*SPECIAL, *ordered[: size - len(SPECIAL)]))

    def __len__(self):
        return len(self.words)

    def tokens(self, words: Sequence[str]) -> np.ndarray:
        """(n,) int64; `UNKNOWN` for words that are not in the vocabulary."""
        return np.array([self._tokens.get(word, UNKNOWN) for word in words], np.int64)

    def encoded(self, sentence: Sequence[str]) -> np.ndarray:
        """`tokens` of a sentence between `START` and `END`."""
        return np.concatenate([[START], self.tokens(sentence), [END]])


class SentenceBatches(ShuffledPasses[tuple[np.ndarray, np.ndarray, np.ndarray]]):
    """Sentences of similar lengths side by side, shuffled: batches `(x, targets, lengths)` for `Trainer`.

    sentences: arrays of tokens, each of at least two; x (T,B) are all but their last, targets (T,B) all but their
        first, padded with 0.
    seed: of the order, another one in each pass; None for the same without shuffling.

    Sentences are shuffled and then sorted by length, and cut into batches of `batch_size`, the last of which may be
    smaller; the batches come in random order. `epoch` is the number of the next pass, or of the one under way: set to
    the same number, it is the same pass again. `state_dict` and `load_state_dict` save and restore the place within it.
    """

    def __init__(self, sentences: Sequence[np.ndarray], batch_size: int, *, seed: int | None = 0):
        self.batch_size = checks.integer("batch_size", batch_size, minimum=1)
        super().__init__(None if seed is None else checks.integer("seed", seed, minimum=0))
        self._sentences = list(sentences)
        if not self._sentences:
            raise ValueError("sentences must not be empty")
        self._lengths = np.array([len(sentence) for sentence in self._sentences])
        if self._lengths.min() < 2:
            raise ValueError("sentences must have at least two tokens each")

    @property
    def epoch(self) -> int:
        """The number of the next pass, or of the one under way; setting it lets the next pass be this one."""
        return self._place[0]

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._next = self._place = checks.integer("epoch", number, minimum=0), 0

    @property
    def targets(self) -> int:
        """The number of tokens that are predicted in a pass."""
        return int(self._lengths.sum()) - len(self._lengths)

    def __len__(self) -> int:
        """Batches in a pass."""
        return -(-len(self._sentences) // self.batch_size)

    def _pass(self, number, first):
        order, batches = np.arange(len(self._sentences)), np.arange(len(self))
        if self.seed is not None:
            rng = np.random.default_rng((self.seed, number))
            order, batches = rng.permutation(order), rng.permutation(batches)
        order = order[np.argsort(self._lengths[order], kind="stable")]
        for batch in batches[first:]:
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            tokens, lengths = pad([self._sentences[i] for i in chosen])
            yield np.ascontiguousarray(tokens[:-1]), np.ascontiguousarray(tokens[1:]), lengths - 1

    def _layout(self):
        return {"sentences": len(self._sentences), "batch_size": self.batch_size}
