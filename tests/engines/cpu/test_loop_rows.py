"""Loops over chosen rows of an array: values, and what is and is not read where it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import chainrule as cr
from chainrule.engines.cpu.loop_rows import rows_of_loops
from chainrule.engines.cpu.lowering import lower

X = np.random.default_rng(0).normal(size=(3, 5, 70)).astype(np.float32)
ROWS = np.array([2, 0, 1, 1, 2])


def running(x: Any, rows: Any) -> Any:
    """The states of a small recurrence over chosen rows."""

    def step(state: Any, row: Any) -> tuple[Any, Any]:
        state = cr.tanh(state * 0.5 + row)
        return state, state

    return cr.scan(step, cr.zeros(x.shape[1:]), cr.take(x, rows))[1]


@pytest.mark.parametrize("batch", [(), ("x",)])
def test_rows_are_read_where_they_lie(batch: tuple[str, ...]) -> None:
    x = X.swapaxes(0, 1) if batch else X

    def loss(x: Any) -> Any:
        x = cr.tanh(x).swapaxes(0, 1) if batch else cr.tanh(x)
        return cr.square(running(x, ROWS)).sum()

    def step(x: Any) -> Any:
        return cr.value_and_grad(loss)(x)

    program = cr.compile(step, batch=batch, engine="cpu")
    for found, wanted in zip(program(x), step(x), strict=True):
        assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)
    done = lower(program.graph_and_arrays(x)[0], frozenset(), 32)
    taken = [pair for grouping in done.groupings for pair in grouping.rows.items()]
    assert [numbers for _, (_, numbers) in taken].count(list(ROWS)) == len(taken) >= 1
    for grouping in done.groupings:
        assert not any(grouping.is_stored(value) for value in grouping.rows)


@pytest.mark.parametrize(
    ("what", "function"),
    [
        ("rows that are not there", lambda x, rows: running(x, np.array([0, 3]))),
        ("numbers that are operands", running),
        ("rows that something else reads", lambda x, rows: (running(x, ROWS), cr.take(x, ROWS).sum())),
        ("rows that are a result", lambda x, rows: (running(x, ROWS), cr.take(x, ROWS))),
        (
            "rows of another axis",
            lambda x, rows: cr.scan(lambda _, y: (None, y * 2), None, cr.take(x, ROWS, axis=1))[1],
        ),
    ],
)
def test_other_rows_are_copied(what: str, function: Any) -> None:
    program = cr.compile(lambda x, rows: function(x, rows), engine="cpu")
    found, wanted = program(X, ROWS), function(X, ROWS)
    for one, other in zip(*([x] if not isinstance(x, tuple) else x for x in (found, wanted)), strict=True):
        assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not rows_of_loops(program.graph_and_arrays(X, ROWS)[0])
