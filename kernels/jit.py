"""The one place where jit options live.

Options: no fast-math flag at all, so that NaN and infinity stay visible and the same formula gives the same bits
wherever it is compiled; the GIL is released; division follows NumPy (no exception inside a kernel).
"""

import functools
import importlib
import uuid

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core import cgutils
from numba.core.compiler import Flags, compile_internal
from numba.core.typing.templates import AbstractTemplate, builtin_registry, signature
from numba.extending import lower_builtin, register_jitable

from .cache import KernelCache
from .interrupts import interrupts_held

_OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False}


def _take_no_literals(dispatcher):
    """Compiled callers' constant arguments are no reason to compile a kernel once more."""
    get_call_template = dispatcher.get_call_template

    def get_plain_call_template(args, kws):
        named = {name: types.unliteral(arg) for name, arg in kws.items()}
        return get_call_template(tuple(map(types.unliteral, args)), named)

    dispatcher.get_call_template = get_plain_call_template


def _compile_uninterrupted(dispatcher):
    """LLVM's emission of code, and the loading of kept code, end in a callback in which an interrupt would go lost,
    and the code with it."""
    compile_for = dispatcher.compile

    def compile_whole(sig):
        with interrupts_held():
            return compile_for(sig)

    dispatcher.compile = compile_whole


_kernels = {}  # all kernels made so far by module and name


def _bind(symbol, module, name, args):
    """Let `symbol` stand for a kernel compiled for these types, for callers that are compiled or come from a cache."""
    importlib.import_module(module)
    dispatcher = _kernels[module, name]
    dispatcher.compile(args)
    compiled = dispatcher.overloads[args]
    llvm.add_symbol(symbol, compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def _call_in_place(dispatcher, module, name):
    """Let compiled callers call a kernel where it is.

    Numba would link its code into theirs and optimise all of it again: three times for a loop in parallel, and once
    more in whatever calls that. Nor would code from a caller's cache know that a kernel has changed.
    """
    symbols = {}

    def get_symbol(args):
        """What stands for the implementation for these types."""
        if args not in symbols:
            symbol = f"fastrnn_{uuid.uuid4().hex}"
            bind = functools.partial(_bind, symbol, module, name, args)
            bind()
            fndesc = dispatcher.overloads[args].fndesc

            def call(context, builder, sig, values):
                context.active_code_library._reload_init.add(bind)
                convention = context.call_conv
                function_type = convention.get_function_type(fndesc.restype, fndesc.argtypes)
                function = cgutils.get_or_insert_function(builder.module, function_type, symbol)
                status, result = convention.call_function(builder, function, fndesc.restype, fndesc.argtypes, values)
                with cgutils.if_unlikely(builder, status.is_error):
                    convention.return_status_propagate(builder, status)
                return result

            dispatcher.targetctx.insert_func_defn([(call, symbol, args)])
            symbols[args] = symbol
        return symbols[args]

    dispatcher.get_overload = get_symbol


def kernel(function=None, *, name=None):
    """Compile `function` as an entry point: cached on disk, callable from Python and from a user's `@njit` code.

    `name` tells apart kernels that a factory makes of one function for several cells.
    """
    if function is None:
        return lambda f: kernel(f, name=name)
    if name is not None:
        function.__name__ = function.__qualname__ = name
    if numba.config.DISABLE_JIT:
        return _refusal_of(function)
    dispatcher = numba.njit(**_OPTIONS)(function)
    _take_no_literals(dispatcher)
    _compile_uninterrupted(dispatcher)
    _call_in_place(dispatcher, function.__module__, function.__qualname__)
    _kernels[function.__module__, function.__qualname__] = dispatcher
    dispatcher._cache = KernelCache(function, f"{function.__module__}.{function.__qualname__}")
    return dispatcher


REFUSAL = "fastrnn's kernels have to be compiled, which NUMBA_DISABLE_JIT forbids: unset it"


def _refusal_of(function):
    """What stands for a kernel where Numba must not compile: it works on vectors, which Python has none of."""

    @functools.wraps(function)
    def refuse(*_, **__):
        raise RuntimeError(REFUSAL)

    return refuse


def _optimize_once(library):
    """Let LLVM go over a kernel's module once, when it is whole.

    Numba has every function optimised first, and then the module twice, to find reference counts that cancel out. A
    kernel has none, and this would be a sixth of the time that it takes to compile.
    """
    codegen = library._codegen

    def set_data_layout(module):
        module.data_layout = codegen._data_layout

    def optimize():
        passes, builder = codegen._module_pass_manager()
        passes.run(library._final_module, builder)

    library._optimize_functions = set_data_layout
    library._optimize_final_module = optimize


def call_subroutine(context, builder, function, sig, args):
    """Emit a call of a subroutine, which is compiled into the module under way when that first calls it."""
    library = context.active_code_library
    if not hasattr(library, "_fastrnn_subroutines"):
        library._fastrnn_subroutines = {}
        _optimize_once(library)
    compiled = library._fastrnn_subroutines
    key = function, sig
    if key not in compiled:
        flags = Flags()
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        flags.error_model = _OPTIONS["error_model"]
        # arguments are borrowed and subroutines allocate nothing: without reference counts, over which threads would
        # quarrel
        target = context.subtarget(enable_nrt=False)
        compiled[key] = compile_internal(
            context.typing_context, target, library, function, sig.args, sig.return_type, flags, {}
        ).fndesc
    # kernels don't raise: the status is of no interest
    return context.call_internal_no_propagate(builder, compiled[key], sig, args)[1]


def subroutine(function=None, *, returns=types.void):
    """Compile `function` into the kernels that call it.

    `returns` is its Numba type, or a function from the argument types to it. With the type known beforehand, the
    function is compiled straight into its caller's module, so that LLVM goes over a kernel once, rather than once for
    every function on the way down. Called positionally, from compiled code only.
    """
    if function is None:
        return lambda f: subroutine(f, returns=returns)

    class _Template(AbstractTemplate):
        key = function

        def generic(self, args, kws):
            args = [types.unliteral(arg) for arg in args]  # a constant argument is no reason to compile once more
            return signature(returns if isinstance(returns, types.Type) else returns(*args), *args)

    builtin_registry.register_global(function, types.Function(_Template))

    @lower_builtin(function, types.VarArg(types.Any))
    def _lower(context, builder, sig, args):
        return call_subroutine(context, builder, function, sig, args)

    return function


formula = register_jitable  # a plain function that is compiled into whatever kernel uses it
