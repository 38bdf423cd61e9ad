"""Running a program many times: every engine against the plain loop over the reference engine."""

import random

import numpy as np
import pytest

from chainrule.core.errors import ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.engines.cpu.repetition import Schedule
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.engines.repetition import Repetition, repeat_plainly
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH, shape_at
from chainrule.testing import random_program

needs_compiler = pytest.mark.skipif(CPU.problem() is not None, reason="there is no C compiler")
ENGINES = [REFERENCE, pytest.param(CPU, marks=needs_compiler)]
# Of the program below: a, b, c and n are carried; the others are the examples.
CARRIED, GATHERED = {0: 0, 1: 1, 2: 2, 4: 3}, frozenset({4, 5})


def recurrence():
    """State that can be written over (a), that is needed until the end (b), that stays (c), that counts (n); two reports."""
    builder = Builder()
    a, b, c = (builder.input(ArrayType((3, 5), "float32"), name) for name in "abc")
    n = builder.input(ArrayType((), "int64"), "n")
    x = builder.input(ArrayType((BATCH, 3), "float32"), "x")
    y = builder.input(ArrayType((BATCH, 5), "float32"), "y")
    fixed = builder.input(ArrayType((5,), "float32"), "fixed")
    error = builder.sub(builder.add(builder.matmul(x, a), builder.broadcast(fixed, (BATCH, 5), (1,))), y)
    slope = builder.matmul(builder.transpose(x, (1, 0)), error)
    half = builder.mul(slope, builder.full_like(slope, 0.01))
    after = builder.sub(a, builder.add(half, builder.mul(b, builder.full_like(b, 0.1))))
    turned = builder.add(builder.mul(builder.flip(b, (1,)), builder.full_like(b, 0.5)), half)
    count = builder.add(n, builder.full_like(n, 1))
    return builder.finish("recurrence", [after, turned, c, builder.reduce_sum(error, (0, 1)), count, error])


def operands(count, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.normal(size=shape_at(v.shape, count))).astype(v.dtype) for v in recurrence().inputs]
    arrays[3] = np.asarray(0)
    return arrays


def copies(arrays):
    return [array.copy() for array in arrays]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("donated", [frozenset(), frozenset({0}), frozenset(CARRIED.values())])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("batch", "steps"), [(1, 7), (4, 1), (4, 2), (4, 5), (7, 3)])
def test_many_runs_have_the_bits_of_single_runs(engine, donated, shuffled, batch, steps):
    arrays = operands(25)
    rows = np.random.default_rng(1).integers(0, 25, steps * batch) if shuffled else None
    program = engine.load(recurrence(), donated)
    how = Repetition(steps, batch, CARRIED, GATHERED, rows)
    found = program.repeat(copies(arrays), how)
    expected = repeat_plainly(engine.load(recurrence(), donated), recurrence(), copies(arrays), how)
    defined = repeat_plainly(REFERENCE.load(recurrence()), recurrence(), copies(arrays), how)
    for x, y, z in zip(found, expected, defined, strict=True):
        assert x.shape == z.shape
        assert x.dtype == z.dtype
        np.testing.assert_array_equal(x, y)
        np.testing.assert_allclose(x, z, rtol=1e-4, atol=1e-5)
    assert found[4] == steps
    assert found[5].shape == (steps, batch, 5)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_examples_and_what_is_fixed_stay_as_they_are(engine):
    arrays = operands(12)
    given = copies(arrays)
    engine.load(recurrence(), frozenset(CARRIED.values())).repeat(
        given, Repetition(3, 4, CARRIED, GATHERED, np.arange(12)[::-1])
    )
    for number in (*GATHERED, 6):
        np.testing.assert_array_equal(given[number], arrays[number])


@needs_compiler
@pytest.mark.parametrize("seed", range(6))
def test_random_programs_run_many_times(seed):
    """Every output is a report; the inputs that depend on the batch are gathered, so nothing is carried."""
    source = random.Random(seed)
    graph = random_program(source.choice, dtype="float64", steps=14)
    rng = np.random.default_rng(seed)
    gathered = frozenset(k for k, value in enumerate(graph.inputs) if value.shape[:1] == (BATCH,))
    arrays = [np.asarray(rng.normal(size=shape_at(v.shape, 9))).astype(v.dtype) for v in graph.inputs]
    how = Repetition(3, 2, {}, gathered, rng.permutation(9)[:6])
    program = CPU.load(graph)
    for x, y in zip(program.repeat(arrays, how), repeat_plainly(program, graph, arrays, how), strict=True):
        np.testing.assert_array_equal(x, y)


def test_state_that_is_exchanged_among_operands_comes_back_in_its_place():
    """Each output becomes another input than the one it was computed from."""
    builder = Builder()
    a, b, c = (builder.input(ArrayType((4,), "float32"), name) for name in "abc")
    one = builder.full_like(a, 1)
    graph = builder.finish("round", [builder.add(a, one), builder.add(b, one), c, builder.mul(a, b)])
    carried = {0: 1, 1: 2, 2: 0}
    arrays = [np.full(4, k, np.float32) for k in (0, 10, 20)]
    for engine in (REFERENCE, *([CPU] if CPU.problem() is None else [])):
        for donated in (frozenset(), frozenset({0, 1, 2}), frozenset({1})):
            for steps in (1, 2, 3, 7):
                how = Repetition(steps, 1, carried, frozenset())
                found = engine.load(graph, donated).repeat(copies(arrays), how)
                expected = repeat_plainly(REFERENCE.load(graph), graph, copies(arrays), how)
                for x, y in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Repetition(4, 4, CARRIED, GATHERED), "need 16 examples, but there are 12"),
        (Repetition(2, 4, CARRIED, GATHERED, np.arange(5, 13)), "reach from 5 to 12, with 12 examples"),
        (Repetition(2, 4, CARRIED, GATHERED, np.arange(-1, 7)), "reach from -1 to 6"),
        (Repetition(2, 4, CARRIED, GATHERED, np.arange(7)), "need 8 row numbers"),
        (Repetition(2, 4, CARRIED, GATHERED, np.arange(8.0)), "need 8 row numbers, not float64"),
        (Repetition(0, 4, CARRIED, GATHERED), "cannot run 0 times"),
        (Repetition(1, 4, {5: 0}, GATHERED), "before a step but"),
    ],
)
def test_what_cannot_be_run_is_refused(engine, how, message):
    with pytest.raises(ShapeError, match=message):
        engine.load(recurrence()).repeat(operands(12), how)


@pytest.mark.parametrize("engine", ENGINES)
def test_examples_that_differ_in_number_are_refused(engine):
    arrays = operands(12)
    arrays[5] = arrays[5][:11]
    with pytest.raises(ShapeError, match=r"differ in number: \[11, 12\]"):
        engine.load(recurrence()).repeat(arrays, Repetition(2, 4, CARRIED, GATHERED))


@needs_compiler
@pytest.mark.parametrize("shuffled", [False, True])
def test_state_that_is_written_over_is_read_where_it_lies(shuffled, monkeypatch):
    """Without asking Python for addresses, but for operands that must be copied, and mistakes."""
    program = CPU.load(graph := recurrence_in_place(), frozenset({0, 1}))
    rows = np.random.default_rng(1).permutation(20) if shuffled else None
    how = Repetition(4, 5, {0: 0, 1: 1}, frozenset({2}), rows)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 3), (3,), (20, 3))]
    expected = repeat_plainly(REFERENCE.load(graph), graph, copies(arrays), how)
    turned = [np.asfortranarray(arrays[0]), *copies(arrays[1:])]
    for x, y in zip(program.repeat(turned, how), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match="should be float32"):
        program.repeat([arrays[0], arrays[1][:2], arrays[2]], how)
    with pytest.raises(ShapeError, match="should be float32"):
        program.repeat([arrays[0].astype(np.float64), *arrays[1:]], how)
    monkeypatch.setattr(Schedule, "begin", None)
    found = program.repeat(arrays, how)
    assert found[0] is arrays[0]
    assert found[1] is arrays[1]
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def recurrence_in_place():
    builder = Builder()
    w, b = builder.input(ArrayType((3, 3), "float32"), "w"), builder.input(ArrayType((3,), "float32"), "b")
    x = builder.input(ArrayType((BATCH, 3), "float32"), "x")
    made = builder.logistic(builder.add(builder.matmul(x, w), builder.broadcast(b, (BATCH, 3), (1,))))
    slope = builder.matmul(builder.transpose(x, (1, 0)), made)
    lower = builder.sub(w, builder.mul(slope, builder.full_like(slope, 0.1)))
    bias = builder.sub(b, builder.mul(builder.reduce_sum(made, (0,)), builder.full_like(b, 0.1)))
    return builder.finish("in_place", [lower, bias, made])
