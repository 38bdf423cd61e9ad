"""Nodes that are written in other words for the sake of what is stored: what they say stays the same."""

import numpy as np
import pytest

import chainrule as cr
from chainrule import ops
from chainrule.engines.cpu.as_maps import write_as_maps
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH
from chainrule.passes import optimise
from chainrule.transforms import trace


def stored_types(graph):
    """The element types of what products and maps leave in memory."""
    text = dict(ENGINE.load(graph).steps)["group into nests"]
    return [line.split("-> [")[1].split("]")[0] for line in text.splitlines() if "] -> [" in line]


def test_no_conditions_are_kept_for_the_gradient_of_a_rectifier():
    def gradients(w, x):
        return cr.value_and_grad(lambda both: (ops.relu(both[1] @ both[0]) ** 2).sum())((w, x))

    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(20, 30)), rng.normal(size=(7, 20))
    graph = optimise(trace(gradients, w, x, batch=("x",)))
    assert not any("bool" in written for written in stored_types(graph))
    for found, expected in zip(ENGINE.load(graph)([w, x]), REFERENCE.load(graph)([w, x]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_the_result_of_a_rectifier_tells_where_it_cut_off(engine):
    x = np.array([[-0.0, 0.0, -1.0, 1.0, np.nan, np.inf, -np.inf, 1e-45]], np.float32)

    def derivative(x):
        return cr.value_and_grad(lambda x: ops.relu(x).sum())(x)[1]

    found = cr.compile(derivative, engine=engine, batch=("x",))(x)
    np.testing.assert_array_equal(found, [[0, 0, 0, 1, 1, 1, 0, 1]])


@pytest.mark.parametrize("bound", [0.0, 0.5])
@pytest.mark.parametrize("comparison", ["le", "lt"])
def test_only_a_rectifier_is_written_so(comparison, bound):
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 9), "float64"), "x")
    limit = builder.full(x.type, bound)
    below = getattr(builder, comparison)(x, limit)
    graph = builder.finish("cut", [builder.select(below, limit, x), below])
    written = write_as_maps(graph)
    names = [node.primitive.name for node in written.nodes]
    assert names.count("eq") == (comparison == "le" and bound == 0)
    numbers = [np.array([[-1, -0.5, -0.0, 0.0, 0.25, 0.5, 0.75, np.nan, np.inf]])]
    for found, expected in zip(ENGINE.load(graph)(numbers), REFERENCE.load(graph)(numbers), strict=True):
        np.testing.assert_array_equal(found, expected)
