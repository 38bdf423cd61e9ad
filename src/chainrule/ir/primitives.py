"""The primitive table: one row each for name, attributes and typing rule.

What a primitive *computes* is defined by the reference engine, its derivative by ``grad/``, its C by the cpu engine: tables
of their own, keyed by the names here. A test requires every table to cover every primitive or to say that it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chainrule.ir import type_rules as rules
from chainrule.ir.graph import ArrayType

Infer = Callable[[Sequence[ArrayType], Mapping[str, Any]], tuple[ArrayType, ...]]


@dataclass(frozen=True, eq=False, slots=True)
class Primitive:
    """A row of the table. ``arity`` is None where the number of operands varies."""

    name: str
    family: str
    arity: int | None
    attributes: tuple[str, ...]
    infer: Infer
    meaning: str

    def __repr__(self) -> str:
        return self.name


def _rows() -> list[Primitive]:
    rows: list[Primitive] = []

    def row(
        name: str, family: str, arity: int | None, infer: Infer, meaning: str, attributes: tuple[str, ...] = ()
    ) -> None:
        rows.append(Primitive(name, family, arity, attributes, infer, meaning))

    # Elementwise maps of one operand. All keep its type, except where said.
    row("neg", "map", 1, rules.map_numbers, "-x")
    row("abs", "map", 1, rules.map_numbers, "|x|")
    row("sign", "map", 1, rules.map_numbers, "-1, 0 or 1; NaN stays NaN")
    row("floor", "map", 1, rules.map_floats, "largest integer not above x")
    row("exp", "map", 1, rules.map_floats, "e to the x")
    row("expm1", "map", 1, rules.map_floats, "exp(x) - 1, accurate near 0")
    row("log", "map", 1, rules.map_floats, "natural logarithm")
    row("log1p", "map", 1, rules.map_floats, "log(1 + x), accurate near 0")
    row("sqrt", "map", 1, rules.map_floats, "square root")
    row("sin", "map", 1, rules.map_floats, "sine of radians")
    row("cos", "map", 1, rules.map_floats, "cosine of radians")
    row("tanh", "map", 1, rules.map_floats, "hyperbolic tangent")
    row("logistic", "map", 1, rules.map_floats, "1 / (1 + exp(-x))")
    row("erf", "map", 1, rules.map_floats, "error function")
    row("logical_not", "map", 1, rules.map_bools, "not x")
    row("is_finite", "map", 1, rules.floats_to_bool, "neither NaN nor infinite")

    # Elementwise maps of two operands of one type; broadcasting and casting are nodes of their own.
    row("add", "map", 2, rules.map_numbers, "x + y")
    row("sub", "map", 2, rules.map_numbers, "x - y")
    row("mul", "map", 2, rules.map_numbers, "x · y")
    row("div", "map", 2, rules.map_floats, "x / y")
    row("floor_div", "map", 2, rules.map_integers, "⌊x / y⌋ of integers; 0 where y is 0")
    row("remainder", "map", 2, rules.map_integers, "x - y⌊x / y⌋ of integers; 0 where y is 0")
    row("pow", "map", 2, rules.map_floats, "x to the y")
    row("maximum", "map", 2, rules.map_numbers, "the larger; NaN if either is")
    row("minimum", "map", 2, rules.map_numbers, "the smaller; NaN if either is")
    row("logical_and", "map", 2, rules.map_bools, "x and y")
    row("logical_or", "map", 2, rules.map_bools, "x or y")

    row("eq", "compare", 2, rules.compare, "x = y")
    row("ne", "compare", 2, rules.compare, "x ≠ y")
    row("lt", "compare", 2, rules.compare_ordered, "x < y")
    row("le", "compare", 2, rules.compare_ordered, "x ≤ y")
    row("select", "compare", 3, rules.select, "y where x is true, else z")
    row("cast", "map", 1, rules.cast, "x as another element type; floats saturate as integers, NaN is 0", ("dtype",))

    row("reduce_sum", "reduce", 1, rules.reduce_sum, "sum over axes", ("axes",))
    row("reduce_max", "reduce", 1, rules.reduce_any, "largest over axes; NaN if any is; `any` for bool", ("axes",))
    row("argmax", "reduce", 1, rules.argmax, "first position of the largest along an axis, as int64", ("axis",))

    row("contract", "contract", 2, rules.contract, "out[γ(i)] += x[α(i)] · y[β(i)]", ("spec",))

    row("reshape", "view", 1, rules.reshape, "the same elements in row-major order, another shape", ("shape",))
    row("transpose", "view", 1, rules.transpose, "out axis k is axis order[k] of x", ("order",))
    row(
        "broadcast", "view", 1, rules.broadcast, "axis k of x becomes axis axes[k]; the rest repeats", ("shape", "axes")
    )
    row("slice", "view", 1, rules.slice_, "x[start:limit:stride] on every axis", ("starts", "limits", "strides"))
    row(
        "pad",
        "view",
        1,
        rules.pad,
        "low, high and between-element padding with a value",
        ("low", "high", "inner", "value"),
    )
    row("flip", "view", 1, rules.flip, "reversed along axes", ("axes",))
    row("concatenate", "view", None, rules.concatenate, "operands one after another along an axis", ("axis",))

    row("gather", "index", 2, rules.gather, "out[b, j, r] = x[b, i[b, j], r]; zero where i is outside", ("batch",))
    row("scatter_add", "index", 2, rules.scatter_add, "out[b, i[b, j], r] += x[b, j, r]", ("batch", "size"))

    row("constant", "source", 0, rules.constant, "a fixed array", ("value",))
    row("iota", "source", 0, rules.iota, "0, 1, 2, ... along an axis", ("shape", "axis", "dtype"))
    row("extent", "source", 0, rules.extent, "a size, as an int64 scalar", ("size",))
    row("random_bits", "source", 2, rules.random_bits, "Threefry-2x32-20 of (key, stream), as uint32", ("shape",))

    row(
        "scan",
        "loop",
        None,
        rules.scan,
        "a loop of fixed length with a body graph",
        ("body", "length", "carries", "consts", "reverse"),
    )
    row(
        "fixed_point",
        "loop",
        None,
        rules.fixed_point,
        "z = f(z) iterated to convergence",
        ("body", "consts", "tolerance", "max_iterations"),
    )

    row("stop_gradient", "marker", 1, rules.keep, "x; no gradient passes")
    row(
        "call",
        "marker",
        None,
        rules.call,
        "a named operation given as a graph, with an optional backward graph of its own",
        ("body", "label", "backward"),
    )
    return rows


PRIMITIVES: Mapping[str, Primitive] = {primitive.name: primitive for primitive in _rows()}
