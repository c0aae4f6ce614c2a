"""`fastrnn sample`: let a trained model write."""

import itertools
import os
import sys

from .. import language_model, words
from .common import CommandError, add_json, displayed, displayed_words, integer, load_model, number, report


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sample",
        help="let a trained model write",
        description="Write text with a trained model; one of words writes sentences, a line each. Bytes that are not "
        "UTF-8 are shown as \N{REPLACEMENT CHARACTER}.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a run")
    parser.add_argument("--prime", metavar="TEXT", help="text to go on from (default: the beginning of a line)")
    parser.add_argument("--length", type=integer(1), default=1000, metavar="N", help="bytes, or words, to write")
    parser.add_argument(
        "--temperature", type=number(minimum=0), default=0.8, metavar="X",
        help="below 1 the text gets more usual, above 1 bolder; 0 takes the likeliest every time",
    )  # fmt: skip
    parser.add_argument(
        "--top-k", type=integer(1), metavar="K",
        help="choose among the K likeliest bytes, or words, only (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=number(above=0, maximum=1), metavar="P",
        help="choose among the likeliest only that have together the probability P (default: all)",
    )  # fmt: skip
    parser.add_argument("--seed", type=integer(0), metavar="N", help="the same text every time (default: another)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Write the prime, if one was given, and what follows it to stdout."""
    model, vocabulary = load_model(arguments.model)
    options = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "seed")}
    most = language_model.BYTES if vocabulary is None else len(vocabulary)
    if arguments.top_k is not None and arguments.top_k > most:
        raise CommandError(f"argument --top-k: it must be at most {most}, got {arguments.top_k}")
    write = _bytes if vocabulary is None else _words
    written = write(model, vocabulary, arguments.prime, arguments.length, options)
    if arguments.json:
        report(arguments, {"text": "".join(written), "prime": arguments.prime, "length": arguments.length, **options})
        return
    for text in written:
        sys.stdout.write(text)
        if sys.stdout.isatty():
            sys.stdout.flush()
    sys.stdout.write("\n")


def _bytes(model, _, prime, length, options):
    """Pieces of text by a model of bytes."""
    first = b"\n" if prime is None else os.fsencode(prime)
    tokens = language_model.generate(model, first, **options)
    return displayed(itertools.chain(b"" if prime is None else first, itertools.islice(tokens, length)))


def _words(model, vocabulary, prime, length, options):
    """Pieces of text by a model of words: a line for each sentence."""
    first = [] if prime is None else words.split(prime)
    if prime is not None and not first:
        raise ValueError("prime must have at least one word")
    tokens = language_model.generate_sentences(model, vocabulary, vocabulary.tokens(first), **options)
    written = (vocabulary.words[token] for token in itertools.islice(tokens, length))
    return displayed_words(itertools.chain(first, written))
