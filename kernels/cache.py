"""Where compiled kernels are kept from one process to the next.

Numba's own cache of a function has one index for all signatures. Two processes that save at once can leave an entry of
one with the code of the other, a damaged file raises while it is unpickled, and a full disk ends the call that wanted
a kernel compiled. Here every compiled kernel has a file of its own, which appears whole or not at all and begins with a
digest of the rest; whatever is wrong with it, it counts as missing. Folders that can only be read are read, too. What
can't be kept costs time and one warning.
"""

import contextlib
import functools
import hashlib
import importlib.resources
import inspect
import os
import pickle
import sys
import time
import uuid

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, NullCache
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

from .simd import VECTOR_BYTES
from .warn import warn_caller

_SUFFIX = ".kernel"
_SECONDS_OF_A_WRITE = 600  # at most, on a slow disk
_DIGEST_BYTES = hashlib.sha256().digest_size
_PACKAGE = __name__.rpartition(".")[0]
_PYTHON = sys.implementation.cache_tag + getattr(sys, "abiflags", "")  # whose pickles they are

# Numba's settings that change the code of a kernel; instruction sets are the codegen's to tell.
_SETTINGS = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "USING_SVML",
    "LLVM_REFPRUNE_PASS",
    "LLVM_REFPRUNE_FLAGS",
    "BOUNDSCHECK",
    "FULL_TRACEBACKS",  # an index out of bounds is printed
    "DEBUGINFO_DEFAULT",
    "EXTEND_VARIABLE_LIFETIMES",
    "DEBUG_JIT",
    "DEBUG_NRT",
)

_warned = False  # in this process


def _sources(folder, prefix=""):
    """Names and contents of all sources below a folder, which may be one in a zip."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _sources(entry, f"{name}/")
        elif name.endswith(".py"):
            yield name, entry.read_bytes()


def _digest_sources():
    """A digest of all that code depends on: every kernel's source, Numba and LLVM. None without the sources.

    Numba looks at the calling file alone, and would go on using a cached caller after an edit of its callee.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    names = set()
    try:
        for name, content in _sources(importlib.resources.files(_PACKAGE)):
            names.add(name)
            digest.update(name.encode())
            digest.update(content)
    except Exception:  # of whatever kind: a file that is gone by now, a zip that is being replaced
        return None
    # what runs may be byte code alone, or of a zip that has sources beside it: no source tells of an upgrade then
    return digest.hexdigest()[:16] if os.path.basename(__file__) in names else None


_VERSION = _digest_sources()  # of the sources as they are when this process imports them


def _are_sources_as_imported():
    """Whether there was no upgrade since: it might be code of either version that is kept."""
    return _digest_sources() == _VERSION


def _is_source_file(function):
    """Whether the source is a file of its own, as Numba has it for the folders of its choice."""
    return _VERSION is not None and os.path.exists(inspect.getfile(function))


def _warn(function, reason):
    """Tell, once in a process, that kernels are not kept."""
    global _warned
    if not _warned:
        _warned = True  # first, for a filter may raise it
        where = "" if _is_source_file(function) else " where fastrnn is installed as source files"
        warn_caller(
            f"compiled kernels can't be kept, so that every process takes the seconds to compile them anew: {reason}. "
            f"NUMBA_CACHE_DIR can name a folder that can be written{where}"
        )


def _home_is_known():
    """Whether there is a home: else Numba would make a folder named `~` where the process happens to be."""
    return os.path.isabs(AppDirs(appname="numba", appauthor=False).user_cache_dir)


def _noting(locator, folders):
    """The locator, which appends each folder to `folders` before it finds out whether that can be written."""

    class Noting(locator):
        def ensure_cache_path(self):
            folders.append(os.path.abspath(self.get_cache_path()))
            super().ensure_cache_path()

    return Noting


class _Compiled(CompileResultCacheImpl):
    """What serialises compiled code, and looks for folders.

    `folder` is the first in Numba's order that can be written, None if there is none; `folders` has it and those before
    it, which may be there to be read: an image's, for instance, whose file system is read-only.
    """

    def __init__(self, function):
        self.folder, self.folders = None, []
        if _VERSION is None:  # what is kept could be any version's
            return
        with contextlib.suppress(RuntimeError, ValueError):  # no folder; a path that has .zip in it, but is none
            super().__init__(function)
            self.folder = os.path.abspath(self.locator.get_cache_path())
            if self.folder not in self.folders:
                self.folders.append(self.folder)

    @property
    def _locator_classes(self):
        for locator in super()._locator_classes:
            if _home_is_known() or locator.__name__ not in ("UserWideCacheLocator", "ZipCacheLocator"):
                yield _noting(locator, self.folders)


class KernelCache(NullCache):
    """What Numba takes for a dispatcher's cache: one kernel's files, under the full `name` of `function`.

    Numba holds its compiler lock around every call.
    """

    def __init__(self, function, name):
        self._function = function
        self._name = name
        self._prefix = f"{name}.{_PYTHON}-"

    @functools.cached_property
    def _numba(self):
        return _Compiled(self._function)

    @property
    def cache_path(self):
        """The folder, wherever the process goes later; None if no folder can be written."""
        return self._numba.folder

    def load_overload(self, sig, target_context):
        """The code for a signature, or None if there is none to be had."""
        target_context.refresh()
        key = self._key(sig, target_context.codegen())
        for folder in self._numba.folders:
            reduced = _read(self._path(folder, key), key)
            if reduced is not None:
                return self._numba.rebuild(target_context, reduced)
        if self.cache_path is None:
            there = _is_source_file(self._function)
            _warn(self._function, "no folder can be written" if there else "their sources are no files")
        return None

    def save_overload(self, sig, data):
        """Keep the code for a signature, if that is possible."""
        if self.cache_path is None or not self._numba.check_cachable(data):
            return
        if not _are_sources_as_imported():
            return
        key = self._key(sig, data.codegen)
        path = self._path(self.cache_path, key)
        content = dumps((key, self._numba.reduce(data)))
        try:
            os.makedirs(self.cache_path, exist_ok=True)
            _write(path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            if _read(path, key) is None:  # nor has another process just put it there
                _warn(self._function, error)
            return
        self._remove(outdated=True)

    def flush(self):
        """Forget the code for all signatures."""
        self._numba.folders[:] = []
        if self.cache_path is not None:
            self._numba.folders.append(self.cache_path)  # alone: from the others nothing can be removed
            self._remove(outdated=False)

    def _key(self, sig, codegen):
        settings = tuple(repr(getattr(numba.config, name, None)) for name in _SETTINGS)
        return self._name, _VERSION, sig, codegen.magic_tuple(), VECTOR_BYTES, settings

    def _path(self, folder, key):
        """The file in a folder of this kernel for a signature, CPU, vector width and settings.

        Its name tells apart what `repr` does: types that it does not have to share a file, one at a time.
        """
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        return os.path.join(folder, f"{self._prefix}{_VERSION}-{digest}{_SUFFIX}")

    def _remove(self, *, outdated):
        """Remove this kernel's files: all, or those that other versions and killed processes left."""
        current = f"{self._prefix}{_VERSION}-"
        with contextlib.suppress(OSError), os.scandir(self.cache_path) as entries:
            for entry in entries:
                if not entry.name.startswith(self._prefix):
                    continue
                with contextlib.suppress(OSError):
                    if not outdated or not entry.name.startswith(current) or _is_abandoned(entry):
                        os.unlink(entry)


def _read(path, key):
    """What the file at `path` holds for `key`; None if there is no such file, or it is not as it was written."""
    try:
        with open(path, "rb") as file:
            content = memoryview(file.read())
        if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            return None
        found, reduced = pickle.loads(content[_DIGEST_BYTES:])
    except Exception:  # of whatever kind: a class that is no more, for instance, among the types of a signature
        return None
    return reduced if found == key else None


def _is_abandoned(entry):
    """Whether the file is one that `_write` made, of a process that was killed before it could give it its name."""
    return not entry.name.endswith(_SUFFIX) and time.time() - entry.stat().st_mtime > _SECONDS_OF_A_WRITE


def _write(path, content):
    """Put a file at `path` that no other process sees before it is whole."""
    temporary = f"{path}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
