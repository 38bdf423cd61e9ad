"""The weights of a convolution, transformed once for all items: one task for all of its pieces and phases.

    U[slice, a, c, v]        for slices of the channels v of the result, the products a, and what is summed over, c

What a slice reads lies together, and within it as the :class:`Layout` of a bundle says. All pieces and all c are divided finely:
other cores had the lines before, and moving them takes longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.engines.cpu.indexing import Var, linear, variable
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.nests import Region, Task
from chainrule.engines.cpu.winograd_blocks import cut_rows
from chainrule.engines.cpu.winograd_bundles import Layout, count_of
from chainrule.engines.cpu.winograd_operands import Source, loops


def transformed(bundles: Sequence[tuple[Sequence[Source], Layout, Region]], lanes: int) -> Task:
    """U of all phases of every bundle, slice after slice in such a layout, with the channels in the order in which the sources have
    them."""
    w = Writer()
    rows = [sources[0].depth // count_of(sources[0].channels[-1]) for sources, _, _ in bundles]
    all_sources = [source for sources, _, _ in bundles for source in sources]
    chunks = cut_rows(w, sum(rows), sum(source.depth * source.convolution.multiplications for source in all_sources))
    first = 0
    for (sources, layout, region), count in zip(bundles, rows, strict=True):
        begin = "low" if first == 0 else f"(low < {first} ? {first} : low)"
        with w.block(f"for (long row = {begin}; row < cr_least(high, {first + count}); row++)"):
            _row(w, sources, layout, region, f"row - {first}" if first else "row", lanes)
        first += count
    regions = [region for _, _, region in bundles]
    return Task(w.text, chunks, regions=regions, comment=f"{all_sources[0].pointer}, transformed")


def _row(w: Writer, sources: Sequence[Source], layout: Layout, region: Region, number: str, lanes: int) -> None:
    """What lies along the vectors, for one value of each index that is summed over."""
    *others, last = sources[0].channels
    w.line(f"long rest = {number};")
    for var in reversed(others):
        w.line(f"const long {var.name} = rest % {count_of(var)};")
        w.line(f"rest /= {count_of(var)};")
    slices, vector = count_of(last) // layout.columns, Var("vector", layout.columns // lanes)
    share = Var("share", slices)
    row = linear(map(variable, others), tuple(map(count_of, others)))
    column = variable(vector) * lanes + variable(share) * layout.size
    for source in sources:
        layout.prove(region.name, source.convolution, row, column + variable(Var("lane", lanes)), region.count)
        with loops(w, [share, vector]):
            source.divided(slices).transform(w, layout, region.name, row, column, lanes)
