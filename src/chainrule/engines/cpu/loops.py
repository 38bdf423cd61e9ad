"""Boxes of loops: merging them where memory allows, cutting them into fixed chunks for the threads, and writing them as C."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from chainrule.engines.cpu.body import Body, Statement
from chainrule.engines.cpu.bounds import Fact, prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.ir.sizes import Dim, Size, product

# One chunk is at least this many additions, so that handing it to a thread costs little.
GRAIN = 65536
MOST_CHUNKS = 64
_NAME = re.compile(r"[A-Za-z_]\w*")


class Writer:
    """Lines of C with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def line(self, text: str = "") -> None:
        self.lines.append("    " * self.depth + text if text else "")

    @contextmanager
    def block(self, head: str, tail: str = "}") -> Iterator[None]:
        self.line(f"{head} {{" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line(tail)

    @contextmanager
    def loop(self, var: Var, start: str = "0", end: str | None = None, step: int = 1) -> Iterator[None]:
        assert var.extent is not None, "a loop has an end"
        increment = f"{var.name}++" if step == 1 else f"{var.name} += {step}"
        limit = end if end is not None else c_size(var.extent)
        with self.block(f"for (long {var.name} = {start}; {var.name} < {limit}; {increment})"):
            yield

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass(slots=True)
class Store:
    """``pointer[at] = value`` (or ``+=`` where it adds), into a buffer of ``size`` elements, and only where the facts hold."""

    pointer: str
    at: Index
    value: str
    size: Dim
    facts: Sequence[Fact] = ()
    adds: bool = False

    def __post_init__(self) -> None:
        prove(self.pointer, self.at, self.size, self.facts)


@dataclass(slots=True)
class Box:
    """Loop variables, outermost first, around statements and stores."""

    vars: list[Var]
    statements: list[Statement]
    stores: list[Store]

    def replace(self, known: Mapping[Var, Index]) -> None:
        for number, statement in enumerate(self.statements):
            parts = tuple(part.replace(known) if isinstance(part, Index) else part for part in statement.parts)
            self.statements[number] = Statement(statement.type, statement.name, parts)
        for store in self.stores:
            store.at = store.at.replace(known)

    def indices(self) -> list[Index]:
        found = [part for statement in self.statements for part in statement.parts if isinstance(part, Index)]
        return [*found, *(store.at for store in self.stores)]

    def merge(self, apart: frozenset[Var] = frozenset()) -> None:
        """Make one loop of two neighbours wherever every index moves through both as through one.

        Loops over variables in ``apart`` never merge with others; they do among themselves.
        """
        vars = list(self.vars)
        number = len(vars) - 1
        while number > 0:
            outer, inner = vars[number - 1], vars[number]
            assert inner.extent is not None, "a loop has an end"
            assert outer.extent is not None, "a loop has an end"
            steps = [(i.coefficient(outer), i.coefficient(inner) * inner.extent) for i in self.indices()]
            if (outer in apart) == (inner in apart) and all(a == b for a, b in steps):
                merged = Var(inner.name, outer.extent * inner.extent)
                self.replace({outer: Index(), inner: variable(merged)})
                apart = apart | {merged} if inner in apart else apart
                vars[number - 1 : number + 1] = [merged]
            number -= 1
        self.vars = vars

    def split(self, var: Var) -> tuple[Box, Box]:
        """What is the same for all values of the innermost variable, and what is not."""
        changing = {var.name}
        first, rest = Box([], [], []), Box(self.vars, [], self.stores)
        for statement in self.statements:
            names: set[str] = set()
            for part in statement.parts:
                names.update((v.name for v, _ in part.terms) if isinstance(part, Index) else _NAME.findall(part))
            if names & changing:
                changing.add(statement.name)
                rest.statements.append(statement)
            else:
                first.statements.append(statement)
        return first, rest

    def loads(self) -> Iterator[tuple[str, str, Index]]:
        """The types, pointers and places of all elements that the statements read, whatever guards them."""
        for statement in self.statements:
            for pointer, bracket, at in zip(statement.parts, statement.parts[1:], statement.parts[2:]):
                if bracket == "[" and isinstance(pointer, str) and isinstance(at, Index):
                    yield statement.type, pointer, at

    def write(self, writer: Writer, known: Mapping[Var, Index] | None = None) -> None:
        """The statements, without loops and stores."""
        for statement in self.statements:
            parts = (
                str(part.replace(known) if known else part) if isinstance(part, Index) else part
                for part in statement.parts
            )
            type = statement.type if statement.type.startswith("const") else f"const {statement.type}"
            writer.line(f"{type} {statement.name} = {''.join(parts)};")

    def write_stores(self, writer: Writer, known: Mapping[Var, Index] | None = None) -> None:
        for store in self.stores:
            at = store.at.replace(known) if known else store.at
            writer.line(f"{store.pointer}[{at}] {'+=' if store.adds else '='} {store.value};")


def box_of(vars: Sequence[Var], body: Body, stores: Sequence[Store], outer: Sequence[Var] = ()) -> Box:
    """The statements and stores in loops over ``vars``, inside those over ``outer``."""
    box = Box(list(vars), list(body.statements), list(stores))
    known = {*vars, *outer}
    names = {statement.name for statement in box.statements}
    for index in box.indices():
        for var, _ in index.terms:
            assert var in known or var.name in names, f"{var.name} is not an index of these loops up to {var.extent}"
    return box


def work_of(vars: Sequence[Var], cost: int) -> Dim:
    return product(var.extent for var in vars if var.extent is not None) * max(1, cost)


def chunks_text(work: Dim, limit: Dim) -> str:
    """The number of chunks as C: it depends on sizes only, never on the number of threads."""
    if not isinstance(work, Size) and not isinstance(limit, Size):
        return str(max(1, min(work // GRAIN, limit, MOST_CHUNKS)))
    return f"cr_chunks({c_size(work)}, {GRAIN}, {c_size(limit)})"
