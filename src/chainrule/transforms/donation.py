"""Donated arrays: given to a program that may write over them, and refused when they are used again.

A program may only write over memory that nothing else sees. That holds for an array that owns its memory and for the results of
earlier donating calls, which are issued here as fresh views of it; anything else is copied first.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]


class _Known:
    """A set of arrays by identity; an entry lives as long as its array."""

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[NDArray]] = {}

    def add(self, array: NDArray) -> None:
        number = id(array)
        self._references[number] = weakref.ref(array, lambda _: self._references.pop(number, None))

    def __contains__(self, array: NDArray) -> bool:
        found = self._references.get(id(array))
        return found is not None and found() is array


_given_away = _Known()
_issued = _Known()


def is_donated(array: NDArray) -> bool:
    """Whether an earlier call was given this array for good."""
    return array in _given_away


def give_away(array: NDArray) -> None:
    _given_away.add(array)


def writable(arrays: Sequence[NDArray], donated: frozenset[int]) -> list[NDArray]:
    """The arrays, with copies in place of donated ones that a program must not write over."""
    if not donated:
        return list(arrays)
    roots = [_root(array) for array in arrays]
    uses: dict[int, int] = {}
    for root in roots:
        uses[root] = uses.get(root, 0) + 1
    return [
        array if number not in donated or (uses[roots[number]] == 1 and _is_private(array)) else np.array(array)
        for number, array in enumerate(arrays)
    ]


def _root(array: NDArray) -> int:
    """The identity of whatever owns the memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return id(owner)


def _is_private(array: NDArray) -> bool:
    return array.flags.c_contiguous and array.flags.writeable and (array.flags.owndata or array in _issued)


def issue(results: Sequence[NDArray], operands: Sequence[NDArray]) -> list[NDArray]:
    """Results under new names where a program has written them into its operands, so that the old names can be refused."""
    given = {id(array) for array in operands}
    issued = []
    for result in results:
        if id(result) in given:
            result = result.view()
            _issued.add(result)
        issued.append(result)
    return issued
