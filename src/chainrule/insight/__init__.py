"""The glass box: every value, every cotangent and every product of the chain rule, with its numbers."""

from chainrule.insight.cotangents import WithCotangents as WithCotangents
from chainrule.insight.cotangents import with_cotangents as with_cotangents
from chainrule.insight.observe import FirstNonFinite as FirstNonFinite
from chainrule.insight.observe import first_nonfinite as first_nonfinite
from chainrule.insight.observe import observe as observe

__all__ = ["FirstNonFinite", "WithCotangents", "first_nonfinite", "observe", "with_cotangents"]
