"""References that are one point: zero, a mean, a point of the user's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.errors import ArgumentError
from backlight.references.base import Encode, Fill, Reference, known_rows, reference, spread

__all__ = ["Mean", "Point", "Zero"]


def _constant(x: Tensor, point: Tensor) -> Fill:
    return lambda rows, keep, draw: spread(keep, x[rows], point.expand_as(x[:1]))


@reference("zero")
class Zero(Reference):
    """Zero. On data where zero means something (an empty pixel, a missing word) it is information, not absence."""

    def origin(self) -> Any:
        return 0.0

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        return _constant(x, torch.zeros_like(x[:1]))


@reference("mean")
class Mean(Reference):
    """The mean of rows, feature by feature.

    Parameters
    ----------
    X : rows of the model's kind
    """

    def __init__(self, X: Any) -> None:
        self.rows = X

    def origin(self) -> Any:
        rows = self.rows if isinstance(self.rows, Tensor) else torch.as_tensor(np.asarray(self.rows))
        return rows.double().mean(0, keepdim=True)

    def population(self) -> Any:
        return self.rows

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        return _constant(x, known_rows(self.rows, x, encode).mean(0, keepdim=True))


@reference("point")
class Point(Reference):
    """One row: a level for each feature, or a number for all, such as the id of a mask token.

    Parameters
    ----------
    x0 : row, or number
    """

    numbers_only = False

    def __init__(self, x0: Any) -> None:
        self.x0 = x0

    def origin(self) -> Any:
        return self.x0

    def population(self) -> Any:
        return self.x0

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        if isinstance(self.x0, int | float):
            return _constant(x, torch.full_like(x[:1], float(self.x0)))
        given = self.x0 if not hasattr(self.x0, "ndim") or self.x0.ndim >= x.dim() else self.x0[None]
        found = known_rows(given, x, encode)
        if len(found) != 1:
            raise ArgumentError(f"a point is one row, not {len(found)}: for several use Marginal or Mean")
        return _constant(x, found)
