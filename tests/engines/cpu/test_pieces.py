"""Loops written in pieces between the places at which guards change, and sums over rows of many columns."""

import numpy as np
import pytest

import chainrule as cr
from chainrule import ops
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.inline import inline_calls
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.passes import optimise


def gates(x):
    """The gradient of gates cut out of one array."""
    parts = [x[:, k * 20 : (k + 1) * 20] for k in range(4)]
    return cr.grad(lambda x: (ops.tanh(x[:, :20]) * x[:, 20:40] + ops.exp(x[:, 40:60]) * x[:, 60:]).sum())(x), parts


MAPS = {
    "gates": (80, lambda x: gates(x)[0]),
    "a concatenation": (24, lambda x: ops.concatenate([ops.tanh(x), x * x, -x], axis=1) * 2),
    "one that is flipped": (24, lambda x: ops.flip(ops.concatenate([ops.tanh(x), x[:, :17]], axis=1), 1) + 1),
    "a margin": (40, lambda x: ops.pad(ops.tanh(x), ((0, 0), (16, 20)), value=3) * 2),
    "margins that overlap": (40, lambda x: ops.pad(x, ((0, 0), (0, 24))) + ops.pad(x * x, ((0, 0), (24, 0)))),
    "an axis in the middle": (24, lambda x: ops.concatenate([x, -x], axis=1).reshape(-1, 2, 24)[:, ::-1] * 3),
    "narrow parts": (9, lambda x: ops.concatenate([x, -x], axis=1) * 2),
    "rows under rows": (24, lambda x: ops.concatenate([x, x * 2], axis=0) * 2),
}


@pytest.mark.parametrize(("width", "function"), MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("rows", [1, 17, 300])
def test_maps_in_pieces_give_what_the_reference_gives(width, function, rows):
    x = np.random.default_rng(rows).normal(size=(rows, width))
    x[0, :3] = -0.0, np.inf, np.nan
    for batch in ((), ("x",)):
        if batch and rows == 1:
            continue
        graph = inline_calls(optimise(cr.trace(function, x, batch=batch)))
        for found, expected in zip(ENGINE.load(graph)([x]), REFERENCE.load(graph)([x]), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
            np.testing.assert_array_equal(np.signbit(found[expected == 0]), np.signbit(expected[expected == 0]))


def test_no_guard_is_left_where_pieces_are_long():
    x = np.zeros((40, 80))
    graph = inline_calls(optimise(cr.trace(lambda x: gates(x)[0], x, batch=("x",))))
    text = lower(graph, frozenset(), 32).source.text
    nests = text[text.index("static void nest_0") :]
    assert " ? " not in nests[: nests.index("static long")]


@pytest.mark.parametrize("width", [1, 63, 64, 65, 100, 511, 512, 1000, 1023, 1024, 1025, 2500])
def test_sums_over_rows_add_every_column_once(width):
    for rows in (1, 5, 400):
        x = np.random.default_rng(width).integers(-50, 50, (rows, width)).astype(np.float32)
        (found,) = ENGINE.load(cr.trace(lambda x: x.sum(axis=0), x, batch=("x",) if rows > 1 else ()))([x])
        np.testing.assert_array_equal(found, x.sum(axis=0))
