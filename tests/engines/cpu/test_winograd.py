"""Convolutions by Winograd's algorithms: the algorithms, which contractions have them, and their values, for any batch and threads."""

import re
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.agreement import check_near_reference, same_bits
from tests.engines.cpu.test_contractions import can_run_avx2
from tests.engines.cpu.test_fuzz import quick

import chainrule as cr
from chainrule import ops
from chainrule.core.dtypes import BFLOAT16, to_numpy
from chainrule.engines.cpu.contraction import solved
from chainrule.engines.cpu.engine import CpuEngine
from chainrule.engines.cpu.indexing import Index
from chainrule.engines.cpu.loading import load_runtime
from chainrule.engines.cpu.winograd import bundles_in
from chainrule.engines.cpu.winograd_algorithms import ALGORITHMS, TILE
from chainrule.engines.cpu.winograd_bundles import Layout
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, affine, plain
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH, shape_at
from chainrule.passes import optimise
from chainrule.transforms import trace

AVX2 = pytest.param("avx2", marks=pytest.mark.skipif(not can_run_avx2(), reason="this processor has no AVX2"))
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
BATCHES = (2, 1, 7, 8, 9, 33)


@pytest.mark.parametrize("taps", sorted(ALGORITHMS))
def test_the_algorithms_are_convolutions_for_all_numbers(taps):
    """Exact fractions: the matrices are such that the formula holds for every x, u and w, hence for each of their elements."""
    algorithm = ALGORITHMS[taps]
    assert algorithm.size == TILE + taps - 1 == len(algorithm.u) == len(algorithm.w)
    for place, position, tap in product(range(algorithm.size), range(TILE), range(taps)):
        rows = zip(algorithm.x, algorithm.u, algorithm.w, strict=True)
        total = sum(Fraction(x[place]) * Fraction(u[position]) * Fraction(w[tap]) for x, u, w in rows)
        assert total == (place == position + tap)


def test_results_depend_on_what_is_read_for_them_alone():
    """Products that make position p have no x but x[p] to x[p + taps - 1], so that what is beyond does not cost digits."""
    for taps, algorithm in ALGORITHMS.items():
        for position in range(TILE):
            used = [x for x, u in zip(algorithm.x, algorithm.u, strict=True) if u[position]]
            assert all(x[k] == 0 for x in used for k in range(len(x)) if not position <= k < position + taps)


def test_fewer_taps_have_some_of_the_products_of_more():
    rows = [ALGORITHMS[taps].u for taps in sorted(ALGORITHMS)]
    for few, more in pairwise(rows):
        assert [row for row in more if row in few] == [*few]


# Which contractions are taken.


def forward(*setting):
    return lambda x, w, g: ops.convolution(x, w, *setting)


def along_inputs(*setting):
    return lambda x, w, g: cr.vjp(lambda x: ops.convolution(x, w, *setting), x, cotangents=g)[1]


def along_weights(*setting):
    return lambda x, w, g: cr.vjp(lambda w: ops.convolution(x, w, *setting), w, cotangents=g)[1]


def upwards(*setting):
    return lambda x, w, g: ops.transposed_convolution(x, w.transpose(0, 1, 3, 2), *setting)


def operands(size, kernel, channels, filters, *setting, dtype="float32", batch=2, seed=0):
    rng = np.random.default_rng((seed, batch))
    x = rng.normal(size=(batch, *size, channels)).astype(dtype)
    w = (rng.normal(size=(*kernel, channels, filters)) / (3 * np.sqrt(channels))).astype(dtype)
    y = ops.convolution(x, w, *setting)
    return x, w, rng.normal(size=y.shape).astype(dtype)


def multiplications(function, *arrays, batch=("x", "g"), vector_bytes=64):
    """Of the tiles of every contraction; 0 where it is none of Winograd's."""
    graph = optimise(trace(function, *arrays, batch=batch))
    nodes = [node for node in graph.nodes if node.primitive.name == "contract"]
    found = [bundles_in(node, solved(node), vector_bytes, contiguous=False) for node in nodes]
    return [0 if bundles is None else sum(bundle.multiplications for bundle in bundles) for bundles in found]


@pytest.mark.parametrize(
    ("kernel", "setting", "expected"),
    [
        ((3, 3), (1, 1), (16, 16, 16)),
        ((3, 3), (1, ((0, 2), (1, 0))), (16, 16, 16)),
        ((2, 2), (1, 1), (9, 9, 9)),
        ((2, 3), (1, 1), (12, 12, 12)),
        ((4, 4), (2, 1), (4 * 9,) * 3),
        ((6, 6), (2, 2), (4 * 16,) * 3),
        # Along an axis, one tap takes 2 multiplications for 2 results, two take 3 and three take 4. Residues of an input gradient
        # have algorithms of their own, of which those with one tap save too little.
        ((3, 3), (2, 1), ((3 + 2) ** 2, 0, (3 + 2) ** 2)),
        ((3, 3), (2, ((0, 1), (2, 3))), ((3 + 2) ** 2, 0, (3 + 2) ** 2)),
        ((3, 4), (2, 1), ((3 + 2) * (3 + 3), 0, (3 + 2) * (3 + 3))),
        ((5, 5), (2, 2), ((4 + 3) ** 2,) * 3),
        ((5, 4), (2, 2), ((4 + 3) * (3 + 3),) * 3),
        ((5, 5), (3, 2), ((3 + 3 + 2) ** 2, 0, (3 + 3 + 2) ** 2)),
        ((3, 3), ((1, 2), 1), (4 * (3 + 2),) * 3),
        # 49 for 64, and none saved at all.
        ((4, 4), (3, 1), (0, 0, 0)),
        ((3, 3), (3, 1), (0, 0, 0)),
        ((1, 1), (1, 0), (0, 0, 0)),
        ((5, 5), (1, 2), (0, 0, 0)),
        ((3, 1), (1, (1, 0)), (0, 0, 0)),
        ((4, 4), (1, 1), (0, 0, 0)),
        # Taps at distances are a short convolution of every second position, and those are not in steps of one.
        ((3, 3), (1, 2, 2), (0, 0, 0)),
    ],
)
def test_short_convolutions_are_found(kernel, setting, expected):
    arrays = operands((12, 14), kernel, 16, 32, *setting)
    found = [multiplications(make(*setting), *arrays) for make in (forward, along_inputs, along_weights)]
    assert found == [[count] for count in expected]


def bundles(function, *arrays):
    """Of the only contraction."""
    graph = optimise(trace(function, *arrays, batch=("x", "g")))
    (node,) = (node for node in graph.nodes if node.primitive.name == "contract")
    found = bundles_in(node, solved(node), 64, contiguous=False)
    assert found is not None
    return found


@pytest.mark.parametrize(("make", "role"), [(forward, "result"), (along_weights, "other")])
def test_phases_share_what_they_have_in_common(make, role):
    found = bundles(make(2, 1), *operands((12, 14), (3, 3), 16, 32, 2, 1))
    assert [(bundle.shared, len(bundle.phases)) for bundle in found] == [(role, 4)]
    groups = sorted((len(group.places), len(group.phases)) for group in found[0].groups)
    assert groups == [(1, 1), (2, 2), (2, 2), (4, 4)]


@pytest.mark.parametrize(("make", "below"), [(forward, "other"), (along_inputs, "other"), (along_weights, "result")])
@pytest.mark.parametrize("kernel", [4, 5])
def test_transformed_elements_have_places_of_their_own(make, below, kernel):
    rows, columns = 3, 2
    for bundle in bundles(make(2, 1), *operands((12, 14), (kernel, kernel), 16, 32, 2, 1)):
        for role in ("image", "other", "result"):
            layout = Layout(bundle, role, rows, columns, role == below)
            places = [
                layout.at(c, i, j, Index((), row), Index((), column)).number
                for c in bundle.having(role)
                for i, j in product(*(range(len(pair.places)) for pair in c.pairs))
                for row, column in product(range(rows), range(columns))
            ]
            assert sorted(places) == [*range(layout.size)]


def test_transposed_convolutions_are_input_gradients():
    x, w, _ = operands((6, 7), (4, 4), 16, 16, 2, 1)
    assert multiplications(upwards(2, 1), x, w, x) == [4 * 9]


@pytest.mark.parametrize(
    ("size", "channels", "filters", "dtype", "setting"),
    [
        ((12, 12), 8, 16, "float32", (1, 1)),
        ((12, 12), 3, 32, "float32", (1, 1)),
        ((12, 12), 16, 24, "float32", (1, 1)),
        ((12, 12), 20, 20, "float32", (1, 1)),
        ((3, 12), 16, 16, "float32", (1, 1)),
        ((12, 3), 16, 16, "float64", (1, 1)),
        ((12, 12), 16, 16, "float32", (1, 1, 1, 16)),
        ((12, 12), 32, 32, "float32", (1, 1, 1, 8)),
        ((12, 12), 64, 64, "float32", (1, 1, 1, 2)),
    ],
)
def test_what_does_not_fill_vectors_or_is_small_is_left(size, channels, filters, dtype, setting):
    groups = setting[3] if len(setting) > 3 else 1
    x = np.ones((2, *size, channels), dtype)
    w = np.ones((3, 3, channels // groups, filters), x.dtype)
    g = np.ones((2, *size, filters), x.dtype)
    assert multiplications(forward(*setting), x, w, g) == [0]


@pytest.mark.parametrize(("batch", "count"), [(1, 0), (7, 0), (8, 16), (64, 16)])
def test_threads_need_items_of_a_constant_batch(batch, count):
    assert multiplications(forward(1, 1), *operands((8, 8), (3, 3), 16, 16, 1, 1, batch=batch), batch=()) == [count]


def test_squares_are_left():
    """Both operands the same, as in a correlation of an array with itself."""
    x = np.ones((3, 3, 16, 16), np.float32)
    assert multiplications(lambda x: ops.convolution(x, x, 1, 2), x, batch=()) == [0]


# Values.


def check(function, make, dtype, *, toolchain=None, batches=BATCHES, batch=("x", "g")):
    """One program for every batch size: the numbers of the reference engine, and the same bits for 1, 2, 3 and 4 threads."""
    graph = optimise(trace(function, *make(2), batch=batch))
    program = CpuEngine(toolchain or quick()).load(graph)
    for size in batches:
        arrays = make(size)
        check_near_reference(graph, arrays, same_bits(program, arrays, threads=(1, 2, 3, 4)), TOLERANCE[dtype])
    return program


def steps(source):
    """How many nests compute results, and how many gradients of weights, by Winograd's algorithms."""
    return source.count("if (tile_results_"), source.count("the parts of the sum, transformed")


def all_three(*setting):
    def function(x, w, g):
        y, gradients = cr.vjp(lambda x, w: ops.convolution(x, w, *setting), x, w, cotangents=g)
        return y, *gradients

    return function


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(6, 13), st.integers(6, 13)),
    padding=st.tuples(*(st.tuples(st.integers(0, 3), st.integers(0, 3)) for _ in range(2))),
    kernel=st.sampled_from(
        [((3, 3), 1), ((2, 2), 1), ((3, 2), 1), ((4, 4), 2), ((6, 4), 2), ((3, 3), 2), ((5, 3), 2), ((5, 5), 3)]
    ),
    channels=st.sampled_from([16, 32, 48, 64, 80]),
    filters=st.sampled_from([16, 32, 48, 80]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_results_and_gradients(size, padding, kernel, channels, filters, dtype):
    taps, stride = kernel

    def make(batch):
        return operands(size, taps, channels, filters, stride, padding, dtype=dtype, batch=batch)

    check(all_three(stride, padding), make, dtype)


@pytest.mark.parametrize("target", ["native", AVX2, "sse2"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kernel", "setting"), [((3, 3), (1, 1)), ((4, 4), (2, 1)), ((3, 3), (2, 1))])
def test_vectors_of_every_width(target, dtype, kernel, setting):
    def make(batch):
        return operands((9, 8), kernel, 32, 48, *setting, dtype=dtype, batch=batch)

    program = check(all_three(*setting), make, dtype, toolchain=quick(target), batches=(1, 9))
    assert steps(program.c_source) == ({(3, 1): 2, (4, 2): 1 + 4, (3, 2): 1}[kernel[0], setting[0]], 1)


@pytest.mark.parametrize("size", [(31, 33), (32, 32)])
def test_a_stride_halves_images(size):
    def make(batch):
        return operands(size, (3, 3), 16, 32, 2, 1, batch=batch)

    program = check(all_three(2, 1), make, "float32", batches=(3, 8))
    assert steps(program.c_source) == (1, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_weights_are_divided(dtype):
    """Few blocks: chunks have slices of the result's channels, and in weight gradients shares of both operands' channels."""
    setting = (2, ((1, 1), (1, 1)))

    def make(batch):
        return operands((8, 8), (4, 4), 128, 256, *setting, dtype=dtype, batch=batch)

    def function(x, w, g):
        """A bias whose gradient is added up along with a convolution, too."""
        y, gradients = cr.vjp(lambda x, w, b: ops.convolution(x, w, *setting) + b, x, w, w[0, 0, 0], cotangents=g)
        return y, y.sum((0, 1, 2)), *gradients

    program = check(function, make, dtype, batches=(1, 2, 19))
    assert steps(program.c_source) == (1 + 4, 1)
    divided = [
        re.search(text, program.c_source) for text in (r"y_share = chunk % (\d+)", r"cr_cut\((\d+), part, parts\)")
    ]
    assert all(found is not None and int(found[1]) > 1 for found in divided)
    # Not finite: computed again from the item, slice by slice.
    x, w, g = make(19)
    x[3, 2, 2, 5], x[11, 0, 0, 0] = np.inf, np.nan
    graph = optimise(trace(forward(*setting), x, w, g, batch=("x", "g")))
    (found,) = same_bits(CpuEngine(quick()).load(graph), [x, w, g], threads=(1, 3))
    (expected,) = REFERENCE.load(graph)([x, w, g])
    assert np.isinf(expected).any() and np.isnan(expected).any()
    scale = float(np.abs(expected[np.isfinite(expected)]).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def block_of_a_residual_network(x, w, g):
    """Two convolutions with batch normalisation in training mode between them, whose sums run along with the first."""

    def network(x, u, v, scale, shift):
        y = ops.convolution(x, u, padding=1)
        mean = y.mean((0, 1, 2))
        variance = ops.square(y - mean).mean((0, 1, 2))
        z = ops.relu((y - mean) / ops.sqrt(variance + 1e-5) * scale + shift)
        return ops.relu(ops.convolution(z, v, padding=1) + x)

    scale, shift = w[0, 0, 0] + 1, w[1, 1, 1]
    y, gradients = cr.vjp(network, x, w, w * 0.5 + 0.01, scale, shift, cotangents=g)
    return y, *gradients


def with_bias_and_map(x, w, g):
    """Bias and map after a convolution; a map that makes 5 of 0 before it, so that the border is not the map of one."""

    def network(x, w, bias):
        return ops.tanh(ops.convolution(ops.where(x > 1, x * 2, 5.0 - x), w, padding=1) + bias)

    y, gradients = cr.vjp(network, x, w, w[0, 1, 2], cotangents=g)
    return y, *gradients


def with_dropout(x, w, g):
    """Random numbers computed while an operand is copied, and after a result."""

    def network(x, w):
        first, second = (
            ops.random.bernoulli(0.5, z.shape, key=np.array([1, k], np.uint32)) for k, z in enumerate((x, g))
        )
        return ops.where(second, ops.convolution(ops.where(first, x * 2, 0), w, padding=1), 0)

    y, gradients = cr.vjp(network, x, w, cotangents=g)
    return y, *gradients


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", [block_of_a_residual_network, with_bias_and_map, with_dropout])
def test_what_is_computed_before_and_after(network, dtype):
    def make(batch):
        return operands((7, 6), (3, 3), 32, 32, 1, 1, dtype=dtype, batch=batch)

    program = check(network, make, dtype, batches=(2, 9, 33))
    # The gradients of two equal weights share a function.
    assert steps(program.c_source) == (4 if network is block_of_a_residual_network else 2, 1)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2)])
def test_groups_of_many_channels(kernel, stride):
    """Every group has enough of them, but a sum over channels keeps groups apart."""
    setting = (stride, 1, 1, 2)

    def make(batch):
        x, w, g = operands((8, 9), (kernel, kernel), 64, 64, stride, 1, batch=batch)
        return x, w[:, :, :32], g

    assert steps(check(all_three(*setting), make, "float32", batches=(1, 9)).c_source) == (0, 0)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("role", ["result", "image", "weights"])
def test_taps_outside_of_the_weights_are_zeros(shift, role):
    """Such as no layer makes, but a contraction may. Weights have no items of which copies with a border are made."""
    x, w, y = (BATCH, 8, 9, 16), (3, 3, 16, 32), (BATCH, 8, 9, 32)
    image = (*plain(0), affine((1, 1), (4, 1), offset=-1), affine((2, 1), (5, 1), offset=-1), *plain(6))
    weights = (affine((4, 1), offset=shift), *plain(5, 6, 3))
    spec = Contraction((BATCH, 8, 9, 32, 3, 3, 16), plain(0, 1, 2, 3), image, weights, y)
    spec = {"result": spec, "image": spec.for_a(x), "weights": spec.for_b(w)}[role]
    build = Builder()
    a, b = {"result": (x, w), "image": (y, w), "weights": (x, y)}[role]
    result = build.contract(spec, build.input(ArrayType(a, "float32")), build.input(ArrayType(b, "float32")))
    graph = build.finish("shifted", [result])
    program = CpuEngine(quick()).load(graph)
    for batch in (1, 9):
        rng = np.random.default_rng(batch)
        arrays = [rng.normal(size=shape_at(shape, batch)).astype(np.float32) for shape in (a, b)]
        check_near_reference(graph, arrays, same_bits(program, arrays, threads=(1, 3)), TOLERANCE["float32"])


def test_bfloat16_is_computed_as_float32():
    def make(batch):
        return [x.astype(to_numpy(BFLOAT16)) for x in operands((8, 6), (3, 3), 16, 32, 1, 1, batch=batch)]

    def function(x, w, g):
        return [y.astype("float32") for y in all_three(1, 1)(x, w, g)]

    graph = optimise(trace(function, *make(2), batch=("x", "g")))
    program = CpuEngine(quick()).load(graph)
    assert steps(program.c_source) == (2, 1)
    for found, expected in zip(program(make(9)), REFERENCE.load(graph)(make(9)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2**-8 * float(np.abs(expected).max()))


@pytest.mark.parametrize(("kernel", "pad"), [(4, 1), (4, 2), (4, 3), (5, 3)])
@pytest.mark.parametrize("size", [(8, 9), (9, 8), (9, 9), (13, 12)])
def test_an_item_does_not_depend_on_the_numbers_of_others(size, kernel, pad):
    """Pieces of one result may differ in their positions by one. Two items of a block lie one after the other."""
    _, w, g = arrays = operands(size, (kernel, kernel), 16, 16, 2, pad, batch=7)
    program = CpuEngine(quick()).load(optimise(trace(along_inputs(2, pad), *arrays, batch=("x", "g"))))
    assert steps(program.c_source) == (4, 0)
    spoilt = g.copy()
    spoilt[1::2] = np.nan
    with load_runtime().using_threads(1):
        whole, other = (program([arrays[0], w, one])[0].copy() for one in (g, spoilt))
    assert whole[::2].tobytes() == other[::2].tobytes()
    assert np.isnan(other[1::2]).all()
