"""Loops over the body graph as C: the function of a loop calls the function of its body once for every turn.

The carry of a turn goes from one buffer to another and back, so that a turn reads what it does not write over. Where a loop
keeps the carries of all turns, they need no buffers and no copies: they go from place to place in what is kept. A loop whose rows
are independent runs in slabs, and one without a carry step by step on all threads (``slabs.py``); every such task borrows buffers and
an arena from its thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chainrule.engines.cpu.indexing import c_size
from chainrule.engines.cpu.loop_ahead import looks_ahead, say_what_is_next
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.memory import bytes_of
from chainrule.engines.cpu.scalars import C_TYPES
from chainrule.engines.cpu.slabs import runs_at_once, slabs_of
from chainrule.ir.graph import Graph, Node, Value
from chainrule.ir.sizes import Size, product

SlotOf = Callable[[Value], int]
# What stands for rows of another value: that value, and their numbers.
Rows = Mapping[Value, tuple[Value, list[int]]]


@dataclass(frozen=True, slots=True)
class Loop:
    """A function of a task's number, functions of B for sizes, and as C its call, the bytes of the arena that it works in, and those
    that its tasks borrow."""

    text: str
    sizes: str
    call: str
    arena: str
    borrowed: str
    is_shared_out: bool = False


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which of the results with a part for every step holds a carry: as a step is ``given`` it, or as the step leaves it."""

    number: int
    given: bool


def carries_kept(node: Node) -> dict[int, Keeping]:
    """The carries that a loop keeps of every step, by number. In slabs, what has no rows belongs to all of them and is left out."""
    body: Graph = node.attributes["body"]
    consts, carries = node.attributes["consts"], node.attributes["carries"]
    stacked, found = body.outputs[carries:], {}
    for c in range(carries if node.attributes["length"] else 0):
        given, left = body.inputs[consts + c], body.outputs[c]
        if slabs_of(node) != "1" and not _has_rows(left):
            continue
        if given in stacked:
            found[c] = Keeping(stacked.index(given), True)
        elif left in stacked:
            found[c] = Keeping(stacked.index(left), False)
    return found


def write_scan(node: Node, name: str, number: int, slot_of: SlotOf, rows: Rows, *, profiled: bool = False) -> Loop:
    """A loop of fixed length around graph ``number``; with ``profiled`` tasks say which part of the rows they do."""
    body: Graph = node.attributes["body"]
    consts, carries, length = (node.attributes[key] for key in ("consts", "carries", "length"))
    slabs, at_once = slabs_of(node), runs_at_once(node)
    is_cut = slabs != "1"
    has_tasks = is_cut or at_once
    carried, stacked = body.outputs[:carries], body.outputs[carries:]
    # Every slab computes what has no rows; the first one's goes to the results.
    spares = {k: value for k, value in enumerate(stacked) if is_cut and not _has_rows(value)}
    kept = carries_kept(node)
    back = node.attributes["reverse"]
    first_turn, last_turn = ("0", str(length - 1))[:: -1 if back else 1]
    passed = {c: value for c, value in enumerate(carried) if c not in kept}
    w = Writer()
    with w.block(f"static void {name}(void *context, long task)"):
        w.line("struct frame *const frame = context;")
        w.line("char **const slot = frame->slot;")
        if is_cut:
            w.line(f"const long slabs = {name}_slabs(frame->B), slab = task % slabs;")
            w.line("const long row = cr_cut(frame->B, slab, slabs), B = cr_cut(frame->B, slab + 1, slabs) - row;")
        else:
            w.line("const long B = frame->B;")
        if has_tasks:
            w.line(f"char *const own = cr_borrow({name}_bytes(B)), *top = own;")
            if profiled:
                w.line("const long outside = cr_enter_slab(B, frame->B);")
        else:
            w.line("char *top = frame->scratch;")
        _double_buffers(w, passed)
        for k, value in spares.items():
            w.line(f"char *const spare_{k} = top;")
            w.line(f"top += cr_round({c_size(bytes_of(value))});")

        def place(value: Value, inner: Value, step: str = "") -> str:
            """Where the slab's rows of an operand or result begin, in one step if it has steps."""
            found, size = f"slot[{slot_of(value)}]", bytes_of(inner)
            if not is_cut or not isinstance(size, Size):
                return f"{found} + {step} * {c_size(size)}" if step else found
            rows = f"({step} * frame->B + row)" if step else "row"
            return f"{found} + {rows} * {size.coefficients[1]}"

        first, steps = node.inputs[consts : consts + carries], node.inputs[consts + carries :]
        tables = dict.fromkeys(tuple(rows[value][1]) for value in steps if value in rows)
        for k, numbers in enumerate(tables):
            w.line(f"static const int rows_{k}[] = {{{', '.join(map(str, numbers))}}};")
        chosen = {value: f"rows_{list(tables).index(tuple(rows[value][1]))}" for value in steps if value in rows}

        def part(value: Value, inner: Value, step: str) -> str:
            """Where the part of an operand or result for a step begins."""
            return (
                place(rows[value][0], inner, f"{chosen[value]}[{step}]")
                if value in chosen
                else place(value, inner, step)
            )

        def kept_at(c: int, step: str) -> str:
            """Where a carry is kept."""
            return place(node.outputs[carries + kept[c].number], carried[c], step)

        for c, keeping in kept.items():
            if keeping.given:
                w.line(
                    f"memcpy({kept_at(c, first_turn)}, {place(first[c], carried[c])}, {c_size(bytes_of(carried[c]))});"
                )
        turn = "task / slabs" if is_cut else "task"
        begin, end = (turn, f"{turn} + 1") if at_once else ("0", str(length))
        with w.block(f"for (long step = {begin}; step < {end}; step++)"):
            w.line(f"const long t = {f'{length - 1} - step' if node.attributes['reverse'] else 'step'};")
            given = [place(*pair) for pair in zip(node.inputs[:consts], body.inputs)]
            for c, pair in enumerate(zip(first, carried, strict=True)):
                if c in kept and kept[c].given:
                    given.append(kept_at(c, "t"))
                else:
                    before = kept_at(c, f"(t {'+' if back else '-'} 1)") if c in kept else f"carry[{c}][(step + 1) % 2]"
                    given.append(f"step ? {before} : {place(*pair)}")
            given += [part(*pair, "t") for pair in zip(steps, body.inputs[consts + carries :], strict=True)]
            for c, pair in enumerate(zip(node.outputs, carried)):
                if c in kept and not kept[c].given:
                    given.append(kept_at(c, "t"))
                else:
                    after = kept_at(c, f"(t {'-' if back else '+'} 1)") if c in kept else f"carry[{c}][step % 2]"
                    own = " && !slab" if is_cut and not _has_rows(pair[1]) else ""
                    given.append(f"step == {length - 1}{own} ? {place(*pair)} : {after}")
            for k, pair in enumerate(zip(node.outputs[carries:], stacked, strict=True)):
                given.append(f"slab ? spare_{k} : {place(*pair, 't')}" if k in spares else place(*pair, "t"))
            ahead = "0"
            if looks_ahead(node):
                after = f"(t {'-' if node.attributes['reverse'] else '+'} (step < {length - 1}))"
                written = zip(node.outputs[carries:], stacked, strict=True)
                both = [
                    [(part(value, inner, after), c_size(bytes_of(inner))) for value, inner in pairs if _has_rows(inner)]
                    for pairs in (zip(steps, body.inputs[consts + carries :], strict=True), written)
                ]
                say_what_is_next(w, length - 1, *both)
                ahead = "(char *)&ahead"
            _call(w, number, [*given, ahead], "frame->row + row" if is_cut else "frame->row")
        for c, keeping in kept.items():
            if not keeping.given:
                result = place(node.outputs[c], carried[c])
                w.line(f"memcpy({result}, {kept_at(c, last_turn)}, {c_size(bytes_of(carried[c]))});")
        if not length:
            for source, target in zip(first, node.outputs):
                w.line(f"memcpy(slot[{slot_of(target)}], slot[{slot_of(source)}], {c_size(bytes_of(target))});")
        if has_tasks:
            w.line("cr_give_back(own);")
            if profiled:
                w.line("cr_portion = outside;")
    sizes = _sizes(name, number, list(passed.values()), list(spares.values()))
    if not has_tasks:
        return Loop(w.text, sizes, f"{name}(&frame, 0);", f"{name}_bytes(B)", f"graph_{number}_borrowed(B)")
    if is_cut:
        sizes += f"\nstatic long {name}_slabs(long B) {{\n    return {slabs};\n}}\n"
    slabs = f"{name}_slabs(B)"
    largest = f"(B + {slabs} - 1) / {slabs}" if is_cut else "B"
    borrowed = f"cr_round({name}_bytes({largest})) + graph_{number}_borrowed({largest})"
    if not at_once:
        return Loop(w.text, sizes, f"cr_parallel({name}, &frame, {slabs});", "0", borrowed, True)
    tasks = f"{length} * {slabs}" if is_cut else str(length)
    return Loop(w.text, sizes, f"cr_steps({name}, &frame, {tasks});", "0", borrowed, True)


def write_fixed_point(
    node: Node, name: str, number: int, slot_of: SlotOf, rows: Rows, *, profiled: bool = False
) -> Loop:
    """A loop around graph ``number`` until no number changes by more than the tolerance."""
    consts, states = node.attributes["consts"], node.outputs[:-1]
    sources = [f"slot[{slot_of(value)}]" for value in node.inputs]
    targets = [f"slot[{slot_of(value)}]" for value in node.outputs]
    sizes = [c_size(bytes_of(value)) for value in states]
    w = Writer()
    with w.block(f"static void {name}(void *context, long task)"):
        w.line("struct frame *const frame = context;")
        w.line("char **const slot = frame->slot;")
        w.line("const long B = frame->B;")
        w.line("char *top = frame->scratch;")
        _double_buffers(w, dict(enumerate(states)))
        w.line("long step = 0;")
        for c, (source, size) in enumerate(zip(sources[consts:], sizes, strict=True)):
            w.line(f"memcpy(carry[{c}][1], {source}, {size});")
        with w.block(f"for (int close = 0; step < {node.attributes['max_iterations']} && !close; step++)"):
            given = [*sources[:consts], *(f"carry[{c}][(step + 1) % 2]" for c in range(len(states)))]
            given += [f"carry[{c}][step % 2]" for c in range(len(states))]
            _call(w, number, [*given, "0"], "frame->row")
            w.line("close = 1;")
            for c, value in enumerate(states):
                type, size = C_TYPES[value.dtype], "fabsf" if value.dtype == "float32" else "fabs"
                w.line(f"const {type} *new_{c} = (void *)carry[{c}][step % 2];")
                w.line(f"const {type} *old_{c} = (void *)carry[{c}][(step + 1) % 2];")
                bound = f"({type}){node.attributes['tolerance']!r} * (1 + {size}(new_{c}[k]))"
                with w.block(f"for (long k = 0; k < {c_size(product(value.shape))}; k++)"):
                    w.line(f"close &= {size}(new_{c}[k] - old_{c}[k]) <= {bound};")
        for c, (target, size) in enumerate(zip(targets, sizes)):
            w.line(f"memcpy({target}, carry[{c}][(step + 1) % 2], {size});")
        w.line(f"*(int64_t *){targets[-1]} = step;")
    sizes_text = _sizes(name, number, states, ())
    return Loop(w.text, sizes_text, f"{name}(&frame, 0);", f"{name}_bytes(B)", f"graph_{number}_borrowed(B)")


def _has_rows(value: Value) -> bool:
    return isinstance(bytes_of(value), Size)


def _sizes(name: str, number: int, carried: Sequence[Value], spares: Sequence[Value]) -> str:
    buffers = [f"2 * cr_round({c_size(bytes_of(value))})" for value in carried]
    buffers += [f"cr_round({c_size(bytes_of(value))})" for value in spares]
    w = Writer()
    with w.block(f"static long {name}_bytes(long B)"):
        w.line(f"return {' + '.join([*buffers, f'graph_{number}_arena(B)'])};")
    return w.text


def _double_buffers(w: Writer, carried: Mapping[int, Value]) -> None:
    """Two buffers for each of these carries, by number."""
    if carried:
        w.line(f"char *carry[{max(carried) + 1}][2];")
    for c, value in carried.items():
        w.line(f"for (int k = 0; k < 2; k++) carry[{c}][k] = top, top += cr_round({c_size(bytes_of(value))});")


def _call(w: Writer, number: int, given: Sequence[str], row: str) -> None:
    """The call of a body for its operands, its results, and what is to be fetched for the next step, or 0."""
    w.line(f"char *given[{len(given)}];")
    for k, text in enumerate(given):
        w.line(f"given[{k}] = {text};")
    w.line(f"graph_{number}(given, frame->constants, top, B, {row});")
