"""Choosing parameters by their paths or shapes: for groups, freezing, weight decay and penalties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from chainrule.core.errors import ConfigError
from chainrule.optim.optimizer import JSON

Selection = str | Sequence[str] | Callable[[str, Any], bool]


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern of shell style fits a dotted path: ``*`` stands for anything, dots included.

    ``encoder.*`` fits everything below ``encoder``; ``*.bias`` fits every ``bias``, also one at the top of the model.
    """
    return fnmatchcase(path, pattern) or fnmatchcase(f".{path}", pattern)


def rank_two_or_more(path: str, parameter: Any) -> bool:
    """Chooses matrices and convolution kernels, and leaves out biases and the scales and shifts of norms, which are vectors."""
    return len(parameter.shape) >= 2


def selected(selection: Selection, params: Mapping[str, Any]) -> list[str]:
    """The chosen paths, in the order of the parameters.

    Raises :class:`ConfigError` for a pattern that fits no parameter.
    """
    if callable(selection):
        return [path for path, parameter in params.items() if selection(path, parameter)]
    patterns = as_patterns(selection)
    must_match(patterns, params)
    return [path for path in params if any(matches(path, pattern) for pattern in patterns)]


def as_patterns(selection: str | Sequence[str]) -> tuple[str, ...]:
    """One or several patterns as a tuple; raises :class:`ConfigError` for what is not text."""
    patterns = (selection,) if isinstance(selection, str) else tuple(selection)
    wrong: list[Any] = [pattern for pattern in patterns if not isinstance(pattern, str)]
    if wrong:
        raise ConfigError(f"a parameter pattern is text such as '*.bias', not {wrong[0]!r}")
    return patterns


def must_match(patterns: Iterable[str], paths: Iterable[str]) -> None:
    """Raises :class:`ConfigError` for the first pattern that fits none of the paths."""
    known = list(paths)
    for pattern in patterns:
        if not any(matches(path, pattern) for path in known):
            shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise ConfigError(f"the pattern {pattern!r} fits no parameter; the parameters are {shown or '(none)'}")


def describe_selection(name: str, selection: Selection) -> dict[str, JSON]:
    """The argument ``name`` of a description: patterns as a list, a function by its name; nothing for the default."""
    if selection is rank_two_or_more:
        return {}
    if callable(selection):
        return {name: {"kind": "function", "name": getattr(selection, "__qualname__", repr(selection))}}
    return {name: list(as_patterns(selection))}
