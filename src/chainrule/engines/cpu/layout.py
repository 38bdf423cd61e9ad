"""How objects of Python lie in memory, so that compiled code can read arrays without asking Python (``c/objects.h``)."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]

C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x0001, 0x0100, 0x0400


class _Fields(ctypes.Structure):
    """``struct cr_array``: what NumPy's C interface has promised since its first version."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int),
        ("sizes", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("base", ctypes.c_void_p),
        ("element_type", ctypes.c_void_p),
        ("flags", ctypes.c_int),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in bytes: of the items of a tuple, and of the fields of an array, which follow the pointer to its type."""

    items: int
    fields: int


def find_layout() -> Layout | None:
    """The offsets, if some objects looked at lie as expected; None where they do not."""
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_long) != ctypes.sizeof(ctypes.c_void_p):
        return None
    layout = Layout(tuple.__basicsize__, object.__basicsize__)
    read_only = np.zeros((3, 5), np.int64)
    read_only.flags.writeable = False
    samples = (np.empty(()), np.zeros((2, 3, 4), np.float32), np.ones((4, 6))[:, ::2], read_only, np.arange(7)[1:3])
    lies_so = _items(samples, layout) == list(map(id, samples)) and all(_is_read(x, layout) for x in samples)
    return layout if lies_so else None


def _items(objects: tuple[Any, ...], layout: Layout) -> list[int | None]:
    return list((ctypes.c_void_p * len(objects)).from_address(id(objects) + layout.items))


def _is_read(array: NDArray, layout: Layout) -> bool:
    fields = _Fields.from_address(id(array) + layout.fields)
    return (
        ctypes.c_void_p.from_address(id(array) + layout.fields - 8).value == id(np.ndarray)
        and fields.data == array.ctypes.data
        and fields.rank == array.ndim
        and fields.element_type == id(array.dtype)
        and fields.sizes[: array.ndim] == list(array.shape)
        and fields.flags & 0xFFFF == array.flags.num & 0xFFFF
    )


LAYOUT = find_layout()


def call_table(batch: int, constants: int, operands: Sequence[tuple[tuple[int, ...], np.dtype[Any], bool]]) -> NDArray:
    """What a call checks its operands against: shape, element type, and whether it is written over."""
    words = [batch, id(np.ndarray), constants]
    for shape, dtype, is_written in operands:
        words += [id(dtype), C_CONTIGUOUS | ALIGNED | (WRITEABLE if is_written else 0), len(shape), *shape]
    return np.array(words, np.int64)
