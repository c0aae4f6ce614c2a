"""A benchmark that computes something wrong is void."""

import numpy as np

from .problem import TOLERANCE


class Void(Exception):
    """The results differ: there is nothing to compare."""


def difference(results, reference):
    """The largest difference of the arrays in both dicts, relative to the reference's largest element of each."""
    names = results.keys() & reference.keys()
    if not names:
        raise Void("there is nothing to compare")
    errors = [
        float(np.max(np.abs(np.asarray(results[name]) - reference[name])) / np.max(np.abs(reference[name])))
        for name in names
    ]
    return max(errors, key=lambda error: error if error == error else np.inf)


def check_agreement(results, dtype, what):
    """`results`, name -> dict of arrays: all against the first. Returns the largest difference, `Void` if too large."""
    (_, reference), *others = results.items()
    worst = 0.0
    for name, arrays in others:
        error = difference(arrays, reference)
        if not error <= TOLERANCE[dtype]:
            raise Void(f"{what}: {name} differs by {error:.1e}")
        worst = max(worst, error)
    return worst


def check_gradients(cell):
    """`fastrnn.gradcheck` of a small layer in float64: `Void` unless it agrees with central differences."""
    import fastrnn

    rng = np.random.default_rng(0)
    layer = getattr(fastrnn, cell)(3, 5, dtype="float64", seed=0)
    report = fastrnn.gradcheck(layer, fastrnn.MSE(), rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 5)))
    if not report:
        raise Void(f"{cell}: {report}")
