from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import optim
from chainrule.core.errors import ConfigError

PARAMS = {"w": np.array([[1.5, -2.0], [0.0, 3.0]]), "kernel": np.full((2, 2, 1), -0.5), "b": np.array([4.0, -4.0])}
BOTH = [(optim.l1, optim.l1_penalty), (optim.l2, optim.l2_penalty)]


@pytest.mark.parametrize(("transform", "penalty"), BOTH, ids=["l1", "l2"])
@pytest.mark.parametrize(
    "on", [None, "*", ["b", "k*"], lambda path, p: path == "b"], ids=["default", "all", "patterns", "function"]
)
def test_the_transform_adds_the_gradient_of_the_loss_term(transform: Any, penalty: Any, on: Any) -> None:
    options = {} if on is None else {"on": on}
    expected = cr.grad(lambda params: penalty(params, 0.3, **options))(PARAMS)
    gradients = {path: np.full_like(p, 10.0) for path, p in PARAMS.items()}
    found, _ = transform(0.3, **options).update(gradients, {}, PARAMS)
    for path in PARAMS:
        np.testing.assert_allclose(found[path], 10.0 + expected[path], rtol=1e-14)


def test_the_values_of_the_loss_terms() -> None:
    assert optim.l1_penalty(PARAMS, 0.1) == pytest.approx(0.1 * (6.5 + 2.0))
    assert optim.l2_penalty(PARAMS, 0.1) == pytest.approx(0.05 * (2.25 + 4.0 + 9.0 + 4 * 0.25))
    assert optim.l2_penalty(PARAMS, 0.1, on="b") == pytest.approx(0.05 * 32)
    assert optim.l2_penalty({"b": PARAMS["b"]}, 0.1) == 0.0


def test_penalties_keep_float32() -> None:
    params = {path: p.astype(np.float32) for path, p in PARAMS.items()}
    assert optim.l1_penalty(params, 0.1).dtype == np.float32
    found, _ = optim.l2(0.1).update(params, {}, params)
    assert {g.dtype for g in found.values()} == {np.dtype(np.float32)}


def test_gradients_that_are_not_penalised_pass_untouched() -> None:
    gradients = {path: np.ones_like(p) for path, p in PARAMS.items()}
    found, _ = optim.l1(0.5).update(gradients, {}, PARAMS)
    assert np.array_equal(found["b"], [1.0, 1.0])
    np.testing.assert_allclose(found["w"], [[1.5, 0.5], [1.0, 1.5]])


@pytest.mark.parametrize(("transform", "penalty"), BOTH, ids=["l1", "l2"])
def test_bad_penalties_are_refused(transform: Any, penalty: Any) -> None:
    with pytest.raises(ConfigError, match=r"strength of l[12] must be 0 or more, not -1"):
        transform(-1)
    with pytest.raises(ConfigError, match=r"strength of l[12]_penalty must be 0 or more"):
        penalty(PARAMS, -0.5)
    with pytest.raises(ConfigError, match="the pattern 'nothing' fits no parameter"):
        transform(0.1, on="nothing").update(PARAMS, {}, PARAMS)
