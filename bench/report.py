"""Numbers into Markdown: tables, means, and the verdicts on what the project demands of itself."""

import math
from typing import NamedTuple

from .peers import TITLES
from .timing import CPUS_ALLOWED


class Verdict(NamedTuple):
    """One demand: what is asked for, what was measured, and whether it is met."""

    question: str
    demanded: str
    measured: str
    met: bool


def geometric_mean(values):
    values = list(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def significant(number, digits=3):
    """`number` with so many digits that count, and all before the point; a dash for None."""
    if number is None:
        return "–"
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    return f"{number:.{max(0, digits - 1 - math.floor(math.log10(abs(number))))}f}"


def ratio(number):
    return f"**{number:.2f}**"


def share(number):
    return f"{number:.0%}"


def table(header, rows):
    """Lines of a Markdown table; cells are texts, or numbers that get three digits."""

    def line(cells):
        return f"| {' | '.join(c if isinstance(c, str) else significant(c) for c in cells)} |"

    return [line(header), line(["---"] * len(header)), *map(line, rows), ""]


def shape_text(row):
    return ", ".join(map(str, row["shape"]))


def gflops(row, name="fastrnn"):
    """Achieved rate of one of a row's libraries."""
    return row["flops"] / row["ms"][name] / 1e6


def gain(row, peers=("torch",)):
    """Time of the best of `peers` over ours."""
    return min(row["ratios"][name] for name in peers if name in row["ratios"])


def threads_text(threads):
    return f"{threads} thread{'' if threads == 1 else 's'}"


def least_and_mean(numbers):
    """The last two rows of a column of ratios."""
    return [("least", min(numbers)), ("geometric mean", geometric_mean(numbers))]


def comparison(rows, names):
    """Lines of a table of times by library, and of the ratio of the best other one's to ours."""
    names = [name for name in names if any(name in row["ms"] for row in rows)]
    body = [
        [shape_text(row), *(row["ms"].get(name) for name in names), ratio(gain(row, names[1:])), f"{row['error']:.0e}"]
        for row in rows
    ]
    for label, number in least_and_mean([gain(row, names[1:]) for row in rows]):
        body.append([label, *[""] * len(names), ratio(number), ""])
    return table(["T, B, I, H", *(f"{TITLES[name]} ms" for name in names), "ratio", "difference"], body)


def busy_note(rows):
    """A line on libraries that used more threads than they were given, if any did."""
    most = {}
    for row in rows:
        for name, cpus in row["cpus"].items():
            if cpus > row["threads"] + CPUS_ALLOWED:
                most[name] = max(most.get(name, 0), cpus)
    if not most:
        return []
    listed = ", ".join(f"{TITLES.get(name, name)} ({cpus:.1f})" for name, cpus in most.items())
    return [f"More CPUs in use than threads allowed, at most: {listed}.", ""]


def judge_ratios(question, rows, least, mean=None, *, peers=("torch",), excused=lambda row: False, excuse=""):
    """A `Verdict` on a column of ratios: every row at least `least`, or excused, and their geometric mean."""
    ratios = [gain(row, peers) for row in rows]
    short = [(number, row) for number, row in zip(ratios, rows, strict=True) if number < least and not excused(row)]
    average = geometric_mean(ratios)
    demanded = f"every shape {least:g}{excuse}" + ("" if mean is None else f", mean {mean:g}")
    worst, where = min(zip(ratios, rows, strict=True), key=lambda pair: pair[0])
    measured = f"{worst:.2f} ({where['cell']} {shape_text(where)})" + ("" if mean is None else f", mean {average:.2f}")
    if excuse:
        measured += f"; {len(short)} short of both" if short else "; none short of both"
    elif short:
        measured += f"; {len(short)} of {len(rows)} short"
    return Verdict(question, demanded, measured, not short and (mean is None or average >= mean))


def judge_limit(question, limit, measured, unit="", *, at_least=False):
    """A `Verdict` on one number."""
    met = measured >= limit if at_least else measured <= limit
    return Verdict(
        question, f"{'at least' if at_least else 'at most'} {limit:g}{unit}", f"{significant(measured)}{unit}", met
    )
