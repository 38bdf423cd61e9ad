"""The C functions of loop nests. Nests that differ only in which values they read and write share one.

Networks repeat their blocks, and a compiler takes as long for the twentieth block as for the first. A shared function reads its
pointers where its first nest has them; the calls for other nests hand it a frame in which theirs stand there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from chainrule.engines.cpu.indexing import c_size
from chainrule.engines.cpu.loops import Writer
from chainrule.engines.cpu.nests import Region
from chainrule.engines.cpu.scalars import BYTES, STORED
from chainrule.ir.sizes import BATCH, Dim, Size, product

_WORD = re.compile(r"\w+")
# Names that no text has, for what does not tell functions apart.
_ANY = "@"


class Functions:
    """The texts of all functions of a program, in order, and which of nests are there already."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._shared: dict[str, tuple[str, list[int]]] = {}

    def nest(
        self,
        name: str,
        parameters: str,
        pointers: dict[str, tuple[str, int]],
        regions: Sequence[Region],
        text: str,
        comment: str = "",
    ) -> tuple[str, dict[int, int]]:
        """The function to call: a new one of this name, or an older one of the same text.

        ``pointers`` are types and slots. Also returned is which slot of the older one stands for which of this nest; nothing where
        they are the same.
        """
        used = {word: pointers[word] for word in _WORD.findall(text) if word in pointers}
        slots = list(dict.fromkeys(slot for _, slot in used.values()))
        # Slots are counted, too, not only names: one function must not take for apart what may overlap.
        names = {word: f"{_ANY}{k}" for k, word in enumerate(used)}
        counted = {names[word]: (type, slots.index(slot)) for word, (type, slot) in used.items()}
        renamed = _WORD.sub(lambda word: names.get(word.group(), word.group()), text)
        key = _text(_ANY, parameters, counted, regions, renamed)
        first = self._shared.setdefault(key, (name, slots))
        if first[0] == name:
            shown = f"/* {comment} */\n" if comment else ""
            self.texts.append(shown + _text(name, parameters, used, regions, text))
        return first[0], dict(zip(first[1], slots, strict=True)) if slots != first[1] else {}


def layout_of(regions: Sequence[Region]) -> tuple[list[Dim], Dim]:
    """Where each region begins in the working memory, and the size of all: bytes, whole cache lines."""
    starts: list[Dim] = []
    end: Dim = 0
    for region in regions:
        starts.append(end)
        size = region.count * BYTES[region.dtype]
        terms = size.coefficients if isinstance(size, Size) else (size,)
        for power, c in enumerate(terms):
            end = end + product([BATCH] * power) * (-(-c // 64) * 64)
    return starts, end


def _text(
    name: str, parameters: str, pointers: dict[str, tuple[str, int]], regions: Sequence[Region], text: str
) -> str:
    w = Writer()
    with w.block(f"static void {name}({parameters})"):
        w.line("struct frame *const frame = context;")
        w.line("const long B = frame->B;")
        if "in_slab" in text:
            w.line("const _Bool in_slab = frame->in_slab;")
        for pointer, (type, slot) in pointers.items():
            w.line(f"{type} *restrict const {pointer} = ({type} *)frame->slot[{slot}];")
        words = set(_WORD.findall(text))
        for region, start in zip(regions, layout_of(regions)[0], strict=True):
            type = STORED[region.dtype]
            if region.name not in words:
                continue
            w.line(f"{type} *restrict const {region.name} = ({type} *)(frame->scratch + {c_size(start)});")
        w.lines.extend("    " + line if line else "" for line in text.splitlines())
    return w.text
