"""Stored results and RESULTS.md: each table keeps its own date and command, so that one alone can be run again."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys

from . import report, tables

_PACKAGES = ("numpy", "numba", "llvmlite", "torch", "jax", "onnxruntime")
_PREFACE = """\
# Measured speed

Written by `python -m bench`. All that is compared runs in alternating bursts in one process, warm, the order changing
from round to round; medians. Outputs and gradients are checked to agree first, and the gradients of each cell against
central differences: a table that fails is void. Ratios are the other's time over ours, higher is better: the median of
the ratios within a round, as a shared machine is slower in one second and faster in the next.
"""


def machine(packages=_PACKAGES):
    """Facts by name, with the versions of those of `packages` that are installed."""
    from fastrnn.kernels.simd import VECTOR_BYTES

    versions = {"Python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return {
        "CPU": _cpu_name(),
        "CPUs": available_cpus(),
        "vectors": f"{8 * VECTOR_BYTES} bits",
        "system": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def available_cpus():
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def origin(program, packages=_PACKAGES):
    """When, how and where something is run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "machine": machine(packages),
    }


def entry(data, options, seconds):
    """What is stored of a table that has run."""
    return {
        **origin("bench"),
        "rounds": options.rounds,
        "partial": options.quick or options.shapes is not None,
        "seconds": round(seconds),
        "data": data,
    }


def read(folder, name="results.json"):
    """Stored results, name -> entry, empty at first."""
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(folder, stored, name="results.json"):
    text = json.dumps(stored, indent=None, separators=(",", ":"))
    (folder / name).write_text(text + "\n", encoding="utf-8")


def render(folder, stored):
    """Write RESULTS.md, and the plot where there is something to plot."""
    from .roofline import plot

    stored = {name: stored[name] for name in tables.NAMES if name in stored}
    sections, verdicts = [], []
    for name, kept in stored.items():
        module = tables.load(name)
        sections += [f"## {module.TITLE}", "", f"`{kept['command']}`, {_origin(kept)}.", ""]
        if "void" in kept:
            sections += [f"**Void:** {kept['void']}", ""]
            verdicts.append(report.Verdict(module.TITLE, "", "void", False))
        else:
            sections += module.render(kept["data"])
            verdicts += module.verdicts(kept["data"])
    lines = [_PREFACE, *machines(stored), "## What is demanded", ""]
    body = [[v.question, v.demanded, v.measured, "met" if v.met else "**not met**"] for v in verdicts]
    lines += report.table(("question", "demanded", "measured", ""), body)
    if plot(stored, folder / "roofline.png"):
        lines += ["![GFLOP/s of each library and shape](roofline.png)", ""]
    lines += sections
    (folder / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _origin(kept):
    note = "; not all of it: a quick or restricted run" if kept["partial"] else ""
    return f"{kept['date']}, {kept['rounds']} rounds, {kept['seconds']} s{note}"


def machines(stored):
    """A table of the machines the results come from: one as a rule."""
    different = []
    for kept in stored.values():
        if kept["machine"] not in different:
            different.append(kept["machine"])
    lines = []
    for facts in different:
        lines += report.table(("", ""), [list(fact) for fact in ((k, str(v)) for k, v in facts.items())])
    return lines
