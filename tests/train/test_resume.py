"""A run that is stopped anywhere and resumed ends with the bits of a run that was never stopped."""

import contextlib
import shutil

import numpy as np
import pytest
from tests.train.problems import same_bits, small_classifier, small_trainer, two_moons

from chainrule import optim
from chainrule.core.errors import ConfigError, RunError, WeightsError
from chainrule.train import Callback, EarlyStopping, PlateauScheduler


class Power(BaseException):
    """Stands for the machine losing power."""


class CutAfter(Callback):
    def __init__(self, steps):
        self.left = steps

    def on_batch_end(self, trainer, event):
        self.left -= 1
        if self.left == 0:
            raise Power


def trainer():
    model = small_classifier(dropout=0.2, batch_norm=True)
    return small_trainer(model=model, optimizer=optim.Adam(optim.cosine(0.05, 60)), seed=5)


def arguments(folder):
    x, y = two_moons(60)
    return {
        "data": (x[:40], y[:40]),
        "validation_data": (x[40:], y[40:]),
        "epochs": 6,
        "batch_size": 9,
        "checkpoints": folder,
        "checkpoint_seconds": 0.0,
    }


def watchers():
    return [EarlyStopping(patience=3), PlateauScheduler(optim.ReduceOnPlateau(patience=1, factor=0.5))]


def without_times(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history.records]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    whole = trainer()
    given = arguments(tmp_path_factory.mktemp("whole"))
    whole.fit(given.pop("data"), callbacks=watchers(), **given)
    return whole


@pytest.mark.parametrize("cut", range(1, 31, 4))
def test_resuming_after_any_step_gives_the_same_bits(tmp_path, unbroken, cut):
    given = arguments(tmp_path)
    data = given.pop("data")
    with contextlib.suppress(Power):
        trainer().fit(data, callbacks=[*watchers(), CutAfter(cut)], **given)
    again = trainer()
    history = again.resume(data, callbacks=watchers(), **given)
    assert same_bits(again.model_arrays(), unbroken.model_arrays())
    assert without_times(history) == without_times(unbroken.history)
    assert history.stop_reason == unbroken.history.stop_reason
    assert history.best_epoch == unbroken.history.best_epoch


def test_resuming_twice_and_resuming_a_finished_run(tmp_path, unbroken):
    given = arguments(tmp_path)
    data = given.pop("data")
    for cut in (7, 6):
        with pytest.raises(Power):
            current = trainer()
            start = current.fit if cut == 7 else current.resume
            start(data, callbacks=[*watchers(), CutAfter(cut)], **given)
    for _ in range(2):
        last = trainer()
        last.resume(data, callbacks=watchers(), **given)
        assert same_bits(last.model_arrays(), unbroken.model_arrays())


def test_an_interrupt_saves_and_can_be_resumed(tmp_path, unbroken):
    import os
    import signal

    class Interrupt(Callback):
        def on_batch_end(self, trainer, event):
            if event.step == 8:
                os.kill(os.getpid(), signal.SIGINT)

    given = arguments(tmp_path)
    given["checkpoint_seconds"] = 1e9
    data = given.pop("data")
    stopped = trainer()
    history = stopped.fit(data, callbacks=[*watchers(), Interrupt()], **given)
    assert history.stop_reason == "interrupted"
    assert stopped.steps == 8
    again = trainer()
    again.resume(data, callbacks=watchers(), **given)
    assert same_bits(again.model_arrays(), unbroken.model_arrays())


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, unbroken):
    given = arguments(tmp_path)
    data = given.pop("data")
    with pytest.raises(Power):
        trainer().fit(data, callbacks=[*watchers(), CutAfter(12)], **given)
    newest = max(tmp_path.glob("step-*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    again = trainer()
    again.resume(data, callbacks=watchers(), **given)
    assert same_bits(again.model_arrays(), unbroken.model_arrays())


def test_only_two_checkpoints_are_kept(tmp_path):
    given = arguments(tmp_path)
    trainer().fit(given.pop("data"), **given)
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_to_resume_is_said(tmp_path):
    given = arguments(tmp_path / "none")
    with pytest.raises(RunError, match="there is no checkpoint to resume from"):
        trainer().resume(given.pop("data"), **given)


def test_other_data_or_another_model_is_refused(tmp_path):
    given = arguments(tmp_path)
    data = given.pop("data")
    trainer().fit(data, **given)
    with pytest.raises(ConfigError, match="use the same data and batch size"):
        trainer().resume((data[0][:20], data[1][:20]), **given)
    other = small_trainer(model=small_classifier())
    with pytest.raises(WeightsError):
        other.resume(data, **given)
    with pytest.raises(ConfigError, match="callbacks"):
        trainer().resume(data, callbacks=[EarlyStopping()], **given)


def test_a_full_disk_leaves_the_old_checkpoint(small_disk):
    """The folder holds 256 KiB: it fills up, and what was there before still loads."""
    given = arguments(small_disk / "checkpoints")
    data = given.pop("data")
    trainer().fit(data, **{**given, "epochs": 1})
    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
    before = {p.name: p.read_bytes() for p in (small_disk / "checkpoints").iterdir()}
    with pytest.raises(RunError, match="full"):
        trainer().resume(data, **{**given, "epochs": 2})
    assert {p.name: p.read_bytes() for p in (small_disk / "checkpoints").iterdir()} == before
    (small_disk / "ballast").unlink()
    resumed = trainer()
    assert len(resumed.resume(data, **{**given, "epochs": 2})) == 2
    assert np.isfinite(resumed.history["loss"]).all()
