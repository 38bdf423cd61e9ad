"""How long a graph will take, by its sizes alone: to decide which engine pays before anything has run.

The figures are rough and need not be better: engines differ by factors. They are constants, not measurements, so that the same
training makes the same choice on every machine and in every run.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainrule.ir.graph import Graph, Node
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.sizes import Dim, at, product

# Seconds. The reference engine calls NumPy for every node, which computes products well and makes one pass over memory for each
# of all other nodes; compiled code is entered once.
REFERENCE_NODE, REFERENCE_ELEMENT, REFERENCE_PRODUCT = 5e-6, 1e-9, 2e-11
CPU_CALL, CPU_NODE, CPU_ELEMENT, CPU_PRODUCT = 5e-6, 5e-8, 1e-10, 1e-11
COMPILE, COMPILE_CONTRACTION, COMPILE_NODE = 0.3, 0.05, 0.002

# How often a loop without a known length is taken to run.
_ITERATIONS = 20
_FREE = frozenset({"constant", "reshape", "permute", "broadcast", "slice", "stop_gradient"}) & frozenset(PRIMITIVES)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a graph is made of. ``nodes`` counts every run of a loop's body, ``written`` how many nodes there are to compile."""

    nodes: int
    elements: Dim
    products: Dim
    written: int
    contractions: int

    def reference_seconds(self, batch: int) -> float:
        """One run on the reference engine."""
        sizes = REFERENCE_ELEMENT * at(self.elements, batch) + REFERENCE_PRODUCT * at(self.products, batch)
        return REFERENCE_NODE * self.nodes + sizes

    def cpu_seconds(self, batch: int) -> float:
        """One run as compiled code."""
        sizes = CPU_ELEMENT * at(self.elements, batch) + CPU_PRODUCT * at(self.products, batch)
        return CPU_CALL + CPU_NODE * self.nodes + sizes

    @property
    def compile_seconds(self) -> float:
        """Compiling it, if it was never compiled before."""
        return COMPILE + COMPILE_CONTRACTION * self.contractions + COMPILE_NODE * self.written

    def pays(self, batch: int, calls: int) -> bool:
        """Whether compiled code saves more time in so many calls than compiling takes."""
        return calls * (self.reference_seconds(batch) - self.cpu_seconds(batch)) > self.compile_seconds


def estimate(graph: Graph) -> Estimate:
    """The estimate for a graph, the bodies of its loops included."""
    nodes, written, contractions = 0, 0, 0
    elements: Dim = 0
    products: Dim = 0
    for node in graph.nodes:
        for _, body in node.subgraphs():
            inside, times = estimate(body), _times(node)
            nodes, written = nodes + times * inside.nodes, written + inside.written
            contractions += inside.contractions
            elements, products = elements + times * inside.elements, products + times * inside.products
        if node.primitive.name in _FREE:
            continue
        nodes, written = nodes + 1, written + 1
        for value in node.outputs:
            elements = elements + product(value.shape)
        if node.primitive.name == "contract":
            contractions += 1
            products = products + product(node.attributes["spec"].extents)
    return Estimate(nodes, elements, products, written, contractions)


def _times(node: Node) -> int:
    """How often the body of a node runs."""
    if node.primitive.name == "scan":
        return int(node.attributes["length"])
    if node.primitive.name == "fixed_point":
        return min(_ITERATIONS, int(node.attributes["max_iterations"]))
    return 1
