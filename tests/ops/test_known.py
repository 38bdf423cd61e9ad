"""The first wrong number is named with its place, in arrays of any rank; traced arrays have no numbers to look at."""

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import DataError
from chainrule.ops.known import refuse, refuse_outside


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (7, "needs 0 to 4, not 7"),
        ([0, 4, 5, -1], "needs 0 to 4, but row 2 holds 5"),
        ([[0, 1], [2, -1]], r"needs 0 to 4, but position \(1, 1\) holds -1"),
        (np.array([[[200]]], np.uint8), r"needs 0 to 4, but position \(0, 0, 0\) holds 200"),
        ([2**63], f"needs 0 to 4, but row 0 holds {2**63}"),
    ],
)
def test_the_first_number_outside_is_named(values: object, place: str) -> None:
    with pytest.raises(DataError, match=f"^{place}$"):
        refuse_outside(values, 0, 4, "needs 0 to 4")


@pytest.mark.parametrize("values", [0, 4, [0, 4], [], np.zeros((0, 3)), [[0.0, 4.0]], [np.nan], True])
def test_numbers_inside_and_nan_pass(values: object) -> None:
    refuse_outside(values, 0, 4, "needs 0 to 4")


def test_traced_numbers_are_not_known() -> None:
    def passed(x: cr.Array) -> cr.Array:
        refuse_outside(x, 0, 4, "needs 0 to 4")
        return x

    assert cr.compile(passed)(np.array([9.0])) == 9


def test_what_is_wrong_may_be_anything() -> None:
    known = np.array([[1, 2], [3, 4]])
    with pytest.raises(DataError, match=r"^even, but position \(1, 0\) holds 3$"):
        refuse(known, known == 3, "even")
