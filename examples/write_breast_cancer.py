"""Writes the breast cancer data set that scikit-learn ships as the CSV file that a person would have.

569 rows, one per tumour: 30 measurements of cell nuclei, and the diagnosis as text. Source: Wolberg, Street and
Mangasarian, Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning Repository, 1995.

    python examples/write_breast_cancer.py breast_cancer.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from sklearn.datasets import load_breast_cancer


def write_breast_cancer(path: Path) -> int:
    """Writes the table to ``path``, creating its folder, and returns the number of rows below the header."""
    bunch = load_breast_cancer()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*bunch.feature_names, "diagnosis"])
        for measurements, target in zip(bunch.data.tolist(), bunch.target, strict=True):
            writer.writerow([*measurements, bunch.target_names[target]])
    return len(bunch.target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write scikit-learn's breast cancer data as a CSV file.")
    parser.add_argument("path", type=Path, nargs="?", default=Path("breast_cancer.csv"))
    path = parser.parse_args().path
    rows = write_breast_cancer(path)
    print(f"Wrote {rows} rows to {path}")


if __name__ == "__main__":
    main()
