"""A loop over parts that run in parallel, on Numba's own threads.

`prange` would do, but Numba then compiles a kernel three times over (body, wrapper, caller), and that is most of the
wait at a cold start. This calls the same entry point of Numba's threading layer as the code that `prange` makes.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import call_subroutine

_BYTES = ir.IntType(8).as_pointer()
_INTP = ir.IntType(64)
_WORKER = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), _INTP.as_pointer(), _INTP.as_pointer(), _BYTES])


def start_threads():
    """Start Numba's threads and make the threading layer's symbols known; also before a cached kernel is linked."""
    from numba.np.ufunc.parallel import _launch_threads

    _launch_threads()


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
    """Call the subroutine `function(part, *arguments)` for each part from 0 to parts − 1, on as many threads."""
    signature = types.void(function, types.intp, arguments)

    def codegen(context, builder, sig, args):
        start_threads()
        context.active_code_library._reload_init.add(start_threads)
        inner = types.void(types.intp, *arguments.types)

        def call(at, values):
            call_subroutine(context, at, function.typing_key, inner, values)

        worker = _define_worker(builder, call, context.get_value_type(arguments))
        data = cgutils.alloca_once_value(builder, args[2])
        single = builder.icmp_signed("<=", args[1], ir.Constant(_INTP, 1))
        base = cgutils.alloca_once_value(builder, ir.Constant(_BYTES, None))  # part 0, as the layer counts: an address
        size = cgutils.alloca_once_value(builder, args[1])
        step = cgutils.alloca_once_value(builder, ir.Constant(_INTP, 1))
        data = builder.bitcast(data, _BYTES)
        with builder.if_else(single) as (alone, together):
            with alone:
                builder.call(worker, [base, size, step, data])
            with together:
                threads = cgutils.get_or_insert_function(
                    builder.module, ir.FunctionType(_INTP, []), "get_num_threads"
                )
                loop_type = ir.FunctionType(ir.VoidType(), [_BYTES] * 5 + [_INTP] * 3)
                loop = cgutils.get_or_insert_function(builder.module, loop_type, "numba_parallel_for")
                pointers = [builder.bitcast(p, _BYTES) for p in (worker, base, size, step)]
                one = ir.Constant(_INTP, 1)
                builder.call(loop, [*pointers, data, ir.Constant(_INTP, 0), one, builder.call(threads, [])])
        return context.get_dummy_value()

    return signature, codegen
