"""The tables, a module each.

`run(options)` measures, in child processes, and returns what JSON can hold; `render(data)` gives the lines of the
table's section in RESULTS.md, of which TITLE is the heading; `verdicts(data)` judges the demands.
"""

import importlib
from typing import NamedTuple

NAMES = (
    "recurrent",
    "jax",
    "inference_peers",
    "training_peers",
    "ragged",
    "scaling",
    "phases",
    "streaming",
    "rollout",
    "growth",
    "truncation",
    "language_model",
    "denormals",
    "cold_start",
    "footprint",
    "vectors",
    "threading",
    "estimators",
)
THREADS = 2


class Options(NamedTuple):
    """rounds: of bursts. quick: the longest cases are left out. shapes: those asked for, None for each table's own."""

    rounds: int
    quick: bool
    shapes: tuple | None

    def choose(self, shapes):
        return [list(shape) for shape in self.shapes or shapes]


def load(name):
    """The module of a table."""
    return importlib.import_module(f".{name}", __name__)
