"""Every way in which a graph can be broken is found, in every nesting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chainrule.core.errors import ChainruleError, DTypeError, GraphError, ShapeError
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, Contraction, plain
from chainrule.ir.graph import ArrayType, Graph, Node, Origin, Value
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.sizes import BATCH
from chainrule.ir.verify import verify

ROW = ArrayType((BATCH, 3), "float32")


def small():
    b = Builder()
    x = b.input(ROW, "x")
    with b.at(Origin("layers.0", "model.py", 12)):
        y = b.tanh(x)
    return b.finish("small", [b.mul(y, x)], ["y"])


def with_node(graph, number, **changes):
    nodes = list(graph.nodes)
    nodes[number] = replace(nodes[number], **changes)
    return replace(graph, nodes=tuple(nodes))


def in_a_loop(body):
    """The same mistake in the body of a scan."""
    b = Builder()
    x = b.input(ROW)
    good = small()
    (y,) = b.scan(good, [x], length=2, consts=0, carries=1, reverse=False)
    graph = b.finish("outer", [y])
    return with_node(graph, 0, attributes={**graph.nodes[0].attributes, "body": body})


def twice(graph):
    return replace(graph, nodes=(graph.nodes[0], graph.nodes[0], graph.nodes[1]))


BROKEN = {
    "used before it is defined": lambda g: replace(g, nodes=g.nodes[::-1]),
    "defined twice": twice,
    "nothing in it defines": lambda g: replace(g, outputs=(Value(ROW),)),
    "names": lambda g: replace(g, output_names=("a", "b")),
    "operands instead of 1": lambda g: with_node(g, 0, inputs=(g.inputs[0],) * 2),
    "its results are typed": lambda g: with_node(g, 1, outputs=(Value(ArrayType((3,), "float32")),)),
    "not in the primitive table": lambda g: with_node(g, 0, primitive=replace(PRIMITIVES["tanh"])),
    "attributes \\['axes'\\] instead of \\[\\]": lambda g: with_node(g, 0, attributes={"axes": (0,)}),
    "impossible type": lambda g: replace(g, inputs=(*g.inputs, Value(ArrayType((-1,), "float32")))),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_graph_is_found(message):
    good = small()
    assert verify(good) is good
    with pytest.raises(GraphError, match=message):
        verify(BROKEN[message](good))


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_body_is_found(message):
    verify(in_a_loop(small()))
    with pytest.raises(GraphError, match=message):
        verify(in_a_loop(BROKEN[message](small())))


def test_a_value_of_another_graph_is_found():
    other, good = small(), small()
    with pytest.raises(GraphError, match="before it is defined"):
        verify(with_node(good, 1, inputs=(good.inputs[0], other.inputs[0])))


def test_the_message_names_the_graph_the_node_and_its_origin():
    good = small()
    wrong = with_node(good, 0, outputs=(Value(ArrayType((3,), "float32")),))
    with pytest.raises(GraphError, match=r"'small', node 0 \(tanh\) from layer 'layers.0' at model.py:12"):
        verify(wrong)


TYPES = {"f": ROW, "g": ArrayType((3,), "float32"), "i": ArrayType((3,), "int64"), "t": ArrayType((3,), "bool")}
MATRIX = Contraction((3,), plain(0), plain(0), plain(0), (3,))
REFUSED = [
    ("add", "fg", {}, ShapeError),
    ("add", "gi", {}, ShapeError),
    ("add", "tt", {}, DTypeError),
    ("exp", "i", {}, DTypeError),
    ("exp", "ff", {}, ShapeError),
    ("floor_div", "gg", {}, DTypeError),
    ("logical_and", "gg", {}, DTypeError),
    ("is_finite", "i", {}, DTypeError),
    ("lt", "tt", {}, DTypeError),
    ("select", "ggg", {}, DTypeError),
    ("select", "tff", {}, ShapeError),
    ("cast", "f", {"dtype": "float16"}, DTypeError),
    ("cast", "f", {"dtype": 7}, GraphError),
    ("reduce_sum", "f", {"axes": (2,)}, ShapeError),
    ("reduce_sum", "f", {"axes": (-1,)}, ShapeError),
    ("reduce_sum", "f", {"axes": (1, 0)}, ShapeError),
    ("reduce_sum", "f", {"axes": (0, 0)}, ShapeError),
    ("reduce_sum", "f", {"axes": 0}, GraphError),
    ("reduce_sum", "f", {"axes": (0.0,)}, GraphError),
    ("reduce_sum", "f", {"axes": (False,)}, GraphError),
    ("reduce_sum", "t", {"axes": (0,)}, DTypeError),
    ("argmax", "f", {"axis": 2}, ShapeError),
    ("reshape", "f", {"shape": (3,)}, ShapeError),
    ("reshape", "g", {"shape": (-1, -3)}, ShapeError),
    ("reshape", "g", {"shape": ("3",)}, GraphError),
    ("transpose", "f", {"order": (0, 0)}, ShapeError),
    ("transpose", "f", {"order": (0, 1, 2)}, ShapeError),
    ("broadcast", "g", {"shape": (3, 2), "axes": (1,)}, ShapeError),
    ("broadcast", "g", {"shape": (3, 3), "axes": ()}, ShapeError),
    ("broadcast", "f", {"shape": (3, BATCH), "axes": (1, 0)}, ShapeError),
    ("slice", "g", {"starts": (2,), "limits": (1,), "strides": (1,)}, ShapeError),
    ("slice", "g", {"starts": (0,), "limits": (4,), "strides": (1,)}, ShapeError),
    ("slice", "g", {"starts": (0,), "limits": (3,), "strides": (0,)}, ShapeError),
    ("slice", "f", {"starts": (1, 0), "limits": (BATCH, 3), "strides": (1, 1)}, ShapeError),
    ("slice", "f", {"starts": (0,), "limits": (3,), "strides": (1,)}, ShapeError),
    ("pad", "g", {"low": (-1,), "high": (0,), "inner": (0,), "value": 0.0}, ShapeError),
    ("pad", "g", {"low": (0, 0), "high": (0,), "inner": (0,), "value": 0.0}, ShapeError),
    ("pad", "g", {"low": (0,), "high": (0,), "inner": (0,), "value": "0"}, GraphError),
    ("pad", "g", {"low": (0,), "high": (0,), "inner": (0,), "value": np.zeros(2)}, GraphError),
    ("flip", "g", {"axes": (1,)}, ShapeError),
    ("concatenate", "fg", {"axis": 0}, ShapeError),
    ("concatenate", "gi", {"axis": 0}, ShapeError),
    ("concatenate", "", {"axis": 0}, ShapeError),
    ("gather", "fg", {"batch": 0}, DTypeError),
    ("gather", "gi", {"batch": 1}, ShapeError),
    ("gather", "gi", {"batch": -1}, GraphError),
    ("scatter_add", "gg", {"batch": 0, "size": 2}, DTypeError),
    ("scatter_add", "fi", {"batch": 0, "size": 2}, ShapeError),
    ("scatter_add", "gi", {"batch": 0, "size": -2}, ShapeError),
    ("scatter_add", "ti", {"batch": 0, "size": 2}, DTypeError),
    ("contract", "gi", {"spec": MATRIX}, DTypeError),
    ("contract", "fg", {"spec": MATRIX}, ShapeError),
    ("contract", "gg", {"spec": "matrix"}, GraphError),
    ("contract", "gg", {"spec": Contraction((-3,), plain(0), plain(0), plain(0), (3,))}, ShapeError),
    ("iota", "", {"shape": (3,), "axis": 1, "dtype": "int64"}, ShapeError),
    ("iota", "", {"shape": (3,), "axis": 0, "dtype": "bool"}, DTypeError),
    ("iota", "", {"shape": (-3,), "axis": 0, "dtype": "int64"}, ShapeError),
    ("random_bits", "gi", {"shape": (3,)}, ShapeError),
    ("constant", "", {"value": 1.0}, GraphError),
    ("constant", "", {"value": np.zeros(3, np.complex128)}, DTypeError),
]  # fmt: skip


@pytest.mark.parametrize(("name", "operands", "attributes", "error"), REFUSED, ids=lambda value: str(value)[:40])
def test_typing_rules_refuse_what_does_not_fit(name, operands, attributes, error):
    b = Builder()
    inputs = [b.input(TYPES[key]) for key in operands]
    with pytest.raises(error, match=name):
        b.emit(name, inputs, attributes)
    assert not b.nodes
    node = Node(PRIMITIVES[name], tuple(inputs), attributes, (Value(TYPES["g"]),))
    with pytest.raises(GraphError):
        verify(Graph("wrong", tuple(inputs), (node,), node.outputs))


def loop_body(*results):
    b = Builder()
    x = b.input(TYPES["g"])
    choices = {"same": x, "wide": b.broadcast(x, (2, 3), (1,)), "other": b.cast(x, "float64")}
    return b.finish("body", [choices[name] for name in results])


@pytest.mark.parametrize(
    ("results", "changes", "message"),
    [
        (("wide",), {}, "keep the type of its carry"),
        (("other",), {}, "keep the type of its carry"),
        ((), {}, "as many operands and results"),
        (("same",), {"carries": 2}, "as many operands and results"),
        (("same",), {"consts": 5}, "as many operands and results|takes"),
        (("same",), {"length": -1}, "a count"),
        (("same",), {"body": None}, "a graph"),
        (("same",), {"reverse": 1}, "true or false"),
    ],
)
def test_scans_that_do_not_fit(results, changes, message):
    b = Builder()
    x = b.input(TYPES["g"])
    attributes = {"body": loop_body(*results), "length": 2, "consts": 0, "carries": 1, "reverse": False, **changes}
    with pytest.raises(ChainruleError, match=message):
        b.emit("scan", [x], attributes)


def test_other_loops_that_do_not_fit():
    b = Builder()
    x, whole, wide = b.input(TYPES["g"]), b.input(TYPES["i"]), b.input(ROW)
    settings = {"consts": 0, "tolerance": 1e-6, "max_iterations": 10}
    with pytest.raises(ShapeError, match="keep the types of its state"):
        b.fixed_point(loop_body("wide"), [x], **settings)
    with pytest.raises(ShapeError, match=r"takes \(f32\[3\]\), not \(f32\[B, 3\]\)"):
        b.fixed_point(loop_body("same"), [wide], **settings)
    inner = Builder()
    same = inner.finish("same", [inner.input(TYPES["i"])])
    with pytest.raises(DTypeError, match="floating-point"):
        b.fixed_point(same, [whole], **settings)
    with pytest.raises(ShapeError, match="the backward rule of 'op'"):
        b.call(loop_body("same"), [x], label="op", backward=loop_body("same"))
    with pytest.raises(ShapeError, match="cannot step through"):
        b.scan(loop_body("same"), [x], length=2, consts=0, carries=0, reverse=False)


def test_a_contraction_must_stay_within_its_box():
    with pytest.raises(GraphError, match="i1 is outside the box of 1"):
        Contraction((3,), plain(0), plain(1), plain(0), (3,))
    with pytest.raises(ShapeError, match="needs 2 output coordinates"):
        Contraction((3,), plain(0), plain(0), plain(0), (3, 3))
    assert Affine().plain is None


def test_numpy_numbers_in_attributes_become_pythons():
    b = Builder()
    x = b.input(TYPES["g"])
    y = b.pad(x, [np.int64(1)], [np.int32(2)], value=np.float32(0.5))
    (node,) = b.nodes
    assert y.shape == (6,)
    assert {type(value) for value in (*node.attributes["low"], *node.attributes["high"])} == {int}
    assert type(node.attributes["value"]) is float


def test_graphs_cannot_be_changed():
    graph = small()
    with pytest.raises(AttributeError):
        graph.name = "other"
    with pytest.raises(TypeError):
        graph.nodes[0].attributes["axes"] = ()
    b = Builder()
    constant = b.constant([1.0, 2.0])
    (node,) = b.nodes
    with pytest.raises(ValueError, match="read-only"):
        node.attributes["value"][0] = 5
    assert constant.type == ArrayType((2,), "float64")


def counted(monkeypatch, name):
    """How often the typing rule of a primitive was asked."""
    calls = []
    row = PRIMITIVES[name]
    rule = row.infer
    other = replace(row, infer=lambda types, attributes: calls.append(1) or rule(types, attributes))
    monkeypatch.setitem(PRIMITIVES, name, other)
    return calls, other


def test_a_node_is_checked_once_and_its_copies_again(monkeypatch):
    calls, tanh = counted(monkeypatch, "tanh")
    good = small()
    assert len(calls) == 1  # by the builder
    verify(good)
    assert len(calls) == 1
    copied = with_node(good, 0, origin=Origin("elsewhere"))
    assert not copied.nodes[0].is_typed
    verify(copied)
    verify(replace(copied, name="renamed"))
    assert len(calls) == 2 and copied.nodes[0].primitive is tanh
    verify(in_a_loop(good))
    assert len(calls) == 3  # that of the body that in_a_loop makes itself


def test_a_node_that_a_builder_did_not_type_in_full_is_checked(monkeypatch):
    b = Builder()
    x = b.input(ROW, "x")
    (y,) = b.emit("tanh", [x], {"axes": (0,)})
    assert not b.nodes[0].is_typed
    with pytest.raises(GraphError, match="attributes"):
        verify(b.finish("too much", [y]))
