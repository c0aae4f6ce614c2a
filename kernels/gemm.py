"""The register-blocked tile product, emitted as vector IR by one generator, and the row loops around it.

A tile keeps `rows` × `vectors` accumulators in registers and adds k rank-one terms to them, in the order of k:

    out[r, :] = init[r, :] + Σ_k a[r, k] · b[k, :]

so every element is one chain of multiply-adds over k. Its value does not depend on how many rows or columns share
its tile, on where a long k is cut, or on the number of threads.
"""

import functools

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import subroutine
from .simd import (
    PANEL_VECTORS,
    REGISTERS,
    element_pointer,
    lanes,
    llvm_vector,
    load,
    load_first,
    multiply_add,
    splat_value,
    store,
    store_first,
)

_INTP = ir.IntType(64)
_DEPTH = 1024  # k of one sweep: a panel's part of some 256 KiB is taken from the L2 cache for all rows but the first


_HIGHEST = 8  # rows
_WIDEST = 4 if REGISTERS == 32 else 2  # vectors


def tile_rows(vectors):
    """Rows of the largest tile: its accumulators, the b vectors and a broadcast must fit the registers."""
    return max(1, min(_HIGHEST, (REGISTERS - 7 if REGISTERS == 32 else REGISTERS - 4) // vectors))


_HEIGHTS = (0, *(tile_rows(vectors) for vectors in range(1, _WIDEST + 1)))


def _not_unrolled(module):
    """Loop metadata: LLVM, which would unroll a tile's loop further, leaves it as it is.

    One load an address pattern, a short stride apart, is what a core's prefetcher follows best: with one row, where
    the panel comes from the L2 cache, that is worth a third of the time.
    """
    hint = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = ir.MDValue(module, [hint], name=str(len(module.metadata)))  # one a loop: it names itself
    loop.operands = (loop, hint)
    return loop


def _while(builder, state, go_on, body):
    """Emit a loop, `state = body(state)` while `go_on(state)`, over a list of IR values that stay in registers."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(f"loop.{part}") for part in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    nodes = [builder.phi(value.type) for value in state]
    builder.cbranch(go_on(nodes), inside, after)
    builder.position_at_end(inside)
    following = body(nodes)
    for node, first, again in zip(nodes, state, following, strict=True):
        node.add_incoming(first, before)
        node.add_incoming(again, builder.block)
    builder.branch(head).set_metadata("llvm.loop", _not_unrolled(builder.module))
    builder.position_at_end(after)
    return nodes


def _constant(value):
    return ir.Constant(_INTP, value)


def _vectors_of_rows(builder, base, row_stride, rows, vectors, kind):
    """Addresses of `vectors` neighbouring vectors in each of `rows` rows."""
    for r in range(rows):
        for j in range(vectors):
            offset = builder.add(builder.mul(_constant(r), row_stride), _constant(j * kind.count))
            yield builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def _emit_tile(builder, arguments, kind, rows, vectors, k_stride):
    """The body of a tile's function."""
    out, out_row_stride, init, init_row_stride, a, a_row_stride, segment_stride, segment_length, *rest = arguments
    k, b, b_stride = rest
    align = 4 if isinstance(kind.element, ir.FloatType) else 8

    a_rows = [builder.mul(_constant(r), a_row_stride) for r in range(rows)]

    def add_term(state):
        """One term of k: `state` is the accumulators, the place in a, that in b, and what is left of k."""
        *sums, a, b, left = state
        addresses = _vectors_of_rows(builder, b, _constant(0), 1, vectors, kind)
        panel = [builder.load(address, align=align) for address in addresses]
        for r in range(rows):
            element = builder.load(builder.gep(a, [a_rows[r]]))
            element = splat_value(builder, element, kind.count)
            for j in range(vectors):
                sums[r * vectors + j] = multiply_add(builder, element, panel[j], sums[r * vectors + j])
        a, b = builder.gep(a, [_constant(k_stride)]), builder.gep(b, [b_stride])
        return [*sums, a, b, builder.sub(left, _constant(1))]

    def some_left(state):
        return builder.icmp_signed(">", state[-1], _constant(0))

    def add_segment(state):
        *sums, a, b, left = state
        short = builder.icmp_signed("<", left, segment_length)
        inner = [*sums, a, b, builder.select(short, left, segment_length)]
        *sums, _, b, _ = _while(builder, inner, some_left, add_term)
        return [*sums, builder.gep(a, [segment_stride]), b, builder.sub(left, segment_length)]

    starts = _vectors_of_rows(builder, init, init_row_stride, rows, vectors, kind)
    sums = [builder.load(address, align=align) for address in starts]
    result = _while(builder, [*sums, a, b, k], some_left, add_segment)
    ends = _vectors_of_rows(builder, out, out_row_stride, rows, vectors, kind)
    for value, address in zip(result[: rows * vectors], list(ends), strict=True):
        builder.store(value, address, align=align)
    builder.ret_void()


def _define_tile(module, name, kind, rows, vectors, k_stride):
    """Define the LLVM function of one tile shape, of vectors of the IR type `kind`.

    Its arguments: out, out_row_stride, init, init_row_stride, a, a_row_stride, segment_stride, segment_length, k, b,
    b_stride. The columns of `a`, `k_stride` apart, come in segments of `segment_length`, `segment_stride` elements
    apart; b's rows, `b_stride` apart, run through.
    """
    pointer = kind.element.as_pointer()
    arguments = [pointer, _INTP, pointer, _INTP, pointer, _INTP, _INTP, _INTP, _INTP, pointer, _INTP]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")  # one copy, whatever the number of callers
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _emit_tile(builder, function.args, kind, rows, vectors, k_stride)
    return function


def _make_tile(widths, k_stride):
    """An intrinsic `tile(vectors, rows, out, o, out_row_stride, init, i, init_row_stride, a, p, a_row_stride,
    segment_stride, segment_length, k, b, q, b_stride)` for tiles of as many vectors as `widths` lists and 1 to
    `tile_rows` rows.

    The arrays are contiguous and of one dtype; `o`, `i`, `p`, `q` are flat indices into them.
    `k_stride(lanes)` gives the column stride of `a`, known when the tile is compiled.
    """

    @intrinsic
    def tile(
        typingctx, vectors, rows, out, o, ors, init, i, irs, a, p, ars, segment_stride, segment_length, k, b, q, brs
    ):
        n = types.intp
        dtype = out.dtype

        def codegen(context, builder, sig, args):
            kind = llvm_vector(dtype)
            (vectors_, rows_, out_, o_, ors_, init_, i_, irs_, a_, p_, ars_, segment_, length_, k_, b_, q_, brs_) = args
            pointers = {}
            for key, position, array, index in (
                ("out", 2, out_, o_),
                ("init", 5, init_, i_),
                ("a", 8, a_, p_),
                ("b", 14, b_, q_),
            ):
                pointers[key] = element_pointer(context, builder, sig.args[position], array, index)
            arguments = [pointers["out"], ors_, pointers["init"], irs_, pointers["a"], ars_, segment_, length_, k_]
            arguments += [pointers["b"], brs_]
            after = builder.append_basic_block("tile.after")
            shape = builder.add(builder.mul(vectors_, _constant(_HIGHEST + 1)), rows_)
            switch = builder.switch(shape, after)
            for vectors, height in ((v, h) for v in widths for h in range(1, tile_rows(v) + 1)):
                name = f"fastrnn_tile_{height}x{vectors}{k_stride.__name__}_{dtype}"
                function = builder.module.globals.get(name)
                if function is None:
                    function = _define_tile(builder.module, name, kind, height, vectors, k_stride(kind.count))
                block = builder.append_basic_block(f"tile.{height}x{vectors}")
                switch.add_case(_constant(vectors * (_HIGHEST + 1) + height), block)
                with builder.goto_block(block):
                    builder.call(function, arguments)
                    builder.branch(after)
            builder.position_at_end(after)

        return types.void(n, n, out, n, n, init, n, n, a, n, n, n, n, n, b, n, n), codegen

    return tile


def _columns(lanes_):
    """k runs along a's columns."""
    return 1


def _rows(lanes_):
    """k runs along the rows of a panel."""
    return PANEL_VECTORS * lanes_


@functools.cache
def _make_rows_of_tiles(widths, k_stride):
    """The loop over tiles, with the arguments of `make_product`."""
    last = {width % _WIDEST for width in widths} - {0}
    tile = _make_tile(tuple(sorted(last | ({_WIDEST} if max(widths) >= _WIDEST else set()))), k_stride)

    @subroutine
    def rows_of_tiles(
        vectors, rows, out, o, out_stride, init, i, init_stride, a, p, a_stride, segment_stride, segment_length,
        k, b, q, b_stride,
    ):  # fmt: skip
        for v in range(0, vectors, _WIDEST):
            wide = min(_WIDEST, vectors - v)
            height = _HEIGHTS[wide]
            column = v * lanes(a)
            row = 0
            for left in range((rows + height - 1) // height, 0, -1):
                n = (rows - row + left - 1) // left  # tiles of nearly one height: 16 rows are 6, 5, 5
                tile(
                    wide, n, out, o + row * out_stride + column, out_stride,
                    init, i + row * init_stride + column, init_stride,
                    a, p + row * a_stride, a_stride, segment_stride, segment_length, k, b, q + column, b_stride,
                )  # fmt: skip
                row += n

    return rows_of_tiles


@functools.cache
def make_product(widths):
    """`product(vectors, rows, out, o, out_stride, init, i, init_stride, a, p, a_stride, segment_stride,
    segment_length, k, b, q, b_stride)`:

    out[r, :] = init[r, :] + Σ_k a[r, k] b[k, :] for `rows` rows, `vectors` vectors wide, a width of `widths`. `a` is a
    stack of panels (rows `a_stride` apart, `segment_length` of its columns used, panels `segment_stride` apart), b's
    rows stand `b_stride` apart. `out` may be `init`; an `init_stride` of 0 repeats one row.
    """
    rows_of_tiles = _make_rows_of_tiles(widths, _columns)

    @subroutine
    def product(
        vectors, rows, out, o, out_stride, init, i, init_stride, a, p, a_stride, segment_stride, segment_length,
        k, b, q, b_stride,
    ):  # fmt: skip
        segments = max(1, _DEPTH // segment_length)  # of one sweep
        sweep = segments * segment_length
        rows_of_tiles(
            vectors, rows, out, o, out_stride, init, i, init_stride, a, p, a_stride, segment_stride,
            segment_length, min(k, sweep), b, q, b_stride,
        )  # fmt: skip
        for done in range(sweep, k, sweep):
            p += segments * segment_stride
            rows_of_tiles(
                vectors, rows, out, o, out_stride, out, o, out_stride, a, p, a_stride, segment_stride,
                segment_length, min(k - done, sweep), b, q + done * b_stride, b_stride,
            )  # fmt: skip

    return product


@functools.cache
def make_slot_product(slots, vectors):
    """The product with packed weights of `slots` slots of `vectors` vectors: see `make_product`.

    Its first argument is the number of units wanted, any from 1: whole vectors of a block's last slot are left out.
    """
    if vectors == 1:
        product = make_product((slots,))
    else:
        product = make_product(tuple(range((slots - 1) * vectors + 1, slots * vectors + 1)))

    @subroutine
    def multiply(
        units, rows, out, o, out_stride, init, i, init_stride, a, p, a_stride, segment_stride, segment_length, k, b, q
    ):
        step = lanes(a)
        valid = slots if vectors == 1 else (slots - 1) * vectors + min(vectors, (units + step - 1) // step)
        product(
            valid, rows, out, o, out_stride, init, i, init_stride, a, p, a_stride, segment_stride, segment_length,
            k, b, q, slots * vectors * step,
        )  # fmt: skip

    return multiply


_WIDTHS = tuple(range(1, PANEL_VECTORS + 1))
_product_of_panel = make_product(_WIDTHS)
_transposed_rows = _make_rows_of_tiles(_WIDTHS, _rows)


@subroutine
def panel_product(
    columns, rows, out, o, out_stride, init, i, init_stride, a, p, a_stride, segment_stride, segment_length, k, b, q
):
    """The product of `make_product` with a panel `b`, of which the first `columns` are wanted, in whole vectors."""
    step = lanes(a)
    _product_of_panel(
        min(PANEL_VECTORS, (columns + step - 1) // step), rows, out, o, out_stride, init, i, init_stride,
        a, p, a_stride, segment_stride, segment_length, k, b, q, PANEL_VECTORS * step,
    )  # fmt: skip


@subroutine
def transposed_product(columns, rows, out, o, out_stride, a, p, k, b, q):
    """out[r, :] += Σ_k a[k, r] b[k, :], with `a` and `b` panels of k rows and the first `columns` of b."""
    step = lanes(a)
    _transposed_rows(
        min(PANEL_VECTORS, (columns + step - 1) // step), rows, out, o, out_stride, out, o, out_stride,
        a, p, 1, 0, k, k, b, q, PANEL_VECTORS * step,
    )  # fmt: skip


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
