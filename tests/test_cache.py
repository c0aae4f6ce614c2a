"""The cache of compiled kernels: whatever becomes of its files, results are right, and there is at most one warning."""

import errno
import os
import pathlib
import subprocess
import sys
import warnings

import numba
import numpy as np
import pytest
from numba.core import caching

from fastrnn.kernels import cache
from fastrnn.kernels.jit import kernel


def make():
    """The probe as a process has it that has just begun: only files know that it was ever compiled."""

    def probe(x):
        for i in range(x.size):
            x[i] = 2 * x[i] + i

    return kernel(probe, name="probe")


def use(probe, dtype="float32"):
    """Whether the code came from the cache; the result is found to be right."""
    before = sum(probe.stats.cache_hits.values())
    x = np.ones(5, dtype)
    probe(x)
    np.testing.assert_array_equal(x, 2 + np.arange(5))
    return sum(probe.stats.cache_hits.values()) > before


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The one folder that Numba may write; nothing was warned of yet."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.UserProvidedCacheLocator])
    monkeypatch.setattr(cache, "_warned", False)
    return tmp_path / "cache"


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_cache_is_used_by_the_next_process(folder):
    assert not use(make())
    probe = make()
    assert use(probe)
    [path] = files(folder)
    assert path.parent == pathlib.Path(probe.stats.cache_path)
    assert "probe" in path.name and path.suffix == ".kernel"


DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "a digest alone": lambda content: content[:32],
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"\0",
    "a bit of the digest": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a bit of the code": lambda content: content[:-2000] + bytes([content[-2000] ^ 16]) + content[-1999:],
    "a text": lambda content: b"hello " * 100,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_cache_file_that_is_damaged_counts_as_missing(folder, kind):
    use(make())
    [path] = files(folder)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    assert not use(make())
    assert use(make())


def test_cache_file_in_the_place_of_another(folder):
    probe = make()
    use(probe), use(probe, "float64")
    one, other = files(folder)
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1]), other.write_bytes(contents[0])
    probe = make()
    assert not use(probe) and not use(probe, "float64")


def test_cache_of_two_processes_that_save_at_once(folder, monkeypatch):
    """Each begins before the other has saved, with another signature: neither's code is lost or mistaken."""
    first, second, waiting = make(), make(), []
    save = cache.KernelCache.save_overload
    monkeypatch.setattr(cache.KernelCache, "save_overload", lambda *call: waiting.append(call))
    use(first, "float32"), use(second, "float64")
    for call in waiting:
        save(*call)
    third = make()
    assert use(third, "float32") and use(third, "float64")


def test_cache_of_another_version_is_replaced(folder, monkeypatch):
    monkeypatch.setattr(cache, "_VERSION", "before")
    monkeypatch.setattr(cache, "_digest_sources", lambda: "before")
    use(make())
    old = files(folder)
    monkeypatch.undo()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    assert not use(make())
    assert len(files(folder)) == len(old) == 1 and files(folder) != old
    assert use(make())


def test_cache_key_follows_the_version_of_numba(monkeypatch):
    versions = set()
    for number in (numba.__version__, "0.1"):
        monkeypatch.setattr(numba, "__version__", number)
        versions.add(cache._digest_sources())
    assert len(versions) == 2 and cache._VERSION in versions


def test_cache_keeps_no_code_of_sources_that_have_changed_since_they_were_imported(folder, monkeypatch):
    monkeypatch.setattr(cache, "_digest_sources", lambda: "after")
    use(make())
    assert not files(folder)
    monkeypatch.setattr(cache, "_digest_sources", lambda: (folder / "gone").read_text())
    use(make())
    assert not files(folder)


def test_cache_removes_what_killed_processes_have_left(folder):
    use(make())
    [kept] = files(folder)
    fresh, old = (kept.with_name(f"{kept.name}.{number}") for number in ("0123", "4567"))
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    use(make(), "float64")
    assert fresh.exists() and not old.exists() and len(files(folder)) == 3


def test_cache_without_a_folder_warns_once(folder):
    folder.write_text("a file")
    probe = make()
    with pytest.warns(RuntimeWarning, match="can't be kept.*no folder.*NUMBA_CACHE_DIR") as caught:
        assert not use(probe)
        assert not use(probe, "float64") and not use(make())
    assert len(caught) == 1 and probe.stats.cache_path is None


def test_cache_makes_no_folder_named_after_a_home_that_is_not_known(folder, tmp_path, monkeypatch):
    """Numba would: `./~/.cache`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.UserWideCacheLocator])
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.warns(RuntimeWarning, match="no folder"):
        use(make())
    assert list(tmp_path.iterdir()) == []


def test_cache_without_a_folder_where_warnings_are_errors(folder):
    """The first call raises, as the user has chosen; then all goes on."""
    folder.write_text("a file")
    probe = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.ones(5, np.float32)
        with pytest.raises(RuntimeWarning, match="can't be kept"):
            probe(x)
        assert (x == 1).all()
        assert not use(probe)


def test_cache_on_a_full_disk_warns_once(folder, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    monkeypatch.setattr(os, "replace", full)
    probe = make()
    with pytest.warns(RuntimeWarning, match="can't be kept.*No space left") as caught:
        assert not use(probe) and not use(probe, "float64")
    assert len(caught) == 1 and files(folder) == []


def test_cache_with_a_folder_in_the_place_of_a_file(folder):
    use(make())
    [path] = files(folder)
    path.unlink()
    path.mkdir()
    with pytest.warns(RuntimeWarning, match="can't be kept"):
        assert not use(make())
    assert files(folder) == []


def test_cache_that_another_process_has_just_filled(folder, monkeypatch):
    """Windows lets no file be replaced that another process reads: that is no cause for a warning."""
    first, second = make(), make()
    second._cache.load_overload = lambda *_: None  # it looked before the first one saved
    use(first)

    def refused(source, target):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)

    monkeypatch.setattr(os, "replace", refused)
    assert not use(second)


def test_cache_is_flushed_before_a_kernel_is_compiled_again(folder):
    probe = make()
    use(probe), use(probe, "float64")
    probe._cache.flush()
    assert files(folder) == []
    assert not use(make())


NO_COMPILER = """
import numpy as np, fastrnn
from fastrnn import cli
layer = fastrnn.RNN(2, 3)
try:
    layer.forward(np.ones((4, 1, 2), np.float32))
except RuntimeError as error:
    print(error)
print(cli.main(["--version"]), cli.main(["info"]))
"""


def test_cache_needs_a_compiler_and_says_so():
    run = subprocess.run(
        [sys.executable, "-c", NO_COMPILER], env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    sentence, version, statuses = run.stdout.splitlines()
    assert sentence == "fastrnn's kernels have to be compiled, which NUMBA_DISABLE_JIT forbids: unset it"
    assert version.startswith("fastrnn ") and statuses == "0 2"
    assert run.stderr == f"fastrnn: {sentence}\n"
