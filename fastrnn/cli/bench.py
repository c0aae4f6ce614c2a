"""`fastrnn bench`: how fast this machine trains and reads."""

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import language_model
from ..bptt import Truncated
from ..losses import CrossEntropy
from ..optim import Adam
from ..threads import get_num_threads
from ..trainer import Trainer
from .common import Progress, add_threads, number, use_threads


class Size(NamedTuple):
    """Of a model and its batches."""

    steps: int
    batch: int
    embedding: int
    hidden: int


SIZES = (
    Size(64, 32, 64, 128),
    Size(64, 32, 64, 256),
    Size(64, 32, 128, 512),
    Size(64, 1, 64, 128),
    Size(64, 1, 64, 256),
)


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "bench",
        help="tokens per second on this machine",
        description="Time the training step of byte-level language models (forward, backward, clipping, Adam) and "
        "their inference, in tokens (bytes) and floating-point operations per second: medians.",
    )
    parser.add_argument("--cell", choices=tuple(language_model.CELLS), default="lstm", help="recurrent layer")
    parser.add_argument(
        "--seconds", type=number(above=0), default=1.0, metavar="S",
        help="time for each figure, of which there are two for each size",
    )  # fmt: skip
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print a row for each size."""
    use_threads(arguments.threads)
    print(f"{arguments.cell}, float32, {get_num_threads()} threads")
    print(f"{'':27}{'training':>24}{'inference':>25}")
    print(f"{'steps batch embedding hidden':28}" + f"{'tokens/s':>14}{'GFLOP/s':>10}" * 2)
    with Progress("bench") as progress:
        for index, size in enumerate(SIZES):
            progress.show(index / len(SIZES), f"hidden {size.hidden}, batch {size.batch}")
            progress.line(row(arguments.cell, size, arguments.seconds), sys.stdout)


def row(cell: str, size: Size, seconds: float) -> str:
    """The figures of one size, as a line of the table."""
    model = language_model.build(cell, embedding=size.embedding, hidden=size.hidden)
    trainer = Trainer(model, CrossEntropy(), Adam(), bptt=Truncated(size.steps), clip_norm=1.0)
    x, targets = np.random.default_rng(0).integers(0, language_model.BYTES, (2, size.steps, size.batch))
    tokens, work = x.size, x.size * flops_per_token(cell, size)
    text = f"{size.steps:5}{size.batch:6}{size.embedding:10}{size.hidden:7}"
    # the backward pass has two products for each one of the forward pass
    for call, passes in ((lambda: trainer.step(x, targets), 3), (lambda: model.forward(x), 1)):
        taken = median_time(call, seconds)
        text += f"{tokens / taken:14,.0f}{passes * work / taken / 1e9:10.1f}"
    return text


def flops_per_token(cell: str, size: Size) -> int:
    """Floating-point operations of the forward pass's matrix products, which are nearly all there is."""
    gates = language_model.CELLS[cell].gates
    return 2 * size.hidden * (gates * (size.embedding + size.hidden) + language_model.BYTES)


def median_time(call: Callable[[], object], seconds: float) -> float:
    """The median time of a call, over about `seconds` and at least 3 calls; a first one is not counted."""
    call()
    times = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
