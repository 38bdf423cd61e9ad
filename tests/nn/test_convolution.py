"""Convolution, pooling and Flatten layers against PyTorch, their weights, and errors that name the layer and the shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU

NDArray = np.ndarray[Any, Any]
t = torch.nn


def weight_axes(layer: nn.Module) -> tuple[int, ...]:
    """The order of our weight's axes in PyTorch's."""
    rank = layer.weight.ndim - 2
    last = (rank, rank + 1) if "Transpose" in type(layer).__name__ else (rank + 1, rank)
    return (*last, *range(rank))


def check(layer: nn.Module, theirs: torch.nn.Module, x: NDArray) -> None:
    """Outputs and all gradients, with random weights in float64."""
    rng = np.random.default_rng(1)
    layer = layer.astype("float64").replace(weight=rng.normal(size=layer.weight.shape))
    if layer.bias is not None:
        layer = layer.replace(bias=rng.normal(size=layer.bias.shape))
    theirs = theirs.double()
    axes = weight_axes(layer)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(layer.weight.transpose(axes).copy()))
        if layer.bias is not None:
            theirs.bias.copy_(torch.tensor(layer.bias))
    image = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    y = theirs(image)
    probe = rng.normal(size=y.shape)
    (y * torch.tensor(probe)).sum().backward()

    def loss(layer: nn.Module, x: Any) -> Any:
        out = layer(x)
        return (out * np.moveaxis(probe, 1, -1)).sum(), out

    (_, out), (gradients, of_input) = cr.value_and_grad(loss, (0, 1), has_aux=True)(layer, x)
    close = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(np.moveaxis(out, -1, 1), y.detach().numpy(), **close)
    np.testing.assert_allclose(np.moveaxis(of_input, -1, 1), image.grad.numpy(), **close)
    np.testing.assert_allclose(gradients.weight.transpose(axes), theirs.weight.grad.numpy(), **close)
    if layer.bias is not None:
        np.testing.assert_allclose(gradients.bias, theirs.bias.grad.numpy(), **close)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((4, 6, 3), {}),
        ((4, 6, (3, 2), 2, 1), {"bias": False}),
        ((4, 8, 3), {"padding": "same", "dilation": 2, "groups": 2}),
        ((4, 4, 3), {"padding": "valid", "groups": 4}),
        ((4, 6, 3, 2, (2, 1)), {"padding_mode": "reflect"}),
        ((4, 6, 3), {"padding": "same", "dilation": 2, "padding_mode": "replicate"}),
        ((4, 6, (3, 4)), {"padding": "same", "padding_mode": "circular"}),
    ],
    ids=["plain", "strided", "dilated groups", "depthwise", "reflected", "replicated", "circular"],
)
def test_conv2d_equals_pytorch(arguments: Any, options: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 4))
    check(nn.Conv2d(*arguments, **options), t.Conv2d(*arguments, **options), x)


def test_other_ranks_and_transposed_layers_equal_pytorch() -> None:
    rng = np.random.default_rng(0)
    check(nn.Conv1d(3, 5, 4, 2, 1), t.Conv1d(3, 5, 4, 2, 1), rng.normal(size=(2, 9, 3)))
    check(nn.Conv3d(2, 3, 2, padding=1), t.Conv3d(2, 3, 2, padding=1), rng.normal(size=(2, 3, 4, 3, 2)))
    x = rng.normal(size=(2, 9, 3))
    check(nn.Conv1d(3, 5, 4, 1, 2, 1, 1, False, "circular"), t.Conv1d(3, 5, 4, 1, 2, 1, 1, False, "circular"), x)
    x = rng.normal(size=(2, 3, 4, 3, 2))
    check(nn.Conv3d(2, 3, 2, padding=1, padding_mode="replicate"), t.Conv3d(2, 3, 2, 1, 1, padding_mode="replicate"), x)
    check(nn.ConvTranspose3d(2, 3, 2, 2, 1, 1), t.ConvTranspose3d(2, 3, 2, 2, 1, 1), x)
    check(nn.ConvTranspose1d(3, 5, 4, 2, 1), t.ConvTranspose1d(3, 5, 4, 2, 1), rng.normal(size=(2, 5, 3)))
    x = rng.normal(size=(2, 4, 3, 4))
    check(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), t.ConvTranspose2d(4, 6, 3, 2, 1, 1), x)
    # Positionally, in PyTorch's order: groups, bias, dilation.
    check(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, False, 2), t.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, False, 2), x)


def test_weights_have_the_shape_of_keras_and_start_as_asked() -> None:
    layer = nn.Conv2d(4, 6, (3, 5), groups=2, key=cr.random.key(1))
    assert layer.weight.shape == (3, 5, 2, 6)
    np.testing.assert_array_equal(layer.weight, nn.initialisers.glorot_uniform((3, 5, 2, 6), key=cr.random.key(1)))
    assert (layer.in_channels, layer.out_channels) == (4, 6)
    assert not layer.bias.any()
    back = nn.ConvTranspose2d(4, 6, (3, 5), groups=2, bias=False)
    assert back.weight.shape == (3, 5, 4, 3)
    assert (back.in_channels, back.out_channels, back.bias) == (4, 6, None)
    with pytest.raises(ShapeError, match="the initialiser of Conv2d returned shape"):
        nn.Conv2d(2, 3, 3, init=lambda shape, *, key=None, dtype="float32": np.zeros(shape[::-1], dtype))


def test_pooling_layers_compute_what_the_operations_do() -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 3))
    np.testing.assert_array_equal(nn.MaxPool2d(2)(x), cr.max_pool(x, (2, 2)))
    np.testing.assert_array_equal(nn.MaxPool2d((3, 2), 2, 1)(x), cr.max_pool(x, (3, 2), 2, 1))
    np.testing.assert_array_equal(nn.AvgPool2d(3, 2, 1, False, False)(x), cr.average_pool(x, (3, 3), 2, 1, False))
    ceiled = cr.max_pool(x, (3, 2), 2, 1, (1, 2), True)
    np.testing.assert_array_equal(nn.MaxPool2d((3, 2), 2, 1, (1, 2), ceil_mode=True)(x), ceiled)
    np.testing.assert_array_equal(nn.AvgPool2d(3, 2, 1, True, False)(x), cr.average_pool(x, (3, 3), 2, 1, False, True))
    np.testing.assert_array_equal(nn.MaxPool1d(2)(x[0]), cr.max_pool(x[0], (2,)))
    np.testing.assert_array_equal(nn.AvgPool1d(3, 1, 1)(x[0]), cr.average_pool(x[0], (3,), 1, 1))


def test_pooling_of_volumes_equals_pytorch() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 6, 3))
    image = torch.tensor(np.moveaxis(x, -1, 1).copy())
    for layer, theirs in (
        (nn.MaxPool3d(2, 2, 1, ceil_mode=True), t.MaxPool3d(2, 2, 1, ceil_mode=True)),
        (nn.AvgPool3d((3, 2, 2), 2, 1), t.AvgPool3d((3, 2, 2), 2, 1)),
        (nn.AdaptiveAvgPool3d((2, 3, 4)), t.AdaptiveAvgPool3d((2, 3, 4))),
        (nn.AdaptiveMaxPool3d((2, 3, 4)), t.AdaptiveMaxPool3d((2, 3, 4))),
    ):
        np.testing.assert_allclose(np.moveaxis(layer(x), -1, 1), theirs(image).numpy(), rtol=1e-12, err_msg=repr(layer))


def test_pad_layers_equal_pytorch() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    image = torch.tensor(np.moveaxis(x, -1, 1).copy())
    for layer, theirs in (
        (nn.Pad(2, value=-1.5), t.ConstantPad2d(2, -1.5)),
        (nn.Pad(((1, 2), (0, 3)), "reflect"), t.ReflectionPad2d((0, 3, 1, 2))),
        (nn.Pad((3, 1), "replicate"), t.ReplicationPad2d((1, 1, 3, 3))),
        (nn.Pad(2, "circular"), t.CircularPad2d(2)),
    ):
        np.testing.assert_array_equal(np.moveaxis(layer(x), -1, 1), theirs(image).numpy(), err_msg=repr(layer))
    assert nn.Pad((1,))(x[0]).shape == (5, 6, 3)
    with pytest.raises(ShapeError, match=r"Pad: Pad by 1 needs input of shape .*, not \(4, 3\)"):
        nn.Pad(1)(x[0, 0])


def test_upsampling_equals_pytorch() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    image = torch.tensor(np.moveaxis(x, -1, 1).copy())
    for factor in (2, (3, 1)):
        expected = t.Upsample(scale_factor=factor)(image)
        np.testing.assert_array_equal(np.moveaxis(nn.Upsample(factor)(x), -1, 1), expected.numpy())
    np.testing.assert_array_equal(nn.Upsample(3)(x[0]), np.repeat(x[0], 3, axis=1))
    gradient = cr.grad(lambda x: (nn.Upsample()(x) * np.arange(8.0)[:, None]).sum())(x)
    np.testing.assert_allclose(gradient, np.broadcast_to([[2], [10], [18], [26]], x.shape))
    with pytest.raises(ShapeError, match=r"Upsample by \(2, 2\) needs input of shape"):
        nn.Upsample((2, 2))(x[0])


def same(layer: nn.Module, theirs: torch.nn.Module, x: NDArray) -> None:
    """Output and gradient of the input of layers without weights."""
    image = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    y = theirs(image)
    probe = np.random.default_rng(1).normal(size=y.shape)
    (y * torch.tensor(probe)).sum().backward()
    gradient = cr.grad(lambda x: (layer(x) * np.moveaxis(probe, 1, -1)).sum())(x)
    np.testing.assert_allclose(np.moveaxis(layer(x), -1, 1), y.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.moveaxis(gradient, -1, 1), image.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("align", [False, True])
def test_linear_upsampling_equals_pytorch(align: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5))
    for factor in (2, (3, 1), (4, 5)):
        theirs = t.Upsample(scale_factor=factor, mode="bilinear", align_corners=align)
        same(nn.Upsample(factor, "linear", align), theirs, x)
    theirs = t.Upsample((7, 2), mode="bilinear", align_corners=align)
    same(nn.Upsample(mode="linear", align_corners=align, size=(7, 2)), theirs, x)
    theirs = t.Upsample(scale_factor=3, mode="linear", align_corners=align)
    same(nn.Upsample(3, "linear", align), theirs, rng.normal(size=(2, 5, 3)))


def test_upsampling_to_a_size_equals_pytorch() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    same(nn.Upsample(size=(5, 7)), t.Upsample((5, 7)), x)
    same(nn.Upsample(size=2), t.Upsample(2), x)
    with pytest.raises(ConfigError, match=r"mode of Upsample is 'nearest', or 'linear' or 'cubic', .* not 'bilinear'"):
        nn.Upsample(2, "bilinear")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="align_corners of Upsample is for mode='linear'"):
        nn.Upsample(2, align_corners=True)
    with pytest.raises(ShapeError, match=r"Upsample to \(5, 7\) needs input of shape"):
        nn.Upsample(size=(5, 7))(x[0])


def test_shuffled_pixels_equal_pytorch() -> None:
    rng = np.random.default_rng(0)
    same(nn.PixelShuffle(3), t.PixelShuffle(3), rng.normal(size=(2, 3, 4, 18)))
    same(nn.PixelUnshuffle(2), t.PixelUnshuffle(2), rng.normal(size=(2, 6, 4, 3)))
    with pytest.raises(ShapeError, match=r"PixelShuffle\(2\) needs a multiple of 4 channels, not 6"):
        nn.PixelShuffle(2)(np.zeros((1, 2, 2, 6)))
    with pytest.raises(ShapeError, match=r"PixelUnshuffle\(2\) needs a height and a width that are multiples of 2"):
        nn.PixelUnshuffle(2)(np.zeros((1, 3, 2, 6)))


def test_flatten() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(nn.Flatten()(x), x.reshape(2, 12))
    np.testing.assert_array_equal(nn.Flatten(2)(x), x)
    assert cr.compile(lambda m, x: m(x), batch=("x",))(nn.Flatten(), x).shape == (2, 12)
    with pytest.raises(ShapeError, match=r"no axis 1 to flatten from in an input of shape \(3,\)"):
        nn.Flatten()(np.zeros(3))
    with pytest.raises(ConfigError, match="start_axis"):
        nn.Flatten(1.5)  # type: ignore[arg-type]


def test_unflatten_is_the_inverse() -> None:
    x = np.arange(48.0).reshape(2, 2, 3, 4)
    np.testing.assert_array_equal(nn.Unflatten((2, 3, 4))(nn.Flatten()(x)), x)
    np.testing.assert_array_equal(nn.Unflatten((2, -1, 4))(x.reshape(2, 24)), x)
    theirs = t.Unflatten(1, (2, 3, 4))(torch.tensor(x.reshape(2, 24)))
    np.testing.assert_array_equal(nn.Unflatten([2, 3, 4])(x.reshape(2, 24)), theirs.numpy())
    compiled = cr.compile(lambda m, x: m(x), batch=("x",))
    assert compiled(nn.Unflatten((2, 3, 4)), x.reshape(2, 24)).shape == (2, 2, 3, 4)
    with pytest.raises(ShapeError, match=r"last axis of an input of shape \(2, 24\) cannot have the sizes \(5, -1\)"):
        nn.Unflatten((5, -1))(x.reshape(2, 24))
    with pytest.raises(ConfigError, match="Unflatten needs a tuple of sizes, of which one may be -1"):
        nn.Unflatten((-1, -1))


def test_input_of_a_wrong_shape_names_the_layer_and_the_shape() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(3, 2, 3))
    with pytest.raises(ShapeError, match=r"^layer 'layers\.0' \(Conv2d\): .* shape \(batch, height, width, channels\)"):
        cr.compile(lambda m, x: m(x), batch=("x",))(model, np.zeros((8, 784), np.float32))
    with pytest.raises(ShapeError, match=r"size 1, .* shape \(8, 28, 28\); .* x\[\.\.\., None\] adds"):
        model(np.zeros((8, 28, 28), np.float32))
    with pytest.raises(ShapeError, match=r"layer 'layers\.2' \(Conv2d\): .* size 3, but .* \(8, 13, 13, 4\)"):
        model(np.zeros((8, 28, 28, 1), np.float32))
    with pytest.raises(ShapeError, match=r"channels-first; .* x\.transpose\(0, 2, 3, 1\)"):
        nn.Conv2d(3, 4, 3)(np.zeros((8, 3, 28, 30), np.float32))
    with pytest.raises(ShapeError, match=r"layer 'layers\.1' \(MaxPool2d\): a window that reaches over 2 positions"):
        model(np.zeros((8, 3, 3, 1), np.float32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(0, 3, 3), "Conv2d needs in_channels to be an integer of at least 1, not 0"),
        (lambda: nn.Conv1d(3, 4, 3, groups=2), r"Conv1d cannot cut in_channels=3 into groups=2"),
        (lambda: nn.ConvTranspose2d(4, 3, 3, groups=2), r"ConvTranspose2d cannot cut out_channels=3 into groups=2"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "kernel_size is an integer of at least 1, or 2 of them"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, 2), "output_padding below the stride"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "padding_mode of Conv2d is one of zeros, reflect"),
        (lambda: nn.Pad(1, "zeros"), "mode of Pad is one of constant, reflect, replicate, circular, not 'zeros'"),
        (lambda: nn.Pad("same"), "Pad needs a number from 0 on, or for each axis one or a pair of them, not 'same'"),
        (lambda: nn.Pad((1, (2, -1))), "padding is 'same', 'valid', an integer of at least 0"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), "padding is 'same', 'valid', an integer of at least 0, .* not -1"),
        (lambda: nn.Conv1d(3, 4, 3, padding="SAME"), "padding is 'same', 'valid', .* not 'SAME'"),  # type: ignore[arg-type]
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding=(1, 2, 3)), r"padding is .*, or 2 integers .* not \(1, 2, 3\)"),
        (lambda: nn.MaxPool2d(2, padding=2), "MaxPool2d needs padding of at most half of its window"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def small_network() -> nn.Sequential:
    cr.seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_training_a_network_follows_pytorch(engine: str) -> None:
    if engine == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    model = small_network()
    theirs = t.Sequential(
        t.Conv2d(1, 8, 3, padding=1),
        t.ReLU(),
        t.MaxPool2d(2),
        t.Conv2d(8, 16, 3, 2, 1),
        t.ReLU(),
        t.MaxPool2d(3, 2, 1),
        t.Flatten(),
        t.Linear(64, 10),
    )
    with torch.no_grad():
        for number in (0, 3):
            theirs[number].weight.copy_(torch.tensor(model[number].weight.transpose(3, 2, 0, 1).copy()))
        # Channels are last in what we flatten, and first in theirs.
        rows = model[7].weight.reshape(2, 2, 16, 10).transpose(3, 2, 0, 1).reshape(10, 64)
        theirs[7].weight.copy_(torch.tensor(rows.copy()))
        for number in (0, 3, 7):
            theirs[number].bias.zero_()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 14, 14, 1)).astype(np.float32), rng.integers(0, 10, 24)
    trainer = cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=optim.Adam(1e-2), engine=engine)
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-2)
    for size in (16, 24, 9, 24):
        found = trainer.partial_fit(x[:size], y[:size])
        optimizer.zero_grad()
        images = torch.tensor(np.moveaxis(x[:size], -1, 1).copy())
        loss = t.functional.cross_entropy(theirs(images), torch.tensor(y[:size]))
        loss.backward()
        optimizer.step()
        assert found == pytest.approx(loss.item(), rel=1e-4)
