"""Engines by name, and the choice that ``auto`` makes.

``auto`` takes the cpu engine where it saves more time than compiling takes, and the reference engine otherwise. What that depends
on is the graph, the batch size and the number of calls, never a clock or what is in a cache: results of the two engines differ in
their last bits, and the same program must give the same bits every time.

* A training knows how many steps it will take, decides before the first, and keeps to it; see ``Compiled.choose``.
* A function that is called nobody knows how often begins on the reference engine. When its calls have taken as long there, by the
  estimate of ``engines/estimate.py``, as compiling would, it is compiled: so it never costs more than twice the better choice.
"""

from __future__ import annotations

from collections.abc import Mapping

from chainrule.core.errors import ConfigError
from chainrule.core.notices import say_once
from chainrule.engines import reference
from chainrule.engines.api import Engine, Program
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.engines.cpu.toolchain import CompilerError
from chainrule.ir.graph import Graph

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
        raise ConfigError(problem)
    return engine


def compiled_if_possible(graph: Graph, donated: frozenset[int]) -> Program | None:
    """The graph on the cpu engine; None, after a notice, where this machine cannot compile it."""
    problem = CPU.problem()
    if problem is None:
        try:
            return CPU.load(graph, donated)
        except CompilerError as error:
            problem = str(error)
    say_once(
        f'the reference engine runs what the cpu engine would run faster: {problem}; engine="reference" says no more of it'
    )
    return None
