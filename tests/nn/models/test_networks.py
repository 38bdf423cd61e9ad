"""Networks of images: published numbers of parameters, and outputs, gradients and statistics against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.nn import models
from chainrule.nn.models.resnet import BasicBlock, Bottleneck

Mirrors = Callable[..., None]


def count(model: nn.Module) -> int:
    return sum(leaf.size for leaf in model.named_parameters().values())


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        # 1 x 5 x 5 x 6 + 6, 6 x 5 x 5 x 16 + 16, 400 x 120 + 120, 120 x 84 + 84, 84 x 10 + 10.
        (models.LeNet, 61_706),
        (models.resnet20, 269_722),
        (lambda: models.resnet20(shortcut="B"), 272_474),
        (models.resnet32, 464_154),
        (models.resnet56, 853_018),
        (models.resnet18, 11_689_512),
        (models.resnet34, 21_797_672),
        (models.resnet50, 25_557_032),
        (models.DCGANGenerator, 3_576_704),
        (models.DCGANDiscriminator, 2_765_568),
    ],
)
def test_the_number_of_parameters_is_the_published_one(make: Callable[[], nn.Module], parameters: int) -> None:
    assert count(make()) == parameters


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet": (lambda: models.LeNet(image_size=16, in_channels=2), (3, 16, 16, 2)),
    "modern LeNet": (lambda: models.LeNet(image_size=13, modern=True), (3, 13, 13, 1)),
    "small, padded": (lambda: models.ResNet(BasicBlock, (1, 2), (3, 8), 5, 2, "small", "A"), (2, 7, 6, 2)),
    "small, projected": (lambda: models.ResNet(BasicBlock, (1, 1), (3, 6), 5, 2, "small", "B"), (2, 6, 6, 2)),
    "large": (lambda: models.ResNet(Bottleneck, (1, 1), (2, 3), 4), (2, 17, 16, 3)),
    "generator": (lambda: models.DCGANGenerator(16, latent=5, channels=2, width=3), (3, 5)),
    "discriminator": (lambda: models.DCGANDiscriminator(16, channels=2, width=3), (3, 16, 16, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_equals_pytorch(mirrors_pytorch: Mirrors, name: str) -> None:
    cr.seed(0)
    make, shape = NETWORKS[name]
    mirrors_pytorch(make(), np.random.default_rng(0).normal(size=shape))


@pytest.mark.skipif(CPU.problem() is not None, reason="there is no C compiler")
@pytest.mark.parametrize("name", ["small, padded", "large", "generator"])
def test_compiled_it_equals_pytorch(mirrors_pytorch: Mirrors, name: str) -> None:
    cr.seed(0)
    make, shape = NETWORKS[name]
    mirrors_pytorch(make(), np.random.default_rng(0).normal(size=shape), "cpu")


def test_weights_have_the_names_of_torchvision() -> None:
    names = models.ResNet(BasicBlock, (2, 2), (4, 8), 10).named_parameters()
    for name in ("conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "fc.bias"):
        assert name in names


def test_shapes_of_the_large_networks() -> None:
    shown = {row.path: row.output for row in models.resnet50().summary((224, 224, 3)).rows}
    assert shown["maxpool"] == "(B, 56, 56, 64)"
    assert shown["layer2.0.conv2"] == "(B, 28, 28, 128)"
    assert shown["layer4.2.conv3"] == "(B, 7, 7, 2048)"
    assert shown["fc"] == "(B, 1000)"
    for size in (16, 32):
        images = models.DCGANGenerator(size, width=4)(np.zeros((2, 100), np.float32))
        assert images.shape == (2, size, size, 3)
        assert models.DCGANDiscriminator(size, width=4)(images).shape == (2,)


def test_weights_of_dcgan_start_as_in_the_paper() -> None:
    cr.seed(0)
    held = models.DCGANGenerator(32, width=32).named_parameters()
    for path, leaf in held.items():
        if path.endswith("bias"):
            assert not leaf.any()
        elif leaf.ndim == 1:
            assert abs(leaf.mean() - 1) < 0.01
        elif leaf.size > 1000:
            assert leaf.std() == pytest.approx(0.02, rel=0.05)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="power of two from 16 on, not 48"):
        models.DCGANGenerator(48)
    with pytest.raises(ConfigError, match="at least 12 × 12"):
        models.LeNet(image_size=8)
    with pytest.raises(ConfigError, match="as many widths as numbers of blocks"):
        models.ResNet(BasicBlock, (1, 1), (4,), 10)
    with pytest.raises(ShapeError, match=r"the code should have shape \(batch, 100\)"):
        models.DCGANGenerator(16, width=2)(np.zeros((2, 10), np.float32))
    with pytest.raises(ShapeError, match="another size than the discriminator was made for"):
        models.DCGANDiscriminator(16, width=2)(np.zeros((2, 32, 32, 3), np.float32))


def test_a_residual_adds_its_input_or_a_shortcut() -> None:
    x: Any = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    inner, outer = nn.Linear(5, 5), nn.Linear(5, 3)
    np.testing.assert_allclose(nn.Residual(inner)(x), inner(x) + x, rtol=1e-6)
    straight = nn.Linear(5, 3)
    np.testing.assert_allclose(nn.Residual(outer, straight)(x), outer(x) + straight(x), rtol=1e-6)
    with pytest.raises(ShapeError, match=r"output has shape \(2, 3\) and the shortcut's \(2, 5\)"):
        nn.Residual(outer)(x)
    with pytest.raises(ConfigError, match="the shortcut of Residual is the class ReLU"):
        nn.Residual(inner, nn.ReLU)


def test_global_average_pooling() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    np.testing.assert_allclose(nn.GlobalAveragePooling()(x), x.mean((1, 2)), rtol=1e-12)
    with pytest.raises(ShapeError, match=r"\(batch, \*spatial, channels\)"):
        nn.GlobalAveragePooling()(x[0, 0])
