"""Steps taken in one go leave exactly what single steps leave: weights, history, errors."""

import numpy as np
import pytest
from tests.train.problems import same_bits, small_classifier, small_trainer, two_moons

from chainrule import nn, optim
from chainrule.core.errors import NonFiniteError, ShapeError
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.train import Callback, PlateauScheduler, Trainer
from chainrule.train.journal import Stretch
from chainrule.train.progress import EpochTotals, Pace, Reports

ENGINES = [
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(CPU.problem() is not None, reason="no C compiler")),
]


class OneByOne(Callback):
    def on_batch_end(self, trainer, event):
        pass


def spied(trainer):
    """The trainer, and the numbers of steps that it takes in one go."""
    taken = []
    advance = trainer.advance
    trainer.advance = lambda stretch: taken.append(stretch.steps) or advance(stretch)
    return trainer, taken


def without_times(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history.records]


def accuracy(outputs, labels, weights=None):
    right = (outputs.argmax(1) == labels).astype("float32")
    return right.mean() if weights is None else (right * weights).sum() / weights.sum()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch", [1, 16])
def test_history_and_weights_have_the_bits_of_single_steps(engine, shuffle, batch):
    x, y = two_moons(150)
    weights = np.random.default_rng(0).uniform(0, 2, 150)
    found = []
    for callbacks in ([OneByOne()], []):
        trainer, taken = spied(
            small_trainer(
                model=small_classifier(dropout=0.2, batch_norm=batch > 1),
                metrics={"accuracy": accuracy},
                engine=engine,
                optimizer=optim.Adam(optim.cosine(0.05, 100)),
            )
        )
        plateau = PlateauScheduler(optim.ReduceOnPlateau(patience=1, factor=0.5), monitor="loss")
        history = trainer.fit(
            (x, y, weights), epochs=4, batch_size=batch, shuffle=shuffle, callbacks=[plateau, *callbacks]
        )
        found.append((trainer.state_arrays(), without_times(history)))
        assert max(taken) == 1 if callbacks else max(taken) > 1
        assert sum(taken) == trainer.steps
    for group in found[0][0]:
        assert same_bits(found[0][0][group], found[1][0][group])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("share", [0.0, 1e9], ids=["one copy of the state", "a copy before each"])
@pytest.mark.parametrize("row", [0, 3, 77, 149])
def test_a_nan_amid_steps_is_explained_as_in_single_steps(engine, share, row, monkeypatch):
    """With a single copy of the state, from the beginning, all steps of two epochs are taken again."""
    monkeypatch.setattr("chainrule.train.journal._SHARE", share)
    x, y = two_moons(150)
    spoilt = x.copy()
    spoilt[row, 1] = np.nan
    found = []
    for callbacks in ([OneByOne()], []):
        trainer, taken = spied(small_trainer(engine=engine, optimizer=optim.SGD(0.05)))
        trainer.fit((x, y), epochs=2, batch_size=1, callbacks=callbacks)
        with pytest.raises(NonFiniteError) as error:
            trainer.fit((spoilt, y), epochs=1, batch_size=1, callbacks=callbacks)
        found.append((str(error.value), trainer.state_arrays(), trainer.steps))
        assert max(taken) == 1 if callbacks else max(taken) > 8
    assert found[0][0] == found[1][0]
    assert "the input 'x'" in found[0][0]
    assert found[0][2] == found[1][2]
    for group in found[0][1]:
        assert same_bits(found[0][1][group], found[1][1][group])
        assert all(np.isfinite(array).all() for array in found[1][1][group].values())


@pytest.mark.skipif(CPU.problem() is not None, reason="no C compiler")
def test_a_network_of_convolutions_stops_with_the_steps_in_which_a_nan_appears():
    """What is not finite makes Winograd's algorithms start again, so steps that nobody looks at would be slow ones."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8 * 64, 8, 8, 16)).astype(np.float32), rng.integers(0, 4, 8 * 64)
    layers = nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(16 * 64, 4))
    trainer, taken = spied(small_trainer(model=model, engine="cpu"))
    trainer.fit((x, y), epochs=1, batch_size=8, shuffle=False)
    assert "tile_results_" in trainer.step.c_source
    x[8 * 50 + 3, 2, 5, 7] = np.inf
    taken.clear()
    with pytest.raises(NonFiniteError, match="at step 115: the first non-finite value appeared in the input 'x'"):
        trainer.fit((x, y), epochs=1, batch_size=8, shuffle=False)
    assert sum(taken[:-1]) <= 50 < sum(taken)
    assert trainer.steps == 64 + 50


def test_training_can_go_on_after_a_nan():
    x, y = two_moons(64)
    spoilt = x.copy()
    spoilt[40] = np.nan
    stopped, whole = small_trainer(), small_trainer()
    with pytest.raises(NonFiniteError, match="step 41"):
        stopped.fit((spoilt, y), epochs=1, batch_size=1, shuffle=False)
    whole.fit((x[:40], y[:40]), epochs=1, batch_size=1, shuffle=False)
    assert same_bits(stopped.model_arrays(), whole.model_arrays())
    for trainer in (stopped, whole):
        trainer.fit((x[40:], y[40:]), epochs=1, batch_size=1, shuffle=False)
    assert same_bits(stopped.model_arrays(), whole.model_arrays())


def test_examples_may_be_changed_between_trainings(monkeypatch):
    """What a step that failed is taken back to does not follow from them."""
    monkeypatch.setattr("chainrule.train.journal._SHARE", 0.0)
    x, y = two_moons(64)
    trainer, twin = small_trainer(), small_trainer()
    for each in (trainer, twin):
        each.fit((x, y), epochs=2, batch_size=4, shuffle=False)
    x[:] = 100 * x[::-1]
    x[0] = np.nan
    with pytest.raises(NonFiniteError, match="the input 'x'"):
        trainer.fit((x, y), epochs=1, batch_size=4, shuffle=False)
    assert same_bits(trainer.model_arrays(), twin.model_arrays())


def test_steps_that_are_interrupted_have_not_been_taken():
    """The program is stopped in its midst, when it may have written over the state."""
    x, y = two_moons(100)
    trainer, twin = small_trainer(), small_trainer()
    for each in (trainer, twin):
        each.fit((x, y), epochs=1, batch_size=1, shuffle=False)
    run = trainer._run
    spoilt = []

    def interrupted(state, stretch):
        result = run(state, stretch)
        if not spoilt:
            spoilt.append(result)
            raise KeyboardInterrupt
        return result

    trainer._run = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.partial_fit(x, y)
    assert same_bits(trainer.model_arrays(), twin.model_arrays())
    trainer.partial_fit(x, y)
    twin.partial_fit(x, y)
    assert same_bits(trainer.model_arrays(), twin.model_arrays())


def test_examples_given_to_partial_fit_may_be_changed_afterwards():
    x, y = two_moons(40)
    trainer, twin = small_trainer(), small_trainer()
    buffer = np.empty((1, 2), np.float32)
    for row in range(40):
        buffer[:] = x[row]
        trainer.partial_fit(buffer, y[row : row + 1])
        twin.partial_fit(x[row : row + 1].copy(), y[row : row + 1])
    buffer[:] = np.nan
    before = trainer.model_arrays()
    with pytest.raises(NonFiniteError):
        trainer.partial_fit(buffer, y[:1])
    assert same_bits(trainer.model_arrays(), before)
    assert same_bits(trainer.model_arrays(), twin.model_arrays())


def test_what_a_trainer_hands_out_is_not_written_over():
    x, y = two_moons(40)
    trainer = small_trainer()
    handed = [trainer.model_arrays(), trainer.state_arrays()["optimizer"]]
    given = trainer.optimizer_state
    before = [{name: array.copy() for name, array in arrays.items()} for arrays in handed]
    trainer.fit((x, y), epochs=2)
    assert all(same_bits(a, b) for a, b in zip(handed, before, strict=True))
    trainer.optimizer_state = given
    trainer.fit((x, y), epochs=1)
    assert same_bits(trainer.state_arrays()["trainer"], {"step": np.asarray(6)})
    assert all(same_bits(a, b) for a, b in zip(handed, before, strict=True))


def test_progress_is_told_between_steps_taken_in_one_go():
    x, y = two_moons(200)
    events = []

    class Watch(Callback):
        def on_progress(self, trainer, event):
            events.append(event)

    trainer, taken = spied(small_trainer())
    trainer.fit((x, y), epochs=2, batch_size=1, callbacks=[Watch()])
    assert max(taken) > 1
    assert [event.batch for event in events if event.epoch == 1] == list(
        np.cumsum(taken[: sum(event.epoch == 1 for event in events)])
    )
    assert events[-1].step == 400
    assert events[-1].examples == 200


def test_no_steps_are_taken_in_one_go_where_every_one_is_saved(tmp_path):
    trainer, taken = spied(small_trainer())
    trainer.fit(two_moons(100), epochs=1, batch_size=5, checkpoints=tmp_path, checkpoint_seconds=0.0)
    assert set(taken) == {1}


def test_the_pace_grows_step_by_step_and_falls_at_once():
    pace = Pace(0.025)
    assert pace.steps == 1
    pace.after(1, 2.0)  # the program was compiled
    assert pace.steps == 1
    for expected in (8, 64, 512, 2500):
        pace.after(pace.steps, pace.steps * 1e-5)
        assert pace.steps == expected
    pace.after(2500, 25.0)
    assert pace.steps == 2
    slow = Pace(0.0)
    slow.after(1, 1e-6)
    assert slow.steps == 1


@pytest.mark.parametrize("weighted", [True, False])
def test_sums_do_not_depend_on_how_many_steps_are_added_at_once(weighted):
    rng = np.random.default_rng(0)
    losses, squares, weights = (rng.lognormal(0, 8, 1000) for _ in range(3))
    if not weighted:
        weights = Stretch(None, None, None, None, batch=7, steps=1000).shares()
        assert weights.tolist() == [7.0] * 1000
    whole, single = EpochTotals(), EpochTotals()
    whole.add(Reports(losses, {"m": losses}, {"layer": squares}, weights))
    expected = 0.0
    for n in range(1000):
        single.add(
            Reports(losses[n : n + 1], {"m": losses[n : n + 1]}, {"layer": squares[n : n + 1]}, weights[n : n + 1])
        )
        expected += weights[n] * losses[n]
    assert whole == single
    assert whole.loss == expected
    assert whole.batches == 1000


def test_examples_in_column_order_are_learned_from():
    x, y = two_moons(60)
    rows, columns = small_trainer(), small_trainer()
    rows.fit((x, y), epochs=2)
    columns.fit((np.asfortranarray(x), y), epochs=2)
    assert same_bits(rows.model_arrays(), columns.model_arrays())


def test_an_input_that_does_not_fit_leaves_the_state():
    trainer = Trainer(nn.Linear(3, 1), loss=nn.losses.squared_error, optimizer=optim.SGD(0.1))
    before = trainer.model_arrays()
    with pytest.raises(ShapeError, match="Linear"):
        trainer.partial_fit(np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32))
    assert same_bits(trainer.model_arrays(), before)
    trainer.partial_fit(np.zeros((4, 3), np.float32), np.ones((4, 1), np.float32))
    assert trainer.steps == 1
