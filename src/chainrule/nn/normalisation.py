"""Layers that normalise their input to mean 0 and variance 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.core.trees import State
from chainrule.ir.sizes import product
from chainrule.nn.module import Module
from chainrule.nn.shapes import check_features, check_size
from chainrule.ops.arrays import extent, mean
from chainrule.ops.math import maximum, sqrt, stop_gradient
from chainrule.ops.pooling import average_pool
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.scope import is_training
from chainrule.trace.state import read_state, record_state
from chainrule.trace.values import show_shape

NDArray = np.ndarray[Any, Any]


class BatchNorm(Module):
    """``(x - mean) / √(var + eps) · weight + bias`` with one mean and variance per feature, the last axis.

    In training they are those of the batch over all axes but the last, and the layer records the running statistics
    ``running ← (1 - momentum) · running + momentum · batch`` (PyTorch's meaning of momentum; Keras's is its
    complement). The batch is divided by its biased variance, and the running variance is unbiased, n/(n-1) times that.
    At inference the running statistics take the batch's place. A batch of one position has variance 0, so its output is
    the bias. Ioffe & Szegedy, ICML 2015. Raises :class:`ShapeError` when the last axis of the input is not
    ``features``.

    ``momentum=None`` makes the running statistics plain means over all batches so far, which ``num_batches_tracked``
    counts. Without ``affine`` there are no weight and bias, without ``bias`` no bias; without ``track_running_stats`` no
    running statistics, and those of the batch serve at inference too.
    """

    def __init__(
        self,
        features: int,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        affine: bool = True,
        track_running_stats: bool = True,
        bias: bool = True,
    ) -> None:
        _check_settings("BatchNorm", features, eps)
        if momentum is not None:
            _check_momentum("BatchNorm", momentum, ", or None")
        self.features = int(features)
        self.momentum = None if momentum is None else float(momentum)
        self.eps = float(eps)
        self.weight, self.bias = _affine(features, affine, affine and bias)
        tracks = bool(track_running_stats)
        self.running_mean = State(np.zeros(features, np.float32)) if tracks else None
        self.running_var = State(np.ones(features, np.float32)) if tracks else None
        self.num_batches_tracked = State(np.zeros((), np.int64)) if tracks and momentum is None else None

    def forward(self, x: ArrayLike) -> Any:
        if self.running_mean is None or self.running_var is None:
            batch_mean, batch_var, _ = _statistics(x, self.features)
            return _apply(x, batch_mean, batch_var, self.weight, self.bias, self.eps, self.features)
        old_mean, old_var = self.running_mean.value, self.running_var.value
        if not is_training():
            settings = self.weight, self.bias, self.eps, self.features
            return _apply(x, read_state(old_mean), read_state(old_var), *settings)
        batch_mean, batch_var, unbiased = _statistics(x, self.features)
        count = None
        if self.num_batches_tracked is not None:
            count = _next(read_state(self.num_batches_tracked.value))
            record_state(self.num_batches_tracked.value, count)
        record_state(old_mean, _moved(read_state(old_mean), batch_mean, self.momentum, count))
        record_state(old_var, _moved(read_state(old_var), unbiased, self.momentum, count))
        return _apply(x, batch_mean, batch_var, self.weight, self.bias, self.eps, self.features)


# PyTorch's names; one layer serves every rank, because features are the last axis.
BatchNorm1d = BatchNorm2d = BatchNorm3d = BatchNorm


class LayerNorm(Module):
    """``(x - mean) / √(var + eps) · weight + bias`` with the mean and biased variance of each position over its features.

    Features are the last axis, or the last axes where ``features`` is a tuple of sizes. Without ``affine`` (PyTorch's
    elementwise_affine) there are no weight and bias, without ``bias`` no bias. Ba, Kiros & Hinton 2016. Raises
    :class:`ShapeError` when the last axes are not ``features``.
    """

    def __init__(
        self, features: int | Sequence[int], eps: float = 1e-5, affine: bool = True, bias: bool = True
    ) -> None:
        self.features = _feature_sizes("LayerNorm", features, eps)
        self.eps = float(eps)
        self.weight, self.bias = _affine(self.features, affine, affine and bias)

    def forward(self, x: ArrayLike) -> Any:
        return _normalise_positions(x, self.features, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """``x / √(mean(x²) + eps) · weight`` over the features of each position, the last axis. Zhang & Sennrich, NeurIPS 2019.

    ``features`` and ``affine`` as in :class:`LayerNorm`. ``eps=None`` is the machine epsilon of the input's element type,
    2⁻²³ of float32, as PyTorch has it by default. Raises :class:`ShapeError` when the last axes are not ``features``.
    """

    def __init__(self, features: int | Sequence[int], eps: float | None = 1e-6, affine: bool = True) -> None:
        self.features = _feature_sizes("RMSNorm", features, 1.0 if eps is None else eps)
        self.eps = None if eps is None else float(eps)
        self.weight, _ = _affine(self.features, affine, False)

    def forward(self, x: ArrayLike) -> Any:
        return _scaled_positions(x, self.features, self.weight, self.eps)


class GroupNorm(Module):
    """``(x - mean) / √(var + eps) · weight + bias`` with the mean and biased variance of each example and group of channels.

    Input is (batch, *spatial, channels); the channels are cut into ``groups`` runs, over each of which and all
    positions the statistics are taken. It does the same in training and at inference. Arguments are in PyTorch's order.
    Without ``affine`` there are no weight and bias, without ``bias`` no bias. Wu & He, ECCV 2018. Raises
    :class:`ShapeError` when the last axis is not ``channels`` or there is no batch axis.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, affine: bool = True, bias: bool = True) -> None:
        name = type(self).__name__
        _check_settings(name, channels, eps)
        check_size(name, "groups", groups)
        if channels % groups:
            raise ConfigError(f"{name} cannot cut {channels} channels into {groups} groups; use a divisor")
        self.groups = int(groups)
        self.channels = int(channels)
        self.eps = float(eps)
        self.weight, self.bias = _affine(channels, affine, affine and bias)

    def forward(self, x: ArrayLike) -> Any:
        return _normalise_groups(x, self.groups, self.channels, self.weight, self.bias, self.eps)


class InstanceNorm(GroupNorm):
    """:class:`GroupNorm` with a group for each channel: every map of every image by itself. Ulyanov et al. 2016.

    Without ``affine``, the default as in PyTorch, it has no weights. With ``track_running_stats`` it records, in training,
    the means over the batch of what it divides by and takes away, and uses them at inference, as :class:`BatchNorm` does
    with its ``momentum``.
    """

    def __init__(
        self,
        features: int,
        eps: float = 1e-5,
        affine: bool = False,
        *,
        momentum: float = 0.1,
        track_running_stats: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(features, features, eps, affine, bias)
        _check_momentum("InstanceNorm", momentum)
        self.momentum = float(momentum)
        self.running_mean = State(np.zeros(features, np.float32)) if track_running_stats else None
        self.running_var = State(np.ones(features, np.float32)) if track_running_stats else None

    def forward(self, x: ArrayLike) -> Any:
        if self.running_mean is None or self.running_var is None:
            return super().forward(x)
        old_mean, old_var = self.running_mean.value, self.running_var.value
        if not is_training():
            settings = self.weight, self.bias, self.eps, self.channels
            return _apply(x, read_state(old_mean), read_state(old_var), *settings)
        of_maps, unbiased = _statistics_of_maps(x, self.channels)
        record_state(old_mean, _moved(read_state(old_mean), of_maps, self.momentum, None))
        record_state(old_var, _moved(read_state(old_var), unbiased, self.momentum, None))
        return super().forward(x)


# PyTorch's names; one layer serves every rank.
InstanceNorm1d = InstanceNorm2d = InstanceNorm3d = InstanceNorm


class LocalResponseNorm(Module):
    """``x / (k + alpha · mean(x²))**beta`` with the mean over ``size`` channels around each, zeros beyond both ends.

    Channels are the last axis; ``size // 2`` of them lie before. Krizhevsky, Sutskever & Hinton, NIPS 2012, whose alpha is
    this one divided by ``size``.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        check_size("LocalResponseNorm", "size", size)
        self.size = int(size)
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.k = float(k)

    def forward(self, x: ArrayLike) -> Any:
        return _among_neighbours(x, self.size, self.alpha, self.beta, self.k)


def _check_settings(layer: str, features: int, eps: float) -> None:
    check_size(layer, "features", features)
    if not eps > 0:
        raise ConfigError(f"{layer} needs eps above 0, which keeps it from dividing by 0, not {eps!r}")


def _check_momentum(layer: str, momentum: float, more: str = "") -> None:
    if not 0 <= momentum <= 1:
        raise ConfigError(f"the momentum of {layer} is the share of the new batch, from 0 to 1{more}, not {momentum!r}")


def _feature_sizes(layer: str, features: int | Sequence[int], eps: float) -> tuple[int, ...]:
    sizes = tuple(features) if isinstance(features, list | tuple) else (features,)
    for size in sizes or (0,):
        _check_settings(layer, size, eps)
    return tuple(int(size) for size in sizes)


def _affine(shape: int | tuple[int, ...], weight: bool, bias: bool) -> tuple[NDArray | None, NDArray | None]:
    return np.ones(shape, np.float32) if weight else None, np.zeros(shape, np.float32) if bias else None


@operation
def _statistics(x: ArrayLike, features: int) -> Any:
    """Mean, biased variance and unbiased variance of each feature over the batch."""
    array = as_array(x)
    check_features(array, features)
    if array.ndim == 1:
        array = array.reshape((1, *array.shape))
    axes = tuple(range(array.ndim - 1))
    centre = mean(array, axes)
    distance = array - centre
    biased = mean(distance * distance, axes)
    count = extent(product(array.shape[:-1]), biased.dtype)
    return centre, biased, biased * (count / maximum(count - 1, 1))


@operation
def _statistics_of_maps(x: ArrayLike, channels: int) -> Any:
    """The means over the batch of every map's mean and unbiased variance."""
    array = as_array(x)
    _check_maps(array, channels)
    axes = tuple(range(1, array.ndim - 1))
    centre = mean(array, axes, keepdims=True)
    distance = array - centre
    count = math.prod(int(size) for size in array.shape[1:-1])
    if count < 2:
        raise ShapeError(
            f"the variance of a map needs two positions or more, but the input has shape {show_shape(array.shape)}"
        )
    return mean(centre, (0, *axes)), mean(distance * distance, (0, *axes)) * (count / (count - 1))


@operation
def _next(count: ArrayLike) -> Any:
    return as_array(count) + 1


@operation
def _moved(running: ArrayLike, batch: ArrayLike, momentum: float | None, count: ArrayLike | None) -> Any:
    """The running statistic after a batch, in its own element type; a recorded value carries no gradient."""
    old = as_array(running)
    share: Any = momentum if count is None else 1 / as_array(count).astype(old.dtype)
    new: Array = (1 - share) * old + share * stop_gradient(batch)
    return new.astype(old.dtype)


@operation
def _apply(x: ArrayLike, mean: ArrayLike, var: ArrayLike, weight: Any, bias: Any, eps: float, features: int) -> Any:
    array = as_array(x)
    check_features(array, features)
    deviation = sqrt(as_array(var) + eps)
    if weight is None:
        return (array - mean) / deviation
    scaled = (array - mean) * (as_array(weight) / deviation)
    return scaled if bias is None else scaled + bias


@operation
def _normalise_positions(x: ArrayLike, features: tuple[int, ...], weight: Any, bias: Any, eps: float) -> Any:
    array = as_array(x)
    axes = _feature_axes(array, features)
    distance = array - mean(array, axes, keepdims=True)
    var = mean(distance * distance, axes, keepdims=True)
    normal = distance * (1 / sqrt(var + eps))  # a quotient for each position, none for each feature
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


@operation
def _scaled_positions(x: ArrayLike, features: tuple[int, ...], weight: Any, eps: float | None) -> Any:
    array = as_array(x)
    squares = mean(array * array, _feature_axes(array, features), keepdims=True)
    least = float(np.finfo(squares.dtype).eps) if eps is None else eps
    normal = array * (1 / sqrt(squares + least))
    return normal if weight is None else normal * weight


def _feature_axes(x: Array, features: tuple[int, ...]) -> tuple[int, ...]:
    """The last axes, which must be those of the features."""
    if len(features) == 1:
        check_features(x, features[0])
    elif x.shape[-len(features) :] != features:
        raise ShapeError(
            f"the last axes of the input should have the sizes {features}, but the input has shape {show_shape(x.shape)}"
        )
    return tuple(range(x.ndim - len(features), x.ndim))


@operation
def _among_neighbours(x: ArrayLike, size: int, alpha: float, beta: float, k: float) -> Any:
    array = as_array(x)
    if not array.ndim:
        raise ShapeError("the input of LocalResponseNorm has channels as its last axis, but it is a single number")
    squares = (array * array)[..., None]
    around = average_pool(squares, (size,), 1, [(size // 2, (size - 1) // 2)])[..., 0]
    return array / (k + alpha * around) ** beta


@operation
def _normalise_groups(x: ArrayLike, groups: int, channels: int, weight: Any, bias: Any, eps: float) -> Any:
    array = as_array(x)
    _check_maps(array, channels)
    apart = array.reshape((*array.shape[:-1], groups, channels // groups))
    axes = (*range(1, array.ndim - 1), array.ndim)
    distance = apart - mean(apart, axes, keepdims=True)
    var = mean(distance * distance, axes, keepdims=True)
    normal = (distance * (1 / sqrt(var + eps))).reshape(array.shape)
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


def _check_maps(array: Array, channels: int) -> None:
    check_features(array, channels)
    if array.ndim < 2:
        raise ShapeError(
            f"the input should have shape (batch, *spatial, channels), but it has shape {show_shape(array.shape)}"
        )
