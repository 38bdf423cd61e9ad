"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, overload

from chainrule.core import trees
from chainrule.core.errors import ConfigError, ShapeError
from chainrule.nn.module import Module
from chainrule.trace.values import show_shape


class Apply(Module):
    """A function of arrays as a layer without weights, such as ``nn.Apply(cr.sin)``."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Identity(Module):
    """``x`` itself: a place that another layer may take."""

    def forward(self, x: Any) -> Any:
        return x


class Sequential(Module):
    """Layers applied one after another; plain functions among them are wrapped in :class:`Apply`.

    ``model[0]`` is a layer, ``model[:-1]`` a Sequential of all but the last, and weights have paths like ``layers.0.weight``.
    """

    def __init__(self, *layers: Module | Callable[[Any], Any]) -> None:
        self.layers = tuple(
            _as_layer(layer, f"layer {number} of Sequential", layers[:number]) for number, layer in enumerate(layers)
        )

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


class Residual(Module):
    """``module(x) + shortcut(x)``, where the shortcut is the identity unless one is given. He et al., CVPR 2016.

    Raises :class:`ShapeError` when the two have different shapes: a broadcast sum would hide a mistake.
    """

    def __init__(
        self, module: Module | Callable[[Any], Any], shortcut: Module | Callable[[Any], Any] | None = None
    ) -> None:
        self.module = _as_layer(module, "the module of Residual")
        self.shortcut = None if shortcut is None else _as_layer(shortcut, "the shortcut of Residual")

    def forward(self, x: Any) -> Any:
        y = self.module(x)
        straight = x if self.shortcut is None else self.shortcut(x)
        if y.shape != straight.shape:
            raise ShapeError(
                f"the module's output has shape {show_shape(y.shape)} and the shortcut's {show_shape(straight.shape)}; give "
                "Residual a shortcut, such as a convolution with a window of 1, that changes the shape in the same way"
            )
        return y + straight


def _as_layer(layer: Any, place: str, before: tuple[Any, ...] = ()) -> Module:
    if isinstance(layer, Module):
        # A copy of a repeated activation has a name of its own; repeated weights are refused when the module freezes.
        repeated = any(other is layer for other in before)
        return layer.replace() if repeated and not trees.leaves(layer) else layer
    if isinstance(layer, type) and issubclass(layer, Module):
        raise ConfigError(f"{place} is the class {layer.__name__}; write {layer.__name__}() instead")
    if not callable(layer):
        raise ConfigError(f"{place} is a {type(layer).__name__}; it should be a module or a function")
    return Apply(layer)
