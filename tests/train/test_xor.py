"""A 2-2-1 network learns exclusive or, the smallest problem that needs a hidden layer, in every mode of learning."""

import pytest
from tests.train.problems import XOR

import chainrule as cr
from chainrule import nn, optim
from chainrule.train import Trainer


@pytest.mark.parametrize("batch_size", [1, 2, "full"], ids=["online", "mini-batch", "full batch"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_xor_is_learned_by_a_2_2_1_network(batch_size, seed):
    cr.seed(seed)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    trainer = Trainer(model, loss=nn.losses.binary_cross_entropy, optimizer=optim.Adam(0.05), seed=seed)
    history = trainer.fit(XOR, epochs=2000, batch_size=batch_size, stop_at_loss=0.02)
    assert history.stop_reason == "the loss is at most 0.02"
    assert ((trainer.predict(XOR[0]) > 0) == (XOR[1] > 0.5)).all()
    updates_per_epoch = {1: 4, 2: 2, "full": 1}[batch_size]
    assert trainer.steps == updates_per_epoch * len(history)


def test_a_network_without_a_hidden_layer_cannot_learn_xor():
    trainer = Trainer(nn.Sequential(nn.Linear(2, 1)), loss=nn.losses.binary_cross_entropy, optimizer=optim.Adam(0.05))
    history = trainer.fit(XOR, epochs=300, batch_size="full")
    assert history["loss"][-1] > 0.69
