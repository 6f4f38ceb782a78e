"""Targets on the model's output: a class, its probability, a direction, a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.arguments import checked, numbers_in, users_code
from backlight.errors import ArgumentError
from backlight.targets.base import Seen, Target, Term, position

__all__ = ["difference", "direction", "function", "log_probability", "logit", "probability"]


def _output(seen: Seen) -> Tensor:
    assert seen.output is not None
    return seen.output


def _several(which: Any, outputs: Sequence[str]) -> list[int]:
    if isinstance(which, str) and which == "all":
        return list(range(len(outputs)))
    if isinstance(which, list | tuple | np.ndarray | range):
        return [position(one, outputs) for one in which]
    return [position(which, outputs)]


@dataclass(frozen=True)
class Logit(Term):
    """An output as it is."""

    which: Any
    name: str = ""
    layer: None = None

    def expand(self, outputs: Sequence[str]) -> list[Term]:
        """By index and name."""
        return [Logit(k, outputs[k]) for k in _several(self.which, outputs)]

    def value(self, seen: Seen) -> Tensor:
        """The output."""
        return _output(seen)[:, self.which]

    def coefficients(self, n_outputs: int) -> list[float]:
        """One."""
        return [1.0 if k == self.which else 0.0 for k in range(n_outputs)]

    @property
    def wanted(self) -> int | None:
        """The class itself."""
        return int(self.which)


@dataclass(frozen=True)
class LogProbability(Term):
    """Log-softmax of the outputs, or its exponential."""

    which: Any
    log: bool = True
    name: str = ""
    layer: None = None

    def expand(self, outputs: Sequence[str]) -> list[Term]:
        """By index and name."""
        if len(outputs) < 2:
            raise ArgumentError("a probability needs a model with several outputs: this one has one score")
        said = "log p" if self.log else "p"
        return [LogProbability(k, self.log, f"{said}({outputs[k]})") for k in _several(self.which, outputs)]

    def value(self, seen: Seen) -> Tensor:
        """A probability or its logarithm, from the logits."""
        logits = _output(seen) if seen.logits is None else seen.logits
        found = torch.log_softmax(logits, 1)[:, self.which]
        return found if self.log else found.exp()

    @property
    def wanted(self) -> int | None:
        """The class itself."""
        return int(self.which)


@dataclass(frozen=True, eq=False)
class Along(Term):
    """The product with a vector, of the output or of a layer (positions averaged)."""

    vector: Tensor
    layer: str | None = None
    name: str = "direction"

    def value(self, seen: Seen) -> Tensor:
        """The product."""
        a = _output(seen) if self.layer is None else seen.layers[self.layer]
        if a.ndim > 2 and a[0].numel() != len(self.vector):
            a = a.flatten(2).mean(2)
        a = a.flatten(1)
        if a.shape[1] != len(self.vector):
            where = "the output" if self.layer is None else f"layer {self.layer!r}"
            raise ArgumentError(f"the direction has {len(self.vector)} numbers, but {where} has {a.shape[1]}")
        return a @ self.vector.to(a)

    def coefficients(self, n_outputs: int) -> list[float] | None:
        """The vector."""
        if self.layer is not None or len(self.vector) != n_outputs:
            return None
        return [float(v) for v in self.vector]


@dataclass(frozen=True, eq=False)
class Function(Term):
    """A function of the model's output."""

    fn: Callable[[Tensor], Tensor]
    layer: str | None = None
    name: str = "function"

    def value(self, seen: Seen) -> Tensor:
        """One number a row."""
        a = _output(seen) if self.layer is None else seen.layers[self.layer]
        with users_code(f"the target {self.name} fails on the model's output"):
            out: Any = self.fn(a)
        if isinstance(out, Tensor) and out.shape == (len(a), 1):
            out = out[:, 0]
        if not isinstance(out, Tensor) or tuple(out.shape) != (len(a),):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ArgumentError(f"the target {self.name} must give one number a row, ({len(a)},), not {got}")
        return out


def logit(which: Any = "all") -> Target:
    """An output before the softmax, by index or class name; ``"all"`` or a list are several targets."""
    return Target(((1.0, Logit(which)),))


def log_probability(which: Any = "all") -> Target:
    """Log-probability log p(class | x) from the model's logits.

    It saturates: once the class is sure the prior decides alone, and prototypes are drawn to an ambiguous middle. Its
    supremum may lie at infinity: give a prior.
    """
    return Target(((1.0, LogProbability(which)),))


def probability(which: Any = "all") -> Target:
    """p(class | x) from the model's logits, between 0 and 1. See `log_probability`."""
    return Target(((1.0, LogProbability(which, log=False)),))


def difference(a: Any, b: Any) -> Target:
    """logit(a) − logit(b): what tells class a from class b."""
    return logit(a) - logit(b)


@checked
def direction(vector: Any, layer: str | None = None) -> Target:
    """The product of a vector with the outputs, or with a layer's channels (mean over positions)."""
    values = torch.as_tensor(numbers_in(vector, "a direction").astype(float))
    if values.ndim != 1 or not bool(torch.isfinite(values).all()):
        raise ArgumentError(f"a direction is a vector of finite numbers, not of the shape {tuple(values.shape)}")
    said = "direction" if layer is None else f"direction in {layer}"
    return Target(((1.0, Along(values, layer, said)),))


@checked
def function(fn: Callable[[Tensor], Tensor], layer: str | None = None, name: str | None = None) -> Target:
    """Any differentiable function from the output (or a layer's) to one number a row."""
    if not callable(fn):
        raise ArgumentError(f"function() takes a function of the output, not {type(fn).__name__}")
    said = name or getattr(fn, "__name__", "function").replace("<lambda>", "function")
    return Target(((1.0, Function(fn, layer, said)),))
