"""A linear layer spelt as a sum over products with a constant: any einsum, a matrix product on either side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from backlight.rules.maps import LinearMap

__all__ = ["Contraction"]


@dataclass(frozen=True, eq=False)
class Contraction(LinearMap):
    r""":math:`z = \mathrm{einsum}(a, W) + b`, every axis of a in z or W, every axis of W in a or z.

    Attributes
    ----------
    signal, factor, result : str
        One letter an axis, of a, W and z.
    bias : Tensor or None
        Of any shape that broadcasts against one row of z, with an axis of length one for the rows.
    """

    signal: str
    factor: str
    result: str

    @cached_property
    def _letter(self) -> str:
        """A letter for the axis of targets."""
        return next(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in self.signal + self.factor + self.result)

    def apply(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        z = torch.einsum(f"{self.signal},{self.factor}->{self.result}", a, weight)
        return z if bias is None else z + bias

    def adjoint(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        t = self._letter
        down = torch.einsum(f"{t}{self.result},{self.factor}->{t}{self.signal}", s, weight)
        # an axis of the signal that the weights alone know was of length one
        return down.expand(s.shape[0], *shape)

    def gather(self, a: Tensor) -> Tensor:
        return self.apply(a, torch.ones_like(self.weight), None)

    def spread(self, s: Tensor, shape: torch.Size) -> Tensor:
        return self.adjoint(s, torch.ones_like(self.weight), shape)

    def per_unit(self, parameter: Tensor) -> Tensor:
        return parameter

    def squared_norm(self) -> Tensor:
        kept = "".join(c for c in self.result if c in self.factor)
        squares = torch.einsum(f"{self.factor}->{kept}", self.weight.square())
        sizes = dict(zip(kept, squares.shape, strict=True))
        return squares.reshape([sizes.get(c, 1) for c in self.result])

    def against_units(self, s: Tensor, parameter: Tensor) -> Tensor:
        product = s * parameter
        return product.flatten(2).sum(2) if product.dim() > 2 else product

    @property
    def channels(self) -> int:
        return int(torch.Size(self.squared_norm().shape[1:]).numel())
