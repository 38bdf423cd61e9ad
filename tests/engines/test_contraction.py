"""The contraction against loops over the box, against its own adjoints, and, as convolutions, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.engines.reference import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, affine, parse_contraction, plain
from chainrule.ir.graph import ArrayType
from chainrule.testing import gradient_error, interpret


@st.composite
def problems(draw, most=4):
    """A contraction and its operand shapes: strides, negative steps, outside positions, diagonals, meeting writes, empty sizes."""
    count = draw(st.integers(0, 4))
    extents = tuple(draw(st.sampled_from([0, 1, 2, 3, most, 2, 3])) for _ in range(count))
    coefficient = st.sampled_from([1, 1, 1, 2, 3, -1, -2])

    def coordinate():
        terms = [
            (draw(st.integers(0, count - 1)), draw(coefficient)) for _ in range(draw(st.integers(0, 2)) if count else 0)
        ]
        return affine(*terms, offset=draw(st.sampled_from([0, 0, 0, 1, 2, -1, -3])))

    def index_map():
        if count and draw(st.booleans()):
            return plain(*draw(st.lists(st.integers(0, count - 1), max_size=3)))
        return tuple(coordinate() for _ in range(draw(st.integers(0, 3))))

    def shape(index_map):
        return tuple(draw(st.sampled_from([*natural(c), 0, 1, 2, 3])) for c in index_map)

    def natural(coordinate):
        return [extents[coordinate.plain]] * 4 if coordinate.plain is not None else []

    out, a, b = index_map(), index_map(), index_map()
    return Contraction(extents, out, a, b, shape(out)), shape(a), shape(b)


def graph_of(spec, a_shape, b_shape, dtype="int64"):
    b = Builder()
    x, y = b.input(ArrayType(a_shape, dtype)), b.input(ArrayType(b_shape, dtype))
    return b.finish("contract", [b.contract(spec, x, y)])


def whole(rng, shape):
    return rng.integers(-9, 10, shape)


def contract(spec, x, y):
    return ENGINE.load(graph_of(spec, x.shape, y.shape))([x, y])[0]


def check_against_loops(problem, seed=0):
    spec, a_shape, b_shape = problem
    rng = np.random.default_rng(seed)
    x, y = whole(rng, a_shape), whole(rng, b_shape)
    graph = graph_of(spec, a_shape, b_shape)
    np.testing.assert_array_equal(ENGINE.load(graph)([x, y])[0], interpret(graph, [x, y])[0])
    return spec, x, y, whole(rng, spec.shape)


def check_adjoints(spec, x, y, g):
    """⟨g, C(x, y)⟩ = ⟨x, C_a(g, y)⟩ = ⟨y, C_b(x, g)⟩ for whole numbers, and taking the adjoint twice changes nothing."""
    value = (g * contract(spec, x, y)).sum()
    assert (x * contract(spec.for_a(x.shape), g, y)).sum() == value
    assert (y * contract(spec.for_b(y.shape), x, g)).sum() == value
    assert spec.for_a(x.shape).for_a(spec.shape) == spec
    assert spec.for_b(y.shape).for_b(spec.shape) == spec


@settings(max_examples=400)
@given(problems())
def test_any_contraction_equals_loops_over_its_box(problem):
    check_adjoints(*check_against_loops(problem))


@pytest.mark.slow
@settings(max_examples=20000)
@given(problems(most=5), st.integers(0, 2**32))
def test_very_many_contractions_equal_loops_over_their_boxes(problem, seed):
    check_adjoints(*check_against_loops(problem, seed))


@settings(max_examples=40)
@given(problems(most=3))
def test_gradients_are_closed_to_second_order(problem):
    _, a_shape, b_shape = problem
    rng = np.random.default_rng(0)
    operands = [rng.normal(size=a_shape), rng.normal(size=b_shape)]
    graph = graph_of(*problem, dtype="float64")
    assert gradient_error(graph, operands) < 1e-7
    assert gradient_error(graph, operands, order=2) < 1e-7


@settings(max_examples=200)
@given(problems())
def test_the_text_of_a_contraction_is_read_back(problem):
    assert parse_contraction(str(problem[0])) == problem[0]


CONVOLUTIONS = [
    {},
    {"stride": 2},
    {"dilation": 2},
    {"padding": 1},
    {"stride": 2, "padding": 2, "dilation": 2},
    {"groups": 2},
    {"groups": 4, "channels": 1, "filters": 1, "padding": 1},
    {"groups": 2, "stride": 3, "padding": 1},
]


def convolution(size, kernel, groups, channels, filters, stride=1, dilation=1, padding=0, batch=3):
    """out[n, p, q, g, f] = Σ x[n, s·p + d·u - pad, s·q + d·v - pad, g, c] w[u, v, g, c, f]."""
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    n, p, q, g, f, u, v, c = range(8)
    extents = (batch, out, out, groups, filters, kernel, kernel, channels)
    rows = [affine((p, stride), (u, dilation), offset=-padding), affine((q, stride), (v, dilation), offset=-padding)]
    return Contraction(
        extents,
        plain(n, p, q, g, f),
        (*plain(n), *rows, *plain(g, c)),
        plain(u, v, g, c, f),
        (batch, out, out, groups, filters),
    )


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolutions_and_their_gradients_equal_pytorchs(options):
    options = dict(options)
    groups, channels, filters = options.pop("groups", 1), options.pop("channels", 2), options.pop("filters", 3)
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 7, 7, groups, channels)), rng.normal(size=(3, 3, groups, channels, filters))
    spec = convolution(7, 3, groups, channels, filters, **options)
    g = rng.normal(size=spec.shape)
    image = torch.from_numpy(x.reshape(3, 7, 7, -1).transpose(0, 3, 1, 2).copy()).requires_grad_()
    weight = torch.from_numpy(
        w.transpose(2, 4, 3, 0, 1).reshape(groups * filters, channels, 3, 3).copy()
    ).requires_grad_()
    theirs = torch.nn.functional.conv2d(image, weight, groups=groups, **options)
    theirs.backward(torch.from_numpy(g.reshape(*g.shape[:3], -1).transpose(0, 3, 1, 2).copy()))

    def run(spec, *operands):
        return ENGINE.load(graph_of(spec, *(z.shape for z in operands), dtype="float64"))(operands)[0]

    ours = run(spec, x, w).reshape(*spec.shape[:3], -1)
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), theirs.detach().numpy(), rtol=1e-12, atol=1e-12)
    to_x = run(spec.for_a(x.shape), g, w).reshape(3, 7, 7, -1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(to_x, image.grad.numpy(), rtol=1e-12, atol=1e-12)
    to_w = run(spec.for_b(w.shape), x, g).transpose(2, 4, 3, 0, 1).reshape(groups * filters, channels, 3, 3)
    np.testing.assert_allclose(to_w, weight.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (3, 0, 2), (2, 2, 2)])
def test_transposed_convolutions_equal_pytorchs(stride, padding, dilation):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(2, 4, 3)), rng.normal(size=(3, 3, 5))
    size = (4 - 1) * stride - 2 * padding + dilation * 2 + 1
    n, p, u, c, f = range(5)
    place = affine((p, stride), (u, dilation), offset=-padding)
    out = (*plain(n), place, *plain(f))
    spec = Contraction((2, 4, 3, 3, 5), out, plain(n, p, c), plain(u, c, f), (2, size, 5))
    ours = ENGINE.load(graph_of(spec, x.shape, w.shape, "float64"))([x, w])[0]
    image, weight = torch.from_numpy(x.transpose(0, 2, 1).copy()), torch.from_numpy(w.transpose(1, 2, 0).copy())
    theirs = torch.nn.functional.conv_transpose1d(image, weight, stride=stride, padding=padding, dilation=dilation)
    np.testing.assert_allclose(ours.transpose(0, 2, 1), theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_average_pooling_and_matrix_products_are_contractions_too():
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(2, 6, 3)), np.asarray(1 / 3)
    spec = parse_contraction("[2, 2, 3] i0:2 i1:2 i2:3 i3:3 | [i0, i1, i2] += [i0, 3*i1+i3, i2] * []")
    pooled = ENGINE.load(graph_of(spec, x.shape, (), "float64"))([x, w])[0]
    np.testing.assert_allclose(pooled, x.reshape(2, 2, 3, 3).mean(2), rtol=1e-14)
    q, k = rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(2, 7, 4, 3))
    spec = parse_contraction(
        "[2, 4, 5, 7] i0:2 i1:4 i2:5 i3:7 i4:3 | [i0, i1, i2, i3] += [i0, i2, i1, i4] * [i0, i3, i1, i4]"
    )
    scores = ENGINE.load(graph_of(spec, q.shape, k.shape, "float64"))([q, k])[0]
    np.testing.assert_allclose(scores, np.einsum("bihd,bjhd->bhij", q, k), rtol=1e-13)
