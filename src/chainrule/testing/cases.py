"""The cases: for every primitive several attributes and operands, of sizes 1, prime and, where that is legal, 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import ALL, BOOL, FLOATS, INT32, INT64, INTEGERS, NUMBERS, UINT32, WIDE_FLOATS, DType
from chainrule.ir.build import Builder
from chainrule.ir.contraction import parse_contraction
from chainrule.ir.graph import ArrayType, Graph
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.sizes import BATCH, Shape
from chainrule.testing.case import (
    Case,
    Domain,
    apart,
    between_integers,
    index_below,
    nonzero,
    positive,
    real,
    word,
)


def cases(dtype: DType) -> list[Case]:
    """Every case of every primitive that computes with this element type."""
    return [case for family in _FAMILIES for case in family(dtype)]


_SHAPES: Sequence[tuple[str, Shape]] = (
    ("of a scalar", ()),
    ("of size 1", (1,)),
    ("of a prime size", (7,)),
    ("of an empty array", (2, 0)),
    ("of a batch", (BATCH, 3)),
)

_FLOAT_MAPS: dict[str, tuple[Domain, ...]] = {
    "floor": (between_integers,),
    "exp": (real,),
    "expm1": (real,),
    "log": (positive,),
    "log1p": (positive,),
    "sqrt": (positive,),
    "sin": (real,),
    "cos": (real,),
    "tanh": (real,),
    "logistic": (real,),
    "erf": (real,),
    "is_finite": (real,),
    "div": (real, nonzero),
    "pow": (positive, real),
}
_NUMBER_MAPS: dict[str, tuple[Domain, ...]] = {
    "neg": (real,),
    "abs": (nonzero,),
    "sign": (nonzero,),
    "add": (real, real),
    "sub": (real, real),
    "mul": (real, real),
    "maximum": (apart(), apart(0.2)),
    "minimum": (apart(), apart(0.2)),
    "lt": (real, real),
    "le": (real, real),
}
_INTEGER_MAPS: dict[str, tuple[Domain, ...]] = {"floor_div": (real, real), "remainder": (real, real)}
_BOOL_MAPS: dict[str, tuple[Domain, ...]] = {
    "logical_not": (real,),
    "logical_and": (real, real),
    "logical_or": (real, real),
}
_ANY_MAPS: dict[str, tuple[Domain, ...]] = {"eq": (real, real), "ne": (real, real), "stop_gradient": (real,)}


def _maps(dtype: DType) -> Iterator[Case]:
    rows = dict(_ANY_MAPS)
    for dtypes, more in (
        (FLOATS, _FLOAT_MAPS),
        (NUMBERS, _NUMBER_MAPS),
        (INTEGERS, _INTEGER_MAPS),
        ({BOOL}, _BOOL_MAPS),
    ):
        if dtype in dtypes:
            rows.update(more)
    for name, domains in rows.items():
        for label, shape in _SHAPES:
            yield Case(name, label, (ArrayType(shape, dtype),) * len(domains), {}, domains)
    for label, shape in _SHAPES:
        chosen = ArrayType(shape, dtype)
        yield Case("select", label, (ArrayType(shape, BOOL), chosen, chosen))
    for target in sorted(ALL):
        yield Case("cast", f"to {target}", (ArrayType((BATCH, 3), dtype),), {"dtype": target}, (nonzero,))


def _reductions(dtype: DType) -> Iterator[Case]:
    shapes: Sequence[tuple[str, Shape, tuple[int, ...]]] = (
        ("of everything", (5, 3), (0, 1)),
        ("of nothing", (3,), ()),
        ("of the batch", (BATCH, 3), (0,)),
        ("of the last axis", (BATCH, 1, 7), (2,)),
        ("of a middle axis", (2, 3, 5), (1,)),
        ("of an axis of size 1", (3, 1), (1,)),
        ("beside an empty axis", (2, 0), (0,)),
    )
    for label, shape, axes in shapes:
        operand = (ArrayType(shape, dtype),)
        if dtype in NUMBERS:
            yield Case("reduce_sum", label, operand, {"axes": axes})
        yield Case("reduce_max", label, operand, {"axes": axes}, (apart(),))
        if len(axes) == 1:
            yield Case("argmax", label, operand, {"axis": axes[0]}, (apart(),))
    if dtype in NUMBERS:
        yield Case("reduce_sum", "of an empty axis", (ArrayType((2, 0), dtype),), {"axes": (1,)})
        yield Case("argmax", "of equal elements", (ArrayType((2, 5), dtype),), {"axis": 1}, (_ties,))


def _ties(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray[Any, Any]:
    """Rows 0 0 1 1 0 0 1 1 ..., whose largest element appears several times."""
    return np.broadcast_to(np.arange(shape[-1]) // 2 % 2, shape)


CONTRACTIONS: Sequence[tuple[str, Shape, Shape, str]] = (
    ("matrix product", (BATCH, 3), (3, 5), "[B, 5] i0:B i1:5 i2:3 | [i0, i1] += [i0, i2] * [i2, i1]"),
    ("inner product", (7,), (7,), "[] i0:7 | [] += [i0] * [i0]"),
    ("outer product", (BATCH,), (3,), "[B, 3] i0:B i1:3 | [i0, i1] += [i0] * [i1]"),
    ("elementwise product", (2, 3), (3, 2), "[2, 3] i0:2 i1:3 | [i0, i1] += [i0, i1] * [i1, i0]"),
    ("scalars", (), (), "[] | [] += [] * []"),
    ("batched product", (BATCH, 2, 3), (BATCH, 3, 2),
     "[B, 2, 2] i0:B i1:2 i2:2 i3:3 | [i0, i1, i2] += [i0, i1, i3] * [i0, i3, i2]"),
    ("sum over the batch", (BATCH, 3), (BATCH, 2), "[3, 2] i0:3 i1:2 i2:B | [i0, i1] += [i2, i0] * [i2, i1]"),
    ("convolution with padding", (BATCH, 5, 2), (3, 2, 3),
     "[B, 5, 3] i0:B i1:5 i2:3 i3:3 i4:2 | [i0, i1, i2] += [i0, i1+i3-1, i4] * [i3, i4, i2]"),
    ("strided convolution", (2, 7), (3,), "[2, 3] i0:2 i1:3 i2:3 | [i0, i1] += [i0, 2*i1+i2] * [i2]"),
    ("dilated convolution", (BATCH, 7), (3,), "[B, 3] i0:B i1:3 i2:3 | [i0, i1] += [i0, i1+2*i2] * [i2]"),
    ("depthwise convolution", (5, 3), (2, 3), "[4, 3] i0:4 i1:3 i2:2 | [i0, i1] += [i0+i2, i1] * [i2, i1]"),
    ("grouped convolution", (5, 2, 3), (2, 2, 3, 2),
     "[4, 2, 2] i0:4 i1:2 i2:2 i3:2 i4:3 | [i0, i1, i2] += [i0+i3, i1, i4] * [i1, i3, i4, i2]"),
    ("transposed convolution", (BATCH, 3), (3,), "[B, 6] i0:B i1:3 i2:3 | [i0, 2*i1+i2-1] += [i0, i1] * [i2]"),
    ("reversed reading", (5,), (5,), "[5] i0:5 | [i0] += [-i0+4] * [i0]"),
    ("trace", (3, 3), (), "[] i0:3 | [] += [i0, i0] * []"),
    ("writing a diagonal", (3,), (3,), "[3, 3] i0:3 | [i0, i0] += [i0] * [i0]"),
    ("writes that meet", (3, 2), (2,), "[4] i0:3 i1:2 | [i0+i1] += [i0, i1] * [i1]"),
    ("an index that nothing uses", (3,), (3,), "[3] i0:3 i1:5 | [i0] += [i0] * [i0]"),
    ("an index that only the result uses", (3,), (), "[3, 2] i0:3 i1:2 | [i0, i1] += [i0] * []"),
    ("constant positions", (3, 2), (2,), "[2, 3] i0:2 | [i0, 1] += [2, i0] * [i0]"),
    ("everything outside", (3,), (3,), "[3] i0:3 | [i0+3] += [i0-3] * [i0]"),
    ("an empty sum", (3, 0), (0, 2), "[3, 2] i0:3 i1:2 i2:0 | [i0, i1] += [i0, i2] * [i2, i1]"),
    ("an empty result", (0, 3), (3, 2), "[0, 2] i0:0 i1:2 i2:3 | [i0, i1] += [i0, i2] * [i2, i1]"),
    ("everything of size 1", (1, 1), (1, 1), "[1, 1] i0:1 i1:1 i2:1 | [i0, i1] += [i0, i2] * [i2, i1]"),
)  # fmt: skip


def _contractions(dtype: DType) -> Iterator[Case]:
    if dtype in NUMBERS:
        for label, a, b, spec in CONTRACTIONS:
            yield Case("contract", label, (ArrayType(a, dtype), ArrayType(b, dtype)), {"spec": parse_contraction(spec)})


def _views(dtype: DType) -> Iterator[Case]:
    def view(name: str, label: str, operand: Shape, **attributes: Any) -> Case:
        return Case(name, label, (ArrayType(operand, dtype),), attributes)

    yield view("reshape", "of a batch", (BATCH, 2, 3), shape=(BATCH * 2, 3))
    yield view("reshape", "to a vector", (5, 3), shape=(15,))
    yield view("reshape", "of one element", (), shape=(1, 1))
    yield view("reshape", "of nothing", (2, 0), shape=(0, 7))
    yield view("transpose", "of a matrix", (BATCH, 3), order=(1, 0))
    yield view("transpose", "of three axes", (2, 3, 5), order=(2, 0, 1))
    yield view("transpose", "of nothing", (0, 2), order=(1, 0))
    yield view("transpose", "of a scalar", (), order=())
    yield view("broadcast", "of a scalar", (), shape=(BATCH, 3), axes=())
    yield view("broadcast", "of a row", (3,), shape=(BATCH, 3), axes=(1,))
    yield view("broadcast", "of a column", (5,), shape=(5, 2, 3), axes=(0,))
    yield view("broadcast", "to nothing", (3,), shape=(0, 3), axes=(1,))
    yield view("broadcast", "to the same", (2, 3), shape=(2, 3), axes=(0, 1))
    yield view("slice", "with strides", (7, 5), starts=(1, 0), limits=(7, 4), strides=(2, 3))
    yield view("slice", "of a batch", (BATCH, 5), starts=(0, 2), limits=(BATCH, 5), strides=(1, 1))
    yield view("slice", "to nothing", (7,), starts=(3,), limits=(3,), strides=(1,))
    yield view("slice", "of one element", (7,), starts=(6,), limits=(7,), strides=(5,))
    fill: float | bool = True if dtype == BOOL else 2 if dtype in INTEGERS else 0.5
    yield view("pad", "around", (2, 3), low=(1, 0), high=(0, 2), inner=(0, 0), value=fill)
    yield view("pad", "between", (3, 1), low=(0, 1), high=(1, 0), inner=(2, 3), value=fill)
    yield view("pad", "of a batch", (BATCH, 3), low=(0, 1), high=(0, 1), inner=(0, 1), value=fill)
    yield view("pad", "of the batch axis", (BATCH, 3), low=(1, 0), high=(2, 1), inner=(1, 0), value=fill)
    yield view("pad", "of nothing", (0,), low=(1,), high=(1,), inner=(2,), value=fill)
    yield view("flip", "of a vector", (7,), axes=(0,))
    yield view("flip", "of a batch", (BATCH, 3), axes=(0, 1))
    yield view("flip", "of no axis", (3,), axes=())
    yield view("flip", "of nothing", (0, 3), axes=(0,))
    for label, shapes, axis in (
        ("of rows", ((2, 3), (1, 3), (5, 3)), 0),
        ("of columns", ((BATCH, 3), (BATCH, 2)), 1),
        ("of batches", ((BATCH, 2), (3, 2), (BATCH, 2)), 0),
        ("of one", ((3,),), 0),
        ("with nothing", ((0,), (3,)), 0),
    ):
        yield Case("concatenate", label, tuple(ArrayType(shape, dtype) for shape in shapes), {"axis": axis})


def _indexing(dtype: DType) -> Iterator[Case]:
    rows: Sequence[tuple[str, Shape, Shape, int, DType]] = (
        ("of rows", (5, 3), (7,), 0, INT64),
        ("of a table for a batch", (5, 3), (BATCH, 2), 0, INT32),
        ("of one row", (5, 3), (), 0, INT64),
        ("of one element", (5,), (), 0, UINT32),
        ("of rows of each", (BATCH, 5, 2), (BATCH, 3), 1, INT64),
        ("of one element of each", (BATCH, 5), (BATCH,), 1, INT32),
        ("of nothing", (5, 3), (0,), 0, INT64),
        ("of an empty axis", (0, 3), (2,), 0, INT64),
        ("of empty rows", (5, 0), (2,), 0, INT64),
    )
    for label, shape, places, lead, index in rows:
        size = shape[lead]
        assert isinstance(size, int)
        positions = ArrayType(places, index)
        gathered = (*places, *shape[lead + 1 :])
        domains = (real, index_below(size))
        yield Case("gather", label, (ArrayType(shape, dtype), positions), {"batch": lead}, domains)
        if dtype in NUMBERS:
            attributes = {"batch": lead, "size": size}
            yield Case("scatter_add", label, (ArrayType(gathered, dtype), positions), attributes, domains)
    if dtype in NUMBERS:
        rows_of_batch, chosen = ArrayType((BATCH, 2), dtype), ArrayType((7,), INT64)
        into = (rows_of_batch, ArrayType((BATCH,), INT64))
        yield Case("scatter_add", "into a batch", into, {"batch": 0, "size": BATCH}, (real, index_below(4)))
        yield Case("gather", "from a batch", (rows_of_batch, chosen), {"batch": 0}, (real, index_below(2)))


def _sources(dtype: DType) -> Iterator[Case]:
    numbers = np.array([[0, 1, 2], [3, 1, 0]]).astype(dtype)
    for label, value in (("matrix", numbers), ("scalar", np.array(numbers[0, 1])), ("nothing", numbers[:0])):
        yield Case("constant", label, (), {"value": value.copy()})
    if dtype in NUMBERS:
        yield Case("iota", "along the batch", (), {"shape": (BATCH, 2), "axis": 0, "dtype": dtype})
        yield Case("iota", "along columns", (), {"shape": (2, 5), "axis": 1, "dtype": dtype})
        yield Case("iota", "of nothing", (), {"shape": (0,), "axis": 0, "dtype": dtype})
    if dtype == INT64:
        yield Case("extent", "of the batch", (), {"size": BATCH})
        yield Case("extent", "of a product", (), {"size": BATCH * 3 + 1})
        yield Case("extent", "of a number", (), {"size": 7})
    if dtype == UINT32:
        draw = (ArrayType((2,), UINT32), ArrayType((), UINT32))
        shapes: Sequence[tuple[str, Shape]] = (*_SHAPES, ("of pairs", (3, 5)))
        for label, shape in shapes:
            yield Case("random_bits", label, draw, {"shape": shape}, (word, word))


def _graph(name: str, types: Sequence[ArrayType], body: Callable[..., Sequence[Any]]) -> Graph:
    builder = Builder()
    return builder.finish(name, body(builder, *(builder.input(type) for type in types)))


def _loops(dtype: DType) -> Iterator[Case]:
    if dtype not in NUMBERS:
        return
    yield from _scans(dtype)
    yield from _calls(dtype)
    if dtype in WIDE_FLOATS:
        matrix, row = ArrayType((3, 3), dtype), ArrayType((BATCH, 3), dtype)
        for label, steps in (("to convergence", 1000), ("of no steps", 0)):
            body = _graph("towards", (matrix, row, row), _towards)
            tolerance = 1e-13 if dtype == "float64" else 1e-6
            attributes = {"body": body, "consts": 2, "tolerance": tolerance, "max_iterations": steps}
            yield Case("fixed_point", label, (matrix, row, row), attributes)


def _towards(b: Builder, w: Any, x: Any, z: Any) -> list[Any]:
    """z = tanh(0.2 z·w + x), a contraction for matrices w of ordinary size."""
    return [b.tanh(b.add(b.matmul(b.mul(z, b.full_like(z, 0.2)), w), x))]


def _scans(dtype: DType) -> Iterator[Case]:
    scalar, row = ArrayType((), dtype), ArrayType((BATCH, 3), dtype)
    matrix = ArrayType((3, 3), dtype)

    def recurrent(b: Builder, w: Any, c: Any, x: Any) -> list[Any]:
        step = b.add(b.as_type(b.matmul(c, w), dtype), x)
        following = b.tanh(step) if dtype in FLOATS else step
        return [following, b.mul(following, c), x]

    def counting(b: Builder, count: Any, c: Any) -> list[Any]:
        one = b.constant(1, INT64)
        weight = b.broadcast(b.cast(count, dtype), row.shape, ())
        return [b.add(count, one), b.add(c, b.mul(c, weight)), count]

    def swapping(b: Builder, x: Any, y: Any, s: Any) -> list[Any]:
        return [y, x, b.add(b.mul(x, s), y)]

    for label, length, reverse in (
        ("forwards", 3, False),
        ("backwards", 3, True),
        ("once", 1, False),
        ("never", 0, False),
    ):
        body = _graph("recurrent", (matrix, row, row), recurrent)
        attributes = {"body": body, "length": length, "carries": 1, "consts": 1, "reverse": reverse}
        yield Case("scan", label, (matrix, row, ArrayType((length, BATCH, 3), dtype)), attributes)
    counter = ArrayType((), INT64)
    body = _graph("counting", (counter, row), counting)
    attributes = {"body": body, "length": 3, "carries": 2, "consts": 0, "reverse": False}
    yield Case("scan", "with a counter", (counter, row), attributes, (lambda rng, shape, dtype: np.zeros(shape),))
    body = _graph("swapping", (scalar, scalar, scalar), swapping)
    attributes = {"body": body, "length": 5, "carries": 2, "consts": 0, "reverse": True}
    yield Case("scan", "that exchanges its carries", (scalar, scalar, ArrayType((5,), dtype)), attributes)
    mapped = _graph("mapped", (scalar, scalar), lambda b, c, x: [b.mul(c, x)])
    attributes = {"body": mapped, "length": 7, "carries": 0, "consts": 1, "reverse": False}
    yield Case("scan", "without a carry", (scalar, ArrayType((7,), dtype)), attributes)


def _calls(dtype: DType) -> Iterator[Case]:
    row = ArrayType((BATCH, 3), dtype)

    def product(b: Builder, x: Any, y: Any) -> list[Any]:
        return [b.mul(x, y), b.add(x, y)]

    def its_rule(b: Builder, x: Any, y: Any, p: Any, s: Any, dp: Any, ds: Any) -> list[Any]:
        return [b.add(b.mul(dp, y), ds), b.add(ds, b.mul(x, dp))]

    body = _graph("product", (row, row), product)
    rule = _graph("product.backward", (row,) * 6, its_rule)
    for label, backward in (("through its body", None), ("with a rule of its own", rule)):
        yield Case("call", label, (row, row), {"body": body, "label": "product", "backward": backward})


_FAMILIES: Sequence[Callable[[DType], Iterator[Case]]] = (
    _maps,
    _reductions,
    _contractions,
    _views,
    _indexing,
    _sources,
    _loops,
)


def uncovered() -> set[str]:
    """Primitives of the table without a case."""
    return set(PRIMITIVES) - {case.primitive for dtype in ALL for case in cases(dtype)}
