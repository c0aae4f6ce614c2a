"""The results of a run, for the terminal and for a document."""

import datetime
import importlib.metadata
import platform

from fastrnn.kernels.simd import VECTOR_BYTES

_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"


def summary(result):
    """A section's result in a few lines."""
    held = f"{result.broken_count} DID NOT HOLD" if result.broken_count else "held"
    lines = [f"{result.name}: {held} ({result.seconds:.0f} s)"]
    lines += [f"  {number:>10,} {what}" for what, number in result.counts.items()]
    lines += [f"  note: {note}" for note in result.notes]
    lines += [f"  broken: {what}" for what in result.broken]
    return "\n".join(lines)


def document(path, results, minutes, seed):
    """Put the results between the two marks in the Markdown file at `path`."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    path.write_text(f"{before}{_BEGIN}\n{_table(results, minutes, seed)}{_END}{after}", encoding="utf-8")


def _table(results, minutes, seed):
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "numba"))
    lines = [
        f"`python -m tests.torture --minutes {minutes:g} --seed {seed}`, {datetime.date.today()}; Python "
        f"{platform.python_version()}, {packages}, {platform.machine()}, vectors of {VECTOR_BYTES} bytes:",
        "",
        "| section | what was tried | did not hold |",
        "| --- | --- | --- |",
    ]
    for result in results:
        counts = "; ".join(f"{number:,} {what}" for what, number in result.counts.items())
        lines.append(f"| {result.name} | {counts} | {result.broken_count} |")
    lines += [""] + [f"- {result.name}: {note}" for result in results for note in result.notes]
    return "\n".join(lines).rstrip() + "\n"
