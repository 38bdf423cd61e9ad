"""L-BFGS with and without a line search against PyTorch's, and where it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ConfigError, ShapeError

RNG = np.random.default_rng(0)


def rosenbrock(x: Any) -> Any:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def theirs(function: Any, start: Any, **options: Any) -> np.ndarray:
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = function(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    found: np.ndarray = x.detach().numpy()
    return found


@pytest.mark.parametrize("iterations", [1, 2, 5, 20])
@pytest.mark.parametrize("history", [3, 100])
def test_steps_of_a_fixed_length_are_those_of_torch(network: Any, iterations: int, history: int) -> None:
    x, y = network.batches[0]
    leaves = {path: torch.tensor(w, requires_grad=True) for path, w in network.weights.items()}
    options: dict[str, Any] = {"lr": 0.4, "max_iter": iterations, "max_eval": 100}
    optimizer = torch.optim.LBFGS(leaves.values(), history_size=history, **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = network.torch_loss(leaves, torch.tensor(x), torch.tensor(y))
        loss.backward()
        return loss

    optimizer.step(closure)
    graded = cr.compile(cr.value_and_grad(network.loss))
    found = optim.minimise(lambda w: graded(w, x, y), network.weights, history=history, line_search=None, **options)
    assert found.iterations == iterations == optimizer.state[next(iter(leaves.values()))]["n_iter"]
    assert found.loss == pytest.approx(network.loss(found.params, x, y), rel=1e-12)
    for path, leaf in leaves.items():
        np.testing.assert_allclose(found.params[path], leaf.detach().numpy(), rtol=1e-8, atol=1e-10)


def test_a_valley_is_followed_to_its_end() -> None:
    found = optim.minimise(cr.value_and_grad(rosenbrock), np.array([-1.5, 2.0]), tolerance_change=0)
    np.testing.assert_allclose(found.params, [1, 1], rtol=1e-6)
    expected = theirs(rosenbrock, [-1.5, 2.0], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=0)
    np.testing.assert_allclose(found.params, expected, rtol=1e-6)
    assert found.loss < 1e-14
    assert found.gradient < 1e-5
    assert found.evaluations < 90


@given(st.integers(0, 1000), st.integers(2, 6), st.floats(0.01, 100.0))
def test_a_convex_function_has_one_minimum(seed: int, size: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    matrix, target = scale * (root @ root.T + np.eye(size)), rng.normal(size=size)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        away = x - target
        return 0.5 * away @ matrix @ away, matrix @ away

    found = optim.minimise(function, rng.normal(size=size), tolerance_grad=1e-9, tolerance_change=0)
    np.testing.assert_allclose(found.params, target, rtol=1e-5, atol=1e-6)


def test_a_logistic_regression_ends_where_that_of_torch_does() -> None:
    x = RNG.normal(size=(60, 3))
    y = (x @ [1.0, -2.0, 0.5] + RNG.normal(size=60) > 0) * 1.0
    model = nn.Linear(3, 1, key=cr.random.key(0)).astype("float64")

    def loss(model: Any) -> Any:
        return nn.losses.binary_cross_entropy(model(x)[:, 0], y) + 0.05 * cr.square(model.weight).sum()

    found = optim.minimise(cr.compile(cr.value_and_grad(loss)), model, tolerance_change=0)
    assert isinstance(found.params, nn.Linear)
    assert found.gradient <= 1e-7

    def other(w: torch.Tensor) -> torch.Tensor:
        logits = torch.tensor(x) @ w[:3] + w[3]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(y)) + 0.05 * (w[:3] ** 2).sum()

    expected = theirs(other, np.zeros(4), max_iter=100, line_search_fn="strong_wolfe", tolerance_change=0)
    np.testing.assert_allclose(found.params.weight[:, 0], expected[:3], rtol=1e-6)
    np.testing.assert_allclose(found.params.bias[0], expected[3], rtol=1e-6)


def test_it_ends_when_it_should() -> None:
    graded = cr.value_and_grad(rosenbrock)
    start = np.array([-1.5, 2.0])
    assert optim.minimise(graded, start, max_iter=3).iterations == 3
    assert optim.minimise(graded, start, max_eval=7).evaluations == 7
    assert optim.minimise(graded, start, tolerance_grad=1.0).gradient <= 1.0
    there = optim.minimise(graded, np.array([1.0, 1.0]))
    assert (there.iterations, there.evaluations) == (0, 1)
    early, late = (optim.minimise(graded, start, tolerance_change=change) for change in (0.1, 1e-12))
    assert early.iterations < late.iterations
    flat = optim.minimise(lambda x: (0.0, 0 * x), start)
    np.testing.assert_array_equal(flat.params, start)


def test_losses_that_are_no_numbers_make_the_step_shorter() -> None:
    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return float(x[0] - np.log(x[0])), 1 - 1 / x

    found = optim.minimise(function, np.array([0.01]), lr=50.0, tolerance_change=0)
    np.testing.assert_allclose(found.params, [1], rtol=1e-6)


def test_leaves_keep_their_types_and_integers_stay() -> None:
    params = {"w": np.ones((2, 2), np.float32), "n": np.array([3, 4])}

    def function(params: Any) -> Any:
        return float(((params["w"] - 2) ** 2).sum()), {"w": 2 * (params["w"] - 2), "n": np.zeros(2)}

    found = optim.minimise(function, params)
    assert found.params["w"].dtype == np.float32
    np.testing.assert_allclose(found.params["w"], 2, rtol=1e-6)
    np.testing.assert_array_equal(found.params["n"], [3, 4])


def test_what_makes_no_sense_is_refused() -> None:
    graded = cr.value_and_grad(rosenbrock)
    with pytest.raises(ConfigError, match="the line_search of minimise is 'strong_wolfe' or None, not 'armijo'"):
        optim.minimise(graded, np.zeros(2), line_search="armijo")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_iter of minimise must be a whole number of 1 or more"):
        optim.minimise(graded, np.zeros(2), max_iter=0)
    with pytest.raises(ConfigError, match="there are no floating-point parameters to minimise over"):
        optim.minimise(graded, np.zeros(2, np.int64))
    with pytest.raises(ShapeError, match=r"returns \(loss, gradients\), gradients like the parameters"):
        optim.minimise(lambda x: (0.0, np.zeros(3)), np.zeros(2))
    for no_pair in (rosenbrock, lambda x: x, lambda x: (x, x)):
        with pytest.raises(ConfigError, match=r"returns \(loss, gradients\), as cr\.value_and_grad\(loss\) does"):
            optim.minimise(no_pair, np.zeros(2))
