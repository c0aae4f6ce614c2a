"""The register-blocked tile product, emitted as vector IR by one generator, and the row loops around it.

A tile keeps `rows` × `vectors` accumulators in registers and adds k rank-one terms to them, in the order of k:

    out[r, :] = init[r, :] + Σ_k a[r, k] · b[k, :]

so every element is one chain of multiply-adds over k. Its value does not depend on how many rows or columns share
its tile, on where a long k is cut, or on the number of threads.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import subroutine
from .simd import (
    _LLVM_SCALAR,
    PANEL_VECTORS,
    REGISTERS,
    element_pointer,
    lane_count,
    lanes,
    load,
    load_first,
    multiply_add,
    splat_value,
    store,
    store_first,
)

_INTP = ir.IntType(64)
_UNROLL = 2


def tile_rows(vectors):
    """Rows of the largest tile: its accumulators, the b vectors and a broadcast must fit the registers."""
    return max(1, min(8, (REGISTERS - 7 if REGISTERS == 32 else REGISTERS - 4) // vectors))


def _define_tile(module, name, scalar, lanes_, rows, vectors, row_stride, k_stride, b_stride):
    """Define the LLVM function of one tile shape. Strides are in elements and known when it is compiled.

    Its arguments: out, out_row_stride, init, init_row_stride, a, segment_stride, segment_length, k, b.
    The columns of `a` come in segments of `segment_length`, `segment_stride` elements apart; b's rows run through.
    """
    pointer = scalar.as_pointer()
    vector = ir.VectorType(scalar, lanes_)
    align = 4 if isinstance(scalar, ir.FloatType) else 8
    arguments = [pointer, _INTP, pointer, _INTP, pointer, _INTP, _INTP, _INTP, pointer]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    out, out_row_stride, init, init_row_stride, a, segment_stride, segment_length, k, b = function.args
    entry = function.append_basic_block("entry")
    segment_head = function.append_basic_block("segment.head")
    segment_body = function.append_basic_block("segment.body")
    pair_head = function.append_basic_block("pair.head")
    pair_body = function.append_basic_block("pair.body")
    odd_head = function.append_basic_block("odd.head")
    odd_body = function.append_basic_block("odd.body")
    segment_end = function.append_basic_block("segment.end")
    done = function.append_basic_block("done")
    builder = ir.IRBuilder(entry)

    def constant(value):
        return ir.Constant(_INTP, value)

    def vector_at(base, offset, column):
        address = builder.gep(base, [builder.add(offset, constant(column * lanes_))])
        return builder.bitcast(address, vector.as_pointer())

    def phis(like):
        return [builder.phi(value.type) for value in like]

    def join(nodes, values, block):
        for node, value in zip(nodes, values, strict=True):
            node.add_incoming(value, block)

    def rank_one(accumulators, a_pointer, b_pointer, step):
        """The accumulators plus one term of k."""
        panel = [
            builder.load(vector_at(b_pointer, constant(step * b_stride), j), align=align) for j in range(vectors)
        ]
        result = []
        for r in range(rows):
            element = builder.load(builder.gep(a_pointer, [constant(r * row_stride + step * k_stride)]))
            element = splat_value(builder, element, lanes_)
            for j in range(vectors):
                result.append(multiply_add(builder, element, panel[j], accumulators[r * vectors + j]))
        return result

    start = [
        builder.load(vector_at(init, builder.mul(constant(r), init_row_stride), j), align=align)
        for r in range(rows)
        for j in range(vectors)
    ]
    state = [*start, a, b, k]  # accumulators, first element of the segment, next row of b, columns left
    builder.branch(segment_head)

    builder.position_at_end(segment_head)
    outer = phis(state)
    join(outer, state, entry)
    builder.cbranch(builder.icmp_signed(">", outer[-1], constant(0)), segment_body, done)

    builder.position_at_end(segment_body)
    left = outer[-1]
    length = builder.select(builder.icmp_signed("<", left, segment_length), left, segment_length)
    builder.branch(pair_head)

    builder.position_at_end(pair_head)
    inner = phis([*outer[:-1], length])
    join(inner, [*outer[:-1], length], segment_body)
    builder.cbranch(builder.icmp_signed(">=", inner[-1], constant(_UNROLL)), pair_body, odd_head)

    builder.position_at_end(pair_body)
    accumulators = inner[:-3]
    for step in range(_UNROLL):
        accumulators = rank_one(accumulators, inner[-3], inner[-2], step)
    following = [
        *accumulators,
        builder.gep(inner[-3], [constant(_UNROLL * k_stride)]),
        builder.gep(inner[-2], [constant(_UNROLL * b_stride)]),
        builder.sub(inner[-1], constant(_UNROLL)),
    ]
    join(inner, following, pair_body)
    builder.branch(pair_head)

    builder.position_at_end(odd_head)
    builder.cbranch(builder.icmp_signed(">", inner[-1], constant(0)), odd_body, segment_end)
    builder.position_at_end(odd_body)
    accumulators = rank_one(inner[:-3], inner[-3], inner[-2], 0)
    after_odd = [*accumulators, builder.gep(inner[-2], [constant(b_stride)])]
    builder.branch(segment_end)

    builder.position_at_end(segment_end)
    closing = phis(after_odd)
    join(closing, [*inner[:-3], inner[-2]], odd_head)
    join(closing, after_odd, odd_body)
    following = [
        *closing[:-1],
        builder.gep(outer[-3], [segment_stride]),
        closing[-1],
        builder.sub(left, length),
    ]
    join(outer, following, segment_end)
    builder.branch(segment_head)

    builder.position_at_end(done)
    for r in range(rows):
        for j in range(vectors):
            address = vector_at(out, builder.mul(constant(r), out_row_stride), j)
            builder.store(outer[r * vectors + j], address, align=align)
    builder.ret_void()
    return function


def _make_tile(vectors, strides):
    """An intrinsic `tile(rows, out, o, out_row_stride, init, i, init_row_stride, a, p, segment_stride,
    segment_length, k, b, q)` for tiles of `vectors` vectors and 1 to `tile_rows(vectors)` rows.

    The arrays are contiguous and of one dtype; `o`, `i`, `p`, `q` are flat indices into them.
    `strides(lanes)` gives the constant row and column stride of `a` and the row stride of `b`.
    """
    shape_name = f"{vectors}_{strides.__name__}"

    @intrinsic
    def tile(typingctx, rows, out, o, ors, init, i, irs, a, p, segment_stride, segment_length, k, b, q):
        n = types.intp
        dtype = out.dtype

        def codegen(context, builder, sig, args):
            scalar = _LLVM_SCALAR[dtype]
            count = lane_count(dtype)
            (rows_, out_, o_, ors_, init_, i_, irs_, a_, p_, segment_, length_, k_, b_, q_) = args
            pointers = {}
            for key, position, array, index in (
                ("out", 1, out_, o_),
                ("init", 4, init_, i_),
                ("a", 7, a_, p_),
                ("b", 12, b_, q_),
            ):
                pointers[key] = element_pointer(context, builder, sig.args[position], array, index)
            arguments = [pointers["out"], ors_, pointers["init"], irs_, pointers["a"], segment_, length_, k_]
            arguments.append(pointers["b"])
            after = builder.append_basic_block("tile.after")
            switch = builder.switch(rows_, after)
            for height in range(1, tile_rows(vectors) + 1):
                name = f"fastrnn_tile_{height}x{shape_name}_{dtype}"
                function = builder.module.globals.get(name)
                if function is None:
                    function = _define_tile(
                        builder.module, name, scalar, count, height, vectors, *strides(count)
                    )
                block = builder.append_basic_block(f"tile.{height}")
                switch.add_case(ir.Constant(_INTP, height), block)
                with builder.goto_block(block):
                    builder.call(function, arguments)
                    builder.branch(after)
            builder.position_at_end(after)

        return types.void(n, out, n, n, init, n, n, a, n, n, n, n, b, n), codegen

    return tile


def _along_columns(vectors):
    def strides(lanes_):
        return PANEL_VECTORS * lanes_, 1, vectors * lanes_

    strides.__name__ = "columns"
    return strides


def _along_rows(lanes_):
    return 1, PANEL_VECTORS * lanes_, PANEL_VECTORS * lanes_


def make_product(vectors):
    """`product(rows, out, o, out_stride, init, i, init_stride, a, p, segment_stride, segment_length, k, b, q)`:

    out[r, :] = init[r, :] + Σ_k a[r, k] b[k, :] for `rows` rows, `vectors` vectors wide. `a` is a stack of panels
    (rows one panel width apart, `segment_length` of its columns used, panels `segment_stride` apart), `b` is
    (k, vectors·lanes). `out` may be `init`; an `init_stride` of 0 repeats one row.
    """
    tile = _make_tile(vectors, _along_columns(vectors))
    height = tile_rows(vectors)

    @subroutine
    def product(rows, out, o, out_stride, init, i, init_stride, a, p, segment_stride, segment_length, k, b, q):
        a_stride = PANEL_VECTORS * lanes(a)
        row = 0
        for left in range((rows + height - 1) // height, 0, -1):
            n = (rows - row + left - 1) // left  # tiles of nearly one height: 16 rows are 6, 5, 5
            tile(
                n, out, o + row * out_stride, out_stride, init, i + row * init_stride, init_stride,
                a, p + row * a_stride, segment_stride, segment_length, k, b, q,
            )  # fmt: skip
            row += n

    return product


def make_transposed_product():
    """`transposed_product(columns, out, o, out_stride, init, i, init_stride, a, p, k, b, q)`:

    out[c, :] = init[c, :] + Σ_k a[k, c] b[k, :], with `a` and `b` panels of k rows: a weight gradient.
    """
    tile = _make_tile(PANEL_VECTORS, _along_rows)
    height = tile_rows(PANEL_VECTORS)

    @subroutine
    def transposed_product(columns, out, o, out_stride, init, i, init_stride, a, p, k, b, q):
        column = 0
        for left in range((columns + height - 1) // height, 0, -1):
            n = (columns - column + left - 1) // left
            tile(
                n, out, o + column * out_stride, out_stride, init, i + column * init_stride, init_stride,
                a, p + column, 0, k, k, b, q,
            )  # fmt: skip
            column += n

    return transposed_product


product_by_vectors = {vectors: make_product(vectors) for vectors in range(1, PANEL_VECTORS + 1)}
panel_product = product_by_vectors[PANEL_VECTORS]
transposed_product = make_transposed_product()


@subroutine
def row_to_panels(source, s, columns, panels, row, panel_stride):
    """Copy `columns` numbers from flat `s` of `source` into row `row` of a stack of panels, zero past the last."""
    width = PANEL_VECTORS * lanes(panels)
    step = lanes(panels)
    for start in range(0, columns, width):
        at = start // width * panel_stride + row * width
        for j in range(0, width, step):
            left = columns - start - j
            if left >= step:
                store(panels, at + j, load(source, s + start + j))
            elif left > 0:
                store(panels, at + j, load_first(source, s + start + j, left))
            else:
                store(panels, at + j, 0.0)


@subroutine
def row_from_panels(panels, row, panel_stride, first, last, target, t, add):
    """Copy columns `first` to `last` of a stack of panels' row to flat `t` + column of `target`, or add them there.

    `first` is a multiple of the lane count.
    """
    width = PANEL_VECTORS * lanes(panels)
    step = lanes(panels)
    for column in range(first, last, step):
        value = load(panels, column // width * panel_stride + row * width + column % width)
        if last - column >= step:
            if add:
                value = value + load(target, t + column)
            store(target, t + column, value)
        else:
            if add:
                value = value + load_first(target, t + column, last - column)
            store_first(target, t + column, value, last - column)
