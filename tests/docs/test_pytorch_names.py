"""Every option of PyTorch's constructors is here by its name, by ours, or in the table of what is not: docs/layers.md says which."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule import nn, optim

TEXT = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")
LAYERS = {
    name: kind
    for name, kind in vars(torch.nn).items()
    if inspect.isclass(kind) and issubclass(kind, torch.nn.Module) and kind is not torch.nn.Module
}
OPTIMIZERS = {name: kind for name, kind in vars(torch.optim).items() if inspect.isclass(kind)}
SCHEDULES = {
    name: kind
    for name, kind in vars(torch.optim.lr_scheduler).items()
    if inspect.isclass(kind)
    and issubclass(kind, torch.optim.lr_scheduler.LRScheduler)
    and kind is not torch.optim.lr_scheduler.LRScheduler
    and not name.startswith("_")
}
THEIRS: dict[str, Any] = {**LAYERS, **OPTIMIZERS, **SCHEDULES}


def rows(title: str) -> list[tuple[str, str]]:
    section = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert section is not None
    lines = [line.split("|")[1:3] for line in section[1].splitlines() if line.startswith("|")]
    return [(left, right) for left, right in lines[2:]]


def names(cell: str) -> list[tuple[str, list[str]]]:
    """``name`` or ``name(option, option)``."""
    found = re.findall(r"`(\w+)(?:\(([\w, ]*)\))?`", cell)
    return [(name, [part.strip() for part in options.split(",") if part.strip()]) for name, options in found]


def mapped() -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
    """PyTorch's classes to ours, its options to ours, and options of one class (``Class.option``) to ours."""
    kinds: dict[str, str] = {}
    options: dict[str, str] = {}
    special: dict[str, list[str]] = {}
    for left, right in rows("PyTorch's names"):
        given, here = names(left), names(right)
        here = here * len(given) if len(here) == 1 else here[: len(given)]
        # Words that explain stand behind the last name, so that names pair up from the left.
        for (name, theirs), (other, ours) in zip(given, here, strict=True):
            if name not in THEIRS:
                options[name] = other
                continue
            kinds[name] = other
            assert len(ours) >= len(theirs) or not ours, (name, other)
            for option, own in zip(theirs, ours, strict=False):
                special[f"{name}.{option}"] = [own]
            if theirs and len(ours) > len(theirs):
                special[f"{name}.{theirs[-1]}"] = ours[len(theirs) - 1 :]
    return kinds, options, special


def absent() -> set[str]:
    cells = (re.findall(r"`([\w.]+)`", left) for left, _ in rows("What PyTorch has and Chainrule does not, and why"))
    return {name for cell in cells for name in cell}


KINDS, OPTIONS, SPECIAL = mapped()
ABSENT = absent()


def ours(name: str) -> Any:
    """Our counterpart of a class of PyTorch."""
    here = KINDS.get(name, name)
    places = (optim,) if name in OPTIMIZERS or name in SCHEDULES else (nn, nn.losses)
    return next((getattr(place, here) for place in places if hasattr(place, here)), None)


def parameters(function: Any) -> set[str]:
    """The names of what can be passed, those that ``**settings`` hands on included."""
    if not inspect.isclass(function):
        return set(inspect.signature(function).parameters)
    found: set[str] = set()
    for kind in function.__mro__:
        if "__init__" not in vars(kind):
            continue
        own = inspect.signature(kind.__init__).parameters
        found |= set(own)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return found


def options_of(name: str) -> list[str]:
    base = torch.nn.RNNBase if name in ("RNN", "LSTM", "GRU") else THEIRS[name]
    known = inspect.signature(base.__init__).parameters
    skipped = {"self", "args", "kwargs", "device", "dtype"} | ({"mode"} if base is torch.nn.RNNBase else set())
    return [option for option in known if option not in skipped]


def translations(name: str, option: str) -> Iterator[str]:
    yield from SPECIAL.get(f"{name}.{option}", [option])
    if option in OPTIONS:
        yield OPTIONS[option]


@pytest.mark.parametrize("name", sorted(set(THEIRS) - ABSENT))
def test_every_option_of_pytorch_is_here_or_listed(name: str) -> None:
    counterpart = ours(name)
    assert counterpart is not None, f"{name} is neither here, nor under another name, nor listed as absent"
    known = parameters(counterpart) | (
        parameters(nn.TransformerEncoderLayer) if name.startswith("Transformer") else set()
    )
    if issubclass(THEIRS[name], torch.nn.RNNBase):
        known |= parameters(counterpart.kind)
    for option in options_of(name):
        listed = option in ABSENT or f"{name}.{option}" in ABSENT
        here = [own for own in translations(name, option) if own in known]
        assert listed or here, (
            f"{name} has the option {option}, which {KINDS.get(name, name)} has not, by any name that is listed"
        )


def test_what_is_listed_as_absent_exists_there_and_not_here() -> None:
    everything = {option for name in THEIRS for option in options_of(name)}
    for entry in ABSENT:
        name, _, option = entry.partition(".")
        if option:
            assert option in options_of(name), entry
            assert option not in parameters(ours(name)), f"{entry} is here by now"
        elif name in THEIRS:
            assert not hasattr(nn, name), f"{name} is here by now"
            assert not hasattr(optim, name), f"{name} is here by now"
        else:
            assert name in everything, f"PyTorch has no {name}"


def test_names_that_are_listed_exist_on_both_sides() -> None:
    everything = {option for name in THEIRS for option in options_of(name)}
    assert set(OPTIONS) <= everything
    for entry, own in SPECIAL.items():
        name, _, option = entry.partition(".")
        assert option in options_of(name), entry
        assert set(own) <= parameters(ours(name)), entry
    assert set(KINDS) <= set(THEIRS)


def test_functions_of_losses_are_all_losses_of_classes() -> None:
    """PyTorch's functional losses are those of its classes, which the test above goes through."""
    functions = {name.removesuffix("_loss") for name in vars(torch.nn.functional) if name.endswith("_loss")}
    classes = {re.sub("[^a-z0-9]", "", name.lower()).removesuffix("loss") for name in LAYERS if name.endswith("Loss")}
    assert {name.replace("_", "") for name in functions} <= classes
