"""Attempts on the cache of compiled kernels: damage, folders or a disk that take nothing, upgrades, many processes."""

import os
import pathlib
import pickle
import shutil
import tempfile
import time
import zipfile

import numpy as np

import fastrnn
from fastrnn import MSE
from fastrnn.kernels import cache
from fastrnn.kernels.losses import squared_error

from .processes import Failed, finish

_DISK_FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
_READ_ONLY = """
import tempfile
def refuse(*_, **__):
    import errno, os
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
tempfile.TemporaryFile = refuse
"""  # by which Numba finds out whether a folder can be written
_OTHER_VERSION = "import numba; numba.__version__ = '0.1'"
_NOBODY = 65534
_READ_AT_LEAST = 200  # damaged files, in however short a run


def damaged(content, rng):
    """`content` with something wrong with it, and what."""
    size = len(content)
    place = int(rng.integers(size))
    kind = rng.choice(["flipped", "truncated", "empty", "zeros", "grown", "garbage", "hole", "shifted"])
    if kind == "flipped":
        flipped = bytearray(content)
        for at in {place, *rng.integers(size, size=int(rng.integers(3))).tolist()}:
            flipped[at] ^= 1 << int(rng.integers(8))
        return kind, bytes(flipped)
    return kind, {
        "truncated": content[:place],
        "empty": b"",
        "zeros": bytes(size),
        "grown": content + rng.bytes(1 + place % 100),
        "garbage": rng.bytes(size),
        "hole": content[:place] + bytes(min(4096, size - place)) + content[place + 4096 :] + b"\1",
        "shifted": content[1:],
    }[kind]


def files_of(folder):
    """The files of kernels below a folder."""
    return sorted(pathlib.Path(folder).rglob("*.kernel"))


def read_damaged(tally, budget):
    """In this process: a damaged file counts as missing, whatever the damage."""
    MSE()(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32))  # has been trained with before: a cache is there
    if (kept := squared_error.stats.cache_path) is None:
        tally.note("no damaged cache file was read: no folder for a cache can be written here")
        return
    files = [path for path in files_of(kept) if cache._VERSION in path.name][:20]
    whole = [path.read_bytes() for path in files]
    keys = [pickle.loads(content[cache._DIGEST_BYTES :])[0] for content in whole]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "file"
        while budget.left() or tally.counts["damaged cache files read"] < _READ_AT_LEAST:
            index = int(budget.rng.integers(len(whole)))
            kind, content = damaged(whole[index], budget.rng)
            path.write_bytes(content)
            if cache._read(path, keys[index]) is not None:
                tally.broke(f"a cache file was taken although it was {kind}: {files[index].name}")
            other = int(budget.rng.integers(len(whole)))
            path.write_bytes(whole[other])
            if (cache._read(path, keys[index]) is None) != (keys[other] != keys[index]):
                tally.broke(f"{files[other].name} in place of {files[index].name} was mistaken for it")
            tally.count("damaged cache files read")


def _check(tally, what, found, *, warnings=(0,), hits=None, raised=0):
    """Whether a run of the tiny kernels came out as it must."""
    if found["wrong"]:
        tally.broke(f"{what}: wrong results of {found['wrong']}")
    if len(found["warnings"]) not in warnings or any("can't be kept" not in text for text in found["warnings"]):
        tally.broke(f"{what}: {len(found['warnings'])} warnings: {found['warnings']}")
    if hits is not None and found["hits"] != hits:
        tally.broke(f"{what}: {found['hits']} of {found['jobs']} kernels came from the cache, not {hits}")
    if found["raised"] != raised:
        tally.broke(f"{what}: {found['raised']} exceptions, not {raised}")


def attempt(tally, what, function, *arguments):
    """Call `function`; a child that failed is a result."""
    try:
        function(tally, *arguments)
    except Failed as error:
        tally.broke(f"{what}: {error}")


def damage(tally, site, rng):
    """All files of a cache are damaged, or other things stand in their place: all is compiled anew, and right."""
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        variables = {"NUMBA_CACHE_DIR": folder}
        _check(tally, "empty cache", first := site.run("tiny", variables), hits=0)
        _check(tally, "cache as it was left", site.run("tiny", variables), hits=first["jobs"])
        obstacles = 0
        for path in files_of(folder):
            if rng.random() < 0.2:  # what no file can replace
                path.unlink()
                path.mkdir()
                obstacles += 1
            else:
                path.write_bytes(damaged(path.read_bytes(), rng)[1])
            tally.count("damaged cache files compiled anew")
        _check(tally, "damaged cache", site.run("tiny", variables), hits=0, warnings=(min(1, obstacles),))
        _check(tally, "cache after damage", site.run("tiny", variables), hits=first["jobs"] - obstacles,
               warnings=(min(1, obstacles),))  # fmt: skip


def no_folder(tally, site, rng):
    """No folder at all: one warning, an exception once if warnings are errors, and right results."""
    _check(tally, "no folder", site.run("tiny", site.without_cache()), hits=0, warnings=(1,))
    _check(tally, "no folder, -W error", site.run("tiny", site.without_cache(), ("-W", "error")), hits=0, raised=1)
    tally.count("environments tried", 2)


def full_disk(tally, site, rng):
    """A disk that takes no file of a kernel's size."""
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        variables = {"NUMBA_CACHE_DIR": folder}
        _check(tally, "full disk", site.run("tiny", variables, preparation=_DISK_FULL), hits=0, warnings=(1,))
        if left := [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]:
            tally.broke(f"full disk: {left} were left behind")
        _check(tally, "after a full disk", site.run("tiny", variables), hits=0)
    tally.count("environments tried")


def other_version(tally, site, rng):
    """An older Numba's cache: not used, and not kept."""
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        variables = {"NUMBA_CACHE_DIR": folder}
        first = site.run("tiny", variables, preparation=_OTHER_VERSION)
        old = set(files_of(folder))
        _check(tally, "after an upgrade", site.run("tiny", variables), hits=0)
        new = set(files_of(folder))
        if len(old) != first["jobs"] or len(new) != first["jobs"] or old & new:
            tally.broke(f"upgrade: {len(old)} files before, {len(new)} after, {len(old & new)} of them the same")
    tally.count("environments tried")


def zipped(tally, site, rng):
    """An installation in a zip, before and after an upgrade."""
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        installed = pathlib.Path(folder) / "fastrnn.zip"
        path = os.pathsep.join([str(installed), site.variables({})["PYTHONPATH"]])
        variables = {"NUMBA_CACHE_DIR": folder, "PYTHONPATH": path}
        preparation = "import fastrnn; assert '.zip' in fastrnn.__file__"
        package, kernels = (pathlib.Path(module.__file__).parent for module in (fastrnn, cache))
        sources = {f"fastrnn/{p.relative_to(package).as_posix()}": p for p in package.rglob("*.py")}
        sources |= {f"fastrnn/kernels/{p.relative_to(kernels).as_posix()}": p for p in kernels.rglob("*.py")}
        for version in range(2):
            with zipfile.ZipFile(installed, "w") as file:
                for name, source in sources.items():
                    file.writestr(name, source.read_text("utf-8") + f"# {version}\n" * name.endswith("cells/gru.py"))
            first = site.run("tiny", variables, preparation=preparation)
            _check(tally, f"a zip's version {version}", first, hits=0)
            again = site.run("tiny", variables, preparation=preparation)
            _check(tally, f"a zip's version {version} again", again, hits=first["jobs"])
    tally.count("environments tried", 2)


def read_only(tally, site, rng):
    """A cache that can be read, but not written: what is there is used, what is not is compiled, with one warning."""
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        variables = {"NUMBA_CACHE_DIR": folder}
        jobs = site.run("tiny", variables)["jobs"]
        variables = site.without_cache() | variables
        _check(tally, "read-only cache", site.run("tiny", variables, preparation=_READ_ONLY), hits=jobs)
        chosen = rng.permutation(files_of(folder))
        chosen[0].unlink()
        chosen[1].write_bytes(damaged(chosen[1].read_bytes(), rng)[1])
        found = site.run("tiny", variables, preparation=_READ_ONLY)
        _check(tally, "read-only cache, damaged", found, hits=jobs - 2, warnings=(1,))
        if len(files_of(folder)) != jobs - 1:
            tally.broke(f"read-only cache: {files_of(folder)} are there afterwards, one too many")
    tally.count("environments tried", 2)


def another_users(tally, site, rng):
    """A user who may not write the cache, and may read it or not."""
    if os.name != "posix" or os.getuid():
        tally.note("a cache of another user's was not tried: that takes root")
        return
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        nested = pathlib.Path(folder) / "cache"
        nested.mkdir()
        os.chmod(folder, 0o755)
        variables = {"NUMBA_CACHE_DIR": str(nested)}
        jobs = site.run("tiny", variables)["jobs"]
        for mode, hits in ((0o644, jobs), (0o600, 0)):
            for path in files_of(folder):
                path.chmod(mode)
            try:
                found = site.run("tiny", site.without_cache() | variables, user=_NOBODY, group=_NOBODY)
            except PermissionError:
                tally.note("a cache of another user's was not tried: that one may not run this Python")
                return
            _check(tally, f"another user's cache with mode {mode:o}", found, hits=hits, warnings=(int(hits == 0),))
    tally.count("environments tried", 2)


def at_once(tally, site, rng, count=None):
    """Processes that share an empty cache, and one that comes after them."""
    count = int(rng.integers(3, 7)) if count is None else count
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        variables = {"NUMBA_CACHE_DIR": str(pathlib.Path(folder) / "cache")}
        reports = [pathlib.Path(folder) / f"{n}.json" for n in range(count)]
        started = [site.start("tiny", report, variables) for report in reports]
        found = [finish(process, report) for process, report in zip(started, reports, strict=True)]
        for n, one in enumerate(found):
            _check(tally, f"process {n} of {count} at once", one)
        _check(tally, f"after {count} processes at once", site.run("tiny", variables), hits=found[0]["jobs"])
    tally.count("processes started at once", count)


def killed(tally, site, rng):
    """A process that is killed while it fills the cache."""
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        cached = pathlib.Path(folder) / "cache"
        process = site.start("tiny", pathlib.Path(folder) / "report", {"NUMBA_CACHE_DIR": str(cached)})
        while process.poll() is None and not files_of(folder):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        hits = len(files_of(folder))
        _check(tally, "after a kill", site.run("tiny", {"NUMBA_CACHE_DIR": str(cached)}), hits=hits)
    tally.count("processes killed while they saved")


def copy_damaged(files, folder, rng):
    """A copy of a whole cache in which a few files are damaged; their number."""
    chosen = set(rng.choice(len(files), min(3, len(files)), replace=False).tolist())
    for index, path in enumerate(files):
        target = pathlib.Path(folder) / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if index in chosen:
            target.write_bytes(damaged(path.read_bytes(), rng)[1])
    return len(chosen)


KINDS = (at_once, no_folder, damage, full_disk, other_version, zipped, read_only, another_users, killed)
