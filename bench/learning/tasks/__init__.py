"""The tasks, a module each.

TITLE, SETUP (what is trained on what, and how), GOAL (what to reach) and PUBLISHED (others' figures) are texts for
LEARNING.md; SEEDS are those of a full run. `run(seed, quick=False)` trains once, in a process of its own, and returns
a dict that JSON can hold; quick: so few updates that it is only a trial of the code. `summarise(results)` takes the
dicts of all seeds, each with its `seed` and `seconds`, and gives rows `(label, text)` and whether the goal is reached.
`draw(results, path)`, if there is one, plots into `path`.
"""

import importlib
import pkgutil

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name):
    """The module of a task."""
    return importlib.import_module(f".{name}", __name__)
