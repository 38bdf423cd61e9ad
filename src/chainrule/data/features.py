"""The features of raw columns, computed by operations that are traced into the inference graph.

Columns of one kind are stacked and treated together, so that a table of a thousand numbers makes a graph of a dozen
operations on one matrix. Everything before the final cast is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule import ops
from chainrule.core.dtypes import FLOAT32, FLOAT64, INT64
from chainrule.data.preprocessing_columns import (
    DAY,
    MISSING,
    CategoryTreatment,
    DateTreatment,
    NumberTreatment,
    split_date,
)

# A standardised value is limited to this many standard deviations, so that a value in a wrong unit at prediction time
# cannot overflow float32 or drown all other columns.
LIMIT = 50.0

_PERIODS = {"time of year": 365.2425, "weekday": 7.0, "time of day": float(DAY)}

Inputs = Mapping[str, Any]


def number_features(treatments: Sequence[NumberTreatment], inputs: Inputs) -> list[Any]:
    """Standardised values of shape (B, n), and 0/1 indicators of missing values; see :class:`NumberTreatment`."""
    features = []
    valued = [treatment for treatment in treatments if treatment.has_value]
    if valued:
        x = ops.stack([inputs[treatment.name] for treatment in valued], axis=1)
        fill, centre, scale = (_row([getattr(t, name) for t in valued]) for name in ("fill", "centre", "scale"))
        filled = ops.where(x != x, fill, x)
        if any(treatment.log_unit is not None for treatment in valued):
            t = (filled - fill) / _row([t.log_unit or 1.0 for t in valued])
            is_logarithmic = _row([t.log_unit is not None for t in valued])
            filled = ops.where(is_logarithmic, ops.sign(t) * ops.log1p(ops.abs(t)), filled)
        features.append(_limited((filled - centre) / scale))
    indicated = [inputs[treatment.name] for treatment in treatments if treatment.has_indicator]
    if indicated:
        x = ops.stack(indicated, axis=1)
        features.append((x != x).astype(FLOAT32))
    return features


def category_features(treatment: CategoryTreatment, codes: Any) -> Any:
    """One 0/1 feature for each category, *other* and *missing*, shape (B, features); see :class:`CategoryTreatment`."""
    known = (codes >= 0) & (codes < len(treatment.categories))
    unfamiliar = ops.where(codes == MISSING, treatment.missing_slot, treatment.other_slot)
    slot = ops.where(known, codes, unfamiliar).astype(INT64)
    hot = ops.one_hot(slot, len(treatment.shares))
    if treatment.other_slot >= 0 and treatment.missing_slot >= 0:
        return hot
    mean = np.asarray(treatment.shares, dtype=np.float32)
    return ops.where((slot < 0)[:, None], mean, hot)


def date_features(treatment: DateTreatment, seconds: Any) -> list[Any]:
    """The parts of a date that vary, each of shape (B,), and whether it is missing; see :class:`DateTreatment`."""
    is_missing = seconds != seconds
    known = ops.where(is_missing, treatment.elapsed_centre, seconds)
    calendar = split_date(ops.floor(known).astype(INT64))
    columns: list[Any] = []
    for part in treatment.parts:
        if part == "elapsed":
            columns.append(_limited((known - treatment.elapsed_centre) / treatment.elapsed_scale))
        elif part == "year":
            year = calendar["year"].astype(FLOAT64)
            columns.append(_limited((year - treatment.year_centre) / treatment.year_scale))
        else:
            angle = calendar[part].astype(FLOAT64) * (2 * math.pi / _PERIODS[part])
            columns += [ops.sin(angle).astype(FLOAT32), ops.cos(angle).astype(FLOAT32)]
    columns = [ops.where(is_missing, 0.0, column).astype(FLOAT32) for column in columns]
    return [*columns, is_missing.astype(FLOAT32)] if treatment.has_indicator else columns


def _limited(z: Any) -> Any:
    return ops.clip(z, -LIMIT, LIMIT).astype(FLOAT32)


def _row(values: Sequence[float | bool]) -> Any:
    return np.asarray(values)
