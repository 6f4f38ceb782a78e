"""Which anchor a row itself is: rows of the training set are explained by the others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Selves"]


class Selves(nn.Module):
    """Finds rows among anchors without comparing them with all: on a line first, then the few that coincide there.

    Parameters
    ----------
    anchors : (M, K), centred
    center : (K,)
        What was taken off. Equal means equal to the rounding of what led to the numbers before that.
    """

    direction: Tensor
    projections: Tensor
    order: Tensor

    def __init__(self, anchors: Tensor, center: Tensor) -> None:
        super().__init__()
        self.offset = float(center.abs().amax())
        direction = torch.as_tensor(np.random.default_rng(0).standard_normal(anchors.shape[1]), dtype=anchors.dtype)
        # row by row and in a stable order, so that of equal anchors the first is first whatever a matrix product rounds
        projections, order = torch.sort((anchors * direction).sum(1), stable=True)
        self.register_buffer("direction", direction)
        self.register_buffer("projections", projections)
        self.register_buffer("order", order)

    def find(self, rows: Tensor, anchors: Tensor) -> Tensor:
        """Index of the anchor that each centred row is, or −1.

        Of several equal anchors the first is taken: the row is one of them, the others are its true neighbours.
        """
        eps = torch.finfo(rows.dtype).eps
        projected = rows @ self.direction
        size = rows.abs().amax(1) + self.offset
        width = 64 * eps * size * self.direction.abs().sum()
        low = torch.searchsorted(self.projections, projected - width)
        high = torch.searchsorted(self.projections, projected + width, right=True)
        index = torch.full((len(rows),), -1, dtype=torch.long, device=rows.device)
        open_rows = torch.nonzero(high > low).squeeze(1)
        step = 0
        while len(open_rows):
            candidate = self.order[low[open_rows] + step]
            gap = (rows[open_rows] - anchors[candidate]).abs().amax(1)
            equal = gap <= 64 * eps * size[open_rows]
            index[open_rows[equal]] = candidate[equal]
            step += 1
            open_rows = open_rows[~equal & (low[open_rows] + step < high[open_rows])]
        return index
