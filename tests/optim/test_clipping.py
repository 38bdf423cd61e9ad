from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chainrule import optim
from chainrule.core.errors import ConfigError

Gradients = dict[str, np.ndarray]


def clipped(transform: optim.Transform, gradients: Gradients) -> Gradients:
    result, state = transform.update(gradients, transform.init(gradients), gradients)
    assert state == {}
    return result


def trees(dtype: type, width: int) -> st.SearchStrategy[Gradients]:
    """Gradients whose squares neither overflow nor vanish in their element type."""
    size = 2.0**50 if width == 32 else 2.0**460
    small = 1 / size
    elements = st.just(0.0) | st.floats(small, size, width=width) | st.floats(-size, -small, width=width)  # type: ignore[arg-type]
    arrays = hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), elements=elements)
    return st.dictionaries(st.sampled_from(["a.weight", "a.bias", "b", "c"]), arrays, min_size=1)


def norm(gradients: Gradients) -> float:
    every = np.concatenate([np.ravel(g).astype(np.longdouble) for g in gradients.values()])
    return float(np.sqrt((every * every).sum()))


LIMITS = st.floats(1e-3, 1e6)


@settings(deadline=None)
@given(trees(np.float32, 32) | trees(np.float64, 64), LIMITS)
def test_the_norm_is_within_the_limit_and_the_direction_kept(gradients: Gradients, limit: float) -> None:
    result = clipped(optim.clip_by_global_norm(limit), gradients)
    precision = max(np.finfo(g.dtype).eps for g in gradients.values())
    assert norm(result) <= limit * (1 + 300 * precision)
    scale = min(1.0, limit / norm(gradients)) if norm(gradients) else 1.0
    for path, before in gradients.items():
        after = result[path]
        assert after.dtype == before.dtype
        assert after.shape == before.shape
        smallest = float(np.finfo(before.dtype).smallest_normal)
        np.testing.assert_allclose(after, scale * before.astype(np.float64), rtol=300 * precision, atol=4 * smallest)


@settings(deadline=None)
@given(trees(np.float32, 32) | trees(np.float64, 64))
def test_gradients_within_the_limit_keep_every_bit(gradients: Gradients) -> None:
    result = clipped(optim.clip_by_global_norm(2 * norm(gradients) + 1), gradients)
    assert all(result[path].tobytes() == g.tobytes() for path, g in gradients.items())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38], ids=["nan", "inf", "-inf", "square overflows"])
def test_a_norm_that_is_not_finite_makes_everything_nan(bad: float) -> None:
    gradients = {"a": np.array([1, bad], np.float32), "b": np.ones((2, 2), np.float32)}
    result = clipped(optim.clip_by_global_norm(1.0), gradients)
    assert all(np.isnan(g).all() and g.dtype == np.float32 for g in result.values())


def test_zero_and_absent_gradients_are_within_any_limit() -> None:
    zero = {"a": np.zeros((2, 3))}
    assert np.array_equal(clipped(optim.clip_by_global_norm(1e-9), zero)["a"], zero["a"])
    assert clipped(optim.clip_by_global_norm(1.0), {}) == {}


@settings(deadline=None)
@given(trees(np.float32, 32) | trees(np.float64, 64), LIMITS)
def test_values_are_clipped_one_by_one(gradients: Gradients, limit: float) -> None:
    result = clipped(optim.clip_by_value(limit), gradients)
    for path, before in gradients.items():
        bound = before.dtype.type(limit)
        np.testing.assert_array_equal(result[path], np.clip(before, -bound, bound))
        assert result[path].dtype == before.dtype


def test_clipping_by_value_limits_infinities_and_keeps_nan() -> None:
    result = clipped(optim.clip_by_value(2.0), {"a": np.array([np.inf, -np.inf, np.nan, -0.0, 1.5])})["a"]
    np.testing.assert_array_equal(result, [2.0, -2.0, np.nan, -0.0, 1.5])
    assert np.signbit(result[3])


def test_the_global_norm_of_a_tree() -> None:
    tree: Any = {"a": np.full((2, 2), 2.0, np.float32), "b": [np.array(3.0, np.float32)]}
    assert optim.global_norm(tree) == 5.0
    assert optim.global_norm(tree).dtype == np.float32
    assert optim.global_norm({}) == 0.0


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf"), True, "1"])
@pytest.mark.parametrize("clip", [optim.clip_by_global_norm, optim.clip_by_value])
def test_a_limit_must_be_positive(clip: Any, limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"limit of clip_by_(value|global_norm) must be"):
        clip(limit)
