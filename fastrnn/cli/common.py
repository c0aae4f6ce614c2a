"""What the commands share: parsing of options, results and notices, progress, reading of models, text for display."""

import argparse
import codecs
import contextlib
import importlib.util
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numba
import numpy as np

from .. import checks, language_model, storage, words
from ..threads import set_num_threads

_SECONDS_BETWEEN_LINES = 5.0

# Control characters but tab, line feed and carriage return: they could do anything to a terminal.
_CONTROL = {*range(32), *range(127, 160)} - set(b"\t\n\r")
_UNPRINTABLE = dict.fromkeys(_CONTROL, "\N{REPLACEMENT CHARACTER}")


class CommandError(Exception):
    """Something the caller can put right, said in one sentence."""


# ---- options ----


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to the help of every option that has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)

    def error(self, message):
        raise CommandError(f"{message} (see '{self.prog} --help')")

    def _print_message(self, message, file=None):
        (file or sys.stderr).write(message)  # argparse would keep quiet about a full disk


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """The type of an option that is an integer within bounds."""
    return _type(lambda text: checks.integer("it", int(text), minimum=minimum, maximum=maximum), "an integer")


def number(**bounds: float) -> Callable[[str], float]:
    """The type of an option that is a number within the bounds of `checks.number`."""
    return _type(lambda text: checks.number("it", float(text), **bounds), "a number")


def _type(convert, what):
    def converted(text):
        try:
            return convert(text)
        except (ValueError, TypeError) as error:
            reason = str(error) if str(error).startswith("it must") else f"it must be {what}, got {text!r}"
            raise argparse.ArgumentTypeError(reason) from None

    return converted


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The option `--threads`, for `use_threads`."""
    most = numba.config.NUMBA_NUM_THREADS
    parser.add_argument(
        "--threads", type=integer(1, most), metavar="N",
        help=f"threads to compute with, at most {most} here (default: all; results do not depend on it)",
    )  # fmt: skip


def use_threads(count: int | None) -> None:
    """Set the number of threads, if one was asked for."""
    if count is not None:
        set_num_threads(count)


def require(package: str, user: str, extra: str = "train") -> None:
    """`CommandError` if an optional package that `user` needs is not installed."""
    if importlib.util.find_spec(package) is None:
        package = {"sklearn": "scikit-learn"}.get(package, package)  # as PyPI calls it
        raise CommandError(f"{user} needs the {package} package: pip install {package} (extra fastrnn[{extra}])")


def check_output(option: str, path: str) -> None:
    """`CommandError` if no file can be written at `path`: better known before the work than after it."""
    folder = os.path.dirname(path) or os.curdir
    if os.path.isdir(path):
        raise CommandError(f"{option}: {path} is a folder")
    if not os.path.isdir(folder):
        raise CommandError(f"{option}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"{option}: the folder {folder} can't be written to")


# ---- notices, on stderr ----

_LOGGER = logging.getLogger("fastrnn")
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)  # from --quiet on


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """The options `--verbose` and `--quiet`, for `verbosity`."""
    group = parser.add_mutually_exclusive_group()
    for flags, level, text in (
        (("-v", "--verbose"), 1, "show the library's log"),
        (("-q", "--quiet"), -1, "show results and errors alone"),
    ):  # without a default, so that a command's parser leaves what was said before the command
        group.add_argument(
            *flags, action="store_const", const=level, dest="verbosity", default=argparse.SUPPRESS, help=text
        )  # fmt: skip


@contextlib.contextmanager
def verbosity(level: int):
    """Show log records of the library from this level on: -1 errors, 0 warnings, 1 what it does. Below 0 `say` and
    `Progress` show nothing, either."""
    handler, before = _Notices(), _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(_LEVELS[level + 1])
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(before)


class _Notices(logging.Handler):
    """Log records as lines on stderr."""

    def emit(self, record):
        warning = record.levelno >= logging.WARNING
        prefix = styled(f"{record.levelname.lower()}: ", "warning", sys.stderr) if warning else ""
        _write_line(prefix + self.format(record), sys.stderr)


def say(message: str) -> None:
    """A line on stderr."""
    if not _is_quiet():
        _write_line(message, sys.stderr)


def _is_quiet():
    return not _LOGGER.isEnabledFor(logging.WARNING)


def _write_line(text, file):
    """Above the progress bars, if there are any."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is None:
        print(text, file=file)
    else:
        tqdm.tqdm.write(text, file=file)
    file.flush()


# ---- colours ----

_STYLES = {"error": "1;31", "warning": "33", "result": "1", "name": "36", "faint": "2"}  # ECMA-48's SGR codes


def styled(text: str, style: str, file: IO[str] | None = None) -> str:
    """`text` in a style if `file` (None: stdout) shows colours, else as it is."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if shows_colours(sys.stdout if file is None else file) else text


def shows_colours(file: IO[str]) -> bool:
    """Whether `file` is a terminal that is to have colours: see https://no-color.org and https://force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return file.isatty() and os.environ.get("TERM") != "dumb" and os.name != "nt"


# ---- progress ----


class Progress:
    """How far something is, on stderr: on a terminal a bar, by tqdm, else a line every few seconds; never if quiet."""

    def __init__(self, title: str, done: float = 0.0):
        self._title, self._first, self._bar = title, done, None
        self._began = self._last = time.monotonic()
        if sys.stderr.isatty() and not _is_quiet() and importlib.util.find_spec("tqdm") is not None:
            from tqdm import tqdm

            known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
            size = {"dynamic_ncols": True} if known else {"ncols": 100, "nrows": 20}  # tqdm would fit itself into 0
            self._bar = tqdm(
                total=1.0, initial=done, desc=title, file=sys.stderr, leave=False, miniters=0, **size,
                bar_format="{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}, {remaining} left{postfix}",
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def show(self, fraction: float, text: str) -> None:
        """Be at `fraction` of the whole, with `text` beside it."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(min(fraction, 1.0) - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            gone = fraction - self._first
            left = f", {duration((now - self._began) * (1 - fraction) / gone)} left" if gone > 0 else ""
            say(f"{self._title}: {100 * fraction:.0f}%, {text}{left}")

    def line(self, text: str, file: IO[str] | None = None) -> None:
        """A notice of its own or, in `file`, a result: above the bar if there is one."""
        if file is None:
            say(text)
        else:
            _write_line(text, file)


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# ---- results ----


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option `--json`, for `report`."""
    parser.add_argument("--json", action="store_true", default=False, help="print the result as one JSON object")


def report(arguments: argparse.Namespace, result: Mapping[str, Any], text: str = "") -> None:
    """Print a command's result: `text` for people or, with `--json`, `result` as one JSON object on one line.

    A command that prints as it goes on calls it with `--json` alone, and without `text`.

    NumPy's numbers and arrays go as Python's, paths as text, and what is not finite, for which JSON has no number, as
    null.
    """
    print(json.dumps(_plain(result), allow_nan=False) if arguments.json else text)


def _plain(value):
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else value


# ---- models and text ----


def load_model(path: str):
    """The language model in the file at `path`, or in the run's folder, and its vocabulary, None for one of bytes."""
    path = file_in_run(path, MODEL_FILE)
    model, extra = storage.load(path), storage.load_extra(path)
    try:
        vocabulary = None if extra is None else words.Vocabulary(extra["vocabulary"])
        language_model.check(model, language_model.BYTES if vocabulary is None else len(vocabulary))
    except (ValueError, TypeError, KeyError) as error:
        text = f"its {error} is missing" if isinstance(error, KeyError) else error
        raise CommandError(f"{path}: {text}") from None
    return model, vocabulary


MODEL_FILE = "model.safetensors"
CHECKPOINT_FILE = "checkpoint.safetensors"


def file_in_run(path: str, name: str) -> str:
    """`path` itself, or the file `name` in it if it is a folder."""
    if not os.path.isdir(path):
        return path
    if not os.path.exists(file := os.path.join(path, name)):
        unfinished = name == MODEL_FILE and os.path.exists(os.path.join(path, CHECKPOINT_FILE))
        hint = f", go on with: fastrnn train --resume {path}" if unfinished else ": it is not the folder of a run"
        raise CommandError(f"the folder {path} has no {name}{hint}")
    return file


def displayed(tokens: Iterable[int]) -> Iterator[str]:
    """Bytes as text as they come; what is not UTF-8, or could upset a terminal, is replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        yield decoder.decode(bytes([token])).translate(_UNPRINTABLE)
    yield decoder.decode(b"", final=True)


def displayed_words(written: Iterable[str]) -> Iterator[str]:
    """Words as text as they come; what could upset a terminal is replaced."""
    for piece in words.pieces(written):
        yield piece.translate(_UNPRINTABLE)
