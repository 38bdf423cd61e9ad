"""Contractions of every kind that networks have, and some that they have not, on drawn sizes: against the reference, for any
number of threads, and with vectors of every width."""

import platform

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import check_near_reference, normal_operands, same_bits

from chainrule.engines.cpu.engine import ENGINE, CpuEngine
from chainrule.engines.cpu.toolchain import NoToolchain, find_toolchain
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, affine, parse_contraction, plain
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH

CHANNELS = st.sampled_from([1, 2, 3, 4, 5, 8, 10, 15, 16, 17, 24, 32, 33, 48])
SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 23, 32, 37, 64])


@st.composite
def grouped_convolutions(draw):
    """Two dimensions, each with a kernel, a stride, a dilation and padding of its own; any groups, depthwise among them."""
    groups = draw(st.sampled_from([1, 1, 2, 3, 16]))
    inside, outside = (draw(CHANNELS if groups == 1 else st.sampled_from([1, 2, 4, 16])) for _ in range(2))
    spatial = []
    for axis in range(2):
        kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        reach = (kernel - 1) * dilation + 1
        size = draw(st.integers(reach, reach + 6))
        low, high = draw(st.integers(0, reach)), draw(st.integers(0, reach))
        out = (size + low + high - reach) // stride + 1
        spatial.append((size, out, kernel, affine((1 + axis, stride), (3 + axis, dilation), offset=-low)))
    (h, oh, kh, rows), (w, ow, kw, columns) = spatial
    extents = (BATCH, oh, ow, kh, kw, groups, inside, outside)
    spec = Contraction(
        extents,
        plain(0, 1, 2, 5, 7),
        (affine((0, 1)), rows, columns, *plain(5, 6)),
        plain(3, 4, 5, 6, 7),
        (BATCH, oh, ow, groups, outside),
    )
    return spec, (BATCH, h, w, groups, inside), (kh, kw, groups, inside, outside)


@st.composite
def products(draw):
    """Matrix products with the axes of every operand in any order, batched or not."""
    m, n, k, h = draw(SIZES), draw(SIZES), draw(SIZES), draw(st.sampled_from([1, 2, 3, 9]))
    rows = draw(st.sampled_from([BATCH, m]))
    extents = (BATCH, h, rows if rows is not BATCH else m, n, k)
    orders = [draw(st.permutations(axes)) for axes in ((1, 2, 3), (1, 2, 4), (1, 4, 3))]
    shared = draw(st.booleans())
    maps = [plain(*([0] if side < 2 or not shared else []), *order) for side, order in enumerate(orders)]
    shapes = [tuple(extents[c.plain] for c in some) for some in maps]
    return Contraction(extents, maps[0], maps[1], maps[2], shapes[0]), shapes[1], shapes[2]


@st.composite
def odd_ones(draw):
    """Pooling by a constant, causal convolutions, diagonals, outer products, one column, sums of everything."""
    n, m, k = draw(SIZES), draw(CHANNELS), draw(st.integers(1, 4))
    texts = {
        f"[B, {n}, {m}] i0:B i1:{n} i2:{m} i3:{k} | [i0, i1, i2] += [i0, {k}*i1+i3, i2] * []": ((BATCH, n * k, m), ()),
        f"[B, {n}] i0:B i1:{n} i2:{k} | [i0, i1] += [i0, i1-i2] * [i2]": ((BATCH, n), (k,)),
        f"[B, {n}, {m}] i0:B i1:{n} i2:{k} i3:{m} | [i0, i1, i3] += [i0, i1-i2, i3] * [i2, i3]": (
            (BATCH, n, m),
            (k, m),
        ),
        f"[B, {n}] i0:B i1:{n} i2:{m} | [i0, i1] += [i1, i1] * [i0, i2]": ((n, n), (BATCH, m)),
        f"[{n}, {m}] i0:{n} i1:{m} i2:B | [i0, i1] += [i2, i0] * [i2, i1]": ((BATCH, n), (BATCH, m)),
        f"[B] i0:B i1:{n} | [i0] += [i0, i1] * [i1]": ((BATCH, n), (n,)),
        f"[B, {n}] i0:B i1:{n} | [i0, i1] += [i0] * [i1]": ((BATCH,), (n,)),
        f"[] i0:B i1:{n} | [] += [i0, i1] * [i0, i1]": ((BATCH, n), (BATCH, n)),
        f"[B, {n}, {m}] i0:B i1:{n} i2:{m} i3:{k} | [i0, i1, i2] += [i0, i2, i1, i3] * [i3, i2]": (
            (BATCH, m, n, k),
            (k, m),
        ),
    }
    text = draw(st.sampled_from(sorted(texts)))
    return parse_contraction(text.replace("1*i", "i")), *texts[text]


def role_of(contraction, role):
    spec, a, b = contraction
    return [(spec, a, b), (spec.for_a(a), spec.shape, b), (spec.for_b(b), a, spec.shape)][role]


def graph_of(spec, a, b, dtype, epilogue):
    builder = Builder()
    x, y = (builder.input(ArrayType(shape, dtype), name) for shape, name in ((a, "x"), (b, "y")))
    out = builder.contract(spec, x, y)
    if not epilogue:
        return builder.finish("product", [out])
    other = builder.input(out.type, "z")
    return builder.finish("product", [builder.add(out, other), builder.mul(out, other)])


def check(contraction, role, dtype, epilogue, batch, engine=ENGINE):
    graph = graph_of(*role_of(contraction, role), dtype, epilogue)
    operands = normal_operands(graph, batch)
    found = same_bits(engine.load(graph), operands)
    check_near_reference(graph, operands, found, {"float32": 3e-5, "float64": 1e-13}[dtype])


KINDS = st.one_of(grouped_convolutions(), products(), odd_ones())
DRAWN = {
    "contraction": KINDS,
    "role": st.integers(0, 2),
    "dtype": st.sampled_from(["float32", "float64"]),
    "epilogue": st.booleans(),
    "batch": st.sampled_from([1, 2, 7, 12, 19]),
}


@settings(max_examples=40)
@given(**DRAWN)
def test_every_kind_agrees_with_the_reference_for_any_number_of_threads(contraction, role, dtype, epilogue, batch):
    check(contraction, role, dtype, epilogue, batch)


@pytest.mark.slow
@settings(max_examples=600)
@given(**DRAWN)
def test_many_of_every_kind(contraction, role, dtype, epilogue, batch):
    check(contraction, role, dtype, epilogue, batch)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the targets are x86 processors")
@pytest.mark.parametrize("target", ["avx2", "sse2"])
@settings(max_examples=12)
@given(**DRAWN)
def test_every_kind_with_narrower_vectors(target, contraction, role, dtype, epilogue, batch):
    native, toolchain = find_toolchain(), find_toolchain(target)
    if isinstance(toolchain, NoToolchain) or (target == "avx2" and "avx2" not in native.features):
        pytest.skip("this machine cannot make or run such code")
    check(contraction, role, dtype, epilogue, batch, CpuEngine(toolchain))
