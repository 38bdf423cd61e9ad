"""Which rows to learn from, to watch while learning, and to judge by: reproducible from a seed, on any machine.

Random orders come from the counter-based generator of :mod:`chainrule.ops.random`, so they are the same for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule import ops
from chainrule.core.errors import ConfigError, DataError
from chainrule.data.columns import Column, shown
from chainrule.data.tables import Table

Rows = NDArray[np.int64]

VALIDATION_SHARE = 0.15
TEST_SHARE = 0.15
FEWEST_ROWS_TO_HOLD_OUT = 10
_QUANTILES = 10


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the three parts, ascending; validation and test may be empty."""

    train: Rows
    validation: Rows
    test: Rows

    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


def split_rows(
    table: Table,
    target: str,
    rows: Rows,
    *,
    classification: bool,
    group: str | None = None,
    time: str | None = None,
    validation_share: float | None = None,
    test_share: float | None = None,
    seed: int = 0,
    notices: list[str] | None = None,
) -> Split:
    """Splits ``rows`` of a table into training, validation and test.

    * By default at random, with the same share of every class in each part (or of every tenth of a regression's
      targets). Classes of one or two rows stay in the training part.
    * With ``group``, rows with the same value in that column stay together.
    * With ``time``, the test part is the latest, the validation part the latest before it; equal times stay together.

    The shares are 0.15 each by default, and 0 where there are fewer than ten rows. Raises ConfigError for impossible
    shares or both ``group`` and ``time``, DataError for a missing group or time, or too few of them to split.
    """
    validation_share, test_share = _shares(validation_share, test_share, len(rows), notices)
    if group is not None and time is not None:
        raise ConfigError("rows can be split by a group column or by a time column, not by both")
    held_out = (test_share, validation_share)
    if group is not None:
        test, validation = _by_group(table, table.column(group).select(rows), rows, held_out, seed)
    elif time is not None:
        test, validation = _by_time(table, table.column(time).select(rows), rows, held_out)
    else:
        strata = _strata(table.column(target).select(rows), classification)
        test, validation = _stratified(strata, held_out, seed)
    part = np.zeros(len(rows), np.int64)
    part[validation], part[test] = 1, 2
    split = Split(rows[part == 0], rows[part == 1], rows[part == 2])
    if classification and notices is not None:
        _note_absent_classes(table.column(target), split, notices)
    return split


def k_folds(strata: NDArray[Any], folds: int, seed: int = 0) -> Iterator[tuple[Rows, Rows]]:
    """``folds`` pairs (training rows, held-out rows); every row is held out once, with the same share of every stratum.

    Raises ConfigError for fewer than two folds or more folds than rows.
    """
    if not 2 <= folds <= len(strata):
        raise ConfigError(f"{len(strata)} rows cannot be split into {folds} folds")
    codes = np.unique(strata, return_inverse=True)[1]
    order = np.lexsort((_random_rank(len(codes), seed), codes))
    fold = np.empty(len(codes), np.int64)
    fold[order] = np.arange(len(codes)) % folds
    for number in range(folds):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def quantile_strata(values: NDArray[Any], parts: int = _QUANTILES) -> Rows:
    """The number of the tenth (or other part) of the sorted values that each value lies in."""
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank * parts // max(len(values), 1)


def _shares(validation: float | None, test: float | None, rows: int, notices: list[str] | None) -> tuple[float, float]:
    few = rows < FEWEST_ROWS_TO_HOLD_OUT
    if few and test is None and notices is not None:
        notices.append(
            f"there are only {rows} rows, so all are used for training and none is held out; the scores are those of the "
            "training rows"
        )
    validation = (0.0 if few else VALIDATION_SHARE) if validation is None else validation
    test = (0.0 if few else TEST_SHARE) if test is None else test
    for name, share in (("validation", validation), ("test", test)):
        if not (math.isfinite(share) and 0 <= share < 1):
            raise ConfigError(f"the {name} share must be at least 0 and less than 1, not {share}")
    if validation + test >= 1:
        raise ConfigError(f"the validation share {validation} and the test share {test} leave no rows for training")
    return validation, test


def _strata(column: Column, classification: bool) -> Rows:
    if not classification:
        return quantile_strata(column.values)
    values = column.values if column.values.dtype.kind == "f" else column.values.astype(str)
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _random_rank(count: int, seed: int) -> Rows:
    """A random number for each row: 64 bits, so that ties do not happen."""
    words = ops.random.bits((count, 2), key=ops.random.key(seed)).astype(np.uint64)
    ranks: Rows = np.argsort(np.argsort(words[:, 0] << np.uint64(32) | words[:, 1], kind="stable"))
    return ranks


def _stratified(strata: Rows, shares: tuple[float, ...], seed: int) -> list[Rows]:
    """Positions for each share, drawn from every stratum in proportion; at least two rows of each are left."""
    counts = np.bincount(strata)
    order = np.lexsort((_random_rank(len(strata), seed), strata))
    starts = np.cumsum(counts) - counts
    taken = np.zeros_like(counts)
    parts = []
    for share in shares:
        # Nothing is taken from strata of one or two rows, and one row is always left.
        free = np.where(counts > 2, counts - taken - 1, 0)
        sizes = _apportion(counts * share, free)
        parts.append(
            np.concatenate(
                [order[s + t : s + t + n] for s, t, n in zip(starts, taken, sizes, strict=True)] or [order[:0]]
            )
        )
        taken += sizes
    return parts


def _apportion(quotas: NDArray[np.floating[Any]], free: Rows) -> Rows:
    """Whole numbers near the quotas with their sum, at least 1 where there are quotas, by largest remainders."""
    sizes: Rows = np.minimum(np.floor(quotas).astype(np.int64), free)
    wanted = max(round(float(quotas.sum())), 1) if quotas.sum() > 0 else 0
    for place in np.argsort(-(quotas - np.floor(quotas)), kind="stable"):
        if sizes.sum() < wanted and sizes[place] < free[place]:
            sizes[place] += 1
    return sizes


def _by_group(table: Table, column: Column, rows: Rows, shares: tuple[float, float], seed: int) -> list[Rows]:
    if column.missing.any():
        row = int(rows[int(np.argmax(column.missing))])
        raise table.places.cell_error(row, column.name, "the group is missing; every row needs one to be split by it")
    values = column.values if column.values.dtype.kind == "f" else column.values.astype(str)
    codes = np.unique(values, return_inverse=True)[1]
    sizes = np.bincount(codes)
    needed = 1 + sum(share > 0 for share in shares)
    if len(sizes) < needed:
        raise DataError(
            f"{table.source}, column {shown(column.name)}: {len(sizes)} "
            f"{'group is' if len(sizes) == 1 else 'groups are'} too few to split into {needed} parts"
        )
    wanted = np.array([1 - sum(shares), *shares]) * len(codes)
    filled = np.zeros(3)
    part_of_group = np.empty(len(sizes), np.int64)
    # Large groups first, each to the part that lacks most rows; the order of equal ones is random. The last groups go to
    # parts that would stay empty.
    for assigned, group in enumerate(np.lexsort((_random_rank(len(sizes), seed), -sizes))):
        empty = (wanted > 0) & (filled == 0)
        candidates = empty if len(sizes) - assigned <= empty.sum() else wanted > 0
        part = int(np.argmax(np.where(candidates, wanted - filled, -np.inf)))
        part_of_group[group] = part
        filled[part] += sizes[group]
    part_of_row = part_of_group[codes]
    return [np.flatnonzero(part_of_row == 1), np.flatnonzero(part_of_row == 2)]


def _by_time(table: Table, column: Column, rows: Rows, shares: tuple[float, float]) -> list[Rows]:
    if column.kind not in ("date", "number"):
        raise table.places.column_error(
            column.name, f"is a {column.kind}; rows are split by a column of dates or numbers"
        )
    if column.missing.any():
        row = int(rows[int(np.argmax(column.missing))])
        raise table.places.cell_error(row, column.name, "the time is missing; every row needs one to be split by it")
    codes = np.unique(column.values, return_inverse=True)[1]
    counts = np.bincount(codes)
    later_than = np.concatenate([np.cumsum(counts[::-1])[::-1][1:], [0]])  # rows later than each time
    parts: list[Rows] = []
    begun = 0.0
    last = len(counts)
    for share in shares:
        begun += share * len(codes)
        # The part begins with the first time before which enough rows are held out, and takes at least one time.
        first = int(np.searchsorted(-(later_than + counts), -begun - 0.5, side="right")) if share else last
        first = min(first, last - 1) if share else last
        parts.append(np.flatnonzero((codes >= first) & (codes < last)))
        last = first
    if last < 1:
        raise DataError(
            f"{table.source}, column {shown(column.name)}: {len(counts)} different "
            f"{'time is' if len(counts) == 1 else 'times are'} too few to split into parts"
        )
    return parts


def _note_absent_classes(column: Column, split: Split, notices: list[str]) -> None:
    """A notice about classes that the training part lacks, or that are too rare to be in every part."""
    values = column.values if column.values.dtype.kind == "f" else column.values.astype(str)
    classes, codes = np.unique(values, return_inverse=True)
    present = np.array(
        [np.bincount(codes[part], minlength=len(classes)) for part in (split.train, split.validation, split.test)]
    )
    everywhere = present.sum(axis=0)
    untrained = [
        str(name) for name, count, trained in zip(classes, everywhere, present[0], strict=True) if count and not trained
    ]
    if untrained:
        names = ", ".join(map(shown, untrained[:5])) + (", …" if len(untrained) > 5 else "")
        notices.append(f"no training row has the class {names} of {shown(column.name)}, so it cannot be learned")
    if not len(split.test):
        return
    untested = [
        str(name) for name, count, tested in zip(classes, present[0], present[2], strict=True) if count and not tested
    ]
    if untested:
        names = ", ".join(map(shown, untested[:5])) + (", …" if len(untested) > 5 else "")
        notices.append(f"no test row has the class {names} of {shown(column.name)}, so the scores say nothing about it")
