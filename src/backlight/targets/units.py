"""Targets inside a network: a neuron, a channel, a layer. Layers by module path, as in ``model.named_modules()``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from backlight.arguments import checked
from backlight.errors import ArgumentError
from backlight.targets.base import Seen, Target, Term

__all__ = ["channel", "energy", "neuron"]


@dataclass(frozen=True)
class Neuron(Term):
    """One unit of a layer."""

    layer: str
    unit: Any
    name: str = ""

    def expand(self, outputs: Sequence[str]) -> list[Term]:
        """A list is several."""
        units = self.unit if isinstance(self.unit, list | range) else [self.unit]
        return [Neuron(self.layer, unit, f"{self.layer}[{unit}]") for unit in units]

    def value(self, seen: Seen) -> Tensor:
        """The activation; of a feature map the unit in the middle."""
        a = seen.layers[self.layer]
        index = self.unit if isinstance(self.unit, tuple) else (self.unit, *(size // 2 for size in a.shape[2:]))
        if len(index) != a.ndim - 1 or any(not -n <= i < n for i, n in zip(index, a.shape[1:], strict=True)):
            raise ArgumentError(f"{self.name}: the layer has units of the shape {tuple(a.shape[1:])}")
        return a[(slice(None), *index)]


@dataclass(frozen=True)
class Channel(Term):
    """The mean of a channel over its positions."""

    layer: str
    index: Any
    axis: int = 1
    name: str = ""

    def expand(self, outputs: Sequence[str]) -> list[Term]:
        """A list is several."""
        found = self.index if isinstance(self.index, list | range) else [self.index]
        return [Channel(self.layer, one, self.axis, f"{self.layer}:{one}") for one in found]

    def value(self, seen: Seen) -> Tensor:
        """Mean activation."""
        a = seen.layers[self.layer]
        if not -a.ndim < self.axis < a.ndim or not -a.shape[self.axis] <= self.index < a.shape[self.axis]:
            raise ArgumentError(f"{self.name}: the layer's output has the shape {tuple(a.shape[1:])} a row")
        return a.select(self.axis, self.index).flatten(1).mean(1) if a.ndim > 2 else a[:, self.index]


@dataclass(frozen=True)
class Energy(Term):
    """The mean square of a layer."""

    layer: str
    name: str = ""

    def value(self, seen: Seen) -> Tensor:
        """Mean of squares."""
        return seen.layers[self.layer].flatten(1).square().mean(1)


@checked
def neuron(layer: str, unit: Any) -> Target:
    """One unit of a layer: an index, a tuple of indices, or a list of several units.

    An index in a layer of feature maps is the unit in the middle of that channel.
    """
    return Target(((1.0, Neuron(layer, unit)),))


@checked
def channel(layer: str, index: Any, *, axis: int = 1) -> Target:
    """The mean of one channel, or of several (a list); ``axis`` is where the channels are: −1 for tokens."""
    return Target(((1.0, Channel(layer, index, axis)),))


@checked
def energy(layer: str) -> Target:
    """The mean square of a layer's output: whatever it sees, more of it."""
    return Target(((1.0, Energy(layer, f"energy of {layer}")),))
