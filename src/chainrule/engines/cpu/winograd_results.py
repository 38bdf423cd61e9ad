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
from chainrule.engines.cpu.winograd_algorithms import TILE
from chainrule.engines.cpu.winograd_blocks import WinogradWriter, groups_of, of_next_item
from chainrule.engines.cpu.winograd_bundles import Bundle, Convolution, Layout
from chainrule.engines.cpu.winograd_operands import Block, loops
from chainrule.engines.cpu.winograd_transforms import transposed, write_transform
from chainrule.engines.cpu.winograd_weights import transformed
from chainrule.ir.sizes import Dim

# Tiles of a block at least; more where transformed weights of more bytes are read for each block.
FEWEST_TILES, MORE_TILES = 12, 32
MANY_BYTES = 1 << 18


@final
class _Piece:
    """A bundle, what its phases read, and where that is transformed: weights slice by slice."""

    def __init__(self, writer: ResultsWriter, bundle: Bundle, name: str) -> None:
        self.bundle, number = bundle, bundle.whole.number
        self.images = [writer.source(c, number) for c in bundle.having("image")]
        self.weights = [writer.source(c, 1 - number) for c in bundle.having("other")]
        self.results = bundle.having("result")
        for source in self.weights:
            source.channels = [*self.images[0].channels, source.convolution.vector]
        self.slice = writer.slice
        _, of_slice, _ = self.layouts(1)
        self.elements = of_slice.elements * (writer.wide // writer.slice)
        self.region = Region(name, writer.dtype, self.elements)

    def layouts(self, tiles: Dim) -> tuple[Layout, Layout, Layout]:
        """Of so many tiles, and of a slice of the weights and of the products."""
        depth = self.images[0].depth
        return (
            Layout(self.bundle, "image", tiles, depth),
            Layout(self.bundle, "other", depth, self.slice, below=True),
            Layout(self.bundle, "result", tiles, self.slice),
        )


@final
class ResultsWriter(WinogradWriter):
    """Blocks of tiles times weights, for all pieces."""

    def write_tasks(self) -> None:
        w, item = Writer(), self.bundles[0].whole.item
        pieces = [_Piece(self, bundle, f"weights_{k}") for k, bundle in enumerate(self.bundles)]
        of_weights = [(piece.weights, piece.layouts(1)[1], piece.region) for piece in pieces]
        self.tasks.append(transformed(of_weights, self.lanes))
        assert item.extent is not None, "a batch has a size"
        x = pieces[0].images[0]
        many = max(piece.elements for piece in pieces) * BYTES[self.dtype] > MANY_BYTES
        block = Block.of(self.bundles, MORE_TILES if many else FEWEST_TILES)
        multiplications = sum(bundle.multiplications for bundle in self.bundles)
        work = item.extent * (block.rows * block.in_item * block.columns * multiplications * x.depth * self.wide)
        groups = groups_of(item.extent, block)
        ranges = f"cr_chunks({c_size(work)}, {TILE_GRAIN}, {groups})"
        shares = f"cr_shares({c_size(work)}, {TILE_GRAIN}, %s, {block.in_item})"
        slices = self.wide // self.slice
        both = f"{ranges} * {shares % ranges}"
        parts = f"cr_slices({c_size(work)}, {TILE_GRAIN}, {both}, {slices * len(pieces)})"
        w.line(f"const long ranges = {ranges}, shares = {shares % 'ranges'}, parts = {parts};")
        w.line("const long range = chunk / (shares * parts), share = chunk / parts % shares, part = chunk % parts;")
        w.line(f"const long first = cr_cut({groups}, range, ranges), last = cr_cut({groups}, range + 1, ranges);")
        for side in self.sides:
            side.begin(w)
        layouts = [piece.layouts(block.most_tiles) for piece in pieces]
        buffers = {
            "tiles": max(tiles.elements for tiles, _, _ in layouts),
            "products": max(products.elements for _, _, products in layouts),
            "finished": TILE * TILE * block.columns * self.panel,
        }
        self.scratch(w, block, [x], buffers)
        with self.each_group(w, block, item, [x]):
            w.line(
                f"const long from = cr_cut({block.in_item}, share, shares), to = cr_cut({block.in_item}, share + 1, shares);"
            )
            count = slices * len(pieces)
            w.line(f"const long begin = cr_cut({count}, part, parts), end = cr_cut({count}, part + 1, parts);")
            for k, piece in enumerate(pieces):
                with w.block(f"if (begin < {(k + 1) * slices} && end > {k * slices})"):
                    w.line(f"const long first_slice = begin > {k * slices} ? begin - {k * slices} : 0;")
                    w.line(f"const long last_slice = cr_least(end - {k * slices}, {slices});")
                    with w.block("for (long block = from; block < to; block++)"):
                        self._piece(w, k, block, piece)
        task = Task(w.text, f"{both} * {parts}", after=end_of(self.sides))
        task.regions = [*(piece.region for piece in pieces), *regions_of(self.sides)]
        self.tasks.append(task)

    def _piece(self, w: Writer, which: int, block: Block, piece: _Piece) -> None:
        """One bundle for one block, slice by slice."""
        bundle, item = piece.bundle, piece.bundle.whole.item
        tiles, weights, products = piece.layouts(block.tiles)
        slices, panels = self.wide // self.slice, self.slice // self.panel
        with self.members(w, block):
            self.transform_block(w, block, piece.images, tiles, "tiles")
        with w.loop(Var("slice", slices), "first_slice", "last_slice"):
            w.line(f"const {self.type} *restrict const weights = {piece.region.name} + slice * {weights.size};")
            portion = f"({which} * {slices} + slice)", slices * len(self.bundles)
            streams = of_next_item(piece.images[:1], item, block, *portion)
            streams += [stream for c in piece.results for stream in self._of_what_follows(c, block)]
            with self.members(w, block):
                names = "tiles", "weights", "products"
                self.multiply(w, bundle, (tiles, weights, products), names, block, streams, summed=False)
            for c in piece.results:
                with (
                    self.rows_of_tiles(w, block, item, []),
                    w.loop(Var("panel", slices * panels), f"slice * {panels}", f"(slice + 1) * {panels}"),
                ):
                    first = c.pairs[0]
                    w.line(f"const long rows = cr_least({TILE}, {first.positions} - {TILE} * row_of_tiles);")
                    with w.block(f"if ({self._transformed_back(c, products, block)} != 0)"):
                        if block.items > 1:
                            self.copy_items(w, piece.images[:1])
                        phases = bundle.phases if c is bundle.whole else (c,)
                        w.line(f"{self._defined(c, phases, block)};")
                    self._follow(w, c, block)

    def _transformed_back(self, c: Convolution, layout: Layout, block: Block) -> str:
        """A call that makes results of the products of a row of tiles; what it returns is not 0 where one of them is not finite."""
        w = Writer()
        w.depth = 1
        vector, columns = Var("vector", self.panel // self.lanes), TILE * block.columns
        panels = self.slice // self.panel
        panel = variable(Var("panel", panels)) * self.panel
        channel = panel + variable(vector) * self.lanes
        layout.prove("products", c, block.index, channel + variable(Var("lane", self.lanes)), layout.size)
        to = variable(Var("tile", block.columns)) * (TILE * self.panel) + variable(vector) * self.lanes

        def load(i: int, j: int) -> str:
            return f"*(const {self.vector} *)(products + ({layout.at(c, i, j, block.index, channel)}))"

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

    def _defined(self, c: Convolution, phases: Sequence[Convolution], block: Block) -> str:
        """A call that computes the results of a row of tiles by the definition of the contraction."""
        w, lane = Writer(), Var("l", self.panel)
        w.depth = 1
        channel = variable(Var("panel", self.wide // self.panel)) * self.panel + variable(lane)
        result = f"finished[{self._finished(c, block)}]"
        given: dict[str, str] = {}
        with self._results(w, c):
            with w.loop(lane):
                w.line(f"{result} = 0;")
            for phase in phases:
                terms = []
                for source in (self.source(phase, phase.number), self.source(phase, 1 - phase.number)):
                    place = source.place.replace({c.vector: channel})
                    prove(source.pointer, place, source.size)
                    inside, begin = source.given(offset=False)
                    given[f"const {self.type} *restrict {inside.pointer}"] = begin
                    terms.append(f"{inside.pointer}[{place - inside.base}]")
                first, second = phase.pairs
                with loops(w, [first.tap, second.tap, *(var for var in phase.others if var.extent != 1)]):
                    w.line("CR_INDEPENDENT")
                    with w.loop(lane):
                        w.line(f"{result} += {' * '.join(terms)};")
        given |= {
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
