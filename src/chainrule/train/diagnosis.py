"""Where a number first stopped being finite."""

from __future__ import annotations

from typing import Any

from chainrule.insight import first_nonfinite
from chainrule.transforms import Compiled


def first_nonfinite_place(step: Compiled[..., Any], arguments: tuple[Any, ...]) -> str:
    """The layer, phase and primitive of the first NaN or infinity when the step runs on these arguments."""
    found = first_nonfinite(*step.graph_and_arrays(*arguments))
    if found is None:
        return "a place that a second run of the step does not show"
    phase = f", in the {found.origin.phase} pass" if found.node is not None else ""
    return f"{found}{phase}"
