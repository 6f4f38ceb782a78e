"""Which of the things that a model returns is explained; what holds no numbers, such as a cache, is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from backlight.errors import ArgumentError, UnsupportedModel, listed

__all__ = ["OUTPUT_NAMES", "Layout", "Outputs", "choose", "named_leaves"]

# of several named outputs, the one that is explained: the first of these that is there
OUTPUT_NAMES = ("logits", "out", "output", "prediction", "sentence_embedding")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a structure of outputs was laid side by side in one tensor.

    Attributes
    ----------
    parts : tuple of (tuple of int, dtype) or None
        For each leaf of the structure the shape of one row, ``None`` for what was left out.
    spec : TreeSpec
    """

    parts: tuple[tuple[tuple[int, ...], torch.dtype] | None, ...]
    spec: Any

    @property
    def several(self) -> bool:
        """Whether more than one tensor is in it."""
        return sum(part is not None for part in self.parts) > 1

    def at(self, resolve: Callable[[Any], int]) -> Layout:
        """The same where sizes are symbols that have become numbers."""
        parts = tuple(
            None if part is None else (tuple(n if isinstance(n, int) else resolve(n) for n in part[0]), part[1])
            for part in self.parts
        )
        return dataclasses.replace(self, parts=parts)

    def rebuild(self, joined: Tensor) -> Any:
        """The structure that the model returns, ``None`` for what is no tensor of numbers with rows."""
        leaves: list[Tensor | None] = []
        start = 0
        for part in self.parts:
            if part is None:
                leaves.append(None)
            elif not self.several:
                leaves.append(joined)
            else:
                shape, dtype = part
                size = int(torch.Size(shape).numel())
                leaves.append(joined[:, start : start + size].reshape(-1, *shape).to(dtype))
                start += size
        return _restored(pytree.tree_unflatten(leaves, self.spec))


class _Fields(dict[str, Any]):
    """The fields of an object that is no container to torch, while it is taken apart."""


pytree.register_pytree_node(
    _Fields,
    lambda fields: (list(fields.values()), list(fields)),
    lambda values, names: _Fields(zip(names, values, strict=True)),
    serialized_type_name="backlight.engine.outputs._Fields",
    flatten_with_keys_fn=lambda fields: ([(pytree.MappingKey(k), v) for k, v in fields.items()], list(fields)),
)


def _opened(value: Any) -> Any:
    """Dataclasses and mappings of unknown classes as containers."""
    if isinstance(value, Tensor) or value is None:
        return value
    if pytree.tree_structure(value).is_leaf():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _Fields({field.name: _opened(getattr(value, field.name)) for field in dataclasses.fields(value)})
        if isinstance(value, Mapping):
            return {str(key): _opened(item) for key, item in value.items()}
    return value


def _restored(value: Any) -> Any:
    return SimpleNamespace(**value) if isinstance(value, _Fields) else value


@dataclass(frozen=True, slots=True)
class Outputs:
    """The user's choice.

    Parameters
    ----------
    choice : str, int, callable or None
        A key or attribute of what the model returns, a position in it, a function of it, or nothing.
    whole : bool
        The target is a function of everything that the model returns.
    """

    choice: str | int | Callable[[Any], Any] | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if not (self.choice is None or isinstance(self.choice, str | int) or callable(self.choice)):
            raise ArgumentError(f"output={self.choice!r} is not known: give a name, a position or a function")

    def take(self, value: Any) -> tuple[Any, Layout | None]:
        """Tensors by name, or one tensor: what is left of a model's output; and how to put the whole together again.

        Raises
        ------
        ArgumentError
            The choice names nothing, or something without numbers.
        """
        if self.choice is not None:
            return self._chosen(value), None
        if isinstance(value, Tensor):
            return value, None
        opened = _opened(value)
        if self.whole:
            return _joined(opened)
        return named_leaves(opened, _usable), None

    def _chosen(self, value: Any) -> Any:
        choice = self.choice
        if callable(choice):
            picked = choice(value)
        elif isinstance(choice, int):
            leaves = list(value.values()) if isinstance(value, Mapping) else value
            if not isinstance(leaves, tuple | list) or not -len(leaves) <= choice < len(leaves):
                raise ArgumentError(f"output={choice}: the model returns {_said(value)}")
            picked = leaves[choice]
        elif isinstance(value, Mapping) and choice in value:
            picked = value[choice]
        elif not isinstance(value, Tensor) and str(choice) in _names(value):
            picked = getattr(value, str(choice))
        else:
            raise ArgumentError(f"the model has no output {choice!r}: it returns {_said(value)}")
        if not isinstance(picked, Tensor) or not picked.is_floating_point():
            raise ArgumentError(f"output={_name_of(choice)} is no tensor of numbers with a gradient")
        return picked


def _name_of(choice: Any) -> str:
    return str(getattr(choice, "__name__", repr(choice)))


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return list(getattr(value, "_fields", ()))


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return "one tensor"
    names = _names(value)
    if names:
        return listed(names, 12)
    return f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__


def _usable(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def named_leaves(value: Any, usable: Callable[[Any], bool]) -> dict[str, Any]:
    """Every usable leaf of a structure, by its name."""
    found: dict[str, Any] = {}
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        if usable(leaf):
            name = "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in map(_key, path))
            found[name.lstrip(".")] = leaf
    return found


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _joined(value: Any) -> tuple[Tensor, Layout]:
    """Every tensor of fractions with rows, side by side."""
    leaves, spec = pytree.tree_flatten(value)
    rows = next((str(leaf.shape[0]) for leaf in leaves if _usable(leaf) and leaf.dim()), None)
    if rows is None:
        raise ArgumentError(f"the model returns {type(value).__name__} without a tensor of numbers with rows")
    # sizes are compared as they print: a symbolic size compared as a number would be fixed
    kept = [leaf if _usable(leaf) and leaf.dim() and str(leaf.shape[0]) == rows else None for leaf in leaves]
    parts = tuple(None if leaf is None else (tuple(map(_size, leaf.shape[1:])), leaf.dtype) for leaf in kept)
    layout = Layout(parts, spec)
    tensors = [leaf for leaf in kept if leaf is not None]
    if not layout.several:
        return tensors[0], layout
    widest = tensors[0].dtype
    for tensor in tensors[1:]:
        widest = torch.promote_types(widest, tensor.dtype)
    return torch.cat([t.unsqueeze(-1).flatten(1).to(widest) for t in tensors], 1), layout


def _size(size: Any) -> Any:
    """A size as a number; a symbol stays one, since asking for its number would fix it."""
    return size if isinstance(size, torch.SymInt) else int(size)


def choose(shapes: Mapping[str, tuple[int, ...] | None]) -> tuple[str, str]:
    """Of several outputs by name the one that is explained, and a word where that is a choice.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        The shape of one row of each.

    Raises
    ------
    UnsupportedModel
        They have no names.
    """
    for name in OUTPUT_NAMES:
        if name in shapes:
            return name, ""
    if len(shapes) > 1 and "loss" in shapes:
        # what is learnt from labels among the inputs is no answer
        return choose({name: shape for name, shape in shapes.items() if name != "loss"})
    if len(shapes) == 1:
        return next(iter(shapes)), ""
    if any(name.startswith("[") for name in shapes):
        raise UnsupportedModel(
            f"the model has {len(shapes)} outputs: wrap it in a module that returns the one to be explained, or say "
            f"which: output={0!r}, or a function"
        )
    rows = [name for name, shape in shapes.items() if shape is not None and len(shape) == 1]
    chosen = rows[0] if rows else next(iter(shapes))
    others = [name for name in shapes if name != chosen]
    return chosen, f"output {chosen!r} is explained; output= names another one: {listed(others, 6)}"
