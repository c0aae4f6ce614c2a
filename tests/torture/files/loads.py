"""Damaged files: each load ends in a refusal or in what the file says, and does nothing else."""

import os
import pathlib
import sys
import tempfile
import tracemalloc
import warnings

import numba
import numpy as np

import fastrnn
from fastrnn import storage
from fastrnn.safetensors_reader import ROOM

from . import mutations, sources
from .children import Ended, in_child

_CHUNK = 150  # loads in one child
_SECONDS = 20  # that a load may take, on a slow machine
_SMALL = 4 << 20  # bytes beside twice the file, see docs/reliability.md
_FEW = 100_000  # bytes of a file that can't have so many small parts that they take more than that
_RARE = 150  # of the costly mutations, one in so many is made

# What a load must not do, by the events of PEP 578; importing raises "exec" and "compile" too.
_FORBIDDEN = ("exec", "compile", "import", "os.", "subprocess.", "socket.", "pickle.", "marshal.", "ctypes.dlopen",
              "ctypes.dlsym", "ctypes.call_function", "shutil.",
              "code.__new__", "tempfile.", "urllib.", "http.")  # fmt: skip


class _Watch:
    """Notes what the process does while a file is read."""

    def __init__(self):
        self.active, self.seen = False, []
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if not self.active or _is_in_numbas_cache(arguments):
            return
        if event == "open":
            _, mode, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self.seen.append(f"open {arguments}")
        elif event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {arguments}"[:200])


def _is_in_numbas_cache(arguments):
    """Whether an event is about the folder where Numba keeps a kernel, which it tries when a layer first needs one."""
    path = str(arguments[0]) if arguments else ""
    return "__pycache__" in path or bool(numba.config.CACHE_DIR) and path.startswith(numba.config.CACHE_DIR)


def damaged_files(tally, budget):
    """Damage files until the time is up, each way at least once."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in in_child(sources.write, folder, seconds=240):
            pass
        goods = {kind: (pathlib.Path(folder) / kind).read_bytes() for kind in sources.KINDS}
        first = 0
        while first < len(mutations.MUTATIONS) or budget.left():
            last = first + _CHUNK
            _load_chunk(tally, budget, goods, folder, first, last)
            first = last


def large_files(tally):
    """Read good files of megabytes, in whose memory nothing else hides that a model is there twice."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for what, size, peak in in_child(_read_large, folder, seconds=_SECONDS):
                tally.count("large files")
                if peak > 2 * size + _SMALL:
                    tally.broke(f"a large {what} took {peak:,} bytes of memory for a file of {size:,}")
        except Ended as end:
            tally.broke(f"a large file: the process {end.how} after {end.last}")


def _read_large(folder):
    """In a child: kind, size of the file and peak of the memory it took to read it, of each kind of models."""
    path = os.path.join(folder, "large")
    for what, model in sources.large_models():
        fastrnn.save(model, path)
        fastrnn.load(path)  # lazy imports
        tracemalloc.start()
        fastrnn.load(path)
        yield what, os.path.getsize(path), tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def _name(rng, number):
    """Of the mutation with this number: each once, then any, of the costly ones one in `_RARE`."""
    names = list(mutations.MUTATIONS)
    if number < len(names):
        return names[number]
    costly = bool(rng.random() < 1 / _RARE)
    names = [name for name in names if mutations.is_costly(name) == costly]
    return names[int(rng.integers(len(names)))]


def _load_chunk(tally, budget, goods, folder, first, last):
    results = in_child(_loads, goods, folder, budget.seed, first, last, seconds=_SECONDS)
    place = first
    try:
        for number, kind, name, refused, problem in results:
            tally.count("mutated files")
            tally.count("of them refused", refused)
            if problem:
                tally.broke(f"{kind} file, {name}, seed {budget.seed}, number {number}: {problem}")
            place = number + 1
            if not budget.left() and place >= len(mutations.MUTATIONS):
                return
    except Ended as end:
        kind, name, _ = mutated(goods, budget.seed, place)
        tally.broke(f"{kind} file, {name}, seed {budget.seed}, number {place}: the process {end.how}")


def mutated(goods, seed, number):
    """The damaged file of this number: (kind, name of the mutation, bytes)."""
    rng = np.random.default_rng((seed, number))
    kind, name = sources.KINDS[number % len(sources.KINDS)], _name(rng, number)
    content = goods[kind]
    if rng.random() < 0.05 and not mutations.is_costly(name):  # twice damaged, and perhaps made good by that
        content = mutations.MUTATIONS["bits of the data"](rng, content)
    try:
        return kind, name, mutations.MUTATIONS[name](rng, content)
    except UnicodeEncodeError:  # a lone surrogate in a text that JSON can't escape
        return kind, name, content[:-1]


def _loads(goods, folder, seed, first, last):
    """Load the damaged files of these numbers, in a child; yields what came of each."""
    warnings.simplefilter("error")
    for kind, content in goods.items():  # lazy imports and what is built once
        path = os.path.join(folder, f"good {kind}")
        pathlib.Path(path).write_bytes(content)
        sources.reader(kind).read(path)
    watch = _Watch()
    tracemalloc.start()
    for number in range(first, last):
        kind, name, content = mutated(goods, seed, number)
        yield number, kind, name, *_load(watch, kind, name, content, goods[kind], os.path.join(folder, "damaged"))


def _load(watch, kind, name, content, good, path):
    """Whether a damaged file was refused, and what is wrong with how it was read, None for nothing."""
    pathlib.Path(path).write_bytes(content)
    reader, refused, problem = sources.reader(kind), False, None
    fatal = mutations.is_fatal(name) and name not in reader.survived
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    watch.seen.clear()
    watch.active = True
    found = None
    try:
        found = reader.read(path)
    except reader.refusals as error:
        refused = True
        if "\n" in str(error) or len(str(error)) > 1500:
            problem = f"its message is no sentence: {str(error)[:300]!r}…"
        text = str(error)
        if path not in text and isinstance(error, storage.FormatError):
            problem = f"its message does not name the file: {text!r}"
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"[:500]
    finally:
        watch.active = False
    _, peak = tracemalloc.get_traced_memory()
    room = _SMALL if len(content) < _FEW else ROOM
    if problem is None and watch.seen:
        problem = f"it did {watch.seen}"
    if problem is None and peak - before > 2 * len(content) + room:
        problem = f"it took {peak - before:,} bytes of memory for a file of {len(content):,}"
    if problem is None and not refused and fatal and content != good:
        problem = "it was loaded"
    if problem is None and not refused and not sources.agree(kind, found, content):
        problem = "other tensors were loaded than the file has"
    if problem is None and not refused and reader.go_on is not None:
        try:
            reader.go_on()
        except Exception as error:
            problem = f"training did not go on: {type(error).__name__}: {error}"[:500]
    return refused, problem
