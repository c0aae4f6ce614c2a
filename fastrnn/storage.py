"""Models and checkpoints in files: safetensors, written whole or not at all, and read without trusting them.

A file is an ordinary safetensors file whose metadata says what is in it:

    format           "fastrnn"
    format_version   "1"
    kind             "model", "checkpoint", …
    architecture     models: JSON of the layers' names and constructor arguments, within those of their containers
    extra            models: JSON of whatever was saved with it, if anything was
    meta             other kinds: JSON of whatever goes with the tensors

A file names layers, never code: they are looked up in `fastrnn.layers.LAYERS` and `fastrnn.model.CONTAINERS`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import checks, init, parameters
from .layers import LAYERS
from .model import CONTAINERS, Container
from .safetensors_reader import BFLOAT16, DTYPES, Reader, check_header, parse_json, quoted

if TYPE_CHECKING:
    from .layers.base import Layer

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

__all__ = ["FormatError", "load", "load_extra", "save"]

FORMAT = "fastrnn"
FORMAT_VERSION = 1

Path = str | bytes | os.PathLike

_DEEPEST = 64  # of containers in one another
_MOST_LAYERS = 10_000  # of a model, and of its tensors: each is an object of some kilobytes, however few its numbers
_TEMPORARY, _UNFINISHED = ".fastrnn-", ".part"  # how temporary files' names begin and end
_BEGINNINGS = {"init", "seed", "forget_bias"}  # arguments that no config has: to obey them can take very long
_LONGEST_MESSAGE = 400
_MOST_ENTRIES = 8  # of an argument that is a list or an object
_LONGEST_ARGUMENT = 80  # characters of a layer's arguments and their names
_DAMAGED = "is damaged or cut short"
_DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class FormatError(ValueError):
    """A file that is damaged, not one of ours, from a newer version, or does not fit what it is read for."""


# ---- models ----


def save(model: Layer, path: Path, *, extra: dict[str, Any] | None = None) -> None:
    """Write a layer or a model to one safetensors file at `path`: its architecture and its parameters.

    extra: anything JSON can hold, for `load_extra`.

    An existing file is replaced whole, or stays as it was. `OSError` if it can't be written, `TypeError` for a model
    with layers that are not fastrnn's own, `ValueError` for one of more than 64 containers in one another, or of more
    than 10,000 layers, containers among them, or tensors, and for `extra` that could not be read again.
    """
    entries = {"architecture": architecture(model)}
    _write(path, "model", model.state_dict(), entries if extra is None else {**entries, "extra": extra})


def load(path: Path) -> Layer:
    """The model in the file at `path`, as `save` wrote it.

    The file is checked before anything is built from it, and no code is run from it. `FormatError` for a file that is
    damaged, not one of ours or from a newer version; `OSError` for one that can't be read.
    """
    with _opened(path, "model") as file:
        description = _json_entry(file, path, "architecture")
        with _as_format_error(path, "does not hold a usable model"):
            model = _build(description, {name: (spec.dtype, spec.shape) for name, spec in file.specs.items()})
        with _as_format_error(path, _DAMAGED):
            model.parameters.read(file.read_into)
        return model


def load_extra(path: Path) -> dict[str, Any] | None:
    """What was saved as `extra` with the model in the file at `path`; None if nothing was. Errors as in `load`."""
    with _opened(path, "model") as file:
        return _json_entry(file, path, "extra") if "extra" in file.metadata else None


def check_fits(description: dict, tensors: dict[str, np.ndarray]) -> None:
    """`ValueError` or `TypeError` unless `tensors` are what an `architecture` calls for; nothing is built."""
    _fitting_plan(description, _specs_of(tensors))


def restore(description: dict, tensors: dict[str, np.ndarray], path: Path):
    """The model of an `architecture` with the parameters `tensors`, both out of the file at `path`: a checkpoint's.

    `FormatError` if one is damaged or they don't belong together.
    """
    with _as_format_error(path, "does not hold a usable model"):
        model = _build(description, _specs_of(tensors))
    model.load_state_dict(tensors)
    return model


def architecture(model) -> dict:
    """The layers of `model` and their constructor arguments, good for JSON; `restore` makes it again.

    `TypeError` for layers that are not fastrnn's own, `ValueError` for too many layers, tensors, or containers in one
    another.
    """
    description = _described(model, 0)
    _check_number(len(model.parameters.shapes))
    _check_number(_planned(description).count())
    return description


def _described(layer, depth):
    name = type(layer).__name__
    if type(layer) not in (LAYERS.get(name), CONTAINERS.get(name)):
        raise TypeError(f"model must consist of fastrnn's own layers, got a {name}")
    if not isinstance(layer, Container):
        return {"type": name, "config": layer.config()}
    _check_depth(depth)
    return {"type": name, **layer.config(), "layers": [_described(member, depth + 1) for member in layer.layers]}


def _check_depth(depth):
    if depth >= _DEEPEST:
        raise ValueError(f"model must have at most {_DEEPEST} containers in one another")


def _check_number(count):
    if count > _MOST_LAYERS:
        raise ValueError(f"model must have at most {_MOST_LAYERS:,} layers and tensors, got {count:,}")


class _Plan(NamedTuple):
    """What is to be built: a layer, or a container with `members`."""

    kind: type
    arguments: dict
    members: list | None

    def count(self):
        """How many layers it has, containers among them."""
        return sum(1 + member.count() for member in self.members or ())

    def leaves(self, prefix=""):
        """(prefix of its tensors' names, class, arguments) of every layer."""
        if self.members is None:
            yield prefix, self.kind, self.arguments
        for i, member in enumerate(self.members or ()):
            yield from member.leaves(f"{prefix}{i}.")

    def build(self):
        """The layer."""
        return self.kind(*[member.build() for member in self.members or ()], **self.arguments)


def _planned(description, depth=0):
    """The `_Plan` of an `architecture`; nothing is built."""
    if not isinstance(description, dict) or not isinstance(description.get("type"), str):
        raise ValueError("a layer must have a type")
    arguments = dict(description)
    name = arguments.pop("type")
    if name in CONTAINERS:
        _check_depth(depth)
        members = arguments.pop("layers", None)
        if not isinstance(members, list):
            raise ValueError(f"a {name} must have a list of layers")
        _check_arguments(name, arguments)
        return _Plan(CONTAINERS[name], arguments, [_planned(member, depth + 1) for member in members])
    if name not in LAYERS:
        raise ValueError(f"unknown layer {quoted(name)}")
    if arguments.keys() != {"config"} or not isinstance(arguments["config"], dict):
        raise ValueError(f"the config of {name} must be an object, and all there is")
    if began := _BEGINNINGS & arguments["config"].keys():
        raise ValueError(f"{min(began)} of {name} is of no use to one whose parameters are loaded")
    _check_arguments(name, arguments["config"])
    return _Plan(LAYERS[name], arguments["config"], None)


def _check_arguments(name, arguments):
    """Refuse what is so long that to compute with it, or a message about it, would take much memory."""
    for argument in (*arguments, *arguments.values()):
        if isinstance(argument, str) and len(argument) > _LONGEST_ARGUMENT:
            raise ValueError(f"{name} has no argument such as {quoted(argument)}")
        if isinstance(argument, (list, dict)) and len(argument) > _MOST_ENTRIES:
            raise ValueError(f"{name} has no argument with {len(argument):,} entries")
        if isinstance(argument, (list, dict)):
            _check_arguments(name, argument if isinstance(argument, dict) else dict(enumerate(argument)))


def _build(description, specs):
    """A new model of an `architecture`, with parameters yet to be loaded: `ValueError` or `TypeError` if it is none.

    `specs`: dict of tensor name -> (safetensors dtype, shape), what there is to load. It must be exactly what the
    architecture calls for; that is compared first, so that nothing larger than the tensors is ever built.
    """
    plan = _fitting_plan(description, specs)
    dtype = next((dtype for dtype, _ in specs.values()), "F32")  # a model has one
    size = sum(math.prod(shape) for found, shape in specs.values() if found == dtype)
    with init.left_out(), parameters.in_place(size, DTYPES[dtype]):
        return plan.build()


def _fitting_plan(description, specs):
    """The `_Plan` of an `architecture` that calls for exactly `specs`."""
    _check_number(len(specs))
    plan = _planned(description)
    _check_number(plan.count())
    _compare_specs(plan.leaves(), specs)
    return plan


def _compare_specs(leaves, specs):
    """Refuse `specs` that differ from what the layers call for; `leaves`: those of a `_Plan`."""
    missing = set(specs)
    for prefix, layer_class, config in leaves:
        # One by one: a false number of layers ends at the first tensor that is not there.
        for own_name, shape in layer_class.parameter_shapes(**config):
            name = prefix + own_name
            if name not in missing:
                raise ValueError(f"it has no tensor {name}")
            missing.remove(name)
            dtype = checks.choice("dtype", config.get("dtype", "float32"), ("float32", "float64"))
            expected = _DTYPE_NAMES[np.dtype(dtype)], tuple(shape)
            if specs[name] != expected:
                raise ValueError(
                    f"tensor {name} is {_spec_text(*specs[name])} but the architecture needs {_spec_text(*expected)}"
                )
    if missing:
        raise ValueError(f"the architecture has no place for tensor {quoted(min(missing))}")


def _specs_of(tensors):
    return {name: (_DTYPE_NAMES[array.dtype], array.shape) for name, array in tensors.items()}


def _spec_text(dtype, shape):
    return f"{dtype} {list(shape)}"


# ---- tensors of any kind ----


def save_tensors(path: Path, kind: str, tensors: dict[str, np.ndarray], meta: dict) -> None:
    """Write `tensors` and `meta`, anything JSON can hold, to one file of the given `kind`.

    An existing file is replaced whole, or stays as it was. Floats in `meta` come back exactly, integers too, of as many
    digits as Python reads; tuples come back as lists. `TypeError` for what can't be stored, `ValueError` for `meta`
    that could not be read again: with two entries of one name once names are strings, too large or too deep; `OSError`
    if the file can't be written.
    """
    _write(path, kind, tensors, {"meta": meta})


def load_tensors(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """The tensors (fresh arrays) and the meta that `save_tensors` wrote under the same `kind`.

    `FormatError` for a file that is damaged, of another kind, not one of ours or from a newer version; `OSError` for
    one that can't be read.
    """
    with _opened(path, kind) as file:
        meta = _json_entry(file, path, "meta")
        for name, spec in file.specs.items():
            if spec.dtype == BFLOAT16:
                raise FormatError(f"{_text(path)} has a tensor {quoted(name)} of BF16, which fastrnn never writes")
        return _read_tensors(file, path), meta


def _write(path, kind, tensors, entries):
    texts = {name: _json(name, value) for name, value in entries.items()}
    size = sum(np.asarray(tensor).nbytes for tensor in tensors.values())
    for name, text in texts.items():
        try:
            parse_json(text, size + len(text))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} could not be read again: {error}") from None
    write_safetensors(path, tensors, {"format": FORMAT, "format_version": str(FORMAT_VERSION), "kind": kind} | texts)


def _json(name, value):
    try:
        return json.dumps(value)
    except RecursionError:
        raise ValueError(f"{name} could not be written: it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must hold what JSON can: {error}") from None


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file of any kind. Errors as in `save_tensors`."""
    library = _safetensors()
    arrays = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor, order="C")  # safetensors silently stores any other order wrongly
        if array.dtype not in _DTYPE_NAMES:
            raise TypeError(f"tensor {name} has dtype {array.dtype}, which can't be stored")
        arrays[name] = array
    try:
        parts = _in_fixed_order(library.numpy.save(arrays, metadata))
    except (ValueError, library.SafetensorError) as error:  # what can't be read again must not replace a file that can
        raise ValueError(f"the file could not be read again: {error}") from None
    with atomic_write(path) as file:
        for part in parts:
            file.write(part)


def _in_fixed_order(data):
    """The parts of a safetensors file with its metadata sorted: the library orders it differently in every run.

    `ValueError` for a header that could not be read again.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"))
    check_header(text, len(data))
    text = text.encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little"), text, memoryview(data)[start:]


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors, fresh arrays, and the metadata of a safetensors file of any kind; bfloat16 becomes float32.

    `FormatError` for a file that is damaged or none; `OSError` for one that can't be read.
    """
    with _safetensors_file(path, "a safetensors file") as file:
        return _read_tensors(file, path), file.metadata


@contextlib.contextmanager
def _safetensors_file(path, what):
    """A `Reader` of the file at `path`, which should be `what`."""
    path = checks.path("path", path)
    _check_is_file(os.stat(path), path)  # to open a device may do something
    with open(path, "rb", opener=_open_at_once) as file:
        _check_is_file(os.fstat(file.fileno()), path)  # it may have changed since
        try:
            with _as_format_error(path, f"is not {what}, or damaged or cut short"):
                reader = Reader(file)
            yield reader
        except OSError as error:  # such as a disk's that fails, which names no file
            raise OSError(error.errno, error.strerror, _text(path)) from error


def _check_is_file(status, path):
    if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device may have no end
        raise FormatError(f"{_text(path)} is not a file")


def _open_at_once(path, flags):
    """As `os.open`, but a pipe is not waited for, where the system can do so."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextlib.contextmanager
def _opened(path, kind):
    """A `Reader` of the file at `path`, found to be one of ours, of this `kind` and version."""
    with _safetensors_file(path, "a fastrnn file") as file:
        if file.metadata.get("format") != FORMAT:
            raise FormatError(f"{_text(path)} is a safetensors file, but not one that fastrnn wrote")
        version = file.metadata.get("format_version", "")
        if not (version.isascii() and version.isdigit() and 1 <= len(version) <= 9):
            raise FormatError(f"{_text(path)} is damaged: its format version is {quoted(version)}")
        if int(version) > FORMAT_VERSION:
            raise FormatError(
                f"{_text(path)} is from a newer fastrnn: its format version is {version}, and this fastrnn reads "
                f"up to {FORMAT_VERSION}"
            )
        if (found := file.metadata.get("kind", "None")) != kind:
            raise FormatError(f"{_text(path)} must be a {kind}, but holds a {short(found)}")
        yield file


def _json_entry(file, path, name):
    with _as_format_error(path, f"is damaged: its {name} can't be read"):
        return parse_json(file.metadata[name], file.size)


def _read_tensors(file, path):
    checks.memory(f"what {_text(path)} holds", file.size)
    with _as_format_error(path, _DAMAGED):
        return {name: file.read(name) for name in file.specs}


@contextlib.contextmanager
def _as_format_error(path, problem):
    """Turn what goes wrong with a file's contents into one short sentence that names the file."""
    try:
        yield
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise FormatError(f"{_text(path)} {problem}: {short(str(error))}") from None


def short(text: str) -> str:
    """`text`, part of which may come out of a file, as one line of a sentence's length."""
    line = " ".join(text[: 4 * _LONGEST_MESSAGE].split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}…"


@contextlib.contextmanager
def errors_as(kind: type[Exception], text: str) -> Iterator[None]:
    """Turn what another library makes of a stranger's file into one kind of error: it raises anything."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise kind(f"{text}: {short(str(error))}") from error


def _text(path):
    return os.fsdecode(path)


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError:
        message = "fastrnn files need the safetensors package: pip install safetensors (extra fastrnn[train])"
        raise ImportError(message) from None
    return safetensors


# ---- atomic writing ----


@contextlib.contextmanager
def atomic_write(path: Path):
    """A binary file to write to, which takes the place of `path` at the end of the block if all went well.

    The data go into a temporary file in the same folder, are forced to disk and renamed over `path`: at every moment,
    also if the machine stops, `path` is either what it was or the whole new file. If the block or the disk fails,
    the temporary file is removed and `path` stays as it was; what a process that was killed has left is removed by the
    next one that writes into the folder. Permissions follow the umask, a symbolic link stays one. `OSError` names
    `path`; that of a folder that can't be forced to disk comes when the new file is there.
    """
    path = checks.path("path", path)
    target = os.path.realpath(path)
    if path.endswith(os.sep):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if os.path.islink(target):  # links that lead to one another, which have no end
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if os.path.exists(target) and not os.path.isfile(target):
        code = errno.EISDIR if os.path.isdir(target) else errno.EINVAL
        raise OSError(code, "not a file that can be replaced", path)
    folder = os.path.dirname(target)
    _remove_stale(folder)
    temporary = os.path.join(folder, f"{_TEMPORARY}{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        with _open_locked(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                os.replace(temporary, target)  # while it is locked
        if fcntl is None:
            os.replace(temporary, target)  # Windows renames no open file
    except BaseException as error:  # KeyboardInterrupt too
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, path) from error
        raise
    try:
        _sync_folder(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _open_locked(path):
    """A new file, locked where there are locks: a process that is killed loses them, and `_remove_stale` sees it."""
    while True:
        file = open(path, "xb")  # noqa: SIM115 (the caller closes it)
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()  # it was taken for a stale one before it was locked, and is gone


def _remove_stale(folder):
    """Remove temporary files whose writers were killed: those that can be locked."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(_TEMPORARY) and name.endswith(_UNFINISHED):
                stale = os.path.join(folder, name)
                with contextlib.suppress(OSError), open(stale, "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.remove(stale)


def _sync_folder(folder):
    """Force a rename in `folder` to disk, where the system can."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be written to without being readable, and the file is there
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
            raise
    finally:
        os.close(descriptor)
