import subprocess
import sys

import pytest

from chainrule.core.errors import ConfigError
from chainrule.engines.cpu.engine import CpuEngine
from chainrule.transforms.engines import engine_named


def test_without_a_compiler_the_engine_says_what_it_needs_and_what_to_choose(monkeypatch):
    monkeypatch.setenv("CHAINRULE_CC", "")
    with pytest.raises(ConfigError, match=r"the cpu engine needs a C compiler: .*; choose --engine reference"):
        engine_named("cpu")
    assert CpuEngine().problem() is not None


def test_without_a_compiler_everything_else_works(tmp_path):
    script = (
        "import numpy as np, chainrule as cr\n"
        "from chainrule import nn, optim\n"
        "t = cr.Trainer(nn.Sequential(nn.Linear(2, 1)), loss=nn.losses.squared_error, optimizer=optim.SGD(0.1))\n"
        "t.fit((np.ones((4, 2)), np.ones((4, 1))), epochs=1); print(len(t.history))\n"
    )
    environment = {"CHAINRULE_CC": "", "PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
