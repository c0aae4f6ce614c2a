"""The cache of compiled kernels: whatever becomes of its files, results are right, and there is at most one warning."""

import errno
import os
import pathlib
import py_compile
import subprocess
import sys
import tempfile
import warnings
import zipfile

import numba
import numpy as np
import pytest
from numba.core import caching
from numba.core.config import _OptLevel

import fastrnn
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


def test_cache_keeps_no_code_of_sources_that_are_gone_since_they_were_imported(folder, monkeypatch):
    monkeypatch.setattr(cache, "_sources", lambda _: (folder / "gone").read_text())
    use(make())
    assert not files(folder)


def write_zip(path, change=None):
    """All of fastrnn as a zip, with the change of a source of kernels."""
    kernels = pathlib.Path(cache.__file__).parent
    package = pathlib.Path(fastrnn.__file__).parent
    names = {f"fastrnn/{p.relative_to(package).as_posix()}": p for p in package.rglob("*.py")}
    names |= {f"fastrnn/kernels/{p.relative_to(kernels).as_posix()}": p for p in kernels.rglob("*.py")}
    with zipfile.ZipFile(path, "w") as file:
        for name, source in names.items():
            text = source.read_text("utf-8")
            if change is not None and name == "fastrnn/kernels/losses.py":
                assert change[0] in text
                text = text.replace(*change)
            file.writestr(name, text)


ZIPPED = """
import numpy as np, fastrnn
from fastrnn.kernels import losses
assert ".zip" in fastrnn.__file__
loss, _ = fastrnn.MSE()(np.full((1, 2), 2, np.float32), np.zeros((1, 2), np.float32))
print(loss, sum(losses.squared_error.stats.cache_hits.values()))
"""


def test_cache_of_a_zip_is_used_until_the_zip_changes(tmp_path):
    """It would give the old version's results."""

    def run():
        run = subprocess.run(
            [sys.executable, "-c", ZIPPED],
            env={k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
            | {"PYTHONPATH": str(tmp_path / "fastrnn.zip"), "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)},
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run.stdout.split()

    write_zip(tmp_path / "fastrnn.zip")
    assert run() == ["4.0", "0"] and run() == ["4.0", "1"]
    write_zip(tmp_path / "fastrnn.zip", ("    return d * d,", "    return 3.0 * d * d,"))
    assert run() == ["12.0", "0"]


def digest_of(path, monkeypatch):
    """The digest of the package `digested` in a folder or zip."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(path)
        patch.setattr(cache, "_PACKAGE", "digested")
        import digested.cache

        patch.setattr(cache, "__file__", digested.cache.__file__)
        digest = cache._digest_sources()
        for name in ("digested.cache", "digested"):
            del sys.modules[name]
        return digest


def test_cache_key_follows_sources_in_folders_and_zips(tmp_path, monkeypatch):
    digests = []
    for number in range(2):
        folder, zipped = tmp_path / f"{number}", tmp_path / f"{number}.zip"
        with zipfile.ZipFile(zipped, "w") as file:
            for name, text in {"__init__": "", "cache": "", "cells/__init__": "", "cells/gru": f"x = {number}"}.items():
                path = folder / "digested" / f"{name}.py"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                file.write(path, path.relative_to(folder))
        digests += [digest_of(folder, monkeypatch), digest_of(zipped, monkeypatch)]
    assert digests[0] == digests[1] != digests[2] == digests[3] and None not in digests


def test_cache_key_is_not_to_be_had_of_byte_code_alone(tmp_path, monkeypatch):
    (tmp_path / "digested").mkdir()
    for name in ("__init__", "cache"):
        source = tmp_path / "digested" / f"{name}.py"
        source.write_text("")
        py_compile.compile(source, source.with_suffix(".pyc"))
        source.unlink()
    (tmp_path / "digested" / "other.py").write_text("")
    assert digest_of(tmp_path, monkeypatch) is None


def test_cache_is_none_without_sources_that_tell_of_upgrades(folder, monkeypatch):
    use(make())
    monkeypatch.setattr(cache, "_VERSION", None)
    probe = make()
    with pytest.warns(RuntimeWarning, match="sources are no files.*where fastrnn is installed as source") as caught:
        assert not use(probe) and not use(make())
    assert len(caught) == 1 and probe.stats.cache_path is None and len(files(folder)) == 1


def test_cache_takes_no_folder_for_a_zip_that_is_none(folder, tmp_path, monkeypatch):
    """Numba takes `.zip` anywhere in a path for one, and raises when it is not at the end of a name."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.ZipCacheLocator])
    names = {}
    exec(compile("def probe(x): x[0] = 1", tmp_path / "my.zipped" / "probe.py", "exec"), {"__name__": __name__}, names)
    x = np.zeros(1)
    with pytest.warns(RuntimeWarning, match="can't be kept"):
        kernel(names["probe"], name="other")(x)
    assert x == 1


@pytest.fixture
def refuse(monkeypatch):
    """A function after which nothing can be written to these folders, or to any."""

    def refuse(*folders):
        write = tempfile.TemporaryFile

        def refused(*, dir):
            if not folders or any(pathlib.Path(dir).is_relative_to(folder) for folder in folders):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), dir)
            return write(dir=dir)

        monkeypatch.setattr(tempfile, "TemporaryFile", refused)

    return refuse


def test_cache_that_can_only_be_read_is_used(folder, refuse):
    use(make())
    before = files(folder)
    refuse()
    probe = make()
    assert use(probe) and probe.stats.cache_path is None  # no warning
    with pytest.warns(RuntimeWarning, match="no folder can be written. NUMBA_CACHE_DIR can name.*written$"):
        assert not use(probe, "float64")
    assert use(make()) and not use(make(), "float64") and files(folder) == before


def test_cache_that_can_only_be_read_is_distrusted_like_others(folder, refuse):
    use(make())
    [path] = files(folder)
    path.write_bytes(DAMAGE["a bit of the code"](path.read_bytes()))
    refuse()
    with pytest.warns(RuntimeWarning, match="no folder can be written"):
        assert not use(make())


def test_cache_that_can_only_be_read_has_another_for_what_is_not_there(folder, tmp_path, refuse, monkeypatch):
    """An image's, where a user has a folder of their own."""
    use(make())
    own = tmp_path / "own"
    locators = [caching.UserProvidedCacheLocator, caching.UserWideCacheLocator]
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", locators)
    monkeypatch.setattr(caching.AppDirs, "user_cache_dir", str(own))
    refuse(folder)
    assert use(make()) and not files(own)
    probe = make()
    assert not use(probe, "float64")
    assert len(files(folder)) == len(files(own)) == 1 and pathlib.Path(probe.stats.cache_path).parent == own
    assert use(make()) and use(make(), "float64")
    probe._cache.flush()
    assert not files(own) and len(files(folder)) == 1
    probe = make()
    probe._cache.flush()  # before anything is loaded
    assert not use(probe)


def test_cache_that_can_be_written_is_the_only_one(folder, tmp_path, monkeypatch):
    """Numba's other folders are not looked into when the first will do."""
    use(make())
    monkeypatch.setattr(caching.AppDirs, "user_cache_dir", str(folder))
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "other"))
    locators = [caching.UserProvidedCacheLocator, caching.UserWideCacheLocator]
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", locators)
    assert not use(make())


def test_cache_of_another_optimisation_is_not_used(folder, monkeypatch):
    """A process that has to debug something would make all later ones slow."""
    with monkeypatch.context() as patch:
        patch.setattr(numba.config, "OPT", _OptLevel(0))
        assert not use(make()) and use(make())
    assert not use(make()) and use(make()) and len(files(folder)) == 2


SETTINGS = {
    "OPT": _OptLevel("max"),
    "LOOP_VECTORIZE": 0,
    "SLP_VECTORIZE": 1,
    "USING_SVML": "yes",
    "LLVM_REFPRUNE_PASS": 0,
    "LLVM_REFPRUNE_FLAGS": "per_bb",
    "BOUNDSCHECK": 1,
    "FULL_TRACEBACKS": 1,
    "DEBUGINFO_DEFAULT": 1,
    "EXTEND_VARIABLE_LIFETIMES": 1,
    "DEBUG_JIT": 1,
    "DEBUG_NRT": 1,
}


def test_cache_key_follows_settings_that_change_code(folder, monkeypatch):
    probe = make()
    codegen = probe.targetctx.codegen()
    keys = [probe._cache._key((), codegen)]
    for name, value in SETTINGS.items():
        with monkeypatch.context() as patch:
            patch.setattr(numba.config, name, value)
            keys.append(probe._cache._key((), codegen))
    assert len(set(keys)) == len(keys) == 1 + len(SETTINGS)


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
