"""Running graphs on NumPy: bind the batch size, plan each node once per batch size, then call the kernels in order.

Arrays are let go as soon as nothing needs them, and an elementwise map writes over an operand that dies there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from chainrule.core.blas import one_thread
from chainrule.core.dtypes import to_numpy
from chainrule.engines.api import AS_IT_IS, Preparation
from chainrule.engines.binding import bind_batch
from chainrule.engines.reference.kernels import KERNELS, UFUNCS, VIEWS, Kernel, computed_wide, widened
from chainrule.engines.reference.threads import SMALL, largest_product
from chainrule.engines.repetition import Repetition, repeat_plainly
from chainrule.ir.graph import ArrayType, Graph, Node, Value
from chainrule.ir.sizes import shape_at

NDArray = np.ndarray[Any, Any]
Run = Callable[[Sequence[NDArray]], list[NDArray]]
Observer = Callable[[Node, Sequence[NDArray], Sequence[NDArray]], None]


class ReferenceProgram:
    """A graph ready to run; plans are kept for the batch sizes met so far."""

    steps: Sequence[tuple[str, str]] = ()
    c_source: str | None = None

    def __init__(self, graph: Graph, donated: frozenset[int] = frozenset()) -> None:
        self.graph = graph
        self._donated = donated
        self._plans: dict[int, _Plan] = {}
        self._last: tuple[_Plan, list[tuple[int, ...]]] | None = None
        self._dtypes = [to_numpy(value.dtype) for value in graph.inputs]

    def __call__(self, arrays: Sequence[NDArray]) -> list[NDArray]:
        batch = bind_batch(self.graph, arrays)
        with np.errstate(all="ignore"):
            plan = self.at(batch)
        self._last = plan, [array.shape for array in arrays]
        return self._run(plan, arrays)

    def attempt(self, arrays: tuple[NDArray, ...]) -> list[NDArray] | None:
        if self._last is None:
            return None
        plan, shapes = self._last
        if [array.shape for array in arrays] != shapes or [array.dtype for array in arrays] != self._dtypes:
            return None
        if not all(arrays[number].flags.writeable for number in self._donated):
            return None
        return self._run(plan, arrays)

    @staticmethod
    def _run(plan: _Plan, arrays: Sequence[NDArray]) -> list[NDArray]:
        with np.errstate(all="ignore"), one_thread() if plan.is_small else nullcontext():
            results = plan(arrays)
        return [np.ascontiguousarray(result) if result.ndim else result for result in results]

    def repeat(self, arrays: Sequence[NDArray], how: Repetition) -> list[NDArray]:
        return repeat_plainly(self, self.graph, arrays, how)

    def observe(self, arrays: Sequence[NDArray], observer: Observer) -> list[NDArray]:
        """Run once and call ``observer(node, operands, results)`` after every node, in order of execution.

        The nodes of loop bodies are reported every time they run, before the node of the loop itself. Nothing is
        overwritten, so the arrays may be kept; they must not be changed. Those that are not are freed after their last use.
        """
        with np.errstate(all="ignore"):
            return _Plan(self.graph, bind_batch(self.graph, arrays), observer=observer)(arrays)

    def at(self, batch: int) -> _Plan:
        """The plan for one batch size."""
        plan = self._plans.get(batch)
        if plan is None:
            plan = self._plans[batch] = _Plan(self.graph, batch, self._donated)
        return plan


class ReferenceEngine:
    """``engine="reference"``."""

    name = "reference"

    def problem(self) -> str | None:
        return None

    def load(
        self, graph: Graph, donated: frozenset[int] = frozenset(), preparation: Preparation = AS_IT_IS
    ) -> ReferenceProgram:
        return ReferenceProgram(preparation.run(graph), donated)


ENGINE = ReferenceEngine()


class _Plan:
    """Straight-line code for one batch size: slots instead of names, and a list of calls."""

    def __init__(
        self, graph: Graph, batch: int, donated: frozenset[int] = frozenset(), observer: Observer | None = None
    ) -> None:
        slots: dict[Value, int] = {}
        for value in graph.inputs:
            slots[value] = len(slots)
        self.size = len(slots)
        last_use = _last_uses(graph)
        reusable = {graph.inputs[number] for number in donated if graph.inputs[number] in last_use}
        self.fixed: list[tuple[int, NDArray]] = []
        known: dict[Value, NDArray] = {}
        spare: dict[ArrayType, list[int]] = {}
        self.steps: list[tuple[Kernel, tuple[int, ...], tuple[int, ...], int | None, tuple[int, ...]]] = []
        for position, node in enumerate(graph.nodes):
            inputs = tuple(slots[value] for value in node.inputs)
            dying = {value for value in (*node.inputs, *node.outputs) if last_use.get(value, -1) <= position}
            dead = {slots[value] for value in node.inputs if value in dying and value not in known}
            overwritten = None
            writes_over = node.primitive.name in UFUNCS and not computed_wide(node)
            if not observer and writes_over and node.output.type.shape:
                # Write over an operand that dies here, or else over any array of the type that nothing needs any more.
                same = [
                    value
                    for value in node.inputs
                    if value in dying and value in reusable and value.type == node.output.type
                ]
                if same:
                    overwritten = slots[same[0]]
                    reusable.discard(same[0])
                elif spare.get(node.output.type):
                    overwritten = spare[node.output.type].pop()
                    dead.add(overwritten)
            for value in node.outputs:
                slots[value] = len(slots)
            outputs = tuple(slots[value] for value in node.outputs)
            if not observer and node.primitive.name in VIEWS and all(value in known for value in node.inputs):
                # Views of constants cost no memory and are the same in every run.
                result = np.asarray(make_kernel(node, batch)(*(known[value] for value in node.inputs)))
                known[node.output] = result
                self.fixed.append((outputs[0], result))
                continue
            if node.primitive.name in VIEWS:
                reusable.difference_update(node.inputs)
            else:
                reusable.update(node.outputs)
            dead.update(slots[value] for value in node.outputs if value in dying)
            for value in () if observer else dying & reusable:
                spare.setdefault(value.type, []).append(slots[value])
                dead.discard(slots[value])
                reusable.discard(value)
            self.steps.append((make_kernel(node, batch, observer), inputs, outputs, overwritten, tuple(dead)))
        self.total = len(slots)
        self.is_small = largest_product(graph, batch) < SMALL
        self.results = tuple(slots[value] for value in graph.outputs)
        fresh = {value for node in graph.nodes if node.primitive.name not in VIEWS for value in node.outputs}
        self.copies = tuple(
            value not in fresh or value in graph.outputs[:index] for index, value in enumerate(graph.outputs)
        )

    def __call__(self, arrays: Sequence[NDArray]) -> list[NDArray]:
        held: list[Any] = [None] * self.total
        held[: self.size] = arrays
        for slot, array in self.fixed:
            held[slot] = array
        for kernel, inputs, outputs, overwritten, dead in self.steps:
            operands = [held[slot] for slot in inputs]
            if overwritten is not None:
                result = kernel(*operands, out=held[overwritten])
            else:
                result = kernel(*operands)
            if type(result) is tuple:
                for slot, array in zip(outputs, result, strict=True):
                    held[slot] = array
            else:
                # NumPy turns arrays of rank 0 into scalars; the graph knows only arrays.
                held[outputs[0]] = result if type(result) is np.ndarray else np.asarray(result)
            for slot in dead:
                held[slot] = None
        return [
            np.array(held[slot], order="C") if copy else held[slot] for slot, copy in zip(self.results, self.copies)
        ]


def _last_uses(graph: Graph) -> dict[Value, float]:
    last: dict[Value, float] = {}
    for position, node in enumerate(graph.nodes):
        for value in node.inputs:
            last[value] = position
    for value in graph.outputs:
        last[value] = float("inf")
    return last


def make_kernel(node: Node, batch: int, observer: Observer | None = None) -> Kernel:
    """The function of the operands that a node is, at one batch size; it reports its results to the observer."""
    kernel: Kernel
    if node.primitive.name in LOOPS:
        kernel = LOOPS[node.primitive.name](node, batch, observer)
    else:
        kernel = KERNELS[node.primitive.name](node, batch)
        kernel = widened(kernel, node) if computed_wide(node) else kernel
    if observer is None:
        return kernel

    def observed(*operands: NDArray) -> Any:
        result = kernel(*operands)
        observer(node, operands, result if type(result) is tuple else (np.asarray(result),))
        return result

    return observed


def evaluate_node(node: Node, arrays: Sequence[NDArray]) -> tuple[NDArray, ...]:
    """Run a single node of constant sizes on arrays: what eager evaluation does."""
    with np.errstate(all="ignore"):
        result = make_kernel(node, 1)(*arrays)
    return result if type(result) is tuple else (np.asarray(result),)


def _body(node: Node, batch: int, observer: Observer | None) -> Run:
    return _Plan(node.attributes["body"], batch, observer=observer)


def _call(node: Node, batch: int, observer: Observer | None) -> Kernel:
    run = _body(node, batch, observer)
    return lambda *arrays: tuple(run(arrays))


def _scan(node: Node, batch: int, observer: Observer | None) -> Kernel:
    run = _body(node, batch, observer)
    consts, carries = node.attributes["consts"], node.attributes["carries"]
    length = node.attributes["length"]
    order = range(length - 1, -1, -1) if node.attributes["reverse"] else range(length)
    stacks = [(shape_at(value.shape, batch), to_numpy(value.dtype)) for value in node.outputs[carries:]]

    def scan(*arrays: NDArray) -> tuple[NDArray, ...]:
        fixed, carry, stepped = arrays[:consts], list(arrays[consts : consts + carries]), arrays[consts + carries :]
        if length == 0:
            carry = [np.array(array) for array in carry]
        collected = [np.empty(shape, dtype) for shape, dtype in stacks]
        for t in order:
            results = run([*fixed, *carry, *(np.asarray(x[t]) for x in stepped)])
            carry = results[:carries]
            for stack, result in zip(collected, results[carries:], strict=True):
                stack[t] = result
        return (*carry, *collected)

    return scan


def _fixed_point(node: Node, batch: int, observer: Observer | None) -> Kernel:
    run = _body(node, batch, observer)
    consts, tolerance = node.attributes["consts"], node.attributes["tolerance"]
    max_iterations = node.attributes["max_iterations"]

    def fixed_point(*arrays: NDArray) -> tuple[NDArray, ...]:
        fixed, state = arrays[:consts], list(arrays[consts:])
        count = 0
        if not max_iterations:
            state = [x.copy() for x in state]
        while count < max_iterations:
            following = run([*fixed, *state])
            count += 1
            close = all(
                bool(np.all(np.abs(new - old) <= tolerance * (1 + np.abs(new))))
                for new, old in zip(following, state, strict=True)
            )
            state = following
            if close:
                break
        return (*state, np.asarray(count, np.int64))

    return fixed_point


# The rows with body graphs, which need the planner above.
LOOPS: Mapping[str, Callable[[Node, int, Observer | None], Kernel]] = {
    "call": _call,
    "scan": _scan,
    "fixed_point": _fixed_point,
}
