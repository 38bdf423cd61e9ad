"""What tiles fetch of the next item of a batch."""

import re

import numpy as np
import pytest
from tests.engines.cpu.test_computed_operands import graph_of

from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.indexing import Index, Var, variable
from chainrule.engines.cpu.tile_ahead import Ahead, Stream
from chainrule.engines.cpu.tile_plan import Operand, Plan
from chainrule.engines.cpu.tile_units import Units


def plan_of(rows, tile, summed):
    row, loops = Var("row", rows), [Var(f"k{n}", extent) for n, extent in enumerate(summed)]
    places = Operand("x", variable(row), 1 << 20), Operand("y", Index(), 1 << 20)
    return Plan(variable(row), *places, [], [(row, tile)], Var("column", 1), 1, loops, [], 16, 16, "float32")


@pytest.mark.parametrize("lines", [1, 3, 48, 500, 1024, 5000])
@pytest.mark.parametrize(
    ("rows", "tile", "summed"), [(1024, 16, (16,)), (48, 8, (32, 32)), (7, 7, ()), (64, 16, (3, 3, 64))]
)
def test_the_tiles_of_an_item_fetch_all_of_the_next_or_as_much_as_they_may(rows, tile, summed, lines):
    plan = plan_of(rows, tile, summed)
    units = Units(plan)
    tiles = -(-rows // tile)
    ahead = Ahead.of([Stream("x", lines)], plan, units, 0.0, 1.0)
    steps = int(np.prod(summed[: ahead.depth], dtype=int))
    assert ahead.steps == steps
    fetched = ahead.lines[0] * steps * tiles
    assert fetched >= lines or ahead.lines[0] == 16
    # A step fetches a line at least.
    assert fetched <= max(2 * lines, tiles)


def test_pieces_share_what_there_is_to_fetch():
    plan = plan_of(1024, 16, (16,))
    parts = [Ahead.of([Stream("x", 1000)], plan, Units(plan), before, 0.25) for before in (0.0, 0.25, 0.5, 0.75)]
    assert [part.first[0] for part in parts] == [0, 250, 500, 750]


def test_the_next_item_of_every_array_that_a_copy_reads_is_fetched():
    """The gradient of the second weight copies the result of the first convolution and the cotangent, both of 8 x 8 x 16."""
    graph, _ = graph_of(2, (8, 8), dtype=np.float32)
    text = ENGINE.load(graph).c_source
    streams = re.findall(r"streams\[\] = \{(.*)\};", text)
    assert any(line.count("1024 * (k0 + 1)") == 2 for line in streams)
    assert len(streams) >= 4
