"""Results that have taps, by Winograd's algorithms: gradients of the weights of convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import final

from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.nests import Region, Task, regions_of
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.sides import end_of
from chainrule.engines.cpu.tile_sums import write_row
from chainrule.engines.cpu.tile_units import TILE_GRAIN
from chainrule.engines.cpu.winograd_blocks import (
    FEWEST_VECTORS,
    WinogradWriter,
    cut_rows,
    groups_of,
    moved,
    of_next_item,
)
from chainrule.engines.cpu.winograd_bundles import Bundle, Convolution, Layout, Role, count_of
from chainrule.engines.cpu.winograd_operands import Block, Source, loops, share_of
from chainrule.engines.cpu.winograd_transforms import transposed, write_transform
from chainrule.ir.sizes import Dim

# Tiles of a block at least and at most, and the results for each: these are read and written for every block. What is transformed
# for a block has so many bytes at most, and stays in the second cache.
FEWEST_SUMMED, MOST_SUMMED, RESULTS_OF_TILE = 16, 256, 256
MOST_BYTES = 3 << 18
# Parts of a sum over items at most, and the elements of all of them; where that leaves fewer chunks than these, channels are divided.
PARTS, MOST_ELEMENTS, FEWEST_CHUNKS = 16, 1 << 20, 16


@final
class GradientWriter(WinogradWriter):
    """Products of blocks of both operands, added up in parts.

    Every part of a sum has a place for all results. Where these are many there are few parts, and every chunk takes a share of the
    channels of x and of y.
    """

    def write_tasks(self) -> None:
        (bundle,) = self.bundles
        c, w = bundle.whole, Writer()
        roles: tuple[Role, Role] = ("image", "other") if c.number == 0 else ("other", "image")
        sources = {role: [self.source(one, k) for one in bundle.having(role)] for k, role in enumerate(roles)}
        # Rows of the products are channels of x, columns those of y.
        of_x, of_y = roles if c.vector in sources[roles[1]][0].channels else roles[::-1]
        (x, *_), (y, *_) = sources[of_x], sources[of_y]
        parts = max(1, min(PARTS, MOST_ELEMENTS // (bundle.multiplications * x.depth * y.depth)))
        x_shares, y_shares = self._shares(x, y, parts)
        shares, channel = x_shares * y_shares, share_of(x.channels[-1], x_shares, "x_share")[0]
        known = {x.channels[-1]: channel}
        xs = [source.divided(x_shares, "x_share") for source in sources[of_x]]
        ys = [source.divided(y_shares, "y_share") for source in sources[of_y]]
        x, y = xs[0], ys[0]

        def layouts(tiles: Dim) -> tuple[Layout, Layout, Layout]:
            return (
                Layout(bundle, of_x, tiles, x.depth),
                Layout(bundle, of_y, tiles, y.depth),
                Layout(bundle, "result", x.depth, y.depth, below=of_x != bundle.shared),
            )

        bytes_of_tile = sum(layout.elements for layout in layouts(1)[:2]) * BYTES[self.dtype]
        least = bundle.multiplications * x.depth * y.depth // RESULTS_OF_TILE
        block = Block.of([bundle], max(FEWEST_SUMMED, min(MOST_SUMMED, MOST_BYTES // bytes_of_tile, least)))
        size, extent = bundle.multiplications * x.depth * y.depth, c.item.extent
        assert extent is not None, "a batch has a size"
        work = extent * (block.rows * block.in_item * block.columns * size * shares)
        groups = groups_of(extent, block)
        ranges = f"cr_least(cr_chunks({c_size(work)}, {TILE_GRAIN}, {groups}), {parts})"
        w.line(f"const long ranges = {ranges}, range = chunk / {shares};")
        w.line(f"const long x_share = chunk % {shares} / {y_shares}, y_share = chunk % {y_shares};")
        w.line(f"const long first = cr_cut({groups}, range, ranges), last = cr_cut({groups}, range + 1, ranges);")
        w.line(f"{self.type} *const target = parts + chunk * {size};")
        w.line(f"if (first == last) memset(target, 0, {size} * sizeof *target);")
        added = [replace(side, most=parts * shares) for sides in self.operand_sums.values() for side in sides]
        for side in added:
            side.begin(w)
        x_room, y_room = (layout.elements for layout in layouts(block.most_tiles)[:2])
        self.scratch(w, block, [x, y], {"x_tiles": x_room, "y_tiles": y_room})
        with self.each_group(w, block, c.item, [x, y]), w.loop(Var("block", block.in_item)), self.members(w, block):
            laid = layouts(block.tiles)
            for operands, layout, target in zip((xs, ys), laid[:2], ("x_tiles", "y_tiles"), strict=True):
                self.transform_block(w, block, operands, layout, target)
            streams = of_next_item([x, y], c.item, block, 0, 1)
            self.multiply(w, bundle, laid, ("x_tiles", "y_tiles", "target"), block, streams, summed=True)
        region = Region("parts", self.dtype, size * shares * parts)
        task = Task(w.text, f"{ranges} * {shares}", after=end_of(added, ranges), regions=[region, *regions_of(added)])
        self.tasks.append(task)
        outs = [linear(one.out, self.node.output.shape).replace(known) for one in bundle.phases]
        self._finish(bundle, outs, x, y, laid[2], region, ranges, (x_shares, y_shares))

    def _shares(self, x: Source, y: Source, parts: int) -> tuple[int, int]:
        """Into how many shares the channels of x and of y are divided: those that make the fewest transforms."""
        found = []
        for of_x, of_y in itertools.product(*(_divisors(count_of(z.channels[-1]) // self.lanes) for z in (x, y))):
            whole = count_of(y.channels[-1]) // of_y % self.panel == 0
            if of_y == 1 or (whole and y.depth // of_y >= FEWEST_VECTORS * self.lanes):
                missing = max(0, FEWEST_CHUNKS - parts * of_x * of_y)
                found.append((missing, x.depth * of_y + y.depth * of_x, of_x, of_y))
        _, _, x_shares, y_shares = min(found)
        return x_shares, y_shares

    def _finish(
        self,
        bundle: Bundle,
        outs: Sequence[Index],
        x: Source,
        y: Source,
        layout: Layout,
        region: Region,
        ranges: str,
        all_shares: tuple[int, int],
    ) -> None:
        """Add up the parts, transform the sum, and compute what follows from it."""
        w = Writer()
        x_shares, y_shares = all_shares
        size, shares = layout.elements, x_shares * y_shares
        chunks = cut_rows(w, x_shares * x.depth, size * shares)
        w.line(f"const long ranges = {ranges};")
        for side in self.sides:
            side.begin(w)
        most_taps = max(first.taps * second.taps for first, second in (c.pairs for c in bundle.phases))
        w.line(f"{self.type} finished[{most_taps * self.panel}] __attribute__((aligned(64)));")
        with w.block("for (long row = low; row < high; row++)"), w.loop(Var("y_share", y_shares)):
            w.line(f"const long x_share = row / {x.depth}, share = x_share * {y_shares} + y_share;")
            w.line(f"long rest = row % {x.depth};")
            with w.block("for (long part = 1; part < ranges; part++)"):
                for group in bundle.groups:
                    width = layout.width(group)
                    count = len(group.places) * layout.matrices(group) * layout.columns // width
                    start = f"share * {size} + a * {x.depth * width} + rest * {width}"
                    with w.loop(Var("a", count)):
                        w.line(f"{self.type} *restrict const sum = {moved('parts', layout.start(group))} + {start};")
                        w.line(f"const {self.type} *restrict const term = sum + part * {size * shares};")
                        w.line("CR_INDEPENDENT")
                        w.line(f"for (long k = 0; k < {width}; k++) sum[k] += term[k];")
            for var in reversed(x.channels):
                w.line(f"const long {var.name} = rest % {count_of(var)};")
                w.line(f"rest /= {count_of(var)};")
            *others, last = y.channels
            for c, out in zip(bundle.phases, outs, strict=True):
                with loops(w, [*(v for v in others if v.extent != 1), Var("panel", count_of(last) // self.panel)]):
                    self._taps(w, c, out, x, y, layout, shares)
        task = Task(w.text, chunks, after=end_of(self.sides), comment="the parts of the sum, transformed")
        task.regions = [region, *regions_of(self.sides)]
        self.tasks.append(task)

    def _taps(self, w: Writer, c: Convolution, out: Index, x: Source, y: Source, layout: Layout, shares: int) -> None:
        """The taps of a phase for one panel, and what follows from them."""
        vector = Var("vector", self.panel // self.lanes)
        width = count_of(y.channels[-1])
        panel = variable(Var("panel", width // self.panel)) * self.panel
        known = {y.channels[-1]: panel + variable(vector) * self.lanes}
        row, column = (
            linear([variable(var).replace(known) for var in source.channels], tuple(map(count_of, source.channels)))
            for source in (x, y)
        )
        share, size = variable(Var("share", shares)), layout.size
        layout.prove("parts", c, row, column + variable(Var("lane", self.lanes)), size)
        first, second = c.pairs

        def load(i: int, j: int) -> str:
            return f"*(const {self.vector} *)(parts + ({share * size + layout.at(c, i, j, row, column)}))"

        def store(i: int, j: int, text: str) -> None:
            to = variable(vector) * self.lanes + (i * second.taps + j) * self.panel
            w.line(f"*({self.vector} *)(finished + ({to})) = {text};")

        matrices = [transposed(pair.algorithm.w) for pair in c.pairs]
        with w.loop(vector):
            write_transform(w, matrices[0], matrices[1], self.dtype, self.lanes, load, store)
        place = f"({variable(first.tap) * second.taps + variable(second.tap)}) * {self.panel} + l"
        box = self.kernel.epilogue(out.replace({c.vector: variable(Var("place", self.wide))}), place)
        with loops(w, [first.tap, second.tap]):
            write_row(w, box, str(self.panel), f"y_share * {width} + panel * {self.panel} + l")


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
