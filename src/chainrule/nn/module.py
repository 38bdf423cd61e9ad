"""Modules: immutable trees of arrays with a forward function.

A subclass sets attributes in ``__init__`` and overrides ``forward``. Attributes that hold arrays, modules, ``State`` or
tuples, lists and dicts of them are its children; everything else is a setting and must be hashable, because settings are
part of what a step is compiled for. (Python and NumPy *scalars* are settings: a scalar to be learned is ``np.asarray(0.5)``.)

Weights are shared by calling one module several times. The same module at two places of a tree would be two sets of
weights after the first update, so that is refused when the outer module is built.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from chainrule.core import trees
from chainrule.core.dtypes import FLOAT32, FLOATS, SHORT, dtype_name, is_float
from chainrule.core.errors import ConfigError, DTypeError, ShapeError
from chainrule.core.names import hint
from chainrule.core.trees import State, Tree
from chainrule.nn import calls
from chainrule.nn.summary import Summary, summarise
from chainrule.trace.array import Array
from chainrule.trace.scope import scope


class Module:
    """Base class of layers and models.

    ``model(x)`` applies ``forward``; on NumPy arrays it returns NumPy arrays, in a traced function it is recorded.
    ``model(x, training=True)`` sets the mode for everything inside; by default it is inherited, and False at the top.
    Everything computed inside carries the module's path, such as ``encoder.layers.2``, and errors name it.
    """

    # The settings stand before the children, which are what makes a module immutable when a copy is put together.
    __slots__ = ("__dict__", "__weakref__", "_settings", "_children")  # noqa: RUF023
    _settings: _Settings
    _children: tuple[str, ...]

    def __init__(self) -> None:
        # A subclass with an __init__ of its own is frozen at the end of that.
        if type(self).__init__ is Module.__init__:
            _freeze(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _freezing(cls.__init__)  # type: ignore[method-assign]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; subclasses override it."""
        raise ConfigError(f"{type(self).__name__} has no forward method; define `def forward(self, x):` in it")

    def __call__(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        caller = calls.innermost()
        with scope("" if caller is None else _place_in(caller, self), training=training), calls.of(self) as call:
            result = self.forward(*args, **kwargs)
            call.returned(result)
        return result

    def summary(self, input_shape: Tree, dtype: npt.DTypeLike = FLOAT32) -> Summary:
        """A table of the layers for one example's shape (a tuple, or a dict of tuples): ``print(model.summary((784,)))``.

        The model is traced with a batch of any size B, and not run. Raises what it raises for a shape that does not fit.
        """
        return summarise(self, input_shape, dtype)

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed: ``layer = layer.replace(weight=w)``."""
        for name in changes:
            if name not in vars(self):
                raise ConfigError(f"{type(self).__name__} has no attribute {name!r}; {hint(name, vars(self))}")
        copy = object.__new__(type(self))
        vars(copy).update(vars(self) | changes)
        _freeze(copy)
        return copy

    def named_parameters(self) -> dict[str, Any]:
        """What gradients and optimisers change: ``{path: array}`` of the floating-point leaves outside State."""
        return {place.path: leaf for place, leaf in _placed_leaves(self) if not place.is_state and _holds_floats(leaf)}

    def replace_parameters(self, arrays: Mapping[str, Any]) -> Self:
        """A copy with other arrays at these paths, as :func:`chainrule.optim.apply_updates` returns them.

        Raises :class:`ConfigError` for a path that no parameter has, and :class:`ShapeError` for an array of another shape.
        """
        known = self.named_parameters()
        for path, array in arrays.items():
            if path not in known:
                raise ConfigError(f"{type(self).__name__} has no parameter {path!r}; {hint(path, known)}")
            if np.shape(array) != known[path].shape:
                raise ShapeError(f"parameter {path!r} has shape {known[path].shape}, not {np.shape(array)}")
        changed: Self = trees.replace_leaves(self, arrays)
        return changed

    def state_leaves(self) -> dict[str, Any]:
        """What layers record while they run: ``{path: array}`` of the leaves under State."""
        return {place.path: leaf for place, leaf in _placed_leaves(self) if place.is_state}

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """A copy with all floating-point leaves converted: ``model.astype("float64")``."""
        wanted = dtype_name(dtype)
        if wanted not in FLOATS:
            raise DTypeError(f"the numbers of a model are bfloat16, float32 or float64, not {wanted}")
        converted: Self = trees.tree_map(lambda leaf: leaf.astype(wanted) if _holds_floats(leaf) else leaf, self)
        return converted

    def named_modules(self) -> dict[str, Module]:
        """``{path: module}`` of all modules in the tree, this one first under the path ''."""
        return {"": self} | dict(_modules_below(_opened(self), ""))

    # A module is a node of a tree.
    def tree_flatten(self) -> tuple[tuple[str, ...], tuple[Tree, ...], Hashable]:
        children = _frozen(self)
        held = self.__dict__
        return children, tuple([held[name] for name in children]), self._settings

    @classmethod
    def tree_unflatten(cls, static: Any, names: tuple[str, ...], children: tuple[Tree, ...]) -> Self:
        module = object.__new__(cls)
        held = module.__dict__
        held.update(static.values)
        held.update(zip(names, children, strict=True))
        _set_settings(module, static)
        _set_children(module, names)
        return module

    # It is immutable.
    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse_if_frozen(name, f"to change it make a copy: `{{}} = {{}}.replace({name}=...)`")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse_if_frozen(name, f"to leave it out make a copy: `{{}} = {{}}.replace({name}=None)`")
        object.__delattr__(self, name)

    def _refuse_if_frozen(self, name: str, advice: str) -> None:
        if not hasattr(self, "_children"):
            return
        kind = type(self).__name__
        if calls.innermost() is not None:
            advice = "what changes while it runs is recorded with nn.record_state, and everything else is returned"
        raise ConfigError(
            f"{kind} is immutable, so {name!r} cannot be set; {advice.format(kind.lower(), kind.lower())}"
        )

    def __repr__(self) -> str:
        return show(self)


class _Settings(tuple[tuple[str, type, Any], ...]):
    """The settings of a module, made once for it and all its copies: name, type and value of each.

    The type is part of a setting: 1, 1.0 and True are equal, but not the same setting.
    """

    values: dict[str, Any]

    def __new__(cls, values: dict[str, Any]) -> _Settings:
        made = super().__new__(cls, ((name, type(value), value) for name, value in values.items()))
        made.values = values
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.values,)


_set_settings = Module.__dict__["_settings"].__set__
_set_children = Module.__dict__["_children"].__set__


def _freezing(init: Callable[..., None]) -> Callable[..., None]:
    """``__init__`` that freezes the module when the outermost one has run."""

    @functools.wraps(init)
    def initialise(self: Module, *args: Any, **kwargs: Any) -> None:
        try:
            _check_names(self, init, kwargs)
            if type(self).__init__ is initialise:
                _check_required(self, init, args, kwargs)
            init(self, *args, **kwargs)
        except UnknownSettingError as error:
            if error.setting not in kwargs:
                raise
            # Layers hand settings on to their parts; the layer that was given this one is to be named.
            raise UnknownSettingError(self, error.setting, init, error.settings) from None
        if type(self).__init__ is initialise:
            _freeze(self)

    return initialise


class UnknownSettingError(ConfigError, TypeError):
    """An argument by name that a layer does not have; it is also the TypeError that Python would raise. ``settings`` are those that
    can be given by name alone, to the layer or to the part that it hands them on to."""

    def __init__(self, module: Module, setting: str, init: Callable[..., None], of_part: tuple[str, ...] = ()) -> None:
        named = [each for each in _parameters(init) if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        self.setting = setting
        self.settings = (*(each.name for each in named if each.kind is each.KEYWORD_ONLY), *of_part)
        known = dict.fromkeys([*(each.name for each in named), *of_part])
        super().__init__(f"{type(module).__name__} has no setting {setting!r}; {hint(setting, known)}")


def _check_names(module: Module, init: Callable[..., None], given: Iterable[str]) -> None:
    """Raises for a name that ``__init__`` does not have, unless it takes any."""
    if not given or any(each.kind is each.VAR_KEYWORD for each in _parameters(init)):
        return
    known = {each.name for each in _parameters(init) if each.kind is not each.POSITIONAL_ONLY}
    for name in given:
        if name not in known:
            raise UnknownSettingError(module, name, init)


class MissingSettingError(ConfigError, TypeError):
    """Arguments without a default that a layer was not given; it is also the TypeError that Python would raise."""


def _check_required(module: Module, init: Callable[..., None], args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
    """Raises for arguments without a default that are not given; Python would name the class that wrote ``__init__``."""
    named = [each for each in _parameters(init) if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    required = [each for each in named[len(args) :] if each.default is each.empty]
    missing = [each.name for each in required if each.name not in given]
    if missing:
        raise MissingSettingError(f"{type(module).__name__} needs {' and '.join(missing)}")


def _parameters(init: Callable[..., None]) -> list[inspect.Parameter]:
    """Those of ``__init__``, without the module itself."""
    return list(inspect.signature(init).parameters.values())[1:]


def _frozen(module: Module) -> tuple[str, ...]:
    """The names of the children; freezes a module whose ``__init__`` was written by a class decorator."""
    if not hasattr(module, "_children"):
        _freeze(module)
    return module._children


def _freeze(module: Module) -> None:
    """Decide which attributes are children and which are settings, and allow no more changes."""
    kind = type(module).__name__
    children = tuple(name for name, value in vars(module).items() if _holds_arrays(value, f"{kind}.{name}"))
    for name, value in vars(module).items():
        if name not in children:
            _check_setting(value, f"{kind}.{name}")
    _set_settings(module, _Settings({name: value for name, value in vars(module).items() if name not in children}))
    _set_children(module, children)
    _check_unshared(module)


def _holds_arrays(value: Any, name: str) -> bool:
    """Whether an attribute is a child; raises :class:`ConfigError` where it mixes arrays with something else."""
    if isinstance(value, np.ndarray | Array) or hasattr(type(value), "tree_flatten"):
        return True
    if not isinstance(value, tuple | list | dict):
        return False
    items = [item for item in (value.values() if isinstance(value, dict) else value) if item is not None]
    children = [_holds_arrays(item, name) for item in items]
    if any(children) and not all(children):
        other = items[children.index(False)]
        raise ConfigError(
            f"{name} mixes arrays or modules with a {type(other).__name__}; keep settings in an attribute of their own"
        )
    return bool(children) and all(children)


def _check_setting(value: Any, name: str) -> None:
    try:
        hash(value)
    except TypeError:
        kind = type(value).__name__
        instead = {"list": "use a tuple", "set": "use a frozenset", "dict": "use a tuple of pairs"}
        raise ConfigError(
            f"{name} is a {kind}, which cannot be a setting because it can be changed; "
            f"{instead.get(kind, 'use a value that can be hashed')}"
        ) from None


_CALL_TWICE = "its weights keep it once and call it twice in forward, otherwise build a second one"
_USE_TWICE = "it keep it once and use it twice in forward, otherwise give each its own with .copy()"


def _check_unshared(module: Module) -> None:
    """One module or array at two places would silently become two after an update."""
    seen: dict[int, str] = {}
    kind = type(module).__name__
    for path, child in _modules_below(_opened(module), ""):
        if id(child) in seen and trees.leaves(child):
            raise _held_twice(kind, f"the same {type(child).__name__}", seen[id(child)], path, _CALL_TWICE)
        seen.setdefault(id(child), path)
    paths = set()
    leaves = [(place.path, leaf) for place, leaf in _placed_leaves(module)]
    for one, other in _sharing([(path, leaf) for path, leaf in leaves if isinstance(leaf, np.ndarray | Array)]):
        raise _held_twice(kind, "the same array", one, other, _USE_TWICE)
    for path, _ in leaves:
        if path in paths:
            raise ConfigError(f"{kind} has two arrays with the path {path!r}; rename one of the keys or attributes")
        paths.add(path)


def _held_twice(kind: str, what: str, one: str, other: str, instead: str) -> ConfigError:
    return ConfigError(
        f"{kind} holds {what} as {one!r} and as {other!r}, which would be trained as two; to share {instead}"
    )


def _sharing(arrays: list[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """The paths of pairs of arrays that have numbers in common, as a weight and its transpose; parts of one array need not."""
    of_owner: dict[int, list[tuple[str, Any]]] = {}
    for path, array in arrays:
        owner = array
        while isinstance(owner, np.ndarray) and isinstance(owner.base, np.ndarray):
            owner = owner.base
        of_owner.setdefault(id(owner), []).append((path, array))
    for alike in of_owner.values():
        for (one, a), (other, b) in itertools.combinations(alike, 2):
            if a is b or np.shares_memory(a, b):
                yield one, other


# --- places in the tree ----------------------------------------------------------------------------------------------


def _opened(tree: Tree) -> list[tuple[str, Tree]]:
    """The named children of a module or container; nothing for anything else."""
    if isinstance(tree, Module):
        return [(name, vars(tree)[name]) for name in _frozen(tree)]
    if isinstance(tree, dict):
        return [(str(name), child) for name, child in tree.items()]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, tuple | list):
        return [(str(index), child) for index, child in enumerate(tree)]
    return []


def _modules_below(children: list[tuple[str, Tree]], prefix: str) -> Iterator[tuple[str, Module]]:
    for name, child in children:
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, Module):
            yield path, child
        yield from _modules_below(_opened(child), path)


def _place_in(caller: Module, module: Module) -> str:
    """The path of a module below the one that calls it; its class name where the caller does not hold it."""
    direct = (path for path, child in _modules_below(_opened(caller), "") if child is module)
    return next(direct, "" if caller is module else type(module).__name__)


def _placed_leaves(tree: Tree) -> list[tuple[trees.Place, Any]]:
    leaves, definition = trees.flatten(tree)
    return list(zip(trees.places(definition), leaves, strict=True))


def _holds_floats(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | Array) and is_float(leaf.dtype)


# --- showing ---------------------------------------------------------------------------------------------------------


def show(tree: Tree) -> str:
    """A module as text: settings and array types on one line, modules inside it indented below."""
    if not isinstance(tree, Module):
        return _show_leaf(tree)
    children = _frozen(tree)
    inline, below = [], []
    for name, value in vars(tree).items():
        if name not in children:
            if value is not None:
                inline.append(f"{name}={_show_setting(value)}")
        elif any(True for _ in _modules_below([(name, value)], "")):
            below += _show_below(name, value)
        else:
            inline.append(f"{name}={_show_leaf(value)}")
    kind = type(tree).__name__
    if not below:
        return f"{kind}({', '.join(inline)})"
    lines = ([", ".join(inline) + ","] if inline else []) + below
    return f"{kind}(\n  " + "\n  ".join("\n".join(lines).split("\n")) + "\n)"


def _show_below(name: str, value: Tree) -> list[str]:
    if isinstance(value, Module) or not _opened(value):
        return [f"{name}: {show(value)}"]
    return [line for key, child in _opened(value) for line in _show_below(f"{name}.{key}", child)]


def _show_setting(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)


def _show_leaf(value: Any) -> str:
    if isinstance(value, State):
        return f"State({_show_leaf(value.value)})"
    if isinstance(value, np.ndarray) and value.dtype.name in SHORT:
        return f"{SHORT[dtype_name(value.dtype)]}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, Array):
        return str(value.value.type)
    if _opened(value):
        return "(" + ", ".join(_show_leaf(child) for _, child in _opened(value)) + ")"
    return repr(value)
