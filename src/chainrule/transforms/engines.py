"""Engines by name, and the choice that ``auto`` makes.

``auto`` takes the cpu engine where it saves more time than compiling takes, and the reference engine otherwise. What that depends
on is the graph, the batch size and the number of calls, never a clock or what is in a cache: results of the two engines differ in
their last bits, and the same program must give the same bits every time.

* A training knows how many steps it will take, decides before the first, and keeps to it; see ``Compiled.choose``.
* A function that is called nobody knows how often, or a loaded model, begins on the reference engine. When its calls have taken as
  long there, by the estimate of ``engines/estimate.py``, as compiling would, it is compiled: so it never costs more than twice
  the better choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.core.notices import say_once
from chainrule.engines import reference
from chainrule.engines.api import AS_IT_IS, Engine, Preparation, Program
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.engines.cpu.toolchain import CompilerError
from chainrule.engines.estimate import Estimate, estimate
from chainrule.ir.graph import Graph
from chainrule.ir.sizes import BATCH

NDArray = np.ndarray[Any, Any]

AUTO = "auto"
REFERENCE: Engine = reference.ENGINE
ENGINES: Mapping[str, Engine] = {"reference": REFERENCE, "cpu": CPU}


def engine_named(name: str) -> Engine:
    """The engine of that name, for ``auto`` the one to begin with.

    Raises :class:`ConfigError` that lists those there are, or says why it cannot be used on this machine.
    """
    if name == AUTO:
        return REFERENCE
    if name not in ENGINES:
        raise ConfigError(f"there is no engine {name!r}; choose auto or {', '.join(ENGINES)}")
    engine = ENGINES[name]
    problem = engine.problem()
    if problem is not None:
        raise ConfigError(f'{problem}; choose --engine reference (engine="reference")')
    return engine


def compiled_if_possible(graph: Graph, donated: frozenset[int], preparation: Preparation) -> Program | None:
    """The graph on the cpu engine; None, after a notice, where this machine cannot compile it."""
    problem = CPU.problem()
    if problem is None:
        try:
            return CPU.load(graph, donated, preparation)
        except CompilerError as error:
            problem = str(error)
    say_once(
        f'the reference engine runs what the cpu engine would run faster: {problem}; engine="reference" says no more of it'
    )
    return None


class Choice:
    """A program for a graph and the engine that runs it. While that is open, ``estimate`` says what the program is made of, and
    ``spent`` the seconds that its calls are taken to have cost on the reference engine."""

    def __init__(
        self,
        engine: Engine,
        graph: Graph,
        donated: frozenset[int] = frozenset(),
        preparation: Preparation = AS_IT_IS,
    ) -> None:
        self.engine, self._given = engine, (graph, donated, preparation)
        self.program: Program = engine.load(*self._given)
        self.estimate: Estimate | None = None
        self.spent = 0.0

    def open(self) -> None:
        """Leave it to the calls to come which engine is to run it."""
        self.estimate = estimate(self.program.graph)

    def count(self, batch: int, calls: int = 1) -> None:
        """Before calls: compile the program where its calls so far have cost as much as that."""
        if self.estimate is None:
            return
        self.spent += calls * self.estimate.reference_seconds(batch)
        if self.spent > self.estimate.compile_seconds:
            self.settle(compiled=True)

    def settle(self, *, compiled: bool) -> None:
        """Decide, for the cpu engine where this machine can compile, or for the one that it runs on."""
        self.estimate = None
        program = compiled_if_possible(*self._given) if compiled else None
        if program is not None:
            self.program, self.engine = program, CPU


def batch_size(graph: Graph, arrays: Sequence[NDArray]) -> int:
    """The batch size of some arrays; 1 where none has one."""
    sizes = (
        array.shape[axis]
        for value, array in zip(graph.inputs, arrays)
        for axis, size in enumerate(value.shape)
        if size == BATCH
    )
    return next(sizes, 1)
