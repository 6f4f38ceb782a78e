r"""Functions that layers hold, as values: numbers and tensors with a name, so that a network can be kept in a file.

Each is a frozen dataclass whose fields are all that it knows. A layer may hold any other function as well, but then the
network travels with the model alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.errors import ArgumentError, DataError

__all__ = [
    "NAMED",
    "BernoulliTerms",
    "CategoricalTerms",
    "Compact",
    "Everywhere",
    "Exponential",
    "GateMean",
    "GaussianTerms",
    "LogMean",
    "MinusExp2",
    "PairVotes",
    "Platt",
    "PlattSlope",
    "Profile",
    "Rational",
    "Rest",
    "Scaled",
    "Shifted",
    "Step",
    "Straight",
    "Together",
    "WeightedTerms",
    "fixed_level",
    "minus_one",
    "negated",
    "root",
    "same",
    "sigmoid_slope",
    "signed_square",
    "svdd_slope",
]

Profile = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """X."""
    return x


def negated(y: Tensor) -> Tensor:
    """−y."""
    return -y


def minus_one(y: Tensor) -> Tensor:
    """The slope of −y."""
    return -torch.ones_like(y)


def root(d: Tensor) -> Tensor:
    """√d without an infinite slope at zero."""
    if not d.requires_grad:
        return d.sqrt()
    return torch.where(d > 0, torch.where(d > 0, d, 1.0).sqrt(), 0.0)


def matern_3_2(d: Tensor) -> Tensor:
    """ψ = s − log(1 + s), s = √(3d): of k = (1 + s) e^{−s}."""
    s = root(3 * d)
    return (s - torch.log1p(s)).clamp_min(0)


def matern_5_2(d: Tensor) -> Tensor:
    """ψ = s − log(1 + s + s²/3), s = √(5d): of k = (1 + s + s²/3) e^{−s}."""
    s = root(5 * d)
    return (s - torch.log1p(s + s.square() / 3)).clamp_min(0)


def sigmoid_slope(l: Tensor) -> Tensor:  # noqa: E741 - log-odds
    """(σ(l) − ½)/l = tanh(l/2)/(2l), ¼ at zero."""
    flat = l.abs() < 1e-8
    return torch.where(flat, 0.25, torch.tanh(l / 2) / torch.where(flat, 1.0, 2 * l))


def signed_square(y: Tensor) -> Tensor:
    """Sign(y) y²."""
    return y * y.abs()


def svdd_slope(o: Tensor) -> Tensor:
    """2 (1 − e^{−o})/o, 2 at zero: the distance less its least possible value, per nat."""
    return torch.where(o > 0, -2 * torch.expm1(-o) / torch.where(o > 0, o, 1.0), 2.0)


def fixed_level(_level: float) -> Any:
    """What a network that was read from a file has in place of other levels."""
    raise ArgumentError("a network that was read from a file counts from the level that it was saved with")


@dataclass(frozen=True, slots=True)
class Shifted:
    """y + constant."""

    constant: float

    def __call__(self, y: Tensor) -> Tensor:
        """The function."""
        return y + self.constant


@dataclass(frozen=True, slots=True)
class Step:
    """One value up to a place, another beyond it."""

    low: float
    high: float
    at: float

    def __call__(self, y: Tensor) -> Tensor:
        """Any shape."""
        return torch.where(y > self.at, self.high, self.low).to(y)


@dataclass(frozen=True, slots=True)
class Straight:
    """slope · y + constant."""

    slope: float
    constant: float

    def __call__(self, y: Tensor) -> Tensor:
        """The function."""
        return self.slope * y + self.constant


@dataclass(frozen=True, slots=True)
class Everywhere:
    """The same value for every y."""

    value: float

    def __call__(self, y: Tensor) -> Tensor:
        """The function."""
        return torch.full_like(y, self.value)


@dataclass(frozen=True, slots=True)
class Rest:
    """constant − y."""

    constant: float

    def __call__(self, y: Tensor) -> Tensor:
        """The function."""
        return self.constant - y


@dataclass(frozen=True, slots=True)
class Exponential:
    """scale · e^{−y} + constant."""

    scale: float
    constant: float

    def __call__(self, y: Tensor) -> Tensor:
        """The function."""
        return self.scale * torch.exp(-y) + self.constant


@dataclass(frozen=True, slots=True)
class LogMean:
    """−L with S e^{−o} − ρ = L (θ − o): L = ρ (e^t − 1)/t of t = θ − o, and ρ at t = 0."""

    theta: float
    rho: float

    def __call__(self, o: Tensor) -> Tensor:
        """The function."""
        t = self.theta - o
        return -(self.rho * torch.where(t == 0, 1.0, torch.expm1(t) / torch.where(t == 0, 1.0, t)))


@dataclass(frozen=True, slots=True)
class MinusExp2:
    """−2^{y/c} − constant."""

    c: float
    constant: float

    def __call__(self, y: Tensor) -> Tensor:
        """The function."""
        return -torch.exp2(y / self.c) - self.constant


@dataclass(frozen=True, slots=True, eq=False)
class Platt:
    """−(a y + b), unit by unit."""

    a: Tensor
    b: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        """The function."""
        return -(self.a.to(y) * y + self.b.to(y))


@dataclass(frozen=True, slots=True, eq=False)
class PlattSlope:
    """−a, unit by unit."""

    a: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        """The function."""
        return (-self.a.to(y)).expand_as(y)


@dataclass(frozen=True, slots=True)
class Scaled:
    """factor · ψ(d / divisor)."""

    factor: float = 1.0
    inner: Profile = same
    divisor: float = 1.0

    def __call__(self, d: Tensor) -> Tensor:
        """The function."""
        found = self.inner(d if self.divisor == 1 else d / self.divisor)
        return found if self.factor == 1 else self.factor * found


@dataclass(frozen=True, slots=True)
class Together:
    """The sum of two."""

    first: Profile
    second: Profile

    def __call__(self, d: Tensor) -> Tensor:
        """The function."""
        return self.first(d) + self.second(d)


@dataclass(frozen=True, slots=True)
class Rational:
    """α log(1 + d/scale)."""

    alpha: float
    scale: float

    def __call__(self, d: Tensor) -> Tensor:
        """The function."""
        return self.alpha * torch.log1p(d / self.scale)


@dataclass(frozen=True, slots=True)
class Compact:
    """−log k of kernels that end at a bandwidth h, infinite from there; and √d/h, which does not end.

    Attributes
    ----------
    kind : {"exponential", "epanechnikov", "linear", "cosine"}
    h : float
    """

    kind: str
    h: float

    def __call__(self, d: Tensor) -> Tensor:
        """The function."""
        h = self.h
        if self.kind == "exponential":
            return root(d) / h
        if self.kind == "epanechnikov":
            inside = -torch.log1p(-(d / (h * h)).clamp_max(1))
        elif self.kind == "linear":
            inside = -torch.log1p(-(root(d) / h).clamp_max(1))
        else:
            inside = -torch.log(torch.cos(0.5 * math.pi * (root(d) / h).clamp_max(1)))
        return torch.where(d < h * h, inside, math.inf)


@dataclass(frozen=True, slots=True, eq=False)
class GaussianTerms:
    """½ (z − μ)²/σ² + log-width, for each class and column."""

    mean: Tensor
    var: Tensor
    width: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """(n, K) to (n, U, K)."""
        return 0.5 * (z[:, None, :] - self.mean.to(z)).square() / self.var.to(z) + self.width.to(z)


@dataclass(frozen=True, slots=True, eq=False)
class WeightedTerms:
    """−x_i w_ci of a model that is linear in x."""

    weights: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """(n, K) to (n, U, K)."""
        return -z[:, None, :] * self.weights.to(z)


@dataclass(frozen=True, slots=True, eq=False)
class BernoulliTerms:
    """Presence and absence, both evidence; cut where numbers become one or zero."""

    log_p: Tensor
    log_not: Tensor
    cut: float | None

    def __call__(self, z: Tensor) -> Tensor:
        """(n, K) to (n, U, K)."""
        x = z if self.cut is None else (z > self.cut).to(z.dtype)
        return -(x[:, None, :] * self.log_p.to(z) + (1 - x[:, None, :]) * self.log_not.to(z))


@dataclass(frozen=True, slots=True, eq=False)
class CategoricalTerms:
    """One table of log-probabilities (classes, levels) a feature."""

    tables: tuple[Tensor, ...]

    def __call__(self, z: Tensor) -> Tensor:
        """(n, K) to (n, U, K)."""
        codes = z.round().long()
        most = torch.tensor([table.shape[1] for table in self.tables])
        bad = torch.nonzero((codes < 0) | (codes >= most))
        if len(bad):
            row, i = bad[0].tolist()
            raise DataError(
                f"row {row} has category {codes[row, i].item()} in feature {i}, of which CategoricalNB knows 0 to "
                f"{most[i].item() - 1}: fit it with min_categories"
            )
        return -torch.stack([table.to(z).T[codes[:, i]] for i, table in enumerate(self.tables)], 2)


@dataclass(frozen=True, slots=True, eq=False)
class GateMean:
    """The mean over rows of what is known of each of the training rows that are near."""

    known: Tensor
    dtype: torch.dtype

    def __call__(self, near: Tensor) -> Tensor:
        """Positions (n, k) to (n,)."""
        return self.known[near].mean(1).to(self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class PairVotes:
    """The class with most won pairs, as libsvm counts them: the first of several, or with ties broken the surest.

    Attributes
    ----------
    ends : tuple of (int, int)
        The classes of each pair.
    classes : int
    sums : array of shape (classes, pairs), optional
        What makes each class's sum of the pairs, where ties are broken by it.
    """

    ends: tuple[tuple[int, int], ...]
    classes: int
    sums: np.ndarray | None

    def __call__(self, units: Tensor) -> Tensor:
        """(n, pairs) to (n,)."""
        votes = units.new_zeros((len(units), self.classes))
        for column, (i, j) in enumerate(self.ends):
            first = units[:, column] > 0
            votes[:, i] += first
            votes[:, j] += ~first
        if self.sums is not None:
            sure = units @ torch.as_tensor(self.sums).to(units).T
            votes = votes + sure / (3 * (sure.abs() + 1))
        return votes.argmax(1)


# functions without fields, by the name that a file has for them
NAMED: dict[str, Callable[..., Any]] = {
    "fixed_level": fixed_level, "matern_3_2": matern_3_2, "matern_5_2": matern_5_2, "minus_one": minus_one,
    "negated": negated, "ones_like": torch.ones_like, "root": root, "same": same, "sigmoid": torch.sigmoid,
    "sigmoid_slope": sigmoid_slope, "svdd_slope": svdd_slope, "exp": torch.exp, "signed_square": signed_square,
}  # fmt: skip
