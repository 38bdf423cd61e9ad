"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
from chainrule.ops import random
from chainrule.ops.math import where
from chainrule.trace.array import Array, ArrayLike, as_array, operation
from chainrule.trace.scope import is_training
from chainrule.trace.values import show_shape


class Dropout(Module):
    """In training, zeroes each element with probability ``rate`` and divides the others by ``1 - rate``; else the identity.

    The mean of every element stays what it was, so nothing changes at inference. Random numbers come from ``key=`` of
    the call where it is given, else from the step's key or :func:`chainrule.seed`. Srivastava et al., JMLR 2014.
    """

    def __init__(self, rate: float = 0.5) -> None:
        if not isinstance(rate, int | float | np.number) or not 0 <= rate < 1:
            raise ConfigError(f"the rate of Dropout is a probability from 0 to below 1, not {rate!r}")
        self.rate = float(rate)

    def forward(self, x: ArrayLike, *, key: ArrayLike | None = None) -> Any:
        return _dropped(x, self.rate, key) if is_training() and self.rate else x


class Dropout2d(Dropout):
    """Dropout of whole channels: one draw for all positions of (batch, *spatial, channels). Tompson et al., CVPR 2015.

    Neighbouring positions of an image are alike, so that dropping single ones would leave their information in place.
    Raises :class:`ShapeError` for an input without a batch axis.
    """

    def forward(self, x: ArrayLike, *, key: ArrayLike | None = None) -> Any:
        return _dropped(x, self.rate, key, channels=True) if is_training() and self.rate else x


# PyTorch's names; one layer serves every rank.
Dropout1d = Dropout3d = Dropout2d


class AlphaDropout(Dropout):
    """In training, sets each element to SELU's lowest value -1.7581 with probability ``rate``, and keeps mean 0 and variance 1.

    ``a·x + b`` for the kept and ``-1.7581·a + b`` for the others, with a and b such that what had mean 0 and variance 1 has
    them again; for networks of :class:`SELU`. Klambauer et al., NIPS 2017.
    """

    def forward(self, x: ArrayLike, *, key: ArrayLike | None = None) -> Any:
        return _dropped_to_lowest(x, self.rate, key) if is_training() and self.rate else x


class FeatureAlphaDropout(AlphaDropout):
    """:class:`AlphaDropout` of whole channels: one draw for all positions of (batch, *spatial, channels).

    Raises :class:`ShapeError` for an input without a batch axis.
    """

    def forward(self, x: ArrayLike, *, key: ArrayLike | None = None) -> Any:
        return _dropped_to_lowest(x, self.rate, key, channels=True) if is_training() and self.rate else x


_LOWEST = -1.7580993408473766  # of SELU: -scale·alpha


@operation
def _dropped_to_lowest(x: ArrayLike, rate: float, key: ArrayLike | None, channels: bool = False) -> Any:
    array = as_array(x)
    scale = ((1 - rate) * (1 + rate * _LOWEST**2)) ** -0.5
    kept = _kept(array, rate, key, channels)
    return where(kept, array, _LOWEST) * scale - scale * rate * _LOWEST


@operation
def _dropped(x: ArrayLike, rate: float, key: ArrayLike | None, channels: bool = False) -> Any:
    array = as_array(x)
    return where(_kept(array, rate, key, channels), array * (1 / (1 - rate)), 0)


def _kept(x: Array, rate: float, key: ArrayLike | None, channels: bool) -> Array:
    """What is not dropped: element by element, or a draw for each channel of each example."""
    shape = x.shape
    if channels:
        if x.ndim < 2:
            raise ShapeError(
                f"the input should have shape (batch, *spatial, channels), but it has shape {show_shape(shape)}"
            )
        shape = (shape[0], *[1] * (x.ndim - 2), shape[-1])
    kept: Array = random.bernoulli(1 - rate, shape, key=key)
    return kept
