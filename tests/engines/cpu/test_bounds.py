"""Accesses are proved to stay within their buffers: the proof is sound, and broken accesses of every kind are caught."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.core.dtypes import ALL
from chainrule.engines.cpu import body, tile_plan, tiles
from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.bounds import follows, prove
from chainrule.engines.cpu.indexing import Index, Var, variable
from chainrule.engines.cpu.loops import Store, box_of
from chainrule.engines.cpu.lowering import lower
from chainrule.ir.build import Builder
from chainrule.ir.contraction import parse_contraction
from chainrule.ir.graph import ArrayType, Graph
from chainrule.ir.sizes import BATCH, at, product
from chainrule.testing import cases

ROW, COLUMN, ITEM = Var("i", 3), Var("j", 4), Var("k", BATCH)


def test_what_follows_from_extents():
    assert follows(variable(ROW) * 4 + variable(COLUMN), 12)
    assert not follows(variable(ROW) * 4 + variable(COLUMN), 11)
    assert not follows(variable(ROW) - 1, 12)
    assert follows(variable(ITEM) * 4 + variable(COLUMN), BATCH * 4)
    assert not follows(variable(ITEM) * 4 + variable(COLUMN) + 1, BATCH * 4)
    assert not follows(variable(Var("free")), 5)


def test_what_follows_from_guards():
    row, column = variable(ROW) - 1, variable(COLUMN) * 2 + variable(ROW) - 3
    place = row * 5 + column
    assert not follows(place, 10)
    assert follows(place, 10, [(row, 2), (column, 5)])
    assert not follows(place, 10, [(row, 2), (column, 6)])
    assert not follows(place, 10, [(row, 3), (column, 5)])
    assert follows(variable(Var("row")) * 7 + 6, BATCH * 7, [(variable(Var("row")), BATCH)])


def test_what_follows_from_guards_with_common_factors():
    twice = variable(ROW) * 2
    assert follows(variable(ROW) * 69 + variable(COLUMN), 4, [(twice, 2)])
    assert not follows(variable(ROW) * 69 + variable(COLUMN), 4, [(twice, 3)])
    assert follows(variable(ROW) - 1, 1, [(twice - 1, 2)])


SIZES = st.one_of(st.integers(0, 4), st.sampled_from([BATCH, BATCH * 2, BATCH + 1]))
STEPS = st.sampled_from([-3, -2, -1, 0, 1, 2, 5, BATCH])
VARS = st.sampled_from([Var("a", 1), Var("b", 2), Var("c", 3), Var("d", BATCH), Var("e", BATCH * 2)])


@st.composite
def indices(draw):
    total = Index((), draw(st.sampled_from([-2, -1, 0, 1, 3])))
    for var in draw(st.lists(VARS, max_size=3, unique=True)):
        total = total + Index(((var, 1),)) * draw(STEPS)
    return total


@given(indices(), SIZES, st.lists(st.tuples(indices(), SIZES), max_size=2))
def test_nothing_false_follows(index, size, facts):
    if not follows(index, size, facts):
        return
    vars = list(dict.fromkeys(v for i in (index, *(i for i, _ in facts)) for v, _ in i.terms))
    for batch in (1, 2, 3):
        for values in itertools.product(*(range(at(var.extent, batch)) for var in vars)):
            known = dict(zip(vars, values))

            def value(i, batch=batch, known=known):
                return at(i.offset, batch) + sum(at(c, batch) * known[v] for v, c in i.terms)

            if all(0 <= value(i) < at(extent, batch) for i, extent in facts):
                assert 0 <= value(index) < at(size, batch)


def test_an_unproved_access_is_named_with_what_is_known():
    with pytest.raises(AssertionError) as caught:
        prove("x_0", variable(ROW) * 4 + variable(COLUMN) + 1, 12, [(variable(COLUMN), 4)])
    assert str(caught.value) == (
        "x_0[4 * i + j + 1] may lie outside its 12 elements; i in [0, 3), j in [0, 4), and the guard says that j in [0, 4)"
    )


# --- broken accesses --------------------------------------------------------------------------------------------------


def case_graph(primitive: str) -> Graph:
    return next(
        case for case in cases("float32") if case.primitive == primitive and 0 not in case.types[0].shape
    ).graph()


def test_a_view_that_goes_too_far_is_caught(monkeypatch):
    read = body._view(lambda node, indices: [i + 1 for i in indices])
    for name in ("slice", "transpose", "flip"):
        monkeypatch.setitem(body._SPECIAL, name, read)
        builder = Builder()
        x = builder.input(ArrayType((3, 4), "float32"), "x")
        moved = {
            "slice": lambda b, x: b.slice(x, (0, 0), (3, 4), (1, 2)),
            "transpose": lambda b, x: b.transpose(x, (1, 0)),
            "flip": lambda b, x: b.flip(x, (0,)),
        }[name](builder, x)
        graph = builder.finish("g", [moved])
        with pytest.raises(
            AssertionError, match=rf"^x_0\[.*\] may lie outside its 12 elements.*in the nest .*{name}\(x_0\)"
        ):
            lower(graph, frozenset(), 32)


@pytest.mark.parametrize("primitive", ["pad", "gather", "concatenate", "contract"])
def test_a_guard_that_is_left_out_is_caught(primitive, monkeypatch):
    load = Body.load
    monkeypatch.setattr(Body, "load", lambda self, value, at, guard=None: load(self, value, at))
    caught = []
    for case in cases("float32"):
        if case.primitive == primitive:
            try:
                lower(case.graph(), frozenset(), 32)
            except AssertionError as error:
                caught.append(str(error))
    assert caught and all("may lie outside" in text for text in caught)


def test_a_guard_for_too_large_an_array_is_caught(monkeypatch):
    inside = Body.inside
    monkeypatch.setattr(Body, "inside", lambda self, index, size: inside(self, index, size + 1))
    with pytest.raises(AssertionError, match=r"may lie outside .* the guard says that"):
        lower(case_graph("pad"), frozenset(), 32)


def convolution() -> Graph:
    builder = Builder()
    x, w = builder.input(ArrayType((BATCH, 9, 9, 4), "float32")), builder.input(ArrayType((3, 3, 4, 20), "float32"))
    spec = "[B, 9, 9, 20] i0:B i1:9 i2:9 i3:20 i4:3 i5:3 i6:4 | [i0, i1, i2, i3] += [i0, i1+i4-1, i2+i5-1, i6] * [i4, i5, i6, i3]"
    return builder.finish("convolution", [builder.contract(parse_contraction(spec), x, w)])


def test_a_border_that_is_too_narrow_is_caught(monkeypatch):
    lower(convolution(), frozenset(), 32)
    monkeypatch.setattr(tile_plan, "margins", lambda index, size: (1, 0))
    with pytest.raises(AssertionError, match=r"border_a.* may lie outside"):
        lower(convolution(), frozenset(), 32)


@pytest.mark.parametrize("width", [16, 32, 64])
def test_working_memory_that_is_too_small_is_caught(width, monkeypatch):
    lower(convolution(), frozenset(), width)
    monkeypatch.setattr(tiles, "product", lambda dims: product(dims) - 1)
    with pytest.raises(AssertionError, match=r"(border|vectors|t)_\w+\[.* may lie outside"):
        lower(convolution(), frozenset(), width)


def test_a_store_into_too_small_a_buffer_is_caught():
    with pytest.raises(AssertionError, match=r"^y\[4 \* i \+ j\] may lie outside its 11 elements"):
        Store("y", variable(ROW) * 4 + variable(COLUMN), "0", 11)


def test_an_index_of_no_loop_is_caught():
    part = Body(lambda value: None, lambda value: None)
    part.element("x", variable(ROW), 3, "float")
    box_of([ROW], part, [])
    with pytest.raises(AssertionError, match="i is not an index of these loops up to 3"):
        box_of([Var("i", 5)], part, [])


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("dtype", sorted(ALL))
def test_every_access_of_every_case_is_proved(dtype, width):
    for case in cases(dtype):
        lower(case.graph(), frozenset(), width)
