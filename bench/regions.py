"""A kernel that opens parallel regions with nothing to do in them."""

import numpy as np

from fastrnn.kernels.jit import kernel, subroutine
from fastrnn.kernels.parallel import in_parallel


@subroutine
def _nothing(part, places):
    places[part] += 1


@kernel
def _open(regions, parts, places):
    for _ in range(regions):
        in_parallel(_nothing, parts, (places,))


def open_regions(regions, parts):
    """Open `regions` regions of so many parts, one after the other."""
    _open(regions, parts, np.zeros(parts))
