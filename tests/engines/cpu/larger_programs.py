"""Random programs as in ``exact_programs.py``, of what networks are made of: larger products, convolutions with channels, pooling,
rows with their sums and largest, loops with several carries, every element type; and limits that are drawn, so that what is written
for large sizes runs at small ones.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.engines.cpu.exact_programs import ProgramWriter

from chainrule.core.dtypes import BFLOAT16, BOOL, FLOATS, INT32, INT64, UINT32, WIDE_FLOATS
from chainrule.engines.cpu.sections import Limits
from chainrule.ir.contraction import Contraction, affine, plain
from chainrule.ir.graph import ArrayType, Graph, Value
from chainrule.ir.sizes import BATCH, Dim, Shape, at, product

SIZES = (1, 2, 3, 5, 8, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 128, 130)
LARGEST = 40_000  # elements of a value, at a batch size of 5
MOST_WORK = 3_000_000  # multiplications of a product

# What decides between ways of doing a thing, and values that make the way of large sizes that of small ones, or the other way round.
# Where another module has imported a number under the same name, it changes there, too.
CHOICES: dict[str, Sequence[Any]] = {
    "loops.GRAIN": (1, 200, 65536),
    "tile_units.TILE_GRAIN": (1, 1000, 1 << 18),
    "tile_units.UNIT": (1, 1000, 1 << 17),
    "tile_units.SECOND_CACHE": (1 << 10, 1 << 19),
    "tile_regions.SUMS": (1 << 10, 1 << 12, 1 << 18),
    "tile_regions.COPIES": (1 << 12, 1 << 14),
    "tile_regions.FEWEST_ALONG": (8, 20, 128),
    "tile_regions.LARGE_WEIGHT": (1 << 9, 1 << 12, 1 << 24),
    "tile_regions.LARGE_ACROSS": (1 << 12, 3 << 19),
    "tile_panels.SMALLEST_ACROSS": (1 << 9, 1 << 18),
    "tile_panels.FEWEST_CHUNKS": (2, 16),
    "tile_trailing.EVEN": (1, 8),
    "tile_trailing.FEWEST_ARRAYS": (1, 2),
    "tile_parts.FEW_OUTPUTS": (1, 1 << 16),
    "tile_parts.FEWEST_SPLIT": (4, 64, 1024),
    "tile_parts.FEWEST_OUTERMOST": (2, 32),
    "tile_parts.FEWEST_IN_PART": (1, 7, 128),
    "tile_parts.BLOCK": (64, 1 << 10, 3 << 16),
    "tile_parts.FEWEST_IN_BLOCK": (1, 32),
    "tile_items.FEWEST_IN_ITEM": (1, 16),
    "tile_items.FEWEST_ITEMS": (1, 8),
    "slabs.SLAB": (1, 3, 8),
    "slabs.MOST_SHARED": (1, 1 << 19),
    "rows._LONGEST_ROW": (16, 8192),
    "reductions._FEW_RESULTS": (8, 1024),
    "reductions._WIDE": (8, 1024),
    "grouping._MAX_ROOTS": (2, 12),
    "grouping.LARGEST_SIDE": (16, 4096),
    "grouping.ADDITIONS_A_PASS": (1, 12, 1000),
    "recomputed.SMALLEST": (0, 1 << 19),
    "conditions.SMALLEST": (0, 1 << 19),
    "cuts._SHORTEST": (1, 16),
    "cuts._MOST_RESIDUES": (2, 16),
    "pieces._SHORT": (1, 16),
    "layouts.FEWEST_ITERATIONS": (1, 4),
    "straight.MOST_OPERATIONS": (0, 0, 0, 3000),
    "sections.LIMITS": (
        Limits(),
        Limits(operations_per_byte=0, most_rows=1 << 20, fewest_slabs=1, grain=1, most_bytes=1 << 40, contracts=False),
        Limits(operations_per_byte=1, most_rows=3, fewest_slabs=1, grain=1000, most_bytes=1 << 14, contracts=False),
    ),
}


# Of convolutions by Winograd's algorithms; whole numbers stay exact in them, and are quarters at worst.
WINOGRAD: dict[str, Sequence[Any]] = {
    "winograd.FEWEST_POSITIONS": (3, 4),
    "winograd.FEWEST_ITEMS": (1, 8),
    "winograd_blocks.TRANSFORM_GRAIN": (1, 1 << 13),
    "winograd_results.FEWEST_TILES": (1, 5, 12, 100),
    "winograd_gradients.FEWEST_SUMMED": (1, 16, 100),
    "winograd_gradients.PARTS": (2, 16),
    "tile_units.TILE_GRAIN": (1, 1000, 1 << 18),
}


def limits_of(seed: int, choices: dict[str, Sequence[Any]] = CHOICES) -> dict[str, Any]:
    """Some of the limits, drawn; what is left out stays."""
    source = random.Random(seed)
    share = source.choice((0.2, 0.5, 1.0))
    return {name: source.choice(values) for name, values in choices.items() if source.random() < share}


@contextmanager
def limited(limits: dict[str, Any]) -> Iterator[None]:
    """With these limits, wherever they are known by their names."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("chainrule.engines.cpu.")]
    with pytest.MonkeyPatch.context() as patch:
        for path, value in limits.items():
            home, name = path.split(".")
            usual = getattr(sys.modules[f"chainrule.engines.cpu.{home}"], name)
            for module in modules:
                if getattr(module, name, None) == usual:
                    patch.setattr(module, name, value)
        yield


def larger_program(seed: int) -> tuple[Graph, frozenset[int]]:
    """A program and which of its operands are donated. Its name has the limits, since the cache tells programs apart by it."""
    return _LargerWriter(random.Random(seed)).program(f"larger {seed} {limits_of(seed)}")


def convolution_program(seed: int) -> tuple[Graph, frozenset[int]]:
    """A program with convolutions whose channels fill vectors, as Winograd's algorithms need them; see :func:`larger_program`."""
    return _ConvolutionWriter(random.Random(seed)).program(f"convolutions {seed} {limits_of(seed, WINOGRAD | CHOICES)}")


class _LargerWriter(ProgramWriter):
    sizes, largest = SIZES, LARGEST
    element_types = (
        *(("float32",), ("float32",), ("float64",), ("float32", BFLOAT16), (BFLOAT16,), ("float32", INT64), (INT32,)),
    )
    # Of convolutions: what they are drawn from, and whether borders differ from side to side.
    channels, kernels, filters = (1, 2, 3, 16, 17), (1, 2, 3, 4), (1, 3, 8, 16, 17, 32)
    images, strides, borders, lopsided = (1, 4, 5, 8, 9), (1, 1, 2), (0, 1, 1, 2), False

    def __init__(self, source: random.Random, depth: int = 1) -> None:
        super().__init__(source, depth)
        self.types = source.choice(self.element_types)

    def kinds(self) -> Sequence[Callable[[], Value | None]]:
        return (
            *(self.map, self.combine, self.choice, self.move, self.fold, self.look_up, self.contract),
            *(self.layer, self.dense, self.attend, self.cotangents, self.cotangents, self.convolve, self.convolve),
            *(self.pool_maxima, self.over_rows, self.over_rows, self.centred, self.divided, self.drawn, self.logic),
            *((self.recurrent, self.loop) if self.depth else ()),
        )

    def weight(self, shape: Shape, dtype: str) -> Value:
        """An operand of this type; within a body a view of what there is, or a number."""
        found = [value for value in self.pool if value.type == ArrayType(shape, dtype)]
        if found and self.random.random() < 0.7:
            return self.random.choice(found)
        if self.depth == 0 or self.random.random() < 0.3:
            whole = self.build.iota(shape, len(shape) - 1, INT32)
            numbers = self.build.remainder(whole, self.build.full_like(whole, self.random.choice((2, 3, 5))))
            return self.build.cast(numbers, dtype)
        return self.given(ArrayType(shape, dtype))

    def number(self) -> Value | None:
        return self.pick(lambda value: value.dtype not in (BOOL, UINT32))

    def wide(self, x: Value) -> Value:
        """Of a type of this program: what is summed of bfloat16 comes as float32."""
        dtype = self.random.choice(self.types)
        return x if x.dtype == dtype or self.random.random() < 0.5 else self.build.cast(x, dtype)

    # What networks do.

    def layer(self) -> Value | None:
        """x · w, with a bias and a map, or added to something."""
        x = self.pick(lambda value: len(value.shape) > 1 and isinstance(value.shape[-1], int) and value.dtype != BOOL)
        if x is None or x.dtype == UINT32:
            return None
        b, features, width = self.build, x.shape[-1], self.random.choice(self.sizes)
        if at(product(x.shape), 5) * width > MOST_WORK:
            return None
        rank, turned = len(x.shape), self.random.random() < 0.4
        w = self.weight((width, features) if turned else (features, width), x.dtype)
        extents = (*x.shape[:-1], width, features)
        of_w = plain(rank - 1, rank) if turned else plain(rank, rank - 1)
        spec = Contraction(extents, plain(*range(rank)), plain(*range(rank - 1), rank), of_w, extents[:-1])
        y = self.clamp(b.contract(spec, x, w))
        if self.random.random() < 0.6:
            y = self.clamp(b.add(y, b.broadcast(self.weight((width,), y.dtype), y.shape, (rank - 1,))))
        if self.random.random() < 0.4:
            y = b.maximum(y, b.full_like(y, 0))
        return self.wide(y)

    def dense(self) -> Value | None:
        """A product of matrices, of the batch's rows or not, either of them transposed, with maps and sums that follow it."""
        if not self.depth:
            return None
        b, dtype = self.build, self.random.choice(self.types)
        large = [size for size in self.sizes if size > 30]
        rows: Dim = self.random.choice((BATCH, BATCH, *large))
        columns, steps = self.random.choice(large), self.random.choice((BATCH, *large, *large))
        if steps == BATCH and rows == BATCH:
            return None
        if not (self.is_small((rows, steps)) and self.is_small((steps, columns)) and self.is_small((rows, columns))):
            return None
        left, right = self.random.random() < 0.5, self.random.random() < 0.5
        x = self.weight((steps, rows) if left else (rows, steps), dtype)
        w = self.weight((columns, steps) if right else (steps, columns), dtype)
        y = b.matmul(b.transpose(x, (1, 0)) if left else x, b.transpose(w, (1, 0)) if right else w)
        if self.random.random() < 0.5:
            y = self.clamp(b.add(self.clamp(y), self.given(y.type)))
        if self.random.random() < 0.3:
            self.pool.append(self.clamp(b.reduce_sum(y, (0,))))
        return self.clamp(y)

    def attend(self) -> Value | None:
        """Scores of queries and keys for every example and head, less their largest, times values."""
        if not self.depth:
            return None
        b, dtype, choice = self.build, self.random.choice(self.types), self.random.choice
        heads, queries, keys, features = (
            choice((1, 2, 3)),
            choice((1, 4, 9, 17)),
            choice((1, 5, 16, 33)),
            choice((4, 7, 16)),
        )
        q = self.weight((BATCH, queries, heads, features), dtype)
        k, v = (self.weight((BATCH, keys, heads, features), dtype) for _ in range(2))
        shape = (BATCH, heads, queries, keys)
        spec = Contraction((*shape, features), plain(0, 1, 2, 3), plain(0, 2, 1, 4), plain(0, 3, 1, 4), shape)
        scores = self.clamp(b.contract(spec, q, k))
        if self.random.random() < 0.5:
            later = b.lt(b.iota(shape, 2, INT32), b.iota(shape, 3, INT32))
            scores = b.select(later, b.full_like(scores, -3), scores)
        most = b.reduce_max(scores, (3,))
        weights = self.clamp(b.sub(scores, b.broadcast(most, shape, (0, 1, 2))))
        v = b.cast(v, weights.dtype) if v.dtype != weights.dtype else v
        spec = Contraction(
            (BATCH, queries, heads, features, keys),
            plain(0, 1, 2, 3),
            plain(0, 2, 1, 4),
            plain(0, 4, 2, 3),
            (BATCH, queries, heads, features),
        )
        return self.clamp(b.contract(spec, weights, v))

    def cotangents(self) -> Value | None:
        """The weight's gradient: a sum over all rows of products of features with others of the same rows."""
        x = self.pick(lambda value: len(value.shape) > 1 and value.dtype not in (BOOL, UINT32))
        d = self.pick(lambda v: x is not None and v.dtype == x.dtype and v.shape[:-1] == x.shape[:-1])
        if x is None or d is None:
            return None
        rank, (n, m) = len(x.shape), (x.shape[-1], d.shape[-1])
        extents = (*x.shape[:-1], n, m)
        if at(product(extents), 5) > MOST_WORK:
            return None
        out = (rank - 1, rank) if self.random.random() < 0.6 else (rank, rank - 1)
        spec = Contraction(
            extents,
            plain(*out),
            plain(*range(rank)),
            plain(*range(rank - 1), rank),
            tuple(extents[k] for k in out),
        )
        return self.clamp(self.build.contract(spec, x, d))

    def convolve(self) -> Value | None:
        """A convolution over (B, height, width, channels), its input's gradient or its weights'."""
        x = self.pick(lambda v: len(v.shape) == 4 and v.dtype not in (BOOL, UINT32) and v.shape[0] == BATCH)
        if x is None or self.random.random() < 0.2:
            shape = (*(self.random.choice(self.images) for _ in range(2)), self.random.choice(self.channels))
            flat = self.given(ArrayType((BATCH, *shape), self.random.choice(self.types))) if self.depth else None
            if flat is None:
                return None
            x = flat
        n, height, width, channels = x.shape
        if not all(isinstance(d, int) and d for d in (height, width, channels)):
            return None
        kernel, stride = self.random.choice(self.kernels), self.random.choice(self.strides)
        dilation, before = self.random.choice((1, 1, 1, 2)), self.random.choice(self.borders)
        filters = self.random.choice(self.filters)
        places: list[Dim] = []
        for size in (height, width):
            assert isinstance(size, int)
            after = self.random.choice(self.borders) if self.lopsided else before
            reach = size + before + after - dilation * (kernel - 1) - 1
            if reach < 0:
                return None
            places.append(reach // stride + 1)
        extents = (n, *places, filters, kernel, kernel, channels)
        if at(product(extents), 5) > MOST_WORK:
            return None
        spec = Contraction(
            extents,
            plain(0, 1, 2, 3),
            (
                *plain(0),
                affine((1, stride), (4, dilation), offset=-before),
                affine((2, stride), (5, dilation), offset=-before),
                *plain(6),
            ),
            plain(4, 5, 6, 3),
            extents[:4],
        )
        w = self.weight((kernel, kernel, channels, filters), x.dtype)
        role = self.random.random()
        if role < 0.4:
            y = self.clamp(self.build.contract(spec, x, w))
            return self.wide(self.build.maximum(y, self.build.full_like(y, 0)) if self.random.random() < 0.5 else y)
        wanted = ArrayType(spec.shape, x.dtype)
        found = [v for v in self.pool if v.type == wanted]
        d = self.random.choice(found) if found else self.build.full(wanted, 1) if not self.depth else self.given(wanted)
        if self.depth and self.random.random() < 0.7:
            d = self.passed_back(d)
        if role < 0.65:
            return self.clamp(self.build.contract(spec.for_a(x.shape), d, w))
        of_weight = self.clamp(self.build.contract(spec.for_b(w.shape), x, d))
        if self.random.random() < 0.4:
            return of_weight
        # With the gradient of a bias; what takes both keeps both.
        of_bias = self.clamp(self.build.reduce_sum(d, (0, 1, 2)))
        self.pool += [of_weight, of_bias]
        return self.clamp(self.build.add(self.clamp(self.build.reduce_sum(of_weight, (0, 1, 2))), of_bias))

    def passed_back(self, d: Value) -> Value:
        """A cotangent by way of a rectifier, or put together from those of every other row, as by way of a pooled image."""
        b, size = self.build, d.shape[1]
        assert isinstance(size, int), "a convolution has known positions"
        if size < 2 or self.random.random() < 0.5:
            return b.select(b.le(self.like(d), b.full_like(d, 0)), b.full_like(d, 0), d)
        total = None
        for k in (0, 1):
            count = (size - k + 1) // 2
            own = self.given(ArrayType((d.shape[0], count, *d.shape[2:]), d.dtype))
            low, high, inner = (0, k, 0, 0), (0, size - k - 2 * count + 1, 0, 0), (0, 1, 0, 0)
            spread = b.pad(own, low, high, inner)
            total = spread if total is None else b.add(total, spread)
        assert total is not None
        return self.clamp(total)

    def pool_maxima(self) -> Value | None:
        """The largest of windows, or the gradient that goes to where the largest was."""
        x = self.pick(lambda v: len(v.shape) >= 3 and isinstance(v.shape[-2], int) and v.shape[-2] > 1)
        if x is None or x.dtype == BOOL:
            return None
        b, axis, size = self.build, len(x.shape) - 2, x.shape[-2]
        assert isinstance(size, int)
        window, stride = self.random.choice((2, 3)), self.random.choice((1, 2, 3))
        if size < window:
            return None
        count = (size - window) // stride + 1

        def element(k: int) -> Value:
            starts, limits, strides = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
            starts[axis], limits[axis], strides[axis] = k, k + (count - 1) * stride + 1, stride
            return b.slice(x, starts, limits, strides)

        elements = [element(k) for k in range(window)]
        largest = elements[0]
        for other in elements[1:]:
            largest = b.maximum(largest, other)
        if self.random.random() < 0.5:
            return largest
        g, total = self.like(largest), None
        for k, part in enumerate(elements):
            own = b.select(b.eq(part, largest), g, b.full_like(g, 0))
            low, high, inner = [0] * len(x.shape), [0] * len(x.shape), [0] * len(x.shape)
            low[axis], inner[axis] = k, stride - 1
            high[axis] = size - k - (count - 1) * stride - 1
            spread = b.pad(own, low, high, inner)
            total = spread if total is None else b.add(total, spread)
        assert total is not None
        return self.clamp(total)

    def over_rows(self) -> Value | None:
        """Rows less their largest, or their sum, as in a softmax, a norm or a loss."""
        x = self.pick(lambda v: len(v.shape) > 1 and v.dtype not in (BOOL, UINT32) and 0 not in v.shape)
        if x is None:
            return None
        b, rank = self.build, len(x.shape)
        first = self.random.randrange(1, rank)
        axes = tuple(range(first, rank))
        if self.random.random() < 0.3 and not any(not isinstance(x.shape[k], int) for k in range(first)):
            axes = tuple(range(first))
        if any(not isinstance(x.shape[k], int) for k in axes) or self.random.random() < 0.5:
            folded = self.clamp(b.reduce_sum(x, axes))
            x = b.cast(x, folded.dtype) if x.dtype != folded.dtype else x
        else:
            folded = b.reduce_max(x, axes)
        back = b.broadcast(folded, x.shape, tuple(k for k in range(rank) if k not in axes))
        y = self.clamp(self.random.choice((b.sub, b.add, b.mul, b.maximum))(x, back))
        if self.random.random() < 0.3:
            return self.clamp(b.reduce_sum(y, axes))
        return self.wide(y)

    def centred(self) -> Value | None:
        """Distances from the mean over an axis of a power of two, as whole numbers again."""
        x = self.pick(lambda v: v.dtype in WIDE_FLOATS and any(d in (1, 2, 8, 16, 32, 64, 128) for d in v.shape))
        if x is None:
            return None
        b, axis = self.build, next(k for k, d in enumerate(x.shape) if d in (1, 2, 8, 16, 32, 64, 128))
        size, others = x.shape[axis], tuple(k for k in range(len(x.shape)) if k != axis)
        assert isinstance(size, int)
        total = b.reduce_sum(x, (axis,))
        mean = b.mul(total, b.full_like(total, 1 / size))
        away = b.sub(x, b.broadcast(mean, x.shape, others))
        if self.random.random() < 0.5:
            return self.clamp(b.floor(away))
        return self.clamp(b.floor(b.reduce_sum(self.random.choice((away, b.mul(away, away))), (axis,))))

    def divided(self) -> Value | None:
        x = self.number()
        if x is None:
            return None
        b, y = self.build, self.like(x)
        if x.dtype in FLOATS:
            ratio = b.div(x, y)
            return self.clamp(b.floor(b.select(b.is_finite(ratio), ratio, b.full_like(x, 0))))
        return self.random.choice((b.floor_div, b.remainder))(x, y)

    def drawn(self) -> Value | None:
        """Random bits, one for every element of something: what is dropped, and what is kept."""
        x = self.number()
        if x is None or x.dtype == UINT32:
            return None
        b = self.build
        key = b.constant(np.array([self.random.randrange(9), self.random.randrange(9)], np.uint32))
        bits = b.random_bits(key, b.constant(np.uint32(self.random.randrange(9))), x.shape)
        kept = b.lt(bits, b.full_like(bits, 1 << 31))
        return self.random.choice((b.select(kept, x, b.full_like(x, 0)), b.cast(kept, x.dtype)))

    def logic(self) -> Value | None:
        x = self.pick(lambda value: value.dtype == BOOL)
        if x is None:
            return None
        return self.random.choice((self.build.logical_and, self.build.logical_or))(x, self.like_bool(x))

    def like_bool(self, x: Value) -> Value:
        found = [value for value in self.pool if value.type == x.type]
        return self.random.choice(found)

    def recurrent(self) -> Value | None:
        """A loop over steps with several carries of any place, what stays, and what is stepped through; of a batch, most often."""
        carries = [
            value
            for value in self.random.sample(self.pool, len(self.pool))
            if value.dtype != BOOL and 0 < len(value.shape) < 4
        ][: self.random.choice((1, 2, 3))]
        if not carries:
            return None
        length = self.random.choice((1, 2, 5, 9))
        inner = _LargerWriter(self.random, self.depth - 1)
        inner.types = self.types
        consts = self.random.sample(self.pool, min(len(self.pool), self.random.choice((0, 1, 2))))
        rows = carries[0]
        wide = next((d for d in rows.shape[1:] if isinstance(d, int)), 4)
        if rows.dtype != UINT32:
            consts.append(self.weight((wide, wide), rows.dtype))
        stacked = [value for value in self.pool if value.shape[:1] == (length,)][-2:]
        if self.random.random() < 0.7 and rows.dtype != UINT32:
            taken = ArrayType((length, *rows.shape), rows.dtype)
            if self.is_small(taken.shape):
                stacked.append(self.given(taken))
        given = [*consts, *carries]
        types = [*(v.type for v in given), *(ArrayType(v.shape[1:], v.dtype) for v in stacked)]
        inner.pool = [inner.build.input(type) for type in types]
        states = inner.pool[len(consts) : len(given)]
        inner.write(self.random.randint(1, 6))
        following = [inner.clamp(inner.build.add(state, inner.like(state))) for state in states]
        self.random.shuffle(states)
        collected = self.random.sample(inner.pool, min(len(inner.pool), self.random.choice((0, 1, 2))))
        body = inner.build.finish("body", [*following, *(v for v in collected if inner.is_small((9, *v.shape)))])
        results = self.build.scan(
            body,
            [*given, *stacked],
            length=length,
            consts=len(consts),
            carries=len(carries),
            reverse=self.random.random() < 0.5,
        )
        self.pool.extend(value for value in results if self.is_small(value.shape))
        return None


class _ConvolutionWriter(_LargerWriter):
    element_types = (("float32",), ("float32",), ("float64",), ("float32", "float64"), ("float32", BFLOAT16))
    channels, kernels, filters = (16, 16, 16, 32, 48), (2, 3, 3, 3, 4, 4, 5, 6), (16, 16, 16, 32, 48)
    images, strides, borders, lopsided = (4, 5, 8, 8, 9, 10, 11), (1, 2, 2, 3), (0, 1, 1, 2, 3), True

    def kinds(self) -> Sequence[Callable[[], Value | None]]:
        return (*(self.convolve,) * 12, *super().kinds())
