"""A PyTorch network of the same layers and weights as one of ours, and a check of outputs, gradients and statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.trees import replace_leaves
from chainrule.nn.models import resnet

NDArray = np.ndarray[Any, Any]
t = torch.nn


class Mirror:
    """Builds PyTorch modules for channels-first images; ``parameters`` pairs our paths with theirs and the order of axes."""

    def __init__(self) -> None:
        self.parameters: list[tuple[str, torch.Tensor, tuple[int, ...]]] = []
        self.state: list[tuple[str, torch.Tensor]] = []

    def of(self, layer: Any, path: str) -> t.Module:
        name = type(layer).__name__
        if isinstance(layer, nn.Sequential):
            return t.Sequential(*(self.of(one, f"{path}.layers.{k}".lstrip(".")) for k, one in enumerate(layer)))
        if isinstance(layer, resnet.BasicBlock | resnet.Bottleneck):
            return self.block(layer, path)
        if isinstance(layer, nn.Conv2d):
            theirs = t.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.weight.shape[:2],
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
                layer.bias is not None,
            )
            return self.copied(theirs, layer, path, (3, 2, 0, 1))
        if isinstance(layer, nn.ConvTranspose2d):
            theirs = t.ConvTranspose2d(
                layer.in_channels,
                layer.out_channels,
                layer.weight.shape[:2],
                layer.stride,
                layer.padding,
                bias=layer.bias is not None,
            )
            return self.copied(theirs, layer, path, (2, 3, 0, 1))
        if isinstance(layer, nn.Linear):
            return self.copied(t.Linear(layer.in_features, layer.out_features), layer, path, (1, 0))
        if isinstance(layer, nn.BatchNorm):
            return self.copied(t.BatchNorm2d(layer.weight.size, layer.eps, layer.momentum), layer, path, (0,))
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            return getattr(t, name)(layer.kernel_size, layer.stride, layer.padding)
        if isinstance(layer, nn.Flatten):
            return Lambda(lambda x: x.movedim(1, -1).flatten(1))
        if isinstance(layer, nn.GlobalAveragePooling):
            return Lambda(lambda x: x.mean((2, 3)))
        if isinstance(layer, nn.LeakyReLU):
            return t.LeakyReLU(layer.negative_slope)
        if isinstance(layer, resnet.PaddedShortcut):
            before = layer.new_channels // 2
            widths = (0, 0, 0, 0, before, layer.new_channels - before)
            return Lambda(lambda x: t.functional.pad(x[:, :, :: layer.stride, :: layer.stride], widths))
        return getattr(t, name)()

    def copied(self, theirs: t.Module, layer: Any, path: str, axes: tuple[int, ...]) -> t.Module:
        theirs = theirs.double()
        with torch.no_grad():
            theirs.weight.copy_(torch.tensor(layer.weight.transpose(axes).copy()))
            self.parameters.append((f"{path}.weight".lstrip("."), theirs.weight, axes))
            if layer.bias is not None:
                theirs.bias.copy_(torch.tensor(layer.bias))
                self.parameters.append((f"{path}.bias".lstrip("."), theirs.bias, (0,)))
        if isinstance(layer, nn.BatchNorm):
            self.state += [(f"{path}.{name}", getattr(theirs, name)) for name in ("running_mean", "running_var")]
        return theirs

    def block(self, block: Any, path: str) -> t.Module:
        names = [f"{kind}{k}" for k in (1, 2, 3) for kind in ("conv", "bn") if hasattr(block, f"{kind}{k}")]
        parts = [self.of(getattr(block, name), f"{path}.{name}") for name in names]
        relus = [t.ReLU() for _ in parts[1:-1:2]]
        body = t.Sequential(
            *(layer for pair in zip(parts[:-2:2], parts[1:-2:2], relus, strict=True) for layer in pair), *parts[-2:]
        )
        straight = (self.of(layer, f"{path}.downsample.{k}") for k, layer in enumerate(block.downsample))
        return Sum(body, t.Sequential(*straight))

    def resnet(self, model: nn.models.ResNet) -> t.Module:
        stages = [
            self.of(block, f"layer{number}.{k}")
            for number in range(1, model.stages + 1)
            for k, block in enumerate(getattr(model, f"layer{number}"))
        ]
        pool = [] if model.maxpool is None else [self.of(model.maxpool, "maxpool")]
        stem = [self.of(model.conv1, "conv1"), self.of(model.bn1, "bn1"), t.ReLU(), *pool]
        return t.Sequential(*stem, *stages, self.of(model.avgpool, ""), self.of(model.fc, "fc"))


class Lambda(t.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Sum(t.Module):
    def __init__(self, body: t.Module, straight: t.Module) -> None:
        super().__init__()
        self.body = body
        self.straight = straight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return t.functional.relu(self.body(x) + self.straight(x))


@pytest.fixture
def mirrors_pytorch() -> Callable[..., None]:
    """Checks a model of images (or of codes) in training mode: outputs, gradients of everything, and recorded statistics."""

    def check(model: nn.Module, x: NDArray, engine: str = "reference") -> None:
        rng = np.random.default_rng(2)
        wide = model.astype("float64")
        # Nothing hides behind the 1 and 0 of a fresh batch normalisation.
        shaken = {path: leaf + 0.1 * rng.normal(size=leaf.shape) for path, leaf in wide.named_parameters().items()}
        model = replace_leaves(wide, shaken)
        mirror = Mirror()
        if isinstance(model, nn.models.ResNet):
            theirs = mirror.resnet(model)
        elif isinstance(model, nn.Sequential):
            theirs = mirror.of(model, "")
        else:
            theirs = mirror.of(model.layers, "layers")
        assert {path for path, _, _ in mirror.parameters} == set(model.named_parameters())
        image = torch.tensor(np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x[:, :, None, None], requires_grad=True)
        y = theirs.train()(image)
        expected = np.moveaxis(y.detach().numpy(), 1, -1)
        probe = rng.normal(size=expected.shape)
        (y * torch.tensor(np.moveaxis(probe, -1, 1).copy())).sum().backward()

        def loss(model: nn.Module, x: Any, probe: Any) -> Any:
            out = model(x, training=True)
            return (out * probe.reshape(out.shape)).sum(), out

        step = cr.compile(
            lambda model, x, probe: cr.value_and_grad(loss, (0, 1), has_aux=True, state=True)(model, x, probe),
            engine=engine,
        )
        (_, new, found), (gradients, of_input) = step(model, x, probe)
        close = {"rtol": 1e-7, "atol": 1e-9}
        np.testing.assert_allclose(found, expected.reshape(found.shape), **close)
        grad = image.grad.numpy()
        np.testing.assert_allclose(of_input, np.moveaxis(grad, 1, -1) if x.ndim == 4 else grad[:, :, 0, 0], **close)
        slopes = gradients.named_parameters()
        for path, parameter, axes in mirror.parameters:
            np.testing.assert_allclose(slopes[path].transpose(axes), parameter.grad.numpy(), err_msg=path, **close)
        for path, statistic in mirror.state:
            np.testing.assert_allclose(new.state_leaves()[path], statistic.numpy(), err_msg=path, rtol=1e-5, atol=1e-7)

    return check
