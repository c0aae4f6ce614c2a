"""Measure the tables of RESULTS.md, each in processes of its own, and write it anew from all results stored so far."""

import argparse
import pathlib
import time

from . import results, tables
from .checks import Void
from .problem import Shape
from .timing import progress

_ROUNDS, _QUICK_ROUNDS = 5, 2


def _shape(text):
    sizes = [int(size) for size in text.split(",")]
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"a shape is T,B,I,H, got {text!r}")
    return Shape(*sizes)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(tables.NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds, without the longest cases")
    parser.add_argument("--rounds", type=int, help=f"of bursts, {_ROUNDS} by default")
    parser.add_argument("--shapes", nargs="+", type=_shape, metavar="T,B,I,H", help="only these")
    parser.add_argument("--render", action="store_true", help="measure nothing, write RESULTS.md from stored results")
    parser.add_argument(
        "--output-dir", type=pathlib.Path, default=pathlib.Path(__file__).parent, metavar="DIR",
        help="of RESULTS.md, results.json and roofline.png",
    )  # fmt: skip
    return parser


def main():
    parser = _parser()
    arguments = parser.parse_args()
    unknown = set(arguments.tables) - set(tables.NAMES)
    if unknown:
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(tables.NAMES)}")
    rounds = arguments.rounds or (_QUICK_ROUNDS if arguments.quick else _ROUNDS)
    options = tables.Options(rounds, arguments.quick, arguments.shapes and tuple(arguments.shapes))
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    stored = results.read(arguments.output_dir)
    failed = []
    for name in () if arguments.render else arguments.tables or tables.NAMES:
        progress(f"{name} …")
        began = time.perf_counter()
        try:
            data = tables.load(name).run(options)
            stored[name] = results.entry(data, options, time.perf_counter() - began)
        except Void as error:
            stored[name] = results.entry(None, options, time.perf_counter() - began) | {"void": str(error)}
            failed.append(f"{name} is void: {error}")
        except (RuntimeError, OSError) as error:  # the others go on; what is stored of this one stays
            failed.append(f"{name} failed: {error}")
        results.write(arguments.output_dir, stored)
        progress(f"{name}: {time.perf_counter() - began:.0f} s")
    results.render(arguments.output_dir, stored)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
