"""Engines by name. ``auto`` is the reference engine, until the cpu engine has been measured on more machines."""

from __future__ import annotations

from collections.abc import Mapping

from chainrule.core.errors import ConfigError
from chainrule.engines import reference
from chainrule.engines.api import Engine
from chainrule.engines.cpu.engine import ENGINE as CPU

ENGINES: Mapping[str, Engine] = {"reference": reference.ENGINE, "cpu": CPU}


def engine_named(name: str) -> Engine:
    """The engine of that name; :class:`ConfigError` lists those there are, or says why it cannot be used on this machine."""
    if name == "auto":
        return ENGINES["reference"]
    if name not in ENGINES:
        raise ConfigError(f"there is no engine {name!r}; choose auto or {', '.join(ENGINES)}")
    engine = ENGINES[name]
    problem = engine.problem()
    if problem is not None:
        raise ConfigError(problem)
    return engine
