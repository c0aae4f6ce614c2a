"""The command line: `fastrnn` and `python -m fastrnn`.

Results go to stdout, with `--json` as one JSON object, everything else to stderr. Exit status: 0, or 2 for whatever the
caller can put right (one sentence says what), 130 after Ctrl-C, 141 when whoever reads stdout has stopped.
"""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

import numba

from .. import __version__
from ..kernels.jit import REFUSAL
from . import bench, classify, completion, convert, diagnose, evaluate, forecast, info, sample, train, warmup
from .common import CommandError, Parser, add_verbosity, styled, verbosity

_COMMANDS = (train, sample, evaluate, classify, forecast, diagnose, convert, bench, info, warmup, completion)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (`argv` without the program's name; None: `sys.argv`) and return its exit status."""
    with _streams():
        return _status(argv)


@contextlib.contextmanager
def _streams():
    """Have somewhere to write to, also where whoever started the program has closed stdout or stderr."""
    closed = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
    with contextlib.ExitStack() as stack:
        for name in closed:
            stack.callback(setattr, sys, name, None)
            setattr(sys, name, stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
        yield


def _status(argv):
    """Run one command: its exit status."""
    if hasattr(sys.stdout, "reconfigure"):  # a sample may have characters that a terminal's encoding lacks
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _run(argv)
        sys.stdout.flush()  # a full disk shows here, while it can still be told
        return status
    except KeyboardInterrupt:
        _complain("interrupted")
        return _flushed(130)
    except BrokenPipeError:
        _abandon_stdout()
        return 141
    except (CommandError, OSError, ValueError, MemoryError, ImportError) as error:
        _complain(_sentence(error))
        return _flushed(2)


def _run(argv):
    try:
        arguments = build_parser()[0].parse_args(argv)
    except SystemExit as end:  # --help, --version
        return end.code or 0
    if numba.config.DISABLE_JIT:
        raise CommandError(REFUSAL)
    with verbosity(getattr(arguments, "verbosity", 0)):
        return arguments.run(arguments) or 0


def build_parser() -> tuple[Parser, Mapping[str, Parser]]:
    """The parser of all commands, and those of each."""
    parser = Parser(
        prog="fastrnn",
        description="Recurrent neural networks at the CPU's full speed.",
        epilog="'fastrnn COMMAND --help' tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"fastrnn {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for command in _COMMANDS:
        command.add_parser(commands)
    for one in (parser, *commands.choices.values()):
        add_verbosity(one)
    return parser, commands.choices


def _complain(sentence):
    print(f"{styled('fastrnn:', 'error', sys.stderr)} {sentence}", file=sys.stderr)


def _sentence(error):
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    return " ".join(str(error).split())


def _flushed(status):
    """`status`, with stdout in a condition that the interpreter's end finds no fault with."""
    try:
        sys.stdout.flush()
    except OSError:
        _abandon_stdout()
    return status


def _abandon_stdout():
    """Send what is left of stdout nowhere: Python flushes it once more at its end."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a real file
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
