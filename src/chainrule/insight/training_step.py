"""Running the training step of a small network: the whole step is one graph, and every quantity can be read off it.

The graph holds the forward pass, the loss, backpropagation by the standard rules, and the update. ``run`` only wants the
result; ``explain`` runs it observed, and writes down every array that it held with the formula behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrule.core.errors import NonFiniteError
from chainrule.engines.reference import ReferenceProgram
from chainrule.insight.activations import Softmax
from chainrule.insight.cotangents import with_cotangents
from chainrule.insight.explanation import TrainingStep, explain
from chainrule.insight.network import Layer, Network
from chainrule.insight.observe import first_nonfinite, observe
from chainrule.ir.build import Builder
from chainrule.ir.graph import Graph, Origin, Value
from chainrule.passes.prune import prune
from chainrule.trace.scope import scope
from chainrule.transforms import trace, vjp

NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step computes, without the way to it: loss and outputs (examples, outputs) before it, parameters after it."""

    loss: float
    outputs: NDArray
    parameters: list[NDArray]


class StepProgram:
    """The training step of a network, ready to run on parameters."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.graph, self._places = _step_graph(network)
        self._program = ReferenceProgram(prune(self.graph))

    def run(self, parameters: Sequence[NDArray]) -> Outcome:
        """One step, quickly."""
        loss, outputs, *updated = self._program(self._arrays(parameters))
        return Outcome(float(loss), outputs, updated)

    def source_of_nonfinite(self, parameters: Sequence[NDArray]) -> str:
        """The layer and operation in which a step from these parameters first had a NaN or an infinity."""
        found = first_nonfinite(self.graph, self._arrays(parameters))
        if found is None or found.node is None:
            return "from numbers that were not finite before"
        return f"in {found.origin.path!r} by the operation {found.node.primitive.name}"

    def _arrays(self, parameters: Sequence[NDArray]) -> list[NDArray]:
        return [*parameters, self.network.inputs, self.network.targets]

    def explain(self, parameters: Sequence[NDArray], number: int) -> TrainingStep:
        """One step with every quantity and its formula."""
        seen = observe(self.graph, self._arrays(parameters))
        return explain(self.network, {name: seen[value] for name, value in self._places.items()}, number)


@dataclass(frozen=True, slots=True)
class Row:
    """Loss and outputs at the beginning of a step."""

    step: int
    loss: float
    outputs: NDArray


@dataclass(frozen=True, slots=True)
class Learning:
    """What repeating the step came to: a row per step, and loss and outputs after the last.

    ``last`` are the parameters with which the last step began; ``reached`` tells whether the loss fell below ``until``.
    """

    rows: Sequence[Row]
    last: Sequence[NDArray]
    loss: float
    outputs: NDArray
    until: float | None

    @property
    def reached(self) -> bool:
        return self.until is not None and self.loss < self.until


def learn(
    program: StepProgram,
    steps: int,
    until: float | None,
    before: Callable[[int, Sequence[NDArray]], None] = lambda number, parameters: None,
) -> Learning:
    """Repeat the step until the loss after it is below ``until``, at most ``steps`` times.

    ``before(number, parameters)`` is called at the beginning of every step. Raises :class:`NonFiniteError` naming the step
    and the layer where a NaN or an infinity first appeared.
    """
    parameters: Sequence[NDArray] = program.network.parameters()
    outcome, rows = program.run(parameters), []
    for number in range(1, steps + 1):
        _refuse_nonfinite(program, parameters, [outcome.loss, outcome.outputs, *outcome.parameters], f"step {number}")
        before(number, parameters)
        rows.append(Row(number, outcome.loss, outcome.outputs))
        last, parameters = parameters, outcome.parameters
        outcome = program.run(parameters)
        if until is not None and outcome.loss < until:
            break
    _refuse_nonfinite(program, parameters, [outcome.loss, outcome.outputs], f"the forward pass after step {len(rows)}")
    return Learning(rows, last, outcome.loss, outcome.outputs, until)


def _refuse_nonfinite(program: StepProgram, parameters: Sequence[NDArray], found: Sequence[Any], what: str) -> None:
    if not all(np.isfinite(array).all() for array in found):
        raise NonFiniteError(
            f"{what} gives numbers that are not finite, first {program.source_of_nonfinite(parameters)}; choose a smaller "
            "learning_rate, or smaller weights and inputs"
        )


def _step_graph(network: Network) -> tuple[Graph, dict[str, Value]]:
    """The graph of a whole step, with the values to look at by name.

    ``z.0``, ``a.0``, ``local.0`` belong to the first layer, ``parameters.0`` to the first parameter, ``d …`` are cotangents.
    """
    forward = trace(_forward(network), network.parameters(), network.inputs, network.targets)
    whole, cotangents = with_cotangents(forward, "loss")
    places = {value.name: value for value in whole.inputs}
    places.update(zip(whole.output_names, whole.outputs, strict=True))
    places.update({f"d {name}": cotangents[value] for name, value in places.items() if value in cotangents})

    builder = Builder()
    builder.inputs, builder.nodes = list(whole.inputs), list(whole.nodes)
    builder.origin = Origin("update", phase="update")
    for number in range(len(network.parameters())):
        parameter, gradient = places[f"parameters.{number}"], places[f"d parameters.{number}"]
        rate = builder.full_like(gradient, network.learning_rate)
        places[f"new parameters.{number}"] = builder.sub(parameter, builder.mul(rate, gradient))
    names = ["loss", f"a.{len(network.layers) - 1}", *(f"new parameters.{n}" for n in range(len(network.parameters())))]
    step = replace(
        whole, nodes=tuple(builder.nodes), outputs=tuple(places[n] for n in names), output_names=tuple(names)
    )
    return step, places


def _forward(network: Network) -> Any:
    def forward(parameters: Sequence[Any], x: Any, y: Any) -> dict[str, Any]:
        given = iter(parameters)
        z, a, local = [], [x], []
        for layer in network.layers:
            with scope(layer.name):
                drive = a[-1] @ next(given).T
                z.append(drive if layer.biases is None else drive + next(given))
                a.append(layer.activation.apply(z[-1]))
                local.append(_local_derivatives(layer, z[-1]))
        with scope("loss"):
            losses = network.loss.apply(y, a[-1])
            return {"loss": losses.mean(), "losses": losses, "z": z, "a": a[1:], "local": local}

    return forward


def _local_derivatives(layer: Layer, z: Any) -> Any:
    """∂a/∂z: (examples, units), or where units are coupled one array per unit j with ∂aⱼ/∂zᵢ at [example, i]."""
    shape = z.shape
    if not isinstance(layer.activation, Softmax):
        return vjp(layer.activation.apply, z, cotangents=np.ones(shape))[1][0]
    one_hot = [np.broadcast_to(row, shape) for row in np.eye(shape[1])]
    return [vjp(layer.activation.apply, z, cotangents=seed)[1][0] for seed in one_hot]
