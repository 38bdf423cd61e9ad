"""Without a C compiler the tests of compiled code are skipped; those of doing without one are not. Small graphs run in loops."""

from pathlib import Path

import pytest

from chainrule.engines.cpu.engine import ENGINE

FOLDER = Path(__file__).parent
NEED_NO_COMPILER = ("test_without_compiler.py", "test_processor.py")


def pytest_collection_modifyitems(items):
    if ENGINE.problem() is None:
        return
    for item in items:
        if item.path.parent == FOLDER and item.path.name not in NEED_NO_COMPILER:
            item.add_marker(pytest.mark.skip(reason="there is no C compiler"))


@pytest.fixture(autouse=True)
def in_loops(request, monkeypatch):
    """Here small graphs run in loops as large ones do, even for one example; ``test_straight.py`` has them written out."""
    if request.path.name != "test_straight.py":
        monkeypatch.setattr("chainrule.engines.cpu.straight.MOST_OPERATIONS", 0)
