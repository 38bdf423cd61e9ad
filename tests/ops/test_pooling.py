"""Pooling against PyTorch: values, gradients (ties included), windows side by side and overlapping, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError

NDArray = np.ndarray[Any, Any]
F = torch.nn.functional
Same = Callable[..., None]

# Whole numbers, so that many windows hold their largest element several times.
TIES = np.round(np.random.default_rng(0).normal(size=(2, 9, 8, 5)))

# Window, stride, padding.
WINDOWS: list[tuple[tuple[int, int], Any, Any]] = [
    ((2, 2), None, 0),
    ((3, 2), None, 0),
    ((3, 3), 2, 1),
    ((3, 3), 1, (1, 0)),
    ((2, 2), 3, 1),
]


@pytest.mark.parametrize(("window", "stride", "padding"), WINDOWS)
def test_max_pool_equals_pytorch(same_as_torch: Same, window: Any, stride: Any, padding: Any, engine: str) -> None:
    same_as_torch(
        lambda x: cr.max_pool(x, window, stride, padding),
        lambda x: F.max_pool2d(x, window, stride, padding),
        TIES,
        engine=engine,
    )


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("window", "stride", "padding"), WINDOWS)
def test_average_pool_equals_pytorch(
    same_as_torch: Same, window: Any, stride: Any, padding: Any, counted: bool, engine: str
) -> None:
    same_as_torch(
        lambda x: cr.average_pool(x, window, stride, padding, counted),
        lambda x: F.avg_pool2d(x, window, stride, padding, count_include_pad=counted),
        TIES,
        engine=engine,
    )


# Window, stride, padding, dilation: the last window begins inside and ends beyond, or would begin in the padding.
CEILED: list[tuple[tuple[int, int], Any, Any, Any]] = [
    ((2, 3), None, 0, 1),
    ((3, 3), 2, 1, 1),
    ((2, 2), 3, (1, 0), 1),
    ((4, 2), (1, 5), (2, 1), (1, 3)),
    ((3, 3), 2, 1, 2),
]


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("window", "stride", "padding", "dilation"), CEILED)
def test_dilation_and_ceil_mode_equal_pytorch(
    same_as_torch: Same, window: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, engine: str
) -> None:
    same_as_torch(
        lambda x: cr.max_pool(x, window, stride, padding, dilation, ceil),
        lambda x: F.max_pool2d(x, window, stride, padding, dilation, ceil),
        TIES,
        engine=engine,
    )
    for counted in (True, False):
        same_as_torch(
            lambda x, counted=counted: cr.average_pool(x, window, stride, padding, counted, ceil),
            lambda x, counted=counted: F.avg_pool2d(x, window, stride, padding, ceil, counted),
            TIES,
            engine=engine,
        )


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_the_number_of_windows_is_pytorchs(
    size: int, window: int, stride: int, padding: int, dilation: int, ceil: bool
) -> None:
    assume(2 * padding <= window)
    x = np.arange(float(size))
    try:
        expected = F.max_pool1d(torch.tensor(x)[None, None], window, stride, padding, dilation, ceil)[0, 0]
    except RuntimeError:
        with pytest.raises(ShapeError, match="does not fit"):
            cr.max_pool(x[:, None], (window,), stride, padding, dilation, ceil)
    else:
        found = cr.max_pool(x[:, None], (window,), stride, padding, dilation, ceil)
        np.testing.assert_array_equal(found[:, 0], expected.numpy())


@pytest.mark.parametrize("places", [(3, 4), (4, 3), (1, 1), (9, 8), (12, 5)])
def test_adaptive_pools_equal_pytorch(same_as_torch: Same, places: tuple[int, int], engine: str) -> None:
    same_as_torch(
        lambda x: cr.adaptive_average_pool(x, places), lambda x: F.adaptive_avg_pool2d(x, places), TIES, engine=engine
    )
    if places != (12, 5):
        same_as_torch(
            lambda x: cr.adaptive_max_pool(x, places), lambda x: F.adaptive_max_pool2d(x, places), TIES, engine=engine
        )


def test_sequences_are_pooled_too(same_as_torch: Same) -> None:
    x = TIES[:, :, 0]
    same_as_torch(lambda x: cr.max_pool(x, (3,), 2, 1), lambda x: F.max_pool1d(x, 3, 2, 1), x)
    same_as_torch(lambda x: cr.average_pool(x, (3,), 2, 1), lambda x: F.avg_pool1d(x, 3, 2, 1), x)
    same_as_torch(lambda x: nn.AdaptiveAvgPool1d(4)(x), lambda x: F.adaptive_avg_pool1d(x, 4), x)
    same_as_torch(lambda x: nn.AdaptiveMaxPool1d(4)(x), lambda x: F.adaptive_max_pool1d(x, 4), x)


def test_the_gradient_of_equal_elements_goes_to_the_first() -> None:
    gradient = cr.grad(lambda x: cr.max_pool(x, (2, 2)).sum())(np.zeros((1, 4, 4, 1)))
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


@pytest.mark.parametrize(("window", "stride"), [((2,), None), ((3,), 1)])
def test_nan_and_infinity_are_kept(window: Any, stride: Any) -> None:
    x = np.array([1.0, np.nan, 2, 3, -np.inf, -np.inf, np.inf, 0], np.float32)
    expected = F.max_pool1d(torch.tensor(x)[None, None], window, stride)[0, 0].numpy()
    np.testing.assert_array_equal(cr.max_pool(x[:, None], window, stride)[:, 0], expected)


def test_integers_are_pooled_as_integers() -> None:
    x = np.arange(-8, 8, dtype=np.int32).reshape(4, 4, 1)
    found = cr.max_pool(x, (3, 3), 2, 1)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[:, :, 0], [[-3, -1], [5, 7]])
    assert cr.average_pool(x, (2, 2)).dtype == np.float32


def test_second_derivatives() -> None:
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 2))

    def loss(x: Any) -> Any:
        return cr.square(cr.grad(lambda x: (cr.max_pool(x, (3, 3), 2, 1) ** 3).sum())(x)).sum()

    cr.check_gradients(loss, x)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="reaches over 5 positions does not fit into the 4 of spatial axis 1"):
        cr.max_pool(np.zeros((2, 6, 4, 1)), (5, 5))
    with pytest.raises(ConfigError, match="at most half of the window"):
        cr.max_pool(TIES, (2, 2), 1, 2)
    with pytest.raises(ShapeError, match="cannot slide along the batch axis"):
        cr.compile(lambda x: cr.average_pool(x, (2, 2)), batch=("x",))(np.zeros((8, 8, 3)))
