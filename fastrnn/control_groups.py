"""Linux's control groups: where the limits of those stand that this process is in, for a container is one."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator


def control_groups(root: pathlib.Path, controller: str) -> Iterator[tuple[int, pathlib.Path]]:
    """The version and the folder, below `root`, of each group that may limit what a controller, such as "cpu", gives:
    from the process's own up to the root of those that it can see. They need not be there.

    https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/cgroups.html. In version 1 controllers have
    folders of their own, some together; version 2 has one tree, in a folder below beside those of version 1.
    """
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not path.startswith("/"):
            continue
        if controller in controllers.split(","):
            version, tops = 1, {mounts / controller, mounts / controllers}
        elif not controllers:
            version, tops = 2, {mounts, mounts / "unified"}
        else:
            continue
        # a container may see its group at the top, and be told the path it has outside
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in tops:
            for depth in range(len(parts), -1, -1):
                yield version, top.joinpath(*parts[:depth])
