"""A table of a model's layers: paths, output shapes and numbers of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from chainrule.core import trees
from chainrule.core.dtypes import DType, dtype_name
from chainrule.core.errors import ConfigError
from chainrule.core.names import escape_terminal
from chainrule.core.trees import Tree
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH
from chainrule.nn.calls import observing
from chainrule.trace.array import Array
from chainrule.trace.context import Trace, entered
from chainrule.trace.scope import scope
from chainrule.trace.values import show_shape

if TYPE_CHECKING:
    from chainrule.nn.module import Module


@dataclass(frozen=True, slots=True)
class Row:
    """One layer, in the order in which layers are first called; ``output`` is empty for a layer that was not called."""

    path: str
    layer: str
    output: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The rows of layers that hold arrays or no other module, and totals over the whole model.

    ``parameters`` counts learned numbers, ``state`` numbers that layers record, ``size`` is the bytes of both.
    """

    name: str
    input: str
    rows: tuple[Row, ...]
    parameters: int
    state: int
    size: int

    def __str__(self) -> str:
        header = ("path", "layer", "output shape", "parameters")
        body = [(row.path, row.layer, row.output or "not called", f"{row.parameters:,}") for row in self.rows]
        cells = [tuple(map(escape_terminal, line)) for line in [header, *body]]
        widths = [max(len(line[column]) for line in cells) for column in range(4)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(line[:3], widths)), line[3].rjust(widths[3])])
            for line in cells
        ]
        rule = "─" * len(lines[0])
        total = f"{self.parameters:,} parameters"
        if self.state:
            total += f" and {self.state:,} numbers of state"
        title = f"{self.name} for input of shape {self.input}"
        return "\n".join([title, rule, lines[0], rule, *lines[1:], rule, f"{total}, {_bytes(self.size)}"])


def summarise(model: Module, input_shape: Tree, dtype: npt.DTypeLike) -> Summary:
    """See :meth:`chainrule.nn.Module.summary`."""
    outputs: dict[str, str] = {}

    def note(path: str, module: Module, result: Tree) -> None:
        outputs.setdefault(path, _shapes(result))

    context = Trace()
    given = _inputs(input_shape, context, dtype_name(dtype))
    with entered(context), scope("", training=False), observing(note):
        model(given)
    held = model.named_modules()
    parameters, state = model.named_parameters(), model.state_leaves()
    counts = _counts_by_module(list(held), parameters)
    called = [path for path in outputs if path in held]
    rows = [
        Row(path or "-", type(held[path]).__name__, outputs.get(path, ""), counts[path])
        for path in [*called, *(path for path in held if path not in outputs)]
        if counts[path] or len(held[path].named_modules()) == 1
    ]
    numbers = [*parameters.values(), *state.values()]
    return Summary(
        type(model).__name__,
        _shapes(given),
        tuple(rows),
        sum(map(_count, parameters.values())),
        sum(map(_count, state.values())),
        sum(_count(leaf) * leaf.dtype.itemsize for leaf in numbers),
    )


def _inputs(shapes: Tree, context: Trace, dtype: DType) -> Tree:
    """One symbolic array per shape."""
    if isinstance(shapes, dict):
        return {name: _inputs(shape, context, dtype) for name, shape in shapes.items()}
    sizes = shapes if isinstance(shapes, tuple | list) else (shapes,)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ConfigError(
            f"an input shape is a tuple of sizes without the batch, such as (784,) or (28, 28, 1), or a dict of them, not {shapes!r}"
        )
    return Array(context.input(ArrayType((BATCH, *sizes), dtype)), context)


def _shapes(tree: Tree) -> str:
    """The shapes in a tree of arrays; several are listed by name."""
    shapes = {
        path: show_shape(leaf.shape) for path, leaf in trees.named_leaves(tree).items() if isinstance(leaf, Array)
    }
    if list(shapes) == [""]:
        return shapes[""]
    return ", ".join(f"{path}: {shape}" for path, shape in shapes.items()) or "-"


def _counts_by_module(paths: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, int]:
    """How many learned numbers each module holds itself, outside the modules in it."""
    counts = dict.fromkeys(paths, 0)
    for name, leaf in parameters.items():
        owner = max((path for path in paths if not path or name.startswith(path + ".")), key=len)
        counts[owner] += _count(leaf)
    return counts


def _count(leaf: Any) -> int:
    return math.prod(leaf.shape)


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}" if unit != "B" else f"{size} B"
        amount /= 1024
    return f"{amount:.3g} GiB"
