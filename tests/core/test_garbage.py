"""The collector of cycles is left out while it has nothing to find, and is as it was afterwards."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.garbage import uncollected


@pytest.fixture(autouse=True)
def _as_before():
    enabled = gc.isenabled()
    yield
    (gc.enable if enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_left_as_it_was(enabled):
    (gc.enable if enabled else gc.disable)()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() is enabled
    with pytest.raises(ZeroDivisionError), uncollected():
        raise ZeroDivisionError
    assert gc.isenabled() is enabled


def test_tracing_is_not_interrupted_and_leaves_it_on():
    gc.enable()
    seen = []

    def function(x):
        seen.append(gc.isenabled())
        return x + 1

    cr.compile(function, engine="reference")(np.zeros(2))
    assert seen == [False] and gc.isenabled()

    def failing(x):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        cr.compile(failing, engine="reference")(np.zeros(2))
    assert gc.isenabled()
