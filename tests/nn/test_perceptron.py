"""The perceptron rule: by hand on a small set, within Novikoff's bound on random sets, and on a set with no solution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chainrule.core.errors import DataError, ShapeError
from chainrule.nn import perceptron_fit

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


def test_the_first_updates_by_hand() -> None:
    """OR. Row (0,0): 0 is on the hyperplane, so b = -1. Row (0,1): -1, so w = (0,1), b = 0. Row (1,0): 0, so w = (1,1), b = 1."""
    first = perceptron_fit(CORNERS, [0, 1, 1, 1], epochs=1)
    np.testing.assert_array_equal(first.weights, [1, 1])
    assert (first.bias, first.mistakes, first.separates) == (1, 3, False)


@pytest.mark.parametrize(
    "targets", [[0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 0], [-1, -1, 1, 1], ["no", "no", "no", "yes"]]
)
def test_separable_sets_of_corners_are_learned(targets: list[Any]) -> None:
    found = perceptron_fit(CORNERS, targets)
    assert found.separates
    assert found.predict(CORNERS).tolist() == targets
    assert found.mistakes == sum(found.mistakes_by_epoch) > 0
    assert found.mistakes_by_epoch[-1] == 0


def test_xor_is_never_separated() -> None:
    found = perceptron_fit(CORNERS, [0, 1, 1, 0], epochs=50)
    assert not found.separates
    assert len(found.mistakes_by_epoch) == 50
    assert all(found.mistakes_by_epoch)


@pytest.mark.parametrize("seed", range(5))
def test_mistakes_stay_within_novikoffs_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=4) * [1, 1, 1, 0.2]  # a plane near the origin, so that both classes occur
    truth /= np.linalg.norm(truth)
    extended = np.c_[rng.normal(size=(300, 3)), np.ones(300)]
    extended = extended[abs(extended @ truth) > 0.05]
    signs = np.sign(extended @ truth)
    found = perceptron_fit(extended[:, :3], signs, epochs=100_000)
    assert found.separates
    np.testing.assert_array_equal(found.predict(extended[:, :3]), signs)
    bound = (np.linalg.norm(extended, axis=1).max() / (signs * (extended @ truth)).min()) ** 2
    assert 0 < found.mistakes <= bound


def test_what_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(DataError, match="two classes apart, but the targets have 3: 0, 1, 2"):
        perceptron_fit(CORNERS, [0, 1, 2, 1])
    with pytest.raises(DataError, match="the targets have 1: 5"):
        perceptron_fit(CORNERS, [5, 5, 5, 5])
    with pytest.raises(ShapeError, match=r"not \(4, 2\) and \(3,\)"):
        perceptron_fit(CORNERS, [0, 1, 0])
    with pytest.raises(DataError, match="row 1 of the inputs"):
        perceptron_fit([[0.0], [np.nan]], [0, 1])
