"""What the machine can do: its multiply-add peak, and the large matrix products of other libraries."""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.kernels.simd import VECTOR_BYTES

from .timing import alternate

GEMM_SIZE = 2048
_ACCUMULATORS = 12  # more than latency times units; they fit 16 registers
_TERMS = 5_000_000


@intrinsic
def _multiply_adds(typingctx, value, terms):
    """The sum of accumulators, vectors in registers, after `terms` multiply-adds each."""

    def codegen(context, builder, sig, args):
        element = context.get_value_type(sig.args[0])
        kind = ir.VectorType(element, VECTOR_BYTES * 8 // sig.args[0].bitwidth)
        name = f"llvm.fma.v{kind.count}f{sig.args[0].bitwidth}"
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        factor, term = (ir.Constant(kind, [number] * kind.count) for number in (0.999, 0.001))
        sums = []
        for i in range(_ACCUMULATORS):
            start = builder.fadd(args[0], ir.Constant(element, float(i)))
            sums.append(cgutils.alloca_once(builder, kind))
            vector = ir.Constant(kind, ir.Undefined)
            for lane in range(kind.count):
                vector = builder.insert_element(vector, start, ir.Constant(ir.IntType(32), lane))
            builder.store(vector, sums[-1])
        with cgutils.for_range(builder, args[1]):
            for place in sums:
                builder.store(builder.call(fma, [builder.load(place), factor, term]), place)
        total = ir.Constant(element, 0.0)
        for place in sums:
            total = builder.fadd(total, builder.extract_element(builder.load(place), ir.Constant(ir.IntType(32), 0)))
        return total

    return types.Float(value.name)(value, types.intp), codegen


@numba.njit(nogil=True)
def _burn(value, terms):
    return _multiply_adds(value, terms)


class Peak:
    """Multiply-adds in registers alone, on `threads` threads at once."""

    def __init__(self, dtype, threads):
        self.value = np.dtype(dtype).type(1)
        self.pool = ThreadPoolExecutor(threads)
        self.threads = threads
        self.flops = 2 * threads * _TERMS * _ACCUMULATORS * VECTOR_BYTES // np.dtype(dtype).itemsize

    def __call__(self):
        list(self.pool.map(_burn, [self.value] * self.threads, [_TERMS] * self.threads))


class TorchProduct:
    """`torch.mm` of two square matrices."""

    flops = 2 * GEMM_SIZE**3

    def __init__(self, dtype, threads):
        import torch

        torch.set_num_threads(threads)
        self.a, self.b = torch.rand(2, GEMM_SIZE, GEMM_SIZE, dtype=getattr(torch, dtype))
        self.out = torch.empty_like(self.a)
        self.multiply = torch.mm

    def __call__(self):
        self.multiply(self.a, self.b, out=self.out)


class NumPyProduct:
    """`numpy.dot` of two square matrices, by NumPy's own OpenBLAS as a rule."""

    flops = 2 * GEMM_SIZE**3

    def __init__(self, dtype, threads):
        self.a, self.b = np.random.default_rng(0).random((2, GEMM_SIZE, GEMM_SIZE)).astype(dtype)
        self.out = np.empty_like(self.a)

    def __call__(self):
        np.dot(self.a, self.b, out=self.out)


RATES = {"torch.mm": TorchProduct, "numpy.dot": NumPyProduct, "peak": Peak}


def measured_rates(dtype, threads, rounds):
    """GFLOP/s by name: the products' median, and the best of the peak, which is a bound."""
    contestants = {name: rate(dtype, threads) for name, rate in RATES.items()}
    timings = alternate(contestants, rounds)
    seconds = {name: timing.seconds for name, timing in timings.items()} | {"peak": timings["peak"].least}
    return {name: contestants[name].flops / seconds[name] / 1e9 for name in contestants}
