"""`fastrnn sample`: let a trained model write."""

import itertools
import os
import sys

from .. import language_model
from .common import displayed, integer, load_model, number


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sample",
        help="let a trained model write",
        description="Write text with a trained model. Bytes that are not UTF-8 are shown as \N{REPLACEMENT CHARACTER}.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a run")
    parser.add_argument("--prime", metavar="TEXT", help="text to go on from (default: the beginning of a line)")
    parser.add_argument("--length", type=integer(0), default=1000, metavar="N", help="bytes to write")
    parser.add_argument(
        "--temperature", type=number(minimum=0), default=0.8, metavar="X",
        help="below 1 the text gets more usual, above 1 bolder; 0 takes the likeliest byte every time",
    )  # fmt: skip
    parser.add_argument(
        "--top-k", type=integer(1, language_model.BYTES), metavar="K",
        help="choose among the K likeliest bytes only (default: all)",
    )  # fmt: skip
    parser.add_argument("--seed", type=integer(0), metavar="N", help="the same text every time (default: another)")
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Write the prime, if one was given, and what follows it to stdout."""
    model = load_model(arguments.model)
    prime = b"\n" if arguments.prime is None else os.fsencode(arguments.prime)
    tokens = language_model.generate(
        model, prime, temperature=arguments.temperature, top_k=arguments.top_k, seed=arguments.seed
    )
    shown = b"" if arguments.prime is None else prime
    for text in displayed(itertools.chain(shown, itertools.islice(tokens, arguments.length))):
        sys.stdout.write(text)
        if sys.stdout.isatty():
            sys.stdout.flush()
    sys.stdout.write("\n")
