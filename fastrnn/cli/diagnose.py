"""`fastrnn diagnose`: how far a language model's gradient travels back through a text."""

import dataclasses
import os

import numpy as np

from .. import corpus, data, diagnostics, plot, words
from ..losses import CrossEntropy
from .common import CommandError, add_json, add_threads, check_output, integer, load_model, report, say, use_threads
from .levels import decoded


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "diagnose",
        help="how far the gradient travels back through time",
        description="Measure, on pieces of a text, how the gradient of a trained model travels back through time: its "
        "norm by lag, the Jacobians' largest singular values, saturated gates, and a verdict for each layer; and what "
        "truncation to horizons of 1, 2, 4, … steps makes of it: cosine and ratio of norms to the full gradient.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a run")
    parser.add_argument("file", metavar="FILE", help="text to measure on")
    parser.add_argument(
        "--steps", type=integer(2), default=100, metavar="T", help="length of a piece of the text, in bytes or words"
    )
    parser.add_argument(
        "--sequences", type=integer(1), default=16, metavar="B",
        help="pieces, spread evenly over the text; for a model of words, its longest sentences",
    )  # fmt: skip
    parser.add_argument(
        "--max-lag", type=integer(1), metavar="K", help="steps to go back (default: 100, or all there are)"
    )
    parser.add_argument(
        "--plot", metavar="PATH",
        help="draw the flow into this PNG, and what truncation does into one beside it, its name with -truncation",
    )  # fmt: skip
    add_threads(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print the tables and verdicts, and draw them if asked to."""
    use_threads(arguments.threads)
    if arguments.max_lag is not None and arguments.max_lag >= arguments.steps:
        raise CommandError(f"--max-lag must be less than --steps {arguments.steps}, got {arguments.max_lag}")
    if arguments.plot is not None:
        check_output("--plot", arguments.plot)
        plot.new_figure("--plot", 1, 1)  # better known before than after the work
    model, vocabulary = load_model(arguments.model)
    (text,) = corpus.read_files([arguments.file])
    if vocabulary is None:
        x, targets, lengths = _pieces(text, arguments)
    else:
        x, targets, lengths = _sentences(text, vocabulary, arguments)
    loss, steps = CrossEntropy(), len(x)
    max_lag = None if arguments.max_lag is None else min(arguments.max_lag, steps - 1)
    flow = diagnostics.gradient_flow(model, loss, x, targets, lengths=lengths, max_lag=max_lag)
    horizons = [2**n for n in range(steps.bit_length())]
    bias = diagnostics.truncation_bias(model, loss, x, targets, horizons, lengths=lengths)
    result = {**dataclasses.asdict(flow), "truncation": [row._asdict() for row in bias.rows]}
    report(arguments, result, f"{flow}\n\ntruncated gradients against the full one\n\n{bias}")
    if arguments.plot is not None:
        stem, extension = os.path.splitext(arguments.plot)
        for found, path in ((flow, arguments.plot), (bias, f"{stem}-truncation{extension}")):
            found.plot(path)
            say(f"plot: {path}")


def _pieces(text, arguments):
    """Inputs and targets (T,B), each byte's target being the one after it, and no lengths."""
    steps, count = arguments.steps, arguments.sequences
    if len(text) <= steps:
        raise CommandError(
            f"{arguments.file} is too short: it has {len(text)} bytes, --steps {steps} needs one more"
        )
    starts = np.linspace(0, len(text) - steps - 1, count).astype(int)
    pieces = np.frombuffer(text, np.uint8)[starts + np.arange(steps + 1)[:, np.newaxis]]
    return pieces[:-1], pieces[1:], None


def _sentences(text, vocabulary, arguments):
    """The same of words: the longest sentences, of equally long ones the first, as far as `--steps` goes."""
    longest = sorted(words.sentences(decoded(text)), key=len, reverse=True)[: arguments.sequences]
    if not longest:
        raise CommandError(f"{arguments.file} has no sentence")
    tokens, lengths = data.pad([vocabulary.encoded(sentence)[: arguments.steps + 1] for sentence in longest])
    return tokens[:-1], tokens[1:], lengths - 1
