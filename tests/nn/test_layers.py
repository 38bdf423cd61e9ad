"""Linear, the activation layers and containers: values and gradients against PyTorch, and errors that name the layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, DTypeError, ShapeError

NDArray = np.ndarray[Any, Any]


def inputs(*shape: int) -> NDArray:
    return np.random.default_rng(3).normal(size=shape)


@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 3, 4), (2, 1, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_pytorch(equals_torch: Callable[..., None], shape: tuple[int, ...], bias: bool) -> None:
    equals_torch(nn.Linear(4, 3, bias=bias), torch.nn.Linear(4, 3, bias=bias), inputs(*shape))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nn.Sigmoid(), torch.nn.Sigmoid()),
        (nn.Tanh(), torch.nn.Tanh()),
        (nn.ReLU(), torch.nn.ReLU()),
        (nn.LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)),
        (nn.GELU(), torch.nn.GELU()),
        (nn.GELU("tanh"), torch.nn.GELU("tanh")),
        (nn.SiLU(), torch.nn.SiLU()),
        (nn.Softmax(), torch.nn.Softmax(dim=-1)),
        (nn.Softmax(axis=1), torch.nn.Softmax(dim=1)),
        (nn.LogSoftmax(axis=0), torch.nn.LogSoftmax(dim=0)),
        (nn.ELU(0.7), torch.nn.ELU(0.7)),
        (nn.SELU(), torch.nn.SELU()),
        (nn.Softplus(), torch.nn.Softplus(threshold=1000)),
        (nn.Softplus(2.5), torch.nn.Softplus(2.5, threshold=1000)),
        (nn.Softplus(2.5, 1.5), torch.nn.Softplus(2.5, 1.5)),
        (nn.Softplus(), torch.nn.Softplus()),
        (nn.Softmin(axis=1), torch.nn.Softmin(dim=1)),
        (nn.Threshold(0.3, -2.0), torch.nn.Threshold(0.3, -2.0)),
        (nn.RReLU(0.1, 0.4), torch.nn.RReLU(0.1, 0.4)),
        (nn.Softsign(), torch.nn.Softsign()),
        (nn.Mish(), torch.nn.Mish()),
        (nn.Hardswish(), torch.nn.Hardswish()),
        (nn.ReLU6(), torch.nn.ReLU6()),
        (nn.Hardtanh(-0.5, 0.7), torch.nn.Hardtanh(-0.5, 0.7)),
        (nn.LogSigmoid(), torch.nn.LogSigmoid()),
        (nn.CELU(0.5), torch.nn.CELU(0.5)),
        (nn.Tanhshrink(), torch.nn.Tanhshrink()),
        (nn.Softshrink(0.3), torch.nn.Softshrink(0.3)),
        (nn.Hardshrink(0.3), torch.nn.Hardshrink(0.3)),
        (nn.Identity(), torch.nn.Identity()),
        (nn.PReLU(), torch.nn.PReLU()),
        (nn.GLU(axis=1), torch.nn.GLU(dim=1)),
        (nn.Apply(cr.sin), None),
    ],
    ids=lambda layer: repr(layer),
)
def test_activation_layers_equal_pytorch(equals_torch: Callable[..., None], ours: nn.Module, theirs: Any) -> None:
    class Sine(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x)

    equals_torch(ours, theirs or Sine(), inputs(3, 4, 5))


def test_prelu_has_a_weight_for_each_feature() -> None:
    rng = np.random.default_rng(0)
    x, slopes = rng.normal(size=(3, 4, 5)), rng.normal(size=5)
    image = torch.tensor(x.transpose(0, 2, 1).copy(), requires_grad=True)
    theirs = torch.tensor(slopes, requires_grad=True)
    torch.nn.functional.prelu(image, theirs).square().sum().backward()
    layer = nn.PReLU(5).replace(weight=slopes)
    gradient, of_input = cr.grad(lambda layer, x: cr.square(layer(x)).sum(), (0, 1))(layer, x)
    np.testing.assert_allclose(gradient.weight, theirs.grad.numpy(), rtol=1e-9)
    np.testing.assert_allclose(of_input, image.grad.numpy().transpose(0, 2, 1), rtol=1e-9)
    assert (nn.PReLU(3, 0.1).weight == np.float32(0.1)).all()
    with pytest.raises(ShapeError, match="PReLU: the last axis of the input should have size 5"):
        layer(np.zeros((2, 4)))
    with pytest.raises(ConfigError, match="Softplus needs beta above 0"):
        nn.Softplus(0)
    wide = np.linspace(-4, 4, 9, dtype=np.float32)
    np.testing.assert_allclose(nn.Hardsigmoid()(wide), torch.nn.Hardsigmoid()(torch.tensor(wide)).numpy(), rtol=1e-6)
    with pytest.raises(ConfigError, match="CELU needs alpha above 0"):
        nn.CELU(0)
    with pytest.raises(ConfigError, match=r"Hardtanh needs min_val below max_val, not 1 and 1\.0"):
        nn.Hardtanh(1)
    with pytest.raises(ConfigError, match="Softshrink needs a threshold of at least 0"):
        nn.Softshrink(-1)


def test_a_deep_network_equals_pytorch(equals_torch: Callable[..., None]) -> None:
    ours = nn.Sequential(
        nn.Linear(6, 8),
        nn.LayerNorm(8),
        nn.GELU(),
        nn.Linear(8, 7),
        nn.BatchNorm(7),
        nn.SiLU(),
        nn.Linear(7, 2),
        nn.Tanh(),
    )
    t = torch.nn
    theirs = t.Sequential(
        t.Linear(6, 8), t.LayerNorm(8), t.GELU(), t.Linear(8, 7), t.BatchNorm1d(7), t.SiLU(), t.Linear(7, 2), t.Tanh()
    )
    for training in (False, True):
        equals_torch(ours, theirs, inputs(9, 6), training=training)


def test_a_model_applied_to_numpy_arrays_returns_numpy_arrays_of_the_same_values_as_compiled() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 3), cr.tanh)
    x = inputs(5, 4).astype(np.float32)
    direct = model(x)
    assert type(direct) is np.ndarray
    assert direct.dtype == np.float32
    np.testing.assert_array_equal(direct, cr.compile(lambda m, x: m(x), batch=("x",))(model, x))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_integer_input_takes_the_type_of_the_weights(dtype: str) -> None:
    layer = nn.Linear(3, 2)
    x = np.array([[1, 0, 1], [0, 1, 1]], dtype)
    found = layer(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, layer(x.astype(np.float32)))


def test_text_as_input_is_refused_and_the_layer_named() -> None:
    with pytest.raises(DTypeError, match=r"^layer 'layers\.0' \(Linear\): ndarray does not hold numbers"):
        nn.Sequential(nn.Linear(2, 2))(np.array([["a", "b"]]))


def test_input_of_a_wrong_size_names_the_layer_and_both_sizes() -> None:
    model = nn.Sequential(nn.Linear(784, 10), nn.ReLU(), nn.Linear(12, 3))
    message = r"^layer 'layers\.0' \(Linear\): the last axis of the input should have size 784, but .* \(32, 100\)$"
    with pytest.raises(ShapeError, match=message):
        model(np.zeros((32, 100), np.float32))
    with pytest.raises(ShapeError, match=r"layer 'layers\.2' \(Linear\): .* size 12, .* shape \(B, 10\)$"):
        cr.compile(lambda m, x: m(x), batch=("x",))(model, np.zeros((32, 784), np.float32))
    with pytest.raises(ShapeError, match=r"^Linear: the last axis of the input should have size 2, .* shape \(\)$"):
        nn.Linear(2, 2)(1.0)


@pytest.mark.parametrize("layer", [nn.Linear(3, 8), nn.BatchNorm(3), nn.LayerNorm(3)], ids=lambda x: type(x).__name__)
def test_channels_first_input_is_recognised(layer: nn.Module) -> None:
    images = np.zeros((4, 3, 32, 30), np.float32)
    for training in (False, True):
        with pytest.raises(ShapeError, match=r"looks channels-first; .* x\.transpose\(0, 2, 3, 1\)"):
            layer(images, training=training)
    assert layer(images.transpose(0, 2, 3, 1)).shape[:3] == (4, 32, 30)
    with pytest.raises(ShapeError, match=r"\(B, 3, 7\), which looks channels-first; .* x\.transpose\(0, 2, 1\)"):
        cr.compile(lambda m, x: m(x), batch=("x",))(layer, np.zeros((2, 3, 7), np.float32))


@pytest.mark.parametrize("sizes", [(0, 3), (3, -1), (2.0, 3), (True, 3), ("4", 2)])
def test_sizes_that_make_no_sense_are_refused(sizes: Any) -> None:
    with pytest.raises(ConfigError, match="to be an integer of at least 1"):
        nn.Linear(*sizes)


def test_an_initialiser_that_returns_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"returned shape \(3, 2\) when asked for \(2, 3\)"):
        nn.Linear(2, 3, init=lambda shape, *, key=None, dtype="float32": np.zeros(shape[::-1], dtype))


def test_linear_uses_its_initialiser_and_key() -> None:
    init = partial(nn.initialisers.constant, value=0.25)
    np.testing.assert_array_equal(nn.Linear(2, 3, init=init).weight, np.full((2, 3), 0.25))
    key = cr.random.key(5)
    np.testing.assert_array_equal(nn.Linear(2, 3, key=key).weight, nn.Linear(2, 3, key=key).weight)
    np.testing.assert_array_equal(nn.Linear(2, 3, key=key).weight, nn.initialisers.glorot_uniform((2, 3), key=key))
    assert not np.array_equal(nn.Linear(2, 3).weight, nn.Linear(2, 3).weight)


def test_initial_weights_follow_the_seed() -> None:
    cr.seed(11)
    first = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    cr.seed(11)
    second = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for path, leaf in first.named_parameters().items():
        np.testing.assert_array_equal(leaf, second.named_parameters()[path])


def test_sequential_is_a_sequence() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(model) == 3
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert model[0] is model.layers[0]
    features = model[:-1]
    assert isinstance(features, nn.Sequential)
    x = inputs(4, 2)
    np.testing.assert_array_equal(model[2](features(x)), model(x))


def test_sequential_gives_a_repeated_activation_two_places() -> None:
    activation = nn.ReLU()
    model = nn.Sequential(activation, nn.Linear(2, 2), activation)
    assert [(row.path, row.output) for row in model.summary((2,)).rows] == [
        ("layers.0", "(B, 2)"),
        ("layers.1", "(B, 2)"),
        ("layers.2", "(B, 2)"),
    ]


def test_what_is_no_layer_is_refused_by_sequential() -> None:
    with pytest.raises(ConfigError, match=r"layer 1 of Sequential is the class ReLU; write ReLU\(\) instead"):
        nn.Sequential(nn.Linear(2, 2), nn.ReLU)
    with pytest.raises(ConfigError, match="layer 0 of Sequential is a list"):
        nn.Sequential([nn.Linear(2, 2)])  # type: ignore[arg-type]


def test_unknown_approximation_of_gelu_is_refused() -> None:
    with pytest.raises(ConfigError, match="'none' or 'tanh', not 'erf'"):
        nn.GELU("erf")  # type: ignore[arg-type]
