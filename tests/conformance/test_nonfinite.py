"""Infinities and NaN in convolutions: they reach every result that they belong to, and no other.

Where a window reaches beyond its operand, an engine may multiply by the zero that stands there or leave the term out. So there,
and only there, NaN may stand for what the other terms give.

Algorithms with fewer multiplications add and subtract what stands side by side first. An engine computes results that are not finite
in them again from the definition, but in gradients of weights all taps of the same channels may be NaN; nothing vanishes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.transforms.engines import ENGINES

NDArray = np.ndarray[Any, Any]
SIZE, WINDOW = (7, 6), (3, 2)
# Stride, padding, dilation; windows of several axes differ.
SETTINGS = [
    (1, 0, 1),
    (1, 1, 1),
    (2, 1, 1),
    (1, ((2, 0), (0, 1)), 1),
    (3, 2, 1),
    (1, 2, 2),
    (2, 2, (2, 1)),
    ((1, 2), "same", 1),
]
# The first is a plain loop nest on the cpu engine, the others run in tiles; the last have enough for fewer multiplications.
CHANNELS = [(1, 1), (8, 16), (3, 24), (16, 16)]
BATCH = 8
ENGINES_HERE = [name for name, engine in ENGINES.items() if engine.problem() is None]
SPECIAL = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan}
FINITE, PLUS, MINUS, NAN = range(4)


def kinds(x: NDArray) -> NDArray:
    return np.select([np.isnan(x), x == np.inf, x == -np.inf], [NAN, PLUS, MINUS], FINITE)


def per_axis(setting: Any) -> tuple[Any, Any]:
    return setting if isinstance(setting, tuple) else (setting, setting)


def terms(axis: int, stride: int, before: int, dilation: int, places: int) -> Iterator[tuple[int, int, int]]:
    """(position in x, in the window, in the result) of all terms along an axis, inside or not."""
    for k in range(WINDOW[axis]):
        for o in range(-9, places + 9):
            yield stride * o + dilation * k - before, k, o


def convolution_and_gradients(
    x: NDArray, w: NDArray, g: NDArray, strides: Any, before: Any, dilations: Any
) -> list[tuple[NDArray, NDArray]]:
    """The result and the gradients of both operands, term by term, and whether a factor met the outside and is not finite."""
    found = [(np.zeros(a.shape), np.zeros(a.shape, bool)) for a in (g, x, w)]
    (y, y_met), (dx, dx_met), (dw, dw_met) = found
    rows, columns = (list(terms(a, strides[a], before[a], dilations[a], g.shape[1 + a])) for a in (0, 1))
    for (p, k, o), (q, m, r) in product(rows, columns):
        reads = 0 <= p < SIZE[0] and 0 <= q < SIZE[1]
        writes = 0 <= o < g.shape[1] and 0 <= r < g.shape[2]
        weight = w[k, m]
        if reads and writes:
            with np.errstate(invalid="ignore"):
                y[:, o, r] += (x[:, p, q, :, None] * weight).sum(1)
                dx[:, p, q] += (g[:, o, r, None, :] * weight).sum(2)
                dw[k, m] += (x[:, p, q, :, None] * g[:, o, r, None, :]).sum(0)
        elif writes:
            y_met[:, o, r] |= ~np.isfinite(weight).all(0)
            dw_met[k, m] |= ~np.isfinite(g[:, o, r]).all(0)
        elif reads:
            dx_met[:, p, q] |= ~np.isfinite(weight).all(1)
            dw_met[k, m] |= ~np.isfinite(x[:, p, q]).all(0)[:, None]
    return found


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_what_is_not_finite_reaches_its_results(engine: str, channels: tuple[int, int], setting: Any) -> None:
    stride, padding, dilation = setting

    def step(x: cr.Array, w: cr.Array, g: cr.Array) -> Any:
        y, gradients = cr.vjp(lambda x, w: cr.convolution(x, w, stride, padding, dilation), x, w, cotangents=g)
        return y, *gradients

    random = np.random.default_rng(0)
    x = random.uniform(0.5, 1, (BATCH if min(channels) >= 16 else 2, *SIZE, channels[0])).astype("float32")
    w = random.uniform(0.5, 1, (*WINDOW, *channels)).astype("float32")
    y = cr.convolution(x, w, stride, padding, dilation)
    g = random.uniform(0.5, 1, y.shape).astype("float32")
    strides, dilations = per_axis(stride), per_axis(dilation)
    if padding == "same":
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, WINDOW, strict=True)]
        before = [
            max(0, (o - 1) * s + r - n) // 2 for o, s, r, n in zip(y.shape[1:3], strides, reach, SIZE, strict=True)
        ]
    else:
        before = [low if isinstance(low, int) else low[0] for low in per_axis(padding)]
    compiled = cr.compile(step, engine=engine)
    for operand, value in product(range(3), SPECIAL.values()):
        operands = [x.copy(), w.copy(), g.copy()]
        places = random.choice(operands[operand].size, 1 + operands[operand].size // 40, replace=False)
        operands[operand].ravel()[places] = value
        with np.errstate(all="ignore"):
            results = compiled(*operands)
        for result, (expected, met) in zip(
            results, convolution_and_gradients(*operands, strides, before, dilations), strict=True
        ):
            wanted, seen = kinds(expected), kinds(result)
            as_wanted = (seen == wanted) | (met & (seen == NAN))
            if engine == "cpu" and min(channels) >= 16 and result.shape == w.shape:
                as_wanted |= (seen == NAN) & (wanted != FINITE).any((0, 1))
            assert as_wanted.all()
            finite = (wanted == FINITE) & (seen == FINITE)
            np.testing.assert_allclose(result[finite], expected[finite], rtol=1e-5)
