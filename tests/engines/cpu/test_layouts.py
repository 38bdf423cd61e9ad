"""Operands that many rows share: copied once into the layout of their contractions, outside of loops, with the numbers unchanged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.cpu.test_map_nests import check, normal

import chainrule as cr
from chainrule import ops
from chainrule.engines.cpu.contraction import solved
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.layouts import choose_layouts
from chainrule.engines.cpu.lowering import with_bodies
from chainrule.ir.build import Builder
from chainrule.ir.contraction import parse_contraction
from chainrule.ir.graph import ArrayType, Graph
from chainrule.ir.sizes import BATCH
from chainrule.ir.verify import verify
from chainrule.passes import optimise
from chainrule.transforms import trace

BYTES = 64


def laid_out(function, *arrays, batch=("x",)):
    graph = optimise(trace(function, *arrays, batch=batch))
    return verify(choose_layouts(graph, BYTES))


def count(graph: Graph, name: str) -> int:
    return sum(node.primitive.name == name for node in graph.nodes)


def backward(x, u):
    """Backpropagation through time: the recurrent weight is read across its rows in every step."""

    def loss(x, u):
        def body(h, x):
            h = cr.tanh(h @ u + x)
            return h, h

        return cr.square(cr.scan(body, x[:, 0] * 0, x.transpose(1, 0, 2))[1]).sum()

    return cr.grad(loss, (0, 1))(x, u)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 20),
    inputs=st.sampled_from([1, 3, 16, 40, 100]),
    outputs=st.sampled_from([1, 2, 10, 16, 33, 64, 80, 96, 208, 1024]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_products_with_a_shared_matrix_read_along_and_across(batch, inputs, outputs, dtype):
    x, w = normal(batch, inputs).astype(dtype), normal(inputs, outputs).astype(dtype)
    tolerance = 1e-12 if dtype == np.float64 else 1e-4
    for v in (w, w.T.copy()):
        program = check(lambda x, v: x @ (v if v.shape[0] == x.shape[1] else v.T), x, v, tolerance=tolerance)
        assert "in vectors of" not in program.c_source
        assert "with a border" not in program.c_source


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 20), hidden=st.sampled_from([3, 16, 32, 40, 64, 80]))
def test_loops_backward(batch, hidden):
    check(backward, normal(batch, 6, hidden), normal(hidden, hidden) / hidden, tolerance=1e-9)


def test_the_copy_leaves_the_loop_and_what_is_no_longer_read_too():
    graph = laid_out(backward, normal(4, 6, 64), normal(64, 64))
    loops = [node for node in graph.nodes if node.primitive.name == "scan"]
    for node in loops:
        body = node.attributes["body"]
        assert count(body, "transpose") == count(body, "reshape") == 0
        assert [value.shape for value in node.inputs[: node.attributes["consts"]]].count((64, 64)) == 0
    assert len(with_bodies(graph)) == 3


def test_the_copy_leaves_loops_within_loops_with_what_it_is_made_of():
    def function(x, u):
        def outer(h, x):
            def inner(h, _):
                return cr.tanh(h @ (u * 2.0).T + x), None

            return cr.scan(inner, h, None, length=5)[0], None

        return cr.scan(outer, x[:, 0] * 0, x.transpose(1, 0, 2))[0]

    graph = laid_out(function, normal(4, 6, 64), normal(64, 64))
    assert [count(body, "mul") for body in with_bodies(graph)] == [0, 0, 2]
    assert [count(body, "contract") for body in with_bodies(graph)] == [1, 0, 0]
    check(function, normal(4, 6, 64), normal(64, 64) / 64, tolerance=1e-9)


def test_contractions_that_read_alike_share_a_copy():
    def function(x, w):
        return cr.tanh(x @ w.T) @ w.T

    graph = laid_out(function, normal(4, 64), normal(64, 64))
    assert (count(graph, "contract"), count(graph, "transpose")) == (2, 1)


def test_what_is_computed_from_constant_rows_stays_with_its_contraction():
    def function(x, v, w):
        return cr.tanh(x @ v).T @ w

    graph = laid_out(function, normal(64, 64), normal(64, 64), normal(64, 100), batch=())
    assert count(graph, "transpose") == 0, "it would have to be written before it is copied"


def test_input_gradients_of_convolutions_read_the_weight_along_its_inputs():
    def function(x, w):
        return cr.grad(lambda x: cr.square(ops.convolution(x, w, padding=1)).sum())(x)

    program = check(function, normal(2, 9, 9, 16), normal(3, 3, 16, 32), tolerance=1e-9)
    assert "in vectors of" not in program.c_source


def trained_twice(x, w):
    """Two steps of gradient descent: the second forward pass and its gradient read a weight that the program made."""

    def loss(w):
        return cr.square(ops.convolution(x, w, stride=2, padding=1)).sum()

    for _ in range(2):
        w = w - 1e-4 * cr.grad(loss)(w)
    return w, cr.grad(lambda x: cr.square(ops.convolution(x, w, stride=2, padding=1)).sum())(x)


@pytest.mark.parametrize("batch", [1, 5])
def test_weights_that_items_read_in_wide_steps_lie_in_panels_updated_ones_too(batch):
    x, w = normal(batch, 8, 8, 20), normal(4, 4, 20, 64) / 20
    program = check(trained_twice, x, w, tolerance=1e-9)
    assert "in vectors of" not in program.c_source
    # Of the three weights all are read forwards, and the last one along its inputs as well.
    assert count(laid_out(trained_twice, x, w), "transpose") == 4
    constant = laid_out(trained_twice, normal(16, 8, 8, 20), w, batch=())
    assert count(constant, "transpose") == 1, "of a constant batch only the input is known to be no rows"


def test_small_weights_stay():
    graph = laid_out(lambda x, w: ops.convolution(x, w, padding=1), normal(4, 8, 8, 8), normal(3, 3, 8, 32))
    assert count(graph, "transpose") == 0


@pytest.mark.parametrize("stride", [2, 4])
def test_a_coordinate_that_counts_like_a_number_is_one_piece(stride):
    """The input gradient of patches side by side: no element of the result is reached twice."""
    size = 3 * stride
    spec = parse_contraction(
        f"[B, {size}, 16] i0:B i1:3 i2:{stride} i3:16 i4:5 | [i0, {stride}*i1+i2, i3] += [i0, i1, i4] * [i2, i4, i3]"
    )
    b = Builder()
    x, w = (b.input(ArrayType(shape, "float32")) for shape in ((BATCH, 3, 5), (stride, 5, 16)))
    graph = b.finish("patches", [b.contract(spec, x, w)])
    (piece,) = solved(graph.nodes[0])
    assert not piece.guards
    x, w = normal(2, 3, 5).astype(np.float32), normal(stride, 5, 16).astype(np.float32)
    (found,) = ENGINE.load(graph)([x, w])
    expected = np.einsum("bpk,skc->bpsc", x, w).reshape(2, size, 16)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 48), (16, 16), (33, 64), (64, 33), (5, 32), (100, 1024)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_across_go_by_blocks(shape, dtype):
    x = normal(3, *shape).astype(dtype)
    program = check(lambda x: x.transpose(0, 2, 1), x, tolerance=0)
    whole = shape[0] % (16 // x.itemsize) == 0 and shape[1] >= 16 // x.itemsize
    assert ("cr_transpose_" in program.c_source) == whole
