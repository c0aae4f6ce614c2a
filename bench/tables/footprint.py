"""What an installation takes on disk, and what an import takes in time and memory, against PyTorch."""

import importlib.metadata
import pathlib
import re
import statistics
import subprocess
import sys

from packaging.requirements import Requirement

import fastrnn

from .. import child
from ..report import table
from ..timing import progress
from . import THREADS

TITLE = "Size and import"
_PACKAGES = {"fastrnn": "fastrnn", "PyTorch": "torch"}
_IMPORT = """
import resource, time
t = time.perf_counter()
import {module}
print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _with_requirements(name, found):
    """`name` and all it needs without extras, as installed here, added to `found`."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return found
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeError(f"{name} is not installed") from error
    found[name] = distribution
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            _with_requirements(requirement.name, found)
    return found


def _megabytes(distribution):
    """Of a distribution's files, without what Python and Numba compile of them."""
    files = [pathlib.Path(distribution.locate_file(file)) for file in distribution.files or ()]
    if distribution.name == "fastrnn":  # which may be installed as a link to a checkout
        folders = {pathlib.Path(module.__file__).parent for module in (fastrnn, fastrnn.kernels)}
        files = [file for folder in folders for file in folder.rglob("*")]
    return sum(file.stat().st_size for file in set(files) if file.is_file() and "__pycache__" not in file.parts) / 1e6


def run(options):
    data = {}
    imports = {title: [] for title in _PACKAGES}
    for n in range(options.rounds + 1):
        for title, module in _PACKAGES.items():
            command = [sys.executable, "-c", _IMPORT.format(module=module)]
            run = subprocess.run(command, env=child.environment(THREADS), stdout=subprocess.PIPE, text=True)
            if run.returncode:
                raise RuntimeError(f"{title} can't be imported")
            if n > 0:  # the first fills the file cache
                imports[title].append([float(value) for value in run.stdout.split()])
    for title, module in _PACKAGES.items():
        distributions = _with_requirements(module, {})
        seconds, memory = (statistics.median(values) for values in zip(*imports[title], strict=True))
        data[title] = {
            "MB": sum(map(_megabytes, distributions.values())), "packages": sorted(distributions), "s": seconds,
            "MiB": memory,
        }  # fmt: skip
        progress(f"  {title}: {data[title]['MB']:.0f} MB, import {seconds:.2f} s, {memory:.0f} MiB")
    return data


def render(data):
    lines = table(
        ("", "MB on disk", "packages", "import s", "memory after it, MiB"),
        [[name, row["MB"], str(len(row["packages"])), f"{row['s']:.2f}", row["MiB"]] for name, row in data.items()],
    )
    own = ", ".join(data["fastrnn"]["packages"])
    return [*lines, f"Installed files with all that is required, without extras and byte code. fastrnn: {own}.", ""]


def verdicts(data):
    return ()
