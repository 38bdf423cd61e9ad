"""The tables of docs/layers.md name what there is."""

import re
from pathlib import Path

from chainrule import nn

TEXT = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")


def section(title):
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)[1]


def first_column(text):
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")][2:]
    return {name for row in rows for name in re.findall(r"`(\w+)(?:\(.*?\))?`", row)}


def test_every_layer_that_is_listed_exists():
    text = section("Layers")
    activations = set(re.findall(r"`(\w+)`", text[text.index("Activations:") : text.index("The operations")]))
    named = first_column(text) | activations
    assert len(named) > 40
    assert all(issubclass(getattr(nn, name), nn.Module) for name in named)


def test_every_loss_that_is_listed_exists():
    named = first_column(section("Losses"))
    assert len(named) > 10
    assert all(callable(getattr(nn.losses, name)) for name in named)


def test_every_network_that_is_listed_exists():
    named = first_column(section("Networks"))
    assert len(named) > 10
    assert all(callable(getattr(nn.models, name)) for name in named)
