"""``chainrule profile``: the training step of a run, or plainly something else."""

import json
import shutil

import pytest

from chainrule.engines.cpu.engine import ENGINE


@pytest.fixture
def needs_compiler():
    if ENGINE.problem() is not None:
        pytest.skip("there is no C compiler")


def test_the_training_step_is_profiled(cli, trained, tmp_path, needs_compiler):
    done = cli("profile", trained, "--repeats", 3, "--json", "profile.json")
    assert done.code == 0, done.err
    assert done.out.startswith("Profile of the training step on a batch of ")
    assert "layers.0" in done.out
    rows = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert {"forward", "backward", "update"} <= {phase for row in rows for phase in row["phase"].split("+")}


def test_without_its_data_the_inference_graph_is_profiled_and_the_first_line_says_so(
    cli, trained, tmp_path, needs_compiler
):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    record = json.loads((copy / "run.json").read_text())
    record["data"]["path"] = str(tmp_path / "gone.csv")
    (copy / "run.json").write_text(json.dumps(record))
    done = cli("profile", copy, "--repeats", 2)
    assert done.code == 0, done.err
    assert done.out.startswith("Profile of not the training step but the inference graph")
    assert "gone.csv" in done.out.splitlines()[0]
    assert "backward" not in done.out.split("\n", 1)[1]


def test_a_folder_that_is_no_run(cli, tmp_path):
    done = cli("profile", tmp_path / "nothing")
    assert done.code == 2
    assert done.err.count("\n") == 1
