"""fastrnn alone under several environments: other vectors, other threading layers."""

import pathlib

import numpy as np

from .. import child, peers
from ..checks import check_agreement
from ..problem import FEW_SHAPES, GATES, Problem, Shape
from ..timing import alternate, progress
from . import THREADS

WORKS = ("train", "infer")
# over several panels of any width, none of them full; then large enough for two threads, which share out rows or units
_CHECKED = (Shape(7, 5, 21, 37), Shape(60, 12, 40, 100), Shape(60, 2, 70, 200))


def _checked_results():
    """Outputs and gradients of every cell for the cases that are checked, with full and ragged batches, by name."""
    results = {}
    for cell in GATES:
        for shape in _CHECKED:
            ragged = np.random.default_rng(0).integers(1, shape.steps + 1, shape.batch)
            for lengths in (None, ragged):
                peer = peers.make("fastrnn", Problem(cell, shape, lengths=lengths), THREADS)
                for work in WORKS:
                    label = f"{cell} {shape} {work} {'full' if lengths is None else 'ragged'}"
                    results |= {f"{label} {name}": array for name, array in peer.results(work).items()}
    return results


def measure(shapes, rounds, path):
    """ms of LSTM by work and shape, and what was really in use. Results that are checked go into the file `path`."""
    import numba

    from fastrnn.kernels.simd import VECTOR_BYTES

    peers.load(("fastrnn",))
    np.savez(path, **_checked_results())
    ms = {work: [] for work in WORKS}
    for shape in shapes:
        peer = peers.make("fastrnn", Problem("LSTM", shape), THREADS)
        for work, timing in alternate({work: getattr(peer, work) for work in WORKS}, rounds).items():
            ms[work].append(timing.seconds * 1e3)
    return {"ms": ms, "vector_bytes": VECTOR_BYTES, "layer": numba.threading_layer()}


def run(options, variants, folder):
    """A row for each of `variants`, name -> variables, each in a process of its own.

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
