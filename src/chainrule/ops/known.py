"""Checks of numbers that are known when an operation is written down. A traced step has none of them, and says it with NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import DataError
from chainrule.trace.array import Array

NDArray = np.ndarray[Any, Any]


def refuse_outside(values: Any, lowest: float, highest: float, what: str) -> None:
    """Raise :class:`DataError` for the first number outside [lowest, highest]; ``what`` begins its sentence."""
    if not isinstance(values, Array):
        known = np.asarray(values)
        refuse(known, (known < lowest) | (known > highest), what)


def refuse(known: NDArray, wrong: NDArray, what: str) -> None:
    """Raise :class:`DataError` for the first number that is ``wrong``, with its place."""
    places = np.argwhere(wrong)
    if not len(places):
        return
    place = tuple(map(int, places[0]))
    if not place:
        raise DataError(f"{what}, not {known}")
    raise DataError(f"{what}, but {f'row {place[0]}' if len(place) == 1 else f'position {place}'} holds {known[place]}")
