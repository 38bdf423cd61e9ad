"""Bfloat16 in generated C: the conversions bit by bit, and programs of every form against the reference engine.

Every primitive on bfloat16 is compared in ``tests/conformance``, among the slow tests.
"""

from __future__ import annotations

import numpy as np
import pytest

import chainrule as cr
from chainrule import ops
from chainrule.core.dtypes import ALL, to_numpy
from chainrule.engines.cpu import checks
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.lowering import lower
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType
from chainrule.ir.sizes import BATCH
from chainrule.ir.verify import verify

BF16 = to_numpy("bfloat16")


def conversions(given, wanted):
    b = Builder()
    x = b.input(ArrayType((BATCH,), given))
    return verify(b.finish("conversion", [b.cast(x, wanted)]))


def numbers_of(dtype):
    rng = np.random.default_rng(0)
    every = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    if dtype == "bfloat16":
        return np.arange(2**16, dtype=np.uint16).view(BF16)
    if dtype == "float32":
        lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
        return (every.view(np.uint32)[:, None] | lower).ravel().view(np.float32)
    if dtype == "float64":
        finite = np.unique(every[np.isfinite(every)]).astype(np.float64)
        middle = (finite[1:] + finite[:-1]) / 2
        return np.concatenate(
            [middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf), [np.nan, np.inf, 1e300]]
        )
    if dtype == "bool":
        return np.array([True, False])
    info = np.iinfo(dtype)
    near = [(2**k + 2**j + d) * sign for k in range(8, 63) for j in (k - 8, 0) for d in (-1, 0, 1) for sign in (1, -1)]
    inside = [k for k in near if info.min <= k <= info.max]
    return np.concatenate([np.array([info.min, info.max, 0, *inside]), rng.integers(info.min, info.max, 999)]).astype(
        dtype
    )


@pytest.mark.parametrize("dtype", sorted(ALL))
def test_everything_is_rounded_to_bfloat16_as_the_reference_does(dtype):
    graph, x = conversions(dtype, "bfloat16"), numbers_of(dtype)
    (found,), (expected,) = ENGINE.load(graph)([x]), REFERENCE.load(graph)([x])
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), nan)
    np.testing.assert_array_equal(found.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint32", "bool"])
def test_bfloat16_becomes_anything_as_the_reference_does(dtype):
    graph, x = conversions("bfloat16", dtype), numbers_of("bfloat16")
    if "float" not in dtype and dtype != "bool":  # outside the range of whole numbers the result depends on the machine
        wide = x.astype(np.float32)
        x = x[(np.abs(wide) < 2**30) & ((wide >= 0) | (dtype != "uint32"))]
    (found,), (expected,) = ENGINE.load(graph)([x]), REFERENCE.load(graph)([x])
    np.testing.assert_array_equal(found, expected)


def many_forms(x, y, places):
    """Maps, sums, products, views, selections, indexing and a loop, all on bfloat16."""
    x, y = x.astype("bfloat16"), y.astype("bfloat16")
    z = ops.where(x < y, x * y, ops.tanh(x) - 0.5)
    stepped, rows = cr.scan(lambda c, row: ((c + row).astype("bfloat16"), c * row), z[0] * 0, z[:5])
    return {
        "map": z,
        "sum": z.sum(axis=0),
        "largest": z.max(axis=1),
        "place": z.argmax(1),
        "product": x @ y.T,
        "turned": ops.pad(z.T, ((1, 0), (0, 2)), 0.3)[::-1],
        "joined": ops.concatenate([x[:, :2], z], axis=1),
        "taken": ops.take(z, places),
        "scattered": ops.scatter_add(z[:4], places, 9),
        "carried": stepped,
        "rows": rows,
        "count": ops.arange(300, "bfloat16"),
        "finite": ops.is_finite(x / (y - y)),
    }


@pytest.mark.parametrize("shape", [(7, 5), (64, 33)])
def test_programs_do_what_the_reference_does(shape):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    places = np.array([3, 0, 6, 9])
    found, expected = (cr.compile(many_forms, engine=engine)(x, y, places) for engine in ("cpu", "reference"))
    for name, wanted in expected.items():
        assert found[name].dtype == wanted.dtype, name
        tolerance = 1e-5 if wanted.dtype == np.float32 else 0
        if name == "map":  # tanh may differ by a unit of float32, which hardly ever decides how bfloat16 is rounded
            assert (found[name] != wanted).mean() < 0.01
        np.testing.assert_allclose(
            found[name].astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_arithmetic_that_was_not_widened_is_seen():
    b = Builder()
    x = b.input(ArrayType((3,), "bfloat16"))
    with pytest.raises(AssertionError, match=r"add in .* computes with bfloat16"):
        checks.check_widened(b.finish("narrow", [b.add(x, x)]))
    lowered = lower(b.finish("narrow", [b.add(x, x)]), frozenset(), 32)
    assert "cr_bf16_f32(" in lowered.source.text


@pytest.mark.parametrize("shape", [(8, 9), (64, 48), (3, 32, 16)])
def test_transposed_arrays_are_copied_element_by_element(shape):
    """Blocks of floats are transposed in vectors; those of bfloat16 are not, since there are no vectors of it."""
    x = np.arange(np.prod(shape)).reshape(shape).astype(BF16)
    turned = cr.compile(lambda x: x.swapaxes(-1, -2) + 0, engine="cpu")(x)
    moved = cr.compile(lambda x: ops.transpose(x, (*range(1, x.ndim), 0)), engine="cpu")(x)
    np.testing.assert_array_equal(turned, x.swapaxes(-1, -2))
    np.testing.assert_array_equal(moved, np.moveaxis(x, 0, -1))
