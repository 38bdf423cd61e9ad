"""What leaves a loop, what must stay, and that values, gradients and second derivatives are the same."""

from __future__ import annotations

import numpy as np
import pytest

import chainrule as cr
from chainrule.engines.reference import ENGINE
from chainrule.ir.verify import verify
from chainrule.passes import optimise
from chainrule.passes.loops import move_out_of_loops
from chainrule.passes.merge import merge_equal
from chainrule.passes.prune import prune
from chainrule.passes.simplify import simplify

RNG = np.random.default_rng(0)
T, N, C, H = 6, 3, 4, 5
W, U, D = RNG.normal(size=(C, H)), RNG.normal(size=(H, H)) * 0.4, RNG.normal(size=(H, C))
XS = RNG.normal(size=(T, N, C))
START = np.zeros((N, H))


def scans(graph):
    return [node for node in graph.nodes if node.primitive.name == "scan"]


def products(graph):
    return sum(node.primitive.name == "contract" for node in graph.nodes)


def both(function, *arrays, batch=()):
    """The graph with the loops as written and with the work moved out, after the same results from both."""
    graph = merge_equal(simplify(prune(cr.trace(function, *arrays, batch=batch))))
    moved = prune(verify(move_out_of_loops(graph)))
    expected, found = ENGINE.load(graph)(list(arrays)), ENGINE.load(moved)(list(arrays))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
    return graph, moved


def recurrent(w, u, start, xs, reverse=False):
    return cr.scan(lambda h, x: ((h := cr.tanh(x @ w + h @ u)), h), start, xs, reverse=reverse)[1]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_product_without_the_carry_is_computed_before_the_loop(reverse):
    before, after = both(lambda *a: recurrent(*a, reverse=reverse), W, U, START, XS)
    assert (products(before), products(after)) == (0, 1)
    (loop,) = scans(after)
    assert products(loop.attributes["body"]) == 1
    assert loop.inputs[-1].shape == (T, N, H)


def test_what_leads_to_such_a_product_moves_with_it():
    def function(w, u, start, xs):
        body = lambda h, x: ((h := cr.tanh(cr.concatenate([x[:, ::-1], -x], 1)[:, 2:6] * 2 @ w + h @ u)), h)  # noqa: E731
        return cr.scan(body, start, xs)[1]

    _, after = both(function, W, U, START, XS)
    assert products(after) == 1


def test_a_product_of_constants_of_the_loop_is_computed_once():
    _, after = both(
        lambda d, w, start, xs: cr.scan(lambda h, x: (h @ (d @ w) + x.sum(), None), start, xs)[0], D, W, START, XS
    )
    (product,) = [node for node in after.nodes if node.primitive.name == "contract"]
    assert product.output.shape == (H, H)


def test_a_product_that_only_results_need_is_computed_after_the_loop():
    def function(u, d, start, xs):
        return cr.scan(lambda h, x: ((h := cr.tanh(h @ u + x.sum())), h @ d), start, xs)[1]

    before, after = both(function, U, D, START, XS)
    assert (products(before), products(after)) == (0, 1)
    assert [value.shape for value in scans(after)[0].outputs] == [(N, H), (T, N, H)]


@pytest.mark.parametrize("batch", [(), ("start",)])
def test_the_cotangent_of_a_weight_is_one_product_over_all_steps(batch):
    wide = 40  # at the typical batch size the products' operands are smaller than the sum
    xs, u = RNG.normal(size=(T, wide)), RNG.normal(size=(wide, wide)) * 0.1

    def gradient(u, start, xs):
        def loss(u):
            return cr.square(cr.scan(lambda h, x: ((h := cr.tanh(h @ u + x)), h), start, xs)[1]).sum()

        return cr.grad(loss)(u)

    _, after = both(gradient, u, RNG.normal(size=(N, wide)), xs, batch=batch)
    (product,) = [node for node in after.nodes if node.primitive.name == "contract"]
    assert product.output.shape == (wide, wide)
    assert product.attributes["spec"].extents[0] == T
    backward = scans(after)[-1]
    assert all(value.shape != (wide, wide) for value in backward.outputs), "no accumulator is carried"


def test_sums_of_sums_leave_the_loop_with_what_rearranges_them():
    def gradient(w, b, start, xs):
        def loss(w, b):
            def body(h, x):
                gates = h @ w[:H] + x @ w[H:] + b
                return (h := cr.tanh(gates + h @ w[:H].T)), h

            return cr.square(cr.scan(body, start, xs)[1]).sum()

        return cr.grad(loss, (0, 1))(w, b)

    _, after = both(gradient, RNG.normal(size=(H + C, H)) * 0.3, RNG.normal(size=H), START, XS)
    backward = scans(after)[-1]
    assert all(value.shape[0] != H for value in backward.outputs)


def test_what_depends_on_the_carry_or_is_read_in_the_loop_stays():
    def function(u, d, w, start, xs):
        def body(carry, x):
            h, total = carry
            y = h @ d
            total = total + h.T @ h
            return (cr.tanh(y @ w + x @ w), total * 0.5), y

        return cr.scan(body, (start, u), xs)

    before, after = both(function, U, D, W, START, XS)
    assert products(scans(before)[0].attributes["body"]) == 4
    assert products(scans(after)[0].attributes["body"]) == 3


def test_loops_without_a_carry_and_named_operations_are_left_alone():
    def mapped(w, xs):
        return cr.scan(lambda _, x: (None, x @ w), None, xs)[1]

    _, after = both(mapped, W, XS)
    assert products(after) == 0
    product = cr.operation_with_rule(lambda x, w: x @ w)
    _, after = both(lambda w, s, xs: cr.scan(lambda h, x: (h + product(x, w), None), s, xs)[0], W, START, XS)
    assert products(after) == 0


def test_memory_grows_by_a_bounded_factor_at_most():
    wide = RNG.normal(size=(C, 100 * C))

    def function(w, start, xs):
        return cr.scan(lambda h, x: (h + cr.square(x @ w).sum(-1), h), start, xs)

    _, after = both(function, wide, np.zeros(N), XS)
    assert products(after) == 0, "a hundred times what the loop reads would have to be held"


def test_a_sum_smaller_than_its_operands_stays_in_the_loop():
    def gradient(u, start, xs):
        return cr.grad(lambda u: cr.square(cr.scan(lambda h, x: (cr.tanh(h @ u + x), None), start, xs)[0]).sum())(u)

    _, after = both(gradient, U, RNG.normal(size=(20 * N, H)), RNG.normal(size=(T, H)))
    assert (H, H) in [value.shape for value in scans(after)[-1].outputs]


def test_loops_of_no_and_one_step_are_left_alone():
    for length in (0, 1):
        both(recurrent, W, U, START, XS[:length])


def test_second_derivatives_are_those_of_the_loop_written_out():
    def penalty(scanned):
        def states(w, u, xs):
            if scanned:
                return recurrent(w, u, START, xs)
            h, rows = START, []
            for t in range(T):
                h = cr.tanh(xs[t] @ w + h @ u)
                rows.append(h)
            return cr.stack(rows)

        def norm(w, u, xs):
            return cr.square(cr.grad(lambda xs: cr.square(states(w, u, xs)).sum())(xs)).sum()

        return cr.grad(norm, (0, 1))

    for one, other in zip(penalty(True)(W, U, XS), penalty(False)(W, U, XS), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_optimising_again_moves_nothing_more():
    graph = optimise(cr.trace(lambda w, u, s, xs: cr.grad(lambda w: recurrent(w, u, s, xs).sum())(w), W, U, START, XS))
    again = optimise(graph)
    assert products(again) == products(graph)
    assert len(again.nodes) <= len(graph.nodes)
