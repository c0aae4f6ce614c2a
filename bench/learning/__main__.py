"""Train on the tasks of LEARNING.md, and write it anew from all results stored so far."""

import argparse
import pathlib

from .. import results
from ..timing import progress
from . import document, runs, tasks


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _parser():
    parser = argparse.ArgumentParser(prog="python -m bench.learning", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(tasks.NAMES)}; all by default")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="so many instead of each task's own")
    parser.add_argument("--quick", action="store_true", help="a few updates each, to try the code")
    parser.add_argument("--render", action="store_true", help="train nothing, write LEARNING.md from stored results")
    parser.add_argument(
        "--jobs", type=_positive, default=results.available_cpus(), metavar="N",
        help="processes at a time, one per CPU by default",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent, metavar="DIR",
        help="of LEARNING.md, learning.json and the folder learning of plots",
    )  # fmt: skip
    return parser


def main(argv=None):
    parser = _parser()
    arguments = parser.parse_args(argv)
    unknown = set(arguments.tasks) - set(tasks.NAMES)
    if unknown:
        parser.error(f"no task {', '.join(sorted(unknown))}; there are {', '.join(tasks.NAMES)}")
    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    stored = results.read(folder, document.STORE)
    names = () if arguments.render else arguments.tasks or tasks.NAMES
    failed = []
    for name, outcome in runs.run_all(names, arguments.seeds, arguments.quick, arguments.jobs):
        if isinstance(outcome, Exception):  # the others go on; what is stored of this one stays
            failed.append(f"{name} failed: {outcome}")
            continue
        partial = arguments.quick or len(outcome) < len(tasks.load(name).SEEDS)
        stored[name] = results.origin("bench.learning", document.PACKAGES) | {"partial": partial, "results": outcome}
        results.write(folder, stored, document.STORE)
        progress(f"{name} is done")
    document.write(folder, stored)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
