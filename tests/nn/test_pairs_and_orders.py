"""Layers of two inputs, layers that put elements into another order, and random slopes, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.trace import using_key

NDArray = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
F = torch.nn.functional


@pytest.fixture(params=["reference", "cpu"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and CPU.problem() is not None:
        pytest.skip("there is no C compiler")
    return str(request.param)


def check(ours: Any, theirs: Any, x: NDArray, y: NDArray, engine: str) -> None:
    """Values and both gradients of functions of two arrays."""
    left, right = torch.tensor(x, requires_grad=True), torch.tensor(y, requires_grad=True)
    out = theirs(left, right)
    probe = RNG.normal(size=out.shape)
    (out * torch.tensor(probe)).sum().backward()

    def loss(x: Any, y: Any) -> Any:
        found = ours(x, y)
        return (found * probe).sum(), found

    (_, found), slopes = cr.compile(cr.value_and_grad(loss, (0, 1), has_aux=True), engine=engine)(x, y)
    np.testing.assert_allclose(found, out.detach().numpy(), rtol=1e-9, atol=1e-12)
    for slope, leaf in zip(slopes, (left, right), strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(slope, leaf.grad.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_bilinear_equals_pytorch(bias: bool, lead: tuple[int, ...], engine: str) -> None:
    theirs = torch.nn.Bilinear(3, 5, 2, bias).double()
    layer = nn.Bilinear(3, 5, 2, bias).replace(weight=theirs.weight.detach().numpy().transpose(1, 2, 0))
    if bias:
        layer = layer.replace(bias=theirs.bias.detach().numpy())
    check(layer, theirs, RNG.normal(size=(*lead, 3)), RNG.normal(size=(*lead, 5)), engine)
    x, z = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5))
    gradient = cr.grad(lambda layer: cr.square(layer(x, z)).sum())(layer)
    theirs.zero_grad()
    theirs(torch.tensor(x), torch.tensor(z)).square().sum().backward()
    np.testing.assert_allclose(gradient.weight, theirs.weight.grad.numpy().transpose(1, 2, 0), rtol=1e-9)
    if bias:
        np.testing.assert_allclose(gradient.bias, theirs.bias.grad.numpy(), rtol=1e-9)


def test_bilinear_refuses_what_does_not_fit_and_follows_its_key() -> None:
    layer = nn.Bilinear(3, 5, 2, key=cr.random.key(1))
    np.testing.assert_array_equal(layer.weight, nn.Bilinear(3, 5, 2, key=cr.random.key(1)).weight)
    with pytest.raises(
        ShapeError, match=r"Bilinear differ in the last axis alone, but they have the shapes \(4, 3\) and \(5,\)"
    ):
        layer(np.zeros((4, 3)), np.zeros(5))
    with pytest.raises(ShapeError, match="last axis of the input should have size 5"):
        layer(np.zeros((4, 3)), np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="Bilinear needs in2_features"):
        nn.Bilinear(3, 0, 2)


@pytest.mark.parametrize(("axis", "eps"), [(-1, 1e-8), (1, 1e-8), (0, 2.0)])
def test_cosine_similarity_equals_pytorch(axis: int, eps: float, engine: str) -> None:
    x, y = RNG.normal(size=(3, 4, 5)), RNG.normal(size=(3, 4, 5))
    check(nn.CosineSimilarity(axis, eps), torch.nn.CosineSimilarity(axis, eps), x, y, engine)
    check(nn.CosineSimilarity(), torch.nn.CosineSimilarity(-1), x, y[:1, :1], engine)
    x[0, 0] = 0
    check(nn.CosineSimilarity(), torch.nn.CosineSimilarity(-1), x, y, "reference")


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, float("inf")])
def test_pairwise_distance_equals_pytorch(p: float, keepdims: bool, engine: str) -> None:
    x, y = RNG.normal(size=(3, 4, 5)), RNG.normal(size=(3, 4, 5))
    check(nn.PairwiseDistance(p, 1e-3, keepdims), torch.nn.PairwiseDistance(p, 1e-3, keepdims), x, y, engine)
    check(nn.PairwiseDistance(p), torch.nn.PairwiseDistance(p), x, np.where(x > 0, x, y), "reference")


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.0, float("inf")])
def test_norms_equal_pytorch_and_have_no_slope_at_zero(p: float) -> None:
    x = RNG.normal(size=(3, 4))
    if p >= 1:  # below, the slope at 0 is infinite in PyTorch
        x[0] = x[1, 2] = 0
    leaf = torch.tensor(x, requires_grad=True)
    theirs = torch.linalg.vector_norm(leaf, p, dim=1)
    theirs.sum().backward()
    value, slope = cr.value_and_grad(lambda x: cr.vector_norm(x, p).sum())(x)
    np.testing.assert_allclose(value, theirs.sum().item(), rtol=1e-12)
    assert leaf.grad is not None
    np.testing.assert_allclose(slope, leaf.grad.numpy(), rtol=1e-9)
    np.testing.assert_allclose(cr.vector_norm(x, p, (0, 1), keepdims=True), np.linalg.norm(x.ravel(), p)[None, None])


def test_norms_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="the power of a norm is more than 0, not 0"):
        cr.vector_norm(np.ones(3), 0)
    with pytest.raises(ConfigError, match="PairwiseDistance needs a power p above 0, not -1"):
        nn.PairwiseDistance(-1)
    with pytest.raises(ConfigError, match="eps of CosineSimilarity is a length from 0 on"):
        nn.CosineSimilarity(eps=-1)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channel_shuffle_equals_pytorch(groups: int) -> None:
    x = RNG.normal(size=(2, 3, 4, 6))
    theirs = torch.nn.ChannelShuffle(groups)(torch.tensor(x).movedim(-1, 1).contiguous()).movedim(1, -1)
    np.testing.assert_array_equal(nn.ChannelShuffle(groups)(x), theirs.numpy())
    with pytest.raises(ShapeError, match=r"ChannelShuffle\(4\) needs a multiple of 4 channels, not input of shape"):
        nn.ChannelShuffle(4)(x)


def test_flatten_and_unflatten_of_some_axes_equal_pytorch() -> None:
    x = RNG.normal(size=(2, 3, 4, 5))
    for axes in ((0, 1), (1, 2), (1, -1), (-2, -1), (2, 2), (0, -1)):
        np.testing.assert_array_equal(nn.Flatten(*axes)(x), torch.nn.Flatten(*axes)(torch.tensor(x)).numpy())
    for axis, sizes in ((2, (2, 2)), (-2, (2, -1)), (3, (5, 1)), (0, (1, 2))):
        theirs = torch.nn.Unflatten(axis, sizes)(torch.tensor(x)).numpy()
        np.testing.assert_array_equal(nn.Unflatten(sizes, axis)(x), theirs)
    with pytest.raises(ShapeError, match=r"there are no axes 2 to 1 to flatten in an input of shape \(2, 3, 4, 5\)"):
        nn.Flatten(2, 1)(x)
    with pytest.raises(ShapeError, match=r"axis 1 of an input of shape \(2, 3, 4, 5\) cannot have the sizes \(2, 2\)"):
        nn.Unflatten((2, 2), 1)(x)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nn.Pad((1, 2)), torch.nn.ZeroPad2d((2, 2, 1, 1))),
        (nn.Pad(((1, 0), (2, 3)), value=1.5), torch.nn.ConstantPad2d((2, 3, 1, 0), 1.5)),
        (nn.Pad(((1, 0), (2, 3)), "reflect"), torch.nn.ReflectionPad2d((2, 3, 1, 0))),
        (nn.Pad(((1, 0), (2, 3)), "replicate"), torch.nn.ReplicationPad2d((2, 3, 1, 0))),
        (nn.Pad(((1, 0), (2, 3)), "circular"), torch.nn.CircularPad2d((2, 3, 1, 0))),
        (nn.Softmax(), torch.nn.Softmax2d()),
    ],
)
def test_layers_with_another_name_in_pytorch(ours: nn.Module, theirs: torch.nn.Module) -> None:
    x = RNG.normal(size=(2, 4, 5, 3))
    expected = theirs(torch.tensor(x).movedim(-1, 1)).movedim(1, -1)
    np.testing.assert_allclose(ours(x), expected.numpy(), rtol=1e-12)


def test_slopes_are_random_in_training_alone_and_the_gradient_is_the_slope(engine: str) -> None:
    layer, x = nn.RReLU(0.2, 0.6), -np.abs(RNG.normal(size=(40, 50)))
    x[0] = np.abs(x[0])

    def loss(x: Any, key: Any) -> Any:
        with using_key(key):
            y = layer(x, training=True)
        return y.sum(), y

    step = cr.compile(cr.value_and_grad(loss, has_aux=True), engine=engine)
    (_, y), slope = step(x, np.asarray(cr.random.key(0)))
    np.testing.assert_allclose(y, slope * x, rtol=1e-12)
    assert (slope[0] == 1).all()
    drawn = slope[1:]
    assert drawn.min() >= 0.2
    assert drawn.max() < 0.6
    assert drawn.mean() == pytest.approx(0.4, abs=0.01)
    assert drawn.std() == pytest.approx(0.4 / 12**0.5, rel=0.05)
    np.testing.assert_allclose(layer(x), np.where(x > 0, x, 0.4 * x), rtol=1e-15)
    with pytest.raises(ConfigError, match="RReLU needs lower at most upper, not 1 and 0"):
        nn.RReLU(1, 0)
