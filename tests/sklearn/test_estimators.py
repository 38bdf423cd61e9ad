from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from chainrule import nn, optim
from chainrule.sklearn import NeuralNetClassifier, NeuralNetRegressor

IRIS = load_iris(return_X_y=True)


@pytest.mark.parametrize(("ours", "theirs"), [(NeuralNetClassifier, MLPClassifier), (NeuralNetRegressor, MLPRegressor)])
def test_every_check_that_the_networks_of_scikit_learn_pass(ours: Any, theirs: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(ours(max_iter=100), on_skip=None, on_fail=None)
        expected = {r["check_name"] for r in check_estimator(theirs(max_iter=5), on_skip=None, on_fail=None)}
    failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert not failed
    assert expected <= {r["check_name"] for r in results}, "the same checks, or more, apply to ours"


def test_digits_are_told_apart_as_well_as_by_scikit_learn() -> None:
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
    settings: dict[str, Any] = {"hidden_layer_sizes": (64,), "max_iter": 40, "random_state": 0, "tol": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = make_pipeline(StandardScaler(), NeuralNetClassifier(**settings)).fit(x_train, y_train)
        theirs = make_pipeline(StandardScaler(), MLPClassifier(**settings)).fit(x_train, y_train)
    assert ours.score(x_test, y_test) >= theirs.score(x_test, y_test) - 0.01
    probabilities = ours.predict_proba(x_test)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    assert np.array_equal(probabilities.argmax(1), ours.predict(x_test))
    np.testing.assert_allclose(np.exp(ours.predict_log_proba(x_test)), probabilities, rtol=1e-12)


def test_dropout_and_batch_norm_in_a_pipeline_searched_over() -> None:
    pipeline = make_pipeline(
        StandardScaler(),
        NeuralNetClassifier(
            (16,), batch_norm=True, batch_size=16, learning_rate_init=0.01, max_iter=30, random_state=0
        ),
    )
    grid = {"neuralnetclassifier__dropout": [0.0, 0.3], "neuralnetclassifier__optimizer": ["adam", "sgd"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(*IRIS)
    assert search.best_score_ > 0.9
    layers = [type(layer).__name__ for layer in search.best_estimator_[-1].network_]
    assert layers[:3] == ["Linear", "BatchNorm", "ReLU"]


def test_the_seed_decides() -> None:
    def trained(seed: int, **settings: Any) -> np.ndarray[Any, Any]:
        net = NeuralNetClassifier((8,), max_iter=1, random_state=seed, dropout=0.2, batch_size=32, **settings)
        return net.fit(*IRIS).predict_proba(IRIS[0])

    assert np.array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


def test_integer_weights_are_repetitions_and_class_weights_are_sample_weights() -> None:
    x, y = IRIS[0][::5], IRIS[1][::5]
    times = np.random.default_rng(0).integers(0, 3, len(x))
    net = NeuralNetClassifier((8,), max_iter=20, tol=0.0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        weighted = clone(net).fit(x, y, sample_weight=times)
        repeated = clone(net).fit(np.repeat(x, times, axis=0), np.repeat(y, times))
        np.testing.assert_allclose(weighted.predict_proba(x), repeated.predict_proba(x), rtol=1e-8)
        by_class = clone(net).set_params(class_weight={0: 1.0, 1: 2.0, 2: 0.5}).fit(x, y)
        by_row = clone(net).fit(x, y, sample_weight=np.choose(y, [1.0, 2.0, 0.5]))
        assert np.array_equal(by_class.predict_proba(x), by_row.predict_proba(x))
        balanced = clone(net).set_params(class_weight="balanced").fit(x[:14], y[:14])
        counts = np.bincount(y[:14])
        assert 0 < min(counts) < max(counts)
        by_count = clone(net).fit(x[:14], y[:14], sample_weight=(14 / (len(counts) * counts))[y[:14]])
        assert np.array_equal(balanced.predict_proba(x), by_count.predict_proba(x))


def test_partial_fit_goes_on_and_so_does_a_pickled_copy() -> None:
    x, y = IRIS
    net = NeuralNetClassifier((8,), random_state=0, batch_size=16, dropout=0.1)
    for _ in range(3):
        net.partial_fit(x, y, classes=[0, 1, 2])
    copy = pickle.loads(pickle.dumps(net))
    assert np.array_equal(copy.predict_proba(x), net.predict_proba(x))
    for each in (net, copy):
        each.partial_fit(x, y)
    assert np.array_equal(copy.predict_proba(x), net.predict_proba(x)), (
        "the state of Adam and of dropout is pickled too"
    )
    assert net.t_ == 4 * 10
    with pytest.raises(ValueError, match="not among the classes"):
        net.partial_fit(x, y + 1)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        NeuralNetClassifier().partial_fit(x, y)


def test_examples_that_lack_a_class_with_a_weight_are_learned_from() -> None:
    x, y = IRIS
    weighted = NeuralNetClassifier((8,), random_state=0, class_weight={0: 9.0})
    plain = NeuralNetClassifier((8,), random_state=0)
    for net in (weighted, plain):
        net.partial_fit(x[50:], y[50:], classes=[0, 1, 2])
    assert np.array_equal(weighted.predict_proba(x), plain.predict_proba(x))
    with pytest.raises(ValueError, match="not in class_weight"):
        NeuralNetClassifier((8,), class_weight={7: 9.0}).partial_fit(x, y, classes=[0, 1, 2])


def test_several_labels_at_once() -> None:
    x, y = make_multilabel_classification(200, 8, n_classes=3, random_state=0)
    net = make_pipeline(
        StandardScaler(), NeuralNetClassifier((32,), max_iter=60, tol=0.0, batch_size=20, learning_rate_init=0.01)
    )
    with pytest.warns(ConvergenceWarning, match="has not converged after max_iter = 60"):
        net.fit(x, y)
    assert net.predict(x).shape == net.predict_proba(x).shape == (200, 3)
    assert net.score(x, y) > 0.8


def test_early_stopping_keeps_the_best_weights() -> None:
    x, y = load_digits(return_X_y=True)
    net = NeuralNetClassifier(
        (32,), early_stopping=True, n_iter_no_change=3, learning_rate_init=0.01, random_state=0
    ).fit(x / 16, y)
    scores = net.validation_scores_
    assert len(scores) == net.n_iter_ < 200
    assert max(scores) > 0.95
    random = np.random.RandomState(0)
    random.randint(2**31 - 1)  # the draw for the weights comes first
    _, held_x, _, held_y = train_test_split(x / 16, y, test_size=0.1, random_state=random, stratify=y)
    assert net.score(held_x, held_y) == max(scores)


def test_regression_and_a_network_of_the_users_own() -> None:
    x, y = make_regression(200, 5, n_targets=2, noise=1.0, random_state=0)
    y = (y - y.mean(0)) / y.std(0)

    def network(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, outputs))

    net = NeuralNetRegressor(
        network=network, optimizer=optim.Adam(0.02), max_iter=100, random_state=0, gradient_clip=1.0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert cross_val_score(net, x, y, cv=3).mean() > 0.9
        alone = clone(net).fit(x, y[:, 0])
        single = clone(net).fit(x.astype(np.float32), y)
    assert alone.predict(x).shape == (200,)
    assert single.predict(x.astype(np.float32)).dtype == np.float32


def test_warm_start_goes_on() -> None:
    net = NeuralNetClassifier((8,), max_iter=1, warm_start=True, random_state=0).fit(*IRIS)
    first = net.loss_
    for _ in range(20):
        net.fit(*IRIS)
    assert net.loss_ < first
    with pytest.raises(ValueError, match="warm_start needs the classes of the last fit"):
        net.fit(IRIS[0], np.minimum(IRIS[1], 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be > 0"),
        ({"activation": "sine"}, "activation is one of relu"),
        ({"optimizer": "best"}, "optimizer is one of adam"),
        ({"batch_size": 0}, "batch_size must be 'auto'"),
        ({"max_iter": 0}, "max_iter must be a whole number of at least 1"),
        ({"alpha": -1}, "alpha must be a number of 0 or more"),
        ({"dropout": 1.0}, "the rate of Dropout"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie between 0 and 1"),
        ({"engine": "steam"}, "there is no engine 'steam'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralNetClassifier(**settings).fit(*IRIS)


def test_without_scikit_learn_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import chainrule.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'chainrule[sklearn]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("seed", range(6))
def test_of_one_class_there_is_one_answer(seed):
    """An untrained output may well be positive, and say the second of two classes."""
    x = np.random.default_rng(seed).normal(size=(20, 3))
    model = NeuralNetClassifier((4,), random_state=seed).partial_fit(x[:1], ["only"], classes=["only"])
    assert set(model.predict(x)) == {"only"}
    np.testing.assert_array_equal(model.predict_proba(x), np.ones((20, 1)))


def test_settings_changed_between_trainings_count() -> None:
    """Also after pickling; the memory of the optimiser stays where it fits. Those of the network cannot change any more."""
    x, y = IRIS
    net = NeuralNetClassifier((8,), max_iter=2, tol=0.0, random_state=0, batch_size=30, warm_start=True)

    def settled(trained: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return trained.fit(x, y)

    settled(net)
    for each in (net, pickle.loads(pickle.dumps(net))):
        before = each.predict_proba(x)
        moments = each._ready().state_arrays()["optimizer"]["1.count"]
        settled(each.set_params(learning_rate_init=0.0))
        assert np.array_equal(each.predict_proba(x), before)
        assert each._ready().state_arrays()["optimizer"]["1.count"] == moments + 10
        settled(each.set_params(learning_rate_init=0.1, optimizer="sgd"))
        assert not np.array_equal(each.predict_proba(x), before)
        each.set_params(learning_rate_init=0.0).partial_fit(x, y)
    assert np.array_equal(each.predict_proba(x), net.predict_proba(x))
    for change, message in [
        ({"max_iter": 0}, "max_iter must be a whole number of at least 1"),
        (
            {"hidden_layer_sizes": (9,)},
            r"hidden_layer_sizes was \(8,\) when the network was made.*cannot become \(9,\)",
        ),
        ({"dropout": 0.5}, r"dropout was 0\.0 when the network was made"),
        ({"network": lambda inputs, outputs: nn.Linear(inputs, outputs)}, "network was None when the network was made"),
    ]:
        with pytest.raises(ValueError, match=message):
            pickle.loads(pickle.dumps(net)).set_params(**change).fit(x, y)
    with pytest.raises(ValueError, match="X has 3 features, but NeuralNetClassifier is expecting 4 features"):
        net.fit(x[:, :3], y)
    numbers = NeuralNetRegressor((8,), max_iter=1, warm_start=True).fit(x, x[:, :2])
    with pytest.raises(ValueError, match=r"y has shape \(150,\), but the network was made for 2 outputs"):
        numbers.fit(x, x[:, 0])


def test_an_estimator_with_an_optimiser_is_pickled() -> None:
    x, y = IRIS
    adam = optim.chain(optim.clip_by_global_norm(1.0), optim.Adam(optim.cosine(1e-2, steps=100)))
    net = NeuralNetClassifier((8,), max_iter=1, random_state=0, optimizer=adam).fit(x, y)
    copy = pickle.loads(pickle.dumps(net))
    for each in (net, copy):
        each.partial_fit(x, y)
    assert np.array_equal(copy.predict_proba(x), net.predict_proba(x))
    assert np.array_equal(clone(net).fit(x, y).predict_proba(x), clone(copy).fit(x, y).predict_proba(x))
