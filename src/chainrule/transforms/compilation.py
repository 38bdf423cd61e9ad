"""``compile``: a Python function becomes one program per structure and type of its arguments.

Arguments are trees. Arrays and Python floats are traced; everything else (ints, bools, strings, functions) is static, so that it
can steer Python's control flow, and another value of it compiles again. Arguments named in ``batch`` have the symbolic batch size
as their first axis, and another batch size compiles nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import convert, to_numpy
from chainrule.core.errors import ConfigError
from chainrule.core.tree_code import MISS
from chainrule.engines.api import Engine, Preparation, Program
from chainrule.engines.profile import Profile, Profiling
from chainrule.engines.repetition import Repetition
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.verify import verify
from chainrule.passes import identity, optimise, rematerialise
from chainrule.trace.context import current
from chainrule.trace.seeds import default_key
from chainrule.transforms.calls import Call, write_call
from chainrule.transforms.donation import exchange, is_donated, writable
from chainrule.transforms.engines import AUTO, ENGINES, Choice, batch_size, engine_named
from chainrule.transforms.recording import ARRAY, Leaf, Traced, as_supported, describe_leaf, name_of, record
from chainrule.transforms.repeated import Repeated

NDArray = np.ndarray[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")


class _Prepared:
    """A function compiled for one structure of arguments; ``is_known`` once its calls were written as a function."""

    __slots__ = ("calls", "choice", "is_known", "traced")

    def __init__(self, choice: Choice, traced: Traced) -> None:
        self.choice, self.traced = choice, traced
        self.calls, self.is_known = 0, False

    @property
    def program(self) -> Program:
        return self.choice.program

    @property
    def engine(self) -> Engine:
        return self.choice.engine


# Calls of so many structures are tried one after the other before the arguments are looked up in general.
_CALLS_KEPT = 4


class Compiled(Generic[P, R]):
    """A compiled function. Call it like the function; ``graph``, ``lowering`` and ``c_source`` show what it became.

    Raises :class:`ConfigError` when an array that was donated to an earlier call is passed again.
    """

    def __init__(
        self,
        function: Callable[P, R],
        donate: Iterable[str],
        engine: str,
        batch: Iterable[str],
        memory_limit: float | None = None,
    ) -> None:
        if not callable(function):
            raise ConfigError(f"a function is compiled or traced, not {function!r}")
        self.function = function
        self._memory_limit = None if memory_limit is None else _bytes(memory_limit)
        self._engine: Engine = engine_named(engine)
        self._asked = engine
        self.is_open = engine == AUTO
        self._why = "many calls were made" if self.is_open else "as asked for"
        self._signature = inspect.signature(function)
        self._donate = _parameters(self._signature, donate, "donate")
        self._batch = _parameters(self._signature, batch, "batch")
        self._programs: dict[Hashable, _Prepared] = {}
        self._calls: list[tuple[Call, _Prepared]] = []
        self._repeats: list[tuple[Call, Repeated[_Prepared]]] = []
        self._last: _Prepared | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if current() is not None:
            return self.function(*args, **kwargs)
        for call, prepared in self._calls:
            result = call(args, kwargs)
            if result is not MISS:
                self._last = prepared
                return result  # type: ignore[no-any-return]
        return self._call(args, kwargs)

    def _call(self, args: Any, kwargs: Any) -> R:
        """Call in general, whatever the arguments are."""
        found, leaves, arrays, donated = self._prepared(self._bind(args, kwargs))
        self._last = found
        if found.traced.uses_key:
            arrays.append(default_key())
        self._count(found, arrays)
        operands = writable(arrays, donated)
        results = found.program(operands)
        written = {n: k for n, array in enumerate(results) for k in donated if array is operands[k]}
        found.calls += 1
        if found.calls > 1 and not found.is_known and not found.traced.uses_key and found.choice.estimate is None:
            self._write(found, (args, kwargs), leaves, donated, written)
        return self._results(found.traced, results, operands, arrays, donated)

    def repeat(self, args: Sequence[Any], *, carry: str, steps: int, batch: int, rows: NDArray | None = None) -> R:
        """Run ``steps`` times in one go: a whole epoch as one native call where the engine has that.

        The argument named ``carry`` is the state, whose new value is the first result. The arguments that ``batch`` named when the
        function was compiled are given with all examples; run n sees their rows ``rows[n * batch : (n + 1) * batch]``, or those
        numbers themselves without ``rows``. Everything else is the same in every run. Returns the last state, and the other results
        stacked along a new first axis, one entry per run; the bits are those of single calls.

        Raises :class:`ConfigError` where the function has no such state, and :class:`ShapeError` for rows that do not exist.
        """
        for call, known in self._repeats:
            if known.carry == carry:
                how = Repetition(steps, batch, known.carried, known.gathered, rows)
                result = call(tuple(args), {}, known.attempt(how))
                if result is not MISS:
                    self._last = known.prepared
                    return result  # type: ignore[no-any-return]
        return self._repeat(args, carry, steps, batch, rows)

    def _repeat(self, args: Sequence[Any], carry: str, steps: int, batch: int, rows: NDArray | None) -> R:
        """Repeat in general, whatever the arguments are."""
        bound = self._bind(args, {})
        if carry not in bound:
            raise ConfigError(f"{name_of(self.function)} has no argument {carry!r} to carry from run to run")
        copied = any(_must_be_copied(leaf) for name in self._batch for leaf in trees.leaves(bound[name]))
        if copied:
            # What the program cannot read where it lies is gathered for these steps only.
            chosen = slice(0, steps * batch) if rows is None else rows
            for name in self._batch:
                bound[name] = trees.tree_map(lambda leaf: np.ascontiguousarray(leaf[chosen]), bound[name])
            rows = None
        found, leaves, arrays, donated = self._prepared(bound, batch)
        self._last, traced = found, found.traced
        if traced.uses_key:
            raise ConfigError(
                f"{name_of(self.function)} draws random numbers without a key; every run would draw the same, so pass a key"
            )
        known = self._repeated(found, bound, carry, donated)
        how = Repetition(steps, batch, known.carried, known.gathered, rows)
        self._count(found, arrays, batch, steps)
        operands = writable(arrays, frozenset(known.carried.values()))
        results = found.program.repeat(operands, how)
        is_in_place = all(results[n] is operands[k] for n, k in known.carried.items())
        is_new = not any(other.prepared is found and other.carry == carry for _, other in self._repeats)
        if (
            is_new
            and is_in_place
            and found.choice.estimate is None
            and len(donated) == len(known.carried)
            and not copied
        ):
            written = self._written((args, {}), leaves, donated, dict(known.carried), traced, None)
            if written is not None:
                self._repeats = [(written, known), *self._repeats[: _CALLS_KEPT - 1]]
        return self._results(traced, results, operands, arrays, donated)

    def _repeated(
        self, found: _Prepared, bound: dict[str, Any], carry: str, donated: frozenset[int]
    ) -> Repeated[_Prepared]:
        """Which of the arrays passed are the state, and which are gathered."""
        inside = [name for name, argument in bound.items() for leaf in trees.leaves(argument) if _is_traced(leaf)]
        state = [number for number, name in enumerate(inside) if name == carry]
        if not donated <= set(state):
            raise ConfigError(f"only {carry!r} can be donated where it is what one run hands on to the next")
        _check_state(found.traced, bound[carry], carry)
        gathered = frozenset(number for number, name in enumerate(inside) if name in self._batch)
        return Repeated(found, carry, dict(enumerate(state)), gathered)

    def _results(
        self,
        traced: Traced,
        results: list[NDArray],
        operands: Sequence[NDArray],
        arrays: Sequence[NDArray],
        donated: frozenset[int],
    ) -> R:
        """The results as the function's, once the donated arrays are refused from now on."""
        exchange(results, operands, [arrays[number] for number in donated])
        remaining = iter(results)
        outputs = [next(remaining) if leaf is ARRAY else leaf for leaf in traced.statics]
        return trees.unflatten(traced.result, outputs)  # type: ignore[no-any-return]

    def _prepared(
        self, bound: dict[str, Any], batch: int | None = None
    ) -> tuple[_Prepared, list[Leaf], list[NDArray], frozenset[int]]:
        """What there is for these arguments, compiled if it is not yet; their leaves and arrays, and which of these are donated.

        ``batch`` is the batch size where the arguments have more rows than that.
        """
        leaves, arrays, key = self._describe(bound)
        donated = self._donated_places(bound, leaves)
        found = self._programs.get(key)
        if found is None:
            traced = record(self.function, bound, leaves, name_of(self.function))
            steps = preparation(self._memory_limit, batch or batch_size(traced.graph, arrays))
            found = self._programs[key] = _Prepared(Choice(self._engine, traced.graph, donated, steps), traced)
            if self.is_open:
                found.choice.open()
        return found, leaves, arrays, donated

    def _write(
        self, found: _Prepared, given: Any, leaves: Sequence[Leaf], donated: frozenset[int], written: dict[int, int]
    ) -> None:
        """Write a function for more calls like this one."""
        found.is_known = True
        call = self._written(given, leaves, donated, written, found.traced, found.program)
        if call is not None:
            self._calls = [(call, found), *self._calls[: _CALLS_KEPT - 1]]

    def _written(
        self,
        given: Any,
        leaves: Sequence[Leaf],
        donated: frozenset[int],
        written: dict[int, int],
        traced: Traced,
        program: Program | None,
    ) -> Call | None:
        passed = [None if leaf.type is None else to_numpy(leaf.type.dtype) for leaf in leaves]
        return write_call(
            program, self._signature, given, passed, donated, written, traced.result, traced.statics, ARRAY
        )

    def _count(self, found: _Prepared, arrays: Sequence[NDArray], batch: int | None = None, calls: int = 1) -> None:
        if found.choice.estimate is not None:
            found.choice.count(batch_size(found.traced.graph, arrays) if batch is None else batch, calls)

    def choose(self, args: Sequence[Any], calls: int) -> str:
        """Decide now which engine runs this function, of which so many calls with arguments like these are expected; returns why.

        Nothing is run. Without ``engine="auto"``, or where it was decided before, it stays as it is.
        """
        if self.is_open:
            found, _, arrays, _ = self._prepared(self._bind(args, {}))
            open_for = found.choice.estimate
            if open_for is not None:
                pays = open_for.pays(batch_size(found.traced.graph, arrays), calls)
                found.choice.settle(compiled=pays)
                if pays and found.engine is not ENGINES["cpu"]:
                    self._why = "the cpu engine cannot be used on this machine"
                else:
                    self._why = f"compiling {'pays' if pays else 'would not pay'} for {calls} steps"
            self.use(found.engine.name)
        return self._why

    def use(self, engine: str) -> None:
        """Run this function on the engine of that name from now on, whatever was chosen before.

        Raises :class:`ConfigError` where there is no such engine, or it cannot be used on this machine.
        """
        self._engine, self.is_open = engine_named(engine), False
        self._programs = {key: found for key, found in self._programs.items() if found.engine is self._engine}
        self._calls = [entry for entry in self._calls if entry[1].engine is self._engine]
        self._repeats = [entry for entry in self._repeats if entry[1].prepared.engine is self._engine]
        for found in self._programs.values():
            found.choice.estimate = None

    @property
    def engine(self) -> Engine:
        """What runs the latest call, or the first."""
        return self._engine if self._last is None else self._last.engine

    @property
    def graph(self) -> Graph:
        """The optimised graph of the latest call."""
        return self._program("graph").graph

    @property
    def lowering(self) -> list[tuple[str, str]]:
        """How the latest call's graph became C: the name of each step, and what it made, as text.

        Raises :class:`ConfigError` where the engine runs the graph as it is.
        """
        program = self._program("lowering")
        if not program.steps:
            raise ConfigError(self._without("no lowering to show"))
        return list(program.steps)

    @property
    def c_source(self) -> str:
        """The C of the latest call, named after the layers and commented with their formulas.

        Raises :class:`ConfigError` where the engine runs the graph as it is.
        """
        source = self._program("C source").c_source
        if source is None:
            raise ConfigError(self._without("no C source"))
        return source

    def _program(self, wanted: str) -> Program:
        if self._last is None:
            raise ConfigError(f"{name_of(self.function)} has not been called yet, so there is no {wanted} to show")
        return self._last.program

    def _without(self, lacking: str) -> str:
        runs = f"the {self.engine.name} engine"
        chosen = f'engine="auto" chose {runs}' if self._asked == AUTO else runs
        return f'{chosen}, which runs the graph as it is, so there is {lacking}; choose engine="cpu" for C'

    @property
    def backward_graph(self) -> Graph:
        """The part of the latest graph that backpropagation wrote, with the forward values that it uses as inputs."""
        return part(self.graph, "backward")

    def graph_and_arrays(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Graph, list[NDArray]]:
        """The optimised graph for these arguments and the arrays it would be run on, for looking inside a call."""
        bound = self._bind(args, kwargs)
        leaves, arrays, _ = self._describe(bound)
        traced = record(self.function, bound, leaves, name_of(self.function))
        return optimise(traced.graph), [*arrays, *([default_key()] if traced.uses_key else [])]

    def profile(self, *args: Any, repeats: int = 20, **kwargs: Any) -> Profile:
        """Where the time of a call with these arguments goes, loop nest by loop nest; ``print`` shows a table.

        The program is built again with clocks in it and run ``repeats`` times on copies: no argument is used up.

        Raises:
            ConfigError: if the engine does not compile loop nests; profiles need ``engine="cpu"``.
        """
        if repeats < 1:
            raise ConfigError(f"repeats is a number of at least 1, not {repeats}")
        found, _, arrays, _ = self._prepared(self._bind(args, kwargs))
        if not isinstance(found.program, Profiling):
            raise ConfigError(f'profiles need engine="cpu"; {name_of(self.function)} runs on {self.engine.name!r}')
        return found.program.profile([*arrays, *([default_key()] if found.traced.uses_key else [])], repeats)

    def _bind(self, args: Any, kwargs: Any) -> dict[str, Any]:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name_of(self.function)}: {error}") from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def _describe(self, bound: dict[str, Any]) -> tuple[list[Leaf], list[NDArray], Hashable]:
        """How each leaf enters, the arrays to pass, and the key of the program in the cache."""
        described: list[Leaf] = []
        arrays: list[NDArray] = []
        structure = []
        for name, argument in bound.items():
            leaves, definition = trees.flatten(argument)
            structure.append((name, definition))
            for leaf in leaves:
                described.append(describe_leaf(leaf, name in self._batch, name))
                if described[-1].type is not None:
                    array = np.asarray(leaf)
                    if is_donated(array):
                        raise ConfigError(
                            f"an array in argument {name!r} was donated to an earlier call and no longer holds its "
                            "numbers; use what that call returned instead"
                        )
                    arrays.append(convert(array, described[-1].type.dtype))
        key = (tuple(structure), tuple(described))
        return described, arrays, key

    def _donated_places(self, bound: dict[str, Any], leaves: Sequence[Leaf]) -> frozenset[int]:
        """The numbers, among the arrays passed to the program, of those that are donated."""
        if not self._donate:
            return frozenset()
        owners = [name for name, argument in bound.items() for _ in trees.leaves(argument)]
        passed = [(name, leaf) for name, leaf in zip(owners, leaves, strict=True) if leaf.type is not None]
        return frozenset(k for k, (name, leaf) in enumerate(passed) if name in self._donate and not leaf.weak)


def _bytes(memory_limit: float) -> int:
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int | float) or not 0 < memory_limit < 2**63:
        raise ConfigError(f"memory_limit is a number of bytes, such as 500e6, not {memory_limit!r}")
    return int(memory_limit)


def _parameters(signature: inspect.Signature, names: Iterable[str], what: str) -> frozenset[str]:
    wanted = frozenset([names] if isinstance(names, str) else names)
    for name in wanted:
        if name not in signature.parameters:
            raise ConfigError(
                f"{what} names {name!r}, but the function has parameters {', '.join(signature.parameters)}"
            )
    return wanted


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, float | np.ndarray | np.generic)


def _must_be_copied(leaf: Any) -> bool:
    """Whether a program cannot read an array where it lies."""
    if not isinstance(leaf, np.ndarray):
        return False
    return not (leaf.flags.c_contiguous and leaf.flags.aligned) or as_supported(leaf.dtype) != leaf.dtype


def _check_state(traced: Traced, state: Any, name: str) -> None:
    """The first result must be a state of the same form, array by array."""
    leaves, definition = trees.flatten(state)
    result = traced.result
    first = result.children[0] if result.kind is tuple and result.children else None
    kinds = [ARRAY if _is_traced(leaf) else leaf for leaf in leaves]
    if first != definition or list(traced.statics[: len(leaves)]) != kinds:
        raise ConfigError(
            f"to run many times, a function must return a tuple whose first part has the form of {name!r}"
        )


def compile(
    function: Callable[P, R],
    *,
    donate: Iterable[str] = (),
    engine: str = "auto",
    batch: Iterable[str] = (),
    memory_limit: float | None = None,
) -> Compiled[P, R]:
    """One program for the whole function.

    ``donate`` names arguments whose arrays the program may overwrite (they must not be used again); ``engine`` is ``"auto"`` or
    the name of an engine; ``batch`` names arguments whose first axis is the batch, of any size.

    With ``memory_limit`` in bytes, forward values that backpropagation needs are computed again instead of kept, the cheapest
    first, until the working memory beyond arguments and results fits, at the batch size of the first call. Raises
    :class:`ConfigError` where it cannot.
    """
    return Compiled(function, donate, engine, batch, memory_limit)


def preparation(memory_limit: int | None, batch: int) -> Preparation:
    """What is done to a recorded graph before an engine has it, at most once: the passes, and recomputation where memory is limited."""

    @cache
    def run(graph: Graph) -> Graph:
        optimised = optimise(graph)
        return optimised if memory_limit is None else verify(rematerialise(optimised, memory_limit, batch))

    return Preparation(f"{identity()} {'' if memory_limit is None else (memory_limit, batch)}", run)


def trace(function: Callable[..., Any], *args: Any, batch: Iterable[str] = (), **kwargs: Any) -> Graph:
    """The graph of a function for arguments like these, before any pass."""
    compiled: Compiled[..., Any] = Compiled(function, (), "reference", batch)
    bound = compiled._bind(args, kwargs)
    leaves, _, _ = compiled._describe(bound)
    return record(function, bound, leaves, name_of(function)).graph


def part(graph: Graph, phase: str) -> Graph:
    """The nodes of one phase as a graph: what they read from elsewhere becomes inputs, what leaves them outputs."""
    nodes: list[Node] = [node for node in graph.nodes if node.origin.phase == phase]
    made = {value for node in nodes for value in node.outputs}
    inputs: dict[Value, None] = {}
    for node in nodes:
        for value in node.inputs:
            if value not in made:
                inputs[value] = None
    read_elsewhere = {v for node in graph.nodes if node.origin.phase != phase for v in node.inputs} | set(graph.outputs)
    outputs = [value for node in nodes for value in node.outputs if value in read_elsewhere]
    return verify(Graph(f"{graph.name}.{phase}", tuple(inputs), tuple(nodes), tuple(outputs)))
