"""Results that have taps, by Winograd's algorithms: gradients of the weights of convolutions."""

from __future__ import annotations

from typing import final

from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Var, c_size, linear, variable
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.nests import Region, Task, regions_of
from chainrule.engines.cpu.sides import end_of
from chainrule.engines.cpu.tile_units import TILE_GRAIN
from chainrule.engines.cpu.winograd import Convolution
from chainrule.engines.cpu.winograd_blocks import WinogradWriter, cut_channels, groups_of, of_next_item
from chainrule.engines.cpu.winograd_operands import Block, Source, count_of, loops
from chainrule.engines.cpu.winograd_transforms import transposed, write_transform

# Tiles of a block at least and at most, and the results for each: these are read and written for every block.
FEWEST_SUMMED, MOST_SUMMED, RESULTS_OF_TILE = 16, 256, 16
# Parts of a sum over items at most.
PARTS = 16


@final
class GradientWriter(WinogradWriter):
    """Products of blocks of both operands, added up in parts."""

    def write_tasks(self) -> None:
        (c,) = self.convolutions
        w, sources = Writer(), [self.source(0, k) for k in (0, 1)]
        x, y = sources if c.vector in sources[1].channels else sources[::-1]
        block = Block.of([c], min(MOST_SUMMED, max(FEWEST_SUMMED, x.depth * y.depth // RESULTS_OF_TILE)))
        size, extent = c.multiplications * x.depth * y.depth, c.item.extent
        assert extent is not None, "a batch has a size"
        work = extent * (block.rows * block.in_item * block.columns * size)
        groups = groups_of(extent, block)
        ranges = f"cr_least(cr_chunks({c_size(work)}, {TILE_GRAIN}, {groups}), {PARTS})"
        w.line(f"const long ranges = {ranges};")
        w.line(f"const long first = cr_cut({groups}, chunk, ranges), last = cr_cut({groups}, chunk + 1, ranges);")
        w.line(f"{self.type} *const target = parts + chunk * {size};")
        w.line(f"if (first == last) memset(target, 0, {size} * sizeof *target);")
        room = c.multiplications * block.most_tiles
        self.scratch(w, block, [x, y], {"x_tiles": room * x.depth, "y_tiles": room * y.depth})
        with self.each_group(w, block, c.item, [x, y]), w.loop(Var("block", block.in_item)), self.members(w, block):
            self.transform_block(w, block, x, "x_tiles")
            self.transform_block(w, block, y, "y_tiles")
            sizes = c.multiplications, block.tiles, x.depth, y.depth
            streams = of_next_item([x, y], c.item, block, 0, 1)
            self.multiply(w, sizes, ("x_tiles", "y_tiles", "target"), block, c.item, streams, summed=True)
        region = Region("parts", self.dtype, size * PARTS)
        self.tasks.append(Task(w.text, ranges, regions=[region]))
        self._finish_gradient(c, x, y, region, ranges)

    def _finish_gradient(self, c: Convolution, x: Source, y: Source, region: Region, ranges: str) -> None:
        """Add up the parts, transform the sum, and compute what follows from it."""
        w = Writer()
        channels = [*x.channels, *y.channels]
        shape = tuple(map(count_of, channels))
        rows = [var for var in channels if var.extent != 1 and var != c.vector]
        stride, taps = x.depth * y.depth, [len(pair.algorithm.w[0]) for pair in c.pairs]
        chunks = cut_channels(w, rows[0], stride)
        w.line(f"const long ranges = {ranges};")
        for side in self.sides:
            side.begin(w)
        with w.block("for (long part = 1; part < ranges; part++)"), w.loop(Var("a", c.multiplications)):
            inner = stride // count_of(rows[0])
            w.line(f"{self.type} *restrict const sum = parts + a * {stride};")
            w.line(f"const {self.type} *restrict const term = sum + part * {c.multiplications * stride};")
            w.line("CR_INDEPENDENT")
            w.line(f"for (long k = low * {inner}; k < high * {inner}; k++) sum[k] += term[k];")
        w.line(f"{self.type} finished[{taps[0] * taps[1] * self.panel}] __attribute__((aligned(64)));")
        vector, size = Var("vector", self.panel // self.lanes), c.pairs[1].algorithm.size
        panel = variable(Var("panel", self.wide // self.panel)) * self.panel
        place = linear(
            [variable(v).replace({c.vector: panel + variable(vector) * self.lanes}) for v in channels], shape
        )
        prove(
            "parts",
            place + (c.multiplications - 1) * stride + variable(Var("lane", self.lanes)),
            c.multiplications * stride,
        )

        def load(i: int, j: int) -> str:
            return f"*(const {self.vector} *)(parts + ({place + (i * size + j) * stride}))"

        def store(i: int, j: int, text: str) -> None:
            to = variable(vector) * self.lanes + (i * taps[1] + j) * self.panel
            w.line(f"*({self.vector} *)(finished + ({to})) = {text};")

        matrices = [transposed(pair.algorithm.w) for pair in c.pairs]
        out = linear(c.out, self.node.output.shape).replace({c.vector: variable(Var("place", self.wide))})
        first, second = (pair.tap for pair in c.pairs)
        box = self.result.epilogue(out, f"({first.name} * {taps[1]} + {second.name}) * {self.panel} + l")
        with loops(w, [*rows, Var("panel", self.wide // self.panel)], ("low", "high")):
            with w.loop(vector):
                write_transform(w, matrices[0], matrices[1], self.dtype, self.lanes, load, store)
            with loops(w, [first, second]):
                w.line("CR_INDEPENDENT")
                with w.block(f"for (long l = 0; l < {self.panel}; l++)"):
                    w.line(f"const long place = panel * {self.panel} + l;")
                    box.write(w)
                    box.write_stores(w)
        task = Task(w.text, chunks, after=end_of(self.sides), comment="the parts of the sum, transformed")
        task.regions = [region, *regions_of(self.sides)]
        self.tasks.append(task)
