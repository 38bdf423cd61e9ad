"""How each column becomes features: what is learned from the training rows, and how values become inputs of the graph.

========================== ================================================= =========================================
treatment                  graph input, one value a row                      features
========================== ================================================= =========================================
:class:`NumberTreatment`   float64, NaN where missing                        the standardised value; 1 where missing
:class:`CategoryTreatment` int64: place in the table of categories, or       one 0/1 feature for each category, for
                           :data:`UNKNOWN` or :data:`MISSING`                *other* and for *missing*
:class:`DateTreatment`     float64 seconds since 1970 UTC, NaN where missing elapsed time, year, phases of the year, the
                                                                             week and the day; 1 where missing
:class:`LeftOut`           none                                              none
========================== ================================================= =========================================

An indicator of missing values exists only where training rows had some. The features themselves are computed in
:mod:`chainrule.data.features`, as part of the graph.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import DataError
from chainrule.data.columns import KINDS, Column, Kind, shown
from chainrule.data.columns_dates import iso_date

Floats = NDArray[np.float64]

UNKNOWN = -1
MISSING = -2

MOST_CATEGORIES = 50

# A column whose farthest value lies this many times farther from its median than a typical one (the median distance)
# has heavy tails: 5 is usual for a normal distribution, 12 for an exponential one, 30 and more for a lognormal one.
HEAVY_TAIL = 20.0

DAY = 86_400
DATE_PARTS = ("elapsed", "year", "time of year", "weekday", "time of day")
_PHASES = ("time of year", "weekday", "time of day")


@dataclass(frozen=True)
class LeftOut:
    """A column that makes no features, and why."""

    name: str
    kind: Kind
    reason: str
    treatment: ClassVar[str] = "left out"

    @property
    def feature_names(self) -> tuple[str, ...]:
        return ()

    def describe(self) -> tuple[str, str]:
        return "left out", self.reason


@dataclass(frozen=True)
class NumberTreatment:
    """Numbers and booleans: ``z = (u - centre) / scale`` with ``u = x``, or the signed logarithm of x for heavy tails.

    The signed logarithm is ``u = sign(t) log(1 + |t|)`` with ``t = (x - median) / log_unit``. Missing values take the
    place of ``fill``: the median, or for booleans the mean.
    """

    name: str
    kind: Kind
    fill: float
    centre: float
    scale: float
    log_unit: float | None
    has_value: bool
    has_indicator: bool
    treatment: ClassVar[str] = "number"

    @classmethod
    def learn(cls, column: Column, rows: NDArray[np.int64]) -> NumberTreatment | LeftOut:
        values = column.values[rows]
        present: Floats = values[~np.isnan(values)]
        if not len(present):
            return LeftOut(column.name, column.kind, "no value in the training rows")
        constant = bool(present.min() == present.max())
        has_indicator = len(present) < len(values)
        if constant and not has_indicator:
            return LeftOut(column.name, column.kind, "the same value in all training rows")
        if column.kind == "boolean":
            return cls(column.name, "boolean", float(present.mean()), 0.5, 0.5, None, not constant, has_indicator)
        fill = float(np.median(present))
        unit = None if constant else _log_unit(present, fill)
        filled = np.where(np.isnan(values), fill, values)
        centre, scale = mean_and_deviation(filled if unit is None else signed_log((filled - fill) / unit))
        return cls(column.name, "number", fill, centre, scale or 1.0, unit, not constant, has_indicator)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return ((self.name,) if self.has_value else ()) + ((f"{self.name} is missing",) if self.has_indicator else ())

    def encode(self, column: Column, notices: list[str] | None) -> Floats:
        values: Floats = np.asarray(column.values, dtype=np.float64)
        return values

    def describe(self) -> tuple[str, str]:
        if not self.has_value:
            return "whether it is missing", "otherwise the same value in all training rows"
        if self.kind == "boolean":
            return "−1 and 1" + (", missing as the mean" if self.has_indicator else ""), ""
        treatment = "standardised" if self.log_unit is None else "signed logarithm, standardised"
        return treatment + (f", missing as the median {self.fill:.6g}" if self.has_indicator else ""), ""


@dataclass(frozen=True)
class CategoryTreatment:
    """Categories: the frequent ones have a feature each, the rare ones (``others``) one together.

    A value that the training rows did not have is treated as one of the others. If there are none, and likewise for a
    missing value if none was missing, the features are the shares of the categories in the training rows: the mean.
    """

    name: str
    categories: tuple[str, ...]
    counts: tuple[int, ...]
    others: tuple[str, ...]
    other_count: int
    missing_count: int
    kind: ClassVar[Kind] = "category"
    treatment: ClassVar[str] = "category"

    @classmethod
    def learn(cls, column: Column, rows: NDArray[np.int64]) -> CategoryTreatment | LeftOut:
        values = column.values[rows].tolist()
        counted = Counter(value for value in values if value is not None)
        missing = len(values) - counted.total()
        if not counted:
            return LeftOut(column.name, "category", "no value in the training rows")
        if len(counted) == 1 and not missing:
            return LeftOut(column.name, "category", "the same value in all training rows")
        # Frequent first, then by name, so that the order of the rows does not matter.
        ordered = sorted(counted, key=lambda value: (-counted[value], value))
        fewest = fewest_rows_of_a_category(len(values))
        frequent = [value for value in ordered if counted[value] >= fewest][:MOST_CATEGORIES]
        others = ordered[len(frequent) :]
        if not frequent and not missing:
            return LeftOut(column.name, "category", f"no value is in {fewest} or more of the training rows")
        return cls(
            column.name,
            tuple(frequent),
            tuple(counted[value] for value in frequent),
            tuple(others),
            sum(counted[value] for value in others),
            missing,
        )

    @property
    def other_slot(self) -> int:
        """The place of the feature *other*; -1 if there is none."""
        return len(self.categories) if self.other_count else -1

    @property
    def missing_slot(self) -> int:
        """The place of the feature *missing*; -1 if there is none."""
        return len(self.categories) + (self.other_count > 0) if self.missing_count else -1

    @property
    def shares(self) -> tuple[float, ...]:
        """The mean of each feature over the training rows."""
        counts = [
            *self.counts,
            *([self.other_count] * (self.other_slot >= 0)),
            *([self.missing_count] * (self.missing_slot >= 0)),
        ]
        return tuple(count / sum(counts) for count in counts)

    @property
    def feature_names(self) -> tuple[str, ...]:
        names = [f"{self.name} = {category}" for category in self.categories]
        other = [f"{self.name} is another"] if self.other_slot >= 0 else []
        missing = [f"{self.name} is missing"] if self.missing_slot >= 0 else []
        return (*names, *other, *missing)

    def encode(self, column: Column, notices: list[str] | None) -> NDArray[np.int64]:
        places: dict[str | None, int] = {category: place for place, category in enumerate(self.categories)}
        places |= dict.fromkeys(self.others, UNKNOWN)
        places[None] = MISSING
        values = column.values.tolist()
        codes = np.fromiter((places.get(value, UNKNOWN) for value in values), np.int64, len(values))
        if notices is not None:
            never_seen = Counter(value for value in values if value not in places)
            if never_seen:
                notices.append(self._unseen_notice(never_seen))
        return codes

    def _unseen_notice(self, unseen: Counter[str]) -> str:
        examples = ", ".join(shown(value) for value, _ in unseen.most_common(3)) + (", …" if len(unseen) > 3 else "")
        treated = "as one of the rare categories" if self.other_slot >= 0 else "as an average of the known categories"
        rows = unseen.total()
        return (
            f"column {shown(self.name)}: {rows} {'row has a category' if rows == 1 else 'rows have categories'} that the "
            f"training rows did not have ({examples}), treated {treated}"
        )

    def describe(self) -> tuple[str, str]:
        slots = f"{len(self.feature_names)} features 0 or 1"
        return slots, f"{len(self.others)} rare categories joined" if len(self.others) > 1 else ""


@dataclass(frozen=True)
class DateTreatment:
    """Dates: the ``parts`` that vary in the training rows, out of :data:`DATE_PARTS`.

    ``elapsed`` and ``year`` are standardised; the phases are a sine and a cosine each. All are 0 for a missing date.
    """

    name: str
    parts: tuple[str, ...]
    elapsed_centre: float
    elapsed_scale: float
    year_centre: float
    year_scale: float
    has_indicator: bool
    kind: ClassVar[Kind] = "date"
    treatment: ClassVar[str] = "date"

    @classmethod
    def learn(cls, column: Column, rows: NDArray[np.int64], *, only_phases: bool = False) -> DateTreatment | LeftOut:
        """``only_phases`` leaves out what grows forever, for the column that the held-out rows are later in."""
        values = column.values[rows]
        present: Floats = values[~np.isnan(values)]
        if not len(present):
            return LeftOut(column.name, "date", "no value in the training rows")
        calendar = split_date(np.floor(present).astype(np.int64))
        varying: dict[str, NDArray[Any]] = {"elapsed": present, **calendar}
        parts = tuple(
            part
            for part in DATE_PARTS
            if varying[part].min() != varying[part].max() and (part in _PHASES or not only_phases)
        )
        has_indicator = len(present) < len(values)
        if not parts and not has_indicator:
            return LeftOut(column.name, "date", "the same value in all training rows")
        elapsed, year = mean_and_deviation(present), mean_and_deviation(calendar["year"].astype(np.float64))
        return cls(column.name, parts, elapsed[0], elapsed[1] or 1.0, year[0], year[1] or 1.0, has_indicator)

    @property
    def feature_names(self) -> tuple[str, ...]:
        names = []
        for part in self.parts:
            forms = ("sine", "cosine") if part in _PHASES else ("",)
            names += [f"{self.name}: {part} {form}".rstrip() for form in forms]
        return (*names, *([f"{self.name} is missing"] if self.has_indicator else []))

    def encode(self, column: Column, notices: list[str] | None) -> Floats:
        values: Floats = np.asarray(column.values, dtype=np.float64)
        return values

    def describe(self) -> tuple[str, str]:
        return ", ".join(self.parts) or "whether it is missing", f"mean {iso_date(round(self.elapsed_centre))}"


Treatment = NumberTreatment | CategoryTreatment | DateTreatment | LeftOut


def learn_treatment(column: Column, rows: NDArray[np.int64], *, only_phases: bool = False) -> Treatment:
    """The treatment of a column, learned from the given rows alone."""
    match column.kind:
        case "number" | "boolean":
            return NumberTreatment.learn(column, rows)
        case "category":
            return CategoryTreatment.learn(column, rows)
        case "date":
            return DateTreatment.learn(column, rows, only_phases=only_phases)
        case "identifier":
            return LeftOut(column.name, "identifier", "an identifier says nothing about new rows")


# --- statistics -------------------------------------------------------------------------------------------------------


def mean_and_deviation(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation (dividing by n), without overflow; the deviation of equal values is exactly 0."""
    if values.min() == values.max():
        return float(values[0]), 0.0
    largest = float(np.abs(values).max())
    scaled = values / largest
    return float(scaled.mean()) * largest, float(scaled.std()) * largest


def signed_log(t: Floats) -> Floats:
    result: Floats = np.sign(t) * np.log1p(np.abs(t))
    return result


def fewest_rows_of_a_category(rows: int) -> int:
    """In how many of ``rows`` training rows a category must be to get a feature of its own: 1, or up to 3 of 90."""
    return max(1, min(3, rows // 30))


def _log_unit(present: Floats, median: float) -> float | None:
    """The typical distance from the median where tails are heavy, else None."""
    with np.errstate(over="ignore"):
        distances = np.abs(present - median)
    largest, typical = float(distances.max()), float(np.median(distances[distances > 0]))
    return max(typical, largest * 1e-12) if largest > HEAVY_TAIL * typical else None


def split_date(seconds: Any) -> dict[str, Any]:
    """Calendar parts of whole seconds since 1970-01-01 UTC, by integer arithmetic alone; NumPy and traced arrays.

    ``year``; ``time of year`` as days since March 1 (0 to 365); ``weekday`` from Monday, 0; ``time of day`` in seconds.
    The year begins in March so that a leap day comes last: 400 years have 146097 days, each fourth year 1461, and each
    hundredth year lacks one (H. Hinnant, "chrono-compatible low-level date algorithms", 2013).
    """
    days = seconds // DAY
    since_march_0000 = days + 719_468
    cycle = since_march_0000 // 146_097
    day = since_march_0000 - cycle * 146_097
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day_of_year = day - (365 * year + year // 4 - year // 100)
    after_december = (day_of_year + 60) // 366  # 1 from January 1, which is day 306, else 0
    return {
        "year": year + 400 * cycle + after_december,
        "time of year": day_of_year,
        "weekday": (days + 3) % 7,
        "time of day": seconds - days * DAY,
    }


# --- as JSON ----------------------------------------------------------------------------------------------------------

_CLASSES: dict[str, type[Treatment]] = {
    cls.treatment: cls for cls in (NumberTreatment, CategoryTreatment, DateTreatment, LeftOut)
}


def treatment_to_json(treatment: Treatment) -> dict[str, Any]:
    return {"treatment": treatment.treatment, **asdict(treatment)}


def treatment_from_json(content: Any) -> Treatment:
    """The inverse of :func:`treatment_to_json`; raises DataError for anything else."""
    if not isinstance(content, dict) or content.get("treatment") not in _CLASSES:
        raise DataError("the preprocessing has a column without a treatment that this release knows")
    cls = _CLASSES[content["treatment"]]
    fields = {name: value for name, value in content.items() if name != "treatment"}
    declared: Mapping[str, str] = {
        name: str(kind) for name, kind in cls.__annotations__.items() if "ClassVar" not in str(kind)
    }
    if fields.keys() != declared.keys():
        raise DataError(
            f"the preprocessing of column {shown(str(content.get('name')))} lacks a field or has one too many"
        )
    values = {name: _checked(fields[name], declared[name], name, str(content["name"])) for name in declared}
    treatment = cls(**values)
    if not _is_consistent(treatment):
        raise DataError(f"the preprocessing of column {shown(treatment.name)} contradicts itself")
    return treatment


def _is_consistent(treatment: Treatment) -> bool:
    match treatment:
        case NumberTreatment():
            positive = treatment.scale > 0 and (treatment.log_unit is None or treatment.log_unit > 0)
            return positive and treatment.kind in ("number", "boolean")
        case CategoryTreatment():
            known = (*treatment.categories, *treatment.others)
            return len(treatment.counts) == len(treatment.categories) and len(set(known)) == len(known)
        case DateTreatment():
            in_order = tuple(part for part in DATE_PARTS if part in treatment.parts)
            return treatment.parts == in_order and treatment.elapsed_scale > 0 and treatment.year_scale > 0
        case LeftOut():
            return treatment.kind in KINDS


def _checked(value: Any, declared: str, field: str, column: str) -> Any:
    match declared:
        case "str" | "Kind":
            good = isinstance(value, str)
        case "bool":
            good = isinstance(value, bool)
        case "int":
            good = _is_count(value)
        case "float":
            good = _is_finite(value)
        case "float | None":
            good = value is None or _is_finite(value)
        case "tuple[str, ...]":
            good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "tuple[int, ...]":
            good = isinstance(value, list) and all(_is_count(item) for item in value)
        case _:
            good = False
    if not good:
        raise DataError(f"the preprocessing of column {shown(column)} has a {field} that makes no sense")
    return tuple(value) if isinstance(value, list) else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
