"""Loop nests of the same C share a function, and still compute what each of them means."""

import re

import numpy as np

import chainrule as cr
from chainrule import nn, optim
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.functions import Functions
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH, shape_at

POINTERS = {"x_3": ("float", 3), "y_4": ("float", 4), "z_7": ("float", 7), "w_7": ("float", 7)}


def nest(functions, name, text):
    return functions.nest(name, "void *context, long chunk", POINTERS, [], text)


def test_what_differs_in_names_alone_is_one_function():
    functions = Functions()
    assert nest(functions, "nest_0", "x_3[0] = y_4[0];") == ("nest_0", {})
    assert nest(functions, "nest_1", "y_4[0] = z_7[0];") == ("nest_0", {3: 4, 4: 7})
    assert nest(functions, "nest_2", "x_3[0] = y_4[1];") == ("nest_2", {})
    assert len(functions.texts) == 2


def test_what_overlaps_is_told_from_what_does_not():
    functions = Functions()
    assert nest(functions, "nest_0", "z_7[0] = w_7[0];") == ("nest_0", {})
    assert nest(functions, "nest_1", "x_3[0] = y_4[0];") == ("nest_1", {})


def layers(count):
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 40), "float32"), "x")
    weights = [builder.input(ArrayType((40, 40), "float32"), f"w{k}") for k in range(count)]
    kept = []
    for w in weights:
        x = builder.tanh(builder.matmul(x, w))
        kept.append(builder.reduce_sum(builder.mul(x, x), (0, 1)))
    return builder.finish("layers", [x, *kept])


def test_more_layers_of_one_kind_are_no_more_functions():
    few, many = (ENGINE.load(layers(count)).c_source for count in (4, 9))
    assert len(re.findall(r"^static void nest_", few, re.M)) == len(re.findall(r"^static void nest_", many, re.M))


def test_every_layer_reads_its_own_weights():
    graph, rng = layers(6), np.random.default_rng(0)
    operands = [0.2 * rng.normal(size=shape_at(v.shape, 7)).astype(np.float32) for v in graph.inputs]
    for found, expected in zip(ENGINE.load(graph)(operands), REFERENCE.load(graph)(operands), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def deep(engine):
    cr.seed(3)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 9, 9, 3)).astype(np.float32), rng.integers(0, 5, 20)
    body = [nn.Sequential(nn.Conv2d(8, 8, 3, padding="same"), nn.BatchNorm(8), nn.ReLU()) for _ in range(4)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), *body, nn.Flatten(), nn.Linear(9 * 9 * 8, 5))
    trainer = cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=optim.SGD(1e-2), engine=engine)
    return [trainer.partial_fit(x, y) for _ in range(3)], trainer


def test_a_network_of_equal_blocks_learns_as_the_reference_says():
    (found, trainer), (expected, reference) = deep("cpu"), deep("reference")
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for path, array in reference.model_arrays().items():
        np.testing.assert_allclose(trainer.model_arrays()[path], array, rtol=1e-3, atol=1e-4, err_msg=path)
