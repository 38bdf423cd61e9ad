"""Results that have taps, by Winograd's algorithms: gradients of the weights of convolutions."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import final

from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.nests import Region, Task, regions_of
from chainrule.engines.cpu.scalars import BYTES
from chainrule.engines.cpu.sides import end_of
from chainrule.engines.cpu.tile_sums import write_row
from chainrule.engines.cpu.tile_units import TILE_GRAIN
from chainrule.engines.cpu.winograd import Convolution
from chainrule.engines.cpu.winograd_blocks import FEWEST_VECTORS, WinogradWriter, cut_rows, groups_of, of_next_item
from chainrule.engines.cpu.winograd_operands import Block, Source, count_of, loops, share_of
from chainrule.engines.cpu.winograd_transforms import transposed, write_transform

# Tiles of a block at least and at most, and the results for each: these are read and written for every block. What is transformed
# for a block has so many bytes at most, and stays in the second cache.
FEWEST_SUMMED, MOST_SUMMED, RESULTS_OF_TILE = 16, 256, 16
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
        (c,) = self.convolutions
        w, sources = Writer(), [self.source(0, k) for k in (0, 1)]
        x, y = sources if c.vector in sources[1].channels else sources[::-1]
        parts = max(1, min(PARTS, MOST_ELEMENTS // (c.multiplications * x.depth * y.depth)))
        x_shares, y_shares = self._shares(x, y, parts)
        shares, channel = x_shares * y_shares, x.channels[-1]
        x, y = x.divided(x_shares, "x_share"), y.divided(y_shares, "y_share")
        most = MOST_BYTES // (c.multiplications * (x.depth + y.depth) * BYTES[self.dtype])
        block = Block.of([c], max(FEWEST_SUMMED, min(MOST_SUMMED, most, x.depth * y.depth // RESULTS_OF_TILE)))
        size, extent = c.multiplications * x.depth * y.depth, c.item.extent
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
        room = c.multiplications * block.most_tiles
        self.scratch(w, block, [x, y], {"x_tiles": room * x.depth, "y_tiles": room * y.depth})
        with self.each_group(w, block, c.item, [x, y]), w.loop(Var("block", block.in_item)), self.members(w, block):
            self.transform_block(w, block, x, "x_tiles")
            self.transform_block(w, block, y, "y_tiles")
            sizes = c.multiplications, block.tiles, x.depth, y.depth
            streams = of_next_item([x, y], c.item, block, 0, 1)
            self.multiply(w, sizes, ("x_tiles", "y_tiles", "target"), block, c.item, streams, summed=True)
        region = Region("parts", self.dtype, size * shares * parts)
        task = Task(w.text, f"{ranges} * {shares}", after=end_of(added, ranges), regions=[region, *regions_of(added)])
        self.tasks.append(task)
        out = linear(c.out, self.node.output.shape).replace({channel: share_of(channel, x_shares, "x_share")[0]})
        self._finish(c, out, x, y, region, ranges, (x_shares, y_shares))

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
        self, c: Convolution, out: Index, x: Source, y: Source, region: Region, ranges: str, all_shares: tuple[int, int]
    ) -> None:
        """Add up the parts, transform the sum, and compute what follows from it."""
        w = Writer()
        (x_shares, y_shares), shares = all_shares, all_shares[0] * all_shares[1]
        channels = [*x.channels, *y.channels]
        shape, last = tuple(map(count_of, channels)), y.channels[-1]
        stride, taps = x.depth * y.depth, [len(pair.algorithm.w[0]) for pair in c.pairs]
        size, width = c.multiplications * stride, count_of(last)
        rows = x_shares * x.depth
        chunks = cut_rows(w, rows, size * shares)
        w.line(f"const long ranges = {ranges};")
        for side in self.sides:
            side.begin(w)
        w.line(f"{self.type} finished[{taps[0] * taps[1] * self.panel}] __attribute__((aligned(64)));")
        vector, columns = Var("vector", self.panel // self.lanes), c.pairs[1].algorithm.size
        panel = variable(Var("panel", width // self.panel)) * self.panel
        place = variable(Var("share", shares)) * size + linear(
            [variable(v).replace({last: panel + variable(vector) * self.lanes}) for v in channels], shape
        )
        prove("parts", place + (c.multiplications - 1) * stride + variable(Var("lane", self.lanes)), size * shares)

        def load(i: int, j: int) -> str:
            return f"*(const {self.vector} *)(parts + ({place + (i * columns + j) * stride}))"

        def store(i: int, j: int, text: str) -> None:
            to = variable(vector) * self.lanes + (i * taps[1] + j) * self.panel
            w.line(f"*({self.vector} *)(finished + ({to})) = {text};")

        matrices = [transposed(pair.algorithm.w) for pair in c.pairs]
        first, second = (pair.tap for pair in c.pairs)
        out = out.replace({c.vector: variable(Var("place", self.wide))})
        box = self.kernel.epilogue(out, f"({first.name} * {taps[1]} + {second.name}) * {self.panel} + l")
        with w.block("for (long row = low; row < high; row++)"), w.loop(Var("y_share", y_shares)):
            w.line(f"const long x_share = row / {x.depth}, share = x_share * {y_shares} + y_share;")
            w.line(f"long rest = row % {x.depth};")
            start = f"share * {size} + a * {stride} + rest * {y.depth}"
            with w.block("for (long part = 1; part < ranges; part++)"), w.loop(Var("a", c.multiplications)):
                w.line(f"{self.type} *restrict const sum = parts + {start};")
                w.line(f"const {self.type} *restrict const term = sum + part * {size * shares};")
                w.line("CR_INDEPENDENT")
                w.line(f"for (long k = 0; k < {y.depth}; k++) sum[k] += term[k];")
            for var in reversed(x.channels):
                w.line(f"const long {var.name} = rest % {count_of(var)};")
                w.line(f"rest /= {count_of(var)};")
            others = [var for var in y.channels[:-1] if var.extent != 1]
            with loops(w, [*others, Var("panel", width // self.panel)]):
                with w.loop(vector):
                    write_transform(w, matrices[0], matrices[1], self.dtype, self.lanes, load, store)
                with loops(w, [first, second]):
                    write_row(w, box, str(self.panel), f"y_share * {width} + panel * {self.panel} + l")
        task = Task(w.text, chunks, after=end_of(self.sides), comment="the parts of the sum, transformed")
        task.regions = [region, *regions_of(self.sides)]
        self.tasks.append(task)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
