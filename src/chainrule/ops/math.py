"""Elementwise mathematics."""

from __future__ import annotations

from typing import Any

from chainrule.trace.array import Array, ArrayLike, as_array, binary, operation, select, unary
from chainrule.trace.array import matmul as _matmul


@operation
def exp(x: ArrayLike) -> Any:
    """``e**x``."""
    return unary("exp", x, floats=True)


@operation
def expm1(x: ArrayLike) -> Any:
    """``e**x - 1``, accurate near 0."""
    return unary("expm1", x, floats=True)


@operation
def log(x: ArrayLike) -> Any:
    """The natural logarithm; -inf at 0 and NaN below."""
    return unary("log", x, floats=True)


@operation
def log1p(x: ArrayLike) -> Any:
    """``log(1 + x)``, accurate near 0."""
    return unary("log1p", x, floats=True)


@operation
def sqrt(x: ArrayLike) -> Any:
    """The square root; NaN below 0."""
    return unary("sqrt", x, floats=True)


@operation
def sin(x: ArrayLike) -> Any:
    """The sine of radians."""
    return unary("sin", x, floats=True)


@operation
def cos(x: ArrayLike) -> Any:
    """The cosine of radians."""
    return unary("cos", x, floats=True)


@operation
def tanh(x: ArrayLike) -> Any:
    """The hyperbolic tangent ``(e**x - e**-x) / (e**x + e**-x)``."""
    return unary("tanh", x, floats=True)


@operation
def erf(x: ArrayLike) -> Any:
    """The error function ``2/√π ∫₀ˣ exp(-t²) dt``."""
    return unary("erf", x, floats=True)


@operation
def abs(x: ArrayLike) -> Any:
    """The absolute value; its derivative at 0 is taken as 0."""
    return unary("abs", x)


@operation
def sign(x: ArrayLike) -> Any:
    """-1, 0 or 1 with the sign of x; its derivative is 0 everywhere."""
    return unary("sign", x)


@operation
def floor(x: ArrayLike) -> Any:
    """The largest integer not above x; its derivative is 0 everywhere."""
    return unary("floor", x, floats=True)


@operation
def square(x: ArrayLike) -> Any:
    """``x * x``."""
    return binary("mul", x, x)


@operation
def is_finite(x: ArrayLike) -> Any:
    """True where x is neither NaN nor infinite."""
    return unary("is_finite", x, floats=True)


@operation
def maximum(x: ArrayLike, y: ArrayLike) -> Any:
    """The larger of two; NaN if either is. Where they are equal each gets half the gradient."""
    return binary("maximum", x, y)


@operation
def minimum(x: ArrayLike, y: ArrayLike) -> Any:
    """The smaller of two; NaN if either is. Where they are equal each gets half the gradient."""
    return binary("minimum", x, y)


@operation
def clip(x: ArrayLike, low: ArrayLike | None = None, high: ArrayLike | None = None) -> Any:
    """x limited to the interval [low, high]; the gradient passes inside and at the bounds, and is 0 outside."""
    result: Array = as_array(x)
    if low is not None:
        result = select(result < low, low, result)
    if high is not None:
        result = select(result > high, high, result)
    return result


@operation
def where(condition: ArrayLike, x: ArrayLike, y: ArrayLike) -> Any:
    """x where the condition is true, else y. Both are computed; what is not chosen gets no gradient."""
    return select(condition, x, y)


@operation
def matmul(x: ArrayLike, y: ArrayLike) -> Any:
    """The matrix product ``out[..., i, j] = Σₖ x[..., i, k] y[..., k, j]``, with NumPy's rules for vectors and leading axes."""
    return _matmul(x, y)


@operation
def stop_gradient(x: ArrayLike) -> Any:
    """x, through which no gradient passes."""
    return unary("stop_gradient", x)
