"""Donated arrays: given to a program that may write over them, and refused when they are used again.

A program may only write over memory that nothing else sees. That holds for an array that owns its memory and for the results of
earlier donating calls, which are issued here as fresh views of it; anything else is copied first. So are arrays that do not begin at a
line of a cache: what they hold would be read and written with every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import numpy as np

from chainrule.core.alignment import aligned_copy, is_aligned, owns_memory

NDArray = np.ndarray[Any, Any]
# The identities of arrays, and references to them.
Held = tuple[list[int], list[Any]]
Pairs = Sequence[tuple[int, int]]

# Entries before those of arrays that have gone are removed for the first time.
_MOST = 4096


class Known:
    """A set of arrays by identity; an entry means nothing once its array has gone, and is removed some time later.

    ``references[id(array)]`` is a weak reference to the array if it is in the set; otherwise it is missing, or to something else.
    """

    def __init__(self) -> None:
        self.references: dict[int, ref[NDArray]] = {}
        self.most = _MOST

    def __len__(self) -> int:
        return len(self.references)

    def __contains__(self, array: NDArray) -> bool:
        found = self.references.get(id(array))
        return found is not None and found() is array

    def add(self, array: NDArray) -> None:
        self.references[id(array)] = ref(array)
        if len(self.references) > self.most:
            self.sweep()

    def discard(self, array: NDArray) -> None:
        self.references.pop(id(array), None)

    def sweep(self) -> None:
        """Forget the arrays that have gone."""
        for number, reference in list(self.references.items()):
            if reference() is None and self.references.get(number) is reference:
                del self.references[number]
        self.most = max(_MOST, 2 * len(self.references))


given_away = Known()
issued = Known()


def is_donated(array: NDArray) -> bool:
    """Whether an earlier call was given this array for good."""
    return array in given_away


def writable(arrays: Sequence[NDArray], donated: frozenset[int]) -> list[NDArray]:
    """The arrays, with copies in place of donated ones that a program must not write over."""
    if not donated:
        return list(arrays)
    roots = [root(array) for array in arrays]
    uses: dict[int, int] = {}
    for owner in roots:
        uses[owner] = uses.get(owner, 0) + 1
    return [
        array if number not in donated or (uses[roots[number]] == 1 and _is_private(array)) else aligned_copy(array)
        for number, array in enumerate(arrays)
    ]


def root(array: NDArray) -> int:
    """The identity of whatever owns the memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and not (owner.base is None or owns_memory(owner)):
        owner = owner.base
    return id(owner)


def _is_private(array: NDArray) -> bool:
    is_own = array in issued or owns_memory(array)
    return is_own and array.flags.c_contiguous and array.flags.writeable and is_aligned(array)


def held(donated: Sequence[NDArray], others: Sequence[NDArray]) -> Held | None:
    """Who the donated arrays are, if nothing else sees their memory and :func:`writable` would return them; None where that is not so,
    or they are no arrays, or were donated before.

    Of arrays that earlier calls have issued, how they are laid out is left to the program to check.
    """
    numbers = [*map(id, donated)]
    references = [*map(issued.references.get, numbers)]
    roots = {id(x.base) for x, known in zip(donated, references) if known is not None and known() is x}
    if len(roots) != len(numbers):
        for k, (array, known) in enumerate(zip(donated, references)):
            if known is None or known() is not array:
                if type(array) is not np.ndarray or is_donated(array) or not _is_private(array):
                    return None
                references[k] = ref(array)
                roots.add(numbers[k])
        if len(roots) != len(numbers):
            return None
    if not roots.isdisjoint([id(x) if x.base is None else root(x) for x in others]):
        return None
    return numbers, references


def exchange_held(results: list[NDArray], written: Pairs, operands: Sequence[NDArray], donated: Held) -> None:
    """What :func:`exchange` does, where it is known that result n is operand k for these pairs (n, k), or another donated one, as after
    an odd number of steps that exchange two of them, or none."""
    known, given = issued.references, given_away.references
    for n, k in written:
        result = results[n]
        if result is operands[k] or id(result) in donated[0]:
            results[n] = result = result.view()
            number = id(result)
            known[number] = ref(result)
            if number in given:
                del given[number]
    for number, reference in zip(*donated):
        given[number] = reference
        if number in known:
            del known[number]
    for each in (issued, given_away):
        if len(each.references) > each.most:
            each.sweep()


def exchange(results: list[NDArray], operands: Sequence[NDArray], donated: Sequence[NDArray]) -> None:
    """After a run: results that are operands written over get new names, and the donated arrays are not to be used again.

    ``operands`` are those of the run, and ``donated`` the arrays of the caller that some of them are, or are copies of.
    """
    written = set(map(id, operands))
    for number, result in enumerate(results):
        if id(result) in written:
            results[number] = fresh = result.view()
            issued.add(fresh)
            given_away.discard(fresh)
    for array in donated:
        given_away.add(array)
        issued.discard(array)
