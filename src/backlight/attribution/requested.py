"""The one reader of ``target``: what a user asks to have explained, for every kind of model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.errors import ArgumentError, listed

__all__ = ["Linear", "Requested", "Targets", "read_targets"]


class Linear(ABC):
    """A target that is a linear function of the output, another one for each row: of language, for instance."""

    name: str
    # whether it looks at each text's last token alone
    at_last: bool = False

    @abstractmethod
    def seed(self, output: Tensor, last: Tensor | None) -> Tensor:
        """Its gradient at the output.

        Parameters
        ----------
        output : Tensor of shape (n, *outputs)
        last : Tensor of shape (n,), optional
            Of outputs over the tokens of texts, the position of each text's last token.

        Raises
        ------
        ArgumentError
        """

    def take(self, start: int, n: int) -> Linear:
        """For n rows of all, from a first one on."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Requested:
    """One target, as its form says; with nothing set the predicted output.

    Attributes
    ----------
    label : int or str, optional
        One output, by its position or its name.
    labels : array of int or of str of shape (n,), optional
        One output a row.
    direction : Tensor, optional
        Of the shape of one row's outputs.
    function : callable, optional
        From the output to one number a row.
    linear : Linear, optional
    """

    label: int | str | None = None
    labels: np.ndarray | None = None
    direction: Tensor | None = None
    function: Callable[[Tensor], Any] | None = None
    linear: Linear | None = None

    @property
    def predicted(self) -> bool:
        """Whether nothing was asked for but the model's own answer."""
        return all(one is None for one in (self.label, self.labels, self.direction, self.function, self.linear))

    @property
    def name(self) -> str:
        """What it is called beside its numbers."""
        if self.function is not None:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            return "score" if name == "<lambda>" else name
        if self.linear is not None:
            return self.linear.name
        if self.direction is not None:
            return "direction"
        return "" if self.predicted else "given" if self.labels is not None else str(self.label)

    def index(self, names: Sequence[str], outputs: int, n: int) -> Tensor:
        """The output of each of n rows, (n,), where one is asked for by position or name.

        Raises
        ------
        ArgumentError
            When the model has no such output.
        """
        if self.labels is None:
            return torch.full((n,), _position(self.label, names, outputs))
        found, back = np.unique(self.labels, return_inverse=True)
        plain = [value.item() if isinstance(value, np.generic) else value for value in found]
        positions = [_position(value, names, outputs) for value in plain]
        return torch.as_tensor(np.array(positions, dtype=np.int64)[back.reshape(-1)])


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """All that is asked for.

    Attributes
    ----------
    items : tuple of Requested
        Empty for all outputs.
    several : bool
        Whether attributions get a last axis for targets: a list, or all outputs.
    """

    items: tuple[Requested, ...]
    several: bool

    def take(self, start: int, n: int) -> Targets:
        """For n rows of all, from a first one on."""
        if all(item.labels is None and item.linear is None for item in self.items):
            return self
        return replace(self, items=tuple(_cut(item, start, n) for item in self.items))

    def check_rows(self, total: int | None) -> None:
        """Refuse an array of labels that has not one for each row."""
        for item in self.items:
            if total is not None and item.labels is not None and len(item.labels) != total:
                raise ArgumentError(f"target has {len(item.labels)} indices for {total} rows: give one index a row")

    def each(self, outputs: int) -> tuple[Requested, ...]:
        """The targets one by one, for a model of so many outputs."""
        return self.items or tuple(Requested(label=k) for k in range(outputs))


def read_targets(target: Any) -> Targets:
    """Read the ``target`` argument of `backlight.explain`."""
    if isinstance(target, Targets):
        return target
    if isinstance(target, str) and target == "all":
        return Targets((), True)
    if isinstance(target, list):
        if not target:
            raise ArgumentError("the list of targets is empty")
        if _names_rows(target):
            return Targets((_one(tuple(target)),), False)
        return Targets(tuple(_one(item) for item in target), True)
    return Targets((_one(target),), False)


def _names_rows(target: list[Any]) -> bool:
    """Whether a list names one output a row, as ``y`` does, and not several targets: some output comes twice."""
    plain = all(isinstance(item, str | int | np.integer) and not isinstance(item, bool) for item in target)
    return plain and len(set(target)) < len(target)


def _one(target: Any) -> Requested:
    if target is None:
        return Requested()
    if isinstance(target, Linear):
        return Requested(linear=target)
    if isinstance(target, str):
        return Requested(label=str(target))
    if isinstance(target, int | np.integer) and not isinstance(target, bool):
        return Requested(label=int(target))
    if callable(target) and not isinstance(target, Tensor):
        return Requested(function=target)
    if isinstance(target, bool | float):
        raise ArgumentError(f"target={target!r} is not known: it is neither an index nor a direction")
    array = _array(target)
    if array is not None and array.dtype.kind == "f" and array.ndim:
        return Requested(direction=target.detach() if isinstance(target, Tensor) else torch.as_tensor(np.array(array)))
    if array is not None and array.ndim == 0 and array.dtype.kind in "iu":
        return Requested(label=int(array))
    if array is not None and array.ndim == 1 and array.dtype.kind in "iuUO":
        return Requested(labels=array if array.dtype.kind in "iuU" else _plain(array))
    raise ArgumentError(
        f"target={_short(target)} is not known: give an index, a class name, one of these a row as an array, a float "
        "direction over the outputs, a function of the output, a list of these, or 'all'"
    )


def _array(target: Any) -> np.ndarray | None:
    if isinstance(target, Tensor):
        return target.detach().cpu().numpy()
    if isinstance(target, tuple | np.ndarray) or hasattr(target, "__array__"):
        try:
            return np.asarray(target)
        except ValueError:
            return None
    return None


def _plain(array: np.ndarray) -> np.ndarray:
    if all(isinstance(value, int) and not isinstance(value, bool) for value in array):
        return array.astype(np.int64)
    return np.array([str(value) for value in array])


def _short(target: Any) -> str:
    said = repr(target)
    return said if len(said) <= 40 else said[:37] + "…"


def _position(label: int | str | None, names: Sequence[str], outputs: int) -> int:
    assert label is not None
    if isinstance(label, str):
        if label in names:
            return list(names).index(label)
        if not names:
            raise ArgumentError(
                f"target={label!r} is not known, as the outputs have no names: give an index, 'all', a direction or a "
                "function"
            )
        raise ArgumentError(f"target={label!r} is not an output of this model: choose from {listed(map(repr, names))}")
    if not -outputs <= label < outputs:
        if not names:
            raise ArgumentError(f"target {label} is out of range: there are {outputs} outputs")
        raise ArgumentError(f"target={label} is out of range: the model has {outputs} outputs, {listed(names)}")
    return label % outputs


def _cut(item: Requested, start: int, n: int) -> Requested:
    if item.linear is not None:
        return replace(item, linear=item.linear.take(start, n))
    if item.labels is None:
        return item
    labels = item.labels[start : start + n]
    if len(labels) != n:
        raise ArgumentError(f"target has too few indices: row {start + len(labels)} has none")
    return replace(item, labels=labels)
