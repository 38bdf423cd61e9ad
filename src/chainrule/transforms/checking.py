"""Checking gradients against finite differences: for students, for new primitives, for hand-derived rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import is_float
from chainrule.core.errors import ShapeError
from chainrule.core.trees import Tree
from chainrule.grad import STANDARD, RuleSet
from chainrule.transforms.compilation import Compiled
from chainrule.transforms.derivatives import grad

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class GradientReport:
    """The outcome of a check. ``error`` is the largest ``|found - expected| / max(1, |expected|)``; ``where`` its place."""

    ok: bool
    error: float
    where: str
    found: float
    expected: float

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        verdict = "the gradients agree" if self.ok else "the gradients differ"
        return (
            f"{verdict}: the largest relative difference is {self.error:.3g}, at {self.where}, "
            f"where {self.found:.9g} was found and {self.expected:.9g} expected"
        )


def numerical_gradient(function: Callable[..., Any], args: Sequence[Tree], argnum: int = 0, step: float = 1e-4) -> Tree:
    """Central differences of a scalar function in float64, of sixth order in the step.

    ``f'(x) ≈ [45(f(x+h) - f(x-h)) - 9(f(x+2h) - f(x-2h)) + (f(x+3h) - f(x-3h))] / 60h`` with h = step · max(1, |x|).
    """
    program: Compiled[..., Any] = Compiled(function, (), "reference", ())
    wide = [trees.tree_map(_widened, tree) for tree in args]
    leaves, definition = trees.flatten(wide[argnum])

    def evaluate(number: int, changed: NDArray) -> float:
        replaced = [changed if k == number else leaf for k, leaf in enumerate(leaves)]
        given = [trees.unflatten(definition, replaced) if k == argnum else tree for k, tree in enumerate(wide)]
        return float(program(*given))

    results = []
    for number, leaf in enumerate(leaves):
        result = np.zeros(np.shape(leaf), np.float64)
        if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64:
            for place in np.ndindex(leaf.shape):
                h = step * max(1.0, abs(float(leaf[place])))
                total = 0.0
                for k, weight in ((1, 45.0), (2, -9.0), (3, 1.0)):
                    for sign in (1, -1):
                        moved = leaf.copy()
                        moved[place] += sign * k * h
                        total += sign * weight * evaluate(number, moved)
                result[place] = total / (60 * h)
        results.append(result)
    return trees.unflatten(definition, results)


def _widened(leaf: Any) -> Any:
    if isinstance(leaf, float):
        return np.asarray(leaf, np.float64)
    if isinstance(leaf, np.ndarray | np.generic) and is_float(np.asarray(leaf).dtype):
        return np.array(leaf, np.float64)
    return leaf


def check_gradients(
    function: Callable[..., Any],
    *args: Tree,
    argnums: int | Sequence[int] | None = None,
    tolerance: float = 1e-7,
    rules: RuleSet = STANDARD,
) -> GradientReport:
    """Compare backpropagation's gradient of a scalar function at ``args`` with central differences, in float64.

    Every floating-point argument is checked unless ``argnums`` names some. The report is true where all agree.
    """
    wide = [trees.tree_map(_widened, tree) for tree in args]
    chosen = range(len(args)) if argnums is None else (argnums,) if isinstance(argnums, int) else argnums
    worst: GradientReport | None = None
    for number in chosen:
        found = grad(function, number, rules=rules)(*wide)
        report = _compared(found, numerical_gradient(function, wide, number), tolerance, f"argument {number}")
        if worst is None or not report.error <= worst.error:
            worst = report
    if worst is None:
        raise ShapeError("there is no argument to check")
    return worst


def compare(
    my_gradient: Tree | Callable[..., Tree],
    function: Callable[..., Any],
    *args: Tree,
    argnum: int = 0,
    tolerance: float = 1e-7,
) -> GradientReport:
    """Compare a hand-derived gradient, or a function of ``args`` that computes one, with backpropagation's."""
    wide = [trees.tree_map(_widened, tree) for tree in args]
    mine = my_gradient(*wide) if callable(my_gradient) else my_gradient
    return _compared(mine, grad(function, argnum)(*wide), tolerance, "")


def _compared(found: Tree, expected: Tree, tolerance: float, prefix: str) -> GradientReport:
    mine = trees.leaves(found)
    right, right_definition = trees.flatten(expected)
    if len(mine) != len(right):
        raise ShapeError(f"the gradient has {len(mine)} arrays, but {len(right)} are expected")
    worst = GradientReport(True, 0.0, prefix or "any place", 0.0, 0.0)
    for a, b, place in zip(mine, right, trees.places(right_definition), strict=True):
        one, two = np.asarray(a, np.float64), np.asarray(b, np.float64)
        name = " ".join(part for part in (prefix, place.path) if part) or "the argument"
        if one.shape != two.shape:
            raise ShapeError(f"the gradient of {name} has shape {one.shape}, but {two.shape} is expected")
        if not one.size:
            continue
        error = np.abs(one - two) / np.maximum(1.0, np.abs(two))
        error = np.where(np.isnan(error), np.inf, error)
        at = np.unravel_index(int(np.argmax(error)), error.shape)
        if error[at] >= worst.error:
            where = f"{name}{list(map(int, at))}" if at else name
            worst = GradientReport(
                bool(error[at] <= tolerance), float(error[at]), where, float(one[at]), float(two[at])
            )
    return worst
