"""Every simplification applies where it should, and keeps every bit of NaN, infinities, signed zeros and denormals."""

from __future__ import annotations

import numpy as np
import pytest

from chainrule.engines.reference import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import parse_contraction
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH
from chainrule.passes.simplify import RULES, simplify

FLOAT = ArrayType((2, 13), "float64")
SPECIAL = np.array([0.0, 1.0, 1.5, 2.0, 1e-310, 5e-324, 1e300, 1.7976931348623157e308, np.inf, np.nan, 0.1, 3.0, 1e-3])
VALUES = np.stack([SPECIAL, -SPECIAL])


def number(value):
    return lambda b, x: b.full_like(x, value)


def with_number(name, value, *, left=False):
    def write(b, x):
        operands = [x, b.full_like(x, value)]
        return b.emit(name, operands[::-1] if left else operands)[0]

    return write


# What is written, by the primitive whose rule removes it.
REMOVED = {
    "mul by 1": with_number("mul", 1.0),
    "mul of 1": with_number("mul", 1.0, left=True),
    "div by 1": with_number("div", 1.0),
    "add -0": with_number("add", -0.0),
    "add to -0": with_number("add", -0.0, left=True),
    "sub 0": with_number("sub", 0.0),
    "pow 1": with_number("pow", 1.0),
    "neg of neg": lambda b, x: b.neg(b.neg(x)),
    "cast to itself": lambda b, x: b.cast(x, "float64"),
    "reshape to itself": lambda b, x: b.reshape(x, (2, 13)),
    "reshape there and back": lambda b, x: b.reshape(b.reshape(x, (26,)), (2, 13)),
    "transpose to itself": lambda b, x: b.transpose(x, (0, 1)),
    "transpose there and back": lambda b, x: b.transpose(b.transpose(x, (1, 0)), (1, 0)),
    "broadcast to itself": lambda b, x: b.broadcast(x, (2, 13), (0, 1)),
    "reduce_sum of no axis": lambda b, x: b.reduce_sum(x, ()),
    "reduce_max of no axis": lambda b, x: b.reduce_max(x, ()),
    "slice of everything": lambda b, x: b.slice(x, (0, 0), (2, 13), (1, 1)),
    "pad by nothing": lambda b, x: b.pad(x, (0, 0), (0, 0)),
    "concatenate of one": lambda b, x: b.concatenate([x], 0),
    "flip of no axis": lambda b, x: b.flip(x, ()),
    "stop_gradient": lambda b, x: b.stop_gradient(x),
}
# What looks like one of them and is not.
KEPT = {
    "add 0": with_number("add", 0.0),
    "add to 0": with_number("add", 0.0, left=True),
    "sub -0": with_number("sub", -0.0),
    "sub from 0": with_number("sub", 0.0, left=True),
    "mul by 0": with_number("mul", 0.0),
    "mul by -1": with_number("mul", -1.0),
    "div of 1": with_number("div", 1.0, left=True),
    "pow 0": with_number("pow", 0.0),
    "pow 2": with_number("pow", 2.0),
    "pow of 1": with_number("pow", 1.0, left=True),
    "neg once": lambda b, x: b.neg(x),
    "cast there and back": lambda b, x: b.cast(b.cast(x, "float32"), "float64"),
    "transpose once": lambda b, x: b.transpose(b.transpose(b.transpose(x, (1, 0)), (1, 0)), (1, 0)),
    "flip twice": lambda b, x: b.flip(x, (0, 1)),
    "slice with a stride": lambda b, x: b.slice(x, (0, 0), (2, 13), (1, 2)),
}


def written(write):
    b = Builder()
    x = b.input(FLOAT, "x")
    # Used once more, so that the operand is no result already.
    return b.finish("written", [write(b, b.sin(x)), write(b, x)])


def same_bits(graph, simpler, operands):
    for found, expected in zip(ENGINE.load(simpler)(operands), ENGINE.load(graph)(operands), strict=True):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
        if found.dtype.kind == "f":
            numbers = ~np.isnan(expected)
            np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("name", REMOVED)
def test_what_changes_nothing_is_removed(name):
    graph = written(REMOVED[name])
    simpler = simplify(graph)
    assert simpler.outputs == (simpler.nodes[0].output, simpler.inputs[0])
    same_bits(graph, simpler, [VALUES])


@pytest.mark.parametrize("name", KEPT)
def test_what_changes_a_bit_is_kept(name):
    graph = written(KEPT[name])
    simpler = simplify(graph)
    assert simpler.outputs[1] is not simpler.inputs[0]
    same_bits(graph, simpler, [VALUES])


def test_every_rule_has_an_example():
    assert set(RULES) <= {name.split()[0] for name in REMOVED} | {"contract"}


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
@pytest.mark.parametrize(("name", "value"), [("mul", 1), ("sub", 0), ("add", 0)])
def test_integers(name, value, dtype):
    b = Builder()
    x = b.input(ArrayType((5,), dtype))
    graph = b.finish("whole", b.emit(name, [x, b.full_like(x, value)]))
    info = np.iinfo(dtype)
    same_bits(graph, simplify(graph), [np.array([info.min, info.max, 0, 1, 7], dtype)])


def test_numbers_are_cast():
    for value, dtype, expected in [
        (1.5, "float32", 1.5),
        (1.5, "int32", 1),
        (np.nan, "int32", 0),
        (1e20, "int64", 2**63 - 1),
        (-np.inf, "int32", -(2**31)),
        (-1.0, "uint32", 0),
        (2.5, "bool", True),
    ]:
        b = Builder()
        y = b.cast(b.full(ArrayType((3,), "float64"), value), dtype)
        graph = b.finish("cast", [y])
        simpler = simplify(graph)
        assert not [node for node in simpler.nodes if node.primitive.name == "cast"]
        same_bits(graph, simpler, [])
        assert ENGINE.load(simpler)([])[0].tolist() == [expected] * 3


def test_chains_of_views_become_one():
    b = Builder()
    x = b.input(ArrayType((2, 3, 5), "float32"))
    turned = b.transpose(b.transpose(b.transpose(x, (1, 2, 0)), (1, 0, 2)), (2, 0, 1))
    flat = b.reshape(b.reshape(b.reshape(x, (30,)), (6, 5)), (3, 10))
    spread = b.broadcast(b.broadcast(x, (4, 2, 3, 5), (1, 2, 3)), (4, 7, 2, 3, 5), (0, 2, 3, 4))
    graph = b.finish("views", [turned, flat, spread])
    simpler = simplify(graph)
    values = np.arange(30, dtype=np.float32).reshape(2, 3, 5)
    same_bits(graph, simpler, [values])
    used = {value for node in simpler.nodes for value in node.inputs}
    assert used - set(simpler.outputs) >= {simpler.inputs[0]}
    last = {node.output: node for node in simpler.nodes}
    assert all(last[value].inputs == simpler.inputs for value in simpler.outputs)


def test_transposed_operands_are_taken_into_the_contraction():
    b = Builder()
    x, y = b.input(ArrayType((3, BATCH), "float64")), b.input(ArrayType((5, 3), "float64"))
    graph = b.finish("product", [b.matmul(b.transpose(x, (1, 0)), b.transpose(y, (1, 0)))])
    simpler = simplify(graph)
    (result,) = simpler.outputs
    (node,) = [node for node in simpler.nodes if node.output is result]
    assert node.inputs == simpler.inputs
    rng = np.random.default_rng(0)
    same_bits(graph, simpler, [rng.normal(size=(3, 7)), rng.normal(size=(5, 3))])


def test_taking_in_transpositions_keeps_the_order_of_summation():
    """Two summed indices, in another order for each layout; float32 sums show a change of order in their last bits."""
    spec = parse_contraction("[6, 5] i0:6 i1:5 i2:31 i3:17 | [i0, i1] += [i3, i0, i2] * [i2, i3, i1]")
    b = Builder()
    x, y = b.input(ArrayType((6, 31, 17), "float32")), b.input(ArrayType((5, 31, 17), "float32"))
    graph = b.finish("sum", [b.contract(spec, b.transpose(x, (2, 0, 1)), b.transpose(y, (1, 2, 0)))])
    simpler = simplify(graph)
    assert simpler.nodes[-1].inputs == simpler.inputs
    rng = np.random.default_rng(0)
    operands = [rng.normal(size=value.shape).astype(np.float32) for value in (x, y)]
    expected = np.einsum("isk,jsk->ij", *(z.astype(np.float64) for z in operands))
    np.testing.assert_allclose(ENGINE.load(simpler)(operands)[0], expected, rtol=1e-4, atol=1e-3)
    same_bits(graph, simpler, operands)


def test_bodies_are_simplified_too():
    inner = Builder()
    x = inner.input(FLOAT)
    body = inner.finish("body", [inner.neg(inner.neg(inner.mul(x, inner.full_like(x, 1.0))))])
    b = Builder()
    y = b.input(FLOAT)
    graph = b.finish("outer", b.call(body, [y], label="nothing", backward=None))
    simpler = simplify(graph)
    (node,) = simpler.nodes
    assert node.attributes["body"].outputs == node.attributes["body"].inputs
    same_bits(graph, simpler, [VALUES])


def test_names_and_origins_are_kept():
    graph = written(REMOVED["mul by 1"])
    assert simplify(graph).name == "written"
    assert [value.name for value in simplify(graph).inputs] == ["x"]
