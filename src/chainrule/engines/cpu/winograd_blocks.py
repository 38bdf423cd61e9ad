"""Contractions by Winograd's algorithms (``winograd.py``): transform tiles of both operands, multiply, transform the products.

    V[a, t, c] = Σ_w X[a, w]·x[2t + w, c]      the operand read at position + tap, for the tiles t of a block
    U[a, c, o] = Σ_k W[a, k]·y[k, c, o]        weights, once
    M[a, t, o] = Σ_c V[a, t, c]·U[a, c, o]     a product for every a, in the tiles of registers of any other
    z[2t + p, o] = Σ_a U[a, p]·M[a, t, o]      and what follows elementwise

A gradient of weights transforms both operands block by block, adds up the products of all blocks, and transforms the sum. Blocks
are rows of tiles of an item or, where these are small, several items, so that what is transformed stays in cache.

A number that is not finite, or overflows on the way, spoils its whole tile. Where results are not finite they are computed again,
from the definition; in gradients of weights, whose elements are sums over everything, they stay.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from chainrule.core.alignment import LINE_BYTES
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import MOST_CHUNKS, Writer
from chainrule.engines.cpu.nests import Task, declare_scratch, write_loops, write_together
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.sides import Side
from chainrule.engines.cpu.tile_ahead import Ahead, Stream, streams_of
from chainrule.engines.cpu.tile_kernel import KernelWriter
from chainrule.engines.cpu.tile_plan import Operand, Product, Way, plan_of, registers_of
from chainrule.engines.cpu.tile_units import Units
from chainrule.engines.cpu.vectors import vector_type
from chainrule.engines.cpu.winograd_bundles import Bundle, Convolution, Layout, count_of
from chainrule.engines.cpu.winograd_operands import Block, Source, loops, source_of
from chainrule.ir.build import Builder
from chainrule.ir.contraction import Contraction, plain
from chainrule.ir.graph import ArrayType, Node
from chainrule.ir.sizes import Dim, product

# Elements at least, as they are before and after, of what a chunk transforms of weights or of their gradient.
TRANSFORM_GRAIN = 1 << 13
MOST_VECTORS = 4
# Vectors of a result that are multiplied at a time at least, if there are so many: tiles of registers with three are the best.
FEWEST_VECTORS = 8


class WinogradWriter(ABC):
    """Writes the tasks of one contraction node that is made of short convolutions; :meth:`write_tasks` adds them to ``tasks``."""

    def __init__(
        self,
        kernel: KernelWriter,
        bundles: Sequence[Bundle],
        vector_bytes: int,
        computed: frozenset[int] = frozenset(),
        operand_sums: Mapping[int, Sequence[Side]] | None = None,
    ) -> None:
        """``kernel`` knows the node and writes what follows from its results."""
        self.kernel, self.bundles, self.vector_bytes, self.computed = kernel, bundles, vector_bytes, computed
        self.operand_sums = operand_sums or {}
        self.node, self.sides = kernel.node, kernel.sides
        self.dtype = self.node.output.dtype
        self.type, self.lanes = C_TYPES[self.dtype], vector_bytes // BYTES[self.dtype]
        self.vector = vector_type(self.dtype, self.lanes)
        self.functions: dict[str, str] = {}
        self.tasks: list[Task] = []
        self.wide = count_of(bundles[0].whole.vector)
        vectors = self.wide // self.lanes
        # Channels that are transformed back, and what follows from them computed, at a time.
        self.panel = self.lanes * next(n for n in range(min(MOST_VECTORS, vectors), 0, -1) if vectors % n == 0)
        # Channels of the result that are multiplied at a time: whole panels.
        self.slice = next(
            n
            for n in range(self.panel, self.wide + 1, self.panel)
            if self.wide % n == 0 and n >= min(self.wide, FEWEST_VECTORS * self.lanes)
        )

    def write(self) -> list[Task]:
        self.write_tasks()
        regions = {region.name: region for task in self.tasks for region in task.regions}
        for task in self.tasks:
            task.functions, task.regions = self.functions, list(regions.values())
        return self.tasks

    @abstractmethod
    def write_tasks(self) -> None: ...

    def source(self, c: Convolution, number: int) -> Source:
        own, computed = self.kernel, number in self.computed
        sums = self.operand_sums.get(number, ())
        return source_of(self.node, self.bundles, c, number, own.body, own.name, computed, sums)

    # Blocks.

    @contextmanager
    def each_group(self, w: Writer, block: Block, item: Var, sources: Sequence[Source]) -> Iterator[None]:
        """The loop over items, or groups of them, from ``first`` to ``last``, with copies of their operands."""
        assert item.extent is not None, "a batch has a size"
        if block.items > 1:
            w.line(f"const long items = {c_size(item.extent)};")
        with w.block("for (long group = first; group < last; group++)"):
            if block.items == 1:
                w.line(f"const long {item.name} = group;")
                self.copy_items(w, sources)
            else:
                w.line(f"const long members = cr_least({block.items}, items - {block.items} * group);")
            yield

    @contextmanager
    def each_member(self, w: Writer, block: Block, item: Var, sources: Sequence[Source]) -> Iterator[None]:
        """A loop over the items of a group, with copies of their operands."""
        if block.items == 1:
            yield
            return
        with w.block("for (long member = 0; member < members; member++)"):
            w.line(f"const long {item.name} = group * {block.items} + member;")
            self.copy_items(w, sources)
            yield

    def copy_items(self, w: Writer, sources: Sequence[Source]) -> None:
        for source in sources:
            if source.copy is not None:
                write_together(w, source.copy[1])

    @contextmanager
    def members(self, w: Writer, block: Block) -> Iterator[None]:
        """Where the number of items of a group stands for the batch size."""
        with w.block(""):
            if block.items > 1:
                w.line("const long B = members;")
            yield

    @contextmanager
    def rows_of_tiles(self, w: Writer, block: Block, item: Var, sources: Sequence[Source]) -> Iterator[None]:
        with self.each_member(w, block, item, sources), w.loop(Var("row_in_block", block.rows)):
            w.line(f"const long row_of_tiles = block * {block.rows} + row_in_block;")
            yield

    def transform_block(self, w: Writer, block: Block, sources: Sequence[Source], layout: Layout, target: str) -> None:
        """Transform what the phases of a bundle read of an operand, each copy of an item for all of them."""
        calls = []
        for source in sources:
            *others, _ = source.channels
            channel = self.channel_place(source)
            lane = variable(Var("lane", self.lanes))
            layout.prove(target, source.convolution, block.index, channel + lane, layout.size)
            start = layout.at(source.convolution, 0, 0, Index(), Index()).offset
            body, (inside, begin) = Writer(), source.given(offset=True)
            body.depth = 1
            with loops(body, [Var("tile", block.columns), *others, self.vectors(source)]):
                inside.transform(body, layout, "to", block.index, channel - start, self.lanes)
            given = {f"const {self.type} *restrict {inside.pointer}": begin}
            given |= {f"{self.type} *restrict to": moved(target, start)}
            calls.append(self.outlined("tile_transform", body, given | self.place_of(block)))
        with self.rows_of_tiles(w, block, sources[0].convolution.item, sources[:1]):
            for call in calls:
                w.line(f"{call};")

    def place_of(self, block: Block) -> dict[str, str]:
        """What a function has to know of the row of tiles at hand."""
        member, count = ("member", "members") if block.items > 1 else ("0", "B")
        return {
            "long row_of_tiles": "row_of_tiles",
            "long row_in_block": "row_in_block",
            "long member": member,
            "long B": count,
        }

    def outlined(self, kind: str, body: Writer, given: dict[str, str], returned: str = "void") -> str:
        """A call of a function, which nests of the same sizes share: parameters and what they are given."""
        text = f"({', '.join(given)}) {{\n{body.text}}}\n"
        name = f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        self.functions[name] = f"static {returned} {name}{text}"
        return f"{name}({', '.join(given.values())})"

    def vectors(self, source: Source) -> Var:
        return Var("vector", count_of(source.channels[-1]) // self.lanes)

    def channel_place(self, source: Source) -> Index:
        *others, _ = source.channels
        shape = tuple(map(count_of, source.channels))
        return linear([*map(variable, others), variable(self.vectors(source)) * self.lanes], shape)

    def scratch(self, w: Writer, block: Block, sources: Sequence[Source], buffers: dict[str, int]) -> None:
        """Memory of the thread for copies of an item and what is transformed; the zeros around items are written once."""
        copied = [source for source in sources if source.copy is not None]
        declare_scratch(
            w, self.dtype, [*{source.pointer: source.copied for source in copied}.items(), *buffers.items()]
        )
        for source in copied:
            for box in source.copy[0] if source.copy is not None else ():
                with w.block(""):
                    write_loops(w, box)

    def multiply(
        self,
        w: Writer,
        bundle: Bundle,
        layouts: tuple[Layout, Layout, Layout],
        names: tuple[str, str, str],
        block: Block,
        streams: Sequence[Stream],
        *,
        summed: bool,
    ) -> None:
        """The products of what is transformed, tiles times weights or x times y ``summed`` over tiles, group by group."""
        x, y, _ = layouts
        done = 0
        for group in bundle.groups:
            pointers = [moved(name, layout.start(group)) for name, layout in zip(names, layouts, strict=True)]
            sizes = len(group.places), block.tiles, x.width(group), y.width(group)
            work = len(group.places) * len(group.phases)
            share = done / bundle.multiplications, work / bundle.multiplications
            self._multiply(w, sizes, pointers, block, bundle.whole.item, streams, share, summed=summed)
            done += work

    def _multiply(
        self,
        w: Writer,
        sizes: tuple[int, Dim, int, int],
        names: Sequence[str],
        block: Block,
        item: Var,
        streams: Sequence[Stream],
        share: tuple[float, float],
        *,
        summed: bool,
    ) -> None:
        """``count`` products, that do a ``share`` of the work of a block after another one."""
        (count, tiles, depth, wide), (x, y, target) = sizes, names
        a, t, d = Var("a", count), Var("t", tiles), Var("d", depth)
        v, column = Var("v", wide), Var("column", wide // self.lanes)
        rows, steps = (d, t) if summed else (t, d)
        node = _product_node(count, rows, steps, wide, self.dtype)
        out = linear(map(variable, (a, rows, v)), node.output.shape)
        left = linear(map(variable, (a, t, d)), (count, tiles, depth))
        right = linear(map(variable, (a, steps, v)), node.inputs[1].shape)
        known = {v: variable(column) * self.lanes}
        size = product(node.inputs[1].shape)
        one = Product(
            Way(v, self.lanes, False, False),
            out.replace(known),
            Operand(x, left, count * tiles * depth, False),
            Operand(y, right.replace(known), size),
            [a, rows],
            [steps],
            column,
            self.dtype,
        )
        plan, _ = plan_of(one, [], registers_of(self.vector_bytes))
        units = Units(plan)
        kernel = KernelWriter(node, self.kernel.body, lambda value: target, (), True)
        kernel.target = target
        with w.block(""):
            w.line(f"const _Bool fresh = {'group == first && block == 0' if summed else 1};")
            w.line(f"const long units = {units.count}, low = 0, high = units;")
            kernel.ahead = Ahead.of(streams, plan, units, *share)
            if kernel.ahead is not None:
                if block.items > 1:
                    w.line(f"const long {item.name} = group * {block.items} + {block.items - 1};")
                kernel.ahead.declare(w)
            kernel.units(w, plan, units, None)
        self.functions |= kernel.functions


def moved(pointer: str, places: Dim) -> str:
    return pointer if places == 0 else f"{pointer} + {c_size(places)}"


def _product_node(count: int, rows: Var, steps: Var, wide: int, dtype: str) -> Node:
    """The products as a node: ``count`` products of matrices."""
    assert rows.extent is not None and steps.extent is not None, "matrices have sizes"
    builder = Builder()
    x = builder.input(ArrayType((count, rows.extent, steps.extent), dtype), "x")
    y = builder.input(ArrayType((count, steps.extent, wide), dtype), "y")
    shape = (count, rows.extent, wide)
    spec = Contraction((*shape, steps.extent), plain(0, 1, 2), plain(0, 1, 3), plain(0, 3, 2), shape)
    builder.contract(spec, x, y)
    return builder.nodes[-1]


def of_next_item(sources: Sequence[Source], item: Var, block: Block, which: int | str, pieces: int) -> list[Stream]:
    """The part of what the copies of the next item read that the products of a piece fetch for a block."""
    found = []
    copied = streams_of([source.copy[1] for source in sources if source.copy is not None], item)
    for stream in (*copied, *(source.of_next_item for source in sources if source.copy is None)):
        lines = -(-stream.lines * block.items // (block.in_item * pieces))
        found.append(Stream(f"{stream.start} + {LINE_BYTES * lines} * (block * {pieces} + {which})", lines))
    return found


def groups_of(items: Dim, block: Block) -> str:
    count = c_size(items)
    return count if block.items == 1 else f"(({count} + {block.items - 1}) / {block.items})"


def cut_rows(w: Writer, rows: int, elements: int) -> str:
    """The range [low, high) of rows that a chunk has of so many elements, and how many chunks there are."""
    chunks = max(1, min(rows, MOST_CHUNKS, elements // TRANSFORM_GRAIN))
    w.line(f"const long low = cr_cut({rows}, chunk, {chunks}), high = cr_cut({rows}, chunk + 1, {chunks});")
    return str(chunks)
