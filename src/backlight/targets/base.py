"""Targets and their arithmetic."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from backlight.errors import ArgumentError, listed

__all__ = ["Objective", "Seen", "Target", "Term", "position"]

Transform = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one forward pass showed.

    Attributes
    ----------
    output : (n, K), or None where the pass stopped before it
    layers : dict of module path to its output (n, …)
    logits : (n, K), optional
        What the softmax makes probabilities of, where that is not the output.
    """

    output: Tensor | None
    layers: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None

    def rows(self, rows: Any) -> Seen:
        """Some of the rows."""
        output = None if self.output is None else self.output[rows]
        logits = None if self.logits is None else self.logits[rows]
        return Seen(output, {name: value[rows] for name, value in self.layers.items()}, logits)


class Term(ABC):
    """One thing to maximise.

    Attributes
    ----------
    name : str
    layer : str or None
        The module whose output it reads; None: the model's output.
    """

    # without defaults here: a dataclass would take them over
    name: str
    layer: str | None

    @abstractmethod
    def value(self, seen: Seen) -> Tensor:
        """One number a row, (n,)."""

    def expand(self, outputs: Sequence[str]) -> list[Term]:
        """One term for each of several, names resolved; ``outputs`` are the names of the model's outputs."""
        return [self]

    def coefficients(self, n_outputs: int) -> list[float] | None:
        """What each output counts, where the term is a linear function of them."""
        return None

    @property
    def wanted(self) -> int | None:
        """The class that the model should see in the prototype."""
        return None


@dataclass(frozen=True, slots=True)
class Target:
    """A weighted sum of terms; several where a term stands for several.

    Attributes
    ----------
    parts : tuple of (weight, Term)
    transform : function of (inputs, generator), optional
        What is done to an input before the model sees it while optimising.
    """

    parts: tuple[tuple[float, Term], ...]
    transform: Transform | None = None

    def __add__(self, other: Target) -> Target:
        if not isinstance(other, Target):
            return NotImplemented
        if self.transform is not None and other.transform is not None and self.transform is not other.transform:
            raise ArgumentError("two different robust() cannot be added: put one robust() around the sum")
        return Target((*self.parts, *other.parts), self.transform or other.transform)

    def __mul__(self, weight: float) -> Target:
        weight = float(weight)
        if not math.isfinite(weight):
            raise ArgumentError(f"the weight of a target must be a finite number, not {weight}")
        return replace(self, parts=tuple((weight * w, term) for w, term in self.parts))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Target:
        return self * (1 / divisor)

    def __neg__(self) -> Target:
        return self * -1.0

    def __sub__(self, other: Target) -> Target:
        return self + (-other) if isinstance(other, Target) else NotImplemented

    def expand(self, outputs: Sequence[str]) -> list[Objective]:
        """One objective for each that the target stands for."""
        variants = [term.expand(outputs) for _, term in self.parts]
        sizes = {len(found) for found in variants if len(found) != 1}
        if len(sizes) > 1:
            raise ArgumentError(f"parts of a target stand for {sorted(sizes)} targets: they cannot be added")
        count = next(iter(sizes), 1)
        weights = [weight for weight, _ in self.parts]
        return [
            Objective(tuple(zip(weights, [v[k if len(v) > 1 else 0] for v in variants], strict=True)), self.transform)
            for k in range(count)
        ]


@dataclass(frozen=True, slots=True)
class Objective:
    """One resolved target."""

    parts: tuple[tuple[float, Term], ...]
    transform: Transform | None = None

    @property
    def name(self) -> str:
        """For tables and plots."""
        said = ""
        for weight, term in self.parts:
            sign = " − " if weight < 0 else " + "
            size = "" if abs(weight) == 1 else f"{abs(weight):g} "
            said += (sign if said else sign.strip().replace("+", "")) + size + term.name
        return said

    @property
    def layers(self) -> tuple[str, ...]:
        """The modules that are read."""
        return tuple(dict.fromkeys(term.layer for _, term in self.parts if term.layer is not None))

    @property
    def reads_output(self) -> bool:
        """Whether the model's output is read."""
        return any(term.layer is None for _, term in self.parts)

    @property
    def wanted(self) -> int | None:
        """The class that the model should see: that of the first term with positive weight."""
        return next((term.wanted for weight, term in self.parts if weight > 0 and term.wanted is not None), None)

    def value(self, seen: Seen) -> Tensor:
        """Values of each row, (n,)."""
        total: Any = 0.0
        for weight, term in self.parts:
            total = total + (term.value(seen) if weight == 1 else weight * term.value(seen))
        result: Tensor = total
        return result

    def coefficients(self, n_outputs: int) -> list[float] | None:
        """What each output counts, where f is a linear function of them."""
        total = [0.0] * n_outputs
        for weight, term in self.parts:
            own = term.coefficients(n_outputs)
            if own is None:
                return None
            total = [t + weight * o for t, o in zip(total, own, strict=True)]
        return total


def position(which: Any, outputs: Sequence[str]) -> int:
    """The place of an output by index or name."""
    if isinstance(which, str):
        if which not in outputs:
            raise ArgumentError(
                f"target={which!r} is not an output of this model: choose from {listed([repr(o) for o in outputs])}"
            )
        return list(outputs).index(which)
    index = int(which)
    if not -len(outputs) <= index < len(outputs):
        raise ArgumentError(f"target={index} is out of range: the model has {len(outputs)} outputs, {listed(outputs)}")
    return index % len(outputs)
