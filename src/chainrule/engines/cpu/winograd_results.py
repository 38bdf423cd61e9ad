"""Results that have positions, by Winograd's algorithms: convolutions, and the gradients of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

from chainrule.core.alignment import LINE_BYTES
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.nests import Region, Task, regions_of
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.sides import end_of
from chainrule.engines.cpu.tile_ahead import Stream
from chainrule.engines.cpu.tile_sums import TileSums
from chainrule.engines.cpu.tile_units import TILE_GRAIN
from chainrule.engines.cpu.winograd import TILE, Convolution
from chainrule.engines.cpu.winograd_blocks import WinogradWriter, groups_of, of_next_item
from chainrule.engines.cpu.winograd_operands import Block, Source, loops
from chainrule.engines.cpu.winograd_transforms import transposed, write_transform
from chainrule.engines.cpu.winograd_weights import region_of, transformed
from chainrule.ir.sizes import Dim

# Tiles of a block at least; more where transformed weights of more bytes are read for each block.
FEWEST_TILES, MORE_TILES = 12, 32
MANY_BYTES = 1 << 18


@final
class ResultsWriter(WinogradWriter):
    """Blocks of tiles times weights, for all pieces."""

    def write_tasks(self) -> None:
        w, number, item = Writer(), self.convolutions[0].number, self.convolutions[0].item
        sources = [(self.source(k, number), self.source(k, 1 - number)) for k in range(len(self.convolutions))]
        regions = self._transform_weights(sources)
        assert item.extent is not None, "a batch has a size"
        most_weights = max(c.multiplications * y.depth for c, (_, y) in zip(self.convolutions, sources, strict=True))
        many = most_weights * BYTES[self.dtype] > MANY_BYTES
        block = Block.of(self.convolutions, MORE_TILES if many else FEWEST_TILES)
        work: Dim = 0
        for c, (x, _) in zip(self.convolutions, sources, strict=True):
            work = work + item.extent * (
                block.rows * block.in_item * block.columns * c.multiplications * x.depth * self.wide
            )
        groups = groups_of(item.extent, block)
        ranges = f"cr_chunks({c_size(work)}, {TILE_GRAIN}, {groups})"
        shares = f"cr_shares({c_size(work)}, {TILE_GRAIN}, %s, {block.in_item})"
        slices = self.wide // self.slice
        both = f"{ranges} * {shares % ranges}"
        parts = f"cr_slices({c_size(work)}, {TILE_GRAIN}, {both}, {slices * len(sources)})"
        w.line(f"const long ranges = {ranges}, shares = {shares % 'ranges'}, parts = {parts};")
        w.line("const long range = chunk / (shares * parts), share = chunk / parts % shares, part = chunk % parts;")
        w.line(f"const long first = cr_cut({groups}, range, ranges), last = cr_cut({groups}, range + 1, ranges);")
        for side in self.sides:
            side.begin(w)
        most = max(c.multiplications for c in self.convolutions) * block.most_tiles
        x = sources[0][0]
        buffers = {
            "tiles": most * x.depth,
            "products": most * self.slice,
            "finished": TILE * TILE * block.columns * self.panel,
        }
        self.scratch(w, block, [x], buffers)
        with self.each_group(w, block, item, [x]):
            w.line(
                f"const long from = cr_cut({block.in_item}, share, shares), to = cr_cut({block.in_item}, share + 1, shares);"
            )
            count = slices * len(sources)
            w.line(f"const long begin = cr_cut({count}, part, parts), end = cr_cut({count}, part + 1, parts);")
            for k, (x, weights) in enumerate(sources):
                with w.block(f"if (begin < {(k + 1) * slices} && end > {k * slices})"):
                    w.line(f"const long first_slice = begin > {k * slices} ? begin - {k * slices} : 0;")
                    w.line(f"const long last_slice = cr_least(end - {k * slices}, {slices});")
                    with w.block("for (long block = from; block < to; block++)"):
                        self._piece(w, k, block, x, weights, regions[k])
        task = Task(w.text, f"{both} * {parts}", after=end_of(self.sides))
        task.regions = [*regions, *regions_of(self.sides)]
        self.tasks.append(task)

    def _piece(self, w: Writer, which: int, block: Block, x: Source, weights: Source, region: Region) -> None:
        """One piece for one block, slice by slice."""
        c = self.convolutions[which]
        slices, panels = self.wide // self.slice, self.slice // self.panel
        with self.members(w, block):
            self.transform_block(w, block, x, "tiles")
        with w.loop(Var("slice", slices), "first_slice", "last_slice"):
            w.line(
                f"const {self.type} *restrict const weights = {region.name} + slice * {c.multiplications * weights.depth // slices};"
            )
            portion = f"({which} * {slices} + slice)", slices * len(self.convolutions)
            streams = [*of_next_item([x], c.item, block, *portion), *self._of_what_follows(c, block)]
            sizes = c.multiplications, block.tiles, x.depth, self.slice
            with self.members(w, block):
                self.multiply(w, sizes, ("tiles", "weights", "products"), block, c.item, streams, summed=False)
            with (
                self.rows_of_tiles(w, block, c.item, []),
                w.loop(Var("panel", slices * panels), f"slice * {panels}", f"(slice + 1) * {panels}"),
            ):
                first = c.pairs[0]
                w.line(f"const long rows = cr_least({TILE}, {first.positions} - {TILE} * row_of_tiles);")
                with w.block(f"if ({self._transformed_back(c, block)} != 0)"):
                    if block.items > 1:
                        self.copy_items(w, [x])
                    w.line(f"{self._defined(c, x, weights, block)};")
                self._follow(w, c, block)

    def _transform_weights(self, sources: Sequence[tuple[Source, Source]]) -> list[Region]:
        """U of every piece, whose channels are in the order of those of x."""
        for x, weights in sources:
            weights.channels = [*x.channels, weights.convolution.vector]
        regions = [region_of(weights, f"weights_{k}", self.dtype) for k, (_, weights) in enumerate(sources)]
        self.tasks.append(transformed([weights for _, weights in sources], regions, self.lanes, self.slice))
        return regions

    def _transformed_back(self, c: Convolution, block: Block) -> str:
        """A call that makes results of the products of a row of tiles; what it returns is not 0 where one of them is not finite."""
        w = Writer()
        w.depth = 1
        vector, stride = Var("vector", self.panel // self.lanes), block.tiles * self.slice
        panels = self.slice // self.panel
        panel = variable(Var("panel", panels)) * self.panel
        place = block.index * self.slice + panel + variable(vector) * self.lanes
        size, columns = c.pairs[1].algorithm.size, TILE * block.columns
        to = variable(Var("tile", block.columns)) * (TILE * self.panel) + variable(vector) * self.lanes
        prove(
            "products",
            place + stride * (c.multiplications - 1) + variable(Var("lane", self.lanes)),
            stride * c.multiplications,
        )

        def load(i: int, j: int) -> str:
            return f"*(const {self.vector} *)(products + ({place + stride * (i * size + j)}))"

        def store(i: int, j: int, text: str) -> None:
            w.line(f"const {self.vector} z{i}_{j} = {text};")
            w.line(f"watch += z{i}_{j} * 0;")
            w.line(f"*({self.vector} *)(finished + ({to + (i * columns + j) * self.panel})) = z{i}_{j};")

        w.line(f"{self.vector} watch = {{0}};")
        matrices = [transposed(pair.algorithm.u) for pair in c.pairs]
        with loops(w, [Var("tile", block.columns), vector]):
            write_transform(w, matrices[0], matrices[1], self.dtype, self.lanes, load, store)
        w.line(f"return cr_sum_{self.dtype}x{self.lanes}(watch);")
        given = {
            f"const {self.type} *restrict products": "products",
            f"{self.type} *restrict finished": "finished",
            "long panel": f"panel % {panels}",
        }
        return self.outlined("tile_results", w, given | self.place_of(block), self.type)

    def _defined(self, c: Convolution, x: Source, weights: Source, block: Block) -> str:
        """A call that computes the results of a row of tiles by the definition of the contraction."""
        w, (first, second) = Writer(), c.pairs
        w.depth = 1
        (x, start), (weights, first_weight) = x.given, weights.given
        lane = Var("l", self.panel)
        known = {c.vector: variable(Var("panel", self.wide // self.panel)) * self.panel + variable(lane)}
        places = [source.place.replace(known) for source in (x, weights)]
        for source, place in zip((x, weights), places, strict=True):
            prove(source.pointer, place, source.size)
        with self._results(w, c):
            result = f"finished[{self._finished(c, block)}]"
            with w.loop(lane):
                w.line(f"{result} = 0;")
            with loops(w, [first.tap, second.tap, *(var for var in c.others if var.extent != 1)]):
                w.line("CR_INDEPENDENT")
                with w.loop(lane):
                    w.line(f"{result} += {x.pointer}[{places[0]}] * {weights.pointer}[{places[1]}];")
        given = {
            f"const {self.type} *restrict {x.pointer}": start,
            f"const {self.type} *restrict {weights.pointer}": first_weight,
            f"{self.type} *restrict finished": "finished",
            "long row_of_tiles": "row_of_tiles",
            "long rows": "rows",
            "long panel": "panel",
        }
        return self.outlined("tile_definition", w, given)

    def _follow(self, w: Writer, c: Convolution, block: Block) -> None:
        """What follows from the results of a row of tiles."""
        out = linear(c.out, self.node.output.shape).replace({c.vector: variable(Var("place", self.wide))})
        box = self.kernel.epilogue(out, self._finished(c, block))
        count = self.panel // self.lanes
        sums = TileSums(self.dtype, self.lanes, count, str(count))
        sums.take_from(box)
        sums.write(w, self._results(w, c), box, str(self.panel), f"panel * {self.panel} + l")

    @contextmanager
    def _results(self, w: Writer, c: Convolution) -> Iterator[None]:
        """Loops over the positions of a row of tiles."""
        first, second = c.pairs
        with w.block("for (long row = 0; row < rows; row++)"):
            w.line(f"const long {first.position.name} = {TILE} * row_of_tiles + row;")
            with w.loop(second.position):
                yield

    def _finished(self, c: Convolution, block: Block) -> str:
        return f"(row * {TILE * block.columns} + {c.pairs[1].position.name}) * {self.panel} + l"

    def _of_what_follows(self, c: Convolution, block: Block) -> list[Stream]:
        """What follows from the results of a block reads and writes where these lie, if the results of a block lie together."""
        first, second = c.pairs
        out = linear(c.out, self.node.output.shape).replace({c.vector: variable(Var("place", self.wide))})
        rows, row = TILE * block.rows, second.positions * self.wide
        steps = out.coefficient(first.position), out.coefficient(second.position), out.coefficient(c.item)
        if block.items > 1 or self.panel != self.wide or steps[:2] != (row, self.wide):
            return []
        box = self.kernel.epilogue(out, "0")
        places = [(pointer, at) for type, pointer, at in box.loads() if type == self.type]
        places += [(store.pointer, store.at) for store in box.stores if not store.adds]
        start = {
            first.position: variable(Var("block", block.in_item)) * rows,
            second.position: Index(),
            Var("place", self.wide): Index(),
        }
        lines = -(-rows * row * BYTES[self.dtype] // LINE_BYTES)
        alike = {f"(const char *)({p} + {at.replace(start)})": None for p, at in places if at == out}
        return [Stream(text, lines) for text in alike]
