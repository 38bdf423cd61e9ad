"""Layers that normalise their input to mean 0 and variance 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.core.trees import State
from chainrule.ir.sizes import product
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features, check_size
from chainrule.ops.arrays import extent, mean
from chainrule.ops.math import maximum, sqrt, stop_gradient
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.scope import is_training
from chainrule.trace.state import read_state, record_state
from chainrule.trace.values import show_shape


class BatchNorm(Module):
    """``(x - mean) / √(var + eps) · weight + bias`` with one mean and variance per feature, the last axis.

    In training they are those of the batch over all axes but the last, and the layer records the running statistics
    ``running ← (1 - momentum) · running + momentum · batch`` (PyTorch's meaning of momentum; Keras's is its
    complement). The batch is divided by its biased variance, and the running variance is unbiased, n/(n-1) times that.
    At inference the running statistics take the batch's place. A batch of one position has variance 0, so its output is
    the bias. Ioffe & Szegedy, ICML 2015. Raises :class:`ShapeError` when the last axis of the input is not
    ``features``.
    """

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        _check_settings("BatchNorm", features, eps)
        if not 0 <= momentum <= 1:
            raise ConfigError(f"the momentum of BatchNorm is the share of the new batch, from 0 to 1, not {momentum!r}")
        self.momentum = float(momentum)
        self.eps = float(eps)
        self.weight = np.ones(features, np.float32)
        self.bias = np.zeros(features, np.float32)
        self.running_mean = State(np.zeros(features, np.float32))
        self.running_var = State(np.ones(features, np.float32))

    def forward(self, x: ArrayLike) -> Any:
        old_mean, old_var = self.running_mean.value, self.running_var.value
        if not is_training():
            return _apply(x, read_state(old_mean), read_state(old_var), self.weight, self.bias, self.eps)
        batch_mean, batch_var, unbiased = _statistics(x, self.weight)
        record_state(old_mean, _moved(read_state(old_mean), batch_mean, self.momentum))
        record_state(old_var, _moved(read_state(old_var), unbiased, self.momentum))
        return _apply(x, batch_mean, batch_var, self.weight, self.bias, self.eps)


# PyTorch's names; one layer serves every rank, because features are the last axis.
BatchNorm1d = BatchNorm2d = BatchNorm3d = BatchNorm


class LayerNorm(Module):
    """``(x - mean) / √(var + eps) · weight + bias`` with the mean and biased variance of each position over its features.

    Features are the last axis. Ba, Kiros & Hinton 2016. Raises :class:`ShapeError` when the last axis is not
    ``features``.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        _check_settings("LayerNorm", features, eps)
        self.eps = float(eps)
        self.weight = np.ones(features, np.float32)
        self.bias = np.zeros(features, np.float32)

    def forward(self, x: ArrayLike) -> Any:
        return _normalise_positions(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """``x / √(mean(x²) + eps) · weight`` over the features of each position, the last axis. Zhang & Sennrich, NeurIPS 2019.

    Raises :class:`ShapeError` when the last axis is not ``features``.
    """

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        _check_settings("RMSNorm", features, eps)
        self.eps = float(eps)
        self.weight = np.ones(features, np.float32)

    def forward(self, x: ArrayLike) -> Any:
        return _scaled_positions(x, self.weight, self.eps)


class GroupNorm(Module):
    """``(x - mean) / √(var + eps) · weight + bias`` with the mean and biased variance of each example and group of channels.

    Input is (batch, *spatial, channels); the channels are cut into ``groups`` runs, over each of which and all
    positions the statistics are taken. It does the same in training and at inference. Arguments are in PyTorch's order.
    Wu & He, ECCV 2018. Raises :class:`ShapeError` when the last axis is not ``channels`` or there is no batch axis.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        name = type(self).__name__
        _check_settings(name, channels, eps)
        check_size(name, "groups", groups)
        if channels % groups:
            raise ConfigError(f"{name} cannot cut {channels} channels into {groups} groups; use a divisor")
        self.groups = int(groups)
        self.channels = int(channels)
        self.eps = float(eps)
        self.weight = np.ones(channels, np.float32) if affine else None
        self.bias = np.zeros(channels, np.float32) if affine else None

    def forward(self, x: ArrayLike) -> Any:
        return _normalise_groups(x, self.groups, self.channels, self.weight, self.bias, self.eps)


class InstanceNorm(GroupNorm):
    """:class:`GroupNorm` with a group for each channel: every map of every image by itself. Ulyanov et al. 2016.

    Without ``affine``, the default as in PyTorch, it has no weights.
    """

    def __init__(self, features: int, eps: float = 1e-5, affine: bool = False) -> None:
        super().__init__(features, features, eps, affine)


def _check_settings(layer: str, features: int, eps: float) -> None:
    check_size(layer, "features", features)
    if not eps > 0:
        raise ConfigError(f"{layer} needs eps above 0, which keeps it from dividing by 0, not {eps!r}")


@operation
def _statistics(x: ArrayLike, weight: ArrayLike) -> Any:
    """Mean, biased variance and unbiased variance of each feature over the batch."""
    array = as_array(x)
    check_features(array, int(as_array(weight).shape[0]))
    if array.ndim == 1:
        array = array.reshape((1, *array.shape))
    axes = tuple(range(array.ndim - 1))
    centre = mean(array, axes)
    distance = array - centre
    biased = mean(distance * distance, axes)
    count = extent(product(array.shape[:-1]), biased.dtype)
    return centre, biased, biased * (count / maximum(count - 1, 1))


@operation
def _moved(running: ArrayLike, batch: ArrayLike, momentum: float) -> Any:
    """The running statistic after a batch, in its own element type; a recorded value carries no gradient."""
    old = as_array(running)
    new: Array = (1 - momentum) * old + momentum * stop_gradient(batch)
    return new.astype(old.dtype)


@operation
def _apply(x: ArrayLike, mean: ArrayLike, var: ArrayLike, weight: ArrayLike, bias: ArrayLike, eps: float) -> Any:
    array, scale = as_array(x), as_array(weight)
    check_features(array, int(scale.shape[0]))
    return (array - mean) * (scale / sqrt(as_array(var) + eps)) + bias


@operation
def _normalise_positions(x: ArrayLike, weight: ArrayLike, bias: ArrayLike, eps: float) -> Any:
    array, scale = as_array(x), as_array(weight)
    check_features(array, int(scale.shape[0]))
    distance = array - mean(array, -1, keepdims=True)
    var = mean(distance * distance, -1, keepdims=True)
    return distance / sqrt(var + eps) * scale + bias


@operation
def _scaled_positions(x: ArrayLike, weight: ArrayLike, eps: float) -> Any:
    array, scale = as_array(x), as_array(weight)
    check_features(array, int(scale.shape[0]))
    return array / sqrt(mean(array * array, -1, keepdims=True) + eps) * scale


@operation
def _normalise_groups(x: ArrayLike, groups: int, channels: int, weight: Any, bias: Any, eps: float) -> Any:
    array = as_array(x)
    check_features(array, channels)
    if array.ndim < 2:
        raise ShapeError(
            f"the input should have shape (batch, *spatial, channels), but it has shape {show_shape(array.shape)}"
        )
    apart = array.reshape((*array.shape[:-1], groups, channels // groups))
    axes = (*range(1, array.ndim - 1), array.ndim)
    distance = apart - mean(apart, axes, keepdims=True)
    var = mean(distance * distance, axes, keepdims=True)
    normal = (distance / sqrt(var + eps)).reshape(array.shape)
    return normal if weight is None else normal * weight + bias
