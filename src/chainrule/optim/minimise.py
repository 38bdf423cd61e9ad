"""The minimum of a function that is not noisy: L-BFGS with a line search, which evaluates the function as often as it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import is_float
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.core.trees import Tree
from chainrule.optim.settings import count as whole
from chainrule.optim.settings import non_negative, positive

Vector = np.ndarray[Any, np.dtype[np.float64]]
LossAndGradients = Callable[[Any], tuple[Any, Any]]

_LEAST_CURVATURE = 1e-10
_DESCENT, _FLATNESS = 1e-4, 0.9  # c₁ and c₂ of Wolfe's conditions
_MOST_ON_A_LINE = 25


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where :func:`minimise` ended: the parameters, their loss, the largest element of the gradient, and what it took."""

    params: Any
    loss: float
    gradient: float
    iterations: int
    evaluations: int


def minimise(
    function: LossAndGradients,
    params: Tree,
    *,
    lr: float = 1.0,
    max_iter: int = 100,
    max_eval: int | None = None,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    history: int = 100,
    line_search: Literal["strong_wolfe"] | None = "strong_wolfe",
) -> Minimum:
    """Parameters at which a loss is smallest nearby, by L-BFGS (Liu and Nocedal 1989).

    ``function(params)`` returns the loss and its gradients, such as ``cr.compile(cr.value_and_grad(loss))``; ``params`` is a
    tree of arrays or a model. Every iteration goes along ``d = -H·g`` (see :func:`LBFGS`) by a step t that satisfies the
    strong Wolfe conditions ``f(x + td) ≤ f + 10⁻⁴ t d·g`` and ``|d·g(x + td)| ≤ 0.9 |d·g|``, found from the first guess
    ``lr`` by bracketing and cubic interpolation (Nocedal and Wright 2006, algorithms 3.5 and 3.6). With
    ``line_search=None`` the step is ``lr``, as in PyTorch's LBFGS, whose other options these are too.

    It ends after ``max_iter`` iterations or ``max_eval`` evaluations (without limit by default, but a step is looked for in 25
    at most), where no element of the gradient is larger than ``tolerance_grad``, and where the loss or every parameter changes
    by less than ``tolerance_change``. Sums are in float64; leaves keep their type, and those that are no floats stay as they
    are. Raises :class:`ConfigError` for settings that make no sense and :class:`ShapeError` for gradients that do not fit.
    """
    first = positive("minimise", "lr", lr)
    iterations, pairs = whole("minimise", "max_iter", max_iter), whole("minimise", "history", history)
    most = math.inf if max_eval is None else whole("minimise", "max_eval", max_eval)
    flat = non_negative("minimise", "tolerance_grad", tolerance_grad)
    still = non_negative("minimise", "tolerance_change", tolerance_change)
    if line_search not in ("strong_wolfe", None):
        raise ConfigError(f"the line_search of minimise is 'strong_wolfe' or None, not {line_search!r}")
    problem = _Problem(function, params)
    x, memory = problem.start, _Memory(pairs)
    loss, gradient = problem.at(x)
    done = 0
    while done < iterations and np.abs(gradient).max(initial=0.0) > flat:
        direction = memory.direction(gradient)
        slope = float(gradient @ direction)
        if slope > -still:
            break
        step = first if done else first * min(1.0, 1.0 / float(np.abs(gradient).sum()))
        done += 1
        line = _Line(problem, x, direction, _Point(0.0, loss, slope, gradient), most)
        point = line.wolfe_point(step, still) if line_search else line.at(step)
        change = point.step * direction
        before, x = loss, x + change
        memory.remember(change, point.gradient - gradient)
        loss, gradient = point.loss, point.gradient
        if problem.evaluations >= most or np.abs(change).max() <= still or abs(loss - before) < still:
            break
    return Minimum(problem.tree(x), loss, float(np.abs(gradient).max(initial=0.0)), done, problem.evaluations)


class _Problem:
    """The function of a tree as one of a vector."""

    def __init__(self, function: LossAndGradients, params: Tree) -> None:
        leaves, self._definition = trees.flatten(params)
        self._function = function
        self._leaves = [np.asarray(leaf) for leaf in leaves]
        self._moves = [is_float(leaf.dtype) for leaf in self._leaves]
        self.evaluations = 0
        if not any(self._moves):
            raise ConfigError("there are no floating-point parameters to minimise over")
        self.start = self._vector(self._leaves)

    def _vector(self, leaves: list[Any]) -> Vector:
        parts = [np.asarray(leaf, np.float64).ravel() for leaf, moves in zip(leaves, self._moves, strict=True) if moves]
        return np.concatenate(parts)

    def tree(self, x: Vector) -> Any:
        leaves, place = [], 0
        for leaf, moves in zip(self._leaves, self._moves, strict=True):
            part = x[place : place + leaf.size] if moves else leaf
            place += leaf.size if moves else 0
            leaves.append(part.reshape(leaf.shape).astype(leaf.dtype))
        return trees.unflatten(self._definition, leaves)

    def at(self, x: Vector) -> tuple[float, Vector]:
        self.evaluations += 1
        result = self._function(self.tree(x))
        if not isinstance(result, tuple) or len(result) != 2 or np.shape(result[0]) != ():
            raise ConfigError(
                "the function that minimise is given returns (loss, gradients), as cr.value_and_grad(loss) does, with a loss "
                "that is one number"
            )
        loss, gradients = result
        leaves, _ = trees.flatten(gradients)
        shapes = [np.shape(leaf) for leaf in leaves]
        if shapes != [leaf.shape for leaf in self._leaves]:
            raise ShapeError(
                "the function that minimise is given returns (loss, gradients), gradients like the parameters"
            )
        return float(loss), self._vector(leaves)


class _Memory:
    """The last changes of parameters and gradients, and the inverse Hessian that they stand for."""

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs
        self._kept: list[tuple[Vector, Vector, float]] = []
        self._scale = 1.0

    def remember(self, change: Vector, difference: Vector) -> None:
        curvature = float(change @ difference)
        if curvature > _LEAST_CURVATURE:
            self._kept = [*self._kept, (change, difference, 1 / curvature)][-self._pairs :]
            self._scale = curvature / float(difference @ difference)

    def direction(self, gradient: Vector) -> Vector:
        """``-H·g`` by the two-loop recursion (Nocedal 1980)."""
        q, weights = -gradient, []
        for change, difference, inverse in reversed(self._kept):
            weights.append(inverse * float(change @ q))
            q = q - weights[-1] * difference
        q = q * self._scale
        for (change, difference, inverse), weight in zip(self._kept, reversed(weights), strict=True):
            q = q + (weight - inverse * float(difference @ q)) * change
        return q


@dataclass(frozen=True, slots=True)
class _Point:
    """A step along a direction: the loss there, its slope along the direction, and its gradient."""

    step: float
    loss: float
    slope: float
    gradient: Vector


class _Line:
    """The function along a direction."""

    def __init__(self, problem: _Problem, x: Vector, direction: Vector, start: _Point, most: float) -> None:
        self._problem = problem
        self._x = x
        self._direction = direction
        self._start = start
        self._most = min(most, problem.evaluations + _MOST_ON_A_LINE)

    def at(self, step: float) -> _Point:
        loss, gradient = self._problem.at(self._x + step * self._direction)
        return _Point(step, loss, float(gradient @ self._direction), gradient)

    @property
    def _spent(self) -> bool:
        return self._problem.evaluations >= self._most

    def _descends(self, point: _Point) -> bool:
        return point.loss <= self._start.loss + _DESCENT * point.step * self._start.slope  # and is a number

    def _is_flat(self, point: _Point) -> bool:
        return abs(point.slope) <= -_FLATNESS * self._start.slope

    def wolfe_point(self, step: float, shortest: float) -> _Point:
        """A point that satisfies both conditions; where evaluations run out, the lowest that was found."""
        before, point = self._start, self.at(step)
        while True:
            if not self._descends(point) or (before.step and point.loss >= before.loss):
                return self._between(before, point, shortest)
            if self._is_flat(point) or self._spent:
                return point
            if point.slope >= 0:
                return self._between(point, before, shortest)
            reach = point.step - before.step
            wanted = _lowest_of_cubic(before, point)
            following = min(max(wanted, point.step + 0.01 * reach), 10 * point.step)
            before, point = point, self.at(following)

    def _between(self, low: _Point, high: _Point, shortest: float) -> _Point:
        """Narrows an interval that holds such a point; ``low`` is its end with the lower loss."""
        size = float(np.abs(self._direction).max())
        while not self._spent and abs(high.step - low.step) * size > shortest:
            ends = sorted((low.step, high.step))
            margin = 0.1 * (ends[1] - ends[0])
            point = self.at(min(max(_lowest_of_cubic(low, high), ends[0] + margin), ends[1] - margin))
            if not self._descends(point) or point.loss >= low.loss:
                high = point
                continue
            if self._is_flat(point):
                return point
            if point.slope * (high.step - low.step) >= 0:
                high = low
            low = point
        return low


def _lowest_of_cubic(a: _Point, b: _Point) -> float:
    """Where the cubic through two points with these slopes is lowest; their middle where it has no such place."""
    mean = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    square = mean * mean - a.slope * b.slope
    if math.isfinite(square) and square >= 0:
        root = math.copysign(math.sqrt(square), b.step - a.step)
        divisor = b.slope - a.slope + 2 * root
        if divisor:
            return b.step - (b.step - a.step) * (b.slope + root - mean) / divisor
    return (a.step + b.step) / 2
