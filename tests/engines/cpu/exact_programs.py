"""Random programs whose results are exact: small whole numbers in every element type.

All numbers stay whole and small (they are clamped where they might grow), so sums in any order are exact, and an engine must give
the reference engine's results to the bit. Sizes are 0, 1, primes and ordinary ones; places are those of views, windows, gathers,
scatters, reductions, contractions with affine maps of every kind, and loops.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from chainrule.core.dtypes import BOOL, FLOATS, INT32, INT64, UINT32, to_numpy
from chainrule.core.errors import ChainruleError
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Affine, Contraction, affine
from chainrule.ir.graph import ArrayType, Graph, Value
from chainrule.ir.sizes import BATCH, Dim, Shape, Size, at, product, shape_at
from chainrule.ir.verify import verify

SIZES = (1, 1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 32, 33)
LARGEST = 6000  # elements of a value, at a batch size of 5


def exact_program(seed: int) -> tuple[Graph, frozenset[int]]:
    """A program and which of its operands are donated; always the same for the same seed."""
    source = random.Random(seed)
    return ProgramWriter(source).program(f"exact {seed}")


def operands_of(graph: Graph, batch: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng((seed, batch))
    drawn = []
    for value in graph.inputs:
        low, high = (0, 2) if value.dtype == BOOL else (0, 4) if value.dtype == UINT32 else (-3, 4)
        drawn.append(rng.integers(low, high, shape_at(value.shape, batch)).astype(to_numpy(value.dtype)))
    return drawn


class ProgramWriter:
    sizes: Sequence[int] = SIZES
    largest = LARGEST

    def __init__(self, source: random.Random, depth: int = 1) -> None:
        self.random, self.depth = source, depth
        self.build = Builder()
        self.pool: list[Value] = []
        self.inputs: list[Value] = []
        self.types = source.choice([("float32",), ("float32",), ("float64",), ("float32", INT64), (INT32, UINT32)])

    def program(self, name: str) -> tuple[Graph, frozenset[int]]:
        # One operand tells the batch size.
        shapes = [(BATCH, *self.shape(2)), *(self.shape(3) for _ in range(self.random.randint(1, 4)))]
        for shape in shapes:
            self.given(ArrayType(shape, self.random.choice((*self.types, *self.types, BOOL))))
        self.write(self.random.randint(2, 14))
        inputs = self.inputs
        made = [value for value in self.pool if value not in inputs] or self.pool
        outputs = [made[-1], *self.random.sample(made, min(len(made), self.random.randint(0, 3)))]
        donated = frozenset(k for k in range(len(inputs)) if self.random.random() < 0.4)
        # An operand that returns changed, as a weight does.
        for number in donated:
            x = inputs[number]
            if x.dtype != BOOL and self.random.random() < 0.7:
                outputs.append(self.clamp(self.build.add(x, self.like(x))))
        return verify(self.build.finish(name, outputs)), donated

    def given(self, type: ArrayType) -> Value:
        """A new operand of the program."""
        self.inputs.append(self.build.input(type, f"x{len(self.inputs)}"))
        self.pool.append(self.inputs[-1])
        return self.inputs[-1]

    def kinds(self) -> Sequence[Callable[[], Value | None]]:
        return (
            self.map,
            self.combine,
            self.combine,
            self.choice,
            self.move,
            self.move,
            self.move,
            self.fold,
            self.look_up,
            self.contract,
            self.contract,
            self.contract,
            *((self.loop,) if self.depth else ()),
        )

    def write(self, steps: int) -> None:
        kinds = self.kinds()
        for _ in range(steps):
            try:
                found = self.random.choice(kinds)()
            except ChainruleError:  # what the typing rules refuse
                continue
            if found is not None and self.is_small(found.shape):
                self.pool.append(found)

    # What there is to choose from.

    def shape(self, most: int) -> Shape:
        while True:
            dims: list[Dim] = [self.random.choice(self.sizes) for _ in range(self.random.randint(0, most))]
            if dims and self.random.random() < 0.4:
                dims[self.random.randrange(len(dims))] = self.random.choice((BATCH, BATCH, BATCH * 2, BATCH + 1, 0))
            if self.is_small(tuple(dims)):
                return tuple(dims)

    def is_small(self, shape: Shape) -> bool:
        linear = not isinstance(product(shape), Size) or len(product(shape).coefficients) == 2
        return len(shape) <= 5 and at(product(shape), 5) <= self.largest and linear

    def pick(self, fits: Callable[[Value], bool] = lambda value: True) -> Value | None:
        found = [value for value in self.pool if fits(value)]
        return self.random.choice(found[-6:]) if found else None

    def number(self) -> Value | None:
        return self.pick(lambda value: value.dtype != BOOL)

    def like(self, x: Value) -> Value:
        """Another value of this type: one that there is, or a small array broadcast to it, or a number."""
        found = [value for value in self.pool if value.type == x.type and value is not x]
        if found and self.random.random() < 0.6:
            return self.random.choice(found)
        for value in self.random.sample(self.pool, len(self.pool)):
            if value.dtype == x.dtype and value.shape and value.shape == x.shape[-len(value.shape) :]:
                axes = range(len(x.shape) - len(value.shape), len(x.shape))
                return value if value.type == x.type else self.build.broadcast(value, x.shape, tuple(axes))
        return self.build.full_like(x, self.random.choice((0, 1, 2, 3)))

    def clamp(self, x: Value) -> Value:
        b = self.build
        low = 0 if x.dtype == UINT32 else -3
        return b.maximum(b.minimum(x, b.full_like(x, 3)), b.full_like(x, low)) if x.dtype != BOOL else x

    # Kinds of nodes.

    def map(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        b = self.build
        if x.dtype == BOOL:
            return self.random.choice((b.logical_not(x), b.cast(x, self.random.choice(self.types))))
        rows = [lambda: b.abs(x), lambda: b.sign(x), lambda: b.alias(x), lambda: b.stop_gradient(x)]
        if UINT32 not in (x.dtype, *self.types):
            rows += [lambda: b.neg(x), lambda: b.cast(x, self.random.choice(self.types))]
        return self.random.choice(rows)()

    def combine(self) -> Value | None:
        x = self.number()
        if x is None:
            return None
        name = self.random.choice(("add", "sub", "mul", "maximum", "minimum") if x.dtype != UINT32 else ("add", "mul"))
        return self.clamp(self.build.emit(name, [x, self.like(x)])[0])

    def choice(self) -> Value | None:
        x = self.number()
        if x is None:
            return None
        condition = self.build.emit(self.random.choice(("lt", "le", "eq", "ne")), [x, self.like(x)])[0]
        return self.random.choice((condition, self.build.select(condition, x, self.like(x))))

    def move(self) -> Value | None:
        x = self.pick(lambda value: len(value.shape) > 0)
        if x is None:
            return None
        b, axes = self.build, list(range(len(x.shape)))
        axis = self.random.choice(axes)
        kind = self.random.choice(("transpose", "reshape", "broadcast", "slice", "slice", "pad", "flip", "concatenate"))
        if kind == "transpose":
            self.random.shuffle(axes)
            return b.transpose(x, axes)
        if kind == "reshape":
            return self.reshaped(x)
        if kind == "broadcast":
            place, size = self.random.choice([*axes, len(axes)]), self.random.choice((*self.sizes, BATCH))
            return b.broadcast(x, (*x.shape[:place], size, *x.shape[place:]), [k + (k >= place) for k in axes])
        if kind == "flip":
            return b.flip(x, self.random.sample(axes, self.random.randint(1, len(axes))))
        if kind == "concatenate":
            others = [v for v in self.pool if v.dtype == x.dtype and len(v.shape) == len(axes)]
            fitting = [v for v in others if all(v.shape[k] == x.shape[k] for k in axes if k != axis)]
            return b.concatenate([x, *self.random.choices(fitting, k=self.random.randint(0, 2))], axis)
        if kind == "pad":
            low, high, inner = ([self.random.choice((0, 0, 1, 3)) for _ in axes] for _ in range(3))
            between = [0 if isinstance(d, Size) or self.random.random() < 0.7 else n for d, n in zip(x.shape, inner)]
            return b.pad(x, low, high, between, value=self.random.choice((0, 1)))
        starts, limits, strides = [], [], []
        for d in x.shape:
            whole = isinstance(d, Size) or d == 0
            starts.append(0 if whole else self.random.randrange(d))
            limits.append(d if whole else self.random.randint(starts[-1], d))
            strides.append(1 if isinstance(d, Size) else self.random.choice((1, 1, 2, 3)))
        return b.slice(x, starts, limits, strides)

    def reshaped(self, x: Value) -> Value:
        dims = list(x.shape)
        place = self.random.randrange(len(dims))
        if len(dims) > 1 and self.random.random() < 0.5:
            place = min(place, len(dims) - 2)
            dims[place : place + 2] = [dims[place] * dims[place + 1]]
        elif isinstance(dims[place], int) and dims[place] % 2 == 0:
            dims[place : place + 1] = [2, dims[place] // 2]
        else:
            dims.insert(place, 1)
        return self.build.reshape(x, tuple(dims))

    def fold(self) -> Value | None:
        x = self.number()
        if x is None:
            return None
        axes = sorted(self.random.sample(range(len(x.shape)), self.random.randint(0, len(x.shape))))
        full = all(isinstance(x.shape[k], int) and x.shape[k] for k in axes) or self.random.random() < 0.3
        if full and x.shape and self.random.random() < 0.2:
            return self.build.argmax(x, self.random.choice(axes or [0])) if INT64 in self.types else None
        if full and self.random.random() < 0.4:
            return self.build.reduce_max(x, axes)
        return self.clamp(self.build.reduce_sum(x, axes))

    def look_up(self) -> Value | None:
        x = self.pick(lambda value: len(value.shape) > 0 and value.dtype != BOOL)
        if x is None:
            return None
        b, batch = self.build, self.random.choice((0, 0, 1))
        if batch and len(x.shape) < 2:
            return None
        if self.random.random() < 0.5:
            rows = b.iota((*x.shape[:batch], self.random.choice(self.sizes)), batch, INT64)
            return b.gather(x, b.sub(rows, b.full_like(rows, self.random.choice((0, 1)))), batch)
        rows = b.iota((*x.shape[:batch], x.shape[batch]), batch, INT64)
        turned = b.remainder(rows, b.full_like(rows, self.random.choice((1, 2, 5))))
        return self.clamp(b.scatter_add(x, turned, self.random.choice((1, 3, 4, 7)), batch))

    def contract(self) -> Value | None:
        """Two operands, indexed by shared indices, windows, strides and indices of their own, in any order."""
        a = self.number()
        b = self.pick(lambda value: a is not None and value.dtype == a.dtype)
        if a is None or b is None:
            return None
        extents: list[Dim] = []
        in_a = [self.coordinate(d, extents) for d in a.shape]
        in_b = []
        for d in b.shape:
            shared = [k for k, extent in enumerate(extents) if extent == d]
            if shared and self.random.random() < 0.75:
                in_b.append(affine((self.random.choice(shared), 1)))
            else:
                in_b.append(self.coordinate(d, extents))
        kept = [k for k in range(len(extents)) if self.random.random() < 0.55]
        self.random.shuffle(kept)
        out, shape = [affine((k, 1)) for k in kept], [extents[k] for k in kept]
        spec = Contraction(tuple(extents), tuple(out), tuple(in_a), tuple(in_b), tuple(shape))
        work = product(extents)
        if (
            at(work, 5) > 60000
            or (isinstance(work, Size) and len(work.coefficients) > 2)
            or not self.is_small(spec.shape)
        ):
            return None
        role = self.random.random()
        if role < 0.25:
            return self.clamp(self.build.contract(spec.for_a(a.shape), self.resulting(spec, a), b))
        if role < 0.5:
            return self.clamp(self.build.contract(spec.for_b(b.shape), a, self.resulting(spec, a)))
        return self.clamp(self.build.contract(spec, a, b))

    def resulting(self, spec: Contraction, a: Value) -> Value:
        """A cotangent of the result."""
        return self.like(self.build.full(ArrayType(spec.shape, a.dtype), 2))

    def coordinate(self, size: Dim, extents: list[Dim]) -> Affine:
        """A coordinate of an axis: an index of its own, or a window that moves by a stride and may leave the axis."""
        if isinstance(size, Size) or size < 2 or self.random.random() < 0.6:
            extents.append(size)
            return affine((len(extents) - 1, 1))
        width, stride, gap = self.random.choice((1, 2, 3)), self.random.choice((1, 1, 2, 3)), self.random.choice((1, 2))
        before = self.random.choice((0, 0, 1, 2))
        extents += [max(1, (size + before - (width - 1) * gap - 1) // stride + 1), width]
        return affine((len(extents) - 2, stride), (len(extents) - 1, gap), offset=-before)

    def loop(self) -> Value | None:
        carry = self.number()
        if carry is None or len(carry.shape) > 3:
            return None
        const = self.pick()
        length = self.random.choice((0, 1, 3, 4))
        stacked = self.pick(lambda value: value.shape[:1] == (length,))
        inner = type(self)(self.random, self.depth - 1)
        inner.types = self.types
        types = [const.type, carry.type] if const is not None else [carry.type]
        steps = [ArrayType(stacked.shape[1:], stacked.dtype)] if stacked is not None else []
        inner.pool = [inner.build.input(type) for type in (*types, *steps)]
        state = inner.pool[len(types) - 1]
        inner.write(self.random.randint(1, 5))
        given = [*([const] if const is not None else []), carry]
        if self.random.random() < 0.25 and carry.dtype in FLOATS:
            limit = inner.like(state)
            following = inner.build.minimum(inner.build.add(state, inner.build.full_like(state, 1)), inner.clamp(limit))
            body = inner.build.finish("towards", [inner.build.maximum(following, state)])
            inputs = [*given]
            if len(body.inputs) != len(inputs):
                return None
            return self.build.fixed_point(
                body, inputs, consts=len(given) - 1, tolerance=0.0, max_iterations=self.random.choice((1, 5, 20))
            )[0]
        following = inner.clamp(inner.build.add(state, inner.like(state)))
        body = inner.build.finish("body", [following, inner.pool[-1]])
        inputs = [*given, *([stacked] if stacked is not None else [])]
        results = self.build.scan(
            body, inputs, length=length, consts=len(given) - 1, carries=1, reverse=self.random.random() < 0.5
        )
        if self.is_small(results[1].shape):
            self.pool.append(results[1])
        return results[0]
