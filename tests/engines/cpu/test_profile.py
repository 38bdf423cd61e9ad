"""Profiles: one row per loop nest, with the work that its shapes say."""

import json
import re

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, ops, optim
from chainrule.core.errors import ConfigError
from chainrule.engines.cpu.inline import inline_calls
from chainrule.engines.cpu.lowering import lower
from chainrule.transforms import trace


def product(x, w):
    return ops.tanh(x @ w).sum(axis=0)


def arrays(rows=24):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 40)).astype(np.float32), rng.normal(size=(40, 32)).astype(np.float32)


def test_a_row_counts_the_operations_and_bytes_of_its_shapes():
    x, w = arrays()
    profile = cr.compile(product, engine="cpu", batch=("x",)).profile(x, w, repeats=3)
    (contraction,) = profile.rows
    # The product, and one tanh and one addition for each element; x and w are read, the sums are written.
    assert contraction.flops == 2 * 24 * 40 * 32 + 2 * 24 * 32
    assert contraction.bytes == 4 * (24 * 40 + 40 * 32 + 32)
    assert contraction.dtype == "float32"
    assert all(row.calls == 1 and row.seconds > 0 and row.share > 0 for row in profile.rows)
    assert sum(row.seconds for row in profile.rows) <= profile.seconds  # of the same runs
    assert profile.peak.flops["float32"] > 0
    assert profile.peak.bytes > 0


def test_profiling_uses_nothing_up_and_writes_over_nothing():
    def update(w, x):
        return w - 0.5 * x

    step = cr.compile(update, engine="cpu", donate=("w",))
    w, x = np.ones(5, np.float32), np.ones(5, np.float32)
    step.profile(w, x, repeats=4)
    np.testing.assert_array_equal(w, 1)
    np.testing.assert_array_equal(step(w, x), 0.5)


def test_a_nest_in_a_loop_is_called_once_a_turn():
    def walk(x):
        return ops.scan(lambda carry, row: (ops.tanh(carry + row), carry), x[0], x)[0]

    profile = cr.compile(walk, engine="cpu").profile(arrays()[0], repeats=2)
    assert 24 in [row.calls for row in profile.rows]


def trainer(engine):
    cr.seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=optim.Adam(1e-2), engine=engine)


def test_rows_name_layers_and_phases():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 6)).astype(np.float32), rng.integers(0, 3, 10)
    trained = trainer("cpu")
    before = trained.model_arrays()
    profile = trained.profile(x, y, repeats=2)
    layers = {layer for row in profile.rows for layer in row.layer.split(", ")}
    assert {"layers.0", "layers.2"} <= layers
    assert {"forward", "backward", "update"} <= {phase for row in profile.rows for phase in row.phase.split("+")}
    assert all(np.array_equal(array, before[path]) for path, array in trained.model_arrays().items())


def test_the_table_is_sorted_by_time_and_the_json_has_every_row():
    x, w = arrays()
    profile = cr.compile(product, engine="cpu", batch=("x",)).profile(x, w, repeats=2)
    lines = str(profile).splitlines()
    assert lines[0].startswith("product: ")
    assert lines[3].split()[:4] == ["time", "share", "calls", "GFLOP/s"]
    slowest = max(profile.rows, key=lambda row: row.seconds)
    assert slowest.what[:40] in lines[5]
    assert lines[-2].rstrip().endswith("all nests")
    read = json.loads(profile.to_json())
    assert [row["what"] for row in read["rows"]] == [row.what for row in profile.rows]
    assert read["repeats"] == 2


def test_the_normal_build_has_no_clocks():
    graph = inline_calls(trace(product, *arrays(), batch=("x",)))
    assert "cr_now" not in lower(graph, frozenset(), 32).source.text
    profiled = lower(graph, frozenset(), 32, profiled=True).source
    assert [int(k) for k in re.findall(r"cr_note\((\d+), begun\);", profiled.text)] == list(range(len(profiled.work)))


def test_other_engines_have_no_profiles():
    with pytest.raises(ConfigError, match='profiles need engine="cpu"'):
        cr.compile(product, engine="reference").profile(*arrays())
    with pytest.raises(ConfigError, match="at least 1"):
        cr.compile(product, engine="cpu").profile(*arrays(), repeats=0)
