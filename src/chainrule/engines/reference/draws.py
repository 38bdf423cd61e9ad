"""Random numbers made of random words block by block, so that no array of all the words or of a step between is ever stored."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from chainrule.core.dtypes import to_numpy
from chainrule.engines.reference.engine import ReferenceProgram
from chainrule.engines.reference.threefry import BLOCK, Blocks, Words
from chainrule.ir.graph import Graph
from chainrule.ir.sizes import shape_at

NDArray = np.ndarray[Any, Any]


def in_blocks(numbers: Graph, key: Words, stream: Words, shape: tuple[int, ...]) -> NDArray:
    """What a graph makes of ``random_bits(key, stream, (*shape, *each))``, with the same bits.

    ``numbers`` takes the words (B, *each) of B numbers and gives (B,), each of its own words alone, an even count of words or one.
    """
    program = ReferenceProgram(numbers, frozenset({0}))
    found: NDArray = np.empty(shape, to_numpy(numbers.outputs[0].dtype))
    flat = found.reshape(-1)
    each = shape_at(numbers.inputs[0].shape, 0)[1:]
    words_each = prod(each)
    most = 2 * BLOCK // words_each
    blocks = Blocks(key, stream, BLOCK)
    with np.errstate(all="ignore"):
        for first in range(0, flat.size, most):
            part = flat[first : first + most]
            if words_each == 1:
                words = np.empty(part.shape, np.uint32)
                blocks.write(words, first // 2)
            else:
                # The first words of all blocks and then the second ones: what follows need not take every other number.
                pairs = blocks.at(first * words_each // 2, part.size * words_each // 2)
                words = pairs.T.reshape(part.size, *each)
            part[:] = program.at(part.size)([words])[0]
    return found
