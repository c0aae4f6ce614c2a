"""The limits of the environment: interpreters, locales, folders and caches, each in a process of its own."""

import pathlib
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..section import Section
from . import cache
from .processes import Failed, Site
from .settings import SETTINGS

_NARROW = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse,+sse2", "FASTRNN_VECTOR_BYTES": None}
_ROUNDING = 1e-5  # relative to the largest number, after some updates, too
_TOGETHER = 2  # environments
_SHORT = 20  # seconds, below which nothing is tried that has to compile whole nets


def run(tally, budget):
    """The plain environment first, then the others and the kinds of attempts on the cache in turn."""
    short = budget.left() < _SHORT
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder).chmod(0o755)
        site = Site(folder)
        cache.read_damaged(tally, budget.part(0.05))
        plain = site.run("net")
        _try_settings(tally, site, plain, [_named("locale C")])
        if short:
            cache.attempt(tally, "two processes at once", cache.at_once, site, budget.rng, 2)
        else:
            for kind in cache.KINDS:
                cache.attempt(tally, kind.__name__, kind, site, budget.rng)
            cache.attempt(tally, "narrow CPU", _narrow, site)
            cache.attempt(tally, "nothing to write to", _cold, site)
            cache.attempt(tally, "no compiler", _no_compiler, site)
        order = budget.rng.permutation(len(SETTINGS))
        turn = 0
        while budget.left():
            chosen = [SETTINGS[order[(_TOGETHER * turn + n) % len(order)]] for n in range(_TOGETHER)]
            _try_settings(tally, site, plain, chosen)
            if turn % 4 == 3:
                kind = cache.KINDS[turn // 4 % len(cache.KINDS)]
                cache.attempt(tally, kind.__name__, kind, site, budget.rng)
            if turn % 8 == 7:
                cache.attempt(tally, "damaged cache of a net", _damaged_net, site, plain, budget.rng)
            turn += 1


def _named(name):
    return next(setting for setting in SETTINGS if setting.name == name)


def _try_settings(tally, site, plain, settings):
    """Run a child in each of these environments, all at once, and compare."""

    def run_in(setting):
        try:
            return site.run("net", setting.variables, setting.flags, setting.preparation)
        except Failed as error:
            return error

    with ThreadPoolExecutor(len(settings)) as pool:
        for setting, found in zip(settings, pool.map(run_in, settings), strict=True):
            if isinstance(found, Failed):
                tally.broke(f"{setting.name}: {found}")
            else:
                _compare(tally, setting, found, plain)


def _compare(tally, setting, found, plain):
    if (found["bits"], found["losses"]) != (plain["bits"], plain["losses"]):
        tally.broke(f"{setting.name}: other bits than in the plain environment")
    if setting.file is None and found["file"] != plain["file"]:
        tally.broke(f"{setting.name}: a model from a file has other bits, or {found['file']}")
    if setting.file is not None and setting.file not in found["file"]:
        tally.broke(f"{setting.name}: saving said {found['file']!r}")
    if found["warnings"]:
        tally.broke(f"{setting.name}: warnings {found['warnings']}")
    tally.count("environments tried")


def _narrow(tally, site):
    """A CPU without AVX: inference, gradients, training, and model files, its own and the plain process's."""
    if platform.machine() not in ("x86_64", "AMD64"):
        tally.note("a CPU without AVX was not tried: that takes an x86 CPU")
        return
    plain = site.run("all")
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        found = site.run("all", _NARROW | {"NUMBA_CACHE_DIR": folder})
    for name, numbers in plain["numbers"].items():
        error = np.abs(np.subtract(found["numbers"][name], numbers)).max() / np.abs(numbers).max()
        if not error <= _ROUNDING:
            tally.broke(f"a CPU without AVX: {name} are {error:.1e} off")
        tally.count("results without AVX compared")
    if found["bits"][0] != found["bits"][1]:
        tally.broke("a CPU without AVX: a model from a file has other bits")
    if plain["bits"] == found["bits"]:
        tally.broke("a CPU without AVX: the same bits as with it: it was not forced")
    tally.count("environments tried")


def _cold(tally, site):
    """An installation, a home and a cache that can't be written: a net's kernels are compiled, with one warning."""
    found = site.run("pass", site.without_cache(), preparation=_READ_ONLY_INSTALL)
    if found["bits"] != site.run("pass")["bits"]:
        tally.broke("nothing to write to: other bits than in the plain environment")
    if len(found["warnings"]) != 1 or "can't be kept" not in found["warnings"][0]:
        tally.broke(f"nothing to write to: {found['warnings']}")
    tally.count("environments tried")


_READ_ONLY_INSTALL = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes.remove(caching.InTreeCacheLocator)
"""  # what a folder that can't be written comes to: Numba goes on to the next one


def _no_compiler(tally, site):
    """Without a compiler there is one sentence."""
    try:
        site.run("pass", {"NUMBA_DISABLE_JIT": "1"})
    except Failed as error:
        if "RuntimeError: fastrnn's kernels have to be compiled" not in str(error):
            tally.broke(f"NUMBA_DISABLE_JIT=1: {error}")
    else:
        tally.broke("NUMBA_DISABLE_JIT=1 was not refused")
    tally.count("environments tried")


def _damaged_net(tally, site, plain, rng):
    """A copy of the cache that a net's kernels came from, a few of them damaged."""
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        source, target = pathlib.Path(folder) / "source", pathlib.Path(folder) / "target"
        if not (kept := pathlib.Path(site.folder) / "net").exists():
            site.run("net", {"NUMBA_CACHE_DIR": str(kept)})
        source = cache.files_of(kept)
        count = cache.copy_damaged(source, target, rng)
        found = site.run("net", {"NUMBA_CACHE_DIR": str(target)})
    if (found["bits"], found["warnings"]) != (plain["bits"], []):
        tally.broke(f"damaged cache of a net: other bits, or {found['warnings']}")
    tally.count("damaged cache files compiled anew", count)


SECTION = Section(
    promise="whatever the environment: the same bits or one clear sentence; a cache that is damaged, shared, old or "
    "can't be written costs time and at most one warning",
    run=run,
    share=1.0,
    targets={
        "environments tried": 30,
        "results without AVX compared": 5,
        "damaged cache files read": 2_000,
        "damaged cache files compiled anew": 8,
        "processes started at once": 6,
        "processes killed while they saved": 1,
    },
    whole_only={
        "results without AVX compared": "compiles all kernels of a net, which takes a minute",
        "damaged cache files compiled anew": "compiles everything five times over",
        "processes killed while they saved": "compiles everything twice over",
    },
)
