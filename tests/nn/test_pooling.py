"""Where maxima lie, the way back, and divisors, against PyTorch: every option crossed, in one, two and three dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU

NDArray = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
F = torch.nn.functional


def first(x: NDArray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def last(x: torch.Tensor) -> NDArray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


@pytest.fixture(params=["reference", "cpu"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    return str(request.param)


WINDOWS = [
    ({"kernel_size": 2}, (8,)),
    ({"kernel_size": 3, "stride": 2, "padding": 1}, (9,)),
    ({"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}, (10,)),
    ({"kernel_size": (2, 3)}, (8, 9)),
    ({"kernel_size": 3, "stride": (2, 1), "padding": (1, 0), "ceil_mode": True}, (8, 7)),
    ({"kernel_size": (3, 2), "stride": 3, "dilation": (2, 1)}, (9, 7)),
    ({"kernel_size": 2}, (4, 6, 5)),
    ({"kernel_size": 3, "stride": 2, "padding": 1}, (5, 4, 6)),
]


@pytest.mark.parametrize(("options", "size"), WINDOWS)
def test_indices_of_maxima_equal_pytorch(options: dict[str, Any], size: tuple[int, ...], engine: str) -> None:
    rank = len(size)
    x = np.round(2 * RNG.normal(size=(2, *size, 3)))  # many are equal
    ours = getattr(nn, f"MaxPool{rank}d")(**options, return_indices=True)
    theirs = getattr(torch.nn, f"MaxPool{rank}d")(**options, return_indices=True)
    leaf = first(x).requires_grad_()
    out, places = theirs(leaf)
    out.square().sum().backward()

    def loss(x: Any) -> Any:
        y, indices = ours(x)
        return cr.square(y).sum(), (y, indices)

    step = cr.compile(lambda x: cr.value_and_grad(loss, has_aux=True)(x), engine=engine, batch=("x",))
    (_, (y, indices)), slope = step(x)
    np.testing.assert_array_equal(y, last(out))
    np.testing.assert_array_equal(indices, last(places))
    assert indices.dtype == np.int64
    np.testing.assert_allclose(slope, last(leaf.grad), rtol=1e-12)


@pytest.mark.parametrize("places", [(3, 4), (2, 3), (1, 1), (5, 7)])
def test_indices_of_adaptive_maxima_equal_pytorch(places: tuple[int, int], engine: str) -> None:
    x = np.round(2 * RNG.normal(size=(2, 5, 8, 3)))
    out, indices = torch.nn.AdaptiveMaxPool2d(places, return_indices=True)(first(x))
    y, found = cr.compile(lambda x: nn.AdaptiveMaxPool2d(places, return_indices=True)(x), engine=engine)(x)
    np.testing.assert_array_equal(y, last(out))
    np.testing.assert_array_equal(found, last(indices))
    one, theirs = nn.AdaptiveMaxPool1d(3, True)(x[:, 0]), torch.nn.AdaptiveMaxPool1d(3, True)(first(x[:, 0]))
    np.testing.assert_array_equal(one[1], last(theirs[1]))


def test_an_adaptive_pool_leaves_an_axis_as_it_is_for_none() -> None:
    x = RNG.normal(size=(2, 5, 8, 3))
    for ours, theirs in ((nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d), (nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d)):
        for size in ((None, 3), (2, None), None):
            wanted = (None, None) if size is None else size
            np.testing.assert_allclose(ours(size)(x), last(theirs(first(x), wanted)), rtol=1e-12)
    with pytest.raises(ConfigError, match="output_size"):
        nn.AdaptiveAvgPool2d((0, None))


def test_indices_of_nan_and_of_nothing_but_minus_infinity() -> None:
    x = np.array([[[np.nan], [1.0], [-np.inf], [-np.inf], [2.0], [np.nan]]])
    y, indices = nn.MaxPool1d(2, return_indices=True)(x)
    np.testing.assert_array_equal(indices[0, :, 0], [0, 2, 5])
    assert np.isnan(y[0, [0, 2], 0]).all()
    nothing = np.full((1, 4, 1), -np.inf)
    _, indices = nn.MaxPool1d(3, 2, 1, return_indices=True)(nothing)
    _, theirs = F.max_pool1d(first(nothing), 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(indices, last(theirs))


UNPOOLED = [
    ({"kernel_size": 2}, (8,), None),
    ({"kernel_size": 3, "stride": 3, "padding": 1}, (9,), (9,)),
    ({"kernel_size": 2}, (9,), (9,)),
    ({"kernel_size": (2, 3)}, (8, 9), None),
    ({"kernel_size": 2, "stride": 2}, (7, 9), (7, 9)),
    ({"kernel_size": 2}, (4, 6, 2), None),
]


@pytest.mark.parametrize(("options", "size", "wanted"), UNPOOLED)
def test_unpooling_equals_pytorch(options: dict[str, Any], size: tuple[int, ...], wanted: Any, engine: str) -> None:
    rank = len(size)
    x = RNG.normal(size=(2, *size, 3))
    pool = getattr(torch.nn, f"MaxPool{rank}d")(**options, return_indices=True)
    y, places = pool(first(x))
    leaf = y.clone().requires_grad_()
    out = getattr(torch.nn, f"MaxUnpool{rank}d")(**options)(leaf, places, output_size=wanted)
    probe = RNG.normal(size=last(out).shape)
    (out * first(probe)).sum().backward()
    layer = getattr(nn, f"MaxUnpool{rank}d")(**options)

    def loss(y: Any, places: Any, probe: Any) -> Any:
        found = layer(y, places, wanted)
        return (found * probe).sum(), found

    step = cr.compile(
        lambda y, places, probe: cr.value_and_grad(loss, has_aux=True)(y, places, probe),
        engine=engine,
        batch=("y", "places", "probe"),
    )
    (_, found), slope = step(last(y), last(places).copy(), probe)
    np.testing.assert_array_equal(found, last(out))
    np.testing.assert_array_equal(slope, last(leaf.grad))


def test_where_windows_overlap_unpooling_keeps_the_common_value_and_shares_the_gradient() -> None:
    x = RNG.normal(size=(2, 7, 8, 3))
    pooled, places = nn.MaxPool2d(3, 1, return_indices=True)(x)
    theirs = torch.nn.MaxUnpool2d(3, 1)(first(pooled), first(places))
    np.testing.assert_allclose(nn.MaxUnpool2d(3, 1)(pooled, places), last(theirs), rtol=1e-14)
    cr.check_gradients(lambda y: cr.square(nn.MaxUnpool2d(3, 1)(y, places)).sum(), pooled)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2))
def test_a_pool_of_what_was_unpooled_is_what_was_pooled(size: int, window: int, stride: int, padding: int) -> None:
    assume(2 * padding <= window <= size + 2 * padding)
    x = np.random.default_rng(size).uniform(1, 2, size=(1, size, 2))
    y, places = nn.MaxPool1d(window, stride, padding, return_indices=True)(x)
    back = cr.max_unpool(y, places, (size,))
    np.testing.assert_allclose(nn.MaxPool1d(window, stride, padding)(back), y, rtol=1e-15)


@pytest.mark.parametrize("divisor", [1, 3, 10])
def test_another_divisor_equals_pytorch(divisor: int, engine: str) -> None:
    for rank, size in ((2, (6, 7)), (3, (4, 5, 3))):
        x = RNG.normal(size=(2, *size, 2))
        options: dict[str, Any] = {"padding": 1, "ceil_mode": True, "count_include_pad": False}
        leaf = first(x).requires_grad_()
        theirs = getattr(torch.nn, f"AvgPool{rank}d")(3, 2, divisor_override=divisor, **options)(leaf)
        theirs.square().sum().backward()
        layer = getattr(nn, f"AvgPool{rank}d")(3, 2, divisor_override=divisor, **options)
        step = cr.compile(
            lambda x, layer=layer: (layer(x), cr.grad(lambda x: cr.square(layer(x)).sum())(x)), engine=engine
        )
        found, slope = step(x)
        np.testing.assert_allclose(found, last(theirs), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(slope, last(leaf.grad), rtol=1e-12, atol=1e-14)


def test_what_makes_no_sense_is_refused() -> None:
    x = RNG.normal(size=(1, 6, 6, 1))
    y, places = nn.MaxPool2d(2, return_indices=True)(x)
    with pytest.raises(ConfigError, match="AvgPool2d needs divisor_override to be an integer of at least 1, not 0"):
        nn.AvgPool2d(2, divisor_override=0)
    with pytest.raises(ConfigError, match="the divisor of average pooling is an integer other than 0"):
        cr.average_pool(x, (2, 2), divisor=0)
    with pytest.raises(
        ShapeError, match=r"needs an index for each element of \(1, 3, 3, 1\), not indices of shape \(1, 3, 3\)"
    ):
        nn.MaxUnpool2d(2)(y, places[..., 0])
    with pytest.raises(DTypeError, match="needs integer indices, as max_pool"):
        nn.MaxUnpool2d(2)(y, places.astype(float))
    with pytest.raises(DataError, match=r"\(6, 6\) are 0 to 35, but position \(0, 0, 1, 0\) holds 36"):
        nn.MaxUnpool2d(2)(y, np.where(np.arange(9).reshape(1, 3, 3, 1) == 1, 36, places))
    with pytest.raises(ShapeError, match=r"of images near the size \(6, 6\), not \(8, 6\)"):
        nn.MaxUnpool2d(2)(y, places, (8, 6))
