"""What every engine offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from chainrule.engines.repetition import Repetition
from chainrule.ir.graph import Graph

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a graph is rewritten before it runs.

    ``run`` keeps the inputs and the types of the outputs, and nothing but the graph and what ``identity`` says decides what it makes:
    an engine that knows what came of the same graph by the same identity need not run it again.
    """

    identity: str
    run: Callable[[Graph], Graph]


AS_IT_IS = Preparation("as it is", lambda graph: graph)


class Program(Protocol):
    """A graph made ready to run, for any batch size.

    ``graph`` is the graph that runs, ``steps`` are the names and texts of the steps from there to what the engine runs, and
    ``c_source`` is its C: none and None in an engine that runs graphs as they are.
    """

    @property
    def graph(self) -> Graph: ...

    @property
    def steps(self) -> Sequence[tuple[str, str]]: ...

    @property
    def c_source(self) -> str | None: ...

    def __call__(self, arrays: Sequence[NDArray]) -> list[NDArray]:
        """Run once. ``arrays`` must have the types of the graph's inputs; the results are C-contiguous arrays.

        The results are new, except that one may be a donated operand, written over.
        """
        ...

    def repeat(self, arrays: Sequence[NDArray], how: Repetition) -> list[NDArray]:
        """Run many times: the last value of every carried output, and the others stacked along a new first axis.

        The carried operands are written over and must not be used again. Raises :class:`ShapeError` for rows that do not exist.
        """
        ...

    def attempt(self, arrays: tuple[NDArray, ...]) -> list[NDArray] | None:
        """Run once, if these arrays can be used as they are and in the way that an earlier call has prepared.

        Returns None, and has done nothing, where they cannot: then a call finds out why. Donated operands must be private.
        """
        ...


class Engine(Protocol):
    """Turns graphs into programs."""

    name: str

    def problem(self) -> str | None:
        """Why the engine cannot be used on this machine, and what to do; None where it can."""
        ...

    def load(self, graph: Graph, donated: frozenset[int] = frozenset(), preparation: Preparation = AS_IT_IS) -> Program:
        """Make what the preparation makes of a graph ready to run; the program may write over the operands numbered in ``donated``."""
        ...
