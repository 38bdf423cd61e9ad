"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, overload

from chainrule.core import trees
from chainrule.core.errors import ConfigError
from chainrule.nn.module import Module


class Apply(Module):
    """A function of arrays as a layer without weights, such as ``nn.Apply(cr.sin)``."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Sequential(Module):
    """Layers applied one after another; plain functions among them are wrapped in :class:`Apply`.

    ``model[0]`` is a layer, ``model[:-1]`` a Sequential of all but the last, and weights have paths like ``layers.0.weight``.
    """

    def __init__(self, *layers: Module | Callable[[Any], Any]) -> None:
        self.layers = tuple(_as_layer(layer, number, layers) for number, layer in enumerate(layers))

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]


def _as_layer(layer: Any, number: int, layers: tuple[Any, ...]) -> Module:
    if isinstance(layer, Module):
        # A copy of a repeated activation has a name of its own; repeated weights are refused when the module freezes.
        repeated = any(other is layer for other in layers[:number])
        return layer.replace() if repeated and not trees.leaves(layer) else layer
    if isinstance(layer, type) and issubclass(layer, Module):
        raise ConfigError(
            f"layer {number} of Sequential is the class {layer.__name__}; write {layer.__name__}() instead"
        )
    if not callable(layer):
        raise ConfigError(
            f"layer {number} of Sequential is a {type(layer).__name__}; it should be a module or a function"
        )
    return Apply(layer)
