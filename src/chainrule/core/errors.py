"""Errors that a person can act on.

Every mistake a user can make raises a subclass of :class:`ChainruleError` whose message is one sentence: it names the
file, row, column, layer or shape, and says what to do. The command line prints that sentence and exits with
``exit_code``; it prints no traceback.
"""

from __future__ import annotations


class ChainruleError(Exception):
    """Base class of everything Chainrule raises on purpose."""

    exit_code = 2


class ShapeError(ChainruleError, ValueError):
    """Sizes that do not fit together; the message names the operation or layer and both shapes."""


class DTypeError(ChainruleError, TypeError):
    """Element types that an operation does not accept."""


class TraceError(ChainruleError, TypeError):
    """Something that cannot be done with a value that is only a symbol while a function is traced."""


class GraphError(ChainruleError, ValueError):
    """A graph that breaks a rule of the intermediate representation, or text that is not a graph."""


class RuleError(ChainruleError, LookupError):
    """A primitive for which the chosen rule set has no gradient rule."""


class ConfigError(ChainruleError, ValueError):
    """A setting, option or configuration file that makes no sense."""


class DataError(ChainruleError, ValueError):
    """Data that cannot be read or used; the message names the file and the row or column."""


class WeightsError(ChainruleError, ValueError):
    """A weight file that is truncated, tampered with, or made for another architecture."""


class RunError(ChainruleError, OSError):
    """A run folder that cannot be written, read or resumed."""


class NonFiniteError(ChainruleError, ArithmeticError):
    """Training met a NaN or an infinity; the message names the layer where it first appeared."""

    exit_code = 3


class MissingExtraError(ChainruleError, ImportError):
    """An optional dependency is not installed; the message is the one line that installs it."""
