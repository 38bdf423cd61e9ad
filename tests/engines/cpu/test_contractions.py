"""The contraction generator against the reference, on products and convolutions of small, odd and degenerate sizes."""

import platform
import re

import numpy as np
import pytest

from chainrule.engines.cpu.engine import ENGINE, CpuEngine
from chainrule.engines.cpu.toolchain import NoToolchain, find_toolchain
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, parse_contraction, plain
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH, shape_at
from chainrule.testing import at_batch

SIZES = (1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 48, 64, 100)


def convolution(rng):
    """Forward shape, operands and attributes of a random two-dimensional convolution."""
    kernel, stride, dilation = int(rng.choice([1, 2, 3, 5])), int(rng.choice([1, 2, 3])), int(rng.choice([1, 1, 2]))
    reach = (kernel - 1) * dilation + 1
    size = int(rng.integers(reach, reach + 9))
    padding = int(rng.integers(0, reach))
    inside, outside = (int(rng.choice([1, 3, 4, 8, 16, 17, 32, 40])) for _ in range(2))
    out = (size + 2 * padding - reach) // stride + 1
    position = f"{stride}*i1+{dilation}*i4-{padding}", f"{stride}*i2+{dilation}*i5-{padding}"
    text = (
        f"[B, {out}, {out}, {outside}] i0:B i1:{out} i2:{out} i3:{outside} i4:{kernel} i5:{kernel} i6:{inside} | "
        f"[i0, i1, i2, i3] += [i0, {position[0]}, {position[1]}, i6] * [i4, i5, i6, i3]"
    )
    return clean(text), (BATCH, size, size, inside), (kernel, kernel, inside, outside)


def clean(text):
    return text.replace("1*i", "i").replace("-0", "")


def dense(rng):
    n, m = (int(rng.choice(SIZES)) for _ in range(2))
    return f"[B, {m}] i0:B i1:{m} i2:{n} | [i0, i1] += [i0, i2] * [i2, i1]", (BATCH, n), (n, m)


def attention(rng):
    t, s, h, d = (int(rng.choice(SIZES[:9])) for _ in range(4))
    text = (
        f"[B, {h}, {t}, {s}] i0:B i1:{h} i2:{t} i3:{s} i4:{d} | [i0, i1, i2, i3] += [i0, i2, i1, i4] * [i0, i3, i1, i4]"
    )
    return text, (BATCH, t, h, d), (BATCH, s, h, d)


def roles(text, a, b):
    spec = parse_contraction(text)
    yield spec, a, b
    yield spec.for_a(a), spec.shape, b
    yield spec.for_b(b), a, spec.shape


def graph_of(spec, a, b, dtype="float32", epilogue=False):
    builder = Builder()
    x, y = (builder.input(ArrayType(shape, dtype), name) for shape, name in ((a, "x"), (b, "y")))
    out = builder.contract(spec, x, y)
    if not epilogue:
        return builder.finish("product", [out])
    other = builder.input(out.type, "z")
    last = out.shape[-1]
    shift = builder.broadcast(builder.input(ArrayType((last,), dtype), "bias"), out.shape, (len(out.shape) - 1,))
    moved = builder.add(out, shift)
    mask = builder.le(moved, other)
    return builder.finish("product", [builder.select(mask, other, moved), mask, builder.mul(moved, moved)])


def compare(graph, batch, rng, rtol, engine=ENGINE):
    operands = [rng.normal(size=shape_at(v.shape, batch)).astype(v.dtype) for v in graph.inputs]
    found, expected = engine.load(graph)(operands), REFERENCE.load(graph)(operands)
    for got, wanted in zip(found, expected, strict=True):
        assert got.shape == wanted.shape
        if wanted.dtype == bool:
            assert (got != wanted).mean() < 0.01  # sums in another order may fall on the other side
        else:
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol * max(1.0, np.abs(wanted).max(initial=0)))


def fuzz(make, seeds, dtype="float32", epilogue=False, rtol=2e-5, engine=ENGINE):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for spec, a, b in roles(*make(rng)):
            graph = graph_of(spec, a, b, dtype, epilogue and bool(spec.shape))
            for batch in (1, 2, 9):
                compare(graph, batch, rng, rtol, engine)


@pytest.mark.parametrize("make", [convolution, dense, attention])
@pytest.mark.parametrize("epilogue", [False, True])
def test_products_of_odd_sizes(make, epilogue):
    fuzz(make, range(2), epilogue=epilogue)


@pytest.mark.slow
@pytest.mark.parametrize("make", [convolution, dense, attention])
@pytest.mark.parametrize("epilogue", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_products_of_odd_sizes(make, epilogue, dtype):
    fuzz(make, range(100, 130), dtype, epilogue, 2e-5 if dtype == "float32" else 1e-12)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the targets are x86 processors")
@pytest.mark.parametrize("target", ["avx2", "sse2"])
@pytest.mark.parametrize("make", [convolution, dense, attention])
def test_narrower_vectors(make, target):
    toolchain = find_toolchain(target)
    if isinstance(toolchain, NoToolchain) or (target == "avx2" and not can_run_avx2()):
        pytest.skip("this machine cannot make or run such code")
    assert toolchain.vector_bytes == {"avx2": 32, "sse2": 16}[target]
    fuzz(make, range(1), epilogue=True, engine=CpuEngine(toolchain))


def can_run_avx2():
    native = find_toolchain()
    return not isinstance(native, NoToolchain) and "avx2" in native.features


@pytest.mark.parametrize("batch", [3, 16])
def test_convolutions_of_a_constant_batch(batch):
    rng = np.random.default_rng(batch)
    for spec, a, b in roles(*convolution(rng)):
        compare(at_batch(graph_of(spec, a, b), batch), batch, rng, 2e-5)


def test_an_empty_batch_gives_zero_gradients():
    (_, (_, _, _), (spec, a, b)) = list(roles(*dense(np.random.default_rng(0))))
    operands = [np.zeros(shape_at(shape, 0), np.float32) for shape in (a, b)]
    (found,) = ENGINE.load(graph_of(spec, a, b))(operands)
    np.testing.assert_array_equal(found, np.zeros(spec.shape, np.float32))


def test_long_sums_are_split():
    text, a, b = "[B, 40] i0:B i1:40 i2:33 | [i0, i1] += [i0, i2] * [i2, i1]", (BATCH, 33), (33, 40)
    *_, (spec, a, b) = roles(text, a, b)
    graph = graph_of(spec, a, b, epilogue=False)
    assert "parts" in ENGINE.load(graph).c_source
    for batch in (1, 700, 5000):
        compare(graph, batch, np.random.default_rng(batch), 1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(33, 300), (300, 33), (128, 128), (20, 530)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parts_of_long_sums_are_shared_out_and_fetched_ahead(rows, columns, dtype):
    text, a, b = (
        f"[B, {columns}] i0:B i1:{columns} i2:{rows} | [i0, i1] += [i0, i2] * [i2, i1]",
        (BATCH, rows),
        (rows, columns),
    )
    *_, (spec, a, b) = roles(text, a, b)
    graph = graph_of(spec, a, b, dtype, epilogue=True)
    assert "CR_FETCH(x +" in ENGINE.load(graph).c_source
    for batch in (1, 127, 900, 3001):
        compare(graph, batch, np.random.default_rng(batch), 1e-4 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("batch", [1, 3, 21, 70])
@pytest.mark.parametrize(("size", "by_item"), [(4, False), (9, True)])
def test_weights_of_small_images_are_summed_over_several(batch, size, by_item):
    """Few positions and many weights: all images get their borders at once, and the sum over images and positions goes in blocks."""
    text = (
        f"[3, 3, 40, 208] i0:B i1:{size} i2:{size} i3:208 i4:3 i5:3 i6:40 | "
        "[i4, i5, i6, i3] += [i0, i1+i4-1, i2+i5-1, i6] * [i0, i1, i2, i3]"
    )
    graph = graph_of(parse_contraction(text), (BATCH, size, size, 40), (BATCH, size, size, 208))
    compare(graph, batch, np.random.default_rng(batch), 1e-4)
    assert ("with a border of zeros" in ENGINE.load(graph).c_source) != by_item


@pytest.mark.parametrize(("rows", "columns"), [(300, 512), (200, 1040)])
def test_steps_far_apart_and_what_follows_a_product_are_fetched_ahead(rows, columns):
    text = f"[B, {columns}] i0:B i1:{columns} i2:{rows} | [i0, i1] += [i0, i2] * [i2, i1]"
    kinds = list(roles(text, (BATCH, rows), (rows, columns)))
    forward, weight_gradient = (ENGINE.load(graph_of(*kinds[k], epilogue=True)).c_source for k in (0, -1))
    assert "CR_FETCH_NEAR(y +" in forward
    assert "CR_FETCH(f0 +" in weight_gradient
    for spec, a, b in kinds:
        for batch in (1, 5, 64, 130):
            compare(graph_of(spec, a, b, epilogue=True), batch, np.random.default_rng(batch), 1e-4)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_lines_that_are_only_written_are_fetched_ahead(batch):
    """The result of a product, and what is made of it and stored; of another element type it lies elsewhere."""
    builder = Builder()
    a, b = (builder.input(ArrayType(shape, "float32")) for shape in ((BATCH, 200), (200, 512)))
    product = builder.matmul(a, b)
    results = [product], [product, builder.exp(product), builder.cast(product, "float64")]
    plain, made = (builder.finish("products", outputs) for outputs in results)
    fetched = [set(re.findall(r"CR_FETCH\w*\(f\d", ENGINE.load(graph).c_source)) for graph in (plain, made)]
    assert fetched == [{"CR_FETCH_TO_WRITE(f0"}, {"CR_FETCH_TO_WRITE(f0", "CR_FETCH_TO_WRITE(f1"}]
    for graph in (plain, made):
        compare(graph, batch, np.random.default_rng(batch), 1e-4)


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("shape", [(BATCH, 200, 96), (BATCH, 200, 3), (600, 96, 512), (301, 77, 40)])
def test_rows_of_the_next_tiles_are_fetched_ahead(shape, batch):
    """Of a matrix whose rows are read along memory, in shares by the tiles that read the same rows."""
    rows, depth, columns = shape
    builder = Builder()
    a = builder.input(ArrayType((rows, depth), "float32"))
    b = builder.input(ArrayType((depth, columns), "float32"))
    graph = builder.finish("products", [builder.matmul(a, b)])
    source = ENGINE.load(graph).c_source
    assert "const long turn = " in source and re.search(r"CR_FETCH\(x \+ \(\d+ \* near \+ 16 \* l \+ \d+\)\)", source)
    compare(graph, batch, np.random.default_rng(batch), 1e-4)


def test_rows_that_alias_are_copied():
    text = "[B, 64, 1024] i0:B i1:64 i2:1024 i3:300 | [i0, i1, i2] += [i0, i1, i3] * [i0, i3, i2]"
    graph = graph_of(*next(roles(text, (BATCH, 64, 300), (BATCH, 300, 1024))))
    assert "vectors_y" in ENGINE.load(graph).c_source
    compare(graph, 3, np.random.default_rng(0), 1e-4)


def test_both_operands_of_a_sum_over_many_pages_are_copied():
    def products(steps):
        text = f"[2, 1033, 1030] i0:2 i1:1033 i2:1030 i3:{steps} | [i0, i1, i2] += [i0, i3, i1] * [i0, i3, i2]"
        return graph_of(parse_contraction(text), (2, steps, 1033), (2, steps, 1030))

    long, short = products(1600), products(600)
    source = ENGINE.load(long).c_source
    assert "vectors_y" in source
    assert "rows_0" in source
    assert "vectors_y" not in ENGINE.load(short).c_source
    compare(long, 1, np.random.default_rng(0), 1e-4)


def test_what_follows_a_sum_in_parts_may_have_axes_of_one_more():
    """The parts are added up with one index for all of the result, which nothing divides into coordinates."""
    b = Builder()
    x, w, z = (b.input(ArrayType(shape, "float64")) for shape in ((BATCH * 2,), (4, BATCH * 2), (1, 13, 1, 4)))
    spec = Contraction((BATCH * 2, 13, 1, 4), plain(1, 2, 3), plain(0), plain(3, 0), (13, 1, 4))
    y = b.broadcast(b.contract(spec, x, w), (1, 13, 1, 4), (1, 2, 3))
    graph = b.finish("follows", [b.add(z, y)])
    for batch in (1, 9, 700):
        compare(graph, batch, np.random.default_rng(batch), 1e-12)
