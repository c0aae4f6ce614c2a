"""fastrnn alone under several environments: other vectors, other threading layers."""

import pathlib

import numpy as np

from .. import child, peers
from ..checks import check_agreement
from ..problem import FEW_SHAPES, Problem, Shape
from ..timing import alternate, progress
from . import THREADS

WORKS = ("train", "infer")
_CHECKED = Shape(7, 5, 21, 37)  # over several panels of any width, none of them full


def measure(shapes, rounds, path):
    """ms of LSTM by work and shape, and what was really in use. Results of a small case go into the file `path`."""
    import numba

    from fastrnn.kernels.simd import VECTOR_BYTES

    peers.load(("fastrnn",))
    np.savez(path, **peers.make("fastrnn", Problem("LSTM", _CHECKED), THREADS).results("train"))
    ms = {work: [] for work in WORKS}
    for shape in shapes:
        peer = peers.make("fastrnn", Problem("LSTM", shape), THREADS)
        for work, timing in alternate({work: getattr(peer, work) for work in WORKS}, rounds).items():
            ms[work].append(timing.seconds * 1e3)
    return {"ms": ms, "vector_bytes": VECTOR_BYTES, "layer": numba.threading_layer()}


def run(options, variants, folder):
    """A row for each of `variants`, name -> variables, each with a kernel cache of its own unless it names one.

    The first is the reference: `Void` if another differs from it by more than rounding.
    """
    shapes = options.choose(FEW_SHAPES)
    rows, results = [], {}
    for name, variables in variants.items():
        path = pathlib.Path(folder, f"{name}.npz")
        row = child.run(measure, THREADS, variables, shapes=shapes, rounds=options.rounds, path=str(path))
        with np.load(path) as file:
            results[name] = dict(file)
        row |= {"name": name, "shapes": shapes}
        progress(f"  {name}: train {', '.join(f'{ms:.3g}' for ms in row['ms']['train'])} ms")
        rows.append(row)
        first = rows[0]["name"]
        row["error"] = check_agreement({first: results[first], name: results[name]}, "float32", "forced variants")
    return rows


def render(rows, more=()):
    """Header and body of a table; `more`: column titles and keys of the rows."""
    header = ["", *(title for title, _ in more)]
    header += [f"({', '.join(map(str, shape))}) {work}, ms" for work in WORKS for shape in rows[0]["shapes"]]
    body = [
        [row["name"], *(row[key] for _, key in more), *(ms for work in WORKS for ms in row["ms"][work])] for row in rows
    ]
    for row, cells in zip(rows, body, strict=True):
        cells.append(f"{row['error']:.0e}")
    return [*header, "difference"], body
