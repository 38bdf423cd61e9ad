"""Dropout."""

from __future__ import annotations

from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.nn.module import Module
from chainrule.ops import random
from chainrule.ops.math import where
from chainrule.trace.array import ArrayLike, as_array, operation
from chainrule.trace.scope import is_training


class Dropout(Module):
    """In training, zeroes each element with probability ``rate`` and divides the others by ``1 - rate``; else the identity.

    The mean of every element stays what it was, so nothing changes at inference. Random numbers come from ``key=`` of the
    call where it is given, else from the step's key or :func:`chainrule.seed`. Srivastava et al., JMLR 2014.
    """

    def __init__(self, rate: float = 0.5) -> None:
        if not 0 <= rate < 1:
            raise ConfigError(f"the rate of Dropout is a probability from 0 to below 1, not {rate!r}")
        self.rate = float(rate)

    def forward(self, x: ArrayLike, *, key: ArrayLike | None = None) -> Any:
        return _dropped(x, self.rate, key) if is_training() and self.rate else x


@operation
def _dropped(x: ArrayLike, rate: float, key: ArrayLike | None) -> Any:
    array = as_array(x)
    kept = random.bernoulli(1 - rate, array.shape, key=key)
    return where(kept, array * (1 / (1 - rate)), 0)
