"""Default training against scikit-learn's on the tables that scikit-learn ships.

Run with ``python -m bench.tables`` (or ``make bench-tables``); ``--quick`` takes two seeds and the two smallest tables and writes
nothing. Every learner is given the same five folds of every seed: ours with its default settings, ``MLPClassifier`` and
``MLPRegressor`` with theirs behind an imputer, a one-hot encoding and a ``StandardScaler`` (targets of regressions scaled too),
and gradient boosting with its default settings for comparison. Ours holds out part of each fold's training rows to know when to
stop; the others use all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from chainrule.data import k_folds, quantile_strata, read_table
from chainrule.metrics import accuracy, log_loss, r2, root_mean_squared_error
from chainrule.tabular import Settings
from chainrule.tabular.fitting import fit

TABLES = ("breast_cancer", "wine", "iris", "digits", "diabetes")
QUICK = ("wine", "iris")
LEARNERS = ("Chainrule", "MLP", "gradient boosting")
FOLDS = 5
SEEDS = 10
RESULT = Path(__file__).with_name("tables.md")

# What a learner answers for new rows: labels and probabilities, or numbers and None.
Answer = tuple[Any, Any]


@dataclass(frozen=True)
class Score:
    """The mean over the folds of one seed. ``main`` is accuracy or R², ``second`` log loss or RMSE."""

    main: float
    second: float
    seconds: float


def load(name: str) -> tuple[Any, bool]:
    """A table as a pandas frame with the column ``target``, and whether it is a classification."""
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    return bunch.frame, name != "diabetes"


def ours(train: Any, test: Any, classification: bool, seed: int) -> Answer:
    kind = "category" if classification else "number"
    settings = Settings(target="target", types={"target": kind}, test_share=0.0, seed=seed)
    fitted = fit(read_table(train, types={"target": kind}), settings)
    found = fitted.answers(read_table(test, expect=fitted.prepared.preprocessing.kinds))
    if not classification:
        return found["prediction"], None
    labels = fitted.prepared.target.labels(found["prediction"])
    return labels.astype(np.int64), found["probability"]


def peer(train: Any, test: Any, classification: bool, seed: int, *, boosting: bool) -> Answer:
    x, y = train.drop(columns="target"), train["target"]
    if boosting:
        kind = HistGradientBoostingClassifier if classification else HistGradientBoostingRegressor
        model: Any = kind(random_state=seed)
    else:
        columns = make_column_transformer(
            (make_pipeline(SimpleImputer(), StandardScaler()), make_column_selector(dtype_include=np.number)),
            (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude=np.number)),
        )
        network = MLPClassifier(random_state=seed) if classification else MLPRegressor(random_state=seed)
        model = make_pipeline(columns, network)
        if not classification:
            model = TransformedTargetRegressor(model, transformer=StandardScaler())
    model.fit(x, y)
    given = test.drop(columns="target")
    return model.predict(given), model.predict_proba(given) if classification else None


def run(job: tuple[str, str, int]) -> Score:
    """One learner on all folds of one seed of one table."""
    learner, name, seed = job
    warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs are scikit-learn's default, finished or not
    frame, classification = load(name)
    answer: Callable[..., Answer] = ours if learner == "Chainrule" else peer
    options = {} if learner == "Chainrule" else {"boosting": learner == "gradient boosting"}
    began = time.perf_counter()
    scores = []
    for train, test in folds(frame, classification, seed):
        labels, probabilities = answer(train, test, classification, seed, **options)
        true = test["target"].to_numpy()
        if classification:
            scores.append((accuracy(true, labels), log_loss(true, probabilities)))
        else:
            scores.append((r2(true, labels), root_mean_squared_error(true, labels)))
    main, second = np.mean(scores, axis=0)
    return Score(float(main), float(second), (time.perf_counter() - began) / FOLDS)


def folds(frame: Any, classification: bool, seed: int) -> Iterator[tuple[Any, Any]]:
    target = frame["target"].to_numpy()
    for train, test in k_folds(target if classification else quantile_strata(target), FOLDS, seed):
        yield frame.iloc[train], frame.iloc[test]


def table_of(results: dict[tuple[str, str], list[Score]], names: tuple[str, ...]) -> str:
    """The results as Markdown."""
    rows = [
        "| table | rows × columns | score | Chainrule | MLP | difference / spread | gradient boosting |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        frame, classification = load(name)
        size = f"{len(frame)} × {frame.shape[1] - 1}"
        for field, title in (
            ("main", "accuracy" if classification else "R²"),
            ("second", "log loss ↓" if classification else "RMSE ↓"),
        ):
            values = {learner: [getattr(score, field) for score in results[learner, name]] for learner in LEARNERS}
            cells = {learner: _mean_and_spread(numbers) for learner, numbers in values.items()}
            first = f"| {name} | {size} " if field == "main" else "| | "
            rows.append(
                f"{first}| {title} | {cells['Chainrule']} | {cells['MLP']} | "
                f"{_difference(values['Chainrule'], values['MLP'])} | {cells['gradient boosting']} |"
            )
        times = [f"{statistics.median(score.seconds for score in results[learner, name]):.2f}" for learner in LEARNERS]
        rows.append(f"| | | seconds a fit | {times[0]} | {times[1]} | | {times[2]} |")
    return "\n".join(rows)


def worse(results: dict[tuple[str, str], list[Score]], names: tuple[str, ...]) -> list[str]:
    """The tables on which ours is worse than the MLP by more than the spread of the seeds."""
    found = []
    for name in names:
        a, b = ([score.main for score in results[learner, name]] for learner in LEARNERS[:2])
        if statistics.fmean(a) - statistics.fmean(b) < -_spread(a, b):
            found.append(name)
    return found


def _mean_and_spread(values: list[float]) -> str:
    digits = 4 if max(values) < 2 else 2
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.pstdev(values):.{digits}f}"


def _spread(a: list[float], b: list[float]) -> float:
    """The standard deviation of a difference between two seeds."""
    return float(np.hypot(statistics.pstdev(a), statistics.pstdev(b)))


def _difference(a: list[float], b: list[float]) -> str:
    digits = 4 if max(a) < 2 else 2
    return f"{statistics.fmean(a) - statistics.fmean(b):+.{digits}f} / {_spread(a, b):.{digits}f}"


def main() -> int:
    quick = "--quick" in sys.argv
    names, seeds = (QUICK, 2) if quick else (TABLES, SEEDS)
    jobs = [(learner, name, seed) for name in names for learner in LEARNERS for seed in range(seeds)]
    # One thread for each process: matrices this small are not faster on more.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        scores = list(pool.map(run, jobs))
    results: dict[tuple[str, str], list[Score]] = {}
    for (learner, name, _), score in zip(jobs, scores, strict=True):
        results.setdefault((learner, name), []).append(score)
    table = table_of(results, names)
    print(table)
    behind = worse(results, names)
    verdict = (
        f"Worse than the MLP by more than the spread of the seeds: {', '.join(behind)}."
        if behind
        else "On no table is Chainrule's score worse than the MLP's by more than the spread of the seeds."
    )
    print(f"\n{verdict}")
    if not quick:
        introduction = (__doc__ or "").split("\n\n", 1)[0]
        about = (
            f"Means ± standard deviations over {seeds} seeds, each the mean of {FOLDS} folds; the same folds for all. "
            "*Spread* is the standard deviation of a difference between two seeds. Written by `make bench-tables`; "
            "`bench/tables.py` says what is compared."
        )
        RESULT.write_text(f"# {introduction.rstrip('.')}\n\n{about}\n\n{table}\n\n{verdict}\n", encoding="utf-8")
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
