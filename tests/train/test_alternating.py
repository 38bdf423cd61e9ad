from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import chainrule as cr
from chainrule import nn, ops, optim
from chainrule.core import trees
from chainrule.core.errors import ConfigError, DataError
from chainrule.train import ModeCollapseWarning, image_sheet, write_sheet

LATENT = 3


def ring(count: int = 256) -> np.ndarray[Any, Any]:
    """Points near a circle."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, count)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) + 0.05 * rng.normal(size=(count, 2))
    return points.astype(np.float32)


def models() -> dict[str, nn.Module]:
    cr.seed(3)
    return {
        "generator": nn.Sequential(nn.Linear(LATENT, 16), nn.BatchNorm(16), nn.ReLU(), nn.Linear(16, 2)),
        "discriminator": nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)),
    }


def gan(kind: str = "non_saturating", rate: float = 5e-3, **options: Any) -> cr.AlternatingTrainer:
    adam = optim.Adam(rate, (0.5, 0.999))
    return cr.AlternatingTrainer(models(), cr.adversarial_turns(LATENT, adam, adam, kind, **options), seed=1)


def test_one_pair_of_updates_is_that_of_torch() -> None:
    """With noise taken from the data instead of drawn, both sides do the same; batch statistics included."""
    # In float64: before batch norm a bias has no gradient but rounding errors, which Adam would magnify in float32.
    ours = {name: trees.tree_map(lambda leaf: leaf.astype(np.float64), model) for name, model in models().items()}
    rng = np.random.default_rng(1)
    x, z = ring(32).astype(np.float64), rng.normal(size=(32, LATENT))

    def discriminator_loss(m: Any, x: Any, y: Any, weights: Any) -> Any:
        fake = m["discriminator"](ops.stop_gradient(m["generator"](y, training=True)))
        real = m["discriminator"](x)
        bce = nn.losses.binary_cross_entropy
        return bce(real, ops.ones(real.shape)) + bce(fake, ops.zeros(fake.shape))

    def generator_loss(m: Any, x: Any, y: Any, weights: Any) -> Any:
        fake = m["discriminator"](m["generator"](y, training=True))
        return nn.losses.binary_cross_entropy(fake, ops.ones(fake.shape))

    adam = optim.Adam(0.01, (0.5, 0.999))
    turns = [cr.Turn("discriminator", discriminator_loss, adam), cr.Turn("generator", generator_loss, adam)]
    trainer = cr.AlternatingTrainer(ours, turns)
    history = trainer.fit((x, z), epochs=5, batch_size=32, shuffle=False)

    generator = torch.nn.Sequential(
        torch.nn.Linear(LATENT, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    ).double()
    discriminator = torch.nn.Sequential(
        torch.nn.Linear(2, 16), torch.nn.LeakyReLU(0.2), torch.nn.Linear(16, 1)
    ).double()
    with torch.no_grad():
        for theirs, mine in ((generator, ours["generator"]), (discriminator, ours["discriminator"])):
            for number in (0, len(theirs) - 1):
                theirs[number].weight.copy_(torch.tensor(mine.layers[number].weight.T))
                theirs[number].bias.copy_(torch.tensor(mine.layers[number].bias))
    of_g = torch.optim.Adam(generator.parameters(), 0.01, (0.5, 0.999))
    of_d = torch.optim.Adam(discriminator.parameters(), 0.01, (0.5, 0.999))
    bce = torch.nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(32, 1).double(), torch.zeros(32, 1).double()
    for epoch in range(5):
        loss = bce(discriminator(torch.tensor(x)), ones)
        loss = loss + bce(discriminator(generator(torch.tensor(z)).detach()), zeros)
        of_d.zero_grad()
        loss.backward()
        of_d.step()
        assert history["discriminator_loss"][epoch] == pytest.approx(float(loss.detach()), rel=1e-9)
        loss = bce(discriminator(generator(torch.tensor(z))), ones)
        of_g.zero_grad()
        loss.backward()
        of_g.step()
        assert history["generator_loss"][epoch] == pytest.approx(float(loss.detach()), rel=1e-9)
    running = trainer.model["generator"].layers[1].running_mean.value
    np.testing.assert_allclose(running, generator[1].running_mean.numpy(), rtol=1e-7)


@pytest.mark.parametrize("kind", ["non_saturating", "least_squares", "hinge"])
def test_a_gan_learns_where_the_data_are(kind: str) -> None:
    trainer = gan(kind)
    z = np.random.default_rng(2).normal(size=(200, LATENT)).astype(np.float32)
    distances = []
    centre = np.array([2.0, -1.0])
    data = (ring() + centre).astype(np.float32)

    def generate(t: Any) -> Any:
        points = t.predict("generator", z)
        distances.append(np.linalg.norm(points.mean(0) - centre))
        return points

    generate(trainer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModeCollapseWarning)
        watch = cr.ModeCollapse(generate, data)
        history = trainer.fit(data, epochs=60, batch_size=32, callbacks=[watch])
    assert min(distances) < 0.25 * distances[0], "adversaries circle, so the last epoch need not be the best"
    assert len(watch.diversity) == 60
    assert history["loss"][-1] == pytest.approx(
        history["generator_loss"][-1] + history["discriminator_loss"][-1], rel=1e-5
    )
    assert any(name.startswith("generator") for name in history.records[-1]["gradient_norms"])


def test_only_the_model_whose_turn_it_is_changes() -> None:
    trainer = gan()
    before = trainer.model_arrays()
    trainer = cr.AlternatingTrainer(models(), trainer.turns[:1], seed=1)
    trainer.fit(ring(), epochs=1, batch_size=64)
    for path, array in trainer.model_arrays().items():
        learns = path.startswith("discriminator") or "running" in path
        assert np.array_equal(array, before[path]) != learns, path


def test_resuming_ends_with_the_same_bits(tmp_path: Path) -> None:
    class Stop(cr.Callback):
        def on_epoch_end(self, trainer: Any, record: Any) -> None:
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    whole = gan(discriminator_updates=2)
    whole.fit(ring(), epochs=5, batch_size=64)
    with pytest.raises(KeyboardInterrupt):
        gan(discriminator_updates=2).fit(
            ring(), epochs=5, batch_size=64, checkpoints=tmp_path / "c", callbacks=[Stop()]
        )
    again = gan(discriminator_updates=2)
    again.resume(ring(), checkpoints=tmp_path / "c", epochs=5, batch_size=64)
    for path, array in whole.model_arrays().items():
        assert np.array_equal(array, again.model_arrays()[path]), path
    assert again.steps == 20
    assert int(again.optimizer_state["discriminator"]["count"]) == 40


def test_distillation_a_student_learns_from_a_teacher_that_stays() -> None:
    cr.seed(0)
    teacher, student = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), nn.Linear(4, 2)

    def loss(models: Any, x: Any, y: Any, weights: Any) -> Any:
        return nn.losses.squared_error(models["student"](x, training=True), ops.stop_gradient(models["teacher"](x)))

    x = np.random.default_rng(0).normal(size=(128, 4)).astype(np.float32)
    trainer = cr.AlternatingTrainer(
        {"teacher": teacher, "student": student}, [cr.Turn("student", loss, optim.Adam(0.02))]
    )
    history = trainer.fit(x, epochs=30)
    assert history["student_loss"][-1] < 0.3 * history["student_loss"][0]
    assert trainer.learning_rate == pytest.approx(0.02)
    assert np.array_equal(trainer.model["teacher"].layers[0].weight, teacher.layers[0].weight)


def test_mode_collapse_is_said_once(tmp_path: Path) -> None:
    class Record(dict[str, Any]):
        pass

    samples = [ring(), np.full((64, 2), 0.5), np.full((64, 2), 0.5), ring(), np.zeros((64, 2))]
    watch = cr.ModeCollapse(lambda epoch: samples[epoch], ring(), threshold=0.1)
    said = []
    for epoch in range(5):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watch.on_epoch_end(epoch, Record(epoch=epoch + 1))  # type: ignore[arg-type]
        said.append(len(caught))
    assert said == [0, 1, 0, 0, 1]
    assert watch.diversity == pytest.approx([1.0, 0, 0, 1.0, 0], abs=1e-6)


def test_sheets_show_the_images(tmp_path: Path) -> None:
    images = np.stack([np.full((4, 5), v) for v in (-1.0, 0.0, 1.0, np.nan, 9.0)])
    sheet = image_sheet(images, columns=3, gap=1)
    assert sheet.shape == (9, 17)
    assert [sheet[0, 0], sheet[0, 6], sheet[0, 12], sheet[5, 0], sheet[5, 6]] == [0, 128, 255, 0, 255]
    assert sheet[4].tolist() == [255] * 17
    colour = image_sheet(np.zeros((2, 3, 3, 3)), low=0, high=1, gap=0)
    assert colour.shape == (3, 6, 3)
    write_sheet(tmp_path / "s.png", images, columns=3, gap=1)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "s.png")), sheet)
    with pytest.raises(DataError, match=r"needs images of shape .* not \(2, 2\)"):
        image_sheet(np.zeros((2, 2)))
    trainer = gan()
    z = np.zeros((4, LATENT), np.float32)
    with pytest.raises(TypeError, match="'colums'"):
        cr.SampleSheets(tmp_path, lambda t: ring(), colums=3)
    sheets = cr.SampleSheets(tmp_path / "over_time", lambda t: t.predict("generator", z).reshape(4, 1, 2), every=2)
    trainer.fit(ring(64), epochs=4, callbacks=[sheets])
    assert sorted(p.name for p in (tmp_path / "over_time").iterdir()) == ["epoch_0002.png", "epoch_0004.png"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cr.AlternatingTrainer(models(), []), "needs at least one turn"),
        (lambda: cr.AlternatingTrainer({}, gan().turns), "a turn is for the model 'discriminator'"),
        (lambda: cr.AlternatingTrainer(models(), [gan().turns[0]] * 2), "two turns are called 'discriminator'"),
        (lambda: gan("wishful"), "kind of adversarial_turns is one of non_saturating"),
        (lambda: gan(discriminator_updates=0), "repeats of a turn is a number of at least 1"),
        (lambda: gan().predict("critic", ring()), "there is no model 'critic'; there are generator, discriminator"),
        (lambda: gan().fit(ring(), validation_data=(ring(), None)), "has no validation loss"),
        (lambda: cr.ModeCollapse(lambda t: ring(), ring(1)), "at least two real examples"),
        (lambda: cr.SampleSheets("x", lambda t: ring(), every=0), "every of SampleSheets"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_examples_of_a_gan_that_are_not_one_array_are_refused() -> None:
    with pytest.raises(DataError, match="examples of adversarial_turns are one array, not a list of arrays"):
        gan().fit([ring()])


def test_a_backward_rule_may_be_of_a_model_that_one_turn_alone_runs() -> None:
    """The scope is looked for in all turns together, and refused where none of them has it."""
    given = {"one": nn.Linear(2, 3), "other": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))}
    turns = [
        cr.Turn(name, lambda m, x, y, weights, name=name: (m[name](x) ** 2).mean(), optim.SGD(0.1)) for name in given
    ]

    def trained(rules: Any) -> Any:
        cr.AlternatingTrainer(given, turns, rules=rules).fit(ring(8), epochs=1, batch_size=8)

    trained(cr.feedback_alignment("layers.1"))
    with pytest.raises(ConfigError, match=r"no layer matches the scope 'layers\.2'; did you mean 'layers\.[01]'\?"):
        trained(cr.feedback_alignment("layers.2"))
