"""Initial values of parameters."""

import math

import numpy as np

from . import checks


def generator(seed):
    """A NumPy `Generator` for `seed`: an integer ≥ 0, a `Generator` (used as it is), or None for a fresh one."""
    if seed is None or isinstance(seed, np.random.Generator):
        return np.random.default_rng(seed)
    return np.random.default_rng(checks.integer("seed", seed, minimum=0))


def uniform(parameters, fan, rng):
    """Fill all parameters from U(−1/√fan, 1/√fan), PyTorch's default for recurrent and linear layers."""
    bound = 1 / math.sqrt(fan)
    parameters.writing()[:] = rng.uniform(-bound, bound, parameters.size)


def normal(parameters, rng):
    """Fill all parameters from N(0, 1), PyTorch's default for embeddings."""
    parameters.writing()[:] = rng.standard_normal(parameters.size)
