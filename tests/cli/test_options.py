"""Values of options, and the run folder that is taken when none is named."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from chainrule.cli.options import batch_size, column_kinds, free_run_folder
from chainrule.core.errors import ConfigError


def parse_batch_size(value: str | None) -> object:
    return batch_size(click.Context(click.Command("train")), click.Option(["--batch-size"]), value)


@pytest.mark.parametrize(("given", "meant"), [(None, None), ("full", "full"), ("1", 1), ("512", 512)])
def test_batch_sizes(given: str | None, meant: object) -> None:
    assert parse_batch_size(given) == meant


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "Full", "", "1e3", "²"])
def test_what_is_no_batch_size(given: str) -> None:
    with pytest.raises(click.BadParameter, match="neither a number of examples nor full"):
        parse_batch_size(given)


def test_kinds_of_columns() -> None:
    assert column_kinds(("zip=category", "a=b=number", " =date")) == {"zip": "category", "a=b": "number", " ": "date"}
    assert column_kinds(("zip=category", "zip=category")) == {"zip": "category"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("zip",), "--type zip does not say COLUMN=KIND"),
        (("=number",), "--type =number does not say COLUMN=KIND"),
        (("zip=catgory",), "there is no kind 'catgory'; did you mean 'category'?"),
        (("zip=",), "there are number, category"),
        (("zip=date", "zip=number"), "'zip' two kinds, date and number"),
        (("zi\x1bp=x",), r"zi\\x1bp=x"),
    ],
)
def test_what_is_no_kind_of_a_column(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        column_kinds(given)


def test_the_run_folder_is_named_after_the_table(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert free_run_folder(Path("data/patients.2024.csv"), force=False, parent=runs) == runs / "patients.2024"
    (runs / "patients").mkdir(parents=True)
    (runs / "patients-2").write_text("a file takes the name too")
    (runs / "patients-3").symlink_to("nowhere")
    assert free_run_folder(Path("patients.csv"), force=False, parent=runs) == runs / "patients-4"
    assert free_run_folder(Path("patients.csv"), force=True, parent=runs) == runs / "patients"


@pytest.mark.parametrize("name", ["..", ".", "a\x1b.csv", ".hidden", "con.csv", "x" * 300 + ".csv"])
def test_no_table_leads_out_of_the_folder_of_runs(name: str) -> None:
    folder = free_run_folder(Path(name), force=False)
    assert folder.parent == Path("runs")
    assert folder.name not in ("", ".", "..")
    assert folder.name.isprintable()
    assert len(folder.name) < 256
