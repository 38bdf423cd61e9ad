"""Whole programs: random graphs, the training step, donation, threads, and the generated source."""

import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType, Origin
from chainrule.ir.sizes import BATCH, shape_at
from chainrule.passes import optimise
from chainrule.testing import random_program


def check_program(seed, dtype="float64"):
    source = random.Random(seed)
    graph = random_program(source.choice, dtype=dtype, steps=14)
    program = ENGINE.load(graph)
    for batch in (1, 4):
        rng = np.random.default_rng(seed)
        operands = [np.asarray(rng.normal(size=shape_at(v.shape, batch))).astype(dtype) for v in graph.inputs]
        # The reference sums in another order: where two large terms cancel, or a jump is near, nothing can be compared.
        for found, expected in zip(program(operands), REFERENCE.load(graph)(operands), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=f"seed {seed}, batch {batch}")


@pytest.mark.parametrize("seed", range(10))
def test_a_random_program_gives_what_the_reference_gives(seed):
    check_program(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_many_random_programs(seed):
    check_program(seed)


def trained(engine, steps=4):
    cr.seed(3)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 11)).astype(np.float32), rng.integers(0, 3, 50)
    model = nn.Sequential(nn.Linear(11, 19), nn.Tanh(), nn.Linear(19, 33), nn.ReLU(), nn.Linear(33, 3))
    trainer = cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=optim.Adam(1e-2), engine=engine)
    losses = [trainer.partial_fit(x[:n], y[:n]) for n in (32, 18, 32, 50)[:steps]]
    return losses, trainer


def test_a_training_step_agrees_with_the_reference():
    (found, trainer), (expected, reference) = trained("cpu"), trained("reference")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for path, array in reference.model_arrays().items():
        np.testing.assert_allclose(trainer.model_arrays()[path], array, rtol=2e-3, atol=2e-5, err_msg=path)


def update_graph():
    builder = Builder()
    w, m = (builder.input(ArrayType((37, 40), "float32"), name) for name in ("w", "m"))
    x, d = builder.input(ArrayType((BATCH, 37), "float32"), "x"), builder.input(ArrayType((BATCH, 40), "float32"), "d")
    hidden = builder.matmul(x, w)
    gradient = builder.matmul(builder.transpose(x, (1, 0)), builder.mul(d, hidden))
    following = builder.add(builder.mul(m, builder.full_like(m, 0.9)), gradient)
    return builder.finish("update", [builder.sub(w, following), following, builder.reduce_sum(hidden, (0, 1))])


def test_donated_operands_are_written_over_and_nothing_else_is():
    graph = update_graph()
    rng = np.random.default_rng(1)
    operands = [rng.normal(size=shape_at(v.shape, 6)).astype(np.float32) for v in graph.inputs]
    kept = [x.copy() for x in operands]
    expected = REFERENCE.load(graph)(kept)
    plain = ENGINE.load(graph)(operands)
    assert all(np.array_equal(x, y) for x, y in zip(operands, kept, strict=True))
    found = ENGINE.load(graph, frozenset({0, 1}))(operands)
    assert found[0] is operands[0]
    assert found[1] is operands[1]
    for x, y, z in zip(found, plain, expected, strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_allclose(x, z, rtol=1e-5, atol=1e-4)


_HASH = """
import hashlib, numpy as np
from tests.engines.cpu.test_programs import trained, update_graph
from chainrule.engines.cpu.engine import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH
_, trainer = trained("cpu")
digest = hashlib.sha256(b"".join(trainer.model_arrays()[p].tobytes() for p in sorted(trainer.model_arrays())))
rng = np.random.default_rng(0)
graph = update_graph()
arrays = [rng.normal(size=[3000 if not isinstance(d, int) else d for d in v.shape]).astype("f") for v in graph.inputs]
for result in ENGINE.load(graph)(arrays):
    digest.update(result.tobytes())
print(digest.hexdigest())
"""


def test_results_have_the_same_bits_for_any_number_of_threads():
    found = set()
    for threads in ("1", "2", "3", "5"):
        environment = {**os.environ, "CHAINRULE_THREADS": threads, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
        done = subprocess.run(
            [sys.executable, "-c", _HASH], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout.strip())
    assert len(found) == 1


def test_names_cannot_inject_code():
    builder = Builder()
    builder.origin = Origin('*/ system("rm"); /* \\\n??/', "evil*/.py", 1)
    x = builder.input(ArrayType((3,), "float32"), "x; } int main() { */ \\\n")
    graph = builder.finish("g */ #error", [builder.neg(x)])
    (found,) = ENGINE.load(graph)([np.ones(3, np.float32)])
    np.testing.assert_array_equal(found, -np.ones(3))


def test_a_result_of_another_shape_is_not_written_over_its_operand():
    builder = Builder()
    x = builder.input(ArrayType((2, 3), "float32"), "x")
    for y, expected in ((builder.neg(x), -np.ones(6)), (x, np.ones(6))):
        graph = builder.finish("flattened", [builder.reshape(y, (6,))])
        (found,) = ENGINE.load(graph, frozenset({0}))([np.ones((2, 3), np.float32)])
        np.testing.assert_array_equal(found, expected)
        assert found.shape == (6,)


def test_results_that_are_operands_or_repeat_are_copies():
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 2), "float32"), "x")
    y = builder.neg(x)
    graph = builder.finish("same", [x, y, y, builder.reshape(y, (BATCH * 2,)), builder.constant(np.arange(3.0))])
    operand = np.ones((4, 2), np.float32)
    found = ENGINE.load(graph)([operand])
    assert not any(np.shares_memory(a, b) for k, a in enumerate(found) for b in [operand, *found[:k]])
    for result, expected in zip(found, REFERENCE.load(graph)([operand]), strict=True):
        np.testing.assert_array_equal(result, expected)


def test_the_source_and_the_plan_can_be_read():
    program = ENGINE.load(optimise(update_graph()), frozenset({0, 1}))
    assert dict(program.steps)["plan memory"].splitlines() == [
        "graph_0 'update'",
        "  map: slots [0] -> [7: f32[37, 48]]",
        "  contract + 1 maps + 1 sums: slots [2, 7, 3] -> [8: f32[B, 40], 6: f32[]]",
        "  contract + 2 maps: slots [2, 8, 1, 0] -> [1: f32[37, 40], 0: f32[37, 40]]",
        "  arena slot 7: 7104 bytes, holds %4",
        "  arena slot 8: 160*B bytes, holds %6",
        "  result 0 is written over operand 0",
        "  result 1 is written over operand 1",
    ]
    assert "m_1 = ((m_1 * 0.9) + result);" in program.c_source


def test_tiles_are_found_from_every_part_of_a_long_source(monkeypatch):
    builder = Builder()
    x, y = (builder.input(ArrayType((BATCH, 64), "float32"), name) for name in "xy")
    slopes = builder.matmul(builder.transpose(x, (1, 0)), y)
    graph = builder.finish("slopes", [slopes, builder.matmul(builder.transpose(y, (1, 0)), x)])
    operands = [np.random.default_rng(k).normal(size=(70, 64)).astype(np.float32) for k in (0, 1)]
    whole = ENGINE.load(graph)
    assert re.search(r"^static .*void tile_\w+\(", whole.c_source, re.MULTILINE)
    expected = whole(operands)
    monkeypatch.setattr("chainrule.engines.cpu.parts.PART", 300)
    for found, same in zip(ENGINE.load(graph)(operands), expected, strict=True):
        np.testing.assert_array_equal(found, same)
