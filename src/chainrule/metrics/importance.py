"""Which columns a predictor leans on: how much worse it scores when one column is shuffled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class ColumnImportance:
    """How far the score fell when ``column`` was shuffled: each repeat, their mean and standard deviation."""

    column: str
    mean: float
    std: float
    drops: tuple[float, ...]


def permutation_importance(
    predict: Callable[[dict[str, NDArray[Any]]], Any],
    columns: Mapping[str, NDArray[Any]],
    score: Callable[[Any], float],
    *,
    repeats: int = 5,
    seed: int = 0,
) -> list[ColumnImportance]:
    """Importance of a column = score of the predictions − their score after shuffling that column (Breiman 2001).

    ``predict`` takes the dictionary of raw columns (arrays of any type with one entry for each row) and returns
    predictions; ``score`` turns those into a number that is higher for better predictions (negate a loss). A column
    the predictor ignores scores 0; two columns that carry the same information share theirs, so that both may look
    unimportant. The permutations depend on ``seed`` and the place of the column only, never on other columns.

    Returns one entry for each column in the given order. Cost: 1 + repeats × columns predictions.
    """
    if repeats < 1:
        raise ConfigError(f"repeats={repeats} makes no sense: shuffle each column at least once.")
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    rows = _row_count(arrays)
    if not arrays:
        return []
    unshuffled = float(score(predict(dict(arrays))))
    importances = []
    for place, name in enumerate(arrays):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(place,))))
        drops = []
        for _ in range(repeats):
            shuffled = dict(arrays)
            shuffled[name] = arrays[name][generator.permutation(rows)]
            drops.append(unshuffled - float(score(predict(shuffled))))
        importances.append(ColumnImportance(name, float(np.mean(drops)), float(np.std(drops)), tuple(drops)))
    return importances


def _row_count(arrays: Mapping[str, NDArray[Any]]) -> int:
    rows = 0
    for place, (name, values) in enumerate(arrays.items()):
        if values.ndim == 0:
            raise ShapeError(f"Column {name!r} is a single value: give an array with one entry for each row.")
        if place and values.shape[0] != rows:
            raise ShapeError(f"Column {name!r} has {values.shape[0]} rows but the columns before it have {rows}.")
        rows = int(values.shape[0])
    return rows
