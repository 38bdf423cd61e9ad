"""The formula of a loop nest in words that a reader knows: what is written above it in the C source."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from chainrule.engines.cpu.grouping import Grouping
from chainrule.engines.cpu.nest import Nest
from chainrule.ir.contraction import Affine, Contraction, affine
from chainrule.ir.graph import Node, Value

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "logical_and": "and",
    "logical_or": "or",
}
_SILENT = frozenset({"broadcast", "reshape", "stop_gradient"})
_LONGEST = 160


def formula_of(nest: Nest, grouping: Grouping, name: Callable[[Value], str]) -> str:
    """``place: result = formula; ...``, safe to stand in a C comment whatever the user's names are."""
    places: dict[str, None] = {}
    for value in nest.made:
        origin = grouping.makers[value].origin
        places[f"{origin.path or 'step'} {origin.phase}"] = None
    return harmless(f"{', '.join(list(places)[:3])}: ") + ";\n   ".join(_formulas(nest, grouping, name))


def formulas_of(nest: Nest, grouping: Grouping, name: Callable[[Value], str]) -> str:
    """The formulas alone, in one line."""
    return "; ".join(_formulas(nest, grouping, name))


def harmless(text: str) -> str:
    """A text that can stand in a C comment."""
    return re.sub(r"[^\x20-\x7e]|\*/|/\*|\\|\?\?", "_", text)


def product_text(spec: Contraction, a: str, b: str) -> str:
    """``x @ w``, with ``.T`` for transposed operands, where the contraction is a matrix product; else what is summed, and where.

    An operand in panels (``layouts.py``) is shown as ``panels(w)`` with the axes that it had.
    """
    whole = _without_panels(spec)
    if whole is not None:
        spec, panels = whole
        a, b = (f"panels({name})" if number == panels else name for number, name in enumerate((a, b)))
    out, in_a, in_b = ([coordinate.plain for coordinate in places] for places in (spec.out, spec.a, spec.b))
    if len(out) == len(in_a) == len(in_b) == 2 and len(spec.extents) == 3:
        for (left, rows), (right, columns) in (((a, in_a), (b, in_b)), ((b, in_b), (a, in_a))):
            row, column = out
            between = [k for k in rows if k is not None and k in columns and k not in out]
            if None not in (row, column) and row in rows and column in columns and len(between) == 1:
                turned = (f"{left}.T" if rows[1] == row else left, f"{right}.T" if columns[0] == column else right)
                return f"{turned[0]} @ {turned[1]}"
    places = re.fullmatch(r".*\| (\[.*\]) \+= (\[.*\]) \* (\[.*\])", str(spec))
    assert places is not None, "the notation of contractions"
    return f"sum of {a}{places[2]} * {b}{places[3]} at {places[1]}"


def _without_panels(spec: Contraction) -> tuple[Contraction, int] | None:
    """A contraction as if its operand in panels, whose number is returned too, were not; None if there is no such."""
    for number, places in enumerate((spec.a, spec.b)):
        if len(places) < 2 or (panel := places[0].plain) is None or (lane := places[-1].plain) is None:
            continue
        whole, width = Affine(((lane, 1),)), spec.extents[lane]
        counted = affine((lane, 1), (panel, width)) if isinstance(width, int) and panel != lane else None
        if counted is None or counted not in spec.out:
            continue
        maps = [spec.a, spec.b]
        maps[number] = (*places[1:-1], whole)
        out = tuple(whole if place == counted else place for place in spec.out)
        extents = (*spec.extents[:lane], spec.extents[panel] * width, *spec.extents[lane + 1 :])
        others = (*out, *maps[0], *maps[1])
        if panel == len(extents) - 1 and not any(index == panel for place in others for index, _ in place.terms):
            return replace(spec, extents=extents[:panel], out=out, a=maps[0], b=maps[1]), number
    return None


def _formulas(nest: Nest, grouping: Grouping, name: Callable[[Value], str]) -> list[str]:
    # What only the stages of a row read has no memory, and no name but these.
    own = {value: f"r{number}" for number, value in enumerate(v for v in nest.made if v in nest.private)}

    def text(value: Value, depth: int) -> str:
        if grouping.is_stored(value) and depth:
            return name(value)
        if grouping.canonical(value) in own and depth:
            return own[grouping.canonical(value)]
        node = grouping.makers.get(value)
        if node is None:
            return "?"
        if node is nest.node and depth:
            return "result"
        return operation(node, depth)

    def operation(node: Node, depth: int) -> str:
        primitive = node.primitive.name
        if primitive == "constant" and node.output.shape == ():
            return str(node.attributes["value"])
        if depth > 6:
            return "..."
        operands = [text(value, depth + 1) for value in node.inputs]
        if primitive in _SILENT:
            return operands[0]
        if primitive in _INFIX:
            return f"({operands[0]} {_INFIX[primitive]} {operands[1]})"
        if primitive == "contract":
            return product_text(node.attributes["spec"], *operands)
        return f"{primitive}({', '.join(operands)})"

    parts = []
    for value in nest.made:
        target = name(value) if grouping.is_stored(value) else own.get(value, "result")
        shown = operation(grouping.makers[value], 0)
        parts.append(harmless(f"{target} = {shown[:_LONGEST]}{'...' if len(shown) > _LONGEST else ''}"))
    return parts
