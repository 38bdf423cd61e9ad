"""What is said before training: what was recognised in the table, and what will be trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from chainrule.cli.terminal import Terminal, listing, safe
from chainrule.report import Report
from chainrule.report.formats import count, percent
from chainrule.report.markup import shorten
from chainrule.report.verdict import as_number

_MOST_COLUMNS = 12
_LONGEST_NAME = 40
_LONGEST_CLASSES = 8
_KIND_WORDS = {"category": "categories", "boolean": "booleans", "number": "numbers", "date": "dates"}


def show_introduction(terminal: Terminal, plan: Report) -> None:
    """Task, parts, columns, network, settings and notices."""
    facts = [("Task", _task(plan)), ("Rows", _rows(plan)), ("Columns", _columns(plan))]
    if plan.network:
        facts.append(("Network", _network(plan)))
    if plan.configuration:
        facts.append(("Training", training_words(plan.configuration)))
    terminal.facts((label, words) for label, words in facts if words)
    show_columns(terminal, plan.columns)
    if plan.notices:
        terminal.facts(("note", notice) for notice in plan.notices)
        terminal.say()


def show_columns(terminal: Terminal, columns: Sequence[Mapping[str, Any]], most: int = _MOST_COLUMNS) -> None:
    """A table of the columns; of very many, the first, and all that were left out or carry a note."""
    if not columns:
        return
    shown = list(columns[:most])
    noted = any(column.get("note") for column in shown)
    missing = any(as_number(column.get("missing")) > 0 for column in shown)
    head = ["Column", "Kind", "Treatment", *(["Missing"] if missing else []), *(["Note"] if noted else [])]
    table = listing(head, numeric=[3] if missing else [], wrapped=[2, *([len(head) - 1] if noted else [])])
    for column in shown:
        cells = [
            shorten(safe(column.get("name", "")), _LONGEST_NAME),
            column.get("kind") or "–",
            column.get("treatment") or "–",
        ]
        if missing:
            share = as_number(column.get("missing"))
            cells.append("" if not share > 0 else percent(share) if share >= 0.001 else "under 0.1 %")
        if noted:
            cells.append(column.get("note") or "")
        table.add_row(*(safe(cell) for cell in cells))
    terminal.say()
    terminal.table(table)
    if len(columns) > len(shown):
        terminal.say(f"… and {count(len(columns) - len(shown))} more; the report lists them all", indent=2)
    terminal.say()


def training_words(configuration: Mapping[str, Any]) -> str:
    """The settings that a reader asks for first."""
    words = []
    optimizer = configuration.get("optimizer")
    name = optimizer.get("name") if isinstance(optimizer, Mapping) else optimizer
    if name:
        words.append(str(name))
    if configuration.get("epochs"):
        most = "at most " if configuration.get("patience") else ""
        words.append(f"{most}{count(as_number(configuration['epochs']))} epochs")
    if configuration.get("batch_size"):
        size = configuration["batch_size"]
        words.append("all rows in one batch" if size == "full" else f"batches of {size}")
    words += [f"{key} {configuration[key]}" for key in ("seed", "engine") if configuration.get(key) is not None]
    return " · ".join(words)


def task_words(report: Report) -> str:
    """The task with the target, and the classes if there are few."""
    target = f"“{shorten(report.target, _LONGEST_NAME)}”"
    if report.task == "regression":
        return f"regression of {target}"
    kind = "binary classification" if report.task == "binary" else f"classification into {len(report.classes)} classes"
    if 0 < len(report.classes) <= _LONGEST_CLASSES:
        return f"{kind} of {target}: {', '.join(shorten(name, _LONGEST_NAME) for name in report.classes)}"
    return f"{kind} of {target}"


def _task(plan: Report) -> str:
    reason = plan.configuration.get("task_reason")
    return task_words(plan) + (f" ({reason})" if reason else "")


def _rows(plan: Report) -> str:
    if not plan.rows:
        return ""
    words = {"train": "to learn from", "validation": "to know when to stop", "test": "held out for the final scores"}
    parts = [f"{count(as_number(plan.rows[part]))} {what}" for part, what in words.items() if plan.rows.get(part)]
    return " · ".join(parts)


def _columns(plan: Report) -> str:
    used = Counter(str(column.get("kind")) for column in plan.columns if not is_left_out(column))
    words = [f"{count(number)} {_plural(kind, number)}" for kind, number in used.most_common()]
    out = sum(map(is_left_out, plan.columns))
    return " · ".join([*words, *([f"{count(out)} left out"] if out else [])])


def is_left_out(column: Mapping[str, Any]) -> bool:
    """Whether a column of the report took no part."""
    return column.get("treatment") == "left out"


def _plural(kind: str, number: int) -> str:
    return kind if number == 1 else _KIND_WORDS.get(kind, kind + "s")


def _network(plan: Report) -> str:
    sizes = [as_number(parameters) for _, _, parameters in plan.network]
    return f"{plan.configuration.get('network') or f'{len(plan.network)} layers'}, {count(sum(sizes))} parameters"
