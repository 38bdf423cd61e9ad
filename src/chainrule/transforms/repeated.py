"""Compiled functions that run many times in one go: how their arguments take part in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from chainrule.core.errors import ShapeError
from chainrule.engines.api import Program
from chainrule.engines.repetition import Repetition

NDArray = np.ndarray[Any, Any]


class _Prepared(Protocol):
    @property
    def program(self) -> Program: ...


Prepared = TypeVar("Prepared", bound=_Prepared)


@dataclass(frozen=True, slots=True)
class Repeated(Generic[Prepared]):
    """How the arguments of one structure take part: what is carried from run to run, and which arrays are gathered."""

    prepared: Prepared
    carry: str
    carried: dict[int, int]
    gathered: frozenset[int]

    def attempt(self, how: Repetition) -> Callable[[tuple[NDArray, ...]], list[NDArray] | None]:
        """Run many times on arrays; None, with nothing done, where they do not fit."""

        def run(arrays: tuple[NDArray, ...]) -> list[NDArray] | None:
            try:
                return self.prepared.program.repeat(arrays, how)
            except ShapeError:
                return None

        return run
