"""Operands of contractions that are computed where they are copied, instead of being stored first."""

import numpy as np
import pytest
from tests.engines.cpu.agreement import same_bits
from tests.engines.cpu.exact_programs import exact_program, operands_of
from tests.engines.cpu.test_fuzz import quick
from tests.engines.cpu.test_sections import convolutional, step_of

import chainrule as cr
from chainrule import ops
from chainrule.engines.cpu import lowering
from chainrule.engines.cpu.engine import ENGINE, CpuEngine
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.passes import optimise


def network(stride, dilation, padding):
    """Between two convolutions a map that makes 5 of 0, so that a border of zeros is not the map of one."""

    def between(y):
        return ops.where(y > 1, y * 2, 5.0 - y)

    def loss(u, w, x):
        first = ops.convolution(x, u, padding=1)
        second = ops.convolution(between(first), w, stride=stride, dilation=dilation, padding=padding)
        return (second * second).sum()

    return loss


def graph_of(rows, size, stride=1, dilation=1, padding=1, channels=16, dtype=np.float64):
    rng = np.random.default_rng(size)
    u, w = (rng.normal(size=(3, 3, c, channels)).astype(dtype) for c in (5, channels))
    x = rng.normal(size=(rows, *size, 5)).astype(dtype)
    loss = network(stride, dilation, padding)

    def step(u, w, x):
        return cr.value_and_grad(loss, argnums=(0, 1, 2))(u, w, x)

    compiled = cr.compile(step, engine="reference", batch=("x",))
    graph, arrays = compiled.graph_and_arrays(u, w, x)
    return optimise(graph), arrays


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "padding"),
    [((8, 8), 1, 1, 1), ((7, 9), 2, 1, 1), ((9, 6), 1, 2, 2), ((5, 8), (2, 1), 1, (0, 2)), ((6, 7), 3, 1, 1)],
)
def test_it_gives_what_the_reference_gives_for_any_number_of_rows_and_threads(size, stride, dilation, padding):
    graph, _ = graph_of(2, size, stride, dilation, padding)
    program = ENGINE.load(graph)
    for rows in (1, 3, 17):
        _, arrays = graph_of(rows, size, stride, dilation, padding)
        for one, right in zip(same_bits(program, arrays), REFERENCE.load(graph)(arrays), strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-10, atol=1e-10)


def test_what_only_contractions_with_copies_and_cheap_maps_read_has_no_memory():
    graph, _ = graph_of(2, (8, 8), dtype=np.float32)
    grouping = lower(graph, frozenset(), 64).groupings[-1]
    products = [node for node in grouping.graph.nodes if node.primitive.name == "contract"]
    computed = {
        value
        for node in products
        for number, value in enumerate(node.inputs)
        if number in grouping.copies(node) and not grouping.is_stored(value)
    }
    # The map in the middle, read by the second convolution and by the gradient of its weight.
    assert len(computed) >= 1
    assert sum(not computed.isdisjoint(node.inputs) for node in products) >= 2
    # No nest is left that does nothing but write such a map.
    assert all(nest.kind != "map" or nest.roots != [value] for nest in grouping.nests for value in computed)


def test_what_many_read_and_takes_several_arrays_to_compute_is_stored():
    """A sum of three arrays, read by two convolutions and the gradients of their weights."""

    def loss(a, b, x, y, z):
        mixed = x * y + z
        return (ops.convolution(mixed, a, padding=1) * ops.convolution(mixed, b, padding=1)).sum()

    weight, image = np.ones((3, 3, 16, 16), "f"), np.ones((2, 8, 8, 16), "f")

    def step(a, b, x, y, z):
        return cr.value_and_grad(loss, argnums=(0, 1))(a, b, x, y, z)

    compiled = cr.compile(step, engine="reference", batch=("x", "y", "z"))
    graph = optimise(compiled.graph_and_arrays(weight, weight, image, image, image)[0])
    grouping = lower(graph, frozenset(), 64).groupings[-1]
    (mixed,) = (
        node.output
        for node in grouping.graph.nodes
        if node.primitive.name == "add"
        and {source.primitive.name for source in makers(grouping.graph, node)} == {"mul"}
    )
    assert grouping.is_stored(mixed)


def makers(graph, node):
    made = {value: source for source in graph.nodes for value in source.outputs}
    return [made[value] for value in node.inputs if value in made]


@pytest.fixture
def everywhere(monkeypatch):
    """Every operand of a tiled product may be computed where it is read, and is."""
    monkeypatch.setattr(lowering, "computed_by_item", lambda node, pieces, vector_bytes: frozenset({0, 1}))
    monkeypatch.setattr(
        "chainrule.engines.cpu.grouping.Grouping._is_cheaper", lambda self, value, readers, stored: True
    )


def test_a_border_of_a_computed_operand_is_zero_also_where_all_is_copied_at_once(everywhere):
    """Few items of a constant number are copied together."""
    rng = np.random.default_rng(1)
    x, u, w = rng.normal(size=(3, 6, 7, 5)), rng.normal(size=(3, 3, 5, 8)), rng.normal(size=(3, 3, 8, 8))
    step = cr.compile(cr.value_and_grad(network(1, 1, 1), argnums=(0, 1, 2)), engine="reference")
    graph, arrays = step.graph_and_arrays(u, w, x)
    graph = optimise(graph)
    for one, right in zip(ENGINE.load(graph)(arrays), REFERENCE.load(graph)(arrays), strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_programs_of_whole_numbers_compute_every_operand_they_can(seed, everywhere):
    graph, donated = exact_program(seed)
    program, reference = CpuEngine(quick()).load(graph, donated), REFERENCE.load(graph)
    for rows in (1, 5):
        operands = operands_of(graph, rows, seed)
        expected = [np.array(result) for result in reference(operands)]
        for one, right in zip(program(operands), expected, strict=True):
            np.testing.assert_array_equal(one, right)


def test_a_training_step_computes_every_operand_it_can(everywhere):
    traced = step_of(*convolutional())
    graph, _ = traced(2)
    graph = optimise(graph)
    program = ENGINE.load(graph)
    for rows in (2, 9):
        _, operands = traced(rows)
        for one, right in zip(program(operands), REFERENCE.load(graph)(operands), strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-9, atol=1e-9)
