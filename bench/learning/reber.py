"""Strings of Reber's grammar and of the embedded one, and how predictions of their symbols are judged.

A. S. Reber (1967), J. Verb. Learn. Verb. Behav. 6; embedded: A. W. Smith & D. Zipser (1989), Int. J. Neural Syst. 1.
"""

import numpy as np

SYMBOLS = "BTPSXVE"
_ARROWS = (  # from each node of the grammar: symbol -> node
    {"B": 1}, {"T": 2, "P": 3}, {"S": 2, "X": 4}, {"T": 3, "V": 5}, {"X": 3, "S": 6}, {"P": 4, "V": 6}, {"E": 7},
)  # fmt: skip


def _walk(rng):
    """The symbols of a Reber string, and for each the symbols that could stand in its place."""
    node = 0
    while node < len(_ARROWS):
        legal = "".join(_ARROWS[node])
        symbol = legal[rng.integers(len(legal))]
        yield symbol, legal
        node = _ARROWS[node][symbol]


def embedded(rng) -> tuple[np.ndarray, np.ndarray]:
    """A string of the embedded grammar: B, T or P, a Reber string, the same T or P again, E.

    Returns the symbols (n,), indices into `SYMBOLS`, and (n,7) booleans: what may stand there, given all before.
    """
    outer = "TP"[rng.integers(2)]
    steps = [("B", "B"), (outer, "TP"), *_walk(rng), (outer, outer), ("E", "E")]
    symbols = np.array([SYMBOLS.index(symbol) for symbol, _ in steps])
    return symbols, np.array([[symbol in legal for symbol in SYMBOLS] for _, legal in steps])


def stream(rng, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """`steps` symbols (steps,) and what may stand in their places (steps,7), out of embedded strings without a gap."""
    strings, missing = [], steps
    while missing > 0:
        strings.append(embedded(rng))
        missing -= len(strings[-1][0])
    symbols, legal = (np.concatenate(parts)[:steps] for parts in zip(*strings, strict=True))
    return symbols, legal


def predicted(y: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Whether the k largest of the outputs `y` (…,7) are those of the k symbols that are `legal` (…,7)."""
    return np.where(legal, y, np.inf).min(-1) > np.where(legal, -np.inf, y).max(-1)


def errors(symbols: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many predictions are wrong in each of a stream's strings but the last, which may be cut off.

    symbols (n,): what was put in; right (n,): whether the prediction of the next symbol was right.
    """
    ends = symbols[:-1] == SYMBOLS.index("E")
    ends &= symbols[1:] == SYMBOLS.index("B")  # the E of a Reber string within is followed by T or P
    return np.diff(np.cumsum(~right[:-1])[ends], prepend=0)
