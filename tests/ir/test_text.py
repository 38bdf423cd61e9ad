"""The text form: what is printed is read back as the same graph, and what cannot be read is refused in one sentence."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chainrule.core.dtypes import ALL
from chainrule.core.errors import ChainruleError, GraphError
from chainrule.engines.reference import ENGINE
from chainrule.grad import STANDARD, backprop_graph
from chainrule.ir.build import Builder
from chainrule.ir.contraction import parse_contraction
from chainrule.ir.graph import ArrayType, Origin
from chainrule.ir.sizes import BATCH
from chainrule.ir.text import parse_graph, print_graph
from chainrule.testing import cases, random_program

hostile = st.text(max_size=20) | st.sampled_from(
    ['"', "\\", "\n", "*/", "/*", "*/ }", "%0", "\0", "\u2028", "\ud800", "return", "}", "<script>", "é", "名前", "‮"]
)


def describe(graph):
    """Everything about a graph except the identity of its values."""
    numbers = {}

    def number(value):
        return numbers.setdefault(value, len(numbers)), value.name, value.type

    def attribute(value):
        if isinstance(value, np.ndarray):
            return value.dtype.str, value.shape, value.tobytes()
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, tuple):
            return tuple(map(attribute, value))
        return describe(value) if hasattr(value, "nodes") else (type(value), value)

    return (
        graph.name,
        [number(value) for value in graph.inputs],
        [
            (
                node.primitive,
                [number(value) for value in node.inputs],
                [number(value) for value in node.outputs],
                {name: attribute(value) for name, value in node.attributes.items()},
                node.origin,
            )
            for node in graph.nodes
        ],
        [number(value) for value in graph.outputs],
        graph.output_names,
    )


def check_round_trip(graph):
    text = print_graph(graph)
    read = parse_graph(text)
    assert describe(read) == describe(graph)
    assert print_graph(read) == text


@pytest.mark.parametrize("dtype", sorted(ALL))
def test_every_case_is_read_back(dtype):
    for case in cases(dtype):
        check_round_trip(case.graph())
        if dtype == "float64":
            check_round_trip(backprop_graph(case.graph(), STANDARD))


@given(st.data())
def test_random_programs_are_read_back(data):
    check_round_trip(random_program(lambda options: data.draw(st.sampled_from(list(options)))))


@given(hostile, hostile, hostile, hostile, hostile, st.integers(0, 10**9))
def test_hostile_names_are_data(name, graph_name, path, file, phase, line):
    b = Builder()
    x = b.input(ArrayType((BATCH, 2), "float32"), name)
    with b.at(Origin(path, file, line, phase)):
        y = b.exp(x)
    inner = Builder()
    body = inner.finish(graph_name, [inner.input(x.type, name)], [path])
    (z,) = b.call(body, [y], label=file, backward=None)
    check_round_trip(b.finish(graph_name, [y, z], [name, path]))


SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 1.7976931348623157e308, 0.1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_constants_keep_every_bit(dtype):
    with np.errstate(over="ignore"):
        values = np.array(SPECIAL).astype(dtype)
    payload = np.array([0x7FF8DEADBEEF0001], np.uint64).view(np.float64)
    for value in (values, values[:0], values.reshape(2, 4).T, *map(np.asarray, values), payload):
        b = Builder()
        graph = b.finish("constant", [b.constant(value)])
        check_round_trip(graph)
        assert (
            parse_graph(print_graph(graph)).nodes[0].attributes["value"].tobytes()
            == np.ascontiguousarray(value).tobytes()
        )


@pytest.mark.parametrize("number", SPECIAL)
def test_special_attributes_keep_every_bit(number):
    b = Builder()
    x = b.input(ArrayType((2,), "float64"))
    check_round_trip(b.finish("pad", [b.pad(x, [1], [1], value=number)]))


def test_constants_of_every_type_compute_the_same_after_reading():
    b = Builder()
    outputs = [b.constant(np.array([[0, 1], [1, 1]]).astype(dtype)) for dtype in sorted(ALL)]
    graph = b.finish("constants", outputs)
    for found, expected in zip(ENGINE.load(parse_graph(print_graph(graph)))([]), ENGINE.load(graph)([]), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_the_text_reads_like_a_program():
    b = Builder()
    x, w = b.input(ArrayType((BATCH, 4), "float32"), "x"), b.input(ArrayType((4, 8), "float32"), "w")
    with b.at(Origin("layers.0", "model.py", 12)):
        y = b.matmul(x, w)
    text = print_graph(b.finish("layer", [y], ["y"]))
    assert text.splitlines() == [
        'graph "layer"(%0 "x": f32[B, 4], %1 "w": f32[4, 8]) {',
        '  %2: f32[B, 8] = contract(%0, %1) {spec: contraction "[B, 8] i0:B i1:8 i2:4 | [i0, i1] += [i0, i2] * [i2, i1]"}'
        ' @forward "layers.0" "model.py":12',
        '  return %2 "y"',
        "}",
    ]


GOOD = 'graph "g"(%0: f32[3]) {\n  %1: f32[3] = exp(%0)\n  return %1\n}'
MALFORMED = {
    "": "expected graph",
    "graph": "expected string",
    "hello": "expected graph",
    GOOD + " more": "expected end",
    GOOD.replace("exp", "expp"): "no primitive 'expp'",
    GOOD.replace("%1: ", "%0: "): "defined twice",
    GOOD.replace("exp(%0)", "exp(%1)"): "line 2.*own result",
    GOOD.replace("exp(%0)", "exp(%7)"): "line 2.*used before it is defined",
    GOOD.replace("return %1", "return %9"): "line 3",
    GOOD.replace("f32[3] =", "f32[4] ="): "typing rule",
    GOOD.replace("f32[3] =", "f33[3] ="): "not an element type",
    GOOD.replace("f32", "f64", 1): "typing rule",
    GOOD.replace("exp(%0)", "exp(%0, %0)"): "operands",
    GOOD.replace("exp(%0)", "exp(%0) {axes: (0,)}"): "attributes",
    GOOD.replace("exp(%0)", "reduce_sum(%0) {axes: (0, ), axes: (0, )}"): "given twice",
    GOOD.replace("exp(%0)", 'reduce_sum(%0) {axes: "all"}'): "tuple of integers",
    GOOD.replace("exp(%0)", "reduce_sum(%0) {axes: (1.0, )}"): "tuple of integers",
    GOOD.replace("exp(%0)", "reduce_sum(%0) {axes: (" + "(" * 5000): "too deeply",
    GOOD.replace("exp(%0)", "constant() {value: f32[2]" + '"AAAA"}'): "does not have 3 bytes",
    GOOD.replace("exp(%0)", "constant() {value: bool[1]" + '"Ag=="}'): "0 or 1",
    GOOD.replace("exp(%0)", "constant() {value: f32[1]" + '"A!=="}'): "line 2",
    GOOD.replace("exp(%0)", "constant() {value: f32[B]" + '"AAAA"}'): "line 2",
    GOOD.replace("exp(%0)", 'contract(%0, %0) {spec: contraction "[3] i0:3 | [i0] += [i7] * [i0]"}'): "outside the box",
    GOOD.replace("exp(%0)", 'contract(%0, %0) {spec: contraction "nonsense"}'): "not a contraction",
    GOOD.replace("f32[3]", "f32[-3]"): "impossible type",
    GOOD.replace("f32[3]", "f32[B^99999999]"): "not a size",
    GOOD.replace("f32[3]", "f32[" + "9" * 6000 + "]"): "not a size",
    GOOD.replace("}", ""): "line",
    GOOD.replace('"g"', '"\\q"'): "line 1",
    GOOD.replace('"g"', '"g'): "unexpected text",
    GOOD.replace("exp(%0)", 'exp(%0) @forward "p" "f":B'): "line 2",
}


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: MALFORMED[text][:30])
def test_malformed_text_is_refused(text):
    with pytest.raises(GraphError, match=MALFORMED[text]):
        parse_graph(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[3] i0:3 | [i0] += [i0]",
        "[3] i1:3 | [i0] += [i0] * [i0]",
        "[3] i0: | [i0] += [i0] * [i0]",
        "[3] i0:3 | [i0i0] += [i0] * [i0]",
        "[3] i0:3 | [3*5] += [i0] * [i0]",
        "[3] i0:3 | [2*] += [i0] * [i0]",
        "[3] i0:3 | [j0] += [i0] * [i0]",
        "[3, 3] i0:3 | [i0, ] += [i0] * [i0]",
        "[3] i0:3 | [i0, i0] += [i0] * [i0]",
        "[x] i0:3 | [i0] += [i0] * [i0]",
    ],
)
def test_malformed_contractions_are_refused(text):
    with pytest.raises(ChainruleError):
        parse_contraction(text)


def test_graphs_nested_without_end_are_refused():
    opening = 'graph "g"(%0: f32[3]) {\n  %1: f32[3] = call(%0) {label: "l", backward: null, body: '
    with pytest.raises(GraphError, match="too deeply"):
        parse_graph(opening * 3000)


TEXTS = [print_graph(case.graph()) for dtype in ("float32", "int64") for case in cases(dtype)][::7]
TEXTS += [print_graph(random_program(random.Random(seed).choice, steps=6)) for seed in range(20)]
PIECES = [*'()[]{},:=@"\0é', "%0", "%1", "B", "-1", "1e400", "float(nan)", "null", "true", "graph", "f32", "/*", "*/"]


@settings(max_examples=500)
@example(TEXTS[0], 0, 5, "\ud800")
@given(st.sampled_from(TEXTS), st.integers(0, 10**6), st.integers(0, 30), st.sampled_from(PIECES) | st.text(max_size=5))
def test_damaged_text_is_read_or_refused_but_never_breaks(text, where, cut, inserted):
    where %= len(text)
    damaged = text[:where] + inserted + text[where + cut :]
    try:
        graph = parse_graph(damaged)
    except GraphError:
        return
    check_round_trip(graph)


@pytest.mark.slow
def test_a_great_deal_of_damage_never_breaks_the_reader():
    choose = random.Random(0)
    for _ in range(100_000):
        text = choose.choice(TEXTS)
        for _ in range(choose.choice((1, 1, 2, 5))):
            where = choose.randrange(len(text) + 1)
            text = text[:where] + choose.choice(PIECES) + text[where + choose.choice((0, 0, 1, 3, 20)) :]
        try:
            graph = parse_graph(text)
        except GraphError:
            continue
        assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
