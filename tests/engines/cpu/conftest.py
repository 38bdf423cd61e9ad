"""Without a C compiler the tests of compiled code are skipped; those of doing without one are not."""

import pytest

from chainrule.engines.cpu.engine import ENGINE

NEED_NO_COMPILER = ("test_without_compiler.py", "test_cache.py", "test_processor.py", "test_toolchain.py")


@pytest.fixture(autouse=True)
def _compiler(request):
    if request.path.name not in NEED_NO_COMPILER and ENGINE.problem() is not None:
        pytest.skip("there is no C compiler")
