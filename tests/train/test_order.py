"""The order in which an epoch visits the examples."""

from pathlib import Path

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.engines.reference.threefry import random_bits
from chainrule.trace.seeds import DRAW_STREAM, fold_in, key_from_seed
from chainrule.train import StepTrainer
from chainrule.train.batches import _stable_order, order_of_epoch


@pytest.mark.parametrize("count", [1, 2, 100, 4095, 4096, 70_000])
def test_the_order_is_that_of_a_stable_argsort(count):
    key = key_from_seed(7)
    bits = random_bits(fold_in(key, 3), np.asarray(DRAW_STREAM, np.uint32), (count,))
    np.testing.assert_array_equal(order_of_epoch(key, 0, 3, count), np.argsort(bits, kind="stable"))


def test_a_training_that_goes_on_visits_the_examples_in_another_order(tmp_path: Path) -> None:
    """Or else ``fit(epochs=1)`` in a loop would never shuffle but once. Resumed it has the bits of an unbroken one."""
    x = np.arange(12.0)[:, None]

    class Stop(cr.Callback):
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    def trainer():
        linear = nn.Linear(1, 1).replace(weight=np.ones((1, 1)), bias=np.zeros(1))
        return cr.Trainer(linear, loss=nn.losses.squared_error, optimizer=optim.SGD(1e-3), seed=1, engine="reference")

    def weights(trained):
        return [array.tolist() for array in trained.model_arrays().values()]

    watched = trainer()
    orders = []
    watched.advance = lambda stretch: (orders[-1].extend(stretch.rows.tolist()), StepTrainer.advance(watched, stretch))[
        1
    ]
    for _ in range(3):
        orders.append([])
        watched.fit((x, x**2), epochs=1, batch_size=4)
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3

    whole, killed, again = trainer(), trainer(), trainer()
    for each in (whole, killed):
        each.fit((x, x**2), epochs=1, batch_size=4)
    whole.fit((x, x**2), epochs=4, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        killed.fit((x, x**2), epochs=4, batch_size=4, checkpoints=tmp_path / "c", callbacks=[Stop()])
    again.resume((x, x**2), epochs=4, batch_size=4, checkpoints=tmp_path / "c")
    assert weights(again) == weights(whole)


@pytest.mark.parametrize("bits", [1, 4, 17, 32])
def test_equal_numbers_keep_their_order(bits):
    numbers = np.random.default_rng(0).integers(0, 2**bits, 9000).astype(np.uint32)
    np.testing.assert_array_equal(_stable_order(numbers), np.argsort(numbers, kind="stable"))
