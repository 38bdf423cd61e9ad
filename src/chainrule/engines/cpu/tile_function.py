"""A tile as a C function of three pointers: sums in registers, the loops of the sum, and where the sums go.

Contractions of the same sizes have the same tiles, however they are used; a function is written, and compiled, once in a program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from chainrule.core.alignment import LINE_BYTES
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loop_ahead import STEPS_A_LINE
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES
from chainrule.engines.cpu.tile_ahead import Ahead
from chainrule.engines.cpu.tile_body import Place, lines_of_step, places_of, sum_name, write_step
from chainrule.engines.cpu.tile_fetches import AHEAD, Followers, RowsAhead, lines_ahead
from chainrule.engines.cpu.tile_parts import MOST_FETCHES, fetches
from chainrule.engines.cpu.tile_plan import Operand, Plan
from chainrule.engines.cpu.vectors import vector_type
from chainrule.ir.sizes import Dim


@dataclass(frozen=True, slots=True)
class Trailing:
    """What follows from the tile before, row by row: ``lines`` of C about row number ``near`` of its sums, ``before``, unless null.

    ``parameters`` are those of the function that the lines are in terms of besides; one of them points to the ``literals``.
    """

    parameters: tuple[str, ...]
    lines: tuple[str, ...]
    literals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TileFunction:
    """Writes the function for tiles of these counts (of their rows and their vectors).

    ``adds`` to what is there unless the argument ``fresh`` is true; puts the sums side by side if ``gathered``, otherwise at the
    places of the output. ``split`` is the index of the sum that has bounds of its own; lines as many steps of it ahead as the
    arguments ``x_ahead`` and ``y_ahead`` say are fetched. Rows of the ``followers`` are fetched along with the steps of the sum.
    ``ahead`` is what is fetched of the next item; as many tiles of this one as the argument ``done`` says have fetched theirs. So are
    ``rows_ahead``; the argument ``turn`` says which share of them.
    A tile ``in_loop`` fetches lines of what the argument ``after`` says. What is ``trailing`` is computed among the steps.
    Where the last vector of the output has lanes beyond its end, the argument ``last`` tells whether the tile has that vector.
    """

    plan: Plan
    counts: Sequence[int]
    adds: bool = False
    gathered: bool = False
    split: Var | None = None
    followers: Followers | None = None
    ahead: Ahead | None = None
    rows_ahead: RowsAhead | None = None
    in_loop: bool = False
    trailing: Trailing | None = None

    def write(self) -> tuple[str, str]:
        """The name of the function, which follows from what it does, and its text."""
        type, vector = C_TYPES[self.plan.dtype], vector_type(self.plan.dtype, self.plan.lanes)
        w = Writer()
        w.depth = 1
        w.line(f"{vector} " + ", ".join(f"{sum_name(place)} = {{0}}" for place in self._places) + ";")
        if self.ahead is not None:
            self.ahead.begin(w)
        self._fetch_streams(w, 0)
        if self._fetches_by_rows:
            start, end = self._bounds(self.plan.summed[0])
            w.line(f"const long between = ({end} - {start}) / {prod(self.counts[:-1])};")
            w.line(f"long near = 0, next = {start};")
        self._sum_loops(w, self.plan.summed)
        if self.trailing is not None:
            # There may be more rows than steps.
            with w.block(f"for (; before && near < {prod(self.counts[:-1])}; near++)"):
                self._write_trailing(w, self.trailing)
        if self.adds and self.plan.column is not None:
            # Not before the sum, which would wait for them.
            with w.block("if (!fresh)"):
                for place in self._places:
                    self._add(w, place)
        for place in self._places:
            self._store(w, place)
        parameters = f"const {type} *restrict x, const {type} *restrict y, {type} *restrict to"
        arguments = ", long first, long end, _Bool fresh, _Bool last, long B"
        if any(fetches(self.plan, self.split, operand) for operand in (self.plan.x, self.plan.y)):
            arguments += ", long x_ahead, long y_ahead"
        if self.followers is not None:
            arguments += "".join(f", const {type} *{name}" for name in self.followers.names) + ", long fetched"
        if self.ahead is not None:
            arguments += ", const char *const *streams, long done"
        if self.rows_ahead is not None:
            arguments += ", long turn"
        if self.in_loop:
            arguments += ", struct ahead *after"
        if self.trailing is not None:
            arguments += "".join(f", {each}" for each in (f"const {type} *restrict before", *self.trailing.parameters))
        text = f"({parameters}{arguments}) {{\n{w.text}}}\n"
        name = f"tile_{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        # What a compiler knew of its arguments, literals among them, it would keep in registers that the sums need.
        alone = "CR_ALONE " if self.trailing is not None else ""
        return name, f"static {alone}void {name}{text}"

    @property
    def _places(self) -> list[Place]:
        return places_of(self.counts)

    @property
    def _fetches_by_rows(self) -> bool:
        return self.followers is not None or self.rows_ahead is not None

    def _fetch_beside(self, w: Writer) -> None:
        """In the outermost loop of the sum: what is fetched besides operands, in a loop a line now and then, else row by row, with as
        many steps between as there are.

        A branch that is hardly ever taken costs less than a loop for every row, of which a processor does not foresee the end.
        """
        var, rows = self.plan.summed[0], prod(self.counts[:-1])
        if self.in_loop:
            w.line(f"if (after && {var.name} % {STEPS_A_LINE} == 0) cr_fetch_ahead(after);")
        if not self._fetches_by_rows:
            return
        with w.block(f"if ({var.name} >= next)"):
            if self.followers is not None:
                with w.block("if (near < fetched)"):
                    self.followers.fetch_row(w, self.plan, self.counts)
            if self.rows_ahead is not None:
                self.rows_ahead.fetch_row(w, self.plan, self.counts)
            if self.trailing is not None:
                with w.block("if (before)"):
                    self._write_trailing(w, self.trailing)
            w.line(f"next = ++near < {rows} ? next + between : {self._bounds(var)[1]};")

    def _write_trailing(self, w: Writer, trailing: Trailing) -> None:
        for text in trailing.lines:
            w.line(text)

    def _bounds(self, var: Var) -> tuple[str, str]:
        assert var.extent is not None, "an index of a sum has an extent"
        return ("first", "end") if var == self.split else ("0", c_size(var.extent))

    def _sum_loops(self, w: Writer, vars: Sequence[Var]) -> None:
        plan, moving = self.plan, set(self.plan.summed)
        x, y = _only(plan.x.at, moving), _only(plan.y.at, moving)
        if plan.tail and len(vars) == 1:
            (var,) = vars
            if var.extent != 0:
                with w.loop(var):
                    self._fetch_streams(w, len(plan.summed))
                    write_step(w, plan, self.counts, x, y)
            end = {var: Index((), var.extent or 0)}
            with w.block(""):
                write_step(w, plan, self.counts, x.replace(end), y.replace(end), plan.tail)
            return
        if not vars:
            with w.block(""):
                write_step(w, plan, self.counts, x, y)
            return
        with w.loop(vars[0], *self._bounds(vars[0])):
            if len(vars) == len(plan.summed):
                self._fetch_beside(w)
            self._fetch_streams(w, len(plan.summed) - len(vars) + 1)
            if len(vars) > 1:
                self._sum_loops(w, vars[1:])
                return
            self._fetch(w, "x", plan.x, x)
            self._fetch(w, "y", plan.y, y)
            write_step(w, plan, self.counts, x, y)

    def _fetch_streams(self, w: Writer, depth: int) -> None:
        if self.ahead is not None and self.ahead.depth == depth:
            self.ahead.fetch(w)

    def _fetch(self, w: Writer, side: str, operand: Operand, at: Index) -> None:
        """The lines that the step some steps ahead reads of an operand."""
        near = lines_ahead(self.plan, self.counts, operand)
        if near and self.split is not None and operand.in_vectors:
            # The last vector may end in one more line, which comes from afar.
            near = [*near, lines_of_step(self.plan, self.counts, operand, 1)[-1] + self.plan.lanes - 1]
        for offset in near:
            ahead = at.replace({self.plan.summed[-1]: variable(self.plan.summed[-1]) + AHEAD})
            w.line(f"CR_FETCH_NEAR({side} + ({ahead + offset}));")
        if self.split is None or not fetches(self.plan, self.split, operand):
            return
        lines = lines_of_step(self.plan, self.counts, operand, LINE_BYTES)
        if len(lines) <= MOST_FETCHES:
            ahead = at.replace({self.split: variable(self.split) + variable(Var(f"{side}_ahead"))})
            for offset in lines:
                w.line(f"CR_FETCH({side} + ({ahead + offset}));")

    def _offset(self, place: Place) -> str:
        plan = self.plan
        if self.gathered:
            return str(self._places.index(place) * (plan.lanes if plan.column is not None else 1))
        total: Dim = 0
        for var, k in zip(
            [*(var for var, _ in plan.rows), *([plan.column] if plan.column else [])], place, strict=True
        ):
            total = total + plan.out.coefficient(var) * k
        return c_size(total)

    def _store(self, w: Writer, place: Place) -> None:
        plan = self.plan
        if plan.column is not None:
            self._move(w, place, sum_name(place), stores=True)
            return
        target = f"to[{self._offset(place)}]"
        before = f"(fresh ? 0 : {target}) + " if self.adds else ""
        w.line(f"{target} = {before}cr_sum_{plan.dtype}x{plan.lanes}({sum_name(place)});")

    def _add(self, w: Writer, place: Place) -> None:
        """Add what is there to one vector of the tile."""
        vector = vector_type(self.plan.dtype, self.plan.lanes)
        if not self._may_be_part(place):
            w.line(f"{sum_name(place)} += *({vector}_anywhere *)(to + {self._offset(place)});")
            return
        with w.block(""):
            w.line(f"{vector} before = {{0}};")
            self._move(w, place, "before", stores=False)
            w.line(f"{sum_name(place)} += before;")

    def _may_be_part(self, place: Place) -> bool:
        """Whether a vector may have lanes beyond the end of the output."""
        return self.plan.width % self.plan.lanes != 0 and place[-1] == self.counts[-1] - 1 and not self.gathered

    def _move(self, w: Writer, place: Place, name: str, stores: bool) -> None:
        """Store or load one vector of the tile, or the part of it that there is."""
        plan = self.plan
        address = f"to + {self._offset(place)}"
        whole = f"*({vector_type(plan.dtype, plan.lanes)}_anywhere *)({address})"
        text = f"{whole} = {name};" if stores else f"{name} = {whole};"
        if self._may_be_part(place):
            bytes = plan.width % plan.lanes * BYTES[plan.dtype]
            part = f"memcpy({address}, &{name}, {bytes});" if stores else f"memcpy(&{name}, {address}, {bytes});"
            text = f"if (last) {part} else {text}" if plan.panels > 1 else part
        w.line(text)


def _only(index: Index, vars: set[Var]) -> Index:
    return Index(tuple((v, c) for v, c in index.terms if v in vars))
