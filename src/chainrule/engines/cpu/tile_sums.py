"""Sums along with what follows from a tile: kept in registers over its rows, and added to memory once for a tile.

Added to memory element by element they would wait for themselves: an element of the next row needs what the one before has just
stored, ten cycles or more for every row, which is as much as a convolution of 16 channels has left to hide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from chainrule.core.dtypes import DType
from chainrule.engines.cpu.indexing import Var, variable
from chainrule.engines.cpu.loops import Box, Store, Writer
from chainrule.engines.cpu.scalars import C_TYPES
from chainrule.engines.cpu.vectors import vector_type


@dataclass(slots=True)
class TileSums:
    """What is added to the same places for every row of a tile, which has at most so many vectors.

    ``count`` is the C expression of the number of vectors of the tile at hand.
    """

    dtype: DType
    lanes: int
    most: int
    count: str
    stores: list[Store] = field(default_factory=list)

    def take_from(self, box: Box) -> None:
        """The additions of a box over the variables ``place`` and ``l``, which then only computes their terms."""
        self.stores = [s for s in box.stores if s.adds and all(var.name in ("place", "l") for var, _ in s.at.terms)]
        size = self.most * self.lanes
        terms = [Store(f"term_{k}", variable(Var("l", size)), one.value, size) for k, one in enumerate(self.stores)]
        box.stores = [store for store in box.stores if store not in self.stores] + terms

    def write(self, w: Writer, rows: AbstractContextManager[None], box: Box, width: str, place: str) -> None:
        """Loops over the ``rows`` of a tile around one over ``width`` elements of each, and what is added up over them."""
        self._begin(w)
        with rows:
            write_row(w, box, width, place)
            self._add(w)
        self._end(w, width, place)

    def _begin(self, w: Writer) -> None:
        """Before the rows. Lanes beyond the end of the last vector stay 0."""
        for k in range(len(self.stores)):
            w.line(f"{C_TYPES[self.dtype]} term_{k}[{self.most * self.lanes}] __attribute__((aligned(64))) = {{0}};")
            names = ", ".join(f"{name} = {{0}}" for name in self._names(k))
            w.line(f"{self._vector} {names};")

    def _add(self, w: Writer) -> None:
        """After the elements of a row."""
        for k in range(len(self.stores)):
            for number, name in enumerate(self._names(k)):
                guard = "" if self.count == str(self.most) else f"if ({number} < {self.count}) "
                w.line(f"{guard}{name} += *(const {self._vector} *)(term_{k} + {number * self.lanes});")

    def _end(self, w: Writer, width: str, place: str) -> None:
        """After the rows."""
        if not self.stores:
            return
        for k in range(len(self.stores)):
            for number, name in enumerate(self._names(k)):
                w.line(f"*({self._vector} *)(term_{k} + {number * self.lanes}) = {name};")
        with _elements(w, width, place):
            for k, store in enumerate(self.stores):
                w.line(f"{store.pointer}[{store.at}] += term_{k}[l];")

    @property
    def _vector(self) -> str:
        return vector_type(self.dtype, self.lanes)

    def _names(self, k: int) -> list[str]:
        return [f"sum_{k}_{number}" for number in range(self.most)]


def write_row(w: Writer, box: Box, width: str, place: str) -> None:
    """What follows from ``width`` elements of a row, of which number ``l`` is at ``place``."""
    with _elements(w, width, place):
        box.write(w)
        box.write_stores(w)


@contextmanager
def _elements(w: Writer, width: str, place: str) -> Iterator[None]:
    w.line("CR_INDEPENDENT")
    with w.block(f"for (long l = 0; l < {width}; l++)"):
        w.line(f"const long place = {place};")
        yield
