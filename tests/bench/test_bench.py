"""The benchmark from its command line, what it times, and whether ours computes what PyTorch does."""

import json
import math

import numpy as np
import pytest
from bench.ours import build as build_ours
from bench.peers.torch_steps import build as build_torch
from bench.steps import gap
from bench.table import table_of
from bench.workloads import ALL, PRODUCTS, WORKLOADS, Product, chosen

from bench import __main__ as command
from bench import lengths, starts
from chainrule.engines.cpu.engine import ENGINE

needs_compiler = pytest.mark.skipif(ENGINE.problem() is not None, reason="there is no C compiler")

FIELDS = {
    "workload", "ours_ms", "peers_ms", "gflops", "peak_share", "peak_memory_mb", "compile_cold_s", "compile_warm_s", "loss_gap",
}  # fmt: skip


@needs_compiler
def test_tiny_alone_from_the_command_line(tmp_path, capsys):
    file = tmp_path / "result.json"
    arguments = ["--only", "tiny", "--contestants", "ours", "--seconds", "0.3", "--json", str(file)]
    assert command.main(arguments) == 0
    (result,) = json.loads(file.read_text(encoding="utf-8"))
    assert result.keys() >= FIELDS
    assert result["workload"] == "tiny" and result["peers_ms"] == {} and result["loss_gap"] is None
    assert 0 < result["ours_ms"] < 100 and result["gflops"] > 0 and 0 < result["peak_share"] < 1
    assert result["compile_cold_s"] > result["compile_warm_s"] >= 0
    assert result["peak_memory_mb"] > 0
    table = capsys.readouterr().out
    assert "| tiny |" in table and "ours, ms" in table


def test_unknown_names_are_refused(capsys):
    assert command.main(["--only", "tinny"]) == 2
    assert "there is no workload 'tinny'" in capsys.readouterr().err
    assert command.main(["--contestants", "theano"]) == 2
    assert "there is no contestant 'theano'" in capsys.readouterr().err


def test_names_stand_for_groups():
    assert [each.name for each in chosen(["kernel"])] == list(PRODUCTS)
    assert [each.name for each in chosen(["tiny", "mlp"])] == ["tiny", "mlp"]
    assert [each.name for each in chosen(["kernel:conv64-64@8"])] == [
        f"kernel:conv64-64@8:{role}" for role in ("forward", "input-gradient", "weight-gradient")
    ]
    assert chosen([]) == list(ALL.values())


@needs_compiler
@pytest.mark.parametrize("name", ["tiny", "tabular", "mlp"])
def test_first_losses_are_pytorchs(name):
    ours, torch = (
        build(WORKLOADS[name], form).compared() for build, form in ((build_ours, ""), (build_torch, "eager"))
    )
    assert len(ours) >= 20 and gap(ours, torch) < 1e-4


@needs_compiler
@pytest.mark.parametrize("name", [name for name in PRODUCTS if "conv64-64" in name or "dense4096" in name])
def test_products_are_pytorchs(name):
    ours, torch = (build(PRODUCTS[name], form).compared() for build, form in ((build_ours, ""), (build_torch, "eager")))
    assert gap(ours, torch) < 1e-5


def test_a_digest_depends_on_every_element_its_sign_and_its_place():
    product = Product("a", "forward", (4, 5), (5, 20), (4, 20))
    result = np.random.default_rng(0).normal(size=(4, 20))
    digest = product.digest(result)
    for row, column in ((0, 0), (2, 7), (3, 19)):
        changed = result.copy()
        changed[row, column] *= -1
        assert gap(product.digest(changed), digest) > 1e-3
    assert gap(product.digest(result[::-1]), digest) > 1e-3
    assert gap(product.digest(1.01 * result), digest) > 1e-3


def test_operations_of_a_dense_network_are_counted():
    first, second, third = 784 * 512, 512 * 512, 512 * 10
    assert WORKLOADS["mlp"].flops == 2 * 128 * (2 * first + 3 * second + 3 * third)
    assert PRODUCTS["kernel:conv16-32s2@32:forward"].flops == 2 * 64 * 16 * 16 * 32 * 9 * 16


def test_differences_are_relative_and_nan_is_no_agreement():
    assert gap([2.0, 4.0], [2.0, 4.4]) == pytest.approx(0.4 / 4.4)
    assert math.isinf(gap([1.0, math.nan], [1.0, 1.0]))


def test_a_table_of_nothing_has_a_header():
    assert table_of([]).splitlines()[0].startswith("| workload | ours, ms |")


@needs_compiler
@pytest.mark.parametrize("layer", ["attention", "lstm"])
def test_lengths_are_measured(layer):
    found = lengths.measured(layer, 8, 0.0)
    assert found.keys() == {"compile", "step", "works in"}
    assert min(found.values()) > 0


def test_a_layer_that_lengths_does_not_know_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        lengths.main(["gru"])
    assert "there is no layer 'gru'; there are attention, plain" in capsys.readouterr().err


@needs_compiler
@pytest.mark.parametrize("name", ["tiny", "tabular"])
def test_starts_are_measured(name):
    load = ENGINE.load
    found = starts.measured(name, 0.0)
    assert tuple(found) == starts.COLUMNS
    assert min(found.values()) > 0
    assert found["load"] <= found["start"] < found["load"] + found["first"]
    assert ENGINE.load == load


@needs_compiler
def test_starts_are_of_processes_that_find_the_program(monkeypatch, capsys):
    asked = []
    measured = dict.fromkeys(starts.COLUMNS, 0.001)
    monkeypatch.setattr(starts, "_in_a_process", lambda *given: asked.append(given) or measured)
    assert starts.main(["mlp", "gru", "--processes", "2", "--seconds", "0.5"]) == 0
    assert [(name, seconds) for name, _, seconds in asked] == [
        (name, seconds) for name in ("mlp", "gru") for seconds in (0.0, 0.5, 0.5)
    ]
    assert len({folder for _, folder, _ in asked}) == 1
    assert "| gru | 1 | 1 | 1 | 1 | 1 | 1 | 1 to 1 |" in capsys.readouterr().out


def test_a_workload_that_starts_does_not_know_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        starts.main(["resnet50"])
    assert "there is no workload 'resnet50'; there are tiny-epoch" in capsys.readouterr().err
