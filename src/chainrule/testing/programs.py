"""Random programs: small graphs of every kind of node, for properties that must hold of all graphs.

The choices come from outside, so that a property-testing library can shrink a failing program and a plain random generator can
make a million of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from chainrule.core.dtypes import DType
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, plain
from chainrule.ir.graph import ArrayType, Graph, Origin, Value
from chainrule.ir.sizes import BATCH, Dim, product
from chainrule.ir.verify import verify

T = TypeVar("T")


class Choose(Protocol):
    """Picks one of several things."""

    def __call__(self, options: Sequence[T], /) -> T: ...


def random_program(choose: Choose, *, dtype: DType = "float64", steps: int = 12, smooth: bool = False) -> Graph:
    """A graph of about ``steps`` nodes over a scalar, a vector, a matrix and a batch of rows.

    ``smooth`` leaves out what has jumps or unbounded derivatives, so that gradients can be checked by differences.
    """
    writer = _Writer(choose, dtype, smooth)
    shapes: Sequence[tuple[Dim, ...]] = ((), (3,), (3, 3), (BATCH, 3))
    pool = [writer.build.input(ArrayType(shape, dtype), f"x{n}") for n, shape in enumerate(shapes)]
    writer.write(pool, steps, depth=2)
    outputs = [choose(pool[-6:]) for _ in range(choose((1, 2, 3)))]
    names = [f"y{n}" if choose((True, False)) else "" for n in range(len(outputs))]
    return verify(writer.build.finish("program", outputs, names))


class _Writer:
    """Appends random nodes to a builder."""

    def __init__(self, choose: Choose, dtype: DType, smooth: bool) -> None:
        self.build = Builder()
        self.choose = choose
        self.dtype = dtype
        self.smooth = smooth

    def write(self, pool: list[Value], steps: int, depth: int) -> None:
        """Extend the pool of values by the results of some more nodes."""
        kinds = [self.map, self.combine, self.identity, self.view, self.fold, self.multiply]
        if not self.smooth:
            kinds.append(self.jump)
        for _ in range(steps):
            kind = self.choose(kinds if not depth else [*kinds, self.loop])
            place = Origin(self.choose(("", "layers.0", 'a "b"\n*/ c')), "program.py", self.choose((0, 7)))
            with self.build.at(place):
                pool.extend(kind(pool, depth))

    def pick(self, pool: Sequence[Value], fits: Callable[[Value], bool] = lambda value: True) -> Value | None:
        found = [value for value in pool if fits(value)]
        return self.choose(found) if found else None

    def like(self, value: Value, pool: Sequence[Value]) -> Value:
        found = self.pick(pool, lambda other: other.type == value.type)
        assert found is not None, "the value itself is in the pool"
        return found

    def map(self, pool: Sequence[Value], depth: int) -> list[Value]:
        names = ["neg", "sin", "cos", "tanh", "logistic", "erf"]
        if not self.smooth:
            names += ["abs", "sign", "floor", "exp", "expm1", "log", "log1p", "sqrt", "stop_gradient"]
        return list(self.build.emit(self.choose(names), [self.choose(pool)]))

    def combine(self, pool: Sequence[Value], depth: int) -> list[Value]:
        names = ["add", "sub", "mul"] + ([] if self.smooth else ["div", "pow", "maximum", "minimum"])
        x = self.choose(pool)
        return list(self.build.emit(self.choose(names), [x, self.like(x, pool)]))

    def identity(self, pool: Sequence[Value], depth: int) -> list[Value]:
        """Something that a simplification might take for nothing, rightly or not."""
        b, x = self.build, self.choose(pool)
        back = list(reversed(range(x.type.rank)))
        number = self.choose((0.0, -0.0, 1.0, 2.0, -1.0))
        if not self.smooth:
            number = self.choose((number, float("nan"), float("inf")))
        name = self.choose(("add", "sub", "mul") if self.smooth else ("add", "sub", "mul", "div", "pow"))
        operands = [x, b.full_like(x, number)]
        if name in ("add", "mul") and self.choose((True, False)):
            operands.reverse()
        rows: Sequence[Callable[[], Value]] = (
            lambda: b.emit(name, operands)[0],
            lambda: b.neg(b.neg(x)),
            lambda: b.transpose(b.transpose(x, back), back),
            lambda: b.reshape(b.reshape(x, (product(x.shape),)), x.shape),
            lambda: b.alias(x),
            lambda: b.reduce_sum(x, ()),
            lambda: b.slice(x, [0] * x.type.rank, x.shape, [1] * x.type.rank),
            lambda: b.pad(x, [0] * x.type.rank, [0] * x.type.rank),
            lambda: b.flip(x, ()),
        )
        return [self.choose(rows)()]

    def view(self, pool: Sequence[Value], depth: int) -> list[Value]:
        b, x = self.build, self.choose(pool)
        axes = tuple(range(x.type.rank))
        rows: list[Callable[[], Value]] = [
            lambda: b.transpose(x, axes[::-1]),
            lambda: b.broadcast(x, (2, *x.shape), tuple(axis + 1 for axis in axes)),
            lambda: b.flip(x, axes),
            lambda: b.concatenate([x, self.like(x, pool)], axes[-1]) if axes else x,
            lambda: b.pad(x, [1 if isinstance(d, int) else 0 for d in x.shape], [0] * len(axes), value=0.5),
        ]
        if axes and isinstance(x.shape[-1], int) and x.shape[-1] > 1:
            limits, strides = list(x.shape), [1] * len(axes)
            limits[-1], strides[-1] = x.shape[-1], self.choose((1, 2))
            starts = [0] * (len(axes) - 1) + [self.choose((0, 1))]
            rows.append(lambda: b.slice(x, starts, limits, strides))
        found = self.choose(rows)()
        # Sizes stay small: what grows is not used again.
        return (
            [found] if all(isinstance(d, int) and d <= 12 for d in found.shape if d not in (BATCH, BATCH * 2)) else []
        )

    def fold(self, pool: Sequence[Value], depth: int) -> list[Value]:
        b, x = self.build, self.choose(pool)
        if not x.shape:
            return [b.broadcast(x, (BATCH, 3), ())]
        axes = self.choose([(axis,) for axis in range(x.type.rank)] + [tuple(range(x.type.rank))])
        if not self.smooth and 0 not in x.shape and self.choose((True, False)):
            return [b.reduce_max(x, axes)]
        return [b.reduce_sum(x, axes)]

    def multiply(self, pool: Sequence[Value], depth: int) -> list[Value]:
        """A matrix product, its operands transposed or not: a simplification folds the transpositions in."""
        b = self.build
        left, right = (self.pick(pool, lambda v: v.shape in ((3, 3), (BATCH, 3), (3, BATCH))) for _ in range(2))
        if left is None or right is None:
            return []
        if left.shape[1] != right.shape[0]:
            right = b.transpose(right, (1, 0))
        if left.shape[1] != right.shape[0]:
            return []
        (m, k), n = left.shape, right.shape[1]
        spec = self.choose((Contraction((m, n, k), plain(0, 1), plain(0, 2), plain(2, 1), (m, n)),))
        return [b.contract(spec, left, right)]

    def jump(self, pool: Sequence[Value], depth: int) -> list[Value]:
        b, x = self.build, self.choose(pool)
        y = self.like(x, pool)
        other = "float32" if self.dtype == "float64" else "float64"
        rows: Sequence[Callable[[], Value]] = (
            lambda: b.select(b.lt(x, y), x, y),
            lambda: b.select(b.is_finite(x), x, y),
            lambda: b.cast(b.cast(x, other), self.dtype),
            lambda: b.cast(b.le(x, y), self.dtype),
            lambda: b.gather(x, b.constant([0, 2, -1])) if x.shape[:1] == (3,) else x,
            lambda: b.scatter_add(x, b.constant([1, 1, 5]), 2) if x.shape[:1] == (3,) else x,
        )
        return [self.choose(rows)()]

    def loop(self, pool: Sequence[Value], depth: int) -> list[Value]:
        """A scan or a call whose body is a random program of its own."""
        consts = [self.choose(pool) for _ in range(self.choose((0, 1, 2)))]
        carries = [self.choose(pool) for _ in range(self.choose((1, 2)))]
        length = self.choose((0, 1, 3))
        stacked = [value for value in pool if value.shape[:1] == (length,)][-2:]
        inner = _Writer(self.choose, self.dtype, self.smooth)
        steps = [ArrayType(value.shape[1:], value.dtype) for value in stacked]
        inputs = [inner.build.input(t) for t in (*(v.type for v in (*consts, *carries)), *steps)]
        body_pool = list(inputs)
        inner.write(body_pool, self.choose((1, 2, 4)), depth - 1)
        following = [inner.bounded(inner.like(value, body_pool)) for value in inputs[len(consts) :][: len(carries)]]
        results = [*following, *(self.choose(body_pool) for _ in range(self.choose((0, 1, 2))))]
        body = inner.build.finish("body", results)
        if self.choose((True, False)):
            operands: list[Any] = [*consts, *carries, *stacked]
            found = self.build.scan(
                body,
                operands,
                length=length,
                consts=len(consts),
                carries=len(carries),
                reverse=self.choose((True, False)),
            )
            return [value for value in found if value.type.rank <= 3]
        if length != 1:
            return []
        first = [self.build.reshape(value, value.shape[1:]) for value in stacked]
        return list(self.build.call(body, [*consts, *carries, *first], label="body", backward=None))

    def bounded(self, value: Value) -> Value:
        """Keeps the carry of a smooth loop from growing without end."""
        return self.build.tanh(value) if self.smooth else value
