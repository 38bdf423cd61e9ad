"""Going back: a copy of the state now and then, and the steps since, from which the state before any of them follows again.

Steps write over the state that they are given, so after a step that went wrong the state before it is computed again. The
copy is renewed so rarely that copying takes at most a hundredth of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.trees import Tree

NDArray = np.ndarray[Any, Any]

_SHARE = 0.01
# The state is copied anew when the examples copied for steps since then take so many bytes.
_MOST_HELD = 1 << 24


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps in a row: ``steps`` batches of ``batch`` examples, at ``rows``, or one after the other from the first.

    ``held`` are the bytes of examples that are kept for these steps alone.
    """

    x: Tree
    y: Tree
    weights: NDArray | None
    rows: NDArray | None
    batch: int
    steps: int
    held: int = 0

    @classmethod
    def of_copies(cls, x: Tree, y: Tree, weights: NDArray | None, count: int) -> Stretch:
        """One step on examples that their owner may change afterwards."""
        x, y = trees.tree_map(np.array, x), trees.tree_map(np.array, y)
        weights = None if weights is None else np.array(weights)
        held = sum(leaf.nbytes for tree in (x, y) for leaf in trees.leaves(tree))
        return cls(x, y, weights, None, count, 1, held)

    def first(self, steps: int) -> Stretch:
        """Only so many of the steps."""
        return replace(self, steps=steps, rows=None if self.rows is None else self.rows[: steps * self.batch])

    def examples_of(self, step: int) -> tuple[Tree, Tree, NDArray | None]:
        """The inputs, targets and weights of one step."""
        place = slice(step * self.batch, (step + 1) * self.batch)
        rows = place if self.rows is None else self.rows[place]

        def pick(tree: Tree) -> Tree:
            return trees.tree_map(lambda leaf: leaf[rows], tree)

        return pick(self.x), pick(self.y), None if self.weights is None else self.weights[rows]

    def shares(self) -> NDArray:
        """Of every step the sum of its examples' weights, in float64."""
        if self.weights is None:
            return np.broadcast_to(np.float64(self.batch), self.steps)
        count = self.steps * self.batch
        used = self.weights[:count] if self.rows is None else self.weights[self.rows]
        shares: NDArray = used.astype(np.float64).reshape(self.steps, self.batch).sum(axis=1)
        return shares


class Journal:
    """What was done to a state since it was last copied."""

    def __init__(self) -> None:
        self._copy: Tree = None
        self._since: list[Stretch] = []
        self._copied = 0.0
        self._cost = 0.0
        self._held = 0

    def forget(self) -> None:
        """The state has been changed by something else than steps: the next stretch begins with a copy."""
        self._since.clear()
        self._cost, self._copied = 0.0, 0.0

    def note(self, state: Tree, stretch: Stretch) -> None:
        """Steps are about to be taken on this state."""
        now = time.perf_counter()
        self._held += stretch.held
        if not self._copied or (now - self._copied) * _SHARE > self._cost or self._held > _MOST_HELD:
            self._take_copy(state)
            self._copied = time.perf_counter()
            self._cost = self._copied - now
            self._since.clear()
            self._held = stretch.held
        self._since.append(stretch)

    def _take_copy(self, state: Tree) -> None:
        leaves, definition = trees.flatten(state)
        if self._copy is not None:
            before, old_definition = trees.flatten(self._copy)
            if definition == old_definition and all(
                old.shape == new.shape and old.dtype == new.dtype for old, new in zip(before, leaves, strict=True)
            ):
                for old, new in zip(before, leaves, strict=True):
                    np.copyto(old, new)
                return
        self._copy = trees.tree_map(np.array, state)

    def state_before(self, step: int, advance: Callable[[Tree, Stretch], Tree]) -> Tree:
        """The state before a step (from 0) of the latest stretch; ``advance(state, stretch)`` takes steps."""
        *whole, last = self._since
        state = trees.tree_map(np.array, self._copy)
        for stretch in (*whole, last.first(step)):
            if stretch.steps:
                state = advance(state, stretch)
        return state
