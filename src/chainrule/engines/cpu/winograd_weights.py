"""The weights of a convolution, transformed once for all items: one task for all of its pieces.

    U[slice, a, c, v]        for slices of the channels v of the result, the products a, and what is summed over, c

What a slice reads lies together. All pieces and all c are divided finely: other cores had the lines before, and moving them takes
longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.core.dtypes import DType
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, linear, variable
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.nests import Region, Task
from chainrule.engines.cpu.winograd_blocks import cut_rows
from chainrule.engines.cpu.winograd_operands import Source, count_of, loops


def region_of(weights: Source, name: str, dtype: DType) -> Region:
    return Region(name, dtype, weights.convolution.multiplications * weights.depth)


def transformed(sources: Sequence[Source], regions: Sequence[Region], lanes: int, width: int) -> Task:
    """U of every piece, in a region of its own, with the channels in the order in which the source has them."""
    w = Writer()
    rows = [source.depth // count_of(source.channels[-1]) for source in sources]
    chunks = cut_rows(w, sum(rows), sum(source.depth * source.convolution.multiplications for source in sources))
    first = 0
    for source, region, count in zip(sources, regions, rows, strict=True):
        begin = "low" if first == 0 else f"(low < {first} ? {first} : low)"
        with w.block(f"for (long row = {begin}; row < cr_least(high, {first + count}); row++)"):
            _row(w, source, region, f"row - {first}" if first else "row", lanes, width)
        first += count
    return Task(w.text, chunks, regions=[*regions], comment=f"{sources[0].pointer}, transformed")


def _row(w: Writer, source: Source, region: Region, number: str, lanes: int, width: int) -> None:
    """What lies along the vectors, for one value of each index that is summed over."""
    *others, last = source.channels
    w.line(f"long rest = {number};")
    for var in reversed(others):
        w.line(f"const long {var.name} = rest % {count_of(var)};")
        w.line(f"rest /= {count_of(var)};")
    slices, vector = count_of(last) // width, Var("vector", width // lanes)
    products, rows = source.convolution.multiplications, tuple(map(count_of, others))
    share = Var("share", slices)
    place = linear(
        [variable(share), Index(), *map(variable, others), variable(vector) * lanes], (slices, products, *rows, width)
    )
    stride = source.depth // slices
    prove(region.name, place + (products - 1) * stride + variable(Var("lane", lanes)), region.count)
    with loops(w, [share, vector]):
        source.divided(slices).transform(w, region.name, place, stride, lanes)
