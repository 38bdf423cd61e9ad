import json

import numpy as np
import pytest
from tests.train.problems import same_bits, small_classifier, small_trainer, two_moons

import chainrule as cr
from chainrule import nn, optim
from chainrule.core import trees
from chainrule.core.errors import ChainruleError, ConfigError, DataError, NonFiniteError
from chainrule.train import Callback, EarlyStopping, History, PlateauScheduler, Trainer


def test_it_learns_and_predicts():
    x, y = two_moons()
    trainer = small_trainer(
        metrics={"accuracy": lambda outputs, labels, weights=None: (outputs.argmax(1) == labels).mean()}
    )
    history = trainer.fit((x[:150], y[:150]), validation_data=(x[150:], y[150:]), epochs=100, batch_size=16)
    assert history["val_accuracy"][-1] > 0.9
    assert (trainer.predict(x).argmax(1) == y).mean() > 0.9
    assert trainer.evaluate((x, y))["accuracy"] > 0.9
    assert history.stop_reason == "all epochs are done"


def test_the_history_has_the_exact_means_of_the_epoch():
    x, y = two_moons(50)
    trainer = small_trainer(optimizer=optim.SGD(0.0))
    record = trainer.fit((x, y), epochs=1, batch_size=16).records[0]
    assert record["loss"] == pytest.approx(trainer.evaluate((x, y))["loss"], rel=1e-6)
    assert set(record["gradient_norms"]) == {"layers.0", "layers.2"}
    assert record["gradient_norm"] == pytest.approx(
        np.sqrt(sum(v**2 for v in record["gradient_norms"].values())), rel=1e-6
    )
    assert record.epoch == 1
    assert record["learning_rate"] == 0.0


def test_the_gradient_norm_of_a_full_batch_is_that_of_value_and_grad():
    x, y = two_moons(50)
    trainer = small_trainer(optimizer=optim.SGD(0.1))
    _, gradients = cr.value_and_grad(lambda m: nn.losses.cross_entropy(m(x), y))(trainer.model)
    expected = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in trees.leaves(gradients)))
    record = trainer.fit((x, y), epochs=1, batch_size="full").records[0]
    assert record["gradient_norm"] == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    x, y = two_moons()
    results = []
    for seed in (3, 3, 4):
        trainer = small_trainer(model=small_classifier(dropout=0.3), seed=seed)
        trainer.fit((x, y), epochs=3)
        results.append(trainer.model_arrays())
    assert same_bits(results[0], results[1])
    assert not same_bits(results[0], results[2])


def test_weights_of_zero_leave_examples_out():
    x, y = two_moons(40)
    weights = np.ones(40)
    weights[20:] = 0
    half, weighted = small_trainer(optimizer=optim.SGD(0.1)), small_trainer(optimizer=optim.SGD(0.1))
    half.fit((x[:20], y[:20]), epochs=5, batch_size="full")
    weighted.fit((x, y, weights), epochs=5, batch_size="full")
    for name, array in half.model_arrays().items():
        np.testing.assert_allclose(weighted.model_arrays()[name], array, rtol=1e-5, atol=1e-7)


def test_batch_norm_statistics_are_updated_by_training_alone():
    x, y = two_moons()
    trainer = small_trainer(model=small_classifier(batch_norm=True))
    before = trainer.model_arrays()
    trainer.evaluate((x, y))
    trainer.predict(x)
    assert same_bits(before, trainer.model_arrays())
    trainer.fit((x, y), epochs=1)
    changed = {name for name, array in trainer.model_arrays().items() if not np.array_equal(array, before[name])}
    assert {name for name in changed if "running" in name}, f"only {changed} changed"


def test_partial_fit_is_one_update():
    x, y = two_moons(32)
    stream, whole = small_trainer(), small_trainer()
    first = stream.partial_fit(x, y)
    assert stream.steps == 1
    record = whole.fit((x, y), epochs=1, batch_size="full").records[0]
    assert first == record["loss"]
    assert same_bits(stream.model_arrays(), whole.model_arrays())
    for row in range(32):
        stream.partial_fit(x[row : row + 1], y[row : row + 1])
    assert stream.steps == 33


def test_early_stopping_restores_the_best_weights():
    x, y = two_moons(60)
    seen = {}

    class Watch(Callback):
        def on_epoch_end(self, trainer, record):
            seen[record["epoch"]] = (record["val_loss"], trainer.model_arrays())

    trainer = small_trainer(optimizer=optim.SGD(3.0))
    stopping = EarlyStopping(patience=4)
    history = trainer.fit(
        (x[:30], y[:30]), validation_data=(x[30:], y[30:]), epochs=200, batch_size=8, callbacks=[Watch(), stopping]
    )
    best = min(seen, key=lambda epoch: seen[epoch][0])
    assert history.best_epoch == best
    assert len(history) == best + 4
    assert history.stop_reason == "val_loss has not improved for 4 epochs"
    assert same_bits(trainer.model_arrays(), seen[best][1])


def test_early_stopping_names_what_it_can_watch():
    with pytest.raises(ConfigError, match="watches 'val_loss', but an epoch has only loss"):
        small_trainer().fit(two_moons(20), epochs=1, callbacks=[EarlyStopping()])


def test_early_stopping_maximises_scores():
    assert EarlyStopping("val_accuracy").sign == 1
    assert EarlyStopping("val_auc").sign == 1
    assert EarlyStopping("val_rmse").sign == -1


def test_the_plateau_schedule_lowers_the_learning_rate():
    x, y = two_moons(60)
    rule = optim.ReduceOnPlateau(factor=0.5, patience=1)
    trainer = small_trainer(optimizer=optim.SGD(4.0))
    history = trainer.fit((x, y), epochs=25, batch_size=8, callbacks=[PlateauScheduler(rule, monitor="loss")])
    rates = history["learning_rate"]
    assert rates[0] == 4.0
    assert rates[-1] < 4.0
    assert all(np.isclose(b / a, 1) or np.isclose(b / a, 0.5) for a, b in zip(rates, rates[1:]))


def test_stopping_at_a_gradient_norm():
    x, y = two_moons(40)
    history = small_trainer(optimizer=optim.SGD(0.5)).fit(
        (x, y), epochs=3000, batch_size="full", stop_at_gradient_norm=0.05
    )
    assert history.stop_reason == "the gradient norm is at most 0.05"
    assert history["gradient_norm"][-1] <= 0.05 < history["gradient_norm"][-2]


def test_a_nan_stops_training_names_its_layer_and_keeps_the_last_good_weights():
    x, y = two_moons(64)
    trainer = small_trainer(optimizer=optim.SGD(1e30))
    with pytest.raises(NonFiniteError, match=r"no longer finite at step \d+: .*layers\.\d") as error:
        trainer.fit((x, y), epochs=5, batch_size=8)
    assert error.value.exit_code == 3
    assert all(np.isfinite(array).all() for array in trainer.model_arrays().values())


def test_a_nan_in_the_data_is_said_to_be_in_the_data():
    x, y = two_moons(64)
    x[7, 1] = np.nan
    trainer = small_trainer()
    before = trainer.model_arrays()
    with pytest.raises(NonFiniteError, match="the input 'x'"):
        trainer.fit((x, y), epochs=1, batch_size="full")
    assert same_bits(before, trainer.model_arrays())


@pytest.mark.parametrize("callbacks", [[], [EarlyStopping(patience=2)]])
def test_a_validation_loss_that_is_nan_from_the_start_stops_training(callbacks):
    """After an epoch, with its weights; it names where the NaN is as one in training does."""
    x, y = two_moons(64)
    spoilt = x.copy()
    spoilt[7, 1] = np.nan
    trainer, untroubled = small_trainer(), small_trainer()
    with pytest.raises(
        NonFiniteError, match=r"^the validation loss is not finite after epoch 1, .* in the input 'x'; "
    ):
        trainer.fit((x, y), validation_data=(spoilt, y), epochs=5, callbacks=callbacks)
    assert [np.isnan(record["val_loss"]) for record in trainer.history.records] == [True]
    untroubled.fit((x, y), epochs=1)
    assert same_bits(untroubled.model_arrays(), trainer.model_arrays())


def test_targets_of_validation_that_make_no_sense_are_refused_before_training():
    x, y = two_moons(64)
    spoilt = np.where(np.arange(64) == 5, 7, y)
    trainer = small_trainer()
    before = trainer.model_arrays()
    with pytest.raises(DataError, match=r"^the validation data: labels of 2 classes are 0 to 1, but row 5 holds 7$"):
        trainer.fit((x, y), validation_data=(x, spoilt), epochs=1)
    assert same_bits(before, trainer.model_arrays())


def test_targets_of_an_evaluation_that_make_no_sense_are_refused():
    x, y = two_moons(64)
    spoilt = np.where(np.arange(64) == 5, 7, y)
    trainer = small_trainer()
    with pytest.raises(DataError, match=r"^the evaluation data: labels of 2 classes are 0 to 1, but row 5 holds 7$"):
        trainer.evaluate((x, spoilt))
    assert np.isnan(trainer.evaluate((x * np.nan, y))["loss"])  # no fault of the targets


class Losing(Trainer):
    """Has these validation losses."""

    losses = ()

    def evaluate_examples(self, given):
        return {"loss": self.losses[len(self.history.records)]}


@pytest.mark.parametrize(
    ("losses", "reason", "best"),
    [
        ((np.inf, 2.0, np.nan, np.nan, np.nan), "val_loss has not improved for 3 epochs", 2),
        ((np.inf, np.inf, np.inf, 1.0), "val_loss has never been finite in 3 epochs", None),
    ],
)
def test_a_loss_that_is_not_finite_is_no_better_than_one_that_is(losses, reason, best):
    x, y = two_moons(16)
    trainer = small_trainer(Losing)
    trainer.losses = losses
    history = trainer.fit((x, y), validation_data=(x, y), epochs=9, callbacks=[EarlyStopping(patience=3)])
    assert (history.stop_reason, history.best_epoch) == (reason, best)


def test_callbacks_see_every_batch():
    x, y = two_moons(50)
    events = []

    class Watch(Callback):
        def on_batch_end(self, trainer, event):
            events.append(event)

    small_trainer().fit((x, y), epochs=2, batch_size=16, callbacks=[Watch()])
    assert [(e.epoch, e.batch, e.examples) for e in events[:4]] == [(1, 1, 16), (1, 2, 32), (1, 3, 48), (1, 4, 50)]
    assert [e.step for e in events] == list(range(1, 9))


def test_the_whole_step_is_one_graph_with_its_three_phases():
    x, y = two_moons(32)
    trainer = small_trainer()
    trainer.fit((x, y), epochs=1)
    phases = {node.origin.phase for node in trainer.step.graph.nodes}
    assert phases == {"forward", "backward", "update"}
    later = {v for node in trainer.step.graph.nodes if node.origin.phase != "forward" for v in node.outputs}
    assert not [
        node for node in trainer.step.graph.nodes if node.origin.phase == "forward" and later & set(node.inputs)
    ]
    assert trainer.step.backward_graph.nodes


def test_a_partial_batch_and_another_batch_size_compile_nothing(monkeypatch):
    x, y = two_moons(50)
    trainer = small_trainer()
    loads = []
    load = trainer.step.engine.load
    monkeypatch.setattr(
        type(trainer.step.engine), "load", lambda self, graph, *rest: loads.append(graph.name) or load(graph, *rest)
    )
    trainer.fit((x, y), epochs=1, batch_size=16)
    trainer.fit((x, y), epochs=1, batch_size=7)
    trainer.partial_fit(x[:1], y[:1])
    assert loads.count("step") == 1
    assert len(loads) == 2  # the other is prediction, which the targets are checked with


def test_inputs_may_be_trees():
    x, y = two_moons(40)

    class Split(nn.Module):
        def __init__(self):
            self.inner = nn.Linear(2, 2)

        def forward(self, inputs):
            return self.inner(cr.stack([inputs["a"], inputs["b"]], 1).astype("float32"))

    trainer = Trainer(Split(), loss=nn.losses.cross_entropy, optimizer=optim.Adam(0.05))
    columns = {"a": x[:, 0].astype(np.float64), "b": x[:, 1].astype(np.float64)}
    trainer.fit((columns, y), epochs=2, batch_size=16)
    assert trainer.predict(columns).shape == (40, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 2)), "must be a tuple"),
        ((np.zeros((3, 2)), np.zeros(4)), r"sizes are \[3, 4\]"),
        ((np.zeros((0, 2)), np.zeros(0)), "has no examples"),
        ((np.zeros((3, 2)), np.zeros(3, int), np.zeros(3)), "not all zero"),
        ((np.zeros((3, 2)), np.zeros(3, int), -np.ones(3)), "must not be negative"),
        ((np.zeros((3, 2)), np.zeros(3, int), np.ones(2)), "weights of shape"),
        ((np.array([["a", "b"]]), np.zeros(1)), "take numbers, not <U1"),
        ((3.0, np.zeros(1)), "rows of arrays, not single numbers"),
    ],
)
def test_bad_data_is_one_clear_sentence(data, message):
    with pytest.raises(DataError, match=message):
        small_trainer().fit(data)


def test_a_label_without_an_output_names_its_row():
    x, y = two_moons(20)
    y[13] = 2
    with pytest.raises(DataError, match="labels of 2 classes are 0 to 1, but row 13 holds 2"):
        small_trainer().fit((x, y))


def test_bad_arguments_are_refused():
    data = two_moons(10)
    for options in ({"epochs": 0}, {"batch_size": 0}, {"batch_size": "all"}):
        with pytest.raises(ConfigError):
            small_trainer().fit(data, **options)


def test_inputs_that_do_not_fit_name_the_layer():
    with pytest.raises(ChainruleError, match=r"layers\.0"):
        small_trainer().fit((np.zeros((8, 3), np.float32), np.zeros(8, int)), epochs=1)


def test_history_survives_json():
    x, y = two_moons(30)
    history = small_trainer().fit((x, y), epochs=2)
    again = History.from_json(json.loads(json.dumps(history.to_json())))
    assert again == history


def test_the_model_that_was_passed_stays_as_it_was():
    model = small_classifier()
    before = {k: v.copy() for k, v in trees.named_leaves(model).items()}
    trainer = small_trainer(model=model)
    trainer.fit(two_moons(30), epochs=1)
    assert same_bits(before, trees.named_leaves(model))
