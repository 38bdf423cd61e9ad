"""Checks of the numbers that optimisers and schedules are given."""

from __future__ import annotations

import math
import numbers
from typing import Any

from chainrule.core.errors import ConfigError


def real(owner: str, name: str, number: Any) -> float:
    """A finite number as a Python float."""
    if isinstance(number, bool) or not isinstance(number, numbers.Real) or not math.isfinite(number):
        raise ConfigError(f"{name} of {owner} must be a finite number, not {number!r}")
    return float(number)


def non_negative(owner: str, name: str, number: Any) -> float:
    """A finite number of 0 or more."""
    value = real(owner, name, number)
    if value < 0:
        raise ConfigError(f"{name} of {owner} must be 0 or more, not {number!r}")
    return value


def positive(owner: str, name: str, number: Any) -> float:
    """A finite number above 0."""
    value = real(owner, name, number)
    if value <= 0:
        raise ConfigError(f"{name} of {owner} must be more than 0, not {number!r}")
    return value


def fraction(owner: str, name: str, number: Any) -> float:
    """A number in [0, 1)."""
    value = real(owner, name, number)
    if not 0 <= value < 1:
        raise ConfigError(f"{name} of {owner} must be at least 0 and less than 1, not {number!r}")
    return value


def count(owner: str, name: str, number: Any, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < least:
        raise ConfigError(f"{name} of {owner} must be a whole number of {least} or more, not {number!r}")
    return int(number)
