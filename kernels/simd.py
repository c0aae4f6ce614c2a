"""Vectors as a Numba type: `a * b + c` on them is one vector instruction each, whatever LLVM's vectoriser thinks.

All that knows instruction sets lives here and in `gemm`. The IR is generic: LLVM lowers it to AVX-512, AVX2, SSE or
NEON; only the width (`VECTOR_BYTES`) and the number of registers follow from the CPU.
"""

import operator
import os

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.datamodel.models import PrimitiveModel
from numba.core.errors import TypingError
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, register_model


def _cpu_features():
    """The features Numba compiles for: those of the host, unless NUMBA_CPU_FEATURES or NUMBA_CPU_NAME say otherwise."""
    if config.CPU_FEATURES is not None:
        return {f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+")}
    if config.CPU_NAME == "generic":
        return set()
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


CPU_FEATURES = _cpu_features()


def _vector_bytes():
    forced = os.environ.get("FASTRNN_VECTOR_BYTES")
    if forced is not None:
        if forced not in ("16", "32", "64"):
            raise ValueError(f"FASTRNN_VECTOR_BYTES must be 16, 32 or 64, got {forced!r}")
        return int(forced)
    if "avx512f" in CPU_FEATURES:
        return 64
    return 32 if "avx2" in CPU_FEATURES else 16


VECTOR_BYTES = _vector_bytes()
REGISTERS = 32 if "avx512f" in CPU_FEATURES or "neon" in CPU_FEATURES else 16
PANEL_VECTORS = 4  # every panel of activations or weights is this many vectors wide
ALIGNMENT = 64  # bytes; a cache line

_LLVM_SCALAR = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_LLVM_INTEGER = {types.float32: ir.IntType(32), types.float64: ir.IntType(64)}
_I64 = ir.IntType(64)
_MANTISSA_BITS = {types.float32: 23, types.float64: 52}


def lane_count(dtype):
    """Elements of a vector of the Numba type `dtype`."""
    return VECTOR_BYTES * 8 // dtype.bitwidth


def panel_width(dtype):
    """Columns of a panel of the NumPy type `dtype`: 64 float32 or 32 float64 with AVX-512."""
    return PANEL_VECTORS * VECTOR_BYTES // dtype.itemsize


class VectorType(types.Type):
    """A vector register's worth of float32 or float64."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.lanes = lane_count(dtype)
        super().__init__(name=f"Vector({dtype} x {self.lanes})")

    def can_convert_from(self, typingctx, other):
        return Conversion.unsafe if isinstance(other, types.Number) else None

    def unify(self, typingctx, other):
        return self if isinstance(other, types.Number) else None


def llvm_vector(dtype):
    """The IR type of a vector of the Numba type `dtype`."""
    return ir.VectorType(_LLVM_SCALAR[dtype], lane_count(dtype))


def _llvm_type(vector):
    return llvm_vector(vector.dtype)


@register_model(VectorType)
class _VectorModel(PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _llvm_type(fe_type))


def splat_value(builder, scalar, lanes):
    """`scalar` in every lane (IR level)."""
    vector = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), order)


@lower_cast(types.Number, VectorType)
def _cast_scalar(context, builder, fromty, toty, val):
    return splat_value(builder, context.cast(builder, val, fromty, toty.dtype), toty.lanes)


def _is_operand(x):
    return isinstance(x, (VectorType, types.Number))


def _binary_operator(op, instruction):
    @infer_global(op)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and all(map(_is_operand, args)):
                for arg in args:
                    if isinstance(arg, VectorType):
                        return signature(arg, arg, arg)

    @lower_builtin(op, VectorType, VectorType)
    def _lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


for _op, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _binary_operator(_op, _instruction)


@infer_global(operator.neg)
class _NegTemplate(AbstractTemplate):
    def generic(self, args, kws):
        if isinstance(args[0], VectorType):
            return signature(args[0], args[0])


@lower_builtin(operator.neg, VectorType)
def _lower_neg(context, builder, sig, args):
    return builder.fneg(args[0])


def element_pointer(context, builder, array_type, array, index):
    """Address of element `index` of a contiguous array seen as flat (IR level; no bounds, no wraparound)."""
    if array_type.layout != "C":
        raise TypingError(f"fastrnn's kernels take C-contiguous arrays, got {array_type}")
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _vector_intrinsic(builder, name, vector, arguments):
    """Call an overloaded LLVM intrinsic on vectors of one type."""
    suffix = f"v{vector.count}{'f32' if vector.element == ir.FloatType() else 'f64'}"
    function_type = ir.FunctionType(vector, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, f"{name}.{suffix}"), arguments)


def multiply_add(builder, a, b, c):
    """a·b + c, fused where the CPU can (`llvm.fma` would be a library call on one that can't)."""
    return _vector_intrinsic(builder, "llvm.fmuladd", a.type, [a, b, c])


def _vector_load(context, builder, array_type, array, index):
    pointer = element_pointer(context, builder, array_type, array, index)
    kind = _llvm_type(VectorType(array_type.dtype))
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=array_type.dtype.bitwidth // 8)


def _check_mutable(array_type):
    if not array_type.mutable:
        raise TypingError(f"fastrnn's kernels write into this array, it must not be read-only: {array_type}")


def _vector_store(context, builder, array_type, array, index, value, value_type):
    _check_mutable(array_type)
    value = context.cast(builder, value, value_type, VectorType(array_type.dtype))
    pointer = element_pointer(context, builder, array_type, array, index)
    pointer = builder.bitcast(pointer, value.type.as_pointer())
    builder.store(value, pointer, align=array_type.dtype.bitwidth // 8)


@intrinsic
def lanes(typingctx, array):
    """Elements of a vector of the array's dtype, a compile-time constant."""

    def codegen(context, builder, sig, args):
        return context.get_constant(types.intp, lane_count(sig.args[0].dtype))

    return types.intp(array), codegen


@intrinsic
def load(typingctx, array, index):
    """The vector at flat `index` of a contiguous array."""

    def codegen(context, builder, sig, args):
        return _vector_load(context, builder, sig.args[0], *args)

    return VectorType(array.dtype)(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write a vector (or a number, in every lane) at flat `index` of a contiguous array."""
    vector = VectorType(array.dtype)

    def codegen(context, builder, sig, args):
        _vector_store(context, builder, sig.args[0], *args, vector)

    return types.void(array, types.intp, vector), codegen


def _first_lanes(builder, count, lanes_):
    """Mask of the lanes below `count`."""
    numbers = ir.Constant(ir.VectorType(ir.IntType(64), lanes_), list(range(lanes_)))
    return builder.icmp_signed("<", numbers, splat_value(builder, count, lanes_))


def _masked_function(builder, verb, vector, pointer):
    mask = ir.VectorType(ir.IntType(1), vector.count)
    i32 = ir.IntType(32)
    suffix = f"v{vector.count}{'f32' if vector.element == ir.FloatType() else 'f64'}.p0"
    if verb == "load":
        function_type = ir.FunctionType(vector, [pointer.type, i32, mask, vector])
    else:
        function_type = ir.FunctionType(ir.VoidType(), [vector, pointer.type, i32, mask])
    return cgutils.get_or_insert_function(builder.module, function_type, f"llvm.masked.{verb}.{suffix}")


def _load_masked(context, builder, array_type, array, index, count):
    kind = _llvm_type(VectorType(array_type.dtype))
    pointer = element_pointer(context, builder, array_type, array, index)
    pointer = builder.bitcast(pointer, kind.as_pointer())
    align = ir.Constant(ir.IntType(32), array_type.dtype.bitwidth // 8)
    function = _masked_function(builder, "load", kind, pointer)
    mask = _first_lanes(builder, count, kind.count)
    return builder.call(function, [pointer, align, mask, ir.Constant(kind, [0.0] * kind.count)])


def _store_masked(context, builder, array_type, array, index, value, value_type, count):
    _check_mutable(array_type)
    value = context.cast(builder, value, value_type, VectorType(array_type.dtype))
    pointer = element_pointer(context, builder, array_type, array, index)
    pointer = builder.bitcast(pointer, value.type.as_pointer())
    align = ir.Constant(ir.IntType(32), array_type.dtype.bitwidth // 8)
    function = _masked_function(builder, "store", value.type, pointer)
    builder.call(function, [value, pointer, align, _first_lanes(builder, count, value.type.count)])


@intrinsic
def load_first(typingctx, array, index, count):
    """The first `count` lanes from flat `index`, zero in the others, whose memory is not touched."""

    def codegen(context, builder, sig, args):
        return _load_masked(context, builder, sig.args[0], *args)

    return VectorType(array.dtype)(array, types.intp, types.intp), codegen


@intrinsic
def store_first(typingctx, array, index, value, count):
    """Write the first `count` lanes at flat `index`; the memory of the others is not touched."""
    vector = VectorType(array.dtype)

    def codegen(context, builder, sig, args):
        _store_masked(context, builder, sig.args[0], args[0], args[1], args[2], vector, args[3])

    return types.void(array, types.intp, vector, types.intp), codegen


@intrinsic
def splat(typingctx, array, number):
    """A vector of the array's dtype with `number` in every lane."""
    vector = VectorType(array.dtype)

    def codegen(context, builder, sig, args):
        return args[1]

    return vector(array, vector), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a·b + c of vectors; numbers are taken into every lane."""
    vector = next(x for x in (a, b, c) if isinstance(x, VectorType))

    def codegen(context, builder, sig, args):
        return multiply_add(builder, *args)

    return vector(vector, vector, vector), codegen


def _select_by(predicate):
    @intrinsic
    def choose(typingctx, a, b, yes, no):
        vector = next(x for x in (a, b, yes, no) if isinstance(x, VectorType))

        def codegen(context, builder, sig, args):
            return builder.select(builder.fcmp_ordered(predicate, args[0], args[1]), args[2], args[3])

        return vector(vector, vector, vector, vector), codegen

    return choose


where_greater = _select_by(">")  # yes where a > b, else no (also where a or b is NaN)
where_less = _select_by("<")
where_at_most = _select_by("<=")


@intrinsic
def absolute(typingctx, x):
    """|x|."""

    def codegen(context, builder, sig, args):
        return _vector_intrinsic(builder, "llvm.fabs", args[0].type, args)

    return x(x), codegen


@intrinsic
def copy_sign(typingctx, magnitude, sign):
    """`magnitude` with the sign of `sign`."""
    vector = magnitude if isinstance(magnitude, VectorType) else sign

    def codegen(context, builder, sig, args):
        return _vector_intrinsic(builder, "llvm.copysign", args[0].type, args)

    return vector(vector, vector), codegen


@intrinsic
def square_root(typingctx, x):
    """√x."""

    def codegen(context, builder, sig, args):
        return _vector_intrinsic(builder, "llvm.sqrt", args[0].type, args)

    return x(x), codegen


def by_dtype(for_float32, for_float64):
    """An intrinsic of a vector that gives a constant vector, which depends on the dtype."""

    @intrinsic
    def constant(typingctx, x):
        def codegen(context, builder, sig, args):
            value = for_float32 if x.dtype == types.float32 else for_float64
            return ir.Constant(_llvm_type(x), [value] * x.lanes)

        return x(x), codegen

    return constant


def polynomial(for_float32, for_float64):
    """An intrinsic of a vector that gives a polynomial by Horner's rule; coefficients from the lowest degree on."""

    @intrinsic
    def evaluate(typingctx, x):
        def codegen(context, builder, sig, args):
            *rest, result = for_float32 if x.dtype == types.float32 else for_float64
            result = ir.Constant(_llvm_type(x), [result] * x.lanes)
            for coefficient in reversed(rest):
                coefficient = ir.Constant(_llvm_type(x), [coefficient] * x.lanes)
                result = multiply_add(builder, result, args[0], coefficient)
            return result

        return x(x), codegen

    return evaluate


def _integer_vector(x, value):
    return ir.Constant(ir.VectorType(_LLVM_INTEGER[x.dtype], x.lanes), [value] * x.lanes)


@intrinsic
def power_of_two(typingctx, s):
    """2ⁿ for the integer n whose biased exponent stands in the low bits of `s`, as a rounding by addition left it."""

    def codegen(context, builder, sig, args):
        shift = _integer_vector(s, _MANTISSA_BITS[s.dtype])
        return builder.bitcast(builder.shl(builder.bitcast(args[0], shift.type), shift), args[0].type)

    return s(s), codegen


@intrinsic
def halved_powers_of_two(typingctx, s):
    """Two powers whose product is 2ⁿ, where n may run past the exponent's range; `s` holds n plus twice the bias."""

    def codegen(context, builder, sig, args):
        shift = _integer_vector(s, _MANTISSA_BITS[s.dtype])
        bits = builder.bitcast(args[0], shift.type)
        half = builder.lshr(bits, _integer_vector(s, 1))
        powers = [builder.shl(part, shift) for part in (half, builder.sub(bits, half))]
        return context.make_tuple(builder, sig.return_type, [builder.bitcast(p, args[0].type) for p in powers])

    return types.UniTuple(s, 2)(s), codegen


def _folded(builder, value, combine):
    """One number from all lanes, in a fixed order: halves are folded onto each other by `combine(low, high)`."""
    count = value.type.count
    while count > 1:
        count //= 2
        undefined = ir.Constant(value.type, ir.Undefined)
        halves = (
            ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(start, start + count))) for start in (0, count)
        )
        value = combine(*(builder.shuffle_vector(value, undefined, half) for half in halves))
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@intrinsic
def horizontal_sum(typingctx, x):
    """Sum of the lanes, in float64: a large lane does not swallow the small ones."""

    def codegen(context, builder, sig, args):
        value = args[0]
        if x.dtype == types.float32:
            value = builder.fpext(value, ir.VectorType(ir.DoubleType(), x.lanes))
        return _folded(builder, value, builder.fadd)

    return types.float64(x), codegen


@intrinsic
def horizontal_max(typingctx, x):
    """The largest lane that is a number."""

    def codegen(context, builder, sig, args):
        def larger(low, high):
            return builder.select(builder.fcmp_ordered(">", low, high), low, high)

        return _folded(builder, args[0], larger)

    return x.dtype(x), codegen


def _each_array(builder, arrays_type, arrays):
    """Type and value of each array of a tuple."""
    for position, kind in enumerate(arrays_type):
        yield kind, builder.extract_value(arrays, position)


def _tuple_of_vectors(arrays):
    """The type of a vector from each of a tuple of arrays, which may be empty."""
    return types.BaseTuple.from_types(tuple(VectorType(array.dtype) for array in arrays))


@intrinsic
def load_each(typingctx, arrays, index):
    """A tuple of vectors: the one at flat `index` of each array of a tuple."""

    def codegen(context, builder, sig, args):
        vectors = [
            _vector_load(context, builder, kind, array, args[1])
            for kind, array in _each_array(builder, sig.args[0], args[0])
        ]
        return context.make_tuple(builder, sig.return_type, vectors)

    return _tuple_of_vectors(arrays)(arrays, types.intp), codegen


@intrinsic
def load_each_first(typingctx, arrays, index, count):
    """As `load_each`, the first `count` lanes of each; see `load_first`."""

    def codegen(context, builder, sig, args):
        vectors = [
            _load_masked(context, builder, kind, array, args[1], args[2])
            for kind, array in _each_array(builder, sig.args[0], args[0])
        ]
        return context.make_tuple(builder, sig.return_type, vectors)

    return _tuple_of_vectors(arrays)(arrays, types.intp, types.intp), codegen


@intrinsic
def store_each(typingctx, arrays, index, values):
    """Write each vector (or number) of a tuple at flat `index` of the array at its place."""

    def codegen(context, builder, sig, args):
        for position, (kind, array) in enumerate(_each_array(builder, sig.args[0], args[0])):
            value = builder.extract_value(args[2], position)
            _vector_store(context, builder, kind, array, args[1], value, sig.args[2][position])

    return types.void(arrays, types.intp, values), codegen


@intrinsic
def add_each(typingctx, arrays, index, vectors):
    """Add each vector of a tuple to what stands at flat `index` of the array at its place."""

    def codegen(context, builder, sig, args):
        for position, (kind, array) in enumerate(_each_array(builder, sig.args[0], args[0])):
            value = builder.extract_value(args[2], position)
            total = builder.fadd(_vector_load(context, builder, kind, array, args[1]), value)
            _vector_store(context, builder, kind, array, args[1], total, sig.args[2][position])

    return types.void(arrays, types.intp, vectors), codegen


@intrinsic
def store_each_first(typingctx, arrays, index, values, count):
    """As `store_each`, the first `count` lanes of each; see `store_first`."""

    def codegen(context, builder, sig, args):
        for position, (kind, array) in enumerate(_each_array(builder, sig.args[0], args[0])):
            value = builder.extract_value(args[2], position)
            _store_masked(context, builder, kind, array, args[1], value, sig.args[2][position], args[3])

    return types.void(arrays, types.intp, values, types.intp), codegen


def _transposed(builder, rows):
    """A square tile of vectors with rows and columns exchanged (IR level).

    Stage by stage, one bit of the row number changes places with the same bit of the column number: in pairs of rows
    whose numbers differ in the bit, blocks of lanes are exchanged.
    """
    rows, count = list(rows), len(rows)
    bit = count // 2
    while bit:
        order = range(count)
        even = [j if not j & bit else count + j - bit for j in order]
        odd = [j + bit if not j & bit else count + j for j in order]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), count), places) for places in (even, odd)]
        for r in order:
            if not r & bit:
                pair = rows[r], rows[r | bit]
                rows[r], rows[r | bit] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        bit //= 2
    return rows


def _row_places(builder, start, stride, count):
    return [builder.add(start, builder.mul(stride, ir.Constant(stride.type, r))) for r in range(count)]


@intrinsic
def transpose_tile(typingctx, source, index, source_stride, target, target_index, target_stride):
    """Transpose a square tile of as many rows as a vector has lanes, from one contiguous array into another.

    Rows stand a stride apart in each.
    """
    vector, n = VectorType(source.dtype), types.intp

    def codegen(context, builder, sig, args):
        places = _row_places(builder, args[1], args[2], vector.lanes)
        rows = [_vector_load(context, builder, sig.args[0], args[0], place) for place in places]
        places = _row_places(builder, args[4], args[5], vector.lanes)
        for place, row in zip(places, _transposed(builder, rows), strict=True):
            _vector_store(context, builder, sig.args[3], args[3], place, row, vector)

    return types.void(source, n, n, target, n, n), codegen


@intrinsic
def transpose_part(typingctx, source, index, source_stride, rows, columns, target, target_index, target_stride):
    """`transpose_tile` with only the first `rows` and `columns` of the source, zeros for the other rows; columns that
    are not there are not written."""
    vector, n = VectorType(source.dtype), types.intp

    def codegen(context, builder, sig, args):
        def if_within(number, limit, count):
            inside = builder.icmp_signed("<", ir.Constant(_I64, number), limit)
            return builder.select(inside, count, ir.Constant(_I64, 0))

        places = _row_places(builder, args[1], args[2], vector.lanes)
        tile = [
            _load_masked(context, builder, sig.args[0], args[0], place, if_within(r, args[3], args[4]))
            for r, place in enumerate(places)
        ]
        whole = ir.Constant(_I64, vector.lanes)
        places = _row_places(builder, args[6], args[7], vector.lanes)
        for c, (place, row) in enumerate(zip(places, _transposed(builder, tile), strict=True)):
            count = if_within(c, args[4], whole)
            _store_masked(context, builder, sig.args[5], args[5], place, row, vector, count)

    return types.void(source, n, n, n, n, target, n, n), codegen


def slot_access(slots):
    """`load_slots(array, index, stride)` and `store_slots(array, index, stride, values)` for tuples of `slots` vectors.

    The vectors stand `stride` elements apart, the first at flat `index`.
    """

    def offset(builder, args, slot):
        return builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, slot)))

    @intrinsic
    def load_slots(typingctx, array, index, stride):
        def codegen(context, builder, sig, args):
            vectors = [
                _vector_load(context, builder, sig.args[0], args[0], offset(builder, args, slot))
                for slot in range(slots)
            ]
            return context.make_tuple(builder, sig.return_type, vectors)

        return types.UniTuple(VectorType(array.dtype), slots)(array, types.intp, types.intp), codegen

    @intrinsic
    def store_slots(typingctx, array, index, stride, values):
        def codegen(context, builder, sig, args):
            for slot, value_type in enumerate(sig.args[3]):
                value = builder.extract_value(args[3], slot)
                _vector_store(context, builder, sig.args[0], args[0], offset(builder, args, slot), value, value_type)

        return types.void(array, types.intp, types.intp, values), codegen

    return load_slots, store_slots


_X86 = llvm.get_process_triple().startswith(("x86_64", "i386", "i686"))
_ARM64 = llvm.get_process_triple().startswith(("aarch64", "arm64"))
_MXCSR_FLUSH = 0x8040  # denormal results and operands count as zero
_FPCR_FLUSH = 1 << 24
_VOID = ir.VoidType()


def enter_flush_to_zero(builder):
    """Let denormal numbers count as zero on this thread; gives what `leave_flush_to_zero` needs (IR level).

    They are up to a hundred times slower than others, and nothing that a net computes depends on them.
    """
    if _X86:
        word = ir.IntType(32)
        saved, changed = (cgutils.alloca_once(builder, word) for _ in range(2))
        read, write = (_mxcsr_function(builder, verb) for verb in ("st", "ld"))
        builder.call(read, [builder.bitcast(saved, read.args[0].type)])
        builder.store(builder.or_(builder.load(saved), ir.Constant(word, _MXCSR_FLUSH)), changed)
        builder.call(write, [builder.bitcast(changed, write.args[0].type)])
        return saved
    if _ARM64:
        read = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I64, []), "llvm.aarch64.get.fpcr")
        saved = builder.call(read, [])
        builder.call(_set_fpcr(builder), [builder.or_(saved, ir.Constant(_I64, _FPCR_FLUSH))])
        return saved
    return None


def leave_flush_to_zero(builder, saved):
    """Put this thread's floating-point mode back as it was (IR level)."""
    if _X86:
        write = _mxcsr_function(builder, "ld")
        builder.call(write, [builder.bitcast(saved, write.args[0].type)])
    elif _ARM64:
        builder.call(_set_fpcr(builder), [saved])


def _mxcsr_function(builder, verb):
    function_type = ir.FunctionType(_VOID, [ir.IntType(8).as_pointer()])
    return cgutils.get_or_insert_function(builder.module, function_type, f"llvm.x86.sse.{verb}mxcsr")


def _set_fpcr(builder):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VOID, [_I64]), "llvm.aarch64.set.fpcr")


def pause(builder):
    """Tell the core that this is a loop that waits (IR level)."""
    if _X86:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VOID, []), "llvm.x86.sse2.pause")
        builder.call(function, [])
    elif _ARM64:
        hint = ir.FunctionType(_VOID, [ir.IntType(32)])
        function = cgutils.get_or_insert_function(builder.module, hint, "llvm.aarch64.hint")
        builder.call(function, [ir.Constant(ir.IntType(32), 1)])  # yield
