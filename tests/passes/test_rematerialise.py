from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, ops, optim
from chainrule.core.errors import ConfigError
from chainrule.engines.reference import ENGINE
from chainrule.ir.verify import verify
from chainrule.passes import rematerialise, working_memory
from chainrule.trace import using_key

BATCH = 64


def deep(layers: int = 24, width: int = 32) -> Any:
    cr.seed(0)
    return nn.Sequential(
        *(layer for _ in range(layers) for layer in (nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.1)))
    )


def data(width: int = 32) -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(size=(BATCH, width)).astype(np.float32), rng.normal(size=(BATCH, width)).astype(np.float32)


def gradient(model: Any, key: Any, x: Any, y: Any) -> Any:
    def loss(model: Any) -> Any:
        return ops.square(model(x, training=True) - y).mean()

    with using_key(key):
        return cr.value_and_grad(loss)(model)


def arguments() -> Any:
    return deep(), np.array([1, 2], np.uint32), *data()


def test_memory_shrinks_and_results_keep_their_bits() -> None:
    compiled = cr.compile(gradient, batch=("x", "y"), engine="reference")
    graph, arrays = compiled.graph_and_arrays(*arguments())
    before = working_memory(graph, BATCH)
    expected = ENGINE.load(graph)(arrays)
    nodes = [len(graph.nodes)]
    for share in (0.7, 0.45):
        smaller = verify(rematerialise(graph, int(share * before), BATCH))
        assert working_memory(smaller, BATCH) <= share * before
        nodes.append(len(smaller.nodes))
        for found, wanted in zip(ENGINE.load(smaller)(arrays), expected, strict=True):
            assert np.array_equal(found, wanted)
    assert nodes == sorted(nodes), "less memory costs more arithmetic"


def test_what_fits_stays_as_it_is() -> None:
    graph, _ = cr.compile(gradient, batch=("x", "y")).graph_and_arrays(*arguments())
    assert rematerialise(graph, working_memory(graph, BATCH), BATCH) is graph


def test_the_limit_that_cannot_be_kept_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"needs \d[\d.]* MB of working memory even when it recomputes .* the limit of 0.001 MB"
    ):
        cr.compile(gradient, batch=("x", "y"), memory_limit=1000)(*arguments())
    with pytest.raises(ConfigError, match="memory_limit is a number of bytes"):
        cr.compile(gradient, memory_limit="much")  # type: ignore[arg-type]


def test_a_trainer_learns_the_same_with_less() -> None:
    def trained(limit: float | None) -> Any:
        trainer = cr.Trainer(
            deep(16), loss=nn.losses.squared_error, optimizer=optim.SGD(0.1), engine="reference", memory_limit=limit
        )
        trainer.fit([np.tile(array, (8, 1)) for array in data()], epochs=2, batch_size=512)
        return trainer

    free = trained(None)
    tight = trained(0.7 * working_memory(free.step.graph, 512))
    assert len(tight.step.graph.nodes) > len(free.step.graph.nodes)
    for path, array in free.model_arrays().items():
        assert np.array_equal(array, tight.model_arrays()[path])
