"""Operands are never changed, results never share memory, and the layout of an operand makes no difference.

The reference engine writes over arrays that die; these tests look for the one that was still needed.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.engines.reference import ENGINE, evaluate_node
from chainrule.ir.build import Builder
from chainrule.ir.contraction import parse_contraction
from chainrule.ir.graph import ArrayType
from chainrule.testing import at_batch, cases, random_program

CASES = [pytest.param(case, id=f"{dtype} {case}") for dtype in ("float64", "int32", "bool") for case in cases(dtype)]


def fortran(x):
    return np.array(x, order="F")


def read_only(x):
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def strided(x):
    """The same numbers, every second element of a larger array, backwards."""
    large = np.zeros([2 * size + 1 for size in x.shape], x.dtype)
    view = large[(..., *(slice(2 * size - 1 if size else 0, None if size else 0, -2) for size in x.shape))]
    view[...] = x
    return view


def transposed(x):
    return np.array(x.T, order="C").T


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [fortran, read_only, strided, transposed])
def test_layouts_make_no_difference(case, layout):
    program = ENGINE.load(case.graph())
    operands = case.operands()
    expected = program(operands)
    arranged = [layout(x) for x in operands]
    before = [x.tobytes() for x in arranged]
    for found, result in zip(program(arranged), expected, strict=True):
        np.testing.assert_allclose(found, result, rtol=1e-14, atol=1e-14)
        assert found.flags.c_contiguous
        assert not any(np.may_share_memory(found, x) for x in arranged)
    assert [x.tobytes() for x in arranged] == before


def values_for(graph, seed, batch=5):
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(size=[d if isinstance(d, int) else batch for d in value.shape]) for value in graph.inputs]
    return [x.astype(value.dtype) for x, value in zip(drawn, graph.inputs, strict=True)]


@given(st.data())
def test_whole_programs_keep_their_operands_and_share_nothing(data):
    graph = random_program(lambda options: data.draw(st.sampled_from(list(options))))
    check_memory(graph)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 5000, 1000))
def test_thousands_of_programs_keep_their_operands_and_share_nothing(start):
    for seed in range(start, start + 1000):
        check_memory(random_program(random.Random(seed).choice, steps=20))


def check_memory(graph):
    operands = values_for(graph, seed=len(graph.nodes))
    before = [x.tobytes() for x in operands]
    results = ENGINE.load(graph)(operands)
    assert [x.tobytes() for x in operands] == before
    for number, result in enumerate(results):
        assert not any(np.may_share_memory(result, other) for other in (*operands, *results[:number]))
        assert result.flags.writeable
    for result, expected in zip(results, node_by_node(graph, operands), strict=True):
        np.testing.assert_array_equal(result, expected)


def node_by_node(graph, operands):
    """One node after the other, where nothing is ever written over."""
    fixed = at_batch(graph, 5)
    known = dict(zip(fixed.inputs, operands, strict=True))
    for node in fixed.nodes:
        results = evaluate_node(node, [known[value] for value in node.inputs])
        known.update(zip(node.outputs, results, strict=True))
    return [known[value] for value in fixed.outputs]


def one_more(builder, value):
    return builder.add(value, builder.full_like(value, 1))


def test_an_element_outside_gathered_by_a_scalar_is_zero():
    b = Builder()
    x, i = b.input(ArrayType((3,), "float32")), b.input(ArrayType((), "int64"))
    program = ENGINE.load(b.finish("element", [b.gather(x, i)]))
    for position, expected in ((0, 5), (2, 7), (3, 0), (-1, 0)):
        assert program([np.array([5, 6, 7], np.float32), np.array(position)])[0] == expected


def test_a_row_gathered_by_a_scalar_is_not_a_view():
    b = Builder()
    x, i = b.input(ArrayType((3, 2), "float32")), b.input(ArrayType((), "int64"))
    program = ENGINE.load(b.finish("row", [one_more(b, b.gather(x, i))]))
    table = np.zeros((3, 2), np.float32)
    np.testing.assert_array_equal(program([table, np.array(1)])[0], [1, 1])
    np.testing.assert_array_equal(program([table, np.array(-1)])[0], [1, 1])
    assert not table.any()


@pytest.mark.parametrize("kind", ["scan", "fixed_point"])
def test_a_loop_that_never_runs_does_not_hand_out_its_operands(kind):
    def never(x):
        if kind == "scan":
            return cr.scan(lambda c, _: (c * 2, None), x, length=0)[0] + 1
        return cr.fixed_point(lambda z: z * 0.5, x, max_iterations=0)[0] + 1

    x = np.zeros(3, np.float32)
    np.testing.assert_array_equal(cr.compile(never)(x), [1, 1, 1])
    assert not x.any()


def test_a_result_that_only_repeats_can_be_written_over():
    b = Builder()
    x, y = b.input(ArrayType((3,), "float64")), b.input(ArrayType((), "float64"))
    repeated = b.contract(parse_contraction("[3, 2] i0:3 i1:2 | [i0, i1] += [i0] * []"), x, y)
    (found,) = ENGINE.load(b.finish("repeated", [one_more(b, repeated)]))([np.arange(3.0), np.array(2.0)])
    np.testing.assert_array_equal(found, [[1, 1], [3, 3], [5, 5]])


@pytest.mark.parametrize(
    "function",
    [
        cr.stop_gradient,
        cr.clip,
        lambda x: cr.reshape(x, x.shape),
        lambda x: cr.full((3,), x),
        lambda x: cr.stack([x])[0],
    ],
)
def test_operations_computed_at_once_return_arrays_of_their_own(function):
    x = np.arange(3.0)
    found = function(x)
    assert not np.may_share_memory(found, x)
    found += 1
    np.testing.assert_array_equal(x, [0, 1, 2])


def test_results_computed_at_once_do_not_share_memory_with_each_other():
    a, b = (
        cr.scan(lambda c, _: (c, c), np.zeros(3), length=1)[0],
        cr.scan(lambda c, _: ((c[0], c[0]), None), (np.zeros(3), np.ones(3)), length=2)[0],
    )
    assert not np.may_share_memory(b[0], b[1])
    assert a.flags.writeable
