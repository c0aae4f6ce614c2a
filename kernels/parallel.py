"""A loop over parts that run in parallel, on Numba's own threads.

`prange` would do, but Numba then compiles a kernel three times over (body, wrapper, caller), and that is most of the
wait at a cold start. This calls the same entry point of Numba's threading layer as the code that `prange` makes.
"""

import contextlib
import ctypes
import os

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import call_subroutine

_BYTES = ir.IntType(8).as_pointer()
_INTP = ir.IntType(64)
_WORKER = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), _INTP.as_pointer(), _INTP.as_pointer(), _BYTES])


_SPIN_COUNT = "4000"  # some 20 to 40 µs

_busy = ctypes.c_int64(0)  # 1 while a parallel region is open in this process; lives as long as the process


@contextlib.contextmanager
def _short_spin():
    """Let GNU OpenMP's threads spin for a short time before they sleep, unless the user has said how long.

    By default they spin for milliseconds, and a thread that waits takes the core from the one it waits for when other
    programs run: a hundred times slower with a step's few microseconds between two meetings. The library reads the
    variable once, when it is loaded.
    """
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    if chosen:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def start_threads():
    """Start Numba's threads and make known all symbols a kernel needs; also before one from the cache is linked."""
    from numba.np.ufunc.parallel import _launch_threads

    with _short_spin():
        _launch_threads()
    llvm.add_symbol("fastrnn_parallel_busy", ctypes.addressof(_busy))


def _define_worker(builder, call, arguments_type):
    """A function as the threading layer calls it, which runs parts args[0] … args[0] + dimensions[0] − 1."""
    name = builder.module.get_unique_name(f"{builder.function.name}.worker")
    worker = ir.Function(builder.module, _WORKER, name)
    worker.linkage = "internal"
    parts, dimensions, _, data = worker.args
    inside = ir.IRBuilder(worker.append_basic_block("entry"))
    first = inside.ptrtoint(inside.load(parts), _INTP)
    count = inside.load(dimensions)
    arguments = inside.load(inside.bitcast(data, arguments_type.as_pointer()))
    unpacked = cgutils.unpack_tuple(inside, arguments)
    with cgutils.for_range(inside, count, intp=_INTP) as loop:
        call(inside, [inside.add(first, loop.index), *unpacked])
    inside.ret_void()
    return worker


@intrinsic
def in_parallel(typingctx, function, parts, arguments):
    """Call the subroutine `function(part, *arguments)` for each part from 0 to parts − 1, on as many threads.

    While another Python thread has a region open, the parts run one after the other: Numba's workqueue layer ends the
    process when two enter at once, and the others would only put more threads on the same cores.
    """
    signature = types.void(function, types.intp, arguments)

    def codegen(context, builder, sig, args):
        start_threads()
        context.active_code_library._reload_init.add(start_threads)
        inner = types.void(types.intp, *arguments.types)

        def call(at, values):
            call_subroutine(context, at, function.typing_key, inner, values)

        worker = _define_worker(builder, call, context.get_value_type(arguments))
        data = cgutils.alloca_once_value(builder, args[2])
        one = ir.Constant(_INTP, 1)
        free = ir.Constant(_INTP, 0)
        flag = builder.module.globals.get("fastrnn_parallel_busy")
        if flag is None:
            flag = ir.GlobalVariable(builder.module, _INTP, "fastrnn_parallel_busy")
        entered = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(1), 0))
        with builder.if_then(builder.icmp_signed(">", args[1], one)):
            exchange = builder.cmpxchg(flag, free, one, "acquire", "monotonic")
            builder.store(builder.extract_value(exchange, 1), entered)
        together_allowed = builder.load(entered)
        base = cgutils.alloca_once_value(builder, ir.Constant(_BYTES, None))  # part 0, as the layer counts: an address
        size = cgutils.alloca_once_value(builder, args[1])
        step = cgutils.alloca_once_value(builder, ir.Constant(_INTP, 1))
        data = builder.bitcast(data, _BYTES)
        with builder.if_else(together_allowed) as (together, alone):
            with alone:
                builder.call(worker, [base, size, step, data])
            with together:
                threads = cgutils.get_or_insert_function(
                    builder.module, ir.FunctionType(_INTP, []), "get_num_threads"
                )
                loop_type = ir.FunctionType(ir.VoidType(), [_BYTES] * 5 + [_INTP] * 3)
                loop = cgutils.get_or_insert_function(builder.module, loop_type, "numba_parallel_for")
                pointers = [builder.bitcast(p, _BYTES) for p in (worker, base, size, step)]
                builder.call(loop, [*pointers, data, free, one, builder.call(threads, [])])
                builder.store_atomic(free, flag, "release", 8)
        return context.get_dummy_value()

    return signature, codegen
