"""The functions of a generated library that Python calls."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.engines.cpu.loops import Writer
from chainrule.ir.graph import Graph


def exports_text(graph: Graph, name: str, alone: str | None) -> str:
    """What runs the function ``name`` of a graph, once or many times; ``alone`` is its form for one example, if there is one."""
    inputs, outputs = len(graph.inputs), len(graph.outputs)
    w = Writer()
    w.line("/* The bytes that a run works in, and those that each thread works in besides. */")
    with w.block("CR_EXPORT long cr_borrowed(long B)"):
        w.line(f"return {name}_borrowed(B);")
    with w.block("CR_EXPORT long cr_arena(long B)"):
        w.line(f"return {name}_arena(B);")
    w.line()
    with w.block(f"static void {name}_often(char **arrays, char **constants, char *arena, const cr_repetition *how)"):
        if alone is not None:
            w.line(f"if (how->batch == 1 && cr_is_in_place(how)) {alone}(arrays, how); else")
        w.line(f"cr_repeat_program({name}, arrays, constants, arena, how);")
    w.line()
    w.line(
        "/* Runs the program once, or many times: pointers to operands, results and constants, working memory, and the rest. */"
    )
    with w.block("CR_EXPORT void cr_run(char **arrays, char *arena, long B)"):
        w.line(f"char **constants = arrays + {inputs + outputs};")
        _run(w, [f"{name}(arrays, constants, arena, B, 0);"])
    with w.block("CR_EXPORT void cr_repeat(char **arrays, char *arena, const cr_repetition *how)"):
        w.line(f"char **constants = arrays + {inputs + outputs};")
        _run(w, [f"{name}_often(arrays, constants, arena, how);"])
    w.line()
    w.line("/* The same on the objects of a tuple; 1 and nothing done where they are not what its table says. */")
    with w.block("CR_EXPORT long cr_call(const char *tuple)"):
        _take(w, 2, inputs, outputs)
        _run(w, [f"{name}(arrays, constants, arena, table[CR_BATCH], 0);"])
        w.line("return 0;")
    with w.block("CR_EXPORT long cr_call_often(const char *tuple)"):
        _take(w, 4, inputs, outputs)
        w.line("cr_repetition how = *(const cr_repetition *)cr_array_of(cr_item(tuple, 2))->data;")
        w.line(f"char *examples[{max(1, inputs)}];")
        begin = "arena = cr_begin_repetition(&how, cr_array_of(cr_item(tuple, 3))->data, arrays, examples, arena);"
        _run(w, [begin, f"{name}_often(arrays, constants, arena, &how);"])
        w.line("return 0;")
    return w.text


def _take(w: Writer, first: int, inputs: int, outputs: int) -> None:
    w.line("const long *table = (const long *)cr_array_of(cr_item(tuple, 0))->data;")
    w.line("char *arena = cr_array_of(cr_item(tuple, 1))->data, **constants = (char **)table[CR_CONSTANTS];")
    w.line(f"char *arrays[{max(1, inputs + outputs)}];")
    w.line(f"if (!cr_take(tuple, {first}, table, arrays, {inputs}, {outputs})) return 1;")


def _run(w: Writer, lines: Sequence[str]) -> None:
    w.line("const uint64_t state = cr_begin();")
    w.line("arena += -(uintptr_t)arena % 64;")
    for line in lines:
        w.line(line)
    w.line("cr_end(state);")
