"""Windows laid side by side and added up again, pools of powers and norms among neighbours, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU

NDArray = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)

# Options, and the size of the image.
WINDOWS: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"kernel_size": 2}, (4, 5)),
    ({"kernel_size": (3, 2), "stride": 2}, (8, 7)),
    ({"kernel_size": 3, "stride": (2, 1), "padding": (1, 2), "dilation": 2}, (7, 6)),
    ({"kernel_size": 2, "stride": 3, "padding": 2}, (5, 5)),
]


@pytest.fixture(params=["reference", "cpu"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    return str(request.param)


def first(x: NDArray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def last(x: torch.Tensor) -> NDArray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def from_theirs(x: NDArray, channels: int) -> NDArray:
    """(N, channels · elements, places) as (N, places, elements · channels)."""
    count, _, places = x.shape
    return x.reshape(count, channels, -1, places).transpose(0, 3, 2, 1).reshape(count, places, -1)


def check(layer: nn.Module, x: NDArray, expected: NDArray, slope: NDArray, probe: NDArray, engine: str) -> None:
    def loss(x: Any, probe: Any) -> Any:
        y = layer(x)
        return (y * probe).sum(), y

    graded = cr.value_and_grad(loss, has_aux=True)
    (_, y), found = cr.compile(lambda x, probe: graded(x, probe), engine=engine, batch=("x", "probe"))(x, probe)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("options", "size"), WINDOWS)
def test_unfold_and_fold_equal_pytorch(options: dict[str, Any], size: tuple[int, int], engine: str) -> None:
    x = RNG.normal(size=(2, *size, 3))
    leaf = first(x).requires_grad_()
    out = torch.nn.Unfold(**options)(leaf)
    probe = RNG.normal(size=tuple(out.shape))
    (out * torch.tensor(probe)).sum().backward()
    assert leaf.grad is not None
    rows = from_theirs(out.detach().numpy(), 3)
    check(nn.Unfold(**options), x, rows, last(leaf.grad), from_theirs(probe, 3), engine)
    # And back: the sums of the windows.
    columns = out.detach().clone().requires_grad_()
    image = torch.nn.Fold(size, **options)(columns)
    of_image = RNG.normal(size=tuple(image.shape))
    (image * torch.tensor(of_image)).sum().backward()
    assert columns.grad is not None
    layer = nn.Fold(size, **options)
    check(layer, rows, last(image), from_theirs(columns.grad.numpy(), 3), np.moveaxis(of_image, 1, -1).copy(), engine)


@pytest.mark.parametrize("size", [(6,), (4, 3, 5)])
def test_windows_of_sequences_and_volumes_make_a_convolution(size: tuple[int, ...]) -> None:
    rank = len(size)
    x, weight = RNG.normal(size=(2, *size, 3)), RNG.normal(size=(*(2,) * rank, 3, 4))
    rows = nn.Unfold((2,) * rank, padding=1)(x)
    expected = cr.convolution(x, weight, padding=1)
    np.testing.assert_allclose((rows @ weight.reshape(-1, 4)).reshape(expected.shape), expected, rtol=1e-9, atol=1e-12)
    inner = RNG.normal(size=rows.shape)
    folded = nn.Fold(size, 2, padding=1)(inner)
    np.testing.assert_allclose((folded * x).sum(), (inner * rows).sum(), rtol=1e-9)


@pytest.mark.parametrize(
    ("p", "ceil", "engine"),
    [(p, ceil, "reference") for p in (1.0, 2.0, 3.0, 1.5) for ceil in (False, True)] + [(1.5, True, "cpu")],
)
def test_pools_of_powers_equal_pytorch(p: float, ceil: bool, engine: str) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    for rank, size in ((1, (7,)), (2, (5, 6)), (3, (4, 5, 3))):
        x = RNG.uniform(0.1, 2, size=(2, *size, 3))
        leaf = first(x).requires_grad_()
        out = getattr(torch.nn, f"LPPool{rank}d")(p, 3, 2, ceil)(leaf)
        probe = RNG.normal(size=last(out).shape)
        (out * first(probe)).sum().backward()
        assert leaf.grad is not None
        layer = getattr(nn, f"LPPool{rank}d")(p, 3, 2, ceil)
        check(layer, x, last(out), last(leaf.grad), probe, engine)


def test_a_pool_of_zeros_has_no_slope() -> None:
    value, slope = cr.value_and_grad(lambda x: nn.LPPool1d(2, 2)(x).sum())(np.zeros((1, 4, 1)))
    assert value == 0
    assert not slope.any()
    mixed = RNG.normal(size=(1, 8, 2))
    expected = torch.nn.LPPool1d(2, 2)(first(mixed))
    np.testing.assert_allclose(nn.LPPool1d(2, 2)(mixed), last(expected), rtol=1e-12)


@pytest.mark.parametrize(("size", "engine"), [*((size, "reference") for size in range(1, 6)), (4, "cpu")])
def test_norms_among_neighbours_equal_pytorch(size: int, engine: str) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    options = {"alpha": 0.3, "beta": 0.6, "k": 1.5}
    for shape in ((3, 6), (2, 4, 6), (2, 3, 4, 6)):
        x = RNG.normal(size=shape)
        leaf = first(x).requires_grad_()
        kind = torch.nn.LocalResponseNorm
        wide = leaf[..., None] if len(shape) == 2 else leaf
        out = kind(size, **options)(wide).reshape(leaf.shape)
        probe = RNG.normal(size=shape)
        (out * first(probe)).sum().backward()
        assert leaf.grad is not None
        check(nn.LocalResponseNorm(size, **options), x, last(out), last(leaf.grad), probe, engine)


def test_whole_channels_go_to_the_lowest_value_together() -> None:
    x = np.ones((200, 5, 4))
    cr.seed(0)
    y = nn.FeatureAlphaDropout(0.4)(x, training=True)
    assert (y == y[:, :1]).all()
    values = np.unique(y)
    assert len(values) == 2
    kept = (y[:, 0] == values[1]).mean()
    assert kept == pytest.approx(0.6, abs=0.06)
    element = np.unique(nn.AlphaDropout(0.4)(x, training=True))
    np.testing.assert_allclose(values, element)
    np.testing.assert_array_equal(nn.FeatureAlphaDropout(0.4)(x), x)
    with pytest.raises(ShapeError, match="FeatureAlphaDropout: the input should have shape"):
        nn.FeatureAlphaDropout()(np.zeros(3), training=True)


def test_what_makes_no_sense_is_refused() -> None:
    x = RNG.normal(size=(2, 4, 5, 3))
    with pytest.raises(ConfigError, match="the settings of Unfold are for different numbers of axes"):
        nn.Unfold((2, 2), stride=(1, 1, 1))
    with pytest.raises(ShapeError, match="does not fit into the 4 of spatial axis 0"):
        nn.Unfold(5)(x)
    with pytest.raises(ShapeError, match=r"needs an array of shape \(\.\.\., 12, 4 · channels\), not \(2, 11, 12\)"):
        nn.Fold((4, 5), 2)(np.zeros((2, 11, 12)))
    with pytest.raises(ConfigError, match="LPPool2d needs a norm_type other than 0"):
        nn.LPPool2d(0, 2)
    with pytest.raises(ConfigError, match="the power of a pool is a number other than 0"):
        cr.power_pool(x, 0, (2, 2))
    with pytest.raises(ConfigError, match="LocalResponseNorm needs size to be an integer of at least 1"):
        nn.LocalResponseNorm(0)
