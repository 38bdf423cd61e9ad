"""NaN, infinities, signed zeros, denormals, and the ends of integers: every primitive agrees with NumPy, in silence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from chainrule.engines.reference import ENGINE
from chainrule.ir.build import Builder
from chainrule.ir.contraction import parse_contraction
from chainrule.ir.graph import ArrayType

FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64", "uint32")


def special(dtype):
    info = np.finfo(dtype)
    ends = [info.max, info.tiny, info.smallest_subnormal, info.eps, 1 - info.epsneg]
    plain = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0, 20.0, 87.0, 89.0, 104.0, 709.0, 711.0, 746.0, 1e30]
    positive = np.array([*plain, *ends, np.inf], dtype)
    return np.concatenate([positive, -positive, np.array([np.nan, -np.nan], dtype)])


def ends_of(dtype):
    info = np.iinfo(dtype)
    return np.array(sorted({info.min, info.min + 1, -1 if info.min else 1, 0, 1, 2, 7, info.max - 1, info.max}), dtype)


def run(name, operands, **attributes):
    """One node on the reference engine."""
    b = Builder()
    inputs = [b.input(ArrayType(x.shape, str(x.dtype))) for x in operands]
    graph = b.finish(name, b.emit(name, inputs, attributes))
    before = [x.tobytes() for x in operands]
    results = ENGINE.load(graph)(operands)
    assert [x.tobytes() for x in operands] == before
    return results[0]


def same(found, expected):
    """Equal bit for bit, except that any NaN is a NaN."""
    expected = np.asarray(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    if found.dtype.kind == "f":
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(expected)[number])


def pairs(values):
    left, right = zip(*itertools.product(values, values), strict=True)
    return np.array(left, values.dtype), np.array(right, values.dtype)


UNARY = {
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "is_finite": np.isfinite,
}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
}
OF_INTEGERS = {
    **{k: BINARY[k] for k in BINARY if k not in ("div", "pow")},
    "floor_div": np.floor_divide,
    "remainder": np.remainder,
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UNARY)
def test_maps_of_one_operand(name, dtype):
    x = special(dtype)
    with np.errstate(all="ignore"):
        expected = UNARY[name](x)
    same(run(name, [x]), expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", BINARY)
def test_maps_of_two_operands(name, dtype):
    x, y = pairs(special(dtype))
    with np.errstate(all="ignore"):
        expected = BINARY[name](x, y)
    same(run(name, [x, y]), expected)


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "sqrt", "tanh", "floor"])
def test_maps_agree_with_the_c_library(name):
    """An oracle other than NumPy, which the engine itself is written in."""
    x = special("float64")

    pole = {"log": 0.0, "log1p": -1.0}.get(name)

    def exact(number):
        if name == "floor" and not math.isfinite(number):
            return number
        try:
            return float(getattr(math, name)(number))
        except OverflowError:
            return math.inf
        except ValueError:
            return -math.inf if number == pole else math.nan

    expected = [exact(float(number)) for number in x]
    np.testing.assert_array_max_ulp(run(name, [x]), np.array(expected), maxulp=2)


@pytest.mark.parametrize("dtype", FLOATS)
def test_logistic_keeps_both_tails(dtype):
    x = special(dtype)
    found = run("logistic", [x])
    expected = np.array([0.5 * (1 + math.tanh(0.5 * n)) if abs(n) < 1 else tail(float(n)) for n in x])
    np.testing.assert_allclose(found, expected.astype(dtype), rtol=4 * np.finfo(dtype).eps, atol=0)
    np.testing.assert_allclose(
        found, torch.sigmoid(torch.from_numpy(x)).numpy(), rtol=4 * np.finfo(dtype).eps, atol=1e-38
    )


def tail(x):
    """1 / (1 + exp(-x)) without overflow; exp of a very negative number is exact here."""
    if math.isnan(x):
        return x
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def test_erf_is_accurate_everywhere():
    x = np.concatenate(
        [special("float64"), np.linspace(-7, 7, 5001), np.geomspace(1e-320, 10, 2000), [0.84375, 1.25, 1 / 0.35, 6.0]]
    )
    expected = np.array([math.erf(n) for n in x])
    found = run("erf", [x])
    np.testing.assert_array_max_ulp(found, expected, maxulp=1)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(x))
    np.testing.assert_allclose(found, torch.erf(torch.from_numpy(x)).numpy(), rtol=1e-15, atol=1e-323)
    narrow = special("float32")
    np.testing.assert_array_max_ulp(run("erf", [narrow]), np.array([math.erf(n) for n in narrow], np.float32), maxulp=1)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", OF_INTEGERS)
def test_ends_of_integers(name, dtype):
    x, y = pairs(ends_of(dtype))
    with np.errstate(all="ignore"):
        expected = OF_INTEGERS[name](x, y)
    same(run(name, [x, y]), expected)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", ["neg", "abs", "sign"])
def test_ends_of_integers_of_one_operand(name, dtype):
    x = ends_of(dtype)
    same(run(name, [x]), UNARY[name](x))


def test_division_of_integers_by_zero_is_zero():
    x = np.array([5, -5, 0], np.int64)
    assert run("floor_div", [x, 0 * x]).tolist() == [0, 0, 0]
    assert run("remainder", [x, 0 * x]).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("source", "target"), [("float32", "float64"), ("float64", "float32"), ("float64", "bool"), ("float32", "bool")]
)
def test_casts_of_special_numbers(source, target):
    x = special(source)
    with np.errstate(all="ignore"):
        expected = x.astype(target)
    same(run("cast", [x], dtype=target), expected)


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(INTEGERS, 2)))
def test_casts_of_integers_wrap(source, target):
    same(run("cast", [ends_of(source)], dtype=target), ends_of(source).astype(target))


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_only_moves_numbers_keeps_every_bit(dtype):
    x = special(dtype)
    even = x.reshape(2, -1)
    moved = {
        "reshape": run("reshape", [x], shape=even.shape).reshape(-1),
        "transpose": run("transpose", [even], order=(1, 0)).T.reshape(-1),
        "broadcast": run("broadcast", [x], shape=(2, len(x)), axes=(1,))[1],
        "slice": run("slice", [x], starts=(0,), limits=(len(x),), strides=(1,)),
        "pad": run("pad", [x], low=(1,), high=(2,), inner=(1,), value=float("nan"))[1:-2:2],
        "flip": run("flip", [x], axes=(0,))[::-1],
        "concatenate": run("concatenate", [x, x], axis=0)[len(x) :],
        "gather": run("gather", [x, np.arange(len(x))], batch=0),
        "select": run("select", [np.ones(len(x), bool), x, np.zeros_like(x)]),
        "stop_gradient": run("stop_gradient", [x]),
        "reduce_sum": run("reduce_sum", [x], axes=()),
    }
    for name, found in moved.items():
        assert found.tobytes() == x.tobytes(), name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "row",
    [
        [np.nan, 1, 2],
        [np.inf, -np.inf, 1],
        [np.inf, np.inf, 1],
        [-np.inf, -1, -2],
        [-0.0, -0.0, -0.0],
        [0.0, -0.0, 0.0],
        [1e38, 1e38, -1e38],
        [1e-45, 1e-45, 0],
    ],
)
def test_reductions(row, dtype):
    x = np.array([row, [1, 2, 3]], dtype)
    with np.errstate(all="ignore"):
        same(run("reduce_sum", [x], axes=(1,)), np.add.reduce(x, axis=1))
    same(run("reduce_max", [x], axes=(1,)), np.maximum.reduce(x, axis=1))
    same(run("argmax", [x], axis=1), np.argmax(x, axis=1))


def test_sums_of_integers_wrap():
    x = np.array([2**31 - 1, 1, -5], np.int32)
    assert run("reduce_sum", [x], axes=(0,)) == np.int32(-(2**31) - 5 + 2**32)
    assert run("reduce_max", [np.array([-(2**31), -1], np.int32)], axes=(0,)) == -1


@pytest.mark.parametrize("dtype", FLOATS)
def test_products_of_special_matrices(dtype):
    rng = np.random.default_rng(0)
    numbers = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, np.finfo(dtype).tiny], dtype)
    spec = parse_contraction("[7, 5] i0:7 i1:5 i2:3 | [i0, i1] += [i0, i2] * [i2, i1]")
    for _ in range(20):
        x, y = rng.choice(numbers, (7, 3)), rng.choice(numbers, (3, 5))
        with np.errstate(all="ignore"):
            terms = x[:, :, None] * y[None]
            np.testing.assert_array_equal(run("contract", [x, y], spec=spec), terms[:, 0] + terms[:, 1] + terms[:, 2])


def test_a_position_outside_reads_zero_even_beside_nan():
    x = np.array([np.nan, 1.0])
    same(run("gather", [x, np.array([-1, 0, 2])], batch=0), np.array([0, np.nan, 0]))
    spec = parse_contraction("[3] i0:3 | [i0] += [i0-1] * [i0]")
    same(run("contract", [x, np.ones(3)], spec=spec), np.array([0, np.nan, 1.0]))


def test_scattering_special_numbers():
    x = np.array([np.inf, -np.inf, np.nan, 1e308, 1e308, 5.0])
    places = np.array([0, 0, 1, 2, 2, 7])
    with np.errstate(all="ignore"):
        same(run("scatter_add", [x, places], batch=0, size=4), np.array([np.nan, np.nan, np.inf, 0.0]))


def test_the_largest_of_an_empty_batch_is_refused_in_words():
    from chainrule.core.errors import ShapeError
    from chainrule.ir.sizes import BATCH

    for name, attributes in (("reduce_max", {"axes": (0,)}), ("argmax", {"axis": 0})):
        b = Builder()
        x = b.input(ArrayType((BATCH, 2), "float32"))
        program = ENGINE.load(b.finish(name, b.emit(name, [x], attributes)))
        with pytest.raises(ShapeError, match="empty batch"):
            program([np.zeros((0, 2), np.float32)])
        assert program([np.ones((1, 2), np.float32)])[0].shape == (2,)


def test_an_empty_batch_flows_through():
    from chainrule.ir.sizes import BATCH

    b = Builder()
    x, w = b.input(ArrayType((BATCH, 2), "float32")), b.input(ArrayType((2, 3), "float32"))
    y = b.matmul(x, w)
    program = ENGINE.load(b.finish("empty", [b.exp(y), b.reduce_sum(y, (0,))]))
    rows, total = program([np.zeros((0, 2), np.float32), np.ones((2, 3), np.float32)])
    assert rows.shape == (0, 3)
    assert total.tolist() == [0, 0, 0]
