"""exp, tanh and sigmoid of whole vectors, without a call into a mathematical library.

All coefficients are minimax fits of our own (Remez). The largest errors, in units in the last place of the true value
where that is a normal number; float32 over all arguments, float64 over 4·10⁷ (`tests/test_pointwise.py` samples them):

    exp 0.9 · 0.9      sigmoid 2.5 · 2.5      tanh 4.8 · 2.7

(on a CPU without fused multiply-add exp 1.2 · 1.2 and tanh 5.5 · 2.7).

Arguments are reduced to x = n ln 2 + r, |r| ≤ ln 2 / 2: n is rounded by adding 1.5·2^mantissa_bits, and the exponent's
bias with it, so that 2ⁿ takes one shift. Comparisons that clamp are written so that NaN passes through.
"""

from numba import types
from numba.extending import overload

from .jit import subroutine
from .simd import (
    VectorType,
    absolute,
    by_dtype,
    copy_sign,
    fma,
    halved_powers_of_two,
    polynomial,
    power_of_two,
    where_greater,
    where_less,
)

_LOG2_E = by_dtype(1.4426950216293335, 1.4426950408889634)
_LN2_HIGH = by_dtype(0.693145751953125, 0.6931471805598903)  # trailing zeros: n·ln2_high is exact
_LN2_LOW = by_dtype(1.428606765330187e-06, 5.497923018708371e-14)
_ROUNDER, _ROUNDER64 = 1.5 * 2.0**23, 1.5 * 2.0**52

_EXP_SHIFT = by_dtype(_ROUNDER + 254, _ROUNDER64 + 2046)
_EXP_HIGHEST, _EXP_LOWEST = by_dtype(90.0, 710.0), by_dtype(-104.0, -746.0)
_EXP = polynomial(
    (1.0, 1.0, 0.49999991059303284, 0.1666652113199234, 0.04166888818144798, 0.00836867094039917,
     0.0013789484510198236),
    (1.0, 1.0, 0.5000000000000008, 0.16666666666666258, 0.04166666666655108, 0.008333333333579955,
     0.0013888888938770566, 0.00019841269340971067, 2.480149758806958e-05, 2.7557721506868217e-06,
     2.762881364565909e-07, 2.496059164728486e-08),
)  # fmt: skip

_SIGMOID_SHIFT = by_dtype(_ROUNDER + 127, _ROUNDER64 + 1023)
_SIGMOID_HIGHEST, _SIGMOID_LOWEST = by_dtype(88.37, 709.43), by_dtype(-80.0, -700.0)
# r coth(r/2), an even function, in r²
_SIGMOID = polynomial(
    (2.0, 0.166666179895401, -0.0027660129126161337),
    (2.0, 0.16666666666666555, -0.0027777777776696157, 6.613756250014986e-05, -1.6533836998882387e-06,
     4.136040339399211e-08),
)  # fmt: skip

# tanh x = x P(x²) / Q(x²) in float32
_TANH_HIGHEST, _TANH_ONE = 7.95, 9.02
_TANH_P = polynomial((1.0, 0.13449037, 0.0035770414, 2.198739e-05, 1.5368592e-08), (0.0,))
_TANH_Q = polynomial((1.0, 0.46782365, 0.02618501, 0.00034203113, 8.57671e-07), (0.0,))
# z coth z in z², for tanh in float64
_TWO_LOG2_E, _HALF_LN2 = 2.8853900817779268, 0.34657359027997264
_TANH64_HIGHEST, _TANH64_SHIFT = 19.5, _ROUNDER64 + 1022
_TANH64 = polynomial(
    (0.0,),
    (1.0, 0.33333333333333204, -0.022222222221610695, 0.0021164020226547837, -0.00021163393868213075,
     2.118710851852559e-05),
)  # fmt: skip


def _same(x):
    return x


@subroutine(returns=_same)
def exp(x):
    """eˣ of a vector; 2ⁿ is applied in two factors, so that overflow gives infinity and underflow is gradual."""
    x = where_greater(x, _EXP_HIGHEST(x), _EXP_HIGHEST(x), x)
    x = where_less(x, _EXP_LOWEST(x), _EXP_LOWEST(x), x)
    shifted = fma(x, _LOG2_E(x), _EXP_SHIFT(x))
    n = shifted - _EXP_SHIFT(x)
    r = fma(-n, _LN2_LOW(x), fma(-n, _LN2_HIGH(x), x))
    low, high = halved_powers_of_two(shifted)
    return _EXP(r) * low * high


@subroutine(returns=_same)
def sigmoid(x):
    """1 / (1 + e⁻ˣ) of a vector.

    With −x = n ln 2 + r and B = r coth(r/2), e^r = (B + r) / (B − r), so the result is (B − r) / (B − r + 2ⁿ (B + r)):
    one division, and never above 1. At the upper clamp 2ⁿ (B + r) overflows, and the result is 0.
    """
    t = -x
    t = where_greater(t, _SIGMOID_HIGHEST(x), _SIGMOID_HIGHEST(x), t)
    t = where_less(t, _SIGMOID_LOWEST(x), _SIGMOID_LOWEST(x), t)
    shifted = fma(t, _LOG2_E(x), _SIGMOID_SHIFT(x))
    n = shifted - _SIGMOID_SHIFT(x)
    r = fma(-n, _LN2_LOW(x), fma(-n, _LN2_HIGH(x), t))
    b = _SIGMOID(r * r)
    return (b - r) / fma(power_of_two(shifted), b + r, b - r)


@subroutine(returns=_same)
def _tanh32(x):
    """A rational approximation up to where it is all but 1, and 1 from where the true value rounds to it."""
    t = where_greater(x, _TANH_HIGHEST, _TANH_HIGHEST, x)
    t = where_less(t, -_TANH_HIGHEST, -_TANH_HIGHEST, t)
    y = t * t
    t = t * _TANH_P(y) / _TANH_Q(y)
    return where_less(x, -_TANH_ONE, -1.0, where_greater(x, _TANH_ONE, 1.0, t))


@subroutine(returns=_same)
def _tanh64(x):
    """With |x| = n (ln 2)/2 + z, s = 2ⁿ⁻¹ and B = z coth z, tanh |x| is A / (A + B − z), A = (s − ½) B + (s + ½) z."""
    a = absolute(x)
    a = where_greater(a, _TANH64_HIGHEST, _TANH64_HIGHEST, a)
    shifted = fma(a, _TWO_LOG2_E, _TANH64_SHIFT)
    n = shifted - _TANH64_SHIFT
    s = power_of_two(shifted)
    z = fma(-n, _HALF_LN2, a)
    b = _TANH64(z * z)
    numerator = fma(s - 0.5, b, (s + 0.5) * z)
    return copy_sign(numerator / (numerator + (b - z)), x)


def tanh(x):
    """tanh of a vector: at most 1 in magnitude, and odd."""
    raise TypeError("tanh of a vector is for compiled code only")


@overload(tanh, inline="always")
def _tanh(x):
    if isinstance(x, VectorType):
        return (lambda x: _tanh32(x)) if x.dtype == types.float32 else (lambda x: _tanh64(x))
