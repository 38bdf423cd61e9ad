"""Tables to train on, small enough for a run to take a fraction of a second."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainrule import tabular
from chainrule.tabular import Run, Settings

QUICK = Settings(epochs=4, hidden=(8,), batch_size=16)


def write(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Columns as the CSV file a user would have; None is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def patients(rows: int = 120, seed: int = 0) -> dict[str, list[Any]]:
    """A table with every kind of column; the diagnosis follows from age, dose and ward, with some noise."""
    generator = np.random.default_rng(seed)
    age, dose = generator.normal(60, 10, rows), generator.lognormal(0, 1, rows)
    ward = generator.choice(["north", "south", "east"], rows, p=[0.5, 0.3, 0.2])
    smoker = generator.random(rows) < 0.3
    seen = np.datetime64("2021-01-01") + generator.integers(0, 700, rows).astype("timedelta64[D]")
    signal = (age - 60) / 10 + np.log(dose) + (ward == "north") - smoker + generator.normal(0, 0.3, rows)
    columns: dict[str, list[Any]] = {
        "age": [f"{value:.2f}" for value in age],
        "dose": [f"{value:.4f}" for value in dose],
        "ward": ward.tolist(),
        "smoker": ["yes" if value else "no" for value in smoker],
        "clinic": generator.integers(1, 9, rows).tolist(),
        "seen": seen.astype(str).tolist(),
        "name": [f"patient {number:04}" for number in range(rows)],
        "diagnosis": np.where(signal > 0.3, "ill", "healthy").tolist(),
    }
    columns["age"][3] = columns["ward"][5] = None
    return columns


def houses(rows: int = 120, seed: int = 0) -> dict[str, list[Any]]:
    """A table with a quantity to predict."""
    generator = np.random.default_rng(seed)
    size, rooms = generator.uniform(30, 200, rows), generator.integers(1, 7, rows)
    price = 1000 * size + 5000 * rooms + generator.normal(0, 5000, rows) + 0.5
    return {"size": size.tolist(), "rooms": rooms.tolist(), "price": price.tolist()}


@pytest.fixture(scope="session")
def patients_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "patients.csv", patients())


@pytest.fixture(scope="session")
def patients_run(patients_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on patients; tests must not change its folder."""
    settings = Settings(epochs=40, hidden=(16,), learning_rate=0.01)
    return tabular.train(patients_csv, "diagnosis", out=tmp_path_factory.mktemp("runs") / "patients", settings=settings)


@pytest.fixture(scope="session")
def houses_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on houses, given as a dict of arrays; tests must not change its folder."""
    columns = {name: np.asarray(values) for name, values in houses().items()}
    settings = Settings(target="price", epochs=60, hidden=(16,), learning_rate=0.02)
    return tabular.train(columns, out=tmp_path_factory.mktemp("runs") / "houses", settings=settings)
