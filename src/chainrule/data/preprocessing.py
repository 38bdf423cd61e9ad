"""Preprocessing that is declared, not programmed: learned from training rows, stored as JSON, traced into the graph.

:meth:`Preprocessing.learn` settles a treatment for every column from the training rows alone.
:meth:`Preprocessing.encode` turns a table into the arrays that the graph takes (numbers stay numbers, categories become
places in a table of categories, dates seconds), and :meth:`Preprocessing.features` computes the features from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule import ops
from chainrule.core.errors import DataError
from chainrule.core.names import tensor_name_part
from chainrule.data.columns import KINDS, Kind, shown
from chainrule.data.features import category_features, date_features, number_features
from chainrule.data.preprocessing_columns import (
    CategoryTreatment,
    DateTreatment,
    LeftOut,
    NumberTreatment,
    Treatment,
    learn_treatment,
    treatment_from_json,
    treatment_to_json,
)
from chainrule.data.tables import Table
from chainrule.trace import operation, scope

FORMAT = "chainrule.preprocessing"
VERSION = 1


@dataclass(frozen=True)
class Preprocessing:
    """The treatment of every column of a table, in its order; features are ordered numbers, categories, dates."""

    treatments: tuple[Treatment, ...]

    @classmethod
    def learn(
        cls,
        table: Table,
        rows: NDArray[np.int64],
        notices: list[str] | None = None,
        *,
        only_phases: Collection[str] = (),
    ) -> Preprocessing:
        """Settles how each column of ``table`` is treated, from the training rows ``rows`` alone.

        Of dates in ``only_phases`` nothing is used that grows forever. Columns left out are named in ``notices``, but for
        identifiers, about which reading the table gave notice.
        Raises DataError when no column makes any features.
        """
        treatments = tuple(
            learn_treatment(column, rows, only_phases=column.name in only_phases) for column in table.columns
        )
        if notices is not None:
            notices += [
                f"column {shown(treatment.name)} is left out: {treatment.reason}"
                for treatment in treatments
                if isinstance(treatment, LeftOut) and treatment.kind != "identifier"
            ]
        learned = cls(treatments)
        if not learned.width:
            reasons = "; ".join(
                f"{shown(treatment.name)}: {treatment.reason}"
                for treatment in treatments[:3]
                if isinstance(treatment, LeftOut)
            )
            raise DataError(
                f"{table.source} has no column to learn from" + (f" ({reasons})" if reasons else " beside the target")
            )
        return learned

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The columns that are needed for a prediction, and their kinds: the order of the graph's inputs."""
        return {treatment.name: treatment.kind for treatment in self.treatments if treatment.feature_names}

    @cached_property
    def features_of_columns(self) -> tuple[tuple[str, str], ...]:
        """(feature, column) for each feature, in order."""
        numbers, categories, dates = self._grouped
        rest: list[Treatment] = [*categories, *dates]
        return (
            *((t.name, t.name) for t in numbers if t.has_value),
            *((t.feature_names[-1], t.name) for t in numbers if t.has_indicator),
            *((feature, t.name) for t in rest for feature in t.feature_names),
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each feature, in order."""
        return tuple(feature for feature, _ in self.features_of_columns)

    def places(self) -> dict[str, list[int]]:
        """The places of each column's features."""
        found: dict[str, list[int]] = {name: [] for name in self.kinds}
        for place, (_, column) in enumerate(self.features_of_columns):
            found[column].append(place)
        return found

    @property
    def width(self) -> int:
        return len(self.feature_names)

    def encode(self, table: Table, notices: list[str] | None = None) -> dict[str, NDArray[Any]]:
        """The graph's inputs, one array of shape (rows,) for each column that is needed; see :attr:`kinds`.

        Categories that the training rows did not have are mentioned in ``notices``. Raises DataError for a column that
        is not there or is of another kind.
        """
        encoded: dict[str, NDArray[Any]] = {}
        for treatment in self.treatments:
            if isinstance(treatment, LeftOut) or not treatment.feature_names:
                continue
            column = table.column(treatment.name)
            if column.kind != treatment.kind:
                raise DataError(
                    f"{table.source}, column {shown(column.name)}: holds values of kind {column.kind}, but the network "
                    f"was trained with {treatment.kind}"
                )
            encoded[treatment.name] = treatment.encode(column, notices)
        return encoded

    @operation
    def features(self, inputs: Mapping[str, Any]) -> Any:
        """float32 features of shape (B, :attr:`width`) from what :meth:`encode` gives; can be traced."""
        numbers, categories, dates = self._grouped
        with scope("preprocessing"):
            with scope("numbers"):
                parts = number_features(numbers, inputs)
            for category in categories:
                with scope(tensor_name_part(category.name)):
                    parts.append(category_features(category, inputs[category.name]))
            singles: list[Any] = []
            for date in dates:
                with scope(tensor_name_part(date.name)):
                    singles += date_features(date, inputs[date.name])
            if singles:
                parts.append(ops.stack(singles, axis=1))
            return ops.concatenate(parts, axis=1)

    @cached_property
    def _grouped(self) -> tuple[list[NumberTreatment], list[CategoryTreatment], list[DateTreatment]]:
        return (
            [t for t in self.treatments if isinstance(t, NumberTreatment)],
            [t for t in self.treatments if isinstance(t, CategoryTreatment)],
            [t for t in self.treatments if isinstance(t, DateTreatment)],
        )

    def describe(self, table: Table, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """For each column its name, kind, treatment, the share of missing values in ``rows`` of ``table``, and a note.

        The share is None for a column that the table does not have, because nothing needs it.
        """
        described = []
        for treatment in self.treatments:
            how, note = treatment.describe()
            present = treatment.name in table and len(rows) > 0
            missing = float(table.column(treatment.name).missing[rows].mean()) if present else None
            described.append(
                {"name": treatment.name, "kind": treatment.kind, "treatment": how, "missing": missing, "note": note}
            )
        return described

    def to_json(self) -> dict[str, Any]:
        """Plain data for :func:`chainrule.core.files.write_json`."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "columns": [treatment_to_json(treatment) for treatment in self.treatments],
        }

    @classmethod
    def from_json(cls, content: Any) -> Preprocessing:
        """The inverse of :meth:`to_json`; raises DataError for content that it did not make."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError("this is no preprocessing; expected the content of a preprocessing.json")
        if content.get("version") != VERSION:
            raise DataError(
                f"the preprocessing has version {content.get('version')!r}, but this release reads version {VERSION}"
            )
        columns = content.get("columns")
        if not isinstance(columns, list):
            raise DataError("the preprocessing lists no columns")
        treatments = tuple(treatment_from_json(column) for column in columns)
        names = [treatment.name for treatment in treatments]
        if len(set(names)) < len(names) or any(treatment.kind not in KINDS for treatment in treatments):
            raise DataError("the preprocessing names a column twice, or one of an unknown kind")
        return cls(treatments)
