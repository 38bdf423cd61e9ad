"""Fractional maximum pooling against PyTorch with the same random numbers, and how the numbers are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"kernel_size": 2, "output_size": 4}, (7, 9)),
        ({"kernel_size": (3, 2), "output_ratio": (0.6, 0.5)}, (9, 8)),
        ({"kernel_size": 2, "output_size": (1, 3)}, (5, 6)),
        ({"kernel_size": 2, "output_ratio": 0.7}, (5, 6, 7)),
        ({"kernel_size": (1, 2, 3), "output_size": (4, 2, 3)}, (5, 6, 7)),
    ],
)
def test_it_equals_pytorch(options: dict[str, Any], size: tuple[int, ...], engine: str) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    rank = len(size)
    x = np.round(2 * RNG.normal(size=(3, *size, 4)))  # many are equal
    samples = RNG.uniform(size=(3, 4, rank))
    leaf = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    kind = getattr(torch.nn, f"FractionalMaxPool{rank}d")
    out, places = kind(**options, return_indices=True, _random_samples=torch.tensor(samples))(leaf)
    expected = np.moveaxis(out.detach().numpy(), 1, -1)
    probe = RNG.normal(size=expected.shape)
    (out * torch.tensor(np.moveaxis(probe, -1, 1).copy())).sum().backward()
    layer = getattr(nn, f"FractionalMaxPool{rank}d")(**options, return_indices=True)

    def loss(x: Any, samples: Any, probe: Any) -> Any:
        y, indices = layer(x, samples=samples)
        return (y * probe).sum(), (y, indices)

    graded = cr.value_and_grad(loss, has_aux=True)
    step = cr.compile(
        lambda x, samples, probe: graded(x, samples, probe), engine=engine, batch=("x", "samples", "probe")
    )
    (_, (y, indices)), slope = step(x, samples, probe)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(indices, np.moveaxis(places.numpy(), 1, -1))
    assert leaf.grad is not None
    np.testing.assert_allclose(slope, np.moveaxis(leaf.grad.numpy(), 1, -1), rtol=1e-12)
    np.testing.assert_array_equal(layer.replace(return_indices=False)(x, samples=samples), expected)


def test_places_are_drawn_for_each_channel_and_cover_the_image() -> None:
    x = np.broadcast_to(np.arange(20.0)[:, None] * 20 + np.arange(20), (8, 20, 20)).copy()[..., None] + np.zeros(5)
    layer = nn.FractionalMaxPool2d(2, output_ratio=0.6)
    first, second = layer(x, key=cr.random.key(0)), layer(x, key=cr.random.key(1))
    assert first.shape == (8, 12, 12, 5)
    np.testing.assert_array_equal(first, layer(x, key=cr.random.key(0)))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[..., 0], first[..., 1])
    assert (first[:, -1, -1] == 399).all()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="FractionalMaxPool2d needs either output_size or output_ratio"):
        nn.FractionalMaxPool2d(2)
    with pytest.raises(
        ConfigError, match="output_ratio of FractionalMaxPool2d is a number between 0 and 1, or 2 of them"
    ):
        nn.FractionalMaxPool2d(2, output_ratio=1.5)
    with pytest.raises(ShapeError, match=r"\(5, 5\) windows \(2, 2\) do not fit into the positions \(5, 6\)"):
        nn.FractionalMaxPool2d(2, 5)(np.zeros((1, 5, 6, 1)))
    with pytest.raises(ShapeError, match=r"needs input of shape \(batch, \*spatial, channels\), not \(5, 6, 1\)"):
        nn.FractionalMaxPool2d(2, 3)(np.zeros((5, 6, 1)))
    with pytest.raises(ShapeError, match=r"the samples should have shape \(1, 1, 2\), not \(2,\)"):
        nn.FractionalMaxPool2d(2, 3)(np.zeros((1, 5, 6, 1)), samples=np.zeros(2))
