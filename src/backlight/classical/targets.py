"""The outputs of a classical model: classes, clusters, or one score, as sums of its units."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.attribution.requested import Requested, Targets
from backlight.classical.layers.base import Coefficients
from backlight.errors import ArgumentError, listed

__all__ = ["CHOICES", "Outputs", "largest", "positive"]


def largest(outputs: Tensor) -> Tensor:
    """The output that is largest in each row."""
    return outputs.argmax(1)


def positive(f: Tensor) -> Tensor:
    """Which side of zero each row's one number is."""
    return (f[:, 0] > 0).long()


# ways to choose, by the name that a file has for them
CHOICES: dict[str, Callable[[Tensor], Tensor]] = {"largest": largest, "positive": positive}


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
    compete : bool
        Whether one of them is predicted. Several numbers of a regression do not: by default all are explained.
    """

    names: tuple[str, ...] = ()
    directions: np.ndarray | None = None
    choose: Callable[[Tensor], Tensor] = field(default=largest)
    compete: bool = True

    @staticmethod
    def binary(names: Iterable[Any]) -> Outputs:
        """Two classes, told apart by the sign of one unit."""
        return Outputs(tuple(str(n) for n in names), np.array([[-1.0], [1.0]]), positive)

    @staticmethod
    def each(names: Iterable[Any]) -> Outputs:
        """One unit for each name."""
        return Outputs(tuple(str(n) for n in names))

    @staticmethod
    def quantities(n: int, name: str = "output") -> Outputs:
        """Numbers that do not compete, one unit each; one of them needs no name."""
        return Outputs() if n == 1 else Outputs(tuple(f"{name} {k}" for k in range(n)), compete=False)

    @staticmethod
    def classes(names: Iterable[Any]) -> Outputs:
        """`binary` for two classes, `each` for more."""
        given = list(names)
        return Outputs.binary(given) if len(given) == 2 else Outputs.each(given)

    def native(self, units: Tensor) -> Tensor:
        """What the original method returns: (n,) for one unit, else (n, targets)."""
        if units.shape[1] == 1:
            return units.squeeze(1)
        return units if self.directions is None else units @ torch.as_tensor(self.directions).to(units).T

    def asked(self, targets: Targets) -> Targets:
        """What is explained where no target is named: the predicted output, or all that do not compete."""
        if self.compete or not (len(targets.items) == 1 and targets.items[0].predicted):
            return targets
        return Targets((), True)

    def targets(self, targets: Targets) -> tuple[Requested, ...]:
        """What is asked for of these outputs, one by one.

        Raises
        ------
        ArgumentError
            For what has no meaning here.
        """
        items = targets.each(max(1, len(self.names)))
        return tuple(self._checked(item) for item in items)

    def _checked(self, item: Requested) -> Requested:
        if item.function is not None:
            raise ArgumentError(
                "a function as target needs a torch module: of a neuralized model give an index, a class name, or a "
                "float direction over the outputs"
            )
        if not self.names:
            if item.predicted or item.label in (0, -1):
                return Requested()
            told = item.name if item.label is None else repr(item.label)
            raise ArgumentError(f"target={told}: the model has one score, so leave target out")
        if item.direction is not None and tuple(item.direction.shape) != (len(self.names),):
            raise ArgumentError(
                f"a direction of shape {tuple(item.direction.shape)} is not known here: give one number for each of "
                f"the outputs {listed(self.names)}"
            )
        if item.label is not None:
            return Requested(label=int(item.index(self.names, len(self.names), 1)[0]))
        return item

    def name(self, item: Requested) -> str:
        """What a target is called; empty where there is one score."""
        if not self.names:
            return ""
        if isinstance(item.label, int):
            return self.names[item.label]
        return "predicted" if item.predicted else item.name

    def coefficients(self, one: Requested, units: Tensor, index: Tensor | None) -> Coefficients:
        """What each unit counts in a target, where ``index`` is what `index` returned."""
        if one.direction is not None:
            direction = one.direction.to(units)
            if self.directions is not None:
                direction = direction @ torch.as_tensor(self.directions).to(units)
            return Coefficients(direction.expand(len(units), -1))
        if index is None:
            return Coefficients(torch.ones_like(units))
        if self.directions is None:
            return Coefficients(units[:0], index)
        return Coefficients(torch.as_tensor(self.directions).to(units)[index])

    def index(self, one: Requested, units: Tensor) -> Tensor | None:
        """Which output a target is for each row; None where it is none of them: one score, or a direction."""
        if not self.names or one.direction is not None:
            return None
        if one.predicted:
            return self.choose(units)
        return one.index(self.names, len(self.names), len(units)).to(units.device)
