"""The loops over tiles, and what follows from a finished one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod

from chainrule.core.alignment import LINE_BYTES
from chainrule.engines.cpu.body import Body, Position
from chainrule.engines.cpu.bounds import prove
from chainrule.engines.cpu.indexing import Index, Var, c_size, variable
from chainrule.engines.cpu.loops import Box, Store, Writer
from chainrule.engines.cpu.scalars import BYTES, C_TYPES, STORED
from chainrule.engines.cpu.sides import LANE, Side
from chainrule.engines.cpu.tile_ahead import Ahead
from chainrule.engines.cpu.tile_fetches import Followers, RowsAhead, followers_of, following
from chainrule.engines.cpu.tile_function import TileFunction, Trailing
from chainrule.engines.cpu.tile_parts import fetches
from chainrule.engines.cpu.tile_plan import Plan
from chainrule.engines.cpu.tile_sums import TileSums
from chainrule.engines.cpu.tile_units import Units, tiles_of
from chainrule.ir.graph import Node, Value
from chainrule.ir.sizes import Size, divide, product

# Types of C that elements have in memory as well.
_SIMPLE = {type for dtype, type in C_TYPES.items() if STORED[dtype] == type}
_LITERAL = r"(?<![\w.])(?:0x[01]\.[0-9a-f]+p[+-]?\d+|\d+\.\d+)"
_LITERALS = {"float32": re.compile(_LITERAL + r"f\b"), "float64": re.compile(_LITERAL + r"(?![\w.])")}


@dataclass(frozen=True, slots=True)
class Cut:
    """How many of an index a tile has: the sizes that there are, and the C expression of the one at hand."""

    sizes: Sequence[int]
    count: str


class KernelWriter:
    """Writes the loops of one contraction node.

    Tiles are stored in ``target``, if one is given: parts of sums, to which tiles are added unless the C variable ``fresh`` is true.
    Otherwise they are results, and what follows from them is computed as well.
    """

    def __init__(
        self,
        node: Node,
        body: Callable[[], Body],
        name: Callable[[Value], str],
        roots: Sequence[Value],
        keeps_result: bool,
        sides: Sequence[Side] = (),
        in_loop: bool = False,
    ) -> None:
        self.sides, self.in_loop = sides, in_loop
        self.node, self.body, self.name, self.roots, self.keeps_result = node, body, name, roots, keeps_result
        self.type = C_TYPES[node.output.dtype]
        self.target: str | None = None
        # What the tiles of the plan at hand fetch of the next item.
        self.ahead: Ahead | None = None
        # And of the next rows.
        self.rows_ahead: RowsAhead | None = None
        self.functions: dict[str, str] = {}

    def units(self, w: Writer, plan: Plan, units: Units, split: Var | None) -> None:
        """The loop over the units [low, high); ``split`` is the index of the sum that has bounds of its own."""
        with w.block("for (long unit = low; unit < high; unit++)"):
            units.decode(w)
            if self.rows_ahead is not None:
                w.line(f"const long turn = {units.turns[0]};")
            if split is not None:
                _ahead(w, plan, units, split)
            self._columns(w, plan, units, split)

    # Tiles are cut evenly, so there are two sizes of them on every axis.

    def _columns(self, w: Writer, plan: Plan, units: Units, split: Var | None) -> None:
        if plan.column is None:
            self._rows(w, plan, units, [], split)
            return
        self._rows(w, plan, units, [self.columns(w, plan)], split)

    def rows_of_panel(self, w: Writer, plan: Plan, units: Units, column: Cut) -> None:
        """The tiles from number ``block`` to ``last_tile`` of one panel."""
        self._rows(w, plan, units, [column], None)

    def columns(self, w: Writer, plan: Plan) -> Cut:
        """The first vector of a panel, and how many it has."""
        assert plan.column is not None, "only vectors of the output make panels"
        columns, panels = plan.column.extent, plan.panels
        assert isinstance(columns, int), "a number of vectors is constant"
        if columns > 1:
            w.line(f"const long {plan.column.name} = {f'panel * {columns} / {panels}' if panels > 1 else 0};")
        sizes = sorted({columns // panels, -(-columns // panels)})
        return self._cut(w, plan.column.name, sizes, f"(panel + 1) * {columns} / {panels} - {plan.column.name}")

    def _rows(self, w: Writer, plan: Plan, units: Units, cuts: list[Cut], split: Var | None) -> None:
        """The loops over tiles of the indices of rows."""
        if not plan.rows:
            self._tile(w, plan, units, cuts, split)
            return
        (row, most), *others = units.rows
        with w.block(f"for (long tile = block * {units.per_unit}; tile < last_tile; tile++)"):
            if isinstance(row.extent, Size) and divide(row.extent, most) is None:
                w.line(f"const long row_end = cr_least(tile * {most} + {most}, {c_size(row.extent)});")
                w.line(f"long rows_left = {most};")
                with w.block(f"for (long {row.name} = tile * {most}; {row.name} < row_end; {row.name} += rows_left)"):
                    # Halves, quarters and so on of a tile for the last rows.
                    w.line(f"while (rows_left > row_end - {row.name}) rows_left /= 2;")
                    sizes = [most >> k for k in range(most.bit_length())]
                    cut = self._cut(w, row.name, sizes, "rows_left")
                    self._second(w, plan, units, others, {row: cut}, cuts, split)
                return
            if isinstance(row.extent, Size):
                w.line(f"const long {row.name} = tile * {most};")
                cut = Cut([most], str(most))
            else:
                assert row.extent is not None, "an index of rows has an extent"
                cut = self.evenly(w, row, most, "tile")
            self._second(w, plan, units, others, {row: cut}, cuts, split)

    def _second(
        self,
        w: Writer,
        plan: Plan,
        units: Units,
        others: Sequence[tuple[Var, int]],
        known: dict[Var, Cut],
        cuts: list[Cut],
        split: Var | None,
    ) -> None:
        if not others:
            self._tile(w, plan, units, [*known.values(), *cuts], split)
            return
        ((row, most),) = others
        assert isinstance(row.extent, int), "only the first index of rows may be symbolic"
        with w.block(f"for (long tile_1 = 0; tile_1 < {-(-row.extent // most)}; tile_1++)"):
            known = {**known, row: self.evenly(w, row, most, "tile_1")}
            self._tile(w, plan, units, [*(known[var] for var, _ in plan.rows), *cuts], split)

    def evenly(self, w: Writer, var: Var, most: int, tile: str) -> Cut:
        extent = var.extent
        assert isinstance(extent, int), "cut evenly at compile time"
        tiles = -(-extent // most)
        w.line(f"const long {var.name} = {tile} * {extent} / {tiles};")
        sizes = sorted({extent // tiles, -(-extent // tiles)})
        return self._cut(w, var.name, sizes, f"({tile} + 1) * {extent} / {tiles} - {var.name}")

    def _cut(self, w: Writer, name: str, sizes: Sequence[int], count: str) -> Cut:
        if len(sizes) == 1:
            return Cut(sizes, str(sizes[0]))
        w.line(f"const long count_{name} = {count};")
        return Cut(sizes, f"count_{name}")

    # One tile.

    def _tile(self, w: Writer, plan: Plan, units: Units, cuts: Sequence[Cut], split: Var | None) -> None:
        """Call the function for the size of the tile, and compute what follows from it."""
        _prove_tile(plan)
        size = product(self.node.output.shape)
        whole = plan.out.replace({plan.column: Index()}) if plan.column is not None else plan.out
        prove("result", whole + variable(Var("place", plan.width)), size)
        follows = self.target is None and bool(self.roots or self.sides)
        adds = self.target is not None
        arguments = _operands(plan)
        followers: Followers | None = None
        fetched: list[str] = []
        if follows:
            followers, fetched = self._fetch_epilogue(w, plan, cuts)
            panel = plan.lanes if plan.column is not None else 1
            w.line(
                f"{self.type} finished[{prod(max(cut.sizes) for cut in cuts) * panel}] __attribute__((aligned(64)));"
            )
            arguments.append("finished")
        else:
            target = f"{self.target if adds else self.name(self.node.output)} + ({plan.out})"
            arguments.append(target)
            if not adds or split is not None:
                followers, fetched = followers_of(plan, {target: True})
        arguments += [f"first_{split.name}", f"last_{split.name}"] if split is not None else ["0", "0"]
        arguments.append("fresh" if adds else "1")
        arguments += [self._has_last(plan, cuts), "B"]
        # In such a loop the rows of a step stay in the first caches, and those of the next one come with all that it touches.
        in_loop = self.in_loop and followers is not None
        if in_loop:
            followers, fetched = None, []
        ahead = [fetches(plan, split, operand) for operand in (plan.x, plan.y)]
        if any(ahead):
            first = f"tile == block * {units.per_unit} ? y_ahead : 0" if units.per_unit > 1 else "y_ahead"
            arguments += ["x_ahead" if ahead[0] else "0", first if ahead[1] else "0"]
        if followers is not None:
            arguments += [*fetched, str(prod(max(cut.sizes) for cut in cuts[:-1]))]
        if self.ahead is not None:
            arguments += ["streams", "done++"]
        if self.rows_ahead is not None:
            others = [(row, tiles_of(row, most)) for row, most in units.rows[1:] if plan.x.at.coefficient(row) == 0]
            arguments.append(f"turn * {others[0][1]} + tile_1" if others else "turn")
        if in_loop:
            arguments.append("frame->ahead")
        function = TileFunction(plan, (), adds, follows, split, followers, self.ahead, self.rows_ahead, in_loop)
        self._call(w, cuts, arguments, function)
        if follows:
            self._epilogue_loops(w, plan, cuts)

    def region_tile(self, w: Writer, plan: Plan, copied: Plan, cuts: Sequence[Cut]) -> None:
        """Add the steps of a block to the tile at ``finished``, and compute what follows if the block ``ends`` the sum."""
        followers: Followers | None = None
        fetched: list[str] = []
        if self.roots:
            before = Writer()
            followers, fetched = self._fetch_epilogue(before, plan, cuts)
            if before.lines:
                with w.block("if (ends)"):
                    for text in before.lines:
                        w.line(text)
        terms = (term for operand in (copied.x, copied.y) for term in operand.at.terms)
        inside = {var for var, _ in terms if var.name not in ("x_tile", "y_panel")}
        arguments = [f"{operand.pointer} + ({_without(operand.at, inside)})" for operand in (copied.x, copied.y)]
        arguments += ["finished", "0", "steps", "fresh", "1", "B"]
        if followers is not None:
            arguments += [*fetched, f"ends ? {cuts[0].count} : 0"]
        self._call(w, cuts, arguments, TileFunction(copied, (), True, True, copied.summed[0], followers))
        with w.block("if (ends)"):
            self._epilogue_loops(w, plan, cuts)

    def trailing_tile(self, w: Writer, plan: Plan, cuts: Sequence[Cut], to: str, before: str) -> None:
        """Put the sums of a tile where ``to`` says, and meanwhile compute what follows from the sums at ``before``, where they are not
        null: those of the panel before, whose columns begin at ``column_before`` (``tile_trailing.py``)."""
        _prove_tile(plan)
        trailing, given = self.trailing(plan, cuts)
        followers, fetched = self._fetch_epilogue(w, plan, cuts)
        assert trailing is not None and followers is not None, "a tile has time for what follows from another"
        arguments = _operands(plan)
        arguments += [
            to,
            "0",
            "0",
            "1",
            self._has_last(plan, cuts),
            "B",
            *fetched,
            str(max(cuts[0].sizes)),
            before,
            *given,
        ]
        self._call(w, cuts, arguments, TileFunction(plan, (), False, True, None, followers, trailing=trailing))

    def trailing(self, plan: Plan, cuts: Sequence[Cut]) -> tuple[Trailing | None, list[str]]:
        """What follows from row ``near`` of the tile before as lines for the function of a tile, and its arguments; None where it
        takes more than a function is given."""
        assert plan.column is not None, "results in vectors lie in columns"
        ((row, _),) = plan.rows
        column, before = Var("column_before", plan.column.extent), Cut(cuts[-1].sizes, cuts[-1].count)
        parameters, given = [f"long {row.name}", f"long {column.name}"], [row.name, column.name]
        if len(before.sizes) > 1:
            before = Cut(before.sizes, "count_before")
            parameters, given = [*parameters, "long count_before"], [*given, "count_before"]
        shifted = replace(plan, column=column, out=plan.out.replace({plan.column: variable(column)}))
        w = Writer()
        w.line(f"const long this_{row.name} = {row.name} + near, r0 = near;")
        w.line(f"const {self.type} *const finished = before;")
        box = self._row_in_vectors(w, shifted, [cuts[0], before])
        types = {store.pointer: self._stored_types[store.pointer] for store in box.stores}
        types |= {pointer: type for type, pointer, _ in box.loads() if pointer not in ("finished", *types)}
        text = "\n".join(w.lines)
        if any(type not in _SIMPLE for type in types.values()) or re.search(r"\b(frame|in_slab|in_step)\b", text):
            return None, []
        names = {pointer: f"p{number}" for number, pointer in enumerate(types)}
        text = re.sub(r"\w+", lambda word: names.get(word.group(), word.group()), text)
        # Compilers would keep literals in registers of the sum.
        literals = list(dict.fromkeys(_LITERALS[plan.dtype].findall(text)))
        text = _LITERALS[plan.dtype].sub(lambda found: f"literals[{literals.index(found.group())}]", text)
        parameters += [f"{type} *restrict {names[pointer]}" for pointer, type in types.items()]
        parameters, given = [*parameters, f"const {self.type} *literals"], [*given, *types, "literals"]
        return Trailing(tuple(parameters), tuple(text.splitlines()), tuple(literals)), given

    def trailing_rows(self, w: Writer, plan: Plan, cuts: Sequence[Cut]) -> None:
        """What follows from the rows of a tile whose sums are at ``finished``."""
        with self._each_row(w, plan, cuts[:1]):
            self._row_in_vectors(w, plan, cuts)

    def _row_in_vectors(self, w: Writer, plan: Plan, cuts: Sequence[Cut]) -> Box:
        """What follows from number ``r0`` of the rows of a finished tile."""
        box, width, first = self._in_vectors(plan, cuts)
        w.line(f"const long width = {width};")
        with ExitStack() as loops:
            limits = "0", "width"
            if plan.width % plan.lanes == 0:
                # Vector by vector, of which nothing stays in registers.
                loops.enter_context(w.block(f"for (long near_l = 0; near_l < width; near_l += {plan.lanes})"))
                w.line("CR_READ_AGAIN;")
                limits = "near_l", f"near_l + {plan.lanes}"
            w.line("CR_INDEPENDENT")
            loops.enter_context(w.block(f"for (long l = {limits[0]}; l < {limits[1]}; l++)"))
            w.line(f"const long place = {first};")
            box.write(w)
            box.write_stores(w)
        return box

    def arrays_alike(self, plan: Plan) -> int:
        """How many arrays what follows reads or writes where the result lies, element by element."""
        followers, _, _ = self._following(plan)
        return len(followers.written) if followers is not None else 0

    def _has_last(self, plan: Plan, cuts: Sequence[Cut]) -> str:
        """Whether a tile has the last vector of its rows."""
        several = plan.column is not None and plan.panels > 1
        return f"{plan.column.name} + {cuts[-1].count} == {plan.column.extent}" if several and plan.column else "1"

    def _call(
        self,
        w: Writer,
        cuts: Sequence[Cut],
        arguments: Sequence[str],
        function: TileFunction,
    ) -> None:
        """The function for the counts of a tile."""
        for number, counts in enumerate(itertools.product(*(cut.sizes for cut in cuts))):
            name, text = replace(function, counts=counts).write()
            self.functions[name] = text
            tests = [f"{cut.count} == {n}" for cut, n in zip(cuts, counts, strict=True) if len(cut.sizes) > 1]
            condition = f"{'else ' if number else ''}if ({' && '.join(tests)}) " if tests else ""
            w.line(f"{condition}{name}({', '.join(arguments)});")

    def _epilogue_loops(self, w: Writer, plan: Plan, cuts: Sequence[Cut]) -> None:
        if plan.column is None:
            known = {var: variable(Var(f"this_{var.name}", var.extent)) for var, _ in plan.rows}
            number = "0" if not plan.rows else "r0" if len(plan.rows) == 1 else f"(r0 * {cuts[1].count} + r1)"
            box = self.epilogue(plan.out.replace(known), number)
            with self._each_row(w, plan, cuts):
                if self.sides:
                    w.line("const long l = 0;")
                box.write(w)
                box.write_stores(w)
            return
        sums = TileSums(plan.dtype, plan.lanes, max(cuts[-1].sizes), cuts[-1].count)
        box, width, place = self._in_vectors(plan, cuts)
        if plan.rows:
            sums.take_from(box)
        w.line(f"const long width = {width};")
        sums.write(w, self._each_row(w, plan, cuts), box, "width", place)

    def _in_vectors(self, plan: Plan, cuts: Sequence[Cut]) -> tuple[Box, str, str]:
        """What follows from the elements of one row of a finished tile, how many there are, and the place of number ``l``."""
        assert plan.column is not None, "results in vectors lie in columns"
        rows = [Var(f"this_{var.name}", var.extent) for var, _ in plan.rows]
        known = {var: variable(this) for (var, _), this in zip(plan.rows, rows, strict=True)}
        number = "0" if not rows else "r0" if len(rows) == 1 else f"(r0 * {cuts[1].count} + r1)"
        cut = cuts[-1]
        panel = f"{cut.count} * {plan.lanes}" if len(cut.sizes) > 1 else str(max(cut.sizes) * plan.lanes)
        out = plan.out.replace({**known, plan.column: Index()}) + variable(Var("place", plan.width))
        box = self.epilogue(out, f"{number} * ({panel}) + l")
        limit = panel
        if plan.width % plan.lanes:
            limit = f"cr_least({panel}, {plan.width} - ({variable(plan.column) * plan.lanes}))"
        return box, limit, str(variable(plan.column) * plan.lanes + variable(Var("l")))

    @contextmanager
    def _each_row(self, w: Writer, plan: Plan, cuts: Sequence[Cut]) -> Iterator[None]:
        """Loops over the rows of a tile."""
        with ExitStack() as loops:
            for k, ((var, _), cut) in enumerate(zip(plan.rows, cuts)):
                loops.enter_context(w.block(f"for (long r{k} = 0; r{k} < {cut.count}; r{k}++)"))
                w.line(f"const long this_{var.name} = {var.name} + r{k};")
            yield

    def _fetch_epilogue(self, w: Writer, plan: Plan, cuts: Sequence[Cut]) -> tuple[Followers | None, list[str]]:
        """Begin to read what follows from a tile reads besides, element by element: it arrives while the tile is summed. What lies
        as the result does is left to the tile, with these arguments."""
        if plan.column is None:
            return None, []
        followers, arguments, lines = self._following(plan)
        if lines:
            count, line = cuts[-1].count, LINE_BYTES // BYTES[plan.dtype]
            with self._each_row(w, plan, cuts), w.block(f"for (long l = 0; l < {count} * {plan.lanes}; l += {line})"):
                w.line(f"const long place = {variable(plan.column) * plan.lanes + variable(Var('l'))};")
                for text in lines:
                    w.line(f"CR_FETCH({text});")
        return followers, arguments

    def _following(self, plan: Plan) -> tuple[Followers | None, list[str], list[str]]:
        assert plan.column is not None, "results in vectors lie in columns"
        known = {var: variable(Var(f"this_{var.name}", var.extent)) for var, _ in plan.rows}
        place, rows = Var("place", plan.width), [Var(f"this_{var.name}", var.extent) for var, _ in plan.rows]
        box = self.epilogue(plan.out.replace({**known, plan.column: Index()}) + variable(place), "0")
        stored = {self.name(value): value.dtype for value in self._stored}
        return following(plan, box, place, rows, stored)

    @property
    def _stored(self) -> list[Value]:
        return [*([self.node.output] if self.keeps_result else []), *self.roots]

    @property
    def _stored_types(self) -> dict[str, str]:
        return {self.name(value): STORED[value.dtype] for value in self._stored}

    def epilogue(self, out: Index, finished: str) -> Box:
        body = self.body()
        element = body.emit(self.type, f"finished[{finished}]")
        stores = self.stores(body, out, element)
        return Box([], list(body.statements), stores)

    def stores(self, body: Body, out: Index, element: str) -> list[Store]:
        """The result at ``out``, which is ``element``, and what follows from it, where these are kept; the terms of sums."""
        shape = self.node.output.shape
        body.preset(self.node.output, Position(shape, None, out), element)
        found = [Store(self.name(self.node.output), out, element, product(shape))] if self.keeps_result else []
        for root in self.roots:
            value = body.read(root, Position(root.shape, None, out))
            found.append(Store(self.name(root), out, value, product(root.shape)))
        return [*found, *(side.store(body, out, variable(LANE)) for side in self.sides)]


def _ahead(w: Writer, plan: Plan, units: Units, split: Var) -> None:
    """How many steps ahead the tiles of a unit fetch of both operands: ``ahead`` where the first ones in a share meet them, or none."""
    across = str(plan.panels) if units.by_rows else units.blocks
    begins = f"unit - low < {across}"
    again = f"{'panel' if units.by_rows else 'block'} == 0 || unit == low"
    x, y = (again, begins) if units.by_rows else (begins, again)
    if fetches(plan, split, plan.x):
        w.line(f"const long x_ahead = {x} ? ahead : 0;")
    if fetches(plan, split, plan.y):
        w.line(f"const long y_ahead = {y} ? ahead : 0;")


def _operands(plan: Plan) -> list[str]:
    """Where a tile begins to read each operand."""
    inside = {*plan.summed, *(var for var, _ in plan.unrolled)}
    inside |= {var for var, _ in plan.x.at.terms if var.name == "row_in_tile"}
    of_y = inside | {plan.column} if plan.in_panels and plan.column is not None else inside
    return [f"{operand.pointer} + ({_without(operand.at, own)})" for operand, own in ((plan.x, inside), (plan.y, of_y))]


def _prove_tile(plan: Plan) -> None:
    """All that a tile reads of both operands."""
    for operand in (plan.x, plan.y):
        at = operand.at
        if plan.in_panels and plan.column is not None:
            at = at.replace({plan.column: variable(Var(plan.column.name, plan.vectors))})
        if plan.tail:
            last = plan.summed[-1]
            assert isinstance(last.extent, int), "vectors along a sum are counted"
            at = at.replace({last: Index()}) + variable(Var("element", last.extent * plan.lanes + plan.tail))
        elif operand.in_vectors:
            at = at + variable(Var("lane", plan.lanes))
        prove(operand.pointer, at, operand.size)


def _without(index: Index, vars: set[Var]) -> Index:
    return Index(tuple((v, c) for v, c in index.terms if v not in vars), index.offset)
