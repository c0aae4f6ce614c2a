"""How much memory can still be had: of the machine's, and of what a container or a limit leaves of it."""

from __future__ import annotations

import os
import pathlib

from .control_groups import control_groups

_LIMITS = {  # by version of the kernel's control groups: limit, usage, and what of that the kernel would give back
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
}  # https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/memory.html


def available_memory(root: str | os.PathLike[str] = "/") -> int | None:
    """Bytes that this process can still take, None if nothing is known; what Linux tells stands in files under `root`.

    The least of: what the machine has left, what every control group leaves that the process is in, for a container is
    one, and the limit of the address space (`ulimit -v`).
    """
    root = pathlib.Path(root)
    groups = [_group(folder, *_LIMITS[version]) for version, folder in control_groups(root, "memory")]
    rooms = [_machine(root), *groups, _address_space(root)]
    known = [max(0, room) for room in rooms if room is not None]
    return min(known, default=None)


def _machine(root):
    """What Linux calls available, elsewhere all of the machine's memory."""
    found = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if found is not None:
        return found * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _group(folder, limit, usage, reclaimable):
    """What a group leaves, None if it has no limit."""
    try:
        bound, used = (int(_text(folder / name)) for name in (limit, usage))
    except ValueError:  # "max", or no such file
        return None
    statistics = _numbers(folder / "memory.stat")
    return bound - max(0, used - sum(statistics.get(name, 0) for name in reclaimable))


def _address_space(root):
    """What is left below the limit of the address space."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = _text(root / "proc/self/statm").split()[:1]
    return limit - (int(pages[0]) * resource.getpagesize() if pages else 0)


def _text(path):
    """What a file holds, "" if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _numbers(path):
    """The numbers of a file whose lines begin with a name and a number."""
    words = (line.split() for line in _text(path).splitlines())
    return {found[0]: int(found[1]) for found in words if len(found) > 1 and found[1].isdigit()}
