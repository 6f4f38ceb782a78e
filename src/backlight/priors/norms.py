r"""Penalties that grow like a norm: total variation and the sum of absolute values.

They are of degree one: on a linear f they have the solution zero or none at all. With f = w·x + b,
:math:`J(tx) - b = t\,(w\cdot x - \lambda\Omega(x))`. Give bounds with them, or add a prior that grows faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.arguments import checked
from backlight.errors import ArgumentError, DataError
from backlight.priors.base import Prior, array, holds_text, names_columns, one_row, ordinary, rows_of, table_of

__all__ = ["L1", "TotalVariation"]


@checked
class L1(Prior):
    """λ Σ_i weight_i |x_i − center_i|.

    Parameters
    ----------
    lam : float > 0
    center : array or one row of a table, optional
        By default zero. A row with categories is read by the model that it is given to.
    weights : array, optional
        One number ≥ 0 a column in the order of the model's, by default 1: one over the column's median absolute
        deviation, for instance, counts columns in their own units. That of a column of categories is what another
        category counts.
    """

    def __init__(self, lam: float, center: Any = None, *, weights: Any = None) -> None:
        self.lam = ordinary(lam, "lam")
        center = table_of(center)
        self.pending = holds_text(center)
        # a model may have the columns in another order
        self.given = center if names_columns(center) or self.pending else None
        if names_columns(center) and not self.pending:
            center = rows_of(center, "center")
        self.center = None if center is None or self.pending else array(center, "center").flatten()
        self.weights = None if weights is None else array(weights, "weights").flatten()
        if self.weights is not None and bool((self.weights < 0).any()):
            raise ArgumentError("L1(weights=…) holds a negative number: weights are numbers ≥ 0, one a column")
        sizes = {len(given) for given in (self.center, self.weights) if given is not None}
        if len(sizes) > 1:
            raise ArgumentError(f"L1: center and weights have {' and '.join(map(str, sorted(sizes)))} numbers")
        self.dimension = next(iter(sizes), None)
        self.name = f"L1({self.lam:g})"

    def located(self, encode: Callable[[Any], Tensor], groups: Sequence[Sequence[int]]) -> Prior:
        """See `Prior.located`: of two columns that change with a category each counts half of its column's weight."""
        if self.given is None:
            return self
        center = one_row(encode(self.given))
        if self.weights is not None and self.center is not None and not torch.equal(center, self.center):
            raise ArgumentError(
                "L1(center=row, weights=…): the row has the columns in another order than the model, and so may weights"
            )
        inside = {i: group for group in groups for i in group}
        d, weights = len(center), self.weights
        if weights is None or len(weights) != d:
            firsts = [i for i in range(d) if i not in inside or i == inside[i][0]]  # one for each column of the table
            if weights is not None and len(weights) != len(firsts):
                raise ArgumentError(
                    f"L1(weights=…) has {len(weights)} numbers, but the table has {len(firsts)} columns"
                )
            told = np.ones(len(firsts)) if weights is None else weights.numpy()
            column = np.cumsum(np.isin(np.arange(d), firsts)) - 1
            weights = told[column] * np.where(np.isin(np.arange(d), list(inside)), 0.5, 1.0)
        return L1(self.lam, center, weights=weights)

    def energy(self, x: Tensor) -> Tensor:
        """λ Σ_i weight_i |x_i − center_i|, (n,)."""
        if self.pending:
            raise ArgumentError("priors.L1 around a row with categories is read by a model: give it to prototype()")
        flat = x.flatten(1)
        size = (flat if self.center is None else flat - self.center.to(flat)).abs()
        return self.lam * (size if self.weights is None else size * self.weights.to(flat)).sum(1)

    def parameters(self) -> dict[str, Any]:
        """λ, the centre and the weights."""
        given = {"center": self.center, "weights": self.weights}
        return {"lam": self.lam} | {name: value.numpy() for name, value in given.items() if value is not None}


@checked
class TotalVariation(Prior):
    r"""λ Σ √(Δ_h² + Δ_v² + ε²) − ε over pixels and channels: smooth images (Rudin, Osher, Fatemi, 1992).

    Inputs of shape (n, channels, height, width), (n, height, width), or series (n, channels, length): differences
    along the last two axes, or the last one.

    Parameters
    ----------
    w : float, default 1
        λ.
    epsilon : float
        Rounds the kink at zero, in the units of x.
    """

    def __init__(self, w: float = 1.0, *, epsilon: float = 1e-3) -> None:
        self.w, self.epsilon = ordinary(w, "w"), ordinary(epsilon, "epsilon")
        self.name = f"TotalVariation({self.w:g})"

    def check(self, shape: tuple[int, ...]) -> None:
        """Images and series only."""
        if len(shape) not in (2, 3):
            raise DataError(
                f"TotalVariation is for images (channels, height, width) and series (channels, length), not {shape}"
            )

    def energy(self, x: Tensor) -> Tensor:
        """Total variation, (n,)."""
        squares = torch.zeros_like(x)
        axes = (-1,) if x.ndim == 3 and x.shape[-2] <= 4 else (-1, -2)
        for axis in axes:
            size = x.shape[axis]
            step = x.narrow(axis, 1, size - 1) - x.narrow(axis, 0, size - 1)
            padding = [0, 1] if axis == -1 else [0, 0, 0, 1]
            squares = squares + torch.nn.functional.pad(step.square(), padding)
        return self.w * ((squares + self.epsilon**2).sqrt() - self.epsilon).flatten(1).sum(1)

    def parameters(self) -> dict[str, Any]:
        """The weight."""
        return {"w": self.w, "epsilon": self.epsilon}
