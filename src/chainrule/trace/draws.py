"""Numbers of random words: written out where a function is traced, made block by block where many are computed at once."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from chainrule.core.dtypes import UINT32
from chainrule.engines.reference.draws import in_blocks
from chainrule.engines.reference.threefry import BLOCK
from chainrule.ir.graph import ArrayType, Value
from chainrule.ir.sizes import BATCH, Shape
from chainrule.trace.array import Array
from chainrule.trace.context import Eager, Trace, entered
from chainrule.trace.seeds import DRAW_STREAM

Numbers = Callable[[Array], Array]


def drawn(numbers: Numbers, key: Array, shape: Shape, each: tuple[int, ...], *settings: object) -> Array:
    """``numbers(words)`` for words of the shape (*shape, *each) drawn with a key.

    A number depends on its own words and on ``settings``, and on nothing else: with plain numbers as settings, many can be made in
    blocks.
    """
    home = key.home
    plain = all(isinstance(setting, bool | int | float | np.generic) for setting in settings)
    if plain and isinstance(home, Eager) and _count(shape) * prod(each) > 2 * BLOCK:
        return _at_once(numbers, key.value, home, shape, each)
    stream = home.constant(DRAW_STREAM, UINT32)
    return numbers(Array(home.random_bits(key.value, stream, (*shape, *each)), home))


def _count(shape: Shape) -> int:
    return prod(int(size) for size in shape)


def _at_once(numbers: Numbers, key: Value, home: Eager, shape: Shape, each: tuple[int, ...]) -> Array:
    trace = Trace()
    with entered(trace):
        found = numbers(Array(trace.input(ArrayType((BATCH, *each), UINT32)), trace))
    graph = trace.close("draw", [found.value])
    sizes = tuple(int(size) for size in shape)
    array = in_blocks(graph, home.arrays[key], np.asarray(DRAW_STREAM, np.uint32), sizes)
    value = Value(ArrayType(sizes, found.value.dtype))
    home.arrays[value] = array
    return Array(value, home)
