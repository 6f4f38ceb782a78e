"""Features that can be left out altogether: tokens, patches, members of a set."""

from __future__ import annotations

import torch
from torch import Tensor

from backlight.errors import ArgumentError
from backlight.references.base import Encode, Fill, Reference, reference

__all__ = ["Dropped"]


@reference("dropped")
class Dropped(Reference):
    """Positions along the first axis after the rows are cut out: the model sees fewer of them.

    For models of sets and sequences of any length, with inputs (n, positions, …). A position is dropped as a whole. The
    judge scores rows of equal length together.
    """

    def bind(self, x: Tensor, encode: Encode, seed: int) -> Fill:
        if x.dim() < 2:
            raise ArgumentError("reference 'dropped' needs an axis of positions after the rows")

        def fill(rows: Tensor, keep: Tensor, draw: int) -> Tensor:
            kept = keep.flatten(2).all(2) if keep.dim() > 2 else keep
            counts = kept.sum(1)
            if bool((counts != counts[0]).any()):
                raise ArgumentError("rows that keep different numbers of positions cannot be scored together")
            if not int(counts[0]):
                raise ArgumentError("reference 'dropped' cannot take every position away: choose smaller fractions")
            order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)[:, : int(counts[0])]
            index = order.view(*order.shape, *(1,) * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
            return torch.gather(x[rows], 1, index)

        return fill
