"""Arguments of training that make no sense are refused in one sentence, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ChainruleError, ConfigError, DataError, WeightsError

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


def trainer(**settings: Any) -> cr.Trainer:
    given: dict[str, Any] = {"loss": nn.losses.cross_entropy, "optimizer": optim.SGD(0.1), **settings}
    return cr.Trainer(given.pop("model", nn.Linear(3, 2)), **given)


def fit(data: Any = (X, Y), **settings: Any) -> Any:
    return trainer().fit(data, **{"epochs": 1, **settings})


REFUSED: dict[str, tuple[Callable[[], Any], type[ChainruleError], str]] = {
    "a loss by name": (lambda: trainer(loss="mse"), ConfigError, "the loss of a Trainer is a function .*, not 'mse'"),
    "an optimiser by name": (
        lambda: trainer(optimizer="adam"),
        ConfigError,
        r"such as optim\.Adam\(1e-3\), not 'adam'",
    ),
    "an optimiser that is not made": (
        lambda: trainer(optimizer=optim.Adam),
        ConfigError,
        "not the function Adam, which makes one when it is called",
    ),
    "a chain of numbers": (lambda: optim.chain(optim.SGD(0.1), 3), ConfigError, "a part of a chain is an optimiser"),  # type: ignore[arg-type]
    "a group of numbers": (
        lambda: optim.groups({"*": 0.1}),  # type: ignore[dict-item]
        ConfigError,
        "the group '\\*' is an optimiser such as",
    ),
    "groups in a list": (
        lambda: optim.groups([optim.SGD(0.1)]),  # type: ignore[arg-type]
        ConfigError,
        "groups is given a dict from pattern to optimiser",
    ),
    **{
        f"{function.__name__} of a class": (
            lambda function=function, more=more: function(optim.Adam, *more),
            ConfigError,
            f"what {function.__name__} is given is an optimiser .*, not the function Adam, which makes one",
        )
        for function, more in ((optim.accumulate, (2,)), (optim.average, ()), (optim.maximize, ()))
    },
    "a turn without an optimiser": (
        lambda: cr.AlternatingTrainer({"a": nn.Linear(3, 2)}, [cr.Turn("a", lambda *_: 0.0, None)]),  # type: ignore[arg-type]
        ConfigError,
        "the optimizer of the turn 'a' is an optimiser such as .*, not None",
    ),
    "a class": (lambda: trainer(model=nn.Linear), ConfigError, "a model is a module .*, not the class Linear"),
    "a function": (lambda: trainer(model=np.tanh), ConfigError, "a model is a module .*, not the function tanh"),
    "epochs that are no number": (lambda: fit(epochs="3"), ConfigError, "epochs is a whole number .*, not '3'"),
    "broken epochs": (lambda: fit(epochs=1.5), ConfigError, r"epochs is a whole number of at least 1, not 1\.5"),
    "no epochs": (lambda: fit(epochs=0), ConfigError, "epochs is a whole number of at least 1, not 0"),
    "a batch of truth": (lambda: fit(batch_size=True), ConfigError, "batch_size is a whole number .*, not True"),
    "an empty batch": (lambda: fit(batch_size=0), ConfigError, "batch_size is a whole number of at least 1 or 'full'"),
    "predictions of no rows at a time": (
        lambda: trainer().predict(X, 0),
        ConfigError,
        "batch_size is a whole number of at least 1, not 0",
    ),
    "broken batches of an evaluation": (
        lambda: trainer().evaluate((X, Y), 2.5),  # type: ignore[arg-type]
        ConfigError,
        r"batch_size is a whole number of at least 1, not 2\.5",
    ),
    "a metric by name": (
        lambda: trainer(metrics={"acc": "accuracy"}),
        ConfigError,
        r"the metrics of a Trainer are functions by name, .*, not \{'acc': 'accuracy'\}",
    ),
    "a list of metrics": (lambda: trainer(metrics=[np.mean]), ConfigError, "the metrics of a Trainer are functions by"),
    "a threshold in words": (
        lambda: fit(stop_at_loss="low"),
        ConfigError,
        "stop_at_loss is a number or None, not 'low'",
    ),
    "one callback": (lambda: fit(callbacks=cr.EarlyStopping()), ConfigError, "callbacks is a list of them"),
    "a class of callbacks": (lambda: fit(callbacks=[cr.EarlyStopping]), ConfigError, "callbacks is a list of them"),
    "lists": (lambda: fit((X.tolist(), Y.tolist())), DataError, "rows of arrays, .* with numpy.asarray first$"),
    "inputs alone": (lambda: fit((X,)), DataError, r"a tuple \(x, y\) or \(x, y, weights\), not tuple of 1$"),
    "ragged lists": (lambda: trainer().predict([[1, 2, 3], [4]]), DataError, "rows of arrays"),
    "text": (lambda: trainer().predict("row"), DataError, "networks take numbers, not <U3"),
    "no weights": (
        lambda: trainer().load_model_arrays({}),
        WeightsError,
        r"the set of weights holds weights for another network: 'weight' of shape \(3, 2\) is missing from it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()


def test_counts_may_be_numbers_of_numpy() -> None:
    assert len(fit(epochs=np.int64(2), batch_size=np.int32(7)).records) == 2


@pytest.mark.parametrize("batch_size", [1, 7, 1024])
def test_no_rows_have_no_predictions(batch_size: int) -> None:
    empty = trainer().predict(X[:0], batch_size)
    assert empty.shape == (0, 2)
    assert empty.dtype == np.float32
    pair = cr.AlternatingTrainer({"a": nn.Linear(3, 2)}, [cr.Turn("a", lambda *_: 0.0, optim.SGD(0.1))])
    assert pair.predict("a", X[:0]).shape == (0, 2)
    np.testing.assert_allclose(trainer(model=nn.Linear(3, 2)).predict(X, batch_size).shape, (20, 2))


def test_batches_must_go_on_with_the_states_that_layers_carry() -> None:
    tokens = np.random.default_rng(0).integers(0, 5, (12, 3))

    def trainer() -> cr.Trainer:
        model = nn.models.RecurrentLanguageModel(5, 3, 4, kind="lstm", stateful=4)
        return cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=optim.SGD(0.1), engine="reference")

    carries = r"layer 'recurrent' \(LSTM\) carries the state of 4 sequences"
    with pytest.raises(ConfigError, match=carries + ", so a batch has at most so many, not 12; use batch_size=4"):
        trainer().fit((tokens, tokens), shuffle=False)
    with pytest.raises(ConfigError, match=carries + " from one batch to the next.*use shuffle=False"):
        trainer().fit((tokens, tokens), batch_size=4)
    with pytest.raises(ConfigError, match="at most so many, not 12"):
        trainer().partial_fit(tokens, tokens)
    trained = trainer()
    trained.fit((tokens[:10], tokens[:10]), batch_size=4, shuffle=False, epochs=1)
    both = {"one": trained.model, "other": trained.model}

    def loss(models: Any, x: Any, y: Any, weights: Any) -> Any:
        return nn.losses.cross_entropy(models["one"](x, training=True), y)

    with pytest.raises(ConfigError, match="use shuffle=False"):
        cr.AlternatingTrainer(both, [cr.Turn("one", loss, optim.SGD(0.1))]).fit((tokens, tokens), batch_size=4)
