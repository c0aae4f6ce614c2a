"""The command `python -m tests.torture`."""

import argparse
import json
import pathlib
import sys

from . import SECTIONS
from .report import document, summary
from .runner import find, run, run_here

_WHOLE = 30  # minutes from which every section must reach its targets, and not only one case of each kind


def main():
    """Run the sections; the exit status is 0 only if all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2, help=f"time for all of it (2; a whole run: {_WHOLE})")
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--document", type=pathlib.Path, help="put the results into this Markdown file")
    parser.add_argument("--child", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not __debug__:
        parser.error("the torture judges by assert, which python -O leaves out: run it without")
    if arguments.child:
        arguments.report.write_text(json.dumps(run_here(arguments.child, arguments.seconds, arguments.seed)))
        return 0

    names = arguments.section or SECTIONS
    shares = {name: find(name).share for name in names}
    results = []
    for name in names:
        seconds = 60 * arguments.minutes * shares[name] / sum(shares.values())
        result = run(name, seconds, arguments.seed, whole=arguments.minutes >= _WHOLE)
        print(summary(result), flush=True)
        results.append(result)
    if arguments.document:
        document(arguments.document, results, arguments.minutes, arguments.seed)
    broken = sum(result.broken_count for result in results)
    print(f"{broken} did not hold" if broken else "all held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
