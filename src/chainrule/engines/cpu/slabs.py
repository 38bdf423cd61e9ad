"""Loops whose rows are independent of each other run slab by slab: every thread takes some rows through all of the steps.

The nests of a loop's body are small, and handing each of them to all threads takes longer than what is gained. Where every row of
the batch is computed from that row alone, and from what is the same for all rows, the body's function is called with the rows of a
slab in place of the batch, and threads meet once, after the last step.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.engines.cpu.indexing import c_size
from chainrule.engines.cpu.loops import GRAIN
from chainrule.engines.cpu.memory import bytes_of
from chainrule.engines.cpu.tile_shape import NOMINAL
from chainrule.engines.cpu.work import operations_of
from chainrule.ir.contraction import Contraction, IndexMap
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import BATCH, Size, at

# Rows of a slab where all rows are multiplied by the same matrix: as many as the tiles of a product read it for at once, or half of
# them where that makes fewer slabs than this. The processors of a machine are not equally fast at all times, and a thread that
# finishes early needs another slab to go on with; half a tile takes at most 4 to 7 % longer.
SLAB = 8
FEWEST_SLABS = 8
# Every thread reads what all rows share, such as weights, in every step: so many bytes stay in a processor's own cache. What is larger
# is better divided among the threads, unless a row does so many operations with a byte of it that reading it again is nothing.
MOST_SHARED = 1 << 19
FEW_READS = 32


def batch_axis(value: Value) -> int | None:
    """The axis of the batch; None where there is none.

    Raises:
        ValueError: if the batch size stands in the shape in any other way.
    """
    found = [axis for axis, size in enumerate(value.shape) if isinstance(size, Size)]
    if not found:
        return None
    if len(found) > 1 or value.shape[found[0]] != BATCH:
        raise ValueError(f"{value.type} has more than one row for each example")
    return found[0]


def has_independent_rows(graph: Graph) -> bool:
    """Whether every value with a batch axis has row b from row b of others and from values without one."""
    try:
        for value in graph.inputs:
            batch_axis(value)
        return all(keeps_rows(node) for node in graph.nodes)
    except ValueError:
        return False


def slabs_of(scan: Node) -> str:
    """Into how many slabs a loop is cut, as C: it depends on sizes only, never on the number of threads."""
    body: Graph = scan.attributes["body"]
    try:
        first = [batch_axis(value) for value in (*body.inputs, *body.outputs)]
    except ValueError:
        return "1"
    # A pointer to a row says where a slab begins only if the rows are the outermost axis. What has no rows every slab computes.
    if set(first) - {None} != {0} or not has_independent_rows(body):
        return "1"
    shared, each = _operations(scan)
    if shared > each or not each or not _may_read_all(body, body.inputs, each // scan.attributes["length"]):
        return "1"
    if _multiplies_by_shared(body):
        half, most = (SLAB + 1) // 2, SLAB * FEWEST_SLABS
        limit = f"B < {most} ? (B + {half - 1}) / {half} : (B + {SLAB - 1}) / {SLAB}"
        return f"cr_chunks({c_size(each * BATCH)}, {GRAIN}, {limit})"
    return "(B ? B : 1)" if each >= GRAIN else f"cr_chunks({c_size(each * BATCH)}, {GRAIN}, B)"


def runs_at_once(scan: Node) -> bool:
    """Whether the steps of a loop are tasks for the threads: without a carry they are independent of each other."""
    length, body = scan.attributes["length"], scan.attributes["body"]
    if scan.attributes["carries"] or length < 2:
        return False
    each = at(operations_of(scan), NOMINAL) // length
    return each >= GRAIN and _may_read_all(body, body.inputs[: scan.attributes["consts"]], each)


def _operations(scan: Node) -> tuple[int, int]:
    """The operations of a loop: those that do not depend on the batch size, and those for each row."""
    work = operations_of(scan)
    return (work.coefficients[0], work.coefficients[1]) if isinstance(work, Size) else (work, 0)


def _may_read_all(body: Graph, given: Sequence[Value], operations: int) -> bool:
    """Whether every thread may read for itself what has no rows, of which a step makes so many operations."""
    constants = [node.output for node in body.nodes if node.primitive.name == "constant"]
    sizes = [bytes_of(value) for value in (*given, *constants)]
    shared = sum(size for size in sizes if isinstance(size, int))
    return shared <= MOST_SHARED or operations >= FEW_READS * shared


def _multiplies_by_shared(graph: Graph) -> bool:
    """Whether some product in the body of a loop has an operand without rows."""
    return any(
        (node.primitive.name == "contract" and None in map(batch_axis, node.inputs))
        or any(_multiplies_by_shared(body) for _, body in node.subgraphs())
        for node in graph.nodes
    )


def keeps_rows(node: Node) -> bool:
    axes = [batch_axis(value) for value in node.inputs]
    results = [batch_axis(value) for value in node.outputs]
    if not all(has_independent_rows(body) for _, body in node.subgraphs()):
        return False
    attributes, name, first = node.attributes, node.primitive.name, axes[0] if axes else None
    if all(axis is None for axis in (*axes, *results)):
        return name != "extent" or not isinstance(attributes["size"], Size)
    if node.primitive.family in ("map", "compare"):
        return True
    match name:
        # Sizes tell: the batch size is that of one axis before and after.
        case "transpose" | "broadcast" | "slice" | "pad" | "stop_gradient" | "scan":
            return True
        case "reshape":
            before, after = node.inputs[0].shape[:first], node.output.shape[: results[0]]
            return _count(before) == _count(after)
        case "reduce_sum" | "reduce_max" | "flip":
            return all(axis != first for axis in attributes["axes"])
        case "argmax":
            return bool(first != attributes["axis"])
        case "concatenate" | "iota":
            return bool(results[0] != attributes["axis"])
        case "contract":
            return _is_batched(attributes["spec"], axes, results[0])
        case "gather":
            return bool(first != attributes["batch"])
        case "scatter_add":
            indices = node.inputs[1].type.rank
            is_summed = first is not None and attributes["batch"] <= first < indices
            return not is_summed and bool(results[0] != attributes["batch"])
        case "random_bits":
            return draws_by_row(node)
    # A fixed point is found when all rows have come to rest.
    return False


def draws_by_row(node: Node) -> bool:
    """Whether a node draws random bits that are numbered row by row, so that a slab knows the number of its first."""
    return node.primitive.name == "random_bits" and node.output.shape[:1] == (BATCH,)


def _count(shape: tuple[object, ...]) -> int:
    total = 1
    for size in shape:
        assert isinstance(size, int), "the batch size stands in no other axis"
        total *= size
    return total


def _is_batched(spec: Contraction, axes: list[int | None], result: int | None) -> bool:
    """Whether one index of the box is the row of the result and of every operand that has rows, and nothing else."""
    if result is None:
        return False
    row = spec.out[result].plain
    if (
        row is None
        or [size for size in spec.extents if isinstance(size, Size)] != [BATCH]
        or spec.extents[row] != BATCH
    ):
        return False
    maps = [(spec.out, result), *zip((spec.a, spec.b), axes, strict=True)]
    return all(_row_axes(index_map, row) == ([] if axis is None else [axis]) for index_map, axis in maps) and all(
        axis is None or index_map[axis].plain == row for index_map, axis in maps
    )


def _row_axes(index_map: IndexMap, row: int) -> list[int]:
    return [axis for axis, coordinate in enumerate(index_map) if any(index == row for index, _ in coordinate.terms)]
