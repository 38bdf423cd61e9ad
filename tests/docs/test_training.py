"""The code of docs/training.md runs as it stands there, and its table names what there is."""

import re
import warnings
from pathlib import Path

from chainrule import optim
from chainrule.train import ModeCollapseWarning

TEXT = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")


def test_the_code_runs():
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModeCollapseWarning)  # of three epochs
        for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
            exec(compile(block, "docs/training.md", "exec"), names)
    assert {array.dtype.name for array in names["mixed"].model_arrays().values()} == {"float32"}
    assert {array.dtype.name for array in names["stored"].named_parameters().values()} == {"bfloat16"}
    assert names["history"].records[-1]["generator_loss"] > 0
    assert names["losses"].shape == (16,)
    assert names["losses"].mean() < 0.55  # 0.69 knows nothing
    assert names["samples"].shape == (64, 8)
    assert len(names["watch"].diversity) == 3


def test_every_optimiser_that_is_listed_exists():
    table = TEXT[TEXT.index("| gradient descent") : TEXT.index("```python\nschedule")]
    named = re.findall(r"`(\w+)`", table)
    assert len(named) > 20
    assert all(hasattr(optim, name) or name == "chain" for name in named)
