"""A run that replaces another one: the old one is as it was until the new one has something to go on with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chainrule import tabular
from chainrule.core.errors import ChainruleError, NonFiniteError, RunError
from chainrule.core.files import PARTIAL_PREFIX
from chainrule.tabular import Run
from chainrule.train import BatchEvent, Callback, Trainer

from .conftest import QUICK, patients, write

# An epoch has six steps.
NEW = QUICK.replace(seed=3)


class At(Callback):
    """Does something at one step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step, self.act = step, act

    def on_batch_end(self, trainer: Trainer, event: BatchEvent) -> None:
        if event.step == self.step:
            self.act()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail() -> None:
    raise ChainruleError("the callback failed")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def old(patients_run: Run, tmp_path: Path) -> Path:
    """A finished run, alone in its parent folder."""
    folder = tmp_path / "runs" / "old"
    shutil.copytree(patients_run.folder, folder)
    return folder


@pytest.mark.parametrize(
    ("act", "error", "changes"),
    [
        (fail, ChainruleError, {}),
        (interrupt, KeyboardInterrupt, {}),
        (lambda: None, NonFiniteError, {"learning_rate": 1e37}),
    ],
)
def test_what_ends_training_in_the_first_epoch_leaves_the_old_run(
    patients_csv: Path, old: Path, act: Callable[[], None], error: type[BaseException], changes: dict[str, float]
) -> None:
    before = content(old)
    seen: list[bool] = []
    watch = At(1, lambda: seen.append(content(old) == before))
    with pytest.raises(error) as caught:
        tabular.train(
            patients_csv,
            "diagnosis",
            out=old,
            settings=NEW.replace(**changes),
            force=True,
            callbacks=[watch, At(3, act)],
        )
    assert caught.value.__notes__ == [f"the run in {old} is as it was"]
    assert content(old) == before
    assert [entry.name for entry in old.parent.iterdir()] == ["old"]
    assert seen == [True]


def test_the_first_epoch_puts_the_new_run_in_its_place(patients_csv: Path, old: Path, tmp_path: Path) -> None:
    unbroken = tabular.train(patients_csv, "diagnosis", out=tmp_path / "unbroken", settings=NEW).folder
    before = content(old)
    seen = []

    def look() -> None:
        seen.append(Run.read(old).status)
        fail()

    with pytest.raises(ChainruleError) as caught:
        tabular.train(patients_csv, "diagnosis", out=old, settings=NEW, force=True, callbacks=[At(7, look)])
    assert seen == ["training"]
    assert not hasattr(caught.value, "__notes__")
    assert tabular.resume(old).status == "finished"
    for name in ("model.safetensors", "evaluation.json"):
        assert content(old)[name] == content(unbroken)[name] != before[name]
    assert content(old).keys() == content(unbroken).keys()
    assert [entry.name for entry in old.parent.iterdir()] == ["old"]


def test_a_forced_run_is_that_of_an_empty_place(patients_csv: Path, old: Path, tmp_path: Path) -> None:
    """Interrupted after an epoch, it is the new run that can be resumed."""
    unbroken = tabular.train(patients_csv, "diagnosis", out=tmp_path / "unbroken", settings=NEW).folder
    run = tabular.train(patients_csv, "diagnosis", out=old, settings=NEW, force=True, callbacks=[At(8, interrupt)])
    assert (run.folder, run.status) == (old, "interrupted")
    assert tabular.resume(old).status == "finished"
    assert content(old)["model.safetensors"] == content(unbroken)["model.safetensors"]


def test_seconds_of_training_count_as_an_epoch(patients_csv: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are made in the middle of long epochs, too."""
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr("chainrule.train.loop.time.monotonic", lambda: float(next(clock)))
    seen = []
    watch = [At(step, lambda: seen.append(Run.read(old).status)) for step in (1, 5)]
    tabular.train(patients_csv, "diagnosis", out=old, settings=NEW, force=True, callbacks=watch)
    assert seen == ["finished", "training"]


def test_a_continuation_elsewhere_waits_as_well(patients_run: Run, old: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", patients(100, seed=4))
    before = content(old)
    with pytest.raises(ChainruleError, match="the callback failed"):
        tabular.continue_training(patients_run.folder, new, out=old, force=True, callbacks=[At(1, fail)])
    assert content(old) == before
    run = tabular.continue_training(patients_run.folder, new, out=old, epochs=2, force=True)
    assert (run.folder, run.record.continues) == (old, "patients")
    assert Run.read(old).status == "finished"


def test_a_run_may_take_the_place_of_the_one_that_it_continues(old: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", patients(100, seed=4))
    run = tabular.continue_training(old, new, out=old, epochs=2, force=True)
    assert run.record.continues == "old"
    assert Run.read(old).status == "finished"


_KILLED = """
import os, signal, sys
from chainrule import tabular
from chainrule.tabular import Settings
from chainrule.train import Callback

class Killer(Callback):
    def on_batch_end(self, trainer, event):
        if event.step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

tabular.train(sys.argv[1], "diagnosis", out=sys.argv[2], settings=Settings(epochs=4, hidden=(8,), batch_size=16),
              force=True, callbacks=[Killer()])
"""


@pytest.mark.parametrize(("step", "status"), [(5, "finished"), (7, "training")])
def test_a_kill_leaves_the_one_run_or_the_other(
    patients_csv: Path,
    old: Path,
    run_script: Callable[..., subprocess.CompletedProcess[str]],
    step: int,
    status: str,
) -> None:
    before = content(old)
    assert run_script(_KILLED, patients_csv, old, step).returncode == -signal.SIGKILL
    assert Run.read(old).status == status
    assert (content(old) == before) == (status == "finished")
    others = [entry.name for entry in old.parent.iterdir() if entry != old]
    assert len(others) == (status == "finished")
    assert all(name.startswith(PARTIAL_PREFIX) for name in others)
    assert tabular.resume(old).status == "finished"
    # What was left is removed by the next run that is to replace the old one, also if that fails.
    with pytest.raises(ChainruleError, match="the callback failed"):
        tabular.train(patients_csv, "diagnosis", out=old, settings=NEW, force=True, callbacks=[At(1, fail)])
    assert [entry.name for entry in old.parent.iterdir()] == ["old"]


def test_a_run_that_waits_is_not_removed_by_another_for_the_same_place(patients_csv: Path, old: Path) -> None:
    left = []

    def overtake() -> None:
        tabular.train(patients_csv, "diagnosis", out=old, settings=NEW.replace(epochs=2), force=True)
        left.extend(entry.name for entry in old.parent.iterdir() if entry != old)

    run = tabular.train(patients_csv, "diagnosis", out=old, settings=NEW, force=True, callbacks=[At(2, overtake)])
    assert len(left) == 1
    assert (run.status, len(run.history)) == ("finished", NEW.epochs)
    assert [entry.name for entry in old.parent.iterdir()] == ["old"]


def test_a_full_disk_is_named_by_the_folder_asked_for(patients_csv: Path, patients_run: Run, small_disk: Path) -> None:
    folder = small_disk / "run"
    shutil.copytree(patients_run.folder, folder)
    before = content(folder)
    filler = small_disk / "filler"

    def fill() -> None:
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    with pytest.raises(RunError, match=r"cannot write .*/run/checkpoints/1/.*the disk is full") as caught:
        tabular.train(patients_csv, "diagnosis", out=folder, settings=NEW, force=True, callbacks=[At(1, fill)])
    assert PARTIAL_PREFIX not in str(caught.value)
    assert content(folder) == before
