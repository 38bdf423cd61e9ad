"""What is said before training: what was recognised in the table, and what will be trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from chainrule.cli.terminal import Terminal, listing, safe
from chainrule.report import Report
from chainrule.report.formats import DASH, count, percent
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
    """A table of the columns; of very many, those that were left out or carry a note come before the others."""
    if not columns:
        return
    by_interest = sorted(range(len(columns)), key=lambda place: not columns[place].get("note"))
    shown = [columns[place] for place in sorted(by_interest[:most])]
    missing = any(as_number(column.get("missing")) > 0 for column in shown)
    head = ["Column", "Kind", *(["Missing"] if missing else []), "What the network gets"]
    table = listing(head, numeric=[2] if missing else [], wrapped=[len(head) - 1])
    longest = min(_LONGEST_NAME, terminal.people.width // 3)
    for column in shown:
        cells = [shorten(safe(column.get("name", "")), longest), column.get("kind") or DASH]
        if missing:
            cells.append(_missing(as_number(column.get("missing"))))
        treatment, note = column.get("treatment") or DASH, column.get("note")
        cells.append(
            f"{treatment}: {note}" if note and is_left_out(column) else f"{treatment} ({note})" if note else treatment
        )
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
    if configuration.get("seed") is not None:
        words.append(f"seed {configuration['seed']}")
    if configuration.get("engine"):
        words.append(f"engine {configuration['engine']}")
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


def _missing(share: float) -> str:
    if not share > 0:
        return ""
    return percent(share) if share >= 0.001 else "under 0.1 %"


def _plural(kind: str, number: int) -> str:
    return kind if number == 1 else _KIND_WORDS.get(kind, kind + "s")


def _network(plan: Report) -> str:
    sizes = [as_number(parameters) for _, _, parameters in plan.network]
    return f"{plan.configuration.get('network') or f'{len(plan.network)} layers'}, {count(sum(sizes))} parameters"
