"""Keys and values that causal attention keeps, so that a further position costs one row of attention and not all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chainrule.core.errors import ConfigError, ShapeError
from chainrule.ops.arrays import arange
from chainrule.ops.math import where
from chainrule.ops.padding import pad
from chainrule.trace.array import Array, as_array

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

    def take(self, of_memory: bool) -> Pair | None:
        """What an attention layer kept, as its turn comes; None at the beginning."""
        if self._begins:
            return None
        pair = next(self._memories if of_memory else self._past, None)
        if pair is None:
            raise ConfigError("this cache was made by fewer attention layers than are called now; begin with a new one")
        return pair

    def put(self, pair: Pair, of_memory: bool) -> None:
        """What the layer keeps from now on."""
        if of_memory:
            self.memories = (*self.memories, pair)
        else:
            self.past = (*self.past, pair)

    def extended(self, kept: Pair | None, key: Array, value: Array) -> tuple[Pair, Array, Array, Array | None]:
        """What to keep, the keys and values to attend to, and which of them are not in the future (None for: see ``causal``)."""
        count = key.shape[-2]
        if kept is None:
            if not isinstance(count, int) or count > self.length:
                raise ShapeError(f"a cache of {self.length} positions has no room for {count}")
            room = [(0, 0)] * (key.ndim - 2) + [(0, self.length - count), (0, 0)]
            return (pad(key, room), pad(value, room)), key, value, None
        if count != 1:
            raise ShapeError(f"a cache is continued by one position at a time, not {count}")
        places = arange(self.length)
        here = (places == self.place)[:, None]
        key, value = (where(here, new, as_array(old)) for new, old in zip((key, value), kept, strict=True))
        return (key, value), key, value, places <= self.place
