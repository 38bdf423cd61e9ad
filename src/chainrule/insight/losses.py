"""The losses that a printed training step knows, in targets y and outputs ŷ: how each is computed and written.

Each gives one loss per example; the loss of the step is their mean. Derivatives are found by backpropagation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chainrule import ops
from chainrule.insight.activations import operand

Term = Callable[[float | None, str, str], str]
Slope = Callable[[float | None, str, str, int], str]


@dataclass(frozen=True, slots=True)
class Loss:
    """``apply(y, ŷ)`` maps (examples, outputs) to (examples,).

    ``term(number, y, ŷ)`` writes what one output contributes, "" for nothing, and ``slope(number, y, ŷ, divisor)`` the
    derivative ∂L/∂ŷ of the step's loss. Both are given the target's number beside its text, because a target of 0 or 1 lets
    terms vanish, and None in its place to write the formula for all. ``factor`` stands before the sum over the outputs;
    ``averaged`` says whether it is divided by their number. ``needs`` is the activation of the last layer that keeps ŷ
    where the loss is defined.
    """

    name: str
    title: str
    apply: Callable[[Any, Any], Any]
    term: Term
    slope: Slope
    factor: str = ""
    averaged: bool = False
    needs: str | None = None

    def symbols(self, targets: Sequence[str], outputs: Sequence[str]) -> str:
        return self._joined([self.term(None, y, p) for y, p in zip(targets, outputs, strict=True)], len(outputs))

    def divisor(self, examples: int, outputs: int) -> int:
        """By what the derivative of the mean over examples is divided."""
        return examples * (outputs if self.averaged else 1)

    def numbers(self, targets: Sequence[float], outputs: Sequence[float]) -> str:
        terms = [self.term(y, operand(y), operand(p)) for y, p in zip(targets, outputs, strict=True)]
        return self._joined([text for text in terms if text], len(terms))

    def _joined(self, terms: Sequence[str], outputs: int) -> str:
        text = " + ".join(terms) or "0"
        if len(terms) > 1 and (self.factor or self.averaged):
            text = f"({text})"
        divided = f"/{outputs}" if self.averaged and outputs > 1 else ""
        return f"{self.factor}{text}{divided}"


def _squares(y: Any, p: Any) -> Any:
    return ops.square(y - p).sum(axis=1)


def _times_log(y: Any, p: Any) -> Any:
    """y·ln p, with nothing where y is 0, whatever p is there."""
    return y * ops.log(ops.where(y == 0, 1.0, p))


def _cross_entropy_term(y: float | None, target: str, output: str) -> str:
    """``−y·ln ŷ − (1 − y)·ln(1 − ŷ)`` as a positive term, without what vanishes."""
    if y == 1:
        return f"−ln({output})"
    if y == 0:
        return f"−ln(1 − {output})"
    return f"−({target}·ln({output}) + (1 − {target})·ln(1 − {output}))"


def _over(divisor: int, text: str) -> str:
    return text if divisor == 1 else f"({text})/{divisor}"


def _binary_slope(y: float | None, target: str, output: str, divisor: int) -> str:
    if y == 1:
        return _over(divisor, f"−1/{output}")
    if y == 0:
        return _over(divisor, f"1/(1 − {output})")
    return _over(divisor, f"(1 − {target})/(1 − {output}) − {target}/{output}")


def _categorical_slope(y: float | None, target: str, output: str, divisor: int) -> str:
    return "0" if y == 0 else _over(divisor, f"−{target}/{output}")


LOSSES = {
    loss.name: loss
    for loss in (
        Loss(
            "half_squared_error",
            "half squared error",
            lambda y, p: 0.5 * _squares(y, p),
            lambda y, target, output: f"({target} − {output})²",
            lambda y, target, output, divisor: _over(divisor, f"{output} − {target}"),
            factor="½",
        ),
        Loss(
            "mean_squared_error",
            "mean squared error",
            lambda y, p: ops.square(y - p).mean(axis=1),
            lambda y, target, output: f"({target} − {output})²",
            lambda y, target, output, divisor: f"2({output} − {target})" + (f"/{divisor}" if divisor > 1 else ""),
            averaged=True,
        ),
        Loss(
            "mean_absolute_error",
            "mean absolute error",
            lambda y, p: ops.abs(y - p).mean(axis=1),
            lambda y, target, output: f"|{target} − {output}|",
            lambda y, target, output, divisor: f"sign({output} − {target})" + (f"/{divisor}" if divisor > 1 else ""),
            averaged=True,
        ),
        Loss(
            "binary_cross_entropy",
            "binary cross-entropy",
            lambda y, p: -(_times_log(y, p) + _times_log(1.0 - y, 1.0 - p)).mean(axis=1),
            _cross_entropy_term,
            _binary_slope,
            averaged=True,
            needs="sigmoid",
        ),
        Loss(
            "cross_entropy",
            "cross-entropy",
            lambda y, p: -_times_log(y, p).sum(axis=1),
            lambda y, target, output: "" if y == 0 else f"{target}·ln({output})",
            _categorical_slope,
            factor="−",
            needs="softmax",
        ),
    )
}
