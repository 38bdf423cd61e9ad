"""From arrays to batches: checked once, shuffled by a counter-based key, gathered by index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, DataError
from chainrule.core.trees import Tree
from chainrule.engines.reference.threefry import random_bits
from chainrule.trace.seeds import DRAW_STREAM, fold_in

NDArray = np.ndarray[Any, Any]

# Rows at a time where nothing is learned.
EVALUATION_BATCH = 1024
_MANY_NUMBERS = 4096


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs, targets and optional weights with one leading size. ``x`` and ``y`` may be trees of arrays."""

    x: Tree
    y: Tree
    weights: NDArray | None
    count: int

    def take(self, rows: NDArray | slice) -> tuple[Tree, Tree, NDArray | None]:
        """The examples at these rows, in this order."""

        def pick(tree: Tree) -> Tree:
            return trees.tree_map(lambda leaf: leaf[rows], tree)

        return pick(self.x), pick(self.y), None if self.weights is None else self.weights[rows]

    def from_row(self, start: int) -> Examples:
        """The examples from a row on, as views."""
        return Examples(*self.take(slice(start, None)), self.count - start)


def examples(data: Any, dtype: np.dtype[Any], what: str = "the data") -> Examples:
    """Check ``(x, y)`` or ``(x, y, weights)`` and convert floats of a single array x, and of y, to the model's type.

    Raises :class:`DataError` when sizes differ, nothing is there, or weights are negative or all zero.
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        size = f" of {len(data)}" if isinstance(data, tuple | list) else ""
        raise DataError(f"{what} must be a tuple (x, y) or (x, y, weights), not {type(data).__name__}{size}")
    x = inputs(data[0], dtype)
    y = trees.tree_map(lambda leaf: _converted(leaf, dtype), data[1])
    weights = None if len(data) == 2 or data[2] is None else np.asarray(data[2]).astype(dtype)
    sizes = [_rows(leaf) for leaf in (*trees.leaves(x), *trees.leaves(y))]
    if len(set(sizes)) != 1:
        raise DataError(f"{what} must have the examples along the first axis of every array, but the sizes are {sizes}")
    count = sizes[0]
    if count == 0:
        raise DataError(f"{what} has no examples")
    if weights is not None:
        if weights.shape != (count,):
            raise DataError(f"{what} has {count} examples but weights of shape {weights.shape}")
        if not np.all(weights >= 0) or not np.any(weights > 0):
            raise DataError(f"the weights of {what} must not be negative, and not all zero")
    return Examples(x, y, weights, count)


def inputs(x: Tree, dtype: np.dtype[Any]) -> Tree:
    """Inputs as arrays. A single array of floats gets the model's type; in a tree every array keeps its own."""
    if trees.flatten(x)[1] == trees.LEAF:
        return _converted(x, dtype)
    arrays = trees.tree_map(np.asarray, x)
    for leaf in trees.leaves(arrays):
        _rows(leaf)
    return arrays


def _rows(leaf: NDArray) -> int:
    """The number of examples in an array."""
    if not leaf.ndim:
        raise DataError(
            "examples are rows of arrays, not single numbers or text; make an array of lists with numpy.asarray first"
        )
    return int(leaf.shape[0])


def _converted(leaf: Any, dtype: np.dtype[Any]) -> NDArray:
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiub" and not is_float(array.dtype):
        raise DataError(
            f"networks take numbers, not {array.dtype}; encode text and dates first, or use `chainrule train`"
        )
    # Rows that lie one after the other can be gathered by native code.
    wanted = dtype if is_float(array.dtype) else array.dtype
    return array.astype(wanted, order="C", copy=False)


def by_batches(function: Callable[[Tree], Tree], x: Tree, size: int = EVALUATION_BATCH) -> Tree:
    """What a function gives for so many rows of the inputs at a time, one after the other."""
    count = _rows(trees.leaves(x)[0])
    if count == 0:
        # A program runs on a row at least.
        row = trees.tree_map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), x)
        return trees.tree_map(lambda leaf: leaf[:0], function(row))
    parts = [function(trees.tree_map(lambda leaf, rows=rows: leaf[rows], x)) for rows in slices(count, size)]
    return trees.tree_map(lambda *leaves: np.concatenate(leaves), *parts)


def is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def slices(count: int, size: int) -> list[slice]:
    """So many rows at a time, up to a count."""
    if not is_count(size):
        raise ConfigError(f"batch_size is a whole number of at least 1, not {size!r}")
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def order_of_epoch(key: NDArray, since: int, epoch: int, count: int) -> NDArray:
    """The order in which an epoch visits the examples: a function of the key, the updates that the model had when this training
    began, so that one that goes on with it has orders of its own, and the epoch's number."""
    if since:
        key = fold_in(key, since)
    bits = random_bits(fold_in(key, epoch), np.asarray(DRAW_STREAM, np.uint32), (count,))
    return _stable_order(bits)


def _stable_order(numbers: NDArray) -> NDArray:
    """``argsort(kind="stable")`` of 32-bit numbers: by their lower halves, then by their upper ones, which NumPy sorts by digits.

    That takes less than half the time for many numbers; the order of an epoch takes longer than the epoch where steps are tiny.
    """
    if len(numbers) < _MANY_NUMBERS:
        return np.argsort(numbers, kind="stable")
    order = np.argsort(numbers.astype(np.uint16), kind="stable")
    upper: NDArray = (numbers >> 16).astype(np.uint16)[order]
    return order[np.argsort(upper, kind="stable")]
