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
_UNROLL = 2


def tile_rows(vectors):
    """Rows of the largest tile: its accumulators, the b vectors and a broadcast must fit the registers."""
    return max(1, min(8, (REGISTERS - 7 if REGISTERS == 32 else REGISTERS - 4) // vectors))


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
    builder.branch(head)
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


def _emit_tile(builder, arguments, kind, rows, vectors, strides):
    """The body of a tile's function."""
    out, out_row_stride, init, init_row_stride, a, segment_stride, segment_length, k, b = arguments
    row_stride, k_stride, b_stride = strides
    align = 4 if isinstance(kind.element, ir.FloatType) else 8

    def add_terms(state, count):
        """`count` terms of k: `state` is the accumulators, the place in a, that in b, and what is left of k."""
        *sums, a, b, left = state
        for step in range(count):
            row = builder.gep(b, [_constant(step * b_stride)])
            panel = [
                builder.load(address, align=align)
                for address in _vectors_of_rows(builder, row, _constant(0), 1, vectors, kind)
            ]
            for r in range(rows):
                element = builder.load(builder.gep(a, [_constant(r * row_stride + step * k_stride)]))
                element = splat_value(builder, element, kind.count)
                for j in range(r * vectors, (r + 1) * vectors):
                    sums[j] = multiply_add(builder, element, panel[j % vectors], sums[j])
        a, b = builder.gep(a, [_constant(count * k_stride)]), builder.gep(b, [_constant(count * b_stride)])
        return [*sums, a, b, builder.sub(left, _constant(count))]

    def add_segment(state):
        *sums, a, b, left = state
        short = builder.icmp_signed("<", left, segment_length)
        inner = [*sums, a, b, builder.select(short, left, segment_length)]
        for count in (_UNROLL, 1):
            inner = _while(
                builder, inner, lambda now, n=count: builder.icmp_signed(">=", now[-1], _constant(n)),
                lambda now, n=count: add_terms(now, n),
            )  # fmt: skip
        return [*inner[:-3], builder.gep(a, [segment_stride]), inner[-2], builder.sub(left, segment_length)]

    starts = _vectors_of_rows(builder, init, init_row_stride, rows, vectors, kind)
    sums = [builder.load(address, align=align) for address in starts]
    result = _while(
        builder, [*sums, a, b, k], lambda now: builder.icmp_signed(">", now[-1], _constant(0)), add_segment
    )
    ends = _vectors_of_rows(builder, out, out_row_stride, rows, vectors, kind)
    for value, address in zip(result[: rows * vectors], list(ends), strict=True):
        builder.store(value, address, align=align)
    builder.ret_void()


def _define_tile(module, name, kind, rows, vectors, strides):
    """Define the LLVM function of one tile shape, of vectors of the IR type `kind`.

    Its arguments: out, out_row_stride, init, init_row_stride, a, segment_stride, segment_length, k, b. The columns of
    `a` come in segments of `segment_length`, `segment_stride` elements apart; b's rows run through. `strides`, known
    here: of a's rows and columns and of b's rows, in elements.
    """
    pointer = kind.element.as_pointer()
    arguments = [pointer, _INTP, pointer, _INTP, pointer, _INTP, _INTP, _INTP, pointer]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")  # one copy, whatever the number of callers
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _emit_tile(builder, function.args, kind, rows, vectors, strides)
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
            kind = llvm_vector(dtype)
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
                    function = _define_tile(builder.module, name, kind, height, vectors, strides(kind.count))
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
