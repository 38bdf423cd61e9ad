"""Without a C compiler the tests of compiled code are skipped; those of doing without one are not."""

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
