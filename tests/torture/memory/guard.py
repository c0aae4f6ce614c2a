"""Calls of kernels as they come from Python, each array moved to where any access outside it ends the process.

Every array among a kernel's arguments, in a NamedTuple or alone, a whole buffer or a view into one, is copied against
a page that can't be touched; so is what a kernel allocates itself. Afterwards what it has written is copied back.
"""

import ctypes
from collections import Counter

import llvmlite.binding as llvm
import numpy as np
from numba.core.registry import cpu_target
from numba.core.runtime import _nrt_python, rtsys

from fastrnn import passes
from fastrnn.dispatch import TypedKernel
from fastrnn.kernels import jit
from fastrnn.kernels.dense import SCRATCH_TILES
from fastrnn.kernels.layout import View
from fastrnn.kernels.simd import PANEL_VECTORS, panel_width

from .pages import Region, Regions

_guard = None  # the `Guard` that calls go through; None: they are left alone


class Guard:
    """A `with` block in which all arrays of kernels end right before a forbidden page, or begin right behind one."""

    regions = Regions()

    def __init__(self, at_end):
        self.at_end = at_end
        self.called = set()  # kernels, by module and name
        self.counts = Counter()
        self.strays = []  # descriptions of what was written where it should not be
        self._inner = []  # regions of what the kernel under way has allocated

    def __enter__(self):
        global _guard
        _guard = self
        return self

    def __exit__(self, *_):
        global _guard
        _guard = None

    def call(self, name, function, arguments, keywords):
        """`function(*arguments, **keywords)` with its arrays guarded; `name` is the kernel's module and name."""
        self.called.add(name)
        arguments = _exact(name[1], arguments)
        groups = _groups(_arrays((arguments, tuple(keywords.values()))))
        regions, places = [], {}
        for low, high, arrays in groups:
            region = self.regions.take(high - low)
            address = region.place(high - low, arrays[0].dtype, self.at_end)
            ctypes.memmove(address, low, high - low)
            places.update((id(array), region.array(address + _address(array) - low, array)) for array in arrays)
            regions.append((region, address))
        keywords = {key: _moved(value, places) for key, value in keywords.items()}
        result = _copied(function(*_moved(arguments, places), **keywords))
        for view in _views(arguments):
            self._check_view(name, view, places[id(view.data)])
        for (low, high, arrays), (region, address) in zip(groups, regions, strict=True):
            self._bring_back(name, low, high, arrays, region, address)
        self.regions.give_back(region for region, _ in regions)
        for region in self._inner:
            self._check(name, region)
        self._inner = []
        self.counts["guarded arrays"] += len(places)
        return result

    def allocate(self, size):
        """The address of `size` bytes for a kernel that allocates, and what must live as long as they are used."""
        region = Region(size)
        address = region.place(size, np.uint8, self.at_end)
        self._inner.append(region)
        self.counts["guarded arrays"] += 1
        return address, region

    def _bring_back(self, name, low, high, arrays, region, address):
        """What the kernel wrote into a region goes to where the array came from."""
        self._check(name, region)
        size = high - low
        if ctypes.string_at(address, size) != ctypes.string_at(low, size):
            if not any(array.flags.writeable for array in arrays):
                self.strays.append(f"{name[1]} writes into a read-only array")
            ctypes.memmove(low, address, size)

    def _check(self, name, region):
        self.counts["canary bytes checked"] += region.canary_count
        if not region.is_intact():
            self.strays.append(f"{name[1]} writes {'before' if self.at_end else 'past'} an array")

    def _check_view(self, name, view, moved):
        """Of the rows that a `View` goes through, its own columns alone may have changed."""
        bits = f"u{moved.itemsize}"
        changed = np.flatnonzero(moved.view(bits) != view.data.view(bits))
        width = min([stride for stride in (view.time, view.batch) if stride], default=1)
        self.counts["canary bytes checked"] += view.data.size * (width - view.columns) // width * moved.itemsize
        column = changed % width - view.first
        if ((column < 0) | (column >= view.columns)).any():
            self.strays.append(f"{name[1]} writes into columns outside its view")


def _exact(name, arguments):
    """Arguments with the work space of weight gradients cut down to what the kernel's docstring asks for."""
    if name not in ("accumulate_weight_gradients", "accumulate_token_gradient"):
        return arguments
    *rest, scratch, parts, share, shares = arguments
    size = parts * SCRATCH_TILES * panel_width(scratch.dtype) ** 2 // PANEL_VECTORS
    return (*rest, scratch[:size], parts, share, shares)


def _arrays(value):
    """All arrays in nested tuples."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _arrays(item)


def _views(value):
    """All `View`s in nested tuples."""
    if isinstance(value, View):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _views(item)


def _moved(value, places):
    """Nested tuples with their arrays replaced by those of `places`, by `id`."""
    if isinstance(value, np.ndarray):
        return places[id(value)]
    if not isinstance(value, tuple):
        return value
    items = [_moved(item, places) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def _copied(value):
    """A kernel's result with its arrays copied: they may be views of regions that are used again."""
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return value.copy() if isinstance(value, np.ndarray) else value


def _address(array):
    return array.__array_interface__["data"][0]


def _extent(array):
    """First and past the last address of an array's elements."""
    low = high = _address(array)
    if array.size:
        for count, stride in zip(array.shape, array.strides, strict=True):
            low, high = low + min((count - 1) * stride, 0), high + max((count - 1) * stride, 0)
        high += array.itemsize
    return low, high


def _groups(arrays):
    """(low, high, arrays) for each piece of memory that arrays share; an array of size 0 shares none."""
    groups = []
    for low, high, array in sorted(((*_extent(array), array) for array in arrays), key=lambda entry: entry[:2]):
        if low < high and groups and low < groups[-1][1]:
            first, last, members = groups[-1]
            groups[-1] = first, max(last, high), [*members, array]
        else:
            groups.append((low, high, [array]))
    return groups


def install():
    """Let every call of a kernel from Python go through the guard under way, if there is one."""
    typed_call = TypedKernel.__call__

    def call_typed(self, *arguments):
        if _guard is None:
            return typed_call(self, *arguments)
        return _guard.call(_name(self._kernel), lambda *moved: typed_call(self, *moved), arguments, {})

    TypedKernel.__call__ = call_typed
    _guard_allocations()
    _fit_exactly()


def call_guarded(function, *arguments):
    """`function(*arguments)` of compiled code that is no kernel of fastrnn's, guarded likewise."""
    if _guard is None:
        return function(*arguments)
    return _guard.call(_name(function), function, arguments, {})


def _name(dispatcher):
    return dispatcher.py_func.__module__, dispatcher.py_func.__qualname__


def guard_kernels():
    """The same for the kernels that have been made since; to be called before each case."""
    for dispatcher in jit._kernels.values():
        if not hasattr(dispatcher, "call_unguarded"):
            dispatcher.__class__ = _guarded_class(type(dispatcher))


def _guarded_class(kind):
    class GuardedDispatcher(kind):
        """A kernel whose calls from Python go through the guard."""

        call_unguarded = kind.__call__

        def __call__(self, *arguments, **keywords):
            if _guard is None:
                return self.call_unguarded(*arguments, **keywords)
            return _guard.call(_name(self), self.call_unguarded, arguments, keywords)

    return GuardedDispatcher


_ALLOCATE = "NRT_MemInfo_alloc_aligned"  # what compiled code calls for `np.empty`
_Allocate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
_kept = []  # what compiled code has the address of


def _guard_allocations():
    """The same for what kernels allocate: compiled code finds the allocator by its name."""
    rtsys.initialize(cpu_target.target_context)  # which would put Numba's own allocator there, at the first compilation
    plain = _Allocate(_nrt_python.c_helpers["MemInfo_alloc_aligned"])
    new = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.py_object)(
        _nrt_python.c_helpers["meminfo_new_from_pyobject"]
    )

    @_Allocate
    def allocate(size, align):
        return plain(size, align) if _guard is None else new(*_guard.allocate(size))

    _kept.append(allocate)
    llvm.add_symbol(_ALLOCATE, ctypes.cast(allocate, ctypes.c_void_p).value)


def _fit_exactly():
    """A pass's buffers, which have room for the largest batch, cut down to what `kernels.layout.Buffers` says of each.

    Then the forbidden page comes right after what a smaller batch may use.
    """
    fit = passes.PassBuffers.fit

    def fit_exactly(self, batch):
        buffers, product = fit(self, batch), self._product
        rows, inputs, units = buffers.x_rows, product.padded(product.input_size), product.padded(product.hidden_size)
        z, gradients = product.blocks * rows * product.panel, batch.batch * units
        x = self.x[: inputs * rows]
        self._fitted_backward = buffers._replace(
            x=x, z=buffers.z[:z], dz=buffers.dz[:z], recurrent=tuple(array[:z] for array in buffers.recurrent),
            states=tuple(array[: units * buffers.state_rows] for array in buffers.states),
            d_states=tuple(array[:gradients] for array in buffers.d_states),
            d_vectors=tuple(array[:gradients] for array in buffers.d_vectors),
            dx=buffers.dx[: inputs * buffers.dx_rows],
        )  # fmt: skip
        self._fitted = self._fitted_backward._replace(x=self.tokens[:rows] if self.takes_tokens else x)
        return self._fitted

    passes.PassBuffers.fit = fit_exactly
