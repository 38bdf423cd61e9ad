"""The C of linear transforms of tiles, vector by vector: sums of a few terms with factors that are mostly 1 and -1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainrule.core.dtypes import DType
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import literal
from chainrule.engines.cpu.vectors import vector_type
from chainrule.engines.cpu.winograd_algorithms import Matrix

# The name or text of an element of a tile, by its row and column.
Load = Callable[[int, int], str]
StoreText = Callable[[int, int, str], None]


def transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def write_transform(
    w: Writer, first: Matrix, second: Matrix, dtype: DType, lanes: int, load: Load, store: StoreText
) -> None:
    """``first · tile · secondᵀ``: every element is loaded once, and stored once."""
    vector = vector_type(dtype, lanes)
    columns = len(second[0])
    for i in range(len(first[0])):
        for j in range(columns):
            w.line(f"const {vector} x{i}_{j} = {load(i, j)};")
    for a, row in enumerate(first):
        names = []
        for j in range(columns):
            text = sum_text(row, [f"x{i}_{j}" for i in range(len(row))], dtype)
            w.line(f"const {vector} t{a}_{j} = {text};")
            names.append(f"t{a}_{j}")
        for b, factors in enumerate(second):
            store(a, b, sum_text(factors, names, dtype))


def sum_text(factors: Sequence[float], names: Sequence[str], dtype: DType) -> str:
    """The sum of the named terms times their factors."""
    text = ""
    for factor, name in zip(factors, names, strict=True):
        if factor == 0:
            continue
        sign = "-" if factor < 0 else "+"
        term = name if abs(factor) == 1 else f"{literal(abs(factor), dtype)} * {name}"
        text += f" {sign} {term}" if text else f"{'-' if factor < 0 else ''}{term}"
    return text or literal(0, dtype)
