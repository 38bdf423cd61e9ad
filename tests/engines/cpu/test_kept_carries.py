"""Loops that keep the carries of all steps pass them on in what they keep, without buffers and copies."""

import numpy as np
import pytest
from tests.engines.cpu.agreement import same_bits

import chainrule as cr
from chainrule import ops
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.inline import inline_calls
from chainrule.engines.cpu.scans import Keeping, carries_kept
from chainrule.engines.cpu.slabs import slabs_of
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.passes import optimise
from chainrule.trace.array import as_array

C = 24
GIVEN, LEFT = True, False


def mixed(h, row):
    return ops.tanh(row + h @ np.full((C, C), 0.05))


# What a step makes of two carries and a row, and which carries are kept: by number, which result keeps it, as given or as left.
STEPS = {
    "as given": (lambda g, h, row: ((g + row, mixed(h, row)), h), {1: (0, GIVEN)}),
    "as left": (lambda g, h, row: ((g + row, after := mixed(h, row)), after), {1: (0, LEFT)}),
    "both ways": (lambda g, h, row: ((g, after := mixed(h + g, row)), (after, h)), {1: (1, GIVEN)}),
    "two": (lambda g, h, row: ((g + row, after := mixed(h, row * g)), (g, after)), {0: (0, GIVEN), 1: (1, LEFT)}),
    "two of one": (lambda g, h, row: ((after := mixed(h - g, row), after), after), {0: (0, LEFT), 1: (0, LEFT)}),
    "twice": (lambda g, h, row: ((g + row, mixed(h, row)), (h, h)), {1: (0, GIVEN)}),
    "late": (lambda g, h, row: ((h, mixed(h, row + g)), h), {0: (0, LEFT), 1: (0, GIVEN)}),
    "changing places": (lambda g, h, row: ((h, g + row), (g, h)), {0: (0, GIVEN), 1: (1, GIVEN)}),
    "never changed": (lambda g, h, row: ((g, h * row), (g, h)), {0: (0, GIVEN), 1: (1, GIVEN)}),
    "none": (lambda g, h, row: ((g + row, mixed(h, g)), h * 2), {}),
}


def graph_of(step, rows, length, *, reverse, batch):
    """A loop that begins with two different carries and returns the last ones, what it keeps, and what is computed from that."""

    def function(x):
        parts = ops.transpose(as_array(x), (1, 0, 2))
        begin = parts[0] * 0.5, ops.sin(parts[0])
        last, kept = cr.scan(lambda carry, row: step(*carry, row), begin, parts, reverse=reverse)
        return last, kept

    x = np.random.default_rng(rows).normal(size=(rows, length, C))
    return inline_calls(optimise(cr.trace(function, x, batch=batch))), x


def loop_of(graph):
    (found,) = (node for node in graph.nodes if node.primitive.name == "scan")
    return found


@pytest.mark.parametrize("batch", [("x",), ()], ids=["rows", "constant"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_results_are_those_of_the_reference(step, reverse, batch):
    function, kept = step
    for rows, length in ((1, 1), (3, 2), (9, 7), (70, 40)):
        graph, x = graph_of(function, rows, length, reverse=reverse, batch=batch)
        loop = loop_of(graph)
        assert carries_kept(loop) == {c: Keeping(*how) for c, how in kept.items()}
        for one, expected in zip(same_bits(ENGINE.load(graph), [x]), REFERENCE.load(graph)([x]), strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-11)


def test_what_is_kept_needs_no_buffers():
    given, _ = graph_of(STEPS["two"][0], 9, 7, reverse=False, batch=("x",))
    text = ENGINE.load(given).c_source
    assert "carry[" not in text
    given, _ = graph_of(STEPS["none"][0], 9, 7, reverse=False, batch=("x",))
    assert "carry[2][2]" in ENGINE.load(given).c_source


@pytest.mark.parametrize("length", [0, 1, 5])
def test_loops_of_few_steps_and_of_none(length):
    def function(h):
        return cr.scan(lambda h, _: (h * 2, h), h, length=length)

    (h,) = arrays = [np.arange(6.0)]
    graph = inline_calls(optimise(cr.trace(function, h)))
    last, kept = ENGINE.load(graph)(arrays)
    np.testing.assert_array_equal(last, h * 2**length)
    np.testing.assert_array_equal(kept, h * 2.0 ** np.arange(length)[:, None])


def test_carries_that_slabs_share_have_buffers():
    """A sum of what has no rows is computed by every slab; what is kept of it belongs to one."""

    def function(x):
        def step(carry, row):
            count, h = carry
            return (count + 1.0, mixed(h, row * count.sum())), (count, h)

        parts = ops.transpose(as_array(x), (1, 0, 2))
        return cr.scan(step, (np.zeros(3), parts[0]), parts)

    x = np.random.default_rng(2).normal(size=(33, 30, C))
    graph = inline_calls(optimise(cr.trace(function, x, batch=("x",))))
    loop = loop_of(graph)
    assert slabs_of(loop) != "1" and carries_kept(loop) == {1: Keeping(1, GIVEN)}
    for one, expected in zip(same_bits(ENGINE.load(graph), [x]), REFERENCE.load(graph)([x]), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-11)
