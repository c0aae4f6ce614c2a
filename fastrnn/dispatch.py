"""Calls of kernels whose arguments have the same types every time."""

from numba.core.typing.typeof import Purpose, typeof


class TypedKernel:
    """`kernel`, compiled for the types of its first arguments, which those of all further calls must have, too.

    Numba looks at the type of every array in every call, which takes longer than a short kernel itself. Here it is
    looked at once, so a kernel given arrays of another dtype, order or number of dimensions reads and writes out of
    bounds: one object serves one layer, whose dtype and cell fix the types, or a kernel with one set of types alone.
    """

    __slots__ = "_entry", "_kernel"

    def __init__(self, kernel):
        self._kernel = kernel
        self._entry = None

    def __call__(self, *arguments):
        entry = self._entry
        if entry is None:
            entry = self._entry = self._compiled(arguments)
        return entry(*arguments)

    def _compiled(self, arguments):
        compile_for = getattr(self._kernel, "compile", None)  # absent under NUMBA_DISABLE_JIT
        if compile_for is None:
            return self._kernel
        return compile_for(tuple(typeof(argument, Purpose.argument) for argument in arguments))
