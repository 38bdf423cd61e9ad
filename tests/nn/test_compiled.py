"""Layers and losses compiled to C give what the reference engine gives: many in one program, because compiling takes the time."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core import trees
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.nn import losses

pytestmark = pytest.mark.skipif(CPU.problem() is not None, reason="there is no C compiler")
NDArray = np.ndarray[Any, Any]


def agree(function: Any, *arguments: Any) -> None:
    """Value, auxiliary output and gradients of every array of the first two arguments."""
    graded = cr.value_and_grad(function, (0, 1), has_aux=True, state=isinstance(arguments[0], nn.Module))
    found, expected = (
        trees.leaves(cr.compile(lambda *given: graded(*given), engine=engine)(*arguments))
        for engine in ("cpu", "reference")
    )
    assert len(found) == len(expected) > 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_layers_of_images() -> None:
    cr.seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1, groups=1),
        nn.GroupNorm(2, 4),
        nn.Mish(),
        nn.Upsample(2),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.InstanceNorm(4, affine=True),
        nn.PReLU(4),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
        nn.BatchNorm2d(6),
        nn.ELU(0.5),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), nn.Hardswish())),
        nn.BatchNorm(6, momentum=None, affine=False),
        nn.MaxPool2d(2, dilation=2, ceil_mode=True),
        nn.Upsample(2, "linear"),
        nn.PixelUnshuffle(2),
        nn.LayerNorm((4, 24), bias=False),
        nn.Softshrink(0.1),
        nn.Pad(1, "circular"),
        nn.PixelShuffle(2),
        nn.CELU(0.7),
        nn.Dropout2d(0.3),
        nn.GLU(),
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.GlobalAveragePooling(),
        nn.RMSNorm(3),
        nn.LogSoftmax(),
    ).astype("float64")
    x = np.random.default_rng(0).normal(size=(3, 8, 7, 3))
    key = cr.random.key(4)

    def run(model: nn.Module, x: Any, probe: Any) -> Any:
        for layer in model:
            x = layer(x, training=True, **({"key": key} if isinstance(layer, nn.Dropout) else {}))
        return (x * probe).sum(), x

    agree(run, model, x, np.random.default_rng(1).normal(size=(3, 3)))


def test_losses() -> None:
    rng = np.random.default_rng(0)
    y, other = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    labels, bits, counts = rng.integers(0, 3, 4), rng.integers(0, 2, (4, 3)), rng.poisson(2.0, (4, 3))
    soft = rng.dirichlet(np.ones(3), 4)

    def run(y: Any, other: Any) -> Any:
        parts = [
            losses.huber(y, other),
            losses.smooth_l1(y, other, beta=0.5),
            losses.poisson_nll(y, counts, full=True),
            losses.hinge(y, labels),
            losses.hinge(y, bits),
            losses.perceptron(y, labels),
            losses.perceptron(y, bits),
            losses.focal(y, labels),
            losses.focal(y, bits, alpha=0.25),
            losses.kl_divergence(y, soft),
            partial(losses.cross_entropy, label_smoothing=0.1)(y, labels),
            losses.triplet_margin((y, other, cr.flip(other, 1))),
            losses.cosine_embedding((y, other), bits[:, 0], margin=0.1),
            losses.binary_cross_entropy(y, bits, pos_weight=np.array([2.0, 0.5, 1.0])),
            losses.cross_entropy(y, labels, class_weights=[1.0, 0.5, 2.0], label_smoothing=0.2, ignore_index=1),
            losses.gaussian_nll((y, cr.exp(other)), soft, full=True),
            losses.squared_error(y, soft, reduction="none")[1, 2],
        ]
        return cr.stack(parts).sum(), cr.stack(parts)

    agree(run, y, other)
