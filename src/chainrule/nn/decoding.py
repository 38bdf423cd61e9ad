"""Keys and values that causal attention keeps, so that a further position costs one row of attention and not all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from chainrule.core.errors import ShapeError
from chainrule.ops.arrays import arange
from chainrule.ops.math import where
from chainrule.ops.padding import pad
from chainrule.trace.array import Array

Pair = tuple[Any, Any]  # keys and values (N, heads, positions, d)


class DecodingCache:
    """One pass of a decoder over new positions: the keys and values of those before go in, those of all come out.

    ``model(x, cache=DecodingCache(length))`` reads a beginning of any number of positions. Then ``cache.past`` and
    ``cache.memories`` are tuples with a pair of keys and values for each attention layer, in the order of their calls: trees
    of arrays, which ``DecodingCache(length, place, past, memories)`` takes back for the one position ``place`` that comes next.
    All arrays have room for ``length`` positions, and places not yet reached are masked, so that one program, with ``place`` an
    array, serves every position. ``memories`` are those of attention to an encoder's output, which do not change.
    """

    def __init__(
        self, length: int, place: Any = 0, past: Iterable[Pair] | None = None, memories: Iterable[Pair] = ()
    ) -> None:
        self.length = int(length)
        self.place = place
        self.past: tuple[Pair, ...] = ()
        self.memories: tuple[Pair, ...] = ()
        self._begins = past is None
        self._past = iter(past or ())
        self._memories = iter(memories)

    def extended(self, key: Array, value: Array) -> tuple[Array, Array, Array | None]:
        """All keys and values of a self-attention, with the new ones in place, and which of them are not in the future."""
        count = key.shape[-2]
        if self._begins:
            if not isinstance(count, int) or count > self.length:
                raise ShapeError(f"a cache of {self.length} positions has no room for {count}")
            room = [(0, 0)] * (key.ndim - 2) + [(0, self.length - count), (0, 0)]
            self.past = (*self.past, (pad(key, room), pad(value, room)))
            return key, value, None
        if count != 1:
            raise ShapeError(f"a cache is continued by one position at a time, not {count}")
        places = arange(self.length)
        here = (places == self.place)[:, None]
        old_key, old_value = next(self._past)
        pair = where(here, key, old_key), where(here, value, old_value)
        self.past = (*self.past, pair)
        return *pair, places <= self.place

    def memory(self, project: Callable[[], Iterable[Array]]) -> Pair:
        """The keys and values of an encoder's output, which ``project`` makes once."""
        key, value = project() if self._begins else next(self._memories)
        pair = key, value
        self.memories = (*self.memories, pair)
        return pair
