"""Arrays that late readers compute again, instead of reading what an early nest has written."""

import numpy as np
import pytest
from tests.engines.cpu.agreement import same_bits

import chainrule as cr
from chainrule import nn, ops
from chainrule.engines.cpu import grouping as grouping_step
from chainrule.engines.cpu import recomputed
from chainrule.engines.cpu.engine import CpuEngine
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.passes import optimise

ACTIVATIONS = {
    "gelu": ops.gelu,
    "silu": lambda x: x * ops.sigmoid(x),
    "mish": nn.Mish(),
}


def graph_of(activation, rows, size=(24, 40), positions=3, blocks=3):
    """A training step of residual blocks with means over the batch between them, which end the slabs of a section."""
    rng = np.random.default_rng(rows)
    weights = [rng.normal(scale=0.2, size=shape) for _ in range(blocks) for shape in (size, size[::-1])]
    x = rng.normal(size=(rows, positions, size[0]))

    def loss(weights, x):
        for up, down in zip(weights[::2], weights[1::2], strict=True):
            x = x - x.mean(axis=0, keepdims=True)
            x = x + activation(x @ up) @ down
        return (x * x).sum()

    def step(weights, x):
        return cr.value_and_grad(loss)(weights, x)

    compiled = cr.compile(step, engine="reference", batch=("x",))
    graph, arrays = compiled.graph_and_arrays(weights, x)
    return optimise(graph), arrays


def written(graph):
    """How many arrays the nests write."""
    return sum(len(nest.written) for nest in lower(graph, frozenset(), 64).groupings[-1].nests)


@pytest.fixture
def everything_counts(monkeypatch):
    monkeypatch.setattr(recomputed, "SMALLEST", 0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fewer_arrays_are_written_and_results_are_those_of_the_reference(name, monkeypatch, everything_counts):
    graph, _ = graph_of(ACTIVATIONS[name], 2)
    fewer, program = written(graph), CpuEngine().load(graph)
    monkeypatch.setattr(recomputed, "SMALLEST", 1 << 60)
    assert fewer < written(graph)
    for rows in (1, 3, 17):
        _, arrays = graph_of(ACTIVATIONS[name], rows)
        for one, right in zip(same_bits(program, arrays), REFERENCE.load(graph)(arrays), strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-9, atol=1e-9)


def kept(graph):
    """For the factor 1 + erf of every block, whether it is in memory."""
    grouping = lower(graph, frozenset(), 64).groupings[-1]
    erfs = {node.output for node in grouping.graph.nodes if node.primitive.name == "erf"}
    return [grouping.is_stored(node.output) for node in grouping.graph.nodes if not erfs.isdisjoint(node.inputs)]


def test_what_only_one_section_reads_is_kept(everything_counts):
    """The derivative of the last block is computed by the slab that has just computed the block."""
    assert kept(graph_of(ops.gelu, 2, positions=150)[0]) == [False, False, True]


def test_small_arrays_are_kept():
    assert kept(graph_of(ops.gelu, 2)[0]) == [True, True, True]


def test_what_a_reader_would_have_to_read_more_for_is_kept(everything_counts):
    """The result of a sigmoid is all that its derivative needs."""
    graph, _ = graph_of(ops.sigmoid, 2)
    grouping = lower(graph, frozenset(), 64).groupings[-1]
    found = [node.output for node in grouping.graph.nodes if node.primitive.name == "logistic"]
    assert all(grouping.is_stored(value) for value in found) and len(found) == 3


@pytest.mark.parametrize("shape", [(), (5, 24)])
def test_a_nest_keeps_the_last_of_what_it_writes(shape, monkeypatch, everything_counts):
    """Whoever reads these roots could compute both of them."""
    monkeypatch.setattr(grouping_step, "_MAX_ROOTS", 2)

    def function(a, b):
        p, q = ops.sqrt(a + b), ops.sqrt(a - b)
        return a * p + b * q, a * p - b * q, a + p * q * b, a - p * b + q

    arrays = [np.full(shape, 3.0), np.full(shape, 2.0)]
    graph = optimise(cr.trace(function, *arrays))
    before = [written for written, _ in nests_after(graph, "keep conditions")]
    after = nests_after(graph, "compute again")
    assert before == [2, 2, 2]
    assert after == [(1, 2), (2, 3), (2, 3)]
    for one, right in zip(CpuEngine().load(graph)(arrays), REFERENCE.load(graph)(arrays), strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-15)


def nests_after(graph, name):
    """How many arrays each nest writes and reads after a step of the lowering."""
    found = []

    def watch(step, lowering):
        if step.name == name:
            found.extend((len(nest.written), len(nest.reads)) for nest in lowering.groupings[-1].nests)

    lower(graph, frozenset(), 64, watch)
    return found
