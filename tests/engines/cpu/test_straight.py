"""Small graphs written out for one example: every primitive, random programs, whole training steps; against the reference and loops."""

import random

import numpy as np
import pytest
from tests.conformance.test_engines import agree, gradients_agree
from tests.engines.cpu.standalone import Job, run_jobs
from tests.engines.cpu.test_conformance import PARTS, assert_same

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.dtypes import ALL, dtype_name
from chainrule.engines.binding import bind_batch
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.cpu.straight import WRITERS, is_small
from chainrule.engines.cpu.toolchain import find_toolchain
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.engines.repetition import Repetition, repeat_plainly
from chainrule.grad import STANDARD, backprop_graph
from chainrule.grad.standard import NOT_DIFFERENTIABLE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.sizes import BATCH, shape_at
from chainrule.testing import cases, interpret, random_cotangents, random_program
from chainrule.testing.case import float_positions

LOOPS = frozenset({"scan", "fixed_point", "call"})


def loaded(graph, donated=frozenset()):
    program = ENGINE.load(graph, donated)
    assert "_of_one(" in program.c_source
    return program


def test_every_primitive_but_loops_is_written_out():
    assert WRITERS.keys() | LOOPS == PRIMITIVES.keys()


@pytest.mark.parametrize("dtype", sorted(ALL))
def test_every_case_is_written_out(dtype):
    toolchain = find_toolchain()
    for case in cases(dtype):
        graph = case.graph()
        if not any(node.primitive.name in LOOPS for node in graph.nodes):
            text = lower(graph, frozenset(), toolchain.vector_bytes).source.text
            assert "_of_one(" in text, f"{case} is not"


def seldom(dtype):
    """int64 stands for narrow integers, and what is special about bfloat16 is in ``test_bfloat16.py``."""
    return pytest.param(dtype, marks=pytest.mark.slow)


def batches_of(case):
    """The first runs what is written out, where it is small, the second the loops beside it."""
    return (1, 7) if case.is_symbolic else (1,)


def results_of(jobs, folder):
    """Every run of every job, by one executable, which takes the compiler less time than a library for each job."""
    for job, runs in zip(jobs, run_jobs(jobs, find_toolchain(), folder), strict=True):
        for operands, results in zip(job.runs, runs, strict=True):
            yield job, operands, results


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "int64", "bool", *map(seldom, ("bfloat16", "int32", "uint32"))]
)
def test_primitives_are_what_they_are_defined_to_be(dtype, part, tmp_path):
    jobs = [Job(case.graph(), list(map(case.operands, batches_of(case)))) for case in cases(dtype)[part::PARTS]]
    for job, operands, results in results_of(jobs, tmp_path):
        batch = bind_batch(job.graph, operands)
        for found, expected in zip(results, interpret(job.graph, operands, batch), strict=True):
            assert found.dtype == expected.dtype
            agree(found, expected)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("dtype", ["float32", "float64", seldom("bfloat16")])
def test_gradients_are_those_of_the_reference_in_float64(dtype, part, tmp_path):
    in_float64 = {str(case): case.graph() for case in cases("float64")}
    jobs, wider = [], {}
    for case in [case for case in cases(dtype) if case.primitive not in NOT_DIFFERENTIABLE][part::PARTS]:
        graph = case.graph()
        drawn = list(map(case.operands, batches_of(case)))
        runs = [[*x, *random_cotangents(graph, REFERENCE.load(graph), x)] for x in drawn]
        jobs.append(Job(gradients_of(graph), runs, name=case.primitive))
        wider[jobs[-1].graph] = gradients_of(in_float64[str(case)]), len(graph.outputs)
    for job, operands, results in results_of(jobs, tmp_path):
        wide_backward, outputs = wider[job.graph]
        widened = [x.astype(value.dtype) for x, value in zip(operands, wide_backward.inputs, strict=True)]
        for found, wanted in zip(results[outputs:], REFERENCE.load(wide_backward)(widened)[outputs:], strict=True):
            assert dtype_name(found.dtype) == dtype
            gradients_agree(found, wanted, job.name)


def gradients_of(graph):
    return backprop_graph(graph, STANDARD, float_positions(graph.input_types))


@pytest.mark.slow
@pytest.mark.parametrize("primitive", sorted(PRIMITIVES.keys() - LOOPS))
@pytest.mark.parametrize("dtype", sorted(ALL))
def test_a_primitive_of_any_type_does_what_the_reference_does(primitive, dtype):
    check(primitive, dtype)


def check(primitive, dtype):
    for case in cases(dtype):
        graph = case.graph()
        if case.primitive != primitive or any(node.primitive.name in LOOPS for node in graph.nodes):
            continue
        operands = case.operands(1)
        try:
            expected = REFERENCE.load(graph)(operands)
        except Exception as error:
            with pytest.raises(type(error)):
                loaded(graph)(operands)
            continue
        for found, wanted in zip(loaded(graph)(operands), expected, strict=True):
            assert_same(found, wanted, dtype)


@pytest.mark.parametrize("seed", range(12))
def test_a_random_program_gives_what_the_reference_gives(seed):
    graph = random_program(random.Random(seed).choice, dtype="float64", steps=14)
    rng = np.random.default_rng(seed)
    operands = [np.asarray(rng.normal(size=shape_at(v.shape, 1))) for v in graph.inputs]
    for found, expected in zip(ENGINE.load(graph)(operands), REFERENCE.load(graph)(operands), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def trainer_of(loss=nn.losses.cross_entropy, **options):
    cr.seed(3)
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm(5), nn.Linear(5, 3)]
    return cr.Trainer(nn.Sequential(*layers), loss=loss, optimizer=optim.Adam(1e-2), **options)


def test_online_training_agrees_with_the_reference():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, 40)
    found, expected = trainer_of(engine="cpu"), trainer_of(engine="reference")
    for trainer in (found, expected):
        trainer.fit((x, y), epochs=2, batch_size=1)
    assert "_of_one(" in found.step.c_source
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-5)
    for path, array in expected.model_arrays().items():
        np.testing.assert_allclose(found.model_arrays()[path], array, rtol=2e-3, atol=2e-5, err_msg=path)


def test_online_training_agrees_with_the_same_in_loops(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, 40)
    written, looped = trainer_of(engine="cpu"), trainer_of(engine="cpu")
    written.fit((x, y), epochs=2, batch_size=1)
    monkeypatch.setattr("chainrule.engines.cpu.straight.MOST_OPERATIONS", 0)
    looped.fit((x, y), epochs=2, batch_size=1)
    assert "_of_one(" not in looped.step.c_source
    np.testing.assert_allclose(written.history["loss"], looped.history["loss"], rtol=1e-5)


def test_what_is_large_runs_in_loops():
    builder = Builder()
    x, w = builder.input(ArrayType((BATCH, 60), "float32"), "x"), builder.input(ArrayType((60, 60), "float32"), "w")
    graph = builder.finish("large", [builder.matmul(x, w)])
    assert not is_small(graph)
    assert "_of_one(" not in ENGINE.load(graph).c_source


def test_a_product_is_added_to_what_is_added_to_it_and_to_nothing_twice():
    """Of two products that are added together, and of one that is needed for itself too, none may get lost."""
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 3), "float32"), "x")
    a, b = (builder.input(ArrayType((3, 3), "float32"), name) for name in "ab")
    first, second, third = builder.matmul(x, a), builder.matmul(x, b), builder.matmul(x, builder.add(a, b))
    both = builder.add(first, second)
    graph = builder.finish("sums", [both, builder.add(third, x), third, builder.add(builder.matmul(x, a), x)])
    rng = np.random.default_rng(0)
    operands = [rng.normal(size=shape_at(v.shape, 1)).astype(np.float32) for v in graph.inputs]
    for found, expected in zip(loaded(graph)(operands), REFERENCE.load(graph)(operands), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [None, np.array([4, 0, 0, 3, 2, 4, 1])])
def test_state_that_stays_in_locals_has_the_bits_of_single_calls(rows):
    """Logistic and tanh units, of which one is far out, where the functions take another way."""
    builder = Builder()
    w, seen = builder.input(ArrayType((3, 2), "float32"), "w"), builder.input(ArrayType((), "bool"), "seen")
    x = builder.input(ArrayType((BATCH, 3), "float32"), "x")
    hidden = builder.logistic(builder.matmul(x, w))
    grown = builder.sub(w, builder.matmul(builder.transpose(x, (1, 0)), builder.tanh(hidden)))
    graph = builder.finish("online", [grown, builder.logical_not(seen), hidden])
    operands = [
        np.array([[1, 2], [-3, 4], [500, -500]], np.float32),
        np.array(False),
        np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32),
    ]
    how = Repetition(7, 1, {0: 0, 1: 1}, frozenset({2}), rows)
    program = loaded(graph, frozenset({0, 1}))
    found = program.repeat([array.copy() for array in operands], how)
    single = repeat_plainly(program, graph, [array.copy() for array in operands], how)
    defined = repeat_plainly(REFERENCE.load(graph), graph, operands, how)
    for x, y, z in zip(found, single, defined, strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_allclose(x, z, rtol=1e-5)
    assert found[1].dtype == bool
