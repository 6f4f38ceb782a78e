"""One problem: argmax f(x) − strength · Ω(x) over a region, and what a solver says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight._prototype.formula import Formula, Network
from backlight._prototype.subject import Subject
from backlight.constraints import Region
from backlight.priors import L2, Prior, Sum, Whitening
from backlight.spaces import Space
from backlight.targets.base import Objective, Seen

__all__ = ["Certificate", "Found", "Problem", "Solver", "whitening_of"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known about how good a result is.

    Attributes
    ----------
    kind : str
        How it was found: "closed form", "duality gap", "tilting bound", "strong concavity", "leaves", "branch and
        bound", "MILP gap", "gradient", "Clarke residual", "projected gradient", "no single change".
    value : float
        The number itself.
    bound : bool
        Whether no input scores more than ``value`` higher than the result. Otherwise the number is a residual that is
        zero at a stationary point.
    """

    kind: str
    value: float
    bound: bool

    def __str__(self) -> str:
        if self.kind == "closed form":
            return "closed form"
        return f"{self.kind} {'≤ ' if self.bound else ''}{self.value:.2g}"


@dataclass(slots=True)
class Found:
    """What a solver returns for one target.

    Attributes
    ----------
    x : (d,) float64
    status : str
    certificate : Certificate
    z : (k,), optional
        The code.
    starts : list of (value, hits), optional
        Distinct optima, best first, and how many starts ended in each.
    notes : list of str
    """

    x: np.ndarray
    status: str
    certificate: Certificate
    z: np.ndarray | None = None
    optima: list[tuple[float, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Problem:
    """What is maximised, for one target.

    Attributes
    ----------
    subject, objective, prior, space, strength, region : see `backlight.prototype`
    white : Whitening or None
        x = mean + Lv in which strength · Ω = ½‖v‖² + constant, where the prior is a quadratic form.
    formula : Formula or None
    rivals : list of (w, b), or None
        w·x + b ≥ 0 is what a constraint on the decision asks for, where outputs are linear functions.
    networks : list of Network, or None
        The same as functions that must not be negative, where outputs are those of a small ReLU network.
    data : (n, d) or None
        Rows to start from.
    """

    subject: Subject
    objective: Objective
    prior: Prior | None
    space: Space
    strength: float
    region: Region
    white: Whitening | None
    formula: Formula | None
    rivals: list[tuple[np.ndarray, float]] | None
    data: Tensor | None
    shape: tuple[int, ...]
    names: Sequence[str]
    networks: list[Network] | None = None

    @property
    def dimension(self) -> int:
        """How many numbers an input has."""
        return math.prod(self.shape)

    @property
    def smallest(self) -> bool:
        """Whether only Ω counts: strength is infinite."""
        return math.isinf(self.strength)

    def decode(self, z: Tensor) -> Tensor:
        """Codes to inputs (n, *shape)."""
        return self.space.decode(z).reshape(len(z), *self.shape)

    def target(self, x: Tensor, generator: Any = None) -> Tensor:
        """Values of f at inputs (n, *shape), in float64."""
        if generator is not None and self.objective.transform is not None:
            x = self.objective.transform(x, generator)
        seen: Seen = self.subject.see(
            x.to(self.subject.device, self.subject.dtype), self.objective.layers, self.objective.reads_output
        )
        return self.objective.value(seen).to("cpu", torch.float64)

    def leads(self, x: Tensor) -> Tensor:
        """By how much the decision that is asked for holds at inputs (n, *shape), less the margin, (n, rivals)."""
        output = self.subject.see(x.to(self.subject.device, self.subject.dtype)).output
        assert output is not None
        assert self.objective.wanted is not None
        assert self.region.margin is not None
        return self.subject.leads(output, self.objective.wanted).to("cpu", torch.float64) - self.region.margin

    def satisfied(self, x: Tensor) -> Tensor:
        """Which inputs (n, *shape) have the decision that is asked for, if one is, (n,)."""
        if self.region.margin is None:
            return torch.ones(len(x), dtype=torch.bool)
        with torch.no_grad():
            # rounding may take away what the margin was given for
            return (self.leads(x) + self.region.margin > 0).all(1)

    def energy(self, x: Tensor, z: Tensor) -> Tensor:
        """Ω of inputs and their codes, (n,)."""
        if self.prior is None:
            return torch.zeros(len(x), dtype=torch.float64)
        counted = z if self.space.has_code and self.prior.on_code else x
        return self.prior.energy(counted.cpu()).double()

    def code_of(self, x: np.ndarray) -> np.ndarray:
        """The code of an input in an affine space."""
        if not self.space.has_code:
            return x
        found = self.space.encode(torch.as_tensor(x)[None])
        assert found is not None
        return found[0].numpy()


def whitening_of(prior: Prior | None, space: Space, strength: float, d: int) -> Whitening | None:
    """See `Problem.white`."""
    if prior is None:
        return None
    times = 1.0 if math.isinf(strength) else strength
    if isinstance(prior, Sum) and len(prior.parts) == 1 and prior.parts[0][0] > 0:
        times, prior = times * prior.parts[0][0], prior.parts[0][1]
    affine = space.affine()
    if space.has_code:
        if affine is None or not isinstance(prior, L2) or not prior.on_code:
            return None
        A, c = affine
        own = prior.sized(A.shape[1]).scaled(times)
        return Whitening(c + A @ own.mean, A * own.factor, own.constant)
    own_ = prior.sized(d) if isinstance(prior, L2) else prior.whitening()
    return None if own_ is None else own_.scaled(times)


Solver = Callable[[Problem], Found | None]
