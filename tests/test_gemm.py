"""The tile product and its row loops against NumPy in float64; nothing outside the tile is touched or used."""

import functools

import numpy as np
import pytest

from fastrnn.kernels import gemm
from fastrnn.kernels.jit import kernel
from fastrnn.kernels.simd import PANEL_VECTORS, lanes, panel_width

DTYPES = ["float32", "float64"]
CANARY = -12345.0


@functools.cache
def product_kernel(vectors):
    product = gemm.make_product((vectors,))

    @kernel(name=f"test_product_{vectors}")
    def run(rows, out, o, out_stride, init, i, init_stride, a, p, segment_stride, segment_length, k, b, q):
        product(
            vectors, rows, out, o, out_stride, init, i, init_stride, a, p, PANEL_VECTORS * lanes(a), segment_stride,
            segment_length, k, b, q, vectors * lanes(a),
        )  # fmt: skip

    return run


@kernel(name="test_panel_product")
def panel_product(columns, rows, out, o, out_stride, a, p, a_stride, segment_stride, segment_length, k, b, q):
    gemm.panel_product(
        columns, rows, out, o, out_stride, out, o, out_stride, a, p, a_stride, segment_stride, segment_length, k, b, q
    )


@kernel(name="test_transposed_product")
def transposed(columns, rows, out, o, out_stride, a, p, k, b, q):
    gemm.transposed_product(columns, rows, out, o, out_stride, a, p, k, b, q)


@kernel(name="test_row_to_panels")
def row_to_panels(source, s, columns, panels, row, panel_stride):
    gemm.row_to_panels(source, s, columns, panels, row, panel_stride)


@kernel(name="test_row_from_panels")
def row_from_panels(panels, row, panel_stride, first, last, target, t, add):
    gemm.row_from_panels(panels, row, panel_stride, first, last, target, t, add)


def integers(rng, shape):
    """Small integers: every sum is exact in both dtypes, so results must be equal."""
    return rng.integers(-8, 9, shape).astype(np.float64)


def in_panels(a, segment_length, width, rng):
    """`a` (rows, K) as a stack of panels of `segment_length` columns, with NaN wherever nothing may be read."""
    rows, k = a.shape
    segments = max(1, -(-k // segment_length))
    panels = np.full((segments, rows + 2, width), np.nan)
    for column in range(k):
        segment, within = divmod(column, segment_length)
        panels[segment, 1 : rows + 1, within] = a[:, column]
    return panels, width, (rows + 2) * width  # first element of row 0, panel stride


def run_product(rng, dtype, vectors, rows, k, segment_length, values=integers, in_place=False, repeat_init=False):
    width = panel_width(np.dtype(dtype))
    columns = vectors * width // PANEL_VECTORS
    a, b = values(rng, (rows, k)), values(rng, (k, columns))
    init = values(rng, (1 if repeat_init else rows, columns))
    panels, start, stride = in_panels(a, segment_length, width, rng)
    out_stride = columns + 3
    out = np.full((rows + 2, out_stride), CANARY)
    source = np.full((len(init) + 2, columns + 5), np.nan)
    source[1:-1, 2 : 2 + columns] = init
    padded_b = np.full((k + 2, columns), np.nan)
    padded_b[1:-1] = b
    if in_place:
        out[1:-1, 1 : 1 + columns] = init
    out, source, panels, padded_b = (v.astype(dtype) for v in (out, source, panels, padded_b))
    flat = out.reshape(-1)
    if in_place:
        from_ = flat, out_stride + 1, out_stride
    else:
        from_ = source.reshape(-1), columns + 5 + 2, 0 if repeat_init else columns + 5
    product_kernel(vectors)(
        rows, flat, out_stride + 1, out_stride, *from_, panels.reshape(-1), start, stride, segment_length, k,
        padded_b.reshape(-1), columns,
    )  # fmt: skip
    inside = out[1:-1, 1 : 1 + columns].astype(np.float64)
    outside = out.copy()
    outside[1:-1, 1 : 1 + columns] = CANARY
    assert np.all(outside == CANARY), "wrote outside the tile"
    return inside, a, b, init


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, PANEL_VECTORS + 1))
def test_gemm_product_all_remainders(vectors, dtype):
    rng = np.random.default_rng(vectors)
    width = panel_width(np.dtype(dtype))
    for rows in range(1, 21):
        for k in range(71):
            segment_length = int(rng.choice([1, 2, 3, 5, min(16, width), width - 1, width]))
            out, a, b, init = run_product(rng, dtype, vectors, rows, k, segment_length)
            assert np.array_equal(out, init + a @ b), (rows, k, segment_length)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, PANEL_VECTORS + 1))
def test_gemm_product_in_place_and_repeated_init(vectors, dtype):
    rng = np.random.default_rng(10 + vectors)
    for rows in (1, 4, 7, 13):
        for k in (0, 1, 17):
            for options in ({"in_place": True}, {"repeat_init": True}):
                out, a, b, init = run_product(rng, dtype, vectors, rows, k, 8, **options)
                assert np.array_equal(out, init + a @ b), (rows, k, options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_product_rounding(dtype):
    """Real numbers: one chain of multiply-adds has an error of at most about k eps Σ|a b|."""
    rng = np.random.default_rng(3)

    def normal(rng, shape):
        return rng.standard_normal(shape).astype(dtype).astype(np.float64)

    for rows, k in ((1, 1), (5, 70), (20, 333)):
        out, a, b, init = run_product(rng, dtype, PANEL_VECTORS, rows, k, 8, normal)
        bound = (k + 1) * np.finfo(dtype).eps * (np.abs(init) + np.abs(a) @ np.abs(b))
        assert np.all(np.abs(out - (init + a @ b)) <= bound)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_product_rows_and_segments_do_not_matter(dtype):
    """A row alone, or with k cut elsewhere, gives the same bits."""
    vectors = 2
    width = panel_width(np.dtype(dtype))
    columns = vectors * width // PANEL_VECTORS
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((20, 47)).astype(dtype), rng.standard_normal((47, columns)).astype(dtype)
    zero = np.zeros(columns, dtype)
    results = []
    for segment_length in (width, 7, 1):
        panels, start, stride = in_panels(a, segment_length, width, rng)
        panels = panels.astype(dtype).reshape(-1)
        for rows in (1, 3, 20):
            out = np.empty((20, columns), dtype)
            for row in range(0, 20, rows):
                product_kernel(vectors)(
                    min(rows, 20 - row), out.reshape(-1), row * columns, columns, zero, 0, 0,
                    panels, start + row * width, stride, segment_length, 47, b.reshape(-1), 0,
                )  # fmt: skip
            results.append(out)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_nan_and_infinity_stay_visible(dtype):
    rng = np.random.default_rng(5)
    width = panel_width(np.dtype(dtype))
    columns = width // PANEL_VECTORS
    a, b = np.ones((3, 4)), np.ones((4, columns))
    a[0, 2], a[1, 1], b[1, 0] = np.nan, np.inf, 0.0
    panels, start, stride = in_panels(a, width, width, rng)
    out = np.zeros((3, columns), dtype)
    product_kernel(1)(
        3, out.reshape(-1), 0, columns, out.reshape(-1), 0, columns, panels.astype(dtype).reshape(-1), start, stride,
        width, 4, b.astype(dtype).reshape(-1), 0,
    )  # fmt: skip
    assert np.isnan(out[0]).all() and np.isnan(out[1, 0]) and np.isposinf(out[1, 1:]).all()
    np.testing.assert_array_equal(out[2], [3.0] + [4.0] * (columns - 1))


def whole_vectors(columns, width):
    """`columns` rounded up to vectors: what a product with part of a panel writes."""
    step = width // PANEL_VECTORS
    return -(-columns // step) * step


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_part_of_a_panel(dtype):
    """Any number of rows, any stride between them, any width; a long k is cut where it likes."""
    rng = np.random.default_rng(8)
    width = panel_width(np.dtype(dtype))
    for columns in (1, width // 4, width // 4 + 1, width // 2, width // 2 + 3, 3 * width // 4 + 1, width - 1, width):
        for rows, stride, k, segment_length in (
            (1, 1, 5, width), (2, 3, 70, width), (9, 2, 33, width // 2), (7, 1, 2500, width), (3, 1, 1300, 12),
        ):  # fmt: skip
            segments = -(-k // segment_length)
            a, b = integers(rng, (rows, k)), integers(rng, (k, width))
            panels = np.full((segments, rows * stride, width), np.nan)
            for column in range(k):
                panels[column // segment_length, ::stride, column % segment_length] = a[:, column]
            init = integers(rng, (rows, width))
            out = np.full((rows + 2, width + 1), CANARY)
            out[1:-1, :width] = init
            panels, b, out = (v.astype(dtype) for v in (panels, b, out))
            panel_product(
                columns, rows, out.reshape(-1), width + 1, width + 1, panels.reshape(-1), 0, stride * width,
                rows * stride * width, segment_length, k, b.reshape(-1), 0,
            )  # fmt: skip
            written = whole_vectors(columns, width)
            expected = np.full((rows + 2, width + 1), CANARY)
            expected[1:-1, :width] = init
            expected[1:-1, :written] += (a @ b.astype(float))[:, :written]
            assert np.array_equal(out, expected.astype(dtype)), (columns, rows, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_transposed_product(dtype):
    rng = np.random.default_rng(6)
    width = panel_width(np.dtype(dtype))
    for rows in range(1, 21):
        for k in range(71):
            columns = int(rng.integers(1, width + 1))
            written = whole_vectors(columns, width)
            a = np.full((k + 2, width), np.nan)
            first = int(rng.integers(0, width - rows + 1)) if rows <= width else 0
            used = min(rows, width - first)
            b = np.full((k + 2, width), np.nan)
            a[1:-1, first : first + used] = integers(rng, (k, used))
            b[1:-1, :written] = integers(rng, (k, written))
            init = integers(rng, (used, width))
            out = np.full((used + 2, width + 1), CANARY)
            out[1:-1, :width] = init
            a, b, out = (v.astype(dtype) for v in (a, b, out))
            transposed(
                columns, used, out.reshape(-1), width + 1, width + 1, a.reshape(-1), width + first, k, b.reshape(-1),
                width,
            )  # fmt: skip
            expected = np.full((used + 2, width + 1), CANARY)
            expected[1:-1, :width] = init
            product = a[1:-1, first : first + used].astype(float).T @ b[1:-1, :written].astype(float)
            expected[1:-1, :written] += product
            assert np.array_equal(out, expected.astype(dtype)), (columns, rows, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_rows_to_and_from_panels(dtype):
    rng = np.random.default_rng(7)
    width = panel_width(np.dtype(dtype))
    step = width // PANEL_VECTORS
    for columns in range(1, 3 * width + 2):
        count = -(-columns // width)
        source = rng.standard_normal(columns + 3).astype(dtype)
        panels = np.full((count, 3, width), CANARY, dtype)
        row_to_panels(source, 2, columns, panels.reshape(-1), 1, 3 * width)
        stacked = panels[:, 1].reshape(-1)
        assert np.array_equal(stacked[:columns], source[2 : columns + 2]) and not stacked[columns:].any(), columns
        assert np.all(panels[:, 0] == CANARY) and np.all(panels[:, 2] == CANARY)
        first = int(rng.integers(0, columns) // step * step)
        last = int(rng.integers(first, columns)) + 1
        for add in (False, True):
            target = np.full(columns + 4, CANARY, dtype)
            target[2 + first : 2 + last] = 1.0
            expected = target.copy()
            expected[2 + first : 2 + last] = stacked[first:last] + (expected[2 + first : 2 + last] if add else 0)
            row_from_panels(panels.reshape(-1), 1, 3 * width, first, last, target, 2, add)
            assert np.array_equal(target, expected), (columns, first, last, add)
