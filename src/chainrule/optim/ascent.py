"""Going up instead of down."""

from __future__ import annotations

from typing import Any

from chainrule.optim.optimizer import JSON, Arrays, Optimizer, State, check_optimizer, update_operation
from chainrule.trace import as_array


def maximize(optimizer: Optimizer) -> Optimizer:
    """``optimizer`` with all gradients negated, so that what they are of grows: ``maximize(Adam(1e-3))``.

    Only gradients are negated, not what the optimiser adds to them: a weight decay still shrinks. This is PyTorch's
    ``maximize=True``, for every optimiser. The state is that of ``optimizer``.
    """
    check_optimizer(optimizer, "what maximize is given")

    @update_operation
    def update(gradients: Arrays, state: State, params: Arrays) -> tuple[dict[str, Any], State]:
        negated = {path: -as_array(gradient) for path, gradient in gradients.items()}
        return optimizer.update(negated, state, params)

    described: dict[str, JSON] = {"kind": "maximize", "optimizer": optimizer.describe}
    return Optimizer(optimizer.init, update, described, optimizer.learning_rate)
