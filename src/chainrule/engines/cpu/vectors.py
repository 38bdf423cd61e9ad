"""C of vectors: their types, the sum over the lanes of one, and the transposition of a square block of them."""

from __future__ import annotations

from chainrule.core.dtypes import FLOAT32, FLOAT64, DType
from chainrule.engines.cpu.scalars import BYTES, C_TYPES

NARROWEST = 16  # bytes of a vector


def vector_type(dtype: DType, lanes: int) -> str:
    """The C type of a vector; with ``_anywhere`` behind it one that needs no alignment."""
    return f"cr_{dtype}x{lanes}"


def vector_text(vector_bytes: int) -> str:
    """The types of all widths up to the given one, and what can be done with them besides arithmetic."""
    return "\n".join(_of_type(dtype, vector_bytes) for dtype in (FLOAT32, FLOAT64)) + _MACROS


def transposition_text(dtype: DType, lanes: int) -> str:
    """``cr_transpose_TYPExLANES``: rows of y, a distance apart, become columns; missing ones are zeros."""
    vector, type = vector_type(dtype, lanes), C_TYPES[dtype]
    integer = "int32_t" if BYTES[dtype] == 4 else "int64_t"
    lines = [
        f"typedef {integer} {vector}_places __attribute__((vector_size({lanes * BYTES[dtype]})));",
        f"static __attribute__((unused)) void cr_transpose_{dtype}x{lanes}(",
        f"    {type} *restrict to, long to_step, const {type} *restrict from, long from_step, long columns, long rows) {{",
        f"    if (columns < {lanes} || rows < {lanes}) {{",
        "        for (long k = 0; k < columns; k++)",
        f"            for (long l = 0; l < {lanes}; l++) to[k * to_step + l] = l < rows ? from[l * from_step + k] : 0;",
        "        return;",
        "    }",
    ]
    names = [f"r{k}" for k in range(lanes)]
    lines += [f"    {vector} r{k} = *(const {vector}_anywhere *)(from + {k} * from_step);" for k in range(lanes)]
    distance, fresh = lanes // 2, 0
    while distance:
        for k in [k for k in range(lanes) if not k & distance]:
            x, y = names[k], names[k + distance]
            low = [lane if not lane & distance else lanes + lane - distance for lane in range(lanes)]
            high = [lane + distance if not lane & distance else lanes + lane for lane in range(lanes)]
            for at, places in ((k, low), (k + distance, high)):
                names[at] = f"s{fresh}"
                fresh += 1
                chosen = ", ".join(map(str, places))
                lines.append(f"    const {vector} {names[at]} = CR_MACROS({x}, {y}, {vector}_places, {chosen});")
        distance //= 2
    lines += [f"    *({vector}_anywhere *)(to + {k} * to_step) = {name};" for k, name in enumerate(names)]
    return "\n".join([*lines, "}", ""])


def _of_type(dtype: DType, vector_bytes: int) -> str:
    size, type = BYTES[dtype], C_TYPES[dtype]
    lines = []
    width = NARROWEST
    while width <= vector_bytes:
        lanes = width // size
        name = vector_type(dtype, lanes)
        lines.append(f"typedef {type} {name} __attribute__((vector_size({width}), may_alias));")
        lines.append(
            f"typedef {type} {name}_anywhere __attribute__((vector_size({width}), aligned({size}), may_alias));"
        )
        lines.append(f"static inline __attribute__((unused)) {type} cr_sum_{dtype}x{lanes}({name} x) {{")
        if width == NARROWEST:
            lines.append(f"    return {'(x[0] + x[2]) + (x[1] + x[3])' if lanes == 4 else 'x[0] + x[1]'};")
        else:
            lines.append(f"    {vector_type(dtype, lanes // 2)} half[2];")
            lines.append("    memcpy(half, &x, sizeof x);")
            lines.append(f"    return cr_sum_{dtype}x{lanes // 2}(half[0] + half[1]);")
        lines.append("}")
        width *= 2
    return "\n".join(lines) + "\n"


_MACROS = """
/* Keeps a vector in its register, where gcc would load it again for every multiplication. */
#if defined(__x86_64__) && !defined(__clang__)
#define CR_ONCE(vector) __asm__("" : "+v"(vector))
#else
#define CR_ONCE(vector) ((void)0)
#endif
/* What is in memory is read again after this. */
#define CR_READ_AGAIN __asm__ volatile("" ::: "memory")
/* A function that a compiler knows nothing of where it is called, and of whose arguments it knows nothing. */
#if defined(__GNUC__) && !defined(__clang__)
#define CR_ALONE __attribute__((noipa))
#else
#define CR_ALONE __attribute__((noinline))
#endif
/* Begins to read a line of memory into the second cache, to write it soon, or into the first cache. The address may lie outside of
 * any array. */
#define CR_FETCH(address) __builtin_prefetch((const void *)(address), 0, 2)
#define CR_FETCH_TO_WRITE(address) __builtin_prefetch((const void *)(address), 1, 2)
#define CR_FETCH_NEAR(address) __builtin_prefetch((const void *)(address), 0, 3)
#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define CR_MACROS(x, y, places, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#endif
#endif
#ifndef CR_MACROS
#define CR_MACROS(x, y, places, ...) __builtin_shuffle(x, y, (places){__VA_ARGS__})
#endif
"""
