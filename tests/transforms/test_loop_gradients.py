"""Backpropagation through time, truncated and not, and implicit differentiation of fixed points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import chainrule as cr

RNG = np.random.default_rng(0)
W, U = RNG.normal(size=(3, 3)) * 0.5, RNG.normal(size=(2, 3))
XS = RNG.normal(size=(6, 2))
START = RNG.normal(size=3)


def scanned(w, u, start, xs, **options):
    def body(c, x):
        c = cr.tanh(c @ w + x @ u)
        return c, cr.sin(c)

    last, rows = cr.scan(body, start, xs, **options)
    return cr.square(last).sum() + (rows * rows[::-1]).sum()


def unrolled(w, u, start, xs, reverse=False, cut=lambda position: False):
    c, rows = start, [None] * len(xs)
    order = list(range(len(xs)))[::-1] if reverse else list(range(len(xs)))
    for position, t in enumerate(order):
        if cut(position):
            c = cr.stop_gradient(c)
        c = cr.tanh(c @ w + xs[t] @ u)
        rows[t] = cr.sin(c)
    rows = cr.stack(rows)
    return cr.square(c).sum() + (rows * rows[::-1]).sum()


def same_gradients(one, other, *args):
    for found, expected in zip(
        cr.grad(one, range(len(args)))(*args), cr.grad(other, range(len(args)))(*args), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


ARGS = (W, U, START, XS)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradient_of_a_scan_is_that_of_the_unrolled_loop(reverse):
    same_gradients(lambda *a: scanned(*a, reverse=reverse), lambda *a: unrolled(*a, reverse=reverse), *ARGS)
    assert cr.check_gradients(lambda *a: scanned(*a, reverse=reverse), *ARGS)


def test_the_gradient_of_a_recurrent_network_equals_pytorchs():
    cell = torch.nn.RNN(2, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih_l0.copy_(torch.from_numpy(U.T))
        cell.weight_hh_l0.copy_(torch.from_numpy(W.T))
    outputs, _ = cell(torch.from_numpy(XS)[:, None], torch.from_numpy(START)[None, None])
    outputs.square().sum().backward()

    def loss(w, u):
        def body(c, x):
            c = cr.tanh(c @ w + x @ u)
            return c, c

        return cr.square(cr.scan(body, START, XS)[1]).sum()

    to_w, to_u = cr.grad(loss, (0, 1))(W, U)
    np.testing.assert_allclose(to_w, cell.weight_hh_l0.grad.numpy().T, rtol=1e-12)
    np.testing.assert_allclose(to_u, cell.weight_ih_l0.grad.numpy().T, rtol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 4, 6, 100])
def test_truncation_cuts_the_gradient_and_nothing_else(steps, reverse):
    def cut(position):
        return position > 0 and position % steps == 0

    assert scanned(*ARGS) == pytest.approx(float(scanned(*ARGS, truncate=steps)), rel=1e-15)
    same_gradients(
        lambda *a: scanned(*a, truncate=steps, reverse=reverse),
        lambda *a: unrolled(*a, reverse=reverse, cut=cut),
        *ARGS,
    )


def test_truncation_makes_a_difference():
    whole, cut = cr.grad(scanned)(*ARGS), cr.grad(lambda *a: scanned(*a, truncate=2))(*ARGS)
    assert np.abs(whole - cut).max() > 1e-3
    np.testing.assert_allclose(cr.grad(lambda *a: scanned(*a, truncate=6))(*ARGS), whole, rtol=1e-13)


def test_second_derivatives_through_time():
    def norm(function):
        return lambda *a: sum(cr.square(g).sum() for g in cr.grad(function, (0, 1, 2, 3))(*a))

    same_gradients(norm(scanned), norm(unrolled), *ARGS)
    assert cr.check_gradients(norm(scanned), *ARGS)


def test_products_with_jacobians_through_time():
    directions = [RNG.normal(size=x.shape) for x in ARGS]
    found, expected = (cr.jvp(f, ARGS, directions)[1] for f in (scanned, unrolled))
    assert float(found) == pytest.approx(float(expected), rel=1e-11)
    for a, b in zip(*(cr.hessian_vector_product(f, ARGS, directions) for f in (scanned, unrolled)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_scans_in_scans():
    def nested(w, xs):
        def outer(c, row):
            inner, seen = cr.scan(lambda a, x: (cr.tanh(a * w[0, 0] + x + c[0]), a * x), c.sum(), row)
            return cr.tanh(c @ w + inner), seen

        last, rows = cr.scan(outer, START, xs)
        return cr.square(last).sum() + cr.square(rows).sum()

    assert cr.check_gradients(nested, W, XS)
    assert cr.check_gradients(lambda w, xs: cr.square(cr.grad(nested)(w, xs)).sum(), W, XS)


def test_carries_without_gradients_and_unused_results():
    def loss(x):
        def body(carry, row):
            count, total, ignored = carry
            return (count + 1, total + row * count.astype("float64"), ignored * 2), (total, row > 0)

        (count, total, _), (seen, _) = cr.scan(body, (np.array(1), 0 * x[0], x[0]), x)
        return (total * count.astype("float64")).sum() + cr.square(seen).sum()

    assert cr.check_gradients(loss, XS)


@pytest.mark.parametrize("length", [0, 1])
def test_short_loops(length):
    def loss(c, xs):
        last, rows = cr.scan(lambda c, x: (c * x, c + x), c, xs)
        return cr.square(last).sum() + rows.sum()

    assert cr.check_gradients(loss, np.array(1.5), RNG.normal(size=length))


def test_a_scan_used_by_several_gradients_at_once():
    def both(w):
        return cr.grad(lambda w: scanned(w, U, START, XS))(w), cr.grad(lambda w: scanned(2 * w, U, START, XS))(w)

    one, two = cr.compile(both)(W)
    np.testing.assert_allclose(one, cr.grad(unrolled)(*ARGS), rtol=1e-11)
    np.testing.assert_allclose(two, 2 * cr.grad(unrolled)(2 * W, U, START, XS), rtol=1e-11)


def test_one_scan_pulled_back_twice():
    def jacobian(w):
        rows = cr.scan(lambda c, x: (cr.tanh(c @ w + x @ U),) * 2, START, XS)[1]
        return rows[-1]

    expected = [cr.grad(lambda w, k=k: jacobian(w)[k])(W) for k in range(3)]
    pulled = cr.compile(lambda w: [cr.vjp(jacobian, w, cotangents=e)[1][0] for e in np.eye(3)])(W)
    np.testing.assert_allclose(pulled, expected, rtol=1e-12)


def test_the_backward_program_keeps_the_length_out_of_its_size():
    sizes = [len(cr.trace(cr.grad(scanned), W, U, START, RNG.normal(size=(n, 2))).nodes) for n in (2, 200)]
    assert sizes[0] == sizes[1]


def test_what_is_the_same_in_every_step_is_computed_again_and_not_stacked():
    def loss(w, xs):
        return cr.scan(lambda c, x: (c + x * cr.exp(w).sum(), None), 0.0 * xs[0], xs)[0]

    graph = cr.trace(cr.grad(loss), np.ones((50, 50)), np.ones(6))
    forward, _ = (node for node in graph.nodes if node.primitive.name == "scan")
    assert all(value.type.rank <= 1 for value in forward.outputs)


def test_a_batch_of_any_size_through_time():
    def loss(w, x):
        def body(c, row):
            c = cr.tanh(c @ w + row)
            return c, None

        return cr.square(cr.scan(body, 0 * x[:, 0], x.transpose(1, 0, 2))[0]).mean()

    compiled = cr.compile(lambda w, x: cr.grad(loss)(w, x), batch="x")
    for count in (1, 2, 5):
        x = RNG.normal(size=(count, 4, 3))
        np.testing.assert_allclose(compiled(W, x), cr.grad(loss)(W, x), rtol=1e-12)
    assert len(compiled._programs) == 1


def test_random_numbers_in_a_body_are_the_same_forwards_and_backwards():
    def loss(w, key):
        from chainrule.trace import using_key

        with using_key(key):
            return cr.scan(
                lambda c, _: (cr.tanh(c * w + cr.random.normal((), dtype="float64")), None), 0 * w, length=5
            )[0]

    assert cr.check_gradients(loss, np.array(0.7), cr.random.key(3), argnums=0)


# --- fixed points ---------------------------------------------------------------------------------------------------------


A, B = RNG.normal(size=(4, 4)) * 0.2, RNG.normal(size=4)


def solution(a, b, tolerance=1e-13):
    return cr.fixed_point(lambda z: a @ z + b, 0 * b, tolerance=tolerance)[0]


def test_the_gradient_of_a_linear_fixed_point_is_in_closed_form():
    """z = (I - A)⁻¹ b: with g = ∂L/∂z, ∂L/∂b = (I - A)⁻ᵀ g and ∂L/∂A = (∂L/∂b) zᵀ."""
    g = RNG.normal(size=4)
    to_a, to_b = cr.grad(lambda a, b: solution(a, b) @ g, (0, 1))(A, B)
    z, u = np.linalg.solve(np.eye(4) - A, B), np.linalg.solve(np.eye(4) - A.T, g)
    np.testing.assert_allclose(to_b, u, rtol=1e-11)
    np.testing.assert_allclose(to_a, np.outer(u, z), rtol=1e-11)


def network(w, x):
    """A layer of neurons that act on each other until they settle: Almeida–Pineda."""
    return cr.fixed_point(lambda z: cr.tanh(z @ w * 0.4 + x), 0 * x, tolerance=1e-14)[0]


def test_the_implicit_gradient_equals_differences_and_that_of_the_unrolled_iteration():
    x = RNG.normal(size=3)

    def unrolled(w, x):
        z = 0 * x
        for _ in range(60):
            z = cr.tanh(z @ w * 0.4 + x)
        return z

    same_gradients(lambda w, x: cr.square(network(w, x)).sum(), lambda w, x: cr.square(unrolled(w, x)).sum(), W, x)
    assert cr.check_gradients(lambda w, x: cr.square(network(w, x)).sum(), W, x)
    assert cr.check_gradients(lambda w, x: cr.square(cr.grad(lambda w: network(w, x).sum())(w)).sum(), W, x)


def test_the_start_gets_no_gradient():
    def loss(start, b):
        return cr.fixed_point(lambda z: 0.5 * z + b, start, tolerance=1e-12)[0].sum()

    to_start, to_b = cr.grad(loss, (0, 1))(np.ones(2), np.ones(2))
    assert to_start.tolist() == [0, 0]
    np.testing.assert_allclose(to_b, [2, 2], rtol=1e-10)


def test_the_adjoint_is_solved_to_the_same_tolerance():
    graph = cr.trace(cr.grad(lambda a, b: solution(a, b, 1e-5).sum()), A, B)
    loops = [node for node in graph.nodes if node.primitive.name == "fixed_point"]
    assert [node.attributes["tolerance"] for node in loops] == [1e-5, 1e-5]
    assert loops[1].origin.phase == "backward"


def test_products_through_fixed_points():
    x, direction = RNG.normal(size=3), RNG.normal(size=3)
    _, found = cr.jvp(lambda x: network(W, x), (x,), (direction,))
    step = 1e-5
    expected = (network(W, x + step * direction) - network(W, x - step * direction)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_a_fixed_point_inside_a_loop_and_a_loop_inside_a_fixed_point():
    def inside(w, xs):
        return cr.scan(lambda c, x: (network(w, x + 0.1 * c), None), 0 * xs[0], xs)[0].sum()

    def around(w, x):
        def body(z):
            return cr.scan(lambda c, _: (cr.tanh(c @ w * 0.4 + x), None), z, length=3)[0]

        return cr.fixed_point(body, 0 * x, tolerance=1e-14)[0].sum()

    assert cr.check_gradients(inside, W, RNG.normal(size=(3, 3)))
    assert cr.check_gradients(around, W, RNG.normal(size=3))
