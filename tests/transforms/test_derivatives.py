"""Gradients, vector products with Jacobians and Hessians, and gradients of gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ConfigError, DTypeError, ShapeError, TraceError

RNG = np.random.default_rng(0)


def network(params, x):
    h = cr.tanh(x @ params["w"] + params["b"])
    return cr.square(h @ params["v"]).mean()


PARAMS = {"w": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4), "v": RNG.normal(size=(4, 2))}
X = RNG.normal(size=(5, 3))


def torch_gradients():
    params = {name: torch.from_numpy(value).requires_grad_() for name, value in PARAMS.items()}
    loss = (torch.tanh(torch.from_numpy(X) @ params["w"] + params["b"]) @ params["v"]).square().mean()
    loss.backward()
    return loss.item(), {name: value.grad.numpy() for name, value in params.items()}


@pytest.mark.parametrize("run", [lambda f: f, cr.compile], ids=["at once", "in a compiled function"])
def test_the_gradient_of_a_network_equals_pytorchs(run):
    def both(params, x):
        return cr.value_and_grad(network)(params, x)

    loss, gradients = run(both)(PARAMS, X)
    expected, theirs = torch_gradients()
    assert float(loss) == pytest.approx(expected, rel=1e-14)
    assert gradients.keys() == PARAMS.keys()
    for name in PARAMS:
        np.testing.assert_allclose(gradients[name], theirs[name], rtol=1e-12, atol=1e-15)


def test_the_fifth_power_to_the_fifth_derivative():
    function = lambda x: x**5  # noqa: E731
    for expected in (5 * 2.0**4, 20 * 2.0**3, 60 * 2.0**2, 120 * 2.0, 120.0, 0.0):
        function = cr.grad(function)
        assert float(function(np.array(2.0))) == pytest.approx(expected, rel=1e-12)


def test_higher_derivatives_of_the_exponential_and_the_sine():
    up, round_ = cr.exp, cr.sin
    for order in range(1, 6):
        up, round_ = cr.grad(up), cr.grad(round_)
        assert float(up(np.array(0.7))) == pytest.approx(np.exp(0.7), rel=1e-13)
        assert float(round_(np.array(0.7))) == pytest.approx(np.sin(0.7 + order * np.pi / 2), rel=1e-13)


def test_several_arguments_and_keywords():
    def loss(a, b, *, scale):
        return (a * b).sum() * scale

    a, b = RNG.normal(size=3), RNG.normal(size=3)
    value, (to_b, to_a) = cr.value_and_grad(loss, (1, 0))(a, b, scale=2.0)
    np.testing.assert_allclose(to_b, 2 * a)
    np.testing.assert_allclose(to_a, 2 * b)
    assert value == pytest.approx(2 * a @ b)
    np.testing.assert_allclose(cr.grad(loss, 1)(a, b, scale=3.0), 3 * a)


def test_more_results_than_the_loss():
    def loss(x):
        return cr.square(x).sum(), {"double": 2 * x, "count": 3, "name": "aux"}

    (value, aux), gradient = cr.value_and_grad(loss, has_aux=True)(X)
    np.testing.assert_allclose(value, (X**2).sum())
    np.testing.assert_array_equal(aux["double"], 2 * X)
    assert (aux["count"], aux["name"]) == (3, "aux")
    np.testing.assert_allclose(gradient, 2 * X)


def test_integers_get_zeros_and_none_stays_none():
    def loss(tree):
        return (cr.take(tree["table"], tree["index"]) * 2).sum()

    gradient = cr.grad(loss)({"table": X, "index": np.array([1, 1]), "nothing": None})
    assert gradient["nothing"] is None
    assert gradient["index"].tolist() == [0, 0]
    assert gradient["table"].tolist() == [[0] * 3, [4] * 3, [0] * 3, [0] * 3, [0] * 3]


def test_an_array_that_is_both_captured_and_passed_counts_only_as_passed():
    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(cr.grad(lambda y: (y * x).sum())(x), x)

    def compiled(x):
        return cr.grad(lambda y: (y * x).sum())(x), cr.grad(lambda y: (y * y * x).sum())(x)

    one, two = cr.compile(compiled)(x)
    np.testing.assert_array_equal(one, x)
    np.testing.assert_array_equal(two, 2 * x * x)


def test_the_same_array_for_two_arguments_gives_two_gradients():
    x = np.array([1.0, 2.0])
    to_a, to_b = cr.grad(lambda a, b: (a * b * b).sum(), (0, 1))(x, x)
    np.testing.assert_array_equal(to_a, x * x)
    np.testing.assert_array_equal(to_b, 2 * x * x)


def test_gradients_of_different_orders_in_one_function():
    def penalised(x):
        inner = cr.grad(lambda y: cr.tanh(y).sum())(x)
        return cr.square(inner).sum() + x.sum()

    assert cr.check_gradients(penalised, RNG.normal(size=4))
    assert cr.check_gradients(lambda x: cr.square(cr.grad(penalised)(x)).sum(), RNG.normal(size=4))


def test_a_gradient_inside_a_loop():
    """Gradient descent as a scan; its end is differentiated through every step."""

    def descend(target):
        step = lambda x, _: (x - 0.1 * cr.grad(lambda y: cr.square(y - target).sum())(x), None)  # noqa: E731
        return cr.scan(step, 0 * target, length=20)[0]

    target = np.array([1.0, -2.0])
    np.testing.assert_allclose(cr.compile(descend)(target), target * (1 - 0.8**20), rtol=1e-13)
    np.testing.assert_allclose(cr.grad(lambda t: descend(t).sum())(target), [1 - 0.8**20] * 2, rtol=1e-13)


def test_numbers_are_differentiated_too():
    value, gradient = cr.value_and_grad(lambda w, x: (w * x).sum())(0.5, np.ones(3, np.float32))
    assert (value, gradient) == (1.5, 3)
    assert value.dtype == np.float32, "a Python number does not widen what it meets"


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: cr.grad(lambda x: x)(X), ShapeError, r"scalar loss, not Array\(f64\[5, 3\]\)"),
        (lambda: cr.grad(lambda x: x.argmax(0)[0])(X), DTypeError, "floating-point loss"),
        (lambda: cr.value_and_grad(lambda x: x.sum(), has_aux=True)(X), TraceError, r"pair \(loss, aux\)"),
        (lambda: cr.grad(lambda x: x.sum(), 1)(X), TraceError, "argument 1 is to be differentiated but only 1"),
        (lambda: cr.vjp(lambda x: x, X, cotangents=X[0]), ShapeError, "cotangents of type"),
        (lambda: cr.vjp(lambda x: x, X, cotangents=(X, X)), ShapeError, "2 cotangents were given for 1"),
        (lambda: cr.jvp(lambda x: x, (X,), (X[0],)), ShapeError, "tangents of type"),
    ],
)
def test_what_has_no_gradient(use, error, message):
    with pytest.raises(error, match=message):
        use()


def test_a_gradient_inside_an_operation_that_computes_at_once_is_refused():
    from chainrule.trace import operation

    @operation
    def energy(x):
        return cr.grad(lambda y: cr.square(y).sum())(x)

    with pytest.raises(TraceError, match=r"call the whole function through chainrule\.compile"):
        energy(X)
    np.testing.assert_array_equal(cr.compile(lambda x: energy(x))(X), 2 * X)


# --- products with Jacobians and Hessians ---------------------------------------------------------------------------------


def field(x, y):
    return {"a": cr.tanh(x @ y), "b": cr.sin(x).sum(0) * y[:, 0]}


ARGS = (RNG.normal(size=(2, 3)), RNG.normal(size=(3, 4)))
TANGENTS = (RNG.normal(size=(2, 3)), RNG.normal(size=(3, 4)))


def difference(function, step=1e-4):
    """The derivative of a function of t at 0, of sixth order."""
    weights = {1: 45, 2: -9, 3: 1}
    return sum(sign * w * function(sign * k * step) for k, w in weights.items() for sign in (1, -1)) / (60 * step)


def moved(t):
    return [x + t * d for x, d in zip(ARGS, TANGENTS, strict=True)]


@pytest.mark.parametrize("name", ["a", "b"])
def test_jvp_is_the_derivative_along_a_direction(name):
    outputs, tangents = cr.jvp(field, ARGS, TANGENTS)
    np.testing.assert_allclose(outputs[name], cr.compile(field)(*ARGS)[name], rtol=1e-15)
    np.testing.assert_allclose(
        tangents[name], difference(lambda t: cr.compile(field)(*moved(t))[name]), rtol=1e-8, atol=1e-9
    )


def test_vjp_and_jvp_are_transposes():
    cotangents = {"a": RNG.normal(size=(2, 4)), "b": RNG.normal(size=3)}
    _, pulled = cr.vjp(field, *ARGS, cotangents=cotangents)
    _, pushed = cr.jvp(field, ARGS, TANGENTS)
    left = sum((p * t).sum() for p, t in zip(pulled, TANGENTS, strict=True))
    right = sum((pushed[name] * cotangents[name]).sum() for name in cotangents)
    assert left == pytest.approx(right, rel=1e-13)


def scalar(x, y):
    return (cr.tanh(x @ y) * cr.sin(x).sum()).sum()


def test_hvp_is_the_derivative_of_the_gradient():
    found = cr.hessian_vector_product(scalar, ARGS, TANGENTS)
    for number in (0, 1):
        expected = difference(lambda t, n=number: cr.grad(scalar, n)(*moved(t)))
        np.testing.assert_allclose(found[number], expected, rtol=1e-7, atol=1e-8)


def test_hvp_equals_the_hessian_made_of_jacobians_of_the_gradient():
    def loss(x):
        return (cr.exp(x * 0.3) * cr.sin(x[::-1])).sum()

    x, v = RNG.normal(size=4), RNG.normal(size=4)
    hessian = np.stack([cr.jvp(cr.grad(loss), (x,), (e,))[1] for e in np.eye(4)])
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12, atol=1e-14)
    (found,) = cr.hessian_vector_product(loss, (x,), (v,))
    np.testing.assert_allclose(found, hessian @ v, rtol=1e-12)


@pytest.mark.parametrize("product", [cr.jvp, cr.hessian_vector_product])
def test_directions_that_do_not_fit_are_refused(product):
    def loss(x):
        return (x**3).sum()

    x = np.arange(3.0)
    for args, directions in ((x, (x,)), ((x,), x)):
        with pytest.raises(ConfigError, match=r"such as \(x,\), not an array"):
            product(loss, args, directions)
    with pytest.raises(ShapeError, match=r"2 (tangents|vectors) were given for 1 arrays"):
        product(loss, (x,), (x, x))
    for wrong in (np.ones(1), np.ones(4), 1.0):  # which would be broadcast, or would not
        with pytest.raises(ShapeError, match=r"(tangents|vectors) of type .* were given for Array\(f64\[3\]"):
            product(loss, (x,), (wrong,))


def test_products_in_compiled_functions_of_any_batch_size():
    compiled = cr.compile(lambda x, v: cr.jvp(lambda x: cr.tanh(x).sum(1), (x,), (v,)), batch=("x", "v"))
    for count in (1, 3):
        x, v = RNG.normal(size=(2, count, 3))
        _, tangent = compiled(x, v)
        np.testing.assert_allclose(tangent, ((1 - np.tanh(x) ** 2) * v).sum(1), rtol=1e-12)
    assert len(compiled._programs) == 1


def test_integer_results_have_no_tangents():
    outputs, tangents = cr.jvp(lambda x: (x * 2, x.argmax(0)), (np.array([1.0, 3.0]),), (np.ones(2),))
    assert outputs[1] == 1
    assert tangents[0].tolist() == [2, 2]
    assert tangents[1] == 0
