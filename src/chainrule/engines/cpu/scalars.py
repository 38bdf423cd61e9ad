"""The C of one element: types, literals and one expression per elementwise primitive."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.dtypes import (
    BFLOAT16,
    BOOL,
    FLOAT32,
    FLOAT64,
    FLOATS,
    INT32,
    INT64,
    INTEGERS,
    UINT32,
    DType,
    convert,
)

# Bfloat16 is the bits that it is: it is moved and converted, but never computed with (``widen.py``).
C_TYPES: Mapping[DType, str] = {
    BFLOAT16: "uint16_t",
    FLOAT32: "float",
    FLOAT64: "double",
    INT32: "int32_t",
    INT64: "int64_t",
    UINT32: "uint32_t",
    BOOL: "_Bool",
}
# How elements lie in memory: compilers vectorise loops over bytes, but not over _Bool.
STORED: Mapping[DType, str] = {**C_TYPES, BOOL: "uint8_t"}
BYTES: Mapping[DType, int] = {BFLOAT16: 2, FLOAT32: 4, FLOAT64: 8, INT32: 4, INT64: 8, UINT32: 4, BOOL: 1}
_UNSIGNED: Mapping[DType, str] = {INT32: "uint32_t", INT64: "uint64_t", UINT32: "uint32_t"}
_SUFFIX: Mapping[DType, str] = {FLOAT32: "f32", FLOAT64: "f64", INT32: "i32", INT64: "i64", UINT32: "u32"}


def literal(value: Any, dtype: DType) -> str:
    """A constant with exactly these bits (NaN payloads aside)."""
    if dtype == BOOL:
        return str(int(bool(value)))
    if dtype == BFLOAT16:
        return f"0x{int(convert(np.asarray(value), BFLOAT16).view(np.uint16)):04x}"
    if dtype not in FLOATS:
        whole = int(value)
        if dtype == INT64:
            return "INT64_MIN" if whole == -(2**63) else f"INT64_C({whole})"
        return f"{whole}u" if dtype == UINT32 else "INT32_MIN" if whole == -(2**31) else str(whole)
    number = float(value)
    if math.isnan(number):
        return "(float)NAN" if dtype == FLOAT32 else "(double)NAN"
    if math.isinf(number):
        text = "INFINITY" if number > 0 else "-INFINITY"
        return f"((float){text})" if dtype == FLOAT32 else f"((double){text})"
    exact = (
        f"{number:.1f}" if abs(number) < 1e6 and number == round(number, 1) and number * 2 % 1 == 0 else number.hex()
    )
    text = exact + ("f" if dtype == FLOAT32 else "")
    return f"({text})" if text.startswith("-") else text


# What is rounded to bfloat16 by a function of its own; float64 holds all others exactly.
_ROUNDED = frozenset({FLOAT32, FLOAT64, INT64})

Expression = Callable[[Sequence[str], DType], str]


def _same(template: str) -> Expression:
    return lambda x, dtype: template.format(*x)


def _function(name: str) -> Expression:
    return lambda x, dtype: f"cr_{name}_{_SUFFIX[dtype]}({', '.join(x)})"


def _arithmetic(sign: str) -> Expression:
    """Floats as they are; integers wrap around."""

    def write(x: Sequence[str], dtype: DType) -> str:
        if dtype in FLOATS:
            return f"{x[0]} {sign} {x[1]}"
        unsigned = _UNSIGNED[dtype]
        return f"({C_TYPES[dtype]})(({unsigned}){x[0]} {sign} ({unsigned}){x[1]})"

    return write


def _negative(x: Sequence[str], dtype: DType) -> str:
    return f"-{x[0]}" if dtype in FLOATS else f"({C_TYPES[dtype]})(0 - ({_UNSIGNED[dtype]}){x[0]})"


def _absolute(x: Sequence[str], dtype: DType) -> str:
    if dtype in FLOATS:
        return f"{'fabsf' if dtype == FLOAT32 else 'fabs'}({x[0]})"
    return x[0] if dtype == UINT32 else f"{x[0]} < 0 ? {_negative(x, dtype)} : {x[0]}"


def _sign(x: Sequence[str], dtype: DType) -> str:
    if dtype in FLOATS:
        return f"{x[0]} > 0 ? 1 : {x[0]} < 0 ? -1 : {x[0]} == 0 ? 0 : {x[0]}"
    return f"({x[0]} > 0) - ({x[0]} < 0)" if dtype != UINT32 else f"{x[0]} > 0"


def _larger(sign: str) -> Expression:
    def write(x: Sequence[str], dtype: DType) -> str:
        chosen = f"({x[0]} {sign} {x[1]} ? {x[0]} : {x[1]})"
        if dtype not in FLOATS:
            return chosen
        # A NaN in the first operand is added, since compilers make no vectors of a choice by `||`; x + -0 is x for every x.
        return f"{chosen} + ({x[0]} != {x[0]} ? {x[0]} : {literal(-0.0, dtype)})"

    return write


def _builtin(name: str) -> Expression:
    return lambda x, dtype: f"{name}{'f' if dtype == FLOAT32 else ''}({', '.join(x)})"


# Keyed by primitive; the element type given is that of the first operand.
EXPRESSIONS: Mapping[str, Expression] = {
    "neg": _negative,
    "abs": _absolute,
    "sign": _sign,
    "floor": _builtin("floor"),
    "sqrt": _builtin("sqrt"),
    "is_finite": lambda x, dtype: f"{_absolute(x, dtype)} <= {'FLT_MAX' if dtype == FLOAT32 else 'DBL_MAX'}",
    **{
        name: _function(name)
        for name in ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "logistic", "erf", "pow")
    },
    "logical_not": _same("!{0}"),
    "logical_and": _same("{0} & {1}"),
    "logical_or": _same("{0} | {1}"),
    "add": _arithmetic("+"),
    "sub": _arithmetic("-"),
    "mul": _arithmetic("*"),
    "div": _same("{0} / {1}"),
    "floor_div": _function("floor_div"),
    "remainder": _function("remainder"),
    "maximum": _larger(">="),
    "minimum": _larger("<="),
    "eq": _same("{0} == {1}"),
    "ne": _same("{0} != {1}"),
    "lt": _same("{0} < {1}"),
    "le": _same("{0} <= {1}"),
    "select": _same("{0} ? {1} : {2}"),
}

# What one evaluation costs, in additions; 1 where nothing is said.
COSTS: Mapping[str, int] = {
    "exp": 12,
    "expm1": 16,
    "log": 14,
    "log1p": 16,
    "sin": 16,
    "cos": 16,
    "tanh": 16,
    "logistic": 14,
    "erf": 16,
    "pow": 40,
    "div": 4,
    "sqrt": 5,
    "floor_div": 10,
    "remainder": 10,
    "random_bits": 80,
    "gather": 3,
}


def cast(x: str, given: DType, wanted: DType) -> str:
    if given == wanted:
        return x
    if given == BFLOAT16:
        return f"cr_from_bf16({x})" if wanted == FLOAT32 else cast(f"cr_from_bf16({x})", FLOAT32, wanted)
    if wanted == BFLOAT16:
        return f"cr_bf16_{_SUFFIX[given]}({x})" if given in _ROUNDED else f"cr_bf16_f64((double){x})"
    if given in FLOATS and wanted in INTEGERS:
        return f"cr_{_SUFFIX[wanted]}_{_SUFFIX[given]}({x})"
    return f"({C_TYPES[wanted]}){x}" if wanted != BOOL else f"{x} != 0"


def add_text(dtype: DType, x: str, y: str) -> str:
    return EXPRESSIONS["add"]((x, y), dtype)


def mul_text(dtype: DType, x: str, y: str) -> str:
    return EXPRESSIONS["mul"]((x, y), dtype)


def lowest(dtype: DType) -> str:
    """The number below all others, where a search for the largest begins."""
    if dtype in FLOATS:
        return literal(-np.inf, dtype)
    return {INT32: "INT32_MIN", INT64: "INT64_MIN", UINT32: "0u", BOOL: "0"}[dtype]
