"""L1 and L2 penalties on parameters, as terms of the loss and as transforms that add the gradient of that term.

Both leave out biases and norms unless told otherwise: by default they act on parameters of rank 2 or more. ``on`` takes
patterns of paths or a ``function(path, parameter) -> bool``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chainrule import ops
from chainrule.optim.optimizer import Arrays, Transform, matching, stateless
from chainrule.optim.selection import Selection, describe_selection, rank_two_or_more, selected
from chainrule.optim.settings import non_negative
from chainrule.trace import as_array, operation


@operation
def l1_penalty(params: Arrays, strength: float, on: Selection = rank_two_or_more) -> Any:
    """The scalar ``strength·Σ|p|`` over the selected parameters, to be added to a loss."""
    return _total(ops.abs, params, on) * non_negative("l1_penalty", "strength", strength)


@operation
def l2_penalty(params: Arrays, strength: float, on: Selection = rank_two_or_more) -> Any:
    """The scalar ``strength/2·Σp²`` over the selected parameters, to be added to a loss; its gradient is ``strength·p``."""
    return _total(ops.square, params, on) * (0.5 * non_negative("l2_penalty", "strength", strength))


def l1(strength: float, on: Selection = rank_two_or_more) -> Transform:
    """``g ← g + strength·sign(p)``: what :func:`l1_penalty` in the loss would do, at no cost in the backward pass.

    The derivative of ``|p|`` at 0 is taken as 0. Raises :class:`ConfigError` for a negative strength.
    """
    scale = non_negative("l1", "strength", strength)
    return _penalty("l1", scale, on, lambda p: scale * ops.sign(p))


def l2(strength: float, on: Selection = rank_two_or_more) -> Transform:
    """``g ← g + strength·p``: what :func:`l2_penalty` in the loss would do, and the ``weight_decay`` of PyTorch's SGD.

    Raises :class:`ConfigError` for a negative strength.
    """
    scale = non_negative("l2", "strength", strength)
    return _penalty("l2", scale, on, lambda p: scale * p)


def _penalty(kind: str, strength: float, on: Selection, slope: Callable[[Any], Any]) -> Transform:
    def add(gradients: Arrays, params: Arrays) -> dict[str, Any]:
        penalised = dict(gradients)
        for path in selected(on, params):
            if path in gradients:
                p = as_array(params[path])
                penalised[path] = matching(path, gradients[path], p, "gradient") + slope(p)
        return penalised

    return stateless(add, {"kind": kind, "strength": strength, **describe_selection("on", on)})


def _total(measure: Callable[[Any], Any], params: Arrays, on: Selection) -> Any:
    terms = [measure(as_array(params[path])).sum() for path in selected(on, params)]
    total = terms[0] if terms else ops.zeros(())
    for term in terms[1:]:
        total = total + term
    return total
