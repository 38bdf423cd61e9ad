"""Initialisers: distributions, fans, orthogonality, keys and types."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.core.errors import ShapeError
from chainrule.nn import initialisers as init

Initialiser = Callable[..., np.ndarray[Any, Any]]
SHAPE = (400, 100)

# The standard deviation for 400 inputs and 100 outputs, and whether the distribution is uniform.
RANDOM: dict[str, tuple[Initialiser, float, bool]] = {
    "glorot_uniform": (init.glorot_uniform, math.sqrt(2 / 500), True),
    "glorot_uniform, gain 2": (partial(init.glorot_uniform, gain=2), 2 * math.sqrt(2 / 500), True),
    "glorot_normal": (init.glorot_normal, math.sqrt(2 / 500), False),
    "he_uniform": (init.he_uniform, math.sqrt(2 / 400), True),
    "he_normal": (init.he_normal, math.sqrt(2 / 400), False),
    "lecun_normal": (init.lecun_normal, math.sqrt(1 / 400), False),
    "normal": (partial(init.normal, std=0.3), 0.3, False),
    "uniform": (partial(init.uniform, low=-1, high=1), math.sqrt(1 / 3), True),
}
FIXED: dict[str, Initialiser] = {
    "zeros": init.zeros,
    "ones": init.ones,
    "constant": partial(init.constant, value=0.5),
}


@pytest.mark.parametrize("name", RANDOM)
def test_distribution(name: str) -> None:
    initialise, std, is_uniform = RANDOM[name]
    cr.seed(1)
    found = initialise(SHAPE)
    assert found.shape == SHAPE
    assert found.dtype == np.float32
    assert abs(found.mean()) < 4 * std / math.sqrt(found.size)
    assert abs(found.std() / std - 1) < 0.02
    # A uniform distribution ends at √3 standard deviations and nearly reaches it; a normal one goes on.
    reach = abs(found).max() / std
    assert 1.72 < reach <= math.sqrt(3) + 1e-6 if is_uniform else reach > 3.5


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (init.glorot_uniform, torch.nn.init.xavier_uniform_),
        (init.glorot_normal, torch.nn.init.xavier_normal_),
        (init.he_uniform, partial(torch.nn.init.kaiming_uniform_, nonlinearity="relu")),
        (init.he_normal, partial(torch.nn.init.kaiming_normal_, nonlinearity="relu")),
    ],
)
def test_fans_of_convolutions_are_pytorchs(ours: Initialiser, theirs: Callable[..., Any]) -> None:
    """(height, width, in, out) here is (out, in, height, width) there."""
    found = ours((5, 3, 40, 60)).std()
    expected = theirs(torch.empty(60, 40, 5, 3)).std().item()
    assert abs(found / expected - 1) < 0.03


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 2, 2, 4), (1, 3)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = init.orthogonal(shape, gain=1.5, dtype="float64").reshape(-1, shape[-1])
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(len(gram)), atol=1e-12)


def test_orthogonal_is_uniform_over_signs() -> None:
    """Without the correction of R's signs, the diagonal of Q would lean to one side."""
    cr.seed(0)
    positive = np.mean([init.orthogonal((3, 3))[0, 0] > 0 for _ in range(400)])
    assert 0.4 < positive < 0.6


@pytest.mark.parametrize("name", [*RANDOM, *FIXED, "orthogonal"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_keys_determine_and_types_are_kept(name: str, dtype: str) -> None:
    initialise = {**{key: value[0] for key, value in RANDOM.items()}, **FIXED, "orthogonal": init.orthogonal}[name]
    key = cr.random.key(9)
    first = initialise((8, 5), key=key, dtype=dtype)
    assert type(first) is np.ndarray
    assert first.dtype == dtype
    np.testing.assert_array_equal(first, initialise((8, 5), key=key, dtype=dtype))
    if name not in FIXED:
        assert not np.array_equal(first, initialise((8, 5), key=cr.random.key(10), dtype=dtype))


def test_fixed_values() -> None:
    for name, value in (("zeros", 0), ("ones", 1), ("constant", 0.5)):
        np.testing.assert_array_equal(FIXED[name]((2, 3)), np.full((2, 3), value))


def test_a_vector_has_no_fans() -> None:
    for initialise in (init.glorot_uniform, init.he_normal, init.lecun_normal, init.orthogonal):
        with pytest.raises(ShapeError, match=r"shape \(3,\) has no fan-in"):
            initialise((3,))
    assert init.normal((3,)).shape == (3,)
