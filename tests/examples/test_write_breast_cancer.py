"""The table that the demo trains on holds exactly what scikit-learn ships."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

SCRIPT = Path(__file__).parents[2] / "examples" / "write_breast_cancer.py"


def test_the_csv_file_holds_every_number_and_the_diagnosis_as_text(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "breast cancer.csv"
    subprocess.run([sys.executable, SCRIPT, path], check=True, stdout=subprocess.DEVNULL)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    bunch = load_breast_cancer()
    assert header == [*bunch.feature_names, "diagnosis"]
    assert [[float(cell) for cell in row[:-1]] for row in rows] == bunch.data.tolist()
    assert [row[-1] for row in rows] == [("malignant", "benign")[target] for target in bunch.target]
