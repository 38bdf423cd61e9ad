"""Random numbers: reproducible, independent of shape and engine, and distributed as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import DTypeError, ShapeError
from chainrule.engines.reference.draws import in_blocks
from chainrule.engines.reference.threefry import BLOCK
from chainrule.trace import draws

KEY = np.array([1, 2], np.uint32)
N = 200_000


def within(found, expected, deviation):
    """Five standard errors of a mean over N draws."""
    assert abs(float(found) - expected) < 5 * deviation / math.sqrt(N)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_numbers(dtype):
    x = cr.random.uniform((N,), key=KEY, dtype=dtype)
    assert x.dtype == dtype
    assert 0 <= x.min() < 1e-4
    assert 1 - 1e-4 < x.max() < 1
    within(x.mean(), 1 / 2, math.sqrt(1 / 12))
    within((x**2).mean(), 1 / 3, math.sqrt(4 / 45))
    counts = np.bincount((x * 16).astype(int), minlength=16)
    assert ((counts - N / 16) ** 2 / (N / 16)).sum() < 45, "chi-square of 15 degrees of freedom"
    within(x[1:] @ x[:-1] / (N - 1), 1 / 4, 0.3)


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.0), (-3.0, -1.0), (100.0, 100.0001), (5.0, 5.0)])
def test_uniform_numbers_never_reach_the_upper_bound(low, high):
    x = cr.random.uniform((1000,), low, high, key=KEY)
    assert (x >= np.float32(low)).all()
    assert (x < np.float32(high)).all() or low == high


def test_the_largest_uniform_number_stays_below_the_bound(monkeypatch):
    """All bits set is the draw that rounding would carry to the bound."""
    from chainrule.ops import random

    largest = np.full((1,), 1 - 2**-24, np.float32)
    monkeypatch.setattr(random, "_unit", lambda words, dtype: random.as_array(largest))
    assert cr.random.uniform((1,), 1.0, 2.0)[0] == np.nextafter(np.float32(2), np.float32(1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_numbers(dtype):
    x = cr.random.normal((N,), 3.0, 2.0, key=KEY, dtype=dtype)
    assert x.dtype == dtype
    z = (x.astype(np.float64) - 3) / 2
    assert np.isfinite(z).all()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        within((z**power).mean(), moment, math.sqrt(variance))
    within((np.abs(z) < 1).mean(), math.erf(1 / math.sqrt(2)), 0.5)
    within(z[1:] @ z[:-1] / (N - 1), 0, 1)


def test_the_smallest_uniform_number_gives_a_finite_normal_one(monkeypatch):
    """No bit set is the draw whose logarithm would be infinite."""
    from chainrule.ops import random

    monkeypatch.setattr(random, "_unit", lambda words, dtype: random.as_array(np.zeros(words.shape, np.float32)))
    assert np.isfinite(cr.random.normal((3,))).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_bernoulli(probability):
    x = cr.random.bernoulli(probability, (N,), key=KEY)
    assert x.dtype == np.bool_
    within(x.mean(), probability, math.sqrt(probability * (1 - probability)) + 1e-12)


DRAWS = [
    cr.random.bits,
    cr.random.uniform,
    cr.random.normal,
    lambda shape, key: cr.random.uniform(shape, key=key, dtype="float64"),
    lambda shape, key: cr.random.bernoulli(0.5, shape, key=key),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_a_longer_draw_begins_like_a_shorter_one_and_shapes_only_arrange(draw):
    long = draw((120,), key=KEY)
    np.testing.assert_array_equal(long[:7], draw((7,), key=KEY))
    np.testing.assert_array_equal(long, draw((2, 3, 20), key=KEY).reshape(-1))
    assert draw(5, key=KEY).shape == (5,)
    assert draw((), key=KEY).shape == ()
    assert draw((0, 3), key=KEY).shape == (0, 3)


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_are_the_same_at_once_and_traced(draw):
    np.testing.assert_array_equal(draw((50,), key=KEY), cr.compile(lambda key: draw((50,), key=key))(KEY))


def test_a_batch_of_any_size_can_be_drawn():
    compiled = cr.compile(lambda x, key: cr.random.uniform(x.shape, key=key), batch="x")
    for count in (1, 2, 7):
        np.testing.assert_array_equal(compiled(np.zeros((count, 3)), KEY), cr.random.uniform((count, 3), key=KEY))


def test_keys():
    assert cr.random.key(2**32 * 5 + 7).tolist() == [7, 5]
    keys = cr.random.split(KEY, 100)
    folded = [cr.random.fold_in(KEY, n) for n in range(100)]
    distinct = {tuple(key) for key in (*keys.tolist(), *(k.tolist() for k in folded), KEY.tolist())}
    assert len(distinct) == 201
    np.testing.assert_array_equal(keys[:2], cr.random.split(KEY))


def test_streams_of_different_keys_are_unrelated():
    draws = np.stack([cr.random.normal((20_000,), key=key) for key in cr.random.split(KEY, 8)])
    assert np.abs(np.corrcoef(draws) - np.eye(8)).max() < 0.04


def test_what_is_no_key_or_no_type():
    with pytest.raises(ShapeError, match=r"a key has shape \(2,\).*chainrule\.random\.key"):
        cr.random.bits((3,), key=np.zeros(3, np.uint32))
    with pytest.raises(DTypeError, match="float32 or float64, not int64"):
        cr.random.uniform((3,), key=KEY, dtype="int64")


def test_gradients_pass_through_the_parameters_of_a_draw():
    def loss(mean, std):
        return cr.square(cr.random.normal((4,), mean, std, key=KEY, dtype="float64")).sum()

    assert cr.check_gradients(loss, np.array(0.3), np.array(1.5))


# Of float32 and float64, of one word and of two and four, with settings of all kinds of numbers and with arrays.
MANY = {
    "uniform": lambda shape, key: cr.random.uniform(shape, key=key),
    "uniform between": lambda shape, key: cr.random.uniform(shape, -0.3, 0.7, key=key),
    "uniform between in float64": lambda shape, key: cr.random.uniform(shape, -0.3, 0.7, key=key, dtype="float64"),
    "normal": lambda shape, key: cr.random.normal(shape, 3, np.float64(0.02), key=key),
    "normal in float64": lambda shape, key: cr.random.normal(shape, key=key, dtype="float64"),
    "normal of arrays": lambda shape, key: cr.random.normal(shape, np.arange(shape[-1]), np.ones(()), key=key),
    "bernoulli": lambda shape, key: cr.random.bernoulli(0.3, shape, key=key),
    "bernoulli of arrays": lambda shape, key: cr.random.bernoulli(np.linspace(0, 1, shape[-1]), shape, key=key),
}


@pytest.mark.parametrize("shape", [(2 * BLOCK + 1,), (3, 2, BLOCK // 2 + 1), (5, BLOCK)])
@pytest.mark.parametrize("name", MANY)
def test_many_numbers_in_blocks_have_the_bits_of_their_definition(monkeypatch, name, shape):
    drawn_in_blocks = []

    def spied(*arguments):
        drawn_in_blocks.append(arguments)
        return in_blocks(*arguments)

    monkeypatch.setattr(draws, "in_blocks", spied)
    found = MANY[name](shape, KEY)
    assert len(drawn_in_blocks) == (0 if "arrays" in name else 1)
    expected = cr.compile(lambda key: MANY[name](shape, key), engine="reference")(KEY)
    assert len(drawn_in_blocks) == (0 if "arrays" in name else 1)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert found.flags.owndata
    assert found.flags.writeable


def test_a_draw_inside_an_operation_on_arrays_may_depend_on_them():
    """It has no plain numbers for settings, even where those are arrays of rank 0."""
    size = (2 * BLOCK + 3,)
    found = cr.random.normal(size, np.asarray(1.0, np.float32), np.asarray(2.0, np.float32), key=KEY)
    np.testing.assert_array_equal(found, cr.random.normal(size, 1.0, 2.0, key=KEY))
