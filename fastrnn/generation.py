"""Models that run freely, each output being the next input: sampling, beam search, trajectories of real vectors."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import checks, init
from .layers.base import check_model
from .model import layers_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .layers.base import Layer
    from .types import Seed, State

_CANDIDATE_BYTES = 48  # of a beam: six float64 or int64 for each sequence and each token that may follow
_LARGEST_LOG = math.log(sys.float_info.max)
_STEPS = 256  # of a start that are read at once: the memory does not grow with it


def check_stepwise(model, user: str) -> None:
    """Refuse what is no model, and one that can't be run step by step, as `user` has to."""
    check_model(model)
    for layer in layers_of(model):
        if getattr(layer, "bidirectional", False):
            raise ValueError(f"{user} runs step by step, and a bidirectional layer needs the whole sequence")
        if not layer.keeps_steps:
            raise ValueError(f"{user} feeds every output back, and {type(layer).__name__} gives one a sequence")


def draw(logits, uniform, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None):
    """Classes (n,) drawn from the softmax of `logits` (n,C) by `uniform` (n,), numbers from [0, 1).

    temperature, top_k, top_p: as in `generate`, checked. A logit of -inf never comes.
    """
    if temperature == 0:
        return np.argmax(logits, 1)
    logits = logits.astype(np.float64)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    ordered = np.take_along_axis(logits, order, 1)
    # relative to the largest before the division: a tiny temperature must give zeros, not NaN
    with np.errstate(over="ignore"):
        weights = np.exp((ordered - ordered[:, :1]) / temperature)
    total = np.cumsum(weights, 1)
    whole = total[:, -1:]
    if top_p is not None:  # up to the first class with which their share is reached
        within = np.count_nonzero(total < top_p * whole, 1)
        whole = np.take_along_axis(total, within[:, np.newaxis], 1)
    place = np.count_nonzero(total <= uniform[:, np.newaxis] * whole, 1)
    last = np.count_nonzero(total < whole, 1)  # rounding must not reach beyond
    return np.take_along_axis(order, np.minimum(place, last)[:, np.newaxis], 1)[:, 0]


class _Sampler:
    """Draws tokens from a model's outputs."""

    def __init__(self, classes, temperature, top_k, top_p, seed, exclude):
        self._options = {
            "temperature": checks.number("temperature", temperature, minimum=0),
            "top_k": None if top_k is None else checks.integer("top_k", top_k, minimum=1, maximum=classes),
            "top_p": None if top_p is None else checks.number("top_p", top_p, above=0, maximum=1),
        }
        self._exclude = _excluded(exclude, classes)
        self._rng = init.generator(seed)

    def __call__(self, logits):
        """Tokens (B,) for logits (B,C)."""
        logits = _permitted(logits, self._exclude)
        return draw(logits, self._rng.random(len(logits)), **self._options)


def _excluded(tokens, classes):
    """Sorted tokens that must not come; some must be left."""
    tokens = checks.sequence("exclude", tokens, "tokens")
    excluded = sorted({checks.integer("exclude", token, minimum=0, maximum=classes - 1) for token in tokens})
    if len(excluded) == classes:
        raise ValueError("exclude must leave a token")
    return excluded


def _permitted(logits, exclude):
    """`logits`, found to be finite, with -inf for the tokens of `exclude`."""
    if not np.isfinite(logits).all():
        raise ValueError("the model's output is not finite: its training went wrong")
    if exclude:
        logits = logits.copy()
        logits[:, exclude] = -np.inf
    return logits


class _Start:
    """A checked start: x as the model takes it, and whether it is of one sequence alone."""

    def __init__(self, model, start, state, lengths):
        start = checks.as_array("start", start)
        self.tokens = start.dtype.kind in "iu"
        if not self.tokens and start.dtype.kind != "f":
            raise TypeError(f"start must hold tokens (integers) or floating-point numbers, got dtype {start.dtype}")
        dimensions = 1 if self.tokens else 2
        if start.ndim not in (dimensions, dimensions + 1):
            raise ValueError(f"start must have {dimensions} or {dimensions + 1} dimensions, got {start.ndim}")
        self.single = start.ndim == dimensions
        self.axis = 1 if model.batch_first else 0  # of time
        if self.single:
            start = np.expand_dims(start, 1 - self.axis)
        self.x = model._check_input(start)
        self.steps, self.batch = model._extent(self.x)
        self.lengths = checks.sequence_lengths(lengths, self.steps, self.batch)
        model._check_values("start", self.x, self.lengths)
        model._check_state("state", state, self.batch)
        self.model, self.state = model, state
        self.outputs = model._output_features(None if self.tokens else self.x.shape[-1])

    def read(self):
        """The output (B,O) after the start, and the state."""
        if self.lengths is not None:
            y, state = self.model.forward(self.x, self.state, lengths=self.lengths)
            return np.moveaxis(y, self.axis, 0)[self.lengths - 1, np.arange(self.batch)], state
        y, state = None, self.state
        x = np.moveaxis(self.x, self.axis, 0)
        for first in range(0, self.steps, _STEPS):
            part = np.ascontiguousarray(np.moveaxis(x[first : first + _STEPS], 0, self.axis))
            y, state = self.model.forward(part, state)
        return np.moveaxis(y, self.axis, 0)[-1], state


def stream(
    model: Layer,
    start: ArrayLike,
    *,
    state: State = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: Seed = None,
    lengths: ArrayLike | None = None,
    exclude: Sequence[int] = (),
) -> Iterator[np.ndarray]:
    """What `generate` returns, step by step and without end: arrays (B,) of tokens, or (B,F).

    Arguments as in `generate`, checked at once; the batch dimension is there for a single sequence, too.
    """
    return _stream(model, start, state, temperature, top_k, top_p, seed, lengths, exclude)[1]


def _stream(model, start, state, temperature, top_k, top_p, seed, lengths, exclude):
    """The checked start, and the iterator."""
    check_stepwise(model, "generate")
    start = _Start(model, start, state, lengths)
    if start.tokens:
        return start, _run(start, _Sampler(start.outputs, temperature, top_k, top_p, seed, exclude))
    if (temperature, top_k, top_p, checks.sequence("exclude", exclude, "tokens")) != (1.0, None, None, ()):
        raise ValueError("temperature, top_k, top_p and exclude are for tokens, and start holds real vectors")
    if start.outputs != start.x.shape[-1]:
        raise ValueError(
            f"the model's outputs must have the {start.x.shape[-1]} features of its inputs, got {start.outputs}"
        )
    return start, _run(start, None)


def _run(start, sample):
    y, state = start.read()
    while True:
        x = np.array(y) if sample is None else sample(y)
        yield x.copy()  # which may be written into
        y, state = start.model.step(x, state)


def generate(
    model: Layer,
    start: ArrayLike,
    steps: int,
    *,
    state: State = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: Seed = None,
    end: int | None = None,
    lengths: ArrayLike | None = None,
    exclude: Sequence[int] = (),
) -> np.ndarray:
    """Let `model` go on from `start` by itself for `steps` steps, each output being the next input.

    Tokens: `start` (T,), or (T,B) for many sequences at once, integers; the model gives logits. Returns the tokens
    drawn, (steps,) or (steps,B) int64.
    Real vectors: `start` (T,F) or (T,B,F) floats, which the model reads first; it gives F numbers. Returns (steps,F) or
    (steps,B,F), what it gives from its last step over `start` on.
    All batch first if the model is.

    state: before `start`, as in `model.forward`, with the batch dimension; None for zeros.
    lengths: (B,) integers, of right-padded starts.

    For tokens alone:
    temperature: logits are divided by it; 0 takes the likeliest token every time.
    top_k: only the `top_k` likeliest tokens can come; of equally likely ones, the lowest. None: all.
    top_p: only the likeliest tokens can come that together have at least this share of the probability, no more of them
        than it takes (nucleus sampling, Holtzman et al. 2020), after temperature and `top_k`. None: all.
    seed: of the draws; None for others each time. A `Generator` is used as it is.
    end: a token that ends a sequence, and fills what is left of its row. When all have ended, fewer steps come back.
    exclude: tokens that never come.

    TypeError or ValueError if an argument does not fit; ValueError if the logits are not finite.
    """
    steps = checks.integer("steps", steps, minimum=1)
    begin, stream_ = _stream(model, start, state, temperature, top_k, top_p, seed, lengths, exclude)
    if end is not None:
        if not begin.tokens:
            raise ValueError("end is for tokens, and start holds real vectors")
        end = checks.integer("end", end, minimum=0, maximum=begin.outputs - 1)
    shape = (steps, begin.batch) if begin.tokens else (steps, begin.batch, begin.outputs)
    dtype = np.dtype(np.int64) if begin.tokens else model.dtype
    copies = 1 if begin.single or begin.axis == 0 else 2
    checks.memory(f"the output of shape {shape}", copies * math.prod(shape) * dtype.itemsize)
    generated = np.empty(shape, dtype)
    ended = np.zeros(begin.batch, np.bool_)
    for t, x in zip(range(steps), stream_, strict=False):
        generated[t] = np.where(ended, end, x) if end is not None else x
        if end is not None:
            ended |= generated[t] == end
            if ended.all():
                generated = generated[: t + 1]
                break
    return generated[:, 0] if begin.single else np.ascontiguousarray(np.moveaxis(generated, 0, begin.axis))


def beam_search(
    model: Layer,
    start: ArrayLike,
    steps: int,
    beam_width: int,
    *,
    end: int | None = None,
    state: State = None,
    length_penalty: float = 0.0,
    exclude: Sequence[int] = (),
) -> tuple[list[np.ndarray], np.ndarray]:
    """The likeliest continuations of `start`, (T,) tokens: at each step the `beam_width` best go on, as one batch.

    end: a token that ends a sequence; others have `steps` tokens. state: before `start`, for a batch of one.
    length_penalty: α of the score log p / nᵅ by which sequences of n tokens are ranked; 0 is log p.
    exclude: tokens that never come.

    Returns `(sequences, log_probabilities)`: at most `beam_width` arrays of tokens, an `end` included, best first, and
    log p of each given `start`, float64. With a beam as wide as there are sequences it is an exhaustive search.
    TypeError or ValueError if an argument does not fit; ValueError if the logits are not finite.
    """
    check_stepwise(model, "beam_search")
    steps = checks.integer("steps", steps, minimum=1)
    width = checks.integer("beam_width", beam_width, minimum=1)
    penalty = checks.number("length_penalty", length_penalty, minimum=0)
    if penalty * math.log(steps) > _LARGEST_LOG:
        raise ValueError(f"length_penalty must leave steps**length_penalty finite, got {penalty:g} with steps={steps}")
    begin = _Start(model, start, state, None)
    if not begin.tokens or not begin.single:
        raise ValueError("start must be a sequence of tokens")
    if end is not None:
        end = checks.integer("end", end, minimum=0, maximum=begin.outputs - 1)
    exclude = _excluded(exclude, begin.outputs)
    return _search(begin, steps, width, end, penalty, exclude)


def _search(start, steps, width, end, penalty, exclude):
    y, state = start.read()
    alive, scores = np.empty((1, 0), np.int64), np.zeros(1)  # tokens so far, log p
    done: list[tuple[float, float, np.ndarray]] = []  # score, log p, tokens
    for n in range(1, steps + 1):
        checks.memory(f"a beam of {len(scores)} sequences", _CANDIDATE_BYTES * len(scores) * start.outputs)
        totals = scores[:, np.newaxis] + _log_softmax(_permitted(y, exclude))
        # as many as end, at most one for each row, may be among the best besides those that go on
        parents, tokens = _largest(totals, width + (0 if end is None else len(scores)))
        scores = totals[parents, tokens]
        grown = np.column_stack([alive[parents], tokens])
        ends = np.full(len(tokens), n == steps) if end is None else (tokens == end) | (n == steps)
        best = np.arange(len(tokens)) < width
        done += [(scores[i] / n**penalty, scores[i], grown[i]) for i in np.flatnonzero(ends & best)]
        done = sorted(done, key=lambda entry: -entry[0])[:width]
        going = np.flatnonzero(~ends)[:width]
        # log p can only fall, and a longer sequence can have it divided by stepsᵅ at most
        if not going.size or (len(done) == width and scores[going[0]] / steps**penalty <= done[-1][0]):
            break
        alive, scores = grown[going], scores[going]
        y, state = start.model.step(tokens[going], _rows_of(state, parents[going]))
    return [tokens for _, _, tokens in done], np.array([log_p for _, log_p, _ in done])


def _log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def _largest(totals, count):
    """Rows and columns of the `count` largest numbers but -inf, the largest first."""
    order = np.argsort(-totals, axis=None, kind="stable")[:count]
    order = order[totals.reshape(-1)[order] > -math.inf]
    return np.divmod(order, totals.shape[1])


def _rows_of(state, rows):
    """Those sequences' part of a state."""
    if isinstance(state, tuple):
        return tuple(_rows_of(entry, rows) for entry in state)
    return None if state is None else np.ascontiguousarray(state[:, rows])
