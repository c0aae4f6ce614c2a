"""`fastrnn diagnose`: how far a language model's gradient travels back through a text."""

import numpy as np

from .. import corpus, diagnostics
from ..losses import CrossEntropy
from .common import CommandError, add_threads, integer, load_model, say, use_threads


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "diagnose",
        help="how far the gradient travels back through time",
        description="Measure, on pieces of a text, how the gradient of a trained model travels back through time: its "
        "norm by lag, the Jacobians' largest singular values, saturated gates, and a verdict for each layer.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a run")
    parser.add_argument("file", metavar="FILE", help="text to measure on")
    parser.add_argument("--steps", type=integer(2), default=100, metavar="T", help="bytes of each piece of the text")
    parser.add_argument(
        "--sequences", type=integer(1), default=16, metavar="B", help="pieces, spread evenly over the text"
    )
    parser.add_argument(
        "--max-lag", type=integer(1), metavar="K", help="steps to go back (default: 100, or all there are)"
    )
    parser.add_argument("--plot", metavar="PATH", help="draw the measurements into a PNG, too")
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print the tables and verdicts, and draw them if asked to."""
    use_threads(arguments.threads)
    if arguments.max_lag is not None and arguments.max_lag >= arguments.steps:
        raise CommandError(f"--max-lag must be less than --steps {arguments.steps}, got {arguments.max_lag}")
    if arguments.plot is not None:
        diagnostics.plots.new_figure("--plot", 1, 1)  # better known before than after the work
    model = load_model(arguments.model)
    (text,) = corpus.read_files([arguments.file])
    if len(text) <= arguments.steps:
        raise CommandError(
            f"{arguments.file} is too short: it has {len(text)} bytes, --steps {arguments.steps} needs one more"
        )
    x, targets = _pieces(text, arguments.steps, arguments.sequences)
    flow = diagnostics.gradient_flow(model, CrossEntropy(), x, targets, max_lag=arguments.max_lag)
    print(flow)
    if arguments.plot is not None:
        flow.plot(arguments.plot)
        say(f"plot: {arguments.plot}")


def _pieces(text, steps, count):
    """Inputs and targets (T,B): each byte's target is the one after it."""
    starts = np.linspace(0, len(text) - steps - 1, count).astype(int)
    pieces = np.frombuffer(text, np.uint8)[starts + np.arange(steps + 1)[:, np.newaxis]]
    return pieces[:-1], pieces[1:]
