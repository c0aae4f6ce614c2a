"""Initial values of parameters, by name or callable for each kind of tensor.

An initialiser is a callable `(shape, rng) -> array`, of a matrix's shape (rows, columns) or a bias's (rows,), and a
NumPy `Generator`. Those of this module by which matrices are scaled take `columns` for the fan-in and `rows` for the
fan-out. A recurrent weight (G·H, K) has the weights of G gates in it, one below the other: each is a matrix (H, K) of
its own to an initialiser.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import checks

if TYPE_CHECKING:
    from .parameters import Parameters
    from .types import Seed

__all__ = [
    "Initializer",
    "Spec",
    "fill",
    "generator",
    "identity",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "ones",
    "orthogonal",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Initializer = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]
Spec = str | Initializer | Mapping[str, str | Initializer] | None

_FORGET_GATE = 1  # of the LSTM's four: i, f, g, o


def generator(seed: Seed) -> np.random.Generator:
    """A NumPy `Generator` for `seed`: an integer ≥ 0, a `Generator` (used as it is), or None for a fresh one."""
    if seed is None or isinstance(seed, np.random.Generator):
        return np.random.default_rng(seed)
    return np.random.default_rng(checks.integer("seed", seed, minimum=0))


# ---- initialisers ----


def _of_a_shape(function: Initializer) -> Initializer:
    """An initialiser, of a shape that has been checked."""

    @functools.wraps(function)
    def initialiser(shape, rng):
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"shape must be a tuple of integers, got {type(shape).__name__}")
        shape = tuple(checks.integer("a size in shape", size, minimum=0) for size in shape)
        checks.memory(f"initial values of shape {shape}", 8 * math.prod(shape))
        return function(shape, rng)

    return initialiser


@_of_a_shape
def xavier_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """U(-a, a), a = √(6 / (fan_in + fan_out)). Glorot and Bengio 2010, equation 16."""
    return _uniform(math.sqrt(6 / sum(_fans(shape))), shape, rng)


@_of_a_shape
def xavier_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """N(0, 2 / (fan_in + fan_out)). Glorot and Bengio 2010, equation 12."""
    return math.sqrt(2 / sum(_fans(shape))) * rng.standard_normal(shape)


@_of_a_shape
def lecun_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """N(0, 1 / fan_in). LeCun, Bottou, Orr and Müller, "Efficient BackProp", 1998, section 4.6."""
    return math.sqrt(1 / _fans(shape)[0]) * rng.standard_normal(shape)


@_of_a_shape
def kaiming_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """U(-a, a), a = √(6 / fan_in), of the variance of `kaiming_normal`."""
    return _uniform(math.sqrt(6 / _fans(shape)[0]), shape, rng)


@_of_a_shape
def kaiming_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """N(0, 2 / fan_in), for ReLU. He, Zhang, Ren and Sun 2015, equation 10."""
    return math.sqrt(2 / _fans(shape)[0]) * rng.standard_normal(shape)


@_of_a_shape
def orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix; of one that is not square, the rows or columns, whichever are fewer, are orthonormal.

    Saxe, McClelland and Ganguli 2014. From the QR decomposition of a normal matrix; with the signs of R's diagonal
    taken out, Q is uniformly distributed (Mezzadri 2007).
    """
    columns, rows = _fans(shape)
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diagonal(r))
    return q if rows >= columns else q.T


@_of_a_shape
def identity(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Ones on the diagonal, zeros elsewhere: with ReLU and zero biases the IRNN. Le, Jaitly and Hinton 2015."""
    columns, rows = _fans(shape)
    return np.eye(rows, columns)


@_of_a_shape
def zeros(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Zeros."""
    return np.zeros(shape)


@_of_a_shape
def ones(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Ones."""
    return np.ones(shape)


def _uniform(bound, shape, rng):
    return rng.uniform(-bound, bound, shape)


def _normal(shape, rng):
    return rng.standard_normal(shape)


def _fans(shape):
    """fan-in and fan-out of a matrix."""
    if len(shape) != 2:
        raise ValueError(f"this initialiser needs a matrix, with a fan-in and a fan-out, got shape {tuple(shape)}")
    return shape[1], shape[0]


_MATRIX = (xavier_uniform, xavier_normal, lecun_normal, kaiming_uniform, kaiming_normal, orthogonal, identity)
_NAMED = {function.__name__: function for function in (*_MATRIX, zeros, ones)} | {"normal": _normal}


def _named(name, fan):
    """The initialiser of this name; "uniform" is U(-1/√fan, 1/√fan), with the layer's one fan for all its tensors."""
    return functools.partial(_uniform, 1 / math.sqrt(fan)) if name == "uniform" else _NAMED[name]


# ---- layers ----


_left_out = contextvars.ContextVar("whether `fill` is left out", default=False)


@contextlib.contextmanager
def left_out():
    """A block in which new layers keep zeros for parameters, which are to be loaded: nothing is drawn.

    The numbers are drawn in double precision, in twice the memory of the parameters.
    """
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def fill(
    parameters: Parameters,
    fan: int,
    spec: Spec,
    rng: np.random.Generator,
    *,
    gates: int = 1,
    forget_bias: float | None = None,
    default: str = "uniform",
) -> None:
    """Fill all parameters of a layer.

    fan: of the initialiser "uniform", PyTorch's: H of recurrent layers, the fan-in of linear ones.
    spec: None, `default` for all tensors; a name or a callable `(shape, rng) -> array`, for all weight matrices; or a
        dict of them by kind: "weight_ih", "weight_hh", "weight" and "bias". What it says nothing of has the default.
    rng: all numbers are drawn from it: first the default's for all tensors, then the others' in the tensors' order.
    gates: number of gates in each recurrent tensor, one below the other.
    forget_bias: what the two biases of an LSTM's forget gate add up to at first, whatever `spec` says of biases
        (Gers, Schmidhuber and Cummins 2000; 1: Jozefowicz, Zaremba and Sutskever 2015).

    Names: "uniform", "normal" (N(0, 1)), "xavier_uniform", "xavier_normal", "lecun_normal", "kaiming_uniform",
    "kaiming_normal", "orthogonal", "identity", "zeros", "ones". TypeError or ValueError for what is none of these, for
    a kind that the layer has not, and for a callable's result of another shape or without floats.
    """
    if _left_out.get():
        return
    chosen = _choose(spec, {_kind(name) for name in parameters.shapes} - {None}, fan, default)
    if forget_bias is not None:
        forget_bias = checks.number("forget_bias", forget_bias)
        if not any(_kind(name) == "bias" for name in parameters.shapes):
            raise ValueError("forget_bias needs a layer with biases, got bias=False")
    with parameters.writing() as values:
        values[:] = _named(default, fan)((parameters.size,), rng)
        start = 0
        for name, shape in parameters.shapes.items():
            tensor = values[start : start + math.prod(shape)].reshape(shape)
            start += tensor.size
            function = chosen.get(_kind(name))
            if function is not None:
                for block in np.split(tensor, gates):  # views
                    block[...] = _drawn(name, function, block.shape, rng)
            if forget_bias is not None and _kind(name) == "bias":
                np.split(tensor, gates)[_FORGET_GATE][...] = forget_bias if name.startswith("bias_ih") else 0.0


def _kind(name):
    """The kind of tensor that an initialiser is chosen for; None for those that always begin with the default."""
    if name == "weight":
        return name
    return next((kind for kind in ("weight_ih", "weight_hh", "bias") if f"{name}_".startswith(f"{kind}_")), None)


def _choose(spec, kinds, fan, default):
    """The initialisers by kind of tensor, where `spec` has another than the default."""
    if not isinstance(spec, Mapping):
        spec = {} if spec is None else {kind: spec for kind in kinds if kind != "bias"}
    chosen = {}
    for kind, initializer in spec.items():
        if kind not in kinds:
            raise ValueError(f"init must be given for kinds out of {sorted(kinds)}, got {checks.shown(kind)}")
        if isinstance(initializer, str):
            checks.choice("init", initializer, ("uniform", *_NAMED))
            if initializer == default:
                continue
            initializer = _named(initializer, fan)
        elif not callable(initializer):
            found = checks.shown(initializer)
            raise TypeError(f"init must be a name, a callable (shape, rng) or a dict of them, got {found}")
        if kind == "bias" and initializer in _MATRIX:
            raise ValueError(f"init of biases can't be {initializer.__name__}, which is for matrices")
        chosen[kind] = initializer
    return chosen


def _drawn(name, initializer, shape, rng):
    """What an initialiser gives for the tensor `name`, found to be of the right kind and shape."""
    array = checks.as_array(f"init of {name}", initializer(shape, rng))
    if array.dtype.kind != "f":
        raise TypeError(f"init of {name} must give floating-point numbers, got dtype {array.dtype}")
    checks.shape(f"init of {name}", array.shape, shape)
    return array
