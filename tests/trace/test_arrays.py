"""What a traced array can and cannot be asked, and what the answer says instead."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.dtypes import convert, dtype_name, to_numpy
from chainrule.core.errors import DTypeError, ShapeError, TraceError
from chainrule.ir.sizes import BATCH
from chainrule.trace import scope

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def traced(function, *args, batch=()):
    """Whatever the function raises while it is traced."""
    return cr.trace(function, *args, batch=batch)


def test_print_shows_the_symbolic_array(capsys):
    def shown(x):
        print(x, x.sum())
        return x

    traced(shown, X, batch="x")
    assert capsys.readouterr().out == "Array(f32[B, 3] 'x') Array(f32[])\n"


@pytest.mark.parametrize(
    ("use", "advice"),
    [
        (lambda x: 1 if x.sum() > 0 else 2, r"chainrule\.where\(condition, a, b\)"),
        (lambda x: x.sum() and 1, "& | ~"),
        (lambda x: not x.sum(), "pass the decision as a Python bool or int"),
        (lambda x: 3 in x[0], r"chainrule\.where"),
        (lambda x: float(x.sum()), "return it and look at the result"),
        (lambda x: int(x.sum()), "return it and look"),
        (lambda x: x.sum().item(), "return it and look"),
        (lambda x: np.asarray(x), "compute with it through operators and chainrule.ops"),
        (lambda x: np.exp(x), "numpy.exp needs numbers"),
        (lambda x: list(range(x.argmax(0)[0])), "return it and look"),
        (lambda x: len(x.sum()), "rank 0 has no length"),
        (lambda x: x[x > 0], r"instead of a boolean mask chainrule\.where"),
        (lambda x: x[np.array([0, 1])], r"chainrule\.take"),
        (lambda x: x[True], "integers, slices, None and Ellipsis"),
        (lambda x: x["a"], "integers, slices, None and Ellipsis"),
        (lambda x: x[1.0], "integers, slices, None and Ellipsis"),
    ],
)
def test_questions_without_an_answer_say_what_to_write_instead(use, advice):
    with pytest.raises(TypeError, match=advice):
        traced(use, X)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x: len(x), "depends on the batch size"),
        (lambda x: list(x), "depends on the batch size"),
        (lambda x: x[:2], "can only be taken whole"),
        (lambda x: x[1:], "can only be taken whole"),
        (lambda x: x * x.shape[0], "does not hold numbers|depends on the batch size"),
        (lambda x: np.zeros(x.shape), "batch size|integer"),
        (lambda x: range(x.shape[0]), "depends on the batch size"),
    ],
)
def test_the_batch_size_is_no_number(use, message):
    with pytest.raises(TypeError, match=message):
        traced(use, X, batch="x")


LEAKED = []


def leak(x):
    LEAKED.append(x)
    return x * 2


def test_an_array_that_leaks_from_its_function_says_so():
    LEAKED.clear()
    cr.compile(leak)(X)
    for use in (lambda: LEAKED[0] + 1, lambda: cr.exp(LEAKED[0]), lambda: LEAKED[0][0], lambda: LEAKED[0].sum()):
        with pytest.raises(TraceError, match="after the tracing in which it was made has ended; return it"):
            use()
    with pytest.raises(TraceError, match="return it"):
        cr.compile(lambda x: x + LEAKED[0])(X)


def test_an_array_that_leaks_from_a_loop_says_so():
    def looped(x):
        LEAKED.clear()
        cr.scan(lambda c, row: (c + row, leak(row)), x[0], x)
        return LEAKED[0].sum()

    with pytest.raises(TraceError, match="has ended; return it"):
        traced(looped, X)


def test_an_error_while_tracing_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError):
        cr.compile(lambda x: 1 / 0)(X)
    np.testing.assert_array_equal(cr.exp(np.zeros(2)), [1, 1])
    np.testing.assert_array_equal(cr.compile(lambda x: x + 1)(X), X + 1)


def test_errors_name_both_shapes_the_layer_and_the_line():
    def model(x, w):
        with scope("encoder"), scope("linear"):
            return cr.concatenate([x, w])

    with pytest.raises(ShapeError, match=r"layer 'encoder\.linear' at test_arrays\.py:\d+.*f32\[2, 3\] and f32\[5\]"):
        traced(model, X, np.zeros(5, np.float32))
    with pytest.raises(ShapeError, match=r"shapes \(2, 3\) and \(4,\) cannot be broadcast"):
        traced(lambda x: x + np.zeros(4), X)
    with pytest.raises(ShapeError, match=r"\(B, 3\) and \(2, 3\) cannot be broadcast"):
        traced(lambda x: x + X, X, batch="x")
    with pytest.raises(
        ShapeError,
        match=r"\(2, 3\) and \(2, 3\) cannot be multiplied: the last size of the first is 3, but the second expects 2",
    ):
        traced(lambda x: x @ x, X)


# --- operators and methods do what numpy.ndarray's do ---------------------------------------------------------------------

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("op", [*OPERATORS, *COMPARISONS, operator.floordiv, operator.mod])
def test_operators_with_arrays_and_numbers_on_either_side(op):
    whole = op in (operator.floordiv, operator.mod)
    x = np.array([1, 2, 5], np.int64) if whole else np.array([0.5, 2.0, 3.0])
    y = np.array([3, 2, 2], np.int64) if whole else np.array([1.5, 2.0, -1.0])
    number = 2 if whole else 1.5
    for function, args in (
        (lambda x, y: op(x, y), (x, y)),
        (lambda x: op(x, number), (x,)),
        (lambda x: op(number, x), (x,)),
        (lambda x: op(x, y), (x,)),
        (lambda x: op(y, x), (x,)),
    ):
        found, expected = cr.compile(function)(*args), function(*args)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_logical_operators():
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    for function in (
        lambda a, b: a & b,
        lambda a, b: a | b,
        lambda a, b: ~a,
        lambda a, b: True & a,
        lambda a, b: a | (b == a),
    ):
        np.testing.assert_array_equal(cr.compile(function)(a, b), function(a, b))
    with pytest.raises(DTypeError, match="booleans are needed"):
        cr.compile(lambda x: x & 1)(np.arange(3))


METHODS = {
    "T": lambda x: x.T,
    "transpose": lambda x: x.transpose(2, 0, 1),
    "transpose of a tuple": lambda x: x.transpose((1, 0, 2)),
    "transpose from the end": lambda x: x.transpose(-1, 0, -2),
    "swapaxes": lambda x: x.swapaxes(0, -1),
    "reshape": lambda x: x.reshape(6, -1),
    "reshape of a tuple": lambda x: x.reshape((5, 6)),
    "sum": lambda x: x.sum(),
    "sum of axes": lambda x: x.sum((0, -1)),
    "sum with axes kept": lambda x: x.sum(1, keepdims=True),
    "mean": lambda x: x.mean(),
    "mean of an axis": lambda x: x.mean(-1, keepdims=True),
    "max": lambda x: x.max(0),
    "min": lambda x: x.min((0, 2), keepdims=True),
    "argmax": lambda x: x.argmax(-1),
    "neg": lambda x: -x,
    "pos": lambda x: +x,
    "abs": lambda x: abs(x),
    "square": lambda x: x**2,
    "matmul": lambda x: x @ x.transpose(0, 2, 1),
    "iteration": lambda x: sum(row.sum() for row in x),
    "len": lambda x: x * len(x),
    "ndim": lambda x: x * x.ndim,
}


@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    x = np.random.default_rng(0).normal(size=(2, 3, 5))
    found, expected = cr.compile(METHODS[name])(x), METHODS[name](x)
    assert found.dtype == expected.dtype
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "bool"])
def test_extremes_of_integers(dtype):
    ends = [0, 1] if dtype == "bool" else [np.iinfo(dtype).min, 3, np.iinfo(dtype).max]
    x = np.array(ends, dtype)
    for function in (lambda x: x.min(), lambda x: x.max(), lambda x: x.argmax(0)):
        found = cr.compile(function)(x)
        assert found == function(x)
        assert found.dtype == function(x).dtype


def test_means_of_integers_and_booleans_are_float32():
    for x in (np.array([1, 2, 4]), np.array([True, True, False])):
        found = cr.compile(lambda x: x.mean())(x)
        assert found.dtype == np.float32
        assert found == np.float32(x.mean())
    assert cr.compile(lambda x: x.sum())(np.array([True, True])).dtype == np.int64


@pytest.mark.parametrize(
    "use", [lambda x: x.transpose(0, 2), lambda x: x.swapaxes(0, 2), lambda x: x.sum(2), lambda x: x.sum((0, 0)),
            lambda x: x.argmax(-3),
            lambda x: x.reshape(4), lambda x: x.reshape(-1, -1), lambda x: x.reshape(-2, -3), lambda x: x.reshape(4, -1),
            lambda x: x.transpose(0, 0),
            lambda x: x[0, 0, 0], lambda x: x[2], lambda x: x[..., -4], lambda x: x[..., ...]],
)  # fmt: skip
def test_axes_and_shapes_that_do_not_exist(use):
    with pytest.raises(ShapeError):
        traced(use, X)


# --- the type of a result -------------------------------------------------------------------------------------------------

STRONG = ["bool", "uint32", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize(("one", "other"), list(itertools.product(STRONG, STRONG)))
def test_arrays_promote_by_width_and_floats_win(one, other):
    if {one, other} == {"bool"}:
        return
    found = cr.compile(lambda x, y: x + y)(np.ones(1, one), np.ones(1, other)).dtype
    if {one, other} & {"float32", "float64"}:
        assert found == ("float64" if "float64" in (one, other) else "float32")
    else:
        assert found == np.promote_types(one, other)


@pytest.mark.parametrize("dtype", STRONG)
def test_python_numbers_adopt_the_type_they_meet(dtype):
    x = np.ones(2, dtype)
    whole = cr.compile(lambda x: x * 2)(x)
    real = cr.compile(lambda x: x * 2.5)(x)
    assert whole.dtype == ("int64" if dtype == "bool" else dtype)
    assert real.dtype == (dtype if dtype.startswith("float") else "float32")
    assert cr.compile(lambda x: x * np.float64(2.5))(x).dtype == real.dtype, "a NumPy scalar is a number too"


def test_a_python_number_that_does_not_fit_is_refused():
    for dtype, number in (("int32", 2**31), ("uint32", -1), ("int32", -(2**31) - 1)):
        with pytest.raises(DTypeError, match=f"the number {number} does not fit into {dtype}"):
            cr.compile(lambda x, n=number: x + n)(np.ones(2, dtype), number)
    assert cr.compile(lambda x: x * 2**40)(np.ones(1, np.float32)) == np.float32(2**40)


def test_numbers_alone_become_float32_at_once_and_traced():
    for found in (cr.exp(1.0), cr.compile(lambda: cr.exp(1.0))(), cr.compile(lambda x: x * 2)(1.5)):
        assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("given_as", "used_as"),
    [
        ("float16", "float32"),
        ("int8", "int32"),
        ("uint8", "int32"),
        ("uint16", "int32"),
        (">f8", "float64"),
        ("uint64", "int64"),
    ],
)
def test_narrow_and_foreign_types_are_widened(given_as, used_as):
    x = np.array([1, 2, 3], given_as)
    for found in (cr.compile(lambda x: x * 2)(x), cr.reshape(x, (3, 1)).reshape(-1) * 2):
        assert found.dtype == used_as
        np.testing.assert_array_equal(found, [2, 4, 6])


@pytest.mark.parametrize(
    "x",
    ["text", None, np.array(["a"]), np.array([None]), np.array([1j]), {"a": 1}, np.array(["2020-01-01"], "M8[D]")],
    ids=str,
)
def test_what_is_no_array_of_numbers_is_refused(x):
    with pytest.raises((DTypeError, TypeError)):
        cr.exp(x)


def test_lists_are_arrays():
    np.testing.assert_allclose(cr.compile(lambda x: x * [1, 2, 3])(X), X * [1, 2, 3])
    assert cr.sum([1.5, 2.5]) == 4


def test_shapes_that_contain_the_batch_size():
    seen = []

    def shapes(x):
        seen.extend(
            [
                x.shape,
                x.reshape(-1).shape,
                x.reshape(-1, 1, 3).shape,
                cr.concatenate([x, x]).shape,
                x.reshape(x.shape[0] * 3).shape,
            ]
        )
        return x.sum()

    traced(shapes, X, batch="x")
    assert seen == [(BATCH, 3), (BATCH * 3,), (BATCH, 1, 3), (BATCH * 2, 3), (BATCH * 3,)]


@pytest.mark.parametrize("dtype", ["uint32", "int32", "int64", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("number", [True, 3, 1 / 3, 1 + 2.0**-8 + 2.0**-40, 1e300, float("nan")])
def test_python_numbers_are_written_in_the_type_they_adopt(dtype, number):
    """A constant and no cast of one, with the bits that the cast would give, and no warning where it overflows."""
    x = np.zeros(2, to_numpy(dtype))
    graph = cr.trace(lambda x: cr.maximum(x, number), x)
    (constant,) = [node for node in graph.nodes if node.primitive.name == "constant"]
    found = constant.attributes["value"]
    assert dtype_name(found.dtype) == graph.nodes[-1].inputs[1].dtype
    with np.errstate(over="ignore"):
        expected = convert(np.asarray(number), dtype_name(found.dtype))
    assert found.tobytes() == expected.tobytes()
    casts = [node for node in graph.nodes if node.primitive.name == "cast"]
    assert all(node.inputs[0] is graph.inputs[0] for node in casts)


W = np.arange(6.0).reshape(2, 3) - 2
OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / (b + 9),
    "**": lambda a, b: (a + 9) ** b,
    "@": lambda a, b: a.T @ b,
    "//": lambda a, b: a.astype("int64") // (b.astype("int64") + 9),
    "%": lambda a, b: a.astype("int64") % (b.astype("int64") + 9),
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "&": lambda a, b: (a > 0) & (b > 0),
    "|": lambda a, b: (a > 0) | (b > 0),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_numpy_on_the_left_of_an_operator_gives_what_numpy_gives(operator: str) -> None:
    x = W[::-1].copy()
    function = OPERATORS[operator]
    np.testing.assert_allclose(cr.compile(lambda x: function(W, x))(x), function(W, x), rtol=1e-12)
    if operator not in "@":
        number = np.float64(2.0)
        np.testing.assert_allclose(cr.compile(lambda x: function(number, x))(x), function(number, x), rtol=1e-12)


def test_an_array_of_numpy_may_be_added_to_in_place() -> None:
    def total(x: Any) -> Any:
        sum = np.zeros((2, 3))
        for _ in range(3):
            sum += x
        return sum

    np.testing.assert_array_equal(cr.compile(total)(W), 3 * W)


NOT_TRACED = {
    "tanh": lambda x: np.tanh(x),
    "add": lambda x: np.add(x, 1),
    "sum": np.sum,
    "mean": lambda x: np.mean(x, 0),
    "max": np.max,
    "where": lambda x: np.where(x > 0, x, 0),
    "concatenate": lambda x: np.concatenate([x, W]),
    "dot": lambda x: np.dot(W, x.T),
    "norm": np.linalg.norm,
    "multiply": np.multiply.reduce,
    "subtract": lambda x: np.subtract(W, x, out=np.zeros_like(W)),
}


@pytest.mark.parametrize("name", NOT_TRACED)
def test_functions_of_numpy_say_what_to_use(name: str) -> None:
    with pytest.raises(TraceError, match=rf"numpy\.{name} needs numbers, .* such as chainrule\.tanh, and methods"):
        cr.compile(NOT_TRACED[name])(W)


def test_numpy_may_ask_for_shapes() -> None:
    shapes = []
    cr.compile(lambda x: shapes.append((np.shape(x), np.ndim(x))))(W)
    assert shapes == [((2, 3), 2)]
