"""What is explained of a model with several outputs: a class, a cluster, a direction, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.errors import ArgumentError, listed

__all__ = ["One", "Outputs", "Target"]

Target = Any


def _argmax(outputs: Tensor) -> Tensor:
    return outputs.argmax(1)


@dataclass(frozen=True, slots=True, eq=False)
class One:
    """One target: an output's index a row (None: the predicted one), or a direction over the outputs."""

    name: str
    index: Tensor | None = None
    direction: Tensor | None = None

    def take(self, rows: slice) -> One:
        """For some of the rows."""
        return One(self.name, None if self.index is None else self.index[rows], self.direction)


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """The outputs that a user can name, as sums of a layer's units.

    Attributes
    ----------
    names : tuple of str
        Empty for a model with one score.
    directions : array of shape (targets, units), optional
        By default each output is one unit. A binary classifier has one unit f and the outputs −f and f.
    choose : function of units (n, U) to indices (n,)
        The predicted output.
    """

    names: tuple[str, ...] = ()
    directions: np.ndarray | None = None
    choose: Callable[[Tensor], Tensor] = field(default=_argmax)

    @staticmethod
    def binary(names: Iterable[Any]) -> Outputs:
        """Two classes, told apart by the sign of one unit."""
        return Outputs(tuple(str(n) for n in names), np.array([[-1.0], [1.0]]), lambda f: (f[:, 0] > 0).long())

    @staticmethod
    def each(names: Iterable[Any]) -> Outputs:
        """One unit for each name."""
        return Outputs(tuple(str(n) for n in names))

    @staticmethod
    def classes(names: Iterable[Any]) -> Outputs:
        """`binary` for two classes, `each` for more."""
        given = list(names)
        return Outputs.binary(given) if len(given) == 2 else Outputs.each(given)

    @staticmethod
    def several(target: Target) -> bool:
        """Whether a target asks for a last axis of outputs."""
        return isinstance(target, list) or (isinstance(target, str) and target == "all")

    def native(self, units: Tensor) -> Tensor:
        """What the original method returns: (n,) for one unit, else (n, targets)."""
        if units.shape[1] == 1:
            return units.squeeze(1)
        return units if self.directions is None else units @ torch.as_tensor(self.directions).to(units).T

    def targets(self, target: Target, n: int) -> list[One]:
        """Read the ``target`` argument."""
        if isinstance(target, str):
            if target == "all":
                return self.targets(list(range(max(1, len(self.names)))), n)
            if target not in self.names:
                raise ArgumentError(f"target={target!r} is not an output of this model: {self._known()}")
            return self.targets(self.names.index(target), n)
        if isinstance(target, list):
            if not target:
                raise ArgumentError("the list of targets is empty")
            return [one for item in target for one in self.targets(item, n)]
        return [self._one(target, n)]

    def _known(self) -> str:
        return f"choose from {listed(repr(name) for name in self.names)}" if self.names else "it has one score"

    def _one(self, target: Target, n: int) -> One:
        if not self.names:
            if target is None or (isinstance(target, int) and target == 0):
                return One("")
            raise ArgumentError(f"target={target!r}: the model has one score, so leave target out")
        if target is None:
            return One("predicted")
        if callable(target) and not isinstance(target, Tensor):
            raise ArgumentError(
                "a function as target needs a torch module: of a neuralized model give an index, a class name, or a "
                "float direction over the outputs"
            )
        array = np.asarray(target)
        if array.ndim == 0 and np.issubdtype(array.dtype, np.integer):
            return One(self.names[self._checked(int(array))], torch.full((n,), int(array) % len(self.names)))
        if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
            if len(array) != n:
                raise ArgumentError(f"target has {len(array)} indices for {n} rows: give one index a row")
            for value in np.unique(array):
                self._checked(int(value))
            return One("given", torch.as_tensor(array, dtype=torch.long) % len(self.names))
        if array.ndim == 1 and np.issubdtype(array.dtype, np.floating) and len(array) == len(self.names):
            return One("direction", direction=torch.as_tensor(array))
        raise ArgumentError(
            f"target={target!r} is not known: give an index, a class name, one index a row, a float direction over the "
            f"{len(self.names)} outputs, a list of these, or 'all'"
        )

    def _checked(self, index: int) -> int:
        if not -len(self.names) <= index < len(self.names):
            raise ArgumentError(
                f"target={index} is out of range: the model has {len(self.names)} outputs, {listed(self.names)}"
            )
        return index

    def coefficients(self, one: One, units: Tensor) -> Tensor:
        """What each unit counts in a target, (n, U)."""
        if not self.names:
            return torch.ones_like(units)
        directions = (
            torch.eye(len(self.names)).to(units)
            if self.directions is None
            else torch.as_tensor(self.directions).to(units)
        )
        if one.direction is not None:
            return (one.direction.to(units) @ directions).expand(len(units), -1)
        return directions[self.index(one, units)]

    def index(self, one: One, units: Tensor) -> Tensor:
        """Which output a target is for each row."""
        return self.choose(units) if one.index is None else one.index.to(units.device)
