"""``compile``: a Python function becomes one program per structure and type of its arguments.

Arguments are trees. Arrays and Python floats are traced; everything else (ints, bools, strings, functions) is static, so that it
can steer Python's control flow, and another value of it compiles again. Arguments named in ``batch`` have the symbolic batch size
as their first axis, and another batch size compiles nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from chainrule.core import trees
from chainrule.core.dtypes import dtype_name, to_numpy
from chainrule.core.errors import ConfigError, ShapeError, TraceError
from chainrule.core.tree_code import MISS
from chainrule.engines.api import Engine, Program
from chainrule.engines.profile import Profile, Profiling
from chainrule.engines.repetition import Repetition
from chainrule.ir.graph import ArrayType, Graph, Node, Value
from chainrule.ir.sizes import BATCH, Shape
from chainrule.ir.verify import verify
from chainrule.passes import optimise, rematerialise
from chainrule.trace.array import Array, as_array
from chainrule.trace.context import Trace, current, entered
from chainrule.trace.seeds import default_key
from chainrule.transforms.calls import Call, write_call
from chainrule.transforms.donation import exchange, is_donated, writable
from chainrule.transforms.engines import engine_named

NDArray = np.ndarray[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """How one leaf of the arguments enters the program: traced with a type, or static with a value."""

    type: ArrayType | None
    weak: bool = False
    static: Hashable = None


@dataclass(frozen=True, slots=True)
class Traced:
    """A function recorded for one structure of arguments: the graph, and how to rebuild its result."""

    graph: Graph
    result: trees.TreeDef
    statics: tuple[Any, ...]
    uses_key: bool


@dataclass(slots=True)
class _Prepared:
    """A function compiled for one structure of arguments; ``is_known`` once its calls were written as a function.

    ``repeated`` has, for each argument that was carried from run to run, the numbers of its arrays and of those that are gathered.
    """

    program: Program
    traced: Traced
    calls: int = 0
    is_known: bool = False
    repeated: dict[str, tuple[list[int], frozenset[int]]] = field(default_factory=dict)


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
        self.function = function
        self._memory_limit = None if memory_limit is None else _bytes(memory_limit)
        self.engine: Engine = engine_named(engine)
        self._asked = engine
        self._signature = inspect.signature(function)
        self._donate = _parameters(self._signature, donate, "donate")
        self._batch = _parameters(self._signature, batch, "batch")
        self._programs: dict[Hashable, _Prepared] = {}
        self._calls: list[tuple[Call, _Prepared]] = []
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
        operands = writable(arrays, donated)
        results = found.program(operands)
        written = {n: k for n, array in enumerate(results) for k in donated if array is operands[k]}
        found.calls += 1
        if found.calls > 1 and not found.is_known and not found.traced.uses_key:
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
        bound = self._bind(args, {})
        if carry not in bound:
            raise ConfigError(f"{_name_of(self.function)} has no argument {carry!r} to carry from run to run")
        if any(_must_be_copied(leaf) for name in self._batch for leaf in trees.leaves(bound[name])):
            # What the program cannot read where it lies is gathered for these steps only.
            chosen = slice(0, steps * batch) if rows is None else rows
            for name in self._batch:
                bound[name] = trees.tree_map(lambda leaf: np.ascontiguousarray(leaf[chosen]), bound[name])
            rows = None
        found, _, arrays, donated = self._prepared(bound, batch)
        self._last, traced = found, found.traced
        if traced.uses_key:
            raise ConfigError(
                f"{_name_of(self.function)} draws random numbers without a key; every run would draw the same, so pass a key"
            )
        if carry not in found.repeated:
            found.repeated[carry] = self._carried(traced, bound, carry, donated)
        state, gathered = found.repeated[carry]
        how = Repetition(steps, batch, dict(enumerate(state)), gathered, rows)
        operands = writable(arrays, frozenset(state))
        return self._results(traced, found.program.repeat(operands, how), operands, arrays, donated)

    def _carried(
        self, traced: Traced, bound: dict[str, Any], carry: str, donated: frozenset[int]
    ) -> tuple[list[int], frozenset[int]]:
        """Which of the arrays passed are the state, and which are gathered."""
        inside = [name for name, argument in bound.items() for leaf in trees.leaves(argument) if _is_traced(leaf)]
        state = [number for number, name in enumerate(inside) if name == carry]
        if not donated <= set(state):
            raise ConfigError(f"only {carry!r} can be donated where it is what one run hands on to the next")
        _check_state(traced, bound[carry], carry)
        return state, frozenset(number for number, name in enumerate(inside) if name in self._batch)

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
        outputs = [next(remaining) if leaf is _ARRAY else leaf for leaf in traced.statics]
        return trees.unflatten(traced.result, outputs)  # type: ignore[no-any-return]

    def _prepared(
        self, bound: dict[str, Any], batch: int | None = None
    ) -> tuple[_Prepared, list[_Leaf], list[NDArray], frozenset[int]]:
        """What there is for these arguments, compiled if it is not yet; their leaves and arrays, and which of these are donated.

        ``batch`` is the batch size where the arguments have more rows than that.
        """
        leaves, arrays, key = self._describe(bound)
        donated = self._donated_places(bound, leaves)
        found = self._programs.get(key)
        if found is None:
            traced = _trace(self.function, bound, leaves, _name_of(self.function))
            graph = optimise(traced.graph)
            if self._memory_limit is not None:
                graph = verify(rematerialise(graph, self._memory_limit, batch or self._batch_size(bound)))
            found = self._programs[key] = _Prepared(self.engine.load(graph, donated), traced)
        return found, leaves, arrays, donated

    def _batch_size(self, bound: dict[str, Any]) -> int:
        """The batch size of a call; 1 where nothing is batched."""
        leaves = (leaf for name in self._batch for leaf in trees.leaves(bound[name]))
        return next((int(leaf.shape[0]) for leaf in leaves if _is_traced(leaf)), 1)

    def _write(
        self, found: _Prepared, given: Any, leaves: Sequence[_Leaf], donated: frozenset[int], written: dict[int, int]
    ) -> None:
        """Write a function for more calls like this one."""
        found.is_known = True
        passed = [None if leaf.type is None else to_numpy(leaf.type.dtype) for leaf in leaves]
        traced = found.traced
        call = write_call(
            found.program, self._signature, given, passed, donated, written, traced.result, traced.statics, _ARRAY
        )
        if call is not None:
            self._calls = [(call, found), *self._calls[: _CALLS_KEPT - 1]]

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
            raise ConfigError(f"{_name_of(self.function)} has not been called yet, so there is no {wanted} to show")
        return self._last.program

    def _without(self, lacking: str) -> str:
        runs = f"the {self.engine.name} engine"
        chosen = f'engine="auto" chose {runs}' if self._asked == "auto" else runs
        return f'{chosen}, which runs the graph as it is, so there is {lacking}; choose engine="cpu" for C'

    @property
    def backward_graph(self) -> Graph:
        """The part of the latest graph that backpropagation wrote, with the forward values that it uses as inputs."""
        return part(self.graph, "backward")

    def graph_and_arrays(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Graph, list[NDArray]]:
        """The optimised graph for these arguments and the arrays it would be run on, for looking inside a call."""
        bound = self._bind(args, kwargs)
        leaves, arrays, _ = self._describe(bound)
        traced = _trace(self.function, bound, leaves, _name_of(self.function))
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
            raise ConfigError(f'profiles need engine="cpu"; {_name_of(self.function)} runs on {self.engine.name!r}')
        return found.program.profile([*arrays, *([default_key()] if found.traced.uses_key else [])], repeats)

    def _bind(self, args: Any, kwargs: Any) -> dict[str, Any]:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{_name_of(self.function)}: {error}") from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def _describe(self, bound: dict[str, Any]) -> tuple[list[_Leaf], list[NDArray], Hashable]:
        """How each leaf enters, the arrays to pass, and the key of the program in the cache."""
        described: list[_Leaf] = []
        arrays: list[NDArray] = []
        structure = []
        for name, argument in bound.items():
            leaves, definition = trees.flatten(argument)
            structure.append((name, definition))
            for leaf in leaves:
                described.append(_describe_leaf(leaf, name in self._batch, name))
                if described[-1].type is not None:
                    array = np.asarray(leaf)
                    if is_donated(array):
                        raise ConfigError(
                            f"an array in argument {name!r} was donated to an earlier call and no longer holds its "
                            "numbers; use what that call returned instead"
                        )
                    arrays.append(array.astype(to_numpy(described[-1].type.dtype), copy=False))
        key = (tuple(structure), tuple(described))
        return described, arrays, key

    def _donated_places(self, bound: dict[str, Any], leaves: Sequence[_Leaf]) -> frozenset[int]:
        """The numbers, among the arrays passed to the program, of those that are donated."""
        if not self._donate:
            return frozenset()
        owners = [name for name, argument in bound.items() for _ in trees.leaves(argument)]
        passed = [(name, leaf) for name, leaf in zip(owners, leaves, strict=True) if leaf.type is not None]
        return frozenset(k for k, (name, leaf) in enumerate(passed) if name in self._donate and not leaf.weak)


_ARRAY = object()


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


def _describe_leaf(leaf: Any, batched: bool, name: str) -> _Leaf:
    if isinstance(leaf, float):
        return _Leaf(ArrayType((), "float64"), weak=True)
    if isinstance(leaf, np.ndarray | np.generic):
        if batched and not leaf.shape:
            raise ShapeError(f"argument {name!r} has the batch size as its first axis, but a scalar was passed")
        return _array_leaf((BATCH, *leaf.shape[1:]) if batched else leaf.shape, leaf.dtype)
    try:
        hash(leaf)
    except TypeError:
        raise TraceError(
            f"argument {name!r} contains a {type(leaf).__name__}, which is neither an array nor hashable; convert it to a "
            "NumPy array"
        ) from None
    return _Leaf(None, static=(type(leaf), leaf))


@lru_cache(maxsize=4096)
def _array_leaf(shape: Shape, dtype: np.dtype[Any]) -> _Leaf:
    return _Leaf(ArrayType(shape, dtype_name(as_supported(dtype))))


def as_supported(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Narrow integers and floats widen to the nearest type that Chainrule computes with."""
    if dtype.kind == "f" and dtype.itemsize < 4:
        return np.dtype(np.float32)
    if dtype.kind in "iu" and dtype.itemsize < 4:
        return np.dtype(np.int32)
    if dtype.kind == "u" and dtype.itemsize == 8:
        return np.dtype(np.int64)
    return dtype.newbyteorder("=")


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
    kinds = [_ARRAY if _is_traced(leaf) else leaf for leaf in leaves]
    if first != definition or list(traced.statics[: len(leaves)]) != kinds:
        raise ConfigError(
            f"to run many times, a function must return a tuple whose first part has the form of {name!r}"
        )


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _trace(function: Callable[..., Any], bound: dict[str, Any], described: Sequence[_Leaf], name: str) -> Traced:
    """Record the function on symbolic arguments."""
    context = Trace()
    remaining = iter(described)
    arguments = {}
    for argument, tree in bound.items():
        leaves, definition = trees.flatten(tree)
        replaced = []
        for leaf, place in zip(leaves, trees.places(definition), strict=True):
            how = next(remaining)
            if how.type is None:
                replaced.append(leaf)
            else:
                label = f"{argument}.{place.path}" if place.path else argument
                replaced.append(Array(context.input(how.type, label), context, how.weak))
        arguments[argument] = trees.unflatten(definition, replaced)
    with entered(context):
        result = _apply(function, arguments)
        leaves, definition = trees.flatten(result)
        names = [place.path for place in trees.places(definition)]
        statics, outputs, output_names = [], [], []
        for leaf, label in zip(leaves, names, strict=True):
            if isinstance(leaf, Array | np.ndarray | np.generic | float | int) and not isinstance(leaf, bool):
                statics.append(_ARRAY)
                array = as_array(leaf)
                outputs.append(_settled(array).value)
                output_names.append(label)
            else:
                statics.append(leaf)
    if context.key_input is not None:
        context.inputs.append(context.key_input)
    graph = verify(context.close(name, outputs, output_names))
    return Traced(graph, definition, tuple(statics), context.key_input is not None)


def _settled(array: Array) -> Array:
    """A weak result becomes float32: a Python number that nothing gave a width."""
    if array.weak and array.value.dtype == "float64":
        return as_array(array, "float32")
    return as_array(array)


def _apply(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    positional, keyword = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            positional.extend(arguments[name])
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            keyword.update(arguments[name])
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            keyword[name] = arguments[name]
        else:
            positional.append(arguments[name])
    return function(*positional, **keyword)


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


def trace(function: Callable[..., Any], *args: Any, batch: Iterable[str] = (), **kwargs: Any) -> Graph:
    """The graph of a function for arguments like these, before any pass."""
    compiled: Compiled[..., Any] = Compiled(function, (), "reference", batch)
    bound = compiled._bind(args, kwargs)
    leaves, _, _ = compiled._describe(bound)
    return _trace(function, bound, leaves, _name_of(function)).graph


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
