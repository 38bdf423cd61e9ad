"""scan, fixed_point and operations with rules: values, structures, captured arrays, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ShapeError, TraceError

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3)) * 0.4
XS = RNG.normal(size=(5, 3))


def body(c, x):
    c = cr.tanh(c @ W + x)
    return c, c * 2


def unrolled(start, xs, order):
    c, rows = start, {}
    for t in order:
        c = np.tanh(c @ W + xs[t])
        rows[t] = 2 * c
    return c, np.stack([rows[t] for t in range(len(xs))])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("run", [lambda f: f, cr.compile], ids=["at once", "compiled"])
def test_scan_is_a_loop(run, reverse):
    last, rows = run(lambda start, xs: cr.scan(body, start, xs, reverse=reverse))(np.zeros(3), XS)
    expected = unrolled(np.zeros(3), XS, range(5)[::-1] if reverse else range(5))
    np.testing.assert_allclose(last, expected[0], rtol=1e-14)
    np.testing.assert_allclose(rows, expected[1], rtol=1e-14)


def test_carries_and_rows_are_trees():
    def step(carry, row):
        total, (count, extra) = carry
        return (total + row["x"], (count + 1, extra)), {"seen": total, "pair": [row["i"] * 2, None]}

    start = (np.zeros(3), (np.array(0), None))
    (total, (count, extra)), rows = cr.scan(step, start, {"x": XS, "i": np.arange(5)})
    np.testing.assert_allclose(total, XS.sum(0), rtol=1e-14)
    assert count == 5
    assert extra is None
    np.testing.assert_allclose(rows["seen"], np.concatenate([np.zeros((1, 3)), np.cumsum(XS, 0)[:-1]]), rtol=1e-13)
    assert rows["pair"][0].tolist() == [0, 2, 4, 6, 8]
    assert rows["pair"][1] is None


def test_a_scan_without_rows_or_without_a_carry():
    assert cr.scan(lambda c, _: (c * 2, None), 1.0, length=10)[0] == 1024
    assert cr.scan(lambda c, x: (None, x * 2), None, np.arange(3.0))[1].tolist() == [0, 2, 4]
    last, rows = cr.scan(lambda c, x: (c + x, c), np.array(7.0), np.zeros((0,)))
    assert last == 7
    assert rows.shape == (0,)


def test_scans_in_scans():
    def outer(c, row):
        inner, seen = cr.scan(lambda a, x: (a * 0.5 + x * c[0], a), c.sum(), row)
        return c + inner, seen

    last, rows = cr.compile(lambda xs: cr.scan(outer, np.ones(2), xs))(XS)
    c = np.ones(2)
    for t in range(5):
        a, seen = c.sum(), []
        for x in XS[t]:
            seen.append(a)
            a = a * 0.5 + x * c[0]
        np.testing.assert_allclose(rows[t], seen, rtol=1e-13)
        c = c + a
    np.testing.assert_allclose(last, c, rtol=1e-13)


def test_a_scan_over_time_of_a_batch_of_any_size():
    compiled = cr.compile(lambda x: cr.scan(body, 0 * x[:, 0], x.transpose(1, 0, 2))[0], batch="x")
    for count in (1, 2, 7):
        x = RNG.normal(size=(count, 4, 3))
        c = np.zeros((count, 3))
        for t in range(4):
            c = np.tanh(c @ W + x[:, t])
        np.testing.assert_allclose(compiled(x), c, rtol=1e-13)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: cr.scan(lambda c, x: c, 0.0, XS), r"must return a pair \(carry, y\)"),
        (lambda: cr.scan(lambda c, x: ((c, c), x), 0.0, XS), "a carry of the structure it was given"),
        (lambda: cr.scan(lambda c, x: (c + x, x), 0.0, XS), "keep the type of its carry: f32"),
        (lambda: cr.scan(body, np.zeros(3)), "one common leading size, not none"),
        (lambda: cr.scan(lambda c, x: (c, None), 0.0, (XS, XS[:2])), "one common leading size, not"),
        (lambda: cr.scan(body, np.zeros(3), XS, length=4), "one common leading size, not"),
        (lambda: cr.scan(body, np.zeros(3), np.array(1.0)), "one common leading size"),
        (lambda: cr.scan(body, np.zeros(3), XS, truncate=0), "at least 1, not 0"),
        (lambda: cr.fixed_point(lambda z: (z, z), np.zeros(3)), "a state of the structure it was given"),
        (lambda: cr.fixed_point(lambda z: z[0], np.zeros(3)), "keep the types of its state"),
        (lambda: cr.fixed_point(lambda z: z, np.zeros(3, int)), "floating-point states"),
    ],
)
def test_bodies_that_do_not_fit_are_refused(use, message):
    with pytest.raises((ShapeError, TypeError), match=message):
        use()


def test_the_batch_is_no_time():
    with pytest.raises(ShapeError, match="put time on the first axis"):
        cr.compile(lambda x: cr.scan(lambda c, row: (c, None), 0.0, x)[0], batch="x")(XS)


def test_a_fixed_point_of_a_linear_map_is_the_solution_of_its_equations():
    a, b = RNG.normal(size=(4, 4)) * 0.2, RNG.normal(size=4)
    z, count = cr.fixed_point(lambda z: a @ z + b, np.zeros(4), tolerance=1e-14)
    np.testing.assert_allclose(z, np.linalg.solve(np.eye(4) - a, b), rtol=1e-12)
    rate = np.abs(np.linalg.eigvals(a)).max()
    assert count.dtype == np.int64
    assert abs(int(count) - np.log(1e-14) / np.log(rate)) < 8, "as many iterations as the spectral radius predicts"


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_iteration_stops_at_the_tolerance(tolerance):
    """From 1 by halves: the move 2^-n is at most tolerance (1 + 2^-n) for the first time at n."""
    z, count = cr.fixed_point(lambda z: z * 0.5, np.array(1.0), tolerance=tolerance)
    expected = next(n for n in range(1, 99) if 2.0**-n <= tolerance * (1 + 2.0**-n))
    assert count == expected
    assert z == 2.0**-expected


def test_the_tolerance_is_relative_for_large_numbers():
    """z = z/2 + 500 moves by 500/2^n in step n, towards 1000."""
    z, count = cr.fixed_point(lambda z: 0.5 * z + 500, np.array(0.0), tolerance=1e-3)
    assert count == next(n for n in range(1, 99) if 1000 / 2**n <= 1e-3 * (1 + 1000 - 1000 / 2**n))
    assert count < 12
    assert z == 1000 - 1000 / 2**count


def test_iteration_stops_at_the_limit_and_says_so_by_the_count():
    z, count = cr.fixed_point(lambda z: z + 1, np.array(0.0), max_iterations=17)
    assert (z, count) == (17, 17)
    z, count = cr.fixed_point(lambda z: z * np.nan, np.array(1.0), max_iterations=9)
    assert np.isnan(z)
    assert count == 9, "NaN never converges"


def test_a_fixed_point_of_a_tree():
    found, _ = cr.fixed_point(
        lambda z: {"a": 0.5 * z["b"] + 1, "b": 0.5 * z["a"]}, {"a": np.array(0.0), "b": np.array(0.0)}, tolerance=1e-13
    )
    np.testing.assert_allclose([found["a"], found["b"]], [4 / 3, 2 / 3], rtol=1e-12)


# --- operations with rules --------------------------------------------------------------------------------------------------


def test_an_operation_with_its_own_rule():
    straight = cr.operation_with_rule(
        lambda x: cr.sign(x), lambda inputs, outputs, g: (g[0],), label="straight_through"
    )
    x = np.array([-2.0, 0.5])
    np.testing.assert_array_equal(straight(x), [-1, 1])
    np.testing.assert_array_equal(cr.grad(lambda x: (straight(x) * x).sum())(x), np.sign(x) + x)
    graph = cr.trace(lambda x: straight(x), x)
    assert [node.attributes["label"] for node in graph.nodes if node.primitive.name == "call"] == ["straight_through"]


def test_a_rule_sees_inputs_outputs_and_cotangents():
    def rule(inputs, outputs, cotangents):
        (x, y), (product, total), (dp, dt) = inputs, outputs, cotangents
        assert (product.shape, total.shape) == ((3,), ())
        return dp * y + dt, dp * x

    operation = cr.operation_with_rule(lambda x, y: (x * y, x.sum()), rule)

    def loss(x, y):
        product, total = operation(x, y)
        return cr.square(product).sum() + cr.tanh(total)

    assert cr.check_gradients(loss, RNG.normal(size=3), RNG.normal(size=3))
    assert cr.check_gradients(lambda x, y: cr.square(cr.grad(loss)(x, y)).sum(), RNG.normal(size=3), RNG.normal(size=3))


def test_an_operation_without_a_rule_is_differentiated_through_its_body():
    scale = np.array([2.0, 3.0])
    operation = cr.operation_with_rule(lambda x: cr.exp(x * scale))
    assert cr.check_gradients(lambda x: operation(x).sum(), np.array([0.1, -0.2]))


def test_captured_arrays_get_gradients_through_the_body_and_none_through_a_rule():
    def loss(w, rule):
        operation = cr.operation_with_rule(lambda x: x * w, rule)
        return operation(np.array(3.0)).sum()

    w = np.array(2.0)
    assert cr.grad(lambda w: loss(w, None))(w) == 3
    assert cr.grad(lambda w: loss(w, lambda i, o, g: (g[0],)))(w) == 0


def test_none_is_no_gradient_and_a_wrong_count_is_refused():
    operation = cr.operation_with_rule(lambda x, y: x * y, lambda i, o, g: (None, g[0]))
    to_x, to_y = cr.grad(lambda x, y: operation(x, y), (0, 1))(np.array(2.0), np.array(3.0))
    assert (to_x, to_y) == (0, 1)
    wrong = cr.operation_with_rule(lambda x, y: x * y, lambda i, o, g: (g[0],), label="product")
    with pytest.raises(ShapeError, match="rule of 'product' returned 1 cotangents for 2 operands"):
        wrong(np.array(2.0), np.array(3.0))


def test_a_rule_cannot_use_arrays_from_outside():
    def loss(w):
        operation = cr.operation_with_rule(lambda x: x * 2, lambda i, o, g: (g[0] * w,))
        return operation(np.array(3.0))

    with pytest.raises(TraceError, match="outside the function in whose tracing it was made"):
        cr.grad(loss)(np.array(1.0))


def test_operations_nest_and_work_inside_loops():
    twice = cr.operation_with_rule(lambda x: x * 2, lambda i, o, g: (g[0] * 20,))
    outer = cr.operation_with_rule(lambda x: twice(x) + 1)
    assert outer(np.array(3.0)) == 7
    assert cr.grad(lambda x: outer(x))(np.array(3.0)) == 20
    assert cr.grad(lambda x: cr.scan(lambda c, _: (outer(c), None), x, length=3)[0])(np.array(1.0)) == 8000
