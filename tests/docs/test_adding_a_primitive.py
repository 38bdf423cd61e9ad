"""The guide to adding a primitive, followed to the letter in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "adding_a_primitive.md").read_text(encoding="utf-8")


class Change(NamedTuple):
    """Lines of a file, and what the guide puts in their place."""

    file: str
    before: str
    after: str


def changes() -> list[Change]:
    """Every ``diff`` of the guide, with the file named last before it."""
    found, file = [], ""
    for match in re.finditer(r"^`((?:src|tests)/\S+)`$|^```diff\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL):
        if match[1]:
            file = match[1]
            continue
        lines = match[2].splitlines(keepends=True)
        before = "".join(line[1:] or "\n" for line in lines if line[0] != "+")
        after = "".join(line[1:] or "\n" for line in lines if line[0] != "-")
        found.append(Change(file, before, after))
    return found


def applied(text: str, change: Change) -> str:
    assert ("\n" + text).count("\n" + change.before) == 1, (
        f"{change.file} does not have these lines once:\n{change.before}"
    )
    return ("\n" + text).replace("\n" + change.before, "\n" + change.after)[1:]


def test_every_change_can_be_made() -> None:
    assert len(changes()) == 14
    texts = {change.file: (ROOT / change.file).read_text(encoding="utf-8") for change in changes()}
    for change in changes():
        texts[change.file] = applied(texts[change.file], change)
    assert all(text.count("hypot") for text in texts.values())


def test_an_outdated_guide_is_found() -> None:
    with pytest.raises(AssertionError, match="does not have these lines once"):
        applied("a\nb\n", Change("file", "c\n", "d\n"))
    assert applied("a\nb\n", Change("file", "a\nb\n", "a\nx\nb\n")) == "a\nx\nb\n"


def failures(project: Path, *arguments: str) -> tuple[int, list[str]]:
    """How many of these tests pass in the project, and which fail."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    passed = re.search(r"(\d+) passed", run.stdout)
    return int(passed[1]) if passed else 0, re.findall(r"^FAILED ([^\s[]+(?:\[.*?\])?)", run.stdout, flags=re.MULTILINE)


def change(project: Path, step: Change) -> None:
    file = project / step.file
    file.write_text(applied(file.read_text(encoding="utf-8"), step), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("src", "tests", "pyproject.toml"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    return tmp_path


def test_tables_miss_what_the_guide_says_and_nothing_after_it(project: Path) -> None:
    row, *others = changes()
    change(project, row)
    announced = re.findall(r"^FAILED (tests/ir\S+)$", GUIDE, flags=re.MULTILINE)
    assert len(announced) == 5
    assert failures(project, "tests/ir/test_tables.py")[1] == announced
    for step in others:
        change(project, step)
    passed, failed = failures(project, "tests/ir/test_tables.py")
    assert failed == []
    assert passed > 100


@pytest.mark.slow
def test_a_primitive_is_added_by_following_the_guide(project: Path) -> None:
    for step in changes():
        change(project, step)
    folders = ["tests/ir", "tests/engines", "tests/conformance", "tests/grad"]
    passed, failed = failures(project, *folders, "-k", "hypot or tables")
    assert failed == []
    assert passed > 200

    # Exchanging x and y in the rule is noticed where the guide says so.
    rule = project / "src/chainrule/grad/standard.py"
    text = rule.read_text(encoding="utf-8")
    swapped = text.replace("b.mul(b.div(g, divisor), x), b.mul(b.div(g, divisor), y)", "b.mul(g, y), b.mul(g, x)")
    assert swapped != text
    rule.write_text(swapped, encoding="utf-8")
    announced = re.findall(r"^FAILED (tests/grad.*)$", GUIDE, flags=re.MULTILINE)
    assert set(announced) <= set(failures(project, "tests/grad", "-k", "hypot")[1])
