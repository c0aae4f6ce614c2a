"""A loop over parts that run in parallel, on Numba's own threads.

`prange` would do, but Numba then compiles a kernel three times over (body, wrapper, caller), and that is most of the
wait at a cold start. This calls the same entry point of Numba's threading layer as the code that `prange` makes.
"""

import _thread
import contextlib
import ctypes
import os
import threading

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic
from numba.np.ufunc import parallel as threading_layer

from . import interrupts
from .jit import call_subroutine, subroutine
from .simd import enter_flush_to_zero, leave_flush_to_zero, pause

_BYTES = ir.IntType(8).as_pointer()
_INTP = ir.IntType(64)
_WORKER = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), _INTP.as_pointer(), _INTP.as_pointer(), _BYTES])


_SPIN_COUNT = "4000"  # some 20 to 40 µs

_busy = ctypes.c_int64(0)  # 1 while a parallel region is open in this process, or if none may be; lives as long as it
_lost = False  # whether the threads were left behind in the process that this one was forked from


def _give_up_threads():
    """In a forked child: a parallel region would hang or end it if Numba's threads were running before the fork.

    GNU OpenMP cannot start again, TBB not if another than the main thread forked, and the workqueue not if a region
    was open. So all regions of such a child, and of its children, run their parts one after the other.
    """
    global _lost
    if threading_layer._is_initialized:
        _lost = True
        _busy.value = 1


_DELAY = 0.01  # seconds after which the hooks of a fork are through, for what they raise is printed and forgotten


def _wait_for_compiler():
    """Before a fork: another thread's compilation, or start of threads, has to end. In the child nobody would ever give
    the lock back."""
    interrupts.hold()
    global_compiler_lock.acquire()


def _release_compiler():
    if global_compiler_lock.is_locked():  # by this thread: else an interrupt came before the hook had begun
        global_compiler_lock.release()


def _go_on_in_parent():
    _release_compiler()
    interrupts.release(lambda number, _: threading.Timer(_DELAY, _thread.interrupt_main, [number]).start())


def _go_on_in_child():
    _release_compiler()
    interrupts.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up_threads)
    os.register_at_fork(before=_wait_for_compiler, after_in_parent=_go_on_in_parent, after_in_child=_go_on_in_child)


def threads_lost():
    """Whether this process runs its kernels on one thread because it was forked from one that had started more."""
    return _lost


def threads_allowed():
    """How many threads Numba allows the calling Python thread; they must have been started, and not be lost.

    Numba's own `get_num_threads` takes a lock, which a fork at the wrong moment or a killed sibling leaves locked.
    """
    return threading_layer._get_num_threads()


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
    with global_compiler_lock:  # which a fork waits for: Numba and LLVM have locks of their own below it
        if not threading_layer._is_initialized:
            with _short_spin():
                threading_layer._launch_threads()
        llvm.add_symbol("fastrnn_parallel_busy", ctypes.addressof(_busy))
        llvm.add_symbol("fastrnn_yield", ctypes.cast(_yield_function(), ctypes.c_void_p).value)


def _yield_function():
    """The operating system's call that lets another thread have this core."""
    return ctypes.CDLL(None).sched_yield if os.name == "posix" else ctypes.windll.kernel32.SwitchToThread


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
    saved = enter_flush_to_zero(inside)
    with cgutils.for_range(inside, count, intp=_INTP) as loop:
        call(inside, [inside.add(first, loop.index), *unpacked])
    leave_flush_to_zero(inside, saved)
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
                threads = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INTP, []), "get_num_threads")
                loop_type = ir.FunctionType(ir.VoidType(), [_BYTES] * 5 + [_INTP] * 3)
                loop = cgutils.get_or_insert_function(builder.module, loop_type, "numba_parallel_for")
                pointers = [builder.bitcast(p, _BYTES) for p in (worker, base, size, step)]
                builder.call(loop, [*pointers, data, free, one, builder.call(threads, [])])
                builder.store_atomic(free, flag, "release", 8)
        return context.get_dummy_value()

    return signature, codegen


PROGRESS_STRIDE = 16  # int64 numbers, two cache lines, so that two parts' places don't share one
_PATIENCE = 50  # waits, about a microsecond, before a part that nobody has begun is taken over
_WAITS_AWAKE = 20_000  # waits, some half a millisecond, before the core is offered to others


def _place(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


@intrinsic
def _claim(typingctx, progress, index, phase):
    """Whether this thread is the one that takes `progress[index]` from `phase` to the next."""

    def codegen(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], args[0], args[1])
        following = builder.add(args[2], ir.Constant(_INTP, 1))
        return builder.extract_value(builder.cmpxchg(place, args[2], following, "acq_rel", "monotonic"), 1)

    return types.boolean(progress, types.intp, types.intp), codegen


@intrinsic
def _observe(typingctx, progress, index):
    """`progress[index]`, and all that was written before it."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_place(context, builder, sig.args[0], args[0], args[1]), "acquire", 8)

    return types.intp(progress, types.intp), codegen


@intrinsic
def _publish(typingctx, progress, index, value):
    """Let others see `value` in `progress[index]`, and all that was written before."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[2], _place(context, builder, sig.args[0], args[0], args[1]), "release", 8)
        return context.get_dummy_value()

    return types.void(progress, types.intp, types.intp), codegen


@intrinsic
def _wait(typingctx, waited):
    """A short while; once `waited` is long, the core is offered to other threads."""

    def codegen(context, builder, sig, args):
        pause(builder)
        with builder.if_then(builder.icmp_signed(">", args[0], ir.Constant(_INTP, _WAITS_AWAKE)), likely=False):
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.IntType(32), []), "fastrnn_yield"
            )
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def make_in_step(run):
    """A subroutine for `in_parallel` that goes through many phases in one parallel region.

    `run(part, parts, phase, span, job)` does one part of a phase. With `meet` no part of a phase begins before all
    parts of the one before are done; otherwise each part runs on by itself. `progress` (parts · PROGRESS_STRIDE)
    int64, zeros at first, holds for every part how many phases were begun and how many are done.

    Threads spin where they meet. A part is run by whoever claims it first: its own thread or, when that does not come,
    one that has waited a moment. So nothing depends on how many threads there really are or on when they run.
    """

    @subroutine
    def run_part(part, parts, phases, meet, progress, span, job):
        for phase in range(phases):
            if not meet:
                run(part, parts, phase, span, job)
            else:
                for distance in range(parts):
                    other = (part + distance) % parts
                    begun = other * PROGRESS_STRIDE
                    waited = 0 if distance else _PATIENCE
                    while _observe(progress, begun + 1) <= phase:
                        if waited >= _PATIENCE and _claim(progress, begun, phase):
                            run(other, parts, phase, span, job)
                            _publish(progress, begun + 1, phase + 1)
                        else:
                            _wait(waited)
                            waited += 1

    return run_part
