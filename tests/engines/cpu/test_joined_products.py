"""Products that sink into loops, and sums of products as one: which they are, and that nothing but last digits changes."""

import numpy as np
import pytest
from tests.engines.cpu.agreement import same_bits

import chainrule as cr
from chainrule import nn, ops
from chainrule.core.trees import tree_map
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.inline import inline_calls
from chainrule.engines.cpu.joined_products import join_products
from chainrule.engines.cpu.sunk_products import at_one_step, sink_products
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.contraction import Contraction, parse_contraction, plain
from chainrule.ir.verify import verify
from chainrule.passes import optimise
from chainrule.trace.array import as_array

T, C, H = 9, 6, 24


def whole(*shape, seed=0):
    """Small whole numbers, of which sums are exact in any order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def traced(function, *arguments, batch=("x",)):
    return inline_calls(optimise(cr.trace(function, *arguments, batch=batch)))


def rewritten(graph):
    found = join_products(sink_products(graph))
    verify(found)
    return found


def names(graph):
    return [node.primitive.name for node in graph.nodes]


def loop_of(graph):
    (scan,) = [node for node in graph.nodes if node.primitive.name == "scan"]
    return scan


def check(graph, operands, exact=True):
    """The graph as it is, rewritten, and on the cpu engine gives the same."""
    expected = REFERENCE.load(graph)(operands)
    for results in (REFERENCE.load(rewritten(graph))(operands), ENGINE.load(graph)(operands)):
        for one, other in zip(results, expected, strict=True):
            if exact:
                np.testing.assert_array_equal(one, other)
            else:
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def layer(weights, x, start, reverse=False, keep=False):
    """A relu network along time, its input multiplied before the loop; whole numbers stay so."""
    given = ops.transpose(as_array(x), (1, 0, 2)) @ weights["v"] + weights["b"] + weights["b"]

    def body(h, g):
        h = cr.minimum(cr.relu(g + h @ weights["w"]), 3.0)
        return h, h

    last, states = cr.scan(body, start, given, reverse=reverse)
    return (last, states, given) if keep else (last, states)


def weights_of(c=C):
    return {"v": whole(c, H, seed=1), "w": whole(H, H, seed=2), "b": whole(H, seed=3)}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_product_sinks_into_the_loop_that_reads_it_and_joins_the_one_there(reverse):
    arguments = weights_of(), whole(11, T, C), whole(11, H)
    graph = traced(lambda weights, x, start: layer(weights, x, start, reverse), *arguments, batch=("x", "start"))
    assert "contract" in names(graph)
    found = rewritten(graph)
    assert "contract" not in names(found)
    body = loop_of(found).attributes["body"]
    assert names(body).count("contract") == 1
    (product,) = [node for node in body.nodes if node.primitive.name == "contract"]
    assert product.inputs[0].shape[1] == C + H
    check(graph, [*arguments[0].values(), *arguments[1:]])


def test_what_else_is_read_stays_before_the_loop():
    arguments = weights_of(), whole(5, T, C), whole(5, H)
    graph = traced(lambda w, x, start: layer(w, x, start, keep=True), *arguments, batch=("x", "start"))
    assert "contract" in names(rewritten(graph))
    check(graph, [*arguments[0].values(), *arguments[1:]])


def test_a_product_with_a_wide_operand_stays_before_the_loop():
    arguments = weights_of(H), whole(5, T, H), whole(5, H)
    graph = traced(layer, *arguments, batch=("x", "start"))
    assert "contract" in names(rewritten(graph))


def test_nothing_sinks_into_a_loop_that_looks_at_other_rows():
    def function(w, x):
        given = ops.transpose(as_array(x), (1, 0, 2)) @ w

        def body(h, g):
            h = g - (h + g).mean(0)
            return h, h

        return cr.scan(body, given[0] * 0, given)[1]

    graph = traced(function, whole(C, H), whole(8, T, C))
    assert "contract" in names(rewritten(graph))


def over_time(body, start, x):
    return cr.scan(body, start, ops.transpose(as_array(x), (1, 0, 2)))


def products_in_loop(graph):
    return names(loop_of(rewritten(graph)).attributes["body"]).count("contract")


def test_sums_of_three_products_and_other_terms_are_one_product():
    def function(w, x, start):
        def body(h, row):
            total = row @ w["v"] + w["b"] + (h @ w["w"] + h) + (row + 1) @ w["v"]
            h = cr.minimum(cr.relu(total), 3.0)
            return h, h

        return over_time(body, start, x)

    # Products of the input have left the loop in a pass, and come back.
    arguments = weights_of(), whole(9, T, C), whole(9, H)
    graph = traced(function, *arguments, batch=("x", "start"))
    assert products_in_loop(graph) == 1
    assert "contract" not in names(rewritten(graph))
    check(graph, [*arguments[0].values(), *arguments[1:]])


def test_products_that_are_read_elsewhere_too_stay_apart():
    def function(w, x, start):
        def body(h, row):
            p = h[:, :C] @ w["v"]
            return cr.minimum(cr.relu(p + h @ w["w"] + row.sum()), 3.0), p

        return over_time(body, start, x)

    arguments = weights_of(), whole(9, T, C), whole(9, H)
    graph = traced(function, *arguments, batch=("x", "start"))
    assert products_in_loop(graph) == 2
    check(graph, [*arguments[0].values(), *arguments[1:]])


def test_products_with_more_to_copy_than_to_write_stay_apart():
    def function(w, x, start):
        def body(h, row):
            wide = cr.concatenate([h, h, row], -1)
            return cr.minimum(cr.relu(wide @ w["wide"] + h @ w["w"]), 3.0), h

        return over_time(body, start, x)

    weights = {"wide": whole(2 * H + C, H, seed=1), "w": whole(H, H, seed=2)}
    arguments = weights, whole(9, T, C), whole(9, H)
    graph = traced(function, *arguments, batch=("x", "start"))
    assert products_in_loop(graph) == 2
    check(graph, [*arguments[0].values(), *arguments[1:]])


LAYERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
SETTINGS = [{}, {"num_layers": 2}, {"bidirectional": True}, {"truncate": 4}]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gradients_of_recurrent_layers_stay_and_have_the_same_bits_on_any_number_of_threads(kind, settings):
    cr.seed(4)
    model = LAYERS[kind](C, H, return_state=False, **settings)
    model = tree_map(lambda leaf: np.asarray(leaf, np.float64), model)
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(19, T, C)), rng.integers(1, T + 1, 19)

    def function(model, x, lengths):
        return cr.value_and_grad(lambda m: (m(x, lengths=lengths) ** 2).sum())(model)

    compiled = cr.compile(function, batch=("x", "lengths"), engine="reference")
    graph, operands = compiled.graph_and_arrays(model, x, lengths)
    check(graph, operands, exact=False)
    same_bits(ENGINE.load(graph), operands)


def test_an_lstm_has_no_product_of_all_its_steps_before_the_loop():
    cr.seed(1)
    model = nn.LSTM(C, H, return_state=False, return_sequences=False)
    graph = traced(lambda model, x: model(x), model, np.zeros((4, T, C), np.float32))
    assert "contract" not in names(rewritten(graph))


def test_the_second_order_gradient_of_a_recurrent_layer():
    cr.seed(2)
    model = tree_map(lambda leaf: np.asarray(leaf, np.float64), nn.LSTM(3, 8, return_state=False))
    x = np.random.default_rng(1).normal(size=(10, 6, 3))

    def function(model, x):
        slope = cr.grad(lambda x: (model(x) ** 2).sum())
        return cr.value_and_grad(lambda x: (slope(x) ** 2).sum())(x)

    graph, operands = cr.compile(function, batch=("x",), engine="reference").graph_and_arrays(model, x)
    check(graph, operands, exact=False)


def test_one_step_of_a_contraction():
    spec = parse_contraction("[9, B, 24] i0:9 i1:B i2:24 i3:6 | [i0, i1, i2] += [i1, i0, i3] * [i3, i2]")
    found = at_one_step(spec, [("B", 9, 6), (6, 24)], 9)
    assert found.axes == (1, None)
    assert str(found.spec) == "[B, 24] i0:B i1:24 i2:6 | [i0, i1] += [i0, i2] * [i2, i1]"
    # A convolution along time reads several steps at once.
    window = Contraction(
        (7, 3), plain(0), (*parse_contraction("[7] i0:7 i1:3 | [i0] += [i0+i1] * [i1]").a,), plain(1), (7,)
    )
    assert at_one_step(window, [(9,), (3,)], 7) is None
    # Results of which none belongs to a step, and operands that are the same in every step.
    assert at_one_step(spec, [("B", 9, 6), (6, 24)], 8) is None
    same = parse_contraction("[9, 24] i0:9 i1:24 i2:6 | [i0, i1] += [i2] * [i2, i1]")
    assert at_one_step(same, [(6,), (6, 24)], 9) is None
