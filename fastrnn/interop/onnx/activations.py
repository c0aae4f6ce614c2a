"""The activation functions of ONNX's recurrent operators."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class _Kind(NamedTuple):
    """A function of x, alpha and beta; how many of the two it takes, and their defaults, None where there is none."""

    function: Callable
    constants: int = 0
    defaults: tuple[float | None, float | None] = (None, None)


def _sigmoid(x, *_):
    return 1 / (1 + np.exp(-x))


# By their names in lower case, as files differ in it. Defaults are those of the operators of the same name, where there
# still is one and ONNX Runtime agrees: it takes 0 for ThresholdedRelu's 1.
_KINDS = {
    "affine": _Kind(lambda x, alpha, beta: alpha * x + beta, 2, (None, 0.0)),
    "elu": _Kind(lambda x, alpha, _: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))), 1, (1.0, None)),
    "hardsigmoid": _Kind(lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), 2, (0.2, 0.5)),
    "leakyrelu": _Kind(lambda x, alpha, _: np.where(x >= 0, x, alpha * x), 1, (0.01, None)),
    "relu": _Kind(lambda x, *_: np.maximum(x, 0)),
    "scaledtanh": _Kind(lambda x, alpha, beta: alpha * np.tanh(beta * x), 2),
    "sigmoid": _Kind(_sigmoid),
    "softplus": _Kind(lambda x, *_: np.logaddexp(x, 0)),
    "softsign": _Kind(lambda x, *_: x / (1 + np.abs(x))),
    "tanh": _Kind(lambda x, *_: np.tanh(x)),
    "thresholdedrelu": _Kind(lambda x, alpha, _: np.where(x >= alpha, x, 0), 1),
}


class Activation(NamedTuple):
    """One of the functions, by its name in lower case, with its constants."""

    name: str
    alpha: float | None
    beta: float | None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return _KINDS[self.name].function(x, self.alpha, self.beta)


def parse(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Activation]:
    """The functions of a node's attributes `activations`, `activation_alpha` and `activation_beta`.

    Functions with constants take theirs in turn, defaults once there are none left. `ValueError` for a function that is
    not known, or has no constant where it needs one.
    """
    left = iter(alphas), iter(betas)
    found = []
    for name in names:
        kind = _KINDS.get(name.lower())
        if kind is None:
            raise ValueError(f"the activation {name!r} is not supported")
        constants: list[float | None] = [None, None]
        for i in range(kind.constants):
            constants[i] = next(left[i], kind.defaults[i])
            if constants[i] is None:
                raise ValueError(f"the activation {name!r} needs a value in activation_{('alpha', 'beta')[i]}")
        found.append(Activation(name.lower(), *constants))
    return found
