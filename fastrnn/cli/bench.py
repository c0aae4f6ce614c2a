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
from .common import Progress, add_json, add_threads, number, report, styled, use_threads


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

_HEAD = (
    "{cell}, float32, {threads} threads\n"
    f"{'':27}{'training':>24}{'inference':>25}\n"
    f"{'steps batch embedding hidden':28}" + f"{'tokens/s':>14}{'GFLOP/s':>10}" * 2
)
_ROW = "{steps:5}{batch:6}{embedding:10}{hidden:7}" + "".join(
    f"{{{name}_tokens_per_second:14,.0f}}{{{name}_gflops:10.1f}}" for name in ("training", "inference")
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
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print a row for each size, as soon as it is measured."""
    use_threads(arguments.threads)
    found = []
    if not arguments.json:
        print(styled(_HEAD.format(cell=arguments.cell, threads=get_num_threads()), "name"))
    with Progress("bench") as progress:
        for index, size in enumerate(SIZES):
            progress.show(index / len(SIZES), f"hidden {size.hidden}, batch {size.batch}")
            found.append(size._asdict() | measure(arguments.cell, size, arguments.seconds))
            if not arguments.json:
                progress.line(_ROW.format(**found[-1]), sys.stdout)
    if arguments.json:
        report(arguments, {"cell": arguments.cell, "dtype": "float32", "threads": get_num_threads(), "sizes": found})


def measure(cell: str, size: Size, seconds: float) -> dict[str, float]:
    """The figures of one size, by name."""
    model = language_model.build(cell, embedding=size.embedding, hidden=size.hidden)
    trainer = Trainer(model, CrossEntropy(), Adam(), bptt=Truncated(size.steps), clip_norm=1.0)
    x, targets = np.random.default_rng(0).integers(0, language_model.BYTES, (2, size.steps, size.batch))
    tokens, work = x.size, x.size * flops_per_token(cell, size)
    figures: dict[str, float] = {}
    # the backward pass has two products for each one of the forward pass
    for name, passes, call in (
        ("training", 3, lambda: trainer.step(x, targets)),
        ("inference", 1, lambda: model.forward(x)),
    ):
        taken = median_time(call, seconds)
        figures |= {f"{name}_tokens_per_second": tokens / taken, f"{name}_gflops": passes * work / taken / 1e9}
    return figures


def flops_per_token(cell: str, size: Size) -> int:
    """Floating-point operations of the forward pass's matrix products, which are nearly all there is."""
    gates = language_model.CELLS[cell].gates
    return 2 * size.hidden * (gates * (size.embedding + size.hidden) + language_model.BYTES)


def median_time(call: Callable[[], object], seconds: float) -> float:
    """The median time of a call, over about `seconds` and at least 3 calls; a first one is not counted."""
    call()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
