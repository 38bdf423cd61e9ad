"""Floats become integers by one definition on every engine: cut off, the end of the range for what lies beyond it, 0 for NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.dtypes import BFLOAT16, to_numpy
from chainrule.engines.api import Engine
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.testing import interpret
from chainrule.transforms.engines import ENGINES as ALL_ENGINES

ENGINES = {name: engine for name, engine in ALL_ENGINES.items() if engine.problem() is None}
FLOATS = ("float32", "float64", BFLOAT16)
INTEGERS = ("int32", "int64", "uint32")


def numbers(dtype: str) -> np.ndarray:
    """Around the ends of every integer type, whole and broken ones, and what is no number."""
    ends = np.array([0.0, 1.0, 2.0**31, 2.0**32, 2.0**53, 2.0**63])
    narrow = np.concatenate([ends, 0.5 + ends[:4], ends - 1, ends - 0.5, [1e18, 1e30, 1e-30]]).astype(to_numpy(dtype))
    around = np.concatenate([narrow, np.nextafter(narrow.astype("float32"), np.float32(0)).astype(to_numpy(dtype))])
    return np.concatenate([around, -around, np.array([np.inf, -np.inf, np.nan, -0.0], to_numpy(dtype))])


def as_integer(number: float, dtype: str) -> int:
    """With the exact comparisons of Python's own numbers."""
    ends = np.iinfo(dtype)
    lowest, highest = int(ends.min), int(ends.max)
    return 0 if math.isnan(number) else lowest if number < lowest else highest if number > highest else int(number)


@pytest.mark.parametrize("target", INTEGERS)
@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("length", [4, 3000])
def test_floats_become_integers(engine: Engine, source: str, target: str, length: int) -> None:
    given = numbers(source)
    build = Builder()
    program = build.finish("cast", [build.cast(build.input(ArrayType((length,), source)), target)])
    run = engine.load(program)
    seen = [run([part]) for part in np.resize(given, (-(-given.size // length), length))]
    expected = [as_integer(float(number), target) for number in given]
    found = np.concatenate([part for (part,) in seen])[: given.size]
    assert found.dtype == target
    assert found.tolist() == expected
    if length == 4:
        for part, (result,) in zip(np.resize(given, (-(-given.size // 4), 4)), seen, strict=True):
            np.testing.assert_array_equal(interpret(program, [part], 1)[0], result)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_known_number_is_converted_by_the_same_definition(engine: str) -> None:
    """The passes fold it, the engine never sees it."""
    found = cr.compile(lambda x: x + cr.full((3,), 3e9).astype("int32"), engine=engine)(np.zeros(3, np.int32))
    assert found.tolist() == [2**31 - 1] * 3
