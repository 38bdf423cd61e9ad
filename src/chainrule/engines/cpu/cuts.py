"""A box of loops in parts, in each of which what guards say is known.

    out[i, j] = pad(x)[i, j] + pad(y)[i, j]      becomes   a loop over the columns of x, then one over those of y

Where conditions change along an axis, the box is cut; where they hold for every so many elements of one, as those of what is spread by
a stride, it is taken in parts of equal residues; where an axis would have to be divided (a reshape into heads, and a transposition), it
becomes two loops. The outermost axis stays whole: it is what is divided among threads, or the items of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from chainrule.engines.cpu.body import Body
from chainrule.engines.cpu.indexing import Index, Var, linear, variable
from chainrule.engines.cpu.loops import Box
from chainrule.engines.cpu.pieces import pieces_of

# Shorter loops than this are not worth having for themselves, nor more boxes than so many.
_SHORTEST = 16
_MOST_BOXES = 8
# Nor more than so many parts of different residues.
_MOST_RESIDUES = 16


@dataclass(frozen=True, slots=True)
class Axis:
    """Loops that together run along an axis, from ``start`` on in steps of ``step``."""

    vars: tuple[Var, ...]
    start: int = 0
    step: int = 1

    @property
    def index(self) -> Index:
        sizes = tuple(var.extent for var in self.vars if var.extent is not None)
        return linear([variable(var) for var in self.vars], sizes) * self.step + self.start


Axes = tuple[Axis, ...]


def boxes_of(body: Callable[[], Body], axes: Axes, build: Callable[[Body, Axes], Box]) -> list[Box]:
    """What ``build`` writes for all of these axes, in boxes one after another."""
    boxes: list[Box] = []
    waiting = [axes]
    while waiting:
        axes = waiting.pop(0)
        built = body()
        box = build(built, axes)
        parts = _by_residue(built, axes)
        if parts and len(parts) + len(waiting) + len(boxes) <= _MOST_RESIDUES:
            waiting = [*parts, *waiting]
            continue
        parts = _cut(built, axes)
        if parts and len(parts) + len(waiting) + len(boxes) <= _MOST_BOXES:
            waiting = [*parts, *waiting]
        elif (refined := _refined(built, axes)) is not None:
            waiting.insert(0, refined)
        else:
            boxes.append(box)
    return boxes


def _cut(body: Body, axes: Axes) -> list[Axes]:
    """The box in parts between the places where guards change along one axis; none if they would be too short."""
    vars = [var for axis in axes for var in axis.vars]
    found = pieces_of(vars, body) if len(vars) == len(axes) else None
    if found is None:
        return []
    number, ends = found
    axis = axes[number]
    parts = [
        replace(axis, vars=(Var(vars[number].name, high - low),), start=axis.start + low * axis.step)
        for low, high in zip(ends, ends[1:])
    ]
    return [(*axes[:number], part, *axes[number + 1 :]) for part in parts]


def _by_residue(body: Body, axes: Axes) -> list[Axes]:
    """The box in parts in which every index of one axis leaves the same remainder, where that decides what is read.

    The innermost axis stays whole, so that what is read and written there is contiguous.
    """
    for number, axis in enumerate(axes[1:-1], 1):
        var, step = axis.vars[-1], body.steps.get(axis.vars[-1], 0)
        if len(axis.vars) > 1 or not isinstance(var.extent, int) or not 0 < step <= var.extent:
            continue
        parts = [
            replace(
                axis,
                vars=(Var(var.name, -(-(var.extent - residue) // step)),),
                start=axis.start + residue * axis.step,
                step=axis.step * step,
            )
            for residue in range(step)
        ]
        return [(*axes[:number], part, *axes[number + 1 :]) for part in parts]
    return []


def _refined(body: Body, axes: Axes) -> Axes | None:
    """The box with one loop made two, so that nothing is divided by the extent of the inner one."""
    for number, axis in enumerate(axes[1:], 1):
        for place, var in enumerate(axis.vars):
            divisor = body.divisors.get(var)
            if divisor is None or divisor < _SHORTEST:
                continue
            assert isinstance(var.extent, int), "only constant extents are divided"
            if var.extent == divisor:
                continue
            pair = Var(f"{var.name}_{divisor}", var.extent // divisor), Var(var.name, divisor)
            loops = (*axis.vars[:place], *pair, *axis.vars[place + 1 :])
            return (*axes[:number], replace(axis, vars=loops), *axes[number + 1 :])
    return None
