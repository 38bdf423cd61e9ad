"""Fingerprints are equal where texts are, and only there."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chainrule.core.dtypes import BFLOAT16
from chainrule.ir.build import Builder
from chainrule.ir.fingerprint import fingerprint
from chainrule.ir.graph import ArrayType, Graph, Origin
from chainrule.ir.sizes import BATCH
from chainrule.ir.text import parse_graph, print_graph
from chainrule.testing import random_program

HERE = Origin("layers.0", "model.py", 3)


def example(
    name: str = "example",
    input_name: str = "x",
    size: Any = 3,
    dtype: str = "float32",
    rows: Any = BATCH,
    value: Any = 0.5,
    table: Any = (1, 2, 3),
    axes: tuple[int, ...] = (0,),
    function: str = "exp",
    swapped: bool = False,
    twice: bool = False,
    origin: Origin = HERE,
    output_name: str = "y",
    times: int = 2,
    in_body: str = "tanh",
    value_name: str = "",
) -> Graph:
    inner = Builder()
    given = inner.input(ArrayType((), dtype), "carry")
    body = inner.finish("body", [inner.emit(in_body, [given])[0]])
    b = Builder()
    x = b.input(ArrayType((rows, size), dtype), input_name)
    with b.at(origin):
        (y,) = b.emit(function, [x])
    y.name = value_name
    row = b.broadcast(b.constant(np.resize(np.array(table), size), dtype), x.shape, (1,))
    difference = b.sub(row, y) if swapped else b.sub(y, row)
    scaled = b.mul(difference, b.full_like(x, value))
    total = b.reduce_sum(scaled, axes)
    whole = b.reduce_sum(total, tuple(range(len(total.shape))))
    (last,) = b.scan(body, [b.as_type(whole, dtype)], length=times, consts=0, carries=1, reverse=False)
    return b.finish(name, [last, y] if twice else [last], [output_name, ""] if twice else [output_name])


CHANGES: list[dict[str, Any]] = [
    {"name": "other"},
    {"input_name": 'x"\n'},
    {"size": 4},
    {"dtype": "float64"},
    {"rows": 5},
    {"rows": BATCH + 1},
    {"value": -0.5},
    {"value": 0.0},
    {"value": -0.0},
    {"value": float("nan")},
    {"table": (1, 2, 4)},
    {"table": (1, -2, 3)},
    {"axes": (1,)},
    {"axes": (0, 1)},
    {"axes": ()},
    {"function": "expm1"},
    {"swapped": True},
    {"twice": True},
    {"origin": Origin("layers.1", "model.py", 3)},
    {"origin": Origin("layers.0", "other.py", 3)},
    {"origin": Origin("layers.0", "model.py", 4)},
    {"origin": Origin("layers.0", "model.py", 3, "update")},
    {"origin": Origin("layers.0'model.py", "", 3)},
    {"output_name": "z"},
    {"times": 3},
    {"in_body": "sin"},
    {"value_name": "hidden"},
]


def test_every_change_has_a_fingerprint_of_its_own() -> None:
    graphs = [example(), *(example(**change) for change in CHANGES)]
    assert len({print_graph(graph) for graph in graphs}) == len(graphs)
    assert len({fingerprint(graph) for graph in graphs}) == len(graphs)


@pytest.mark.parametrize("change", [{}, *CHANGES], ids=str)
def test_what_reads_alike_has_one_fingerprint(change: dict[str, Any]) -> None:
    graph = example(**change)
    assert fingerprint(graph) == fingerprint(example(**change)) == fingerprint(parse_graph(print_graph(graph)))


@pytest.mark.parametrize("dtype", ["bool", "uint32", "int32", "int64", "float32", "float64", BFLOAT16])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_constants_count_to_the_last_bit(dtype: str, count: int) -> None:
    def of(array: Any) -> str:
        b = Builder()
        return fingerprint(b.finish("constants", [b.constant(array, dtype)]))

    array = np.arange(count) % 2
    seen = {of(array), of(array.reshape(1, count))}
    for place in range(count):
        changed = array.copy()
        changed[place] ^= 1
        seen.add(of(changed))
    assert len(seen) == 2 + count and of(array[::-1][::-1]) in seen


def test_the_same_bytes_of_another_type_are_another_constant() -> None:
    def of(array: Any) -> str:
        b = Builder()
        return fingerprint(b.finish("constants", [b.constant(array)]))

    bits = np.array([1, 2], np.int32)
    assert len({of(bits), of(bits.view(np.uint32)), of(bits.view(np.float32)), of(bits.view(np.int64))}) == 4


@pytest.mark.parametrize("seed", range(20))
def test_random_programs(seed: int) -> None:
    graph = random_program(random.Random(seed).choice, dtype="float64", steps=12)
    expected = fingerprint(graph)
    assert fingerprint(parse_graph(print_graph(graph))) == expected
    number = random.Random(seed).randrange(len(graph.nodes))
    nodes = list(graph.nodes)
    nodes[number] = replace(nodes[number], origin=Origin("elsewhere"))
    assert fingerprint(replace(graph, nodes=tuple(nodes))) != expected
    assert fingerprint(replace(graph, outputs=graph.outputs[::-1] + graph.inputs[:1], output_names=())) != expected
