"""Residual networks for small and large images.

Names of weights are those of torchvision (``layer1.0.conv1.weight``), so that its checkpoints can be converted by
transposing. He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from chainrule.core.errors import ConfigError
from chainrule.nn.convolution import Conv2d
from chainrule.nn.initialisers import he_normal
from chainrule.nn.linear import Linear
from chainrule.nn.module import Module
from chainrule.nn.normalisation import BatchNorm
from chainrule.nn.pooling import GlobalAveragePooling, MaxPool2d
from chainrule.ops.activations import relu
from chainrule.ops.padding import pad
from chainrule.trace.array import ArrayLike, as_array, operation

Shortcut = Literal["A", "B"]


class BasicBlock(Module):
    """``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`` with two convolutions of 3 × 3."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut) -> None:
        self.conv1 = _convolution(in_channels, width, 3, stride)
        self.bn1 = BatchNorm(width)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = BatchNorm(width)
        self.downsample = _shortcut(in_channels, width, stride, shortcut)

    def forward(self, x: ArrayLike) -> Any:
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(y + _applied(self.downsample, x))


class Bottleneck(Module):
    """Convolutions of 1 × 1, 3 × 3 (which has the stride, as in torchvision) and 1 × 1 to four times the width."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut) -> None:
        self.conv1 = _convolution(in_channels, width, 1)
        self.bn1 = BatchNorm(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = BatchNorm(width)
        self.conv3 = _convolution(width, 4 * width, 1)
        self.bn3 = BatchNorm(4 * width)
        self.downsample = _shortcut(in_channels, 4 * width, stride, shortcut)

    def forward(self, x: ArrayLike) -> Any:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return relu(y + _applied(self.downsample, x))


class PaddedShortcut(Module):
    """The paper's option A: every ``stride``-th position, and zeros for the new channels, the same number before and after."""

    def __init__(self, stride: int, new_channels: int) -> None:
        self.stride = stride
        self.new_channels = new_channels

    def forward(self, x: ArrayLike) -> Any:
        return _padded(x, self.stride, self.new_channels)


class ResNet(Module):
    """Stages of residual blocks, each after the first at half the resolution, then the mean over positions and a Linear layer.

    ``blocks`` has the number of blocks of every stage and ``widths`` their channels; ``stem="small"`` starts with one
    convolution of 3 × 3, ``"large"`` with one of 7 × 7 with stride 2 and a maximum over 3 × 3 with stride 2. Where the
    shape changes, shortcut "A" pads with zeros and "B" is a convolution of 1 × 1. Input is (batch, height, width,
    in_channels), output logits (batch, classes).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        classes: int,
        in_channels: int = 3,
        stem: Literal["small", "large"] = "large",
        shortcut: Shortcut = "B",
    ) -> None:
        if stem not in ("small", "large") or shortcut not in ("A", "B") or len(blocks) != len(widths) or not blocks:
            raise ConfigError(
                "ResNet needs as many widths as numbers of blocks, stem 'small' or 'large' and shortcut 'A' or 'B', not "
                f"{blocks!r}, {widths!r}, {stem!r} and {shortcut!r}"
            )
        size = 3 if stem == "small" else 7
        self.conv1 = _convolution(in_channels, widths[0], size, 1 if stem == "small" else 2)
        self.bn1 = BatchNorm(widths[0])
        self.maxpool = None if stem == "small" else MaxPool2d(3, 2, 1)
        self.stages = len(blocks)
        channels = widths[0]
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            stage: list[Module] = []
            for position in range(count):
                stride = 2 if number > 1 and position == 0 else 1
                stage.append(block(channels, width, stride, shortcut))
                channels = width * block.expansion
            setattr(self, f"layer{number}", tuple(stage))
        self.avgpool = GlobalAveragePooling()
        self.fc = Linear(channels, classes)

    def forward(self, x: ArrayLike) -> Any:
        y = relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            y = self.maxpool(y)
        for number in range(1, self.stages + 1):
            for block in getattr(self, f"layer{number}"):
                y = block(y)
        return self.fc(self.avgpool(y))


def resnet20(classes: int = 10, in_channels: int = 3, shortcut: Shortcut = "A") -> ResNet:
    """For images of 32 × 32: 3 stages of 3 blocks, 269,722 parameters (272,474 with shortcut "B")."""
    return _for_small_images(3, classes, in_channels, shortcut)


def resnet32(classes: int = 10, in_channels: int = 3, shortcut: Shortcut = "A") -> ResNet:
    """For images of 32 × 32: 3 stages of 5 blocks, 464,154 parameters (466,906 with shortcut "B")."""
    return _for_small_images(5, classes, in_channels, shortcut)


def resnet56(classes: int = 10, in_channels: int = 3, shortcut: Shortcut = "A") -> ResNet:
    """For images of 32 × 32: 3 stages of 9 blocks, 853,018 parameters (855,770 with shortcut "B")."""
    return _for_small_images(9, classes, in_channels, shortcut)


def resnet18(classes: int = 1000, in_channels: int = 3) -> ResNet:
    """For images of 224 × 224: 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), classes, in_channels)


def resnet34(classes: int = 1000, in_channels: int = 3) -> ResNet:
    """For images of 224 × 224: 21,797,672 parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), (64, 128, 256, 512), classes, in_channels)


def resnet50(classes: int = 1000, in_channels: int = 3) -> ResNet:
    """For images of 224 × 224: 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), classes, in_channels)


def _for_small_images(blocks: int, classes: int, in_channels: int, shortcut: Shortcut) -> ResNet:
    return ResNet(BasicBlock, (blocks,) * 3, (16, 32, 64), classes, in_channels, "small", shortcut)


def _convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> Conv2d:
    """Padded so that stride 1 keeps the size; the batch norm after it has the bias."""
    return Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False, init=he_normal)


def _shortcut(in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> tuple[Module, ...]:
    """The layers of the shortcut; none where it is the identity."""
    if stride == 1 and in_channels == out_channels:
        return ()
    if shortcut == "A":
        return (PaddedShortcut(stride, out_channels - in_channels),)
    return _convolution(in_channels, out_channels, 1, stride), BatchNorm(out_channels)


def _applied(layers: Sequence[Module], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


@operation
def _padded(x: ArrayLike, stride: int, new_channels: int) -> Any:
    array = as_array(x)
    kept = array[..., ::stride, ::stride, :]
    before = new_channels // 2
    return pad(kept, [(0, 0)] * (array.ndim - 1) + [(before, new_channels - before)])
