"""Files of other formats that are read: archives of arrays, tables, texts, ONNX; damaged byte by byte."""

import io
import pathlib
import resource
import sys
import tempfile
import warnings
import zipfile

import numpy as np

import fastrnn
from fastrnn import corpus, language_model, words
from fastrnn.cli import npz, table
from fastrnn.cli.common import CommandError
from fastrnn.storage import FormatError

from . import mutations
from .children import Ended, in_child

_CHUNK = 200  # reads in one child
_SECONDS = 30  # that one may take
_LONGEST = 1500  # characters of a message
_ROOM = 512 << 20  # bytes of memory that a read may take beyond what the process had before; all files are small
_MOST_ROOM = 4 << 30  # beyond which the system grants no memory: the machine is others' too
_REPEATED = 8  # bytes, at most, that are put in several times
_DAMAGES = tuple(
    mutations.MUTATIONS[name]
    for name in ("bits anywhere", "a hole of zeros", "a part taken out", "bytes after the end", "noise")
)


def _cut(rng, content):
    return content[: int(rng.integers(len(content)))]


def _bytes_more(rng, content):
    """Some bytes of it again, many times perhaps."""
    place = int(rng.integers(len(content)))
    part = content[place : place + int(rng.integers(1, _REPEATED))]
    return content[:place] + part * int(rng.integers(1, 300)) + content[place:]


def _another_number(rng, content):
    """Digits or four bytes replaced by the largest that there are."""
    place = int(rng.integers(max(1, len(content) - 4)))
    number = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"9999", b"-1e9", bytes(4))[int(rng.integers(5))]
    return content[:place] + number + content[place + 4 :]


# ---- archives of arrays ----


_ARRAYS = {
    "X": np.random.default_rng(0).standard_normal((12, 3)), "y": np.array(["a", "bc", "a"]),
    "lengths": np.array([5, 4, 3]),
}  # fmt: skip


def _write_npz(path):
    np.savez(path, **_ARRAYS)


def _write_compressed_npz(path):
    with open(path, "wb") as file:
        np.savez_compressed(file, **_ARRAYS)


def _read_npz(path):
    npz.read(path, labelled=True)


def _write_npy(path):
    np.save(path, _ARRAYS["y"])


def _read_npy(path):
    """Within an archive whose checksums are right."""
    archive = io.BytesIO()
    np.savez(archive, X=_ARRAYS["X"], lengths=_ARRAYS["lengths"])
    with zipfile.ZipFile(archive, "a") as members:
        members.writestr("y.npy", pathlib.Path(path).read_bytes())
    whole = pathlib.Path(path).with_suffix(".npz")
    whole.write_bytes(archive.getvalue())
    npz.read(str(whole), labelled=True)


# ---- tables ----


def _write_csv(path):
    lines = [f"2024-01-{day:02},{day * 1.5},{day % 7}" for day in range(1, 32)]
    pathlib.Path(path).write_text("\n".join(["date,sales,weekday", *lines]) + "\n")


def _write_parquet(path):
    import pandas as pd

    days = np.arange(31)
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=31), "sales": days * 1.5, "weekday": days % 7})
    frame.to_parquet(path)


def _read_table(path):
    table.read(path, "sales", "date", ["weekday"])


# ---- texts ----


def _write_text(path):
    pathlib.Path(path).write_text("The fox jumps. “Over”\N{GRINNING FACE} the dog!\n\nIs it… done?\n" * 9)


def _read_text(path):
    text = corpus.load([path])
    found = words.sentences((text.training + text.held_out).decode("utf-8", "replace"))
    vocabulary = words.Vocabulary.of(found, 50)
    for sentence in found:
        vocabulary.encoded(sentence)
    language_model.evaluation_stream(text.held_out)


# ---- ONNX ----


def _write_onnx(path):
    from fastrnn.interop import onnx

    model = fastrnn.Sequential(fastrnn.GRU(3, 4, seed=1), fastrnn.Last(), fastrnn.Linear(4, 2, seed=2))
    onnx.export(model, path)


def _read_onnx(path):
    from fastrnn.interop import onnx

    onnx.load(path)


_KINDS = {  # the file's ending -> writer, reader, what it may raise
    "npz": (_write_npz, _read_npz, (CommandError, MemoryError)),
    "compressed": (_write_compressed_npz, _read_npz, (CommandError, MemoryError)),
    "npy": (_write_npy, _read_npy, (CommandError, MemoryError)),
    "csv": (_write_csv, _read_table, (CommandError,)),
    "parquet": (_write_parquet, _read_table, (CommandError,)),
    "txt": (_write_text, _read_text, (ValueError,)),
    "onnx": (_write_onnx, _read_onnx, (FormatError, ValueError)),
}


def foreign_files(tally, budget):
    """Damage files until the time is up."""
    number = 0
    while number == 0 or budget.left():
        with tempfile.TemporaryDirectory() as folder:
            last = None
            try:
                for last, problem in in_child(_reads, folder, budget.seed, number, seconds=_SECONDS):
                    tally.count("mutated files of other formats")
                    if problem:
                        tally.broke(f"{last}, seed {budget.seed}: {problem}")
                    if not budget.left():
                        return
            except Ended as end:
                tally.broke(f"file of another format after {last}, seed {budget.seed}: the process {end.how}")
        number += _CHUNK


def _peak():
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit_memory(room):
    """Let this process have so many bytes of addresses more, where the system says how many it has."""
    status = pathlib.Path("/proc/self/statm")
    if status.exists():
        limit = int(status.read_text().split()[0]) * resource.getpagesize() + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _reads(folder, seed, first):
    """In a child: what came of reading each."""
    warnings.simplefilter("ignore")  # the libraries' that parse them
    paths, goods = {kind: str(pathlib.Path(folder) / f"file.{kind}") for kind in _KINDS}, {}
    for kind, (write, read, _) in _KINDS.items():
        write(paths[kind])
        goods[kind] = pathlib.Path(paths[kind]).read_bytes()
        read(paths[kind])
    peak = _peak()
    _limit_memory(_MOST_ROOM)
    for number in range(first, first + _CHUNK):
        rng = np.random.default_rng((seed, number))
        kind = list(_KINDS)[number % len(_KINDS)]
        damages = (*_DAMAGES, _cut, _bytes_more, _another_number)
        damage = damages[int(rng.integers(len(damages)))]
        pathlib.Path(paths[kind]).write_bytes(damage(rng, goods[kind]))
        _, read, refusals = _KINDS[kind]
        problem = None
        try:
            read(paths[kind])
        except refusals as error:
            if "\n" in str(error) or len(str(error)) > _LONGEST:
                problem = f"its message is no sentence: {str(error)[:300]!r}…"
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"[:500]
        before, peak = peak, max(peak, _peak())
        if problem is None and peak - before > _ROOM:
            problem = f"it took {peak - before:,} bytes of memory, and the files before it no more than {before:,}"
        yield f"{kind}, number {number}", problem
