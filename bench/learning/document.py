"""LEARNING.md: each task's goal, the published figures and what was reached, from the stored results."""

import statistics

from .. import report, results
from . import tasks

STORE = "learning.json"
PACKAGES = ("numpy", "numba", "llvmlite", "scikit-learn")
_PREFACE = """\
# What it learns

Written by `python -m bench.learning`. Each task is trained from several seeds, of the weights and of the data, and none
is left out. Seeds run side by side in processes of their own, one thread each; a seed's seconds are those of
its whole run, tests and the loading of compiled kernels included.

Settings are the same for every seed, and were tuned by hand: sizes and initial values, learning rates and their
schedules, the number of updates. Where a section does not name other seeds, some of that was done by results of the
very seeds that are shown: they tell what the nets can reach, and are no unbiased estimate of how often they do.
Published figures that are given "as we remember" them have not been checked against the papers.
"""


def _section(name, kept, rows, plot):
    task, runs = tasks.load(name), kept["results"]
    seconds = [run["seconds"] for run in runs]
    note = "; **not all of it: a quick or restricted run**" if kept["partial"] else ""
    lines = [f"## {task.TITLE}", "", task.SETUP.strip(), "", f"To reach: {task.GOAL.strip()}", ""]
    lines += [f"Published: {task.PUBLISHED.strip()}", ""]
    times = f"{statistics.median(seconds):.0f} s (median), {sum(seconds):.0f} s in all"
    lines += report.table(("", ""), [*map(list, rows), ["time of a seed", times]])
    lines += [f"Seeds {', '.join(str(run['seed']) for run in runs)}; `{kept['command']}`, {kept['date']}{note}.", ""]
    if plot:
        lines += [f"![{task.TITLE}](learning/{name}.png)", ""]
    return lines


def _draw(name, kept, folder):
    """Whether the task has a plot, which is drawn."""
    draw = getattr(tasks.load(name), "draw", None)
    if draw is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(exist_ok=True)
    draw(kept["results"], folder / f"{name}.png")
    return True


def write(folder, stored):
    """Write LEARNING.md and the plots into `folder`."""
    stored = {name: stored[name] for name in tasks.NAMES if name in stored}
    overview, sections = [], []
    for name, kept in stored.items():
        task = tasks.load(name)
        rows, reached = task.summarise(kept["results"])
        verdict = ("yes" if reached else "**no**") + (" (partial run)" if kept["partial"] else "")
        label, value = rows[0]  # the one that tells most
        overview.append([task.TITLE, task.GOAL.strip(), f"{label}: {value}", verdict])
        sections += _section(name, kept, rows, _draw(name, kept, folder / "learning"))
    lines = [_PREFACE, *results.machines(stored)]
    lines += report.table(("task", "to reach", "ours", "reached"), overview)
    lines += sections
    (folder / "LEARNING.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
