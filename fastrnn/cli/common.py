"""What the commands share: parsing of options, progress, reading of models, text for display."""

import argparse
import codecs
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

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


# ---- progress ----


def require(package: str, user: str) -> None:
    """`CommandError` if an optional package that `user` needs is not installed."""
    if importlib.util.find_spec(package) is None:
        raise CommandError(f"{user} needs the {package} package: pip install {package} (extra fastrnn[train])")


def say(message: str) -> None:
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)


class Progress:
    """How far something is, on stderr: a bar on a terminal, else a line every few seconds."""

    def __init__(self, title: str, done: float = 0.0):
        self._title, self._first, self._bar = title, done, None
        self._began = self._last = time.monotonic()
        if sys.stderr.isatty():
            known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
            size = {"dynamic_ncols": True} if known else {"ncols": 100, "nrows": 20}  # tqdm would fit itself into 0
            self._bar = _tqdm()(
                total=1.0, initial=done, desc=title, file=sys.stderr, leave=False, miniters=0, **size,
                bar_format="{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}, {remaining} left{postfix}",
            )  # fmt: skip

    @staticmethod
    def check() -> None:
        """`CommandError` if something is missing for a bar: better known before than in the middle."""
        if sys.stderr.isatty():
            _tqdm()

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

    def line(self, text: str, file=None) -> None:
        """A line of its own on stderr, or in `file`: above the bar if there is one."""
        file = sys.stderr if file is None else file
        if self._bar is None:
            print(text, file=file, flush=True)
        else:
            self._bar.write(text, file=file)


def _tqdm():
    require("tqdm", "the progress bar")
    from tqdm import tqdm

    return tqdm


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# ---- results ----


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option `--json`, for `report`."""
    parser.add_argument("--json", action="store_true", default=False, help="print the result as one JSON object")


def report(arguments: argparse.Namespace, result: Mapping[str, Any], text: str) -> None:
    """Print a command's result: `text` for people or, with `--json`, `result` as one JSON object on one line.

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
    return os.path.join(path, name) if os.path.isdir(path) else path


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
