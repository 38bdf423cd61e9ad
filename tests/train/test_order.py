"""The order in which an epoch visits the examples."""

import numpy as np
import pytest

from chainrule.engines.reference.threefry import random_bits
from chainrule.trace.seeds import DRAW_STREAM, fold_in, key_from_seed
from chainrule.train.batches import _stable_order, order_of_epoch


@pytest.mark.parametrize("count", [1, 2, 100, 4095, 4096, 70_000])
def test_the_order_is_that_of_a_stable_argsort(count):
    key = key_from_seed(7)
    bits = random_bits(fold_in(key, 3), np.asarray(DRAW_STREAM, np.uint32), (count,))
    np.testing.assert_array_equal(order_of_epoch(key, 3, count), np.argsort(bits, kind="stable"))


@pytest.mark.parametrize("bits", [1, 4, 17, 32])
def test_equal_numbers_keep_their_order(bits):
    numbers = np.random.default_rng(0).integers(0, 2**bits, 9000).astype(np.uint32)
    np.testing.assert_array_equal(_stable_order(numbers), np.argsort(numbers, kind="stable"))
