"""Make the pictures of docs/gradients-through-time.md, and write the tables in it anew."""

import argparse
import importlib
import pathlib
import re
import time

_PARTS = ("travel", "output_gate", "truncation", "rules", "learning")
_DOCS = pathlib.Path(__file__).parents[2] / "docs"


def fill(page: str, tables: dict[str, list[str]]) -> str:
    """`page` with the lines of each of `tables` between its markers, `<!-- begin NAME -->` and `<!-- end NAME -->`."""
    for name, lines in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        block = "\n".join([begin, *lines, end])
        page, count = re.subn(f"{begin}.*?{end}", lambda _, block=block: block, page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"the page must have one block {name}, it has {count}")
    return page


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.gradients", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}; all by default")
    parser.add_argument("--docs", type=pathlib.Path, default=_DOCS, metavar="DIR", help="of the page and images/")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(_PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    path = arguments.docs / "gradients-through-time.md"
    for part in arguments.parts or _PARTS:
        began = time.perf_counter()
        tables = importlib.import_module(f"{__package__}.{part}").run(arguments.docs / "images")
        path.write_text(fill(path.read_text(encoding="utf-8"), tables), encoding="utf-8")
        print(f"{part}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
