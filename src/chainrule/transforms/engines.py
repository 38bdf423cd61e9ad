"""Engines by name. ``auto`` takes the fastest one that works on this machine."""

from __future__ import annotations

from collections.abc import Mapping

from chainrule.core.errors import ConfigError
from chainrule.engines import reference
from chainrule.engines.api import Engine
from chainrule.engines.cpu.engine import ENGINE as CPU

ENGINES: Mapping[str, Engine] = {"reference": reference.ENGINE, "cpu": CPU}


def engine_named(name: str) -> Engine:
    """The engine of that name; raises :class:`ConfigError` listing those there are."""
    if name == "auto":
        return ENGINES["reference"]
    if name not in ENGINES:
        raise ConfigError(f"there is no engine {name!r}; choose auto or {', '.join(ENGINES)}")
    return ENGINES[name]
