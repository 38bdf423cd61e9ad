"""BatchNorm and LayerNorm against PyTorch, and the running statistics over many steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, ShapeError, TraceError

NDArray = np.ndarray[Any, Any]


class ChannelsLast(torch.nn.Module):
    """A PyTorch layer for (N, C, ...) applied to (N, ..., C)."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.movedim(-1, 1)).movedim(1, -1)


def inputs(*shape: int, seed: int = 3) -> NDArray:
    return np.random.default_rng(seed).normal(1.5, 2.0, shape)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4), (2, 3, 5, 4)])
def test_batch_norm_equals_pytorch(equals_torch: Callable[..., None], shape: tuple[int, ...], training: bool) -> None:
    kinds: dict[int, Any] = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}
    names = {"weight": "layer.weight", "bias": "layer.bias"}
    theirs = ChannelsLast(kinds[len(shape)](4, eps=1e-3))
    equals_torch(nn.BatchNorm(4, eps=1e-3), theirs, inputs(*shape), names, training=training)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("tracks", [False, True])
def test_batch_norm_without_weights_or_statistics_equals_pytorch(
    equals_torch: Callable[..., None], affine: bool, tracks: bool
) -> None:
    names = {"weight": "layer.weight", "bias": "layer.bias"} if affine else {}
    for training in (False, True):
        theirs = ChannelsLast(torch.nn.BatchNorm2d(4, affine=affine, track_running_stats=tracks))
        ours = nn.BatchNorm(4, affine=affine, track_running_stats=tracks)
        equals_torch(ours, theirs, inputs(2, 3, 5, 4), names, training=training)
    assert len(ours.state_leaves()) == 2 * tracks
    with pytest.raises(ShapeError, match="last axis of the input should have size 4"):
        ours(inputs(2, 3))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_over_several_axes_equals_pytorch(affine: bool, bias: bool) -> None:
    rng, x = np.random.default_rng(0), inputs(5, 2, 3, 4)
    ours = nn.LayerNorm((3, 4), affine=affine, bias=bias).astype("float64")
    ours = ours.replace(**{name: rng.normal(size=(3, 4)) for name in ours.named_parameters()})
    theirs = torch.nn.LayerNorm((3, 4), elementwise_affine=affine, bias=bias).double()
    theirs.load_state_dict({name: torch.tensor(leaf) for name, leaf in ours.named_parameters().items()})
    leaf = torch.tensor(x, requires_grad=True)
    out = theirs(leaf)
    probe = rng.normal(size=x.shape)
    (out * torch.tensor(probe)).sum().backward()

    def loss(layer: nn.Module, x: Any) -> Any:
        y = layer(x)
        return (y * probe).sum(), y

    (_, y), (gradients, of_input) = cr.value_and_grad(loss, (0, 1), has_aux=True)(ours, x)
    np.testing.assert_allclose(y, out.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_input, leaf.grad.numpy(), rtol=1e-9, atol=1e-12)
    held = dict(theirs.named_parameters())
    assert set(held) == set(gradients.named_parameters())
    for name, gradient in gradients.named_parameters().items():
        np.testing.assert_allclose(gradient, held[name].grad.numpy(), rtol=1e-9, atol=1e-12)


def test_rms_norm_over_several_axes_equals_pytorch(equals_torch: Callable[..., None]) -> None:
    for affine in (False, True):
        theirs = torch.nn.RMSNorm(4, eps=1e-6, elementwise_affine=affine)
        equals_torch(nn.RMSNorm(4, affine=affine), theirs, inputs(2, 3, 4))
    x = inputs(5, 3, 4)
    expected = torch.nn.RMSNorm((3, 4), eps=1e-6).double()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(nn.RMSNorm((3, 4))(x), expected, rtol=1e-9)
    with pytest.raises(ShapeError, match=r"last axes of the input should have the sizes \(3, 4\), but .* \(5, 3\)"):
        nn.RMSNorm((3, 4))(inputs(5, 3))


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 3, 5, 4)])
def test_layer_norm_equals_pytorch(equals_torch: Callable[..., None], shape: tuple[int, ...]) -> None:
    equals_torch(nn.LayerNorm(4, eps=1e-4), torch.nn.LayerNorm(4, eps=1e-4), inputs(*shape))


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 3, 4)])
def test_rms_norm_equals_pytorch(equals_torch: Callable[..., None], shape: tuple[int, ...]) -> None:
    equals_torch(nn.RMSNorm(4, eps=1e-3), torch.nn.RMSNorm(4, eps=1e-3), inputs(*shape))


@pytest.mark.parametrize(("groups", "affine"), [(1, True), (2, True), (4, False)])
@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 4), (2, 3, 5, 4)])
def test_group_norm_equals_pytorch(
    equals_torch: Callable[..., None], shape: tuple[int, ...], groups: int, affine: bool
) -> None:
    theirs = ChannelsLast(torch.nn.GroupNorm(groups, 4, 1e-3, affine))
    names = {"weight": "layer.weight", "bias": "layer.bias"} if affine else {}
    for training in (False, True):
        equals_torch(nn.GroupNorm(groups, 4, 1e-3, affine), theirs, inputs(*shape), names, training=training)


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_equals_pytorch(equals_torch: Callable[..., None], affine: bool) -> None:
    names = {"weight": "layer.weight", "bias": "layer.bias"} if affine else {}
    theirs = ChannelsLast(torch.nn.InstanceNorm2d(4, affine=affine))
    equals_torch(nn.InstanceNorm(4, affine=affine), theirs, inputs(2, 3, 5, 4), names)


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0, 0.0, None])
def test_running_statistics_follow_pytorch_over_steps_of_different_batch_sizes(momentum: float | None) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4, momentum=momentum)).astype("float64")
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4, momentum=momentum)).double()
    with torch.no_grad():
        theirs[0].weight.copy_(torch.tensor(model[0].weight.T))
        theirs[0].bias.copy_(torch.tensor(model[0].bias))

    def loss(model: nn.Module, x: Any) -> Any:
        return cr.square(model(x, training=True)).mean()

    step = cr.compile(lambda model, x: cr.value_and_grad(loss, state=True)(model, x), batch=("x",))
    for number, size in enumerate([8, 8, 3, 2, 17]):
        x = inputs(size, 3, seed=number)
        (_, model), gradients = step(model, x)
        theirs(torch.tensor(x))
        found = model.state_leaves()
        np.testing.assert_allclose(found["layers.1.running_mean"], theirs[1].running_mean.numpy(), rtol=1e-10)
        np.testing.assert_allclose(found["layers.1.running_var"], theirs[1].running_var.numpy(), rtol=1e-10)
        assert not any(gradients.state_leaves()["layers.1.running_mean"])
    assert len(step._programs) == 1, "another batch size must not compile again"
    x = inputs(5, 3, seed=9)
    np.testing.assert_allclose(model(x), theirs.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-9, atol=1e-12)


def test_two_calls_in_one_step_chain_in_order() -> None:
    layer = nn.BatchNorm(2).astype("float64")
    first, second = inputs(6, 2, seed=1), inputs(4, 2, seed=2)

    def both(layer: nn.Module, a: Any, b: Any) -> Any:
        return layer(a, training=True).sum() + layer(b, training=True).sum()

    (_, at_once), _ = cr.value_and_grad(both, state=True)(layer, first, second)
    one_by_one = layer
    for x in (first, second):
        with nn.collect_state() as collected:
            one_by_one(x, training=True)
        one_by_one = collected.apply(one_by_one)
    for path, leaf in at_once.state_leaves().items():
        np.testing.assert_allclose(leaf, one_by_one.state_leaves()[path], rtol=1e-12)
        assert not np.allclose(leaf, layer.state_leaves()[path])


def test_inference_after_training_in_one_trace_reads_the_new_statistics() -> None:
    layer = nn.BatchNorm(2, momentum=1.0).astype("float64")
    x = inputs(6, 2)
    with nn.collect_state():
        layer(x, training=True)
        found = layer(x)
    expected = (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_no_gradient_passes_through_recorded_statistics() -> None:
    layer, theirs = nn.BatchNorm(2).astype("float64"), torch.nn.BatchNorm1d(2).double()
    x = inputs(6, 2)
    leaf = torch.tensor(x, requires_grad=True)
    theirs(leaf)
    theirs.eval()(leaf).square().sum().backward()

    def loss(x: Any) -> Any:
        with nn.collect_state():
            layer(x, training=True)
            return cr.square(layer(x)).sum()

    assert leaf.grad is not None
    np.testing.assert_allclose(cr.grad(loss)(x), leaf.grad.numpy(), rtol=1e-10)


def test_statistics_that_nobody_collects_are_an_error_that_names_the_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm(2))
    with pytest.raises(TraceError, match=r"layer 'layers\.1' .* nobody collects"):
        model(np.zeros((3, 2)), training=True)
    with pytest.raises(TraceError, match=r"layer 'layers\.1' .* state=True"):
        cr.value_and_grad(lambda m, x: m(x, training=True).sum())(model, np.zeros((3, 2)))


def test_a_batch_of_one_has_the_bias_as_output_and_finite_gradients() -> None:
    layer = nn.BatchNorm(3).replace(bias=np.array([1, 2, 3], np.float32))
    for x in (np.full((1, 3), 7, np.float32), np.full(3, 7, np.float32)):
        (total, new), gradients = cr.value_and_grad(lambda m, x: cr.square(m(x, training=True)).sum(), state=True)(
            layer, x
        )
        assert total == 14
        np.testing.assert_allclose(gradients.bias, [2, 4, 6])
        np.testing.assert_allclose(gradients.weight, 0)
        np.testing.assert_allclose(new.state_leaves()["running_mean"], 0.7, rtol=1e-6)
        np.testing.assert_allclose(new.state_leaves()["running_var"], 0.9, rtol=1e-6)


def test_a_constant_feature_stays_finite() -> None:
    x = np.full((5, 2), 1e4, np.float32)
    for layer in (nn.BatchNorm(2), nn.LayerNorm(2)):
        with nn.collect_state():
            np.testing.assert_array_equal(layer(x, training=True), 0)


def test_running_statistics_keep_their_type() -> None:
    layer = nn.BatchNorm(2)
    with nn.collect_state() as collected:
        layer(inputs(4, 2), training=True)
    assert {leaf.dtype for leaf in collected.apply(layer).state_leaves().values()} == {np.dtype(np.float32)}


def test_running_statistics_are_state_and_not_parameters() -> None:
    layer = nn.BatchNorm(2)
    assert list(layer.named_parameters()) == ["weight", "bias"]
    assert list(layer.state_leaves()) == ["running_mean", "running_var"]


def test_running_statistics_of_images_follow_pytorch() -> None:
    ours, theirs = nn.BatchNorm2d(3).astype("float64"), torch.nn.BatchNorm2d(3).double()
    for number, size in enumerate([4, 1]):
        x = inputs(size, 3, 2, 3, seed=number)
        with nn.collect_state() as collected:
            ours(x, training=True)
        ours = collected.apply(ours)
        theirs(torch.tensor(x).movedim(-1, 1))
    np.testing.assert_allclose(ours.running_mean.value, theirs.running_mean.numpy(), rtol=1e-10)
    np.testing.assert_allclose(ours.running_var.value, theirs.running_var.numpy(), rtol=1e-10)


NAMES = {"weight": "layer.weight", "bias": "layer.bias"}


@pytest.mark.parametrize("training", [False, True])
def test_norms_without_a_bias_equal_pytorch(equals_torch: Callable[..., None], training: bool) -> None:
    t, names = torch.nn, {"weight": "layer.weight"}
    pairs: list[tuple[nn.Module, torch.nn.Module]] = [
        (nn.BatchNorm(4, bias=False), t.BatchNorm2d(4, bias=False)),
        (nn.GroupNorm(2, 4, bias=False), t.GroupNorm(2, 4, bias=False)),
        (nn.InstanceNorm(4, affine=True, bias=False), t.InstanceNorm2d(4, affine=True, bias=False)),
    ]
    for ours, theirs in pairs:
        equals_torch(ours, ChannelsLast(theirs), inputs(3, 2, 5, 4), names, training=training)
        assert set(ours.named_parameters()) == {"weight"}


def test_the_machine_epsilon_of_rms_norm_is_pytorchs_default(equals_torch: Callable[..., None]) -> None:
    x = inputs(5, 4) * 1e-8
    equals_torch(nn.RMSNorm(4, eps=None), torch.nn.RMSNorm(4), x)
    single = x.astype(np.float32)
    expected = torch.nn.RMSNorm(4)(torch.tensor(single)).detach().numpy()
    np.testing.assert_allclose(nn.RMSNorm(4, eps=None)(single), expected, rtol=1e-6)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_instance_norm_with_statistics_equals_pytorch(
    equals_torch: Callable[..., None], affine: bool, training: bool
) -> None:
    theirs = ChannelsLast(torch.nn.InstanceNorm2d(4, 1e-3, affine=affine, track_running_stats=True))
    ours = nn.InstanceNorm2d(4, 1e-3, affine, track_running_stats=True)
    equals_torch(ours, theirs, inputs(3, 2, 5, 4), NAMES if affine else {}, training=training)


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0])
def test_statistics_of_instances_follow_pytorch(momentum: float) -> None:
    ours = nn.InstanceNorm(3, momentum=momentum, track_running_stats=True).astype("float64")
    theirs = torch.nn.InstanceNorm1d(3, momentum=momentum, track_running_stats=True).double()

    def loss(model: nn.Module, x: Any) -> Any:
        return cr.square(model(x, training=True)).mean()

    step = cr.compile(lambda model, x: cr.value_and_grad(loss, state=True)(model, x), batch=("x",))
    for number, size in enumerate([4, 1, 7]):
        x = inputs(size, 5, 3, seed=number)
        (_, ours), _ = step(ours, x)
        theirs(torch.tensor(x).movedim(-1, 1))
        np.testing.assert_allclose(ours.running_mean.value, theirs.running_mean.numpy(), rtol=1e-10)
        np.testing.assert_allclose(ours.running_var.value, theirs.running_var.numpy(), rtol=1e-10)
    x = inputs(2, 5, 3, seed=9)
    expected = theirs.eval()(torch.tensor(x).movedim(-1, 1)).movedim(1, -1)
    np.testing.assert_allclose(ours(x), expected.numpy(), rtol=1e-9, atol=1e-12)
    with pytest.raises(ShapeError, match=r"the variance of a map needs two positions or more, .* \(2, 1, 3\)"):
        ours(inputs(2, 1, 3), training=True)
    with pytest.raises(
        ConfigError, match="the momentum of InstanceNorm is the share of the new batch, from 0 to 1, not 2"
    ):
        nn.InstanceNorm(3, momentum=2)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="GroupNorm cannot cut 6 channels into 4 groups"):
        nn.GroupNorm(4, 6)
    with pytest.raises(ShapeError, match=r"GroupNorm: the input should have shape \(batch, \*spatial, channels\)"):
        nn.GroupNorm(2, 4)(np.zeros(4))
    with pytest.raises(ShapeError, match="InstanceNorm: the last axis of the input should have size 4"):
        nn.InstanceNorm(4)(np.zeros((2, 3, 5)))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="BatchNorm needs features"):
        nn.BatchNorm(0)
    with pytest.raises(ConfigError, match="momentum of BatchNorm"):
        nn.BatchNorm(2, momentum=1.5)
    with pytest.raises(ConfigError, match="LayerNorm needs eps above 0"):
        nn.LayerNorm(2, eps=0)
